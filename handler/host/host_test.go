package host

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newRequest(path, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set(invocationHeader, "7d0c1f00-0000-4000-8000-000000000001")
	return r
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	w.Header().Set("X-Asked", r.Method+" "+r.Host+r.URL.String()+" "+r.Header.Get("Webhook-AuthID"))
	_, _ = w.Write(body)
}

func TestRoutes(t *testing.T) {
	ticks := 0
	s := &Server{Logger: discard(), TickTimeout: time.Minute, Webhook: http.HandlerFunc(echo), Tick: func(context.Context, Invocation) (string, error) {
		ticks++
		return "", nil
	}}
	h := s.Handler(t.Context())
	tests := []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200},
		{"HEAD", "/", 200},
		{"POST", "/", 405},
		{"POST", "/timer", 200},
		{"GET", "/timer", 405},
		{"POST", "/timer/", 404},
		{"POST", "/Timer", 404},
		{"POST", "/api/timer", 404},
		{"POST", "/webhook", 200},
		{"PUT", "/webhook", 405},
		{"POST", "/api/webhook", 200},
		{"POST", "/api/webhook/", 200},
		{"POST", "/API/Webhook/", 200},
		{"GET", "/api/webhook", 405},
		{"POST", "/api/webhook//", 404},
		{"POST", "//api/webhook", 404},
		{"POST", "/api/webhook/x", 404},
		{"GET", "/favicon.ico", 404},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			r := newRequest("/", `{"Data":{"req":{}}}`)
			r.Method, r.URL.Path = tt.method, tt.path
			w := do(h, r)
			if w.Code != tt.want {
				t.Errorf("status %d, want %d", w.Code, tt.want)
			}
			if allow := w.Header().Get("Allow"); (allow != "") != (tt.want == 405) {
				t.Errorf("Allow %q with status %d", allow, w.Code)
			}
			if tt.want != 405 && tt.path != "/" && w.Body.Len() == 0 && tt.path != "/api/webhook/" {
				t.Error("empty answer")
			}
		})
	}
	if ticks != 1 {
		t.Errorf("%d ticks, want 1", ticks)
	}
}

// nowhere is a ResponseWriter that costs nothing.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}

func TestProbeCostsNothing(t *testing.T) {
	var log bytes.Buffer
	h := (&Server{Logger: NewLogger(&log, &log, slog.LevelDebug)}).Handler(t.Context())
	r, w := httptest.NewRequest(http.MethodGet, "/", http.NoBody), nowhere{http.Header{}}
	if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n != 0 {
		t.Errorf("%v allocations a probe, want 0", n)
	}
	if log.Len() != 0 {
		t.Errorf("probes were logged: %s", &log)
	}
}

func TestEnvelopeShapes(t *testing.T) {
	h := (&Server{Logger: discard(), Webhook: http.HandlerFunc(echo)}).Handler(t.Context())
	quoted := func(v string) string {
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const asked = "POST harbor.example/api/webhook "
	tests := []struct {
		name, envelope, body, asked string
	}{
		{"as documented", `{"Data":{"req":{"Url":"https://harbor.example/api/webhook?a=1","Method":"POST","Headers":{"Host":["harbor.example"],"Webhook-AuthID":["x"]},"Body":"{}"}},"Metadata":{}}`, "{}", "POST harbor.example/api/webhook?a=1 x"},
		{"no Metadata, headers single", `{"Data":{"req":{"Url":"https://harbor.example/api/webhook","Headers":{"host":"harbor.example"},"Body":"b"}}}`, "b", asked},
		{"request in a string", `{"Data":{"req":` + quoted(`{"Headers":{"Host":["harbor.example"]},"Body":"b"}`) + `}}`, "b", asked},
		{"headers in a string", `{"Data":{"req":{"Headers":` + quoted(`{"Host":["harbor.example"]}`) + `}}}`, "", asked},
		{"no body", `{"Data":{"req":{"Headers":{"Host":["harbor.example"]}}}}`, "", asked},
		{"body null", `{"Data":{"req":{"Headers":{"Host":["harbor.example"]},"Body":null}}}`, "", asked},
		{"body an object", `{"Data":{"req":{"Headers":{"Host":["harbor.example"]},"Body":{"a":[1]}}}}`, `{"a":[1]}`, asked},
		{"body a JSON string stays one", `{"Data":{"req":{"Headers":{"Host":["harbor.example"]},"Body":"\"b\""}}}`, `"b"`, asked},
		{"binary", `{"Data":{"req":{"Headers":{"Host":["harbor.example"],"Content-Type":["Application/Octet-Stream"]},"Body":"` + base64.StdEncoding.EncodeToString([]byte("raw")) + `"}}}`, "raw", asked},
		{"other members and odd types", `{"Data":{"req":{"Url":5,"Method":["x"],"Headers":{"Host":["harbor.example"],"Odd":7},"Params":null},"more":1},"Metadata":"x","New":{}}`, "", asked},
		{"forged Metadata", `{"Data":{"req":{"Headers":{"Host":["harbor.example"]}}},"Metadata":{"Headers":{"Webhook-AuthID":"forged"},"req":{"Body":"forged"}}}`, "", asked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := do(h, newRequest("/webhook", tt.envelope))
			var out struct{ Outputs map[string]httpOutput }
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
				t.Fatalf("answered %d %q", w.Code, w.Body)
			}
			res := out.Outputs["res"]
			if res.StatusCode != 200 || res.Body != tt.body || res.Headers["X-Asked"] != tt.asked {
				t.Errorf("got %+v, want body %q, asked %q", res, tt.body, tt.asked)
			}
		})
	}
}

func TestEnvelopeRefused(t *testing.T) {
	h := (&Server{Logger: discard(), TickTimeout: time.Minute, Webhook: http.HandlerFunc(echo), Tick: func(context.Context, Invocation) (string, error) {
		t.Error("ticked")
		return "", nil
	}}).Handler(t.Context())
	tests := []struct {
		name, path, body string
		want             int
	}{
		{"timer empty", "/timer", "", 400},
		{"timer no JSON", "/timer", "tick", 400},
		{"timer cut short", "/timer", `{"Data":{"tick":`, 400},
		{"timer an array", "/timer", `[]`, 400},
		{"timer too large", "/timer", `{"Data":{"tick":"` + strings.Repeat("x", maxTimerBytes) + `"}}`, 413},
		{"webhook no JSON", "/webhook", "<html>", 400},
		{"webhook no request", "/webhook", `{"Data":{}}`, 400},
		{"webhook request a number", "/webhook", `{"Data":{"req":5}}`, 400},
		{"webhook bad base64", "/webhook", `{"Data":{"req":{"Headers":{"Content-Type":["multipart/mixed"]},"Body":"%"}}}`, 400},
		{"webhook too large", "/webhook", `{"Data":{"req":{"Body":"` + strings.Repeat("x", maxEnvelopeBytes) + `"}}}`, 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := do(h, newRequest(tt.path, tt.body))
			if w.Code != tt.want || w.Body.Len() == 0 || w.Body.Len() > 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("answered %d %q, want %d and a short text", w.Code, w.Body, tt.want)
			}
		})
	}
}

// The caller's body is limited in either mode, and the webhook learns of it.
func TestBodyLimit(t *testing.T) {
	h := (&Server{Logger: discard(), Webhook: http.HandlerFunc(echo)}).Handler(t.Context())
	large := strings.Repeat("x", maxWebhookBytes+1)
	if w := do(h, newRequest("/api/webhook", large)); w.Code != 413 {
		t.Errorf("forwarded: %d, want 413", w.Code)
	}
	if w := do(h, newRequest("/api/webhook", large[1:])); w.Code != 200 || w.Body.Len() != maxWebhookBytes {
		t.Errorf("forwarded, just small enough: %d", w.Code)
	}
	w := do(h, newRequest("/webhook", `{"Data":{"req":{"Body":"`+large+`"}}}`))
	if !strings.Contains(w.Body.String(), `"statusCode":413`) || w.Code != 200 {
		t.Errorf("envelope: %d %.200s, want 413 inside", w.Code, w.Body)
	}
}

func TestInvocationID(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   string
	}{
		{"none", nil, ""},
		{"one", []string{"7d0c1f00-0000-4000-8000-000000000001"}, "7d0c1f00-0000-4000-8000-000000000001"},
		{"client's first", []string{"spoof, 7d0c"}, "7d0c"},
		{"two lines", []string{"spoof", "7d0c"}, "7d0c"},
		{"control characters", []string{"a\"\n{}b"}, "ab"},
		{"long", []string{strings.Repeat("a", 5000)}, strings.Repeat("a", maxInvocationID)},
		{"nothing behind the comma", []string{"spoof,"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{}}
			for _, v := range tt.values {
				r.Header.Add(invocationHeader, v)
			}
			if got := InvocationID(r); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPastDue(t *testing.T) {
	tests := []struct {
		name, data string
		want       bool
	}{
		{"late", `{"tick":{"IsPastDue":true}}`, true},
		{"on time", `{"tick":{"IsPastDue":false}}`, false},
		{"a word", `{"tick":{"IsPastDue":"True"}}`, true},
		{"in a string", `{"tick":"{\"IsPastDue\":true}"}`, true},
		{"another binding", `{"timer":{"isPastDue":true}}`, true},
		{"absent", `{"tick":{"ScheduleStatus":null}}`, false},
		{"no object", `{"tick":[true]}`, false},
		{"nothing", `{}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var data map[string]json.RawMessage
			if err := json.Unmarshal([]byte(tt.data), &data); err != nil {
				t.Fatal(err)
			}
			if got := pastDue(data); got != tt.want {
				t.Errorf("pastDue = %v, want %v", got, tt.want)
			}
		})
	}
}

// Where the host names no invocation, what the caller claims is dropped.
func TestForgedInvocationIDIsDropped(t *testing.T) {
	var ids []string
	h := (&Server{Logger: discard(), Webhook: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ids = append(ids, r.Header.Values(invocationHeader)...)
	})}).Handler(t.Context())
	r := newRequest("/webhook", `{"Data":{"req":{"Headers":{"x-azure-functions-invocationid":["forged"]}}}}`)
	r.Header.Del(invocationHeader)
	if w := do(h, r); w.Code != 200 || len(ids) != 0 {
		t.Errorf("answered %d, ids %q", w.Code, ids)
	}
}

func TestTickFails(t *testing.T) {
	var log bytes.Buffer
	cause := errors.New("settings:\nAZURE_TENANT_ID is not set\n" + strings.Repeat("é", maxFailureBytes))
	h := (&Server{Logger: NewLogger(io.Discard, &log, slog.LevelInfo), TickTimeout: time.Minute, Tick: func(context.Context, Invocation) (string, error) {
		return "ignored", cause
	}}).Handler(t.Context())
	w := do(h, newRequest("/timer", `{"Data":{}}`))
	if w.Code != 500 || !strings.HasPrefix(w.Body.String(), "tick failed: settings:\nAZURE_TENANT_ID") || w.Body.Len() > maxFailureBytes+10 {
		t.Errorf("answered %d with %d bytes: %.80s", w.Code, w.Body.Len(), w.Body)
	}
	if log.Len() != 0 {
		t.Errorf("log %.300s, want none: Tick logs its own failure", &log)
	}
}

func TestPanicBecomesAnAnswer(t *testing.T) {
	const private = "a-secret-in-a-panic"
	var log bytes.Buffer
	calls := 0
	h := (&Server{
		Logger:      NewLogger(io.Discard, &log, slog.LevelInfo),
		TickTimeout: time.Minute,
		Webhook: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, "half an answer")
			panic(private)
		}),
		Tick: func(context.Context, Invocation) (string, error) {
			if calls++; calls == 1 {
				var none []int
				_ = none[calls] // panics
			}
			return "", nil
		},
	}).Handler(t.Context())
	for path, body := range map[string]string{"/timer": `{"Data":{}}`, "/webhook": `{"Data":{"req":{}}}`, "/api/webhook": "{}"} {
		w := do(h, newRequest(path, body))
		if w.Code != 500 || strings.Contains(w.Body.String(), "half") || w.Body.Len() == 0 {
			t.Errorf("%s answered %d %q", path, w.Code, w.Body)
		}
	}
	if text := log.String(); strings.Contains(text, private) || !strings.Contains(text, "index out of range") || !strings.Contains(text, "host_test.go") {
		t.Errorf("log must hold the runtime's text and the stack, and no value: %s", text)
	}
	if w := do(h, newRequest("/timer", `{"Data":{}}`)); w.Code != 200 {
		t.Errorf("the tick after a panic: %d, want 200", w.Code)
	}
}

func TestTickHasItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Server{Logger: discard(), TickTimeout: 9 * time.Minute, Tick: func(ctx context.Context, _ Invocation) (string, error) {
			<-ctx.Done()
			return "", context.Cause(ctx)
		}}).Handler(t.Context())
		begin := time.Now()
		r := newRequest("/timer", `{"Data":{}}`)
		gone, leave := context.WithCancel(r.Context())
		leave() // the caller has left: no matter
		w := do(h, r.WithContext(gone))
		if d := time.Since(begin); d != 9*time.Minute || w.Code != 500 || !strings.Contains(w.Body.String(), errTickDeadline.Error()) {
			t.Errorf("after %v: %d %s", d, w.Code, w.Body)
		}
	})
}

func TestTickEndsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancelCause(t.Context())
		h := (&Server{Logger: discard(), TickTimeout: time.Hour, Tick: func(ctx context.Context, _ Invocation) (string, error) {
			<-ctx.Done()
			return "", context.Cause(ctx)
		}}).Handler(ctx)
		time.AfterFunc(time.Second, func() { stop(ErrParentGone) })
		if w := do(h, newRequest("/timer", `{"Data":{}}`)); !strings.Contains(w.Body.String(), ErrParentGone.Error()) {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}

func TestTicksDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, release := 0, make(chan struct{})
		h := (&Server{Logger: discard(), TickTimeout: time.Minute, Tick: func(context.Context, Invocation) (string, error) {
			running++
			<-release // deaf to its context
			return "done", nil
		}}).Handler(t.Context())
		first := make(chan *httptest.ResponseRecorder)
		go func() { first <- do(h, newRequest("/timer", `{"Data":{}}`)) }()
		synctest.Wait()
		w := do(h, newRequest("/timer", `{"Data":{}}`))
		if w.Code != 200 || !strings.Contains(w.Body.String(), "another tick is running") || !json.Valid(w.Body.Bytes()) {
			t.Errorf("second tick: %d %s", w.Code, w.Body)
		}
		time.Sleep(time.Minute + time.Nanosecond) // the bubble's clock
		if w := do(h, newRequest("/timer", `{"Data":{}}`)); w.Code != 503 {
			t.Errorf("while the first is stuck: %d, want 503", w.Code)
		}
		close(release)
		if w := <-first; w.Code != 200 || running != 1 {
			t.Errorf("first tick: %d, %d ran", w.Code, running)
		}
		if w := do(h, newRequest("/timer", `{"Data":{}}`)); w.Code != 200 || running != 2 {
			t.Errorf("tick afterwards: %d, %d ran", w.Code, running)
		}
	})
}

func TestWatchParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		parent := func() int {
			if time.Since(begin) < 90*time.Minute {
				return 4711
			}
			return 1
		}
		if err := WatchParent(t.Context(), parent); !errors.Is(err, ErrParentGone) {
			t.Errorf("WatchParent = %v, want ErrParentGone", err)
		}
		if d := time.Since(begin) - 90*time.Minute; d < 0 || d > 2*parentPoll {
			t.Errorf("noticed after %v", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := WatchParent(ctx, func() int { return 1 }); err != nil {
			t.Errorf("with process 1 for a parent: %v, want nil", err)
		}
	})
}

func TestServeDrains(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	h := (&Server{Logger: discard(), Webhook: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		w.WriteHeader(http.StatusAccepted)
	})}).Handler(ctx)
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, discard()) }()
	status := make(chan int, 1)
	go func() {
		resp, err := http.Post("http://"+l.Addr().String()+"/api/webhook", "application/json", strings.NewReader("[]"))
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	<-entered
	stop()
	for { // until the stop has closed the listener
		conn, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			break
		}
		conn.Close()
	}
	close(release)
	if got := <-status; got != http.StatusAccepted {
		t.Errorf("request in flight at the stop got %d, want 202", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestServeFails(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), discard()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener = %v, want net.ErrClosed", err)
	}
}

func TestListen(t *testing.T) {
	for _, port := range []string{"", "0", "abc", "-1", "65536", "80 ", "127.0.0.1:80"} {
		if l, err := Listen(t.Context(), port); err == nil {
			l.Close()
			t.Errorf("Listen(%q) succeeded", port)
		}
	}
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	if l, err := Listen(t.Context(), port); err == nil {
		l.Close()
		t.Error("Listen on a taken port succeeded")
	}
	taken.Close()
	l, err := Listen(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := l.Addr().String(); got != "127.0.0.1:"+port {
		t.Errorf("listens on %s", got)
	}
}

func TestLoggerSplitsByLevel(t *testing.T) {
	var stdout, stderr bytes.Buffer
	log := NewLogger(&stdout, &stderr, slog.LevelInfo).With("function", "timer").WithGroup("g")
	log.Debug("d")
	log.Info("i", "a", 1)
	log.Warn("w")
	log.Error("e", "text", "two\nlines")
	if n := strings.Count(stdout.String(), "\n"); n != 2 || !strings.Contains(stdout.String(), `"g":{"a":1}`) {
		t.Errorf("stdout %q, want i and w", &stdout)
	}
	var line struct {
		Time            time.Time
		Level, Function string
	}
	if err := json.Unmarshal(stderr.Bytes(), &line); err != nil || line.Level != "ERROR" || line.Function != "timer" {
		t.Errorf("stderr %q: %v", &stderr, err)
	}
	if !strings.Contains(stderr.String(), `Z","level"`) {
		t.Errorf("time not in UTC: %s", &stderr)
	}
}

// FuzzEnvelope sends any bytes to both envelope paths. Whatever comes, the
// answer is one that the host can act on: a failure, or 200 with a JSON object.
func FuzzEnvelope(f *testing.F) {
	for _, name := range []string{"envelope-notification", "envelope-validation", "envelope-notification-chunked", "timer-on-time", "timer-admin-fired"} {
		f.Add([]byte(readExchange(f, "testdata/"+name+".json").Request.Body))
	}
	f.Add([]byte(`{"Data":{"tick":{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":"true"}},"Metadata":{"sys":"x"}}`))
	f.Add([]byte(`{"Data":{"req":"{\"Url\":\"%\",\"Headers\":{\"\":[\"\\u0000\"]},\"Body\":7}"}}`))
	f.Add([]byte(`{"Data":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h := (&Server{Logger: discard(), TickTimeout: time.Minute, Webhook: http.HandlerFunc(echo), Tick: func(context.Context, Invocation) (string, error) { return "", nil }}).Handler(t.Context())
		for _, path := range []string{"/webhook", "/timer"} {
			w := do(h, newRequest(path, string(body)))
			var object map[string]json.RawMessage
			switch {
			case w.Code == http.StatusInternalServerError:
				t.Fatalf("%s: something panicked", path)
			case w.Code == http.StatusOK:
				if json.Unmarshal(w.Body.Bytes(), &object) != nil || len(object) == 0 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
					t.Fatalf("%s answered %q", path, w.Body)
				}
			case w.Code < 400 || w.Body.Len() == 0:
				t.Fatalf("%s answered %d %q", path, w.Code, w.Body)
			}
		}
	})
}
