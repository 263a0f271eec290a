package host

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Names of the bindings in webhook/function.json.
const (
	webhookBinding = "req"
	webhookOutput  = "res"
)

// invocationHeader names the invocation on every request of the host.
const invocationHeader = "X-Azure-Functions-InvocationId"

// A GUID takes 36 characters.
const maxInvocationID = 64

// InvocationID returns the host's id for the invocation that r belongs to,
// made safe for a log; empty if there is none. It is a hint for correlation:
// when requests are forwarded a caller can put an id of its own before the
// host's, so only what follows the last comma counts.
func InvocationID(r *http.Request) string {
	values := r.Header.Values(invocationHeader)
	if len(values) == 0 {
		return ""
	}
	id := values[len(values)-1]
	id = strings.TrimSpace(id[strings.LastIndexByte(id, ',')+1:])
	id = strings.Map(func(c rune) rune {
		if c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			return c
		}
		return -1
	}, id)
	return id[:min(len(id), maxInvocationID)]
}

// setInvocationID puts the host's id where a caller's may stand.
func setInvocationID(header http.Header, id string) {
	header.Del(invocationHeader)
	if id != "" {
		header.Set(invocationHeader, id)
	}
}

// envelopeAnswer is the answer to an envelope. The host needs an object and
// takes an empty body or null for an answer that is still to come.
type envelopeAnswer struct {
	Outputs     map[string]httpOutput
	Logs        []string // strings only: anything else costs the whole answer
	ReturnValue *struct{}
}

// httpOutput is the answer of an http function inside an envelope. The host
// wants exactly one string for a header.
type httpOutput struct {
	StatusCode int               `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
}

// output returns a as an http output.
func (a *answer) output() httpOutput {
	out := httpOutput{StatusCode: max(a.status, http.StatusOK), Headers: map[string]string{}, Body: a.body.String()}
	for name, values := range a.header {
		if len(values) > 0 && name != "Content-Length" {
			out.Headers[name] = values[0]
		}
	}
	return out
}

// decodeEnvelope reads an envelope and returns the inputs of the function, by
// binding name. The other half, Metadata, is not looked at: a caller of the
// webhook can put members of its own there.
func decodeEnvelope(body io.Reader) (map[string]json.RawMessage, error) {
	raw, err := io.ReadAll(body) // bounded by the callers
	if err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	var envelope struct{ Data map[string]json.RawMessage }
	// The decoder's error may quote the input, so it is not passed on.
	if json.Unmarshal(raw, &envelope) != nil {
		return nil, errors.New("decode envelope: not a JSON object with an object Data")
	}
	return envelope.Data, nil
}

// unwrap returns v, or what is in it if it is JSON inside a JSON string, as
// older hosts write objects.
func unwrap(v json.RawMessage) json.RawMessage {
	var inner string
	if json.Unmarshal(v, &inner) == nil {
		return json.RawMessage(inner)
	}
	return v
}

// pastDue reports whether a timer's input says that it is late. Whatever can't
// be read says no: the hint is not worth a tick.
func pastDue(data map[string]json.RawMessage) bool {
	for _, input := range data {
		var timer struct{ IsPastDue any }
		if json.Unmarshal(unwrap(input), &timer) != nil {
			continue
		}
		if late, ok := timer.IsPastDue.(bool); ok && late {
			return true
		}
		if late, ok := timer.IsPastDue.(string); ok && strings.EqualFold(late, "true") {
			return true
		}
	}
	return false
}

// rebuild returns the request that the http input of an envelope describes, as
// part of the request r that brought it. What is absent gets a default: the
// webhook judges what came.
func rebuild(input json.RawMessage, r *http.Request) (*http.Request, error) {
	var in struct {
		URL     any `json:"Url"`
		Method  any
		Headers json.RawMessage
		Body    json.RawMessage
	}
	if json.Unmarshal(unwrap(input), &in) != nil {
		return nil, fmt.Errorf("decode envelope: Data.%s is not a request", webhookBinding)
	}
	target := &url.URL{Path: "/api/webhook"}
	address, _ := in.URL.(string)
	if u, err := url.Parse(address); err == nil && address != "" {
		target = u
	}
	method, ok := in.Method.(string)
	if !ok || method == "" {
		method = http.MethodPost
	}
	header := headers(in.Headers)
	body, err := bodyBytes(in.Body, header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	out := (&http.Request{
		Method: method, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Host:       header.Get("Host"),
		URL:        &url.URL{Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
		RequestURI: target.RequestURI(),
		RemoteAddr: r.RemoteAddr,
		Header:     header,
		Body:       io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(r.Context())
	// What describes the caller's connection does not describe this request,
	// and the invocation id comes from the host alone.
	for _, name := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding"} {
		header.Del(name)
	}
	setInvocationID(header, InvocationID(r))
	return out, nil
}

// headers reads name to list of strings, or name to string.
func headers(raw json.RawMessage) http.Header {
	header := http.Header{}
	var members map[string]json.RawMessage
	if json.Unmarshal(unwrap(raw), &members) != nil {
		return header
	}
	for name, v := range members {
		var one string
		var many []string
		if json.Unmarshal(v, &one) == nil {
			many = []string{one}
		} else if json.Unmarshal(v, &many) != nil {
			continue
		}
		for _, value := range many {
			header.Add(name, value)
		}
	}
	return header
}

// bodyBytes returns the caller's body. The host writes text as a string and
// these two types in base64; JSON that is no string is taken as it stands.
func bodyBytes(raw json.RawMessage, contentType string) ([]byte, error) {
	var text *string
	if len(raw) == 0 || json.Unmarshal(raw, &text) != nil {
		return raw, nil
	}
	if text == nil { // null
		return nil, nil
	}
	contentType = strings.ToLower(strings.TrimSpace(contentType))
	if strings.HasPrefix(contentType, "application/octet-stream") || strings.HasPrefix(contentType, "multipart/") {
		data, err := base64.StdEncoding.DecodeString(*text)
		if err != nil {
			return nil, errors.New("decode envelope: the body is not base64")
		}
		return data, nil
	}
	return []byte(*text), nil
}
