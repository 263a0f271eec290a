package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"activityarchive/handler/archive"
	"activityarchive/handler/ledger"
)

// errStopped ends the reading of due entries after a failure that ends the run.
var errStopped = errors.New("the run has ended")

// Work collects what is due in the ledger, the oldest content first, until
// nothing is due or ctx ends. The end of ctx is no error: what is left stays
// open. An error means that the run could not go on.
func (c *Collector) Work(ctx context.Context, t *Tally) error {
	w := c.Archive.Writer(ctx)
	defer w.Close(ctx)
	done := map[string]bool{} // entries tried in this run
	for ctx.Err() == nil {
		open, err := c.Ledger.Open(ctx)
		if err == nil {
			t.add(func(s *Sum) { s.Open, s.Looked = open, true })
			var tried int
			if tried, err = c.pass(ctx, w, open.Partitions, done, t); err == nil && tried == 0 {
				return nil
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil, throttled(err) && len(done) > 0:
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
	inRow int
	fatal error
}

// note takes a content's result and reports whether the pass goes on.
func (v *verdict) note(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		v.inRow = 0
		return
	}
	if v.inRow++; v.fatal == nil && (Ends(err) || v.inRow >= patienceOfPass) {
		v.fatal = err
	}
}

func (v *verdict) end() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fatal
}

// pass tries every entry of the partitions that is due and not in done, and
// returns how many it tried.
func (c *Collector) pass(ctx context.Context, w *archive.Writer, partitions []string, done map[string]bool, t *Tally) (tried int, err error) {
	var pool errgroup.Group
	pool.SetLimit(c.Parallel)
	var v verdict
	for _, pk := range partitions {
		err = c.Ledger.Due(ctx, pk, c.API.Now(), func(e ledger.Entry) error {
			if v.end() != nil || ctx.Err() != nil {
				return errStopped
			}
			if done[e.ID] || e.Open != 1 {
				return nil
			}
			done[e.ID] = true
			tried++
			pool.Go(func() error {
				if ctx.Err() == nil && v.end() == nil {
					v.note(c.Content(ctx, w, &e, t))
				}
				return nil
			})
			return nil
		})
		if err != nil {
			break
		}
	}
	_ = pool.Wait() // always nil: failures are in the verdict
	if err := v.end(); err != nil {
		return tried, err
	}
	if err != nil && !errors.Is(err, errStopped) {
		return tried, fmt.Errorf("reading what is due: %w", err)
	}
	return tried, nil
}

// Some collects the given entries, as many at a time as c.Parallel. It is what
// the webhook's process does with the contents of one notification. What it
// does not finish, a tick does.
func (c *Collector) Some(ctx context.Context, entries []ledger.Entry, t *Tally) error {
	w := c.Archive.Writer(ctx)
	defer w.Close(ctx)
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
			return c.Content(ctx, w, &e, t)
		})
	}
	return pool.Wait()
}
