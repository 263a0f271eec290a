package record_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"activityarchive/handler/record"
)

var (
	meta     = record.Meta{Content: "00ff17", Type: "Audit.General", Day: "2026-04-05"}
	cmpEmpty = cmpopts.EquateEmpty()
)

const guid = "5a000000-0000-4000-8000-00000000000b"

func mustParse(t *testing.T, raw string) record.Record {
	t.Helper()
	r, err := record.Parse([]byte(raw))
	if err != nil {
		t.Fatalf("Parse(%.200s): %v", raw, err)
	}
	return r
}

func shaOf(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:])
}

func TestID(t *testing.T) {
	const bySHA = ""
	tests := []struct{ raw, want string }{
		{`{"Id":"` + guid + `"}`, guid},
		{`{"Id":"5A000000-0000-4000-8000-00000000000B"}`, "5A000000-0000-4000-8000-00000000000B"},
		{`{"\u0049d":"5a000000\u002d0000-4000-8000-00000000000b"}`, guid},
		{`{"Id":"x","Id":"` + guid + `"}`, guid},
		{`{"Id":"` + guid + `","Id":"x"}`, bySHA},
		{`{"Id":"` + guid + `","id":"x"}`, guid},
		{`{"id":"` + guid + `"}`, bySHA},
		{`{"a":{"Id":"` + guid + `"}}`, bySHA},
		{`{}`, bySHA},
		{`{"Id":null}`, bySHA},
		{`{"Id":17}`, bySHA},
		{`{"Id":["` + guid + `"]}`, bySHA},
		{`{"Id":""}`, bySHA},
		{`{"Id":"."}`, bySHA},
		{`{"Id":".."}`, bySHA},
		{`{"Id":"a/b\\c?d#e"}`, bySHA},
		{`{"Id":"quoted \" \u0000"}`, bySHA},
		{`{"Id":"` + strings.Repeat("x", 2048) + `"}`, bySHA},
		{`{"Id":"{` + guid + `}"}`, bySHA},
		{`{"Id":" ` + guid + `"}`, bySHA},
		{`{"Id":"5a0000000-000-4000-8000-00000000000b"}`, bySHA},
		{`{"Id":"5a000000-0000-4000-8000-00000000000g"}`, bySHA},
	}
	for _, tt := range tests {
		want := tt.want
		if want == bySHA {
			want = shaOf(tt.raw)
		}
		if got := mustParse(t, tt.raw).ID; got != want {
			t.Errorf("ID of %.100s is %s, want %s", tt.raw, got, want)
		}
	}
}

func TestHour(t *testing.T) {
	tests := []struct{ time, want string }{
		{`"2026-04-05T23:59:59"`, "2026-04-05T23"},
		{`"2026-04-05T09:00:00Z"`, "2026-04-05T09"},
		{`"2026-04-05T09:00:00.1234567"`, "2026-04-05T09"},
		{`"2026-04-05T09:00:00.1Z"`, "2026-04-05T09"},
		{`"2026-04-05T23:30:00-01:00"`, "2026-04-06T00"},
		{`"2026-04-05T00:10:00.5+05:30"`, "2026-04-04T18"},
		{`"2026-04-05T09\u003a00:00"`, "2026-04-05T09"},
		{`"1601-01-01T00:00:00"`, "1601-01-01T00"},
		{`"9999-12-31T23:00:00"`, "9999-12-31T23"},
		{`"1600-12-31T23:59:59"`, "unknown"},
		{`"1601-01-01T00:00:00+01:00"`, "unknown"},
		{`"9999-12-31T23:30:00-01:00"`, "unknown"},
		{`"0001-01-01T00:00:00"`, "unknown"},
		{`"2026-04-05 09:00:00"`, "unknown"},
		{`"2026-04-05T9:00:00"`, "unknown"},
		{`"2026-04-05T9:00:00.5"`, "unknown"},
		{`"2026-02-30T09:00:00"`, "unknown"},
		{`"2026-04-05T24:00:00"`, "unknown"},
		{`"2026-04-05T09:00"`, "unknown"},
		{`"2026-04-05T09:00:00 x"`, "unknown"},
		{`"5 April 2026, nine o'clock"`, "unknown"},
		{`""`, "unknown"},
		{`null`, "unknown"},
		{`1775379600`, "unknown"},
	}
	for _, tt := range tests {
		if got := mustParse(t, `{"CreationTime":`+tt.time+`}`).Hour; got != tt.want {
			t.Errorf("hour of %s is %s, want %s", tt.time, got, tt.want)
		}
	}
	if got := mustParse(t, `{}`).Hour; got != "unknown" {
		t.Errorf("hour without CreationTime is %s, want unknown", got)
	}
}

func TestUser(t *testing.T) {
	long := strings.Repeat("ü", 1500)
	tests := []struct {
		raw     string
		want    record.Value
		archive string // archive.user
	}{
		{`{}`, record.Value{}, ""},
		{`{"UserId":null}`, record.Value{Kind: record.Null}, ""},
		{`{"UserId":true}`, record.Value{Kind: record.Bool, Text: "true"}, ""},
		{`{"UserId":false}`, record.Value{Kind: record.Bool, Text: "false"}, ""},
		{`{"UserId":-1.50}`, record.Value{Kind: record.Number, Text: "-1.50"}, ""},
		{`{"UserId":1e999}`, record.Value{Kind: record.Null}, ""}, // as the document has it
		{`{"UserId":{"a":1}}`, record.Value{Kind: record.Other}, ""},
		{`{"UserId":[]}`, record.Value{Kind: record.Other}, ""},
		{`{"UserId":""}`, record.Value{Kind: record.String}, ""},
		{`{"UserId":"User017@Harbor.Example"}`, record.Value{Kind: record.String, Text: "User017@Harbor.Example"}, "user017@harbor.example"},
		{`{"UserId":"a","UserId":"B"}`, record.Value{Kind: record.String, Text: "B"}, "b"},
		{`{"User\u0049d":"a\/b\b\f\n\r\t"}`, record.Value{Kind: record.String, Text: "a/b\b\f\n\r\t"}, "a/b\b\f\n\r\t"},
		{`{"UserId":"\u0000\"\\\u007f<&>"}`, record.Value{Kind: record.String, Text: "\x00\"\\\x7f<&>"}, "\x00\"\\\x7f<&>"},
		{`{"UserId":"Ö😀\ud83d\ude00"}`, record.Value{Kind: record.String, Text: "Ö😀😀"}, "ö😀😀"},
		{`{"UserId":"\ud83dA"}`, record.Value{Kind: record.String, Text: "\ufffdA"}, "\ufffda"},
		{`{"UserId":"` + long + `"}`, record.Value{Kind: record.String, Text: long}, long},
		{`{"userid":"a","a":{"UserId":"b"}}`, record.Value{}, ""},
	}
	for _, tt := range tests {
		t.Run(clip(tt.raw), func(t *testing.T) {
			r := mustParse(t, tt.raw)
			if diff := cmp.Diff(r.User, tt.want); diff != "" {
				t.Errorf("User (-got +want):\n%s", diff)
			}
			if got := archiveOf(t, r)["user"]; got != tt.archive {
				t.Errorf("archive.user = %q, want %q", got, tt.archive)
			}
			checkDocument(t, []byte(tt.raw), r)
		})
	}
}

func clip(s string) string { return s[:min(len(s), 60)] }

func TestWorkloadAndRecordType(t *testing.T) {
	tests := []struct {
		raw      string
		kind     int
		workload string
	}{
		{`{}`, -1, ""},
		{`{"RecordType":256,"Workload":"PowerPlatform"}`, 256, "PowerPlatform"},
		{`{"RecordType":"45","Workload":7}`, 45, "7"},
		{`{"RecordType":2.1e1,"Workload":null}`, 21, ""},
		{`{"RecordType":0,"Workload":["a"]}`, 0, ""},
		{`{"RecordType":2147483647}`, 2147483647, ""},
		{`{"RecordType":2147483648}`, -1, ""},
		{`{"RecordType":-7}`, -1, ""},
		{`{"RecordType":1e999}`, -1, ""},
		{`{"RecordType":""}`, -1, ""},
		{`{"RecordType":"Inf"}`, -1, ""},
		{`{"RecordType":true}`, -1, ""},
		{`{"Workload":"` + strings.Repeat("é", 50) + `"}`, -1, strings.Repeat("é", 32)},
		{`{"Workload":"x` + strings.Repeat("é", 50) + `"}`, -1, "x" + strings.Repeat("é", 31)},
	}
	for _, tt := range tests {
		if r := mustParse(t, tt.raw); r.RecordType != tt.kind || r.Workload != tt.workload {
			t.Errorf("%s has RecordType %d, Workload %q, want %d, %q", tt.raw, r.RecordType, r.Workload, tt.kind, tt.workload)
		}
	}
}

func TestRefused(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + strings.Repeat(`]}`, n/2) }
	tests := []struct{ name, raw, want string }{
		{"nothing", ``, "not a JSON object at byte 0"},
		{"array", ` [{}]`, "not a JSON object at byte 1"},
		{"string", `"a"`, "not a JSON object at byte 0"},
		{"number", `1`, "not a JSON object at byte 0"},
		{"null", `null`, "not a JSON object at byte 0"},
		{"bad bytes", "{\"a\":\"\xff\"}", "not valid UTF-8"},
		{"surrogate as bytes", "{\"a\":\"\xed\xa0\x80\"}", "not valid UTF-8"},
		{"overlong", "{\"a\":\"\xc0\x80\"}", "not valid UTF-8"},
		{"cut", `{"a":1`, "invalid JSON: no comma or brace in an object at byte 6"},
		{"cut in a string", `{"a":"b`, "invalid JSON: string without end at byte 5"},
		{"cut in an escape", `{"a":"b\`, "invalid JSON: unknown escape at byte 7"},
		{"two objects", `{}{}`, "invalid JSON: text after the object at byte 2"},
		{"no colon", `{"a" 1}`, "invalid JSON: no colon after a name at byte 5"},
		{"no value", `{"a":}`, "invalid JSON: no value at byte 5"},
		{"trailing comma", `{"a":1,}`, "invalid JSON: no name in an object at byte 7"},
		{"trailing comma in an array", `{"a":[1,]}`, "invalid JSON: no value at byte 8"},
		{"members in an array", `{"a":["b":1]}`, "invalid JSON: no comma or bracket in an array at byte 9"},
		{"bare name", `{a:1}`, "invalid JSON: no name in an object at byte 1"},
		{"unknown escape", `{"a":"\c"}`, "invalid JSON: unknown escape at byte 6"},
		{"short escape", `{"a":"\u12g4"}`, "invalid JSON: unknown escape at byte 6"},
		{"line break in a string", "{\"a\":\"b\nc\"}", "invalid JSON: control byte in a string at byte 7"},
		{"misspelt literal", `{"a":nul}`, "invalid JSON: no value at byte 5"},
		{"leading zero", `{"a":012}`, "invalid JSON: malformed number at byte 8"},
		{"plus", `{"a":+1}`, "invalid JSON: no value at byte 5"},
		{"no digits", `{"a":-}`, "invalid JSON: malformed number at byte 6"},
		{"no fraction", `{"a":1.}`, "invalid JSON: malformed number at byte 7"},
		{"no exponent", `{"a":1e+}`, "invalid JSON: malformed number at byte 8"},
		{"deeper than 128", `{"b":` + nested(128) + `}`, "nested deeper than the 128 levels that Cosmos DB takes at byte 388"},
		{"deeper than 128, objects", strings.Repeat(`{"a":`, 129) + `1` + strings.Repeat(`}`, 129), "nested deeper than the 128 levels that Cosmos DB takes at byte 640"},
		{"very deep", strings.Repeat(`{"a":`, 500_000), "nested deeper than the 128 levels that Cosmos DB takes at byte 640"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := record.Parse([]byte(tt.raw))
			refused, ok := errors.AsType[*record.Refused](err)
			if !ok || refused.Reason != tt.want {
				t.Errorf("Parse fails with %v, want a *Refused for %s", err, tt.want)
			}
		})
	}
	deepest := nested(128)
	checkDocument(t, []byte(deepest), mustParse(t, deepest))
}

// TestDocument holds whole documents against their wanted text.
func TestDocument(t *testing.T) {
	tests := []struct {
		name, raw string
		members   string // what follows archive
		original  bool
	}{
		{"plain", `{"Id":"` + guid + `","n":[1, 2.50,-0,1E2],"s":"\/\u0041<&>"}`, `,"Id":"` + guid + `","n":[1, 2.50,-0,1E2],"s":"\/\u0041<&>"`, false},
		{"white space stays", "{ \"a\" : 1 ,\n\t\"b\":{ } }\n", ", \"a\" : 1 ,\n\t\"b\":{ } ", false},
		{"empty", `{}`, ``, false},
		{"empty, spaced", ` { } `, ` `, false},
		{"not reserved by case or level", `{"ID":1,"Ttl":2,"a":{"id":3,"ttl":4,"_ts":5,"archive":6}}`, `,"ID":1,"Ttl":2,"a":{"id":3,"ttl":4,"_ts":5,"archive":6}`, false},
		{"pair of surrogates", `{"a":"\ud83d\uDE00"}`, `,"a":"\ud83d\uDE00"`, false},
		{"replacement character of its own", `{"a":"\ufffd\uFFFD` + "\ufffd" + `"}`, `,"a":"\ufffd\uFFFD` + "\ufffd" + `"`, false},
		{"backslash before u", `{"a":"\\ud83d"}`, `,"a":"\\ud83d"`, false},
		{"same name in other objects", `{"a":{"b":1},"b":[{"a":1},{"a":2}]}`, `,"a":{"b":1},"b":[{"a":1},{"a":2}]`, false},

		{"id", `{"id":1,"a":2}`, `,"a":2`, true},
		{"archive last", `{"a":2 , "archive":{"v":1}}`, `,"a":2`, true},
		{"ttl in the middle", `{"a":1,"ttl":60, "b":2}`, `,"a":1,"b":2`, true},
		{"ttl, escaped", `{"a":1,"t\u0074l":60}`, `,"a":1`, true},
		{"all of them", `{"id":0,"archive":1,"a":2,"ttl":3,"_rid":4,"_self":5,"b":6,"_etag":7,"_attachments":8,"_ts":9}`, `,"a":2,"b":6`, true},
		{"nothing else", `{ "id":0,"_ts":9 }`, `  `, true},
		{"name twice", `{"a":1,"b":2,"a":3}`, `,"b":2,"a":3`, true},
		{"name twice, escaped", `{"a":1,"b":2,"\u0061":3}`, `,"b":2,"\u0061":3`, true},
		{"name three times", `{"a":1,"a":2,"b":0,"a":3}`, `,"b":0,"a":3`, true},
		{"name twice, deep", `{"x":[{"a":1,"a":2}]}`, `,"x":[{"a":2}]`, true},
		{"name twice in what is left out", `{"x":{"a":1,"a":2},"y":0,"x":3}`, `,"y":0,"x":3`, true},
		{"reserved twice", `{"id":1,"a":2,"id":3}`, `,"a":2`, true},
		{"empty name twice", `{"":1,"":2}`, `,"":2`, true},
		{"lone high surrogate", `{"a":"x\ud83dy"}`, `,"a":"x\ufffdy"`, true},
		{"lone low surrogate", `{"a":"\uDE00\ud83d"}`, `,"a":"\ufffd\ufffd"`, true},
		{"surrogates in the wrong order", `{"a":"\ude00\ud83d\ude00"}`, `,"a":"\ufffd\ud83d\ude00"`, true},
		{"lone surrogate before another escape", `{"a":"\ud83d\n\ud83d\u0041"}`, `,"a":"\ufffd\n\ufffd\u0041"`, true},
		{"lone surrogate in a name", `{"x":{"\ud83d":1}}`, `,"x":{"\ufffd":1}`, true},
		{"names equal once mended", `{"\ud83d":1,"\ud83e":2}`, `,"\ufffd":2`, true},
		{"beyond 2^53", `{"a":9007199254740993}`, `,"a":9007199254740993`, true},
		{"beyond 2^53, held exactly", `{"a":9007199254740992,"b":1e22,"c":10000000000000000000000}`, `,"a":9007199254740992,"b":1e22,"c":10000000000000000000000`, false},
		{"more digits than a double has", `{"a":0.1000000000000000055}`, `,"a":0.1000000000000000055`, true},
		{"zeros at the end", `{"a":0.10000000000000000000,"b":100.00e-2}`, `,"a":0.10000000000000000000,"b":100.00e-2`, false},
		{"beyond double", `{"a":[1e999,-1e999],"b":1}`, `,"a":[null,null],"b":1`, true},
		{"too small", `{"a":1e-999}`, `,"a":1e-999`, true},
		{"zero, whatever its exponent", `{"a":0e999,"b":-0.000E-99999999999}`, `,"a":0e999,"b":-0.000E-99999999999`, false},
		{"smallest and largest double", `{"a":5e-324,"b":1.7976931348623157e308}`, `,"a":5e-324,"b":1.7976931348623157e308`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := mustParse(t, tt.raw)
			keep := ""
			if tt.original {
				text, _ := json.Marshal(tt.raw) // for texts without < > &
				keep = `,"original":` + string(text)
			}
			want := fmt.Sprintf(`keep{"id":"%s","archive":{"v":1,"content":"00ff17","type":"Audit.General","day":"2026-04-05","hour":"unknown","user":"","sha256":"%s"%s}%s}`,
				r.ID, shaOf(tt.raw), keep, tt.members)
			if got := string(r.AppendDocument([]byte("keep"), meta)); got != want {
				t.Errorf("document\n%s, want\n%s", got, want)
			}
			checkDocument(t, []byte(tt.raw), r)
		})
	}
}

// TestManyMembers has objects of so many members that comparing each with each
// would take minutes.
func TestManyMembers(t *testing.T) {
	shapes := func(n int) map[string]string {
		var distinct, same, nested strings.Builder
		for i := range n {
			fmt.Fprintf(&distinct, `"%d":0,`, i)
			same.WriteString(`"":0,`)
			fmt.Fprintf(&nested, `{"long name":1,"b":2,"long name":%d},`, i)
		}
		return map[string]string{
			"distinct":       `{` + distinct.String() + `"x":1}`,
			"one repeated":   `{` + distinct.String() + `"17":{"a":2}}`,
			"all the same":   `{` + same.String() + `"":1}`,
			"all reserved":   `{` + strings.ReplaceAll(same.String(), `""`, `"ttl"`) + `"ttl":1}`,
			"objects nested": `{"a":[` + nested.String() + `0]}`,
			"escaped names":  `{` + strings.ReplaceAll(distinct.String(), `":`, `\t":`) + `"5\t":1}`,
		}
	}
	for name, raw := range shapes(1000) {
		t.Run(name, func(t *testing.T) {
			checkDocument(t, []byte(raw), mustParse(t, raw))
		})
	}
	for _, raw := range shapes(300_000) {
		mustParse(t, raw)
	}
}

// TestMembersAroundLimit finds a repeated name wherever it stands, in objects
// on both sides of the size at which the way of finding it changes.
func TestMembersAroundLimit(t *testing.T) {
	for _, n := range []int{2, 47, 48, 49, 63, 64, 65, 66} {
		for _, twice := range []int{0, (n - 1) / 2, n - 2} {
			var b strings.Builder
			for i := range n - 1 {
				fmt.Fprintf(&b, `"member %d":%d,`, i, i)
			}
			raw := fmt.Sprintf(`{%s"member %d":"again"}`, b.String(), twice)
			r := mustParse(t, raw)
			if _, ok := archiveOf(t, r)["original"]; !ok {
				t.Errorf("%d members, number %d twice: no archive.original", n, twice)
			}
			checkDocument(t, []byte(raw), r)
		}
	}
}

func TestParseAllocations(t *testing.T) {
	raw := []byte(synthetic(17))
	var buf []byte
	var parser record.Parser
	got := testing.AllocsPerRun(100, func() {
		r, err := parser.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		buf = r.AppendDocument(buf[:0], meta)
	})
	// Four strings are kept: ID, User.Text, Hour, Workload. RecordType and
	// CreationTime are read from two more.
	if got > 6 {
		t.Errorf("%v allocations a record, want at most 6", got)
	}
}

// archiveOf returns the member archive of r's document.
func archiveOf(t *testing.T, r record.Record) map[string]any {
	t.Helper()
	var doc struct {
		Archive map[string]any `json:"archive"`
	}
	if err := json.Unmarshal(r.AppendDocument(nil, meta), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Archive
}

var reserved = []string{"id", "archive", "ttl", "_rid", "_self", "_etag", "_attachments", "_ts"}

// checkDocument proves that the document for raw, as Cosmos DB will read it,
// gives raw's value back, by itself or through archive.original; and that
// archive.original is there only if it must be.
func checkDocument(t *testing.T, raw []byte, r record.Record) {
	t.Helper()
	doc := r.AppendDocument(nil, meta)
	if !json.Valid(doc) || !utf8.Valid(doc) {
		t.Fatalf("the document is not JSON: %.300q", doc)
	}
	if why := unfit(doc, false); why != "" {
		t.Errorf("the document holds %s: %.300q", why, doc)
	}
	got := decode(t, doc)
	archive, ok := got["archive"].(map[string]any)
	if !ok || got["id"] != r.ID {
		t.Fatalf("the document has id %v, archive %T", got["id"], got["archive"])
	}
	original, kept := archive["original"]
	why := unfit(raw, true)
	if kept != (why != "") {
		t.Errorf("archive.original is there: %v; the record holds %q: %.300q", kept, why, raw)
	}
	if kept && original != string(raw) {
		t.Errorf("archive.original is %.300q, want %.300q", original, raw)
	}
	wantArchive := map[string]any{
		"v": json.Number("1"), "content": meta.Content, "type": meta.Type, "day": meta.Day, "hour": r.Hour,
		"user": archive["user"], "sha256": shaOf(string(raw)),
	}
	if kept {
		wantArchive["original"] = original
	}
	if diff := cmp.Diff(archive, wantArchive); diff != "" {
		t.Errorf("archive (-got +want):\n%s", diff)
	}

	delete(got, "id")
	delete(got, "archive")
	want := decode(t, raw) // the last of equal names, U+FFFD for lone surrogates
	for _, name := range reserved {
		delete(want, name)
	}
	if !reflect.DeepEqual(any(got), finite(want)) { // go-cmp takes time exponential in depth
		t.Errorf("the document's members differ from the record's:\n%.300q\n%.300q", doc, raw)
	}
}

func decode(t *testing.T, text []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decode %.300q: %v", text, err)
	}
	return v
}

// finite replaces numbers beyond float64 by null.
func finite(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = finite(v[name])
		}
	case []any:
		for i := range v {
			v[i] = finite(v[i])
		}
	case json.Number:
		if _, err := v.Float64(); err != nil {
			return nil
		}
	}
	return v
}

var escapes = regexp.MustCompile(`\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)`)

// unfit says what of text Cosmos DB would not give back, empty if nothing. It
// judges numbers, and reserved names, only for a record.
func unfit(text []byte, isRecord bool) string {
	for _, match := range escapes.FindAllSubmatch(text, -1) {
		if match[1] != nil {
			return "a lone surrogate"
		}
	}
	type object struct {
		names map[string]bool // nil for an array
		name  bool            // a name comes next
	}
	var open []object
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 && open[n-1].names != nil {
			o := &open[n-1]
			if o.name = !o.name; !o.name {
				name := token.(string)
				if o.names[name] {
					return "a name twice"
				}
				o.names[name] = true
				if n == 1 && isRecord {
					for _, r := range reserved {
						if name == r {
							return "a reserved name"
						}
					}
				}
				continue
			}
		}
		switch token := token.(type) {
		case json.Delim:
			o := object{name: true}
			if token == '{' {
				o.names = map[string]bool{}
			}
			open = append(open, o)
		case json.Number:
			f, err := token.Float64()
			if err != nil {
				return "a number beyond float64"
			}
			if isRecord && !equalDecimal(string(token), strconv.FormatFloat(f, 'g', -1, 64)) {
				return "a number that float64 does not hold"
			}
		}
	}
}

// equalDecimal compares two numbers exactly. An exponent that would take too
// long is left to its digits: only zero has such a one and is a float64.
func equalDecimal(a, b string) bool {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(a), "e")
	if e, err := strconv.Atoi(exponent); exponent != "" && (err != nil || e > 5000 || e < -5000) {
		return strings.Trim(mantissa, "-0.") == ""
	}
	x, okX := new(big.Rat).SetString(a)
	y, okY := new(big.Rat).SetString(b)
	return okX && okY && x.Cmp(y) == 0
}

// depthOf is how deep valid JSON nests.
func depthOf(text []byte) int {
	d := json.NewDecoder(bytes.NewReader(text))
	depth, deepest := 0, 0
	for {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			deepest = max(deepest, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// FuzzParse holds Parse against encoding/json, and every document against the
// record it was made from.
func FuzzParse(f *testing.F) {
	for _, raw := range []string{
		synthetic(1),
		`{"Id":"` + guid + `","UserId":"\ud83d\ude00","n":[9007199254740993,1e999,-0.10e-5],"a":1,"\u0061":2,"x":"\ud800"}`,
		`{"ttl":5,"a":{"b":1,"b":2,"c":[null,true,false]},"_ts":1}`,
		`{"PropertyCollection":"[{\"Name\":\"powerplatform.analytics.x\"},7]","JsonPropertiesCollection":"\ud800{","Workload":"CRM"}`,
		` { "a" : [ ] , "" : "" } `, `{"a":1,}`, "{\"a\":\"\xff\"}", `[1]`, `{"a":"\q"}`, `{"a":01}`, `{`,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := record.Parse(raw)
		first := bytes.TrimLeft(raw, " \t\r\n")
		valid := json.Valid(raw) && utf8.Valid(raw) && first[0] == '{' && depthOf(raw) <= 128
		if valid != (err == nil) {
			t.Fatalf("Parse: %v; valid: %v", err, valid)
		}
		if err != nil {
			if _, ok := errors.AsType[*record.Refused](err); !ok {
				t.Errorf("Parse fails with %T, want a *Refused", err)
			}
			return
		}
		checkDocument(t, raw, r)
		if !record.All.Keep(&r) || record.Dynamics365.Keep(&r) && !record.PowerPlatform.Keep(&r) {
			t.Error("a wider filter keeps less")
		}
		// Through a Scanner it is the same record.
		s := record.NewScanner(io.MultiReader(strings.NewReader("["), bytes.NewReader(raw), strings.NewReader("]")))
		e, err := s.Next()
		if trimmed := bytes.Trim(raw, " \t\r\n"); err != nil || !bytes.Equal(e.Raw, trimmed) {
			t.Errorf("Scanner: %q, %v, want %q", e.Raw, err, trimmed)
		}
		if _, err := s.Next(); err != io.EOF {
			t.Errorf("Scanner ends with %v, want io.EOF", err)
		}
	})
}

// A Parser reads a record the same way whatever it has read before, and what it
// has returned stays as it was.
func TestParserAgain(t *testing.T) {
	odd := "{" + strings.Repeat(`"\u0061":1,`, 5000) + `"\u0061":2}`
	texts := []string{synthetic(1), odd, `{"broken":`, `{"\u0049d":"x","UserId":"a\u0062c","ttl":1}`, synthetic(2), odd, synthetic(3)}
	var parser record.Parser
	var kept []record.Record
	var fresh []record.Record
	for _, text := range texts {
		want, wantErr := record.Parse([]byte(text))
		got, err := parser.Parse([]byte(text))
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%.40s: error %v, want %v", text, err, wantErr)
		}
		if err == nil {
			kept, fresh = append(kept, got), append(fresh, want)
		}
	}
	for i := range kept {
		got, want := kept[i].AppendDocument(nil, meta), fresh[i].AppendDocument(nil, meta)
		if !bytes.Equal(got, want) {
			t.Errorf("record %d: %.200s, want %.200s", i, got, want)
		}
	}
}
