package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newRoot makes the command tree. Each command has a file of its own.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "lotkeeper",
		Short: "Keep FSMA 204 traceability records exactly as long as they must be kept",
		Long: `Lotkeeper keeps FSMA 204 traceability records for exactly as long as the law, a
policy or a recall says, and can prove it. Without any configuration everything
lives in ./lotkeeper-data.`,
		Example: `  lotkeeper init
  lotkeeper ingest records.jsonl
  lotkeeper sweep --dry-run
  lotkeeper sweep`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.configure(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:              knownCommand,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%v", err) })
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { help(a, cmd) })

	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&a.Config, "config", "", "configuration `FILE` in YAML (LOTKEEPER_CONFIG); default: none")
	f.StringVar(&a.Data, "data", "lotkeeper-data", "data directory `DIR` (LOTKEEPER_DATA)")
	f.StringVarP(&a.Output, "output", "o", "", "`FORMAT`: table, json, csv or jsonl (LOTKEEPER_OUTPUT)")
	f.StringVar(&a.LogLevel, "log-level", "warn", "`LEVEL` of the log on standard error: debug, info, warn or error (LOTKEEPER_LOG_LEVEL)")
	f.StringVar(&a.Actor, "actor", "", "`NAME` that the audit trail gets; default: the operating system's user (LOTKEEPER_ACTOR)")

	root.AddCommand(
		newInit(a), newIngest(a), newSweep(a), newRecord(a), newTrace(a), newHold(a), newRun(a), newReport(a),
		newVerify(a), newReconcile(a), newExport(a), newAudit(a), newRecover(a), newShred(a), newReceipt(a), newPolicy(a), newTrigger(a), newVault(a), newDoctor(a), newConfig(a), newDemo(a), newCompletion(a), newVersion(a),
	)
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	return root
}

// newHelp is cobra's own help command, but for a command that does not exist,
// which is an error here.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help for a command",
		Annotations: map[string]string{annotationNoConfig: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return knownCommand(c, rest)
			}
			return c.Help()
		},
	}
}

// group is a command that only has others below it.
func group(use, short, long string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("%s needs one of the commands %s", cmd.CommandPath(), commands(cmd))
		},
	}
	c.AddCommand(below...)
	return c
}

// knownCommand refuses a command that does not exist, which cobra would take
// for an argument.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("%s has no command %q; there is %s", cmd.CommandPath(), args[0], commands(cmd))
}

func commands(cmd *cobra.Command) string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return strings.Join(names, ", ")
}

// arguments asks for an exact number of arguments, by their names.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("missing: %s", strings.Join(names[len(args):], ", "))
		}
		if len(args) > len(names) {
			return usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// What a command can print and how it can end, for its help and its checks.
const (
	annotationFormats  = "formats" // the first is the default
	annotationExits    = "exits"
	annotationFindings = "findings"
	annotationRefusals = "refusals"
	annotationNoConfig = "noconfig"
	annotationRoles    = "roles"
)

func annotate(cmd *cobra.Command, key, value string) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[key] = value
}

// prints lists the formats of a command that has others than most.
func prints(cmd *cobra.Command, formats ...string) {
	annotate(cmd, annotationFormats, strings.Join(formats, " "))
}

func formatsOf(cmd *cobra.Command) []string {
	if f := cmd.Annotations[annotationFormats]; f != "" {
		return strings.Fields(f)
	}
	return []string{"table", "json", "csv", "jsonl"}
}

// usesConfig says that a command works on what the configuration names.
func usesConfig(cmd *cobra.Command) bool {
	return cmd.Annotations[annotationNoConfig] == "" && cmd.HasParent() && !cmd.HasAvailableSubCommands()
}

// exits lists the exit codes of a command beside 0 and 2.
func exits(cmd *cobra.Command, codes ...int) {
	annotate(cmd, annotationExits, strings.Trim(fmt.Sprint(codes), "[]"))
}

// needs names the database roles that the command needs, all of them; a command that
// needs others because of a flag says so again when it runs. Without them PostgreSQL
// refuses it, so it can also end with exitRefused.
func needs(cmd *cobra.Command, roles ...string) {
	annotate(cmd, annotationRoles, strings.Join(roles, " "))
	if codes := cmd.Annotations[annotationExits]; !slices.Contains(strings.Fields(codes), fmt.Sprint(exitRefused)) {
		annotate(cmd, annotationExits, strings.TrimSpace(codes+" "+fmt.Sprint(exitRefused)))
	}
}

// The database roles of 00004_roles.sql. The owner's is that of store_admin, and no
// user's who works with the database from day to day.
const (
	roleOwner   = "lotkeeper_owner"
	roleIngest  = "lotkeeper_ingest"
	roleSweeper = "lotkeeper_sweeper"
	roleRecall  = "lotkeeper_recall"
	roleAuditor = "lotkeeper_auditor"
	roleExport  = "lotkeeper_export"
	roleAdmin   = "lotkeeper_admin"
)

// finds says what the command can find (exit 3).
func finds(cmd *cobra.Command, what string) { annotate(cmd, annotationFindings, what) }

// refuses says what a refusal (exit 6) means where something was done before it.
func refuses(cmd *cobra.Command, what string) { annotate(cmd, annotationRefusals, what) }

var exitTexts = []string{
	exitDone:     "done",
	exitFailed:   "failed",
	exitUsage:    "not used as it should be: a flag, a value or an argument",
	exitFindings: "done, and something was found that a person has to look at",
	exitHeld:     "what the command was to act on is held",
	exitLocked:   "another run holds the lock",
	exitRefused:  "refused by a safety check, nothing was done",
}

// help prints a command's help: what it does, examples, flags, exit codes.
func help(a *app, cmd *cobra.Command) {
	w := a.out
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(w, "%s\n\nUsage:\n", strings.TrimSpace(text))
	for i, line := range wrap(strings.TrimSuffix(cmd.UseLine(), " [flags]"), 74) {
		fmt.Fprintf(w, "%*s%s\n", 2+4*min(i, 1), "", line)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-10s %s\n", c.Name(), c.Short)
			}
		}
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", strings.TrimRight(cmd.Example, "\n"))
	}
	if own := cmd.LocalFlags(); cmd.HasParent() && own.HasAvailableFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", own.FlagUsagesWrapped(80))
	}
	fmt.Fprintf(w, "\nFlags of every command:\n%s", cmd.Root().PersistentFlags().FlagUsagesWrapped(80))
	if formats := cmd.Annotations[annotationFormats]; formats != "" {
		fmt.Fprintf(w, "\nFormats here, the first by default: %s\n", strings.Join(strings.Fields(formats), ", "))
	}
	if roles := cmd.Annotations[annotationRoles]; roles != "" {
		fmt.Fprintf(w, "\nRole on PostgreSQL: %s\n", strings.Join(strings.Fields(roles), " and "))
	}
	if codes, ok := cmd.Annotations[annotationExits]; ok {
		fmt.Fprintf(w, "\nExit codes:\n")
		listed := strings.Fields(codes)
		for code, text := range exitTexts {
			if code == exitFindings && cmd.Annotations[annotationFindings] != "" {
				text = cmd.Annotations[annotationFindings]
			}
			if code == exitRefused && cmd.Annotations[annotationRefusals] != "" {
				text = cmd.Annotations[annotationRefusals]
			}
			if code == exitDone || code == exitUsage || slices.Contains(listed, fmt.Sprint(code)) {
				fmt.Fprintf(w, "  %d  %s\n", code, text)
			}
		}
	}
}

// oneOf completes a flag that takes one of a few words.
func oneOf(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a misspelt flag
	}
}

// environment fills in what flags do not say: flags win over LOTKEEPER_*, which
// win over defaults.
func environment(flags *pflag.FlagSet, getenv func(string) string) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "LOTKEEPER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value := getenv(name); value != "" && !f.Changed {
			if setErr := flags.Set(f.Name, value); setErr != nil {
				err = usagef("%s: %v", name, setErr)
			}
		}
	})
	return err
}
