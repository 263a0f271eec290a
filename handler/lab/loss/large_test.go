package loss_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

const (
	// The largest content that has been reported: 100,000 records in 68 MB.
	largeRecords, largeRecord = 100_000, 680

	// resident is how much memory a process may hold at any time.
	resident = 96 << 20
)

// alone reports whether this process has the named row to itself, so that its
// memory is nobody else's. If not, such a process runs the row. It is built
// without the race detector, which takes several times the memory.
func alone(t *testing.T, row string) bool {
	t.Helper()
	const mark = "LOSS_ALONE"
	if os.Getenv(mark) == row {
		return true
	}
	binary := filepath.Join(t.TempDir(), "alone.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-race=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	child := exec.CommandContext(t.Context(), binary, "-test.run=^TestLoss$/^"+row+"$", "-test.v")
	// On one processor what else this machine does cannot come between the
	// collection of garbage and the making of it.
	child.Env = append(os.Environ(), mark+"="+row, "GOMAXPROCS=1", "GOMEMLIMIT=80MiB") // the handler sets that limit itself
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestLoss/"+row)) {
		t.Errorf("alone in a process: %v\n%s", err, out[:min(len(out), 4000)])
	}
	return false
}

// fullSize collects the largest content in one tick.
func fullSize(t *testing.T, s *system) {
	if !alone(t, "D24") {
		return
	}
	c, arrived := s.largest()
	s.account.Set(func(sw *cosmosfake.Switches) {
		sw.Hook = func(call cosmosfake.Call) *cosmosfake.Fault {
			if call.Container == "Audits" && call.Kind == cosmosfake.Batch {
				arrived.take(largeRecords)
			}
			return nil
		}
	})
	s.process().mustTick()
	arrived.take(largeRecords)
	if n := s.asked(c.ID); n != 1 {
		t.Errorf("the content was fetched %d times", n)
	}
	arrived.check()
	s.wholly(c)
}

// manyTicks collects the largest content where Cosmos DB takes 1,000 RU/s and a
// tick has a minute.
func manyTicks(t *testing.T, s *system) {
	if !alone(t, "X-large") {
		return
	}
	p := s.process()
	p.ticks(1) // the first listing alone takes most of a minute
	c, arrived := s.largest()
	s.later(time.Second)
	limit := func(budget float64) { s.account.Set(func(sw *cosmosfake.Switches) { sw.Budget = budget }) }
	s.account.Set(func(sw *cosmosfake.Switches) {
		sw.Hook = func(call cosmosfake.Call) *cosmosfake.Fault {
			var e ledger.Entry
			if call.Container == "ArchiveState" && call.Kind == cosmosfake.Replace && json.Unmarshal(call.Body, &e) == nil && e.ID == ledger.EntryID(general, c.ID) {
				// What is confirmed is taken out, at no charge: sent again, it comes twice.
				limit(0)
				arrived.take(e.Progress.Done())
				limit(1000)
			}
			return nil
		}
	})
	limit(1000)
	done, ticks := 0, 0
	for ; ticks < 60 && s.entryOf(c.ID).State != ledger.Stored; ticks++ {
		if err := p.tickWithin(time.Minute); err != nil {
			t.Errorf("tick %d did part of the work and says: %v", ticks, err)
		}
		if e := s.entryOf(c.ID); e.State != ledger.Stored {
			if e.Progress.Done() <= done || e.Attempts != 0 {
				t.Fatalf("tick %d: %d elements are confirmed, and were %d before; %d attempts count as failed", ticks, e.Progress.Done(), done, e.Attempts)
			}
			done = e.Progress.Done()
		}
		s.later(5 * time.Minute)
	}
	if n := s.asked(c.ID); n != ticks || ticks < 3 {
		t.Errorf("the content was fetched %d times in %d ticks, want as often, and three at least", n, ticks)
	}
	limit(0)
	arrived.take(largeRecords)
	arrived.check()
	s.wholly(c)
	t.Logf("%d ticks", ticks)
}

// wide collects sixteen contents at once while Cosmos DB is slow. Each is smaller
// than a segment, so that nothing but the bound on what waits for Cosmos DB, in
// all contents together, keeps the process from reading them whole.
func wide(t *testing.T, s *system) {
	const contents, each, size = 16, 18, 100_000
	const most = 14 << 20 // half of it all: 6 MiB wait, as record and as document, and each content has just read a few records
	var read atomic.Int64
	var mu sync.Mutex
	var peak int64
	for i := range contents {
		s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Minute), Records: func(yield func(json.RawMessage) bool) {
			for raw := range manyRecords(i*each, each, size) {
				if !yield(raw) {
					return
				}
				read.Add(size)
			}
		}})
	}
	arrived := &arrivals{s: s, size: size, seen: make([]bool, contents*each)}
	s.account.Set(func(sw *cosmosfake.Switches) {
		sw.Hook = func(call cosmosfake.Call) *cosmosfake.Fault {
			if call.Container != "Audits" || call.Kind != cosmosfake.Batch && call.Kind != cosmosfake.Create {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			peak = max(peak, read.Load()-int64(arrived.take(len(arrived.seen)))*size)
			return &cosmosfake.Fault{Delay: time.Second}
		}
	})
	s.process().mustTick()
	if n := arrived.take(len(arrived.seen)); n != contents*each || int(read.Load()) != n*size {
		t.Errorf("%d of %d records arrived, and %d bytes were read", n, contents*each, read.Load())
	}
	s.counted(contents*each, 0, 0)
	if peak > most || peak < most/4 {
		t.Errorf("%d bytes were read and not yet stored, want at most %d, and enough to show something", peak, most)
	}
}

// arrivals are the records of manyRecords, from 0, that came into the archive.
// Nothing has room for all of them: each is compared and taken out.
type arrivals struct {
	s    *system
	size int // of each record
	mu   sync.Mutex
	seen []bool
}

// largest publishes the largest content, made anew each time it is read.
func (s *system) largest() (tenant.Content, *arrivals) {
	s.t.Helper()
	c := s.tenant.Add(tenant.Content{Type: general, Created: time.Now().Add(-time.Minute), Records: manyRecords(0, largeRecords, largeRecord)})
	if size := sizeOf(s.t, c); size < 68_000_000 {
		s.t.Fatalf("the content has %d bytes", size)
	}
	return c, &arrivals{s: s, size: largeRecord, seen: make([]bool, largeRecords)}
}

// take compares and takes out the first n records, as far as they are there, and
// returns how many have come so far.
func (a *arrivals) take(n int) (all int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.s.account.Documents("Audits") {
		i, err := strconv.Atoi(d.ID[max(0, len(d.ID)-12):])
		switch {
		case err != nil || i >= len(a.seen):
			a.s.t.Errorf("document %s was never published", d.ID)
		case i >= n:
			continue
		case a.seen[i]:
			a.s.t.Errorf("document %s came before", d.ID)
		default:
			a.seen[i] = true
			a.s.holds(d, numbered(i, a.size))
		}
		a.s.remove(d)
	}
	for _, seen := range a.seen {
		if seen {
			all++
		}
	}
	return all
}

// check fails the test unless every record came, and the process never held too
// much memory: the tenant and the account in it included, so that the product has
// less.
func (a *arrivals) check() {
	t := a.s.t
	t.Helper()
	if i := slices.Index(a.seen, false); i >= 0 {
		t.Errorf("record %d is missing", i)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Logf("resident memory is not known on this system: %v", err)
		return
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(line, &kib); err != nil {
		t.Fatalf("reading resident memory: %v", err)
	}
	t.Logf("at most %d KiB were resident", kib)
	if kib<<10 > resident {
		t.Errorf("%d KiB were resident, want at most %d", kib, resident>>10)
	}
}

// wholly fails the test unless the ledger says that all of the largest content
// is stored.
func (s *system) wholly(c tenant.Content) {
	s.t.Helper()
	e := s.entryOf(c.ID)
	if want := (ledger.Counts{Stored: largeRecords}); e.State != ledger.Stored || e.Elements != largeRecords || e.Counts != want {
		s.t.Errorf("the content is %s with %+v of %d elements: %s", e.State, e.Counts, e.Elements, e.Reason)
	}
}

// holds fails the test unless d has all members of raw, with the same texts, and
// none but the archive's beside them.
func (s *system) holds(d cosmosfake.Document, raw json.RawMessage) {
	s.t.Helper()
	var got, want map[string]json.RawMessage
	if err := json.Unmarshal(d.Body, &got); err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		s.t.Fatal(err)
	}
	if !bytes.Contains(got["archive"], fmt.Appendf(nil, `"sha256":"%x"`, sha256.Sum256(raw))) {
		s.t.Errorf("document %s has not the hash of its record", d.ID)
	}
	maps.DeleteFunc(got, func(name string, _ json.RawMessage) bool {
		return name == "id" || name == "archive" || strings.HasPrefix(name, "_")
	})
	if !maps.EqualFunc(got, want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		s.t.Errorf("document %s is not its record: %.300s", d.ID, d.Body)
	}
}

// remove deletes a document of the archive.
func (s *system) remove(d cosmosfake.Document) {
	s.t.Helper()
	s.removeFrom("Audits", d)
}

// removeFrom deletes a document of a container.
func (s *system) removeFrom(container string, d cosmosfake.Document) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodDelete, "https://fake.documents.example/dbs/Audit/colls/"+container+"/docs/"+d.ID, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "type%3Daad%26ver%3D1.0%26sig%3Dsynthetic")
	req.Header.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
	req.Header.Set("x-ms-version", "2020-11-05")
	req.Header.Set("x-ms-documentdb-partitionkey", d.Key)
	resp, err := s.account.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		s.t.Errorf("taking document %s out: status %d", d.ID, resp.StatusCode)
	}
}
