package ledger

import (
	"context"
	"fmt"
	"time"
)

// Type is the content type in the name of a partition of entries.
func Type(pk string) string { return pk[:max(0, len(pk)-len(time.DateOnly)-1)] }

// Reopen opens settled entries of one partition again, so that the next tick
// collects their contents once more, and makes those due that wait. It returns
// the entries that it changed. What an entry says of the time before stays until
// the content has been read again, and a content that was stored does not become
// lost by it. Run it at any time and any number of times.
func (l *Ledger) Reopen(ctx context.Context, pk string, ids []string) (opened []Entry, err error) {
	changed := map[string]Entry{}
	err = l.edit(ctx, pk, ids, "reopen contents", func(e *Entry) bool {
		now := l.db.Now()
		switch {
		case e.State != Pending:
			e.Again = e.State == Stored
			e.State, e.Open, e.Attempts, e.Late = Pending, 1, 0, Stamp{}
			e.Progress, e.Broken = nil, nil
			e.Reason = "opened again"
		case !e.Due.After(now):
			return false
		}
		e.Due = At(now)
		changed[e.ID] = *e
		return true
	})
	for _, e := range changed {
		opened = append(opened, e)
	}
	if err != nil {
		return opened, fmt.Errorf("opening contents again: %w", err)
	}
	return opened, nil
}

// Backfill asks the ticks to list [from, to) of a content type again. It widens
// what was asked for before and is not done yet.
func (l *Ledger) Backfill(ctx context.Context, contentType string, from, to time.Time) (Head, error) {
	h, err := l.Head(ctx, contentType)
	if err != nil {
		return h, err
	}
	if h.ListedTo.IsZero() {
		return h, fmt.Errorf("nothing of %s was listed yet: its first listing takes all that CATCH_UP_START allows", contentType)
	}
	return h, l.UpdateHead(ctx, &h, func(h *Head) error {
		if h.BackfillTo.IsZero() || from.Before(h.BackfillFrom.Time) {
			h.BackfillFrom = At(from)
		}
		if h.BackfillTo.Before(to) {
			h.BackfillTo = At(to)
		}
		return nil
	})
}
