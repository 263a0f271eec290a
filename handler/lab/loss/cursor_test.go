package loss_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata" // D15 needs New York wherever it runs

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/activity"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

const oneDay = 24 * time.Hour

var cursorRows = []row{
	{
		name: "D10", what: "a time is the cursor: of contents with equal contentCreated all but one count as done",
		set: func(o *options) { o.knobs.PageSize = 7 }, // so that pages part them
		test: func(t *testing.T, s *system) {
			for i := range 20 {
				created := dawn.Add(-time.Hour + time.Duration(i)*time.Minute)
				for n := range 3 { // two at once, one after a tick
					s.tenant.Add(tenant.Content{
						Type: general, Created: created, Visible: dawn.Add(time.Duration(n/2) * 6 * time.Minute),
						Records: slices.Values(recs(3*i+n, 1)),
					})
				}
			}
			s.online().ticks(3)
			if r := s.reconciled(nil); r.Contents != 60 || r.Stored != 60 {
				t.Errorf("%d contents, %d records stored, want 60 of each", r.Contents, r.Stored)
			}
		},
	},
	{
		name: "D11", what: "a content that becomes visible late, with an earlier contentCreated, is skipped for good",
		test: func(_ *testing.T, s *system) {
			// Contents of a whole day, because what is found must not depend on the
			// hour of the daily listing. Ticks are 15 minutes apart in place of 5.
			const step = 15 * time.Minute
			p := s.process()
			lateness := []time.Duration{time.Hour, 3 * time.Hour, 26 * time.Hour, 6 * oneDay}
			for i := range int(oneDay / step) {
				for n, late := range lateness {
					created := dawn.Add(time.Duration(i)*step + step/2)
					s.tenant.Add(tenant.Content{
						Type: general, Created: created, Visible: created.Add(late),
						Records: slices.Values(recs(len(lateness)*i+n, 1)),
					})
				}
			}
			for range int(8 * oneDay / step) {
				p.mustTick()
				s.later(step)
			}
			s.foundWithin(2*time.Hour, step, oneDay+step)
			s.reconciled(nil)
		},
	},
	{
		name: "D12", what: "the checkpoint is written before what it stands for",
		set: func(o *options) { o.overlap = 0 }, // else the overlap would make good for it
		test: func(t *testing.T, s *system) {
			first := s.process()
			first.mustTick()
			s.later(5 * time.Minute)
			kills := 0
			for n, killed := int64(1), true; killed; n++ {
				for _, after := range []bool{false, true} {
					s.publishSingles(1, time.Now().Add(-2*time.Minute), 0)
					p := s.process()
					p.die = func(call int64, _ *http.Request) (bool, bool) { return call == n && !after, call == n && after }
					_ = p.tick() // what it returns nobody sees
					if killed = p.dead.Load(); killed {
						kills++
					}
					s.markHolds()
					s.later(5 * time.Minute)
				}
			}
			if kills < 30 {
				t.Errorf("%d kills, want one before and one after each request of a tick", kills)
			}
			s.process().ticks(3)
			s.markHolds()
			s.reconciled(nil)
		},
	},
	{
		name: "D13", what: "the cursor moves past contents that are still being retried, and a kill loses them",
		test: func(t *testing.T, s *system) {
			var failing []*tenant.Injected
			var ids []string
			for i := range 100 { // in place of 400, and 5,000 records of 20,000
				c := s.tenant.Publish(general, dawn.Add(-6*time.Hour+time.Duration(i)*time.Minute), recs(i*50, 50)...)
				if i < 7 { // 350 records
					ids = append(ids, c.ID)
					failing = append(failing, s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 500}))
				}
			}
			for try := range 4 {
				p := s.process()
				var mu sync.Mutex // requests are made in parallel
				tries := map[string]int{}
				p.die = func(_ int64, r *http.Request) (before, after bool) {
					id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
					if try == 3 || !slices.Contains(ids, id) { // the last ends its retries
						return false, false
					}
					mu.Lock()
					defer mu.Unlock()
					tries[id]++
					return len(tries) == len(ids) && tries[id] > 1, false
				}
				_ = p.tick()
				if killed := p.dead.Load(); killed != (try < 3) {
					t.Errorf("try %d: killed during the retries: %v", try, killed)
				}
				open := map[string]bool{}
				for _, e := range s.entries() {
					if e.Open == 1 {
						open[e.ContentID] = true
					}
				}
				for _, id := range ids {
					if !open[id] {
						t.Errorf("try %d: content %s is not open", try, id)
					}
				}
				s.later(5 * time.Minute)
			}
			for _, rule := range failing {
				rule.Remove()
			}
			s.process().ticks(3)
			if r := s.reconciled(nil); r.Stored != 5000 {
				t.Errorf("%d records stored, want 5000", r.Stored)
			}
		},
	},
	{
		name: "D14", what: "the first run, or one after a gap, starts 24 hours back although the service keeps 7 days",
		test: func(t *testing.T, s *system) {
			const step = 4 * time.Hour
			s.publishSingles(42, dawn.Add(-7*oneDay+20*time.Minute), step)
			s.process().mustTick()
			s.reconciled(nil)

			outage := func(d time.Duration) {
				for range d / step {
					s.later(step)
					s.publishSingles(1, time.Now().Add(-time.Minute), 0)
				}
			}
			outage(3 * oneDay)
			s.process().mustTick()
			s.reconciled(nil)

			// Longer than the service keeps content: what is out of reach is named.
			before := s.head()
			outage(8 * oneDay)
			s.process().mustTick()
			head, now := s.head(), s.tenant.Now()
			if len(before.Gaps) > 0 || len(head.Gaps) != 1 {
				t.Fatalf("gaps before %v, after %v, want none and one", before.Gaps, head.Gaps)
			}
			gap := head.Gaps[0]
			if !gap.From.Equal(before.ListedTo.Time) || now.Sub(gap.To.Time) > 7*oneDay || now.Sub(gap.To.Time) < 7*oneDay-time.Hour {
				t.Errorf("the gap is from %v to %v, want from the mark %v to 7 days ago", gap.From, gap.To, before.ListedTo)
			}
			if !strings.Contains(s.log.String(), "out of reach") {
				t.Error("the gap is not in the log")
			}
			want := map[string]bool{}
			for _, c := range s.tenant.Contents() {
				if !c.Created.Before(gap.From.Time) && c.Created.Before(gap.To.Time) {
					want[c.ID] = true
				}
			}
			if diff := cmp.Diff(want, s.unlisted()); diff != "" || len(want) == 0 {
				t.Errorf("contents that are not in the ledger (-in the gap +not in the ledger):\n%s", diff)
			}
			s.reconciledBut(want)
			for _, r := range s.tenant.Requests() {
				if from, to := windowOf(r); to.Sub(from) > oneDay {
					t.Errorf("the window from %v to %v is longer than 24 hours", from, to)
				}
			}
		},
	},
	{
		name: "D15", what: "times are formatted or parsed in the machine's zone",
		test: func(t *testing.T, s *system) {
			const zone = "America/New_York"
			if os.Getenv("TZ") != zone { // a process has one zone: another runs the row
				again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLoss$/^D15$", "-test.v")
				again.Env = append(os.Environ(), "TZ="+zone)
				out, err := again.CombinedOutput()
				if err != nil || !strings.Contains(string(out), "--- PASS: TestLoss/D15") {
					t.Errorf("with TZ=%s: %v\n%s", zone, err, out)
				}
				return
			}
			if _, offset := time.Now().Zone(); offset > -4*3600 {
				t.Fatalf("the zone is %d seconds off UTC, not New York's", offset)
			}
			s.publishSingles(7*24, dawn.Add(-7*oneDay+20*time.Minute), time.Hour)
			p := s.process()
			p.mustTick()
			s.later(5 * time.Minute)
			for range 24 { // over both midnights
				s.publishSingles(1, time.Now().Add(-time.Minute), 0)
				p.mustTick()
				for _, f := range s.compare(nil).Faults {
					t.Error(f)
				}
				s.later(time.Hour)
			}
			for _, e := range s.entries() {
				if want := e.Created.UTC().Format("2006-01-02"); !strings.HasSuffix(e.PK, want) {
					t.Errorf("an entry of %s lies in partition %s", want, e.PK)
				}
			}
			for _, container := range []string{"Audits", "ArchiveState"} {
				for _, d := range s.account.Documents(container) {
					if text := string(d.Body); strings.Contains(text, "-04:00") || strings.Contains(text, "-05:00") {
						t.Errorf("a document in %s has a time of the machine's zone: %s", container, d.Body)
					}
				}
			}
		},
	},
	{
		name: "D16", what: "the look back ends after 24 hours, when one record in twenty is still to come",
		test: func(_ *testing.T, s *system) {
			// Of what happens in the first hour 80 % comes within 1 h, 95 % within
			// 24 h, 99.8 % within 48 h, all within 7 days. What is late is either
			// the content, or only its listing. Ticks are an hour apart in place of
			// 5 minutes.
			n := 0
			for _, share := range []struct {
				n        int
				from, to time.Duration
			}{{400, 0, time.Hour}, {75, time.Hour, oneDay}, {24, oneDay, 2 * oneDay}, {2, 2 * oneDay, 7*oneDay - time.Hour}} {
				for i := range share.n {
					n++
					late := share.from + (share.to-share.from)*time.Duration(i+1)/time.Duration(share.n)
					c := tenant.Content{Type: general, Created: dawn.Add(late), Records: slices.Values(recs(n, 1))}
					if i%2 == 0 {
						c.Created, c.Visible = dawn.Add(time.Duration(i)*time.Second), dawn.Add(late)
					}
					s.tenant.Add(c)
				}
			}
			p := s.online()
			for range 8 * 24 {
				p.mustTick()
				s.later(time.Hour)
			}
			s.foundWithin(time.Hour, time.Hour, oneDay+time.Hour)
			s.reconciled(nil)
		},
	},
	{
		name: "D17", what: "AF20055 is taken for \"nothing there\" when the clock is off",
		test: func(t *testing.T, s *system) {
			for _, off := range []time.Duration{time.Hour, 10 * time.Minute, -10 * time.Minute, -time.Hour} {
				w := newSystem(t, func(o *options) {
					o.overlap = 5 * time.Minute // else it would hide an hour
					o.knobs.StartSlack = -1     // the documented bound, to the second
				})
				w.tenant.Advance(off)
				w.publishSingles(42, w.tenant.Now().Add(-7*oneDay+20*time.Minute), 4*time.Hour)
				p := w.process()
				for range 15 {
					w.publishSingles(1, w.tenant.Now().Add(-time.Minute), 0)
					p.mustTick()
					for _, f := range w.compare(nil).Faults {
						t.Errorf("the service's clock is ahead by %v: %s", off, f)
					}
					w.later(5 * time.Minute)
				}
				w.close()
			}

			p := s.process()
			p.mustTick()
			mark := s.head().ListedTo.Time
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Status: 400, Code: "AF20055", Message: "The window is out of range."})
			for range 30 { // longer than the overlap
				s.later(5 * time.Minute)
				s.publishSingles(1, time.Now().Add(-time.Minute), 0)
				if err := p.tick(); activity.KindOf(err) != activity.BadRequest {
					t.Errorf("tick: %v, want a bad request", err)
				}
			}
			s.markNotPast(mark)
			refused.Remove()
			p.mustTick()
			s.reconciled(nil)
		},
	},
}

// head is the head of Audit.General as Cosmos DB holds it.
func (s *system) head() (h ledger.Head) {
	s.t.Helper()
	for _, d := range s.account.Documents("ArchiveState") {
		var doc ledger.Head
		if err := json.Unmarshal(d.Body, &doc); err == nil && doc.Kind == "head" && doc.ContentType == general {
			h = doc
		}
	}
	return h
}

// markNotPast checks that the mark is not past t.
func (s *system) markNotPast(t time.Time) {
	s.t.Helper()
	if h := s.head(); h.ListedTo.After(t) {
		s.t.Errorf("the mark is at %v, past %v, which was not listed", h.ListedTo, t)
	}
}

// unlisted is the set of contents that are not in the ledger.
func (s *system) unlisted() map[string]bool {
	s.t.Helper()
	all := map[string]bool{}
	for _, c := range s.tenant.Contents() {
		all[c.ID] = true
	}
	for _, e := range s.entries() {
		delete(all, e.ContentID)
	}
	return all
}

// markHolds checks the promise of the mark: all that was created before it is in
// the ledger.
func (s *system) markHolds() {
	s.t.Helper()
	mark, unlisted := s.head().ListedTo, s.unlisted()
	for _, c := range s.tenant.Contents() {
		if unlisted[c.ID] && c.Created.Before(mark.Time) {
			s.t.Errorf("content %s was created %v, before the mark %v, and is not in the ledger", c.ID, c.Created, mark)
		}
	}
}

// foundWithin checks how long after they were visible the contents were found:
// soon if they were no later than the overlap, else within a day.
func (s *system) foundWithin(overlap, soon, eventually time.Duration) {
	s.t.Helper()
	found := map[string]time.Time{}
	for _, e := range s.entries() {
		found[e.ContentID] = e.FoundAt.Time
	}
	slow := map[time.Duration]int{}
	for _, c := range s.tenant.Contents() {
		late, limit := c.Visible.Sub(c.Created), eventually
		if late < overlap {
			limit = soon
		}
		if at, ok := found[c.ID]; ok && at.Sub(c.Visible) > limit {
			slow[late]++
		}
	}
	for _, late := range slices.Sorted(maps.Keys(slow)) {
		s.t.Errorf("%d contents that came %v late were found too late", slow[late], late)
	}
}
