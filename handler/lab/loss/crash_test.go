package loss_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"activityarchive/handler/collect"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var crashRows = []row{
	{
		name: "X-kill-first", what: "a process that is killed in its first tick, before anything exists",
		test: everyBoundary(shortStart, func(*system) {}, anyWrite, func(w *system) { w.counted(10, 0, 0) }),
	},
	{
		name: "X-kill-content", what: "a process that is killed between any two writes of a content loses or doubles a record, or counts otherwise",
		test: everyBoundary(shortStart, func(w *system) {
			w.process().ticks(1)
			w.tenant.Publish(general, time.Now(), mixed(w)...)
			w.later(time.Second)
		}, anyWrite, func(w *system) { w.counted(10+mixedStored, mixedDuplicate, mixedDead) }),
	},
	{
		name: "X-kill-segments", what: "the same for a content of more than one segment, with its progress and a list of ids of its own",
		test: everyBoundary(shortStart, func(w *system) {
			w.process().ticks(1)
			w.tenant.Publish(general, time.Now(), slices.Concat(recs(1000, 1010), mixed(w))...)
			w.later(time.Second)
			// Slow enough for the progress to be saved.
			w.account.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Container: "Audits", Times: cosmosfake.Always, Fault: cosmosfake.Fault{Delay: 16 * time.Second}})
		}, fromFirstRecord, func(w *system) { w.counted(10+1010+mixedStored, mixedDuplicate, mixedDead) }),
	},
	{
		name: "X-kill-letter", what: "the same for a dead letter of more than one document",
		test: everyBoundary(shortStart, func(w *system) {
			w.process().ticks(1)
			w.tenant.Publish(general, time.Now(), rec(500, ""), longLetter, rec(501, ""))
			w.later(time.Second)
		}, anyWrite, func(w *system) { w.counted(12, 0, 1) }),
	},
	{
		name: "X-kill-listing", what: "a process that is killed between any two writes of a listing skips content, or notes it twice",
		test: everyBoundary(func(o *options) {
			shortStart(o)
			o.webhook, o.knobs.PageSize = true, 7
		}, func(w *system) {
			p := w.process()
			p.ticks(1)
			for i := range 6 { // known from notifications, not yet from a listing
				w.tenant.Publish(general, time.Now(), rec(100+i, ""))
			}
			w.later(time.Minute)
			w.later(time.Minute)
			p.kill()
			w.later(26 * time.Hour)
			w.tenant.Tune(func(k *tenant.Knobs) { k.NotifyLoss = 1 })
			for i := range 40 { // of two days
				w.tenant.Publish(general, time.Now().Add(-time.Duration(i)*38*time.Minute), rec(1000+i, ""))
			}
			w.later(time.Second)
		}, toFirstRecord, func(w *system) {
			w.counted(10+6+40, 0, 0)
			for _, e := range w.entries() {
				if e.Found != ledger.ByListing {
					w.t.Errorf("content %s was listed and is marked as found by %s", e.ContentID, e.Found)
				}
			}
		}),
	},
	{
		name: "X-two-content", what: "two instances that collect the same content store a record twice, or count otherwise",
		test: everyJitter(nil, func(w *system, a, b *process) {
			for i := range 6 {
				w.tenant.Publish(general, time.Now(), recs(1000+i*100, 60)...)
			}
			w.tenant.Publish(general, time.Now(), mixed(w)...)
			w.later(time.Second)
			if err := a.catchUp(&collect.Tally{}); err != nil {
				w.t.Error(err)
			}
			w.both(a, b, func(p *process) error { return p.timer.Collector.Work(w.t.Context(), &collect.Tally{}) })
			w.reconciled(refusing(noRecords)) // no later tick had to mend anything
			w.counted(10+6*60+mixedStored, mixedDuplicate, mixedDead)
		}),
	},
	{
		name: "X-two-outcomes", what: "an instance that failed on a content opens it again after another has stored it",
		test: func(t *testing.T, s *system) {
			a, b := s.process(), s.process()
			a.ticks(1)
			b.ticks(1)
			c := s.tenant.Publish(general, time.Now(), mixed(s)...)
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Delay: 20 * time.Second, Status: http.StatusNotFound, Code: "AF20050", Message: "refused"})
			s.later(time.Second)
			if err := a.catchUp(&collect.Tally{}); err != nil {
				t.Error(err)
			}
			s.both(a, b, func(p *process) error { return p.timer.Collector.Work(t.Context(), &collect.Tally{}) })
			if e := s.entryOf(c.ID); refused.Hits() != 1 || s.asked(c.ID) != 2 || e.State != ledger.Stored || e.Attempts != 0 {
				t.Errorf("after %d fetches, %d of them refused, the content is %s with %d attempts", s.asked(c.ID), refused.Hits(), e.State, e.Attempts)
			}
			s.reconciled(refusing(noRecords))
		},
	},
	{
		name: "X-two-page", what: "two instances that list the same page note a content twice, or move the mark past one",
		test: everyJitter(func(o *options) { o.knobs.PageSize = 7 }, func(w *system, a, b *process) {
			const contents = 60
			w.later(26 * time.Hour)
			for i := range contents {
				w.tenant.Publish(general, time.Now().Add(-time.Duration(i)*25*time.Minute), rec(1000+i, ""))
			}
			w.later(time.Second)
			var tallies [2]collect.Tally
			w.both(a, b, func(p *process) error {
				tally := &tallies[0]
				if p == b {
					tally = &tallies[1]
				}
				return p.catchUp(tally)
			})
			if got := len(w.entries()); got != contents+1 {
				w.t.Errorf("the ledger has %d entries, want %d", got, contents+1)
			}
			if x, y := tallies[0].Sum(), tallies[1].Sum(); x.New+y.New != contents {
				w.t.Errorf("the two count %d and %d new contents, together not %d", x.New, y.New, contents)
			}
			w.later(time.Minute)
			b.ticks(1)
			w.reconciled(nil)
			w.counted(10+contents, 0, 0)
		}),
	},
	{
		name: "X-two-start", what: "two instances start the same subscription at once, or within 15 minutes",
		test: func(t *testing.T, s *system) {
			for seed := range 10 {
				w := newSystem(t, func(o *options) {
					shortStart(o)
					o.webhook, o.types, o.knobs.StartRule = true, []string{general, "Audit.Exchange"}, tenant.StartThrottled
				})
				w.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = jitter(seed) })
				a, b := w.process(), w.process()
				w.both(a, b, (*process).tick)
				if n := w.tenant.Count(tenant.OpStart); n != 2 {
					t.Errorf("%d start calls for two content types", n)
				}
				// The webhooks vanish: each needs one start, and the 15 minutes are not over.
				w.later(5 * time.Minute)
				w.tenant.EditSubscription(general, func(sub *tenant.Subscription) { sub.Webhook = nil })
				w.both(a, b, (*process).tick)
				w.later(11 * time.Minute)
				w.both(a, w.process(), (*process).tick)
				if n := w.tenant.Count(tenant.OpStart); n != 3 {
					t.Errorf("%d start calls after one webhook vanished, want 3", n)
				}
				w.close() // a start that came too early is a breach of the API's rules
			}
		},
	},
	{
		name: "X-two-ticks", what: "two instances that tick, and are notified, at the same time",
		test: func(t *testing.T, s *system) {
			for seed := range 5 {
				w := newSystem(t, func(o *options) {
					shortStart(o)
					o.webhook, o.knobs.NotifyTwice = true, 0.5
				})
				w.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = jitter(seed) })
				a, b := w.process(), w.process()
				w.both(a, b, (*process).tick)
				for i := range 12 {
					w.tenant.Publish(general, time.Now(), recs(i*100, 20)...)
					w.door.set([]*process{a, b}[i%2].hook)
					var told sync.WaitGroup
					told.Go(func() { w.tenant.Deliver(t.Context()) })
					w.both(a, b, (*process).tick)
					told.Wait()
					w.later(time.Minute)
				}
				w.later(5 * time.Minute)
				a.ticks(2)
				w.reconciled(nil)
				w.counted(12*20, 0, 0)
				w.close()
			}
		},
	},
	{
		name: "X-lease", what: "a tick that cannot renew its lease goes on beside the one that takes it, or what it left is done twice",
		test: func(t *testing.T, s *system) {
			a := s.process()
			a.ticks(1)
			for i := range 20 {
				s.tenant.Publish(general, time.Now(), recs(i*100, 30)...)
			}
			s.later(time.Second)
			// The first instance stalls on its records, and cannot renew its lease.
			var stalled atomic.Bool
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					switch {
					case c.Container == "Audits" && (c.Kind == cosmosfake.Batch || c.Kind == cosmosfake.Create):
						stalled.Store(true)
						return &cosmosfake.Fault{Hang: true} // until the try is given up
					case stalled.Load() && c.Kind == cosmosfake.Replace && bytes.Contains(c.Body, []byte(`"kind":"lease"`)) && bytes.Contains(c.Body, []byte("process 0")):
						return &cosmosfake.Fault{Reset: true}
					}
					return nil
				}
			})
			began := time.Now()
			var both sync.WaitGroup
			both.Go(func() {
				if err := a.tick(); err == nil {
					t.Error("a tick that could not keep its lease ends well")
				}
				if took := time.Since(began); took >= ledger.LeaseTime+15*time.Second {
					t.Errorf("the tick went on for %v, and its lease had run out", took)
				}
			})
			time.Sleep(ledger.LeaseTime + 15*time.Second)
			b := s.process()
			both.Go(func() { _ = b.tick() })
			time.Sleep(45 * time.Second)
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = nil })
			both.Wait()
			s.later(5 * time.Minute)
			b.ticks(2)
			s.reconciled(nil)
			s.counted(20*30, 0, 0)
		},
	},
}

// shortStart makes the first listing short: 168 windows show no more than three.
func shortStart(o *options) { o.start = 3 * time.Hour }

// isWrite reports whether a request changes something in Cosmos DB.
func isWrite(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Host, "documents.example") && r.Method != http.MethodGet && r.Header.Get("x-ms-documentdb-query") == ""
}

// anyWrite, fromFirstRecord and toFirstRecord say which writes to kill at; seen
// is whether a record has been written.
func anyWrite(r *http.Request, _ *atomic.Bool) bool { return isWrite(r) }

// fromFirstRecord is for the ledger's writes about a content.
func fromFirstRecord(r *http.Request, seen *atomic.Bool) bool {
	if isWrite(r) && strings.Contains(r.URL.Path, "/Audits/") {
		seen.Store(true)
		return false
	}
	return isWrite(r) && seen.Load()
}

// toFirstRecord is for the writes of a listing.
func toFirstRecord(r *http.Request, seen *atomic.Bool) bool {
	if isWrite(r) && strings.Contains(r.URL.Path, "/Audits/") {
		seen.Store(true)
	}
	return isWrite(r) && !seen.Load()
}

// everyBoundary kills a process at each of the requests that counts names, in a
// new world for each: before the request leaves, and again after it was carried
// out. In each world another process then goes on, and check must hold.
func everyBoundary(set func(*options), prepare func(*system), counts func(r *http.Request, seen *atomic.Bool) bool, check func(*system)) func(*testing.T, *system) {
	return func(t *testing.T, _ *system) {
		for _, effect := range []bool{false, true} {
			last := int64(0)
			for n := int64(1); last == 0; n++ {
				w := newSystem(t, set)
				w.tenant.Publish(general, time.Now().Add(-time.Minute), recs(1, 10)...)
				prepare(w)
				p := w.process()
				var number atomic.Int64
				var seen atomic.Bool
				p.die = func(_ int64, r *http.Request) (before, after bool) {
					hit := counts(r, &seen) && number.Add(1) == n
					return hit && !effect, hit && effect
				}
				_ = p.tick()
				if !p.dead.Load() {
					last = n
				}
				p.kill()
				w.marked()
				w.account.Recover()
				w.later(15 * time.Minute) // longer than the lease, and than the service wants between start calls
				w.process().ticks(3)
				w.reconciled(refusing(noRecords))
				check(w)
				w.close()
				if t.Failed() {
					t.Fatalf("killed at write %d, effect %v", n, effect)
				}
			}
			if last < 4 {
				t.Errorf("%d writes, which shows nothing", last-1)
			}
			t.Logf("effect %v: %d boundaries", effect, last-1)
		}
	}
}

// everyJitter runs two instances in worlds that differ in how long each request
// to Cosmos DB takes.
func everyJitter(set func(*options), test func(w *system, a, b *process)) func(*testing.T, *system) {
	return func(t *testing.T, _ *system) {
		for seed := range 10 {
			w := newSystem(t, set)
			w.tenant.Publish(general, time.Now().Add(-time.Minute), recs(1, 10)...)
			a, b := w.process(), w.process()
			a.ticks(1)
			if err := b.tick(); err != nil {
				t.Error(err)
			}
			w.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = jitter(seed) })
			test(w, a, b)
			w.close()
			if t.Failed() {
				t.Fatalf("with jitter %d", seed)
			}
		}
	}
}

// jitter delays each request by up to 60 ms. The account's own document comes at
// once: the SDK holds a mutex while it waits for it, and a bubble's clock stands
// still while anyone waits for a mutex.
func jitter(seed int) func(cosmosfake.Call) *cosmosfake.Fault {
	return func(c cosmosfake.Call) *cosmosfake.Fault {
		if c.Container == "" {
			return nil
		}
		return &cosmosfake.Fault{Delay: time.Duration((c.N*7919+seed*104_729)%61) * time.Millisecond}
	}
}

// both runs the same in two instances at once.
func (s *system) both(a, b *process, do func(*process) error) {
	s.t.Helper()
	var all sync.WaitGroup
	for _, p := range []*process{a, b} {
		all.Go(func() {
			if err := do(p); err != nil {
				s.t.Error(err)
			}
		})
	}
	all.Wait()
}

// What becomes of the records of mixed.
const mixedStored, mixedDuplicate, mixedDead = 12, 5, 5

// mixed are elements of every fate, beside the world's first ten records: new,
// known, known in the same content, with the Id of another, and none at all.
func mixed(w *system) []json.RawMessage {
	list := recs(500, 12)
	list = append(list, list[:2]...)
	n := 0
	for _, known := range w.tenant.Records() {
		switch n++; {
		case n <= 3:
			list = append(list, known)
		case n <= 5:
			list = append(list, bytes.Replace(known, []byte(`"Update"`), []byte(`"Delete"`), 1))
		}
	}
	return append(list, noRecords[:3]...)
}

// noRecords are elements of an array that are no records.
var noRecords = []json.RawMessage{json.RawMessage("null"), json.RawMessage(`{"a":tru}`), json.RawMessage(`["text"]`), longLetter}

// longLetter takes two chunks as a dead letter.
var longLetter = json.RawMessage(`["` + strings.Repeat("x", 1_300_000) + `"]`)
