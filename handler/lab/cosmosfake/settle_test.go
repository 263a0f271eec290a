package cosmosfake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/ledger"
)

// settleAll closes entries and saves them at once, each from a goroutine of its
// own, and returns what Save said of each.
func settleAll(ctx context.Context, l *ledger.Ledger, list []ledger.Entry) []error {
	s := l.Settler()
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() {
			list[i].Close(ledger.Stored, "", time.Now())
			errs[i] = s.Save(ctx, &list[i])
		})
	}
	all.Wait()
	return errs
}

func TestSettler(t *testing.T) {
	morning := time.Now().UTC().Truncate(24 * time.Hour)
	tests := []struct {
		name    string
		disturb func(t *testing.T, a account, other *ledger.Ledger, list []ledger.Entry)
		batches int
		changed int // index of the entry that another instance has worked on; -1: none
	}{
		{"all well", nil, 4, -1},
		{"the answer to a batch is lost", func(_ *testing.T, a account, _ *ledger.Ledger, _ []ledger.Entry) {
			a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Fault: cosmosfake.Fault{Reset: true, Commit: true}})
		}, 5, -1},
		{"throttled", func(_ *testing.T, a account, _ *ledger.Ledger, _ []ledger.Entry) {
			a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Times: 2, Fault: cosmosfake.Fault{Status: 429, RetryAfter: "5"}})
		}, 6, -1},
		{"another instance was at one of them", func(t *testing.T, _ account, other *ledger.Ledger, list []ledger.Entry) {
			e := readEntry(t, other, list[7])
			e.Close(ledger.Stored, "by the other", time.Now())
			if err := other.Save(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
		}, 4, 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
				list := append(entries(210, morning.Add(time.Hour), ledger.ByListing), entries(20, morning.Add(-time.Hour), ledger.ByListing)...)
				recordAll(t, one, list, len(list))
				for i := range list {
					list[i] = readEntry(t, one, list[i])
				}
				if tt.disturb != nil {
					tt.disturb(t, a, two, list)
				}
				before := a.f.Count(cosmosfake.Batch, "ArchiveState")
				for i, err := range settleAll(t.Context(), one, list) {
					want := none
					if i == tt.changed {
						want = cosmos.Changed
					}
					wantKind(t, fmt.Sprint("entry ", i), err, want)
				}
				if n := a.f.Count(cosmosfake.Batch, "ArchiveState") - before; n != tt.batches {
					t.Errorf("%d batches, want %d", n, tt.batches)
				}
				if open, err := two.Open(t.Context()); err != nil || open.Count != 0 {
					t.Errorf("%d entries are open, error %v", open.Count, err)
				}
			})
		})
	}
}

// A batch has a limit of bytes too.
func TestSettlerLarge(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		list := entries(100, time.Now(), ledger.ByListing)
		recordAll(t, one, list, len(list))
		for i := range list {
			list[i] = readEntry(t, one, list[i])
			var ids ledger.IDs
			for n := range 1000 {
				ids.Add(fmt.Sprintf("00000000-0000-4000-%04d-%012d", i, n))
			}
			if err := one.SaveIDs(t.Context(), &list[i], ids); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(settleAll(t.Context(), one, list)...); err != nil {
			t.Error(err)
		}
		for i := range list {
			if got := readEntry(t, one, list[i]); got.State != ledger.Stored || got.IDs.Len() != 1000 {
				t.Errorf("entry %d is %s with %d ids", i, got.State, got.IDs.Len())
			}
		}
	})
}

// The end of the run reaches everybody in a batch, and nobody waits for ever.
func TestSettlerEndsWithItsContext(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		list := entries(5, time.Now(), ledger.ByListing)
		recordAll(t, one, list, len(list))
		for i := range list {
			list[i] = readEntry(t, one, list[i])
		}
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Hang: true}})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for i, err := range settleAll(ctx, one, list) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("entry %d: %v", i, err)
			}
		}
	})
}

// Within a day the oldest content comes first, whatever its type; days come in
// their order.
func TestDueMergesContentTypes(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		day := time.Now().UTC().Truncate(24 * time.Hour)
		var want []string
		var list []ledger.Entry
		for i := range 60 {
			at := day.Add(time.Duration(i-30) * 40 * time.Minute) // over two days
			contentType := []string{"Audit.General", "Audit.Exchange", "Audit.SharePoint"}[i*i%3]
			id := fmt.Sprintf("content-%02d", i)
			want = append(want, id)
			list = append(list, ledger.NewEntry(contentType, id, "https://manage.harbor.example/"+id, at, at, ledger.ByListing, time.Now()))
		}
		recordAll(t, one, list, len(list))
		a.f.Set(func(s *cosmosfake.Switches) { s.PageSize = 4 })
		open, err := one.Open(t.Context())
		if err != nil || open.Count != len(list) {
			t.Fatalf("Open = %+v, %v", open, err)
		}
		take := func(n int) (got []string) {
			for e, err := range one.Due(t.Context(), open.Partitions, time.Now()) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, e.ContentID); len(got) == n {
					break
				}
			}
			return got
		}
		equal(t, "due", take(len(list)), want)
		equal(t, "the first of them", take(5), want[:5])
		synctest.Wait() // a reader that stops leaves nothing behind, or the bubble does not end

		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, From: 6, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: 403}})
		var last error
		n := 0
		for _, err := range one.Due(t.Context(), open.Partitions, time.Now()) {
			n++
			last = err
		}
		if cosmos.KindOf(last) != cosmos.Denied || n < 2 || n > len(list) {
			t.Errorf("%d entries before the error %v", n, last)
		}
	})
}

func TestControl(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		ctx := t.Context()
		read := func() *ledger.Control {
			t.Helper()
			before := a.f.Count(cosmosfake.Query, "ArchiveState")
			c, err := one.Control(ctx)
			if err != nil || a.f.Count(cosmosfake.Query, "ArchiveState") != before+1 {
				t.Fatalf("Control: %v, in %d queries", err, a.f.Count(cosmosfake.Query, "ArchiveState")-before)
			}
			return c
		}
		types := []string{"Audit.General", "Audit.Exchange"}
		for _, contentType := range types {
			h, err := read().Head(contentType)
			if err != nil || !h.ListedTo.IsZero() || h.ContentType != contentType {
				t.Fatalf("head before the first tick: %+v, %v", h, err)
			}
			if err := one.UpdateHead(ctx, &h, func(h *ledger.Head) error { h.ListedTo = ledger.At(time.Now()); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := acquire(t, one, "one"); err != nil {
			t.Fatal(err)
		}
		c := read()
		heads := map[string]ledger.Head{}
		for _, contentType := range types {
			h, err := c.Head(contentType)
			if err != nil || h.ListedTo.IsZero() {
				t.Errorf("head %+v, %v", h, err)
			}
			heads[contentType] = h
		}
		// It is no longer as it was read: another instance has written, and we
		// change what it has left.
		h := heads["Audit.General"]
		theirs := h
		if err := two.UpdateHead(ctx, &theirs, func(h *ledger.Head) error { h.StartOutcome = "ok"; return nil }); err != nil {
			t.Fatal(err)
		}
		var seen []string
		err := one.UpdateHead(ctx, &h, func(h *ledger.Head) error {
			seen = append(seen, h.StartOutcome)
			h.Heartbeat = ledger.At(time.Now())
			return nil
		})
		if err != nil || h.StartOutcome != "ok" || h.Heartbeat.IsZero() || !slices.Equal(seen, []string{"", "ok"}) {
			t.Errorf("head %+v after %q, %v", h, seen, err)
		}
	})
}
