package collect

import (
	"context"
	"fmt"
	"time"

	"activityarchive/handler/ledger"
)

// Backfill asks the next ticks to list [from, to) of a content type once more,
// before the beginning of the archive too. Nothing is listed here, and to ask
// again is safe at any time. It returns the head, which says what is asked for
// now. A stretch that the service does not list is an error.
func (c *Collector) Backfill(ctx context.Context, contentType string, from, to, now time.Time) (ledger.Head, error) {
	if to.After(now) {
		to = now
	}
	from, to = from.UTC().Truncate(time.Second), to.UTC().Truncate(time.Second)
	switch earliest := now.Add(-reach); {
	case !from.Before(to):
		return ledger.Head{}, fmt.Errorf("there is nothing from %s to %s: --from must lie before --to, and before now (%s)",
			ledger.At(from), ledger.At(to), ledger.At(now))
	case from.Before(earliest):
		return ledger.Head{}, fmt.Errorf("the service lists the last seven days only, so --from cannot lie before %s: what it has not listed until then, nobody can get any more",
			ledger.At(earliest))
	}
	return c.Ledger.Backfill(ctx, contentType, from, to)
}

// backfill lists what an operator has asked for. What is cut short goes on where
// it was; what is asked for meanwhile waits for the next tick.
func (c *Collector) backfill(ctx context.Context, head *ledger.Head, earliest, now time.Time, t *Tally) error {
	if head.BackfillTo.IsZero() {
		return nil
	}
	at, asked := head.BackfillFrom, head.BackfillTo
	from, to := at.Time, asked.Time
	if to.After(now) {
		to = now
	}
	if from.Before(earliest) {
		c.Logger.Warn("part of what is to be listed again is out of reach by now", "contentType", head.ContentType,
			"from", at.String(), "to", ledger.At(earliest).String())
		from = earliest
	}
	mark := func(reached time.Time) error {
		return c.Ledger.UpdateHead(ctx, head, func(h *ledger.Head) error {
			if !h.BackfillFrom.Equal(at.Time) || !h.BackfillTo.Equal(asked.Time) {
				return nil // asked for anew, or another instance does it
			}
			h.BackfillFrom = ledger.At(reached)
			if !reached.Before(to) {
				h.BackfillFrom, h.BackfillTo = ledger.Stamp{}, ledger.Stamp{}
			}
			at = h.BackfillFrom
			return nil
		})
	}
	if !from.Before(to) {
		return mark(to)
	}
	return c.list(ctx, head.ContentType, span{from, to}, min(c.Window, sweepWindow), mark, t)
}
