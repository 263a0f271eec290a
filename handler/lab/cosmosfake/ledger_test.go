package cosmosfake_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/ledger"
)

const contentType = "Audit.General"

// ledgerBubble is a bubble with a prepared ledger, as two instances see it.
func ledgerBubble(t *testing.T, test func(t *testing.T, a account, one, two *ledger.Ledger)) {
	t.Helper()
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		one, two := ledger.New(db, "ArchiveState"), ledger.New(connect(t, a.f, accountKey), "ArchiveState")
		for _, l := range []*ledger.Ledger{one, two} {
			if err := l.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		test(t, a, one, two)
	})
}

// entries returns n entries with contentCreated from start, a second apart.
func entries(n int, start time.Time, found string) (list []ledger.Entry) {
	for i := range n {
		created := start.Add(time.Duration(i) * time.Second)
		id := fmt.Sprintf("content-%s-%04d", start.Format("0102T15"), i)
		list = append(list, ledger.NewEntry(contentType, id, "https://manage.harbor.example/"+id, created, created.Add(7*24*time.Hour), found, time.Now()))
	}
	return list
}

func recordAll(t *testing.T, l *ledger.Ledger, list []ledger.Entry, want int) {
	t.Helper()
	created, err := l.Record(t.Context(), list)
	if err != nil || len(created) != want {
		t.Fatalf("Record = %d new, %v, want %d", len(created), err, want)
	}
}

func readEntry(t *testing.T, l *ledger.Ledger, e ledger.Entry) ledger.Entry {
	t.Helper()
	got, err := l.Entry(t.Context(), e.PK, e.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLedgerPrepare(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		ctx := t.Context()
		wantKind(t, "another key", ledger.New(db, "Levels").Prepare(ctx), cosmos.Denied)
		wantKind(t, "no container, Entra", ledger.New(connect(t, a.f, ""), "State").Prepare(ctx), cosmos.Missing)
		l := ledger.New(db, "State")
		for range 2 {
			wantKind(t, "Prepare", l.Prepare(ctx), none)
		}
		if n := a.f.Count(cosmosfake.ReadContainer, "State"); n != 3 {
			t.Errorf("the definition was read %d times, want once by Entra, and before and after it was created", n)
		}
		wantKind(t, "prepared by another, Entra", ledger.New(connect(t, a.f, ""), "State").Prepare(ctx), none)
	})
}

func TestEntriesAcrossDays(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		a.f.Set(func(s *cosmosfake.Switches) { s.PageSize, s.EmptyPages = 30, true })
		ctx := t.Context()
		now := time.Now().UTC()
		today := now.Truncate(24 * time.Hour)
		first := entries(130, today.Add(-47*time.Hour), ledger.ByListing)
		late := entries(60, today.Add(-30*time.Second), ledger.ByWebhook) // over midnight
		recordAll(t, one, first[:40], 40)
		recordAll(t, two, append(slices.Clone(first), first[0]), 90)
		recordAll(t, one, first, 0)
		recordAll(t, one, late, 60)

		known, err := two.Known(ctx, contentType, today.Add(-47*time.Hour).Add(time.Second), today.Add(10*time.Second))
		if err != nil || len(known) != 129+40 {
			t.Fatalf("Known = %d %v, want 129 of the first and 40 of the later ones", len(known), err)
		}
		if k := known[ledger.DigestOf(first[1].ID)]; !k.Confirmed || k.Lost || k.PK != first[1].PK {
			t.Errorf("known by listing = %+v", k)
		}
		if k := known[ledger.DigestOf(late[0].ID)]; k.Confirmed || k.PK != late[0].PK {
			t.Errorf("known by webhook = %+v", k)
		}
		if _, ok := known[ledger.DigestOf(first[0].ID)]; ok {
			t.Error("Known begins before from")
		}

		queries := a.f.Count(cosmosfake.Query, "ArchiveState")
		a.f.Set(func(s *cosmosfake.Switches) { s.PageSize, s.EmptyPages = 0, false })
		open, err := one.Open(ctx)
		if err != nil || open.Count != 190 || !open.Oldest.Equal(first[0].Created.Time) || !open.LeastLife.Equal(first[0].LifeEnds()) {
			t.Errorf("Open = %+v %v", open, err)
		}
		equal(t, "partitions", open.Partitions, []string{first[0].PK, late[0].PK, late[59].PK})
		if n := a.f.Count(cosmosfake.Query, "ArchiveState") - queries; n != 1 {
			t.Errorf("Open took %d pages, want one", n)
		}

		// Not before they are due, then oldest first, each once, while work closes them.
		due := func(pk string) (ids []string) {
			for e, err := range two.Due(ctx, []string{pk}, time.Now()) {
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, e.ContentID)
				e.Close(ledger.Stored, "", time.Now())
				if err := two.Save(ctx, &e); err != nil {
					t.Fatal(err)
				}
			}
			return ids
		}
		if got := due(late[0].PK); got != nil {
			t.Errorf("%d entries are due while the notified process has its time", len(got))
		}
		time.Sleep(ledger.Claim)
		a.f.Set(func(s *cosmosfake.Switches) { s.PageSize = 7 })
		var want []string
		for _, e := range first {
			want = append(want, e.ContentID)
		}
		equal(t, "due", due(first[0].PK), want)
		equal(t, "due again", due(first[0].PK), []string(nil))
		if open, err := one.Open(ctx); err != nil || open.Count != 60 {
			t.Errorf("Open = %+v %v, want 60 left", open, err)
		}
	})
}

func TestListed(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		ctx := t.Context()
		list := entries(210, time.Now().UTC().Truncate(24*time.Hour).Add(time.Hour), ledger.ByWebhook)
		recordAll(t, one, list, 210)
		lost := list[0]
		lost = readEntry(t, one, lost)
		lost.Close(ledger.Lost, "AF20051", time.Now())
		if err := one.Save(ctx, &lost); err != nil {
			t.Fatal(err)
		}
		// What the listing says of the third goes before what the webhook said.
		listed := slices.Clone(list)
		listed[2].ContentURI += "x"
		stored := readEntry(t, one, list[2])
		stored.Close(ledger.Stored, "", time.Now())
		if err := one.Save(ctx, &stored); err != nil {
			t.Fatal(err)
		}
		// The second chunk's answer is lost; the first meets another writer.
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, From: 2, Fault: cosmosfake.Fault{Reset: true, Commit: true}})
		raced := false
		a.f.Set(func(s *cosmosfake.Switches) {
			s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
				if c.Kind == cosmosfake.Batch && !raced {
					raced = true
					e := readEntry(t, two, list[5])
					e.Fail("AF50000", time.Now())
					if err := two.Save(ctx, &e); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
		})
		if err := one.Listed(ctx, list[0].PK, listed, time.Now()); err != nil {
			t.Fatal(err)
		}
		for i, e := range list {
			got := readEntry(t, one, e)
			if got.Found != ledger.ByListing || got.State != ledger.Pending || got.Open != 1 {
				t.Fatalf("entry %d = %+v", i, got)
			}
			if got.ContentURI != listed[i].ContentURI {
				t.Errorf("entry %d has the contentUri %s", i, got.ContentURI)
			}
			if i == 5 && (got.Attempts != 1 || got.Reason != "AF50000") {
				t.Errorf("another process's failure was overwritten: %+v", got)
			}
		}
		writes := a.f.Count(cosmosfake.Batch, "ArchiveState")
		if err := one.Listed(ctx, list[0].PK, listed, time.Now()); err != nil {
			t.Fatal(err)
		}
		equal(t, "batches when all is confirmed", a.f.Count(cosmosfake.Batch, "ArchiveState"), writes)
	})
}

// A hundred entries of large contents do not fit into one batch.
func TestListedLarge(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, _ account, one, _ *ledger.Ledger) {
		list := entries(100, time.Now().UTC().Truncate(24*time.Hour).Add(time.Hour), ledger.ByWebhook)
		recordAll(t, one, list, 100)
		for _, e := range list {
			e := readEntry(t, one, e)
			var ids ledger.IDs
			for i := range 1000 {
				ids.Add(fmt.Sprintf("%08x-0000-4000-8000-000000000001", i))
			}
			if err := one.SaveIDs(t.Context(), &e, ids); err != nil {
				t.Fatal(err)
			}
			e.Close(ledger.Stored, "", time.Now())
			if err := one.Save(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
		}
		if err := one.Listed(t.Context(), list[0].PK, list, time.Now()); err != nil {
			t.Fatal(err)
		}
		for i, e := range list {
			if got := readEntry(t, one, e); got.Found != ledger.ByListing || got.State != ledger.Stored || got.IDs.Len() != 1000 {
				t.Fatalf("entry %d: found by %s, %s, %d ids", i, got.Found, got.State, got.IDs.Len())
			}
		}
	})
}

// TestLedgerUnderFaults loses the answer of each write in turn, and meets each
// passing fault.
func TestLedgerUnderFaults(t *testing.T) {
	for name, fault := range map[string]cosmosfake.Fault{
		"lost": {Reset: true, Commit: true}, "not done": {Status: 503}, "throttled": {Status: 429, RetryAfter: "100"}, "short": {Drop: 1}, "cut": {Cut: 1},
		"first": {Status: 449, Operation: 1}, "middle": {Status: 429, Operation: cosmosfake.Middle}, "last": {Status: 500, Operation: cosmosfake.Last},
	} {
		t.Run(name, func(t *testing.T) {
			ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
				ctx := t.Context()
				every := 0
				a.f.Set(func(s *cosmosfake.Switches) {
					s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
						if every++; every%2 == 1 && (c.Kind == cosmosfake.Batch || c.Kind == cosmosfake.Create && fault.Operation == 0) {
							return &fault
						}
						return nil
					}
				})
				list := entries(150, time.Now().UTC().Truncate(24*time.Hour), ledger.ByListing)
				for range 2 {
					if _, err := one.Record(ctx, list); err != nil {
						t.Fatal(err)
					}
				}
				equal(t, "documents", len(a.f.Documents("ArchiveState")), 150)
				letter := bytes.Repeat([]byte("0123456789"), 130_000)
				for range 2 {
					if err := one.Bury(ctx, &list[0], ledger.Dead{Element: 4, Reason: "no object"}, bytes.NewReader(letter)); err != nil {
						t.Fatal(err)
					}
				}
				equal(t, "letter", bytes.Equal(readLetter(t, a, list[0], 4, 2), letter), true)
			})
		})
	}
}

// TestRecordWithStaleAnswers has a replica lag behind the entries that exist.
func TestRecordWithStaleAnswers(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		list := entries(60, time.Now().UTC().Truncate(24*time.Hour), ledger.ByListing)
		recordAll(t, one, list[:50], 50)
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, Times: 3, Fault: cosmosfake.Fault{Stale: 64}})
		recordAll(t, two, list, 10)
		equal(t, "documents", len(a.f.Documents("ArchiveState")), 60)
	})
}

// readLetter puts a dead letter together again.
func readLetter(t *testing.T, a account, e ledger.Entry, element, chunks int) (letter []byte) {
	t.Helper()
	type chunk struct {
		Kind, Content, SHA256 string
		Element, Chunk        int
		Last                  bool
		Data                  []byte
		Bytes                 int
	}
	var list []chunk
	for _, d := range a.f.Documents("ArchiveState") {
		var c chunk
		if err := json.Unmarshal(d.Body, &c); err != nil {
			t.Fatal(err)
		}
		if c.Kind == "dead" && c.Content == e.ID && c.Element == element {
			list = append(list, c)
		}
	}
	if len(list) != chunks {
		t.Fatalf("the letter has %d chunks, want %d", len(list), chunks)
	}
	for i, c := range list {
		if c.Chunk != i || c.Last != (i == chunks-1) {
			t.Errorf("chunk %d has number %d, last %v", i, c.Chunk, c.Last)
		}
		letter = append(letter, c.Data...)
		if sum := sha256.Sum256(letter); c.Last && (c.Bytes != len(letter) || c.SHA256 != hex.EncodeToString(sum[:])) {
			t.Errorf("the letter says %d bytes, %s", c.Bytes, c.SHA256)
		}
	}
	return letter
}

func TestDeadLetters(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		e := entries(1, time.Now(), ledger.ByListing)[0]
		for element, n := range []int{0, 1, 1_200_000, 1_200_001, 3_000_000} {
			letter := bytes.Repeat([]byte{0xff, 'x', '"'}, n/3+1)[:n]
			if err := one.Bury(t.Context(), &e, ledger.Dead{Element: element}, iotest.HalfReader(bytes.NewReader(letter))); err != nil {
				t.Fatal(err)
			}
			if got := readLetter(t, a, e, element, max(1, (n+1_199_999)/1_200_000)); !bytes.Equal(got, letter) {
				t.Errorf("a letter of %d bytes came back with %d", n, len(got))
			}
		}
		broken := errors.New("connection gone")
		err := one.Bury(t.Context(), &e, ledger.Dead{Element: 99}, io.MultiReader(bytes.NewReader(make([]byte, 1_300_000)), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("Bury = %v, want the reader's error", err)
		}
		// Run again with a whole letter it is complete.
		if err := one.Bury(t.Context(), &e, ledger.Dead{Element: 99}, bytes.NewReader(make([]byte, 1_300_000))); err != nil {
			t.Fatal(err)
		}
		readLetter(t, a, e, 99, 2)
	})
}

func TestSaveIDs(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		for _, n := range []int{0, 1000, 2500, 45_000} {
			e := entries(1, time.Now().Add(-time.Duration(n)*time.Second), ledger.ByListing)[0]
			var ids ledger.IDs
			var want []string
			for i := range n {
				id := fmt.Sprintf("%08x-0000-4000-8000-00000000abcd", i)
				if i%500 == 499 {
					id = fmt.Sprintf("%064x", i)
				}
				ids.Add(id)
				want = append(want, id)
			}
			equal(t, "length", ids.Len(), n)
			before := len(a.f.Documents("ArchiveState"))
			for range 2 {
				if err := one.SaveIDs(t.Context(), &e, ids); err != nil {
					t.Fatal(err)
				}
			}
			got := e.IDs.All()
			for _, d := range a.f.Documents("ArchiveState")[before:] {
				var doc struct{ IDs ledger.IDs }
				if err := json.Unmarshal(d.Body, &doc); err != nil {
					t.Fatal(err)
				}
				got = append(got, doc.IDs.All()...)
			}
			equal(t, "documents", len(a.f.Documents("ArchiveState"))-before, e.IDChunks)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%d ids came back as %d", n, len(got))
			}
			if (n > 1000) != (e.IDChunks > 0) {
				t.Errorf("%d ids take %d documents", n, e.IDChunks)
			}
		}
	})
}

// sameEntry compares entries as they are stored.
func sameEntry(t *testing.T, got, want ledger.Entry) {
	t.Helper()
	var texts [2]string
	for i, e := range []ledger.Entry{got, want} {
		text, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	equal(t, "entry", texts[0], texts[1])
}

func TestSave(t *testing.T) {
	// Each row: what one process saved after the other had read, and what the
	// other then tries to save.
	moved := func(e *ledger.Entry) {
		e.Progress = &ledger.Progress{Elements: 500, SHA256: "aa"}
		e.Due = ledger.At(time.Now().Add(time.Minute))
	}
	stored := func(e *ledger.Entry) { e.Stored = 7; e.Close(ledger.Stored, "", time.Now()) }
	lost := func(e *ledger.Entry) { e.Close(ledger.Lost, "AF20051", time.Now()) }
	failed := func(e *ledger.Entry) { e.Fail("AF50000", time.Now()) }
	tests := []struct {
		name          string
		first, second func(*ledger.Entry)
		want          cosmos.Kind
		state         string
	}{
		{"stored over lost", lost, stored, none, ledger.Stored},
		{"stored over progress", moved, stored, none, ledger.Stored},
		{"lost after stored", stored, lost, cosmos.Changed, ledger.Stored},
		{"failed after stored", stored, failed, cosmos.Changed, ledger.Stored},
		{"stored twice", stored, func(e *ledger.Entry) { stored(e); e.Stored = 9 }, cosmos.Changed, ledger.Stored},
		{"failed after progress", moved, failed, cosmos.Changed, ledger.Pending},
		{"the same twice", stored, stored, none, ledger.Stored},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ledgerBubble(t, func(t *testing.T, _ account, one, two *ledger.Ledger) {
				e := entries(1, time.Now(), ledger.ByListing)[0]
				recordAll(t, one, []ledger.Entry{e}, 1)
				mine, yours := readEntry(t, one, e), readEntry(t, two, e)
				tt.first(&yours)
				wantKind(t, "first", two.Save(t.Context(), &yours), none)
				tt.second(&mine)
				err := one.Save(t.Context(), &mine)
				wantKind(t, "second", err, tt.want)
				got := readEntry(t, one, e)
				equal(t, "state", got.State, tt.state)
				if err == nil {
					sameEntry(t, got, mine)
				} else {
					sameEntry(t, got, yours)
				}
			})
		})
	}
	t.Run("answer lost", func(t *testing.T) {
		ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
			e := entries(1, time.Now(), ledger.ByListing)[0]
			recordAll(t, one, []ledger.Entry{e}, 1)
			for _, change := range []func(*ledger.Entry){moved, failed, lost} {
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Replace}, Fault: cosmosfake.Fault{Reset: true, Commit: true}})
				e = readEntry(t, one, e)
				change(&e)
				wantKind(t, "Save", one.Save(t.Context(), &e), none)
				sameEntry(t, readEntry(t, one, e), e)
			}
		})
	})
	t.Run("gone", func(t *testing.T) {
		ledgerBubble(t, func(t *testing.T, _ account, one, _ *ledger.Ledger) {
			e := entries(1, time.Now(), ledger.ByListing)[0]
			wantKind(t, "Save", one.Save(t.Context(), &e), cosmos.NotFound)
			_, err := one.Entry(t.Context(), e.PK, e.ID)
			wantKind(t, "Entry", err, cosmos.NotFound)
		})
	})
}

func TestHead(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		ctx, now := t.Context(), time.Now()
		h, err := one.Head(ctx, contentType)
		if err != nil || !h.ListedTo.IsZero() || h.ContentType != contentType {
			t.Fatalf("Head = %+v %v", h, err)
		}
		// Another instance writes between our read and our write, twice: first it
		// creates, then it replaces.
		update := func(l *ledger.Ledger, change func(h *ledger.Head) error) error {
			h, err := l.Head(ctx, contentType)
			if err != nil {
				return err
			}
			return l.UpdateHead(ctx, &h, change)
		}
		gap := func(l *ledger.Ledger, i int) error {
			return update(l, func(h *ledger.Head) error {
				h.AddGap(now, now.Add(time.Duration(i)*time.Second), now)
				return nil
			})
		}
		for i := range 2 {
			done := false
			err := update(one, func(h *ledger.Head) error {
				if !done {
					done = true
					if err := gap(two, 10+i); err != nil {
						return err
					}
				}
				h.AddGap(now, now.Add(time.Duration(i)*time.Second), now)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		h, err = two.Head(ctx, contentType)
		if err != nil || len(h.Gaps) != 4 {
			t.Errorf("Head = %+v %v, want the gaps of both", h, err)
		}
		stop := errors.New("not now")
		if err := update(one, func(*ledger.Head) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("UpdateHead = %v", err)
		}
		// Our own write, its answer lost, is no reason to do it twice.
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Replace}, Fault: cosmosfake.Fault{Reset: true, Commit: true}})
		if err := gap(one, 99); err != nil {
			t.Fatal(err)
		}
		if h, err = two.Head(ctx, contentType); err != nil || len(h.Gaps) != 5 {
			t.Errorf("after a lost answer there are %d gaps, want 5 (%v)", len(h.Gaps), err)
		}
		// A head that cannot be read is never an empty head.
		for _, fault := range []cosmosfake.Fault{{Status: 500}, {Status: 403}, {Cut: 7}} {
			a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Read}, Times: cosmosfake.Always, Fault: fault})
			if _, err := one.Head(ctx, contentType); err == nil {
				t.Errorf("no error for %+v", fault)
			}
			a.f.Recover()
		}
	})
}

// acquire reads what the ledger holds and tries to take the lease.
func acquire(t *testing.T, l *ledger.Ledger, owner string) (*ledger.Lease, error) {
	t.Helper()
	control, err := l.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return control.Acquire(t.Context(), owner)
}

func TestLease(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		ctx := t.Context()
		held := func(err error) bool { _, ok := errors.AsType[*ledger.HeldError](err); return ok }
		take := func(l *ledger.Ledger, owner string) *ledger.Lease {
			t.Helper()
			lease, err := acquire(t, l, owner)
			if err != nil {
				t.Fatal(err)
			}
			return lease
		}
		lease := take(one, "one")
		if _, err := acquire(t, two, "two"); !held(err) {
			t.Errorf("Acquire of a held lease = %v", err)
		}
		time.Sleep(ledger.LeaseTime - time.Second)
		if err := lease.Renew(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ledger.LeaseTime - time.Second)
		if _, err := acquire(t, two, "two"); !held(err) {
			t.Errorf("Acquire of a renewed lease = %v", err)
		}
		time.Sleep(time.Second)
		take(two, "two")
		if err := lease.Renew(ctx); !errors.Is(err, ledger.ErrLeaseLost) {
			t.Errorf("Renew of a lost lease = %v", err)
		}
		take(two, "two") // its own, at any time
		time.Sleep(ledger.LeaseTime)
		take(one, "one")
	})
}

// TestLeaseAnswerLost loses the answer to each write of a lease. Whoever wrote
// it holds it.
func TestLeaseAnswerLost(t *testing.T) {
	lose := func(kind cosmosfake.Kind) cosmosfake.Rule {
		return cosmosfake.Rule{Kinds: []cosmosfake.Kind{kind}, Container: "ArchiveState", Fault: cosmosfake.Fault{Reset: true, Commit: true}}
	}
	for _, kind := range []cosmosfake.Kind{cosmosfake.Create, cosmosfake.Replace} {
		t.Run(string(kind), func(t *testing.T) {
			ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
				a.f.Inject(lose(kind))
				lease, err := acquire(t, one, "one")
				if err != nil {
					t.Fatal(err)
				}
				a.f.Inject(lose(cosmosfake.Replace))
				if err := lease.Renew(t.Context()); err != nil {
					t.Error(err)
				}
				if err := lease.Renew(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestLeaseByTheAccountsClock has one instance whose clock is wrong by a minute:
// it must neither take a lease too early nor hold it too long.
func TestLeaseByTheAccountsClock(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		ctx := t.Context()
		if _, err := acquire(t, one, "one"); err != nil {
			t.Fatal(err)
		}
		// From here on the account is a minute behind this machine: for a new
		// connection its own clock runs ahead.
		a.f.Set(func(s *cosmosfake.Switches) { s.DateOffset = -time.Minute })
		ahead := ledger.New(connect(t, a.f, accountKey), "ArchiveState")
		if err := ahead.Prepare(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ledger.LeaseTime + time.Second)
		_, err := acquire(t, ahead, "two")
		if held, ok := errors.AsType[*ledger.HeldError](err); !ok || held.Owner != "one" {
			t.Errorf("Acquire = %v, want it held by one: by the account's clock it is", err)
		}
	})
}

func TestAcquireAtOnce(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, two *ledger.Ledger) {
		type outcome struct {
			lease *ledger.Lease
			err   error
		}
		results := make(chan outcome)
		for i, l := range []*ledger.Ledger{one, two, one, two} {
			go func(ctx context.Context) {
				lease, err := acquire(t, l, fmt.Sprint("owner ", i))
				results <- outcome{lease, err}
			}(t.Context())
		}
		taken := 0
		for range 4 {
			if r := <-results; r.err == nil {
				taken++
			} else if _, ok := errors.AsType[*ledger.HeldError](r.err); !ok {
				t.Error(r.err)
			}
		}
		if taken != 1 {
			t.Errorf("%d instances have the lease", taken)
		}
	})
}
