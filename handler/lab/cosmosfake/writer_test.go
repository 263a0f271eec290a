package cosmosfake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/record"
)

// feeder gives records of so many users to a writer, as fast as it takes them.
type feeder struct {
	given, done atomic.Int64
}

func (f *feeder) feed(t *testing.T, ctx context.Context, arc *archive.Archive, w *archive.Writer, from, n, users int, filler string) {
	for i := range n {
		raw := []byte(audit(from+i, fmt.Sprintf("user%03d@harbor.example", i%users), `,"x":"`+filler+`"`))
		r, err := record.Parse(raw)
		if err != nil {
			t.Error(err)
			return
		}
		d, err := arc.Document(&r, raw, record.Meta{Content: "c", Type: contentType, Day: "2026-03-11"})
		if err != nil {
			t.Error(err)
			return
		}
		err = w.Create(ctx, d, func(o archive.Outcome, _ string, err error) {
			f.done.Add(1)
			if o != archive.Stored || err != nil {
				t.Errorf("outcome %v, error %v", o, err)
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
		f.given.Add(1)
	}
}

// The slower Cosmos DB is, the fuller the batches: many contents with few records
// of many users do not become many small requests.
func TestBatchesFillUnderPressure(t *testing.T) {
	tests := []struct {
		name    string
		latency time.Duration
		filler  string
		least   float64 // records a request
	}{
		{"at once", 0, "", 20},
		{"a slow account", 500 * time.Millisecond, "", 60},
		// 10 MB hold some 1,300 of these, for 40 users.
		{"a slow account and no room", 500 * time.Millisecond, strings.Repeat("x", 7000), 15},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				a.f.Set(func(s *cosmosfake.Switches) { s.Latency = tt.latency })
				const feeders, each, users = 20, 400, 40
				w := arc.Writer(t.Context())
				var f feeder
				var all sync.WaitGroup
				before := a.f.Count(cosmosfake.Batch, "Audits") + a.f.Count(cosmosfake.Create, "Audits")
				for n := range feeders {
					all.Go(func() { f.feed(t, t.Context(), arc, w, n*each, each, users, tt.filler) })
				}
				all.Wait()
				w.Close()
				requests := a.f.Count(cosmosfake.Batch, "Audits") + a.f.Count(cosmosfake.Create, "Audits") - before
				if f.done.Load() != feeders*each || len(a.f.Documents("Audits")) != feeders*each {
					t.Errorf("%d outcomes, %d documents, want %d", f.done.Load(), len(a.f.Documents("Audits")), feeders*each)
				}
				if got := float64(feeders*each) / float64(requests); got < tt.least {
					t.Errorf("%.1f records a request, want at least %v", got, tt.least)
				}
			})
		})
	}
}

// While Cosmos DB takes nothing, the writer takes no more than it may hold, and
// says so to who would open another content.
func TestWriterHoldsBack(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		w := arc.Writer(t.Context())
		if err := w.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch, cosmosfake.Create}, Container: "Audits", Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: 429, RetryAfter: "1000"}})
		const n, size = 400, 100_000
		var f feeder
		var all sync.WaitGroup
		all.Go(func() { f.feed(t, t.Context(), arc, w, 0, n, 3, strings.Repeat("x", size)) })
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if held := f.given.Load() * size; held < 8<<20 || held > 11<<20 {
			t.Errorf("%d bytes are held while nothing is taken", held)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Ready(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ready while all room is taken = %v", err)
		}
		a.f.Recover()
		if err := w.Ready(t.Context()); err != nil {
			t.Errorf("Ready when it goes on: %v", err)
		}
		all.Wait()
		w.Close()
		if f.done.Load() != n || len(a.f.Documents("Audits")) != n {
			t.Errorf("%d outcomes, %d documents, want %d", f.done.Load(), len(a.f.Documents("Audits")), n)
		}
		if err := w.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A record that stands in two contents at once: whichever was given first is
// written first, whatever happens to its request.
func TestFirstGivenIsFirstWritten(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch, cosmosfake.Create}, Container: "Audits", Times: 3, Fault: cosmosfake.Fault{Status: 503}})
		var texts []string
		for i := range 30 {
			texts = append(texts, audit(1, "user001@harbor.example", fmt.Sprintf(`,"Version":%d`, i)))
		}
		got := store(t, t.Context(), arc, "one", texts...)
		if got[0].Outcome != archive.Stored {
			t.Errorf("the first has the outcome %v", got[0])
		}
		equal(t, "outcomes", tally(got), counts{archive.Stored: 1, archive.Conflict: 29})
		if docs := a.f.Documents("Audits"); len(docs) != 1 || !strings.Contains(string(docs[0].Body), `"Version":0`) {
			t.Errorf("the archive holds %d documents: %s", len(docs), docs[0].Body)
		}
	})
}

// Something before Cosmos DB that refuses every write costs a few requests, and
// one that refuses a single record costs its neighbours nothing.
func TestStrangersAtTheDoor(t *testing.T) {
	page := cosmosfake.Fault{Status: 403, Body: "<html>no</html>"}
	tests := []struct {
		name     string
		refuses  func(cosmosfake.Call) bool
		stored   int
		requests int
	}{
		{"everything", func(cosmosfake.Call) bool { return true }, 0, 100},
		{"one record", func(c cosmosfake.Call) bool { return bytes.Contains(c.Body, []byte("odd")) }, 99, 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				a.f.Set(func(s *cosmosfake.Switches) {
					s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
						if c.Container == "Audits" && (c.Kind == cosmosfake.Batch || c.Kind == cosmosfake.Create) && tt.refuses(c) {
							return &page
						}
						return nil
					}
				})
				var list []string
				for i := range 100 {
					more := ""
					if i == 41 {
						more = `,"x":"odd"`
					}
					list = append(list, audit(i, "user000@harbor.example", more))
				}
				began := time.Now()
				got := tally(store(t, t.Context(), arc, "c1", list...))
				equal(t, "outcomes", got[archive.Stored], tt.stored)
				if n := a.f.Count(cosmosfake.Batch, "Audits") + a.f.Count(cosmosfake.Create, "Audits"); n > tt.requests || time.Since(began) > time.Minute {
					t.Errorf("%d requests in %v", n, time.Since(began))
				}
			})
		})
	}
}
