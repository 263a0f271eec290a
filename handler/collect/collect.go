// Package collect brings content into the archive: it fetches one content,
// stores its records, and settles its ledger entry; it
// works off what is due in the ledger ([Collector.Work]); and it lists what the
// service has into the ledger ([Collector.CatchUp]).
//
// The webhook and the timer both set it going. The order of writes is the
// promise of the product: an entry before anything is fetched, every record
// confirmed before the entry is closed, every listed content in the ledger
// before the mark moves. Kill it anywhere, run it twice, run two of it: nothing
// is lost and nothing doubled.
package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

// Collector holds what collecting needs. Its fields are set once; its methods
// are safe for concurrent use.
type Collector struct {
	API     *activity.Client
	Ledger  *ledger.Ledger
	Archive *archive.Archive
	Filter  record.Filter
	Logger  *slog.Logger

	Parallel int           // contents collected at a time
	Window   time.Duration // span of one listing, at most 24 h
	Overlap  time.Duration // how far behind the mark each listing begins
	Start    time.Duration // how far back the first listing of a content type begins, at most 7 days
}

// Prepare makes sure that both containers are there and have the right keys.
func (c *Collector) Prepare(ctx context.Context) error {
	if err := c.Archive.Prepare(ctx); err != nil {
		return fmt.Errorf("preparing the archive: %w", err)
	}
	if err := c.Ledger.Prepare(ctx); err != nil {
		return fmt.Errorf("preparing the ledger: %w", err)
	}
	return nil
}

// Tally sums up a run. It is safe for concurrent use; read it through Sum.
type Tally struct {
	mu  sync.Mutex
	sum Sum
}

// Sum is what a run has done.
type Sum struct {
	Listed  int // contents that listings showed
	New     int // of these, contents that were not in the ledger: found by polling only
	Fetched int // contents read to their end
	Failed  int // contents left open after a failure
	Lost    int // contents that the service refused until their life was over
	Counts  ledger.Counts
	Bytes   int64          // of content read
	Filter  map[string]int // records left out, by "RecordType Workload"
	Open    ledger.Open    // what was unfinished at the last look
	Looked  bool           // there was such a look
	Reasons map[string]int // why contents were left open, counted
}

// maxKinds bounds the keys of Sum.Filter and Sum.Reasons: they hold foreign
// text. The rest is counted under "other".
const maxKinds = 100

// Sum returns a copy of the sums so far.
func (t *Tally) Sum() Sum {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sum
	s.Filter, s.Reasons = maps.Clone(s.Filter), maps.Clone(s.Reasons)
	return s
}

func (t *Tally) add(change func(*Sum)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.sum)
}

func count(m *map[string]int, key string, n int) {
	if *m == nil {
		*m = map[string]int{}
	}
	if _, ok := (*m)[key]; !ok && len(*m) >= maxKinds {
		key = "other"
	}
	(*m)[key] += n
}

// Ends reports whether a failure ends a whole run: Cosmos DB refuses us, or a
// container is missing. Nothing would go better for the next content, and no
// entry must be marked because of it. What the Management Activity API refuses
// concerns one content type or one content first, and never ends a run alone.
func Ends(err error) bool {
	kind, ok := cosmosKind(err)
	return ok && (kind == cosmos.Denied || kind == cosmos.Missing)
}

func cosmosKind(err error) (cosmos.Kind, bool) {
	f, ok := errors.AsType[*cosmos.Fault](err)
	if !ok {
		return 0, false
	}
	return f.Kind, true
}

// isChanged reports whether another instance has written the entry meanwhile.
func isChanged(err error) bool {
	kind, ok := cosmosKind(err)
	return ok && kind == cosmos.Changed
}
