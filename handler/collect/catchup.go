package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"activityarchive/handler/activity"
	"activityarchive/handler/ledger"
)

const (
	// reach is how far back a listing may begin: seven days (API documentation,
	// "List available content"), less a margin for clocks and waiting.
	reach = 7*24*time.Hour - 10*time.Minute

	// sweepEvery is how often all seven days are listed again, for content that
	// becomes visible long after its contentCreated. Content is found if it is
	// late by no more than reach less sweepEvery, so a whole day would be too
	// long for content that is six days late.
	sweepEvery = 12 * time.Hour

	// sweepWindow is the longest window of a sweep, whatever the setting: long
	// ones have been answered in part without a word.
	sweepWindow = time.Hour

	// spanWindows is how many windows in a row share one look into the ledger.
	spanWindows = 4

	// spansAtOnce is how many such runs of windows are listed at a time.
	spansAtOnce = 2

	// markEvery is how often the mark is moved while a long listing goes on.
	markEvery = 5 * time.Second
)

// span is a half-open stretch of contentCreated, [from, to).
type span struct{ from, to time.Time }

// CatchUp lists what the service has for head's content type, from the mark less
// the overlap to now, and twice a day all seven days. What is new goes into the
// ledger; only then the mark moves, in head too. It returns an error when
// something could not be listed; what could be is in the ledger all the same.
func (c *Collector) CatchUp(ctx context.Context, head *ledger.Head, t *Tally) error {
	contentType := head.ContentType
	now := c.API.Now().UTC().Truncate(time.Second)
	earliest := now.Add(-reach)

	first := head.ListedTo.IsZero()
	from := head.ListedTo.Add(-c.Overlap)
	if latest := now.Add(-c.Overlap); from.After(latest) {
		// The mark lies ahead: the service's clock was ahead when it was set.
		c.Logger.Warn("the mark lies ahead of the service's clock and is set back", "contentType", contentType,
			"mark", head.ListedTo.String(), "now", ledger.At(now).String())
		from = latest
	}
	if first {
		from = now.Add(-c.Start)
	}
	var gap *span
	if from.Before(earliest) {
		if !first && head.ListedTo.Before(earliest) {
			gap = &span{head.ListedTo.Time, earliest}
		}
		from = earliest
	}
	if gap != nil {
		c.Logger.Error("content was out of reach before it could be listed", "contentType", contentType,
			"from", ledger.At(gap.from).String(), "to", ledger.At(gap.to).String())
	}
	began := head.ListedTo
	mark := func(to time.Time) error {
		err := c.Ledger.UpdateHead(ctx, head, func(h *ledger.Head) error {
			if !h.ListedTo.Equal(began.Time) && h.ListedTo.Before(from) {
				return fmt.Errorf("the mark of %s is at %s, before what was listed, which began at %s: nothing in between was",
					contentType, h.ListedTo, ledger.At(from))
			}
			if h.ListedTo.Before(to) || h.ListedTo.After(now) { // another instance may be ahead, but not of now
				h.ListedTo = ledger.At(to)
			}
			if h.Began.IsZero() {
				h.Began, h.FullListing = ledger.At(from), ledger.At(now)
			}
			if gap != nil {
				h.AddGap(gap.from, gap.to, now)
			}
			h.Heartbeat = ledger.At(now)
			return nil
		})
		if err == nil {
			gap, began = nil, head.ListedTo // the gap is noted once
		}
		return err
	}
	err := c.list(ctx, contentType, span{from, now}, c.Window, mark, t)
	if err != nil {
		err = fmt.Errorf("listing %s: %w", contentType, err)
	}
	if first || Ends(err) {
		return err // the first was the full listing
	}
	// Whatever the listing did: one window that fails must not hide what becomes
	// visible late in all others.
	errs := []error{err}
	if err := c.sweep(ctx, head, earliest, from, now, t); err != nil {
		errs = append(errs, fmt.Errorf("listing all of %s again: %w", contentType, err))
	}
	if err := c.backfill(ctx, head, earliest, now, t); err != nil {
		errs = append(errs, fmt.Errorf("listing %s again as asked: %w", contentType, err))
	}
	return firstOf(errs)
}

// sweep lists again everything from earliest to end when the last full listing
// is half a day old. A sweep that is cut short goes on where it was.
func (c *Collector) sweep(ctx context.Context, head *ledger.Head, earliest, end, now time.Time, t *Tally) error {
	began, from := head.SweepBegan.Time, head.SweptTo.Time
	if began.IsZero() || began.After(now) || from.After(now) { // a clock that was ahead counts for nothing
		if since := now.Sub(head.FullListing.Time); since >= 0 && since < sweepEvery {
			return nil
		}
		began, from = now, head.Began.Time
	}
	if from.Before(earliest) {
		from = earliest
	}
	mark := func(to time.Time) error {
		return c.Ledger.UpdateHead(ctx, head, func(h *ledger.Head) error {
			h.SweepBegan = ledger.At(began)
			if h.SweptTo.Before(to) || h.SweptTo.After(now) {
				h.SweptTo = ledger.At(to)
			}
			if !to.Before(end) {
				h.FullListing, h.SweepBegan, h.SweptTo = ledger.At(began), ledger.Stamp{}, ledger.Stamp{}
			}
			return nil
		})
	}
	if !from.Before(end) {
		return mark(end)
	}
	return c.list(ctx, head.ContentType, span{from, end}, min(c.Window, sweepWindow), mark, t)
}

// list lists one stretch in windows, several at a time, and calls mark with how
// far everything is in the ledger: while it goes on, and at the end. A window
// that fails stops the mark before it, not its neighbours.
func (c *Collector) list(ctx context.Context, contentType string, all span, window time.Duration, mark func(time.Time) error, t *Tally) error {
	spans := split(all, window)
	done := make([]bool, len(spans))
	errs := make([]error, len(spans))
	var mu, marking sync.Mutex
	var pool errgroup.Group
	pool.SetLimit(spansAtOnce)
	reached := func() (int, time.Time) { // mu is held
		n := 0
		for n < len(done) && done[n] {
			n++
		}
		if n == 0 {
			return 0, all.from
		}
		return n, spans[n-1][len(spans[n-1])-1].to
	}
	marked, markedAt := 0, time.Now()
	for i, windows := range spans {
		pool.Go(func() error {
			if ctx.Err() != nil {
				errs[i] = context.Cause(ctx)
				return nil
			}
			if errs[i] = c.listSpan(ctx, contentType, windows, t); errs[i] != nil {
				return nil
			}
			mu.Lock()
			done[i] = true
			n, to := reached()
			move := n < len(spans) && n > marked && time.Since(markedAt) >= markEvery
			if move {
				marked, markedAt = n, time.Now()
			}
			mu.Unlock()
			if move { // others go on listing meanwhile
				marking.Lock()
				errs[i] = mark(to)
				marking.Unlock()
			}
			return nil
		})
	}
	_ = pool.Wait() // always nil: failures are in errs
	if n, to := reached(); n > 0 {
		errs = append(errs, mark(to))
	}
	return firstOf(errs)
}

// split cuts a stretch into windows of that length, and the windows into runs of spanWindows.
func split(all span, window time.Duration) [][]span {
	var spans [][]span
	for from := all.from; from.Before(all.to); {
		var windows []span
		for len(windows) < spanWindows && from.Before(all.to) {
			to := from.Add(window)
			if to.After(all.to) {
				to = all.to
			}
			windows = append(windows, span{from, to})
			from = to
		}
		spans = append(spans, windows)
	}
	return spans
}

// listSpan lists a run of windows into the ledger.
func (c *Collector) listSpan(ctx context.Context, contentType string, windows []span, t *Tally) error {
	known, err := c.Ledger.Known(ctx, contentType, windows[0].from, windows[len(windows)-1].to)
	if err != nil {
		return err
	}
	for _, window := range windows {
		err := c.API.List(ctx, contentType, window.from, window.to, func(page []activity.Content) error {
			return c.record(ctx, page, known, t)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// record brings one page of a listing into the ledger.
func (c *Collector) record(ctx context.Context, page []activity.Content, known map[ledger.Digest]ledger.Known, t *Tally) error {
	now := c.API.Now()
	var fresh []ledger.Entry
	seen := map[string][]ledger.Entry{} // by partition, what a listing now confirms
	for _, content := range page {
		e := ledger.NewEntry(content.ContentType, content.ContentID, content.ContentURI,
			content.Created, content.Expires, ledger.ByListing, now)
		id := ledger.DigestOf(e.ID)
		k, ok := known[id]
		switch {
		case !ok:
			fresh = append(fresh, e)
			known[id] = ledger.Known{PK: e.PK, Confirmed: true}
		case !k.Confirmed || k.Lost:
			seen[k.PK] = append(seen[k.PK], e)
			known[id] = ledger.Known{PK: k.PK, Confirmed: true}
		}
	}
	created, err := c.Ledger.Record(ctx, fresh)
	t.add(func(s *Sum) {
		s.Listed += len(page)
		s.New += len(created)
	})
	if err != nil {
		return err
	}
	// What was there after all (its time lies outside the window, or a
	// notification came first) is confirmed like the rest.
	isNew := map[string]bool{}
	for _, e := range created {
		isNew[e.ID] = true
	}
	for _, e := range fresh {
		if !isNew[e.ID] {
			seen[e.PK] = append(seen[e.PK], e)
		}
	}
	for pk, entries := range seen {
		if err := c.Ledger.Listed(ctx, pk, entries, now); err != nil {
			return err
		}
	}
	return nil
}

// firstOf returns the failure that says most: one that ends the run before any
// other, else the first, with the number of the others.
func firstOf(errs []error) error {
	var first error
	n := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		n++
		if first == nil || Ends(err) && !Ends(first) {
			first = err
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more windows failed)", first, n-1)
	}
	return first
}

// NotSubscribed reports whether a listing failed because the content type has
// no subscription, or a disabled one.
func NotSubscribed(err error) bool {
	f, ok := errors.AsType[*activity.Fault](err)
	return ok && f.Kind == activity.NotSubscribed
}
