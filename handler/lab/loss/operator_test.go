package loss_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/collect"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

// operatorRows are what a person must be able to see, and to have repaired.
var operatorRows = []row{
	{
		name: "X-deleted-record", what: "a record that is deleted by hand is not missed by anyone",
		test: func(t *testing.T, s *system) {
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 20)...)
			twin := s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(15, 10)...) // five duplicates
			p := s.process()
			p.ticks(2)
			s.lacks(p, c.Created) // nothing
			sum, _ := s.counts()
			if sum.Stored != 25 || sum.Duplicate != 5 {
				t.Fatalf("counts %+v, want 25 stored and 5 duplicates", sum)
			}
			gone, doubled := "00000000-0000-4000-8000-000000000003", "00000000-0000-4000-8000-000000000017"
			s.removeID("Audits", gone)
			s.removeID("Audits", doubled)
			// A record in two contents is missed by both, whoever brought it.
			want := []string{absent(c, gone), absent(c, doubled), absent(twin, doubled)}
			s.lacks(p, c.Created, want...)
			// A person knows of one of them.
			s.acknowledge(p, ledger.AckRecord(gone))
			s.lacks(p, c.Created, absent(c, gone)+" known", want[1], want[2])
			s.reopen(p, c, twin)
			s.reopen(p, c, twin) // twice does no harm
			p.ticks(1)
			s.lacks(p, c.Created)
			s.reconciled(nil)
			if sum, _ := s.counts(); sum.Stored != 25 || sum.Duplicate != 5 {
				t.Errorf("counts after it was collected again %+v, want 25 stored and 5 duplicates", sum)
			}
		},
	},
	{
		name: "X-deleted-after-expiry", what: "what is deleted when the service has it no more cannot even be named, and asking again writes it off",
		test: func(t *testing.T, s *system) {
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 12)...)
			p := s.process()
			p.ticks(1)
			for range 10 {
				s.later(day)
				p.mustTick()
			}
			s.removeID("Audits", "00000000-0000-4000-8000-000000000004")
			want := absent(c, "00000000-0000-4000-8000-000000000004")
			r := s.lacks(p, c.Created, want)
			if r.Records != 12 || r.Found != 11 || r.Listed != 0 {
				t.Errorf("report %+v, want 11 of 12 records found and nothing listed", r)
			}
			s.reopen(p, c)
			p.ticks(1)
			if e := s.entryOf(c.ID); e.State != ledger.Stored || e.Again || e.Open != 0 || e.Stored != 12 || !strings.Contains(e.Reason, "in vain") {
				t.Errorf("collected again after its time: %+v, want it stored as before, with the reason", e)
			}
			s.lacks(p, c.Created, want)
			s.acknowledge(p, ledger.AckContent(general, c.ID))
			s.lacks(p, c.Created, want+" known")
		},
	},
	{
		name: "X-deleted-ids", what: "without the list of its record ids a content is taken for complete",
		test: func(t *testing.T, s *system) {
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 1200)...)
			p := s.process()
			p.ticks(1)
			s.lacks(p, c.Created)
			s.removeID("Audits", "00000000-0000-4000-8000-000000001000")
			s.lacks(p, c.Created, absent(c, "00000000-0000-4000-8000-000000001000"))
			e := s.entryOf(c.ID)
			for _, d := range s.account.Documents("ArchiveState") {
				if strings.Contains(string(d.Body), `"kind":"ids"`) {
					s.removeFrom("ArchiveState", d)
				}
			}
			if e.IDChunks != 1 {
				t.Fatalf("the content has %d documents of ids, want 1", e.IDChunks)
			}
			s.lacks(p, c.Created, "missing record ids "+c.ID)
			s.reopen(p, c)
			p.ticks(1)
			s.lacks(p, c.Created)
			s.reconciled(nil)
		},
	},
	{
		name: "X-deleted-letter", what: "a dead letter that is deleted leaves no trace",
		test: func(t *testing.T, s *system) {
			first := recs(0, 3)
			second := rec(1, `,"Other":true`) // the Id of another record
			a := s.tenant.Publish(general, time.Now().Add(-time.Minute), first...)
			p := s.process()
			p.ticks(1)
			b := s.tenant.Publish(general, time.Now().Add(-time.Minute), second)
			p.ticks(1)
			letter := fmt.Sprintf("dead letter %s 00000000-0000-4000-8000-000000000001", b.ID)
			s.lacks(p, a.Created, letter)
			s.acknowledge(p, ledger.AckContent(general, b.ID))
			s.lacks(p, a.Created, letter+" known")
			for _, d := range s.account.Documents("ArchiveState") {
				if strings.Contains(string(d.Body), `"kind":"dead"`) {
					s.removeFrom("ArchiveState", d)
				}
			}
			s.lacks(p, a.Created, "missing dead letter "+b.ID+" known")
			s.reopen(p, b)
			p.ticks(1)
			s.lacks(p, a.Created, letter+" known")
			// The record in its way is taken out on purpose: now there is room.
			s.removeID("Audits", "00000000-0000-4000-8000-000000000001")
			s.reopen(p, b)
			p.ticks(1)
			s.lacks(p, a.Created)
		},
	},
	{
		name: "X-deleted-entry", what: "a content whose entry is deleted is not found again for half a day, and nobody is told",
		test: func(t *testing.T, s *system) {
			c := s.tenant.Publish(general, time.Now().Add(-5*time.Hour), recs(0, 5)...)
			p := s.process()
			p.ticks(1)
			fresh := s.tenant.Publish(general, time.Now(), recs(10, 5)...)
			s.later(time.Second)
			if r := s.lacks(p, c.Created); r.New != 1 || r.Listed != 2 {
				t.Errorf("report %+v, want 2 listed and one that the next tick finds: %s", r, fresh.ID)
			}
			p.ticks(1)
			s.removeID("ArchiveState", s.entryOf(c.ID).ID)
			s.lacks(p, c.Created, "missing content "+c.ID)
			now := time.Now()
			backfill := func(from, to time.Time) error {
				_, err := p.timer.Collector.Backfill(t.Context(), general, from, to, now)
				return err
			}
			if err := backfill(now.Add(-8*day), now); err == nil || !strings.Contains(err.Error(), "seven days") {
				t.Errorf("backfill from eight days ago = %v, want an error with the reason", err)
			}
			if err := backfill(now.Add(time.Hour), now.Add(2*time.Hour)); err == nil {
				t.Error("backfill of the future is no error")
			}
			for range 2 {
				if err := backfill(now.Add(-6*time.Hour), now.Add(-4*time.Hour)); err != nil {
					t.Error(err)
				}
			}
			p.ticks(1)
			s.lacks(p, c.Created)
			s.reconciled(nil)
			if h := s.head(); !h.BackfillFrom.IsZero() || !h.BackfillTo.IsZero() {
				t.Errorf("the head still wants %s to %s listed", h.BackfillFrom, h.BackfillTo)
			}
		},
	},
	{
		name: "X-lost-named", what: "what is lost or was never listed is named once, in a log that nobody keeps",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			c := s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: http.StatusNotFound, Code: "AF20050", Message: "gone"})
			s.later(5 * time.Minute)
			for range 10 {
				_ = p.tick()
				s.later(day)
			}
			s.lacks(p, c.Created, "lost content "+c.ID)
			s.acknowledge(p, ledger.AckContent(general, c.ID))
			s.lacks(p, c.Created, "lost content "+c.ID+" known")
			s.reopen(p, c)
			p.mustTick()
			s.lacks(p, c.Created, "lost content "+c.ID+" known")
			// A collector that stands still for nine days has a gap.
			began := time.Now()
			s.later(9 * day)
			_ = p.tick()
			s.lacks(p, began.Add(day), "gap ")
			s.acknowledge(p, ledger.AckGap(general, began.Add(day).Format(time.DateOnly)))
			s.lacks(p, began.Add(day), "gap  known")
		},
	},
	{
		name: "X-repair-killed", what: "a process that is killed while it repairs, or two that repair at once, leave the ledger worse than it was",
		test: everyBoundary(nil, func(s *system) {
			a := s.tenant.Publish(general, time.Now().Add(-3*time.Hour), recs(100, 4)...)
			b := s.tenant.Publish(general, time.Now().Add(-2*time.Hour), recs(110, 4)...)
			p := s.process()
			p.ticks(1)
			s.removeID("Audits", "00000000-0000-4000-8000-000000000102")
			s.removeID("ArchiveState", s.entryOf(b.ID).ID)
			s.reopen(p, a)
			if _, err := p.timer.Collector.Backfill(s.t.Context(), general, time.Now().Add(-4*time.Hour), time.Now(), time.Now()); err != nil {
				s.t.Error(err)
			}
		}, anyWrite, func(s *system) {
			s.reconciled(nil)
			if h := s.head(); !h.BackfillTo.IsZero() {
				s.t.Errorf("the head still wants %s to %s listed", h.BackfillFrom, h.BackfillTo)
			}
		}),
	},
	{
		name: "X-repair-while-working", what: "contents that are opened again while they are collected are lost, doubled or left open",
		test: func(t *testing.T, s *system) {
			a, b := s.process(), s.process()
			a.ticks(1) // there is a head, and the subscription is started
			var contents []tenant.Content
			for i := range 30 {
				contents = append(contents, s.tenant.Publish(general, time.Now().Add(-time.Duration(i)*10*time.Minute), recs(i*4, 6)...)) // two of them twice
			}
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Latency = 15 * time.Millisecond })
			now := time.Now()
			var repairs sync.WaitGroup
			for _, p := range []*process{a, b} {
				repairs.Go(func() {
					for i := range 40 {
						time.Sleep(100 * time.Millisecond)
						if i == 5 || i == 20 {
							if _, err := p.timer.Collector.Backfill(context.Background(), general, now.Add(-time.Duration(i)*time.Hour), now, now); err != nil {
								t.Error(err)
							}
						}
						for e, err := range p.ledger.Day(context.Background(), general, now) {
							if err != nil {
								t.Error(err)
								break
							}
							if _, err := p.ledger.Reopen(context.Background(), e.PK, []string{e.ID}); err != nil && cosmos.KindOf(err) != cosmos.Changed {
								t.Error(err)
							}
						}
					}
				})
			}
			for range 6 {
				s.both(a, b, (*process).tick)
			}
			repairs.Wait()
			again := 0
			for _, n := range s.fetches() {
				again += n - 1
			}
			if again < len(contents) {
				t.Errorf("%d contents were fetched again, which shows little", again)
			}
			s.later(10 * time.Minute)
			a.ticks(3)
			s.lacks(a, contents[0].Created)
			s.reconciled(nil)
			if sum, states := s.counts(); sum.Stored != 122 || sum.Duplicate != 58 || states[ledger.Stored] != 30 {
				t.Errorf("counts %+v, states %v; want 122 stored, 58 duplicates, 30 contents", sum, states)
			}
		},
	},
	{
		name: "X-start-at-once", what: "two instances that note the same start call in the same millisecond both take the note for their own",
		test: func(t *testing.T, s *system) {
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Latency = 15 * time.Millisecond })
			s.both(s.process(), s.process(), (*process).tick)
			s.process().ticks(1) // the rules of the API are checked at the end
		},
	},
	{
		name: "X-repair-paged", what: "a check that is answered in small, empty or failing pages takes what is there for missing",
		test: func(t *testing.T, s *system) {
			var last tenant.Content
			for i := range 120 {
				last = s.tenant.Publish(general, time.Now().Add(-time.Duration(i)*time.Second), recs(i*10, 3)...)
			}
			p := s.process()
			p.ticks(2)
			s.account.Set(func(sw *cosmosfake.Switches) { sw.PageSize, sw.EmptyPages, sw.Hook = 7, true, everyFifthQuery })
			s.removeID("Audits", "00000000-0000-4000-8000-000000001191")
			r := s.lacks(p, last.Created, absent(last, "00000000-0000-4000-8000-000000001191"))
			if r.Contents != 120 || r.Records != 360 || r.Found != 359 || r.Listed != 120 {
				t.Errorf("report %+v, want 120 contents, 359 of 360 records found", r)
			}
		},
	},
}

// everyFifthQuery fails for a passing reason.
func everyFifthQuery(c cosmosfake.Call) *cosmosfake.Fault {
	if c.Kind == cosmosfake.Query && c.N%5 == 0 {
		return &cosmosfake.Fault{Status: http.StatusServiceUnavailable}
	}
	return nil
}

// absent is how lacks writes a record that is missing.
func absent(c tenant.Content, id string) string { return "missing record " + c.ID + " " + id }

// lacks checks a day of Audit.General and what is found to be lacking: what it
// is, the contentId, the record's id if there is one, and " known" at the end if
// it is acknowledged.
func (s *system) lacks(p *process, day time.Time, want ...string) collect.Report {
	s.t.Helper()
	var got []string
	writes := s.writes()
	r, err := p.timer.Collector.Check(s.t.Context(), general, day, func(f collect.Finding) error {
		text := f.What + " " + f.ContentID
		if f.RecordID != "" {
			text += " " + f.RecordID
		}
		if f.Acknowledged != "" {
			text += " known"
		}
		got = append(got, text)
		return nil
	}, func(collect.Report) {})
	if err != nil || r.Unlisted != "" {
		s.t.Errorf("check: %v %s", err, r.Unlisted)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("what is lacking (-want +got):\n%s", diff)
	}
	known := 0
	for _, text := range want {
		if strings.HasSuffix(text, " known") {
			known++
		}
	}
	if r.Lacking() != len(want)-known || r.Acknowledged != known {
		s.t.Errorf("%d lacking, %d acknowledged, want %d and %d", r.Lacking(), r.Acknowledged, len(want)-known, known)
	}
	if n := s.writes(); n != writes {
		s.t.Errorf("the check has written %d times", n-writes)
	}
	return r
}

// writes counts what was asked of Cosmos DB that is no reading.
func (s *system) writes() (n int) {
	for _, kind := range []cosmosfake.Kind{cosmosfake.Create, cosmosfake.Replace, cosmosfake.Batch, cosmosfake.Upsert, cosmosfake.Delete, cosmosfake.CreateContainer} {
		for _, container := range []string{"Audits", "ArchiveState"} {
			n += s.account.Count(kind, container)
		}
	}
	return n
}

func (s *system) acknowledge(p *process, ack ledger.Ack) {
	s.t.Helper()
	for i := range 2 {
		n, err := p.ledger.Acknowledge(s.t.Context(), []ledger.Ack{ack}, fmt.Sprintf("taken out on purpose, ticket %d", i))
		if err != nil || n != 1-i {
			s.t.Errorf("acknowledge for the time %d: %d new, %v", i+1, n, err)
		}
	}
}

// reopen opens the entries of contents again.
func (s *system) reopen(p *process, contents ...tenant.Content) {
	s.t.Helper()
	for _, c := range contents {
		found, err := p.ledger.Find(s.t.Context(), []string{ledger.EntryID(c.Type, c.ID)})
		if err != nil || len(found) != 1 {
			s.t.Fatalf("find %s: %d entries, %v", c.ID, len(found), err)
		}
		if _, err := p.ledger.Reopen(s.t.Context(), found[0].PK, []string{found[0].ID}); err != nil {
			s.t.Error(err)
		}
	}
}

// removeID deletes the document of that id.
func (s *system) removeID(container, id string) {
	s.t.Helper()
	for _, d := range s.account.Documents(container) {
		if d.ID == id {
			s.removeFrom(container, d)
			return
		}
	}
	s.t.Fatalf("there is no document %s in %s", id, container)
}
