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

// guardRows are about guards that stand behind others: each fails when its guard
// alone is taken out. Where a guard only saves work that could as well be done
// twice, the row asserts the saving.
var guardRows = []row{
	{
		name: "G-shorter", what: "a content that comes shorter than what was confirmed of it is taken for whole",
		test: func(_ *testing.T, s *system) {
			all := recs(0, 1100)
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), all...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, CutAt: int64(len(bodyOf(all, "")) * 97 / 100)})
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Status: 200, Body: arrayOf(all[:500])})
			s.process().ticks(3)
			s.reconciled(nil)
			s.counted(1100, 0, 0)
		},
	},
	{
		name: "G-elsewhere", what: "a body that breaks off twice, but not in the same place, is taken for bad content",
		test: func(_ *testing.T, s *system) {
			all := recs(0, 20)
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), all...)
			for i := range 3 {
				s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Status: 200, Body: string(bodyOf(all[:5+i], `{"a":1],{}]`))})
			}
			s.process().ticks(5)
			s.reconciled(nil)
			s.counted(20, 0, 0)
		},
	},
	{
		name: "G-framing-within", what: "framing that is lost where the content was confirmed before spoils the counts",
		test: func(_ *testing.T, s *system) {
			all := recs(0, 1100)
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), all...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, CutAt: int64(len(bodyOf(all, "")) * 97 / 100)})
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 2, Status: 200, Body: string(bodyOf(all[:500], `{"a":1],{}]`))})
			s.process().ticks(4)
			s.reconciled(nil)
			s.counted(1100, 0, 0)
		},
	},
	{
		name: "G-clock-ahead", what: "a mark that the service's clock set three days ahead hides what comes until then",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			p := s.process()
			s.tenant.Advance(3 * oneDay)
			p.ticks(2)
			s.tenant.Advance(-3 * oneDay)
			p.ticks(2) // one answer alone does not move the clock
			s.publishSingles(3, time.Now().Add(-time.Minute), time.Second)
			p.mustTick()
			if n := len(s.unlisted()); n != 0 {
				t.Errorf("%d contents are not in the ledger: nothing is listed", n)
			}
			if mark, now := s.head().ListedTo, s.tenant.Now(); mark.After(now) {
				t.Errorf("the mark is at %v, which is to come", mark)
			}
			// A pause longer than the overlap, and shorter than until all is listed again.
			s.publishSingles(3, time.Now().Add(time.Hour), time.Hour)
			s.later(6 * time.Hour)
			p.mustTick()
			if n := len(s.unlisted()); n != 0 {
				t.Errorf("%d contents of the pause are not in the ledger", n)
			}
			p.ticks(1)
			s.reconciled(nil)
		},
	},
	{
		name: "G-sweep", what: "a full listing that failed on the way counts as done, or begins anew each time",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			s.later(13 * time.Hour)
			created := s.tenant.Now().Add(-50 * time.Hour).Truncate(time.Second)
			late := s.tenant.Add(tenant.Content{Type: general, Created: created, Visible: s.tenant.Now(), Records: slices.Values(recs(0, 3))})
			// The window that holds it cannot be listed.
			var refused []*tenant.Injected
			for i := range 2 {
				hour := created.Add(-time.Duration(i) * time.Hour).Format("2006-01-02T15")
				refused = append(refused, s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Path: "startTime=" + hour, Status: 500}))
			}
			if err := p.tick(); err == nil && !strings.Contains(s.log.tail(), "listing all of") {
				t.Error("the tick does not say that the full listing failed")
			}
			if h := s.head(); h.SweptTo.IsZero() || h.SweptTo.After(created) || h.SweepBegan.IsZero() {
				t.Errorf("the full listing began %v and has come to %v, want to before %v", h.SweepBegan, h.SweptTo, created)
			}
			hits := 0
			for _, in := range refused {
				hits += in.Hits()
				in.Remove()
			}
			happened(t, hits)
			reached := s.head().SweptTo
			s.later(5 * time.Minute)
			before := len(s.tenant.Requests())
			p.mustTick()
			for _, r := range s.tenant.Requests()[before:] {
				if from, _ := windowOf(r); r.Op == tenant.OpContent && from.Before(reached.Time) {
					t.Errorf("the window from %v was listed again, and all to %v was before", from, reached)
				}
			}
			if e := s.entryOf(late.ID); e.State != ledger.Stored {
				t.Errorf("the content that came late is %q", e.State)
			}
			s.later(5 * time.Minute)
			before = s.tenant.Count(tenant.OpContent)
			p.mustTick()
			if n := s.tenant.Count(tenant.OpContent) - before; n > 4 {
				t.Errorf("%d windows listed after the full listing was done", n)
			}
			s.reconciled(nil)
		},
	},
	{
		name: "G-sweep-ahead", what: "a full listing that a clock ahead began counts for one, and what came late waits",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			head := s.headOf(p)
			ahead := ledger.At(s.tenant.Now().Add(3 * oneDay))
			if err := p.ledger.UpdateHead(t.Context(), &head, func(h *ledger.Head) error {
				h.FullListing, h.SweepBegan, h.SweptTo = ahead, ahead, ahead
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			late := s.tenant.Add(tenant.Content{Type: general, Created: s.tenant.Now().Add(-5 * oneDay), Visible: s.tenant.Now(), Records: slices.Values(recs(0, 3))})
			s.later(5 * time.Minute)
			p.mustTick()
			if e := s.entryOf(late.ID); e.State != ledger.Stored {
				t.Errorf("the content that came late is %q", e.State)
			}
			if h := s.head(); h.FullListing.After(s.tenant.Now()) || !h.SweepBegan.IsZero() {
				t.Errorf("the last full listing is said to have begun %v, one under way %v", h.FullListing, h.SweepBegan)
			}
			s.reconciled(nil)
		},
	},
	{
		name: "G-lost-offered", what: "a content that was written off stays so although every listing offers it",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			p := s.process()
			c := s.tenant.Publish(general, time.Now().Add(-30*time.Minute), recs(0, 5)...)
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Status: 404, Code: "AF20050", Message: "refused"})
			p.mustTick()
			e := s.entryOf(c.ID)
			e, err := p.ledger.Entry(t.Context(), e.PK, e.ID)
			if err != nil {
				t.Fatal(err)
			}
			e.Close(ledger.Lost, "written off by a fault", time.Now())
			if err := p.ledger.Save(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			s.later(5 * time.Minute)
			p.mustTick()
			happened(t, refused.Hits())
			s.reconciled(nil)
			s.counted(5, 0, 0)
		},
	},
	{
		name: "G-ids-first", what: "a content is closed before the list of its records is there",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 1100)...) // more than an entry holds
			var closed atomic.Int64
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if c.Container != "ArchiveState" || !bytes.Contains(c.Body, []byte(`"state":"stored"`)) {
						return nil
					}
					closed.Add(1)
					lists := 0
					for _, d := range s.account.Documents("ArchiveState") {
						if bytes.Contains(d.Body, []byte(`"kind":"ids"`)) {
							lists++
						}
					}
					if lists == 0 {
						t.Error("the entry is closed and there is no list of its records")
					}
					return nil
				}
			})
			s.process().mustTick()
			happened(t, int(closed.Load()))
			s.reconciled(nil)
		},
	},
	{
		name: "G-last-words", what: "a content that is done when the time is over is not noted as such, and done once more",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 5)...)
			began := time.Now()
			var held atomic.Int64
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					// A tick of 60 s leaves the last 15 for this.
					if bytes.Contains(c.Body, []byte(`"state":"stored"`)) && time.Since(began) < 44*time.Second {
						held.Add(1)
						return &cosmosfake.Fault{Hang: true}
					}
					return nil
				}
			})
			p := s.process()
			if err := p.tickWithin(time.Minute); err != nil {
				t.Errorf("tick: %v", err)
			}
			if took := time.Since(began); took < 44*time.Second || took > time.Minute {
				t.Errorf("the tick took %v", took)
			}
			happened(t, int(held.Load()))
			if e := s.entries()[0]; e.State != ledger.Stored || e.Attempts != 0 {
				t.Errorf("the content is %s with %d failures", e.State, e.Attempts)
			}
			s.later(5 * time.Minute)
			p.ticks(1)
			s.fetchedOnce()
			s.reconciled(nil)
		},
	},
	{
		name: "G-known", what: "what is in the ledger is written again at each listing, to be told that it is there",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			s.publishSingles(20, dawn.Add(-100*time.Minute), time.Minute)
			s.process().ticks(3)
			var sum collect.Sum
			for _, line := range s.logLines("tick") {
				sum.Listed += int(line["listed"].(float64))
				sum.New += int(line["new"].(float64))
			}
			if sum.Listed < 50 || sum.New != 20 {
				t.Errorf("%d contents listed, %d of them new", sum.Listed, sum.New)
			}
			for _, e := range s.account.Log() {
				if e.Kind == cosmosfake.Batch && e.Status == http.StatusMultiStatus {
					t.Errorf("call %d was refused: a batch for %s in %s", e.N, e.Key, e.Container)
				}
			}
			s.reconciled(nil)
		},
	},
	{
		name: "G-standby", what: "a tick collects beside another that is still at it",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			a, b := s.process(), s.process()
			a.ticks(1)
			c := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Delay: 50 * time.Second})
			s.later(time.Second)
			var first sync.WaitGroup
			first.Go(a.mustTick)
			time.Sleep(40 * time.Second) // longer than a lease that is not renewed
			listings := s.tenant.Count(tenant.OpContent)
			b.mustTick()
			if n := s.tenant.Count(tenant.OpContent) - listings; n != 0 {
				t.Errorf("the other lists %d windows", n)
			}
			first.Wait()
			happened(t, strings.Count(s.heard.String(), "standby"))
			s.fetchedOnce()
			s.reconciled(nil)
		},
	},
	{
		name: "G-lease-lost", what: "a tick goes on although another instance has its lease",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			a, b := s.process(), s.process()
			a.ticks(1)
			c := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Delay: 2 * time.Minute})
			s.later(time.Second)
			var first sync.WaitGroup
			first.Go(func() {
				began := time.Now()
				a.mustTick()
				if took := time.Since(began); took > ledger.LeaseTime {
					t.Errorf("it goes on for %v", took)
				}
			})
			time.Sleep(2 * time.Second)
			s.account.Set(func(sw *cosmosfake.Switches) { sw.DateOffset = time.Minute }) // by which the lease has run out
			b.mustTick()
			first.Wait()
			if !strings.Contains(s.log.String(), ledger.ErrLeaseLost.Error()) {
				t.Error("no tick says that its lease was taken")
			}
			s.reconciled(nil)
			s.counted(5, 0, 0)
		},
	},
	{
		name: "G-claim", what: "a tick takes up at once what a notified process is at, and both fetch it",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			c := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Delay: 30 * time.Second})
			s.later(time.Second)
			p.mustTick()
			s.later(time.Minute)
			happened(t, s.asked(c.ID))
			s.fetchedOnce()
			s.reconciled(nil)
		},
	},
	{
		name: "G-notified-twice", what: "a content that a second notification names again is fetched once more",
		set: tuned(func(k *tenant.Knobs) { k.NotifyLoss = 1 }), // no notifications but these
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			a := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			b := s.tenant.Publish(general, time.Now(), recs(100, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: a.ID, Times: 1, Delay: 20 * time.Second})
			s.notify(a)
			s.later(5 * time.Second)
			s.notify(a)
			s.notify(a, b)
			s.later(5 * time.Second)
			if e := s.entryOf(a.ID); e.State != ledger.Pending {
				t.Errorf("the first is %s already", e.State)
			}
			s.later(time.Minute)
			for _, c := range []tenant.Content{a, b} {
				if n, e := s.asked(c.ID), s.entryOf(c.ID); n != 1 || e.State != ledger.Stored {
					t.Errorf("content %s was asked for %d times and is %s", c.ID, n, e.State)
				}
			}
			p.ticks(1)
			s.reconciled(nil)
		},
	},
	{
		name: "G-done-meanwhile", what: "a notified process fetches what a tick has done meanwhile",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			c := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			e := ledger.NewEntry(general, c.ID, c.URI, c.Created, c.Expires, ledger.ByListing, time.Now().Add(-time.Minute))
			waiting, err := p.ledger.Record(t.Context(), []ledger.Entry{e})
			if err != nil || len(waiting) != 1 {
				t.Fatalf("%d entries made, %v", len(waiting), err)
			}
			if err := p.timer.Collector.Work(t.Context(), &collect.Tally{}); err != nil {
				t.Fatal(err)
			}
			if err := p.timer.Collector.Some(t.Context(), waiting, &collect.Tally{}); err != nil {
				t.Error(err)
			}
			happened(t, s.asked(c.ID))
			s.fetchedOnce()
			s.reconciled(nil)
		},
	},
	{
		name: "G-webhook-refused", what: "while the webhook cannot be validated there is no subscription, and nothing is collected",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			p := s.process()
			s.door.set(http.NotFoundHandler())
			s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			for n := range 5 {
				if err := p.tick(); (err == nil) != (n >= 3) && n != 0 {
					t.Errorf("tick %d: %v", n, err)
				}
				s.later(5 * time.Minute)
			}
			s.reconciled(nil)
			sub := s.tenant.Subscriptions()
			if len(sub) != 1 || sub[0].Status != tenant.Enabled || sub[0].Webhook != nil {
				t.Errorf("the subscriptions are %+v", sub)
			}
			for range 3 { // it is tried with the webhook again, and what is there stays
				p.mustTick()
				s.later(5 * time.Minute)
			}
			happened(t, s.answered("AF20021")-1)
			s.door.set(p.hook)
			s.later(10 * time.Minute)
			p.ticks(4)
			told := len(s.tenant.Deliveries())
			s.tenant.Publish(general, time.Now(), recs(100, 5)...)
			s.later(time.Second)
			happened(t, len(s.tenant.Deliveries())-told)
			p.ticks(2)
			s.settledWell(10)
		},
	},
}

// arrayOf is the text of a content.
func arrayOf(records []json.RawMessage) string {
	return "[" + string(bytes.Join(byteSlices(records), []byte(","))) + "]"
}

// headOf is the head of Audit.General, to be changed.
func (s *system) headOf(p *process) ledger.Head {
	s.t.Helper()
	h, err := p.ledger.Head(s.t.Context(), general)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// notify sends one notification, as the service does.
func (s *system) notify(contents ...tenant.Content) {
	s.t.Helper()
	var items []map[string]string
	for _, c := range contents {
		items = append(items, map[string]string{
			"tenantId": tenant.DefaultID, "clientId": tenant.DefaultAppID, "contentType": c.Type, "contentId": c.ID, "contentUri": c.URI,
			"contentCreated": c.Created.Format(time.RFC3339Nano), "contentExpiration": c.Expires.Format(time.RFC3339Nano),
		})
	}
	body, err := json.Marshal(items)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Webhook-AuthID", authID)
	resp, err := (&http.Client{Transport: s.door}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Errorf("a notification was answered %s", resp.Status)
	}
}
