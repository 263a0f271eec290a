package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"activityarchive/handler/cosmos"
)

// settleLinger is how long an entry waits for others of its partition to be
// saved in the same request.
const settleLinger = 25 * time.Millisecond

// Settler saves entries, those of a partition that end at about the same time in
// one request. Make one for a run. It needs no end: nobody waits in it but the
// callers of Save. It is safe for concurrent use.
type Settler struct {
	ledger *Ledger
	mu     sync.Mutex
	groups map[string]*settling // being filled, by partition
}

// settling is a batch of entries. Whoever begins it sends it.
type settling struct {
	entries []*Entry
	ops     []cosmos.Op
	bytes   int
	full    chan struct{} // closed when nothing more fits
	done    chan struct{} // closed when errs is there
	errs    []error
}

// errNotSaved is what those hear whose batch ended in a fault of this program.
var errNotSaved = errors.New("saving entries was cut short")

// Settler returns a Settler.
func (l *Ledger) Settler() *Settler {
	return &Settler{ledger: l, groups: map[string]*settling{}}
}

// Save does what [Ledger.Save] does, and returns when it is done. All callers
// give the context of the same run: what one of them began carries the entries
// of others. After a nil error e must be read again before it is saved again.
func (s *Settler) Save(ctx context.Context, e *Entry) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an entry: %w", err)
	}
	op := cosmos.Replace(e.ID, body, e.etag)

	s.mu.Lock()
	g := s.groups[e.PK]
	if g != nil && g.bytes+op.Size() > cosmos.MaxBatchBytes {
		s.close(e.PK, g)
		g = nil
	}
	begins := g == nil
	if begins {
		g = &settling{full: make(chan struct{}), done: make(chan struct{})}
		s.groups[e.PK] = g
	}
	n := len(g.entries)
	g.entries, g.ops, g.bytes = append(g.entries, e), append(g.ops, op), g.bytes+op.Size()
	if len(g.ops) == cosmos.MaxBatch {
		s.close(e.PK, g)
	}
	s.mu.Unlock()

	if begins {
		linger := time.NewTimer(settleLinger)
		select {
		case <-g.full:
		case <-linger.C:
		case <-ctx.Done():
		}
		linger.Stop()
		s.mu.Lock()
		if s.groups[e.PK] == g {
			s.close(e.PK, g)
		}
		s.mu.Unlock()
		func() {
			defer close(g.done) // whatever happens, nobody waits for ever
			g.errs = slices.Repeat([]error{errNotSaved}, len(g.entries))
			s.send(ctx, g)
		}()
	}
	<-g.done
	return g.errs[n]
}

// close ends the filling of g; s.mu is held.
func (s *Settler) close(pk string, g *settling) {
	delete(s.groups, pk)
	close(g.full)
}

// send saves the entries of g. Where one of them keeps the batch from going
// through, each is saved alone.
func (s *Settler) send(ctx context.Context, g *settling) {
	if len(g.ops) > 1 {
		statuses, committed, err := s.ledger.container.Batch(ctx, cosmos.KeyString(g.entries[0].PK), g.ops)
		switch kind := cosmos.KindOf(err); {
		case err == nil && committed && !slices.ContainsFunc(statuses, func(status int) bool { return status/100 != 2 }):
			clear(g.errs)
			return
		case err != nil && kind != cosmos.Refused && kind != cosmos.TooLarge:
			for i := range g.errs {
				g.errs[i] = fmt.Errorf("saving entries: %w", err)
			}
			return
		}
	}
	for i, e := range g.entries {
		g.errs[i] = s.ledger.Save(ctx, e)
	}
}
