package cosmosfake_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/ledger"
)

// lie is an answer to a batch that is not carried out: its own status, that of
// the first operation, and that of all others.
type lie struct{ status, first, others int }

// liar tells a lie to the next batch.
type liar struct {
	*cosmosfake.Fake
	next *lie // nil: it is honest
}

// RoundTrip implements [http.RoundTripper].
func (l *liar) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.next == nil || r.Header.Get("x-ms-cosmos-is-batch-request") == "" {
		return l.Fake.RoundTrip(r)
	}
	told := *l.next
	l.next = nil
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	results := fmt.Sprintf(`{"statusCode":%d}`, told.first) +
		strings.Repeat(fmt.Sprintf(`,{"statusCode":%d}`, told.others), bytes.Count(body, []byte(`"operationType"`))-1)
	return &http.Response{
		StatusCode: told.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}, "X-Ms-Request-Charge": {"1"}},
		Body:   io.NopCloser(strings.NewReader("[" + results + "]")),
	}, nil
}

// A status of 2xx inside the answer to a batch counts only if the batch was
// carried out; and that it was says nothing of an operation with another status.
func TestUncommittedIsNotDone(t *testing.T) {
	day := time.Now().UTC().Truncate(24 * time.Hour)
	creates := []lie{{207, 201, 201}, {207, 201, 409}, {207, 424, 201}}
	tests := []struct {
		name string
		lies []lie
		test func(t *testing.T, l *liar, told lie, state *ledger.Ledger, arc *archive.Archive)
	}{
		{"ledger", creates, func(t *testing.T, l *liar, told lie, state *ledger.Ledger, _ *archive.Archive) {
			l.next = &told
			recordAll(t, state, entries(10, day, ledger.ByListing), 10)
			equal(t, "entries", len(l.Documents("ArchiveState")), 10)
		}},
		{"archive", creates, func(t *testing.T, l *liar, told lie, _ *ledger.Ledger, arc *archive.Archive) {
			var list []string
			for i := range 10 {
				list = append(list, audit(i, "user001@harbor.example", ""))
			}
			l.next = &told
			equal(t, "outcomes", tally(store(t, t.Context(), arc, "c1", list...)), counts{archive.Stored: 10})
			equal(t, "records", len(l.Documents("Audits")), 10)
		}},
		{"settler", []lie{{207, 200, 200}, {207, 424, 200}, {200, 200, 412}, {200, 412, 412}}, func(t *testing.T, l *liar, told lie, state *ledger.Ledger, _ *archive.Archive) {
			list := entries(10, day, ledger.ByListing)
			recordAll(t, state, list, len(list))
			for i := range list {
				list[i] = readEntry(t, state, list[i])
			}
			l.next = &told
			if err := errors.Join(settleAll(t.Context(), state, list)...); err != nil {
				t.Error(err)
			}
			for i := range list {
				equal(t, fmt.Sprint("state of entry ", i), readEntry(t, state, list[i]).State, ledger.Stored)
			}
		}},
	}
	for _, tt := range tests {
		for _, told := range tt.lies {
			t.Run(fmt.Sprint(tt.name, told), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := &liar{Fake: newAccount(t, cosmosfake.Options{Key: accountKey}).f}
					db, err := cosmos.Open(cosmos.Config{
						Endpoint: "https://fake.documents.example:443/", Key: accountKey, Database: "Audit", Transport: &http.Client{Transport: l},
					})
					if err != nil {
						t.Fatal(err)
					}
					state, arc := ledger.New(db, "ArchiveState"), archive.New(db, "Audits")
					if err := errors.Join(state.Prepare(t.Context()), arc.Prepare(t.Context())); err != nil {
						t.Fatal(err)
					}
					tt.test(t, l, told, state, arc)
					if l.next != nil {
						t.Error("the lie was not told")
					}
				})
			})
		}
	}
}

// An operation with a status that nobody knows is no conflict and not rolled back
// because of another: it is named, and not tried again and again.
func TestUnknownStatusIsNamed(t *testing.T) {
	odd := cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: 418, Operation: cosmosfake.Middle}}
	named := func(t *testing.T, a account, err error) {
		t.Helper()
		if f, ok := errors.AsType[*cosmos.Fault](err); !ok || f.Status != 418 {
			t.Errorf("error %v, want one with status 418", err)
		}
		equal(t, "batches", a.f.Count(cosmosfake.Batch, ""), 1)
	}
	t.Run("ledger", func(t *testing.T) {
		ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
			a.f.Inject(odd)
			created, err := one.Record(t.Context(), entries(10, time.Now().UTC().Truncate(24*time.Hour), ledger.ByListing))
			named(t, a, err)
			equal(t, "created", len(created), 0)
		})
	})
	t.Run("archive", func(t *testing.T) {
		archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
			a.f.Inject(odd)
			list := store(t, t.Context(), arc, "c1", audit(1, "user001@harbor.example", ""), audit(2, "user001@harbor.example", ""), audit(3, "user001@harbor.example", ""))
			equal(t, "outcomes", tally(list), counts{unknown: 3})
			named(t, a, list[1].err)
		})
	})
}

// A try that was cut short leaves chunks of a letter that may read differently
// the next time. They must not stand in its place.
func TestLetterThatReadsDifferently(t *testing.T) {
	ledgerBubble(t, func(t *testing.T, a account, one, _ *ledger.Ledger) {
		e := entries(1, time.Now(), ledger.ByListing)[0]
		first, second := bytes.Repeat([]byte("first "), 250_000), bytes.Repeat([]byte("second"), 250_000)
		cut := errors.New("connection gone")
		err := one.Bury(t.Context(), &e, ledger.Dead{Element: 4}, io.MultiReader(bytes.NewReader(first[:1_300_000]), iotest.ErrReader(cut)))
		if !errors.Is(err, cut) {
			t.Fatalf("Bury = %v, want the reader's error", err)
		}
		left := len(a.f.Documents("ArchiveState"))
		if err := one.Bury(t.Context(), &e, ledger.Dead{Element: 4}, bytes.NewReader(second)); err != nil {
			t.Fatal(err)
		}
		var whole []byte
		for _, d := range a.f.Documents("ArchiveState")[left:] {
			whole = append(whole, dataOf(t, d)...)
		}
		equal(t, "chunks left", left, 1)
		equal(t, "the whole letter is there", bytes.Equal(whole, second), true)
	})
}

// dataOf is what one chunk of a dead letter holds.
func dataOf(t *testing.T, d cosmosfake.Document) []byte {
	t.Helper()
	var chunk struct{ Data []byte }
	if err := json.Unmarshal(d.Body, &chunk); err != nil {
		t.Fatal(err)
	}
	return chunk.Data
}
