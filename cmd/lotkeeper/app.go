package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-playground/validator/v10"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// options are what every command can be told. A flag wins over LOTKEEPER_*, which
// wins over the default.
type options struct {
	// Data is the data directory, Config the configuration file, if there is one.
	Data   string `flag:"--data" validate:"required"`
	Config string `flag:"--config"`
	// Output is the format of the result: table, json, csv, jsonl, and for one
	// command each sha256sum and html.
	Output string `flag:"--output" validate:"required"`
	// LogLevel is from which level on the log goes to standard error.
	LogLevel string `flag:"--log-level" validate:"oneof=debug info warn error"`
	// Actor is who the audit trail says it was.
	Actor string `flag:"--actor" validate:"required,max=200,nocontrol"`
}

// app is one run of the program: its options, and the world it talks to.
type app struct {
	options
	where   string // what hints must repeat of --data and --config
	command string // that runs, as it is typed without the program's name
	cfg     *config

	in        io.Reader
	out       *bufio.Writer // results; flushed when the command ends
	err       io.Writer     // messages, log, progress
	width     int           // of tables, in columns
	now       func() time.Time
	wait      func(context.Context, time.Duration) bool // false once the context is done
	getenv    func(string) string                       // LOTKEEPER_*; "" is as good as not set
	transport http.RoundTripper                         // to fetch policies; nil is the standard one
	log       zerolog.Logger
	progress  *progress
}

// newApp talks to the process's own standard files.
func newApp() *app {
	a := &app{in: os.Stdin, width: screenWidth(), now: time.Now, wait: wait, getenv: os.Getenv}
	a.progress = newProgress(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	a.out = bufio.NewWriterSize(a.progress.before(os.Stdout), 64<<10)
	a.err = a.progress.before(os.Stderr)
	a.log = newLog(a.err, zerolog.WarnLevel)
	return a
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// screenWidth is how wide tables may be: COLUMNS, or the terminal's width, or 80
// where there is no terminal.
func screenWidth() int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return max(n, 40)
	}
	if n, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && n > 0 {
		return max(n, 40)
	}
	return 80
}

func newLog(w io.Writer, level zerolog.Level) zerolog.Logger {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		w = zerolog.ConsoleWriter{Out: w, NoColor: os.Getenv("NO_COLOR") != "", TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// configure completes and checks the options of a command that is about to run.
func (a *app) configure(cmd *cobra.Command) error {
	_, a.command, _ = strings.Cut(cmd.CommandPath(), " ")
	flags := cmd.Root().PersistentFlags()
	typed := flags.Changed("data")
	if err := environment(flags, a.getenv); err != nil {
		return err
	}
	source := "default"
	if typed {
		source = "--data"
	} else if flags.Changed("data") {
		source = "LOTKEEPER_DATA"
	}
	for _, name := range []string{"config", "data"} {
		if f := flags.Lookup(name); f.Changed {
			a.where += " --" + name + " " + shellQuote(f.Value.String())
		}
	}
	if err := noneEmpty(cmd.Flags()); err != nil {
		return err
	}
	formats := formatsOf(cmd)
	if a.Output == "" {
		a.Output = formats[0]
	}
	if !slices.Contains(formats, a.Output) {
		return usagef("%s cannot print %q; it prints %s", cmd.CommandPath(), a.Output, strings.Join(formats, ", "))
	}
	if usesConfig(cmd) {
		var err error
		if a.cfg, err = loadConfig(a.Config, a.Data, source, a.getenv); err != nil {
			return err
		}
		if a.Actor == "" {
			a.Actor = a.cfg.Audit.Actor
		}
	}
	if a.Actor == "" {
		a.Actor = systemUser()
	}
	if err := check(&a.options); err != nil {
		return err
	}
	level, err := zerolog.ParseLevel(a.LogLevel)
	if err != nil {
		return usagef("--log-level: %v", err)
	}
	a.log = newLog(a.err, level)
	return nil
}

// noneEmpty refuses a flag that was given without a value. In a script that is a
// variable nobody has set, and an empty --lot would select every lot.
func noneEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		many, ok := f.Value.(pflag.SliceValue)
		if f.Value.Type() == "string" && f.Value.String() == "" || ok && slices.Contains(many.GetSlice(), "") {
			err = usagef("--%s is empty", f.Name)
		}
	})
	return err
}

func systemUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// software is how the program calls itself in manifests.
func software() string { return "lotkeeper " + buildVersion() }

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// engine opens what the configuration names and makes the engine that works on it. The
// caller calls close when done.
func (a *app) engine(ctx context.Context) (e *lifecycle.Engine, close func() error, err error) {
	o, err := newOpener(a)
	if err != nil {
		return nil, nil, err
	}
	d, err := o.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return a.engineOn(d), d.close, nil
}

// engineOn makes the engine of what is open.
func (a *app) engineOn(d *data) *lifecycle.Engine {
	limits := lifecycle.DefaultLimits()
	limits.ExportRecords = a.cfg.Audit.ExportLimit
	limits.BackupRetention = time.Duration(a.cfg.Audit.BackupRetentionDays) * 24 * time.Hour
	e := &lifecycle.Engine{
		Store: d.store, Vaults: d.vaults, Keys: d.keys, LogSigner: d.signer, Now: a.now, Log: a.log,
		Policy: a.cfg.Policy.Policy, Limits: limits,
		Actor: a.Actor, Software: software(), Progress: a.progress.update,
	}
	if a.cfg.Policy.Commands != "" {
		e.Command = func(ctx context.Context, c lifecycle.Command) (int, error) { return a.runStep(ctx, c, stepTime) }
	}
	return e
}

// with runs fn on the engine and closes it. That fn was refused gets into the audit
// trail.
func (a *app) with(ctx context.Context, fn func(*lifecycle.Engine) error) (err error) {
	e, close, err := a.engine(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, close()) }()
	err = fn(e)
	check, reason := refusal(err)
	if check == "" {
		return err
	}
	if fault := e.AppendRefused(ctx, a.command, check, reason); fault != nil {
		a.log.Warn().Err(fault).Str("check", check).Msg("the audit trail does not have the refusal")
	}
	return err
}

// refusal says by which check a command was refused, and why; nothing if it was not.
func refusal(err error) (check, reason string) {
	switch exitCode(err) {
	case exitRefused:
		r, _ := lifecycle.IsRefused(err)
		return r.Check, r.Reason
	case exitLocked:
		if errors.Is(err, lifecycle.ErrFenced) {
			return // the run that took over has said so
		}
		return "lock", err.Error()
	case exitHeld:
		return "hold", err.Error()
	}
	return "", ""
}

// rules checks the structs of options and of the configuration; fields are named
// as they are typed.
var rules = newRules()

func newRules() *validator.Validate {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string { return cmp.Or(f.Tag.Get("flag"), f.Tag.Get("yaml")) })
	for tag, fn := range map[string]validator.Func{
		"nocontrol": func(fl validator.FieldLevel) bool {
			return !strings.ContainsFunc(fl.Field().String(), unicode.IsControl)
		},
		"vaultname": func(fl validator.FieldLevel) bool { return validVaultName(fl.Field().String()) },
	} {
		if err := v.RegisterValidation(tag, fn); err != nil {
			panic(err) // a misspelt tag in this file
		}
	}
	return v
}

// check says in our words which flags break which rule: all that are missing at
// once, else the first that is wrong.
func check(flags any) error {
	err := rules.Struct(flags)
	if err == nil {
		return nil
	}
	var broken validator.ValidationErrors
	if !errors.As(err, &broken) {
		return err
	}
	var missing []string
	for _, b := range broken {
		switch b.Tag() {
		case "required":
			missing = append(missing, b.Field())
		case "required_without_all":
			missing = append(missing, b.Field()+" or another condition")
		}
	}
	if len(missing) > 0 {
		return usagef("missing: %s", strings.Join(missing, ", "))
	}
	b := broken[0]
	field, _, _ := strings.Cut(b.Field(), "[") // whichever value it is of a repeated flag
	switch b.Tag() {
	case "oneof":
		return usagef("%s must be one of %s, not %q", field, strings.ReplaceAll(b.Param(), " ", ", "), fmt.Sprint(b.Value()))
	case "excluded_with":
		return usagef("%s and %s do not go together", field, flagName(flags, b.Param()))
	case "max":
		return usagef("%s is longer than %s characters", field, b.Param())
	case "min":
		return usagef("%s must be at least %s, not %v", field, b.Param(), b.Value())
	case "nocontrol":
		return usagef("%s contains a control character", field)
	}
	return usagef("%s breaks the rule %s", field, b.Tag())
}

// flagName is the flag of another field that a rule names.
func flagName(flags any, field string) string {
	f, _ := reflect.TypeOf(flags).Elem().FieldByName(field)
	return f.Tag.Get("flag")
}
