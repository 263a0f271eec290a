package cosmosfake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Places of the operation that fails in a batch, for Fault.Operation.
const (
	Last   = -1
	Middle = -2
)

// EmptyBody, as Fault.Drop, leaves nothing of the answer to a batch.
const EmptyBody = -1

// Fault is what goes wrong with one request. A fault with Status, Reset, Refuse
// or Hang keeps the request from being carried out, unless Commit is set; with
// the others it is carried out.
type Fault struct {
	Delay time.Duration // wait before anything else

	Commit     bool   // carry the request out, then fail: the answer is lost
	Status     int    // answer with that status and an error body
	SubStatus  int    // x-ms-substatus, with Status
	RetryAfter string // x-ms-retry-after-ms, with Status; empty: no such header
	Body       string // a proxy's page instead of that answer: none of the account's headers

	// Operation says which operation of a batch has Status; the answer is then
	// 207, all others are 424, and nothing is stored. It counts from 1; Last and
	// Middle are places too; 0: the request as a whole.
	Operation int
	Drop      int // a batch is carried out, and the answer lacks its last Drop results

	Reset  bool // the connection breaks before the answer
	Refuse bool // there is no connection at all
	Hang   bool // no answer until the request's context ends
	Cut    int  // the connection breaks after that many bytes of the answer's body; 0: it does not

	// Stale makes a read or query not see the container's last Stale writes, at
	// most 64.
	Stale int
}

// Always, as Rule.Times, is without end.
const Always = -1

// Rule says which calls a Fault befalls.
type Rule struct {
	Kinds     []Kind // any of them; none: all but Account, which must be named
	Container string // empty: any
	ID        string // of the document; empty: any
	Key       string // the partition key header; empty: any
	From      int    // the first call hit, counting from 1 those that match; 0: the first
	Times     int    // how many calls are hit; 0: one
	Fault     Fault
}

type rule struct {
	Rule
	seen int
}

// Inject adds rules. Of several that hit the same call the first counts.
func (f *Fake) Inject(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		f.rules = append(f.rules, &rule{Rule: r})
	}
}

// Recover takes all rules away.
func (f *Fake) Recover() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// hits counts the call for r and reports whether the fault befalls it.
func (r *rule) hits(c Call) bool {
	if len(r.Kinds) == 0 && c.Kind == Account || len(r.Kinds) > 0 && !slices.Contains(r.Kinds, c.Kind) ||
		r.Container != "" && r.Container != c.Container || r.ID != "" && r.ID != c.ID || r.Key != "" && r.Key != c.Key {
		return false
	}
	r.seen++
	n := r.seen - max(r.From, 1)
	return n >= 0 && (r.Times == Always || n < max(r.Times, 1))
}

// begin counts a call and returns what goes wrong with it.
func (f *Fake) begin(c Call) (Call, Fault) {
	f.mu.Lock()
	f.calls++
	c.N = f.calls
	f.counts[countKey{c.Kind, c.Container}]++
	fault := Fault{}
	hit := false
	for _, r := range f.rules {
		if r.hits(c) && !hit {
			fault, hit = r.Fault, true
		}
	}
	hook := f.switches.Hook
	fault.Delay += f.switches.Latency
	f.mu.Unlock()
	if hook != nil { // outside the lock: it may use the Fake
		if other := hook(c); other != nil {
			other := *other
			other.Delay += fault.Delay
			fault = other
		}
	}
	return c, fault
}

// The ways in which there is no answer.
var (
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
)

// serve answers one request, or returns why there is no answer.
func (f *Fake) serve(ctx context.Context, r *request) (*answer, error) {
	call, fault := f.begin(r.call())
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	f.mu.Lock()
	a := &answer{}
	if fault.Commit || fault.Status == 0 && !fault.Reset && !fault.Refuse && !fault.Hang {
		a = f.handle(r, fault.Stale)
	}
	charge := a.charge
	switch {
	case fault.Reset || fault.Refuse || fault.Hang:
		a = &answer{charge: charge}
	case fault.Status != 0:
		a = fault.answer(call)
		a.charge += charge
	case a.results != nil && fault.Drop != 0:
		a.drop(fault.Drop)
	}
	f.note(call, a)
	f.mu.Unlock()
	switch {
	case fault.Refuse:
		return nil, errRefused
	case fault.Hang:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case fault.Reset:
		return nil, errReset
	}
	a.cut = fault.Cut
	return a, nil
}

// answer is what a fault with Status answers.
func (fault *Fault) answer(c Call) *answer {
	if fault.Operation == 0 || c.Kind != Batch {
		a := refuse(fault.Status, fault.SubStatus, "a fault was asked for")
		a.retryAfter = fault.RetryAfter
		if fault.Body != "" {
			a.body, a.contentType = []byte(fault.Body), "text/html"
		}
		return a
	}
	at := fault.Operation - 1
	switch fault.Operation {
	case Last:
		at = c.Operations - 1
	case Middle:
		at = c.Operations / 2
	}
	results := make([]result, c.Operations)
	for i := range results {
		results[i] = result{Status: http.StatusFailedDependency}
		if i == at {
			hint, _ := strconv.Atoi(fault.RetryAfter) // none: no hint
			results[i] = result{Status: fault.Status, SubStatus: fault.SubStatus, Charge: refusalCharge, RetryAfter: hint}
		}
	}
	return batchAnswer(http.StatusMultiStatus, results)
}

// RoundTrip implements [http.RoundTripper]. The host of the URL does not matter;
// the account document names it as the endpoint of all later requests.
func (f *Fake) RoundTrip(req *http.Request) (*http.Response, error) {
	r := newRequest(req, req.URL.Scheme, req.URL.Host)
	r.canned = f.canned(r)
	body := io.NopCloser(strings.NewReader(""))
	if req.Body != nil {
		body = req.Body
	}
	defer body.Close()
	if err := r.read(body, req.ContentLength); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	a, err := f.serve(req.Context(), r)
	if err != nil {
		return nil, err
	}
	var out io.Reader = bytes.NewReader(a.body)
	if a.cut > 0 && a.cut < len(a.body) {
		out = io.MultiReader(bytes.NewReader(a.body[:a.cut]), broken{})
	}
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)),
		StatusCode: a.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        f.header(r, a),
		Body:          io.NopCloser(out),
		ContentLength: int64(len(a.body)),
		Request:       req,
	}, nil
}

// broken is the rest of a body whose connection is gone.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// ServeHTTP implements [http.Handler]. A connection that must break is ended by
// the server, as [http.ErrAbortHandler] asks it to.
func (f *Fake) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	r := newRequest(req, scheme, req.Host)
	r.canned = f.canned(r)
	if err := r.read(req.Body, req.ContentLength); err != nil {
		panic(http.ErrAbortHandler)
	}
	a, err := f.serve(req.Context(), r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range f.header(r, a) {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	body, cut := a.body, a.cut > 0 && a.cut < len(a.body)
	if cut {
		body = body[:a.cut]
	}
	_, err = w.Write(body)
	if cut {
		err = errors.Join(err, http.NewResponseController(w).Flush())
	}
	if err != nil || cut {
		panic(http.ErrAbortHandler)
	}
}
