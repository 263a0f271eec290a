// Package timer is the timer-triggered function. Each tick keeps the
// subscriptions alive, lists what the notifications missed, and collects what is
// open in the ledger, within its deadline.
//
// Ticks of several instances may overlap: one holds the collector's lease and
// collects, the others look after the subscriptions and end well.
package timer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"activityarchive/handler/activity"
	"activityarchive/handler/collect"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
)

const (
	// closing is kept free at the end of a tick for its last writes.
	closing = 15 * time.Second

	// warnBefore and alarmBefore are the times to loss at which the summary line
	// becomes a warning and an error. A weekend fits into the first.
	warnBefore  = 48 * time.Hour
	alarmBefore = 24 * time.Hour

	// typesAtOnce is how many content types are listed at a time. Each keeps in
	// memory what the ledger knows of a few hours.
	typesAtOnce = 2

	// keptLife is how long the service keeps content from contentCreated on.
	keptLife = 7 * 24 * time.Hour
)

// Timer runs ticks. Its fields are set once.
type Timer struct {
	API       *activity.Client
	DB        *cosmos.DB
	Ledger    *ledger.Ledger
	Collector *collect.Collector
	Logger    *slog.Logger

	ContentTypes []string
	Webhook      *Webhook     // wanted for every content type; nil: polling only
	Owner        string       // names this process in the lease, unique
	Touch        *http.Client // calls the webhook's address before a start; no redirects
	Notes        []string     // said with every tick: what the settings leave undone
}

// tick is one run.
type tick struct {
	*Timer
	log      *slog.Logger
	tally    collect.Tally
	heads    []*ledger.Head // of each content type, in their order; empty until they are read
	started  bool           // a subscription was started
	mu       sync.Mutex
	problems []string // what was left undone, in words
}

// Tick runs once, logs its summary line, and returns the same in a sentence for
// the host's log of the invocation. It returns an error when it could not do its
// job; a tick that did part of it says so and returns none.
func (t *Timer) Tick(ctx context.Context, invocation string) (string, error) {
	run := &tick{Timer: t, log: t.Logger.With("invocationId", invocation)}
	began, api, db := time.Now(), t.API.Stats(), t.DB.Usage()
	outcome, err := run.do(ctx)
	run.summary(ctx, outcome, err, time.Since(began), api, db)
	sum := run.tally.Sum()
	return fmt.Sprintf("%s: %d contents listed, %d new, %d fetched, %d still open; %d records stored, %d duplicate, %d filtered, %d dead letters; %d contents lost",
		outcome, sum.Listed, sum.New, sum.Fetched, sum.Open.Count, sum.Counts.Stored, sum.Counts.Duplicate, sum.Counts.Filtered, sum.Counts.Dead, sum.Lost), err
}

// do is the order of a tick.
func (t *tick) do(ctx context.Context) (outcome string, err error) {
	for _, note := range t.Notes {
		t.problem(note)
	}
	if err := t.Collector.Prepare(ctx); err != nil {
		return "failed", err
	}
	if err := t.subscriptions(ctx); err != nil {
		return "failed", err
	}
	control, err := t.Ledger.Control(ctx)
	if err != nil {
		return "failed", err
	}
	if t.heads, err = t.headsIn(control); err != nil {
		return "failed", err
	}
	lease, err := control.Acquire(ctx, t.Owner)
	if held, ok := errors.AsType[*ledger.HeldError](err); ok {
		t.log.Info("another instance collects", "owner", held.Owner, "until", ledger.At(held.Expires).String())
		return "standby", nil
	}
	if err != nil {
		return "failed", err
	}
	err = t.collect(ctx, lease)
	switch {
	case errors.Is(err, ledger.ErrLeaseLost):
		t.problem(err.Error())
		return "partial", nil
	case err != nil:
		return "failed", err
	case len(t.problems) > 0:
		return "partial", nil
	}
	return "ok", nil
}

// headsIn returns the head of each content type. At an error it returns those
// before.
func (t *tick) headsIn(control *ledger.Control) (heads []*ledger.Head, err error) {
	for _, contentType := range t.ContentTypes {
		head, err := control.Head(contentType)
		if err != nil {
			return heads, err
		}
		heads = append(heads, &head)
	}
	return heads, nil
}

// collect lists and works while the lease is kept.
func (t *tick) collect(ctx context.Context, lease *ledger.Lease) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) > 2*closing {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-closing))
		defer cancel()
	}
	ctx, end := context.WithCancelCause(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { keep(ctx, lease, end) })
	defer func() {
		end(nil)
		keeping.Wait()
	}()

	listErr := t.catchUp(ctx)
	if collect.Ends(listErr) {
		return listErr
	}
	// Open entries are worked on whatever the listing did: they may be about to
	// expire.
	if err := t.Collector.Work(ctx, &t.tally); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, ledger.ErrLeaseLost) || errors.Is(cause, errUnkept) {
		return cause
	}
	if n := t.tally.Sum().Failed; n > 0 {
		t.problem(fmt.Sprintf("contents left open: %d", n))
	}
	return listErr
}

// errUnkept says that the lease ran out because the ledger was out of reach.
var errUnkept = errors.New("the collector's lease could not be renewed, so another instance may have it")

// keep renews the lease until ctx ends. It ends the run when the lease is lost,
// or could not be renewed for as long as it lasts: another instance may have it.
func keep(ctx context.Context, lease *ledger.Lease, end context.CancelCauseFunc) {
	ticker := time.NewTicker(ledger.LeaseTime / 3)
	defer ticker.Stop()
	for renewed := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			began := time.Now()
			renew, cancel := context.WithTimeout(ctx, ledger.LeaseTime/3)
			err := lease.Renew(renew)
			cancel()
			switch {
			case err == nil:
				renewed = began
			case errors.Is(err, ledger.ErrLeaseLost):
				end(ledger.ErrLeaseLost)
				return
			case time.Since(renewed) >= ledger.LeaseTime:
				end(fmt.Errorf("%w: %w", errUnkept, err))
				return
			}
		}
	}
}

// catchUp lists every content type. Half of the time is for listing, the rest
// for what it brought. It returns an error when nothing could be listed, or when
// Cosmos DB refuses us.
func (t *tick) catchUp(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/2, errors.New("half of the tick's time was up"))
		defer cancel()
	}
	errs := make([]error, len(t.heads))
	var all errgroup.Group
	all.SetLimit(typesAtOnce)
	for i, head := range t.heads {
		all.Go(func() error {
			errs[i] = t.Collector.CatchUp(ctx, head, &t.tally)
			return nil
		})
	}
	_ = all.Wait() // always nil: failures are in errs
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	for _, err := range failed {
		if collect.Ends(err) {
			return err
		}
		t.problem(err.Error())
	}
	// A subscription that this tick has started may take a while to be listable.
	if len(failed) < len(errs) || t.started && collect.NotSubscribed(failed[0]) {
		return nil
	}
	return failed[0]
}

func (t *tick) problem(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problems = append(t.problems, text)
}

// summary logs the tick's one line.
func (t *tick) summary(ctx context.Context, outcome string, err error, elapsed time.Duration, api activity.Stats, db cosmos.Usage) {
	sum, now, apiNow, dbNow := t.tally.Sum(), t.API.Now(), t.API.Stats(), t.DB.Usage()
	fields := []any{
		"outcome", outcome, "elapsedMs", elapsed.Milliseconds(),
		"listed", sum.Listed, "new", sum.New, "fetched", sum.Fetched, "stored", sum.Counts.Stored,
		"duplicate", sum.Counts.Duplicate, "filtered", sum.Counts.Filtered, "deadLettered", sum.Counts.Dead,
		"lost", sum.Lost, "leftOpen", sum.Failed, "bytes", sum.Bytes,
		"requests", apiNow.Requests - api.Requests, "throttled", apiNow.Throttled - api.Throttled,
		"requestsPerMinute", int(apiNow.RequestsPerMinute),
		"cosmosRequests", dbNow.Requests - db.Requests, "cosmosThrottled", dbNow.Throttled - db.Throttled,
		"ru", int64(dbNow.RequestCharge - db.RequestCharge),
	}
	if t.Webhook != nil {
		fields = append(fields, "foundByPollingOnly", sum.New)
	}
	if len(sum.Filter) > 0 {
		fields = append(fields, "filteredKinds", sum.Filter)
	}
	if len(sum.Reasons) > 0 {
		fields = append(fields, "openReasons", sum.Reasons)
	}
	level := slog.LevelInfo
	if outcome == "partial" || sum.Counts.Dead > 0 {
		level = slog.LevelWarn
	}
	if outcome != "standby" { // the instance that collects tells
		more, worse := t.outlook(ctx, sum, elapsed, now)
		fields, level = append(fields, more...), max(level, worse)
	}
	if len(t.problems) > 0 {
		fields = append(fields, "problems", t.problems)
	}
	if err != nil {
		level = slog.LevelError
		fields = append(fields, "error", err.Error())
	}
	// The tick's own context may be over, and the line is wanted all the same.
	t.log.Log(context.WithoutCancel(ctx), level, "tick", fields...)
}

// outlook says what is open and how long it has, as far as the ledger tells, and
// how bad that is. It is wanted most when the tick has failed.
func (t *tick) outlook(ctx context.Context, sum collect.Sum, elapsed time.Duration, now time.Time) (fields []any, level slog.Level) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing/3)
	defer cancel()
	level = slog.LevelInfo
	open, known := sum.Open, sum.Looked
	if !known {
		var err error
		open, err = t.Ledger.Open(ctx)
		known = err == nil
	}
	least, ok := time.Duration(0), false // time to loss
	consider := func(end time.Time) {
		if left := end.Sub(now); !ok || left < least {
			least, ok = left, true
		}
	}
	if known {
		fields = append(fields, "open", open.Count)
		if open.Count > 0 {
			fields = append(fields, "oldestOpenAgeSeconds", int64(now.Sub(open.Oldest).Seconds()))
			consider(open.LeastLife)
		}
		if open.Count > 0 && sum.Fetched > 0 {
			// At this tick's pace; soonest expiry goes first, so this long must fit
			// into the life of what is open.
			drain := elapsed * time.Duration(open.Count) / time.Duration(sum.Fetched)
			fields = append(fields, "drainSeconds", int64(drain.Seconds()))
			consider(open.LeastLife.Add(-drain))
		}
	}
	heads := t.heads
	if len(heads) == 0 { // the tick has failed before it read them
		if control, err := t.Ledger.Control(ctx); err == nil {
			heads, _ = t.headsIn(control) // as many as can be read
		}
	}
	for _, head := range heads {
		if !head.ListedTo.IsZero() {
			consider(head.ListedTo.Add(keptLife)) // what is not listed by then cannot be any more
		}
	}
	if !ok {
		return fields, level
	}
	switch {
	case least < alarmBefore:
		level = slog.LevelError
	case least < warnBefore:
		level = slog.LevelWarn
	}
	return append(fields, "timeToLossSeconds", int64(least.Seconds())), level
}
