// Command bench measures the built handler beside plain programs that do the
// same work, on this machine and in one go: it starts a simulated tenant and a
// Cosmos DB account in its own process, both behind real TLS listeners, lets the
// handler's binary work between them, and prints one table.
//
// The source costs little: contents are spliced from a template. So does the
// sink: in the canned mode it answers a batch without a look at the documents.
// Still all three share the machine's cores, as the baselines do with the two.
// Other load falsifies the figures; processor times and memory are read from
// Linux's /proc.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// options are the command line.
type options struct {
	App   string  `required:"" type:"existingdir" help:"Repository, with the handler built."`
	Case  string  `help:"Measure only this case."`
	Out   string  `default:"bench/out" help:"Folder for the results (results.json, or CASE.json) and the handler's logs."`
	Reps  int     `default:"5" help:"Repetitions of a short run."`
	Share float64 `default:"1" help:"Part of the contents that each run takes: less is faster and says less."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var o options
	kong.Parse(&o, kong.Name("bench"), kong.Description("Activity Archive, measured."))
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// run measures the cases, prints the table and keeps it as JSON. A target that
// was missed is no error: the table says so. A case that could not be measured
// is, and the others are measured all the same.
func run(ctx context.Context, o options) error {
	chosen := cases
	if o.Case != "" {
		chosen = slices.DeleteFunc(slices.Clone(cases), func(c benchCase) bool { return !slices.Contains(c.names, o.Case) })
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no case %q: there are %s", o.Case, strings.Join(names(), ", "))
	}
	root, err := filepath.Abs(o.App)
	if err != nil {
		return err
	}
	out, err := filepath.Abs(o.Out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make folder for results: %w", err)
	}
	b := &bench{
		root: root, handler: filepath.Join(root, "handler", "handler"), out: out,
		reps: o.Reps, share: o.Share, only: o.Case,
	}
	var all []row
	var failed []error
	for _, c := range chosen {
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s … ", strings.Join(c.names, ", "))
		rows, err := c.run(ctx, b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.names[0], err))
		}
		fmt.Fprintf(os.Stderr, "%.0f s\n", time.Since(began).Seconds())
		all = append(all, rows...)
	}
	if o.Case != "" {
		all = slices.DeleteFunc(all, func(r row) bool { return r.Case != o.Case })
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, cmp.Or(o.Case, "results")+".json"), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	printTable(os.Stdout, all)
	return errors.Join(failed...)
}

// bench is what the cases share.
type bench struct {
	root    string // repository
	handler string // the built binary
	out     string // folder for logs
	reps    int
	share   float64
	only    string // the one row that is wanted; empty: all
}

// contents is n, or the part of it that is wanted, at least 1.
func (b *bench) contents(n int) int { return max(int(float64(n)*b.share), 1) }

// benchCase is one setting, measured together; each of its names is a row.
type benchCase struct {
	names []string
	run   func(context.Context, *bench) ([]row, error)
}

func names() (list []string) {
	for _, c := range cases {
		list = append(list, c.names...)
	}
	return list
}
