package activity

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The rate halves when the service throttles and grows by a fixed step after
// that, as congestion control does: several programs may share the quota.
const (
	// halveEvery keeps the many answers that one overload throttles from
	// halving the rate once each.
	halveEvery = 5 * time.Second
	// growEvery and growSteps bring the rate back from nothing to full in 200 s.
	growEvery = 10 * time.Second
	growSteps = 20
	// floorShare of the full rate is always left, so that work never stands still.
	floorShare = 1.0 / 20
	// maxBurst is how many requests may leave at once after a pause.
	maxBurst = 8
)

// limiter is the one gate before all requests of a client. Callers pass in the
// order in which they came.
type limiter struct {
	top    rate.Limit
	bucket *rate.Limiter
	log    *slog.Logger

	mu        sync.Mutex
	halved    time.Time // when the rate was last halved
	grown     time.Time // up to when growth is accounted for
	paused    time.Time // no request before this: the service asked for it
	throttled uint64
}

func newLimiter(perMinute float64, log *slog.Logger) *limiter {
	top := rate.Limit(perMinute / 60)
	burst := min(max(int(perMinute/240), 1), maxBurst) // a quarter of a second's worth
	return &limiter{top: top, bucket: rate.NewLimiter(top, burst), log: log}
}

// wait returns when the next request may leave. Its error is the context's,
// or a Fault of Kind Throttled if that moment lies past the context's deadline.
func (l *limiter) wait(ctx context.Context) error {
	const op = "wait for the request quota"
	for {
		l.grow()
		if err := l.bucket.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return ended(ctx, op)
			}
			return &Fault{Op: op, Kind: Throttled, Err: fmt.Errorf("no room before the deadline: %w", context.DeadlineExceeded)}
		}
		pause := l.pause()
		if pause <= 0 {
			return nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
			return &Fault{Op: op, Kind: Throttled, RetryAfter: pause, Err: fmt.Errorf("the service asked for a pause beyond the deadline: %w", context.DeadlineExceeded)}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ended(ctx, op)
		}
	}
}

// slow notes a throttled answer. pause, if not 0, holds all callers back.
func (l *limiter) slow(pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.throttled++
	if until := now.Add(pause); until.After(l.paused) {
		l.paused = until
	}
	if now.Sub(l.halved) < halveEvery {
		return
	}
	l.halved, l.grown = now, now
	l.bucket.SetLimit(max(l.bucket.Limit()/2, l.top*floorShare))
	l.log.Warn("throttled by the service, slowing down", "requestsPerMinute", l.perMinute())
}

// grow adds what has come due since the rate was last changed.
func (l *limiter) grow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := time.Since(l.grown) / growEvery
	if limit := l.bucket.Limit(); limit < l.top && steps > 0 {
		l.grown = l.grown.Add(steps * growEvery)
		l.bucket.SetLimit(min(limit+l.top*rate.Limit(steps)/growSteps, l.top))
	}
}

func (l *limiter) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.paused)
}

// perMinute is the present rate.
func (l *limiter) perMinute() float64 { return float64(l.bucket.Limit()) * 60 }

func (l *limiter) throttles() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.throttled
}
