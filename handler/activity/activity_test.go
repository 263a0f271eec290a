package activity

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testTenant    = "3f0e5c1a-8d2b-4c6e-9f10-77aa12bc34de"
	testPublisher = "b1a2c3d4-0000-4111-8222-9e8d7c6b5a49"
	testApp       = "9d1f7c22-5b3e-4a88-8c61-0f2e4d6a8b10"
	testRoot      = "https://api.harbor.example"
	testFeed      = testRoot + "/api/v1.0/" + testTenant + "/activity/feed/"
	testContent   = testFeed + "audit/20260311094502417003318$20260311094502417003318$audit_general$Audit_General$emea0042"
	general       = "Audit.General"
)

var (
	windowFrom = time.Date(2026, 3, 11, 9, 0, 0, 0, time.UTC)
	windowTo   = windowFrom.Add(time.Hour)
)

// service is the far side of the wire, as a function of the request.
type service func(*http.Request) (*http.Response, error)

func (s service) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s(r)
	if resp != nil {
		resp.Request = r
	}
	return resp, err
}

// answer is a response as it comes off the wire. header holds whole lines.
func answer(status int, body string, header ...string) *http.Response {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d X\r\nContent-Length: %d\r\n", status, len(body))
	for _, line := range header {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n" + body)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(b.String())), nil)
	if err != nil {
		panic(err)
	}
	return resp
}

// inTurn answers with each of bodies in turn, and with the last from then on.
func inTurn(answers ...func() *http.Response) service {
	var n atomic.Int64
	return func(*http.Request) (*http.Response, error) {
		return answers[min(int(n.Add(1)), len(answers))-1](), nil
	}
}

func always(status int, body string, header ...string) func() *http.Response {
	return func() *http.Response { return answer(status, body, header...) }
}

// issuer makes credentials whose tokens are numbered by credential.
type issuer struct {
	made  atomic.Int64
	claim map[string]any // over the usual claims
}

func (i *issuer) credential() (azcore.TokenCredential, error) {
	return credential{i.token(i.made.Add(1))}, nil
}

func (i *issuer) token(n int64) string {
	claims := map[string]any{"aud": testRoot, "tid": testTenant, "appid": testApp, "roles": []string{"ActivityFeed.Read"}, "jti": n}
	for k, v := range i.claim {
		claims[k] = v
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(payload) + ".c2lnbmF0dXJl" + strconv.FormatInt(n, 10)
}

type credential struct{ token string }

func (c credential) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if !slices.Equal(o.Scopes, []string{testRoot + "/.default"}) {
		return azcore.AccessToken{}, fmt.Errorf("scopes %q", o.Scopes)
	}
	return azcore.AccessToken{Token: c.token, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func newTestClient(t testing.TB, s http.RoundTripper, edit ...func(*Config)) *Client {
	t.Helper()
	root, err := url.Parse(testRoot)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Root: root, Audience: testRoot, TenantID: testTenant, PublisherIdentifier: testPublisher,
		Credential: new(issuer).credential, RequestsPerMinute: 1e9, Transport: s,
	}
	for _, e := range edit {
		e(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantKind(t *testing.T, err error, want Kind) *Fault {
	t.Helper()
	f, ok := errors.AsType[*Fault](err)
	if !ok {
		t.Fatalf("error is %v, want a Fault", err)
	}
	if f.Kind != want {
		t.Fatalf("kind is %v, want %v: %v", f.Kind, want, err)
	}
	return f
}

// item is one content of a listing, as the service prints it.
func item(n int) string {
	id := fmt.Sprintf("2026031109%08d$x$audit_general$Audit_General$emea0042", n)
	return fmt.Sprintf(`{"contentUri":%q,"contentId":%q,"contentType":"Audit.General","contentCreated":"2026-03-11T09:45:02.417Z","contentExpiration":"2026-03-18T09:45:02.417Z"}`,
		testFeed+"audit/"+id, id)
}

func items(from, to int) string {
	var list []string
	for n := from; n < to; n++ {
		list = append(list, item(n))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// listAll collects the ids that List gives.
func listAll(t *testing.T, c *Client) (ids []string, err error) {
	t.Helper()
	err = c.List(t.Context(), general, windowFrom, windowTo, func(page []Content) error {
		for _, content := range page {
			ids = append(ids, content.ContentID)
		}
		return nil
	})
	return ids, err
}

func TestNewNamesEveryProblem(t *testing.T) {
	_, err := New(Config{Root: &url.URL{Scheme: "http", Host: "api.harbor.example"}, TenantID: "harbor.example"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"API root", "audience", "tenant", "PublisherIdentifier", "credential", "requests per minute"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %q: %v", want, err)
		}
	}
}

func TestListFollowsEveryPage(t *testing.T) {
	for _, tt := range []struct{ name, header, path string }{
		{"documented name", "NextPageUri", "/api/v1/"},
		{"lower case, as over HTTP/2", "nextpageuri", "/api/v1.0/"},
		{"other documented name", "NextPageUrl", "/api/v1.0/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pages := []string{items(0, 3), items(3, 8), "[]", items(8, 9)}
			var uris []string
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				uris = append(uris, r.URL.RequestURI())
				n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Query().Get("nextPage"), "t$+"))
				if n == len(pages)-1 {
					return answer(200, pages[n]), nil
				}
				next := testRoot + tt.path + testTenant + "/activity/feed/subscriptions/content?contentType=Audit.General" +
					"&startTime=2026-03-11T09:00:00&endTime=2026-03-11T10:00:00&nextPage=t$%2B" + strconv.Itoa(n+1)
				return answer(200, pages[n], tt.header+": "+next, "Server: after"), nil
			}))
			got, err := listAll(t, c)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 9 || len(slices.Compact(slices.Clone(got))) != 9 {
				t.Errorf("got %d contents, want 9 different ones: %q", len(got), got)
			}
			want := []string{
				"/api/v1.0/" + testTenant + "/activity/feed/subscriptions/content?contentType=Audit.General&startTime=2026-03-11T09%3A00%3A00&endTime=2026-03-11T10%3A00%3A00&PublisherIdentifier=" + testPublisher,
			}
			for n := 1; n <= 3; n++ {
				want = append(want, tt.path+testTenant+"/activity/feed/subscriptions/content?contentType=Audit.General"+
					"&startTime=2026-03-11T09:00:00&endTime=2026-03-11T10:00:00&nextPage=t$%2B"+strconv.Itoa(n)+"&PublisherIdentifier="+testPublisher)
			}
			if diff := cmp.Diff(uris, want); diff != "" {
				t.Errorf("requests (-got +want):\n%s", diff)
			}
		})
	}
}

func TestListDoesNotLoop(t *testing.T) {
	first := testFeed + "subscriptions/content?contentType=Audit.General"
	for _, tt := range []struct {
		name  string
		next  func(n int) string
		calls int64
	}{
		{"the same page again", func(int) string { return first + "&nextPage=1" }, 2},
		{"the request itself", func(int) string {
			return first + "&startTime=2026-03-11T09%3A00%3A00&endTime=2026-03-11T10%3A00%3A00"
		}, 1},
		{"back and forth", func(n int) string { return first + "&nextPage=" + strconv.Itoa(n%2) }, 3},
		{"without end", func(n int) string { return first + "&nextPage=" + strconv.Itoa(n) }, maxPages},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int64
			c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
				return answer(200, "[]", "NextPageUri: "+tt.next(int(calls.Add(1)))), nil
			}))
			_, err := listAll(t, c)
			wantKind(t, err, BadPage)
			if calls.Load() != tt.calls {
				t.Errorf("%d requests, want %d", calls.Load(), tt.calls)
			}
		})
	}
}

func TestListRefusesForeignNextPage(t *testing.T) {
	good := testFeed + "subscriptions/content?contentType=Audit.General&nextPage=2"
	for _, next := range []string{
		strings.Replace(good, "https", "http", 1),
		strings.Replace(good, "api.harbor.example", "api.harbor.example.evil.example", 1),
		strings.Replace(good, "api.harbor.example", "api.harbor.example@evil.example", 1),
		strings.Replace(good, "api.harbor.example", "api.harbor.example:8443", 1),
		strings.Replace(good, testTenant, testPublisher, 1),
		strings.Replace(good, "subscriptions/content", "subscriptions/../../content", 1),
		strings.Replace(good, "subscriptions/content", "subscriptions/list", 1),
		strings.Replace(good, "subscriptions/content", "audit/content", 1),
		strings.Replace(good, "Audit.General", "Audit.Exchange", 1),
		strings.Replace(good, "contentType=Audit.General", "contentType=Audit.General&ContentTYPE=DLP.All", 1),
		"/api/v1.0/" + testTenant + "/activity/feed/subscriptions/content?contentType=Audit.General",
		"not a URL",
	} {
		t.Run(next, func(t *testing.T) {
			var calls atomic.Int64
			c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
				calls.Add(1)
				return answer(200, items(0, 2), "NextPageUri: "+next), nil
			}))
			got, err := listAll(t, c)
			wantKind(t, err, Untrusted)
			if calls.Load() != 1 {
				t.Errorf("%d requests, want 1", calls.Load())
			}
			if len(got) != 2 {
				t.Errorf("the page before gave %d contents, want 2", len(got))
			}
		})
	}
}

// An item that cannot be fetched is listed all the same, under a name, and Open
// refuses it.
func TestListLeavesNoItemOut(t *testing.T) {
	day := windowFrom.Truncate(24 * time.Hour)
	tests := map[string]struct {
		element string
		named   bool // by its own contentId
		dated   bool
		opens   bool
	}{
		"good":                {item(7), true, true, true},
		"no contentId":        {strings.Replace(item(7), "contentId", "contentIdx", 1), false, true, true},
		"contentId of 3 KB":   {strings.Replace(item(7), `"contentId":"`, `"contentId":"`+strings.Repeat("x", 3000), 1), false, true, true},
		"no contentUri":       {strings.Replace(item(7), "contentUri", "contentUrix", 1), true, true, false},
		"contentCreated":      {strings.Replace(item(7), "2026-03-11T09:45:02.417Z", "yesterday", 1), true, false, true},
		"year":                {strings.Replace(item(7), "2026-03-11T09:45:02.417Z", "0001-01-01T00:00:00", 1), true, false, true},
		"other host":          {strings.Replace(item(7), "api.harbor.example", "evil.example", 1), true, true, false},
		"other contentType":   {strings.Replace(item(7), "Audit.General\"", "Audit.Exchange\"", 1), true, true, true},
		"not an object":       {`"text"`, false, false, false},
		"a list":              {`[1]`, false, false, false},
		"members not strings": {`{"contentId":7,"contentUri":[],"contentCreated":{}}`, false, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, inTurn(
				always(200, "["+item(1)+","+tt.element+","+item(2)+"]", "NextPageUri: "+testFeed+"subscriptions/content?nextPage=2"),
				always(200, items(3, 5))))
			var got []Content
			err := c.List(t.Context(), general, windowFrom, windowTo, func(page []Content) error {
				got = append(got, page...)
				return nil
			})
			if err != nil || len(got) != 5 {
				t.Fatalf("%d contents, want 5; error %v", len(got), err)
			}
			odd := got[1]
			if named := strings.HasPrefix(odd.ContentID, "2026031109"); named != tt.named || !named && len(odd.ContentID) != len("item:")+64 {
				t.Errorf("contentId %q", odd.ContentID)
			}
			if dated := !odd.Created.Equal(day); dated != tt.dated || odd.Expires.Before(odd.Created) {
				t.Errorf("created %v, expires %v", odd.Created, odd.Expires)
			}
			if opens := c.CheckContentURI(odd.ContentURI) == nil; opens != tt.opens {
				t.Errorf("contentUri %q can be opened: %v", odd.ContentURI, opens)
			}
		})
	}
}

func TestListDecodesLeniently(t *testing.T) {
	const id, uri = "a$b", testFeed + "audit/a$b"
	created := time.Date(2026, 3, 11, 9, 45, 2, 417e6, time.UTC)
	for _, tt := range []struct {
		name, element string
		want          Content
	}{
		{
			"no zone, long fraction, expiry as the service names it",
			`{"contentUri":"` + uri + `","contentId":"a$b","contentType":"Audit.General","contentCreated":"2026-03-11T09:45:02.4170000","contentExpiration":"2026-03-31T09:45:02"}`,
			Content{general, id, uri, created, time.Date(2026, 3, 31, 9, 45, 2, 0, time.UTC)},
		},
		{
			"no type, no expiry, more members",
			`{"contentUri":"` + uri + `","contentId":"a$b","contentCreated":"2026-03-11T09:45:02.417Z","contentExpiration":"","tenantId":7,"x":{"y":[]}}`,
			Content{general, id, uri, created, created.Add(retention)},
		},
		{
			"type in another case, null expiry, offset",
			`{"contentUri":"` + uri + `","contentId":"a$b","contentType":"AUDIT.general","contentCreated":"2026-03-11T10:45:02.417+01:00","contentExpiration":null}`,
			Content{general, id, uri, created, created.Add(retention)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestClient(t, inTurn(always(200, "\uFEFF ["+tt.element+"]\n")))
			err := c.List(t.Context(), general, windowFrom, windowTo, func(got []Content) error {
				if diff := cmp.Diff(got, []Content{tt.want}); diff != "" {
					t.Errorf("content (-got +want):\n%s", diff)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestListHandsOnAPageInParts has a page of items that are no contents: a few
// bytes of each would be a whole Content in memory.
func TestListHandsOnAPageInParts(t *testing.T) {
	const zeros = 200_000
	c := newTestClient(t, inTurn(always(200, "["+strings.Repeat("0,", zeros-1)+"0]")))
	all := 0
	err := c.List(t.Context(), general, windowFrom, windowTo, func(part []Content) error {
		if all += len(part); len(part) > 1000 {
			return fmt.Errorf("%d contents at a time", len(part))
		}
		return nil
	})
	if err != nil || all != zeros {
		t.Errorf("%d of %d items are handed on: %v", all, zeros, err)
	}
}

func TestListRefusesWindows(t *testing.T) {
	c := newTestClient(t, service(func(*http.Request) (*http.Response, error) { return nil, errors.New("a request was made") }))
	for _, span := range []time.Duration{-time.Hour, 0, 999 * time.Millisecond, 24*time.Hour + time.Second} {
		err := c.List(t.Context(), general, windowFrom, windowFrom.Add(span), func([]Content) error { return nil })
		wantKind(t, err, BadRequest)
	}
}

func TestListSendsWholeSecondsInUTC(t *testing.T) {
	var query url.Values
	c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
		query = r.URL.Query()
		return answer(200, "[]"), nil
	}))
	east := time.FixedZone("east", 5*3600)
	from := windowFrom.Add(900 * time.Millisecond).In(east)
	if err := c.List(t.Context(), general, from, from.Add(24*time.Hour), func([]Content) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got, want := query.Get("startTime")+" "+query.Get("endTime"), "2026-03-11T09:00:00 2026-03-12T09:00:00"; got != want {
		t.Errorf("window %q, want %q", got, want)
	}
}

func TestListReturnsTheCallersError(t *testing.T) {
	full := errors.New("ledger full")
	c := newTestClient(t, inTurn(always(200, items(0, 1), "NextPageUri: "+testFeed+"subscriptions/content?nextPage=2")))
	calls := 0
	err := c.List(t.Context(), general, windowFrom, windowTo, func([]Content) error { calls++; return full })
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("error %v after %d pages, want %v after 1", err, calls, full)
	}
}

func TestListFailsOnCutPage(t *testing.T) {
	for _, body := range []string{"[", "[" + item(1), "[" + item(1) + ",", items(0, 3)[:200], "", " ", "null", "<html>busy</html>"} {
		c := newTestClient(t, inTurn(always(200, body)))
		_, err := listAll(t, c)
		wantKind(t, err, Transient)
	}
}

func TestSubscriptions(t *testing.T) {
	const body = `[
		{"contentType":"Audit.General","status":"enabled","webhook":{"authId":"k1","address":"https://hooks.harbor.example/a","expiration":"","status":"disabled"}},
		{"contentType":"Audit.Exchange","status":"disabled","webhook":null},
		{"contentType":"Audit.SharePoint","webhook":""},
		{"contentType":"Audit.AzureActiveDirectory","status":"enabled"},
		{"contentType":"DLP.All","status":null,"webhook":{"address":"https://hooks.harbor.example/b","authId":null,"expiration":"2026-05-01T00:00:00Z","status":"expired","more":1}},
		{"contentType":null}, null, 7]`
	want := []Subscription{
		{general, "enabled", &SubscriptionWebhook{"https://hooks.harbor.example/a", "k1", time.Time{}, "disabled"}},
		{"Audit.Exchange", "disabled", nil},
		{"Audit.SharePoint", "", nil},
		{"Audit.AzureActiveDirectory", "enabled", nil},
		{"DLP.All", "", &SubscriptionWebhook{"https://hooks.harbor.example/b", "", time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), "expired"}},
	}
	var uri string
	c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
		uri = r.Method + " " + r.URL.String()
		return answer(200, body), nil
	}))
	got, err := c.Subscriptions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("subscriptions (-got +want):\n%s", diff)
	}
	if want := "GET " + testFeed + "subscriptions/list?PublisherIdentifier=" + testPublisher; uri != want {
		t.Errorf("request %q, want %q", uri, want)
	}
}

func TestStart(t *testing.T) {
	hook := &Webhook{Address: "https://hooks.harbor.example/api/webhook?a=1&b=2", AuthID: "s3cret", Expiration: time.Date(2026, 5, 1, 2, 3, 4, 0, time.FixedZone("", 3600))}
	asked := &SubscriptionWebhook{hook.Address, hook.AuthID, hook.Expiration, "enabled"}
	const sent = `{"webhook":{"address":"https://hooks.harbor.example/api/webhook?a=1\u0026b=2","authId":"s3cret","expiration":"2026-05-01T01:03:04.000Z"}}`
	for _, tt := range []struct {
		name   string
		hook   *Webhook
		status int
		body   string
		sent   string
		want   Subscription
		kind   Kind // checked if want is zero
	}{
		{
			"new", hook, 200, `{"contentType":"Audit.General","status":"enabled","webhook":{"authId":"s3cret","address":"https://h.harbor.example","expiration":"","status":"enabled"}}`, sent,
			Subscription{general, "enabled", &SubscriptionWebhook{"https://h.harbor.example", "s3cret", time.Time{}, "enabled"}},
			0,
		},
		{"polling only", nil, 200, `{"contentType":"Audit.General","status":"enabled","webhook":null}`, "", Subscription{general, "enabled", nil}, 0},
		{"nothing to change", hook, 400, `{"error":{"code":"AF20024","message":"The subscription is already enabled. No property change."}}`, sent, Subscription{general, "enabled", asked}, 0},
		{"nothing to change, status 200", hook, 200, `{"error":{"code":"AF20024","message":"The subscription is already enabled. No property change."}}`, sent, Subscription{general, "enabled", asked}, 0},
		{"webhook not validated", hook, 400, `{"error":{"code":"AF20021","message":"no"}}`, sent, Subscription{}, WebhookRefused},
		{"expiration past", hook, 400, `{"error":{"code":"AF20003","message":"no"}}`, sent, Subscription{}, BadRequest},
		{"server error is not retried", hook, 500, `{"error":{"code":"AF50000","message":"no"}}`, sent, Subscription{}, Transient},
		{"throttled is not retried", hook, 403, `{"error":{"code":"AF429","message":"no"}}`, sent, Subscription{}, Throttled},
		{"empty answer", hook, 200, ``, sent, Subscription{}, Transient},
		{"permission missing, status 200", hook, 200, `{"error":{"code":"AF10001","message":"no"}}`, sent, Subscription{}, Denied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls int
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				calls++
				var body []byte
				if r.Body != nil {
					body, _ = io.ReadAll(r.Body)
				}
				if string(body) != tt.sent {
					t.Errorf("body %s, want %s", body, tt.sent)
				}
				if got, want := r.Method+" "+r.URL.String(), "POST "+testFeed+"subscriptions/start?contentType=Audit.General&PublisherIdentifier="+testPublisher; got != want {
					t.Errorf("request %q, want %q", got, want)
				}
				if got := r.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
					t.Errorf("content type %q", got)
				}
				return answer(tt.status, tt.body), nil
			}))
			got, err := c.Start(t.Context(), general, tt.hook)
			if calls != 1 {
				t.Errorf("%d requests, want 1", calls)
			}
			if tt.want.ContentType == "" {
				wantKind(t, err, tt.kind)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("subscription (-got +want):\n%s", diff)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	const records = `[{"Id":"1"},{"Id":"2"}]`
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
		kind   Kind // checked if want is ""
		code   string
	}{
		{"array", 200, records, records, 0, ""},
		{"byte order mark and space", 200, "\uFEFF\r\n " + records, records, 0, ""},
		{"cut array is the reader's to judge", 200, `[{"Id":`, `[{"Id":`, 0, ""},
		{"error with status 200", 200, `{"error":{"code":"AF20051","message":"expired"}}`, "", Gone, "AF20051"},
		{"record with status 200 instead of array", 200, `{"Id":"1","Message":"Retrieve of user017"}`, "", Transient, ""},
		{"page of a gateway", 200, `<html>`, "", Transient, ""},
		{"nothing", 200, ``, "", Transient, ""},
		{"no content", 204, ``, "", Transient, ""},
		{"part", 206, records, "", Transient, ""},
		{"not found", 404, ``, "", Gone, ""},
		{"unknown", 400, `{"error":{"code":"AF20050","message":"no"}}`, "", Gone, "AF20050"},
		{"wrong tenant or id", 400, `{"error":{"code":"AF20052","message":"no"}}`, "", Gone, "AF20052"},
		{"disabled", 400, `{"error":{"code":"AF20023","message":"no"}}`, "", NotSubscribed, "AF20023"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var uri string
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				uri = "https://" + r.URL.Host + r.URL.RequestURI()
				return answer(tt.status, tt.body), nil
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // too short for any retry
			defer cancel()
			body, err := c.Open(ctx, testContent)
			if want := testContent + "?PublisherIdentifier=" + testPublisher; uri != want {
				t.Errorf("request %q, want %q", uri, want)
			}
			if tt.want == "" {
				f := wantKind(t, err, tt.kind)
				if f.Code != tt.code {
					t.Errorf("code %q, want %q", f.Code, tt.code)
				}
				if strings.Contains(err.Error(), "user017") {
					t.Errorf("error holds a part of a record: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if err != nil || string(got) != tt.want {
				t.Errorf("read %q, %v; want %q", got, err, tt.want)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenMakesNoRequestToForeignURI(t *testing.T) {
	c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
		t.Errorf("request to %s", r.URL)
		return answer(200, "[]"), nil
	}))
	_, err := c.Open(t.Context(), strings.Replace(testContent, "api.harbor.example", "evil.example", 1))
	wantKind(t, err, Untrusted)
}

func TestOpenReportsCutBody(t *testing.T) {
	c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
		resp := answer(200, `[{"Id":"1"}]`)
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(`[{"Id":`), failing{io.ErrUnexpectedEOF}))
		return resp, nil
	}))
	body, err := c.Open(t.Context(), testContent)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	got, err := io.ReadAll(body)
	f := wantKind(t, err, Transient)
	if string(got) != `[{"Id":` || !errors.Is(f, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v", got, err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestNoSecretInErrors lets the far side say the secrets back in every shape.
func TestNoSecretInErrors(t *testing.T) {
	secretToken := new(issuer).token(1)
	const authID = "auth-id-7f3b&x y"
	echo := secretToken + " and " + authID + " and " + url.QueryEscape(authID)
	quoted, err := json.Marshal(echo)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.ReplaceAll(echo, "eyJ", "e\u200byJ")
	brokenQuoted, err := json.Marshal(broken)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{
		"envelope":                     `{"error":{"code":"AF20001","message":` + string(quoted) + `}}`,
		"code":                         `{"error":{"code":` + string(quoted) + `,"message":"x"}}`,
		"bare":                         `{"Message":` + string(quoted) + `}`,
		"word":                         `{"error":` + string(quoted) + `,"error_description":` + string(quoted) + `}`,
		"zero width characters inside": `{"error":{"code":"AF20001","message":` + string(brokenQuoted) + `}}`,
		"text":                         echo,
		"html":                         "<html>" + echo,
		"single quote":                 `{'error':{'code':'AF10001','message':'` + echo + `'}}`,
	}
	for name, body := range bodies {
		for _, status := range []int{200, 302, 400, 401, 403, 404, 500} {
			t.Run(name+" "+strconv.Itoa(status), func(t *testing.T) {
				var log bytes.Buffer
				c := newTestClient(t, inTurn(always(status, body, "mise-correlation-id: "+echo, "Content-Type: text/"+authID, "Location: https://evil.example/"+secretToken)),
					func(cfg *Config) {
						cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
					})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
				defer cancel()
				_, err1 := c.Start(ctx, general, &Webhook{Address: "https://hooks.harbor.example", AuthID: authID})
				_, err2 := c.Subscriptions(ctx)
				_, err3 := c.Open(ctx, testContent)
				for i, err := range []error{err1, err2, err3} {
					if err == nil {
						t.Fatalf("call %d: no error", i)
					}
					text := fmt.Sprintf("%v %+v %s", err, err, log.String())
					for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
						text += cause.Error()
					}
					if strings.Contains(text, secretToken) || strings.Contains(text, "c2lnbmF0dXJl") {
						t.Errorf("call %d: token in %s", i, text)
					}
					if i == 0 && strings.Contains(text, "auth-id-7f3b") {
						t.Errorf("AuthID in %s", text)
					}
					if len(err.Error()) > 2000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x200b }) {
						t.Errorf("call %d: unfit text %q", i, err)
					}
				}
			})
		}
	}
}

// TestAuthIDInNoErrorHoweverSpelled has an AuthID that each of the ways to quote a
// request spells differently.
func TestAuthIDInNoErrorHoweverSpelled(t *testing.T) {
	const authID = `auth id/"7f3b"\c<d>&e+f`
	inJSON := func(s string) string {
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(quoted[1 : len(quoted)-1])
	}
	for name, spell := range map[string]func(body string) string{
		"as it is":           func(string) string { return authID },
		"the body":           func(body string) string { return body },
		"the body as base64": func(body string) string { return base64.StdEncoding.EncodeToString([]byte(body)) },
		"JSON":               func(string) string { return inJSON(authID) },
		"JSON, plain":        func(string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(authID) },
		"query":              func(string) string { return url.QueryEscape(authID) },
		"path":               func(string) string { return url.PathEscape(authID) },
		"base64":             func(string) string { return base64.StdEncoding.EncodeToString([]byte(authID)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				return answer(400, `{"error":{"code":"AF20001","message":"`+inJSON("refused: "+spell(string(body)))+`"}}`), nil
			}))
			_, err := c.Start(t.Context(), general, &Webhook{Address: "https://hooks.harbor.example", AuthID: authID})
			text := fmt.Sprintf("%v %+v", err, err)
			if !strings.Contains(text, "refused: ") {
				t.Errorf("the message is not in %s", text)
			}
			for _, part := range []string{"7f3b", base64.StdEncoding.EncodeToString([]byte(authID))[:8]} {
				if strings.Contains(text, part) {
					t.Errorf("AuthID in %s", text)
				}
			}
		})
	}
}

func TestOpaqueTokenInNoError(t *testing.T) {
	c := newTestClient(t, inTurn(always(401, `{"error":{"code":"AF10001","message":"opaque-5f1c is not enough"}}`)), func(cfg *Config) {
		cfg.Credential = func() (azcore.TokenCredential, error) { return credential{"opaque-5f1c"}, nil }
	})
	_, err := c.Subscriptions(t.Context())
	if wantKind(t, err, Denied); strings.Contains(err.Error(), "opaque-5f1c") {
		t.Errorf("token in %v", err)
	}
}

func TestAuthIDNeverPrints(t *testing.T) {
	s := Subscription{Webhook: &SubscriptionWebhook{AuthID: "k3-secret"}}
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", s.Webhook.AuthID, "hook", *s.Webhook)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		log.WriteString(fmt.Sprintf(verb, *s.Webhook))
		log.WriteString(fmt.Sprintf(verb, s.Webhook.AuthID))
	}
	if text := string(encoded) + log.String(); strings.Contains(text, "k3-secret") || strings.Contains(text, "6b332d") {
		t.Errorf("AuthID printed: %s", text)
	}
	if got := string(s.Webhook.AuthID); got != "k3-secret" {
		t.Errorf("value is %q", got)
	}
}

func TestClientIsSafeForConcurrentUse(t *testing.T) {
	c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
		return answer(200, items(0, 2), "Date: Wed, 11 Mar 2026 09:00:00 GMT"), nil
	}))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := listAll(t, c); err != nil {
				t.Error(err)
			}
			_, _ = c.Now(), c.Stats()
		})
	}
	wg.Wait()
	if got := c.Stats().Requests; got != 16 {
		t.Errorf("%d requests, want 16", got)
	}
}

// endless repeats a text without end.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		copied := copy(p[n:], e.text[e.at:])
		n, e.at = n+copied, (e.at+copied)%len(e.text)
	}
	return len(p), nil
}

// TestEveryAnswerIsBounded gives bodies that never end. Each call must come
// back with an error.
func TestEveryAnswerIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		start  string
		more   string // for ever
	}{
		{"space", 200, "", " "},
		{"object", 200, "{", "x"},
		{"array of items", 200, "[" + item(1), "," + strings.Repeat(" ", 1<<20) + item(2)},
		{"error", 404, "", "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
				resp := answer(tt.status, "")
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(tt.start), &endless{text: tt.more}))
				return resp, nil
			}))
			_, err1 := c.Subscriptions(t.Context())
			_, err2 := c.Start(t.Context(), general, nil)
			err3 := c.List(t.Context(), general, windowFrom, windowTo, func([]Content) error { return nil })
			for i, err := range []error{err1, err2, err3} {
				if _, ok := errors.AsType[*Fault](err); !ok {
					t.Errorf("call %d: %v", i, err)
				}
			}
			if tt.name == "array of items" {
				wantKind(t, err3, BadPage)
			}
		})
	}
}

func FuzzSubscription(f *testing.F) {
	f.Add([]byte(`{"contentType":"Audit.General","status":"enabled","webhook":{"authId":"k1","address":"a","expiration":"2026-05-01T00:00:00Z","status":"enabled"}}`))
	f.Add([]byte(`{"contentType":"Audit.General","webhook":[{}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, element []byte) {
		if s, ok := parseSubscription(element); ok && (s.ContentType == "" || !json.Valid(element)) {
			t.Errorf("%q passed as %+v", element, s)
		}
	})
}

func FuzzListPage(f *testing.F) {
	f.Add([]byte(items(0, 3)))
	f.Add([]byte("\uFEFF[null,{},[],{\"contentId\":7}]"))
	f.Add([]byte(`{"error":{"code":"AF20022","message":"x"}}`))
	f.Add([]byte(`[{"contentId":"a","contentCreated":"9999-12-31T23:59:59.9999999Z"}]`))
	f.Add([]byte("["))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) { return answer(200, string(body)), nil }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.List(ctx, general, windowFrom, windowTo, func(page []Content) error {
			for _, content := range page {
				if content.ContentID == "" || content.Created.IsZero() || content.Expires.IsZero() || content.ContentType != general || len(content.ContentID)+len(content.ContentURI) > 5000 {
					t.Errorf("content without account passed: %+v", content)
				}
				// The ledger writes these times as text.
				if content.Created.Year() < 2000 || content.Expires.Year() > 9999 {
					t.Errorf("times out of range passed: %+v", content)
				}
			}
			return nil
		})
		if err == nil && !json.Valid(bytes.TrimPrefix(body, []byte("\uFEFF"))) && !bytes.Contains(body, []byte("]")) {
			t.Errorf("a page without end passed: %q", body)
		}
	})
}
