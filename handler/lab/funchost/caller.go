package funchost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// incoming is one request of a caller.
type incoming struct {
	method, target, path, query string
	fields                      fields
	chunked                     bool
	body                        []byte
	close                       bool // the caller wants no more on this connection
	conn                        net.Conn
	br                          *bufio.Reader // what comes after it
}

// serve answers the requests of one connection, one after the other. It reads
// the head itself because net/http keeps neither the order nor the spelling of
// header names, and the host passes both on.
func (h *Host) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	br := bufio.NewReaderSize(conn, maxHeadBytes)
	for {
		c, refusal, err := read(br, conn)
		if err != nil {
			return // gone
		}
		r := refusal
		if r == nil {
			r = h.answer(ctx, c)
		}
		closing := refusal != nil || c.close // a refused body may be unread
		if err := r.write(conn, closing); err != nil || closing {
			return
		}
	}
}

// read takes one request from br. A refusal is the reply to one that cannot be
// taken; the error says that none came.
func read(br *bufio.Reader, conn net.Conn) (c *incoming, refusal *reply, err error) {
	head, err := peekHead(br)
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, empty(http.StatusRequestHeaderFieldsTooLarge), nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, empty(http.StatusBadRequest), nil
	}
	c = &incoming{
		method: r.Method, target: r.RequestURI, path: r.URL.Path, query: r.URL.RawQuery,
		fields: headFields(head), chunked: r.ContentLength < 0, close: r.Close, conn: conn, br: br,
	}
	if r.ContentLength > maxBodyBytes {
		return nil, empty(http.StatusInternalServerError), nil // not 413, as measured
	}
	if c.body, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBodyBytes)); err != nil {
		return nil, empty(http.StatusInternalServerError), nil
	}
	return c, nil, nil
}

// answer finds who answers c.
func (h *Host) answer(ctx context.Context, c *incoming) *reply {
	if h.Err() != nil {
		return &reply{
			status: http.StatusServiceUnavailable, fields: fields{{"Content-Type", "text/plain; charset=utf-8"}},
			body: []byte("Function host is not running."),
		}
	}
	if name, ok := strings.CutPrefix(strings.ToLower(c.path), "/admin/functions/"); ok && c.method == http.MethodPost {
		return h.admin(ctx, c, name)
	}
	fn := h.app.match(c.method, c.path)
	if fn == nil {
		return empty(http.StatusNotFound)
	}
	var r *reply
	err := h.invoke(ctx, httpCall, fn, func(ctx context.Context, id string) (err error) {
		switch {
		case h.app.host.CustomHandler.EnableProxying && !h.cfg.OldHost:
			r, err = proxy(ctx, h.worker, c, id)
		case h.app.host.CustomHandler.EnableForwarding:
			r, err = forward(ctx, h.worker, c, id)
		default:
			r, err = h.enveloped(ctx, fn, c, id)
		}
		return err
	})
	if err != nil && (r == nil || r.status != http.StatusBadGateway) {
		return empty(http.StatusInternalServerError)
	}
	return r
}

// admin starts the timer function called name in the background. Everyone is
// admin here, as under func start.
func (h *Host) admin(ctx context.Context, c *incoming, name string) *reply {
	fn := h.app.function(name)
	if fn == nil {
		return empty(http.StatusNotFound)
	}
	var body struct{ Input string }
	if json.Unmarshal(c.body, &body) != nil {
		return empty(http.StatusBadRequest)
	}
	if media, _, err := mime.ParseMediaType(c.fields.get("Content-Type")); err != nil || media != "application/json" {
		return empty(http.StatusUnsupportedMediaType)
	}
	if fn.isTimer() {
		h.tasks.Go(func() { h.fire(ctx, fn, body.Input) })
	}
	return empty(http.StatusAccepted)
}

// enveloped calls the handler with an envelope and binds what it answers.
func (h *Host) enveloped(ctx context.Context, fn *function, c *incoming, id string) (*reply, error) {
	a, _, err := h.post(ctx, fn, id, httpEnvelope(fn, c, time.Now()))
	if err != nil {
		return nil, err
	}
	return a.httpReply(fn.out)
}

// post sends an envelope and returns the handler's answer and status. An empty
// answer keeps it waiting for the end of ctx.
func (h *Host) post(ctx context.Context, fn *function, id string, text []byte) (*answer, int, error) {
	resp, body, err := call(ctx, h.worker.port, &outgoing{method: http.MethodPost, target: "/" + fn.name, body: text, chunk: envelopeChunk, fields: fields{
		{"Host", h.worker.address()},
		{"X-Azure-Functions-HostVersion", hostVersion},
		{"X-Azure-Functions-InvocationId", id},
		{"User-Agent", agent},
		{"Transfer-Encoding", "chunked"},
		{"Content-Type", "application/json; charset=utf-8"},
	}})
	if err != nil {
		return nil, 0, err
	}
	a, err := parseAnswer(resp, body)
	if errors.Is(err, errPending) {
		h.log.Warn("empty answer: the invocation stays pending", "function", fn.name, "invocationId", id)
		<-ctx.Done()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, resp.StatusCode, err
	}
	for _, line := range a.Logs {
		h.emit(Line{Stream: "logs", Level: slog.LevelInfo, Text: line, InvocationID: id})
	}
	return a, resp.StatusCode, nil
}

// hostFields are the header lines that go with every request.
func hostFields(id string) fields {
	return fields{{"X-Azure-Functions-HostVersion", hostVersion}, {"X-Azure-Functions-InvocationId", id}}
}

// forward passes the caller's request on as enableForwardingHttpRequest does.
func forward(ctx context.Context, w *worker, c *incoming, id string) (*reply, error) {
	if c.chunked {
		return nil, errors.New("forwarding cannot take a chunked body")
	}
	path, _, _ := strings.Cut(c.target, "?") // as typed; the query is encoded anew
	query, _ := queryPairs(c.query)
	sep := "?"
	for _, f := range query {
		path += sep + escape(f.name) + "=" + escape(f.value)
		sep = "&"
	}
	o := &outgoing{method: c.method, target: path, body: c.body}
	for _, f := range kestrel(slices.Concat(c.fields, hostFields(id)), ", ") {
		if !strings.EqualFold(f.name, "Content-Length") && !strings.EqualFold(f.name, "Content-Type") {
			o.fields = append(o.fields, f)
		}
	}
	o.fields.add("User-Agent", agent, " ")
	for _, name := range []string{"Content-Length", "Content-Type"} { // .NET keeps them with the body
		if value := c.fields.get(name); value != "" {
			o.fields = append(o.fields, field{name, value})
		}
	}
	return passOn(call(ctx, w.port, o))
}

// urlEncoder makes of Go's encoding what .NET's UrlEncoder writes.
var urlEncoder = strings.NewReplacer(
	"+", "%20", "%21", "!", "%24", "$", "%28", "(", "%29", ")", "%2A", "*", "%2C", ",", "%3B", ";", "%40", "@")

func escape(s string) string { return urlEncoder.Replace(url.QueryEscape(s)) }

// passOn makes a reply of what call returns.
func passOn(resp *http.Response, body []byte, err error) (*reply, error) {
	if err != nil {
		return nil, err
	}
	_, reason, _ := strings.Cut(resp.Status, " ")
	r := &reply{status: resp.StatusCode, reason: reason, body: body}
	for name, values := range resp.Header {
		for _, value := range values {
			if lower := strings.ToLower(name); lower != "content-length" && !slices.Contains(hopByHop, lower) {
				r.fields = append(r.fields, field{name, value})
			}
		}
	}
	slices.SortStableFunc(r.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return r, nil
}

// hopByHop are the headers that a proxy does not pass on.
var hopByHop = []string{"connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

// proxyPauses are the waits between attempts to connect (source of the newer
// host).
var proxyPauses = append([]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond},
	slices.Repeat([]time.Duration{250 * time.Millisecond}, 6)...)

// proxy passes the request on as enableProxyingHttpRequest does. The caller's
// leaving ends it. With an error comes the reply 502.
func proxy(ctx context.Context, w *worker, c *incoming, id string) (*reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if _, err := c.br.Peek(1); err != nil {
			cancel(fmt.Errorf("caller left: %w", err))
		}
	}()
	defer func() {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // ends Peek
		<-left
		_ = c.conn.SetReadDeadline(time.Time{})
	}()

	o := &outgoing{method: c.method, target: c.target, body: c.body}
	own := hostFields(id)
	for _, f := range kestrel(c.fields, ", ") {
		if !slices.Contains(hopByHop, strings.ToLower(f.name)) && own.index(f.name) < 0 {
			o.fields = append(o.fields, f)
		}
	}
	o.fields = append(o.fields, own...)
	if o.fields.index("x-ms-invocation-id") < 0 { // the newer host's correlation header
		o.fields = append(o.fields, field{"x-ms-invocation-id", id})
	}
	if c.chunked {
		o.chunk = 32 << 10
		o.fields = append(o.fields, field{"Transfer-Encoding", "chunked"})
	}
	r, err := passOn(call(ctx, w.port, o, proxyPauses...))
	if err != nil {
		r = empty(http.StatusBadGateway)
	}
	return r, err
}
