package lifecycle

import (
	"context"
	"iter"
	"slices"

	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// Command is a program that a rule wants to have succeeded before it destroys anything.
// It is told which run and which of the rule's classes that is for, and nothing else.
type Command struct {
	Args        []string
	RunID, Rule string
	Classes     []string
}

// StepResult is a command that a sweep ran. Its JSON names are a promise.
type StepResult struct {
	Rule string `json:"rule"`
	// Step is its place among the rule's steps, from 1.
	Step    int    `json:"step"`
	Program string `json:"program"`
	// Classes are those that the rule was to destroy.
	Classes []string `json:"classes"`
	// ExitCode is -1 if it did not end by itself. Error says why, or why it did not begin.
	ExitCode int    `json:"exit_code"`
	Error    string `json:"error"`
}

// Failed says that what the step stands before must not be done.
func (r *StepResult) Failed() bool { return r.ExitCode != 0 || r.Error != "" }

// stepClasses bounds how many classes a command is told of at once: they are in its
// environment, and in a leaf.
const stepClasses = 1000

// prepared runs the commands of the rules whose records are members of the classes, and
// leaves out the classes of each rule of which one failed. Where only labels say which
// rule is a record's, each that may be is asked. A class that is executing is past that.
func (s *sweep) prepared(ctx context.Context, classes []Class, members func(context.Context, string) iter.Seq2[Row, error]) ([]Class, error) {
	if !s.policy.HasCommands() {
		return classes, nil
	}
	of := map[string][]string{} // classes by rule
	for _, c := range classes {
		if c.State == Executing {
			continue
		}
		for r, err := range members(ctx, c.ID) {
			if err != nil {
				return nil, err
			}
			for _, rule := range s.policy.Commanding(r.facts()) {
				if ids := of[rule]; len(ids) == 0 || ids[len(ids)-1] != c.ID {
					of[rule] = append(ids, c.ID)
				}
			}
		}
	}
	spared := map[string]bool{}
	for _, rule := range s.policy.Rules() {
		ids := of[rule.Name]
		for part := range slices.Chunk(ids, stepClasses) {
			if s.stopped[rule.Name] {
				break
			}
			if err := s.runSteps(ctx, &rule, part); err != nil {
				return nil, err
			}
		}
		if s.stopped[rule.Name] {
			for _, id := range ids {
				spared[id] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(classes), func(c Class) bool { return spared[c.ID] }), nil
}

// runSteps runs a rule's commands in their order, up to the first that fails: then the
// rule destroys nothing in this run. The trail has each.
func (s *sweep) runSteps(ctx context.Context, rule *policy.Rule, classes []string) error {
	for i, step := range rule.Before {
		if step.Command == nil {
			continue
		}
		res := StepResult{Rule: rule.Name, Step: i + 1, Program: step.Command[0], Classes: classes}
		code, err := s.Command(ctx, Command{Args: step.Command, RunID: s.lease.RunID, Rule: rule.Name, Classes: classes})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if res.ExitCode = code; err != nil {
			res.Error = err.Error()
		}
		s.res.Steps = append(s.res.Steps, res)
		leaf := s.leaf(s.Now(), ActionStep, s.lease.RunID, "", map[string]any{
			"rule": res.Rule, "step": res.Step, "program": res.Program, "classes": classes, "exit_code": code, "error": res.Error, "policy_hash": s.policy.Hash()})
		if err := s.Store.Append(ctx, leaf); err != nil {
			return err
		}
		if res.Failed() {
			s.Log.Error().Str("rule", res.Rule).Int("step", res.Step).Int("exit_code", code).Err(err).Int("classes", len(classes)).
				Msg("a step before destruction failed, so none of the rule's classes is destroyed")
			s.stopped[rule.Name] = true
			s.errors++
			return nil
		}
	}
	return nil
}

// emptied leaves out the hot and deferral classes that cannot be destroyed in this run
// whatever commands say: with a DEK left, or pinned.
func (s *sweep) emptied(ctx context.Context, dying []Class) (out []Class, err error) {
	pinned, err := s.pinned(ctx, s.now)
	if err != nil {
		return nil, err
	}
	for _, c := range dying {
		if c.State != Executing {
			if left, err := s.Store.ClassDEKs(ctx, c.ID, 0, 1); err != nil {
				return nil, err
			} else if pinned[c.ID] || len(left) > 0 {
				continue
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// ofHot yields the records whose hot copy a class has.
func (s *sweep) ofHot(ctx context.Context, class string) iter.Seq2[Row, error] {
	return s.Store.Rows(ctx, Query{Class: class})
}

// ofArchive yields the records in the segments of a class.
func (s *sweep) ofArchive(ctx context.Context, class string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		live, err := s.Store.Segments(ctx, Verified, Settled)
		if err != nil {
			yield(Row{}, err)
			return
		}
		for _, g := range live {
			if g.Class != class {
				continue
			}
			for r, err := range s.Store.Rows(ctx, Query{State: Archived, Segment: g.ID}) {
				if !yield(r, err) {
					return
				}
			}
		}
	}
}
