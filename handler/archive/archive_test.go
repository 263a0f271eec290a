package archive

import (
	"strings"
	"testing"

	"activityarchive/handler/cosmos"
	"activityarchive/handler/record"
)

// The package's behaviour against Cosmos DB is tested in the lab
// (handler/lab/cosmosfake, handler/lab/contract); here is what needs none.

func TestKey(t *testing.T) {
	tests := []struct {
		name, raw string
		want      cosmos.Key // with two levels; empty: the record can have none
	}{
		{"plain", `{"UserId":"user017@harbor.example","CreationTime":"2026-03-11T09:12:31"}`, `["user017@harbor.example","2026-03-11T09"]`},
		{"case is kept", `{"UserId":"User017@Harbor.Example","CreationTime":"2026-03-11T09:12:31Z"}`, `["User017@Harbor.Example","2026-03-11T09"]`},
		{"absent", `{"CreationTime":"2026-03-11T09:12:31"}`, `[{},"2026-03-11T09"]`},
		{"null", `{"UserId":null,"CreationTime":"2026-03-11T09:12:31"}`, `[null,"2026-03-11T09"]`},
		{"empty", `{"UserId":""}`, `["","unknown"]`},
		{"number", `{"UserId":-1.5}`, `[-1.5,"unknown"]`},
		{"bool", `{"UserId":true}`, `[true,"unknown"]`},
		{"emoji", `{"UserId":"😀"}`, `["\ud83d\ude00","unknown"]`},
		{"control", `{"UserId":"\u0007\u007f\n"}`, `["\u0007\u007f\u000a","unknown"]`},
		{"lone surrogate, as stored", `{"UserId":"\ud83d"}`, `["\ufffd","unknown"]`},
		{"object", `{"UserId":{"a":1}}`, ""},
		{"array", `{"UserId":[]}`, ""},
		{"2,048 bytes", `{"UserId":"` + strings.Repeat("x", 2048) + `"}`, cosmos.Key(`["` + strings.Repeat("x", 2048) + `","unknown"]`)},
		{"2,049 bytes", `{"UserId":"` + strings.Repeat("x", 2049) + `"}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, paths := range [][]string{{userPath, hourPath}, {userPath}} {
				a := &Archive{}
				a.paths.Store(&paths)
				r, err := record.Parse([]byte(tt.raw))
				if err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if len(paths) == 1 && want != "" {
					want = want[:strings.LastIndexByte(string(want), ',')] + "]"
				}
				got, err := a.key(&r)
				if got != want || (err == nil) != (want != "") {
					t.Errorf("key of %v = %s, %v; want %s", paths, got, err, want)
				}
			}
		})
	}
}

// A document that is too large is refused before it is sent.
func TestDocumentSize(t *testing.T) {
	paths := []string{userPath}
	a := &Archive{}
	a.paths.Store(&paths)
	build := func(filler string) (*Document, error) {
		raw := []byte(`{"UserId":"u","text":"` + filler + `"}`)
		r, err := record.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return a.Document(&r, raw, record.Meta{Content: "c", Type: "Audit.General", Day: "2026-03-11"})
	}
	if _, err := build(strings.Repeat("x", 1_990_000)); err != nil {
		t.Errorf("1.99 MB: %v", err)
	}
	if _, err := build(strings.Repeat("x", 2_000_000)); err == nil {
		t.Error("more than 2 MB is not refused")
	}
}
