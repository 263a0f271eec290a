package loss_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"activityarchive/handler/activity"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

// knobRows are the ways in which the service and Cosmos DB have been seen to
// differ from their documentation that no other row is about. Each has the same
// day (see busyDay), and shows that the difference was really there.
var knobRows = []row{
	{
		name: "K-Shuffle", what: "items of a listing in no order move the mark past some of them",
		set: tuned(func(k *tenant.Knobs) { k.Shuffle, k.PageSize = true, 4 }),
		test: func(t *testing.T, s *system) {
			var turned atomic.Int64
			s.busyDay(s.observed(func(_ *http.Request, _ *http.Response, body []byte) {
				if list := itemsOf(body); !slices.IsSortedFunc(list, func(a, b listed) int { return strings.Compare(a.ContentCreated, b.ContentCreated) }) {
					turned.Add(1)
				}
			}), nil)
			happened(t, int(turned.Load()))
		},
	},
	{
		name: "K-RepeatItems", what: "an item that ends one page and begins the next is noted or fetched twice",
		set: tuned(func(k *tenant.Knobs) { k.RepeatItems, k.PageSize = true, 4 }),
		test: func(t *testing.T, s *system) {
			var again atomic.Int64
			var last atomic.Value
			s.busyDay(s.observed(func(r *http.Request, _ *http.Response, body []byte) {
				list := itemsOf(body)
				if len(list) == 0 {
					return
				}
				if strings.Contains(r.URL.RawQuery, "nextPage=") && last.Load() == list[0].ContentID {
					again.Add(1)
				}
				last.Store(list[len(list)-1].ContentID)
			}), nil)
			happened(t, int(again.Load()))
			s.fetchedOnce()
		},
	},
	{
		name: "K-Gzip", what: "compressed content is taken for a body that is no array",
		set: tuned(func(k *tenant.Knobs) { k.Gzip = true }),
		test: func(t *testing.T, s *system) {
			var packed atomic.Int64
			s.busyDay(s.observed(func(_ *http.Request, resp *http.Response, _ []byte) {
				if resp.Uncompressed {
					packed.Add(1)
				}
			}), nil)
			happened(t, int(packed.Load()))
		},
	},
	{
		name: "K-BOM", what: "a byte order mark before content makes it a body that is no array",
		set: tuned(func(k *tenant.Knobs) { k.BOM = true }),
		test: func(t *testing.T, s *system) {
			var marked atomic.Int64
			s.busyDay(s.observed(func(_ *http.Request, _ *http.Response, body []byte) {
				if bytes.HasPrefix(body, []byte("\ufeff[")) {
					marked.Add(1)
				}
			}), nil)
			happened(t, int(marked.Load()))
			s.fetchedOnce()
		},
	},
	{
		name: "K-NextPageLife", what: "a next page that has become stale ends the listing as if it were the last",
		set: tuned(func(k *tenant.Knobs) { k.NextPageLife, k.PageSize = 5*time.Second, 4 }),
		test: func(t *testing.T, s *system) {
			slow := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Path: "nextPage=", Times: 3, Status: 503})
			s.busyDay(s.process(), func(p *process, n int) {
				err := p.tick()
				if n > 0 && err != nil {
					t.Errorf("tick %d: %v", n, err)
				}
				s.markHolds()
			})
			happened(t, slow.Hits())
			happened(t, s.answered("AF20031"))
		},
	},
	{
		name: "K-PartialSpan", what: "a window longer than the service cares for is answered in silence with its first part",
		set: tuned(func(k *tenant.Knobs) { k.PartialSpan = time.Hour }),
		test: func(t *testing.T, s *system) {
			for i := range 20 {
				s.tenant.Publish(general, dawn.Add(-170*time.Minute+time.Duration(i)*8*time.Minute), rec(9000+i, ""))
			}
			wide := s.process()
			wide.timer.Collector.Window = 24 * time.Hour // what the setting's default must not be
			wide.mustTick()
			happened(t, len(s.unlisted()))
			s.later(13 * time.Hour) // after which all is listed again
			p := s.process()
			before := len(s.tenant.Requests())
			p.mustTick()
			if n := len(s.unlisted()); n != 0 {
				t.Errorf("%d contents are not in the ledger", n)
			}
			s.busyDay(p, nil)
			for _, r := range s.tenant.Requests()[before:] {
				if from, to := windowOf(r); to.Sub(from) > time.Hour {
					t.Errorf("a window of %v was asked for", to.Sub(from))
				}
			}
		},
	},
	{name: "K-DateSkew+10m", what: "a header Date ahead of the service's own clock makes windows end in what is still to come", set: tuned(func(k *tenant.Knobs) { k.DateSkew = 10 * time.Minute }), test: skewed},
	{name: "K-DateSkew-10m", what: "a header Date behind the service's own clock makes windows too old, or leaves out the latest", set: tuned(func(k *tenant.Knobs) { k.DateSkew = -10 * time.Minute }), test: skewed},
	{
		name: "K-NoDate", what: "without the header Date a machine's own clock decides that content is lost",
		set: tuned(func(k *tenant.Knobs) { k.NoDate = true }),
		test: func(t *testing.T, s *system) {
			var without atomic.Int64
			p := s.observed(func(_ *http.Request, resp *http.Response, _ []byte) {
				if resp.Header.Get("Date") == "" {
					without.Add(1)
				}
			})
			s.busyDay(p, nil)
			happened(t, int(without.Load()))
			if p.timer.API.ClockKnown() {
				t.Error("the service's clock is said to be known")
			}
			// The machine sleeps for eight days by its own clock, by the service's for
			// none: what the service refuses meanwhile is not written off.
			c := s.tenant.Publish(general, time.Now(), recs(9000, 3)...)
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 404, Code: "AF20050", Message: "refused"})
			s.later(5 * time.Minute)
			p.mustTick()
			s.later(8 * oneDay)
			s.tenant.Advance(-8 * oneDay)
			_ = p.tick() // by this clock the listing begins after all that the service has
			if e := s.entryOf(c.ID); e.State != ledger.Pending || refused.Hits() < 2 {
				t.Errorf("after %d refusals the content is %s", refused.Hits(), e.State)
			}
		},
	},
	{name: "K-Throttle-429", what: "a throttled call is repeated before the service asked for it", set: throttle(429), test: throttledDay},
	{name: "K-Throttle-403", what: "the same, with the service's own status", set: throttle(403), test: throttledDay},
	{
		name: "K-TokenError", what: "while there is no token notifications are acknowledged in vain, or the backlog is written off",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			s.busyDay(s.process(), func(p *process, n int) {
				if n != 2 && n != 3 {
					p.mustTick()
					return
				}
				s.tenant.Tune(func(k *tenant.Knobs) { k.TokenError = "7000222" })
				if err := p.tick(); activity.KindOf(err) != activity.Denied || !strings.Contains(err.Error(), "AADSTS") {
					t.Errorf("tick %d: %v, want a refusal that names Entra's code", n, err)
				}
				told := len(s.tenant.Deliveries())
				s.tenant.Publish(general, time.Now(), rec(9000+n, ""))
				s.later(2 * time.Second)
				for _, d := range s.tenant.Deliveries()[told:] {
					if d.Status != http.StatusServiceUnavailable {
						t.Errorf("a notification was answered %d", d.Status)
					}
				}
				happened(t, len(s.tenant.Deliveries())-told)
				s.tenant.Tune(func(k *tenant.Knobs) { k.TokenError = "" })
			})
			s.counted(busyRecords+2, 0, 0)
		},
	},
	{
		name: "K-TokenLifetime", what: "a token that ends between two tries of a call makes the call fail",
		set: func(o *options) { shortStart(o); o.knobs.TokenLifetime = 2 * time.Second },
		test: func(t *testing.T, s *system) {
			for i := range 5 {
				c := s.tenant.Publish(general, dawn.Add(-time.Duration(i)*time.Minute), rec(9000+i, ""))
				s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Times: 2, Status: 503}) // the waits after it are longer
			}
			s.busyDay(s.process(), nil)
			old := 0
			for _, r := range s.tenant.Requests() {
				if r.Status == http.StatusUnauthorized {
					old++
				}
			}
			happened(t, old)
			for _, e := range s.entries() {
				if e.Attempts != 0 {
					t.Errorf("content %s has %d failures", e.ContentID, e.Attempts)
				}
			}
		},
	},
	{
		name: "K-AuditingOff", what: "a tenant without auditing looks like one that does not exist, or like a quiet day",
		set: tuned(func(k *tenant.Knobs) { k.AuditingOffUntil = dawn.Add(12 * time.Minute) }),
		test: func(t *testing.T, s *system) {
			off := 0
			s.busyDay(s.process(), func(p *process, n int) {
				err := p.tick()
				if n >= 3 {
					if err != nil {
						t.Errorf("tick %d: %v", n, err)
					}
					return
				}
				off++
				if activity.KindOf(err) != activity.Denied || !strings.Contains(err.Error(), "audit log") {
					t.Errorf("tick %d: %v, want the remedy in it", n, err)
				}
			})
			happened(t, off)
		},
	},
	{
		name: "K-EchoAddress", what: "a webhook's address that comes back in another spelling is set again and again",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			var echoes atomic.Int64
			s.tenant.Tune(func(k *tenant.Knobs) {
				k.EchoAddress = func(string) string {
					echoes.Add(1)
					return "HTTPS://COLLECTOR.example:443/api/Webhook/"
				}
			})
			s.busyDay(s.process(), nil)
			happened(t, int(echoes.Load()))
			if n := s.tenant.Count(tenant.OpStart); n != 1 {
				t.Errorf("%d start calls, want 1", n)
			}
		},
	},
	{
		name: "K-ValidationTimeout", what: "a cold start of the webhook takes longer than the service waits for its validation",
		set: tuned(func(k *tenant.Knobs) { k.ValidationTimeout = 3 * time.Second }),
		test: func(t *testing.T, s *system) {
			p := s.process()
			var cold atomic.Int64
			s.door.set(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if cold.Add(1) == 1 {
					select { // the host starts the app
					case <-time.After(8 * time.Second):
					case <-r.Context().Done():
					}
				}
				p.hook.ServeHTTP(w, r)
			}))
			s.busyDay(p, nil)
			happened(t, int(cold.Load()))
			if n := s.tenant.Count(tenant.OpStart); n != 1 || s.answered("AF20021") != 0 {
				t.Errorf("%d start calls, %d of them without validation, want one that goes well", n, s.answered("AF20021"))
			}
		},
	},
	{
		name: "K-StickyStop", what: "a subscription that somebody stopped stays dead for a while after its start, and is given up",
		set: tuned(func(k *tenant.Knobs) { k.StickyStop = 40 * time.Minute }),
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			s.later(20 * time.Minute) // the service wants 15 between two starts
			s.stop()
			for range 10 {
				_ = p.tick() // nothing can be listed
				s.later(5 * time.Minute)
			}
			happened(t, s.answered("AF20023"))
			s.busyDay(p, nil)
		},
	},
	{
		name: "K-DropSubscription", what: "a subscription that vanishes is taken for a quiet day",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			s.later(10 * time.Minute)
			s.tenant.DropSubscription(general)
			s.tenant.Publish(general, time.Now(), rec(9000, ""))
			if err := p.tick(); err == nil || !strings.Contains(err.Error(), "AF20022") {
				t.Errorf("tick: %v, want that there is no subscription", err)
			}
			s.later(6 * time.Minute)
			s.busyDay(p, nil)
			happened(t, s.tenant.Count(tenant.OpStart)-1)
			s.counted(busyRecords+1, 0, 0)
		},
	},
	{
		name: "K-NotifyEarly", what: "a notification that comes before its content can be had writes it off, or fetches it in vain for ever",
		set: tuned(func(k *tenant.Knobs) { k.NotifyDelay = -3 * time.Minute }),
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now(), Visible: time.Now().Add(3 * time.Minute), Records: slices.Values(recs(9000, 2))})
			s.later(time.Second)
			s.later(20 * time.Second) // time to fetch it
			if e := s.entryOf(c.ID); e.State != ledger.Pending || e.Found != ledger.ByWebhook || e.Attempts != 1 {
				t.Errorf("the content is %s, found by %q, with %d failures", e.State, e.Found, e.Attempts)
			}
			happened(t, s.answered("AF20050"))
			s.busyDay(p, nil)
			s.counted(busyRecords+2, 0, 0)
		},
	},
	{
		name: "K-NotifyLate", what: "a notification that comes long after the listing fetches the content once more",
		set: tuned(func(k *tenant.Knobs) { k.NotifyDelay = 12 * time.Minute }),
		test: func(t *testing.T, s *system) {
			p := s.process()
			s.busyDay(p, nil)
			s.later(10 * time.Minute)
			happened(t, s.deliveredItems())
			s.fetchedOnce()
			for _, e := range s.entries() {
				if e.Found != ledger.ByListing {
					t.Errorf("content %s is said to be found by %s", e.ContentID, e.Found)
				}
			}
			s.settledWell(busyRecords)
		},
	},
	{
		name: "K-NotifyJitter", what: "notifications in no order, some after the listing, are taken for new or for old",
		set: tuned(func(k *tenant.Knobs) {
			k.NotifyJitter, k.NotifyShuffle, k.NotifyBatch = 8*time.Minute, true, 2
		}),
		test: func(t *testing.T, s *system) {
			s.busyDay(s.process(), nil)
			s.later(10 * time.Minute)
			order := map[string]int{}
			for i, c := range s.tenant.Contents() {
				order[c.ID] = i
			}
			turned, last := 0, 0
			for _, d := range s.tenant.Deliveries() {
				for _, id := range d.ContentIDs {
					if order[id] < last {
						turned++
					}
					last = order[id]
				}
			}
			happened(t, turned)
			s.fetchedOnce()
			s.settledWell(busyRecords)
		},
	},
	{
		name: "K-NotifyEdit", what: "a notification in another spelling than the listing's is refused, or makes a second entry",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			var edits atomic.Int64
			s.tenant.Tune(func(k *tenant.Knobs) {
				k.NotifyEdit = func(item map[string]any) {
					edits.Add(1)
					for _, name := range []string{"tenantId", "clientId", "contentType"} {
						item[name] = strings.ToUpper(item[name].(string))
					}
					item["contentCreated"] = strings.TrimSuffix(item["contentCreated"].(string), "Z")
					delete(item, "contentExpiration")
					item["more"] = []any{1, nil}
				}
			})
			p := s.process()
			p.mustTick()
			c := s.tenant.Publish(general, time.Now(), recs(9000, 2)...)
			s.later(time.Second)
			s.later(20 * time.Second) // time to fetch it
			if e := s.entryOf(c.ID); e.State != ledger.Stored || e.Found != ledger.ByWebhook {
				t.Errorf("after its notification the content is %q, found by %q", e.State, e.Found)
			}
			s.busyDay(p, nil)
			happened(t, int(edits.Load()))
			s.fetchedOnce()
			s.counted(busyRecords+2, 0, 0)
		},
	},
	{
		name: "K-NotifySuffix", what: "a content that its notification calls by another id than its listing is archived twice",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			s.tenant.Tune(func(k *tenant.Knobs) {
				k.NotifyEdit = func(item map[string]any) { item["contentId"] = item["contentId"].(string) + "$IsFromNotification" }
			})
			p := s.process()
			p.mustTick()
			s.publishSingles(5, time.Now(), time.Millisecond)
			s.later(time.Second)
			s.later(time.Minute)
			p.ticks(3)
			found := map[string]int{}
			for _, e := range s.entries() {
				found[e.Found]++
				if e.State != ledger.Stored {
					t.Errorf("content %s is %s", e.ContentID, e.State)
				}
			}
			if found[ledger.ByListing] != 5 || found[ledger.ByWebhook] != 0 {
				t.Errorf("the entries are %v", found)
			}
			if n := len(s.account.Documents("Audits")); n != 5 {
				t.Errorf("%d records are archived, want 5", n)
			}
			s.counted(5, 0, 0)
		},
	},
	{name: "K-IDShape-old", what: "contentIds of an old shape are refused, or taken for one", set: tuned(func(k *tenant.Knobs) { k.IDShape = tenant.IDOld }), test: shaped(3)},
	{name: "K-IDShape-oldest", what: "contentIds of the oldest shape are refused, or taken for one", set: tuned(func(k *tenant.Knobs) { k.IDShape = tenant.IDOldest }), test: shaped(4)},
	{
		name: "K-ToldLife", what: "a contentExpiration sooner than seven days writes off what the service still has",
		set: tuned(func(k *tenant.Knobs) { k.ToldLife = oneDay }),
		test: func(t *testing.T, s *system) {
			p := s.process()
			s.busyDay(p, nil)
			c := s.tenant.Publish(general, time.Now(), recs(9000, 3)...)
			refused := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: c.ID, Status: 404, Code: "AF20050", Message: "refused"})
			for range 10 {
				s.later(3 * time.Hour)
				p.mustTick()
			}
			happened(t, int(time.Since(c.Expires)/time.Hour))
			if e := s.entryOf(c.ID); e.State != ledger.Pending {
				t.Errorf("the content is %s", e.State)
			}
			refused.Remove()
			s.later(time.Hour)
			p.ticks(1)
			s.settledWell(busyRecords + 3)
		},
	},
	{name: "K-Drop", what: "results that are missing from the answer to a batch are taken for success", set: tuned(nil), test: disturbed(cosmosfake.Fault{Drop: 1}, twice(ofKind(cosmosfake.Batch)))},
	{name: "K-Drop-all", what: "an answer to a batch without results is taken for success", set: tuned(nil), test: disturbed(cosmosfake.Fault{Drop: cosmosfake.EmptyBody}, twice(ofKind(cosmosfake.Batch)))},
	{
		name: "K-Stale", what: "a replica that lags makes records and entries look missing",
		set: tuned(func(k *tenant.Knobs) { k.NotifyTwice, k.NotifyJitter = 1, 3*time.Minute }),
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, dawn.Add(-time.Minute), recs(9000, 5)...)
			killed := s.process() // when its first records are there, and it does not know
			killed.die = func(_ int64, r *http.Request) (before, after bool) {
				return false, isWrite(r) && strings.Contains(r.URL.Path, "/Audits/docs")
			}
			_ = killed.tick()
			happened(t, len(s.account.Documents("Audits")))
			s.later(15 * time.Minute)
			// When it is asked what is known, and where something is said to exist.
			asks := func(what string) func(cosmosfake.Call) bool {
				return twice(func(c cosmosfake.Call) bool {
					return c.Kind == cosmosfake.Query && bytes.Contains(c.Body, []byte(what))
				})
			}
			known, exists := asks("c.found"), asks("c.id IN")
			disturbed(cosmosfake.Fault{Stale: 64}, func(c cosmosfake.Call) bool { return known(c) || exists(c) })(t, s)
		},
	},
	{name: "K-Cut", what: "an answer of Cosmos DB that is cut short is taken for a whole one", set: tuned(nil), test: disturbed(cosmosfake.Fault{Cut: 20}, twice(ofKind(cosmosfake.Query, cosmosfake.Read, cosmosfake.Batch, cosmosfake.Create, cosmosfake.Replace)))},
	{
		name: "K-PageSize", what: "a query that comes in small or empty pages is taken for complete after the first",
		set: tuned(nil),
		test: func(t *testing.T, s *system) {
			s.account.Set(func(sw *cosmosfake.Switches) { sw.PageSize, sw.EmptyPages = 2, true })
			s.busyDay(s.process(), nil)
			empty := 0
			for _, e := range s.account.Log() {
				if e.Kind == cosmosfake.Query && e.Rows > 2 {
					t.Errorf("a page of %d rows", e.Rows)
				}
				if e.Kind == cosmosfake.Query && e.Rows == 0 {
					empty++
				}
			}
			happened(t, empty)
			s.fetchedOnce()
		},
	},
}

// tuned is a row with a webhook, a short first listing, and these switches.
func tuned(edit func(*tenant.Knobs)) func(*options) {
	return func(o *options) {
		shortStart(o)
		o.webhook = true
		if edit != nil {
			edit(&o.knobs)
		}
	}
}

// throttle gives the collector a tenant with less quota than it thinks. There
// is no webhook: its process has a limiter of its own.
func throttle(status int) func(*options) {
	return func(o *options) {
		shortStart(o)
		o.knobs.Budget, o.knobs.ThrottleStatus, o.knobs.RetryAfter = 10, status, 7*time.Second
	}
}

// busyRecords is how many records busyDay publishes.
const busyRecords = 15*2 + 5*2

// busyDay publishes a backlog and lets p tick, while more is published and
// notified; tick, if set, is one tick in place of one that must succeed. Then
// everything must be as it should.
func (s *system) busyDay(p *process, tick func(p *process, n int)) {
	s.t.Helper()
	now := s.tenant.Now()
	for i := range 15 {
		s.tenant.Publish(general, now.Add(-150*time.Minute+time.Duration(i)*10*time.Minute), recs(i*10, 2)...)
	}
	for n := range 5 {
		if tick == nil {
			p.mustTick()
		} else {
			tick(p, n)
		}
		s.tenant.Publish(general, s.tenant.Now(), recs(1000+n*10, 2)...)
		s.later(5 * time.Minute)
	}
	p.ticks(2)
	records := 0
	for range s.tenant.Records() {
		records++
	}
	s.settledWell(records)
}

// settledWell checks that all is archived once, and that the subscription and its
// webhook are as wanted.
func (s *system) settledWell(records int) {
	s.t.Helper()
	s.reconciled(nil)
	s.counted(records, 0, 0)
	if _, states := s.counts(); len(states) != 1 || states[ledger.Stored] != len(s.tenant.Contents()) {
		s.t.Errorf("of %d contents the ledger has %v", len(s.tenant.Contents()), states)
	}
	want := []tenant.Subscription{{AppID: tenant.DefaultAppID, ContentType: general, Status: tenant.Enabled}}
	if s.opts.webhook {
		want[0].Webhook = &tenant.Webhook{Address: address, AuthID: authID, Status: tenant.Enabled}
	}
	if have := s.tenant.Subscriptions(); !reflect.DeepEqual(have, want) {
		s.t.Errorf("the subscriptions are %+v", have)
	}
}

// happened fails a test whose fault never was.
func happened(t *testing.T, times int) {
	t.Helper()
	if times <= 0 {
		t.Errorf("what this is about happened %d times, which shows nothing", times)
	}
}

// answered is how many requests had an answer with this code.
func (s *system) answered(code string) (n int) {
	for _, r := range s.tenant.Requests() {
		if r.Code == code {
			n++
		}
	}
	return n
}

// fetchedOnce checks that no content was asked for twice.
func (s *system) fetchedOnce() {
	s.t.Helper()
	for id, n := range s.fetches() {
		if n != 1 {
			s.t.Errorf("content %s was fetched %d times", id, n)
		}
	}
}

// deliveredItems is how many contents notifications have named.
func (s *system) deliveredItems() (n int) {
	for _, d := range s.tenant.Deliveries() {
		n += len(d.ContentIDs)
	}
	return n
}

// stop stops the subscription, as somebody might.
func (s *system) stop() {
	s.t.Helper()
	client := &http.Client{Transport: wire{s.tenant.Handler()}}
	token, err := credential{client}.GetToken(s.t.Context(), policy.TokenRequestOptions{Scopes: []string{tenant.DefaultAudience + "/.default"}})
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, origin+"/api/v1.0/"+tenant.DefaultID+
		"/activity/feed/subscriptions/stop?contentType="+general+"&PublisherIdentifier="+tenant.DefaultID, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Token)
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("stop: %s", resp.Status)
	}
	s.tenant.ForgetViolations()
}

// listed is an item of a listing.
type listed struct{ ContentID, ContentCreated string }

// itemsOf is the listing in an answer, if it is one.
func itemsOf(body []byte) (list []listed) {
	if json.Unmarshal(body, &list) != nil || len(list) == 0 || list[0].ContentID == "" {
		return nil
	}
	return list
}

// observed starts the product online and lets saw look at each answer of the API.
func (s *system) observed(saw func(*http.Request, *http.Response, []byte)) *process {
	s.t.Helper()
	return s.onlineThrough(func(next http.RoundTripper) http.RoundTripper { return observer{next, saw} })
}

// observer is a transport that shows what is answered.
type observer struct {
	next http.RoundTripper
	saw  func(*http.Request, *http.Response, []byte)
}

func (o observer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	o.saw(req, resp, body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// skewed is a service whose header Date is not its clock.
func skewed(t *testing.T, s *system) {
	p := s.process()
	s.busyDay(p, nil)
	if off := p.timer.API.Now().Sub(s.tenant.Now()); off.Abs() < 9*time.Minute {
		t.Errorf("the collector's clock is off by %v, which shows nothing", off)
	}
	s.later(26 * time.Hour) // all is listed again, from the earliest on
	p.ticks(2)
	s.settledWell(busyRecords)
}

// throttledDay is a service that asks for patience: a call before its time is up
// would draw on the quota in vain.
func throttledDay(t *testing.T, s *system) {
	s.busyDay(s.process(), func(p *process, _ int) { _ = p.tick() })
	happened(t, s.answered("AF429"))
	var until time.Time
	for _, r := range s.tenant.Requests() {
		if r.Op != tenant.OpToken && r.Time.Before(until) && until.Sub(r.Time) < 6900*time.Millisecond { // else it was under way
			t.Errorf("a call came %v before the service wanted it", until.Sub(r.Time))
		}
		if r.Code == "AF429" {
			until = r.Time.Add(7 * time.Second)
		}
	}
}

// shaped is a day with contentIds that have so many parts.
func shaped(parts int) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		s.busyDay(s.process(), nil)
		n := 0
		for _, e := range s.entries() {
			if strings.Count(e.ContentID, "$") == parts {
				n++
			}
		}
		happened(t, n)
		s.fetchedOnce()
	}
}

// twice picks the first two times of each call that which picks.
func twice(which func(cosmosfake.Call) bool) func(cosmosfake.Call) bool {
	var mu sync.Mutex
	seen := map[string]int{}
	return func(c cosmosfake.Call) bool {
		if !which(c) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		name := string(c.Kind) + c.Key + c.ID + string(c.Body)
		seen[name]++
		return seen[name] <= 2
	}
}

// ofKind picks calls of these kinds.
func ofKind(kinds ...cosmosfake.Kind) func(cosmosfake.Call) bool {
	return func(c cosmosfake.Call) bool { return slices.Contains(kinds, c.Kind) }
}

// disturbed is a day on which fault befalls the calls to Cosmos DB that befalls
// picks, and nothing comes of it but waiting.
func disturbed(fault cosmosfake.Fault, befalls func(cosmosfake.Call) bool) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		var hits atomic.Int64
		s.account.Set(func(sw *cosmosfake.Switches) {
			sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
				if befalls(c) {
					hits.Add(1)
					return &fault
				}
				return nil
			}
		})
		before := len(s.tenant.Requests())
		s.busyDay(s.process(), nil)
		happened(t, int(hits.Load()))
		asked := map[string]bool{}
		for _, r := range s.tenant.Requests()[before:] {
			if r.Op == tenant.OpAudit && asked[r.ContentID] {
				t.Errorf("content %s was fetched again", r.ContentID)
			}
			asked[r.ContentID] = true
		}
	}
}
