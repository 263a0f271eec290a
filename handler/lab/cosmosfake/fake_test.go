package cosmosfake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/lab/cosmosfake"
)

const (
	keyHeader = "x-ms-documentdb-partitionkey"
	flat      = "/dbs/Audit/colls/Flat"   // partition key /pk
	levels    = "/dbs/Audit/colls/Levels" // partition key /UserId, /archive/hour
)

// account is a fake with two containers, spoken to in plain HTTP with a token.
type account struct {
	*testing.T
	f *cosmosfake.Fake
}

func newAccount(t *testing.T, o cosmosfake.Options) account {
	t.Helper()
	f, err := cosmosfake.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for id, paths := range map[string][]string{"Flat": {"/pk"}, "Levels": {"/UserId", "/archive/hour"}} {
		if err := f.Provision("Audit", id, paths...); err != nil {
			t.Fatal(err)
		}
	}
	return account{t, f}
}

// reply is what came back. Status is "404/1003", or "404" without sub-status.
type reply struct {
	Status string
	Header http.Header
	Body   string
}

// try sends a request; header holds names and values in turn.
func (a account) try(ctx context.Context, method, path, body string, header ...string) (reply, error) {
	a.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "https://fake.documents.example"+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", "type%3Daad%26ver%3D1.0%26sig%3Dtoken")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := a.f.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	r := reply{fmt.Sprint(resp.StatusCode), resp.Header, string(got)}
	if sub := resp.Header.Get("x-ms-substatus"); sub != "" {
		r.Status += "/" + sub
	}
	return r, err
}

func (a account) do(method, path, body string, header ...string) reply {
	a.Helper()
	r, err := a.try(a.Context(), method, path, body, header...)
	if err != nil {
		a.Fatal(err)
	}
	return r
}

// must sends a request that has to end with status.
func (a account) must(status, method, path, body string, header ...string) reply {
	a.Helper()
	r := a.do(method, path, body, header...)
	if r.Status != status {
		a.Fatalf("%s %s = %s %s, want %s", method, path, r.Status, r.Body, status)
	}
	return r
}

func (a account) create(status, path, key, body string) reply {
	a.Helper()
	return a.must(status, "POST", path+"/docs", body, keyHeader, key)
}

// batch runs a batch in Flat and returns the statuses of its operations.
func (a account) batch(status, key, body string) (statuses []int) {
	a.Helper()
	r := a.must(status, "POST", flat+"/docs", body, keyHeader, key,
		"x-ms-cosmos-is-batch-request", "True", "x-ms-cosmos-batch-atomic", "True", "x-ms-cosmos-batch-ordered", "True")
	var results []struct{ StatusCode int }
	if err := json.Unmarshal([]byte(r.Body), &results); err != nil && status[0] == '2' {
		a.Fatalf("reading a batch's answer %q: %v", r.Body, err)
	}
	for _, res := range results {
		statuses = append(statuses, res.StatusCode)
	}
	return statuses
}

// query asks for one page; an empty key asks all partitions.
func (a account) query(status, path, key, sql string, header ...string) (rows []string, next string) {
	a.Helper()
	header = append(header, "Content-Type", "application/query+json", "x-ms-documentdb-query", "True", "x-ms-documentdb-query-enablecrosspartition", "true")
	if key != "" {
		header = append(header, keyHeader, key)
	}
	body, err := json.Marshal(map[string]any{"query": sql, "parameters": []map[string]any{
		{"name": "@one", "value": 1}, {"name": "@a", "value": "a"}, {"name": "@c", "value": "c"}, {"name": "@list", "value": []int{1}},
	}})
	if err != nil {
		a.Fatal(err)
	}
	r := a.must(status, "POST", path+"/docs", string(body), header...)
	if status != "200" {
		return nil, ""
	}
	var page struct{ Documents []json.RawMessage }
	if err := json.Unmarshal([]byte(r.Body), &page); err != nil {
		a.Fatalf("reading a page %q: %v", r.Body, err)
	}
	for _, row := range page.Documents {
		rows = append(rows, string(row))
	}
	return rows, r.Header.Get("x-ms-continuation")
}

// ids returns the ids of all documents in a container.
func (a account) ids(container string) (list []string) {
	for _, d := range a.f.Documents(container) {
		list = append(list, d.ID)
	}
	return list
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: got +, want -:\n%s", what, diff)
	}
}

func TestDocumentRules(t *testing.T) {
	long := strings.Repeat("k", 2049)
	tests := []struct {
		name, path, key, body, want string
	}{
		{"plain", flat, `["a"]`, `{"id":"1","pk":"a"}`, "201"},
		{"no key header", flat, "", `{"id":"1","pk":"a"}`, "400"},
		{"key header with Go escapes", flat, `["\x7f"]`, `{"id":"1","pk":"\u007f"}`, "400"},
		{"key header in ASCII", flat, `["\u007f\ud83d\ude00"]`, `{"id":"1","pk":"\u007f😀"}`, "201"},
		{"key header beyond ASCII", flat, `["é"]`, `{"id":"1","pk":"é"}`, "400"},
		{"text after the key", flat, `["a"]x`, `{"id":"1","pk":"a"}`, "400"},
		{"key of another value", flat, `["b"]`, `{"id":"1","pk":"a"}`, "400/1001"},
		{"key of another type", flat, `["1"]`, `{"id":"1","pk":1}`, "400/1001"},
		{"number as key", flat, `[1.0]`, `{"id":"1","pk":1}`, "201"},
		{"null as key", flat, `[null]`, `{"id":"1","pk":null}`, "201"},
		{"absent as key", flat, `[{}]`, `{"id":"1"}`, "201"},
		{"null is not absent", flat, `[null]`, `{"id":"1"}`, "400/1001"},
		{"object as key", flat, `[{}]`, `{"id":"1","pk":{"x":1}}`, "400"},
		{"empty object is not absent", flat, `[{}]`, `{"id":"1","pk":{}}`, "400"},
		{"too many levels", flat, `["a","b"]`, `{"id":"1","pk":"a"}`, "400/1001"},
		{"too few levels", levels, `["a"]`, `{"id":"1","UserId":"a","archive":{"hour":"h"}}`, "400/1001"},
		{"two levels", levels, `["a","h"]`, `{"id":"1","UserId":"a","archive":{"hour":"h"}}`, "201"},
		{"levels the other way round", levels, `["h","a"]`, `{"id":"1","UserId":"a","archive":{"hour":"h"}}`, "400/1001"},
		{"second level absent", levels, `["a",{}]`, `{"id":"1","UserId":"a","archive":7}`, "201"},
		{"longest key", flat, `["` + long[1:] + `"]`, `{"id":"1","pk":"` + long[1:] + `"}`, "201"},
		{"key too long", flat, `["` + long + `"]`, `{"id":"1","pk":"` + long + `"}`, "400"},
		{"no id", flat, `["a"]`, `{"pk":"a"}`, "400"},
		{"number as id", flat, `["a"]`, `{"id":1,"pk":"a"}`, "400"},
		{"empty id", flat, `["a"]`, `{"id":"","pk":"a"}`, "400"},
		{"longest id", flat, `["a"]`, `{"id":"` + long[:1023] + `","pk":"a"}`, "201"},
		{"id too long", flat, `["a"]`, `{"id":"` + long[:1024] + `","pk":"a"}`, "400"},
		{"id with slash", flat, `["a"]`, `{"id":"x/y","pk":"a"}`, "400"},
		{"id with backslash", flat, `["a"]`, `{"id":"x\\y","pk":"a"}`, "400"},
		{"id with question mark", flat, `["a"]`, `{"id":"x?y","pk":"a"}`, "400"},
		{"id with hash", flat, `["a"]`, `{"id":"x#y","pk":"a"}`, "400"},
		{"id of two dots", flat, `["a"]`, `{"id":"..","pk":"a"}`, "400"},
		{"no JSON", flat, `["a"]`, `{"id":`, "400"},
		{"no object", flat, `["a"]`, `null`, "400"},
		{"no UTF-8", flat, `["a"]`, "{\"id\":\"1\",\"pk\":\"a\",\"x\":\"\xff\"}", "400"},
		{"deepest", flat, `["a"]`, `{"id":"1","pk":"a","x":` + strings.Repeat("[", 127) + strings.Repeat("]", 127) + `}`, "201"},
		{"too deep", flat, `["a"]`, `{"id":"1","pk":"a","x":` + strings.Repeat("[", 128) + strings.Repeat("]", 128) + `}`, "400"},
		{"brackets in text", flat, `["a"]`, `{"id":"1","pk":"a","x":"` + strings.Repeat(`\"[`, 400) + `"}`, "201"},
		{"number beyond double", flat, `["a"]`, `{"id":"1","pk":"a","x":1e400}`, "400"},
		{"largest", flat, `["a"]`, pad(2_000_000), "201"},
		{"too large", flat, `["a"]`, pad(2_000_001), "413"},
		{"request too large", flat, `["a"]`, pad(3 << 20), "413"},
		{"ttl of zero", flat, `["a"]`, `{"id":"1","pk":"a","ttl":0}`, "400"},
		{"ttl as text", flat, `["a"]`, `{"id":"1","pk":"a","ttl":"60"}`, "400"},
		{"ttl of null", flat, `["a"]`, `{"id":"1","pk":"a","ttl":null}`, "400"},
		{"ttl with fraction", flat, `["a"]`, `{"id":"1","pk":"a","ttl":1.5}`, "400"},
		{"ttl without end", flat, `["a"]`, `{"id":"1","pk":"a","ttl":-1}`, "201"},
		{"no such container", "/dbs/Audit/colls/None", `["a"]`, `{"id":"1","pk":"a"}`, "404/1003"},
		{"no such database", "/dbs/None/colls/Flat", `["a"]`, `{"id":"1","pk":"a"}`, "404/1003"},
		{"a path not served", flat + "/sprocs", `["a"]`, `{}`, "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAccount(t, cosmosfake.Options{})
			header := []string{}
			if tt.key != "" {
				header = []string{keyHeader, tt.key}
			}
			a.must(tt.want, "POST", tt.path+"/docs", tt.body, header...)
			if stored := len(a.f.Documents("Flat")) + len(a.f.Documents("Levels")); (stored == 1) != (tt.want == "201") {
				t.Errorf("%d documents stored", stored)
			}
		})
	}
}

// pad returns a document for Flat of n bytes.
func pad(n int) string {
	const head, tail = `{"id":"1","pk":"a","x":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

func TestValuesChangeAsTheServiceChangesThem(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	a.create("201", flat, `["a"]`, `{"id":"1","pk":"a","big":9007199254740993,"dot":1.0,"twice":1,"twice":2,"lone":"\ud800!","_ts":5,"amp":"<&>"}`)
	r := a.must("200", "GET", flat+"/docs/1", "", keyHeader, `["a"]`)
	var got map[string]any
	if err := json.Unmarshal([]byte(r.Body), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"_rid", "_self", "_etag", "_attachments"} {
		if s, _ := got[name].(string); s == "" {
			t.Errorf("%s is missing", name)
		}
		delete(got, name)
	}
	if ts, _ := got["_ts"].(float64); ts < 1e9 {
		t.Errorf("_ts = %v, want the time of the write", got["_ts"])
	}
	delete(got, "_ts")
	equal(t, "document", got, map[string]any{"id": "1", "pk": "a", "big": 9007199254740992.0, "dot": 1.0, "twice": 2.0, "lone": "\ufffd!", "amp": "<&>"})
	for _, text := range []string{`"big":9007199254740992,`, `"dot":1,`, `"amp":"<&>"`} {
		if !strings.Contains(r.Body, text) {
			t.Errorf("%s is not in %s", text, r.Body)
		}
	}
}

func TestReadReplaceUpsertDelete(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	first := a.create("201", flat, `["a"]`, `{"id":"1","pk":"a"}`)
	etag := first.Header.Get("Etag")
	if !strings.Contains(first.Body, `"_etag":"\"`+strings.Trim(etag, `"`)+`\""`) || len(etag) < 3 {
		t.Errorf("ETag %s is not the _etag of %s", etag, first.Body)
	}
	a.create("409", flat, `["a"]`, `{"id":"1","pk":"a"}`)
	a.create("201", flat, `["b"]`, `{"id":"1","pk":"b"}`) // unique within the key only

	second := a.must("200", "PUT", flat+"/docs/1", `{"id":"1","pk":"a","n":2}`, keyHeader, `["a"]`, "If-Match", etag)
	if next := second.Header.Get("Etag"); next == etag || next == "" {
		t.Errorf("ETag after a replace is %q, it was %q", next, etag)
	}
	a.must("412", "PUT", flat+"/docs/1", `{"id":"1","pk":"a","n":3}`, keyHeader, `["a"]`, "If-Match", etag)
	a.must("412", "DELETE", flat+"/docs/1", "", keyHeader, `["a"]`, "If-Match", etag)
	a.must("404", "PUT", flat+"/docs/2", `{"id":"2","pk":"a"}`, keyHeader, `["a"]`)
	a.must("400", "PUT", flat+"/docs/1", `{"id":"2","pk":"a"}`, keyHeader, `["a"]`)
	a.must("404", "GET", flat+"/docs/1", "", keyHeader, `["c"]`)
	a.must("400", "GET", flat+"/docs/x%2Fy", "", keyHeader, `["a"]`)
	if r := a.must("200", "POST", flat+"/docs", `{"id":"1","pk":"a","n":4}`, keyHeader, `["a"]`, "x-ms-documentdb-is-upsert", "true", "Prefer", "return=minimal"); r.Body != "" || r.Header.Get("Etag") == "" {
		t.Errorf("a minimal answer has the body %q and the ETag %q", r.Body, r.Header.Get("Etag"))
	}
	if r := a.must("200", "GET", flat+"/docs/1", "", keyHeader, `["a"]`); !strings.Contains(r.Body, `"n":4`) {
		t.Errorf("document = %s", r.Body)
	}
	a.must("204", "DELETE", flat+"/docs/1", "", keyHeader, `["a"]`)
	a.must("404", "DELETE", flat+"/docs/1", "", keyHeader, `["a"]`)
	equal(t, "documents", a.ids("Flat"), []string{"1"})
	equal(t, "creates", a.f.Count(cosmosfake.Create, "Flat"), 3)
}

func TestBatchIsAtomic(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	op := func(kind, id, pk string) string {
		return fmt.Sprintf(`{"operationType":%q,"id":%q,"resourceBody":{"id":%q,"pk":%q}}`, kind, id, id, pk)
	}
	list := func(ops ...string) string { return "[" + strings.Join(ops, ",") + "]" }
	equal(t, "all new", a.batch("200", `["a"]`, list(op("Create", "1", "a"), op("Upsert", "2", "a"), op("Replace", "1", "a"), op("Read", "1", "a"))), []int{201, 201, 200, 200})
	stored := a.f.Documents("Flat")

	tests := []struct {
		name, body string
		want       []int
	}{
		{"conflict first", list(op("Create", "1", "a"), op("Create", "5", "a"), op("Create", "6", "a")), []int{409, 424, 424}},
		{"conflict in the middle", list(op("Create", "5", "a"), op("Create", "1", "a"), op("Create", "6", "a")), []int{424, 409, 424}},
		{"conflict last", list(op("Create", "5", "a"), op("Upsert", "2", "a"), op("Create", "1", "a")), []int{424, 424, 409}},
		{"conflict within", list(op("Create", "5", "a"), op("Create", "5", "a")), []int{424, 409}},
		{"delete undone", list(op("Delete", "1", "a"), op("Delete", "9", "a")), []int{424, 404}},
		{"another partition", list(op("Create", "5", "a"), op("Create", "6", "b")), []int{424, 400}},
		{"changed", list(op("Create", "5", "a"), `{"operationType":"Replace","id":"1","ifMatch":"\"old\"","resourceBody":{"id":"1","pk":"a"}}`), []int{424, 412}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := account{t, a.f}
			equal(t, "statuses", a.batch("207", `["a"]`, tt.body), tt.want)
			equal(t, "documents", a.f.Documents("Flat"), stored)
		})
	}

	many := make([]string, 101)
	for i := range many {
		many[i] = op("Create", fmt.Sprint("m", i), "a")
	}
	a.batch("400", `["a"]`, list(many...))
	a.batch("200", `["a"]`, list(many[:100]...))
	a.batch("400", `["a"]`, "[]")
	a.batch("400", `["a"]`, list(op("Patch", "1", "a")))
	a.batch("413", `["a"]`, list(`{"operationType":"Create","resourceBody":`+pad(1_999_990)+`}`))
	a.must("400", "POST", flat+"/docs", list(op("Create", "7", "a")), keyHeader, `["a"]`, "x-ms-cosmos-is-batch-request", "True")
}

func TestTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, cosmosfake.Options{})
		a.create("201", flat, `["a"]`, `{"id":"short","pk":"a","ttl":60}`)
		a.create("201", flat, `["a"]`, `{"id":"long","pk":"a"}`)
		time.Sleep(59 * time.Second)
		a.create("409", flat, `["a"]`, `{"id":"short","pk":"a"}`)
		time.Sleep(time.Second)
		equal(t, "documents", a.ids("Flat"), []string{"long"})
		a.must("404", "GET", flat+"/docs/short", "", keyHeader, `["a"]`)
		rows, _ := a.query("200", flat, `["a"]`, "SELECT c.id FROM c")
		equal(t, "rows", rows, []string{`{"id":"long"}`})
		a.create("201", flat, `["a"]`, `{"id":"short","pk":"a"}`)
		a.f.Set(func(s *cosmosfake.Switches) { s.DateOffset = time.Hour })
		r := a.create("201", flat, `["a"]`, `{"id":"later","pk":"a"}`)
		if got, want := r.Header.Get("Date"), time.Now().Add(time.Hour).UTC().Format(http.TimeFormat); got != want {
			t.Errorf("Date = %s, want %s", got, want)
		}
	})
}

func TestContainers(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	master := func(method, path, body string) string {
		a.Helper()
		return a.do(method, path, body, "Authorization", "type%3Dmaster%26ver%3D1.0%26sig%3Dany").Status
	}
	a.must("403/5300", "POST", "/dbs", `{"id":"New"}`)
	a.must("403/5300", "POST", "/dbs/Audit/colls", `{"id":"New"}`)
	equal(t, "database", master("POST", "/dbs", `{"id":"New"}`), "201")
	equal(t, "database again", master("POST", "/dbs", `{"id":"New"}`), "409")
	a.must("200", "GET", "/dbs/New", "")
	a.must("404/1003", "GET", "/dbs/New/colls/C", "")
	tests := []struct{ name, body, want string }{
		{"one level", `{"id":"1","partitionKey":{"paths":["/pk"],"kind":"Hash","version":2}}`, "201"},
		{"three levels", `{"id":"3","partitionKey":{"paths":["/a","/b/c","/d"],"kind":"MultiHash","version":2},"defaultTtl":-1}`, "201"},
		{"again", `{"id":"1","partitionKey":{"paths":["/pk"],"kind":"Hash","version":2}}`, "409"},
		{"four levels", `{"id":"4","partitionKey":{"paths":["/a","/b","/c","/d"],"kind":"MultiHash","version":2}}`, "400"},
		{"levels of version 1", `{"id":"5","partitionKey":{"paths":["/a","/b"],"kind":"MultiHash","version":1}}`, "400"},
		{"levels hashed as one", `{"id":"6","partitionKey":{"paths":["/a","/b"],"kind":"Hash","version":2}}`, "400"},
		{"no key", `{"id":"7"}`, "400"},
		{"path without slash", `{"id":"8","partitionKey":{"paths":["pk"],"kind":"Hash"}}`, "400"},
		{"time to live of zero", `{"id":"9","partitionKey":{"paths":["/pk"],"kind":"Hash"},"defaultTtl":0}`, "400"},
		{"index without root", `{"id":"10","partitionKey":{"paths":["/pk"],"kind":"Hash"},"indexingPolicy":{"automatic":true,"includedPaths":[{"path":"/a/?"}]}}`, "400"},
		{"index path without end", `{"id":"11","partitionKey":{"paths":["/pk"],"kind":"Hash"},"indexingPolicy":{"automatic":true,"includedPaths":[{"path":"/a"}],"excludedPaths":[{"path":"/*"}]}}`, "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			equal(t, "status", master("POST", "/dbs/New/colls", tt.body), tt.want)
		})
	}
	r := a.must("200", "GET", "/dbs/New/colls/3", "")
	var got struct {
		PartitionKey struct{ Paths []string }
		DefaultTTL   int `json:"defaultTtl"`
	}
	if err := json.Unmarshal([]byte(r.Body), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "paths", got.PartitionKey.Paths, []string{"/a", "/b/c", "/d"})
	equal(t, "defaultTtl", got.DefaultTTL, -1)
	a.must("201", "POST", "/dbs/New/colls/3/docs", `{"id":"1","a":"x","b":{"c":"y"},"d":"z"}`, keyHeader, `["x","y","z"]`)
	a.must("403/5300", "DELETE", "/dbs/New/colls/3", "")
	equal(t, "delete", master("DELETE", "/dbs/New/colls/3", ""), "204")
	a.must("404/1003", "GET", "/dbs/New/colls/3", "")

	r = a.must("200", "GET", "", "")
	if !strings.Contains(r.Body, `"databaseAccountEndpoint":"https://fake.documents.example/"`) {
		t.Errorf("account = %s", r.Body)
	}
	a.must("401", "GET", "", "", "Authorization", "")
}

func TestQueries(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	for _, body := range []string{
		`{"id":"1","pk":"a","n":1,"t":"c","in":{"x":"deep"}}`,
		`{"id":"2","pk":"a","n":2,"t":"a"}`,
		`{"id":"3","pk":"a","n":"1","t":"b"}`,
		`{"id":"4","pk":"a","t":"Z"}`,
		`{"id":"5","pk":"a","n":null,"t":"é"}`,
		`{"id":"6","pk":"a"}`,
	} {
		a.create("201", flat, `["a"]`, body)
	}
	a.create("201", flat, `["b"]`, `{"id":"7","pk":"b","n":1}`)

	tests := []struct {
		name, key, sql string
		want           []string
	}{
		{"one partition", `["a"]`, "SELECT c.id FROM c", []string{"1", "2", "3", "4", "5", "6"}},
		{"equal, of one type", `["a"]`, "SELECT c.id FROM c WHERE c.n = @one", []string{"1"}},
		{"range drops other types", `["a"]`, "SELECT c.id FROM c WHERE c.n >= 0", []string{"1", "2"}},
		{"text range by code point", `["a"]`, "SELECT c.id FROM c WHERE c.t >= @a AND c.t < @c", []string{"2", "3"}},
		{"greater and less", `["a"]`, "SELECT c.id FROM c WHERE c.n > 1 AND c.n <= 2", []string{"2"}},
		{"null", `["a"]`, "SELECT c.id FROM c WHERE c.n = null", []string{"5"}},
		{"in", `["a"]`, "SELECT c.id FROM c WHERE c.id IN ('9', '3', \"1\")", []string{"1", "3"}},
		{"in, other property", `["a"]`, "SELECT c.id FROM c WHERE c.t IN (@a, @c)", []string{"1", "2"}},
		{"nested", `["a"]`, "SELECT c.in.x, c.id FROM c WHERE c.in.x = 'deep'", nil}, // IN is reserved
		{"order drops the undefined", `["a"]`, "SELECT c.id FROM c ORDER BY c.t", []string{"4", "2", "3", "1", "5"}},
		{"order descending", `["a"]`, "SELECT c.id FROM c WHERE c.t <= 'b' ORDER BY c.t DESC", []string{"3", "2", "4"}},
		{"order by type, then value", `["a"]`, "SELECT c.id FROM c ORDER BY c.n ASC", []string{"5", "1", "2", "3"}},
		{"across partitions", "", "select c.id from c where c.n = 1", []string{"1", "7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := account{t, a.f}
			if tt.want == nil {
				a.query("400", flat, tt.key, tt.sql)
				return
			}
			var want []string
			for _, id := range tt.want {
				want = append(want, `{"id":"`+id+`"}`)
			}
			rows, next := a.query("200", flat, tt.key, tt.sql)
			equal(t, "rows", rows, want)
			equal(t, "continuation", next, "")
		})
	}
	rows, _ := a.query("200", flat, `["a"]`, "SELECT c.t, c.none FROM c WHERE c.id = '1'")
	equal(t, "a column that the document lacks", rows, []string{`{"t":"c"}`})
}

func TestQueriesRefused(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	tests := []struct{ key, sql, want string }{
		{"", "SELECT c.id FROM c ORDER BY c.id", "400/1004"},
		{"", "SELECT TOP 1 c.id FROM c", "400/1004"},
		{"", "SELECT COUNT(1) FROM c", "400/1004"},
		{"", "SELECT DISTINCT c.id FROM c", "400/1004"},
		{"", "SELECT c.id FROM c GROUP BY c.id", "400/1004"},
		{`["a"]`, "SELECT TOP 1 c.id FROM c", "400"},
		{`["a"]`, "SELECT VALUE c.id FROM c", "400"},
		{`["a"]`, "SELECT c.Value FROM c", "400"},
		{`["a"]`, "SELECT c.id, c.x.id FROM c", "400"},
		{`["a"]`, "SELECT c.id FROM d", "400"},
		{`["a"]`, "SELECT d.id FROM c", "400"},
		{`["a"]`, "SELECT c FROM c", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id = @absent", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id = @list", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id != 'a'", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id <> 'a'", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id = 'a' OR c.id = 'b'", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE NOT c.id = 'a'", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id LIKE 'a'", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id IN ()", "400"},
		{`["a"]`, "SELECT c.id FROM c WHERE c.id = 'a", "400"},
		{`["a"]`, "SELECT c.id FROM c ORDER BY c.a, c.b", "400"},
		{`["a"]`, "SELECT c.id FROM c OFFSET 1 LIMIT 1", "400"},
		{`["a"]`, "SELECT c.id FROM c;", "400"},
		{`["a"]`, "", "400"},
		{`["a","b"]`, "SELECT c.id FROM c", "400/1001"},
	}
	for _, tt := range tests {
		t.Run(tt.sql, func(t *testing.T) {
			account{t, a.f}.query(tt.want, flat, tt.key, tt.sql)
		})
	}
	a.must("400", "POST", flat+"/docs", `{"query":"SELECT * FROM c"}`, "Content-Type", "application/query+json", "x-ms-documentdb-query", "True")
	a.must("201", "POST", "/dbs/Audit/colls", `{"id":"Lean","partitionKey":{"paths":["/pk"],"kind":"Hash","version":2},
		"indexingPolicy":{"automatic":true,"indexingMode":"consistent","includedPaths":[{"path":"/due/?"}],"excludedPaths":[{"path":"/*"}]}}`,
		"Authorization", "type%3Dmaster%26ver%3D1.0%26sig%3Dany")
	a.query("200", "/dbs/Audit/colls/Lean", `["a"]`, "SELECT * FROM c ORDER BY c.due")
	a.query("400", "/dbs/Audit/colls/Lean", `["a"]`, "SELECT * FROM c ORDER BY c.created")
}

func TestPages(t *testing.T) {
	for _, order := range []string{"", " ORDER BY c.n DESC"} {
		for _, empty := range []bool{false, true} {
			t.Run(fmt.Sprint(order, empty), func(t *testing.T) {
				a := newAccount(t, cosmosfake.Options{})
				a.f.Set(func(s *cosmosfake.Switches) { s.PageSize, s.EmptyPages = 2, empty })
				var want []string
				for i := range 7 {
					a.create("201", flat, `["a"]`, fmt.Sprintf(`{"id":"%d","pk":"a","n":%d}`, i, -i/2))
					want = append(want, fmt.Sprintf(`{"id":"%d"}`, i))
				}
				sql := "SELECT c.id FROM c" + order
				rows, next := a.query("200", flat, `["a"]`, sql)
				pages := 1
				for next != "" {
					if pages == 2 {
						// Rows that change or go do not shift those that follow.
						a.must("200", "PUT", flat+"/docs/1", `{"id":"1","pk":"a","n":0}`, keyHeader, `["a"]`)
						a.must("204", "DELETE", flat+"/docs/0", "", keyHeader, `["a"]`)
					}
					var more []string
					more, next = a.query("200", flat, `["a"]`, sql, "x-ms-continuation", next)
					rows = append(rows, more...)
					pages++
				}
				equal(t, "rows", rows, want)
				if wantPages := map[bool]int{false: 4, true: 8}[empty]; pages != wantPages {
					t.Errorf("%d pages, want %d", pages, wantPages)
				}
			})
		}
	}
	a := newAccount(t, cosmosfake.Options{})
	a.f.Set(func(s *cosmosfake.Switches) { s.EmptyPages = true })
	_, next := a.query("200", flat, `["a"]`, "SELECT c.id FROM c")
	a.query("400", flat, `["b"]`, "SELECT c.id FROM c", "x-ms-continuation", next)
	a.query("400", flat, `["a"]`, "SELECT c.id FROM c", "x-ms-continuation", "nonsense")
}

func TestLargePagesAreSplit(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	for i := range 3 {
		a.create("201", flat, `["a"]`, strings.Replace(pad(1_900_000), `"1"`, fmt.Sprintf(`"%d"`, i), 1))
	}
	r := a.must("200", "POST", flat+"/docs", `{"query":"SELECT * FROM c"}`, keyHeader, `["a"]`, "x-ms-max-item-count", "-1",
		"Content-Type", "application/query+json", "x-ms-documentdb-query", "True")
	log := a.f.Log()
	if rows := log[len(log)-1].Rows; rows != 2 || r.Header.Get("x-ms-continuation") == "" {
		t.Errorf("%d rows, want 2 in 4 MB and a continuation", rows)
	}
}

func TestFaults(t *testing.T) {
	type fault = cosmosfake.Fault
	tests := []struct {
		name   string
		fault  fault
		status string // empty: no answer
		stored bool
	}{
		{"throttled", fault{Status: 429, SubStatus: 3200, RetryAfter: "0"}, "429/3200", false},
		{"retry with", fault{Status: 449}, "449", false},
		{"error after the commit", fault{Status: 500, Commit: true}, "500", true},
		{"write region moved", fault{Status: 403, SubStatus: 3}, "403/3", false},
		{"a proxy's page", fault{Status: 502, Body: "<html>"}, "502", false},
		{"reset", fault{Reset: true}, "", false},
		{"committed and lost", fault{Reset: true, Commit: true}, "", true},
		{"refused", fault{Refuse: true}, "", false},
		{"hang", fault{Hang: true}, "", false},
		{"committed, then hang", fault{Hang: true, Commit: true}, "", true},
		{"cut", fault{Cut: 3}, "", true},
		{"slow", fault{Delay: time.Minute}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccount(t, cosmosfake.Options{})
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Create}, From: 2, Fault: tt.fault})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				a.create("201", flat, `["a"]`, `{"id":"before","pk":"a"}`)
				r, err := a.try(ctx, "POST", flat+"/docs", `{"id":"1","pk":"a"}`, keyHeader, `["a"]`)
				if (err == nil) != (tt.status != "") || err == nil && r.Status != tt.status {
					t.Errorf("answer = %s %v, want %q", r.Status, err, tt.status)
				}
				if tt.fault.Body != "" && r.Body != tt.fault.Body {
					t.Errorf("body = %q", r.Body)
				}
				if got := r.Header.Get("x-ms-retry-after-ms"); err == nil && got != tt.fault.RetryAfter {
					t.Errorf("hint = %q", got)
				}
				if hung := errors.Is(err, context.DeadlineExceeded); hung != (tt.fault.Hang || tt.fault.Delay > 0) {
					t.Errorf("error = %v", err)
				}
				if tt.fault.Reset != errors.Is(err, syscall.ECONNRESET) || tt.fault.Refuse != errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("error = %v", err)
				}
				equal(t, "stored", len(a.f.Documents("Flat")) == 2, tt.stored)
				a.create("201", flat, `["a"]`, `{"id":"after","pk":"a"}`)
			})
		})
	}
}

func TestBatchFaults(t *testing.T) {
	const body = `[{"operationType":"Create","resourceBody":{"id":"1","pk":"a"}},
		{"operationType":"Create","resourceBody":{"id":"2","pk":"a"}},
		{"operationType":"Create","resourceBody":{"id":"3","pk":"a"}}]`
	tests := []struct {
		name   string
		fault  cosmosfake.Fault
		want   []int
		stored int
	}{
		{"first", cosmosfake.Fault{Status: 449, Operation: 1}, []int{449, 424, 424}, 0},
		{"middle", cosmosfake.Fault{Status: 429, Operation: cosmosfake.Middle}, []int{424, 429, 424}, 0},
		{"last", cosmosfake.Fault{Status: 413, Operation: cosmosfake.Last}, []int{424, 424, 413}, 0},
		{"short", cosmosfake.Fault{Drop: 1}, []int{201, 201}, 3},
		{"no results", cosmosfake.Fault{Drop: 100}, nil, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAccount(t, cosmosfake.Options{})
			a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Container: "Flat", Fault: tt.fault})
			status := "200"
			if tt.stored == 0 {
				status = "207"
			}
			equal(t, "statuses", a.batch(status, `["a"]`, body), tt.want)
			equal(t, "stored", len(a.f.Documents("Flat")), tt.stored)
		})
	}
}

func TestRulesAndHook(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	a.f.Inject(
		cosmosfake.Rule{Container: "Levels", Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: 503}},
		cosmosfake.Rule{ID: "x", From: 2, Times: 2, Fault: cosmosfake.Fault{Status: 500}},
	)
	a.must("503", "GET", levels, "")
	a.must("503", "GET", levels, "")
	for _, want := range []string{"404", "500", "500", "404"} {
		a.must(want, "GET", flat+"/docs/x", "", keyHeader, `["a"]`)
	}
	a.f.Recover()
	a.must("200", "GET", levels, "")
	a.f.Inject(cosmosfake.Rule{Fault: cosmosfake.Fault{Status: 503}})
	a.f.Inject(cosmosfake.Rule{Fault: cosmosfake.Fault{Status: 500}}) // hits the same call, and comes second
	a.must("200", "GET", "", "")                                      // the account must be named
	a.must("503", "GET", levels, "")
	a.must("200", "GET", levels, "")
	a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Account}, Fault: cosmosfake.Fault{Status: 503}})
	a.must("503", "GET", "", "")
	a.must("200", "GET", "", "")

	var seen cosmosfake.Call
	a.f.Set(func(s *cosmosfake.Switches) {
		s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
			seen = c
			a.f.Count(c.Kind, "") // may use the fake
			if bytes.Contains(c.Body, []byte("poison")) {
				return &cosmosfake.Fault{Status: 400}
			}
			return nil
		}
	})
	a.create("400", flat, `["a"]`, `{"id":"1","pk":"a","x":"poison"}`)
	equal(t, "call", []any{seen.Kind, seen.Container, seen.Key, seen.ID}, []any{cosmosfake.Create, "Flat", `["a"]`, "1"})
	a.create("201", flat, `["a"]`, `{"id":"1","pk":"a"}`)
	log := a.f.Log()
	last := log[len(log)-1]
	equal(t, "log", []any{last.Status, last.Kind, last.N == len(log), last.Charge > 5}, []any{201, cosmosfake.Create, true, true})
}

func TestStale(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	a.create("201", flat, `["a"]`, `{"id":"1","pk":"a","n":1}`)
	a.must("200", "PUT", flat+"/docs/1", `{"id":"1","pk":"a","n":2}`, keyHeader, `["a"]`)
	a.create("201", flat, `["a"]`, `{"id":"2","pk":"a"}`)
	kinds := []cosmosfake.Kind{cosmosfake.Read, cosmosfake.Query}
	for n, want := range [][]string{{`{"n":2}`, `{}`}, {`{"n":2}`}, {`{"n":1}`}, nil} {
		a.f.Inject(cosmosfake.Rule{Kinds: kinds, Fault: cosmosfake.Fault{Stale: n}})
		rows, _ := a.query("200", flat, `["a"]`, "SELECT c.n FROM c")
		equal(t, fmt.Sprint(n, " writes behind"), rows, want)
	}
	a.f.Inject(cosmosfake.Rule{Kinds: kinds, Fault: cosmosfake.Fault{Stale: 1}})
	a.must("404", "GET", flat+"/docs/2", "", keyHeader, `["a"]`)
	a.must("200", "GET", flat+"/docs/2", "", keyHeader, `["a"]`)
	a.create("409", flat, `["a"]`, `{"id":"2","pk":"a"}`)
	equal(t, "documents", a.ids("Flat"), []string{"1", "2"})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, cosmosfake.Options{})
		a.f.Set(func(s *cosmosfake.Switches) { s.Budget = 100 })
		begin, stored := time.Now(), 0
		for stored < 200 {
			r := a.do("POST", flat+"/docs", fmt.Sprintf(`{"id":"%d","pk":"a"}`, stored), keyHeader, `["a"]`)
			switch r.Status {
			case "201":
				stored++
			case "429/3200":
				var ms int
				if _, err := fmt.Sscan(r.Header.Get("x-ms-retry-after-ms"), &ms); err != nil || ms < 1 {
					t.Fatalf("hint = %q", r.Header.Get("x-ms-retry-after-ms"))
				}
				time.Sleep(time.Duration(ms) * time.Millisecond)
			default:
				t.Fatal(r.Status)
			}
		}
		used := a.f.Charge()
		if least := time.Duration((used - 120) / 100 * float64(time.Second)); time.Since(begin) < least {
			t.Errorf("%.0f RU in %v at 100 RU/s", used, time.Since(begin))
		}
		if time.Since(begin) > time.Duration(used/100*1.2*float64(time.Second)) {
			t.Errorf("%.0f RU took %v at 100 RU/s", used, time.Since(begin))
		}
	})
}

func TestServesHTTP(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	server := httptest.NewServer(a.f)
	defer server.Close()
	send := func() (int, string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "type%3Daad%26ver%3D1.0%26sig%3Dtoken")
		resp, err := server.Client().Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	status, body, err := send()
	if err != nil || status != 200 || !strings.Contains(body, `"`+server.URL+`/"`) {
		t.Errorf("account = %d %s %v", status, body, err)
	}
	kinds := []cosmosfake.Kind{cosmosfake.Account}
	a.f.Inject(cosmosfake.Rule{Kinds: kinds, Fault: cosmosfake.Fault{Cut: 5}})
	if status, body, err = send(); status != 200 || len(body) != 5 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut answer = %d %q %v", status, body, err)
	}
	// A client may send a GET again by itself, so the break lasts.
	a.f.Inject(cosmosfake.Rule{Kinds: kinds, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Reset: true}})
	if _, _, err = send(); err == nil {
		t.Error("a broken connection gave an answer")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("POST", "/docs", `["a"]`, `{"id":"1","pk":"a"}`, "")
	f.Add("POST", "/docs", `["a"]`, `{"query":"SELECT c.id FROM c WHERE c.id IN (@a) ORDER BY c.n","parameters":[{"name":"@a","value":1}]}`, "x-ms-documentdb-query")
	f.Add("POST", "/docs", `["a"]`, `[{"operationType":"Create","resourceBody":{"id":"1","pk":"a"}}]`, "x-ms-cosmos-is-batch-request")
	f.Add("PUT", "/docs/%2e%2e", `[{}]`, `{"id":"..","pk":{}}`, "x")
	f.Fuzz(func(t *testing.T, method, path, key, body, flag string) {
		a := newAccount(t, cosmosfake.Options{})
		req, err := http.NewRequestWithContext(t.Context(), method, "https://fake.documents.example"+flat+path, strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		req.Header = http.Header{
			"Authorization": {"type=aad&ver=1.0&sig=x"}, http.CanonicalHeaderKey(keyHeader): {key}, http.CanonicalHeaderKey(flag): {"true"},
			"Content-Type": {"application/query+json"}, "X-Ms-Cosmos-Batch-Atomic": {"True"},
		}
		resp, err := a.f.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		for _, d := range a.f.Documents("Flat") {
			if !json.Valid(d.Body) || d.ID == "" {
				t.Errorf("stored %q", d.Body)
			}
		}
	})
}
