// Command handler is the custom handler of this function app and, called with
// a command, a command-line program. Started by the Functions host it has no
// arguments and serves the functions webhook and timer on the port that the
// host gave it.
//
// It exits with 0 after success or a requested stop, 2 for a wrong command
// line or wrong settings, and 1 for anything else. Exit codes matter: the host
// does not start a handler again that ended with 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"activityarchive/handler/app"
	"activityarchive/handler/settings"
)

// commands is the command line: one field and one type with a Run method for
// each command. Run may ask for a [context.Context] and [app.Options].
type commands struct {
	Settings settingsCommand `cmd:"" help:"Print the settings, without secrets, and what is wrong with them."`
	Version  versionCommand  `cmd:"" help:"Print the version."`
}

type settingsCommand struct{}

func (settingsCommand) Help() string {
	return "Settings come from the environment and, where that lacks them, from local.settings.json beside host.json. Exits with 2 if something is wrong."
}

func (settingsCommand) Run(o app.Options) error { return app.PrintSettings(o) }

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
		fmt.Fprintln(o.Stderr, "See: handler --help")
		return 2
	}
	if _, ok := errors.AsType[settings.Problems](err); ok {
		return 2
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
