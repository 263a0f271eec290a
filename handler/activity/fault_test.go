package activity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
)

func envelope(code string) string {
	return `{"error":{"code":"` + code + `","message":"Some words."}}`
}

// TestKindByCode holds that the code decides, whatever the status and shape.
func TestKindByCode(t *testing.T) {
	kinds := map[string]Kind{
		"AF429": Throttled, "AF10001": Denied,
		"AF20001": BadRequest, "AF20002": BadRequest, "AF20003": BadRequest,
		"AF20010": Denied, "AF20011": Denied, "AF20012": Denied, "AF20013": BadRequest,
		"AF20020": BadRequest, "AF20021": WebhookRefused, "AF20022": NotSubscribed, "AF20023": NotSubscribed, "AF20024": BadRequest,
		"AF20030": BadRequest, "AF20031": BadPage,
		"AF20050": Gone, "AF20051": Gone, "AF20052": Gone,
		"AF20053": BadRequest, "AF20054": BadRequest, "AF20055": BadRequest, "AF29999": BadRequest,
		"AF50000": Transient, "AF50005": Transient, "AF50006": Transient, "AF59999": Transient,
	}
	for code, want := range kinds {
		for _, status := range []int{200, 400, 401, 403, 404, 410, 429, 500, 503} {
			for shape, body := range map[string]string{
				"json":          envelope(code),
				"single quotes": `{'error':{'code':'` + code + `','message':'Some words.'}}`,
				"in text":       `<p>` + code + `: Some words.</p>`,
			} {
				f := newFault(request{op: "test", content: status%2 == 0}, &http.Response{StatusCode: status}, []byte(body), time.Now())
				if f.Kind != want || f.Code != code {
					t.Errorf("%s, status %d, %s: %v %q, want %v", code, status, shape, f.Kind, f.Code, want)
				}
				if f.Kind == Denied && f.Remedy == "" {
					t.Errorf("%s: no remedy", code)
				}
			}
		}
	}
}

func TestKindWithoutCode(t *testing.T) {
	const (
		modern = `{"error":{"code":"StartSubscription [CorrId=6c0e1b52-AF12-4a44-9d0e-0b1f6a3e7c11][TenantId=3f0e5c1a][ContentType=Audit.General][PublisherId={b1a2}][AppId","message":"d1f7c22-5b3e] failed. Exception: Sample.DataServiceException: Tenant 3f0e5c1a does not exist.\r\n   at Sample.Service.Get()"}}`
		older  = `{"error":{"code":"StartSubscription failed. Exception","message":"Sample.DataServiceException: Tenant 3f0e5c1a does not exist."}}`
		null   = `{"error":{"code":"GetContents failed. Exception","message":"System.NullReferenceException: Object reference not set."}}`
		bare   = `{"Message":"Authorization has been denied for this request."}`
	)
	for _, tt := range []struct {
		name    string
		status  int
		content bool
		body    string
		want    Kind
		remedy  string
	}{
		{"auditing off", 400, false, modern, Denied, remedyAuditing},
		{"auditing off, older text", 400, false, older, Denied, remedyAuditing},
		{"the service's own exception", 400, false, null, Transient, ""},
		{"bare 401", 401, false, bare, Denied, remedyToken},
		{"HTML 401", 401, false, "<html>401 - Unauthorized</html>", Denied, remedyToken},
		{"empty 401", 401, true, "", Denied, remedyToken},
		{"403 of something else", 403, false, "<html>Forbidden</html>", Denied, remedyRefused},
		{"403 throttled in words", 403, true, "Too Many Requests.", Throttled, ""},
		{"400 throttled in words", 400, true, `{"error":"too many requests"}`, Throttled, ""},
		{"proxy wants a login", 407, false, "", Denied, remedyRefused},
		{"429", 429, false, "", Throttled, ""},
		{"404 of a content", 404, true, "", Gone, ""},
		{"410 of a content", 410, true, "", Gone, ""},
		{"404 of an operation", 404, false, "<html>Not found</html>", BadRequest, remedyRoot},
		{"redirect", 302, false, "", BadRequest, remedyRedirect},
		{"not modified", 304, true, "", BadRequest, remedyRedirect},
		{"no content", 204, false, "", Transient, ""},
		{"bad method", 405, false, "", BadRequest, ""},
		{"timeout", 408, false, "", Transient, ""},
		{"unreadable 400", 400, false, "<html>", Transient, ""},
		{"500", 500, true, "", Transient, ""},
		{"501", 501, true, "", Transient, ""},
		{"502", 502, false, "<html>", Transient, ""},
		{"503 cut", 503, false, `{"error":{"co`, Transient, ""},
		{"504", 504, false, "", Transient, ""},
		{"code of another family", 400, false, envelope("AF99999"), Transient, ""},
		{"digits of a GUID are no code", 400, true, `{"Message":"AF123456-0000 20051AF20051x"}`, Transient, ""},
		{"null error", 500, false, `{"error":null}`, Transient, ""},
		{"array", 500, false, `[1,2]`, Transient, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFault(request{op: "test", content: tt.content}, &http.Response{StatusCode: tt.status}, []byte(tt.body), time.Now())
			if f.Kind != tt.want || f.Remedy != tt.remedy {
				t.Errorf("got %v, remedy %q; want %v, %q", f.Kind, f.Remedy, tt.want, tt.remedy)
			}
			if f.Err == nil || f.Err.Error() == "" {
				t.Error("no cause")
			}
		})
	}
}

func TestFaultText(t *testing.T) {
	resp := &http.Response{StatusCode: 401, Header: http.Header{"Mise-Correlation-Id": {"6c0e1b52-0000-4000-8000-000000000001"}}}
	f := newFault(request{op: "list content"}, resp, []byte(`{"error":{"code":"AF10001","message":"The permission set () is not\r\nenough."}}`), time.Now())
	want := "list content: status 401: AF10001: The permission set () is not enough.; " + remedyPermission + " (mise-correlation-id 6c0e1b52-0000-4000-8000-000000000001)"
	if got := f.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	wrapped := fmt.Errorf("window: %w", f)
	if KindOf(wrapped) != Denied || KindOf(errors.New("x")) != Transient || KindOf(nil) != Transient {
		t.Error("KindOf does not see the Fault, or sees one where none is")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 11, 9, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-5": 0, "x": 0, "1.5": 0, "99999": maxRetryAfter, "99999999999999999999": 0,
		"Wed, 11 Mar 2026 09:00:30 GMT": 30 * time.Second, "Wed, 11 Mar 2026 08:00:00 GMT": 0, "Thu, 12 Mar 2026 09:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\n\tb\x00\x1b[31mc\u202ed\u200be": "a b[31mcde",
		"Bearer abcdefgh12345 end":            "[redacted] end",
		"x eyJhbGciOiJ.eyJzdWIi.c2ln end":     "x [redacted] end",
		"my s3cret and s3\u200bcret":          "my [redacted] and [redacted]",
		"\xff\xfe":                            "\uFFFD\uFFFD",
	} {
		if got := clean(in, "s3cret", ""); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := []rune(clean(strings.Repeat("ä", 5000))); len(got) != maxMessage+1 {
		t.Errorf("%d characters, want %d", len(got), maxMessage+1)
	}
}

func FuzzErrorBody(f *testing.F) {
	f.Add(400, []byte(envelope("AF20022")), "", "")
	f.Add(401, []byte(`{"Message":"Authorization has been denied for this request."}`), "Tue, 10 Mar 2026 12:00:00 GMT", "0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001")
	f.Add(403, []byte(`{'error':{'code':'AF429'}}`), "4294967295", "s3cret")
	f.Add(500, []byte("<html>\x00"), "-1", "\x1b[31m")
	f.Add(400, []byte(`{"error":{"code":{"x":1},"message":["s3cret"]}}`), "1e9", "")
	f.Fuzz(func(t *testing.T, status int, body []byte, wait, correlation string) {
		header := http.Header{"Retry-After": {wait}, "Mise-Correlation-Id": {correlation}}
		fault := newFault(request{op: "test", content: true}, &http.Response{StatusCode: status, Header: header}, body, time.Now(), "s3cret")
		text := fault.Error()
		if len(text) > 4*maxMessage+500 || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, "s3cret") {
			t.Errorf("unfit text %q", text)
		}
		if fault.Code != "" && !serviceCode.MatchString(fault.Code) {
			t.Errorf("code %q", fault.Code)
		}
		if fault.RetryAfter < 0 || fault.RetryAfter > maxRetryAfter {
			t.Errorf("wait %v for %q", fault.RetryAfter, wait)
		}
		_ = fault.Kind.String() // every Kind has a name
	})
}

// A token of any content is read or refused; what is said of it stays fit for a
// log.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"aud":["a","b"],"tid":"t","appid":"x","roles":["ActivityFeed.Read"]}`))
	f.Add([]byte(`{"aud":7,"roles":{"a":1},"azp":null}`))
	f.Add([]byte("{\"aud\":\"\x1b[31m\u202e\",\"roles\":[null]}"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := readClaims("e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln")
		if (err == nil) && !json.Valid(payload) {
			t.Errorf("%q passed as %+v", payload, c)
		}
		if text := c.String(); len([]rune(text)) > maxMessage+1 || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("unfit text %q", text)
		}
		_, _ = readClaims(string(payload))
	})
}
