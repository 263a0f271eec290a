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
		want bool
	}{
		{"refused early", api(activity.Gone), created.Add(time.Hour), false},
		{"refused to the last moment", api(activity.Gone), ends, false},
		{"refused after its life", api(activity.Gone), ends.Add(time.Second), true},
		{"untrusted after its life", api(activity.Untrusted), ends.Add(time.Second), true},
		{"a passing fault after its life", api(activity.Transient), ends.Add(time.Hour), false},
		{"a passing fault that does not pass", api(activity.Transient), ends.Add(25 * time.Hour), true},
		{"no permission, for days", api(activity.Denied), ends.Add(time.Hour), false},
		{"a body that is always cut", errors.New("content cut short"), ends.Add(25 * time.Hour), true},
		{"Cosmos DB down, for weeks", &cosmos.Fault{Err: errors.New("x")}, ends.Add(1000 * time.Hour), false},
		{"Cosmos DB down, wrapped", fmt.Errorf("saving: %w", &cosmos.Fault{Err: errors.New("x")}), ends.Add(1000 * time.Hour), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hopeless(tt.err, &e, tt.now); got != tt.want {
				t.Errorf("hopeless = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	one := &activity.Fault{Kind: activity.Denied, Err: errors.New("x")}
	missing := &cosmos.Fault{Kind: cosmos.Missing, Err: errors.New("x")}
	tests := []struct {
		name    string
		results []error
		ends    bool
	}{
		{"all well", make([]error, 100), false},
		{"one refused among many", []error{nil, one, nil, one, nil, one, nil, one, nil, one, nil, one, nil, one, nil, one, nil, one, nil, one}, false},
		{"nine in a row", []error{one, one, one, one, one, one, one, one, one, nil}, false},
		{"ten in a row", []error{nil, one, one, one, one, one, one, one, one, one, one}, true},
		{"container missing", []error{nil, missing, nil}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := verdict{left: map[string]bool{}}
			for _, err := range tt.results {
				v.note(&ledger.Entry{}, err)
			}
			if got := v.end(); (got != nil) != tt.ends {
				t.Errorf("end = %v, want an end: %v", got, tt.ends)
			}
		})
	}
}

// Windows meet, cover everything, and none is longer than asked for.
func TestSplit(t *testing.T) {
	from := time.Date(2026, 3, 11, 9, 45, 7, 0, time.UTC)
	for _, length := range []time.Duration{0, time.Second, time.Hour, 61 * time.Minute, 7*24*time.Hour - 10*time.Minute} {
		c := Collector{Window: time.Hour}
		at := from
		for _, windows := range c.split(span{from, from.Add(length)}) {
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
