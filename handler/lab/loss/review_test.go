package loss_test

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"activityarchive/handler/collect"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

const day = 24 * time.Hour

// reviewRows are defects that this product had itself.
var reviewRows = []row{
	{
		name: "X-record-403", what: "something before Cosmos DB that refuses one record ends every run, and the backlog expires behind it",
		test: func(t *testing.T, s *system) {
			bad := s.tenant.Publish(general, time.Now().Add(-2*time.Hour), rec(0, `,"x":"blocked"`))
			for i := range 30 { // some of them of that record's user, in the same hour
				s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(7*i+7, 7)...)
			}
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if c.Container == "Audits" && bytes.Contains(c.Body, []byte("blocked")) {
						return &cosmosfake.Fault{Status: http.StatusForbidden, Body: "<html>blocked</html>"}
					}
					return nil
				}
			})
			p := s.process()
			p.mustTick()
			s.reconciledBut(map[string]bool{bad.ID: true})
			if reason := s.entryOf(bad.ID).Reason; !strings.Contains(reason, "firewall") {
				t.Errorf("the reason %q does not tell where to look", reason)
			}
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = nil })
			s.later(5 * time.Minute)
			p.ticks(2)
			s.reconciled(nil)
			s.counted(1+30*7, 0, 0)
		},
	},
	{
		name: "X-type-refused", what: "a content type whose contents are refused keeps those of others from being collected, until they are lost",
		set: func(o *options) { o.types = []string{general, "DLP.All"} },
		test: func(t *testing.T, s *system) {
			const backlog = 60
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: "dlp_all", Status: 401, Code: "AF10001", Message: "The token lacks a permission."})
			s.tenant.Tune(func(k *tenant.Knobs) { k.TokenRoles = []string{"ActivityFeed.Read", "ActivityFeed.ReadDlp"} })
			missing := map[string]bool{}
			for i := range backlog { // older, so that it comes first
				c := s.tenant.Publish("DLP.All", time.Now().Add(-30*time.Hour-time.Duration(i)*time.Second), rec(10_000+i, ""))
				missing[c.ID] = true
			}
			for i := range 20 {
				s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*10, 3)...)
			}
			p := s.process()
			p.mustTick()
			s.reconciledBut(missing)
			if n := refused.Hits(); n >= backlog/2 {
				t.Errorf("%d of the %d contents were tried in one tick, although the service refuses them all", n, backlog)
			}
			refused.Remove()
			s.later(time.Hour)
			p.ticks(2)
			s.reconciled(nil)
			s.counted(20*3+backlog, 0, 0)
		},
	},
	{
		name: "X-sweep-window", what: "while one window cannot be listed nothing is found that becomes visible late in any other",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			mark := s.head().ListedTo.Time
			late := s.tenant.Add(tenant.Content{
				Type: general, Created: dawn.Add(-6*day + 2*time.Hour), Visible: dawn.Add(time.Hour), Ends: dawn.Add(30 * day), Records: slices.Values(recs(1, 5)),
			})
			window := s.tenant.Inject(tenant.Rule{
				Op: tenant.OpContent, Path: "startTime=" + url.QueryEscape(mark.Format("2006-01-02T15:04:05")), Status: 500, Code: "AF50000", Message: "An internal error occurred.",
			})
			for range 5 {
				s.later(3 * time.Hour)
				_ = p.tick() // fails, for the window
				s.marked()
			}
			if window.Hits() == 0 {
				t.Error("the window was not asked for, which shows nothing")
			}
			if state := s.entryOf(late.ID).State; state != ledger.Stored {
				t.Errorf("14 hours after it became visible the late content is %q", state)
			}
			s.markNotPast(mark)
			window.Remove()
			p.ticks(2)
			s.reconciled(nil)
			s.counted(5, 0, 0)
		},
	},
	{
		name: "X-framing-large", what: "a broken bracket inside of an element too large to be held is never settled, and the content lost",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			good, rest := recs(1, 5), `{"a":"`+strings.Repeat("x", 2_200_000)+`"],`+string(rec(900, ""))+`]`
			c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Body: bodyOf(good, rest)})
			p := s.process()
			p.mustTick()
			if state, left := s.entryOf(c.ID).State, len(s.letter(c)); state != ledger.Pending || left == 0 {
				t.Errorf("after one try the content is %s, and %d chunks of a letter are there; want it open, and some", state, left)
			}
			s.later(5 * time.Minute)
			p.ticks(2)
			s.reconciledParts(c, good, rest)
			s.wholeLetter(c, rest)
			s.counted(5, 0, 1)
		},
	},
	{
		name: "X-cut-large", what: "a body that for ever ends inside of an element too large to be held is never settled, and the content lost",
		set: shortStart,
		test: func(t *testing.T, s *system) {
			good, rest := recs(1, 5), `{"a":"`+strings.Repeat("x", 2_200_000)
			c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Ends: time.Now().Add(30 * day), Body: bodyOf(good, rest)})
			p := s.process()
			p.ticks(2)
			if state, left := s.entryOf(c.ID).State, len(s.letter(c)); state != ledger.Pending || left == 0 {
				t.Errorf("after ten minutes the content is %s, and %d chunks of a letter are there; want it open, and some", state, left)
			}
			s.later(6 * day)
			p.ticks(13) // twice more, and the entry's waits have grown
			s.reconciledParts(c, good, rest)
			s.wholeLetter(c, rest)
			s.counted(5, 0, 1)
		},
	},
	{
		name: "X-store-late", what: "a day of failing to store counts as a day of failing to fetch, and content that the service still has is called lost",
		test: func(t *testing.T, s *system) {
			for i := range 10 {
				s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Ends: time.Now().Add(30 * day), Records: slices.Values(recs(i*10, 3))})
			}
			s.account.Inject(cosmosfake.Rule{
				Container: "Audits", Times: cosmosfake.Always, Kinds: []cosmosfake.Kind{cosmosfake.Batch, cosmosfake.Create},
				Fault: cosmosfake.Fault{Status: http.StatusServiceUnavailable},
			})
			p := s.process()
			p.ticks(2)
			s.later(8*day + time.Hour)
			for range 7 {
				_ = p.tick() // stores nothing
				s.later(4 * time.Hour)
			}
			s.account.Recover()
			fails := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Status: http.StatusServiceUnavailable})
			_ = p.tick()
			fails.Remove()
			if _, states := s.counts(); states[ledger.Pending] != 10 {
				t.Errorf("the entries are %v, want all open", states)
			}
			s.later(2 * time.Hour)
			s.process().ticks(2)
			s.reconciled(nil)
		},
	},
	{
		name: "X-unrefused", what: "content that was never asked for, or that the service served all the time, is called lost at the first failure after its life",
		test: func(t *testing.T, s *system) {
			for i := range 10 {
				s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Ends: time.Now().Add(30 * day), Records: slices.Values(recs(i*10, 3))})
			}
			down := cosmosfake.Rule{Container: "Audits", Times: cosmosfake.Always, Kinds: []cosmosfake.Kind{cosmosfake.Batch, cosmosfake.Create}, Fault: cosmosfake.Fault{Status: http.StatusServiceUnavailable}}
			s.account.Inject(down)
			p := s.process()
			p.ticks(2)
			s.account.Recover()
			p.kill()
			s.later(8*day + time.Hour)
			open := func(what string) {
				t.Helper()
				_ = s.process().tick() // fails or not
				if _, states := s.counts(); states[ledger.Pending] != 10 {
					t.Errorf("%s: the entries are %v, want all open", what, states)
				}
				s.later(time.Hour)
			}
			s.tenant.Tune(func(k *tenant.Knobs) { k.TokenError = "7000222" })
			open("the secret has expired")
			s.tenant.Tune(func(k *tenant.Knobs) { k.TokenError = "" })
			fails := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Status: http.StatusServiceUnavailable})
			open("the service fails")
			fails.Remove()
			s.account.Inject(down)
			for range 6 { // longer than failures of the service would be borne
				open("records cannot be written")
				s.later(4 * time.Hour)
			}
			s.account.Recover()
			s.process().ticks(2)
			s.reconciled(nil)
			s.counted(30, 0, 0)
		},
	},
	{
		name: "X-clock-unknown", what: "while the service does not answer, the machine's own clock decides that contents are lost",
		test: func(t *testing.T, s *system) {
			s.tenant.Advance(-9 * day) // so far is our clock ahead
			for i := range 10 {
				s.tenant.Publish(general, s.tenant.Now().Add(-time.Duration(i+1)*time.Hour), recs(i*10, 3)...)
			}
			in := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Status: http.StatusServiceUnavailable})
			p := s.process()
			_ = p.tick()
			in.Remove()
			p.kill()
			var down []*tenant.Injected
			for _, op := range []tenant.Op{tenant.OpAudit, tenant.OpContent, tenant.OpSubscriptions, tenant.OpStart} {
				down = append(down, s.tenant.Inject(tenant.Rule{Op: op, Status: http.StatusServiceUnavailable}))
			}
			s.later(15 * time.Minute)
			q := s.process()
			for range 7 { // longer than failures of the service would be borne
				_ = q.tick()
				s.later(4 * time.Hour)
			}
			s.allPending()
			for _, e := range s.entries() {
				if e.Attempts < 5 {
					t.Errorf("a content was tried %d times, which shows nothing", e.Attempts)
				}
			}
			for _, in := range down {
				in.Remove()
			}
			q.ticks(15)
			s.reconciled(nil)
			s.counted(30, 0, 0)
		},
	},
	{
		name: "X-date-once", what: "one answer with a wrong Date moves the clock, and what the service refuses just then is lost",
		test: func(t *testing.T, s *system) {
			c := s.tenant.Publish(general, time.Now().Add(-5*day), recs(1, 3)...)
			ahead := http.Header{"Date": {time.Now().Add(3 * day).UTC().Format(http.TimeFormat)}}
			wrong := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Status: http.StatusNotFound, Code: "AF20050", Message: "There is no such content.", Header: ahead})
			p := s.process()
			p.mustTick()
			if state := s.entryOf(c.ID).State; wrong.Hits() != 1 || state != ledger.Pending {
				t.Errorf("after %d wrong answers the content is %q", wrong.Hits(), state)
			}
			s.later(5 * time.Minute)
			p.ticks(2)
			s.reconciled(nil)
		},
	},
	{
		name: "X-date-ahead", what: "after an hour with a wrong Date nothing is listed again, and nothing tried again, until that date has come",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			s.later(13 * time.Hour) // so that all is listed again, by the wrong clock
			c := s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(1, 5)...)
			fails := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: http.StatusInternalServerError})
			s.tenant.Tune(func(k *tenant.Knobs) { k.DateSkew = 3 * day })
			_ = p.tick()
			s.tenant.Tune(func(k *tenant.Knobs) { k.DateSkew = 0 })
			fails.Remove()
			if due := s.entryOf(c.ID).Due; fails.Hits() == 0 || due.Before(time.Now().Add(2*day)) {
				t.Errorf("after %d failures the content is due at %v, which shows nothing", fails.Hits(), due)
			}
			s.later(5 * time.Minute)
			p.mustTick()
			if state := s.entryOf(c.ID).State; state != ledger.Stored {
				t.Errorf("five minutes after the clock was right again the content is %q", state)
			}
			late := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-5 * day), Visible: time.Now().Add(time.Hour), Records: slices.Values(recs(10, 5))})
			for range 14 {
				s.later(time.Hour)
				_ = p.tick()
			}
			if state := s.entryOf(late.ID).State; state != ledger.Stored {
				t.Errorf("13 hours after it became visible the late content is %q", state)
			}
			s.marked()
			s.reconciled(nil)
			s.counted(10, 0, 0)
		},
	},
	{name: "X-confirmed-meanwhile", what: "what a listing says of a content is undone by the collector that works on it", test: confirmedMeanwhile},
	{
		name: "X-container-anew", what: "a container that is made anew with the other key turns every record into a dead letter",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			s.dropArchive()
			if err := s.account.Provision("Audit", "Audits", "/UserId"); err != nil {
				t.Fatal(err)
			}
			s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 40)...)
			s.later(5 * time.Minute)
			if err := p.tick(); err == nil || !strings.Contains(err.Error(), "partition key") {
				t.Errorf("tick = %v, want an error that names the partition key", err)
			}
			s.counted(0, 0, 0)
			s.later(5 * time.Minute)
			p.ticks(2)
			s.reconciled(nil)
			s.counted(40, 0, 0)
		},
	},
	{
		name: "X-operation-403", what: "a batch whose operation is refused for a passing reason is taken for a full partition",
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(0, 21)...)
			for _, sub := range []int{3, 5300} { // a region that moved; no permission
				s.account.Inject(cosmosfake.Rule{
					Container: "Audits", Times: 3, Kinds: []cosmosfake.Kind{cosmosfake.Batch},
					Fault: cosmosfake.Fault{Status: http.StatusForbidden, SubStatus: sub, Operation: 1},
				})
			}
			s.process().ticks(3)
			s.reconciled(nil)
			s.counted(21, 0, 0)
		},
	},
	{
		name: "X-full-known", what: "records that are archived become dead letters when they come again after their partition is full",
		test: func(t *testing.T, s *system) {
			same := oneUser(0, 5)
			s.tenant.Publish(general, time.Now().Add(-time.Minute), same...)
			p := s.process()
			p.ticks(2)
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = fullFor("") })
			s.tenant.Publish(general, time.Now().Add(-time.Minute), same...)
			p.ticks(2)
			s.reconciled(nil)
			s.counted(5, 5, 0)
		},
	},
	{
		name: "X-undated", what: "a notification without contentCreated gets an entry beside the one that a listing makes: a dead letter comes twice",
		set: func(o *options) {
			o.webhook = true
			o.knobs.NotifyEdit = func(item map[string]any) { delete(item, "contentCreated") }
		},
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-11 * time.Hour), Visible: time.Now().Add(time.Second), Records: slices.Values(append(recs(1, 3), noRecords[0]))})
			s.later(time.Minute)
			s.later(time.Minute) // for what was told to be collected
			if n := len(s.tenant.Deliveries()); n == 0 || len(s.entries()) != 0 {
				t.Errorf("after %d notifications there are %d entries, want none", n, len(s.entries()))
			}
			s.later(13 * time.Hour) // all is listed again
			p.ticks(3)
			s.reconciled(refusing(noRecords))
			s.counted(3, 0, 1)
			if e := s.entryOf(c.ID); len(s.entries()) != 1 || e.Found != ledger.ByListing {
				t.Errorf("%d entries, and the content was found by %q", len(s.entries()), e.Found)
			}
		},
	},
	{
		name: "X-twin-ids", what: "a record that is refused takes its archived twin out of the list of ids",
		test: func(t *testing.T, s *system) {
			stored, dead := odd(1, guidOf(1), `"user001@harbor.example"`), odd(1, guidOf(1), `"user002@harbor.example"`)
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = fullFor("user002@") })
			for _, list := range [][]json.RawMessage{{stored, dead}, {dead, stored}} { // in either order
				s.tenant.Publish(general, time.Now().Add(-time.Minute), list...)
			}
			s.process().ticks(2)
			s.counted(1, 1, 2)
			for _, e := range s.entries() {
				if got, want := e.IDs.All(), []string{strings.Trim(guidOf(1), `"`)}; !slices.Equal(got, want) {
					t.Errorf("the ledger names the records %q, want %q", got, want)
				}
			}
		},
	},
}

// fullFor answers writes of records, of users with that in their name, as a
// partition that has reached its 20 GB.
func fullFor(user string) func(cosmosfake.Call) *cosmosfake.Fault {
	return func(c cosmosfake.Call) *cosmosfake.Fault {
		if c.Container == "Audits" && (c.Kind == cosmosfake.Create || c.Kind == cosmosfake.Batch) && strings.Contains(c.Key, user) {
			return &cosmosfake.Fault{Status: http.StatusForbidden, SubStatus: 1014}
		}
		return nil
	}
}

// confirmedMeanwhile lets a listing confirm three contents while a collector
// waits for them: one that it will store from a wrong address, one that it will
// fail on at a wrong address, and one that it will fail on at the right one.
func confirmedMeanwhile(t *testing.T, s *system) {
	p, q := s.process(), s.process()
	p.mustTick()
	var list []tenant.Content
	for i := range 5 {
		list = append(list, s.tenant.Add(tenant.Content{
			Type: general, Created: time.Now(), Expires: time.Now().Add(20 * day), Records: slices.Values(recs(i*10, 3)),
		}))
	}
	// The last two are in no notification: theirs are the wrong addresses.
	for i, uri := range []string{list[3].URI, list[4].URI, list[2].URI} {
		e := ledger.NewEntry(general, list[i].ID, uri, list[i].Created, time.Time{}, ledger.ByWebhook, time.Now().Add(-ledger.Claim))
		if _, err := p.ledger.Record(t.Context(), []ledger.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	slow := []*tenant.Injected{s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: list[3].ID, Times: 1, Delay: 20 * time.Second})}
	for _, c := range []tenant.Content{list[4], list[2]} {
		slow = append(slow, s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 1, Delay: 20 * time.Second, Status: http.StatusNotFound, Code: "AF20050", Message: "There is no such content."}))
	}
	s.later(time.Second)
	var working sync.WaitGroup
	working.Go(func() {
		if err := p.timer.Collector.Work(t.Context(), &collect.Tally{}); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(5 * time.Second)
	for i, in := range slow {
		if in.Hits() != 1 {
			t.Errorf("content %d is asked for %d times, want it to be under way", i, in.Hits())
		}
	}
	if err := q.catchUp(&collect.Tally{}); err != nil {
		t.Error(err)
	}
	working.Wait()
	said := func() {
		t.Helper()
		for _, c := range list[:3] {
			e := s.entryOf(c.ID)
			if e.ContentURI != c.URI || e.Found != ledger.ByListing || e.Expires != ledger.At(c.Expires) {
				t.Errorf("entry of %s: contentUri %s, found by %s, expires %s; the listing said %s and %s", c.ID, e.ContentURI, e.Found, e.Expires, c.URI, c.Expires)
			}
		}
	}
	said()
	if state := s.entryOf(list[0].ID).State; state != ledger.Pending {
		t.Errorf("a content that was collected from a wrong address is %s", state)
	}
	s.later(5 * time.Minute)
	q.ticks(2)
	said()
	s.reconciledSwapped(list[3])
	s.counted(12, 3, 0)
}

// reconciledSwapped is reconciled where the records of some contents were stored
// through the address of another, whose entry they name for ever.
func (s *system) reconciledSwapped(contents ...tenant.Content) {
	s.t.Helper()
	for _, f := range s.compare(nil).Faults {
		if f.What == reconcile.Altered && strings.HasPrefix(f.Detail, "archive.content names none") &&
			slices.ContainsFunc(contents, func(c tenant.Content) bool { return c.ID == f.ContentID }) {
			continue
		}
		s.t.Errorf("%s", f)
	}
	s.listsIDs()
}

// dropArchive deletes the container of records, which takes the account key.
func (s *system) dropArchive() {
	s.t.Helper()
	key, err := base64.StdEncoding.DecodeString(accountKey)
	if err != nil {
		s.t.Fatal(err)
	}
	date := time.Now().UTC().Format(http.TimeFormat)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "delete\ncolls\ndbs/Audit/colls/Audits\n%s\n\n", strings.ToLower(date))
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodDelete, "https://fake.documents.example/dbs/Audit/colls/Audits", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", url.QueryEscape("type=master&ver=1.0&sig="+base64.StdEncoding.EncodeToString(mac.Sum(nil))))
	req.Header.Set("x-ms-date", date)
	req.Header.Set("x-ms-version", "2020-11-05")
	resp, err := s.account.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		s.t.Fatalf("the container is not deleted: %s", resp.Status)
	}
}

// chunk is a document of a dead letter.
type chunk struct {
	Kind, ContentID string
	Element, Chunk  int
	Last            bool
	Data            []byte
}

// letter returns the chunks of a content's dead letters, in order.
func (s *system) letter(c tenant.Content) (list []chunk) {
	s.t.Helper()
	for _, d := range s.account.Documents("ArchiveState") {
		var l chunk
		if err := json.Unmarshal(d.Body, &l); err != nil {
			s.t.Fatal(err)
		}
		if l.Kind == "dead" && l.ContentID == c.ID {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b chunk) int { return cmp.Or(cmp.Compare(a.Element, b.Element), cmp.Compare(a.Chunk, b.Chunk)) })
	return list
}

// wholeLetter fails the test unless a content has one dead letter, with exactly
// that text, and nothing else was left by an earlier try.
func (s *system) wholeLetter(c tenant.Content, text string) {
	s.t.Helper()
	var got []byte
	list := s.letter(c)
	for i, l := range list {
		if l.Element != list[0].Element || l.Chunk != i || l.Last != (i == len(list)-1) {
			s.t.Errorf("chunk %d of %d is number %d of element %d, last: %v", i, len(list), l.Chunk, l.Element, l.Last)
		}
		got = append(got, l.Data...)
	}
	if string(got) != text {
		s.t.Errorf("the dead letter has %d bytes that are not the %d expected", len(got), len(text))
	}
}

// listsIDs fails the test unless the ledger names, for each content that is
// stored, exactly those of its records that are in the archive.
func (s *system) listsIDs() {
	s.t.Helper()
	archived := map[string]string{} // id by hash of the text
	for _, d := range s.account.Documents("Audits") {
		var archive struct{ SHA256 string }
		if err := unmarshalExact(d.Body, "archive", &archive); err != nil {
			s.t.Fatal(err)
		}
		archived[archive.SHA256] = d.ID
	}
	want := map[string]map[string]bool{} // by content
	for c, raw := range s.tenant.Records() {
		if want[c.ID] == nil {
			want[c.ID] = map[string]bool{}
		}
		if archivedAs, ok := archived[hashOf(raw)]; ok {
			want[c.ID][archivedAs] = true
		}
	}
	chunks := map[string][]string{} // by entry
	parts := map[string]int{}
	for _, d := range s.account.Documents("ArchiveState") {
		if !bytes.Contains(d.Body, []byte(`"kind":"ids"`)) {
			continue
		}
		var doc struct {
			Content string
			IDs     ledger.IDs
		}
		if err := json.Unmarshal(d.Body, &doc); err != nil {
			s.t.Fatal(err)
		}
		chunks[doc.Content] = append(chunks[doc.Content], doc.IDs.All()...)
		parts[doc.Content]++
	}
	for _, e := range s.entries() {
		if e.State != ledger.Stored {
			continue
		}
		if parts[e.ID] != e.IDChunks {
			s.t.Errorf("content %s has %d documents of ids, and its entry says %d", e.ContentID, parts[e.ID], e.IDChunks)
		}
		named := map[string]bool{}
		for _, id := range slices.Concat(e.IDs.All(), chunks[e.ID]) {
			named[id] = true
			if !want[e.ContentID][id] {
				s.t.Errorf("the ledger names the record %s for content %s, which does not hold it", id, e.ContentID)
			}
		}
		for id := range want[e.ContentID] {
			if !named[id] {
				s.t.Errorf("the ledger does not name the record %s of content %s, which is archived", id, e.ContentID)
			}
		}
	}
}
