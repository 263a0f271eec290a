package loss_test

import (
	"context"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var subscriptionRows = []row{
	{
		name: "D29", what: "a webhook turns null, disabled or expired while its subscription stays enabled, and nobody looks",
		set: func(o *options) { o.webhook = true },
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			number := 0
			publish := func() {
				number += 10
				s.tenant.Publish(general, time.Now(), recs(number, 5)...)
			}
			for name, damage := range map[string]func(*tenant.Subscription){
				"null":                  func(sub *tenant.Subscription) { sub.Webhook = nil },
				"disabled":              func(sub *tenant.Subscription) { sub.Webhook.Status = tenant.Disabled },
				"expired":               func(sub *tenant.Subscription) { sub.Webhook.Status = tenant.Expired },
				"re-addressed":          func(sub *tenant.Subscription) { sub.Webhook.Address = "https://elsewhere.example/api/webhook" },
				"subscription disabled": func(sub *tenant.Subscription) { sub.Status = tenant.Disabled },
			} {
				before := s.tenant.Count(tenant.OpStart)
				if !s.tenant.EditSubscription(general, damage) {
					t.Fatal("there is no subscription")
				}
				for range 3 { // within 15 minutes of the last start
					publish()
					s.later(5 * time.Minute)
					if err := p.tick(); err != nil && name != "subscription disabled" { // that one cannot be listed
						t.Errorf("%s: tick: %v", name, err)
					}
				}
				if n := s.tenant.Count(tenant.OpStart) - before; n != 1 {
					t.Errorf("%s: %d start calls within 15 minutes, want 1", name, n)
				}
				want := []tenant.Subscription{{
					AppID: tenant.DefaultAppID, ContentType: general, Status: tenant.Enabled,
					Webhook: &tenant.Webhook{Address: address, AuthID: authID, Status: tenant.Enabled},
				}}
				if have := s.tenant.Subscriptions(); !reflect.DeepEqual(have, want) {
					t.Fatalf("%s: the subscription was not repaired: %+v", name, have)
				}
				told := len(s.tenant.Deliveries())
				publish()
				s.later(time.Second)
				if n := len(s.tenant.Deliveries()) - told; n != 1 {
					t.Errorf("%s: %d notifications after the repair, want 1", name, n)
				}
			}
			p.ticks(3)
			s.reconciled(nil)
		},
	},
	{
		name: "D30", what: "one failing content makes the webhook answer 500: all comes again, and the webhook gets disabled",
		set: func(o *options) { o.webhook, o.knobs.DisableAfter = true, 3 },
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.mustTick()
			var ids []string
			for i := range 5 {
				ids = append(ids, s.tenant.Publish(general, time.Now(), recs(i*10, 5)...).ID)
			}
			failing := s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Path: ids[2], Status: 500})
			for range 6 { // no tick, for longer than a refused notification would wait
				s.later(time.Minute)
			}
			if sent := s.tenant.Deliveries(); len(sent) != 1 || len(sent[0].ContentIDs) != 5 || sent[0].Status != http.StatusOK {
				t.Errorf("the notifications were %v, want one with five contents and status 200", sent)
			}
			if sub := s.tenant.Subscriptions()[0]; sub.Webhook == nil || sub.Webhook.Status != tenant.Enabled {
				t.Errorf("the webhook is %+v", sub.Webhook)
			}
			for i, id := range ids {
				want := ledger.Stored
				if i == 2 {
					want = ledger.Pending
				}
				if e := s.entryOf(id); e.State != want {
					t.Errorf("content %d is %s, want %s", i, e.State, want)
				}
			}
			failing.Remove()
			p.ticks(2)
			s.reconciled(nil)
		},
	},
	{
		name: "D31", what: "the subscriptions that somebody else started are stopped",
		set: func(o *options) { o.webhook = true },
		test: func(t *testing.T, s *system) {
			hook := &tenant.Webhook{Address: "https://elsewhere.example/hook", AuthID: "another's", Status: tenant.Enabled}
			foreign := []tenant.Subscription{
				{AppID: tenant.DefaultAppID, ContentType: "Audit.AzureActiveDirectory", Status: tenant.Enabled},
				{AppID: tenant.DefaultAppID, ContentType: "Audit.Exchange", Status: tenant.Enabled, Webhook: hook},
				{AppID: tenant.DefaultAppID, ContentType: "Audit.SharePoint", Status: tenant.Disabled},
				// Even its notifications come to us.
				{AppID: tenant.DefaultAppID, ContentType: "DLP.All", Status: tenant.Enabled, Webhook: &tenant.Webhook{Address: address, AuthID: authID, Status: tenant.Enabled}},
			}
			for _, sub := range foreign {
				s.tenant.PutSubscription(sub)
			}
			s.tenant.Publish("Audit.Exchange", time.Now(), recs(900, 5)...)
			s.tenant.Publish(general, time.Now(), recs(0, 5)...)
			s.tenant.Publish("DLP.All", time.Now(), recs(1900, 5)...)
			p := s.process()
			p.ticks(4)
			s.later(25 * time.Hour) // over a full listing
			p.ticks(4)
			if sent := s.tenant.Deliveries(); !slices.ContainsFunc(sent, func(d tenant.Delivery) bool { return d.ContentType == "DLP.All" && d.Status == http.StatusOK }) {
				t.Errorf("a notification of another content type was not acknowledged: %v", sent)
			}
			have := slices.DeleteFunc(s.tenant.Subscriptions(), func(sub tenant.Subscription) bool { return sub.ContentType == general })
			if !reflect.DeepEqual(have, foreign) {
				t.Errorf("the other subscriptions are %+v, want %+v", have, foreign)
			}
			for _, r := range s.tenant.Requests() {
				if r.Op == tenant.OpStop || r.ContentType != "" && r.ContentType != general {
					t.Errorf("%s was called for %s", r.Op, r.ContentType)
				}
			}
			if e := s.entries(); len(e) != 1 || e[0].ContentType != general || e[0].State != ledger.Stored {
				t.Errorf("the ledger has %+v", e)
			}
			if n := len(s.account.Documents("Audits")); n != 5 {
				t.Errorf("%d records stored, want the 5 of ours", n)
			}
		},
	},
	{
		name: "D32", what: "a forged notification is believed: the token goes to a foreign host",
		set: func(o *options) { o.webhook, o.knobs.NotifyLoss = true, 1 }, // no notification but these
		test: func(t *testing.T, s *system) {
			p := s.process()
			strangers := watch(p)
			p.mustTick()
			good := s.tenant.Add(tenant.Content{Type: general, Created: time.Now(), Records: slices.Values(recs(0, 5))})
			sent := 0
			for _, h := range s.tenant.Hostile(authID, good) {
				want := http.StatusOK
				switch {
				case strings.Contains(h.Name, "AuthID"):
					want = http.StatusUnauthorized
				case strings.HasPrefix(h.Name, "a uri "), h.Name == "another tenant", h.Name == "another application":
				default:
					continue
				}
				sent++
				if status, err := s.tenant.Send(context.Background(), address, h); err != nil || status != want {
					t.Errorf("%s: status %d (%v), want %d", h.Name, status, err, want)
				}
				if want == http.StatusUnauthorized && len(s.entries()) != 0 {
					t.Errorf("%s: it is in the ledger", h.Name)
				}
				s.later(time.Second)
			}
			if sent < 18 {
				t.Errorf("only %d forgeries were tried", sent)
			}
			p.ticks(2)
			// The neighbour in the same array was in order, and nothing else.
			if e := s.entries(); len(e) != 1 || e[0].ContentID != good.ID {
				t.Errorf("the ledger has %d contents: %+v", len(e), e)
			}
			if n := s.asked(good.ID); n != 1 || s.tenant.Count(tenant.OpAudit) != 1 {
				t.Errorf("%d contents were asked for, the good one %d times, want it once", s.tenant.Count(tenant.OpAudit), n)
			}
			if list := strangers(); len(list) > 0 {
				t.Errorf("requests went to %q", list)
			}
			s.reconciled(nil)
		},
	},
	{
		name: "D33", what: "the token is sent to whatever host the next page names",
		set: func(o *options) { o.knobs.PageSize = 3 },
		test: func(t *testing.T, s *system) {
			p := s.process()
			strangers := watch(p)
			p.mustTick()
			for i, edit := range []func(*url.URL){
				func(u *url.URL) { u.Host = "attacker.example" },
				func(u *url.URL) { u.Host += ".attacker.example" },
				func(u *url.URL) { u.Host += ":8443" },
				func(u *url.URL) { u.Scheme = "http" },
				func(u *url.URL) { u.User, u.Host = url.User(u.Host), "attacker.example" },
				func(u *url.URL) { u.User = url.UserPassword("user", "word") },
				func(u *url.URL) {
					u.Path = strings.Replace(u.Path, tenant.DefaultID, "7a10c0de-00ff-4000-8000-0000000000ff", 1)
				},
				func(u *url.URL) { u.Path = strings.Replace(u.Path, "subscriptions/content", "subscriptions/stop", 1) },
			} {
				created := time.Now()
				for n := range 7 {
					s.tenant.Publish(general, created, recs(i*100+n*10, 2)...)
				}
				s.tenant.Tune(func(k *tenant.Knobs) { k.NextPageEdit = edit })
				s.later(5 * time.Minute)
				if err := p.tick(); err == nil {
					t.Errorf("page %d: the listing passes for complete", i)
				}
				head, err := p.ledger.Head(context.Background(), general)
				if err != nil || head.ListedTo.After(created) {
					t.Errorf("page %d: the mark moved to %v over what was not listed (%v)", i, head.ListedTo, err)
				}
				s.tenant.Tune(func(k *tenant.Knobs) { k.NextPageEdit = nil })
				s.later(5 * time.Minute)
				p.mustTick()
				s.reconciled(nil)
			}
			if list := strangers(); len(list) > 0 {
				t.Errorf("requests went to %q", list)
			}
		},
	},
	{
		name: "D34", what: "a webhook object in the list of subscriptions breaks the start",
		test: func(t *testing.T, s *system) {
			sub := func(hook *tenant.Webhook) {
				s.tenant.PutSubscription(tenant.Subscription{ContentType: general, Status: tenant.Enabled, Webhook: hook})
			}
			raw := func(webhook string) func() {
				return func() {
					s.tenant.Inject(tenant.Rule{
						Op: tenant.OpSubscriptions, Times: 1, Status: http.StatusOK,
						Body: `[{"contentType":"` + general + `","status":"enabled","webhook":` + webhook + `},{},null,7]`,
					})
				}
			}
			hook := &tenant.Webhook{Address: "https://elsewhere.example/hook", AuthID: "another's", Status: tenant.Enabled}
			for i, shape := range []func(){
				func() { sub(nil) },
				func() { sub(hook) },
				func() { s.tenant.Tune(func(k *tenant.Knobs) { k.ExpirationNull = true }) },
				func() { s.tenant.Tune(func(k *tenant.Knobs) { k.OmitWebhook = true }) },
				func() { s.tenant.Tune(func(k *tenant.Knobs) { k.OmitStatus = true }) },
				raw(`""`), raw(`{}`), raw(`[]`), raw(`{"address":7,"authId":null,"expiration":{},"status":[]}`),
			} {
				shape()
				s.tenant.Publish(general, time.Now(), recs(i*10, 5)...)
				s.later(time.Minute)
				s.process().mustTick() // starts
				s.reconciled(nil)
			}
			for _, line := range s.logLines("tick") {
				if line["outcome"] != "ok" {
					t.Errorf("a tick was %v: %v", line["outcome"], line["problems"])
				}
			}
			if n := s.tenant.Count(tenant.OpStart); n != 0 {
				t.Errorf("%d start calls for a subscription that is there", n)
			}
			if have := s.tenant.Subscriptions(); len(have) != 1 || !reflect.DeepEqual(have[0].Webhook, hook) {
				t.Errorf("the subscription is now %+v", have)
			}
		},
	},
}

// watch notes what p requests of others than the API and the account, and
// returns what it noted so far.
func watch(p *process) func() []string {
	var mu sync.Mutex
	var strangers []string
	p.die = func(_ int64, r *http.Request) (before, after bool) {
		switch r.URL.Scheme + "://" + r.URL.Host {
		case origin:
			if r.URL.User == nil && (r.URL.Path == "/"+tenant.DefaultID+"/oauth2/v2.0/token" ||
				strings.HasPrefix(r.URL.Path, "/api/v1.0/"+tenant.DefaultID+"/activity/feed/") ||
				strings.HasPrefix(r.URL.Path, "/api/v1/"+tenant.DefaultID+"/activity/feed/")) && !strings.HasSuffix(r.URL.Path, "/stop") {
				return false, false
			}
		case "https://fake.documents.example":
			return false, false
		}
		mu.Lock()
		defer mu.Unlock()
		strangers = append(strangers, r.Method+" "+r.URL.Redacted())
		return false, false
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(strangers)
	}
}
