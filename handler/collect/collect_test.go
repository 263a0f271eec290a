package collect

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
)

// The package's behaviour against the service and Cosmos DB is tested in the lab
// (handler/lab/loss); here are its decisions.

func TestHopeless(t *testing.T) {
	created := time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)
	e := ledger.NewEntry("Audit.General", "id", "uri", created, created, ledger.ByListing, created)
	api := func(kind activity.Kind) error { return &activity.Fault{Kind: kind, Err: errors.New("x")} }
	ends := e.LifeEnds()
	tests := []struct {
		name string
		err  error
		now  time.Time
		late time.Time // of the first failure after its life
		want bool
	}{
		{"refused early", api(activity.Gone), created.Add(time.Hour), time.Time{}, false},
		{"refused to the last moment", api(activity.Gone), ends, time.Time{}, false},
		{"refused after its life", api(activity.Gone), ends.Add(time.Second), time.Time{}, true},
		{"untrusted after its life", api(activity.Untrusted), ends.Add(time.Second), time.Time{}, true},
		{"a passing fault after its life", api(activity.Transient), ends.Add(time.Hour), ends.Add(time.Minute), false},
		{"a passing fault that does not pass", api(activity.Transient), ends.Add(25 * time.Hour), ends.Add(time.Hour), true},
		{"a first fault long after its life", api(activity.Transient), ends.Add(100 * time.Hour), time.Time{}, false},
		{"a fault noted by a clock that was ahead", api(activity.Transient), ends.Add(25 * time.Hour), ends.Add(200 * time.Hour), false},
		{"no permission, for days", api(activity.Denied), ends.Add(time.Hour), ends.Add(time.Minute), false},
		{"a body that is always cut", errors.New("content cut short"), ends.Add(25 * time.Hour), ends.Add(time.Hour), true},
		{"Cosmos DB down, for weeks", &cosmos.Fault{Err: errors.New("x")}, ends.Add(1000 * time.Hour), ends.Add(time.Hour), false},
		{"Cosmos DB down, wrapped", fmt.Errorf("saving: %w", &cosmos.Fault{Err: errors.New("x")}), ends.Add(1000 * time.Hour), ends.Add(time.Hour), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e.Late = ledger.At(tt.late)
			if tt.late.IsZero() {
				e.Late = ledger.Stamp{}
			}
			if got := hopeless(tt.err, &e, tt.now); got != tt.want {
				t.Errorf("hopeless = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	denied := &activity.Fault{Kind: activity.Denied, Err: errors.New("x")}
	missing := &cosmos.Fault{Kind: cosmos.Missing, Err: errors.New("x")}
	unsaved := &cosmos.Fault{Kind: cosmos.Transient, Err: errors.New("x")}
	type result struct {
		contentType string
		err         error
		open        int // after it
	}
	many := func(n int, results ...result) (list []result) {
		for range n {
			list = append(list, results...)
		}
		return list
	}
	one, other := result{"Audit.General", denied, 1}, result{"DLP.All", denied, 1}
	good, open := result{"Audit.General", nil, 0}, result{"Audit.General", nil, 1}
	tests := []struct {
		name    string
		results []result
		fatal   bool   // the run ends at once
		skipped string // this content type is not tried any more
		fails   bool   // the run is a failure
	}{
		{"all well", many(100, good), false, "", false},
		{"one refused among many", many(20, one, good), false, "", false},
		{"nine in a row", many(9, one), false, "", false},
		{"ten in a row", many(10, one), false, "Audit.General", true},
		{"one type refused, another not", many(10, other, good), false, "DLP.All", false},
		{"one type refused, nothing settled of another", many(10, other, open), false, "DLP.All", true},
		{"container missing", []result{good, {"Audit.General", missing, 1}, good}, true, "", false},
		{"the ledger cannot be written", many(10, result{"Audit.General", unsaved, 1}), true, "", true},
		{"the ledger now and then", many(20, result{"Audit.General", unsaved, 1}, result{"DLP.All", nil, 0}), false, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := verdict{left: map[string]bool{}, inRow: map[string]int{}, refused: map[string]error{}}
			for i, r := range tt.results {
				v.note(&ledger.Entry{ID: fmt.Sprint(i), ContentType: r.contentType, Open: r.open}, r.err)
			}
			if got := v.end(); (got != nil) != tt.fatal {
				t.Errorf("end = %v, want one: %v", got, tt.fatal)
			}
			for _, contentType := range []string{"Audit.General", "DLP.All"} {
				e := ledger.Entry{ID: "new", ContentType: contentType, Open: 1}
				if got := v.skips(&e); got != (contentType == tt.skipped) {
					t.Errorf("%s is skipped: %v", contentType, got)
				}
			}
			if got := v.outcome(); !tt.fatal && (got != nil) != tt.fails {
				t.Errorf("outcome = %v, want a failure: %v", got, tt.fails)
			}
		})
	}
}

// Windows meet, cover everything, and none is longer than asked for.
func TestSplit(t *testing.T) {
	from := time.Date(2026, 3, 11, 9, 45, 7, 0, time.UTC)
	for _, length := range []time.Duration{0, time.Second, time.Hour, 61 * time.Minute, 7*24*time.Hour - 10*time.Minute} {
		at := from
		for _, windows := range split(span{from, from.Add(length)}, time.Hour) {
			if len(windows) == 0 || len(windows) > spanWindows {
				t.Errorf("%v: %d windows share a look", length, len(windows))
			}
			for _, w := range windows {
				if !w.from.Equal(at) || !w.to.After(w.from) || w.to.Sub(w.from) > time.Hour {
					t.Errorf("%v: window from %v to %v, expected from %v", length, w.from, w.to, at)
				}
				at = w.to
			}
		}
		if !at.Equal(from.Add(length)) {
			t.Errorf("%v: covered up to %v", length, at.Sub(from))
		}
	}
}

// Foreign texts are the keys, so there must be an end to them.
func TestCountIsBounded(t *testing.T) {
	var m map[string]int
	for i := range 10 * maxKinds {
		count(&m, fmt.Sprint(i), 1)
	}
	sum := 0
	for _, n := range m {
		sum += n
	}
	if len(m) > maxKinds+1 || sum != 10*maxKinds || m["other"] == 0 {
		t.Errorf("%d keys with a sum of %d", len(m), sum)
	}
}
