package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/lab/tenant"
)

const repository = "../../.."

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   figure
	}{
		{nil, figure{}},
		{[]float64{3}, figure{3, 3, 3, 1}},
		{[]float64{9, 1}, figure{5, 1, 9, 2}},
		{[]float64{5, 1, 9}, figure{5, 1, 9, 3}},
		{[]float64{4, 1, 9, 2, 7}, figure{4, 1, 9, 5}},
	} {
		if diff := cmp.Diff(tt.want, median(tt.values)); diff != "" {
			t.Errorf("median(%v), -want +got:\n%s", tt.values, diff)
		}
	}
}

func TestPercentile(t *testing.T) {
	var values []float64
	for i := range 200 {
		values = append(values, float64(200-i))
	}
	for percent, want := range map[int]float64{50: 100, 99: 198, 100: 200} {
		if got := percentile(values, percent); got != want {
			t.Errorf("percentile(%d) = %v, want %v", percent, got, want)
		}
	}
	if got := percentile([]float64{7}, 99); got != 7 {
		t.Errorf("percentile of one value = %v, want it", got)
	}
}

func TestVerdicts(t *testing.T) {
	twice := against("x", "y", []float64{1, 4, 4}, []float64{2})
	if twice.Ratio != 2 || twice.Baseline.Median != 2 || twice.Value.Median != 4 {
		t.Errorf("against = %+v, want 4 against 2", twice)
	}
	for _, tt := range []struct {
		name string
		row  row
		want string
	}{
		{"no target", alone("x", "y", 4), stated},
		{"at least, met exactly", alone("x", "y", 4).atLeast(4), yes},
		{"at least, missed", alone("x", "y", 3.9).atLeast(4), no},
		{"at most, met exactly", alone("x", "y", 4).atMost(4), yes},
		{"at most, missed", alone("x", "y", 4.1).atMost(4), no},
		{"the median counts", alone("x", "y", 1, 4, 99).atMost(4), yes},
		{"ratio at least, met", twice.ratioAtLeast(2), yes},
		{"ratio at least, missed", twice.ratioAtLeast(2.1), no},
		{"ratio at most, met", twice.ratioAtMost(2), yes},
		{"ratio at most, missed", twice.ratioAtMost(1.9), no},
		{"a baseline of nothing meets nothing", against("x", "y", []float64{1}, []float64{0}).ratioAtMost(9), no},
	} {
		if tt.row.Met != tt.want {
			t.Errorf("%s: met is %q, want %q", tt.name, tt.row.Met, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	printTable(&out, []row{
		against("latency", "contents/s", []float64{400, 410, 420}, []float64{18.123}).ratioAtLeast(20),
		alone("start", "ms", 5.4321).atMost(50),
	})
	want := `| case    | measure         | value            | baseline | ratio | target            | met |
|---      |---              |---               |---       |---    |---                |---  |
| latency | contents/s, n=3 | 410 (400 to 420) | 18.1     | 22.6  | ratio at least 20 | yes |
| start   | ms, n=1         | 5.43             |          |       | at most 50        | yes |
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table, -want +got:\n%s", diff)
	}
}

// Every record of the source is its own, however many contents there are, and a
// content is what the tenant serves as JSON.
func TestSource(t *testing.T) {
	s := newSource(time.Now())
	w := tenant.New(tenant.Config{Origin: "https://lab.example"})
	seen := map[string]bool{}
	const contents, records = 3, 2*templates + 7
	for _, c := range s.publish(w, contents, records, time.Minute) {
		var body bytes.Buffer
		if _, err := c.WriteTo(&body); err != nil {
			t.Fatal(err)
		}
		var list []struct{ ID, UserID, CreationTime string }
		if err := json.Unmarshal(body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != records {
			t.Fatalf("the content has %d records, want %d", len(list), records)
		}
		for i, r := range list {
			if len(r.ID) != 36 || seen[r.ID] {
				t.Fatalf("record %d has the Id %q, which is no GUID or was there before", i, r.ID)
			}
			seen[r.ID] = true
			if r.UserID != userOf(i) || !strings.HasPrefix(r.CreationTime, s.hour) {
				t.Fatalf("record %d is of %s at %s, want %s in %s", i, r.UserID, r.CreationTime, userOf(i), s.hour)
			}
		}
	}
	user, document := s.document(9, 42)
	var d struct {
		Lower   string `json:"id"`
		ID      string `json:"Id"`
		Archive struct{ Hour string }
	}
	if err := json.Unmarshal(document, &d); err != nil || d.Lower != d.ID || d.Archive.Hour != s.hour || user != userOf(42) {
		t.Errorf("document = %+v of %s, %v", d, user, err)
	}
}

func TestUnknownCase(t *testing.T) {
	err := run(t.Context(), options{Case: "nothing", Out: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "latency") {
		t.Errorf("run: %v, want an error that names the cases", err)
	}
}

// One tiny run of each kind of measuring, with the built handler between the
// listeners. What it says about speed is nothing.
func TestRuns(t *testing.T) {
	app := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(app, "handler", "handler"), "./handler")
	build.Dir = repository
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build handler: %v\n%s", err, out)
	}
	host, err := os.ReadFile(filepath.Join(repository, "host.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(app, "host.json"), host, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("crowd", func(t *testing.T) {
		t.Parallel()
		b := &bench{root: app, handler: filepath.Join(app, "handler", "handler"), out: t.TempDir(), reps: 1, share: 1}
		if _, err := b.crowd(t.Context(), 24); err != nil {
			t.Error(err)
		}
	})
	for name, rows := range map[string]int{"bound": 5, "requests": 2, "idle": 2, "start": 1, "webhook": 3, "ledger": 6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := t.TempDir()
			if err := run(t.Context(), options{App: app, Case: name, Out: out, Reps: 1, Share: 0.01}); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(out, name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var list []row
			if err := json.Unmarshal(text, &list); err != nil {
				t.Fatal(err)
			}
			if len(list) != rows {
				t.Fatalf("results hold %d rows, want %d:\n%s", len(list), rows, text)
			}
			for _, r := range list {
				if r.Case != name || r.Measure == "" || r.Target == "" || r.Met == "" || r.Value.N == 0 || r.Baseline != nil && r.Baseline.Median == 0 {
					t.Errorf("row is not whole: %+v", r)
				}
			}
		})
	}
}
