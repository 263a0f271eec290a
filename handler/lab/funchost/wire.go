package funchost

import (
	"bufio"
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
	"time"
)

const (
	// maxHeadBytes bounds a request head; Kestrel allows 8 KB of request line
	// and 32 KB of headers.
	maxHeadBytes = 40 << 10
	// maxBodyBytes bounds a caller's body and a handler's answer: the host's own
	// limit on bodies.
	maxBodyBytes = 104_857_600
	// envelopeChunk is the largest chunk in which the host sends an envelope
	// (measured on 4.1037).
	envelopeChunk = 1024
)

// field is one header line.
type field struct{ name, value string }

// fields are header lines in wire order, names as the sender spelled them.
// net/http keeps neither, and the host passes both on.
type fields []field

func (fs fields) index(name string) int {
	return slices.IndexFunc(fs, func(f field) bool { return strings.EqualFold(f.name, name) })
}

func (fs fields) get(name string) string {
	if i := fs.index(name); i >= 0 {
		return fs[i].value
	}
	return ""
}

// add joins value to that of the field called name, or adds one.
func (fs *fields) add(name, value, sep string) {
	if i := fs.index(name); i >= 0 {
		(*fs)[i].value += sep + value
	} else {
		*fs = append(*fs, field{name, value})
	}
}

// peekHead waits for a whole head and returns it without taking it from br. A
// head that fills br's buffer is an error.
func peekHead(br *bufio.Reader) ([]byte, error) {
	for {
		if _, err := br.Peek(br.Buffered() + 1); err != nil {
			return nil, err
		}
		head, _ := br.Peek(br.Buffered()) // cannot fail
		if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 {
			return bytes.Clone(head[:end+4]), nil
		}
	}
}

// headFields returns the header lines of head.
func headFields(head []byte) fields {
	var fs fields
	_, lines, _ := strings.Cut(string(head), "\r\n")
	for line := range strings.Lines(lines) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fs = append(fs, field{name, strings.TrimSpace(value)})
		}
	}
	return fs
}

// outgoing is a request as the handler receives it.
type outgoing struct {
	method, target string
	fields         fields
	body           []byte
	chunk          int // largest chunk; 0 sends the body plain, under the Content-Length in fields
}

func (o *outgoing) write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 64<<10) // keeps the first error for Flush
	fmt.Fprintf(bw, "%s %s HTTP/1.1\r\n", o.method, o.target)
	writeFields(bw, o.fields)
	bw.WriteString("\r\n")
	if o.chunk == 0 {
		bw.Write(o.body)
		return bw.Flush()
	}
	for chunk := range slices.Chunk(o.body, o.chunk) {
		fmt.Fprintf(bw, "%X\r\n%s\r\n", len(chunk), chunk)
	}
	bw.WriteString("0\r\n\r\n")
	return bw.Flush()
}

func writeFields(bw *bufio.Writer, fs fields) {
	for _, f := range fs {
		fmt.Fprintf(bw, "%s: %s\r\n", f.name, f.value)
	}
}

// call connects to the handler, on IPv4 loopback and nowhere else, sends o and
// returns the whole answer. After each of retries it tries to connect again.
func call(ctx context.Context, port int, o *outgoing, retries ...time.Duration) (*http.Response, []byte, error) {
	var d net.Dialer
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	conn, err := d.DialContext(ctx, "tcp4", address)
	for _, wait := range retries {
		if err == nil || !pause(ctx, wait) {
			break
		}
		conn, err = d.DialContext(ctx, "tcp4", address)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reach handler: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- o.write(conn) }() // the answer may come before the body is out
	var answer []byte
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: o.method})
	if err == nil {
		answer, err = io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxBodyBytes))
	}
	_ = conn.Close()
	werr := <-sent
	switch {
	case err == nil:
		return resp, answer, nil
	case ctx.Err() != nil:
		return nil, nil, fmt.Errorf("call handler: %w", context.Cause(ctx))
	}
	return nil, nil, fmt.Errorf("call handler: %w", errors.Join(err, werr))
}

// reply is what a caller gets.
type reply struct {
	status  int
	reason  string // "" for the standard phrase
	fields  fields
	body    []byte
	chunked bool // else under a Content-Length
}

func empty(status int) *reply { return &reply{status: status} }

// write sends r the way Kestrel does.
func (r *reply) write(w io.Writer, closing bool) error {
	bw := bufio.NewWriter(w)
	reason := r.reason
	if reason == "" {
		reason = http.StatusText(r.status)
	}
	fmt.Fprintf(bw, "HTTP/1.1 %d %s\r\n", r.status, reason)
	length := r.status != http.StatusNoContent && r.status != http.StatusNotModified
	if length && !r.chunked {
		fmt.Fprintf(bw, "Content-Length: %d\r\n", len(r.body))
	}
	writeFields(bw, r.fields)
	if r.fields.index("Date") < 0 {
		fmt.Fprintf(bw, "Date: %s\r\n", time.Now().UTC().Format(http.TimeFormat))
	}
	bw.WriteString("Server: Kestrel\r\n")
	if closing {
		bw.WriteString("Connection: close\r\n")
	}
	switch {
	case !length:
		bw.WriteString("\r\n")
	case r.chunked:
		fmt.Fprintf(bw, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(r.body), r.body)
	default:
		fmt.Fprintf(bw, "\r\n%s", r.body)
	}
	return bw.Flush()
}
