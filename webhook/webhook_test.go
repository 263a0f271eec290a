package webhook_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"activityarchive/handler/activity"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
	"activityarchive/webhook"
)

const (
	tenant   = "11111111-2222-4333-8444-555555555555"
	app      = "66666666-7777-4888-8999-aaaaaaaaaaaa"
	authID   = "synthetic-auth-id-current"
	previous = "synthetic-auth-id-previous"
)

// credential hands out a token that names the application, or fails.
type credential struct{ err error }

func (c credential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	claims := fmt.Sprintf(`{"aud":"https://manage.example","tid":%q,"appid":%q}`, tenant, app)
	part := base64.RawURLEncoding.EncodeToString
	return azcore.AccessToken{Token: part([]byte(`{"alg":"none"}`)) + "." + part([]byte(claims)) + ".x", ExpiresOn: time.Now().Add(time.Hour)}, c.err
}

// apiTransport fails the test: no call of the webhook may lead to a request.
type apiTransport struct{ t *testing.T }

func (a apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	a.t.Errorf("a request left: %s %s", r.Method, r.URL)
	return nil, errors.New("refused")
}

// state stands for the container of the ledger: it takes batches of creates.
type state struct {
	down bool

	mu      sync.Mutex
	created []ledger.Entry
}

func (s *state) Do(r *http.Request) (*http.Response, error) {
	answer := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}, "X-Ms-Request-Charge": {"1"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
	}
	switch {
	case r.URL.Path == "" || r.URL.Path == "/":
		return answer(200, `{"writableLocations":[{"name":"x","databaseAccountEndpoint":"https://account.example/"}],"readableLocations":[{"name":"x","databaseAccountEndpoint":"https://account.example/"}]}`), nil
	case s.down:
		return answer(403, `{"message":"blocked"}`), nil
	case r.Method == http.MethodGet:
		return answer(200, `{"id":"ArchiveState","partitionKey":{"paths":["/pk"],"kind":"Hash","version":2}}`), nil
	}
	var ops []struct{ ResourceBody ledger.Entry }
	if err := json.NewDecoder(r.Body).Decode(&ops); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var results []string
	for _, op := range ops {
		s.created = append(s.created, op.ResourceBody)
		results = append(results, `{"statusCode":201}`)
	}
	return answer(200, "["+strings.Join(results, ",")+"]"), nil
}

type fixture struct {
	handler *webhook.Handler
	state   *state
	log     *bytes.Buffer
}

func newFixture(t *testing.T, c credential, s *state) *fixture {
	t.Helper()
	f := &fixture{state: s, log: &bytes.Buffer{}}
	logger := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	root, err := url.Parse("https://manage.example")
	if err != nil {
		t.Fatal(err)
	}
	api, err := activity.New(activity.Config{
		Root: root, Audience: "https://manage.example", TenantID: tenant, PublisherIdentifier: tenant,
		Credential:        func() (azcore.TokenCredential, error) { return c, nil },
		RequestsPerMinute: 100, Transport: apiTransport{t}, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := cosmos.Open(cosmos.Config{Endpoint: "https://account.example/", Key: "c3ludGhldGlj", Database: "Audit", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	f.handler = webhook.New(webhook.Config{
		AuthIDs: []string{authID, previous}, TenantID: tenant, ContentTypes: []string{"Audit.General"},
		API: api, Ledger: ledger.New(db, "ArchiveState"), Logger: logger,
	})
	return f
}

func (f *fixture) post(t *testing.T, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/webhook", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; utf-8")
	r.Header.Set("Webhook-AuthID", authID)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

// pointer is an item of a notification; change alters one field of a good one.
func pointer(id string, change ...string) string {
	it := map[string]string{
		"tenantId": tenant, "clientId": app, "contentType": "Audit.General", "contentId": id,
		"contentUri":     "https://manage.example/api/v1.0/" + tenant + "/activity/feed/audit/" + id,
		"contentCreated": time.Now().UTC().Format(time.RFC3339Nano), "contentExpiration": time.Now().Add(168 * time.Hour).UTC().Format(time.RFC3339Nano),
	}
	for i := 0; i < len(change); i += 2 {
		it[change[i]] = change[i+1]
	}
	b, err := json.Marshal(it)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestAnswers(t *testing.T) {
	good := "[" + pointer("a$1") + "]"
	tests := []struct {
		name   string
		body   string
		header []string
		want   int
	}{
		{"notification", good, nil, 200},
		{"previous AuthID", good, []string{"Webhook-AuthID", previous}, 200},
		{"wrong AuthID", good, []string{"Webhook-AuthID", authID + "x"}, 401},
		{"prefix of the AuthID", good, []string{"Webhook-AuthID", authID[:10]}, 401},
		{"no AuthID", good, []string{"Webhook-AuthID", ""}, 401},
		{"odd content type", good, []string{"Content-Type", ";;;"}, 200},
		{"byte order mark", "\ufeff" + good, nil, 200},
		{"compressed", good, []string{"Content-Encoding", "gzip"}, 415},
		{"not compressed, and says so", good, []string{"Content-Encoding", "identity"}, 200},
		{"empty array", "[]", nil, 200},
		{"empty body", "", nil, 400},
		{"not JSON", "[{]", nil, 400},
		{"text", "hello", nil, 400},
		{"number", "5", nil, 400},
		{"too large", "[" + strings.Repeat(" ", 1<<20) + "]", nil, 413},
		{"deep", strings.Repeat("[", 100_000), nil, 400},
		{"items of other shapes", `[5,"x",null,[],{}]`, nil, 200},
		{"validation", `{"validationCode":"abc"}`, []string{"Webhook-ValidationCode", "abc"}, 200},
		{"validation, codes differ", `{"validationCode":"abc"}`, []string{"Webhook-ValidationCode", "abd"}, 400},
		{"validation, no header", `{"validationCode":"abc"}`, nil, 400},
		{"validation, no code", `{"validationCode":""}`, []string{"Webhook-ValidationCode", ""}, 400},
		{"validation, wrong AuthID", `{"validationCode":"abc"}`, []string{"Webhook-ValidationCode", "abc", "Webhook-AuthID", "x"}, 401},
		{"notification with a validation header", good, []string{"Webhook-ValidationCode", "abc"}, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, credential{}, &state{})
			w := f.post(t, tt.body, tt.header...)
			if w.Code != tt.want {
				t.Errorf("status %d (%s), want %d", w.Code, w.Body, tt.want)
			}
			if w.Code == 200 && w.Body.Len() != 0 {
				t.Errorf("a 200 with the body %q", w.Body)
			}
			if out := f.log.String() + w.Body.String(); strings.Contains(out, "synthetic-auth-id") {
				t.Errorf("an AuthID is told: %s", out)
			}
		})
	}
}

func TestMethod(t *testing.T) {
	f := newFixture(t, credential{}, &state{})
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodOptions, http.MethodDelete} {
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/api/webhook", nil))
		if w.Code != 405 || w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: status %d, Allow %q", method, w.Code, w.Header().Get("Allow"))
		}
	}
}

// Items that are not for us are refused; their neighbours in the same array are
// recorded before the 200.
func TestItems(t *testing.T) {
	other := "99999999-2222-4333-8444-555555555555"
	base := "https://manage.example/api/v1.0/" + tenant + "/activity/feed/audit/"
	tests := []struct {
		name   string
		item   string
		wanted bool
	}{
		{"good", pointer("x"), true},
		{"tenant in upper case", pointer("x", "tenantId", strings.ToUpper(tenant)), true},
		{"other tenant", pointer("x", "tenantId", other), false},
		{"no tenant", pointer("x", "tenantId", ""), false},
		{"other application", pointer("x", "clientId", other), false},
		{"no application", pointer("x", "clientId", ""), false},
		{"type not collected", pointer("x", "contentType", "Audit.Exchange"), false},
		{"type in other case", pointer("x", "contentType", "audit.general"), true},
		{"no contentId", pointer(""), false},
		{"contentId of 3 KB", pointer(strings.Repeat("x", 3000)), false},
		{"other host", pointer("x", "contentUri", "https://evil.example/api/v1.0/"+tenant+"/activity/feed/audit/x"), false},
		{"look-alike host", pointer("x", "contentUri", "https://manage.example.evil.example/api/v1.0/"+tenant+"/activity/feed/audit/x"), false},
		{"http", pointer("x", "contentUri", strings.Replace(base, "https", "http", 1)+"x"), false},
		{"port", pointer("x", "contentUri", strings.Replace(base, "manage.example", "manage.example:8443", 1)+"x"), false},
		{"userinfo", pointer("x", "contentUri", strings.Replace(base, "manage", "a:b@manage", 1)+"x"), false},
		{"other tenant in the path", pointer("x", "contentUri", strings.Replace(base, tenant, other, 1)+"x"), false},
		{"traversal", pointer("x", "contentUri", base+"../subscriptions/stop"), false},
		{"encoded traversal", pointer("x", "contentUri", base+"%2e%2e%2fstop"), false},
		{"no date", pointer("x", "contentCreated", "yesterday"), false},
		{"number as contentId", strings.Replace(pointer("7"), `"contentId":"7"`, `"contentId":7`, 1), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, credential{}, &state{})
			if w := f.post(t, "["+pointer("before")+","+tt.item+","+pointer("after")+"]"); w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			want := 2
			if tt.wanted {
				want = 3
			}
			if len(f.state.created) != want {
				t.Errorf("%d entries recorded, want %d", len(f.state.created), want)
			}
			for _, e := range f.state.created {
				if e.Found != ledger.ByWebhook || e.ContentType != "Audit.General" || e.Open != 1 {
					t.Errorf("entry %+v", e)
				}
			}
		})
	}
}

func TestNotAcknowledgedUnlessRecorded(t *testing.T) {
	f := newFixture(t, credential{}, &state{down: true})
	if w := f.post(t, "["+pointer("x")+"]"); w.Code != 503 {
		t.Errorf("the ledger is down: status %d", w.Code)
	}
	f = newFixture(t, credential{err: errors.New("no token")}, &state{})
	if w := f.post(t, "["+pointer("x")+"]"); w.Code != 503 || len(f.state.created) != 0 {
		t.Errorf("our own application id is unknown: status %d, %d entries", w.Code, len(f.state.created))
	}
}

func FuzzNotification(f *testing.F) {
	f.Add("["+pointer("a")+"]", "", authID)
	f.Add(`{"validationCode":"abc"}`, "abc", authID)
	f.Add(`[{"tenantId":null},[[[]]],"\ud800"]`, "", previous)
	f.Fuzz(func(t *testing.T, body, code, id string) {
		s := &state{}
		h := newFixture(t, credential{}, s)
		w := h.post(t, body, "Webhook-ValidationCode", code, "Webhook-AuthID", id)
		if id != authID && id != previous && w.Code != 401 {
			t.Errorf("status %d with a wrong AuthID", w.Code)
		}
		for _, e := range s.created {
			if !strings.HasPrefix(e.ContentURI, "https://manage.example/") {
				t.Errorf("recorded %q", e.ContentURI)
			}
		}
	})
}
