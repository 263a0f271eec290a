package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/lab/world"
)

// worldFlags are the size of the world.
type worldFlags struct {
	App      string `required:"" type:"existingdir" help:"Repository, with the handler built."`
	Seed     uint64 `default:"1" help:"Makes the same choices again; times, and so amounts, follow the clock."`
	Contents int    `default:"600" help:"Contents of the seven days' backlog."`
	More     int    `default:"20" help:"Contents published while the handler works."`
	LogFile  string `help:"Where the log of host and handler goes; by default a file in the temporary folder."`
}

// runCommand archives the world and reconciles.
type runCommand struct {
	worldFlags
	Sabotage string        `enum:",drop,alter,double" default:"" help:"Damage one archived record before reconciling: drop, alter or double. The lab must find it and fail."`
	Limit    time.Duration `default:"150s" help:"How long the handler may take."`
}

// upCommand keeps the world up.
type upCommand struct{ worldFlags }

const (
	tickPause    = 2 * time.Second // between two ticks; a deployed app has five minutes
	publishPause = 1500 * time.Millisecond
	upPause      = 15 * time.Second // the same two for the world that stays up
	measurePause = 2 * time.Second
)

// play is a world on a stage with one instance at work.
type play struct {
	*stage
	world *world.World
	host  *instance
	tally *tally
	log   *os.File
	keep  bool // the log was asked for, or shows what went wrong
}

// begin raises the stage, publishes the backlog and starts an instance. The
// caller ends the play.
func (f worldFlags) begin(ctx context.Context) (_ *play, err error) {
	path := f.LogFile
	keep := path != ""
	if !keep {
		path = filepath.Join(os.TempDir(), fmt.Sprintf("activity-archive-lab-%d.log", os.Getpid()))
	}
	log, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	p := &play{log: log, keep: keep, tally: newTally(), world: world.New(world.Config{Seed: f.Seed, Contents: f.Contents})}
	p.stage, err = raise(ctx, stageConfig{
		Root: f.App, Log: log,
		Tenant: tenant.Config{Seed: f.Seed, Knobs: tenant.Knobs{PageSize: p.world.PageSize()}},
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	p.world.Publish(p.tenant)
	if p.host, err = p.stage.host(ctx); err != nil {
		p.keep = true
		return nil, errors.Join(fmt.Errorf("%w (log: %s)", err, path), p.end())
	}
	return p, nil
}

// end ends everything in order.
func (p *play) end() error {
	var errs []error
	if p.host != nil {
		errs = append(errs, p.host.close())
	}
	errs = append(errs, p.stage.close(), p.log.Close())
	if !p.keep {
		errs = append(errs, os.Remove(p.log.Name()))
	}
	return errors.Join(errs...)
}

// work ticks and publishes until ctx ends: more contents, one every pause.
func (p *play) work(ctx context.Context, more int, publish, between time.Duration) *sync.WaitGroup {
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for range more {
			if !sleep(ctx, publish) {
				return
			}
			p.world.PublishNext(p.tenant)
		}
	})
	tasks.Go(func() {
		for {
			if _, err := p.host.tick(ctx); err != nil || !sleep(ctx, between) {
				return
			}
		}
	})
	return &tasks
}

// sleep waits d of real time. It reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tally is what a world has published to a subscriber of Audit.General.
type tally struct {
	*reconcile.Published
	seen int // contents of the world that are in it, or that are of other types
}

func newTally() *tally { return &tally{Published: reconcile.New()} }

// update adds what w has published since.
func (t *tally) update(w *world.World) {
	contents := w.Contents()
	for _, c := range contents[t.seen:] {
		if c.Type != "Audit.General" {
			continue
		}
		content := reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}
		t.AddContent(content)
		for i := range c.Records {
			fate := reconcile.Filtered
			if c.Records[i].Kept() {
				fate = reconcile.Archived
			}
			t.Add(content, c.Records[i].Text, fate)
		}
	}
	t.seen = len(contents)
}

// Run implements the command.
func (c *runCommand) Run(ctx context.Context) (err error) {
	began := time.Now()
	fmt.Printf("Making a simulated week of activity …\n")
	p, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	fmt.Printf("Simulated tenant %s, emulator %s, webhook %s\nLog of host and handler: %s\n", p.origin, p.cosmos.URL, p.front.url(), p.log.Name())

	working, stop := context.WithTimeout(ctx, c.Limit)
	tasks := p.work(working, c.More, publishPause, tickPause)
	done, err := p.follow(working, began, c.More)
	stop()
	tasks.Wait()
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if !done {
		fmt.Printf("After %v not everything has been archived; reconciling what is there.\n", c.Limit)
	}
	// Nobody writes any more: what follows compares something that stands still.
	if err := p.host.close(); err != nil {
		fmt.Fprintln(p.stage, "host:", err)
	}
	p.host = nil

	if c.Sabotage != "" {
		what, err := p.sabotage(ctx, c.Sabotage)
		if err != nil {
			return err
		}
		fmt.Println("Sabotage:", what)
	}
	p.tally.update(p.world)
	report, err := p.check(ctx, p.tally.Published)
	if err != nil {
		return err
	}
	printReport(os.Stdout, report, p.tenant, time.Since(began))
	if err := p.answers(ctx, os.Stdout); err != nil {
		return err
	}
	if faults, breaches := len(report.Faults), len(p.tenant.Violations()); faults+breaches > 0 {
		p.keep = true
		fmt.Printf("\nFAILED: differences: %d, breaches of the API's rules: %d. The log of host and handler: %s\n", faults, breaches, p.log.Name())
		return errFailed
	}
	fmt.Println("\nOK: every wanted record is archived once, unaltered, and nothing else.")
	return nil
}

// follow shows how far the archive is until everything is in it, more contents
// than the backlog included, or ctx ends.
func (p *play) follow(ctx context.Context, began time.Time, more int) (bool, error) {
	p.tally.update(p.world)
	_, backlog := p.tally.Wanted()
	show := newProgress(os.Stdout)
	defer show.end()
	for {
		if !sleep(ctx, measurePause) {
			return false, nil
		}
		f, err := p.measure(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return false, nil
			}
			return false, err
		}
		p.tally.update(p.world)
		documents, contents := p.tally.Wanted()
		ticks, problems, last := p.host.outcome()
		show.line("%4.0f s  contents %d of %d done  records %d of %d archived  notifications %d  requests %d  ticks %d%s%s",
			time.Since(began).Seconds(), f.entries-f.open, contents, f.documents, documents,
			len(p.tenant.Deliveries()), p.tenant.Count(""), ticks, failures(problems), last)
		if contents >= backlog+more && f.entries >= contents && f.open == 0 && f.documents >= documents {
			return true, nil
		}
	}
}

func failures(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d failed)", n)
}

// outcome sums up the ticks so far; last is the latest problem, empty if the
// latest tick had none.
func (i *instance) outcome() (ticks, problems int, last string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, t := range i.ticks {
		last = ""
		if t.Problem != "" {
			problems++
			last = "  last: " + clip(t.Problem, 120)
		}
	}
	return len(i.ticks), problems, last
}

// clip shortens s to about n bytes, for a line.
func clip(s string, n int) string {
	s = strings.ReplaceAll(s, "\n", " ")
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + " …"
	}
	return s
}

// maxNamed is how many differences are named; the rest is counted.
const maxNamed = 20

func printReport(w io.Writer, r reconcile.Report, t *tenant.Tenant, elapsed time.Duration) {
	fmt.Fprintf(w, "\nReconciliation, record by record, after %.0f s\n", elapsed.Seconds())
	for _, row := range []struct {
		what string
		n    int
	}{
		{"contents published", r.Contents},
		{"records published", r.Records},
		{"  of them other products' (filtered)", r.Filtered},
		{"  duplicates", r.Duplicates},
		{"  conflicts (same Id, other bytes)", r.Conflicts},
		{"  to be archived", r.Wanted},
		{"documents archived", r.Stored},
		{"dead letters", r.Dead},
		{"missing", r.Count(reconcile.Missing)},
		{"altered", r.Count(reconcile.Altered)},
		{"doubled", r.Count(reconcile.Doubled)},
		{"extra", r.Count(reconcile.Extra)},
		{"contents unfinished", r.Count(reconcile.Unfinished)},
		{"breaches of the API's rules", len(t.Violations())},
	} {
		fmt.Fprintf(w, "  %-38s %8d\n", row.what, row.n)
	}
	for i, f := range r.Faults {
		if i == maxNamed {
			fmt.Fprintf(w, "  … and %d more\n", len(r.Faults)-i)
			break
		}
		fmt.Fprintf(w, "  %v\n", f)
	}
	for i, v := range t.Violations() {
		if i == maxNamed {
			break
		}
		fmt.Fprintf(w, "  breach: %s\n", v)
	}
}

// Run implements the command.
func (c *upCommand) Run(ctx context.Context) (err error) {
	p, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	fmt.Printf(`The lab is up until Ctrl+C. A new content appears every %v, timer runs every %v.

  simulated tenant  %s
  Cosmos DB         %s
  Functions host    http://%s
  webhook           %s/api/webhook
  log               %s

Settings that go with it:

`, upPause, upPause, p.origin, p.cosmos.URL, p.host.addr, p.front.url(), p.log.Name())
	for _, s := range p.settings {
		fmt.Println("  " + s)
	}
	fmt.Println()

	const noEnd = 1 << 30
	tasks := p.work(ctx, noEnd, upPause, upPause)
	show := newProgress(os.Stdout)
	for sleep(ctx, measurePause) {
		f, err := p.measure(ctx)
		if err != nil {
			continue // shown by the figures standing still; Ctrl+C is the only end
		}
		ticks, problems, last := p.host.outcome()
		show.line("contents %d, open %d  records archived %d  ticks %d%s%s", f.entries, f.open, f.documents, ticks, failures(problems), last)
	}
	show.end()
	tasks.Wait()
	return nil
}

// progress shows one line that is redrawn on a terminal, and a plain line every
// few seconds elsewhere.
type progress struct {
	out      *os.File
	terminal bool
	printed  time.Time
}

const plainPause = 5 * time.Second

func newProgress(out *os.File) *progress {
	info, err := out.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) line(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if !p.terminal {
		if time.Since(p.printed) >= plainPause {
			fmt.Fprintln(p.out, s)
			p.printed = time.Now()
		}
		return
	}
	fmt.Fprintf(p.out, "\r%s\x1b[K", s)
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}
