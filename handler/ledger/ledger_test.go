package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

// The order of the texts must be the order of the moments: queries compare
// texts.
func TestStampOrder(t *testing.T) {
	moments := []string{"2026-03-11T09:45:02Z", "2026-03-11T09:45:02.1Z", "2026-03-11T09:45:02.17Z", "2026-03-11T09:45:03Z", "2026-03-11T10:00:00+00:00", "2026-03-11T09:30:00-01:00"}
	var last string
	for _, m := range moments {
		b, err := json.Marshal(At(at(m)))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != len(`"2026-03-11T09:45:02.000Z"`) || string(b) <= last {
			t.Errorf("%s is written %s, after %s", m, b, last)
		}
		last = string(b)
	}
}

func TestStampReadsBack(t *testing.T) {
	for _, want := range []Stamp{{}, At(at("2026-03-11T09:45:02.417Z"))} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Stamp
		if err := json.Unmarshal(b, &got); err != nil || !got.Equal(want.Time) {
			t.Errorf("%s reads as %v, %v", b, got, err)
		}
	}
}

func TestNewEntry(t *testing.T) {
	now := at("2026-03-11T12:00:00Z")
	tests := []struct {
		name             string
		created, expires time.Time
		found            string
		wantPK           string
		wantDue          time.Time
		wantExpires      time.Time
	}{
		{"listed", at("2026-03-11T09:00:00Z"), at("2026-03-18T09:00:00Z"), ByListing, "Audit.General|2026-03-11", now, at("2026-03-18T09:00:00Z")},
		{"notified", at("2026-03-11T11:59:00Z"), at("2026-03-18T11:59:00Z"), ByWebhook, "Audit.General|2026-03-11", now.Add(2 * time.Minute), at("2026-03-18T11:59:00Z")},
		{"another zone", at("2026-03-11T23:30:00-05:00"), at("2026-03-18T23:30:00-05:00"), ByListing, "Audit.General|2026-03-12", now, at("2026-03-19T04:30:00Z")},
		{"notified, from the far past", at("1990-01-01T00:00:00Z"), at("1990-01-08T00:00:00Z"), ByWebhook, "Audit.General|2026-03-03", now.Add(2 * time.Minute), at("2026-03-03T12:00:00Z")},
		{"notified, from the far future", at("9990-01-01T00:00:00Z"), at("9999-01-01T00:00:00Z"), ByWebhook, "Audit.General|2026-03-12", now.Add(2 * time.Minute), at("2026-04-11T12:00:00Z")},
		{"no expiration", at("2026-03-11T09:00:00Z"), time.Time{}, ByListing, "Audit.General|2026-03-11", now, at("2026-03-11T09:00:00Z")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewEntry("Audit.General", "id", "https://api.example/x", tt.created, tt.expires, tt.found, now)
			if e.PK != tt.wantPK || !e.Due.Equal(tt.wantDue) || !e.Expires.Equal(tt.wantExpires) || e.Open != 1 || e.State != Pending {
				t.Errorf("pk %s due %v expires %v open %d state %s", e.PK, e.Due, e.Expires, e.Open, e.State)
			}
			if end := e.LifeEnds(); end.Sub(e.Created.Time) < 7*24*time.Hour {
				t.Errorf("its life ends %v after it was created", end.Sub(e.Created.Time))
			}
		})
	}
}

func TestFailBacksOffWithinTheContentsLife(t *testing.T) {
	now := at("2026-03-11T12:00:00Z")
	e := NewEntry("Audit.General", "id", "u", now, now, ByListing, now)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		e.Fail("reason", now)
		if got := e.Due.Sub(now); got != want*time.Minute {
			t.Errorf("attempt %d: due in %v, want %v", e.Attempts, got, want*time.Minute)
		}
	}
	nearEnd := e.LifeEnds().Add(-5 * time.Minute)
	e.Fail("reason", nearEnd)
	if !e.Due.Equal(e.LifeEnds()) {
		t.Errorf("due %v, want the end of its life %v", e.Due, e.LifeEnds())
	}
	if e.Open != 1 || e.State != Pending {
		t.Error("a failed try closes the entry")
	}
}

func TestIDs(t *testing.T) {
	want := []string{
		"0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001", "ffffffff-ffff-ffff-ffff-ffffffffffff", // compact
		"0F6A9D0E-5D6B-4F52-A2F1-7B9B6F1C0001", strings.Repeat("ab", 32), "", "0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c000g", // as they are
	}
	var ids IDs
	for _, id := range want {
		ids.Add(id)
	}
	b, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	var got IDs
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.All()); diff != "" || got.Len() != len(want) || len(got.GUIDs) != 32 {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func FuzzIDs(f *testing.F) {
	f.Add("0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001")
	f.Add("é-------------------------------------")
	f.Fuzz(func(t *testing.T, id string) {
		var ids IDs
		ids.Add(id)
		if got := ids.All(); len(got) != 1 || got[0] != id {
			t.Errorf("%q comes back as %q", id, got)
		}
	})
}

// An entry reads back as it was written, so that Save can tell its own write.
func TestEntryReadsBack(t *testing.T) {
	now := at("2026-03-11T12:00:00.123456Z")
	e := NewEntry("Audit.General", "a$b", "https://api.example/x?y=1", now, now, ByWebhook, now)
	e.Progress = &Progress{Elements: 3, SHA256: "ab", Counts: Counts{Stored: 1, Dead: 2}}
	e.Broken = &Broken{Offset: 7, SHA256: "cd"}
	e.IDs.Add("0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001")
	e.Fail("a reason", now)
	first, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeEntry([]byte(strings.Replace(string(first), "{", `{"_etag":"\"1\"","_ts":1,`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(&got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(second)); diff != "" || got.etag != `"1"` {
		t.Errorf("etag %q, entry (-written +read back):\n%s", got.etag, diff)
	}
}

// A body that is cut short is no end: what it leaves must not pass for a whole
// dead letter.
func TestFillTellsACutFromAnEnd(t *testing.T) {
	cut := errors.New("content cut short")
	tests := []struct {
		name string
		r    io.Reader
		want error
	}{
		{"ends", strings.NewReader("abc"), io.EOF},
		{"ends, with its last byte", iotest.DataErrReader(strings.NewReader("abc")), io.EOF},
		{"byte by byte", iotest.OneByteReader(strings.NewReader("abc")), io.EOF},
		{"cut", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(cut)), cut},
		{"cut, as HTTP reports it", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		{"full", bytes.NewReader(make([]byte, 11)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			buf := make([]byte, 10)
			if _, err := fill(tt.r, buf); fmt.Sprint(err) != fmt.Sprint(tt.want) {
				t.Errorf("error = %v, want %v", err, tt.want)
			}
		})
	}
}

// FuzzDocuments reads any bytes as each document of the ledger. What passes for
// one can be written and is read again as the same, so that no document can stop
// the ticks that meet it.
func FuzzDocuments(f *testing.F) {
	const contentType = "Audit.General"
	now := at("2026-03-11T12:00:00Z")
	e := NewEntry(contentType, "a$b", "https://api.example/x", now, now, ByWebhook, now)
	e.Progress = &Progress{Elements: 3, Kinds: map[string]int{"21 CRM": 2}}
	e.IDs.Add("0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001")
	head := newHead(contentType)
	head.AddGap(now, now, now)
	lease := leaseDocument{ID: hash("lease"), PK: control, Kind: "lease", V: 1, Owner: "o", Expires: At(now)}
	for _, document := range []any{&e, &head, &lease} {
		b, err := json.Marshal(document)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"entry","created":"9999-12-31T23:59:59-01:00","ids":{"guids":"AAAA","other":[""]},"attempts":-9}`))
	f.Add([]byte(`{"kind":"entry","ids":{"guids":"","other":[]},"attempts":9223372036854775807}`))
	f.Add([]byte(`{"kind":"head","contentType":"Audit.General","gaps":[null],"_etag":null}`))
	f.Add([]byte(`{"kind":"lease","Kind":"head","expires":"0000-01-01T00:00:00+01:00"}`))
	f.Fuzz(func(t *testing.T, row []byte) {
		again := func(document any) []byte {
			b, err := json.Marshal(document)
			if err != nil {
				t.Fatalf("%q was read and cannot be written: %v", row, err)
			}
			return b
		}
		if e, err := decodeEntry(row); err == nil {
			if e.IDs.Len() == 0 {
				e.IDs = IDs{} // whether it was an empty list or none
			}
			first := again(&e)
			same, err := decodeEntry(first)
			if second := again(&same); err != nil || !bytes.Equal(first, second) {
				t.Errorf("entry %s is read again as %s, %v", first, second, err)
			}
			_ = e.IDs.sorted()
			e.Fail("reason", now)
			if wait := e.Due.Sub(now); e.Day() == "" || wait < 0 || wait > LongestWait {
				t.Errorf("%s is due again after %v", first, wait)
			}
		}
		if h, err := decodeHead(row, contentType); err == nil {
			first := again(&h)
			same, err := decodeHead(first, contentType)
			if second := again(&same); err != nil || !bytes.Equal(first, second) {
				t.Errorf("head %s is read again as %s, %v", first, second, err)
			}
			h.AddGap(now, now, now)
			if len(h.Gaps) > maxGaps {
				t.Errorf("%d gaps", len(h.Gaps))
			}
		}
		if held, err := decodeLease(row); err == nil {
			first := again(&held)
			same, err := decodeLease(first)
			if second := again(&same); err != nil || !bytes.Equal(first, second) {
				t.Errorf("lease %s is read again as %s, %v", first, second, err)
			}
		}
	})
}
