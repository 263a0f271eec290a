package cosmosfake_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

// benched is an account for benchmarks. What it costs itself is in the figures,
// but for the archive, which it does not look at.
func benched(b *testing.B) (*cosmosfake.Fake, *cosmos.DB) {
	b.Helper()
	f, err := cosmosfake.New(cosmosfake.Options{Key: accountKey})
	if err != nil {
		b.Fatal(err)
	}
	f.Set(func(s *cosmosfake.Switches) { s.Canned = "Audits" })
	return f, connect(b, f, accountKey)
}

// BenchmarkWriter archives records of 20 users, as a content hands them over.
func BenchmarkWriter(b *testing.B) {
	_, db := benched(b)
	arc := archive.New(db, "Audits")
	if err := arc.Prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	raws := make([][]byte, 100)
	size := 0
	for i := range raws {
		raws[i] = []byte(audit(i, fmt.Sprintf("user%03d@harbor.example", i%20), `,"Query":"`+fmt.Sprintf("%01000d", i)+`"`))
		size += len(raws[i])
	}
	var parser record.Parser
	records := make([]record.Record, len(raws))
	for i, raw := range raws {
		var err error
		if records[i], err = parser.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
	w := arc.Writer(b.Context())
	b.SetBytes(int64(size / len(raws)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		i := n % len(raws)
		records[i].ID = fmt.Sprintf("%08x-0000-4000-8000-000000000001", n)
		d, err := arc.Document(&records[i], raws[i], record.Meta{Content: "c", Type: contentType, Day: "2026-03-11"})
		if err != nil {
			b.Fatal(err)
		}
		err = w.Create(b.Context(), d, func(o archive.Outcome, _ string, err error) {
			if o != archive.Stored || err != nil {
				b.Errorf("outcome %v, error %v", o, err)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
}

// BenchmarkLedger takes a thousand contents through their life: noted, found due,
// settled.
func BenchmarkLedger(b *testing.B) {
	const contents = 1000
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		f, db := benched(b)
		l := ledger.New(db, "ArchiveState")
		if err := l.Prepare(b.Context()); err != nil {
			b.Fatal(err)
		}
		list := entries(contents, time.Now().UTC().Truncate(24*time.Hour), ledger.ByListing)
		before := f.Charge()
		b.StartTimer()
		life(b, l, list)
		b.ReportMetric((f.Charge()-before)/contents, "RU/content")
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/contents, "us/content")
}

func life(b *testing.B, l *ledger.Ledger, list []ledger.Entry) {
	b.Helper()
	ctx := context.Background()
	if _, err := l.Record(ctx, list); err != nil {
		b.Fatal(err)
	}
	open, err := l.Open(ctx)
	if err != nil || open.Count != len(list) {
		b.Fatalf("%d open, %v", open.Count, err)
	}
	var due []ledger.Entry
	for e, err := range l.Due(ctx, open.Partitions, time.Now().Add(time.Minute)) {
		if err != nil {
			b.Fatal(err)
		}
		due = append(due, e)
	}
	for i, err := range settleAll(ctx, l, due) {
		if err != nil {
			b.Fatalf("entry %d: %v", i, err)
		}
	}
}
