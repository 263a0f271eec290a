// Command handler is the custom handler of this function app and, called with
// a command, a command-line program. Started by the Functions host it has no
// arguments and serves the functions webhook and timer on the port that the
// host gave it.
//
// It exits with 0 after success or a requested stop, 2 for a wrong command
// line or wrong settings, 4 when completeness finds what nobody has acknowledged,
// and 1 for anything else. Exit codes matter: the host
// does not start a handler again that ended with 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"activityarchive/handler/app"
	"activityarchive/handler/settings"
)

// commands is the command line: one field and one type with a Run method for
// each command. Run may ask for a [context.Context] and [app.Options].
type commands struct {
	Settings     settingsCommand     `cmd:"" help:"Print the settings, without secrets, and what is wrong with them."`
	Completeness completenessCommand `cmd:"" help:"Name what is missing, dead-lettered or lost."`
	Acknowledge  acknowledgeCommand  `cmd:"" help:"Note that you know of what is missing."`
	Redrive      redriveCommand      `cmd:"" help:"Have contents collected again."`
	Backfill     backfillCommand     `cmd:"" help:"Have a stretch of time listed again."`
	Version      versionCommand      `cmd:"" help:"Print the version."`
}

type settingsCommand struct{}

func (settingsCommand) Help() string {
	return "Settings come from the environment and, where that lacks them, from local.settings.json beside host.json. Exits with 2 if something is wrong."
}

func (settingsCommand) Run(o app.Options) error { return app.PrintSettings(o) }

type completenessCommand struct {
	Since time.Time `format:"2006-01-02" placeholder:"DAY" xor:"days" help:"First UTC day of contentCreated, such as 2026-03-11; by default a week ago."`
	Day   time.Time `format:"2006-01-02" placeholder:"DAY" xor:"days" help:"Only this day."`
	JSON  bool      `help:"Print one JSON object a line."`
}

func (completenessCommand) Help() string {
	return "Compares, by content type and day, what the service lists now (seven days back) with the ledger, and the ledger with the records in Cosmos DB. Exits with 4 if something is missing, dead-lettered or lost that is not acknowledged. Changes nothing."
}

func (c completenessCommand) Run(ctx context.Context, o app.Options) error {
	return app.Completeness(ctx, o, app.CompletenessQuery{Since: c.Since, Day: c.Day, JSON: c.JSON})
}

type acknowledgeCommand struct {
	Reason  string    `required:"" help:"Why it is well known."`
	Content string    `xor:"what" required:"" placeholder:"ID" help:"A content with all its records: contentId, or id of its entry."`
	Record  string    `xor:"what" required:"" placeholder:"ID" help:"One record: its document id."`
	Day     time.Time `xor:"what" required:"" format:"2006-01-02" placeholder:"DAY" help:"Each content and gap of a UTC day that completeness would name now."`
	Type    string    `help:"Only this content type."`
}

func (acknowledgeCommand) Help() string {
	return "The ledger keeps the reason. Completeness still names what is acknowledged, but does not fail for it."
}

func (c acknowledgeCommand) Run(ctx context.Context, o app.Options) error {
	return app.Acknowledge(ctx, o, app.Acknowledgement{Reason: c.Reason, Content: c.Content, Record: c.Record, Day: c.Day, Type: c.Type})
}

type redriveCommand struct {
	Content string    `xor:"what" required:"" placeholder:"ID" help:"One content: contentId, or id of its entry."`
	Day     time.Time `xor:"what" required:"" format:"2006-01-02" placeholder:"DAY" help:"All contents of a UTC day of contentCreated."`
	Lost    bool      `xor:"what" required:"" help:"All lost contents."`
	Dead    bool      `xor:"what" required:"" help:"All contents with dead letters."`
	Type    string    `help:"Only this content type."`
}

func (redriveCommand) Help() string {
	return "Opens entries of the ledger again; the function collects them at its next tick. The service gives content for seven days. Safe at any time: what is stored stays, and nothing is stored twice."
}

func (c redriveCommand) Run(ctx context.Context, o app.Options) error {
	return app.Redrive(ctx, o, app.Redriving{Content: c.Content, Day: c.Day, Lost: c.Lost, Dead: c.Dead, Type: c.Type})
}

type backfillCommand struct {
	From time.Time `required:"" placeholder:"TIME" help:"Beginning, such as 2026-03-11T09:00:00Z, within the last seven days."`
	To   time.Time `placeholder:"TIME" help:"End; by default now."`
	Type string    `help:"Only this content type."`
}

func (backfillCommand) Help() string {
	return "Notes in the ledger that the function is to list that time again at its next tick. What is in the ledger already stays as it is. Safe at any time."
}

func (c backfillCommand) Run(ctx context.Context, o app.Options) error {
	return app.Backfill(ctx, o, app.Backfilling{From: c.From, To: c.To, Type: c.Type})
}

type versionCommand struct{}

func (versionCommand) Run(o app.Options) error {
	_, err := fmt.Fprintln(o.Stdout, o.Version)
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], app.Options{
		Getenv: os.LookupEnv, Stdout: os.Stdout, Stderr: os.Stderr, Version: version(),
	}))
}

// run serves or runs a command and returns the exit code.
func run(ctx context.Context, args []string, o app.Options) int {
	err := dispatch(ctx, args, o)
	if err == nil {
		return 0
	}
	fmt.Fprintln(o.Stderr, "handler:", err)
	if _, ok := errors.AsType[*kong.ParseError](err); ok {
		if strings.Contains(err.Error(), "parsing time") { // kong keeps the text only
			fmt.Fprintln(o.Stderr, "Write a day as 2026-03-11 and a time as 2026-03-11T09:00:00Z.")
		}
		fmt.Fprintln(o.Stderr, "See: handler --help")
		return 2
	}
	if _, ok := errors.AsType[settings.Problems](err); ok {
		return 2
	}
	if errors.Is(err, app.ErrLacking) {
		return 4
	}
	return 1
}

func dispatch(ctx context.Context, args []string, o app.Options) error {
	if len(args) == 0 {
		if port, _ := o.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"); port == "" {
			return errors.New("no command, and FUNCTIONS_CUSTOMHANDLER_PORT is not set: the Functions host starts this program; for what you can start yourself see handler --help")
		}
		return app.Serve(ctx, o)
	}
	var exited bool // by --help, which kong would end the process for
	parser, err := kong.New(&commands{},
		kong.Name("handler"),
		kong.Description("Copies Microsoft 365 activity logs into Azure Cosmos DB. Without a command it serves the Functions host."),
		kong.Writers(o.Stdout, o.Stderr),
		kong.Exit(func(int) { exited = true }),
		kong.Bind(o),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return fmt.Errorf("build the command line: %w", err)
	}
	command, err := parser.Parse(args)
	switch {
	case exited:
		return nil
	case err != nil:
		return err
	}
	return command.Run()
}

// version returns what the Go toolchain stamped into the binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
