package loss_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/collect"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

// incidentRows are single faults that must stay single.
var incidentRows = []row{
	{
		name: "X-one-refused", what: "one content that something refuses with 403 ends every tick, and the backlog expires behind it",
		test: func(t *testing.T, s *system) {
			var bad tenant.Content
			for i := range 60 {
				c := s.tenant.Publish(general, time.Now().Add(-time.Minute-time.Duration(i)*time.Hour), recs(i*10, 5)...)
				if i == 30 {
					bad = c
				}
			}
			in := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: bad.ID, Status: 403, Body: "<html>blocked</html>"})
			p := s.process()
			p.mustTick()
			var open []string
			for _, e := range s.entries() {
				if e.State != ledger.Stored {
					open = append(open, e.ContentID)
				}
			}
			if !slices.Equal(open, []string{bad.ID}) {
				t.Errorf("open after one tick: %q, want only the refused one", open)
			}
			if !strings.Contains(s.log.String(), `"outcome":"partial"`) {
				t.Error("the tick does not say that something was left open")
			}
			in.Remove()
			p.ticks(2)
			s.reconciled(nil)
		},
	},
	{
		name: "X-one-type-denied", what: "a content type without permission keeps the others from being collected",
		set: func(o *options) { o.types = []string{general, "DLP.All"} },
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now(), recs(0, 20)...)
			s.process().ticks(2)
			if r := s.reconciled(nil); r.Stored != 20 {
				t.Errorf("%d records stored, want 20", r.Stored)
			}
			if !strings.Contains(s.log.String(), "ActivityFeed.ReadDlp") {
				t.Error("no word about the permission that is missing")
			}
		},
	},
	{
		name: "X-all-denied", what: "a permission that is taken away looks like a quiet day",
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now(), recs(0, 20)...)
			s.tenant.Tune(func(k *tenant.Knobs) { k.TokenRoles = []string{} })
			p := s.process()
			if err := p.tick(); err == nil || !strings.Contains(err.Error(), "ActivityFeed.Read") {
				t.Errorf("tick = %v, want an error that names the permission", err)
			}
			s.tenant.Tune(func(k *tenant.Knobs) { k.TokenRoles = nil })
			s.tenant.RevokeTokens()
			s.process().ticks(2)
			s.reconciled(nil)
		},
	},
	{
		name: "X-swapped", what: "a notification with the id of one content and the address of another is believed for ever",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			a := s.tenant.Publish(general, time.Now(), recs(0, 10)...)
			b := s.tenant.Publish(general, time.Now(), recs(100, 10)...)
			c := s.tenant.Publish(general, time.Now(), recs(200, 10)...)
			now := time.Now()
			for id, uri := range map[string]string{a.ID: b.URI, b.ID: b.URI} { // as the webhook would record them
				e := ledger.NewEntry(general, id, uri, a.Created, a.Expires, ledger.ByWebhook, now.Add(-time.Hour))
				if _, err := p.ledger.Record(t.Context(), []ledger.Entry{e}); err != nil {
					t.Fatal(err)
				}
			}
			// Both are stored before a listing shows them: what a holds is nowhere.
			if err := p.timer.Collector.Work(t.Context(), &collect.Tally{}); err != nil {
				t.Error(err)
			}
			states := s.states()
			if want := map[string]string{a.ID: ledger.Stored, b.ID: ledger.Stored}; !maps.Equal(states, want) || len(s.texts()) != 10 {
				t.Errorf("before a listing %d records are archived and the entries are %v, want 10 and %v", len(s.texts()), states, want)
			}
			s.later(time.Second)
			p.ticks(3)
			s.reconciledSwapped(b)
			for _, e := range s.entries() {
				if want := map[string]string{a.ID: a.URI, b.ID: b.URI, c.ID: c.URI}[e.ContentID]; e.ContentURI != want || e.Found != ledger.ByListing {
					t.Errorf("entry of %s: contentUri %s, found by %s", e.ContentID, e.ContentURI, e.Found)
				}
			}
		},
	},
	{
		name: "X-proxy", what: "an error page of something in front of Cosmos DB is taken for its verdict on the records",
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 40)...)
			for _, status := range []int{400, 404, 413} {
				s.account.Inject(cosmosfake.Rule{
					Container: "Audits", Times: cosmosfake.Always, Kinds: []cosmosfake.Kind{cosmosfake.Create, cosmosfake.Batch},
					Fault: cosmosfake.Fault{Status: status, Body: "<html>proxy</html>"},
				})
				_ = s.process().tick()
				s.account.Recover()
				s.later(10 * time.Minute)
			}
			s.process().ticks(2)
			s.reconciled(nil)
			if sum, _ := s.counts(); sum.Stored != 40 || sum.Dead != 0 {
				t.Errorf("counts %+v, want 40 stored and no dead letter", sum)
			}
		},
	},
	{
		name: "X-full", what: "a logical partition with 20 GB keeps its contents open until they are lost",
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now(), recs(0, 21)...) // seven users
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if strings.Contains(c.Key, "user003@") && (c.Kind == cosmosfake.Create || c.Kind == cosmosfake.Batch) {
						return &cosmosfake.Fault{Status: 403, SubStatus: 1014, Operation: 1}
					}
					return nil
				}
			})
			s.process().ticks(2)
			sum, states := s.counts()
			if sum.Stored != 18 || sum.Dead != 3 || states[ledger.Stored] != 1 {
				t.Errorf("counts %+v, states %v; want 18 stored, 3 dead letters, the content closed", sum, states)
			}
			s.reconciled(func(raw json.RawMessage) reconcile.Fate {
				if bytes.Contains(raw, []byte("user003@")) {
					return reconcile.Refused
				}
				return reconcile.Archived
			})
		},
	},
	{
		name: "X-changed", what: "a content that reads differently the second time is passed over as far as it was confirmed",
		test: func(t *testing.T, s *system) {
			all := recs(0, 2500)
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), all...)
			// The first answer has the same records in another order, and breaks off
			// after the first segment is confirmed.
			turned := slices.Clone(all)
			slices.Reverse(turned)
			body := append(append([]byte("["), bytes.Join(byteSlices(turned), []byte(","))...), ']')
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Status: 200, Body: string(body), CutAt: int64(len(body) * 3 / 5)})
			p := s.process()
			p.mustTick()
			e := s.entries()[0]
			if e.Progress.Done() < 1000 || e.State != ledger.Pending {
				t.Fatalf("after the first try: %d confirmed, %s", e.Progress.Done(), e.State)
			}
			p.ticks(2)
			s.reconciled(nil)
			if sum, _ := s.counts(); sum.Stored != 2500 {
				t.Errorf("counts %+v, want 2500 stored", sum)
			}
		},
	},
	{
		name: "X-lost-by-clock", what: "a content that was written off while the service's clock was ahead stays so, although each listing shows it",
		test: func(t *testing.T, s *system) {
			p := s.process()
			c := s.tenant.Publish(general, time.Now().Add(-5*day), recs(0, 10)...)
			gone := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: http.StatusNotFound, Code: "AF20050", Message: "gone"})
			p.mustTick()
			s.later(2 * time.Hour) // so that it is due
			s.tenant.Tune(func(k *tenant.Knobs) { k.DateSkew = 3 * day })
			_ = p.tick()
			s.tenant.Tune(func(k *tenant.Knobs) { k.DateSkew = 0 })
			gone.Remove()
			if e := s.entryOf(c.ID); e.State != ledger.Lost || e.Found != ledger.ByListing {
				t.Errorf("the content is %s and found by %s, which shows nothing", e.State, e.Found)
			}
			for range 5 { // until all is listed again
				s.later(3 * time.Hour)
				p.mustTick()
			}
			s.reconciled(nil)
			s.counted(10, 0, 0)
		},
	},
	{
		name: "X-listed-again", what: "a content that was written off stays so when the service offers it again",
		test: func(t *testing.T, s *system) {
			p := s.process()
			now := time.Now()
			c := s.tenant.Add(tenant.Content{
				Type: general, Created: now, Listed: now.Add(8*24*time.Hour - time.Hour), Ends: now.Add(30 * 24 * time.Hour),
				Records: slices.Values(recs(0, 10)),
			})
			gone := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 404, Code: "AF20050", Message: "gone"})
			e := ledger.NewEntry(general, c.ID, c.URI, now, now, ledger.ByListing, now)
			p.mustTick()
			if _, err := p.ledger.Record(t.Context(), []ledger.Entry{e}); err != nil {
				t.Fatal(err)
			}
			for range 8 * 4 {
				p.mustTick()
				s.later(6 * time.Hour)
			}
			if _, states := s.counts(); states[ledger.Lost] != 1 {
				t.Errorf("states %v, want it lost", states)
			}
			gone.Remove()
			p.ticks(3)
			s.reconciled(nil)
		},
	},
}

func byteSlices(list []json.RawMessage) (out [][]byte) {
	for _, raw := range list {
		out = append(out, raw)
	}
	return out
}
