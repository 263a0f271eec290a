package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
)

const (
	// quota is the service's: requests a minute and tenant (service
	// documentation).
	quota = 2000
	// quotaWarm is how long after the first content request the minute begins
	// that is measured, and from when on no answer may be throttled.
	quotaWarm = 10 * time.Second
)

// quotas runs the three round trips beside each other: none of them uses much of
// the machine, and each takes more than a minute.
func quotas(ctx context.Context, b *bench) ([]row, error) {
	trips := []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second}
	rows, errs := make([][]row, len(trips)), make([]error, len(trips))
	var all sync.WaitGroup
	for i, trip := range trips {
		name := "quota" + strconv.FormatInt(trip.Milliseconds(), 10)
		if b.only == "" || b.only == name {
			all.Go(func() { rows[i], errs[i] = b.quota(ctx, name, trip) })
		}
	}
	all.Wait()
	return append(append(rows[0], rows[1]...), rows[2]...), errors.Join(errs...)
}

func (b *bench) quota(ctx context.Context, name string, trip time.Duration) (rows []row, err error) {
	// Five seconds' worth may be saved up, so that asking for more than the quota
	// is refused soon.
	s, err := b.settle(ctx, name, tenant.Knobs{Budget: quota, Burst: quota / 12}, trip, canned(), "REQUESTS_PER_MINUTE="+strconv.Itoa(quota))
	if err != nil {
		return nil, err
	}
	s.tenant.Advance(between)
	s.source.publish(s.tenant, quota*3/2, full, 3*time.Minute)
	s.forget()
	tick, stop := s.begin(ctx)
	defer func() { err = errors.Join(err, s.end()) }()
	defer stop()
	if err := s.until(ctx, tick, quotaWarm); err != nil {
		return nil, err
	}
	warm, before, err := s.tenant.Now(), s.stored(), nil
	if err := s.until(ctx, tick, quotaWarm+time.Minute); err != nil {
		return nil, err
	}
	stored, throttled := s.stored()-before, 0
	for _, r := range s.tenant.Requests() {
		if r.Code == "AF429" && r.Time.After(warm) {
			throttled++
		}
	}
	return []row{
		against(name, fmt.Sprintf("contents stored in a minute at %v; baseline the quota", trip), []float64{float64(stored)}, []float64{quota}).ratioAtLeast(0.95),
		alone(name, "throttled answers after the first ten seconds", float64(throttled)).atMost(0),
	}, err
}

// ended is how a tick went that runs beside the measuring.
type ended struct{ err error }

// begin runs a tick beside the caller. stop ends the request, and returns when
// it has ended.
func (s *setting) begin(ctx context.Context) (tick <-chan ended, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan ended, 1)
	var running sync.WaitGroup
	running.Go(func() {
		_, err := s.product.tick(ctx)
		done <- ended{err}
	})
	return done, func() {
		cancel()
		running.Wait()
	}
}

// until waits until the first content request is d ago. A tick that ends before
// is an error: there was too little to do.
func (s *setting) until(ctx context.Context, tick <-chan ended, d time.Duration) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for s.since() < d {
		select {
		case e := <-tick:
			return errors.Join(errors.New("the tick ended before its time was measured"), e.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-poll.C:
		}
	}
	return nil
}

// stored is how many contents the ledger holds as done.
func (s *setting) stored() (n int) {
	for _, d := range s.fake.Documents(ledgerName) {
		var entry struct {
			Kind string
			Open int
		}
		if json.Unmarshal(d.Body, &entry) == nil && entry.Kind == "entry" && entry.Open == 0 {
			n++
		}
	}
	return n
}

const (
	budgetUnits = 10_000 // RU/s
	// budgetTick is how long a tick takes at that rate, as far as its records go.
	budgetTick = 15 * time.Second
	// recordUnits is what the fake charges for a record.
	recordUnits = 11
)

// budget is an account with little throughput: the handler must use it up and
// not run against it. The settling tick has it, too, and finds it out.
func budget(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.settle(ctx, "budget", noQuota(), 50*time.Millisecond,
		cosmosfake.Switches{Canned: archiveName, Latency: 10 * time.Millisecond, Budget: budgetUnits})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	contents := b.contents(int(budgetTick.Seconds()) * budgetUnits / recordUnits / full)
	var shares, throttled, failed []float64
	for range b.reps {
		o, err := s.collect(ctx, contents, full)
		if err != nil {
			return nil, err
		}
		// The account has saved up a second's worth when the tick begins.
		given := budgetUnits * (float64(contents)/o.rate + 1)
		shares = append(shares, 100*o.charge/given)
		throttled = append(throttled, 100*float64(o.throttled)/float64(o.requests))
		failed = append(failed, float64(o.failed)+float64(contents*full-o.writes)/full)
	}
	return []row{
		alone("budget", fmt.Sprintf("%% used of what 10,000 RU/s give in a tick of %v, 10 ms", budgetTick), shares...).atLeast(95),
		alone("budget", "% of Cosmos requests throttled, whole ticks", throttled...).atMost(5),
		alone("budget", "contents and requests failed", failed...).atMost(0),
	}, nil
}
