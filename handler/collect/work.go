package collect

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"activityarchive/handler/archive"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

// run is what the contents of one run share.
type run struct {
	*Collector
	writer  *archive.Writer
	settler *ledger.Settler
	large   chan struct{} // a place for each content that has many records
	tally   *Tally

	scanners sync.Pool // of *record.Scanner
}

// largeAtOnce is how many contents of more than a segment are read at a time:
// each keeps 48 bytes or so for every record, to know it again.
const largeAtOnce = 3

// run begins a run. The caller ends it.
func (c *Collector) run(ctx context.Context, t *Tally) *run {
	return &run{
		Collector: c, writer: c.Archive.Writer(ctx), settler: c.Ledger.Settler(),
		large: make(chan struct{}, largeAtOnce), tally: t,
	}
}

// scanner returns a scanner of body. Put it back when it is not used any more.
func (r *run) scanner(body io.Reader) *record.Scanner {
	s, ok := r.scanners.Get().(*record.Scanner)
	if !ok {
		return record.NewScanner(body)
	}
	s.Reset(body)
	return s
}

// end returns when nothing of the run is under way.
func (r *run) end() { r.writer.Close() }

// Work collects what is due in the ledger, the oldest content first, until
// nothing is due or ctx ends. The end of ctx is no error: what is left stays
// open. An error means that the run could not go on.
func (c *Collector) Work(ctx context.Context, t *Tally) error {
	r := c.run(ctx, t)
	defer r.end()
	left := map[string]bool{} // entries that this run has tried and left open
	for tried := 0; ctx.Err() == nil; {
		open, err := c.Ledger.Open(ctx)
		var n int
		if err == nil {
			t.add(func(s *Sum) { s.Open, s.Looked = open, true })
			if n, err = r.pass(ctx, open.Partitions, left); err == nil && n == 0 {
				return nil
			}
			tried += n
		}
		switch {
		case err == nil:
		case ctx.Err() != nil, throttled(err) && tried > 0:
			return nil // there was no time for more
		default:
			return err
		}
	}
	return nil
}

// patienceOfPass is after how many failures in a row, none of them a content's
// own, a pass ends: the service refuses this application, or the ledger cannot
// be written.
const patienceOfPass = 10

// verdict gathers what the workers of a pass report.
type verdict struct {
	mu    sync.Mutex
	left  map[string]bool
	inRow int
	fatal error
}

// note takes a content's result and whether it is settled.
func (v *verdict) note(e *ledger.Entry, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || e.Open == 1 {
		v.left[e.ID] = true
	}
	if err == nil {
		v.inRow = 0
		return
	}
	if v.inRow++; v.fatal == nil && (Ends(err) || v.inRow >= patienceOfPass) {
		v.fatal = err
	}
}

func (v *verdict) tried(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.left[id]
}

func (v *verdict) end() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fatal
}

// pass tries every entry of the partitions that is due and was not left open
// before, and returns how many it tried.
func (r *run) pass(ctx context.Context, partitions []string, left map[string]bool) (tried int, err error) {
	var pool errgroup.Group
	pool.SetLimit(r.Parallel)
	v := verdict{left: left}
	for e, dueErr := range r.Ledger.Due(ctx, partitions, r.API.Now()) {
		if err = dueErr; err != nil || v.end() != nil || ctx.Err() != nil {
			break
		}
		if e.Open != 1 || v.tried(e.ID) {
			continue
		}
		if err = r.writer.Ready(ctx); err != nil {
			break
		}
		tried++
		pool.Go(func() error {
			if ctx.Err() == nil && v.end() == nil {
				v.note(&e, r.content(ctx, &e))
			}
			return nil
		})
	}
	_ = pool.Wait() // always nil: failures are in the verdict
	if err := v.end(); err != nil {
		return tried, err
	}
	return tried, err
}

// Some collects the given entries, as many at a time as c.Parallel. It is what
// the webhook's process does with the contents of one notification. What it
// does not finish, a tick does.
func (c *Collector) Some(ctx context.Context, entries []ledger.Entry, t *Tally) error {
	r := c.run(ctx, t)
	defer r.end()
	var pool errgroup.Group
	pool.SetLimit(c.Parallel)
	for i := range entries {
		pool.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			// Read again: the webhook's copy has no ETag, and another process may
			// have finished it.
			e, err := c.Ledger.Entry(ctx, entries[i].PK, entries[i].ID)
			if err != nil || e.Open != 1 {
				return err
			}
			return r.content(ctx, &e)
		})
	}
	return pool.Wait()
}
