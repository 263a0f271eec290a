package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"activityarchive/handler/lab/ca"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
)

// Names of the database and its containers: the product's defaults.
const (
	database    = "Audit"
	archiveName = "Audits"
	ledgerName  = "ArchiveState"
)

// world is the tenant and the account, each behind a TLS listener.
type world struct {
	dir       string
	authority *ca.Authority
	tenant    *tenant.Tenant
	fake      *cosmosfake.Fake
	source    *source
	origin    string // of the tenant
	cosmos    string // the account's endpoint
	client    *http.Client

	servers []*http.Server
	tasks   sync.WaitGroup

	front   string                  // origin that passes everything on to the handler
	handler atomic.Pointer[url.URL] // where that is

	// watch, if not nil, gets each request to the account and how long it was
	// served.
	watch atomic.Pointer[func(body []byte, took time.Duration)]

	fetches atomic.Int64 // content requests since forget
	first   atomic.Int64 // when the first of them came, Unix nanoseconds; 0: none has
}

// raise starts a world. The caller closes it.
func raise(ctx context.Context, knobs tenant.Knobs, roundTrip time.Duration, account cosmosfake.Switches) (_ *world, err error) {
	w := &world{source: newSource(time.Now())}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "activity-archive-bench"); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if w.authority, err = ca.New(w.dir); err != nil {
		return nil, err
	}
	w.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: w.authority.ClientTLS(), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 128, IdleConnTimeout: time.Minute,
	}}
	if w.fake, err = cosmosfake.New(cosmosfake.Options{}); err != nil {
		return nil, err
	}
	w.fake.Set(func(s *cosmosfake.Switches) { *s = account })
	if w.cosmos, err = w.serve(ctx, http.HandlerFunc(w.account)); err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(w.handler.Load()) }}
	if w.front, err = w.serve(ctx, proxy); err != nil {
		return nil, err
	}
	w.tenant = tenant.New(tenant.Config{Client: w.client, Knobs: knobs})
	inner := w.tenant.Handler()
	w.origin, err = w.serve(ctx, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/feed/audit/") {
			w.fetches.Add(1)
			w.first.CompareAndSwap(0, time.Now().UnixNano())
		}
		inner.ServeHTTP(rw, r)
	}))
	if err != nil {
		return nil, err
	}
	w.tenant.SetOrigin(w.origin)
	if roundTrip > 0 {
		w.tenant.Inject(tenant.Rule{Delay: roundTrip})
	}
	return w, nil
}

// account serves the account, watched if someone watches.
func (w *world) account(rw http.ResponseWriter, r *http.Request) {
	watch := w.watch.Load()
	if watch == nil {
		w.fake.ServeHTTP(rw, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	began := time.Now()
	w.fake.ServeHTTP(rw, r)
	(*watch)(body, time.Since(began))
}

// serve serves h on loopback over TLS until close, and returns the origin.
func (w *world) serve(ctx context.Context, h http.Handler) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: h, TLSConfig: w.authority.ServerTLS(), ReadHeaderTimeout: 10 * time.Second}
	w.servers = append(w.servers, server)
	w.tasks.Go(func() { _ = server.ServeTLS(ln, "", "") }) // ends with close
	return "https://" + ln.Addr().String(), nil
}

// forget starts the count of content requests anew.
func (w *world) forget() {
	w.fetches.Store(0)
	w.first.Store(0)
}

// since is how long ago the first content request came; 0: none has.
func (w *world) since() time.Duration {
	if first := w.first.Load(); first > 0 {
		return time.Since(time.Unix(0, first))
	}
	return 0
}

func (w *world) close() error {
	var errs []error
	for _, s := range w.servers {
		errs = append(errs, s.Close())
	}
	w.tasks.Wait()
	if w.client != nil {
		w.client.CloseIdleConnections()
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// use is what was asked of the account.
type use struct {
	requests  int
	throttled int // answered 429
	failed    int // answered 4xx or 5xx, but for 404, 409, 412, 429
	writes    int // operations on the archive
	charge    float64
}

// used sums up the account's log after request number from. The log holds the
// last 20,000 requests; an error says that they do not reach back so far.
func (w *world) used(from int) (use, error) {
	log := w.fake.Log()
	if len(log) > 0 && log[0].N > from+1 && len(log) >= 15_000 {
		return use{}, errors.New("the account's log does not reach back to the beginning of the run")
	}
	var u use
	for _, e := range log {
		if e.N <= from {
			continue
		}
		u.requests++
		u.charge += e.Charge
		switch {
		case e.Status == http.StatusTooManyRequests:
			u.throttled++
		case e.Status >= 400 && e.Status != 404 && e.Status != 409 && e.Status != 412:
			u.failed++
		case e.Container == archiveName && e.Kind == cosmosfake.Batch:
			u.writes += e.Operations
		case e.Container == archiveName && e.Kind == cosmosfake.Create:
			u.writes++
		}
	}
	return u, nil
}

// calls is the number of the account's last request.
func (w *world) calls() int {
	last := 0
	for _, e := range w.fake.Log() {
		last = max(last, e.N)
	}
	return last
}
