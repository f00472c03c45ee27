package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newAuditVerify(a *app) *cobra.Command {
	var proof, key string
	cmd := &cobra.Command{
		Use:   "verify [--proof FILE --log-key KEY]",
		Short: "Compare the database with the log that is locked in the vaults",
		Long: `Compare the database with the log that is locked in the vaults: each vault's
tiles with its checkpoints, each leaf of the database with the tree, the records
with the leaves that took them in and archived them, and holds, classes,
segments and vaults with what the log says became of them. Whatever was changed
in the database since, also by its owner, does not fit. It goes on to the end
whatever it finds. On a fork or a gap the proof is printed: signed checkpoints,
entries and hashes that anybody can check.

What it does not see: ciphertext and keys (type: lotkeeper verify, which
decrypts), and what was changed together with leaves that no vault had yet.

With --proof it checks what "lotkeeper audit proof" printed, and needs nothing
but the log's public key. What is proved is the life of a checksum; that it is
the record's is for its line to show: lotkeeper record show --line.`,
		Example: `  lotkeeper audit verify
  lotkeeper audit verify -o json
  lotkeeper audit verify --proof proof.json --log-key "$(cat log.pub)"`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (proof == "") != (key == "") {
				return usagef("--proof and --log-key go together")
			}
			if proof != "" {
				return a.checkProof(proof, key)
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.auditVerify(cmd.Context(), e) })
		},
	}
	cmd.Flags().StringVar(&proof, "proof", "", "check the proof in `FILE` instead; - is standard input")
	cmd.Flags().StringVar(&key, "log-key", "", "the log's public `KEY`, as init printed it")
	exits(cmd, exitFailed, exitFindings, exitRefused)
	finds(cmd, "something does not fit: each thing is listed")
	needs(cmd, roleAuditor)
	prints(cmd, "table", "json")
	return cmd
}

func (a *app) auditVerify(ctx context.Context, e *lifecycle.Engine) error {
	res, err := e.VerifyLog(ctx)
	a.progress.clear()
	if err != nil {
		return err
	}
	if err := result(a, res, func(s *screen) {
		s.fields("", "log", res.Origin, "entries", fmt.Sprint(res.Size), "not in the tree yet", fmt.Sprint(res.Pending),
			"published", fmt.Sprintf("%d entries, %s", res.Published, plural(res.Checkpoints, "checkpoint")), "records", fmt.Sprint(res.Records), "findings", fmt.Sprint(len(res.Findings)))
		for _, p := range res.Policies {
			s.fields("  ", "policy", p.Name+" "+p.Hash, "records", fmt.Sprint(p.Records))
		}
		for _, f := range res.Findings {
			s.printf("\n")
			pairs := []string{"finding", f.Kind}
			if f.Vault != "" {
				pairs = append(pairs, "vault", f.Vault)
			}
			if f.Object != "" {
				pairs = append(pairs, "object", f.Object)
			}
			if f.Index >= 0 {
				pairs = append(pairs, "entry", fmt.Sprint(f.Index))
			}
			if f.Leaf > 0 {
				pairs = append(pairs, "leaf", fmt.Sprint(f.Leaf))
			}
			if f.Subject != "" {
				pairs = append(pairs, "about", f.Subject)
			}
			s.fields("", append(pairs, "what", f.Detail)...)
			proof := f.Proof
			if f.Fork != nil {
				proof = append(proof, "both are signed by the log's key:", f.Fork.Older, f.Fork.Newer,
					fmt.Sprintf("root of the newer where it had the older one's size: %s", f.Fork.Root), "proof (RFC 6962, consistency), all of it with -o json")
			}
			for _, p := range proof {
				for _, line := range strings.Split(strings.TrimRight(p, "\n"), "\n") {
					s.printf("    %s\n", printable(line))
				}
			}
		}
	}); err != nil {
		return err
	}
	if n := len(res.Findings); n > 0 {
		return &findings{plural(n, "finding") + ": the database, or a vault, is not as the log says", "docs/audit.md says what each kind means"}
	}
	return nil
}

// checkProof checks a proof that somebody else has printed.
func (a *app) checkProof(file, key string) error {
	b, err := a.readFile(file)
	if err != nil {
		return err
	}
	var p lifecycle.RecordProof
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read the proof in %s: %w", file, err)
	}
	if err := p.Check(key); err != nil {
		return &findings{"the proof does not hold: " + err.Error(), "it was changed, or made under another key"}
	}
	return result(a, proofChecked{p.Checksum, len(p.Steps), true}, func(s *screen) {
		s.fields("", "checksum", p.Checksum, "steps", fmt.Sprint(len(p.Steps)), "proof", "holds")
	})
}

// proofChecked is what a proof that holds comes to. It has not the record's id, which the
// log does not say: the checksum is what is proved.
type proofChecked struct {
	Checksum string `json:"checksum"`
	Steps    int    `json:"steps"`
	Holds    bool   `json:"holds"`
}

func newAuditCheckpoint(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Sign the log's head, and publish it to every vault",
		Long: `Sign the log's head, and publish what is new of the log to every vault, under
lock. Each run and each hold does that by itself; this is for what they could
not publish, and for what was only read since: who was given what.`,
		Example: `  lotkeeper audit checkpoint`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				res, err := e.Publish(ctx)
				if err != nil {
					return err
				}
				if err := result(a, res, func(s *screen) {
					pairs := []string{"entries", fmt.Sprint(res.Size), "root", res.Root}
					for _, v := range res.Vaults {
						text := fmt.Sprintf("%s: %d entries", v.Vault, v.Size)
						if v.Problem != "" {
							text += "; " + v.Problem
						}
						pairs = append(pairs, "vault", text)
					}
					s.fields("", pairs...)
				}); err != nil {
					return err
				}
				if problems := res.Problems(); problems != "" {
					return &findings{"not every vault has it: " + problems, "the next run tries again"}
				}
				return nil
			})
		},
	}
	prints(cmd, "table", "json")
	exits(cmd, exitFailed, exitFindings, exitRefused)
	finds(cmd, "some vault does not have it yet")
	needs(cmd, roleAdmin)
	return cmd
}

// logExport is what audit export prints.
type logExport struct {
	Folder string `json:"folder"`
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	LogKey string `json:"log_key"`
}

func newAuditExport(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the published log as a folder that verifies with public tools",
		Long: `Write the published log into a new folder, under its newest checkpoint: tiles,
entry bundles and checkpoints in the layout of C2SP tlog-tiles. It verifies
without the database and without this program, with tessera's fsck and any
reader of signed notes; a README in the folder says how. Compare the key in it
with the one that was written down when the log was begun.`,
		Example: `  lotkeeper audit export /mnt/auditor/log-2026-11`,
		Args:    arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				c, err := e.ExportLog(ctx, args[0])
				a.progress.clear()
				if err != nil {
					return err
				}
				key, err := e.LogKey(ctx)
				if err != nil {
					return err
				}
				res := logExport{args[0], c.Origin, c.Size, key}
				return result(a, res, func(s *screen) {
					s.fields("", "folder", res.Folder, "log", res.Origin, "entries", fmt.Sprint(res.Size), "log key", res.LogKey)
				})
			})
		},
	}
	prints(cmd, "table", "json")
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAuditor)
	return cmd
}

func newAuditProof(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proof RECORD",
		Short: "Prove a record's life, from ingest to destruction",
		Long: `Prove each step of a record's life, from its ingest to the destruction of its
hot copy's key, as far as it has come: the record's checksum in the batch of a
leaf, the leaf in the tree, the tree in a signed checkpoint that is locked in a
vault. Whoever has the log's public key can check it, without the database:
lotkeeper audit verify --proof FILE --log-key KEY.`,
		Example: `  lotkeeper audit proof cte-8842-a > proof.json`,
		Args:    arguments("RECORD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				p, err := e.ProveRecord(ctx, args[0])
				if errors.Is(err, lifecycle.ErrNotFound) {
					return a.unknownRecord(ctx, e, args[0], err)
				}
				if err != nil {
					return err
				}
				if p.Pending > 0 {
					a.note("%s of the record %s in no published checkpoint yet: type lotkeeper audit checkpoint", plural(p.Pending, "step"), map[bool]string{true: "is", false: "are"}[p.Pending == 1])
				}
				return result(a, p, func(s *screen) {
					pairs := []string{"record", p.RecordID, "checksum", p.Checksum, "vault", p.Vault}
					for _, step := range p.Steps {
						pairs = append(pairs, "entry", fmt.Sprintf("%d: %s", step.Entry.Index, step.Action))
					}
					s.fields("", pairs...)
					s.printf("\n")
					s.printf("%s\n", strings.TrimRight(p.Checkpoint, "\n"))
				})
			})
		},
	}
	prints(cmd, "json", "table")
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAuditor)
	return cmd
}
