package funchost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hostVersion is the version of the host that was recorded.
const hostVersion = "4.1037.0.0"

// agent is the host's User-Agent token.
const agent = "Azure-Functions-Host/" + hostVersion

// member and object are a JSON object in order.
type member struct {
	name  string
	value any
}
type object []member

// set adds a member unless one of that name, in any letter case, is there.
func (o *object) set(name string, value any) bool {
	if slices.ContainsFunc(*o, func(m member) bool { return strings.EqualFold(m.name, name) }) {
		return false
	}
	*o = append(*o, member{name, value})
	return true
}

// MarshalJSON implements [json.Marshaler].
func (o object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		out = slices.Concat(out, marshal(m.name), []byte{':'}, marshal(m.value))
	}
	return append(out, '}'), nil
}

// marshal returns v compact and without HTML escapes, as Newtonsoft.Json
// writes it.
func marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // text, bools, nulls and lists always encode
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// twice is the host's form of text in Metadata: its JSON inside a string.
func twice(text string) string { return string(marshal(text)) }

// envelope is {"Data":{name:value},"Metadata":...}, with sys added at the end.
func envelope(fn *function, value any, metadata object, now time.Time) []byte {
	sys := object{
		{"MethodName", fn.name},
		{"UtcNow", now.UTC().Format("2006-01-02T15:04:05.9999999Z")},
		{"RandGuid", guid()},
	}
	if !metadata.set("sys", sys) {
		metadata.set("$sys", sys) // a caller's JSON body may hold a sys of its own
	}
	return marshal(object{{"Data", object{{fn.binding, value}}}, {"Metadata", metadata}})
}

// timerEnvelope is what a timer function gets. input is nil unless the run was
// fired through the admin endpoint.
func timerEnvelope(fn *function, status timerStatus, pastDue bool, input *string, now time.Time) []byte {
	var shown any // null without a monitor
	if fn.monitor {
		date := func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.9999999-07:00") }
		shown = object{{"Last", date(status.Last)}, {"Next", date(status.Next)}, {"LastUpdated", date(status.LastUpdated)}}
	}
	var metadata object
	if input != nil {
		metadata.set(fn.binding, twice(*input))
	}
	return envelope(fn, object{
		{"Schedule", object{{"AdjustForDST", true}}},
		{"ScheduleStatus", shown},
		{"IsPastDue", pastDue},
	}, metadata, now)
}

// knownHeaders are those request headers that Kestrel knows and a notification
// may have, in the order in which it lists them; it spells them so, and lists
// all others after them as they came. The recordings show Host, Content-Type,
// Transfer-Encoding and Content-Length so placed; for the rest stands the rule
// that Kestrel sorts by.
var knownHeaders = []string{
	"Accept", "Connection", "Host", "User-Agent", "Accept-Encoding", "Authorization", "Content-Type", "Request-Id",
	"traceparent", "Transfer-Encoding", "Content-Length",
}

// kestrel returns fs in Kestrel's order and spelling, repeats joined by sep.
func kestrel(fs fields, sep string) fields {
	var out fields
	for _, known := range knownHeaders {
		for _, f := range fs {
			if strings.EqualFold(f.name, known) {
				out.add(known, f.value, sep)
			}
		}
	}
	known := len(out)
	for _, f := range fs {
		if out[:known].index(f.name) < 0 {
			out.add(f.name, f.value, sep)
		}
	}
	return out
}

// queryPairs returns the query's parameters in order, repeats joined by commas,
// and the last value of each.
func queryPairs(raw string) (joined, last fields) {
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		name := unescape(key)
		joined.add(name, unescape(value), ",")
		last.add(name, "", "")
		last[last.index(name)].value = unescape(value)
	}
	return joined, last
}

func unescape(s string) string {
	if out, err := url.QueryUnescape(s); err == nil {
		return out
	}
	return s
}

func (fs fields) object() object {
	var o object
	for _, f := range fs {
		o = append(o, member{f.name, f.value})
	}
	return o
}

// identities is what every caller has: one, and anonymous.
const identities = `[{"AuthenticationType":null,"IsAuthenticated":false,"Actor":null,"BootstrapContext":null,"Claims":[],` +
	`"Label":null,"Name":null,"NameClaimType":"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name",` +
	`"RoleClaimType":"http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}]`

// httpEnvelope is what an HTTP function gets in default mode. A chunked body is
// lost here, as on the real host.
func httpEnvelope(fn *function, c *incoming, now time.Time) []byte {
	query, lastQuery := queryPairs(c.query)
	var lists object
	headers := kestrel(c.fields, "\n") // no value holds a line break
	for i, f := range headers {
		lists = append(lists, member{f.name, strings.Split(f.value, "\n")})
		headers[i].value = strings.ReplaceAll(f.value, "\n", ",")
	}
	request := object{
		{"Url", "http://" + c.fields.get("Host") + c.target},
		{"Method", c.method},
		{"Query", query.object()},
		{"Headers", lists},
		{"Params", object{}},
		{"Identities", json.RawMessage(identities)},
	}
	var metadata object
	if len(c.body) > 0 && !c.chunked {
		request = append(request, member{"Body", strings.ToValidUTF8(string(c.body), "\uFFFD")})
		var members map[string]any
		_ = json.Unmarshal(c.body, &members) // most bodies are no object
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if text, ok := members[name].(string); ok {
				metadata.set(name, twice(text))
			}
		}
	}
	for _, f := range lastQuery {
		if f.value != "" {
			metadata.set(f.name, twice(f.value))
		}
	}
	metadata.set("Query", lastQuery.object())
	metadata.set("Headers", headers.object())
	return envelope(fn, request, metadata, now)
}

// answer is what a handler sends back for an envelope.
type answer struct {
	Outputs map[string]json.RawMessage
	Logs    []string
}

// errPending is an answer that never completes the invocation.
var errPending = errors.New("the answer is empty: the invocation stays pending")

// parseAnswer judges an answer by the host's rules.
func parseAnswer(resp *http.Response, body []byte) (*answer, error) {
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("handler answered with status %d", resp.StatusCode)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, errPending
	}
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if media = strings.ToLower(strings.TrimSpace(media)); media != "application/json" && media != "text/json" {
		return nil, fmt.Errorf("invalid HttpResponseMessage: no MediaTypeFormatter for content type %q", media)
	}
	var a *answer
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&a); err != nil { // text after the value is accepted
		return nil, fmt.Errorf("invalid HttpResponseMessage: %w", err)
	}
	if a == nil {
		return nil, errPending // null
	}
	return a, nil
}

// httpReply binds the output called name.
func (a *answer) httpReply(name string) (*reply, error) {
	if a.Outputs == nil {
		return empty(http.StatusNoContent), nil
	}
	r := &reply{status: http.StatusOK, fields: fields{{"Content-Type", "text/plain; charset=utf-8"}}}
	value, ok := a.Outputs[name] // case-sensitive; other names are dropped
	if !ok {
		r.body, r.chunked = []byte("{}"), true
		return r, nil
	}
	var out *struct {
		StatusCode json.RawMessage
		Headers    map[string]string
		Body       string
	}
	if err := json.Unmarshal(value, &out); err != nil {
		return nil, fmt.Errorf("read http output: %w", err)
	}
	if out == nil {
		return nil, errors.New("http output is not a response object")
	}
	if status, err := strconv.Atoi(strings.Trim(string(out.StatusCode), `"`)); err == nil {
		r.status = status
	}
	for _, name := range slices.Sorted(maps.Keys(out.Headers)) {
		value := out.Headers[name]
		if strings.ContainsAny(name+value, "\r\n") {
			return nil, fmt.Errorf("output header %q holds a line break", name)
		}
		if i := r.fields.index(name); i >= 0 {
			r.fields[i].value = value
		} else {
			r.fields = append(r.fields, field{name, value})
		}
	}
	r.body, r.chunked = []byte(out.Body), out.Body != ""
	return r, nil
}
