package funchost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The numbers are those of the checklist that the package follows.

func TestItem01BadHandlerSection(t *testing.T) {
	for name, text := range map[string]string{
		"no description":   `{"customHandler":{"enableForwardingHttpRequest":true}}`,
		"empty path":       `{"customHandler":{"description":{"defaultExecutablePath":""},"unknown":1}}`,
		"section absent":   `{"version":"2.0"}`,
		"section empty":    `{"customHandler":{}}`,
		"description {}":   `{"customHandler":{"description":{}}}`,
		"timeout nonsense": `{"functionTimeout":"soon","customHandler":{"description":{"defaultExecutablePath":"x"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, "", "", map[string]string{"host.json": text})
			s := start(t, "obey", Config{AppRoot: dir, Env: []string{startVar + "="}})
			if r := s.do("POST", "/api/webhook", "{}", nil); r.status != 503 || !strings.Contains(r.body, "not running") {
				t.Errorf("webhook = %d %q, want 503", r.status, r.body)
			}
			if r := s.do("POST", "/admin/functions/timer", "{}", nil); r.status != 503 || s.Fire("timer") == nil {
				t.Errorf("admin = %d, want 503", r.status)
			}
			if s.Ready(t.Context()) == nil || s.Err() == nil || s.HandlerPID() != 0 {
				t.Errorf("Ready, Err, HandlerPID = %v, %v, %d", s.Ready(t.Context()), s.Err(), s.HandlerPID())
			}
		})
	}
}

func TestItem02Executable(t *testing.T) {
	for path, below := range map[string]bool{"bin/handler": true, "nowhere": false, "bin": false, "/bin/sh": false} {
		dir := folder(t, "", "", map[string]string{
			"bin/handler": "x",
			"host.json":   `{"functionTimeout":"01:01:01.5","customHandler":{"initializationTimeout":"00:00:05","description":{"defaultExecutablePath":"` + path + `"}}}`,
		})
		want := path
		if below {
			want = filepath.Join(dir, path)
		}
		a, err := readApp(dir)
		if err != nil || a.problem != nil || a.executable != want {
			t.Errorf("%s: %+v, %v, want %s", path, a, err, want)
		}
		if f := a.host; f.FunctionTimeout != span(3661500*time.Millisecond) || f.CustomHandler.InitTimeout != span(5*time.Second) {
			t.Errorf("timeouts %+v", f)
		}
	}
}

func TestItem03Environment(t *testing.T) {
	dir := folder(t, "", "", nil)
	s := start(t, "obey", Config{AppRoot: dir, Env: []string{"GIVEN=yes"}})
	first := environ(t, s.HandlerPID())
	for name, want := range map[string]string{
		"GIVEN": "yes", "PATH": os.Getenv("PATH"), "FUNCTIONS_APP_ROOT_PATH": dir,
		"FUNCTIONS_CUSTOMHANDLER_PORT": strconv.Itoa(s.worker.port), "FUNCTIONS_HTTPWORKER_PORT": strconv.Itoa(s.worker.port),
	} {
		if first[name] != want {
			t.Errorf("%s = %q, want %q", name, first[name], want)
		}
	}
	if id := first["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"]; !anyGUID.MatchString(id) || first["FUNCTIONS_HTTPWORKER_ID"] != id {
		t.Errorf("worker ids %q, %q", id, first["FUNCTIONS_HTTPWORKER_ID"])
	}
	if cwd, err := os.Readlink("/proc/" + strconv.Itoa(s.HandlerPID()) + "/cwd"); err != nil || cwd != dir {
		t.Errorf("working directory %q, %v", cwd, err)
	}
	if err := s.KillHandler(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return s.Counts().Restarts == 1 })
	s.ready()
	second := environ(t, s.HandlerPID())
	if second["FUNCTIONS_CUSTOMHANDLER_PORT"] != first["FUNCTIONS_CUSTOMHANDLER_PORT"] {
		t.Error("the port changed with the restart")
	}
	if second["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"] == first["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"] {
		t.Error("the worker id stayed the same")
	}
}

func environ(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	vars := map[string]string{}
	for pair := range strings.SplitSeq(string(text), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		vars[name] = value
	}
	return vars
}

func TestItem04LoopbackIPv4Only(t *testing.T) {
	if ln, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	} else {
		_ = ln.Close()
	}
	dir := folder(t, `"initializationTimeout":"00:00:00.2",`, "", nil)
	s := start(t, "obey", Config{AppRoot: dir, Env: []string{envOrder(startVar, order{Listen: "::1"})}})
	<-s.Done()
	if !errors.Is(s.Err(), ErrExceeded) {
		t.Errorf("Err = %v, want three timeouts", s.Err())
	}
}

func TestItem05Probe(t *testing.T) {
	for _, status := range []int{200, 404, 500} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			s := start(t, "obey", Config{Env: []string{envOrder(startVar, order{Ping: status})}})
			s.ready()
		})
	}
	t.Run("time exceeded counts", func(t *testing.T) {
		dir := folder(t, `"initializationTimeout":"00:00:00.1",`, "", nil)
		s := start(t, "obey", Config{AppRoot: dir, Env: []string{envOrder(startVar, order{Listen: "none"})}})
		<-s.Done()
		if !errors.Is(s.Err(), ErrExceeded) || s.Counts().Restarts != maxErrors {
			t.Errorf("Err = %v after %d restarts", s.Err(), s.Counts().Restarts)
		}
	})
}

func TestItem06EarlyInvocation(t *testing.T) {
	t.Run("released when ready", func(t *testing.T) {
		s := start(t, "obey", Config{Env: []string{startVar + "={}"}}) // no wait for readiness here
		if status, _ := s.post(order{Type: "application/json", Body: "{}"}); status != 204 {
			t.Errorf("status %d, want 204", status)
		}
	})
	t.Run("host stops", func(t *testing.T) {
		s := start(t, "obey", Config{
			Env:    []string{envOrder(startVar, order{Listen: "none"})},
			Timing: Timing{EarlyWait: 100 * time.Millisecond},
		})
		if r, err := s.FireScheduled(t.Context()); err != nil || !errors.Is(r.Err, ErrNeverReady) {
			t.Errorf("FireScheduled = %+v, %v", r, err)
		}
		<-s.Done()
		if !errors.Is(s.Err(), ErrNeverReady) {
			t.Errorf("Err = %v", s.Err())
		}
	})
}

func TestItem08Exit(t *testing.T) {
	t.Run("0 stays down", func(t *testing.T) {
		s := start(t, "obey", Config{})
		if status, body := s.post(order{Exit: code(0)}); status != 500 || body != "" {
			t.Errorf("dying call = %d %q", status, body)
		}
		<-s.worker.current().done
		if status, _ := s.post(order{Body: "{}"}); status != 500 {
			t.Errorf("later call = %d, want 500", status)
		}
		if c := s.Counts(); c.Restarts != 0 || c.Failed != 2 {
			t.Errorf("counts %+v", c)
		}
		if s.Err() != nil {
			t.Errorf("Err = %v", s.Err())
		}
	})
	t.Run("200 is not counted", func(t *testing.T) {
		s := start(t, "obey", Config{})
		for n := 1; n <= 4; n++ {
			s.post(order{Exit: code(200)})
			eventually(t, "restart", func() bool { return s.Counts().Restarts == n })
			s.ready()
		}
	})
	t.Run("three errors stop the host", func(t *testing.T) {
		s := start(t, "obey", Config{})
		for n := 1; n <= 2; n++ {
			s.post(order{Exit: code(7)})
			eventually(t, "restart", func() bool { return s.Counts().Restarts == n })
			s.ready()
		}
		if err := s.KillHandler(); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if !errors.Is(s.Err(), ErrExceeded) {
			t.Errorf("Err = %v", s.Err())
		}
	})
	t.Run("a gap clears the count", func(t *testing.T) {
		s := start(t, "obey", Config{Timing: Timing{CrashGap: time.Nanosecond}})
		for n := 1; n <= 4; n++ {
			s.post(order{Exit: code(7)})
			eventually(t, "restart", func() bool { return s.Counts().Restarts == n })
			s.ready()
		}
	})
	t.Run("no restart after a failed start", func(t *testing.T) {
		dir := folder(t, "", "", map[string]string{"host.json": `{"customHandler":{"description":{"defaultExecutablePath":"no-such-handler"}}}`})
		s := start(t, "obey", Config{AppRoot: dir, Env: []string{startVar + "="}, Timing: Timing{EarlyWait: 50 * time.Millisecond}})
		if s.Ready(t.Context()) == nil || s.Counts().Restarts != 0 || s.Err() != nil {
			t.Errorf("Ready, Counts, Err = %v, %+v, %v", s.Ready(t.Context()), s.Counts(), s.Err())
		}
	})
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestItem09Stop(t *testing.T) {
	hold := Config{Env: []string{envOrder(timerVar, order{Hold: true})}, ManualTimer: true, Timing: Timing{TimerDrain: 50 * time.Millisecond}}
	t.Run("nothing in flight", func(t *testing.T) {
		s := start(t, "obey", Config{})
		pid := s.HandlerPID()
		if err := s.Stop(); err != nil || alive(pid) {
			t.Errorf("Stop = %v, handler alive %v", err, alive(pid))
		}
		if err := s.Stop(); err != nil {
			t.Errorf("second Stop = %v", err)
		}
	})
	t.Run("long scheduled run leaves an orphan", func(t *testing.T) {
		let := t.TempDir()
		cfg := hold
		cfg.Env = []string{envOrder(timerVar, order{Hold: true, Let: let})}
		s := start(t, "obey", cfg)
		fired := make(chan TickResult, 1)
		go func() {
			r, _ := s.FireScheduled(context.Background())
			fired <- r
		}()
		s.await("holding")
		pid := s.HandlerPID()
		if err := s.Stop(); err != nil || !alive(pid) {
			t.Errorf("Stop = %v, handler alive %v, want an orphan", err, alive(pid))
		}
		if r := <-fired; r.Err == nil {
			t.Error("the run did not fail with its host")
		}
		if err := os.WriteFile(filepath.Join(let, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "end of an orphan that writes to nobody", func() bool { return !alive(pid) })
	})
	t.Run("admin run is killed at once", func(t *testing.T) {
		s := start(t, "obey", hold)
		if err := s.Fire("timer"); err != nil {
			t.Fatal(err)
		}
		s.await("holding")
		pid := s.HandlerPID()
		if err := s.Stop(); err != nil || alive(pid) {
			t.Errorf("Stop = %v, handler alive %v", err, alive(pid))
		}
	})
	t.Run("HTTP call is waited for", func(t *testing.T) {
		s := start(t, "obey", Config{})
		let := t.TempDir()
		got := make(chan int, 1)
		go func() {
			status, _ := s.post(order{Hold: true, Let: let, Type: "application/json", Body: "{}"})
			got <- status
		}()
		s.await("holding")
		stopped := make(chan error, 1)
		go func() { stopped <- s.Stop() }()
		if err := os.WriteFile(filepath.Join(let, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if s.Counts().OK != 1 {
			t.Errorf("counts %+v, want the call finished", s.Counts())
		}
		<-got
	})
	t.Run("hard death", func(t *testing.T) {
		s := start(t, "obey", hold)
		pid := s.HandlerPID()
		if err := s.Abandon(); err != nil || !alive(pid) {
			t.Errorf("Abandon = %v, handler alive %v", err, alive(pid))
		}
	})
	t.Run("SIGINT first", func(t *testing.T) {
		s := start(t, "obey", Config{})
		if err := s.Interrupt(); err != nil {
			t.Error(err)
		}
		if c := s.Counts(); c.Restarts != 0 {
			t.Errorf("counts %+v", c)
		}
	})
	t.Run("context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h, err := New(Config{AppRoot: folder(t, "", "", nil), Env: []string{probeVar + "=obey"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := h.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := h.HandlerPID()
		cancel()
		<-h.Done()
		if !alive(pid) {
			t.Error("handler is gone")
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestItem10Levels(t *testing.T) {
	for _, tt := range []struct{ stream, text, want string }{
		{"stdout", "an error", "INFO"},
		{"stderr", "plain", "ERROR"},
		{"stderr", "error and WARNing", "WARN"},
	} {
		if got := level(tt.stream, tt.text).String(); got != tt.want {
			t.Errorf("level(%s, %q) = %s, want %s", tt.stream, tt.text, got, tt.want)
		}
	}
	s := start(t, "obey", Config{Env: []string{envOrder(startVar, order{Stdout: strings.Repeat("x", maxLineBytes) + "tail", Stderr: "plain"})}})
	if l := s.await("tail"); l.Stream != "stdout" { // the long line was split
		t.Errorf("line %+v", l)
	}
	s.ready()
}

func TestItem11Mode(t *testing.T) {
	both := forwarding + `"enableProxyingHttpRequest":true,`
	for _, tt := range []struct {
		name, keys, want string
		old              bool
	}{
		{name: "neither", want: "POST /webhook"},
		{name: "forwarding", keys: forwarding, want: "POST /api/webhook"},
		{name: "both, old host", keys: both, old: true, want: "POST /api/webhook"},
		{name: "proxying alone, old host", keys: `"enableProxyingHttpRequest":true,`, old: true, want: "POST /webhook"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, "obey", Config{AppRoot: folder(t, tt.keys, "", nil), OldHost: tt.old})
			s.post(order{Type: "application/json", Body: "{}"})
			if l := s.await("POST "); l.Text != tt.want {
				t.Errorf("handler got %q, want %q", l.Text, tt.want)
			}
		})
	}
	t.Run("both", func(t *testing.T) { // proxied: a status passes, as when forwarded, and so does a chunked body
		s := start(t, "obey", Config{AppRoot: folder(t, both, "", nil)})
		if status, _ := s.post(order{Status: 418}); status != 418 {
			t.Errorf("status %d, want the handler's", status)
		}
	})
}

func TestItem13And14HTTPEnvelope(t *testing.T) {
	fn := &function{name: "webhook", binding: "req"}
	for _, tt := range []struct {
		name, query, body string
		chunked           bool
		metadata          string // of the members before Query
		wantBody          string // JSON, "" for none
	}{
		{name: "text members", body: `{"a":"<x>","n":5,"z":null,"l":[1]}`, metadata: `"a":"\"<x>\"",`, wantBody: `"{\"a\":\"<x>\",\"n\":5,\"z\":null,\"l\":[1]}"`},
		{name: "query", query: "q=1&q=2", body: "[]", metadata: `"q":"\"2\"",`, wantBody: `"[]"`},
		{name: "empty", body: "", wantBody: ""},
		{name: "chunked", body: "[]", chunked: true, wantBody: ""},
		{name: "invalid UTF-8", body: "a\xff", wantBody: "\"a\uFFFD\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &incoming{method: "POST", target: "/api/webhook", query: tt.query, fields: fields{{"Host", "h.example"}}, body: []byte(tt.body), chunked: tt.chunked}
			got := string(httpEnvelope(fn, c, time.Now()))
			if want := `"Metadata":{` + tt.metadata + `"Query"`; !strings.Contains(got, want) {
				t.Errorf("metadata of %s, want %s", got, want)
			}
			_, body, found := strings.Cut(got, `"Body":`)
			if body, _, _ = strings.Cut(body, `}},"Metadata"`); found != (tt.wantBody != "") || body != tt.wantBody {
				t.Errorf("body %s, want %s", body, tt.wantBody)
			}
		})
	}
	t.Run("body members shadow", func(t *testing.T) {
		c := &incoming{fields: fields{{"Host", "h.example"}}, body: []byte(`{"sys":"timer","query":"q","HEADERS":"h"}`)}
		got := string(httpEnvelope(fn, c, time.Now()))
		if !strings.Contains(got, `"Metadata":{"HEADERS":"\"h\"","query":"\"q\"","sys":"\"timer\"","$sys":{"MethodName":"webhook"`) {
			t.Error(got)
		}
	})
	t.Run("query and headers", func(t *testing.T) {
		c := &incoming{
			target: "/x?k=a&k=b&code=c", query: "k=a&k=b&code=c",
			fields: fields{{"X-One", "1"}, {"ACCEPT", "a/b"}, {"x-one", "2"}, {"host", "h.example"}},
		}
		got := string(httpEnvelope(fn, c, time.Now()))
		for _, want := range []string{
			`"Query":{"k":"a,b","code":"c"}`, `"Headers":{"Accept":["a/b"],"Host":["h.example"],"X-One":["1","2"]}`,
			`"Query":{"k":"b","code":"c"}`, `"X-One":"1,2"`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in %s", want, got)
			}
		}
	})
}

func TestItem15TimerWithoutMonitor(t *testing.T) {
	fn := &function{name: "timer", binding: "tick"}
	if got := string(timerEnvelope(fn, timerStatus{}, false, nil, time.Now())); !strings.Contains(got, `"ScheduleStatus":null,"IsPastDue":false`) {
		t.Error(got)
	}
	for schedule, want := range map[string]bool{"0 * * * * *": true, "*/30 * * * * *": false, "*/5 * * * *": true} {
		fn := &function{}
		if err := fn.indexTimer(binding{Schedule: schedule}); err != nil || fn.monitor != want {
			t.Errorf("%s: monitor %v, error %v", schedule, fn.monitor, err)
		}
	}
}

func TestItem16Answers(t *testing.T) {
	const isJSON = "application/json"
	for _, tt := range []struct {
		name    string
		status  int
		media   string
		body    string
		ok      bool
		pending bool
	}{
		{name: "smallest", status: 200, media: isJSON, body: "{}", ok: true},
		{name: "any 2xx", status: 206, media: "text/json; utf-8", body: `{"outputs":{},"LOGS":["a"]}`, ok: true},
		{name: "text after the value", status: 200, media: isJSON, body: "{} and more", ok: true},
		{name: "not 2xx", status: 500, media: isJSON, body: "{}"},
		{name: "redirect without a place", status: 302, media: isJSON, body: "{}"},
		{name: "no content type", status: 200, body: "{}"},
		{name: "text/plain", status: 200, media: "text/plain", body: "{}"},
		{name: "not JSON", status: 200, media: isJSON, body: "ok"},
		{name: "wrong shape", status: 200, media: isJSON, body: "[]"},
		{name: "Logs a string", status: 200, media: isJSON, body: `{"Logs":"x"}`},
		{name: "an object in Logs", status: 200, media: isJSON, body: `{"Logs":[{}]}`},
		{name: "empty", status: 200, media: isJSON, pending: true},
		{name: "204", status: 204, pending: true},
		{name: "blank", status: 200, body: " \n", pending: true},
		{name: "null", status: 200, media: isJSON, body: "null", pending: true},
		{name: "null and more", status: 200, media: isJSON, body: "null0", pending: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseAnswer(&http.Response{StatusCode: tt.status, Header: http.Header{"Content-Type": {tt.media}}}, []byte(tt.body))
			if (err == nil) != tt.ok || errors.Is(err, errPending) != tt.pending {
				t.Errorf("parseAnswer: %v", err)
			}
		})
	}
	s := start(t, "obey", Config{})
	if status, body := s.post(order{Status: 400, Type: isJSON, Body: `{"Outputs":{"res":{"statusCode":201}}}`}); status != 500 || body != "" {
		t.Errorf("caller got %d %q, want an empty 500", status, body)
	}
}

func TestItem17Redirects(t *testing.T) {
	s := start(t, "obey", Config{AppRoot: folder(t, forwarding, "", nil)})
	if status, _ := s.post(order{Status: 302, Header: map[string]string{"Location": "/other"}}); status != 302 {
		t.Errorf("forwarded: status %d, want 302", status)
	}
}

func TestItem18Outputs(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		status       int
		body         string
		media        string
	}{
		{name: "no outputs", answer: `{}`, status: 204},
		{name: "name missing", answer: `{"Outputs":{"Res":{"statusCode":201}}}`, status: 200, body: "{}"},
		{name: "status is ignored", answer: `{"Outputs":{"res":{"status":201,"body":"x"}}}`, status: 200, body: "x"},
		{name: "numeric string", answer: `{"Outputs":{"res":{"StatusCode":"201"}}}`, status: 201},
		{name: "plain string", answer: `{"Outputs":{"res":"x"}}`},
		{name: "null", answer: `{"Outputs":{"res":null}}`},
		{name: "object body", answer: `{"Outputs":{"res":{"body":{"a":1}}}}`},
		{name: "content type", answer: `{"Outputs":{"res":{"headers":{"content-type":"a/b"},"body":"x"}}}`, status: 200, body: "x", media: "a/b"},
		{name: "array as header", answer: `{"Outputs":{"res":{"headers":{"A":["b"]}}}}`},
		{name: "header with a line break", answer: `{"Outputs":{"res":{"headers":{"A":"b\r\nC: d"}}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := parseAnswer(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}}, []byte(tt.answer))
			if err != nil {
				t.Fatal(err)
			}
			r, err := a.httpReply("res")
			if tt.status == 0 {
				if err == nil {
					t.Errorf("reply %+v, want an error", r)
				}
				return
			}
			if err != nil || r.status != tt.status || string(r.body) != tt.body {
				t.Fatalf("reply %+v %q, %v", r, r.body, err)
			}
			if media := r.fields.get("Content-Type"); tt.media != "" && media != tt.media {
				t.Errorf("content type %q", media)
			}
		})
	}
}

func TestItem19Logs(t *testing.T) {
	s := start(t, "obey", Config{})
	s.post(order{Status: 500, Type: "application/json", Body: `{"Logs":["lost"]}`})
	s.post(order{Type: "application/json", Body: `{"Logs":["kept"],"Outputs":{"res":"bad"}}`}) // before outputs are bound
	for {
		l := s.await("")
		if l.Text == "lost" {
			t.Fatal("Logs of a failure were written")
		}
		if l.Text == "kept" {
			if l.Stream != "logs" || l.Level.String() != "INFO" || !anyGUID.MatchString(l.InvocationID) {
				t.Errorf("line %+v", l)
			}
			return
		}
	}
}

func TestItem21FunctionTimeout(t *testing.T) {
	s := start(t, "obey", Config{
		AppRoot: folder(t, "", `"functionTimeout":"00:00:00.3",`, nil), ManualTimer: true,
		Timing: Timing{KillDelay: 100 * time.Millisecond},
		Env:    []string{envOrder(timerVar, order{Hold: true})},
	})
	fired := make(chan TickResult, 1)
	go func() {
		r, _ := s.FireScheduled(context.Background())
		fired <- r
	}()
	s.await("holding")
	if status, body := s.post(order{Status: 200}); status != 500 || body != "" { // pending, killed with the other
		t.Errorf("bystander got %d %q", status, body)
	}
	if r := <-fired; !errors.Is(r.Err, errKilled) || r.Duration < 400*time.Millisecond {
		t.Errorf("run = %+v", r)
	}
	eventually(t, "restart", func() bool { return s.Counts().Restarts >= 1 })
	for n := 2; n <= 4; n++ { // not counted, however often
		s.ready()
		s.post(order{Status: 200})
	}
	if s.Err() != nil {
		t.Errorf("Err = %v", s.Err())
	}
}

func TestItem22Forwarding(t *testing.T) {
	s := start(t, "record", Config{AppRoot: folder(t, forwarding, "", nil), Env: []string{answerVar + "=HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}})
	send := func(head string) string {
		t.Helper()
		conn, err := net.Dial("tcp", s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /api/webhook?a=1&b=x+y&a=2&c=%3f HTTP/1.1\r\nHost: h.example\r\n"+head+"Content-Length: 2\r\n\r\n{}"); err != nil {
			t.Fatal(err)
		}
		status, _, _ := readReply(t, conn)
		return status
	}
	if got := send("user-agent: demo/1\r\nAccept: a\r\nX-b: 1\r\nx-B: 2\r\n"); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	var got seen
	if err := json.Unmarshal([]byte(s.await("{").Text), &got); err != nil {
		t.Fatal(err)
	}
	want := [][2]string{
		{"Accept", "a"},
		{"Host", "h.example"},
		{"User-Agent", "demo/1 " + agent},
		{"X-b", "1, 2"},
		{"X-Azure-Functions-HostVersion", hostVersion},
		{"X-Azure-Functions-InvocationId", "*"},
		{"Content-Length", "2"},
	}
	if diff := cmp.Diff(want, got.masked(0).Headers); diff != "" {
		t.Error(diff)
	}
	if got.Line != "POST /api/webhook?a=1,2&b=x%20y&c=%3F HTTP/1.1" {
		t.Error(got.Line)
	}
}

func TestItem23Proxying(t *testing.T) {
	dir := folder(t, `"enableProxyingHttpRequest":true,`, "", nil)
	t.Run("wire", func(t *testing.T) {
		s := start(t, "record", Config{AppRoot: dir, Env: []string{answerVar + "=HTTP/1.1 201 Made\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"}})
		conn, err := net.Dial("tcp", s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /API/webhook?x=a+b HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\nX-Azure-Functions-InvocationId: spoof\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		var got seen
		if err := json.Unmarshal([]byte(s.await("{").Text), &got); err != nil {
			t.Fatal(err)
		}
		want := [][2]string{
			{"Host", "h.example"},
			{"X-Azure-Functions-HostVersion", hostVersion},
			{"X-Azure-Functions-InvocationId", "*"},
			{"x-ms-invocation-id", "*"},
			{"Transfer-Encoding", "chunked"},
		}
		for i, h := range got.Headers {
			got.Headers[i][1] = anyGUID.ReplaceAllString(h[1], "*")
		}
		if diff := cmp.Diff(want, got.Headers); diff != "" || got.Body != "[]" || got.Line != "POST /API/webhook?x=a+b HTTP/1.1" {
			t.Errorf("%s %q %s", got.Line, got.Body, diff)
		}
		all, err := io.ReadAll(conn)
		if text := string(all); err != nil || !strings.HasPrefix(text, "HTTP/1.1 201 Made\r\n") || !strings.Contains(text, "\r\nX-Y: z\r\n") || !strings.HasSuffix(text, "\r\n\r\nhi") {
			t.Errorf("caller got %q, %v", text, err)
		}
	})
	t.Run("client abort reaches the handler", func(t *testing.T) {
		s := start(t, "obey", Config{AppRoot: dir})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := s.try(ctx, "POST", "/api/webhook", `{"Hold":true}`, nil)
			done <- err
		}()
		s.await("holding")
		cancel()
		s.await("released")
		if err := <-done; err == nil {
			t.Error("the call succeeded")
		}
	})
	t.Run("handler dies", func(t *testing.T) {
		s := start(t, "obey", Config{AppRoot: dir})
		if status, _ := s.post(order{Exit: code(7)}); status != 502 || s.Counts().Failed != 1 {
			t.Errorf("status %d, %+v", status, s.Counts())
		}
	})
	t.Run("attempts to connect", func(t *testing.T) {
		s := start(t, "obey", Config{AppRoot: dir})
		s.post(order{Exit: code(0)})
		<-s.worker.current().done
		begin := time.Now()
		if status, _ := s.post(order{}); status != 502 {
			t.Errorf("status %d", status)
		}
		if waited := time.Since(begin); waited < 1850*time.Millisecond { // 50+100+200+6*250 ms
			t.Errorf("gave up after %v", waited)
		}
	})
}

func TestItem24Routing(t *testing.T) {
	s := start(t, "obey", Config{})
	for _, tt := range []struct {
		method, target string
		want           int
	}{
		{"POST", "/api/webhook", 204},
		{"POST", "/API/WEBHOOK/", 204},
		{"PUT", "/api/webhook", 404},
		{"POST", "/webhook", 404},
		{"POST", "/api", 404},
		{"POST", "/api/webhook/x", 404},
		{"POST", "/timer", 404},
		{"POST", "/", 404},
	} {
		if r := s.do(tt.method, tt.target, `{"Type":"application/json","Body":"{}"}`, nil); r.status != tt.want || r.body != "" {
			t.Errorf("%s %s = %d %q, want %d", tt.method, tt.target, r.status, r.body, tt.want)
		}
	}
}

func TestItem25Admin(t *testing.T) {
	s := start(t, "obey", Config{ManualTimer: true, Env: []string{envOrder(timerVar, order{Stdout: "ran", Type: "application/json", Body: "{}"})}})
	isJSON := map[string]string{"Content-Type": "application/json"}
	for _, tt := range []struct {
		target, body string
		header       map[string]string
		want         int
	}{
		{"/admin/functions/timer", `{"input":""}`, isJSON, 202},
		{"/admin/functions/timer", "", isJSON, 400},
		{"/admin/functions/timer", "", nil, 400},
		{"/admin/functions/timer", "{", isJSON, 400},
		{"/admin/functions/timer", "{}", nil, 415},
		{"/admin/functions/none", "{}", isJSON, 404},
		{"/admin/functions/webhook", "{}", isJSON, 202},
	} {
		if r := s.do("POST", tt.target, tt.body, tt.header); r.status != tt.want {
			t.Errorf("POST %s %q = %d, want %d", tt.target, tt.body, r.status, tt.want)
		}
	}
	s.await("ran")
	if s.Fire("webhook") == nil || s.Fire("timer") != nil {
		t.Error("Fire: want an error for a function that is no timer")
	}
	s.await("ran")
}

func TestItem26Schedule(t *testing.T) {
	often := strings.Replace(timerJSON, "0 * * * * *", "* * * * * *", 1)
	ran := envOrder(timerVar, order{Stdout: "ran", Type: "application/json", Body: "{}"})
	t.Run("runs on time", func(t *testing.T) {
		s := start(t, "obey", Config{AppRoot: folder(t, "", "", map[string]string{"timer/function.json": often}), Env: []string{ran}})
		s.await("ran")
		s.await("ran")
	})
	t.Run("past due after downtime, once", func(t *testing.T) {
		state := t.TempDir()
		answer := answerVar + "=HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
		first := time.Now().UTC().Add(-3 * time.Minute).Truncate(time.Minute)
		s := &Host{cfg: Config{StateDir: state}}
		if err := s.keep(&function{name: "timer"}, timerStatus{Last: first.Add(-time.Minute), Next: first}); err != nil {
			t.Fatal(err)
		}
		h := start(t, "record", Config{StateDir: state, Env: []string{answer}})
		line := h.await("{").Text
		if !strings.Contains(line, `\"Next\":\"`+first.Format("2006-01-02T15:04:05")) || !strings.Contains(line, `\"IsPastDue\":true`) {
			t.Error(line)
		}
		eventually(t, "status", func() bool {
			status := h.status(h.app.function("timer"))
			return status.Next.After(time.Now().Add(-time.Second)) && status.Last.After(first)
		})
		for quiet := time.After(100 * time.Millisecond); ; {
			select {
			case l := <-h.lines:
				if strings.Contains(l.Text, `\"IsPastDue\":true`) {
					t.Fatal("a second run past due")
				}
				continue
			case <-quiet:
			}
			break
		}
	})
	t.Run("one run after an overrun", func(t *testing.T) {
		state := t.TempDir()
		let := t.TempDir()
		dir := folder(t, "", "", map[string]string{"timer/function.json": often})
		s := start(t, "obey", Config{AppRoot: dir, StateDir: state, Env: []string{envOrder(timerVar, order{Hold: true, Let: let, Type: "application/json", Body: "{}"})}})
		s.await("holding")
		begin := time.Now()
		eventually(t, "two more occurrences", func() bool { return time.Since(begin) > 2100*time.Millisecond })
		if c := s.Counts(); c.OK != 0 {
			t.Errorf("counts %+v during the run", c)
		}
		if err := os.WriteFile(filepath.Join(let, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.await("released")
		s.await("released") // at once, for all that was missed
		if status := s.status(s.app.function("timer")); time.Since(status.Next) > 2*time.Second {
			t.Errorf("status %+v", status)
		}
	})
	t.Run("an early run counts as the nominal time", func(t *testing.T) {
		s := start(t, "obey", Config{ManualTimer: true, Env: []string{ran}})
		fn, next := s.app.function("timer"), time.Now().UTC().Add(time.Minute).Truncate(time.Minute)
		if r, err := s.tick(t.Context(), fn, next, false); err != nil || r.Err != nil {
			t.Fatal(r, err)
		}
		want := timerStatus{Last: next, Next: next.Add(time.Minute), LastUpdated: next}
		if got := s.status(fn); got != want {
			t.Errorf("status %+v, want %+v", got, want)
		}
		again, err := New(s.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := again.status(again.app.function("timer")); got != want {
			t.Errorf("the next host has status %+v, want %+v", got, want)
		}
	})
	t.Run("no overlap", func(t *testing.T) {
		s := start(t, "obey", Config{ManualTimer: true, Env: []string{envOrder(timerVar, order{Hold: true})}})
		first := make(chan struct{})
		go func() {
			defer close(first)
			_, _ = s.FireScheduled(context.Background())
		}()
		s.await("holding")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if r, err := s.FireScheduled(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("second run = %+v, %v", r, err)
		}
		if err := s.KillHandler(); err != nil {
			t.Fatal(err)
		}
		<-first
	})
	t.Run("FireScheduled", func(t *testing.T) {
		s := start(t, "obey", Config{ManualTimer: true, Env: []string{envOrder(timerVar, order{Status: 500, Body: "no"})}})
		r, err := s.FireScheduled(t.Context())
		if err != nil || r.Err == nil || r.Status != 500 || r.Duration <= 0 {
			t.Errorf("FireScheduled = %+v, %v", r, err)
		}
		if c := s.Counts(); c != (Counts{Failed: 1}) {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestItem29BadFunctionAlone(t *testing.T) {
	keyed := strings.Replace(webhookJSON, "anonymous", "function", 1)
	for name, text := range map[string]string{
		"schedule":        strings.Replace(timerJSON, "0 * * * * *", "often", 1),
		"run on startup":  strings.Replace(timerJSON, `"useMonitor"`, `"runOnStartup":true,"useMonitor"`, 1),
		"binding":         `{"bindings":[{"type":"queueTrigger","direction":"in","name":"q"}]}`,
		"no bindings":     "{}",
		"key":             keyed,
		"route parameter": strings.Replace(webhookJSON, `"route":"webhook"`, `"route":"{*all}"`, 1),
		"nonsense":        "{",
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "obey", Config{AppRoot: folder(t, "", "", map[string]string{"timer/function.json": text})})
			if s.app.function("timer") != nil || s.app.function("WEBHOOK") == nil {
				t.Errorf("functions %+v", s.app.functions)
			}
			if status, _ := s.post(order{Type: "application/json", Body: "{}"}); status != 204 {
				t.Errorf("webhook = %d", status)
			}
			if _, err := s.FireScheduled(t.Context()); err == nil {
				t.Error("FireScheduled ran")
			}
		})
	}
}

func TestItem30Limits(t *testing.T) {
	s := start(t, "obey", Config{})
	for _, tt := range []struct{ name, text, want string }{
		{"body", "POST /api/webhook HTTP/1.1\r\nHost: h\r\nContent-Length: " + strconv.Itoa(maxBodyBytes+1) + "\r\n\r\n", "HTTP/1.1 500 Internal Server Error"},
		{"cut chunk", "POST /api/webhook HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", "HTTP/1.1 500 Internal Server Error"},
		{"head", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeadBytes), "HTTP/1.1 431 Request Header Fields Too Large"},
		{"nonsense", "NONSENSE\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.text); err != nil {
				t.Fatal(err)
			}
			if status, _, _ := readReply(t, conn); status != tt.want || s.Counts() != (Counts{}) {
				t.Errorf("%s, %+v", status, s.Counts())
			}
		})
	}
}

func TestItem32CallerLeaves(t *testing.T) {
	let := t.TempDir()
	s := start(t, "obey", Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	text, _ := json.Marshal(order{Hold: true, Let: let, Type: "application/json", Body: "{}"})
	go func() {
		_, err := s.try(ctx, "POST", "/api/webhook", string(text), nil)
		done <- err
	}()
	s.await("holding")
	cancel()
	<-done
	if err := os.WriteFile(filepath.Join(let, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the invocation's success", func() bool { return s.Counts() == Counts{OK: 1} })
}

func TestKeepAlive(t *testing.T) {
	for name, keys := range map[string]string{"envelope": "", "forwarded": forwarding, "proxied": `"enableProxyingHttpRequest":true,`} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "obey", Config{AppRoot: folder(t, keys, "", nil)})
			conn, err := net.Dial("tcp", s.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const body = `{"Type":"application/json","Body":"{}"}`
			for range 2 {
				if _, err := io.WriteString(conn, "POST /api/webhook HTTP/1.1\r\nHost: h\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body); err != nil {
					t.Fatal(err)
				}
				if status, _, _ := readReply(t, conn); !strings.HasPrefix(status, "HTTP/1.1 20") {
					t.Error(status)
				}
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("POST /api/webhook?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nX: y\r\n\r\n{\"a\":1}")
	f.Fuzz(func(t *testing.T, text string) {
		c, refusal, err := read(bufio.NewReaderSize(strings.NewReader(text), maxHeadBytes), nil)
		if err != nil || refusal != nil {
			return
		}
		if env := httpEnvelope(&function{binding: "req"}, c, time.Now()); !json.Valid(env) {
			t.Errorf("not JSON: %s", env)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"Outputs":{"res":{"statusCode":200,"headers":{"A":"b"},"body":{}}},"Logs":["x"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAnswer(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}}, []byte(text))
		if err != nil {
			return
		}
		if r, err := a.httpReply("res"); err == nil && r == nil {
			t.Error("neither reply nor error")
		}
	})
}
