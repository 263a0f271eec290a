package activity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	// bodyIdle is how long a body may give no byte. A body that flows may
	// take as long as it needs.
	bodyIdle = time.Minute
	// headerTimeout is how long the service may think before it answers. A
	// start takes longest: the service calls the webhook meanwhile.
	headerTimeout = time.Minute
	// maxRetries bounds the retries inside one call. What still fails then
	// waits for the next tick.
	maxRetries = 3
	// backoffFirst and backoffMax bound the waits between them, before jitter.
	backoffFirst = 2 * time.Second
	backoffMax   = time.Minute
	// maxParallel is how many connections stay open between requests.
	maxParallel = 128
	// streamBuffer and connectionBuffer bound what bodies that nobody reads yet
	// take of memory over HTTP/2, one alone and all of a connection. The transport
	// itself would allow 4 MB for each body and 1 GB for all.
	streamBuffer     = 1 << 20
	connectionBuffer = 8 << 20
	// clockStep is the least difference from the service's clock that counts:
	// the header Date has a resolution of one second, and answers travel.
	clockStep = 2 * time.Second
	// clockLeap is more than clocks drift: one answer alone does not move ours so
	// far.
	clockLeap = 15 * time.Minute
)

// defaultTransport is what a Client uses unless its Config names another.
func defaultTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConns:           maxParallel,
		MaxIdleConnsPerHost:    maxParallel,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		// A connection that died without a word carries many requests at once.
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second,
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connectionBuffer,
		},
	}
}

// wire sends every single request, retries included: it waits for the quota,
// watches over the body and learns the service's clock. It hides the
// transport's CloseIdleConnections, with which go-retryablehttp would empty
// the pool at each failure.
type wire struct {
	next     http.RoundTripper
	limiter  *limiter
	clock    clock
	requests atomic.Uint64
}

// RoundTrip implements [http.RoundTripper].
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := w.limiter.wait(req.Context()); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	w.requests.Add(1)
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	w.clock.learn(resp)
	resp.Body = &watchedBody{ReadCloser: resp.Body, cancel: cancel, ended: func() error { return context.Cause(ctx) }}
	return resp, nil
}

// errIdle ends a body that has stopped flowing.
var errIdle = fmt.Errorf("no byte for %v", bodyIdle)

// watchedBody is a body that ends its request when it gives no byte for
// bodyIdle. Only the time inside Read counts, not that between two.
type watchedBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc // ends the request
	ended  func() error            // why it has ended, nil if it has not
}

// Read implements [io.Reader].
func (b *watchedBody) Read(p []byte) (int, error) {
	watchdog := time.AfterFunc(bodyIdle, func() { b.cancel(errIdle) })
	n, err := b.ReadCloser.Read(p)
	watchdog.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := b.ended(); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements [io.Closer] and frees what the request holds.
func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// request is one call as an operation wants it. Retries and renewal of the
// token are not its concern.
type request struct {
	op      string
	method  string
	url     string // trusted, with the PublisherIdentifier
	body    []byte
	content bool // about one content
	retries int
	secrets []string // what must not appear in an error, besides the token
	private bool     // its answers hold AuthIDs: nothing of them enters an error
}

// call sends r and returns an answer with status 200, whose body the caller
// closes. Every other answer becomes a Fault. A refused token is renewed once.
func (c *Client) call(ctx context.Context, r request) (*http.Response, error) {
	got, err := c.tokens.get(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.try(ctx, r, got.secret)
	if tokenRefused(err) {
		c.tokens.refuse(got, 0)
		if got, err = c.tokens.get(ctx); err != nil {
			return nil, err
		}
		resp, err = c.try(ctx, r, got.secret)
	}
	if f, ok := errors.AsType[*Fault](err); ok && f.Kind == Denied && (tokenRefused(err) || f.Code == codeNoPermission) {
		c.tokens.refuse(got, roleDelay)
		if claims, err := readClaims(got.secret); err == nil {
			f.Remedy += "; " + claims.String()
		}
	}
	return resp, err
}

// tokenRefused reports the answer to a token that the service does not take at
// all: a 401 without a code of its own.
func tokenRefused(err error) bool {
	f, ok := errors.AsType[*Fault](err)
	return ok && f.Status == http.StatusUnauthorized && f.Code == "" && f.Kind == Denied
}

// try sends r with one token, and again after passing failures.
func (c *Client) try(ctx context.Context, r request, secret string) (*http.Response, error) {
	var body any // a nil []byte in an interface would be a body of length 0
	if r.body != nil {
		body = r.body
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, &Fault{Op: r.op, Kind: BadRequest, Err: errors.New("the request's URL is malformed")}
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	req.Header.Set("Accept", "application/json")
	if r.method == http.MethodPost {
		// Any other type, the empty one too, makes the service ignore the body without a word.
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	t := &trial{request: r, limiter: c.wire.limiter, now: c.Now, log: c.log, secrets: append([]string{secret}, r.secrets...)}
	sender := &retryablehttp.Client{
		HTTPClient:   c.http,
		RetryMax:     r.retries,
		CheckRetry:   t.check,
		Backoff:      func(time.Duration, time.Duration, int, *http.Response) time.Duration { return t.wait },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	resp, err := sender.Do(req)
	if t.fault == nil && err == nil {
		return resp, nil
	}
	if resp != nil {
		_ = resp.Body.Close()
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, r.op)
	}
	if t.fault == nil { // go-retryablehttp's own, which none of our requests raises
		return nil, &Fault{Op: r.op, Kind: Transient, Err: err}
	}
	return nil, t.fault
}

// trial is one use of go-retryablehttp: it judges each answer where it is
// seen, once, and keeps the last failure.
type trial struct {
	request
	limiter *limiter
	now     func() time.Time
	log     *slog.Logger
	secrets []string

	tries int
	wait  time.Duration // before the next try
	fault *Fault        // of the last try, nil if it went well
}

// check is the CheckRetry of go-retryablehttp.
func (t *trial) check(ctx context.Context, resp *http.Response, err error) (again bool, _ error) {
	t.tries++
	t.fault = nil
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		t.fault = t.transportFault(err)
		if again, _ = retryablehttp.ErrorPropagatedRetryPolicy(ctx, resp, err); !again || t.fault.Kind != Transient {
			return false, nil
		}
	case resp.StatusCode == http.StatusOK:
		return false, nil
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // a cut body is as good as none
		_ = resp.Body.Close()
		t.fault = newFault(t.request, resp, body, t.now(), t.secrets...)
		resp.Body = http.NoBody
	}
	if t.fault.Kind == Throttled {
		t.limiter.slow(t.fault.RetryAfter)
	}
	if t.fault.Kind != Transient && t.fault.Kind != Throttled || t.tries > t.retries {
		return false, nil
	}
	t.wait = max(t.fault.RetryAfter, backoff(t.tries))
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= t.wait {
		return false, nil
	}
	t.log.Debug("request failed, trying again", "op", t.op, "attempt", t.tries, "kind", t.fault.Kind.String(),
		"status", t.fault.Status, "code", t.fault.Code, "correlationId", t.fault.CorrelationID, "wait", t.wait)
	return true, nil
}

// transportFault is a request without an answer.
func (t *trial) transportFault(err error) *Fault {
	if f, ok := errors.AsType[*Fault](err); ok { // from the limiter
		return &Fault{Op: t.op, Kind: f.Kind, RetryAfter: f.RetryAfter, Err: f}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the URL, which says nothing new
	}
	f := &Fault{Op: t.op, Kind: Transient, Err: &cleaned{clean(err.Error(), t.secrets...), err}}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		f.Remedy = remedyTrust
	}
	return f
}

// backoff is the wait after the given number of tries: doubling, capped, and
// half of it random so that callers that failed together part.
func backoff(tries int) time.Duration {
	d := min(backoffFirst<<(tries-1), backoffMax)
	return d/2 + rand.N(d/2+1)
}

// clock is the difference between the service's clock and ours. Windows,
// expiry and the 15 minutes between starts are judged by the service's.
type clock struct {
	offset atomic.Int64 // nanoseconds to add to ours
	known  atomic.Bool  // an answer has told it

	mu    sync.Mutex
	doubt time.Duration // a leap that one answer has told, 0: none
}

// learn takes the time from an answer. Answers of a cache (Age) and of a
// gateway in trouble (5xx) tell another clock's time.
func (c *clock) learn(resp *http.Response) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || resp.StatusCode >= 500 || resp.Header.Get("Age") != "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	offset := time.Until(date.Add(time.Second / 2)) // Date is cut to the second
	known := time.Duration(c.offset.Load())
	near := func(to time.Duration) bool { return (offset - to).Abs() < clockStep }
	if near(known) { // hold still, so that Now does not step back
		c.known.Store(true)
		c.doubt = 0
		return
	}
	if c.known.Load() && (offset-known).Abs() > clockLeap && (c.doubt == 0 || !near(c.doubt)) {
		c.doubt = offset // a second answer must say the same
		return
	}
	if offset.Abs() < clockStep {
		offset = 0
	}
	c.offset.Store(int64(offset))
	c.known.Store(true)
	c.doubt = 0
}

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }
