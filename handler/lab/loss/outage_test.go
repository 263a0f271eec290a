package loss_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var outageRows = []row{
	{name: "X-gone-AF20050", what: "an incident in which the service knows no content writes off a backlog", set: withWebhook, test: goneForTwoHours(404, "AF20050")},
	{name: "X-gone-AF20051", what: "an incident in which all content has expired writes off a backlog", set: withWebhook, test: goneForTwoHours(400, "AF20051")},
	{name: "X-gone-AF20052", what: "an incident in which no contentId is valid writes off a backlog", set: withWebhook, test: goneForTwoHours(400, "AF20052")},
	{name: "X-gone-404", what: "an incident in which all content is not found, by whatever stands before the service, writes off a backlog", set: withWebhook, test: goneForTwoHours(404, "")},
	{name: "X-expiry", what: "content that has expired is tried for ever, or ends without a word", test: expiry},
	{
		name: "X-listing-down", what: "two days without listings, while notifications go on, leave a hole where a notification was lost",
		set: func(o *options) { o.webhook, o.knobs.NotifyLoss = true, 0.25 },
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			down := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Status: 503})
			for i := range 48 { // an hour apart; twelve ticks an hour show nothing more
				s.tenant.Publish(general, time.Now(), recs(i*100, 3)...)
				s.later(30 * time.Minute)
				s.tenant.Publish(general, time.Now(), recs(i*100+50, 3)...)
				s.later(30 * time.Minute)
				if p.tick() == nil {
					t.Error("a tick that could list nothing ends well")
				}
				s.marked()
			}
			states := s.states()
			told := 0
			for _, d := range s.tenant.Deliveries() {
				for _, id := range d.ContentIDs {
					if told++; states[id] != ledger.Stored {
						t.Errorf("content %s was notified and is %q", id, states[id])
					}
				}
			}
			if told == 0 || told == 96 {
				t.Errorf("%d of 96 contents were notified, which shows nothing", told)
			}
			down.Remove()
			p.ticks(3)
			s.reconciled(nil)
			s.counted(96*3, 0, 0)
		},
	},
	{
		name: "X-notifications-down", what: "two days without notifications, while listings go on, leave a hole, or notifications never come back",
		set: withWebhook,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			s.door.set(nil)
			for i := range 48 { // an hour apart
				s.tenant.Publish(general, time.Now(), recs(i*100, 3)...)
				s.later(time.Hour)
				_ = p.tick() // a start call may be refused: the webhook cannot be validated
			}
			s.reconciled(nil)
			s.door.set(p.hook)
			p.ticks(8)
			before := len(s.tenant.Deliveries())
			c := s.tenant.Publish(general, time.Now(), recs(9000, 3)...)
			s.later(time.Minute)
			s.later(time.Minute) // for what was told to be collected
			after := s.tenant.Deliveries()[before:]
			if len(after) != 1 || after[0].Status != http.StatusOK || !slices.Contains(after[0].ContentIDs, c.ID) {
				t.Errorf("notifications after the outage: %+v", after)
			}
			s.reconciled(nil)
			s.counted(49*3, 0, 0)
		},
	},
	{
		name: "X-both-down", what: "six days without listings and notifications lose what came at their beginning",
		set: withWebhook,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			s.door.set(nil)
			down := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Status: 500})
			for i := range 6 * 24 {
				s.tenant.Publish(general, time.Now(), recs(i*100, 2)...)
				s.later(time.Hour)
				if i%4 == 0 && p.tick() == nil {
					t.Error("a tick that could list nothing ends well")
				}
				s.marked()
			}
			down.Remove()
			s.door.set(p.hook)
			p.ticks(3)
			s.reconciled(nil)
			s.counted(6*24*2, 0, 0)
		},
	},
	{
		name: "X-state-down", what: "the ledger cannot be written while records can: notifications are acknowledged in vain, records are stored twice",
		set: withWebhook,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			for i := range 5 {
				s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*100, 20)...)
			}
			// It begins in the middle of a tick: with the first record.
			var down atomic.Bool
			s.account.Set(func(sw *cosmosfake.Switches) {
				sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if c.Container == "Audits" {
						down.Store(true)
					}
					if down.Load() && c.Container == "ArchiveState" {
						return &cosmosfake.Fault{Status: http.StatusServiceUnavailable}
					}
					return nil
				}
			})
			s.duringOutage(p, func(p *process) {
				if p.tick() == nil {
					t.Error("a tick without a ledger ends well")
				}
			})
			sent := s.tenant.Deliveries()
			if len(sent) == 0 {
				t.Error("nothing was notified, which shows nothing")
			}
			for _, d := range sent {
				if d.Status == http.StatusOK {
					t.Errorf("notification of %d contents acknowledged while the ledger could not be written", len(d.ContentIDs))
				}
			}
			s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = nil })
			s.process().ticks(3)
			s.reconciled(nil)
			s.counted(5*20+12*3, 0, 0)
		},
	},
	{
		name: "X-records-down", what: "records cannot be written while the ledger can: their contents are closed",
		set: withWebhook,
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(2)
			for i := range 5 {
				s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*100, 20)...)
			}
			s.account.Inject(cosmosfake.Rule{Container: "Audits", Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: http.StatusServiceUnavailable}})
			s.duringOutage(p, func(p *process) { _ = p.tick() })
			s.allPending()
			s.account.Recover()
			p.ticks(15) // an hour is the longest wait of an entry
			s.reconciled(nil)
			s.counted(5*20+12*3, 0, 0)
		},
	},
	{
		name: "X-cut", what: "a body that ends too early is taken for a whole one, or its rest for a bad record",
		test: func(t *testing.T, s *system) {
			whole := int64(len(bodyOf(recs(1, 30), ""))) // without the bracket at its end
			for i, at := range []int64{1, 2, 100, whole / 2, whole} {
				for j, cut := range []tenant.Cut{tenant.CutDrop, tenant.CutClean, tenant.CutStall} {
					c := s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*1000+j*100, 30)...)
					s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 2, CutAt: at, Cut: cut})
				}
			}
			s.process().ticks(4)
			s.reconciled(nil)
			s.counted(15*30, 0, 0)
		},
	},
	{
		name: "X-cut-for-ever", what: "a body whose last record lacks its end is lost whole, or never done",
		test: func(t *testing.T, s *system) {
			good, rest := recs(1, 5), `{"Id":"`+guidOf(6)[1:37]+`","Operation":"Open]`
			c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Body: bodyOf(good, rest)})
			p := s.process()
			p.ticks(4)
			if state := s.states()[c.ID]; state != ledger.Pending {
				t.Errorf("after 20 minutes the content is %s: a gateway may cut a body for longer", state)
			}
			s.later(6 * 24 * time.Hour)
			p.ticks(13) // twice more, and the entry's waits have grown
			s.reconciledParts(c, good, rest)
			s.counted(5, 0, 1)
		},
	},
	{
		name: "X-element", what: "an element that is no record takes its siblings with it, or is dropped",
		test: func(t *testing.T, s *system) {
			var all, dead []json.RawMessage
			for i, text := range []string{
				"null", "true", "17", `"text"`, "[1,2]", `{"a" 1}`, `{"a":tru}`, `{"a":01}`, `{'a':1}`, `{a:1}`, `{"a":1,}`, `{"a":"\x"}`,
				"{\"a\":\"\xff\"}", "{\"a\":\"\x01\"}", "garbage", `{"a":{"b":}}`,
			} {
				dead = append(dead, json.RawMessage(text))
				all = append(all, rec(i, ""), dead[i])
			}
			s.tenant.Publish(general, time.Now(), append(all, rec(100, ""))...)
			s.process().ticks(2)
			s.reconciled(refusing(dead))
			s.counted(len(dead)+1, 0, len(dead))
		},
	},
	{
		name: "X-framing", what: "after a broken bracket the rest of a body is dropped, or the content is tried for ever",
		test: func(t *testing.T, s *system) {
			type broken struct {
				tenant.Content
				good []json.RawMessage
				rest string
			}
			var list []broken
			for i, rest := range []string{`{"a":1],` + string(rec(900, "")) + `]`, `},{}]`, `:1]`, `{"a":[}]}]`, `[1}]`} {
				good := recs(i*100, 5)
				list = append(list, broken{
					s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Body: bodyOf(good, rest)}), good, rest,
				})
			}
			// More after the array.
			good, rest := recs(800, 2), "["+string(rec(802, ""))+"]"
			list = append(list, broken{
				s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Body: append(bytes.TrimSuffix(bodyOf(good, "]"), []byte(",]")), "]"+rest...)}), good, rest,
			})
			// Broken on the way, once: that is no bad content.
			once := s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(1000, 5)...)
			s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: once.ID, Times: 1, Status: 200, Body: string(bodyOf(recs(1000, 2), `{"a":1],{}]`))})
			p := s.process()
			p.mustTick()
			for _, c := range list {
				if state := s.states()[c.ID]; state != ledger.Pending {
					t.Errorf("%s... is %s after one try", c.rest[:2], state)
				}
			}
			s.later(5 * time.Minute)
			p.ticks(3)
			want := s.published(nil)
			for _, c := range list {
				addParts(want, c.Content, c.good, c.rest)
			}
			s.check(want)
			s.counted(5*5+2+5, 0, len(list))
		},
	},
	{
		name: "X-no-array", what: "an error, a page or nothing at all with status 200 is taken for a content, or for its end",
		test: func(t *testing.T, s *system) {
			for i, text := range []string{
				`{"error":{"code":"AF50000","message":"An internal error occurred."}}`,
				`{"error":{"code":"AF20050","message":"There is no such content."}}`,
				`{"error":{"code":"AF20051","message":"The content has expired."}}`,
				`{"Message":"An error has occurred."}`, "{}", "null", `"text"`, "", " ", "<html><body>Gateway</body></html>", "\xef\xbb\xbf",
			} {
				c := s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*100, 10)...)
				s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 3, Status: 200, Body: text})
			}
			p := s.process()
			p.mustTick()
			s.allPending()
			s.later(5 * time.Minute)
			p.ticks(6)
			s.reconciled(nil)
			s.counted(11*10, 0, 0)
		},
	},
	{
		name: "X-empty", what: "a content without records is tried for ever, or ends the listing",
		test: func(t *testing.T, s *system) {
			for i := range 3 {
				s.tenant.Publish(general, time.Now().Add(-time.Hour))
				s.tenant.Publish(general, time.Now().Add(-time.Hour), recs(i*100, 3)...)
			}
			s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Hour), Body: []byte("\xef\xbb\xbf [ \r\n ] ")})
			p := s.process()
			p.ticks(1)
			fetched := s.tenant.Count(tenant.OpAudit)
			p.ticks(3)
			if again := s.tenant.Count(tenant.OpAudit) - fetched; again != 0 {
				t.Errorf("%d contents were fetched again", again)
			}
			s.reconciled(nil)
			s.counted(9, 0, 0)
		},
	},
	{name: "X-clock+10m", what: "this machine's clock is ten minutes behind the service's", set: strictClock, test: clockOff(10 * time.Minute)},
	{name: "X-clock-10m", what: "this machine's clock is ten minutes ahead of the service's", set: strictClock, test: clockOff(-10 * time.Minute)},
	{name: "X-clock+1h", what: "this machine's clock is an hour behind the service's", set: strictClock, test: clockOff(time.Hour)},
	{name: "X-clock-1h", what: "this machine's clock is an hour ahead of the service's", set: strictClock, test: clockOff(-time.Hour)},
	{
		name: "X-clock-account", what: "the clock of Cosmos DB is off from this machine's",
		set: withWebhook,
		test: func(t *testing.T, s *system) {
			for i, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
				s.account.Set(func(sw *cosmosfake.Switches) { sw.DateOffset = offset })
				s.tenant.Publish(general, time.Now().Add(-time.Minute), recs(i*100, 10)...)
				s.process().ticks(2)
			}
			s.reconciled(nil)
			// At an hour the account takes no signature of ours: an operator must act,
			// and until then nothing is promised or given up.
			s.account.Set(func(sw *cosmosfake.Switches) { sw.DateOffset = time.Hour })
			p := s.process()
			before := len(s.tenant.Deliveries())
			s.tenant.Publish(general, time.Now(), recs(1000, 10)...)
			s.later(time.Minute)
			if err := p.tick(); err == nil || !strings.Contains(err.Error(), "clock") {
				t.Errorf("tick with a clock that the account refuses: %v, want an error that names the clock", err)
			}
			sent := s.tenant.Deliveries()[before:]
			if len(sent) == 0 {
				t.Error("nothing was notified, which shows nothing")
			}
			for _, d := range sent {
				if d.Status == http.StatusOK {
					t.Error("a notification was acknowledged that could not be recorded")
				}
			}
			s.account.Set(func(sw *cosmosfake.Switches) { sw.DateOffset = 0 })
			p.ticks(2)
			s.reconciled(nil)
			s.counted(30, 0, 0)
		},
	},
	{name: "X-zone", what: "the machine's time zone moves windows, days or hours", set: withWebhook, test: zone},
	{
		name: "X-midnight", what: "content at the edge between two days or two windows is listed in neither",
		set: func(o *options) { o.overlap, o.quota = 0, 60_000 }, // the edges alone must hold
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(1)
			midnight := dawn.Truncate(24 * time.Hour).Add(24 * time.Hour)
			s.later(time.Until(midnight.Add(-time.Hour)))
			p.mustTick() // lists all seven days, so that those that follow are quick
			s.later(time.Until(midnight.Add(-3 * time.Second)))
			n := 0
			for time.Now().Before(midnight.Add(3 * time.Second)) {
				n++
				s.tenant.Publish(general, time.Now(), rec(n, ""))
				s.tenant.Publish(general, time.Now().Add(-time.Millisecond), rec(1000+n, ""))
				if n%4 == 0 { // a tick takes some of the time
					p.mustTick()
				}
				s.later(125 * time.Millisecond)
				s.marked()
			}
			if n < 30 {
				t.Errorf("%d times around midnight, which is too coarse", n)
			}
			// A leap into the day after next, so that windows begin at one day's edge
			// and end at another's.
			s.later(time.Until(midnight.Add(48*time.Hour - 300*time.Millisecond)))
			s.tenant.Publish(general, midnight.Add(24*time.Hour), rec(5000, ""))
			s.tenant.Publish(general, midnight.Add(24*time.Hour-time.Millisecond), rec(5001, ""))
			s.tenant.Publish(general, time.Now(), rec(5002, ""))
			p.mustTick()
			s.later(300 * time.Millisecond)
			s.tenant.Publish(general, midnight.Add(48*time.Hour), rec(5003, ""))
			s.marked()
			p.ticks(2)
			s.reconciled(nil)
			for _, e := range s.account.Log() { // only listings bring contents here: what is known is never created again
				if e.Container == "ArchiveState" && e.Kind == cosmosfake.Batch && e.Status == http.StatusMultiStatus {
					t.Errorf("at %v contents were created of which some were known", e.Time)
				}
			}
			if got, want := len(s.entries()), 2*n+4; got != want {
				t.Errorf("the ledger has %d entries for %d contents", got, want)
			}
		},
	},
	{
		name: "X-many", what: "a tick reads the whole ledger, so that a long history makes it slow",
		set: func(o *options) { o.quota = 60_000 },
		test: func(t *testing.T, s *system) {
			const contents = 3000
			var open tenant.Content
			for i := range contents { // over six days
				c := s.tenant.Publish(general, time.Now().Add(-time.Duration(i)*6*24*time.Hour/contents), rec(i, ""))
				if i == contents/2 {
					open = c
				}
			}
			down := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: open.ID, Status: 503})
			p := s.process()
			p.ticks(4)
			if _, states := s.counts(); states[ledger.Stored] != contents-1 || states[ledger.Pending] != 1 {
				t.Fatalf("entries: %v", states)
			}
			s.later(time.Hour) // so that it is due
			before := len(s.account.Log())
			p.mustTick()
			var across, rows, writes int
			for _, e := range s.account.Log()[before:] {
				switch {
				case e.Kind == cosmosfake.Query && e.Key == "":
					across++
					if e.Rows > 1 {
						t.Errorf("a query over all partitions gave %d rows, want the one open entry", e.Rows)
					}
				case e.Kind == cosmosfake.Query:
					rows += e.Rows
				case e.Kind == cosmosfake.Batch || e.Kind == cosmosfake.Create || e.Kind == cosmosfake.Replace:
					writes++
				}
			}
			// What is open is asked for before the work and after it. The listing
			// compares with what lies in its windows: an hour and the overlap of
			// two, at 3,000 contents in six days.
			if across != 2 {
				t.Errorf("%d queries over all partitions, want 2", across)
			}
			if most := 3*contents/(6*24) + 5; rows > most {
				t.Errorf("the tick read %d entries, want at most %d of %d", rows, most, contents)
			}
			// Lease taken, heartbeat, the entry's new due, lease released.
			if writes > 8 {
				t.Errorf("%d writes, want at most 8", writes)
			}
			down.Remove()
			s.later(time.Hour)
			p.ticks(2)
			s.reconciled(nil)
		},
	},
	{name: "X-large", what: "a content too large for one tick begins again in each, and is never done", test: manyTicks},
	{name: "X-wide", what: "contents collected at once are each in memory with all that waits for Cosmos DB", test: wide},
}

func withWebhook(o *options) { o.webhook = true }

// goneForTwoHours is a backlog that the service refuses for two hours. The
// oldest content has three hours to live.
func goneForTwoHours(status int, code string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		const contents, span = 120, 7*24*time.Hour - 3*time.Hour
		for i := range contents {
			s.tenant.Publish(general, time.Now().Add(-span+time.Duration(i)*span/contents), recs(i*100, 3)...)
		}
		down := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Status: status, Code: code, Message: "refused"})
		p := s.process()
		for i := range 24 {
			p.mustTick()
			s.tenant.Publish(general, time.Now(), recs(20_000+i*100, 3)...)
			s.later(5 * time.Minute)
			if _, states := s.counts(); states[ledger.Pending] == 0 || len(states) != 1 {
				t.Fatalf("after %d minutes the entries are %v", 5*(i+1), states)
			}
		}
		down.Remove()
		p.ticks(13) // an hour is the longest wait
		s.reconciled(nil)
		s.counted((contents+24)*3, 0, 0)
	}
}

// expiry is true expiry beside three kinds of content that look like it.
func expiry(t *testing.T, s *system) {
	old := func(c tenant.Content, n int) tenant.Content {
		c.Type, c.Created = general, time.Now().Add(-7*day+time.Hour+time.Duration(n)*time.Minute)
		if c.Expires != (time.Time{}) {
			c.Expires = c.Created.Add(9 * day)
		}
		c.Records = slices.Values(recs(n*100, 3))
		return s.tenant.Add(c)
	}
	lost, long := map[string]bool{}, map[string]bool{}
	var down []*tenant.Injected
	for i := range 10 {
		c := old(tenant.Content{}, i) // cannot be had until it is over
		down = append(down, s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 503}))
		lost[c.ID] = true
		old(tenant.Content{}, 10+i)                                 // its neighbour can
		c = old(tenant.Content{Expires: time.Now().Add(day)}, 20+i) // was promised for longer
		s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 404, Code: "AF20050", Message: "refused"})
		long[c.ID] = true
	}
	young := s.tenant.Publish(general, time.Now().Add(-day), recs(9000, 3)...)
	refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: young.ID, Status: 404, Code: "AF20050", Message: "refused"})

	p := s.process()
	p.ticks(1)
	s.later(90 * time.Minute) // by now all of the first have expired
	for _, in := range down {
		in.Remove()
	}
	p.ticks(16)
	s.lostAre(lost)
	if state := s.states()[young.ID]; state != ledger.Pending {
		t.Errorf("a content of one day that the service refuses is %s", state)
	}
	refused.Remove()
	s.later(2 * day)
	p.ticks(16)
	for id := range long {
		lost[id] = true
	}
	s.lostAre(lost)
	s.reconciledBut(lost)
	s.counted(10*3+3, 0, 0)
}

// lostAre fails the test unless exactly these contents are lost in the ledger,
// named in the log, and counted by ticks.
func (s *system) lostAre(want map[string]bool) {
	s.t.Helper()
	got := map[string]bool{}
	for id, state := range s.states() {
		if state == ledger.Lost {
			got[id] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("lost contents (-want +got):\n%s", diff)
	}
	named, counted := map[string]bool{}, 0
	for line := range strings.Lines(s.log.String()) {
		var l struct {
			Level, Msg, ContentID string
			Lost                  int
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			s.t.Fatal(err)
		}
		if l.Level == "ERROR" && strings.HasPrefix(l.Msg, "content lost") {
			named[l.ContentID] = true
		}
		counted += l.Lost
	}
	if diff := cmp.Diff(want, named); diff != "" {
		s.t.Errorf("lost contents that the log names (-want +got):\n%s", diff)
	}
	if counted != len(want) {
		s.t.Errorf("ticks count %d lost contents, want %d", counted, len(want))
	}
}

// duringOutage lets an hour pass in ticks of five minutes, each with a new
// content of three records and its notification.
func (s *system) duringOutage(p *process, tick func(*process)) {
	for i := range 12 {
		tick(p)
		s.tenant.Publish(general, time.Now(), recs(5000+i*100, 3)...)
		s.later(5 * time.Minute)
	}
}

// strictClock makes the service refuse a window that begins a second too early.
func strictClock(o *options) {
	o.webhook, o.lifetime, o.knobs.StartSlack = true, 2*time.Hour, -1
}

// clockOff is a service whose clock is ahead of ours by d.
func clockOff(d time.Duration) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		const week, contents = 7 * 24 * time.Hour, 60
		s.tenant.Advance(d)
		// The oldest has 13 minutes to live by the service's clock, and cannot be had
		// at first: by our clock it is over when the service's is behind.
		oldest := s.tenant.Publish(general, s.tenant.Now().Add(-week+13*time.Minute), recs(1, 3)...)
		s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: oldest.ID, Times: 2, Status: 404, Code: "AF20050", Message: "refused"})
		for i := range contents {
			s.tenant.Publish(general, s.tenant.Now().Add(-time.Duration(i)*(week-time.Hour)/contents), recs(1000+i*10, 3)...)
		}
		p := s.process()
		for i := range 36 {
			p.mustTick()
			for _, e := range s.entries() { // whatever of them notifications brought
				if e.Found != ledger.ByListing {
					t.Errorf("tick %d: the content created at %s, by then %v ago, is not listed", i, e.Created, s.tenant.Now().Sub(e.Created.Time))
				}
			}
			s.tenant.Publish(general, s.tenant.Now(), recs(5000+i*10, 3)...)
			s.later(5 * time.Minute)
			if i == 12 {
				p.kill()
				p = s.process()
				s.later(time.Minute) // longer than the lease
			}
		}
		p.ticks(2)
		s.reconciled(nil)
		s.counted((1+contents+36)*3, 0, 0)
	}
}

// zone runs itself again as a process in New York, where the night of 8 March
// 2026 has no hour from two to three.
func zone(t *testing.T, s *system) {
	if os.Getenv("TZ") != "America/New_York" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLoss$/^X-zone$", "-test.v")
		child.Env = append(os.Environ(), "TZ=America/New_York")
		out, err := child.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestLoss/X-zone")) {
			t.Errorf("in New York: %v\n%s", err, out)
		}
		return
	}
	if _, offset := time.Now().Zone(); offset != -4*60*60 {
		t.Fatalf("the zone is %v", time.Now().Location())
	}
	night := time.Date(2026, 3, 8, 2, 30, 0, 0, time.UTC)
	var records []json.RawMessage
	for i := range 48 {
		at := night.Add(time.Duration(i) * 30 * time.Minute)
		raw := bytes.Replace(rec(i, ""), []byte(time.Now().UTC().Truncate(time.Hour).Format("2006-01-02T15:04:05")), []byte(at.Format("2006-01-02T15:04:05")), 1)
		records = append(records, raw)
		s.tenant.Publish(general, at, raw)
	}
	p := s.process()
	p.ticks(2)
	for i := range 30 { // around midnight, there and here
		s.tenant.Publish(general, time.Now(), rec(1000+i, ""))
		s.later(time.Hour)
		p.mustTick()
	}
	p.ticks(1)
	s.reconciled(nil) // compares day and hour too
	s.counted(len(records)+30, 0, 0)
	for _, e := range s.entries() {
		if want := general + "|" + e.Created.UTC().Format(time.DateOnly); e.PK != want {
			t.Errorf("the entry of %s lies in the partition %s, want %s", e.ContentID, e.PK, want)
		}
	}
}

// bodyOf is the text of a content: good records, then what is no record any more.
func bodyOf(good []json.RawMessage, rest string) []byte {
	text := []byte("[")
	for _, raw := range good {
		text = append(append(text, raw...), ',')
	}
	return append(text, rest...)
}

// states returns the state of every entry, by contentId.
func (s *system) states() map[string]string {
	s.t.Helper()
	states := map[string]string{}
	for _, e := range s.entries() {
		states[e.ContentID] = e.State
	}
	return states
}

// allPending fails the test unless every content is in the ledger and open.
func (s *system) allPending() {
	s.t.Helper()
	want := map[string]string{}
	for _, c := range s.tenant.Contents() {
		want[c.ID] = ledger.Pending
	}
	if diff := cmp.Diff(want, s.states()); diff != "" || len(want) == 0 {
		s.t.Errorf("contents in the ledger (-want +got):\n%s", diff)
	}
}

// marked fails the test for every content that was visible before the mark of a
// listing, and of a time before it, but is not in the ledger.
func (s *system) marked() {
	s.t.Helper()
	states := s.states()
	for _, d := range s.account.Documents("ArchiveState") {
		var head ledger.Head
		if err := json.Unmarshal(d.Body, &head); err != nil {
			s.t.Fatal(err)
		}
		if head.Kind != "head" {
			continue
		}
		for _, c := range s.tenant.Contents() {
			mark := head.ListedTo.Time
			if _, noted := states[c.ID]; !noted && c.Type == head.ContentType && c.Created.Before(mark) && c.Visible.Before(mark) {
				s.t.Errorf("the mark is at %s, but the content created at %s is not in the ledger", head.ListedTo, c.Created)
			}
		}
	}
}

// published is what the tenant published as records. Contents with a body of
// their own are added by the row that made them.
func (s *system) published(of fate) *reconcile.Published {
	want := reconcile.New()
	for _, c := range s.tenant.Contents() {
		want.AddContent(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created})
	}
	for c, raw := range s.tenant.Records() {
		what := reconcile.Archived
		if of != nil {
			what = of(raw)
		}
		want.Add(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}, raw, what)
	}
	return want
}

// addParts adds the parts of a content's body: records, and a rest that must be
// one dead letter.
func addParts(want *reconcile.Published, c tenant.Content, good []json.RawMessage, rest string) {
	of := reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}
	for _, raw := range good {
		want.Add(of, raw, reconcile.Archived)
	}
	want.Add(of, []byte(rest), reconcile.Refused)
}

// check fails the test for every difference from want.
func (s *system) check(want *reconcile.Published) {
	s.t.Helper()
	report, err := want.Check(s.documents("Audits"), s.documents("ArchiveState"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range report.Faults {
		s.t.Errorf("%s", f)
	}
}

func (s *system) reconciledParts(c tenant.Content, good []json.RawMessage, rest string) {
	s.t.Helper()
	want := s.published(nil)
	addParts(want, c, good, rest)
	s.check(want)
}
