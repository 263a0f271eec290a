package cosmos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/cosmos"
)

// testKey is a made-up account key.
const testKey = "c3ludGhldGljLWFjY291bnQta2V5"

// account is the far end of the wire: it answers the account read itself and
// everything else through answer, numbered from 1.
type account struct {
	answer func(n int, r *http.Request) (*http.Response, error)
	read   func(n int) (*http.Response, error) // nil: always good

	mu    sync.Mutex
	calls []*http.Request
	reads int
}

func (a *account) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Method == http.MethodGet && (r.URL.Path == "" || r.URL.Path == "/") {
		a.reads++
		if a.read != nil {
			if resp, err := a.read(a.reads); resp != nil || err != nil {
				return complete(resp, r), err
			}
		}
		return complete(reply(200, `{"id":"a","writableLocations":[{"name":"here","databaseAccountEndpoint":"https://account.example/"}],"readableLocations":[{"name":"here","databaseAccountEndpoint":"https://account.example/"}]}`), r), nil
	}
	a.calls = append(a.calls, r)
	resp, err := a.answer(len(a.calls), r)
	return complete(resp, r), err
}

func complete(resp *http.Response, r *http.Request) *http.Response {
	if resp != nil {
		resp.Request = r
	}
	return resp
}

func reply(status int, body string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}, "X-Ms-Request-Charge": {"1.5"}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Status: strconv.Itoa(status), Proto: "HTTP/1.1", Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// foreign is an answer that does not come from the account.
func foreign(status int) *http.Response {
	resp := reply(status, "<html>")
	resp.Header = http.Header{"Content-Type": {"text/html"}}
	return resp
}

func open(t *testing.T, a *account) (*cosmos.DB, *cosmos.Container) {
	t.Helper()
	db, err := cosmos.Open(cosmos.Config{Endpoint: "https://account.example/", Key: testKey, Database: "Audit", Transport: a})
	if err != nil {
		t.Fatal(err)
	}
	return db, db.Container("Audits")
}

func TestRetry(t *testing.T) {
	reset := &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
	tests := []struct {
		name   string
		answer func() (*http.Response, error) // of every try but the third, which succeeds
		kind   cosmos.Kind
		again  bool
	}{
		{"created", func() (*http.Response, error) { return reply(201, `{}`), nil }, cosmos.None, false},
		{"exists", func() (*http.Response, error) { return reply(409, `{"message":"Conflict"}`), nil }, cosmos.Exists, false},
		{"changed", func() (*http.Response, error) { return reply(412, `{}`), nil }, cosmos.Changed, false},
		{"bad request", func() (*http.Response, error) { return reply(400, `{}`), nil }, cosmos.Refused, false},
		{"created, says a proxy", func() (*http.Response, error) { return foreign(200), nil }, cosmos.None, true},
		{"bad request of a proxy", func() (*http.Response, error) { return foreign(400), nil }, cosmos.None, true},
		{"not found of a proxy", func() (*http.Response, error) { return foreign(404), nil }, cosmos.None, true},
		{"too large of a proxy", func() (*http.Response, error) { return foreign(413), nil }, cosmos.None, true},
		{"too large", func() (*http.Response, error) { return reply(413, `{}`), nil }, cosmos.TooLarge, false},
		{"container missing", func() (*http.Response, error) { return reply(404, `{}`), nil }, cosmos.Missing, false},
		{"unauthorized", func() (*http.Response, error) { return reply(401, `{"message":"no"}`), nil }, cosmos.Denied, false},
		{"firewall", func() (*http.Response, error) { return reply(403, `{"message":"blocked by firewall"}`), nil }, cosmos.Denied, false},
		{"partition full", func() (*http.Response, error) { return reply(403, `{}`, "x-ms-substatus", "1014"), nil }, cosmos.Full, false},
		{"throttled", func() (*http.Response, error) { return reply(429, `{}`, "x-ms-retry-after-ms", "70"), nil }, cosmos.None, true},
		{"throttled, no hint", func() (*http.Response, error) { return reply(429, `{}`), nil }, cosmos.None, true},
		{"request timeout", func() (*http.Response, error) { return reply(408, `{}`), nil }, cosmos.None, true},
		{"moved", func() (*http.Response, error) { return reply(410, `{}`, "x-ms-substatus", "1002"), nil }, cosmos.None, true},
		{"retry with", func() (*http.Response, error) { return reply(449, `{}`), nil }, cosmos.None, true},
		{"internal", func() (*http.Response, error) { return reply(500, `<html>`), nil }, cosmos.None, true},
		{"unavailable", func() (*http.Response, error) { return reply(503, ``), nil }, cosmos.None, true},
		{"reset", func() (*http.Response, error) { return nil, reset }, cosmos.None, true},
		{"cut answer", func() (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, cosmos.None, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &account{}
				a.answer = func(n int, _ *http.Request) (*http.Response, error) {
					if n == 3 {
						return reply(201, `{}`), nil
					}
					return tt.answer()
				}
				_, c := open(t, a)
				err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{"id":"1"}`))
				if got := cosmos.KindOf(err); got != tt.kind {
					t.Errorf("kind = %v, want %v (%v)", got, tt.kind, err)
				}
				want := 1
				if tt.again {
					want = 3
				}
				if len(a.calls) != want {
					t.Errorf("%d requests, want %d", len(a.calls), want)
				}
			})
		})
	}
}

// Whatever a proxy says in place of the account, nothing is done, read or absent
// before the account itself has said so.
func TestSuccessOfAProxy(t *testing.T) {
	const body = `[{"statusCode":201}]`
	key := cosmos.KeyString("p")
	calls := map[string]func(context.Context, *cosmos.Container) error{
		"create": func(ctx context.Context, c *cosmos.Container) error { return c.Create(ctx, key, []byte(`{}`)) },
		"replace": func(ctx context.Context, c *cosmos.Container) error {
			etag, err := c.Replace(ctx, key, "1", []byte(`{}`), "before")
			if err == nil && etag != "after" {
				err = fmt.Errorf("ETag %q, want that of the account", etag)
			}
			return err
		},
		"read": func(ctx context.Context, c *cosmos.Container) error { _, err := c.Read(ctx, key, "1"); return err },
		"batch": func(ctx context.Context, c *cosmos.Container) error {
			_, _, err := c.Batch(ctx, key, []cosmos.Op{cosmos.Create([]byte(`{}`))})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &account{answer: func(n int, _ *http.Request) (*http.Response, error) {
					if n == 1 {
						resp := reply(200, body, "ETag", "of the proxy")
						resp.Header.Del("X-Ms-Request-Charge")
						return resp, nil
					}
					return reply(200, body, "ETag", "after"), nil
				}}
				_, c := open(t, a)
				if err := call(t.Context(), c); err != nil || len(a.calls) != 2 {
					t.Errorf("%d requests, then %v; want 2 and success", len(a.calls), err)
				}
			})
		})
	}
}

// A passing fault that does not pass ends after a bounded number of tries.
func TestRetryGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{answer: func(int, *http.Request) (*http.Response, error) { return reply(503, ``), nil }}
		_, c := open(t, a)
		err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{}`))
		if cosmos.KindOf(err) != cosmos.Transient || len(a.calls) != 8 {
			t.Errorf("after %d requests: %v", len(a.calls), err)
		}
	})
}

func TestHintIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return reply(429, `{}`, "x-ms-retry-after-ms", "7000"), nil
			}
			return reply(201, `{}`), nil
		}}
		db, c := open(t, a)
		began := time.Now()
		if err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != 7*time.Second {
			t.Errorf("waited %v, want 7s", waited)
		}
		if u := db.Usage(); u.Throttled != 1 || u.Requests < 2 || u.RequestCharge < 3 {
			t.Errorf("usage = %+v", u)
		}
	})
}

func TestNoWaitPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{answer: func(int, *http.Request) (*http.Response, error) {
			return reply(429, `{}`, "x-ms-retry-after-ms", "30000"), nil
		}}
		_, c := open(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		err := c.Create(ctx, cosmos.KeyString("p"), []byte(`{}`))
		if cosmos.KindOf(err) != cosmos.Throttled || time.Since(began) != 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// The SDK keeps a failed first account read for five minutes; we must not.
func TestFirstContactFails(t *testing.T) {
	for name, failure := range map[string]func() (*http.Response, error){
		"refused": func() (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}
		},
		"unavailable": func() (*http.Response, error) { return reply(503, ``), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &account{
					read: func(int) (*http.Response, error) {
						if time.Now().Second() < 3 { // the bubble's clock begins at a full minute
							return failure()
						}
						return nil, nil
					},
					answer: func(int, *http.Request) (*http.Response, error) { return reply(201, `{}`), nil },
				}
				_, c := open(t, a)
				began := time.Now()
				if err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{}`)); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(began); waited > time.Minute {
					t.Errorf("recovered only after %v", waited)
				}
			})
		})
	}
}

func TestBatch(t *testing.T) {
	ops := []cosmos.Op{cosmos.Create([]byte(`{"id":"1"}`)), cosmos.Create([]byte(`{"id":"2"}`))}
	tests := []struct {
		name      string
		answers   []*http.Response
		want      []int
		committed bool
		kind      cosmos.Kind
		throttled int64
	}{
		{"done", []*http.Response{reply(200, `[{"statusCode":201},{"statusCode":201}]`)}, []int{201, 201}, true, cosmos.None, 0},
		{"conflict", []*http.Response{reply(207, `[{"statusCode":424},{"statusCode":409}]`)}, []int{424, 409}, false, cosmos.None, 0},
		{"conflict without transaction", []*http.Response{reply(200, `[{"statusCode":201},{"statusCode":409}]`)}, []int{201, 409}, true, cosmos.None, 0},
		{"throttled inside", []*http.Response{reply(207, `[{"statusCode":429},{"statusCode":424}]`), reply(200, `[{"statusCode":201},{"statusCode":201}]`)}, []int{201, 201}, true, cosmos.None, 1},
		{"retry with inside", []*http.Response{reply(207, `[{"statusCode":424},{"statusCode":449}]`), reply(200, `[{"statusCode":201},{"statusCode":201}]`)}, []int{201, 201}, true, cosmos.None, 0},
		{"no results", []*http.Response{reply(200, ``), reply(200, `[{"statusCode":201},{"statusCode":201}]`)}, []int{201, 201}, true, cosmos.None, 0},
		{"short results", []*http.Response{reply(200, `[{"statusCode":201}]`), reply(207, `[{"statusCode":409},{"statusCode":424}]`)}, []int{409, 424}, false, cosmos.None, 0},
		{"result without status", []*http.Response{reply(200, `[{"statusCode":201},{}]`), reply(207, `[{"statusCode":409},{"statusCode":424}]`)}, []int{409, 424}, false, cosmos.None, 0},
		{"request too large", []*http.Response{reply(413, `{}`)}, nil, false, cosmos.TooLarge, 0},
		{"container missing", []*http.Response{reply(404, `{}`)}, nil, false, cosmos.Missing, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &account{answer: func(n int, _ *http.Request) (*http.Response, error) { return tt.answers[n-1], nil }}
				db, c := open(t, a)
				got, committed, err := c.Batch(t.Context(), cosmos.KeyString("p"), ops)
				if diff := cmp.Diff(tt.want, got); diff != "" || committed != tt.committed || cosmos.KindOf(err) != tt.kind {
					t.Errorf("statuses %v, committed %v, error %v; want %v, %v, kind %v", got, committed, err, tt.want, tt.committed, tt.kind)
				}
				if db.Usage().Throttled != tt.throttled {
					t.Errorf("throttled = %d, want %d", db.Usage().Throttled, tt.throttled)
				}
			})
		})
	}
}

// A page that fails is asked for again, with its own continuation, and no row is
// seen twice.
func TestQueryPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{answer: func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 1:
				return reply(200, `{"Documents":[{"n":1},{"n":2}]}`, "x-ms-continuation", "second"), nil
			case 2:
				return reply(500, ``), nil
			case 3:
				return reply(200, `{"Documents":[]}`, "x-ms-continuation", "third"), nil // empty, and not the last
			}
			return reply(200, `{"Documents":[{"n":3}]}`), nil
		}}
		_, c := open(t, a)
		var rows []string
		err := c.Query(t.Context(), cosmos.KeyString("p"), "SELECT * FROM c", nil, 0, func(row json.RawMessage) error {
			rows = append(rows, string(row))
			return nil
		})
		if diff := cmp.Diff([]string{`{"n":1}`, `{"n":2}`, `{"n":3}`}, rows); diff != "" || err != nil {
			t.Errorf("rows (-want +got):\n%s\nerror %v", diff, err)
		}
		var tokens []string
		for _, call := range a.calls {
			tokens = append(tokens, call.Header.Get("x-ms-continuation"))
		}
		if diff := cmp.Diff([]string{"", "second", "second", "third"}, tokens); diff != "" {
			t.Errorf("continuations (-want +got):\n%s", diff)
		}
	})
}

func TestKeyHeader(t *testing.T) {
	const header = "x-ms-documentdb-partitionkey"
	tests := []struct{ value, want string }{
		{"user017@harbor.example", `["user017@harbor.example"]`},
		{"", `[""]`},
		{`a"b\c`, `["a\"b\\c"]`},
		{"zoë", `["zo\u00eb"]`},
		{"😀", `["\ud83d\ude00"]`},
		{"\a\x7f\n", `["\u0007\u007f\u000a"]`},
	}
	synctest.Test(t, func(t *testing.T) {
		a := &account{answer: func(int, *http.Request) (*http.Response, error) { return reply(201, `{}`), nil }}
		_, c := open(t, a)
		for i, tt := range tests {
			if err := c.Create(t.Context(), cosmos.KeyString(tt.value), []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			if got := a.calls[i].Header[http.CanonicalHeaderKey(header)]; len(got) != 1 || got[0] != tt.want {
				t.Errorf("header for %q = %q, want %q once", tt.value, got, tt.want)
			}
		}
		a.answer = func(int, *http.Request) (*http.Response, error) { return reply(200, `{"Documents":[]}`), nil }
		if err := c.Query(t.Context(), "", "SELECT c.pk FROM c", nil, 0, nil); err != nil {
			t.Fatal(err)
		}
		if got := a.calls[len(tests)].Header.Get(header); got != "" {
			t.Errorf("a query over all partitions carries the key %q", got)
		}
	})
}

func FuzzKeyString(f *testing.F) {
	f.Add("user@harbor.example", "2026-03-11T09")
	f.Add("😀\x00\xff\"\\", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		key := string(cosmos.KeyString(a, b))
		for i := range len(key) {
			if key[i] < ' ' || key[i] > '~' {
				t.Fatalf("%q is not plain ASCII", key)
			}
		}
		var got []string
		if err := json.Unmarshal([]byte(key), &got); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		if want := []string{string([]rune(a)), string([]rune(b))}; !cmp.Equal(got, want) {
			t.Fatalf("%q decodes to %q, want %q", key, got, want)
		}
	})
}

// A batch arrives byte for byte, within the size that was counted for it.
func FuzzBatch(f *testing.F) {
	f.Add("plain", "1", `"00-1"`)
	f.Add("<a href=\"x\">&\u2028\u2029é😀", "b2", "w/\"\\\x7f")
	f.Fuzz(func(t *testing.T, text, id, etag string) {
		if !utf8.ValidString(text) || !utf8.ValidString(id) || !utf8.ValidString(etag) || len(id) > 64 || len(etag) > 64 || id == "" {
			t.Skip()
		}
		var doc bytes.Buffer
		encoder := json.NewEncoder(&doc)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(map[string]string{"text": text}); err != nil {
			t.Fatal(err)
		}
		raw := bytes.TrimSpace(doc.Bytes())
		var sent []byte
		a := &account{answer: func(_ int, r *http.Request) (*http.Response, error) {
			var err error
			sent, err = io.ReadAll(r.Body)
			if r.ContentLength != int64(len(sent)) {
				t.Errorf("Content-Length %d for %d bytes", r.ContentLength, len(sent))
			}
			return reply(200, `[{"statusCode":201},{"statusCode":200}]`), err
		}}
		_, c := open(t, a)
		ops := []cosmos.Op{cosmos.Create(raw), cosmos.Replace(id, raw, etag)}
		if _, _, err := c.Batch(t.Context(), cosmos.KeyString("p"), ops); err != nil {
			t.Fatal(err)
		}
		if len(sent) > ops[0].Size()+ops[1].Size()+2 && !strings.ContainsFunc(id+etag, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			t.Errorf("%d bytes, counted as %d and %d", len(sent), ops[0].Size(), ops[1].Size())
		}
		type operation struct {
			OperationType, IfMatch, ID string
			ResourceBody               json.RawMessage
		}
		var got []operation
		if err := json.Unmarshal(sent, &got); err != nil {
			t.Fatalf("%v in %q", err, sent)
		}
		want := []operation{{OperationType: "Create", ResourceBody: raw}, {"Replace", etag, id, raw}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// An answer to a batch of two counts only if it holds a final status for each.
func FuzzBatchAnswer(f *testing.F) {
	f.Add(200, `[{"statusCode":201,"eTag":"x"},{"statusCode":201}]`, true)
	f.Add(207, `[{"statusCode":424},{"statusCode":409}]`, true)
	f.Add(207, `[{"statusCode":424},{"statusCode":449}]`, true)
	f.Add(200, `[{"statusCode":201}]`, true)
	f.Add(200, `[{"statusCode":"201"},null]`, true)
	f.Add(200, `[{"statusCode":201},{"statusCode":201}]`, false)
	f.Add(200, `<html>`, false)
	f.Add(304, `null`, true)
	f.Fuzz(func(t *testing.T, status int, body string, own bool) {
		a := &account{answer: func(int, *http.Request) (*http.Response, error) {
			resp := reply(status, body)
			if !own {
				resp.Header.Del("X-Ms-Request-Charge")
			}
			return resp, nil
		}}
		_, c := open(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // less than any wait before another try
		defer cancel()
		statuses, committed, err := c.Batch(ctx, cosmos.KeyString("p"), []cosmos.Op{cosmos.Create([]byte(`{}`)), cosmos.Create([]byte(`{}`))})
		if err != nil {
			if statuses != nil || committed {
				t.Errorf("statuses %v beside %v", statuses, err)
			}
			return
		}
		var results []struct{ StatusCode int }
		if !own || json.Unmarshal([]byte(body), &results) != nil || len(results) != 2 || len(statuses) != 2 || status/100 != 2 {
			t.Fatalf("status %d with %q passed as %v", status, body, statuses)
		}
		for i, s := range statuses {
			if s != results[i].StatusCode || s == 0 || s == 429 || s == 449 || s >= 500 && s <= 504 && s != 501 {
				t.Errorf("%q passed as %v", body, statuses)
			}
		}
	})
}

// A page of a query gives its documents as they stand, or an error.
func FuzzQueryPage(f *testing.F) {
	f.Add(`{"_rid":"x","Documents":[{"a":1},null,[2]],"_count":3}`, true)
	f.Add(`{"Documents":null}`, true)
	f.Add(`{"documents":{"a":1}}`, true)
	f.Add(`{}`, false)
	f.Add(``, true)
	f.Fuzz(func(t *testing.T, body string, own bool) {
		a := &account{answer: func(int, *http.Request) (*http.Response, error) {
			resp := reply(200, body)
			if !own {
				resp.Header.Del("X-Ms-Request-Charge")
			}
			return resp, nil
		}}
		_, c := open(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var rows []json.RawMessage
		err := c.Query(ctx, cosmos.KeyString("p"), "SELECT * FROM c", nil, 0, func(row json.RawMessage) error {
			rows = append(rows, row)
			return nil
		})
		if err != nil {
			if len(rows) != 0 {
				t.Errorf("%q gives %d documents, then %v", body, len(rows), err)
			}
			return
		}
		var page struct{ Documents []json.RawMessage }
		if !own || json.Unmarshal([]byte(body), &page) != nil || len(rows) != len(page.Documents) || len(rows) == 0 && !strings.Contains(body, `"Documents"`) {
			t.Fatalf("%q (own: %v) passed as %d documents", body, own, len(rows))
		}
		for i := range rows {
			if want, err := json.Marshal(page.Documents[i]); err != nil || !bytes.Equal(rows[i], want) { // the SDK compacts
				t.Errorf("document %d is %q, want %q", i, rows[i], want)
			}
		}
	})
}

// The lease compares the account's clock, not ours.
func TestNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Now().Add(time.Hour).UTC()
		a := &account{answer: func(int, *http.Request) (*http.Response, error) {
			return reply(201, `{}`, "Date", ahead.Format(http.TimeFormat)), nil
		}}
		db, c := open(t, a)
		if err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		if got := db.Now().Sub(ahead).Abs(); got > 2*time.Second {
			t.Errorf("Now is %v off the account's clock", got)
		}
	})
}

// Nothing that a Fault says quotes the document, the key, or a whole page of a
// proxy.
func TestFaultText(t *testing.T) {
	const secret = "the customer's own words"
	for _, status := range []int{400, 401, 403, 404, 409, 412, 413, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := fmt.Sprintf(`{"code":"X","message":"refused: %s"}`, secret)
				if status == 401 || status == 403 || status == 404 {
					body = "<html>" + strings.Repeat("x", 100_000) + "</html>"
				}
				a := &account{answer: func(int, *http.Request) (*http.Response, error) {
					return reply(status, body, "x-ms-activity-id", "3f2b0c1e-0000-4000-8000-000000000001"), nil
				}}
				_, c := open(t, a)
				err := c.Create(t.Context(), cosmos.KeyString("p"), []byte(`{"id":"1","text":"`+secret+`"}`))
				if err == nil {
					t.Fatal("no error")
				}
				if text := err.Error(); strings.Contains(text, secret) || strings.Contains(text, testKey) || len(text) > 800 {
					t.Errorf("error text: %.900s", text)
				}
			})
		})
	}
}

func TestOpenKeepsTheKey(t *testing.T) {
	_, err := cosmos.Open(cosmos.Config{Endpoint: "https://account.example/", Key: "not*base64*secret", Database: "Audit"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error = %v", err)
	}
}
