package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// answer writes one response, notes what it was, and cuts or slows it where a
// rule says so.
type answer struct {
	http.ResponseWriter
	seen         *Request
	ctx          context.Context
	rule         *Injected // that cuts or slows the body; nil: none
	singleQuotes bool
	written      int64
}

func (a *answer) WriteHeader(status int) {
	a.seen.Status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.NewResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) Write(p []byte) (int, error) {
	if a.seen.Status == 0 {
		a.seen.Status = http.StatusOK
	}
	if a.rule == nil {
		return a.ResponseWriter.Write(p)
	}
	rule, total := a.rule.rule, len(p)
	cut := false
	if rest := rule.CutAt - a.written; rule.CutAt > 0 && int64(len(p)) > rest {
		p, cut = p[:max(rest, 0)], true
	}
	for len(p) > 0 {
		chunk := p
		if rule.Drip > 0 && len(chunk) > rule.Drip {
			chunk = chunk[:rule.Drip]
		}
		n, err := a.ResponseWriter.Write(chunk)
		a.written += int64(n)
		if err != nil {
			return n, err
		}
		p = p[n:]
		if rule.Drip > 0 {
			_ = http.NewResponseController(a.ResponseWriter).Flush()
			if !pause(a.ctx, rule.Pause) {
				panic(http.ErrAbortHandler)
			}
		}
	}
	if !cut || rule.Cut == CutClean {
		return total, nil
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush()
	if rule.Cut == CutStall {
		<-a.ctx.Done()
	}
	panic(http.ErrAbortHandler) // the way net/http drops a connection
}

// json answers with v.
func (a *answer) json(status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		http.Error(a, err.Error(), http.StatusInternalServerError)
		return
	}
	text := bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	if a.singleQuotes {
		text = bytes.ReplaceAll(text, []byte(`"`), []byte(`'`))
	}
	a.Header().Set("Content-Type", "application/json; charset=utf-8")
	a.WriteHeader(status)
	_, _ = a.Write(text)
}

// fail answers in the service's error shape.
func (a *answer) fail(f *fail) {
	a.seen.Code = f.code
	a.json(f.status, map[string]any{"error": struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{f.code, f.message}})
}

// pause waits for d of real time. It reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A Cut is what happens where a body is cut.
type Cut int

// The cuts.
const (
	CutDrop  Cut = iota // the connection, or the stream of HTTP/2, is dropped
	CutClean            // the answer ends in good order, too early
	CutStall            // nothing more comes until the client goes away
)

// A Rule is one fault: which requests it meets and what becomes of them. The
// first rule that meets a request applies; a rule that answers keeps the
// request from everything else, quota included.
type Rule struct {
	// Which requests: all conditions must hold.

	Op    Op      // OpUnknown: any
	Path  string  // part of the escaped path and query; "": any
	Skip  int     // so many matching requests pass first
	Every int     // then only each so-manieth; 0: each
	Rate  float64 // share of them, at random; 0: all
	Times int     // so many in all; 0: no end

	// What becomes of them. Delay comes before the rest.

	Delay   time.Duration // real time before anything else
	Hang    bool          // no answer until the client goes away
	Reset   bool          // the connection is dropped without an answer
	Status  int           // answered with this status and Code and Message, or Body; 0: as always
	Code    string        // code of the error envelope; "": Body is sent in place of it
	Message string        // message of the error envelope
	Body    string        // body verbatim
	Header  http.Header   // added to the answer; Location makes a redirect of it
	CutAt   int64         // the body is cut after so many bytes; 0: never
	Cut     Cut           // how it is cut
	Drip    int           // so many bytes of the body at a time
	Pause   time.Duration // real time after each
}

// Injected is a rule at work.
type Injected struct {
	tenant *Tenant
	rule   Rule
	seen   int // matching requests
	hits   int
}

// Inject puts a rule to work after those already there.
func (t *Tenant) Inject(rule Rule) *Injected {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := &Injected{tenant: t, rule: rule}
	t.rules = append(t.rules, in)
	return in
}

// Hits is how many requests the rule has met.
func (in *Injected) Hits() int {
	in.tenant.mu.Lock()
	defer in.tenant.mu.Unlock()
	return in.hits
}

// Remove ends the rule.
func (in *Injected) Remove() {
	in.tenant.mu.Lock()
	defer in.tenant.mu.Unlock()
	for i, other := range in.tenant.rules {
		if other == in {
			in.tenant.rules = append(in.tenant.rules[:i:i], in.tenant.rules[i+1:]...)
			return
		}
	}
}

// match finds the rule that meets a request.
func (t *Tenant) match(r *Request) *Injected {
	for _, in := range t.rules {
		rule := &in.rule
		if rule.Op != OpUnknown && rule.Op != r.Op || rule.Path != "" && !strings.Contains(r.Path+"?"+r.RawQuery, rule.Path) {
			continue
		}
		if in.seen++; in.seen <= rule.Skip || rule.Every > 1 && (in.seen-rule.Skip)%rule.Every != 0 {
			continue
		}
		if rule.Rate > 0 && !t.chance(rule.Rate) || rule.Times > 0 && in.hits >= rule.Times {
			continue
		}
		in.hits++
		return in
	}
	return nil
}

// disturb applies a rule. It reports whether the request has been dealt with.
func (t *Tenant) disturb(a *answer, r *http.Request, in *Injected) bool {
	rule := &in.rule
	if !pause(r.Context(), rule.Delay) {
		panic(http.ErrAbortHandler)
	}
	if rule.Hang {
		<-r.Context().Done()
	}
	if rule.Hang || rule.Reset {
		panic(http.ErrAbortHandler)
	}
	for name, values := range rule.Header {
		a.Header()[http.CanonicalHeaderKey(name)] = values
	}
	a.rule = in
	switch {
	case rule.Status == 0:
		return false
	case rule.Code != "":
		a.fail(&fail{rule.Status, rule.Code, rule.Message})
	default:
		if a.Header().Get("Content-Type") == "" {
			a.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
		a.WriteHeader(rule.Status)
		_, _ = a.Write([]byte(rule.Body))
	}
	return true
}
