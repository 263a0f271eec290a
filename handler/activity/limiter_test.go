package activity

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// broken and hanging are credentials that give no token.
type broken struct{ err error }

func (b broken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, b.err
}

type hanging struct{}

func (hanging) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	<-ctx.Done()
	return azcore.AccessToken{}, ctx.Err()
}

func newTestLimiter(perMinute float64) *limiter {
	return newLimiter(perMinute, slog.New(slog.DiscardHandler))
}

func near(got, want float64) bool { return math.Abs(got-want) < 1e-6 }

func TestLimiterKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(1960)
		var passed atomic.Int64
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 128 {
			wg.Go(func() {
				for l.wait(ctx) == nil {
					passed.Add(1)
				}
			})
		}
		wg.Wait()
		if got := passed.Load(); got < 1950 || got > 1960+maxBurst {
			t.Errorf("%d requests in a minute, want 1960 and a burst of %d at most", got, maxBurst)
		}
	})
}

func TestLimiterIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(600)
		counts := make([]int, 20)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for i := range counts {
			wg.Go(func() {
				for l.wait(ctx) == nil {
					counts[i]++
				}
			})
		}
		wg.Wait()
		for i, n := range counts {
			if n < 28 || n > 33 {
				t.Errorf("caller %d passed %d times, want about 30", i, n)
			}
		}
	})
}

func TestLimiterHalvesOncePerOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(1600)
		for range 100 {
			l.slow(0)
		}
		if got := l.perMinute(); !near(got, 800) {
			t.Errorf("rate %v after a burst of throttled answers, want 800", got)
		}
		time.Sleep(halveEvery)
		l.slow(0)
		if got := l.perMinute(); !near(got, 400) {
			t.Errorf("rate %v after the next, want 400", got)
		}
		for range 20 {
			time.Sleep(halveEvery)
			l.slow(0)
		}
		if got := l.perMinute(); !near(got, 1600*floorShare) {
			t.Errorf("rate %v, want the floor %v", got, 1600*floorShare)
		}
		if got := l.throttles(); got != 121 {
			t.Errorf("%d throttled answers counted, want 121", got)
		}
	})
}

func TestLimiterRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(1600)
		l.slow(0)
		for i, want := range []float64{800, 880, 960} {
			if i > 0 {
				time.Sleep(growEvery)
			}
			l.grow()
			if got := l.perMinute(); !near(got, want) {
				t.Errorf("rate %v after %v, want %v", got, time.Duration(i)*growEvery, want)
			}
		}
		time.Sleep(growEvery - time.Nanosecond)
		l.grow()
		if got := l.perMinute(); !near(got, 960) {
			t.Errorf("rate %v too early, want 960", got)
		}
		time.Sleep(time.Hour)
		l.grow()
		if got := l.perMinute(); !near(got, 1600) {
			t.Errorf("rate %v after an hour, want 1600", got)
		}
	})
}

func TestLimiterPausesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(6000)
		l.slow(30 * time.Second)
		l.slow(10 * time.Second) // a shorter one does not cut it
		begin := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := l.wait(t.Context()); err != nil {
					t.Error(err)
				}
				if got := time.Since(begin); got < 30*time.Second || got > 31*time.Second {
					t.Errorf("passed after %v, want 30s", got)
				}
			})
		}
		wg.Wait()
	})
}

func TestLimiterAndTheEndOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLimiter(1)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := l.wait(ctx); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err := l.wait(ctx)
		wantKind(t, err, Throttled)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 0 {
			t.Errorf("%v after %v, want at once", err, time.Since(begin))
		}
		cancel()
		if err := l.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// TestBurstOfThrottling lets 64 callers run into a quota of half their rate,
// as one tenant's other programs cause it. All must finish.
func TestBurstOfThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quota = 600
		var window time.Time
		var mu sync.Mutex
		inWindow := 0
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if now := time.Now(); now.Sub(window) >= time.Minute {
				window, inWindow = now, 0
			}
			if inWindow++; inWindow > quota {
				return answer(403, `{"error":{"code":"AF429","message":"Too many requests. Method=GetBlob"}}`), nil
			}
			return answer(200, `[{"Id":"1"}]`), nil
		}), func(cfg *Config) { cfg.RequestsPerMinute = 2 * quota })
		work := make(chan int, 3000)
		for i := range cap(work) {
			work <- i
		}
		close(work)
		var tries, stored atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range work {
					for { // the ledger would bring it back
						tries.Add(1)
						body, err := c.Open(t.Context(), testContent)
						if err == nil {
							_, err = io.Copy(io.Discard, body)
							_ = body.Close()
						}
						if err == nil {
							stored.Add(1)
							break
						}
						if KindOf(err) != Throttled {
							t.Errorf("error %v", err)
							return
						}
					}
				}
			})
		}
		begin := time.Now()
		wg.Wait()
		s := c.Stats()
		if stored.Load() != 3000 || s.Throttled == 0 || s.Requests != 3000+s.Throttled {
			t.Errorf("%d stored, %+v", stored.Load(), s)
		}
		if s.Throttled > 1500 {
			t.Errorf("%d of %d requests throttled: the rate does not adapt", s.Throttled, s.Requests)
		}
		t.Logf("3000 contents against a quota of %d/min: %v, %d throttled, %d calls, rate now %.0f/min", quota, time.Since(begin), s.Throttled, tries.Load(), s.RequestsPerMinute)
	})
}
