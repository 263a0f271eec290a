package loss_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"activityarchive/handler/activity"
	"activityarchive/handler/host"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
	"activityarchive/webhook"
)

const (
	auditBase = origin + "/api/v1.0/" + tenant.DefaultID + "/activity/feed/audit/"
	// largest is the largest body that the webhook takes; slack is what may be
	// read beyond it before that is noticed.
	largest, slack = 1 << 20, 64 << 10
)

// knocking has a webhook that hears of nothing but what the row sends.
func knocking(o *options) { o.webhook, o.knobs.NotifyLoss = true, 1 }

var hostileRows = []row{
	{
		name: "X-hostile-door", what: "a request that the service does not send is believed, read whole, or costs its neighbours",
		set: knocking, test: hostileDoor,
	},
	{
		name: "X-hostile-authid", what: "a forged or absent AuthID opens the door, or the previous one does not",
		set: knocking, test: hostileAuthID,
	},
	{
		name: "X-hostile-uri", what: "a contentUri that looks like the service's gets the token",
		set: knocking, test: hostileURI,
	},
	{
		name: "X-hostile-ledger", what: "a contentUri that is in the ledger or a listing is followed unchecked",
		test: hostileLedger,
	},
	{
		name: "X-hostile-page", what: "the next page leads elsewhere",
		test: hostilePage,
	},
	{
		name: "X-hostile-body", what: "an odd method, media type, encoding or item breaks the door for its neighbours",
		set: knocking, test: hostileBody,
	},
	{
		name: "X-hostile-validation", what: "a validation that nobody asked for has an effect, or is reflected",
		set: knocking, test: hostileValidation,
	},
	{
		name: "X-hostile-flood", what: "thousands of forged calls fill the log or cost requests",
		set: knocking, test: hostileFlood,
	},
	{
		name: "X-hostile-host", what: "slow senders and endless bodies hold the process",
		set: knocking, test: hostileHost,
	},
	{
		name: "X-hostile-echo", what: "an answer that quotes the secrets of its request brings them into the log or an error",
		set: knocking,
		test: func(t *testing.T, s *system) {
			its := map[string]quote{
				"its token": func(r *http.Request, _ string) string { return "the header was: " + r.Header.Get("Authorization") },
				"its token alone": func(r *http.Request, _ string) string {
					return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				},
			}
			start := maps.Clone(its)
			maps.Copy(start, theAuthID)
			start["its body"] = func(_ *http.Request, body string) string { return body }
			hostileEcho(t, s, map[string]map[string]quote{
				"/subscriptions/list": its, "/subscriptions/start": start, "/subscriptions/content": its, "/audit/": its,
			})
		},
	},
	{
		name: "X-hostile-echo-list", what: "a list of subscriptions that is none, and quotes a webhook, brings its AuthID into the log",
		set: knocking,
		test: func(t *testing.T, s *system) {
			hostileEcho(t, s, map[string]map[string]quote{"/subscriptions/list": theAuthID})
		},
	},
	{
		name: "X-hostile-echo-cosmos", what: "Cosmos DB, or what stands before it, quotes the header with the signature",
		set: knocking, test: cosmosEcho,
	},
}

// reply is the door's answer, and how much of the body was read for it.
type reply struct {
	status int
	text   string
	read   int64
}

// knock sends a request to the door and checks what holds for every answer: it
// is short, and the body was not read beyond the limit. That it tells no secret
// is checked at the end of every row.
func (s *system) knock(name, method string, header http.Header, body io.Reader) reply {
	s.t.Helper()
	counted := &countingReader{r: body}
	r, err := http.NewRequestWithContext(context.Background(), method, address, counted)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header = header
	resp, err := s.door.RoundTrip(r)
	if err != nil {
		s.t.Errorf("%s: no answer: %v", name, err)
		return reply{}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
	if err != nil {
		s.t.Errorf("%s: reading the answer: %v", name, err)
	}
	got := reply{resp.StatusCode, string(text), counted.n.Load()}
	if len(text) > 200 || got.status == http.StatusOK && len(text) > 0 {
		s.t.Errorf("%s: status %d with a body of %d bytes", name, got.status, len(text))
	}
	if got.read > largest+slack {
		s.t.Errorf("%s: %d bytes of the body were read", name, got.read)
	}
	return got
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// asService is the header of a notification in order.
func asService() http.Header {
	return http.Header{"Content-Type": {"application/json; utf-8"}, "Webhook-Authid": {authID}}
}

// neighbour publishes a content in order.
func (s *system) neighbour() tenant.Content {
	n := len(s.tenant.Contents())
	return s.tenant.Publish(general, time.Now(), recs(n*10, 3)...)
}

// item is a content as a notification shows it.
func item(c tenant.Content) map[string]string {
	const form = "2006-01-02T15:04:05.000Z"
	return map[string]string{
		"tenantId": tenant.DefaultID, "clientId": tenant.DefaultAppID, "contentType": c.Type,
		"contentId": c.ID, "contentUri": c.URI,
		"contentCreated": c.Created.Format(form), "contentExpiration": c.Expires.Format(form),
	}
}

// array is the JSON array of items, which are encoded unless they are text.
func array(items ...any) string {
	texts := make([]string, len(items))
	for i, it := range items {
		if text, ok := it.(string); ok {
			texts[i] = text
			continue
		}
		b, _ := json.Marshal(it) // maps of strings
		texts[i] = string(b)
	}
	return "[" + strings.Join(texts, ",") + "]"
}

// told checks that the ledger holds exactly the good contents, each as its
// notification brought it and already archived.
func (s *system) told(good []string) {
	s.t.Helper()
	s.later(time.Minute) // the webhook's share of the quota is small
	var got []string
	for _, e := range s.entries() {
		got = append(got, e.ContentID)
		if e.Found != ledger.ByWebhook || e.State != ledger.Stored || e.ContentURI != auditBase+e.ContentID {
			s.t.Errorf("content %s: found by %s, %s, at %s", e.ContentID, e.Found, e.State, e.ContentURI)
		}
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(good)); !slices.Equal(got, want) {
		s.t.Errorf("the ledger has %q, want %q", got, want)
	}
}

// nothingLeft checks that no request went to anybody but the API and the account,
// and that each of the good contents, and nothing else, was asked for once.
func (s *system) nothingLeft(strangers []string, good []string) {
	s.t.Helper()
	if len(strangers) > 0 {
		s.t.Errorf("requests went to %q", strangers)
	}
	asked := s.fetches()
	for _, id := range good {
		if asked[id] != 1 {
			s.t.Errorf("content %s was asked for %d times", id, asked[id])
		}
		delete(asked, id)
	}
	if len(asked) > 0 {
		s.t.Errorf("what is no content was asked for: %v", asked)
	}
	if n := s.tenant.Count(tenant.OpStop); n > 0 {
		s.t.Errorf("%d stop calls", n)
	}
}

func hostileDoor(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	wants := map[string]int{
		"no AuthID": 401, "forged AuthID": 401, "AuthID in another case": 401, "validation with a forged AuthID": 401,
		"an object": 400, "empty": 400, "no JSON": 400, "cut short": 400,
		"validation without its header": 400, "validation with two codes": 400,
		"100,000 items": 413, "1 GiB": 413, "compressed": 415,
	}
	first := s.neighbour()
	good := []string{}
	for _, h := range s.tenant.Hostile(authID, first) {
		header := http.Header{"Content-Type": {"application/json; utf-8"}}
		for name, values := range h.Header {
			header[http.CanonicalHeaderKey(name)] = values
		}
		if h.AuthID != "" {
			header.Set("Webhook-AuthID", h.AuthID)
		}
		body := h.Body()
		if len(h.Keeps) > 0 { // each bad item has a good one of its own beside it
			c := s.neighbour()
			raw, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			body = bytes.NewReader(bytes.ReplaceAll(raw, []byte(first.ID), []byte(c.ID)))
			good = append(good, c.ID)
		}
		want := http.StatusOK
		if status, ok := wants[h.Name]; ok {
			want = status
			delete(wants, h.Name)
		} else if len(h.Keeps) == 0 && h.Name != "array of other things" && h.Name != "nested too deep" { // which are arrays, of nothing good
			t.Errorf("%s: this row knows nothing of it", h.Name)
		}
		before, known := p.calls.Load(), len(s.entries())
		got := s.knock(h.Name, http.MethodPost, header, body)
		if got.status != want {
			t.Errorf("%s: status %d (%s), want %d", h.Name, got.status, got.text, want)
		}
		if want == 401 || want == 415 {
			if got.read > 0 {
				t.Errorf("%s: %d bytes were read of a stranger's body", h.Name, got.read)
			}
		}
		s.later(time.Second)
		if want != http.StatusOK && (p.calls.Load() != before || len(s.entries()) != known) {
			t.Errorf("%s: a refused call led to %d requests, and to %d entries", h.Name, p.calls.Load()-before, len(s.entries())-known)
		}
	}
	if len(wants) > 0 || len(good) < 20 {
		t.Errorf("%v were not tried, and only %d bad items were", wants, len(good))
	}
	for _, e := range s.entries() {
		if strings.HasSuffix(e.ContentID, "$hostile") {
			t.Errorf("a hostile item is in the ledger: %s at %s", e.ContentID, e.ContentURI)
		}
	}
	s.told(good)
	p.ticks(2)
	s.nothingLeft(strangers(), append(good, first.ID))
	s.reconciled(nil)
}

func hostileAuthID(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	// The same door, with the AuthID from before a change still accepted.
	p.hook = webhook.New(webhook.Config{
		AuthIDs: []string{authID, previousAuthID}, TenantID: tenant.DefaultID, ContentTypes: s.opts.types,
		API: p.timer.API, Ledger: p.ledger, Collector: p.timer.Collector, Logger: p.timer.Logger,
	})
	s.door.set(p.hook)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.hook.Run(ctx)
	var good []string
	for _, tt := range []struct {
		name string
		sent []string
		want int
	}{
		{"current", []string{authID}, 200},
		{"previous", []string{previousAuthID}, 200},
		{"none", nil, 401},
		{"empty", []string{""}, 401},
		{"a space", []string{" "}, 401},
		{"a prefix", []string{authID[:len(authID)-1]}, 401},
		{"one more character", []string{authID + "1"}, 401},
		{"both in one", []string{authID + previousAuthID}, 401},
		{"both in a list", []string{authID + ", " + previousAuthID}, 401},
		{"upper case", []string{strings.ToUpper(authID)}, 401},
		{"the previous in another case", []string{strings.ToUpper(previousAuthID)}, 401},
		{"escaped", []string{url.QueryEscape(previousAuthID)}, 401},
		{"with a zero byte", []string{authID + "\x00"}, 401},
		{"look-alike letter", []string{strings.Replace(authID, "a", "\u0430", 1)}, 401},
		{"a forged one first", []string{"forged", authID}, 401},
		{"a mebibyte", []string{strings.Repeat("x", 1<<20)}, 401},
		{"redacted", []string{"[redacted]"}, 401},
	} {
		c := s.neighbour()
		if tt.want == http.StatusOK {
			good = append(good, c.ID)
		}
		for _, validation := range []bool{false, true} {
			header, body := asService(), array(item(c))
			if validation {
				header.Set("Webhook-ValidationCode", "synthetic")
				body = `{"validationCode":"synthetic"}`
			}
			delete(header, "Webhook-Authid")
			if tt.sent != nil {
				header["Webhook-Authid"] = tt.sent
			}
			before := p.calls.Load()
			got := s.knock(tt.name, http.MethodPost, header, strings.NewReader(body))
			if got.status != tt.want {
				t.Errorf("%s (validation: %v): status %d (%s), want %d", tt.name, validation, got.status, got.text, tt.want)
			}
			if tt.want != http.StatusOK && (got.read > 0 || p.calls.Load() != before) {
				t.Errorf("%s: %d bytes read and %d requests made for a stranger", tt.name, got.read, p.calls.Load()-before)
			}
		}
		s.later(time.Second)
	}
	// An AuthID elsewhere is none.
	for _, body := range []string{`{"Webhook-AuthID":"` + authID + `","validationCode":"x"}`, array(map[string]string{"authId": authID})} {
		header := http.Header{"Authorization": {authID}, "Cookie": {"Webhook-AuthID=" + authID}, "Webhook_authid": {authID}, "Webhook-Validationcode": {"x"}}
		if got := s.knock("AuthID elsewhere", http.MethodPost, header, strings.NewReader(body)); got.status != 401 || got.read > 0 {
			t.Errorf("AuthID elsewhere: status %d after %d bytes", got.status, got.read)
		}
	}
	s.told(good)
	p.ticks(2)
	var all []string
	for _, c := range s.tenant.Contents() {
		all = append(all, c.ID)
	}
	s.nothingLeft(strangers(), all) // the listing finds what was refused
	s.reconciled(nil)
}

// strangeURIs are contentUris that lead elsewhere, or could. Most end in id.
func strangeURIs(id string) map[string]string {
	path := "/api/v1.0/" + tenant.DefaultID + "/activity/feed/audit/" + id
	other := "7a10c0de-00ff-4000-8000-0000000000ff"
	uris := map[string]string{}
	for _, host := range []string{
		"manage.\u043effice.com", "manage\uff0eoffice.com", "manage\u3002office.com", "manage.of\u00adfice.com", "manage.xn--ffice-0ye.com",
		"manage%2eoffice.com", "manage.office.com%00.attacker.example", "manage.office.com%2f.attacker.example", "manage.office.com%23.attacker.example",
		"x.manage.office.com", "xmanage.office.com", "manage-office.com", "office.com", "manage.office.com.", "manage.office.co", "manage.office365.us",
		"manage.office.com:443@attacker.example", "@manage.office.com", ":@manage.office.com", "a:b@manage.office.com", "attacker.example#@manage.office.com",
		`attacker.example\@manage.office.com`, `manage.office.com\.attacker.example`, "attacker.example?manage.office.com", "attacker.example;manage.office.com",
		"manage.office.com:0443", "manage.office.com:", "manage.office.com:80", "manage.office.com:8443", "manage.office.com:443:443",
		"169.254.169.254", "127.0.0.1", "[::1]", "[::ffff:169.254.169.254]", "[::1%25manage.office.com]", "2130706433", "0x7f.1", "localhost", "",
		"manage.office.com,attacker.example", "manage.office.com attacker.example", "manage.office.com\tattacker.example", "manage.office.com\r\nHost: attacker.example",
	} {
		uris["host "+host] = "https://" + host + path
	}
	for _, start := range []string{
		"http://manage.office.com", "HTTP://manage.office.com", "ftp://manage.office.com", "file:///manage.office.com", "gopher://manage.office.com", "data:",
		"https:manage.office.com", "https:/manage.office.com", "https:///manage.office.com", `https:\\manage.office.com`, "https//manage.office.com",
		"ht\ttps://manage.office.com", " https://manage.office.com", "\ufeffhttps://manage.office.com", "//manage.office.com", "manage.office.com", "",
		"https+unix://manage.office.com", "view-source:https://manage.office.com", "https:https://manage.office.com", "javascript://manage.office.com",
	} {
		uris["start "+start] = start + path
	}
	for _, step := range []string{
		"..", "../..", "%2e%2e", ".%2e", "%2E%2E", "%252e%252e", "%25252e%25252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%uff0e%uff0e", "\uff0e\uff0e", "%ef%bc%8e%ef%bc%8e",
		"..;", "..%00", "..%09", "..%20", "%00", ".", "%2e", "", "%2f", "%5c", `\`, "..%5c", `..\`, "%5c..", "x%2f..", "x%252f..", "..%c0%af", "..%2f..%2f" + other,
		"x;y", "x?y", "x%3f", "x#", "x%23", "%", "%zz", "%0d%0aX-Injected:%20yes",
	} {
		uris["step "+step] = auditBase + step + "/" + id
	}
	for _, last := range []string{
		"..", "%2e%2e", ".%2e", ".x", "%2ex", "%2e%2e%2fsubscriptions%2fstop", "a%2fb", "a%5cb", "a%252fb", "a%3fb", "a%23b", "a%00b", "a%0d%0ab", "%c0%ae", "%c3%a9",
		"", "a^b", "a|b", "a{b}", "a`b",
	} {
		uris["last "+last] = auditBase + last
	}
	for name, edit := range map[string]func(string) string{
		"other tenant":              func(u string) string { return strings.Replace(u, tenant.DefaultID, other, 1) },
		"tenant with an escape":     func(u string) string { return strings.Replace(u, tenant.DefaultID, "%37"+tenant.DefaultID[1:], 1) },
		"tenant with braces":        func(u string) string { return strings.Replace(u, tenant.DefaultID, "%7b"+tenant.DefaultID+"%7d", 1) },
		"other tenant by a step":    func(u string) string { return strings.Replace(u, tenant.DefaultID, tenant.DefaultID+"/../"+other, 1) },
		"version 2":                 func(u string) string { return strings.Replace(u, "v1.0", "v2.0", 1) },
		"version with an escape":    func(u string) string { return strings.Replace(u, "v1.0", "v1%2e0", 1) },
		"subscriptions":             func(u string) string { return strings.Replace(u, "/audit/", "/subscriptions/", 1) },
		"collection with an escape": func(u string) string { return strings.Replace(u, "/audit/", "/%61udit/", 1) },
		"double slash":              func(u string) string { return strings.Replace(u, "/api", "//api", 1) },
		"authority in the path":     func(u string) string { return strings.Replace(u, "/api", "//attacker.example/api", 1) },
		"fragment":                  func(u string) string { return strings.Replace(u, "/api", "#/api", 1) },
		"matrix":                    func(u string) string { return strings.Replace(u, "/feed", ";x=y/feed", 1) },
		"too long":                  func(u string) string { return u + "?x=" + strings.Repeat("y", 16<<10) },
	} {
		uris[name] = edit(auditBase + id)
	}
	return uris
}

func hostileURI(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	var c tenant.Content
	var good []string
	uris := strangeURIs("x$1")
	for i, name := range slices.Sorted(maps.Keys(uris)) {
		if i%10 == 0 { // the webhook's share of the quota is small
			c = s.neighbour()
			good = append(good, c.ID)
		}
		bad := item(c)
		bad["contentId"], bad["contentUri"] = "x$1", uris[name]
		if u, err := url.Parse(uris[name]); err == nil && strings.HasPrefix(name, "last ") { // else this alone would refuse it
			bad["contentId"] = u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		}
		got := s.knock(name, http.MethodPost, asService(), strings.NewReader(array(bad, item(c), bad)))
		if got.status != http.StatusOK {
			t.Errorf("%s: status %d (%s), want 200: its neighbour is in order", name, got.status, got.text)
		}
		synctest.Wait()
		if slices.ContainsFunc(s.entries(), func(e ledger.Entry) bool { return !slices.Contains(good, e.ContentID) }) {
			t.Errorf("%s: %q is in the ledger", name, uris[name])
			break // all further ones would report it
		}
	}
	s.told(good)
	p.ticks(2)
	s.nothingLeft(strangers(), good)
	s.reconciled(nil)
}

// hostileLedger has no door: the contentUris stand in the ledger already, or come
// from the listing.
func hostileLedger(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	var good []string
	var planted []ledger.Entry
	uris := strangeURIs("x$1")
	delete(uris, "step x?y") // a query: it leads to the service, to a content x
	for i, name := range slices.Sorted(maps.Keys(uris)) {
		planted = append(planted, ledger.NewEntry(general, fmt.Sprintf("planted$%d", i), uris[name], time.Now(), time.Time{}, ledger.ByListing, time.Now()))
	}
	if _, err := p.ledger.Record(t.Context(), planted); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		good = append(good, s.neighbour().ID)
	}
	// And the listing spells three contents badly.
	spoilt := map[string]string{}
	for _, uri := range []string{"https://attacker.example/x", "http://manage.office.com/x", auditBase + "%2e%2e/subscriptions/stop"} {
		c := s.neighbour()
		spoilt[c.ID] = uri
	}
	s.tenant.Tune(func(k *tenant.Knobs) {
		k.ItemEdit = func(it map[string]any) {
			if id, ok := it["contentId"].(string); ok && spoilt[id] != "" {
				it["contentUri"] = spoilt[id]
			}
		}
	})
	s.later(5 * time.Minute)
	for range 3 {
		if err := p.tick(); err != nil {
			t.Errorf("tick: %v", err)
		}
		s.later(time.Hour)
	}
	for _, id := range good {
		if e := s.entryOf(id); e.State != ledger.Stored {
			t.Errorf("content %s, a good neighbour, is %s", id, e.State)
		}
	}
	bad := 0
	for _, e := range s.entries() {
		if !slices.Contains(good, e.ContentID) {
			bad++
			if e.State != ledger.Pending || e.Reason == "" {
				t.Errorf("content %s at %q is %s (%s)", e.ContentID, e.ContentURI, e.State, e.Reason)
			}
		}
	}
	if bad != len(uris)+len(spoilt) {
		t.Errorf("%d contents are left open, want %d", bad, len(uris)+len(spoilt))
	}
	s.nothingLeft(strangers(), good)
	open := map[string]bool{}
	for id := range spoilt {
		open[id] = true
	}
	s.reconciledBut(open)
}

func hostilePage(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	pages := map[string]string{}
	for name, uri := range strangeURIs("content?contentType=" + general + "&nextPage=1") {
		pages[name] = strings.Replace(uri, "/audit/", "/subscriptions/", 1)
	}
	delete(pages, "subscriptions") // which is where it leads anyway
	delete(pages, "collection with an escape")
	listing := strings.TrimSuffix(auditBase, "audit/") + "subscriptions/"
	for name, uri := range map[string]string{
		"another operation": listing + "stop?contentType=" + general,
		"escaped operation": listing + "%73top?contentType=" + general,
		"another type":      listing + "content?contentType=Audit.Exchange&nextPage=1",
		"type twice":        listing + "content?contentType=" + general + "&ContentType=Audit.Exchange&nextPage=1",
		"type escaped":      listing + "content?%63ontentType=Audit.Exchange&nextPage=1",
		"a content":         auditBase + "x$1",
		"huge":              listing + "content?nextPage=" + strings.Repeat("x", 1<<20),
		"no URL":            "next",
	} {
		pages[name] = uri
	}
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		header := "NextPageUri"
		if len(name)%2 == 0 {
			header = "NextPageUrl"
		}
		c := s.neighbour()
		rule := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Header: http.Header{header: {pages[name]}}})
		s.later(time.Minute)
		before := s.tenant.Count(tenant.OpUnknown)
		if err := p.tick(); err == nil {
			t.Errorf("%s: the listing passes for complete", name)
		}
		for _, r := range s.tenant.Requests()[before:] {
			if strings.Contains(r.RawQuery, "nextPage=") || r.Op == tenant.OpStop || r.Op == tenant.OpUnknown || r.ContentType != "" && r.ContentType != general {
				t.Errorf("%s: it was followed: %s %s?%s", name, r.Method, r.Path, r.RawQuery)
			}
		}
		if head, err := p.ledger.Head(t.Context(), general); err != nil || head.ListedTo.After(c.Created) {
			t.Errorf("%s: the mark moved to %v over what was not listed (%v)", name, head.ListedTo, err)
		}
		rule.Remove()
		s.later(time.Minute)
		p.mustTick()
	}
	if list := strangers(); len(list) > 0 {
		t.Errorf("requests went to %q", list)
	}
	s.reconciled(nil)
}

func hostileBody(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	var good []string
	honest := func() string {
		c := s.neighbour()
		good = append(good, c.ID)
		return array(item(c))
	}
	deliver := func(name string, want int, header http.Header, method, body string) {
		t.Helper()
		got := s.knock(name, method, header, strings.NewReader(body))
		if got.status != want {
			t.Errorf("%s: status %d (%s), want %d", name, got.status, got.text, want)
		}
		if (want == 405 || want == 415) && got.read > 0 {
			t.Errorf("%s: %d bytes read of what is refused unread", name, got.read)
		}
		s.later(2 * time.Second)
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "BREW"} {
		deliver("method "+method, 405, asService(), method, "[]")
	}
	// The media type is not looked at: the service's own is malformed.
	for _, media := range []string{"text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ";;;", "\x01", "application/json; charset=utf-16", strings.Repeat("x", 1<<16)} {
		header := asService()
		header.Set("Content-Type", media)
		deliver("type "+media[:min(len(media), 40)], 200, header, "POST", honest())
	}
	pack := func(text string) string {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = io.WriteString(w, text) // into memory
		_ = w.Close()
		return packed.String()
	}
	for _, encoding := range []string{"gzip", "GZIP", "deflate", "br", "zstd", "compress", "x-gzip", "identity, gzip", "gzip, identity", "none", " "} {
		header := asService()
		header["Content-Encoding"] = []string{encoding}
		deliver("encoding "+encoding, 415, header, "POST", pack(strings.Repeat(" ", 1<<24)+array(item(s.tenant.Contents()[0]))))
	}
	bomb := pack(strings.Repeat(" ", 64<<20))
	deliver("compressed, and silent about it", 400, asService(), "POST", bomb)
	second := asService()
	second["Content-Encoding"] = []string{"identity", "gzip"}
	deliver("compressed by a second header", 400, second, "POST", bomb)

	// Without a contentCreated its place in the ledger is unknown: the listing
	// brings it. A contentExpiration is no such matter.
	undated, dated := item(s.neighbour()), s.neighbour()
	undated["contentCreated"] = "yesterday"
	good = append(good, dated.ID)
	it := item(dated)
	it["contentExpiration"] = "never"
	deliver("dates that are none", 200, asService(), "POST", array(undated, it))

	// Bad items before and behind a good one.
	field := func(name, raw string) string {
		it := item(s.tenant.Contents()[0])
		it["contentId"] += "$hostile"
		it["contentUri"] = auditBase + it["contentId"]
		delete(it, name)
		text := array(it)
		return text[1:len(text)-2] + `,"` + name + `":` + raw + "}"
	}
	for _, bad := range []string{
		"null", "true", "0", "-1e999", `"text"`, "[]", "{}", "[[[]]]", `{"":""}`, `"\ud800"`, `{"contentId":"x"}`,
		strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		`{"x":` + strings.Repeat(`{"x":`, 9000) + "1" + strings.Repeat("}", 9001),
		field("contentId", "7"), field("contentId", "null"), field("contentId", `{"a":1}`), field("contentId", `["x"]`),
		field("contentId", `"../x"`), field("contentId", `"\u0000"`), field("contentId", `"\ud800"`), field("contentId", `"`+strings.Repeat("x", 1<<19)+`"`),
		field("contentUri", "7"), field("contentUri", "null"), field("contentUri", `""`), field("contentUri", `"`+auditBase+`"`),
		field("contentUri", `"`+auditBase+`another$1"`), field("contentUri", `"`+auditBase+strings.Repeat("x", 1<<19)+`"`),
		field("contentUri", `"`+auditBase+`x","ContentUri":"https://attacker.example/x","CONTENTURI":"https://attacker.example/y"`),
		strings.Replace(field("contentUri", `"`+auditBase+strings.Repeat("x", 3000)+`"`), `"contentId":"`, `"contentId":"`+strings.Repeat("x", 3000)+`","x":"`, 1),
		strings.Replace(field("contentUri", `"`+auditBase+`$IsFromNotification"`), `"contentId":"`, `"contentId":"","x":"`, 1),
		field("contentType", `"Audit.General "`), field("contentType", "null"), field("contentType", `"../../x"`),
		field("tenantId", "null"), field("tenantId", `"*"`), field("clientId", "null"), field("clientId", `""`),
		"{\"contentId\":\"\xff\xfe\"}", strings.TrimSuffix(strings.Repeat("7,", 100_000), ","),
	} {
		c := s.neighbour()
		good = append(good, c.ID)
		items := []any{bad, item(c)}
		if len(bad) < largest/4 {
			items = append(items, bad)
		}
		deliver("item "+bad[:min(len(bad), 60)], 200, asService(), "POST", array(items...))
	}
	// As many items as fit, the last of them in order.
	c := s.neighbour()
	good = append(good, c.ID)
	tail := array(item(c))
	deliver("items to the limit", 200, asService(), "POST", "["+strings.Repeat("{},", (largest-len(tail))/3)+tail[1:])

	// What is no JSON at all is refused whole, its good items with it: the service
	// sends it again, and the listing finds them.
	for name, body := range map[string]string{
		"nested beyond 10,000": array(strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000), item(s.neighbour())),
		"a comma too many":     strings.TrimSuffix(array(item(s.neighbour())), "]") + ",]",
		"two arrays":           array(item(s.neighbour())) + array(item(s.neighbour())),
		"no end":               strings.TrimSuffix(array(item(s.neighbour())), "]"),
		"not a number":         "[NaN," + array(item(s.neighbour()))[1:],
		"a comment":            "/**/" + array(item(s.neighbour())),
		"UTF-16":               "\xff\xfe[\x00]\x00",
		"one byte too many":    "[" + strings.Repeat(" ", largest-1) + "]",
	} {
		want := 400
		if len(body) > largest {
			want = 413
		}
		deliver(name, want, asService(), "POST", body)
	}
	s.told(good)
	p.ticks(2)
	var all []string
	for _, c := range s.tenant.Contents() {
		all = append(all, c.ID)
	}
	s.nothingLeft(strangers(), all)
	s.reconciled(nil)
}

func hostileValidation(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	starts := s.tenant.Count(tenant.OpStart)
	subscriptions := s.tenant.Subscriptions()
	calls := p.calls.Load()
	for _, tt := range []struct {
		header, body string
		want         int
	}{
		{"synthetic-code", `{"validationCode":"synthetic-code"}`, 200}, // asked for or not, it tells and does nothing
		{"synthetic-code", `{"validationCode":"synthetic-code","validationCode":"other"}`, 400},
		{"synthetic-code", `{"validationCode":"Synthetic-code"}`, 400},
		{"synthetic-code", `{"validationCode":["synthetic-code"]}`, 400},
		{"synthetic-code", `{"validationCode":null}`, 400},
		{"synthetic-code", `{}`, 400},
		{"", `{}`, 400},
		{"", `{"validationCode":""}`, 400},
		{"", `{"validationCode":"synthetic-code"}`, 400},
		{"synthetic-code", `{"validationCode":"synthetic-code"`, 400},
		{"synthetic-code", "", 400},
		{"synthetic-code", "synthetic-code", 400},
		{"<script>alert(1)</script>", `{"validationCode":"<script>alert(1)</script>"}`, 200},
		{strings.Repeat("x", 1<<19), `{"validationCode":"` + strings.Repeat("x", 1<<19) + `"}`, 200},
		{strings.Repeat("x", 1<<20), `{"validationCode":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
		{"1", strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001), 400},
	} {
		header := asService()
		header.Set("Webhook-ValidationCode", tt.header)
		name := fmt.Sprintf("code %.30q, body %.60q", tt.header, tt.body)
		got := s.knock(name, http.MethodPost, header, strings.NewReader(tt.body))
		if got.status != tt.want {
			t.Errorf("%s: status %d (%s), want %d", name, got.status, got.text, tt.want)
		}
		if strings.Contains(got.text, "synthetic-code") || strings.Contains(got.text, "script") {
			t.Errorf("%s: the answer reflects it: %s", name, got.text)
		}
	}
	s.later(time.Minute)
	if n := p.calls.Load() - calls; n != 0 {
		t.Errorf("validations led to %d requests", n)
	}
	if strings.Contains(s.log.String(), "<script") || strings.Contains(s.log.String(), "synthetic-code") {
		t.Error("the log quotes a validation")
	}
	p.ticks(2)
	if n := s.tenant.Count(tenant.OpStart); n != starts || !reflect.DeepEqual(s.tenant.Subscriptions(), subscriptions) {
		t.Errorf("%d start calls, want %d; subscriptions %+v", n, starts, s.tenant.Subscriptions())
	}
	s.nothingLeft(strangers(), nil)
	s.reconciled(nil)
}

func hostileFlood(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	const flood = 2000
	calls, tokens, size := p.calls.Load(), s.tenant.Count(tenant.OpToken), len(s.log.String())
	forged := asService()
	forged.Set("Webhook-AuthID", "forged")
	for range flood {
		got := s.knock("forged", http.MethodPost, forged, io.LimitReader(endless{}, 1<<30))
		if got.status != http.StatusUnauthorized || got.read > 0 {
			t.Errorf("status %d after %d bytes", got.status, got.read)
			break
		}
	}
	foreign := item(s.neighbour())
	foreign["contentUri"] = "https://attacker.example/x"
	many := array(slices.Repeat([]any{foreign}, 1000)...)
	for range 10 {
		if got := s.knock("foreign", http.MethodPost, asService(), strings.NewReader(many)); got.status != http.StatusOK {
			t.Errorf("status %d", got.status)
		}
	}
	// To know its own application the product looks at its token, which the row's
	// credential, other than a real one, does not cache.
	if n, own := int(p.calls.Load()-calls), s.tenant.Count(tenant.OpToken)-tokens; n != own || own > 10 {
		t.Errorf("the flood led to %d requests, %d of them for a token", n, own)
	}
	if n := len(s.log.String()) - size; n > 4<<10 {
		t.Errorf("the flood wrote %d bytes to the log", n)
	}
	s.later(time.Minute)
	s.knock("forged", http.MethodPost, forged, strings.NewReader(""))
	lines := s.logLines("webhook call refused")
	// The first was the product's own look at whether its address answers.
	if len(lines) != 2 || lines[1]["refusedSoFar"] != float64(1+flood+1) {
		t.Errorf("the log has %v", lines)
	}
	if lines := s.logLines("notification with items that are not for us"); len(lines) != 1 {
		t.Errorf("the log has %v", lines)
	}
	c := s.neighbour()
	if got := s.knock("good", http.MethodPost, asService(), strings.NewReader(array(item(c)))); got.status != http.StatusOK {
		t.Errorf("after the flood a notification is answered %d", got.status)
	}
	s.told([]string{c.ID})
	p.ticks(2)
	if list := strangers(); len(list) > 0 {
		t.Errorf("requests went to %q", list)
	}
	s.reconciled(nil)
}

// endless reads as white space without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// hostileHost speaks HTTP with the process as the Functions host does.
func hostileHost(t *testing.T, s *system) {
	p := s.process()
	strangers := watch(p)
	p.mustTick()
	line := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewJSONHandler(s.log, nil))
	server := host.Server{
		Webhook: p.hook, TickTimeout: tickTime, Logger: log,
		Tick: func(ctx context.Context, inv host.Invocation) (string, error) { return p.timer.Tick(ctx, inv.ID) },
	}
	served := make(chan error, 1)
	go func() { served <- host.Serve(ctx, line, server.Handler(ctx), log) }()
	pool := &http.Transport{DialContext: line.dial}
	transport := recorder{pool, s.said}
	defer func() {
		pool.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	}()

	// A hundred senders give a byte every few seconds; a hundred more do not even
	// get through their header.
	const many = 100
	head := "POST /api/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nWebhook-AuthID: " + authID + "\r\nContent-Length: 1000\r\n"
	var slow sync.WaitGroup
	var held, status [2 * many]atomic.Int64
	began := time.Now()
	for i := range 2 * many {
		start := head + "\r\n["
		if i >= many {
			start = head + "X-Slow: "
		}
		slow.Go(func() {
			conn, err := line.dial(t.Context(), "", "")
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer conn.Close()
			go func() { // ends with the connection
				_, err := io.WriteString(conn, start)
				for err == nil {
					time.Sleep(3 * time.Second)
					_, err = io.WriteString(conn, " ")
				}
			}()
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				status[i].Store(int64(resp.StatusCode))
				_, _ = io.Copy(s.said, resp.Body) // until the connection ends
				_ = resp.Body.Close()
			}
			held[i].Store(int64(time.Since(began)))
		})
	}
	time.Sleep(time.Second)
	post := func(path, body string, header http.Header) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return 0, ""
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return resp.StatusCode, string(text)
	}
	var good []string
	notify := func() string {
		c := s.neighbour()
		good = append(good, c.ID)
		return array(item(c))
	}
	at := time.Now()
	if got, text := post("/api/webhook", notify(), asService()); got != 200 || time.Since(at) > time.Second {
		t.Errorf("between slow senders a notification is answered %d (%s) after %v", got, text, time.Since(at))
	}
	p.mustTick()
	slow.Wait()
	for i := range held {
		limit, want := 31*time.Second, int64(400)
		if i >= many {
			limit, want = 11*time.Second, 0
		}
		if d := time.Duration(held[i].Load()); d > limit+3*time.Second || status[i].Load() != want && i < many {
			t.Errorf("slow sender %d was held for %v and got %d", i, d, status[i].Load())
			break
		}
	}

	// Bodies of 1 GiB, by both ways in, known in length and not.
	for _, tt := range []struct {
		path, start string
		authID      string
		limit       int64
		want        int
	}{
		{"/api/webhook", "[", authID, largest, 413},
		{"/api/webhook", "[", "forged", 0, 401},
		{"/webhook", `{"Data":{"req":{"Body":"`, authID, 4 << 20, 413},
		{"/timer", `{"Data":{"t":"`, authID, 256 << 10, 413},
		{"/nowhere", "[", authID, 0, 404},
	} {
		for _, length := range []int64{1 << 30, -1} {
			body := &countingReader{r: io.MultiReader(strings.NewReader(tt.start), io.LimitReader(endless{}, 1<<30-int64(len(tt.start))))}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1"+tt.path, io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header, r.ContentLength = asService(), length
			r.Header.Set("Webhook-AuthID", tt.authID)
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Errorf("%s, length %d: %v", tt.path, length, err)
			} else {
				if _ = resp.Body.Close(); resp.StatusCode != tt.want {
					t.Errorf("%s, length %d: status %d, want %d", tt.path, length, resp.StatusCode, tt.want)
				}
			}
			// net/http reads some times 256 KiB more to keep a connection, and both
			// ends buffer.
			if n := body.n.Load(); n > tt.limit+1<<20 {
				t.Errorf("%s, length %d: %d bytes of 1 GiB were taken", tt.path, length, n)
			}
		}
	}

	// The webhook in an envelope is the same door.
	for _, tt := range []struct {
		name, body string
		authID     string
		want       int
	}{
		{"good", notify(), authID, 200},
		{"previous, not accepted here", "[]", previousAuthID, 401},
		{"2 MiB", "[" + strings.Repeat(" ", 2<<20) + "]", authID, 413},
		{"nested", strings.Repeat("[", 10_000), authID, 400},
	} {
		envelope, err := json.Marshal(map[string]any{
			"Data": map[string]any{"req": map[string]any{
				"Url": address, "Method": "POST", "Headers": map[string][]string{"Webhook-AuthID": {tt.authID}}, "Body": tt.body,
			}},
			"Metadata": map[string]any{"Headers": map[string]string{"Webhook-AuthID": authID}},
		})
		if err != nil {
			t.Fatal(err)
		}
		status, text := post("/webhook", string(envelope), http.Header{"Content-Type": {"application/json"}})
		var answer struct {
			Outputs struct {
				Res struct{ StatusCode int } `json:"res"`
			}
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || status != 200 || answer.Outputs.Res.StatusCode != tt.want {
			t.Errorf("envelope %s: status %d, inside %d, want %d (%v)", tt.name, status, answer.Outputs.Res.StatusCode, tt.want, err)
		}
	}
	for _, broken := range []string{"", "[]", "null", "{}", `{"Data":[]}`, `{"Data":{"req":7}}`, strings.Repeat("[", 20_000), "\xff"} {
		if status, text := post("/webhook", broken, http.Header{}); status/100 != 4 && !strings.Contains(text, "401") {
			t.Errorf("envelope %.20q: status %d (%s)", broken, status, text)
		}
	}
	s.told(good)
	p.ticks(2)
	s.nothingLeft(strangers(), good)
	s.reconciled(nil)
}

// tokenScope is what the product asks a token for.
func tokenScope() policy.TokenRequestOptions {
	return policy.TokenRequestOptions{Scopes: []string{tenant.DefaultAudience + "/.default"}}
}

// echo is a transport that, while it is armed, answers requests for a path with
// what they said.
type echo struct {
	next   http.RoundTripper
	mu     sync.Mutex
	path   string // "": not armed
	status int
	code   string
	quote  quote
	said   []string // the tokens and signatures seen since the last look
	hits   int
}

func (e *echo) RoundTrip(r *http.Request) (*http.Response, error) {
	e.note(r)
	e.mu.Lock()
	if e.path == "" || !strings.Contains(r.URL.Path, e.path) {
		e.mu.Unlock()
		return e.next.RoundTrip(r)
	}
	defer e.mu.Unlock()
	e.hits++
	var sent []byte
	if r.Body != nil {
		sent, _ = io.ReadAll(r.Body)
		_ = r.Body.Close()
	}
	text := e.quote(r, string(sent))
	raw, _ := json.Marshal(map[string]any{
		"error": map[string]string{"code": e.code, "message": text}, "Message": text, "contentType": text, "webhook": map[string]string{"authId": text},
	})
	header := http.Header{"Content-Type": {text}, "Mise-Correlation-Id": {text}, "Location": {"https://attacker.example/?" + url.QueryEscape(text)}}
	return &http.Response{StatusCode: e.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: io.NopCloser(bytes.NewReader(raw)), ContentLength: -1, Request: r}, nil
}

// note remembers the secret that a request carries, whole and in its parts.
func (e *echo) note(r *http.Request) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	token, ok := strings.CutPrefix(header, "Bearer ")
	if e.said = append(e.said, token); ok {
		e.said = append(e.said, strings.Split(token, ".")...)
	} else if _, signature, ok := strings.Cut(token, "sig%3D"); ok {
		e.said = append(e.said, signature)
	}
}

// taken returns what note remembers, and forgets it.
func (e *echo) taken() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := append(secrets(), e.said...)
	e.said = nil
	return list
}

// quote makes the text of an answer from its request and that one's body.
type quote func(r *http.Request, body string) string

var theAuthID = map[string]quote{
	"the AuthID":          func(*http.Request, string) string { return "subscription with authId " + authID },
	"the AuthID, escaped": func(*http.Request, string) string { return "authId=" + url.QueryEscape(authID) },
	"the AuthID, split":   func(*http.Request, string) string { return authID[:9] + "\u200b" + authID[9:] },
}

// echoing is a process whose answers an echo can give. tick runs a tick and
// checks what it tells and logs.
func (s *system) echoing() (e *echo, tick func(where string)) {
	s.t.Helper()
	p := s.process()
	watching := watch(p)
	s.t.Cleanup(func() {
		if list := watching(); len(list) > 0 {
			s.t.Errorf("requests went to %q", list)
		}
	})
	e = &echo{next: mortal{p, wire{s.tenant.Handler()}}}
	client, err := activity.New(activity.Config{
		Root: &url.URL{Scheme: "https", Host: "manage.office.com"}, Audience: tenant.DefaultAudience,
		TenantID: tenant.DefaultID, PublisherIdentifier: tenant.DefaultID,
		Credential:        func() (azcore.TokenCredential, error) { return credential{&http.Client{Transport: e.next}}, nil },
		RequestsPerMinute: s.opts.quota, Transport: e, Logger: p.timer.Logger,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	p.timer.API, p.timer.Collector.API = client, client
	watched := p.die
	p.die = func(n int64, r *http.Request) (before, after bool) {
		e.note(r) // those to Cosmos DB too
		return watched(n, r)
	}
	p.mustTick() // so that there is a subscription
	seen := 0
	return e, func(where string) {
		s.t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), tickTime)
		defer cancel()
		text, err := p.timer.Tick(ctx, "00000000-0000-4000-8000-000000000001")
		log, secrets := s.log.String(), e.taken()
		if found := leaks(fmt.Sprint(text, err), secrets...); len(found) > 0 {
			s.t.Errorf("%s: the tick tells %.200q", where, found)
		}
		if found := leaks(log[seen:], secrets...); len(found) > 0 {
			s.t.Errorf("%s: the log tells %.200q", where, found)
		}
		seen = len(log)
	}
}

// hostileEcho has answers of the API quote what quotes say, by the path of the
// request.
func hostileEcho(t *testing.T, s *system, quotes map[string]map[string]quote) {
	e, tick := s.echoing()
	for path, quotes := range quotes {
		for name, quote := range quotes {
			for i, status := range []int{200, 302, 400, 401, 403, 500} {
				e.mu.Lock()
				e.path, e.status, e.code, e.quote, e.hits = path, status, []string{"", "AF20001"}[i%2], quote, 0
				e.mu.Unlock()
				if path == "/subscriptions/start" {
					s.tenant.EditSubscription(general, func(sub *tenant.Subscription) { sub.Webhook = nil })
				}
				s.neighbour()
				s.later(16 * time.Minute) // between two starts
				where := fmt.Sprintf("%s answers %d with %s", path, status, name)
				tick(where)
				if e.mu.Lock(); e.hits == 0 {
					t.Errorf("%s: there was no such request", where)
				}
				e.path = ""
				e.mu.Unlock()
			}
		}
	}
	for range 3 {
		s.later(2 * time.Hour)
		tick("afterwards")
	}
	s.reconciled(nil)
}

// cosmosEcho has Cosmos DB quote a header with a signature, to ticks and to the
// webhook.
func cosmosEcho(t *testing.T, s *system) {
	e, tick := s.echoing()
	for _, status := range []int{400, 401, 403, 404, 409, 413, 500} {
		for _, container := range []string{"Audits", "ArchiveState"} {
			s.account.Set(func(w *cosmosfake.Switches) {
				w.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if c.Container != container {
						return nil
					}
					e.mu.Lock()
					defer e.mu.Unlock()
					raw, _ := json.Marshal(map[string]string{"code": "x", "message": "the header was: " + e.said[len(e.said)-2]})
					return &cosmosfake.Fault{Status: status, Body: string(raw)}
				}
			})
			s.neighbour()
			s.later(16 * time.Minute)
			tick(fmt.Sprintf("%s answers %d", container, status))
			got := s.knock("while Cosmos DB is out of order", http.MethodPost, asService(), strings.NewReader(array(item(s.neighbour()))))
			if container == "ArchiveState" && got.status != http.StatusServiceUnavailable {
				t.Errorf("while %s answers %d the webhook answers %d (%s)", container, status, got.status, got.text)
			}
			if found := leaks(got.text, e.taken()...); len(found) > 0 {
				t.Errorf("while %s answers %d the webhook answers with %.200q", container, status, found)
			}
		}
	}
	s.account.Set(func(w *cosmosfake.Switches) { w.Hook = nil })
	for range 3 {
		s.later(2 * time.Hour)
		tick("afterwards")
	}
	s.reconciled(nil)
}
