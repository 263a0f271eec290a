package loss_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
)

// wire is a connection to a handler without a socket, so that it works inside a
// synctest bubble. Bodies are streamed in both directions; a handler that aborts
// or writes less than it promised breaks the connection.
type wire struct{ handler http.Handler }

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// RoundTrip implements [http.RoundTripper].
func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.handler == nil {
		return nil, errRefused
	}
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(ctx)
	in.RequestURI, in.RemoteAddr = req.URL.RequestURI(), "192.0.2.1:1"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	out := &answer{header: http.Header{}, body: pw, begun: make(chan struct{})}
	go func() { // ends with the handler, which ends when the body is closed
		defer cancel()
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // identity is what net/http compares
				out.end(errors.New("handler panicked"))
				return
			} else if p != nil {
				out.end(io.ErrUnexpectedEOF)
				return
			}
			out.end(nil)
		}()
		w.handler.ServeHTTP(out, in)
	}()
	select {
	case <-out.begun:
	case <-req.Context().Done():
		_ = pr.CloseWithError(req.Context().Err())
		cancel()
		return nil, req.Context().Err()
	}
	if out.failed != nil {
		cancel()
		return nil, out.failed
	}
	length := int64(-1)
	if n, err := strconv.ParseInt(out.header.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	return &http.Response{
		Status: strconv.Itoa(out.status), StatusCode: out.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: out.sent, Body: &body{PipeReader: pr, ctx: req.Context(), cancel: cancel}, ContentLength: length, Request: req,
	}, nil
}

// body is what the client reads.
type body struct {
	*io.PipeReader
	ctx    context.Context //nolint:containedctx // a body ends with its request
	cancel context.CancelFunc
	once   sync.Once
	stop   func() bool
}

// Read ends with the request's context, as a real connection does.
func (b *body) Read(p []byte) (int, error) {
	b.once.Do(func() {
		b.stop = context.AfterFunc(b.ctx, func() { _ = b.PipeReader.CloseWithError(b.ctx.Err()) })
	})
	return b.PipeReader.Read(p)
}

func (b *body) Close() error {
	if b.stop != nil {
		b.stop()
	}
	b.cancel()
	return b.PipeReader.Close()
}

// answer is the handler's side of a response.
type answer struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	begun        chan struct{}
	failed       error // the connection broke before there was an answer
	written      int64
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status, a.sent = status, http.Header{}
		for name, values := range a.header { // as a client reads them off a connection
			for _, v := range values {
				a.sent.Add(name, v)
			}
		}
		close(a.begun)
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	n, err := a.body.Write(b)
	a.written += int64(n)
	return n, err
}

// end is called once the handler has returned.
func (a *answer) end(err error) {
	if a.status == 0 && err != nil {
		a.failed = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		a.status = -1
		close(a.begun)
		_ = a.body.CloseWithError(err)
		return
	}
	a.WriteHeader(http.StatusOK)
	if want, bad := strconv.ParseInt(a.sent.Get("Content-Length"), 10, 64); err == nil && bad == nil && a.written < want {
		err = io.ErrUnexpectedEOF
	}
	_ = a.body.CloseWithError(err) // nil is io.EOF
}
