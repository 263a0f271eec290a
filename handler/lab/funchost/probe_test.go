package funchost

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The test binary is also the handler: with probeVar set it runs as one.
const (
	probeVar  = "FUNCHOST_PROBE"
	answerVar = "FUNCHOST_ANSWER" // raw answer of the recording probe
	timerVar  = "FUNCHOST_TIMER"  // order for timer envelopes
	startVar  = "FUNCHOST_START"  // order at process start
	patience  = 20 * time.Second  // for what takes milliseconds
)

func TestMain(m *testing.M) {
	switch os.Getenv(probeVar) {
	case "":
		os.Exit(m.Run())
	case "record":
		runRecorder()
	case "obey":
		runObeyer()
	}
	os.Exit(9)
}

// seen is what the recording probe received, printed to stdout as one line.
type seen struct {
	Line    string      `json:"line"`
	Headers [][2]string `json:"headers"`
	Chunked bool        `json:"chunked"`
	Chunks  []int       `json:"chunks"`
	Body    string      `json:"body"`
}

func runRecorder() {
	ln, err := net.Listen("tcp4", "127.0.0.1:"+os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			os.Exit(1)
		}
		go record(conn)
	}
}

func record(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	head, err := peekHead(br)
	if err != nil {
		return
	}
	_, _ = br.Discard(len(head))
	lines := strings.Split(strings.TrimRight(string(head), "\r\n"), "\r\n")
	s := seen{Line: lines[0], Chunks: []int{}}
	if !strings.HasPrefix(s.Line, "GET / ") {
		fmt.Println("head " + s.Line) // before the body, which may never come
	}
	length := 0
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ": ")
		s.Headers = append(s.Headers, [2]string{name, value})
		switch name {
		case "Content-Length":
			length, _ = strconv.Atoi(value)
		case "Transfer-Encoding":
			s.Chunked = true
		}
	}
	for s.Chunked {
		size, err := br.ReadString('\n')
		if err != nil {
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 32)
		if err != nil {
			return
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(br, b); err != nil {
			return
		}
		if n == 0 {
			break
		}
		s.Chunks, s.Body = append(s.Chunks, int(n)), s.Body+string(b[:n])
	}
	if !s.Chunked {
		b := make([]byte, length)
		if _, err := io.ReadFull(br, b); err != nil {
			return
		}
		s.Body = string(b)
	}
	text, _ := json.Marshal(s)
	if strings.HasPrefix(s.Line, "GET / ") {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		fmt.Println("probe " + string(text))
		return
	}
	fmt.Println(string(text))
	_, _ = io.WriteString(conn, os.Getenv(answerVar))
}

// order is what the obeying probe is told: in a forwarded body, in Data's Body
// of an envelope, or in timerVar.
type order struct {
	Status int
	Type   string
	Body   string
	Header map[string]string
	Exit   *int   // end the process with this code
	Hold   bool   // print "holding", wait for the caller's end, print "released"
	Let    string // a folder: hold until a file appears in it instead
	Stdout string
	Stderr string
	Listen string // at start: another address to listen on; "none" for none
	Ping   int    // at start: status of GET /
}

func readOrder(text string) order {
	var o order
	_ = json.Unmarshal([]byte(text), &o)
	return o
}

func runObeyer() {
	start := readOrder(os.Getenv(startVar))
	if start.Stdout != "" {
		fmt.Println(start.Stdout)
	}
	if start.Stderr != "" {
		fmt.Fprintln(os.Stderr, start.Stderr)
	}
	if start.Exit != nil {
		os.Exit(*start.Exit)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() {
		<-interrupted
		fmt.Println("interrupted")
		os.Exit(1)
	}()
	host := "127.0.0.1"
	if start.Listen == "none" {
		select {}
	} else if start.Listen != "" {
		host = start.Listen
	}
	address := net.JoinHostPort(host, os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"))
	err := http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			if start.Ping != 0 {
				w.WriteHeader(start.Ping)
			}
			fmt.Println("pinged")
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Method, r.URL.RequestURI())
		o := readOrder(string(body))
		var env struct {
			Data map[string]struct{ Body string }
		}
		if json.Unmarshal(body, &env) == nil && env.Data != nil {
			o = readOrder(env.Data["req"].Body)
			if _, timer := env.Data["tick"]; timer {
				o = readOrder(os.Getenv(timerVar))
			}
		}
		obey(w, r, o)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func obey(w http.ResponseWriter, r *http.Request, o order) {
	if o.Stdout != "" {
		fmt.Println(o.Stdout)
	}
	if o.Stderr != "" {
		fmt.Fprintln(os.Stderr, o.Stderr)
	}
	if o.Exit != nil {
		os.Exit(*o.Exit)
	}
	if o.Hold {
		fmt.Println("holding")
		if o.Let != "" {
			poll := time.NewTicker(5 * time.Millisecond)
			defer poll.Stop()
			for files := []string(nil); len(files) == 0; <-poll.C {
				files, _ = filepath.Glob(filepath.Join(o.Let, "*"))
			}
		} else {
			<-r.Context().Done()
		}
		fmt.Println("released")
	}
	for name, value := range o.Header {
		w.Header().Set(name, value)
	}
	if o.Type != "" {
		w.Header().Set("Content-Type", o.Type)
	}
	if o.Status != 0 {
		w.WriteHeader(o.Status)
	}
	_, _ = io.WriteString(w, o.Body)
}

const (
	webhookJSON = `{"bindings":[{"type":"httpTrigger","direction":"in","name":"req","authLevel":"anonymous","methods":["post"],"route":"webhook"},{"type":"http","direction":"out","name":"res"}]}`
	timerJSON   = `{"bindings":[{"type":"timerTrigger","direction":"in","name":"tick","schedule":"0 * * * * *","useMonitor":true}]}`
)

// stand is a host under test with what its handler says.
type stand struct {
	*Host
	t     *testing.T
	lines chan Line
}

// folder writes an app: files by path; host.json gets handlerKeys in its
// customHandler section beside the description of the probe.
func folder(t *testing.T, handlerKeys, hostKeys string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"host.json":             fmt.Sprintf(`{"version":"2.0",%s"customHandler":{%s"description":{"defaultExecutablePath":%q}}}`, hostKeys, handlerKeys, exe),
		"webhook/function.json": webhookJSON,
		"timer/function.json":   timerJSON,
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const forwarding = `"enableForwardingHttpRequest":true,`

// start runs a host of cfg with the named probe; its handler is ready on
// return unless cfg.Env holds a startVar order.
func start(t *testing.T, probe string, cfg Config) *stand {
	t.Helper()
	if cfg.AppRoot == "" {
		cfg.AppRoot = folder(t, "", "", nil)
	}
	if cfg.StateDir == "" {
		cfg.StateDir = t.TempDir()
	}
	s := &stand{t: t, lines: make(chan Line, 10_000)}
	cfg.Lines = func(l Line) { s.lines <- l }
	cfg.Env = append(cfg.Env, probeVar+"="+probe)
	host, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Host = host
	if err := host.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.cfg.Timing.TimerDrain, host.cfg.Timing.HTTPDrain = 0, 0
		pid := host.HandlerPID()
		if err := host.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if p, err := os.FindProcess(pid); err == nil && pid != 0 {
			_ = p.Kill() // an orphan
		}
	})
	for _, e := range cfg.Env {
		if strings.HasPrefix(e, startVar) {
			return s
		}
	}
	s.ready()
	return s
}

func (s *stand) ready() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		s.t.Fatalf("handler not ready: %v", err)
	}
}

// await returns the next line that begins with prefix; others are skipped.
func (s *stand) await(prefix string) Line {
	s.t.Helper()
	late := time.After(patience)
	for {
		select {
		case l := <-s.lines:
			if strings.HasPrefix(l.Text, prefix) {
				return l
			}
		case <-late:
			s.t.Fatalf("handler never said %q", prefix)
		}
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-late:
			t.Fatalf("%s: never came", what)
		}
	}
}

// post sends o to the webhook and returns status and body.
func (s *stand) post(o order) (int, string) {
	s.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		s.t.Fatal(err)
	}
	resp := s.do(http.MethodPost, "/api/webhook", string(text), nil)
	return resp.status, resp.body
}

type response struct {
	status int
	body   string
	header http.Header
}

func (s *stand) do(method, target, body string, header map[string]string) response {
	s.t.Helper()
	r, err := s.try(s.t.Context(), method, target, body, header)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	return r
}

func (s *stand) try(ctx context.Context, method, target, body string, header map[string]string) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.URL()+target, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, string(text), resp.Header}, err
}

func envOrder(name string, o order) string {
	text, _ := json.Marshal(o)
	return name + "=" + string(text)
}

func code(n int) *int { return &n }
