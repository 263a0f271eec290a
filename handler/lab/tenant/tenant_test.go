package tenant

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests named TestSnn each hold one behaviour that clients of the API have
// to live with, and the switches that go with it.

// begin is the time at which every tenant of these tests starts.
var begin = time.Date(2026, 3, 12, 10, 0, 0, 0, time.UTC)

const (
	general   = "Audit.General"
	publisher = "7a10c0de-0009-4000-8000-000000009009"
	secondApp = "7a10c0de-0004-4000-8000-00000000d004"
)

// bench is a tenant behind a TLS server and a plain client of it.
type bench struct {
	*testing.T
	*Tenant
	server *httptest.Server
	token  string
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	if cfg.Clock == nil {
		cfg.Clock = func() time.Time { return begin }
	}
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	t.Cleanup(server.Close)
	cfg.Client = server.Client()
	b := &bench{T: t, Tenant: New(cfg), server: server}
	server.Config.Handler = b.Handler()
	b.SetOrigin(server.URL)
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	return b
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
	code   string // of an error
	err    error  // while reading
}

func (b *bench) do(r *http.Request) reply {
	b.Helper()
	client := *b.server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	answer, err := client.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	got := reply{status: answer.StatusCode, header: answer.Header, body: string(body), err: err}
	var envelope struct{ Error struct{ Code string } }
	if json.Unmarshal(body, &envelope) == nil {
		got.code = envelope.Error.Code
	}
	return got
}

func (b *bench) request(method, address string, body io.Reader) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, address, body)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+b.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// feed calls an operation with a PublisherIdentifier.
func (b *bench) feed(method, path, body string) reply {
	b.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	return b.do(b.request(method, b.server.URL+"/api/v1.0/"+DefaultID+"/activity/feed/"+path+separator+"PublisherIdentifier="+publisher, reader))
}

func (b *bench) form(path string, form url.Values) reply {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), "POST", b.server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (b *bench) grant(app, secret string) string {
	b.Helper()
	got := b.form("/"+DefaultID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {app}, "client_secret": {secret},
		"scope": {DefaultAudience + "/.default openid offline_access profile"},
	})
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(got.body), &token); err != nil {
		b.Fatalf("token: status %d: %v", got.status, err)
	}
	return token.AccessToken
}

// subscribe starts Audit.General without a webhook.
func (b *bench) subscribe() {
	b.Helper()
	if got := b.feed("POST", "subscriptions/start?contentType="+general, ""); got.status != 200 {
		b.Fatalf("start: status %d: %s", got.status, got.body)
	}
}

// item is one line of a listing.
type item struct {
	ContentURI, ContentID, ContentType, ContentCreated, ContentExpiration string
	NotificationSent, NotificationStatus                                  string
}

func window(from, to time.Time) string {
	return "subscriptions/content?contentType=" + general + "&startTime=" + from.Format(boundFormat) + "&endTime=" + to.Format(boundFormat)
}

// ids lists one page and returns its contentIds.
func (b *bench) ids(path string) []string {
	b.Helper()
	ids, _ := b.page(b.feed("GET", path, ""))
	return ids
}

func (b *bench) page(got reply) (ids []string, next string) {
	b.Helper()
	var items []item
	if err := json.Unmarshal([]byte(got.body), &items); err != nil {
		b.Fatalf("list: status %d: %v: %s", got.status, err, got.body)
	}
	for _, i := range items {
		ids = append(ids, i.ContentID)
	}
	return ids, got.header.Get("NextPageUri")
}

// pages follows a listing to its end.
func (b *bench) pages(path string) [][]string {
	b.Helper()
	got := b.feed("GET", path, "")
	var all [][]string
	for range 100 {
		ids, next := b.page(got)
		all = append(all, ids)
		if next == "" {
			return all
		}
		got = b.do(b.request("GET", next+"&PublisherIdentifier="+publisher, nil))
	}
	b.Fatal("a listing has no end")
	return nil
}

// want fails the test unless the answer has this status and code.
func (b *bench) want(name string, got reply, status int, code string) {
	b.Helper()
	if got.status != status || got.code != code {
		b.Errorf("%s: status %d code %q, want %d %q (error %v): %.200s", name, got.status, got.code, status, code, got.err, got.body)
	}
}

func (b *bench) wantIDs(name string, got []string, want ...Content) {
	b.Helper()
	var ids []string
	for _, c := range want {
		ids = append(ids, c.ID)
	}
	if !slices.Equal(got, ids) {
		b.Errorf("%s: got %q, want %q", name, got, ids)
	}
}

func (b *bench) noViolations() {
	b.Helper()
	if v := b.Violations(); len(v) > 0 {
		b.Errorf("violations: %q", v)
	}
}

func (b *bench) wantViolation(part string) {
	b.Helper()
	if !slices.ContainsFunc(b.Violations(), func(v string) bool { return strings.Contains(v, part) }) {
		b.Errorf("no violation says %q: %q", part, b.Violations())
	}
	b.ForgetViolations()
}

func text(n int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"Id":"7a10c0de-0005-4000-8000-%012d","Number":1.50}`, n))
}

// receiver is a webhook that notes what it is sent.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status int // answered; 0: 200
	calls  []struct {
		path   string
		header http.Header
		body   string
	}
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls = append(r.calls, struct {
			path   string
			header http.Header
			body   string
		}{q.URL.Path, q.Header, string(body)})
		if r.status >= 300 && r.status < 400 {
			w.Header().Set("Location", "/elsewhere")
		}
		if r.status != 0 {
			w.WriteHeader(r.status)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

func hook(address, authID, expiration string) string {
	body, _ := json.Marshal(map[string]any{"webhook": map[string]string{"address": address, "authId": authID, "expiration": expiration}})
	return string(body)
}

func (b *bench) subscribeHook(r *receiver) {
	b.Helper()
	if got := b.feed("POST", "subscriptions/start?contentType="+general, hook(r.URL, "auth-id-17", "")); got.status != 200 {
		b.Fatalf("start: status %d: %s", got.status, got.body)
	}
}

func TestS01Entra(t *testing.T) {
	b := newBench(t, Config{IdentityHeader: "identity-secret"})
	r, _ := http.NewRequestWithContext(t.Context(), "GET", b.server.URL+"/"+DefaultID+"/v2.0/.well-known/openid-configuration", nil)
	var document struct{ Issuer, Token_endpoint, Authorization_endpoint string }
	if err := json.Unmarshal([]byte(b.do(r).body), &document); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(document.Issuer, b.server.URL+"/") || document.Token_endpoint != b.server.URL+"/"+DefaultID+"/oauth2/v2.0/token" || document.Authorization_endpoint == "" {
		t.Errorf("discovery document: %+v", document)
	}

	v1 := url.Values{"grant_type": {"client_credentials"}, "client_id": {DefaultAppID}, "client_secret": {DefaultAppSecret}, "resource": {DefaultAudience}}
	v2 := url.Values{"grant_type": {"client_credentials"}, "client_id": {DefaultAppID}, "client_secret": {DefaultAppSecret}, "scope": {DefaultAudience + "/.default"}}
	without := func(form url.Values, name, value string) url.Values {
		form = url.Values(http.Header(form).Clone())
		form.Set(name, value)
		return form
	}
	for _, tt := range []struct {
		name, path string
		form       url.Values
		status     int
		want       string // pattern of the body
	}{
		{"v1 numbers are strings", "/" + DefaultID + "/oauth2/token", v1, 200, `"expires_in":"3600"`},
		{"v2 numbers are numbers", "/" + DefaultID + "/oauth2/v2.0/token", v2, 200, `"expires_in":3600`},
		{"domain in place of the id", "/" + DefaultDomain + "/oauth2/v2.0/token", v2, 200, `"access_token":"[\w-]+\.[\w-]+\.[\w-]+"`},
		{"unknown tenant", "/attacker.example/oauth2/v2.0/token", v2, 400, `AADSTS90002`},
		{"wrong secret", "/" + DefaultID + "/oauth2/v2.0/token", without(v2, "client_secret", "wrong"), 401, `AADSTS7000215`},
		{"unknown application", "/" + DefaultID + "/oauth2/v2.0/token", without(v2, "client_id", publisher), 400, `"error_codes":\[700016\]`},
		{"no resource", "/" + DefaultID + "/oauth2/v2.0/token", without(v2, "scope", "openid"), 400, `invalid_scope`},
		{"another grant", "/" + DefaultID + "/oauth2/v2.0/token", without(v2, "grant_type", "password"), 400, `unsupported_grant_type`},
		{"bad assertion", "/" + DefaultID + "/oauth2/v2.0/token", without(v2, "client_assertion", "a.b.c"), 401, `AADSTS700027`},
	} {
		got := b.form(tt.path, tt.form)
		if got.status != tt.status || !regexp.MustCompile(tt.want).MatchString(got.body) {
			t.Errorf("%s: status %d, want %d and %s: %s", tt.name, got.status, tt.status, tt.want, got.body)
		}
	}

	var k claims
	if !decodeSegment(strings.Split(b.token, ".")[1], &k) || k.Audience != DefaultAudience || k.Tenant != DefaultID || k.AppID != DefaultAppID ||
		!slices.Equal(k.Roles, []string{RoleRead}) || k.Expires != begin.Add(time.Hour).Unix() || k.AppACR != "1" {
		t.Errorf("claims: %+v", k)
	}

	identity := func(secret string) reply {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", b.server.URL+"/msi/token?api-version=2019-08-01&resource="+DefaultAudience, nil)
		r.Header.Set("X-IDENTITY-HEADER", secret)
		return b.do(r)
	}
	if got := identity("wrong"); got.status != 400 {
		t.Errorf("managed identity with a wrong header: status %d", got.status)
	}
	if got := identity("identity-secret"); got.status != 200 || !strings.Contains(got.body, `"access_token"`) {
		t.Errorf("managed identity: status %d: %s", got.status, got.body)
	}
}

func TestS01Assertions(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Config{Apps: []App{{ID: secondApp, Certificate: &x509.Certificate{PublicKey: &key.PublicKey}, Assertion: "federated-token"}}})
	endpoint := "/" + DefaultID + "/oauth2/v2.0/token"
	sign := func(key *rsa.PrivateKey, alg, audience, issuer string, expires time.Time) string {
		text := segmentJSON(map[string]string{"alg": alg, "typ": "JWT"}) + "." + segmentJSON(map[string]any{"aud": audience, "iss": issuer, "sub": issuer, "exp": expires.Unix()})
		digest := sha256.Sum256([]byte(text))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		if alg == "PS256" {
			signature, err = rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	soon, address := begin.Add(time.Minute), b.server.URL+endpoint
	for _, tt := range []struct {
		name, assertion string
		status          int
	}{
		{"RS256", sign(key, "RS256", address, secondApp, soon), 200},
		{"PS256", sign(key, "PS256", address, secondApp, soon), 200},
		{"federated", "federated-token", 200},
		{"another federated", "federated-tokem", 401},
		{"another key, RS256", sign(stranger, "RS256", address, secondApp, soon), 401},
		{"another key, PS256", sign(stranger, "PS256", address, secondApp, soon), 401},
		{"no algorithm", sign(key, "none", address, secondApp, soon), 401},
		{"another endpoint", sign(key, "RS256", "https://login.example/", secondApp, soon), 401},
		{"another application", sign(key, "RS256", address, DefaultAppID, soon), 401},
		{"over", sign(key, "RS256", address, secondApp, begin), 401},
	} {
		got := b.form(endpoint, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {secondApp}, "scope": {DefaultAudience + "/.default"},
			"client_assertion_type": {assertionType}, "client_assertion": {tt.assertion},
		})
		if got.status != tt.status {
			t.Errorf("%s: status %d, want %d: %s", tt.name, got.status, tt.status, got.body)
		}
	}
	got := b.form(endpoint, url.Values{"grant_type": {"client_credentials"}, "client_id": {secondApp}, "client_secret": {""}, "scope": {DefaultAudience + "/.default"}})
	if got.status != 401 {
		t.Errorf("empty secret of an application without one: status %d", got.status)
	}
}

func TestS02RefusedTokens(t *testing.T) {
	b := newBench(t, Config{})
	good := b.token
	bare := func(name string) {
		t.Helper()
		got := b.feed("GET", "subscriptions/list", "")
		if got.status != 401 || got.header.Get("WWW-Authenticate") != "Bearer" || got.body != `{"Message":"Authorization has been denied for this request."}` || len(got.body) != 61 {
			t.Errorf("%s: status %d header %q body %q", name, got.status, got.header, got.body)
		}
	}
	b.token = "no-token"
	bare("no token")
	b.wantViolation("no token of this tenant's")
	b.token = good[:len(good)-2] + "xx"
	bare("forged")
	b.ForgetViolations()

	b.token = good
	if got := b.feed("GET", "subscriptions/list", ""); got.status != 200 {
		t.Errorf("good token: status %d", got.status)
	}
	b.RevokeTokens()
	bare("revoked")
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	if got := b.feed("GET", "subscriptions/list", ""); got.status != 200 {
		t.Errorf("new token: status %d", got.status)
	}
	b.Advance(time.Hour)
	bare("expired")
	b.Tune(func(k *Knobs) { k.TokenLifetime = 10 * time.Minute })
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.Advance(10 * time.Minute)
	bare("expired sooner")
	b.noViolations()

	b.Tune(func(k *Knobs) { k.TokenAudience = "https://other.example" })
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	bare("other audience by fault")
	b.noViolations()
	b.Tune(func(k *Knobs) { k.TokenAudience = "" })
	got := b.form("/"+DefaultID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {DefaultAppID}, "client_secret": {DefaultAppSecret}, "scope": {"https://vault.example/.default"},
	})
	b.token = regexp.MustCompile(`"access_token":"([^"]+)"`).FindStringSubmatch(got.body)[1]
	bare("token for something else")
	b.wantViolation("token for audience https://vault.example")

	b.Tune(func(k *Knobs) { k.TokenError = "7000222" })
	if got := b.form("/"+DefaultID+"/oauth2/v2.0/token", nil); got.status != 401 || !strings.Contains(got.body, "AADSTS7000222") {
		t.Errorf("token error: status %d: %s", got.status, got.body)
	}
}

func TestS03Roles(t *testing.T) {
	b := newBench(t, Config{})
	b.want("DLP without its role", b.feed("POST", "subscriptions/start?contentType=DLP.All", ""), 401, "AF10001")
	b.Tune(func(k *Knobs) { k.TokenRoles = []string{} })
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	got := b.feed("GET", "subscriptions/list", "")
	b.want("no role", got, 401, "AF10001")
	if !strings.Contains(got.body, "()") {
		t.Errorf("the answer does not list the roles carried: %s", got.body)
	}
	b.Tune(func(k *Knobs) { k.TokenRoles = []string{RoleRead, RoleReadDLP} })
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.want("DLP with its role", b.feed("POST", "subscriptions/start?contentType=DLP.All", ""), 200, "")
}

func TestS04Tenants(t *testing.T) {
	other, unknown := "7a10c0de-0006-4000-8000-00000000e006", "7a10c0de-0007-4000-8000-00000000f007"
	b := newBench(t, Config{OtherTenants: []string{other}})
	b.subscribe()
	c := b.Publish(general, begin, text(1))
	at := func(tenant, path string) reply {
		return b.do(b.request("GET", b.server.URL+"/api/v1.0/"+tenant+"/activity/feed/"+path+"?PublisherIdentifier="+publisher, nil))
	}
	b.want("other tenant", at(other, "subscriptions/list"), 400, "AF20010")
	b.want("no GUID", at("harbor.example", "subscriptions/list"), 400, "AF20013")
	b.want("unknown tenant", at(unknown, "subscriptions/list"), 400, "AF20011")
	b.want("content of another tenant", at(other, "audit/"+c.ID), 400, "AF20052")
	b.want("upper case", at(strings.ToUpper(DefaultID), "subscriptions/list"), 200, "")
	b.Tune(func(k *Knobs) { k.TokenTenant = other })
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.want("token of another tenant", at(DefaultID, "subscriptions/list"), 400, "AF20010")
	b.noViolations()
	if got := at(DefaultID, "subscriptions/restart"); got.status != 404 {
		t.Errorf("unknown operation: status %d", got.status)
	}
	b.wantViolation("no operation")
}

func TestS05AuditingOff(t *testing.T) {
	b := newBench(t, Config{})
	b.Tune(func(k *Knobs) { k.AuditingOffUntil = begin.Add(time.Hour / 2) })
	got := b.feed("POST", "subscriptions/start?contentType="+general, "")
	var envelope struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(got.body), &envelope); err != nil {
		t.Fatal(err)
	}
	if got.status != 400 || !strings.HasSuffix(envelope.Error.Code, "[AppId") || !strings.HasPrefix(envelope.Error.Message, DefaultAppID[1:]+"]") ||
		!strings.Contains(envelope.Error.Message, "DataServiceException: Tenant "+DefaultID+" does not exist.") || len(got.body) < 1500 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	b.Advance(time.Hour / 2)
	b.want("healed", b.feed("POST", "subscriptions/start?contentType="+general, ""), 200, "")
}

func TestS06Headers(t *testing.T) {
	b := newBench(t, Config{})
	b.Tune(func(k *Knobs) { k.DateSkew = -10 * time.Minute })
	b.Advance(time.Hour / 2)
	h := b.feed("GET", "subscriptions/list", "").header
	if h.Get("Cache-Control") != "no-cache" || h.Get("Pragma") != "no-cache" || h.Get("Expires") != "-1" || h.Get("Mise-Correlation-Id") == "" || h.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("header: %v", h)
	}
	if got, want := h.Get("Date"), "Thu, 12 Mar 2026 10:20:00 GMT"; got != want {
		t.Errorf("Date = %q, want %q", got, want)
	}
	b.Tune(func(k *Knobs) { k.NoDate = true })
	if got := b.feed("GET", "subscriptions/list", "").header.Get("Date"); got != "" {
		t.Errorf("Date = %q, want none", got)
	}
}

func TestS07Applications(t *testing.T) {
	b := newBench(t, Config{Apps: []App{{ID: secondApp, Secret: "second-secret"}}})
	b.subscribe()
	b.token = b.grant(secondApp, "second-secret")
	if got := b.feed("GET", "subscriptions/list", ""); got.body != "[]" {
		t.Errorf("the second application sees %s", got.body)
	}
	b.want("listing of the second", b.feed("GET", window(begin.Add(-time.Hour), begin), ""), 400, "AF20022")
}

func TestS08ContentTypes(t *testing.T) {
	b := newBench(t, Config{})
	b.want("unknown", b.feed("POST", "subscriptions/start?contentType=Audit.Harbor", ""), 400, "AF20020")
	b.wantViolation("unknown contentType")
	b.want("missing", b.feed("POST", "subscriptions/start", ""), 400, "AF20001")
	b.wantViolation("lacks contentType")
}

func TestS09Start(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	path := "subscriptions/start?contenttype=" + general
	got := b.feed("POST", path, hook(r.URL, "auth-id-17", ""))
	want := `{"contentType":"Audit.General","status":"enabled","webhook":{"address":"` + r.URL + `","authId":"auth-id-17","expiration":"","status":"enabled"}}`
	if got.status != 200 || got.body != want {
		t.Errorf("start: status %d: %s\nwant %s", got.status, got.body, want)
	}
	b.Advance(startGap)
	b.want("nothing to change", b.feed("POST", path, hook(r.URL, "auth-id-17", "")), 400, "AF20024")
	if r.count() != 1 {
		t.Errorf("%d validations, want 1", r.count())
	}
	b.Advance(startGap)
	b.want("changed", b.feed("POST", path, hook(r.URL, "auth-id-18", "2026-04-01T00:00:00")), 200, "")
	if s := b.Subscriptions(); len(s) != 1 || s[0].Webhook.AuthID != "auth-id-18" || r.count() != 2 {
		t.Errorf("after the change: %+v, %d validations", s, r.count())
	}
	b.Advance(startGap)
	b.want("without a webhook", b.feed("POST", path, ""), 200, "")
	if s := b.Subscriptions(); s[0].Webhook != nil {
		t.Errorf("the webhook is still there: %+v", s[0].Webhook)
	}
	b.Advance(startGap)
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.PutSubscription(Subscription{ContentType: general, Status: Enabled, Webhook: &Webhook{Address: r.URL, Status: Enabled}})
	b.Tune(func(k *Knobs) { k.BodilessKeeps = true })
	b.want("without a webhook, kept", b.feed("POST", path, ""), 400, "AF20024")
	if s := b.Subscriptions(); s[0].Webhook == nil {
		t.Error("the webhook is gone")
	}
	b.Tune(func(k *Knobs) { k.BodilessKeeps = false })
	b.EditSubscription(general, func(s *Subscription) { s.Webhook = nil })
	b.Advance(startGap)
	b.want("still without", b.feed("POST", path, ""), 400, "AF20024")
	b.noViolations()
}

func TestS10OverlookedBodies(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	path := b.server.URL + "/api/v1.0/" + DefaultID + "/activity/feed/subscriptions/start?contentType=" + general + "&PublisherIdentifier=" + publisher
	body := hook(r.URL, "", "")
	q := b.request("POST", path, strings.NewReader(body))
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if got := b.do(q); got.status != 200 || !strings.Contains(got.body, `"webhook":null`) {
		t.Errorf("form type: status %d: %s", got.status, got.body)
	}
	b.wantViolation("overlooks")
	twice, _ := json.Marshal(body)
	b.Advance(startGap)
	b.DropSubscription(general)
	if got := b.do(b.request("POST", path, bytes.NewReader(twice))); got.status != 200 || !strings.Contains(got.body, `"webhook":null`) {
		t.Errorf("double encoded: status %d: %s", got.status, got.body)
	}
	b.wantViolation("overlooks")
	b.Tune(func(k *Knobs) { k.AnyStartBody = true })
	b.Advance(startGap)
	q = b.request("POST", path, strings.NewReader(body))
	q.Header.Set("Content-Type", "text/plain")
	if got := b.do(q); got.status != 200 || !strings.Contains(got.body, r.URL) {
		t.Errorf("any type allowed: status %d: %s", got.status, got.body)
	}
}

func TestS11RefusedWebhooks(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	before := b.feed("GET", "subscriptions/list", "").body
	start := func(body string) reply {
		b.Advance(startGap)
		b.token = b.grant(DefaultAppID, DefaultAppSecret)
		return b.feed("POST", "subscriptions/start?contentType="+general, body)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // would pass the validation
	defer plain.Close()
	b.want("http", start(hook(plain.URL, "x", "")), 400, "AF20021")
	for _, status := range []int{201, 202, 204, 302, 401, 500} {
		r.answer(status)
		b.want(fmt.Sprint("validation answered ", status), start(hook(r.URL, "x", "")), 400, "AF20021")
	}
	b.want("past expiration", start(hook(r.URL, "x", "2026-01-01T00:00:00")), 400, "AF20003")
	b.want("no expiration at all", start(hook(r.URL, "x", "soon")), 400, "AF20002")
	b.want("no address", start(hook("", "x", "")), 400, "AF20001")
	if after := b.feed("GET", "subscriptions/list", "").body; after != before {
		t.Errorf("the subscription changed from %s to %s", before, after)
	}
	b.noViolations()
}

func TestS12StartRule(t *testing.T) {
	for _, tt := range []struct {
		rule   StartRule
		status int
		code   string
	}{{StartAllowed, 400, "AF20024"}, {StartThrottled, 403, "AF429"}, {StartRefused, 400, "AF20002"}} {
		b := newBench(t, Config{Knobs: Knobs{StartRule: tt.rule}})
		b.subscribe()
		b.noViolations()
		b.Advance(startGap - time.Second)
		b.want("too soon", b.feed("POST", "subscriptions/start?contentType="+general, ""), tt.status, tt.code)
		b.wantViolation("sooner than 15m0s")
		b.Advance(startGap)
		b.want("in time", b.feed("POST", "subscriptions/start?contentType="+general, ""), 400, "AF20024")
		b.noViolations()
	}
}

func TestS13Stop(t *testing.T) {
	b := newBench(t, Config{Knobs: Knobs{StickyStop: time.Hour / 4}})
	b.want("stop of nothing", b.feed("POST", "subscriptions/stop?contentType="+general, ""), 400, "AF20022")
	b.subscribe()
	before := b.Publish(general, begin.Add(-time.Minute), text(1))
	b.Advance(time.Second)
	if got := b.feed("POST", "subscriptions/stop?contentType="+general, ""); got.status != 200 || got.body != "" {
		t.Errorf("stop: status %d body %q", got.status, got.body)
	}
	b.wantViolation("stopped")
	b.Advance(time.Minute)
	during := b.Publish(general, b.Now(), text(2))
	path := window(begin.Add(-time.Hour), begin.Add(2*time.Hour))
	b.Tune(func(k *Knobs) { k.StoppedShown = true })
	if got := b.feed("GET", "subscriptions/list", ""); got.body != `[{"contentType":"Audit.General","status":"disabled","webhook":null}]` {
		t.Errorf("stopped, as the list may show it: %s", got.body)
	}
	b.want("listing, shown as disabled", b.feed("GET", path, ""), 400, "AF20023")
	b.Tune(func(k *Knobs) { k.StoppedShown = false })
	b.want("listing", b.feed("GET", path, ""), 400, "AF20022")
	b.want("content", b.feed("GET", "audit/"+before.ID, ""), 400, "AF20022")
	b.Advance(startGap)
	b.subscribe()
	if got := b.feed("GET", "subscriptions/list", ""); got.body != "[]" {
		t.Errorf("sticky stop: list shows %s", got.body)
	}
	b.want("sticky stop", b.feed("GET", path, ""), 400, "AF20023")
	b.Advance(time.Hour / 4)
	after := b.Publish(general, b.Now(), text(3))
	b.wantIDs("after the restart", b.ids(path), before, after)
	b.want("content of the gap", b.feed("GET", "audit/"+during.ID, ""), 404, "AF20050")
}

func TestS14SubscriptionList(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	if got := b.feed("GET", "subscriptions/list", ""); got.body != "[]" {
		t.Errorf("nothing started: %s", got.body)
	}
	b.subscribeHook(r)
	for _, tt := range []struct {
		name string
		knob func(*Knobs)
		edit func(*Subscription)
		want string
	}{
		{"echo", nil, nil, `"expiration":"","status":"enabled"},`[:27]},
		{"null expiration", func(k *Knobs) { k.ExpirationNull = true }, nil, `"expiration":null`},
		{"other spelling", func(k *Knobs) { k.EchoAddress = strings.ToUpper }, nil, strings.ToUpper(r.URL)},
		{"no status", func(k *Knobs) { k.OmitStatus = true }, nil, `[{"contentType":"Audit.General","webhook":{`},
		{"no webhook", func(k *Knobs) { k.OmitWebhook = true }, nil, `[{"contentType":"Audit.General","status":"enabled"}]`},
		{"webhook disabled", nil, func(s *Subscription) { s.Webhook.Status = Disabled }, `"status":"disabled"}}]`},
		{"webhook expired", nil, func(s *Subscription) {
			s.Webhook.Status, s.Webhook.Expiration = Enabled, begin.Add(-time.Second)
		}, `"expiration":"2026-03-12T09:59:59.000Z","status":"expired"}}]`},
		{"webhook vanished", nil, func(s *Subscription) { s.Webhook = nil }, `"status":"enabled","webhook":null}]`},
		{"disabled by an administrator", nil, func(s *Subscription) { s.Status = Disabled }, `"status":"disabled","webhook":null}]`},
	} {
		if tt.knob != nil {
			b.Tune(tt.knob)
		}
		if tt.edit != nil && !b.EditSubscription(general, tt.edit) {
			t.Fatal("there is no subscription")
		}
		if got := b.feed("GET", "subscriptions/list", "").body; !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s in it", tt.name, got, tt.want)
		}
		b.Tune(func(k *Knobs) { *k = Knobs{} })
	}
	b.want("listing of a disabled one", b.feed("GET", window(begin.Add(-time.Hour), begin), ""), 400, "AF20023")
	b.PutSubscription(Subscription{ContentType: "Audit.Exchange", Status: Enabled, Webhook: &Webhook{Address: "https://elsewhere.example", Status: Disabled}})
	if got := b.feed("GET", "subscriptions/list", "").body; !strings.HasPrefix(got, `[{"contentType":"Audit.Exchange","status":"enabled","webhook":{"address":"https://elsewhere.example"`) {
		t.Errorf("somebody else's subscription: %s", got)
	}
	b.Tune(func(k *Knobs) { k.NotStartedCode = "AF20023" })
	b.DropSubscription(general)
	b.want("listing of none", b.feed("GET", window(begin.Add(-time.Hour), begin), ""), 400, "AF20023")
}

func TestS15Window(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	list := "subscriptions/content?contentType=" + general
	day := 24 * time.Hour
	for _, tt := range []struct {
		name, path string
		status     int
		code       string
	}{
		{"one day", window(begin.Add(-day), begin), 200, ""},
		{"end in the future", window(begin, begin.Add(time.Hour)), 200, ""},
		{"seven days back", window(begin.Add(-7*day), begin.Add(-6*day)), 200, ""},
		{"the slack of one hour", window(begin.Add(-7*day-time.Hour), begin.Add(-7*day)), 200, ""},
		{"older", window(begin.Add(-7*day-time.Hour-time.Second), begin.Add(-7*day)), 400, "AF20055"},
		{"longer than a day", window(begin.Add(-day-time.Second), begin), 400, "AF20055"},
		{"no length", window(begin, begin), 400, "AF20055"},
		{"backwards", window(begin, begin.Add(-time.Hour)), 400, "AF20055"},
		{"start only", list + "&startTime=2026-03-12T09:00:00", 400, "AF20055"},
		{"end only", list + "&endTime=2026-03-12T09:00:00", 400, "AF20055"},
		{"twice", window(begin.Add(-day), begin) + "&starttime=2026-03-12", 400, "AF20055"},
		{"no time", list + "&startTime=yesterday&endTime=today", 400, "AF20002"},
	} {
		b.want(tt.name, b.feed("GET", tt.path, ""), tt.status, tt.code)
		if tt.code == "" {
			b.noViolations()
		} else {
			b.wantViolation("listing ")
		}
	}
	b.Tune(func(k *Knobs) { k.StartSlack = -1 })
	b.want("no slack", b.feed("GET", window(begin.Add(-7*day-time.Second), begin.Add(-7*day)), ""), 400, "AF20055")
	early, late := b.Publish(general, begin.Add(-40*time.Hour), text(1)), b.Publish(general, begin.Add(-time.Hour), text(2))
	b.Tune(func(k *Knobs) { k.PartialSpan = day })
	b.wantIDs("silently partial", b.ids(window(begin.Add(-2*day), begin)), early)
	b.Tune(func(k *Knobs) { k.OneSided = true })
	b.wantIDs("one side", b.ids(list+"&startTime=2026-03-12T00:00:00"), late)
}

func TestS16TimeFormats(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	c := b.Publish(general, begin.Add(-time.Hour), text(1))
	list := func(from, to string) reply {
		return b.feed("GET", "subscriptions/content?contentType="+general+"&startTime="+from+"&endTime="+to, "")
	}
	for _, tt := range []struct {
		from, to string
		plain    bool
	}{
		{"2026-03-12", "2026-03-13", true},
		{"2026-03-12T08:00", "2026-03-12T10:00", true},
		{"2026-03-12T08:00:00", "2026-03-12T10:00:00", true},
		{"2026-03-12T08%3A00%3A00", "2026-03-12T10%3A00%3A00", true},
		{"2026-03-12T08:00:00Z", "2026-03-12T10:00:00.123Z", false},
		{"2026-03-12T08:00:00.5", "2026-03-12T10:00:00.5", false},
	} {
		ids, _ := b.page(list(tt.from, tt.to))
		b.wantIDs(tt.from, ids, c)
		if tt.plain {
			b.noViolations()
		} else {
			b.wantViolation("none of the documented formats")
		}
	}
	b.want("a plus sign", list("2026-03-12T08:00:00+00:00", "2026-03-12T10:00:00+00:00"), 200, "")
	b.wantViolation("which was a plus sign")
	if ids, _ := b.page(list("2026-03-12T08:00:00+00:00", "2026-03-12T10:00:00+00:00")); len(ids) != 0 {
		t.Errorf("a plus sign lists %q, want nothing", ids)
	}
	b.Tune(func(k *Knobs) { k.SpaceRefused = true })
	b.want("a plus sign refused", list("2026-03-12T08:00:00+00:00", "2026-03-12T10:00:00"), 400, "AF20002")
}

func TestS17WindowEdges(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	from, to := begin.Add(-2*time.Hour), begin.Add(-time.Hour)
	_ = b.Publish(general, from.Add(-time.Millisecond), text(1))
	first, last := b.Publish(general, from, text(2)), b.Publish(general, to.Add(-time.Millisecond), text(3))
	_ = b.Publish(general, to, text(4))
	b.wantIDs("start inclusive, end exclusive", b.ids(window(from, to)), first, last)
	bounds := "&startTime=" + from.Format(boundFormat) + ".9&endTime=" + to.Format(boundFormat) + ".9"
	b.wantIDs("bounds count in whole seconds", b.ids("subscriptions/content?contentType="+general+bounds), first, last)
}

func TestS18NoBounds(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	yesterday, today := b.Publish(general, begin.Add(-20*time.Hour), text(1)), b.Publish(general, begin.Add(-time.Hour), text(2))
	list := "subscriptions/content?contentType=" + general
	b.wantIDs("last 24 hours", b.ids(list), yesterday, today)
	b.wantViolation("has no bounds")
	b.Tune(func(k *Knobs) { k.SinceMidnight = true })
	b.wantIDs("since midnight", b.ids(list), today)
}

func TestS19Pages(t *testing.T) {
	setup := func(t *testing.T, knobs Knobs) (*bench, []Content, string) {
		knobs.PageSize = 2
		b := newBench(t, Config{Knobs: knobs})
		b.subscribe()
		var all []Content
		for i := range 5 {
			all = append(all, b.Publish(general, begin.Add(time.Duration(i-10)*time.Minute), text(i)))
		}
		return b, all, window(begin.Add(-time.Hour), begin)
	}
	t.Run("plain", func(t *testing.T) {
		b, all, path := setup(t, Knobs{})
		pages := b.pages(path)
		if len(pages) != 3 {
			t.Errorf("%d pages, want 3", len(pages))
		}
		b.wantIDs("all pages", slices.Concat(pages...), all...)
		b.noViolations()
		next := b.feed("GET", path, "").header.Get("NextPageUri")
		u, err := url.Parse(next)
		if err != nil || u.Scheme != "https" || !strings.HasPrefix(u.Path, "/api/v1/") || strings.Contains(next, "ublisher") ||
			u.Query().Get("startTime") != "2026-03-12T09:00:00" || u.Query().Get("contentType") != general || !strings.Contains(u.Query().Get("nextPage"), "$") {
			t.Errorf("next page is %s", next)
		}
		first, second := b.do(b.request("GET", next+"&PublisherIdentifier="+publisher, nil)), b.do(b.request("GET", next+"&PublisherIdentifier="+publisher, nil))
		if one, _ := b.page(first); !slices.Equal(one, func() []string { two, _ := b.page(second); return two }()) {
			t.Error("the same page asked for twice differs")
		}
	})
	t.Run("header", func(t *testing.T) {
		b, _, path := setup(t, Knobs{NextPageHeader: "NextPageUrl", NextPageVersion: "v1.0", NextPageKeepsID: true})
		if got := b.feed("GET", path, "").header.Get("NextPageUrl"); !strings.Contains(got, "/api/v1.0/") || !strings.Contains(got, "publisherIdentifier="+publisher) {
			t.Errorf("NextPageUrl is %q", got)
		}
		// The name is spelled as asked, not in Go's canonical form.
		record := httptest.NewRecorder()
		b.Tune(func(k *Knobs) { k.NextPageHeader = "nextPAGEuri" })
		b.Handler().ServeHTTP(record, b.request("GET", b.server.URL+"/api/v1.0/"+DefaultID+"/activity/feed/"+path+"&PublisherIdentifier="+publisher, nil))
		if !slices.Contains(slices.Collect(maps.Keys(record.Header())), "nextPAGEuri") {
			t.Errorf("header is %v", record.Header())
		}
	})
	t.Run("edited", func(t *testing.T) {
		b, _, path := setup(t, Knobs{NextPageEdit: func(u *url.URL) { u.Scheme, u.Host = "http", "attacker.example" }})
		if got := b.feed("GET", path, "").header.Get("NextPageUri"); !strings.HasPrefix(got, "http://attacker.example/api/v1/") {
			t.Errorf("NextPageUri is %q", got)
		}
	})
	t.Run("loop", func(t *testing.T) {
		b, _, path := setup(t, Knobs{NextPageLoop: true})
		next := b.feed("GET", path, "").header.Get("NextPageUri")
		if again := b.do(b.request("GET", next, nil)).header.Get("NextPageUri"); again != next {
			t.Errorf("the page after %s is %s", next, again)
		}
	})
	t.Run("life", func(t *testing.T) {
		b, _, path := setup(t, Knobs{NextPageLife: time.Minute})
		next := b.feed("GET", path, "").header.Get("NextPageUri") + "&PublisherIdentifier=" + publisher
		b.want("fresh", b.do(b.request("GET", next, nil)), 200, "")
		b.want("of another operation", b.do(b.request("GET", strings.Replace(next, "/content?", "/notifications?", 1), nil)), 400, "AF20031")
		b.Advance(2 * time.Minute)
		b.want("stale", b.do(b.request("GET", next, nil)), 400, "AF20031")
		b.want("invented", b.feed("GET", path+"&nextPage=1$2", ""), 400, "AF20031")
	})
	t.Run("empty pages", func(t *testing.T) {
		b, all, path := setup(t, Knobs{EmptyPages: true, LastPageEmpty: true})
		pages := b.pages(path)
		var sizes []int
		for _, p := range pages {
			sizes = append(sizes, len(p))
		}
		if want := []int{2, 0, 2, 0, 1, 0}; !slices.Equal(sizes, want) {
			t.Errorf("page sizes %v, want %v", sizes, want)
		}
		b.wantIDs("all pages", slices.Concat(pages...), all...)
	})
}

func TestS20Order(t *testing.T) {
	b := newBench(t, Config{Seed: 4, Knobs: Knobs{PageSize: 2, RepeatItems: true}})
	b.subscribe()
	var all []Content
	for i := range 4 {
		all = append(all, b.Publish(general, begin.Add(-time.Minute), text(i))) // one millisecond
	}
	path := window(begin.Add(-time.Hour), begin)
	pages := b.pages(path)
	b.wantIDs("repeated items", slices.Concat(pages...), all[0], all[1], all[1], all[2], all[2], all[3])

	b.Tune(func(k *Knobs) { k.PageSize = 1 })
	b.wantIDs("nothing to repeat", slices.Concat(b.pages(path)...), all...)

	b.Tune(func(k *Knobs) { *k = Knobs{Shuffle: true} })
	shuffled := false
	for range 20 {
		got := b.ids(path)
		shuffled = shuffled || got[0] != all[0].ID
		slices.Sort(got)
		b.wantIDs("shuffled", got, all...)
	}
	if !shuffled {
		t.Error("the order is always the same")
	}

	b.Tune(func(k *Knobs) { *k = Knobs{} })
	late := b.Add(Content{Type: general, Created: begin.Add(-30 * time.Minute), Visible: begin.Add(3 * time.Hour), Records: slices.Values([]json.RawMessage{text(9)})})
	b.wantIDs("before it is visible", b.ids(path), all...)
	b.want("content not yet visible", b.feed("GET", "audit/"+late.ID, ""), 404, "AF20050")
	b.Advance(3 * time.Hour)
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.wantIDs("once it is visible", b.ids(path), slices.Concat([]Content{late}, all)...)
	b.want("content visible", b.feed("GET", "audit/"+late.ID, ""), 200, "")

	b.Tune(func(k *Knobs) { k.ItemEdit = func(item map[string]any) { item["contentId"] = "edited" } })
	if got := b.ids(path); len(got) != 5 || got[0] != "edited" {
		t.Errorf("edited items: %q", got)
	}
	b.Tune(func(k *Knobs) { *k = Knobs{} })

	outside := b.Add(Content{Type: general, Created: begin.Add(-50 * time.Hour), Listed: begin.Add(-30 * time.Minute), Records: slices.Values([]json.RawMessage{text(10)})})
	if got := b.ids(path); !slices.Contains(got, outside.ID) {
		t.Error("a content outside its window is not listed")
	}
	b.Tune(func(k *Knobs) { k.Backfill = 40 * time.Minute })
	_ = b.Publish(general, begin.Add(-41*time.Minute), text(11))
	if got := len(b.ids(path)); got != 6 {
		t.Errorf("%d contents with back-fill of 40 minutes, want 6", got)
	}
}

func TestS21ContentIDs(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	for shape, pattern := range map[IDShape]string{
		IDRecent: `^20260312100000000\d{6}\$2026031210\d{13}\$audit_general\$Audit_General\$(emea|na|apac)\d{4}$`,
		IDOld:    `^(20260312100000000\d{6})\$20260312100000000\d{6}\$audit_general\$Audit_General$`,
		IDOldest: `^\d{12}\$\d{12}\$[0-9a-f]{32}audit_general20260312\$[0-9a-f]{8}\$\d\d$`,
	} {
		b.Tune(func(k *Knobs) { k.IDShape = shape })
		c := b.Publish(general, begin, text(1))
		if !regexp.MustCompile(pattern).MatchString(c.ID) {
			t.Errorf("shape %d: %s", shape, c.ID)
		}
		if c.URI != b.server.URL+"/api/v1.0/"+DefaultID+"/activity/feed/audit/"+c.ID {
			t.Errorf("contentUri %s", c.URI)
		}
		b.want("as it is", b.do(b.request("GET", c.URI+"?PublisherIdentifier="+publisher, nil)), 200, "")
		b.noViolations()
		b.want("re-encoded", b.feed("GET", "audit/"+strings.ReplaceAll(c.ID, "$", "%24"), ""), 200, "")
		b.wantViolation("re-encoded")
	}
}

func TestS22Bodies(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	records := []json.RawMessage{json.RawMessage(`{"Id":"a", "Number":1.50}`), json.RawMessage("{\"bad\":\xff}"), json.RawMessage(`{"cut":`)}
	c := b.Publish(general, begin, records...)
	want := string(slices.Concat([]byte("["), bytes.Join([][]byte{records[0], records[1], records[2]}, []byte(",")), []byte("]")))
	if got := b.feed("GET", "audit/"+c.ID, ""); got.body != want {
		t.Errorf("body %q, want %q", got.body, want)
	}
	b.Tune(func(k *Knobs) { k.BOM = true })
	if got := b.feed("GET", "audit/"+c.ID, ""); got.body != "\ufeff"+want {
		t.Errorf("with a byte order mark: %q", got.body)
	}
	b.Tune(func(k *Knobs) { k.Gzip = true })
	if got := b.feed("GET", "audit/"+c.ID, ""); got.body != "\ufeff"+want { // the client unpacks it
		t.Errorf("compressed: %q", got.body)
	}
	b.Tune(func(k *Knobs) { *k = Knobs{} })
	verbatim := b.Add(Content{Type: general, Body: []byte(`{"error":{"code":"AF50000"}}`)})
	if got := b.feed("GET", "audit/"+verbatim.ID, ""); got.status != 200 || got.body != `{"error":{"code":"AF50000"}}` {
		t.Errorf("verbatim body: status %d %q", got.status, got.body)
	}

	record := json.RawMessage(`{"Id":"x","Filler":"` + strings.Repeat("x", 100_000) + `"}`)
	huge := b.Add(Content{Type: general, Records: func(yield func(json.RawMessage) bool) {
		for range 80 {
			if !yield(record) {
				return
			}
		}
	}})
	if got := b.feed("GET", "audit/"+huge.ID, ""); len(got.body) != (len(record)+1)*80+1 || got.err != nil {
		t.Errorf("huge content: %d bytes, error %v", len(got.body), got.err)
	}

	for _, at := range []int64{1, 10, int64(len(want)) - 1} {
		in := b.Inject(Rule{Op: OpAudit, CutAt: at})
		if got := b.feed("GET", "audit/"+c.ID, ""); got.err == nil || got.body != want[:at] {
			t.Errorf("cut at %d: %q, error %v", at, got.body, got.err)
		}
		in.Remove()
		in = b.Inject(Rule{Op: OpAudit, CutAt: at, Cut: CutClean})
		if got := b.feed("GET", "audit/"+c.ID, ""); got.err != nil || got.body != want[:at] {
			t.Errorf("cut clean at %d: %q, error %v", at, got.body, got.err)
		}
		in.Remove()
	}
	in := b.Inject(Rule{Op: OpAudit, CutAt: 5, Cut: CutStall})
	ctx, cancel := context.WithCancel(t.Context())
	answer, err := b.server.Client().Do(b.request("GET", c.URI+"?PublisherIdentifier="+publisher, nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	start := make([]byte, 5)
	if _, err := io.ReadFull(answer.Body, start); err != nil || string(start) != want[:5] {
		t.Errorf("stalled: %q, error %v", start, err)
	}
	rest := make(chan error)
	go func() {
		_, err := answer.Body.Read(make([]byte, 1))
		rest <- err
	}()
	select {
	case err := <-rest:
		t.Errorf("a stalled body went on: %v", err)
	case <-time.After(20 * time.Millisecond):
		cancel()
		if err := <-rest; err == nil {
			t.Error("a stalled body had more bytes")
		}
	}
	cancel()
	answer.Body.Close()
	in.Remove()
	in = b.Inject(Rule{Op: OpAudit, Drip: 3, Pause: time.Microsecond})
	if got := b.feed("GET", "audit/"+c.ID, ""); got.body != want || in.Hits() != 1 {
		t.Errorf("slow drip: %q, %d hits", got.body, in.Hits())
	}
}

func TestS23Expiry(t *testing.T) {
	b := newBench(t, Config{})
	b.subscribe()
	c := b.Publish(general, begin.Add(-6*24*time.Hour), text(1))
	if want := begin.Add(24 * time.Hour); !c.Expires.Equal(want) {
		t.Errorf("expires %v, want %v", c.Expires, want)
	}
	b.Tune(func(k *Knobs) { k.ToldLife = 20 * 24 * time.Hour })
	told := b.Publish(general, begin, text(2))
	if want := begin.Add(20 * 24 * time.Hour); !told.Expires.Equal(want) {
		t.Errorf("told to expire %v, want %v", told.Expires, want)
	}
	b.want("alive", b.feed("GET", "audit/"+c.ID, ""), 200, "")
	b.Advance(24 * time.Hour)
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.want("over", b.feed("GET", "audit/"+c.ID, ""), 400, "AF20051")
	b.want("unknown", b.feed("GET", "audit/1$2$3", ""), 404, "AF20050")
	b.want("malformed", b.feed("GET", "audit/123", ""), 400, "AF20052")
	b.wantViolation("content id that is none")
	b.Tune(func(k *Knobs) { k.ExpiredStatus, k.MissingStatus = 410, 400 })
	b.want("over, other status", b.feed("GET", "audit/"+c.ID, ""), 410, "AF20051")
	b.want("unknown, other status", b.feed("GET", "audit/1$2$3", ""), 400, "AF20050")
	b.Advance(7 * 24 * time.Hour)
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.want("told longer than kept", b.feed("GET", "audit/"+told.ID, ""), 410, "AF20051")
}

func TestS24Published(t *testing.T) {
	b := newBench(t, Config{})
	a, c := b.Publish(general, begin, text(1), text(2)), b.Publish(general, begin, text(2))
	var ids, texts []string
	for content, record := range b.Records() {
		ids, texts = append(ids, content.ID), append(texts, string(record))
	}
	b.wantIDs("contents of the records", ids, a, a, c)
	if want := []string{string(text(1)), string(text(2)), string(text(2))}; !slices.Equal(texts, want) {
		t.Errorf("records %q, want %q", texts, want)
	}
	if all := b.Contents(); len(all) != 2 || all[0].ID != a.ID {
		t.Errorf("contents: %+v", all)
	}
}

func TestS25Notifications(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	c := b.Publish(general, begin, text(1))
	r.answer(500)
	b.Deliver(t.Context())
	r.answer(200)
	b.Advance(time.Minute)
	b.Deliver(t.Context())
	got := b.feed("GET", strings.Replace(window(begin.Add(-time.Hour), begin.Add(time.Hour)), "content?", "notifications?", 1), "")
	var items []item
	if err := json.Unmarshal([]byte(got.body), &items); err != nil {
		t.Fatal(err)
	}
	if len(items) != 2 || items[0].ContentID != c.ID || items[0].NotificationStatus != "failed" || items[1].NotificationStatus != "success" ||
		items[1].NotificationSent != "2026-03-12T10:01:00.000Z" {
		t.Errorf("notifications: %+v", items)
	}
	names := func(language string) reply {
		q := b.request("GET", b.server.URL+"/api/v1.0/"+DefaultID+"/activity/feed/resources/dlpSensitiveTypes?PublisherIdentifier="+publisher, nil)
		q.Header.Set("Accept-Language", language)
		return b.do(q)
	}
	b.want("names", names("en-US"), 200, "")
	b.want("two languages", names("en-US,de-DE"), 400, "AF20053")
	b.want("no language", names("en_US"), 400, "AF20054")
}

func TestS26Throttling(t *testing.T) {
	b := newBench(t, Config{Knobs: Knobs{Budget: 3}})
	b.subscribe()
	c := b.Publish(general, begin, text(1))
	path := window(begin.Add(-time.Hour), begin)
	b.want("within", b.feed("GET", path, ""), 200, "")
	b.want("within", b.feed("GET", path, ""), 200, "")
	got := b.feed("GET", path, "")
	b.want("over", got, 403, "AF429")
	if !strings.Contains(got.body, "Method=GetContents") || !strings.Contains(got.body, "PublisherId="+publisher) || got.header.Get("Retry-After") != "" {
		t.Errorf("throttled: %v %s", got.header, got.body)
	}
	b.Tune(func(k *Knobs) { k.ThrottleStatus, k.RetryAfter, k.SingleQuotes = 429, 7*time.Second, true })
	got = b.feed("GET", "audit/"+c.ID, "")
	if got.status != 429 || got.header.Get("Retry-After") != "7" || !strings.HasPrefix(got.body, `{'error':{'code':'AF429'`) || !strings.Contains(got.body, "Method=GetBlob") {
		t.Errorf("throttled: %d %v %s", got.status, got.header, got.body)
	}
	b.Tune(func(k *Knobs) { k.SingleQuotes = false })
	bare := b.server.URL + "/api/v1.0/" + DefaultID + "/activity/feed/" + path
	b.noViolations()
	for range 3 {
		b.want("common pool", b.do(b.request("GET", bare, nil)), 200, "")
	}
	got = b.do(b.request("GET", bare, nil))
	if got.code != "AF429" || !strings.Contains(got.body, "PublisherId=00000000-0000-0000-0000-000000000000") {
		t.Errorf("common pool exhausted: %s", got.body)
	}
	b.wantViolation("PublisherIdentifier 0 times")
	b.Advance(20 * time.Second)
	b.want("one call paid back", b.feed("GET", path, ""), 200, "")
	b.want("no more", b.feed("GET", path, ""), 429, "AF429")
	b.Tune(func(k *Knobs) { k.Budget = -1 })
	b.want("no limit", b.feed("GET", path, ""), 200, "")
}

func TestS27Publisher(t *testing.T) {
	b := newBench(t, Config{})
	list := b.server.URL + "/api/v1.0/" + DefaultID + "/activity/feed/subscriptions/list"
	b.want("no GUID", b.do(b.request("GET", list+"?PublisherIdentifier=harbor", nil)), 400, "AF20002")
	b.wantViolation("not a GUID")
	b.want("twice", b.do(b.request("GET", list+"?PublisherIdentifier="+publisher+"&publisheridentifier="+publisher, nil)), 200, "")
	b.wantViolation("PublisherIdentifier 2 times")
	last := b.Requests()[len(b.Requests())-1]
	if last.PublisherIdentifiers != 2 || last.Op != OpSubscriptions || !last.Authorized || last.Status != 200 {
		t.Errorf("request log: %+v", last)
	}
	if b.Count(OpSubscriptions) != 2 || b.Count(OpUnknown) != 3 {
		t.Errorf("%d lists, %d requests", b.Count(OpSubscriptions), b.Count(OpUnknown))
	}
}

func TestS28Faults(t *testing.T) {
	b := newBench(t, Config{Seed: 9})
	b.subscribe()
	path := window(begin.Add(-time.Hour), begin)
	statuses := func(n int) (got []int) {
		for range n {
			got = append(got, b.feed("GET", path, "").status)
		}
		return got
	}
	in := b.Inject(Rule{Op: OpContent, Skip: 1, Every: 2, Times: 2, Status: 503, Body: "<html>busy</html>"})
	if got, want := statuses(7), []int{200, 200, 503, 200, 503, 200, 200}; !slices.Equal(got, want) {
		t.Errorf("every second after the first, twice: %v, want %v", got, want)
	}
	if in.Hits() != 2 {
		t.Errorf("%d hits, want 2", in.Hits())
	}
	in.Remove()
	in = b.Inject(Rule{Path: "startTime=2026-03-12T09", Status: 500, Code: "AF50000", Message: "synthetic"})
	b.want("by path", b.feed("GET", path, ""), 500, "AF50000")
	b.want("another path", b.feed("GET", "subscriptions/list", ""), 200, "")
	in.Remove()
	in = b.Inject(Rule{Status: 302, Header: http.Header{"Location": {"https://attacker.example/"}}})
	if got := b.feed("GET", path, ""); got.status != 302 || got.header.Get("Location") != "https://attacker.example/" {
		t.Errorf("redirect: %+v", got)
	}
	in.Remove()
	in = b.Inject(Rule{Reset: true})
	if got := b.feed("GET", path, ""); got.err == nil {
		t.Error("a dropped connection gave an answer")
	}
	in.Remove()
	in = b.Inject(Rule{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan reply)
	go func() { done <- b.do(b.request("GET", b.server.URL, nil).WithContext(ctx)) }()
	for in.Hits() == 0 {
		select {
		case got := <-done:
			t.Fatalf("a hanging answer ended: %+v", got)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if got := <-done; got.err == nil {
		t.Error("a hanging answer came")
	}
	in.Remove()
	in = b.Inject(Rule{Rate: 0.5, Status: 502})
	bad := 0
	for _, s := range statuses(200) {
		if s == 502 {
			bad++
		}
	}
	if bad < 70 || bad > 130 || bad != in.Hits() {
		t.Errorf("%d of 200 at a rate of one half, %d hits", bad, in.Hits())
	}
}

func TestS29Validation(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	call := r.calls[0]
	code := call.header.Get("Webhook-ValidationCode")
	if code == "" || call.body != `{"validationCode":"`+code+`"}` || call.header.Get("Webhook-AuthID") != "auth-id-17" || call.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("validation: %v %s", call.header, call.body)
	}
	b.Advance(startGap)
	b.want("without AuthID", b.feed("POST", "subscriptions/start?contentType="+general, hook(r.URL, "", "")), 200, "")
	if _, ok := r.calls[1].header["Webhook-Authid"]; ok {
		t.Errorf("validation without AuthID: %v", r.calls[1].header)
	}

	b.Tune(func(k *Knobs) {
		k.ValidationHeader = func(h http.Header) { h.Set("Webhook-ValidationCode", "another") }
	})
	b.Advance(startGap)
	b.want("edited header", b.feed("POST", "subscriptions/start?contentType="+general, hook(r.URL, "x", "")), 200, "")
	if last := r.calls[2]; last.header.Get("Webhook-ValidationCode") != "another" || strings.Contains(last.body, "another") {
		t.Errorf("validation with an edited header: %v %s", last.header, last.body)
	}

	release := make(chan struct{})
	slow := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		select {
		case <-q.Context().Done():
		case <-release:
		}
	}))
	defer slow.Close()
	defer close(release)
	b.cfg.Client.Transport = slow.Client().Transport
	b.Tune(func(k *Knobs) { k.ValidationTimeout = 20 * time.Millisecond })
	b.Advance(startGap)
	b.want("too slow", b.feed("POST", "subscriptions/start?contentType="+general, hook(slow.URL, "", "")), 400, "AF20021")
}

func TestS30Notification(t *testing.T) {
	b, r := newBench(t, Config{Knobs: Knobs{NotifyBatch: 2}}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	_ = b.Publish(general, begin.Add(-time.Hour), text(0)) // before the webhook: never told
	b.Advance(time.Second)
	b.subscribeHook(r)
	c := b.Publish(general, b.Now(), text(1))
	_, _ = b.Publish(general, b.Now(), text(2)), b.Publish(general, b.Now(), text(3))
	if sent := b.Deliver(t.Context()); len(sent) != 2 || len(sent[0].ContentIDs) != 2 || len(sent[1].ContentIDs) != 1 || sent[0].Status != 200 {
		t.Fatalf("sent %+v", sent)
	}
	call := r.calls[1]
	want := fmt.Sprintf(`{"clientId":"%s","contentCreated":"2026-03-12T10:00:01.000Z","contentExpiration":"2026-03-19T10:00:01.000Z","contentId":"%s","contentType":"Audit.General","contentUri":"%s","tenantId":"%s"}`, DefaultAppID, c.ID, c.URI, DefaultID)
	if !strings.HasPrefix(call.body, "["+want+",{") || call.header.Get("Content-Type") != "application/json; utf-8" || call.header.Get("Webhook-AuthID") != "auth-id-17" || call.header["Webhook-Validationcode"] != nil {
		t.Errorf("notification: %v %s\nwant %s", call.header, call.body, want)
	}
	for _, status := range []int{201, 202, 204, 302, 500} {
		r.answer(status)
		before := r.count()
		b.Publish(general, b.Now(), text(4))
		b.Advance(time.Hour)
		if sent := b.Deliver(t.Context()); len(sent) != 1 || sent[0].Status != status || r.count() != before+1 {
			t.Errorf("status %d: sent %+v in %d calls", status, sent, r.count()-before)
		}
	}
	r.answer(200)
	b.Advance(time.Hour)
	if sent := b.Deliver(t.Context()); len(sent) != 3 || len(sent[0].ContentIDs)+len(sent[1].ContentIDs)+len(sent[2].ContentIDs) != 5 {
		t.Errorf("in the end sent %+v, want all five", sent)
	}
}

func TestS31RetriesAndDisabling(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	r.answer(503)
	c := b.Publish(general, begin, text(1))
	var waits []time.Duration
	last := b.Now()
	for len(waits) < 10 {
		if sent := b.Deliver(t.Context()); len(sent) == 1 {
			waits = append(waits, b.Now().Sub(last))
			last = b.Now()
		}
		b.Advance(time.Minute)
	}
	minutes := func(n ...int) (d []time.Duration) {
		for _, m := range n {
			d = append(d, time.Duration(m)*time.Minute)
		}
		return d
	}
	if want := minutes(0, 1, 2, 4, 8, 16, 32, 60, 60, 60); !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	r.answer(200)
	b.Advance(10 * time.Hour)
	if sent := b.Deliver(t.Context()); len(sent) != 0 || b.Subscriptions()[0].Webhook.Status != Disabled {
		t.Errorf("after ten failures: sent %+v, %+v", sent, b.Subscriptions()[0].Webhook)
	}
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.wantIDs("still listed", b.ids(window(begin.Add(-time.Hour), begin.Add(time.Hour))), c)
	b.subscribeHook(r)
	next := b.Publish(general, b.Now(), text(2))
	if sent := b.Deliver(t.Context()); len(sent) != 1 || !slices.Equal(sent[0].ContentIDs, []string{next.ID}) {
		t.Errorf("revived: sent %+v, want the new content only", sent)
	}
}

func TestS32ExpiryAndVanishing(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	if got := b.feed("POST", "subscriptions/start?contentType="+general, hook(r.URL, "auth-id-17", "2026-03-12T10:30:00")); got.status != 200 {
		t.Fatal(got.body)
	}
	b.Advance(31 * time.Minute)
	b.Publish(general, b.Now(), text(1))
	if sent := b.Deliver(t.Context()); len(sent) != 0 || b.Subscriptions()[0].Webhook.Status != Expired {
		t.Errorf("expired: sent %+v, %+v", sent, b.Subscriptions()[0].Webhook)
	}
	b.subscribeHook(r)
	b.EditSubscription(general, func(s *Subscription) { s.Webhook = nil })
	b.Publish(general, b.Now(), text(2))
	if sent := b.Deliver(t.Context()); len(sent) != 0 {
		t.Errorf("vanished: sent %+v", sent)
	}
}

func TestS33NotificationKnobs(t *testing.T) {
	b, r := newBench(t, Config{Seed: 2}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	deliver := func(knobs Knobs, n int) (ids []string) {
		knobs.NotifyBatch = 1000
		b.Tune(func(k *Knobs) { *k = knobs })
		for i := range n {
			b.Publish(general, b.Now(), text(i))
		}
		for _, d := range b.Deliver(t.Context()) {
			ids = append(ids, d.ContentIDs...)
		}
		return ids
	}
	if got := len(deliver(Knobs{NotifyLoss: 1}, 10)); got != 0 {
		t.Errorf("all lost: %d told", got)
	}
	if got := len(deliver(Knobs{NotifyTwice: 1}, 10)); got != 20 {
		t.Errorf("all twice: %d told, want 20", got)
	}
	if got := deliver(Knobs{NotifyShuffle: true}, 50); len(got) != 50 || slices.IsSorted(got) {
		t.Errorf("shuffled: %d told, sorted %v", len(got), slices.IsSorted(got))
	}
	if got := len(deliver(Knobs{NotifyDelay: time.Minute, NotifyJitter: time.Minute}, 100)); got != 0 {
		t.Errorf("late: %d told at once", got)
	}
	b.Advance(90 * time.Second)
	early := len(deliver(Knobs{}, 0))
	b.Advance(30 * time.Second)
	if rest := len(deliver(Knobs{}, 0)); early == 0 || rest == 0 || early+rest != 100 {
		t.Errorf("late with jitter: %d, then %d", early, rest)
	}
	before := r.count()
	deliver(Knobs{NotifyEdit: func(item map[string]any) { item["tenantId"] = publisher }}, 1)
	if !strings.Contains(r.calls[before].body, `"tenantId":"`+publisher+`"`) {
		t.Errorf("edited: %s", r.calls[before].body)
	}
	before = r.count()
	if got := len(deliver(Knobs{NotifyAway: r.URL + "/another"}, 1)); got != 1 || r.calls[before].path != "/another" {
		t.Errorf("to another address: %d told, path %s", got, r.calls[before].path)
	}
	b.Tune(func(k *Knobs) { *k = Knobs{NotifyDelay: -time.Minute} })
	ahead := b.Add(Content{Type: general, Created: b.Now(), Visible: b.Now().Add(time.Minute), Records: slices.Values([]json.RawMessage{text(1)})})
	if sent := b.Deliver(t.Context()); len(sent) != 1 {
		t.Errorf("early: sent %+v", sent)
	}
	b.want("told before it is there", b.feed("GET", "audit/"+ahead.ID, ""), 404, "AF20050")
}

func TestS34Hostile(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	good := b.Publish(general, begin, text(1))
	names := map[string]bool{}
	for _, h := range b.Hostile("auth-id-17", good) {
		if names[h.Name] {
			t.Errorf("%s is there twice", h.Name)
		}
		names[h.Name] = true
		if h.Name == "1 GiB" || h.Name == "100,000 items" {
			continue // too much for a receiver that reads all
		}
		before := r.count()
		if status, err := b.Send(t.Context(), r.URL, h); status != 200 || err != nil {
			t.Errorf("%s: status %d: %v", h.Name, status, err)
		}
		call := r.calls[before]
		if got := call.header.Get("Webhook-AuthID"); got != h.AuthID {
			t.Errorf("%s: AuthID %q", h.Name, got)
		}
		if len(h.Keeps) > 0 && (!json.Valid([]byte(call.body)) || !strings.Contains(call.body, `"contentId":"`+good.ID+`"`)) {
			t.Errorf("%s: no good neighbour in %s", h.Name, call.body)
		}
	}
	if len(names) < 35 {
		t.Errorf("%d hostile requests", len(names))
	}
}

func TestRunSendsAsItFallsDue(t *testing.T) {
	b, r := newBench(t, Config{Clock: time.Now}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Tenant.Run(ctx) }()
	now := b.Publish(general, b.Now(), text(1))
	later := b.Add(Content{Type: general, Visible: b.Now().Add(time.Hour), Records: slices.Values([]json.RawMessage{text(2)})})
	told := func(c Content) bool {
		return slices.ContainsFunc(b.Deliveries(), func(d Delivery) bool { return slices.Contains(d.ContentIDs, c.ID) })
	}
	wait := func(c Content) {
		t.Helper()
		for deadline := time.After(10 * time.Second); !told(c); {
			select {
			case <-deadline:
				t.Fatalf("%s is not told", c.ID)
			case <-time.After(time.Millisecond):
			}
		}
	}
	wait(now)
	if told(later) {
		t.Error("a content is told before it is visible")
	}
	b.Advance(time.Hour)
	wait(later)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// TestHTTP2 looks at what differs where the service speaks HTTP/2, as it does.
func TestHTTP2(t *testing.T) {
	lab := New(Config{Clock: func() time.Time { return begin }, Knobs: Knobs{PageSize: 1, NoDate: true}})
	server := httptest.NewUnstartedServer(lab.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	b := &bench{T: t, Tenant: lab, server: server}
	b.token = b.grant(DefaultAppID, DefaultAppSecret)
	b.subscribe()
	var all []Content
	for i := range 3 {
		all = append(all, b.Publish(general, begin.Add(-time.Minute), text(i)))
	}
	pages := b.pages(window(begin.Add(-time.Hour), begin))
	b.wantIDs("pages", slices.Concat(pages...), all...)
	if got := b.feed("GET", "subscriptions/list", ""); got.header.Get("Date") != "" {
		t.Errorf("Date = %q, want none", got.header.Get("Date"))
	}
	b.Inject(Rule{Op: OpAudit, CutAt: 7, Times: 1})
	if got := b.feed("GET", "audit/"+all[0].ID, ""); got.err == nil || len(got.body) != 7 {
		t.Errorf("cut at 7: %q, error %v", got.body, got.err)
	}
	b.Inject(Rule{Op: OpAudit, Reset: true, Times: 1})
	if got := b.feed("GET", "audit/"+all[0].ID, ""); got.err == nil {
		t.Error("a dropped stream gave an answer")
	}
	answer, err := server.Client().Do(b.request("GET", all[0].URI+"?PublisherIdentifier="+publisher, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Errorf("the answer came over %s", answer.Proto)
	}
}

// FuzzHandler sends the tenant whatever comes: it answers all of it.
func FuzzHandler(f *testing.F) {
	feed := "/api/v1.0/" + DefaultID + "/activity/feed/"
	f.Add("GET", feed+"subscriptions/list?PublisherIdentifier="+publisher, "", "")
	f.Add("POST", feed+"subscriptions/start?contentType=Audit.General", "application/json", `{"webhook":{"address":"http://x","authId":null,"expiration":null}}`)
	f.Add("POST", feed+"subscriptions/stop?contentType=Audit.General", "", "")
	f.Add("GET", feed+"subscriptions/content?contentType=Audit.General&startTime=2026-03-12T08:00&endTime=2026-03-12&nextPage=$", "", "")
	f.Add("GET", feed+"audit/1%242$3", "", "")
	f.Add("POST", "/"+DefaultID+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", "client_id="+DefaultAppID+"&client_assertion=e30.e30.e30")
	f.Fuzz(func(t *testing.T, method, target, media, body string) {
		if strings.Contains(body, "https") {
			t.Skip("would be a webhook to call")
		}
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" {
			t.Skip("no request of an HTTP server's")
		}
		lab := New(Config{Clock: func() time.Time { return begin }, Origin: "https://127.0.0.1:1"})
		token, _, _ := lab.issue(lab.apps[DefaultAppID], DefaultAudience, "1", begin)
		r := &http.Request{Method: method, URL: u, Host: "127.0.0.1:1", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
		r = r.WithContext(t.Context())
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", media)
		record := httptest.NewRecorder()
		lab.Handler().ServeHTTP(record, r)
		if record.Code < 200 || record.Code > 599 || len(lab.Requests()) != 1 {
			t.Errorf("status %d, %d requests noted", record.Code, len(lab.Requests()))
		}
	})
}

func TestNoSecretIsKept(t *testing.T) {
	b, r := newBench(t, Config{}), newReceiver(t)
	b.cfg.Client.Transport = r.Client().Transport
	b.subscribeHook(r)
	b.token += "x"
	b.feed("GET", "subscriptions/list", "")
	kept := fmt.Sprintf("%+v %+v", b.Requests(), b.Violations())
	for _, secret := range []string{DefaultAppSecret, "auth-id-17", b.token[:40], base64.StdEncoding.EncodeToString([]byte(DefaultAppSecret))} {
		if strings.Contains(kept, secret) {
			t.Errorf("what is kept about requests has a secret: %s", secret)
		}
	}
}
