// Command lab shows and proves Activity Archive without Azure: it starts a
// simulated tenant, a stand-in for the Functions host and a Cosmos DB emulator
// on this machine, lets the built handler work in them, and compares what was
// archived with what was published.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// commands is the command line.
type commands struct {
	Run      runCommand      `cmd:"" help:"Archive a simulated tenant's week, reconcile it record by record, and answer three questions from it."`
	Up       upCommand       `cmd:"" help:"Keep the same world up and print its URLs, until Ctrl+C."`
	Emulator emulatorCommand `cmd:"" help:"Serve the Cosmos DB emulator until standard input ends. The lab starts it as a process of its own."`
	Host     hostCommand     `cmd:"" help:"Run the stand-in for the Functions host until standard input ends. The lab starts it as a process of its own."`
}

// errFailed ends the lab with status 1; what is wrong has been printed.
var errFailed = errors.New("the archive is not what was published")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var c commands
	k := kong.Parse(&c, kong.Name("lab"), kong.Description("Activity Archive without Azure."), kong.BindTo(ctx, (*context.Context)(nil)))
	err := k.Run()
	stop()
	switch {
	case errors.Is(err, errFailed):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(2)
	}
}
