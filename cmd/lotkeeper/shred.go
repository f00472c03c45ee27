package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newShred(a *app) *cobra.Command {
	return group("shred", "Show the class keys; disclose one segment; mend the keyring",
		`Show the keyring and its class keys, disclose the identity of one segment, or
make an older keyring that was put back usable again.`,
		newShredStatus(a), newShredIdentity(a), newShredRecover(a))
}

// What has happened to the hot copies of a class's records.
const (
	// shreddedLive: no DEK of the class is left in the database. Copies of the
	// database may still have one, and the class key still lives.
	shreddedLive = "shredded-live"
	// shreddedEverywhere: the class key is destroyed too, in every copy of the
	// keyring that is known. No copy of the database can be read with it.
	shreddedEverywhere = "shredded-everywhere"
)

// shredStatus is what shred status prints.
type shredStatus struct {
	Epoch uint64 `json:"epoch"`
	// LoggedEpoch is the keyring's epoch as the database has it.
	LoggedEpoch uint64 `json:"logged_epoch"`
	// Problem is why ingest and sweep would refuse the keyring, empty if they
	// would not.
	Problem string        `json:"problem"`
	Copies  []keyringCopy `json:"copies"`
	Classes []classStatus `json:"classes"`
}

type keyringCopy struct {
	Path    string `json:"path"`
	Epoch   uint64 `json:"epoch"`
	Problem string `json:"problem"`
}

type classStatus struct {
	ClassID     string               `json:"class_id"`
	Kind        lifecycle.ClassKind  `json:"kind"`
	ClosesAt    string               `json:"closes_at"`
	State       lifecycle.ClassState `json:"state"`
	DEKs        int64                `json:"deks"`
	Members     int64                `json:"members"`
	Shredded    string               `json:"shredded"`
	DestroyedAt string               `json:"destroyed_at"`
	IntentLeaf  int64                `json:"intent_leaf"`
}

func newShredStatus(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the keyring, its copies, and each class key",
		Long: `Show the keyring's epoch, each copy of it with what is wrong with it, and each
class: how many DEKs (records' data keys) depend on it, how many records are or
were in it, and what has happened to them:

  shredded-live        the records' keys are dropped from the database; the
                       class key lives, so a copy of the database may open
  shredded-everywhere  the class key is destroyed in every copy of the keyring:
                       no copy of the database opens with it any more`,
		Example: "  lotkeeper shred status\n  lotkeeper shred status -o json | jq .copies",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				problem, ok := lifecycle.IsRefused(e.CheckKeyring(ctx))
				res, err := keyringStatus(ctx, e)
				if err != nil {
					return err
				}
				if ok {
					res.Problem = problem.Reason
				}
				if err := result(a, res, func(s *screen) { shredScreen(s, res) }); err != nil {
					return err
				}
				if ok {
					return &findings{"ingest and sweep will be refused: " + problem.Reason, problem.Hint}
				}
				return nil
			})
		},
	}
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleAuditor)
	finds(cmd, "the keyring, or a copy of it, is not in order")
	return cmd
}

func keyringStatus(ctx context.Context, e *lifecycle.Engine) (shredStatus, error) {
	res := shredStatus{Copies: []keyringCopy{}, Classes: []classStatus{}}
	info, err := e.Store.Info(ctx)
	if err != nil {
		return res, err
	}
	st, err := e.Keys.Status(ctx)
	if err != nil {
		return res, err
	}
	res.Epoch, res.LoggedEpoch = st.Epoch, info.Epoch
	sound := true
	for _, c := range st.Copies {
		res.Copies = append(res.Copies, keyringCopy{c.Path, c.Epoch, c.Problem})
		sound = sound && c.Problem == ""
	}
	classes, err := e.Store.Classes(ctx, true)
	if err != nil {
		return res, err
	}
	for _, c := range classes {
		s := classStatus{
			ClassID: c.ID, Kind: c.Period.Kind, ClosesAt: timeOrEmpty(c.Period.Ends()), State: c.State, DEKs: c.DEKs, Members: c.Members,
			DestroyedAt: timeOrEmpty(c.DestroyedAt), IntentLeaf: c.IntentLeaf,
		}
		_, live := slices.BinarySearch(st.Live, c.ID)
		switch {
		case c.State == lifecycle.Destroyed && !live && sound:
			s.Shredded = shreddedEverywhere
		case !c.Period.Kind.OfSegments() && c.DEKs == 0 && c.Members > 0, c.State == lifecycle.Destroyed:
			s.Shredded = shreddedLive
		}
		res.Classes = append(res.Classes, s)
	}
	return res, nil
}

func shredScreen(s *screen, r shredStatus) {
	s.fields("", notEmpty([]string{"epoch", fmt.Sprintf("%d, logged: %d", r.Epoch, r.LoggedEpoch), "problem", r.Problem})...)
	for _, c := range r.Copies {
		state := "in order"
		if c.Problem != "" {
			state = c.Problem
		}
		s.fields("", "copy", c.Path+": "+state)
	}
	if len(r.Classes) == 0 {
		s.printf("\nno class keys yet\n")
		return
	}
	s.printf("\n")
	table(s, r.Classes,
		column[classStatus]{title: "CLASS", cell: func(c classStatus) string { return c.ClassID }, whole: true},
		column[classStatus]{title: "STATE", cell: func(c classStatus) string { return string(c.State) }, whole: true},
		column[classStatus]{title: "DEKS", cell: func(c classStatus) string { return fmt.Sprint(c.DEKs) }, whole: true, right: true},
		column[classStatus]{title: "MEMBERS", cell: func(c classStatus) string { return fmt.Sprint(c.Members) }, whole: true, right: true},
		column[classStatus]{title: "SHREDDED", cell: func(c classStatus) string { return c.Shredded }, whole: true})
}

// identityResult is for -o json and csv. By default the identity is printed alone.
type identityResult struct {
	Segment   string `json:"segment"`
	ObjectKey string `json:"object_key"`
	Identity  string `json:"identity"`
}

func newShredIdentity(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity SEGMENT",
		Short: "Print the age identity that opens one segment, and nothing else",
		Long: `Print the age identity (a secret key) that opens one segment: for an auditor, or
for the day this program is gone. The audit trail says who asked, before the
identity is printed. It opens this segment in every copy of it, and nothing
else, and it cannot be called back. What names people is not masked in a
segment, so a role that may not see that is refused.`,
		Example: `  lotkeeper shred identity seg-20261121-axyaq248ax > identity
  age -d -i identity SEGMENT.age | zstd -d | head -1`,
		Args: arguments("SEGMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				g, err := e.Store.Segment(ctx, args[0])
				if errors.Is(err, lifecycle.ErrNotFound) {
					return &hinted{err, "the segment of a record is in: lotkeeper record show RECORD"}
				}
				if err != nil {
					return err
				}
				secret, err := e.SegmentIdentity(ctx, g.ID)
				if err != nil {
					return err
				}
				if err := result(a, identityResult{g.ID, g.ObjectKey, secret}, func(s *screen) { s.printf("%s\n", secret) }); err != nil {
					return err
				}
				// A vault that is a directory can be named as it is.
				object := g.ObjectKey
				for _, v := range a.cfg.Vaults {
					if t, err := parseVault(v); err == nil && t.kind == "dir" && slices.ContainsFunc(g.Copies, func(c lifecycle.Copy) bool { return c.Vault == v.Name }) {
						object = filepath.Join(t.path, filepath.FromSlash(g.ObjectKey))
					}
				}
				a.note("it opens the %s of segment %s, wherever a copy of it is, and nothing else", plural(g.Records, "record"), g.ID)
				a.note("with the identity in a file named identity, age 1.3 or later, and zstd, type:")
				a.out.Flush()
				fmt.Fprintf(a.err, "\n  age -d -i identity %s | zstd -d\n\n", shellQuote(object))
				return nil
			})
		},
	}
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleExport)
	return cmd
}

func newShredRecover(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make an older keyring that was put back usable again",
		Long: `When an older copy of the keyring was put back, destroyed class keys are back
with it, and every sweep and ingest is refused. If there is a newer copy, put
that back instead. If there is none, this command destroys again what the
database's receipts say is destroyed, and accepts the keyring.

Classes whose keys the older keyring does not have, and that something depends
on, are listed as lost; then nothing is destroyed, the exit code is 3, and
ingest and sweep go on to be refused. If the keyring is in order, nothing is
touched.`,
		Example: "  lotkeeper shred recover",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				res, err := e.RecoverKeyring(ctx)
				if err != nil {
					return err
				}
				if err := result(a, res, func(s *screen) { recoverScreen(s, res) }); err != nil {
					return err
				}
				if len(res.Lost) > 0 {
					return &findings{fmt.Sprintf("%s lost: the keyring does not have the keys", plural(len(res.Lost), "class key")),
						"put back a newer copy of the keyring; nothing else brings the records of these classes back"}
				}
				return nil
			})
		},
	}
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleSweeper, roleAdmin)
	finds(cmd, "keys are lost")
	return cmd
}

func recoverScreen(s *screen, r lifecycle.KeyringRecovery) {
	if len(r.DestroyedAgain)+len(r.Created)+len(r.Lost) == 0 && r.FoundEpoch >= r.LoggedEpoch {
		s.printf("nothing to recover: the keyring is in order\n")
		return
	}
	s.fields("", "epoch", fmt.Sprintf("%d (found: %d, logged before: %d)", r.Epoch, r.FoundEpoch, r.LoggedEpoch))
	for _, id := range r.DestroyedAgain {
		s.fields("", "destroyed again", id)
	}
	if r.Resealed > 0 {
		s.fields("", "moved on first", plural(r.Resealed, "hot record")+" of theirs, which the database has from a backup")
	}
	for _, id := range r.Created {
		s.fields("", "made anew", id+", which nothing depends on")
	}
	for _, l := range r.Lost {
		s.fields("", "lost", fmt.Sprintf("%s: %s, %s", l.ClassID, plural(l.DEKs, "hot record"), plural(l.Segments, "segment")))
	}
}
