package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/dir"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
)

// initResult is what init prints.
type initResult struct {
	Data   string        `json:"data"`
	Store  string        `json:"store"`
	Vaults []vaultResult `json:"vaults"`
	// Keyring is the first directory of the keyring, KeyringMirrors the others.
	Keyring        string   `json:"keyring"`
	KeyringMirrors []string `json:"keyring_mirrors"`
	// LogKey is the public key of the audit log, to be written down elsewhere: with it
	// anybody can check a checkpoint. LogKeyFile has the private one.
	LogKey     string `json:"log_key"`
	LogKeyFile string `json:"log_key_file"`
}

type vaultResult struct {
	Name string `json:"name"`
	// Lock is what the vault's lock is worth: "compliance" or "advisory".
	Lock string `json:"lock"`
}

// keyringLimits is what a keyring in a directory does not protect against.
const keyringLimits = `The keyring is a directory of keys, readable by its owner and by root. Copying
the data directory copies the keys; so does a backup or a snapshot of the disk.
Keep the keyring out of backups, or make them forget within the time you can
accept. A deleted key file can be undeleted until its blocks are used again:
encrypt the disk. Without the keyring nothing here can be read, by anybody:
--mirror keeps a second copy on another disk.
`

// logKeyLimits is what to do with the log's two keys.
const logKeyLimits = `The audit log is signed with the key in the log key file. Back it up: without it
no sweep can go on. Whoever has it can sign another history, as long as no vault
has the true one. Write the log key (the public one) down where the
administrator of this machine cannot change it: with it anybody can check what
the log says.
`

func newInit(a *app) *cobra.Command {
	var mirrors []string
	var printGrants bool
	cmd := &cobra.Command{
		Use:   "init [--mirror DIR]... | --print-grants",
		Short: "Make the data directory: database, vault and keyring",
		Long: `Make the data directory: an embedded database, a vault in a directory, and a
keyring. A directory that is not empty and was not made by init is refused. One
that was is left as it is; an init that was interrupted is finished.

With a configuration file (--config) it makes what may be made: directories, the
keyring, the schema in a PostgreSQL database that is there. It tries out each
bucket, refuses one that does not keep what is put into it under a lock, and
notes what else is wrong with it; that takes some seconds, and leaves nothing.

On PostgreSQL it also makes the roles that each command names in its help, and
what each may do. --print-grants prints that as SQL, and does nothing; where the
user who makes the schema may not create roles, somebody else runs the first
statement of it, once for the whole server.`,
		Example: `  lotkeeper init
  lotkeeper --data /srv/lotkeeper init --mirror /mnt/other-disk/keyring
  lotkeeper --config /etc/lotkeeper.yaml init
  lotkeeper init --print-grants`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if printGrants {
				if mirrors != nil {
					return usagef("--print-grants makes nothing, so it has no --mirror")
				}
				_, err := a.out.WriteString(postgres.Grants())
				return err
			}
			o, err := newOpener(a)
			if err != nil {
				return err
			}
			d, created, err := o.create(cmd.Context(), mirrors, a.Actor)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.close()) }()
			res := initResult{Data: o.path, Store: o.storeName(), Vaults: []vaultResult{}, Keyring: d.keyring[0], KeyringMirrors: append([]string{}, d.keyring[1:]...)}
			if created {
				a.publishFirst(cmd.Context(), d)
			}
			if res.LogKey, err = a.engineOn(d).LogKey(cmd.Context()); err != nil {
				return err
			}
			res.LogKeyFile = o.Audit.Key
			advisory := false
			for _, v := range d.vaults {
				st, err := v.Status(cmd.Context())
				if err != nil {
					return fmt.Errorf("couldn't reach vault %s: %w", v.Name(), err)
				}
				advisory = advisory || st.Lock == archive.LockAdvisory
				res.Vaults = append(res.Vaults, vaultResult{v.Name(), st.Lock})
			}
			if err := result(a, res, func(s *screen) {
				pairs := []string{"data", res.Data, "store", res.Store}
				for _, v := range res.Vaults {
					pairs = append(pairs, "vault", fmt.Sprintf("%s, lock: %s", v.Name, v.Lock))
				}
				pairs = append(pairs, "keyring", res.Keyring)
				for _, m := range res.KeyringMirrors {
					pairs = append(pairs, "mirror", m)
				}
				s.fields("", append(pairs, "log key", res.LogKey, "log key file", res.LogKeyFile)...)
			}); err != nil {
				return err
			}
			if !created {
				a.note("%s was initialised before and is left as it is", o.path)
				return nil
			}
			a.out.Flush()
			limits := []string{keyringLimits, logKeyLimits}
			if advisory {
				limits = []string{dir.Limits, keyringLimits, logKeyLimits}
			}
			fmt.Fprintf(a.err, "\n%s", strings.Join(limits, "\n"))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&mirrors, "mirror", nil, "directory `DIR` for another copy of the keyring, on another disk (repeatable)")
	cmd.Flags().BoolVar(&printGrants, "print-grants", false, "print the SQL of PostgreSQL's roles and grants, and do nothing")
	exits(cmd, exitFailed, exitLocked, exitRefused)
	needs(cmd, roleAdmin)
	return cmd
}
