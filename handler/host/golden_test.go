package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exchange is one exchange recorded from the real host (version 4.1037): what
// it sent to the handler, and what its caller saw in the end.
type exchange struct {
	What    string
	Request *struct {
		Line    string
		Headers [][2]string
		Chunked bool
		Chunks  []int
		Body    string
	}
	CallerSaw *struct {
		Status  string
		Headers []string
		Body    string
	} `json:"caller_saw"`
}

// bytes returns the request as it stood on the wire.
func (e exchange) bytes(port string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n", e.Request.Line)
	for _, h := range e.Request.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], strings.ReplaceAll(h[1], "PORT", port))
	}
	b.WriteString("\r\n")
	body := e.Request.Body // with PORT in it, so that lengths are as recorded
	if !e.Request.Chunked {
		b.WriteString(body)
		return b.Bytes()
	}
	for _, n := range e.Request.Chunks {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

// caller returns status, content type and body that the caller saw.
func (e exchange) caller(t *testing.T) (status int, contentType, body string) {
	status, err := strconv.Atoi(strings.Fields(e.CallerSaw.Status)[1])
	if err != nil {
		t.Fatal(err)
	}
	body = e.CallerSaw.Body
	for _, h := range e.CallerSaw.Headers {
		switch name, value, _ := strings.Cut(h, ": "); {
		case name == "Content-Type":
			contentType = value
		case name == "Transfer-Encoding" && value == "chunked":
			plain, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			body = string(plain)
		}
	}
	return status, contentType, body
}

func readExchange(t testing.TB, path string) exchange {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var e exchange
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// start serves h for the length of the test and returns the port.
func start(t *testing.T, h func(context.Context) http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h(ctx), discard()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// send writes raw bytes to the server and reads one answer.
func send(t *testing.T, port string, raw []byte) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp4", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// Every recorded request, byte for byte, reaches the webhook as the caller sent
// it, in either mode; and the webhook's answer gives the caller what the
// recording shows, by the rules of the host.
func TestWebhookAnswersTheRealHost(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no recordings", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		mode, rest, _ := strings.Cut(name, "-")
		if mode == "timer" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			e := readExchange(t, file)
			if e.Request == nil {
				t.Skip("the host did not call the handler")
			}
			status, contentType, body := e.caller(t)
			var got *http.Request
			var gotBody string
			webhook := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got, gotBody = r, string(raw)
				if contentType != "" {
					w.Header().Set("Content-Type", contentType)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
			port := start(t, func(ctx context.Context) http.Handler {
				return (&Server{Webhook: webhook, Logger: discard()}).Handler(ctx)
			})
			resp, answer := send(t, port, e.bytes(port))

			// What came in.
			if got == nil {
				t.Fatalf("the webhook was not called; the answer was %s %s", resp.Status, answer)
			}
			wantBody := `[{"tenantId":`
			switch {
			case rest == "validation":
				wantBody = `{"validationCode":"vc-000001"}`
			case mode == "envelope" && rest == "notification-chunked":
				wantBody = "" // the host drops a chunked body on its way into an envelope
			}
			if !strings.HasPrefix(gotBody, wantBody) || wantBody == "" && gotBody != "" {
				t.Errorf("body %q, want one that begins with %q", gotBody, wantBody)
			}
			if got.Method != http.MethodPost || got.Header.Get("Webhook-AuthID") != "k3-rotating-secret-0417" || !strings.HasPrefix(got.Header.Get("Content-Type"), "application/json;") {
				t.Errorf("got %s with headers %v", got.Method, got.Header)
			}
			if rest == "notification" && got.Host != "example-collector.azurewebsites.net" {
				t.Errorf("host %q", got.Host)
			}
			if !strings.EqualFold(strings.TrimSuffix(got.URL.Path, "/"), "/api/webhook") {
				t.Errorf("path %q", got.URL.Path)
			}
			if rest == "notification-query" && got.URL.Query().Get("x") != "a b" {
				t.Errorf("query %q", got.URL.RawQuery)
			}
			wantID := ""
			for _, h := range e.Request.Headers {
				if h[0] == invocationHeader {
					wantID = strings.TrimPrefix(h[1], "spoof, ")
				}
			}
			if ids := got.Header.Values(invocationHeader); len(ids) != 1 || ids[0] != wantID || InvocationID(got) != wantID {
				t.Errorf("invocation ids %q, want only %q", ids, wantID)
			}

			// What went out.
			if mode == "forwarded" {
				if resp.StatusCode != status || answer != body {
					t.Errorf("answered %d %q, want %d %q", resp.StatusCode, answer, status, body)
				}
				return
			}
			gotStatus, gotType, gotAnswer := asHost(t, resp, answer)
			if gotStatus != status || gotAnswer != body || contentType != "" && gotType != contentType {
				t.Errorf("the caller would see %d %q %q, want %d %q %q", gotStatus, gotType, gotAnswer, status, contentType, body)
			}
		})
	}
}

// Both modes hand the webhook the same body.
func TestBothModesCarryTheSameBody(t *testing.T) {
	for _, name := range []string{"notification", "notification-case", "notification-query", "notification-spoofed", "validation", "answer-200"} {
		envelope, forwarded := readExchange(t, "testdata/envelope-"+name+".json"), readExchange(t, "testdata/forwarded-"+name+".json")
		data, err := decodeEnvelope(strings.NewReader(envelope.Request.Body))
		if err != nil {
			t.Fatal(err)
		}
		r, err := rebuild(data["req"], newRequest("/webhook", ""))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != forwarded.Request.Body || r.ContentLength != int64(len(body)) {
			t.Errorf("%s: body %q, error %v; want %q", name, body, err, forwarded.Request.Body)
		}
	}
}

func TestTimerAnswersTheRealHost(t *testing.T) {
	for name, pastDue := range map[string]bool{"first-run": false, "on-time": false, "past-due": true, "admin-fired": false} {
		t.Run(name, func(t *testing.T) {
			e := readExchange(t, "testdata/timer-"+name+".json")
			var got Invocation
			port := start(t, func(ctx context.Context) http.Handler {
				return (&Server{Logger: discard(), TickTimeout: time.Minute, Tick: func(_ context.Context, inv Invocation) (string, error) {
					got = inv
					return "stored 3", nil
				}}).Handler(ctx)
			})
			resp, answer := send(t, port, e.bytes(port))
			if want := e.Request.Headers[2][1]; got.ID != want || got.PastDue != pastDue {
				t.Errorf("invocation %+v, want id %s, past due %v", got, want, pastDue)
			}
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json; charset=utf-8" ||
				answer != `{"Outputs":{},"Logs":["stored 3"],"ReturnValue":null}`+"\n" {
				t.Errorf("answered %s %q", resp.Status, answer)
			}
		})
	}
}

// asHost turns an answer to an envelope into what the caller of the host sees,
// by the host's rules. It fails the test where the host would.
func asHost(t *testing.T, resp *http.Response, answer string) (status int, contentType, body string) {
	t.Helper()
	if resp.StatusCode/100 != 2 {
		return http.StatusInternalServerError, "", ""
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		t.Fatalf("content type %q: the host takes only JSON", resp.Header.Get("Content-Type"))
	}
	var out struct {
		Outputs map[string]struct {
			StatusCode int               `json:"statusCode"`
			Headers    map[string]string `json:"headers"`
			Body       *string           `json:"body"`
		}
		Logs        []string
		ReturnValue json.RawMessage
	}
	d := json.NewDecoder(strings.NewReader(answer))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		t.Fatalf("the host could not read %q: %v", answer, err)
	}
	res, ok := out.Outputs["res"]
	if !ok || res.Body == nil || string(out.ReturnValue) != "null" || out.Logs == nil {
		t.Fatalf("incomplete answer %q", answer)
	}
	contentType = "text/plain; charset=utf-8"
	if ct := res.Headers["Content-Type"]; ct != "" {
		contentType = ct
	}
	return res.StatusCode, contentType, *res.Body
}
