// Package host speaks the custom-handler protocol of the Azure Functions host:
// it serves the two functions of this app, writes the log where the host reads
// it, and ends the process when the host is gone.
//
// The host calls over http on the loopback interface. The timer always comes
// as an envelope, POST /timer. The webhook comes as the caller's own request
// on /api/webhook when host.json forwards or proxies requests, else as an
// envelope, POST /webhook. An envelope is answered with 200, JSON and an
// object that is never empty; anything but 2xx is a failed invocation. Nothing
// marks a request as coming from the host, so nothing here trusts one.
//
// A composition root runs the three of them together:
//
//	listener, err := host.Listen(ctx, port)
//	g, ctx := errgroup.WithContext(ctx)
//	g.Go(func() error { return host.WatchParent(ctx, os.Getppid) })
//	g.Go(func() error { return host.Serve(ctx, listener, server.Handler(ctx), logger) })
//	err = g.Wait()
//
// The package holds no state but that of a [Server]'s handler, and none of its
// texts holds a header or a body.
package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const (
	// The body of a notification or validation. Source: Management Activity API
	// reference, receiver rules (1 MiB); a notification of a thousand contents
	// takes half of it.
	maxWebhookBytes = 1 << 20
	// The same body in an envelope: escaped, with headers, and for an object
	// with its members once more.
	maxEnvelopeBytes = 4 << 20
	// A timer envelope takes 350 bytes; with a retry context of the host's,
	// which holds stack traces, some 10 KB.
	maxTimerBytes = 256 << 10
	// How long the host may take to hand over a body.
	bodyTime = 30 * time.Second
	// An error's text in an answer, which the host logs.
	maxFailureBytes = 4 << 10
)

// errTickDeadline is the cause of a tick's context once its time is over.
var errTickDeadline = errors.New("the tick's time is over")

// Invocation is what the host tells about one run of the timer. It is a hint
// for the log: what to do comes from the ledger, for a tick may be early, late
// or fired by hand.
type Invocation struct {
	ID      string // the host's invocation id, cleaned; may be empty
	PastDue bool   // the host runs it later than scheduled
}

// Server serves the functions webhook and timer. All fields are required.
type Server struct {
	// Webhook answers the caller's request, whichever way it came. Its body is
	// limited to 1 MiB: more gives an [http.MaxBytesError]. What it writes is
	// held back until it returns.
	Webhook http.Handler
	// Tick does one run of the timer. The text it returns goes to the host's
	// log for this invocation. An error makes the invocation fail; its text
	// goes to the host, so it must hold no secret, and Tick itself logs it with
	// what else it knows. Tick must return soon after its context ends.
	Tick func(context.Context, Invocation) (string, error)
	// TickTimeout is a tick's own deadline, shorter than the host's.
	TickTimeout time.Duration
	Logger      *slog.Logger
}

// Handler returns the handler for everything the host sends. The end of ctx
// ends a running tick; a caller that leaves does not.
//
// One tick runs at a time: a run fired by hand may overlap a scheduled one.
// The second is answered 200 at once and does nothing, for the first does the
// work of both. If the first has outlived its deadline the second fails
// instead, so that a stuck tick does not look like a healthy one.
//
// A panic in a function becomes an answer of 500 and a line in the log.
func (s *Server) Handler(ctx context.Context) http.Handler {
	var run turn
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if path == "/" { // the host's probe, thousands of times: no work at all
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				w.Header().Set("Allow", "GET, HEAD")
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return
		}
		var serve func(*answer, *http.Request)
		switch {
		case path == "/timer":
			serve = func(a *answer, r *http.Request) { s.timer(ctx, &run, a, r) }
		case path == "/webhook":
			serve = s.envelope
		// The host routes any case, with or without a slash at the end.
		case strings.EqualFold(strings.TrimSuffix(path, "/"), "/api/webhook"):
			serve = s.forwarded
		}
		a := &answer{header: http.Header{}}
		switch {
		case serve == nil:
			a.fail(http.StatusNotFound, "no such function")
		case r.Method != http.MethodPost:
			a.header.Set("Allow", http.MethodPost)
			a.fail(http.StatusMethodNotAllowed, "only POST is served here")
		default:
			// Where it can't be set, as in a test, there is no connection to hold.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
			s.safely(serve, a, r)
		}
		a.writeTo(w)
	})
}

// safely runs serve and turns a panic into an answer.
func (s *Server) safely(serve func(*answer, *http.Request), a *answer, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// Only the runtime's own texts are sure to hold no data.
		what := fmt.Sprintf("%T", p)
		if err, ok := p.(runtime.Error); ok {
			what = err.Error()
		}
		s.Logger.Error("function panicked", "invocationId", InvocationID(r), "panic", what, "stack", string(debug.Stack()))
		*a = answer{header: http.Header{}}
		a.fail(http.StatusInternalServerError, "internal error, see the log")
	}()
	serve(a, r)
}

func (s *Server) timer(ctx context.Context, run *turn, a *answer, r *http.Request) {
	inv := Invocation{ID: InvocationID(r)}
	data, err := decodeEnvelope(http.MaxBytesReader(a, r.Body, maxTimerBytes))
	if err != nil {
		s.reject(a, r, "timer", err)
		return
	}
	inv.PastDue = pastDue(data)

	now := time.Now()
	if until, free := run.take(now.Add(s.TickTimeout)); !free {
		if now.After(until) {
			s.Logger.Error("tick refused: the one before has outlived its deadline", "invocationId", inv.ID)
			a.fail(http.StatusServiceUnavailable, "the tick before this one has outlived its deadline and has not ended")
			return
		}
		s.Logger.Info("tick skipped: another one is running", "invocationId", inv.ID)
		a.result(nil, "another tick is running in this process: nothing to do")
		return
	}
	defer run.give()

	ctx, cancel := context.WithTimeoutCause(ctx, s.TickTimeout, errTickDeadline)
	defer cancel()
	summary, err := s.Tick(ctx, inv)
	if err != nil {
		a.fail(http.StatusInternalServerError, "tick failed: "+err.Error())
		return
	}
	a.result(nil, summary)
}

// envelope runs the webhook on the request that an envelope describes.
func (s *Server) envelope(a *answer, r *http.Request) {
	data, err := decodeEnvelope(http.MaxBytesReader(a, r.Body, maxEnvelopeBytes))
	if err != nil {
		s.reject(a, r, "webhook", err)
		return
	}
	inner, err := rebuild(data[webhookBinding], r)
	if err != nil {
		s.reject(a, r, "webhook", err)
		return
	}
	res := &answer{header: http.Header{}}
	inner.Body = http.MaxBytesReader(res, inner.Body, maxWebhookBytes)
	s.Webhook.ServeHTTP(res, inner)
	a.result(res, "")
}

// forwarded runs the webhook on the caller's own request.
func (s *Server) forwarded(a *answer, r *http.Request) {
	inner := r.Clone(r.Context())
	setInvocationID(inner.Header, InvocationID(r))
	inner.Body = http.MaxBytesReader(a, r.Body, maxWebhookBytes)
	s.Webhook.ServeHTTP(a, inner)
}

// reject answers an envelope that could not be read.
func (s *Server) reject(a *answer, r *http.Request, function string, err error) {
	status := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		status = http.StatusRequestEntityTooLarge
	}
	s.Logger.Warn("envelope refused", "function", function, "invocationId", InvocationID(r), "error", err)
	a.fail(status, err.Error())
}

// turn lets one tick run at a time.
type turn struct {
	mu    sync.Mutex
	taken bool
	until time.Time
}

// take reports whether the turn was free, and takes it; if it was not free it
// returns the deadline of whoever has it.
func (t *turn) take(until time.Time) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken {
		return t.until, false
	}
	t.taken, t.until = true, until
	return until, true
}

func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = false
}

// answer is an [http.ResponseWriter] that holds the answer back, so that a
// panic can still become a clean 500 and an envelope can be put around it.
type answer struct {
	header http.Header
	status int // 0 until WriteHeader
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// fail makes a the answer of a failed invocation: a status that is not 2xx and
// a short text.
func (a *answer) fail(status int, text string) {
	if len(text) > maxFailureBytes {
		text = text[:maxFailureBytes] + " ..."
	}
	a.header.Set("Content-Type", "text/plain; charset=utf-8")
	a.header.Set("X-Content-Type-Options", "nosniff")
	a.WriteHeader(status)
	_, _ = io.WriteString(a, strings.ToValidUTF8(text, "?")+"\n") // into memory
}

// result makes a the answer to an envelope: res is the webhook's answer, or
// nil for the timer, and line a text for the log of the invocation.
func (a *answer) result(res *answer, line string) {
	out := envelopeAnswer{Outputs: map[string]httpOutput{}, Logs: []string{}}
	if res != nil {
		out.Outputs[webhookOutput] = res.output()
	}
	if line != "" {
		out.Logs = append(out.Logs, line)
	}
	a.header.Set("Content-Type", "application/json; charset=utf-8")
	a.WriteHeader(http.StatusOK)
	// Strings, numbers and maps of strings always encode, and into memory.
	_ = json.NewEncoder(&a.body).Encode(out)
}

func (a *answer) writeTo(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(a.status, http.StatusOK))
	_, _ = w.Write(a.body.Bytes()) // the host has gone: nobody is left to tell
}
