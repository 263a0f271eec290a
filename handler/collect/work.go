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
		if err != nil {
			return unlessOver(ctx, err)
		}
		t.add(func(s *Sum) { s.Open = open })
		tried, err := c.pass(ctx, w, open.Partitions, done, t)
		if err != nil {
			return unlessOver(ctx, err)
		}
		if tried == 0 {
			return nil
		}
	}
	return nil
}

// unlessOver returns err unless ctx has ended, which explains it.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// pass tries every entry of the partitions that is due and not in done, and
// returns how many it tried.
func (c *Collector) pass(ctx context.Context, w *archive.Writer, partitions []string, done map[string]bool, t *Tally) (tried int, err error) {
	var pool errgroup.Group
	pool.SetLimit(c.Parallel)
	var mu sync.Mutex
	var fatal error
	failed := func() error {
		mu.Lock()
		defer mu.Unlock()
		return fatal
	}
	for _, pk := range partitions {
		err = c.Ledger.Due(ctx, pk, c.API.Now(), func(e ledger.Entry) error {
			if failed() != nil || ctx.Err() != nil {
				return errStopped
			}
			if done[e.ID] || e.Open != 1 {
				return nil
			}
			done[e.ID] = true
			tried++
			pool.Go(func() error {
				if ctx.Err() != nil || failed() != nil {
					return nil
				}
				if err := c.Content(ctx, w, &e, t); err != nil {
					mu.Lock()
					defer mu.Unlock()
					if fatal == nil {
						fatal = err
					}
				}
				return nil
			})
			return nil
		})
		if err != nil {
			break
		}
	}
	_ = pool.Wait() // always nil: failures are in fatal
	if err := failed(); err != nil {
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
