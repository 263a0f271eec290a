package cosmos

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	// cutEvery keeps the many answers that one overload throttles from cutting
	// the rate once each.
	cutEvery = time.Second
	// gentleCut is for a rate that has just grown past what there is, foundCut for
	// one that did so fast, firstCut for the first one.
	gentleCut = 0.97
	foundCut  = 0.9
	firstCut  = 0.5
	// window is the time over which what was had is measured, in tenths of a
	// second. A rate that is more than a tenth above that was far too high.
	window = 40
	farOff = 0.9
	// growth is by how much each request that passes lets the rate grow, so that
	// one in fifty or so finds out that it was too much. After cubic requests
	// without that it is twice as much, and soon a lot: there may be more to have.
	growth = 0.0003
	cubic  = 30
	// Far from what was too much the last time the rate grows by the clock, by a
	// quarter each second.
	farBelow   = 0.93
	farAbove   = 1.1
	fastGrowth = 0.25
	// leastProvisioned is the smallest throughput that can be provisioned (Cosmos
	// DB service limits). A quarter of it is always left, so that work never stands
	// still.
	leastProvisioned = 400
	leastRate        = leastProvisioned / 4
	// firstCost is what a document is taken to cost until that is known, in RU.
	firstCost = 10
	// headStart is how much longer than others what is written in bulk waits.
	headStart = 20 * time.Millisecond
	// burst is how long unused request units may be saved up.
	burst = 100 * time.Millisecond
)

// pace spreads requests over time once the account has throttled: it learns what
// operations cost and how many request units a second the account gives, and
// lets a request go when there is room for it. Waiting here costs nothing;
// being refused costs a round trip, and a place behind all others.
//
// What is written in bulk passes one after the other, in the order in which it
// came, and leaves everything else a head start: a lease must be renewed in time.
type pace struct {
	turn chan struct{} // held by the caller who waits for room

	mu      sync.Mutex
	limit   float64            // RU/s; 0 as long as nothing was throttled
	ceiling float64            // RU/s that were too many
	left    float64            // RU that may be spent now; negative: spent in advance
	filled  time.Time          // when left was last filled up
	grown   time.Time          // when limit last grew by the clock
	cut     time.Time          // when limit was last cut
	passed  int                // requests since
	costs   map[string]float64 // RU of one document, by operation
	began   time.Time          // when the first RU was spent
	recent  [window]spending   // of the last seconds
}

type spending struct {
	tenth int64 // since 1970
	units float64
}

// wait returns when a request of n documents may leave, and what was set aside
// for it: give that to done. Its error is the end of ctx, or a Fault of kind
// Throttled if that moment lies past ctx's deadline.
func (p *pace) wait(ctx context.Context, op string, n int, bulk bool) (aside float64, err error) {
	if bulk { // one waits for room, the others for their turn: what is learned meanwhile counts for all
		select {
		case p.turn <- struct{}{}:
			defer func() { <-p.turn }()
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	for {
		aside, pause := p.take(op, n)
		if pause == 0 {
			return aside, nil
		}
		if bulk {
			pause += headStart
		}
		if deadline, ok := ctx.Deadline(); ok && !time.Now().Add(pause).Before(deadline) {
			return 0, &Fault{Op: op, Kind: Throttled, Err: fmt.Errorf("no room before the deadline: %w", context.DeadlineExceeded)}
		}
		if err := sleep(ctx, pause); err != nil {
			return 0, err
		}
	}
}

// take sets aside what n documents cost, or says how long there is no room.
func (p *pace) take(op string, n int) (aside float64, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(time.Now())
	if p.limit == 0 {
		return 0, 0
	}
	if p.left < 0 {
		p.grow()
		return 0, time.Duration(-p.left/p.limit*float64(time.Second)) + time.Millisecond
	}
	each, known := p.costs[op]
	if !known {
		each = firstCost
	}
	aside = each * float64(n)
	p.left -= aside
	return aside, 0
}

// done notes what a request has cost, and whether it was throttled.
func (p *pace) done(op string, n int, aside, charge float64, kind Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.fill(now)
	if kind != Throttled { // then it has used up its turn: the account needs that time to have something again
		p.left += aside - charge
	}
	tenth := now.UnixNano() / int64(time.Second/10)
	if p.began.IsZero() {
		p.began = now
	}
	if s := &p.recent[tenth%window]; s.tenth == tenth {
		s.units += charge
	} else {
		*s = spending{tenth, charge}
	}
	switch kind {
	case None:
		p.passed++
		curve := float64(p.passed) / cubic
		p.limit *= 1 + growth*(1+curve*curve)
		each := charge / float64(n)
		if known, ok := p.costs[op]; ok {
			each = known + (each-known)/8
		}
		if p.costs == nil {
			p.costs = map[string]float64{}
		}
		p.costs[op] = each
	case Throttled:
		p.slow(now, tenth)
	}
}

// slow cuts the rate; p.mu is held.
func (p *pace) slow(now time.Time, tenth int64) {
	if p.limit > 0 && now.Sub(p.cut) < cutEvery {
		return
	}
	had := max(p.had(now, tenth, 10), p.had(now, tenth, window))
	switch {
	case p.limit == 0:
		// How much there is has to be found out: until now there was what the
		// account had saved up, and others may have used some of it.
		p.ceiling, p.limit = math.Inf(1), max(had*firstCut, leastProvisioned)
		p.began, p.recent = now, [window]spending{}
	case p.limit > p.ceiling*farAbove || math.IsInf(p.ceiling, 1): // found
		p.limit = min(p.limit, had/foundCut)
		p.ceiling, p.limit = p.limit, p.limit*foundCut
	case had < p.limit*farOff:
		p.ceiling, p.limit = had, had*gentleCut
	default:
		p.ceiling, p.limit = p.limit, p.limit*gentleCut
	}
	p.limit = max(p.limit, leastRate)
	p.left = min(p.left, 0)
	p.cut, p.passed = now, 0
}

// had is how many RU/s there were in the last tenths of a second; p.mu is held.
func (p *pace) had(now time.Time, tenth, tenths int64) float64 {
	sum := 0.0
	for _, s := range p.recent {
		if tenth-s.tenth < tenths {
			sum += s.units
		}
	}
	return sum / min(max(now.Sub(p.began).Seconds(), 1), float64(tenths)/10)
}

// fill adds what time has brought; p.mu is held.
func (p *pace) fill(now time.Time) {
	seconds := min(now.Sub(p.filled).Seconds(), 60)
	p.filled = now
	if p.limit == 0 || seconds <= 0 {
		p.left = min(p.left, 0)
		return
	}
	p.left = min(p.left+p.limit*seconds, p.limit*burst.Seconds())
}

// grow lets a rate grow that is far from what is known, while someone waits for
// it: what was learned holds from one tick to the next. p.mu is held.
func (p *pace) grow() {
	seconds := min(p.filled.Sub(p.grown).Seconds(), 1)
	p.grown = p.filled
	if p.limit < p.ceiling*farBelow || p.limit > p.ceiling*farAbove {
		p.limit *= 1 + fastGrowth*seconds
	}
}
