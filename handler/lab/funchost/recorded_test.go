package funchost

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type recording struct {
	Request *seen
	Saw     struct {
		Status  string
		Headers []string
		Body    string
	} `json:"caller_saw"`
}

var (
	varying = regexp.MustCompile(`"(UtcNow|RandGuid)":"[^"]*"`)
	anyGUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

func (s *seen) masked(port int) *seen {
	out := *s
	out.Body = varying.ReplaceAllString(s.Body, `"$1":"*"`)
	out.Headers = nil
	for _, h := range s.Headers {
		h[1] = strings.ReplaceAll(h[1], ":"+strconv.Itoa(port), ":PORT")
		if h[0] == "X-Azure-Functions-InvocationId" {
			h[1] = anyGUID.ReplaceAllString(h[1], "*")
		}
		out.Headers = append(out.Headers, h)
	}
	out.Chunks = make([]int, len(s.Chunks)) // sizes are checked apart: times differ in length
	return &out
}

// callerRequest rebuilds what the recording's caller sent, headers Kestrel
// knows in another order than the host passes them on.
func callerRequest(t *testing.T, name string, r *seen) string {
	t.Helper()
	const odd = "POST /api/webhook HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Type: application/json; utf-8\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
	switch {
	case strings.HasSuffix(name, "-get"):
		return "GET /api/webhook HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
	case strings.HasSuffix(name, "-outside-timer"):
		return "POST /api/timer HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 2\r\n\r\n{}"
	case r == nil:
		return odd
	}
	target, body := strings.Fields(r.Line)[1], r.Body
	var known, other string
	add := func(name, value string) {
		if strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "X-") {
			other += name + ": " + value + "\r\n"
		} else {
			known = name + ": " + value + "\r\n" + known
		}
	}
	if strings.HasPrefix(name, "forwarded") {
		target = strings.ReplaceAll(target, "%20", "+")
		for _, h := range r.Headers {
			value := h[1]
			if strings.HasPrefix(h[0], "X-Azure-") {
				spoofed, _, ok := strings.Cut(value, ", ")
				if !ok {
					continue
				}
				value = spoofed
			}
			if h[0] != "User-Agent" {
				add(h[0], value)
			}
		}
		return "POST " + target + " HTTP/1.1\r\n" + other + known + "\r\n" + body
	}
	var env struct {
		Data struct {
			Req struct {
				URL     string
				Headers json.RawMessage
				Body    string
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Body), &env); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(env.Data.Req.Headers)))
	_, _ = dec.Token()
	for dec.More() {
		name, err := dec.Token()
		var values []string
		if err != nil || dec.Decode(&values) != nil {
			t.Fatal("recorded headers do not read")
		}
		add(name.(string), values[0])
	}
	u, err := url.Parse(strings.Replace(env.Data.Req.URL, ":PORT", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	body = env.Data.Req.Body
	if strings.Contains(known, "chunked") {
		body = "2\r\n[]\r\n0\r\n\r\n"
	}
	return "POST " + u.RequestURI() + " HTTP/1.1\r\n" + other + known + "\r\n" + body
}

// handlerAnswer is what the recording's handler must have answered.
func handlerAnswer(name string, r *recording) string {
	text := func(status, headers, body string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), headers, body)
	}
	status := strings.TrimPrefix(r.Saw.Status, "HTTP/1.1 ")
	if strings.HasPrefix(name, "forwarded") {
		headers := ""
		for _, h := range r.Saw.Headers {
			if strings.HasPrefix(h, "Content-Type") {
				headers += h + "\r\n"
			}
		}
		return text(status, headers, r.Saw.Body)
	}
	const isJSON = "Content-Type: application/json\r\n"
	switch {
	case strings.HasPrefix(name, "timer"):
		return text("200 OK", isJSON, "{}")
	case strings.HasSuffix(name, "answer-500"):
		return text("500 No", isJSON, "{}")
	}
	body := ""
	if _, rest, ok := strings.Cut(r.Saw.Body, "\r\n"); ok {
		body, _, _ = strings.Cut(rest, "\r\n")
	}
	return text("200 OK", isJSON, fmt.Sprintf(`{"Outputs":{"res":{"statusCode":%s,"body":%q}}}`, status[:3], body))
}

// readReply returns what a caller sees, raw.
func readReply(t *testing.T, conn net.Conn) (status string, headers []string, body string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	head, err := peekHead(br)
	if err != nil {
		t.Fatalf("read reply: %v", err)
	}
	_, _ = br.Discard(len(head))
	status, _, _ = strings.Cut(string(head), "\r\n")
	for _, f := range headFields(head) {
		if f.name != "Date" {
			headers = append(headers, f.name+": "+f.value)
		}
	}
	slices.Sort(headers)
	n, _ := strconv.Atoi(headFields(head).get("Content-Length"))
	for chunked := headFields(head).index("Transfer-Encoding") >= 0; n > 0 || chunked; n-- {
		b, err := br.ReadByte()
		if err != nil {
			t.Fatalf("read reply: %v", err)
		}
		if body += string(b); strings.HasSuffix(body, "0\r\n\r\n") {
			break
		}
	}
	return status, headers, body
}

func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 28 {
		t.Fatalf("found %d recordings, error %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var r recording
			if err := json.Unmarshal(text, &r); err != nil {
				t.Fatal(err)
			}
			cfg := Config{OldHost: true, ManualTimer: true, Env: []string{answerVar + "=" + handlerAnswer(name, &r)}}
			if strings.HasPrefix(name, "forwarded") {
				cfg.AppRoot = folder(t, forwarding+`"enableProxyingHttpRequest":true,`, "", nil)
			}
			s := start(t, "record", cfg)
			if strings.HasPrefix(name, "timer") {
				fireRecorded(t, s, name, r.Request.Body)
			} else {
				conn, err := net.Dial("tcp", s.ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, callerRequest(t, name, r.Request)); err != nil {
					t.Fatal(err)
				}
				status, headers, body := readReply(t, conn)
				if status != r.Saw.Status || !slices.Equal(headers, r.Saw.Headers) || body != r.Saw.Body {
					t.Errorf("caller saw %q %q %q, want %q %q %q", status, headers, body, r.Saw.Status, r.Saw.Headers, r.Saw.Body)
				}
			}
			if r.Request == nil {
				if err := s.Stop(); err != nil {
					t.Fatal(err)
				}
				for len(s.lines) > 0 {
					if l := <-s.lines; !strings.HasPrefix(l.Text, "probe ") {
						t.Errorf("handler was called: %s", l.Text)
					}
				}
				return
			}
			var got seen
			if err := json.Unmarshal([]byte(s.await("{").Text), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r.Request.masked(0), got.masked(s.worker.port)); diff != "" {
				t.Errorf("handler received (-recorded +here):\n%s", diff)
			}
			sum := 0
			for i, n := range got.Chunks {
				if sum += n; i < len(got.Chunks)-1 && n != envelopeChunk {
					t.Errorf("chunk %d has %d bytes", i, n)
				}
			}
			if got.Chunked && sum != len(got.Body) {
				t.Errorf("chunks hold %d of %d bytes", sum, len(got.Body))
			}
		})
	}
}

// fireRecorded runs the timer from the status that the recording shows.
func fireRecorded(t *testing.T, s *stand, name, body string) {
	t.Helper()
	var env struct {
		Data struct {
			Tick struct {
				ScheduleStatus timerStatus
				IsPastDue      bool
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &env); err != nil {
		t.Fatal(err)
	}
	tick, fn := env.Data.Tick, s.app.function("timer")
	if err := s.keep(fn, tick.ScheduleStatus); err != nil {
		t.Fatal(err)
	}
	if name == "timer-admin-fired" {
		r := s.do("POST", "/admin/functions/timer", `{"input":""}`, map[string]string{"Content-Type": "application/json"})
		if r.status != 202 {
			t.Errorf("fire: status %d", r.status)
		}
		return
	}
	r, err := s.tick(t.Context(), fn, tick.ScheduleStatus.Next, tick.IsPastDue)
	if err != nil || r.Err != nil || r.Status != 200 {
		t.Errorf("tick = %+v, %v", r, err)
	}
}
