package collect

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"activityarchive/handler/activity"
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
// open. An error means that the run could not go on, or that the service refused
// this application whatever was asked for.
func (c *Collector) Work(ctx context.Context, t *Tally) error {
	r := c.run(ctx, t)
	defer r.end()
	v := verdict{left: map[string]bool{}, inRow: map[string]int{}, refused: map[string]error{}}
	for tried := 0; ctx.Err() == nil; {
		open, err := c.Ledger.Open(ctx)
		var n int
		if err == nil {
			t.add(func(s *Sum) { s.Open, s.Looked = open, true })
			if n, err = r.pass(ctx, open, &v); err == nil && n == 0 {
				return v.outcome()
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

// patienceInRow is after how many failures in a row, none of them a content's own,
// there is no more trying: the service refuses this application a content type,
// or the ledger cannot be written.
const patienceInRow = 10

// parallelFirst is how many contents a pass begins with.
const parallelFirst = 16

// lately is how many entries are remembered as settled, at least.
const lately = 5000

// verdict gathers what the contents of a run say of the whole.
type verdict struct {
	mu      sync.Mutex
	left    map[string]bool    // entries that were tried and left open
	closed  [2]map[string]bool // entries that were settled lately: a replica that lags shows them as open
	inRow   map[string]int     // failures in a row: by content type the service's refusals, under "" others
	refused map[string]error   // content types that are not tried any more
	settled int                // contents that went well
	fatal   error              // ends the run
}

// note takes a content's result.
func (v *verdict) note(e *ledger.Entry, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || e.Open == 1 {
		v.left[e.ID] = true
	}
	whose := "" // the ledger's
	if f, ok := errors.AsType[*activity.Fault](err); err == nil || ok && f.Kind == activity.Denied {
		whose = e.ContentType
	}
	if err == nil {
		v.inRow[whose], v.inRow[""] = 0, 0
		if e.Open == 1 {
			return
		}
		v.settled++
		if len(v.closed[0]) >= lately || v.closed[0] == nil {
			v.closed[0], v.closed[1] = map[string]bool{}, v.closed[0]
		}
		v.closed[0][e.ID] = true
		return
	}
	v.inRow[whose]++
	switch lost := v.inRow[whose] >= patienceInRow; {
	case Ends(err), lost && whose == "":
		if v.fatal == nil {
			v.fatal = err
		}
	case lost && v.refused[whose] == nil:
		v.refused[whose] = err
	}
}

// skips reports whether e is not to be tried in this run, or not again.
func (v *verdict) skips(e *ledger.Entry) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return e.Open != 1 || v.left[e.ID] || v.closed[0][e.ID] || v.closed[1][e.ID] || v.refused[e.ContentType] != nil
}

func (v *verdict) end() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fatal
}

// outcome is the error of a run that has nothing more to try: one content type
// that is refused is no failure of the others.
func (v *verdict) outcome() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.settled > 0 {
		return nil
	}
	for _, contentType := range slices.Sorted(maps.Keys(v.refused)) {
		return v.refused[contentType]
	}
	return nil
}

// pass tries what is due and not skipped, and returns how many contents that
// were.
func (r *run) pass(ctx context.Context, open ledger.Open, v *verdict) (tried int, err error) {
	until := r.API.Now()
	if open.LastDue.Sub(until) > 2*ledger.LongestWait { // a clock was ahead: nothing waits so long
		until = open.LastDue
	}
	// It begins with a few contents at a time, and each that is done makes room for
	// one more: what is opened first should be done first, however slow Cosmos DB
	// turns out to be.
	room := semaphore.NewWeighted(int64(r.Parallel))
	closed := int64(max(r.Parallel-parallelFirst, 0))
	room.TryAcquire(closed)
	var pool sync.WaitGroup
	for e, dueErr := range r.Ledger.Due(ctx, open.Partitions, until) {
		if err = dueErr; err != nil || v.end() != nil || ctx.Err() != nil {
			break
		}
		if v.skips(&e) {
			continue
		}
		if err = r.writer.Ready(ctx); err == nil {
			err = room.Acquire(ctx, 1)
		}
		if err != nil {
			break
		}
		tried++
		pool.Go(func() {
			if ctx.Err() == nil && v.end() == nil && !v.skips(&e) {
				v.note(&e, r.content(ctx, &e))
			}
			if room.Release(1); atomic.AddInt64(&closed, -1) >= 0 {
				room.Release(1)
			}
		})
	}
	pool.Wait()
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
