package loss_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var fetchRows = []row{
	{
		name: "D18", what: "one expired content is retried for ever and blocks the others",
		test: func(t *testing.T, s *system) {
			s.tenant.Advance(time.Hour) // it is the service's clock that decides
			created := s.tenant.Now().Add(6*time.Hour - kept)
			for i := range 99 {
				s.tenant.Publish(general, created.Add(time.Duration(i)*time.Second), recs(i*10, 5)...)
			}
			gone := s.tenant.Add(tenant.Content{Type: general, Created: created, Ends: s.tenant.Now(), Records: slices.Values(recs(99_000, 5))})
			p := s.process()
			p.mustTick()
			if _, states := s.counts(); states[ledger.Stored] != 99 {
				t.Errorf("after one tick %d contents are stored, want 99", states[ledger.Stored])
			}
			for end := gone.Created.Add(kept); s.tenant.Now().Before(end); {
				if e := s.entryOf(gone.ID); e.State != ledger.Pending || e.Open != 1 {
					t.Fatalf("at %v the content is %s: its time ends at %v", s.tenant.Now(), e.State, end)
				}
				s.later(5 * time.Minute)
				p.mustTick()
			}
			e := s.entryOf(gone.ID)
			if late := e.DoneAt.Sub(gone.Created.Add(kept)); late < 0 || late > 10*time.Minute {
				t.Errorf("lost %v after the end of its time", late)
			}
			// One, two, four minutes and so on, then hourly.
			if n := s.asked(gone.ID); n < 8 || n > 20 {
				t.Errorf("the content was asked for %d times in six hours", n)
			}
			lost := map[string]bool{gone.ID: true}
			s.lostAre(lost)
			s.reconciledBut(lost)
		},
	},
	{
		name: "D19", what: "HTTP 500 is read as an empty success",
		test: func(t *testing.T, s *system) {
			for i := range 8 {
				s.tenant.Publish(general, time.Now(), recs(i*100, 50)...)
			}
			once := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Times: 8, Status: 500})
			s.process().ticks(2)
			if once.Hits() != 8 {
				t.Errorf("%d contents were answered 500, want 8", once.Hits())
			}
			if r := s.reconciled(nil); r.Stored != 400 {
				t.Errorf("%d records stored, want 400", r.Stored)
			}
		},
	},
	{
		name: "D20", what: "a content that failed five times is skipped, and a cut body is an empty list",
		test: func(t *testing.T, s *system) {
			// All but the last get well again after their sixth failure.
			faults := []tenant.Rule{
				{Status: 500, Times: 6},
				{CutAt: 700, Cut: tenant.CutClean, Times: 6},
				{CutAt: 700, Cut: tenant.CutDrop, Times: 6},
				{Status: 200, Body: "<html>a gateway's page</html>", Times: 6},
				{Status: 200, Body: "{}", Times: 6},
				{Status: 200, Body: " ", Times: 6},
				{Status: 500},
			}
			old := time.Now().Add(8*time.Hour - 6*24*time.Hour) // less than a day and a half is left
			var bad []string
			var last *tenant.Injected
			for i, rule := range faults {
				c := s.tenant.Publish(general, old, recs(i*100, 20)...)
				bad = append(bad, c.ID)
				rule.Op, rule.Path = tenant.OpAudit, c.ID
				last = s.tenant.Inject(rule)
			}
			s.tenant.Publish(general, time.Now(), recs(9000, 20)...)
			p := s.process()
			p.mustTick()
			for i, id := range bad {
				if e := s.entryOf(id); e.State != ledger.Pending || e.Open != 1 || e.Reason == "" || e.Attempts != 1 {
					t.Errorf("fault %d: after one tick the content is %s with reason %q and %d attempts", i, e.State, e.Reason, e.Attempts)
				}
			}
			p.ticks(12 * 10) // ten hours: less than a day is left
			for i, id := range bad[:len(bad)-1] {
				if e := s.entryOf(id); e.State != ledger.Stored || e.Elements != 20 {
					t.Errorf("fault %d: the content is %s with %d elements: %s", i, e.State, e.Elements, e.Reason)
				}
			}
			if e := s.entryOf(bad[len(bad)-1]); e.State != ledger.Pending || e.Open != 1 {
				t.Errorf("the content that always fails is %s", e.State)
			}
			summaries := s.logLines("tick")
			if line := summaries[len(summaries)-1]; line["level"] != "ERROR" || line["open"] != 1.0 || line["timeToLossSeconds"].(float64) > 86400 {
				t.Errorf("no alarm, a day before the loss: %v", line)
			}
			last.Remove()
			p.ticks(13)
			s.reconciled(nil)
		},
	},
	{
		name: "D21", what: "a content that takes ten seconds times out and is dropped",
		test: func(t *testing.T, s *system) {
			content := func(first int, rule tenant.Rule) string {
				c := s.tenant.Publish(general, dawn.Add(-time.Minute), recs(first, 100)...)
				rule.Op, rule.Path = tenant.OpAudit, c.ID
				s.tenant.Inject(rule)
				return c.ID
			}
			patient := []string{
				content(1000, tenant.Rule{Delay: 10 * time.Second}),
				content(2000, tenant.Rule{Drip: 200, Pause: time.Second}), // minutes
			}
			open := []string{
				content(3000, tenant.Rule{CutAt: 5000, Cut: tenant.CutStall, Times: 2}),
				content(4000, tenant.Rule{Hang: true, Times: 1}),
			}
			p := s.process()
			p.mustTick() // ends within its deadline although one answer never comes
			for _, id := range patient {
				if e := s.entryOf(id); e.State != ledger.Stored || s.asked(id) != 1 {
					t.Errorf("a slow content is %s after one tick and %d fetches: %s", e.State, s.asked(id), e.Reason)
				}
			}
			for _, id := range open {
				if e := s.entryOf(id); e.State != ledger.Pending || e.Open != 1 {
					t.Errorf("a content that did not come is %s after one tick", e.State)
				}
			}
			if e := s.entryOf(open[0]); e.Attempts == 0 {
				t.Errorf("a body that stands still was waited for to the end of the tick: %s", e.Reason)
			}
			p.ticks(4)
			s.reconciled(nil)
		},
	},
	{
		name: "D22", what: "an answer over 1 MiB ends the scan, and the mark moves on",
		test: func(t *testing.T, s *system) {
			before := s.tenant.Publish(general, dawn.Add(-3*time.Second), recs(1, 10)...)
			large := s.tenant.Add(tenant.Content{Type: general, Created: dawn.Add(-2 * time.Second), Records: manyRecords(1000, 4000, 560)})
			after := s.tenant.Publish(general, dawn.Add(-time.Second), recs(20, 10)...)
			if size := sizeOf(t, large); size < 2<<20 {
				t.Fatalf("the content has %d bytes", size)
			}
			s.process().ticks(1)
			for _, c := range []tenant.Content{before, large, after} {
				if n := s.asked(c.ID); n != 1 {
					t.Errorf("a content was fetched %d times", n)
				}
			}
			s.reconciled(nil)
		},
	},
	{
		// Above both limits of the other collector; D24 has the whole size.
		name: "D23", what: "a content over 10 MB or 20,000 records is retried until it expires",
		test: func(t *testing.T, s *system) {
			large := s.tenant.Add(tenant.Content{Type: general, Created: dawn.Add(-time.Minute), Records: manyRecords(0, 20_500, 500)})
			if size := sizeOf(t, large); size < 10_000_000 {
				t.Fatalf("the content has %d bytes", size)
			}
			s.process().mustTick()
			if e := s.entryOf(large.ID); e.State != ledger.Stored || e.Elements != 20_500 || s.asked(large.ID) != 1 {
				t.Errorf("the content is %s with %d elements after %d fetches: %s", e.State, e.Elements, s.asked(large.ID), e.Reason)
			}
			s.reconciled(nil)
		},
	},
	{name: "D24", what: "memory is many times the content: 68 MB kill a small instance", test: fullSize},
	{
		name: "D25", what: "all contents of a notification go to the same place: all but the last are lost",
		set: func(o *options) { o.webhook = true },
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			listings := s.tenant.Count(tenant.OpContent)
			var ids []string
			for i := range 5 {
				ids = append(ids, s.tenant.Publish(general, time.Now(), recs(i*100, 3+i)...).ID)
			}
			s.later(time.Second)
			s.later(10 * time.Second)
			sent := s.tenant.Deliveries()
			if len(sent) != 1 || sent[0].Status != http.StatusOK || !slices.Equal(slices.Sorted(slices.Values(sent[0].ContentIDs)), slices.Sorted(slices.Values(ids))) {
				t.Errorf("the notifications were %v, want one with five contents", sent)
			}
			// No tick has run since: the notification alone brought them.
			for i, id := range ids {
				if e := s.entryOf(id); e.State != ledger.Stored || e.Stored != 3+i || e.Found != ledger.ByWebhook {
					t.Errorf("content %d is %s with %d records, found by %s", i, e.State, e.Stored, e.Found)
				}
			}
			if n := s.tenant.Count(tenant.OpContent); n != listings {
				t.Errorf("%d listings", n-listings)
			}
			s.reconciled(nil)
		},
	},
	{
		// 20 as there, and a remainder of every batch of ours: 100 operations a
		// batch, 200 items a page.
		name: "D26", what: "a page is cut into batches and the remainder is dropped",
		set: func(o *options) { o.webhook, o.knobs.NotifyBatch = true, 20 },
		test: func(t *testing.T, s *system) {
			for i := range 251 {
				s.tenant.Publish(general, dawn.Add(-time.Hour), recs(i, 1)...)
			}
			s.tenant.Publish(general, dawn.Add(-time.Hour), oneUser(1000, 251)...)
			s.later(time.Minute) // nobody is there to be notified of these
			p := s.process()
			p.mustTick()
			s.reconciled(nil)
			for i := range 20 {
				s.tenant.Publish(general, time.Now(), recs(2000+i, 1)...)
			}
			s.later(time.Second)
			s.later(time.Minute)
			if sent := s.tenant.Deliveries(); len(sent) != 1 || len(sent[0].ContentIDs) != 20 {
				t.Errorf("the notifications were %v, want one with 20 contents", sent)
			}
			s.reconciled(nil)
		},
	},
	{name: "D27", what: "after a kill the stored original belongs to another record", test: resumed},
	{
		name: "D28", what: "throttling as 403 with AF429 is taken for a permission, or tried again at once",
		set: func(o *options) {
			o.knobs.Budget, o.knobs.SingleQuotes = 300, true // we are told that 2,000 a minute is ours
		},
		test: func(t *testing.T, s *system) {
			for i := range 700 {
				s.tenant.Publish(general, dawn.Add(-time.Hour), recs(i, 1)...)
			}
			burst := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Times: 30, Status: 403, Code: "AF429", Message: "The quota is used up."})
			p := s.process()
			p.mustTick()
			s.later(5 * time.Minute)
			p.mustTick()
			if burst.Hits() != 30 {
				t.Errorf("%d requests met the burst, want 30", burst.Hits())
			}
			throttled, last := 0, map[string]tenant.Request{}
			requests := s.tenant.Requests()
			for _, r := range requests {
				if r.Code == "AF429" {
					throttled++
				}
				if before := last[r.ContentID]; r.Op == tenant.OpAudit && before.Code == "AF429" && r.Time.Sub(before.Time) < time.Second {
					t.Errorf("a throttled content was asked for again after %v", r.Time.Sub(before.Time))
				}
				last[r.ContentID] = r
			}
			t.Logf("%d of %d requests were throttled", throttled, len(requests))
			if throttled < 40 || throttled > len(requests)/4 {
				t.Errorf("%d of %d requests were throttled", throttled, len(requests))
			}
			if r := s.reconciled(nil); r.Stored != 700 {
				t.Errorf("%d records stored, want 700", r.Stored)
			}
		},
	},
}

// kept is how long the service keeps a content.
const kept = 7 * 24 * time.Hour

// resumed kills two processes in the middle of one content, each after more of
// it was confirmed, and lets a third finish it. Most records differ from their
// documents, so that the archive keeps their text beside, and some are in
// conflict, so that a dead letter keeps it.
func resumed(t *testing.T, s *system) {
	const n = 6000
	var list []json.RawMessage
	conflicts := 0
	for i := range n {
		list = append(list, rec(i, fmt.Sprintf(`,"Serial":9007199254%06d1`, i)))
		if i%97 == 0 {
			list = append(list, rec(i, fmt.Sprintf(`,"Serial":9007199254%06d1,"Second":true`, i)))
			conflicts++
		}
	}
	c := s.tenant.Publish(general, dawn.Add(-time.Minute), list...)
	s.account.Set(func(sw *cosmosfake.Switches) {
		sw.Hook = func(call cosmosfake.Call) *cosmosfake.Fault {
			if call.Container == "Audits" && call.Kind == cosmosfake.Batch {
				return &cosmosfake.Fault{Delay: 8 * time.Second} // so that progress is saved on the way
			}
			return nil
		}
	})
	confirmed := 0
	for kill := range 2 {
		p := s.process()
		p.die = func(_ int64, r *http.Request) (before, after bool) {
			if r.Header.Get("x-ms-cosmos-is-batch-request") == "" || !strings.Contains(r.URL.Path, "/colls/Audits/") {
				return false, false
			}
			now := s.entryOf(c.ID).Progress.Done() > confirmed
			return now && kill == 0, now && kill == 1
		}
		_ = p.tick() // what a killed process would say is of no interest
		if !p.dead.Load() {
			t.Fatalf("process %d was not killed", kill)
		}
		done := s.entryOf(c.ID).Progress.Done()
		if done <= confirmed || done >= len(list) {
			t.Fatalf("process %d was killed with %d of %d elements confirmed, after %d", kill, done, len(list), confirmed)
		}
		confirmed = done
		s.later(5 * time.Minute)
	}
	s.process().mustTick()
	e := s.entryOf(c.ID)
	if want := (ledger.Counts{Stored: n, Dead: conflicts}); e.Counts != want || e.Elements != len(list) {
		t.Errorf("the entry is %s with %+v of %d elements, want %+v of %d", e.State, e.Counts, e.Elements, want, len(list))
	}
	if s.asked(c.ID) != 3 {
		t.Errorf("the content was fetched %d times, want 3", s.asked(c.ID))
	}
	if r := s.reconciled(nil); r.Stored != n || r.Dead != conflicts {
		t.Errorf("%d records stored and %d dead letters, want %d and %d", r.Stored, r.Dead, n, conflicts)
	}
}

// numbered is record n, of exactly that size.
func numbered(n, size int) json.RawMessage {
	head := fmt.Sprintf(`{"CreationTime":"2026-03-11T09:00:00","Id":"00000000-0000-4000-8000-%012d","RecordType":21,"UserId":"user%03d@harbor.example","Workload":"CRM","Query":"`, n, n%7)
	return json.RawMessage(head + strings.Repeat("x", size-len(head)-2) + `"}`)
}

// manyRecords yields n records of that size, made anew each time.
func manyRecords(first, n, size int) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for i := range n {
			if !yield(numbered(first+i, size)) {
				return
			}
		}
	}
}

// oneUser makes n records of one user in one hour, which share a partition.
func oneUser(first, n int) (list []json.RawMessage) {
	for i := range n {
		list = append(list, bytes.ReplaceAll(rec(first+i, ""), fmt.Appendf(nil, "user%03d@", (first+i)%7), []byte("user000@")))
	}
	return list
}

// sizeOf is how many bytes a content has.
func sizeOf(t *testing.T, c tenant.Content) int64 {
	t.Helper()
	var n counter
	if _, err := c.WriteTo(&n); err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// entryOf returns the ledger's entry of a content, empty if there is none.
func (s *system) entryOf(contentID string) ledger.Entry {
	for _, e := range s.entries() {
		if e.ContentID == contentID {
			return e
		}
	}
	return ledger.Entry{}
}

// asked is how often a content was asked for.
func (s *system) asked(contentID string) (n int) {
	for _, r := range s.tenant.Requests() {
		if r.Op == tenant.OpAudit && r.ContentID == contentID {
			n++
		}
	}
	return n
}

// logLines returns the log's lines with a message.
func (s *system) logLines(message string) (lines []map[string]any) {
	s.t.Helper()
	for text := range strings.Lines(s.log.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			s.t.Fatalf("a line of the log is no JSON: %s", text)
		}
		if line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}
