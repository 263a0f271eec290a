package cosmosfake_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"activityarchive/handler/lab/cosmosfake"
)

// operations is a batch of n creates.
func operations(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`{"operationType":"Create","resourceBody":{"id":"d%d","pk":"a","text":%q}}`, i, pad(3000))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// A canned container charges what a real one does and keeps nothing.
func TestCanned(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	const n = 40
	if got := a.batch("200", `["a"]`, operations(n)); len(got) != n || slices.ContainsFunc(got, func(s int) bool { return s != 201 }) {
		t.Fatalf("statuses = %v, want %d times 201", got, n)
	}
	honest := a.f.Charge()
	equal(t, "documents", len(a.f.Documents("Flat")), n)

	a.f.Set(func(s *cosmosfake.Switches) { s.Canned = "Flat" })
	if got := a.batch("200", `["a"]`, operations(n)); len(got) != n || slices.ContainsFunc(got, func(s int) bool { return s != 201 }) {
		t.Errorf("canned statuses = %v, want %d times 201: nothing is looked at", got, n)
	}
	equal(t, "documents after the canned batch", len(a.f.Documents("Flat")), n)
	// Everything is indexed here, so a document costs 0.4 RU for each of its eight
	// values, the account's own included; unseen it has one.
	want := honest - n*7*0.4
	if charge := a.f.Charge() - honest; charge < want*0.98 || charge > want*1.02 {
		t.Errorf("the canned batch cost %.1f RU, want about %.1f", charge, want)
	}
	log := a.f.Log()
	equal(t, "operations in the log", log[len(log)-1].Operations, n)
	a.batch("400", `["a"]`, operations(101))
	a.batch("400", `["a"]`, "[]")

	a.create("201", flat, `["a"]`, `{"id":"alone","pk":"a"}`)
	equal(t, "documents after a create", len(a.f.Documents("Flat")), n+1)
}

// Loaded documents are like any others.
func TestLoad(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	err := a.f.Load("Audit", "Flat", func(yield func(cosmosfake.Document) bool) {
		for i := range 3 {
			id := "d" + strconv.Itoa(i)
			if !yield(cosmosfake.Document{Key: `["a"]`, ID: id, Body: fmt.Appendf(nil, `{"id":%q,"pk":"a","n":%d}`, id, i)}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.f.Load("Audit", "None", nil); err == nil {
		t.Error("documents were loaded into a container that does not exist")
	}
	rows, _ := a.query("200", flat, `["a"]`, "SELECT c.id, c.n FROM c WHERE c.n >= @one ORDER BY c.n DESC")
	equal(t, "rows", rows, []string{`{"id":"d2","n":2}`, `{"id":"d1","n":1}`})
	r := a.must("200", "GET", flat+"/docs/d1", "", keyHeader, `["a"]`)
	var d struct {
		ETag string `json:"_etag"`
	}
	if err := json.Unmarshal([]byte(r.Body), &d); err != nil || d.ETag == "" || d.ETag != r.Header.Get("Etag") {
		t.Fatalf("read %s with ETag %s, %v: want the same ETag in both", r.Body, r.Header.Get("Etag"), err)
	}
	a.must("412", "PUT", flat+"/docs/d1", `{"id":"d1","pk":"a"}`, keyHeader, `["a"]`, "If-Match", `"other"`)
	a.must("200", "PUT", flat+"/docs/d1", `{"id":"d1","pk":"a"}`, keyHeader, `["a"]`, "If-Match", d.ETag)
	a.create("409", flat, `["a"]`, `{"id":"d2","pk":"a"}`)
}

// The list of what is open follows every write, and its loss.
func TestOpenDocuments(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{})
	const sql = "SELECT c.id FROM c WHERE c.open = @one"
	want := func(what string, ids ...string) {
		t.Helper()
		for _, key := range []string{"", `["a"]`} {
			rows, _ := a.query("200", flat, key, sql)
			got := []string{}
			for _, row := range rows {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(row, `{"id":"`), `"}`))
			}
			equal(t, what+", partition "+key, got, ids)
		}
	}
	a.create("201", flat, `["a"]`, `{"id":"x","pk":"a","open":1}`)
	want("one was there before the first query", "x")
	a.create("201", flat, `["a"]`, `{"id":"y","pk":"a","open":1}`)
	a.create("201", flat, `["a"]`, `{"id":"z","pk":"a"}`)
	a.create("201", flat, `["a"]`, `{"id":"two","pk":"a","open":2}`)
	want("a second", "x", "y")
	a.must("200", "PUT", flat+"/docs/x", `{"id":"x","pk":"a"}`, keyHeader, `["a"]`)
	want("the first is closed", "y")
	a.must("200", "PUT", flat+"/docs/x", `{"id":"x","pk":"a","open":1}`, keyHeader, `["a"]`)
	want("and open again, where it was", "x", "y")
	a.must("204", "DELETE", flat+"/docs/y", "", keyHeader, `["a"]`)
	want("the second is gone", "x")
	a.batch("207", `["a"]`, `[{"operationType":"Create","resourceBody":{"id":"w","pk":"a","open":1}},{"operationType":"Create","resourceBody":{"id":"x","pk":"a"}}]`)
	want("a batch was rolled back", "x")

	a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, Times: 2, Fault: cosmosfake.Fault{Stale: 1}})
	want("a replica does not know of the deletion", "x", "y")
	want("the next does", "x")
}
