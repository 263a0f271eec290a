package reconcile

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	first  = Content{"Audit.General", "content$1", time.Date(2026, 3, 11, 9, 30, 0, 0, time.UTC)}
	second = Content{"Audit.General", "content$2", time.Date(2026, 3, 12, 0, 10, 0, 0, time.UTC)}
)

const (
	idA = "5e0c1a70-0000-4000-8000-00000000000a"
	idB = "5e0c1a70-0000-4000-8000-00000000000b"
)

func text(id string, more string) string {
	return fmt.Sprintf(`{"Id":%q,"CreationTime":"2026-03-11T09:10:11","UserId":"User017@Harbor.example","RecordType":21%s}`, id, more)
}

// document is what an archive makes of a record without anything odd in it.
func document(c Content, raw string) map[string]any {
	sum := hash([]byte(raw))
	doc := map[string]any{}
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		panic(err)
	}
	doc["id"] = documentID([]byte(raw), sum)
	doc["archive"] = map[string]any{
		"v": 1, "content": c.entry(), "type": c.Type, "day": c.Created.Format(time.DateOnly),
		"hour": "2026-03-11T09", "user": "user017@harbor.example", "sha256": sum,
	}
	for _, name := range system {
		doc[name] = "set by the service"
	}
	return doc
}

func entry(c Content, state string, open int) map[string]any {
	return map[string]any{"id": c.entry(), "kind": "entry", "state": state, "open": open}
}

func letter(c Content, element, chunk int, data string) map[string]any {
	return map[string]any{
		"id": fmt.Sprint(element, chunk), "kind": "dead", "content": c.entry(), "element": element, "chunk": chunk,
		"data": base64.StdEncoding.EncodeToString([]byte(data)),
	}
}

func feed(t *testing.T, docs ...map[string]any) iter.Seq2[json.RawMessage, error] {
	t.Helper()
	return func(yield func(json.RawMessage, error) bool) {
		for _, doc := range docs {
			raw, err := json.Marshal(doc)
			if err != nil {
				t.Error(err)
			}
			if !yield(raw, nil) {
				return
			}
		}
	}
}

func TestCheck(t *testing.T) {
	a, b := text(idA, ""), text(idB, `,"n":1.50`)
	variant := text(idA, `,"Operation":"other"`)
	noise := text("5e0c1a70-0000-4000-8000-00000000000c", "")
	publish := func() *Published {
		p := New()
		p.Add(first, []byte(a), Archived)
		p.Add(first, []byte(noise), Filtered)
		p.Add(second, []byte(a), Archived)
		p.Add(second, []byte(b), Archived)
		p.Add(second, []byte(variant), Archived)
		return p
	}
	docs := func() []map[string]any { return []map[string]any{document(first, a), document(second, b)} }
	ledger := func() []map[string]any {
		return []map[string]any{
			entry(first, "stored", 0), entry(second, "stored", 0),
			letter(second, 2, 1, variant[20:]), letter(second, 2, 0, variant[:20]),
		}
	}

	tests := []struct {
		name   string
		damage func(docs, ledger []map[string]any) ([]map[string]any, []map[string]any)
		want   []string // What and ID of each fault
	}{
		{"whole", func(d, l []map[string]any) ([]map[string]any, []map[string]any) { return d, l }, nil},
		{"dropped", func(d, l []map[string]any) ([]map[string]any, []map[string]any) { return d[:1], l }, []string{Missing + " " + idB}},
		{"value changed", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["n"] = 1.25
			return d, l
		}, []string{Altered + " " + idB}},
		{"member added", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["m"] = 1
			return d, l
		}, []string{Altered + " " + idB}},
		{"member left out", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			delete(d[1], "RecordType")
			return d, l
		}, []string{Altered + " " + idB}},
		{"hash changed", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["archive"].(map[string]any)["sha256"] = "00"
			return d, l
		}, []string{Altered + " " + idB}},
		{"other content named", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["archive"].(map[string]any)["content"] = first.entry()
			return d, l
		}, []string{Altered + " " + idB}},
		{"stamp wrong", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["archive"].(map[string]any)["user"] = "User017@Harbor.example"
			return d, l
		}, []string{Altered + " " + idB}},
		{"doubled under another id", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			twin := document(second, b)
			twin["id"] = "twin"
			return append(d, twin), l
		}, []string{Doubled + " " + idB}},
		{"the twin comes first", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			twin := document(second, b)
			twin["id"] = "twin"
			return append([]map[string]any{twin}, d...), l
		}, []string{Doubled + " " + idB}},
		{"under another id", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			d[1]["id"] = "other"
			return d, l
		}, []string{Altered + " " + idB}},
		{"never published", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			return append(d, document(first, text("5e0c1a70-0000-4000-8000-00000000000d", ""))), l
		}, []string{Extra + " 5e0c1a70-0000-4000-8000-00000000000d"}},
		{"noise archived", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			return append(d, document(first, noise)), l
		}, []string{Extra + " 5e0c1a70-0000-4000-8000-00000000000c"}},
		{"conflict lost", func(d, l []map[string]any) ([]map[string]any, []map[string]any) { return d, l[:2] }, []string{Missing + " " + idA}},
		{"conflict cut", func(d, l []map[string]any) ([]map[string]any, []map[string]any) { return d, l[:3] }, []string{Extra + " ", Missing + " " + idA}},
		{"conflict archived too", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			return append(d, document(second, variant)), l
		}, []string{Doubled + " " + idA, Doubled + " " + idA}},
		{"entry open", func(d, l []map[string]any) ([]map[string]any, []map[string]any) {
			l[0]["state"], l[0]["open"] = "pending", 1
			return d, l
		}, []string{Unfinished + " "}},
		{"entry absent", func(d, l []map[string]any) ([]map[string]any, []map[string]any) { return d, l[1:] }, []string{Unfinished + " "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, l := tt.damage(docs(), ledger())
			r, err := publish().Check(feed(t, d...), feed(t, l...))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Faults {
				got = append(got, f.What+" "+f.ID)
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("faults = %q, want %q", r.Faults, tt.want)
			}
		})
	}

	r, err := publish().Check(feed(t, docs()...), feed(t, ledger()...))
	if err != nil {
		t.Fatal(err)
	}
	want := Report{Contents: 2, Records: 5, Filtered: 1, Duplicates: 1, Conflicts: 1, Wanted: 2, Stored: 2, Dead: 1}
	if fmt.Sprint(r) != fmt.Sprint(want) {
		t.Errorf("report = %+v, want %+v", r, want)
	}
}

// TestOriginal: a record that a document cannot hold needs its text beside it.
func TestOriginal(t *testing.T) {
	tests := []struct {
		name string
		raw  string
		edit func(doc map[string]any) // what Cosmos DB and the archive make of it
	}{
		{"number beyond a double", text(idA, `,"n":9007199254740993`), func(d map[string]any) { d["n"] = 9007199254740992 }},
		{"number beyond its range", text(idA, `,"n":1e999`), func(d map[string]any) { d["n"] = nil }},
		{"name twice", text(idA, `,"o":{"x":1,"x":2}`), func(map[string]any) {}},
		{"half a surrogate pair", text(idA, `,"s":"\ud83d"`), func(map[string]any) {}},
		{"member of its own called ttl", text(idA, `,"ttl":1`), func(d map[string]any) { delete(d, "ttl") }},
		{"member of its own called id", text(idA, `,"id":"x"`), func(map[string]any) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, original := range []any{tt.raw, nil, tt.raw + " "} {
				p := New()
				p.Add(first, []byte(tt.raw), Archived)
				doc := document(first, tt.raw)
				tt.edit(doc)
				if original != nil {
					doc["archive"].(map[string]any)["original"] = original
				}
				r, err := p.Check(feed(t, doc), feed(t, entry(first, "stored", 0)))
				if err != nil {
					t.Fatal(err)
				}
				if good := original == tt.raw; good != (len(r.Faults) == 0) {
					t.Errorf("original %v: faults = %v", original, r.Faults)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	const raw = `"no object"`
	for _, buried := range []bool{true, false} {
		p := New()
		p.Add(first, []byte(raw), Refused)
		ledger := []map[string]any{entry(first, "stored", 0)}
		if buried {
			ledger = append(ledger, letter(first, 0, 0, raw))
		}
		r, err := p.Check(feed(t), feed(t, ledger...))
		if err != nil {
			t.Fatal(err)
		}
		if buried != (len(r.Faults) == 0) {
			t.Errorf("buried %v: faults = %v", buried, r.Faults)
		}
	}
}

func TestCheckReportsReadErrors(t *testing.T) {
	broken := func(yield func(json.RawMessage, error) bool) { yield(nil, errors.New("cut")) }
	if _, err := New().Check(broken, feed(t)); err == nil {
		t.Error("archive's error was lost")
	}
	if _, err := New().Check(feed(t), broken); err == nil {
		t.Error("ledger's error was lost")
	}
}

func TestDecimal(t *testing.T) {
	equal := [][]string{
		{"0", "-0", "0.00", "0e9"},
		{"1", "1.0", "10e-1", "0.1E1", "1e+0"},
		{"-1200", "-1.2e3", "-1200.000"},
		{"1e999999999999999999999", "10e999999999999999999998"},
		{"9007199254740993"},
		{"9007199254740992"},
		{"0.1"},
		{"0.10000000000000001"},
	}
	for i, group := range equal {
		for j, other := range equal {
			for _, a := range group {
				for _, b := range other {
					if got := decimal(a) == decimal(b); got != (i == j) {
						t.Errorf("%s and %s equal: %v", a, b, got)
					}
				}
			}
		}
	}
}

func TestLoneSurrogate(t *testing.T) {
	for text, want := range map[string]bool{
		`"plain"`: false, `"\ud83d\ude00"`: false, `"\\ud83d"`: false, `"\u00e9"`: false,
		`"\ud83d"`: true, `"\ude00"`: true, `"\ud83dx\ude00"`: true, `"\ud83d\ud83d\ude00"`: true, `"\ud83d\n"`: true, `"\\\ud83d"`: true,
	} {
		if got := loneSurrogate([]byte(text)); got != want {
			t.Errorf("loneSurrogate(%s) = %v", text, got)
		}
	}
}
