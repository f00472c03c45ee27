package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
)

func newRecover(a *app) *cobra.Command {
	var fromVault bool
	var logKey string
	cmd := &cobra.Command{
		Use:   "recover --from-vault [--log-key KEY]",
		Short: "Make a lost database anew, from what is locked in the vaults",
		Long: `Make the database anew, where there is none and no backup of it: from the log
and the manifests that are locked in the vaults. Every archived record is
found and read again, holds, classes, segments, vaults and runs are what they
were. Records that were only hot are lost, and counted by the file that they
came from: ingest these again.

The keyring and the log's key have to be in their places. Without the key's
file the log is checked with --log-key, the public key that init printed;
nothing can be published then.

A database that is there is refused, also one that this command was cut off
from finishing: "lotkeeper audit recover" goes on with it. So is a vault that
does not answer: take one that is lost for good out of the configuration.`,
		Example: "  lotkeeper recover --from-vault\n  lotkeeper --config /etc/lotkeeper.yaml recover --from-vault",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if !fromVault {
				return &usageError{"missing: --from-vault", a.typed("to bring a database that was restored from a backup back to the log, type: lotkeeper audit recover")}
			}
			o, err := newOpener(a)
			if err != nil {
				return err
			}
			d, err := o.restore(cmd.Context(), a, logKey)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.close()) }()
			res, err := a.engineOn(d).RecoverLog(cmd.Context(), false)
			return a.recovered(res, err)
		},
	}
	cmd.Flags().BoolVar(&fromVault, "from-vault", false, "from the vaults: there is no other way yet, and it has to be said")
	cmd.Flags().StringVar(&logKey, "log-key", "", "the log's public `KEY`, as init printed it; default: that of the key's file")
	exits(cmd, exitFailed, exitFindings, exitLocked, exitRefused)
	finds(cmd, "something could not be brought back: each thing is listed")
	needs(cmd, roleOwner)
	return cmd
}

// restore makes a database that has the log's first entry, where there is none, and opens
// everything.
func (o *opener) restore(ctx context.Context, a *app, logKey string) (*data, error) {
	store, err := o.openStore(ctx)
	if err == nil {
		return nil, errors.Join(&lifecycle.Refused{Check: "database", Reason: "there is a database in " + o.storeName(), Hint: "to bring it back to the log, type: lotkeeper audit recover"}, store.Close())
	}
	if !errors.Is(err, errNoStore) && !errors.Is(err, sqlite.ErrUnfinished) {
		return nil, err
	}
	if logKey == "" {
		if logKey, err = o.logPublicKey(); err != nil {
			return nil, &hinted{fmt.Errorf("couldn't read the log's key: %w", err), "put back " + shellQuote(o.Audit.Key) + ", or name the public key that init printed, with --log-key"}
		}
	}
	verifier, err := note.NewVerifier(logKey)
	if err != nil {
		return nil, usagef("--log-key: %v", err)
	}
	first, err := a.engineOn(&data{vaults: o.openVaults(ctx)}).FirstLeaf(ctx, verifier)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.path, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the data directory: %w", err)
	}
	unlock, err := lockDirectory(o.path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := readSettings(o.path); errors.Is(err, fs.ErrNotExist) {
		if _, err := writeSettings(o.path, o.Mirrors); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	for _, name := range []string{rejectsDir, locksDir} {
		if err := os.MkdirAll(filepath.Join(o.path, name), 0o700); err != nil {
			return nil, err
		}
	}
	if err := o.makeStore(
		func(opt postgres.Options) (lifecycle.Store, error) { return postgres.Restore(ctx, opt, first) },
		func(path string) (lifecycle.Store, error) { return sqlite.Restore(ctx, path, first) }); err != nil {
		return nil, err
	}
	return o.open(ctx)
}
