package cosmos_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"activityarchive/handler/cosmos"
)

// provisioned answers as an account with so many RU/s: a request is let in while
// something is left of the last second's, and may overdraw it.
type provisioned struct {
	mu        sync.Mutex
	perSecond float64
	left      float64
	filled    time.Time
	used      float64
	requests  int
	throttled int
}

func (p *provisioned) set(perSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.perSecond, p.used, p.requests, p.throttled = perSecond, 0, 0, 0
}

func (p *provisioned) answer(charge float64, body string) *http.Response {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	now := time.Now()
	p.left = min(p.left+p.perSecond*now.Sub(p.filled).Seconds(), p.perSecond)
	p.filled = now
	if p.left <= 0 {
		p.throttled++
		hint := math.Ceil(-p.left/p.perSecond*1000) + 1
		return reply(429, `{}`, "x-ms-request-charge", "0", "x-ms-retry-after-ms", strconv.Itoa(int(hint)))
	}
	p.left -= charge
	p.used += charge
	return reply(200, body, "x-ms-request-charge", fmt.Sprint(charge))
}

// distant is an account a little way off, which serves many at a time.
type distant struct {
	account
	delay  time.Duration
	answer func() *http.Response
}

func (d *distant) Do(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return d.account.Do(r)
	}
	time.Sleep(d.delay)
	return complete(d.answer(), r), nil
}

// Whoever has more to write than the account takes uses all of it, and is hardly
// ever refused: when it begins, and when the throughput changes.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const docs, workers = 50, 16
		ok := "[" + strings.TrimSuffix(strings.Repeat(`{"statusCode":201},`, docs), ",") + "]"
		budget := &provisioned{filled: time.Now(), left: 10_000}
		budget.set(10_000)
		var n atomic.Int64
		far := &distant{delay: 10 * time.Millisecond, answer: func() *http.Response {
			return budget.answer(docs*7+float64(n.Add(1)*37%100), ok) // 350 to 449 RU
		}}
		db, err := cosmos.Open(cosmos.Config{Endpoint: "https://account.example/", Key: testKey, Database: "Audit", Transport: far})
		if err != nil {
			t.Fatal(err)
		}
		c := db.Bulk("Audits")
		ops := make([]cosmos.Op, docs)
		for i := range ops {
			ops[i] = cosmos.Create([]byte(`{}`))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for ctx.Err() == nil {
					if _, _, err := c.Batch(ctx, cosmos.KeyString("p"), ops); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for _, perSecond := range []float64{10_000, 1_000, 4_000} {
			budget.set(perSecond)
			time.Sleep(5 * time.Second)
			budget.mu.Lock()
			t.Logf("%v RU/s: %.1f %% used, %d of %d requests throttled in the first seconds", perSecond, 100*budget.used/(5*perSecond), budget.throttled, budget.requests)
			budget.mu.Unlock()
			time.Sleep(55 * time.Second) // to find the new rate
			budget.set(perSecond)
			time.Sleep(2 * time.Minute)
			budget.mu.Lock()
			share, refused, requests := budget.used/(120*perSecond), float64(budget.throttled)/float64(budget.requests), budget.requests
			budget.mu.Unlock()
			t.Logf("%v RU/s: %.1f %% used, %.1f %% of %d requests throttled", perSecond, 100*share, 100*refused, requests)
			// Which of 16 workers comes first is chance, and at 1,000 RU/s a request
			// is a third of a second's.
			if share < 0.92 || refused > 0.06 {
				t.Errorf("%v RU/s: %.1f %% used, %.1f %% of the requests throttled", perSecond, 100*share, 100*refused)
			}
		}
		cancel()
		all.Wait()
		if db.Usage().Throttled == 0 {
			t.Error("nothing was ever throttled")
		}
	})
}
