package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"activityarchive/handler/cosmos"
)

const (
	// linger is how long a batch waits for records of other contents to fill it.
	linger = 40 * time.Millisecond

	// flights is how many requests a writer has under way.
	flights = 16

	// held bounds the bytes of documents that wait or are under way. The SDK
	// needs about four times a batch while it encodes one.
	held = 12 << 20

	// staleTries is how often "it exists", followed by "it cannot be found", is
	// taken for a replica that lags behind.
	staleTries = 6
)

// Writer creates documents in batches, one batch for each partition key value,
// filled across contents. Make one for a run, Close it at its end. All its
// methods take the context of that run: a batch carries records of several
// contents, so no single content may end it.
type Writer struct {
	archive *Archive
	room    *semaphore.Weighted
	flights errgroup.Group
	stop    chan struct{}
	ticking sync.WaitGroup

	mu     sync.Mutex
	groups map[cosmos.Key]*group   // being filled
	flying map[cosmos.Key][]*group // full or sent, and not done
}

// group is a batch that is being filled.
type group struct {
	docs  []*Document
	ids   map[string]bool
	bytes int
	since time.Time
	done  chan struct{} // closed when every document has its outcome
	after []*group      // go first, because they hold one of the ids: which text stays must not depend on the network
}

// Writer returns a writer for one run. The caller closes it.
func (a *Archive) Writer(ctx context.Context) *Writer {
	w := &Writer{
		archive: a,
		room:    semaphore.NewWeighted(held),
		stop:    make(chan struct{}),
		groups:  map[cosmos.Key]*group{},
		flying:  map[cosmos.Key][]*group{},
	}
	w.flights.SetLimit(flights)
	w.ticking.Go(func() { w.tick(ctx) })
	return w
}

// Close sends what is waiting, and returns when every document has its outcome.
func (w *Writer) Close(ctx context.Context) {
	close(w.stop)
	w.ticking.Wait()
	w.flush(ctx, 0)
	_ = w.flights.Wait() // outcomes go to done, never here
}

// tick sends batches that have waited long enough.
func (w *Writer) tick(ctx context.Context) {
	ticker := time.NewTicker(linger / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.flush(ctx, linger)
		case <-w.stop:
			return
		}
	}
}

// Create takes d over. done is called once, from another goroutine, with what
// became of it: an outcome (and for Refused the reason), or an error when that
// is not known and the content must be collected again. Create waits while too
// many bytes are under way; its own error is the end of ctx, and then done is
// not called.
func (w *Writer) Create(ctx context.Context, d *Document, done func(o Outcome, reason string, err error)) error {
	d.done = done
	size := d.weight()
	if !w.room.TryAcquire(size) {
		w.flush(ctx, 0) // batches that wait for company must not keep out what would fill them
		if err := w.room.Acquire(ctx, size); err != nil {
			return fmt.Errorf("waiting for Cosmos DB to take earlier records: %w", context.Cause(ctx))
		}
	}
	w.mu.Lock()
	g := w.groups[d.key]
	var full []*group
	if g != nil && (g.ids[d.id] || g.bytes+d.sent > cosmos.MaxBatchBytes) {
		full = append(full, w.take(d.key))
		g = nil
	}
	if g == nil {
		g = &group{ids: map[string]bool{}, since: time.Now(), done: make(chan struct{})}
		w.groups[d.key] = g
	}
	for _, earlier := range w.flying[d.key] {
		if earlier.ids[d.id] && !slices.Contains(g.after, earlier) {
			g.after = append(g.after, earlier)
		}
	}
	g.docs = append(g.docs, d)
	g.ids[d.id] = true
	g.bytes += d.sent
	if len(g.docs) == cosmos.MaxBatch {
		full = append(full, w.take(d.key))
	}
	w.mu.Unlock()
	for _, g := range full {
		w.launch(ctx, g)
	}
	return nil
}

// weight is what d counts against held.
func (d *Document) weight() int64 { return int64(len(d.body) + len(d.raw)) }

// take ends the filling of a group; w.mu is held.
func (w *Writer) take(key cosmos.Key) *group {
	g := w.groups[key]
	delete(w.groups, key)
	w.flying[key] = append(w.flying[key], g)
	return g
}

// landed forgets a group whose documents have their outcomes.
func (w *Writer) landed(g *group) {
	key := g.docs[0].key
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying[key] = slices.DeleteFunc(w.flying[key], func(f *group) bool { return f == g })
	if len(w.flying[key]) == 0 {
		delete(w.flying, key)
	}
	close(g.done)
}

// flush sends the groups that have waited for at least d.
func (w *Writer) flush(ctx context.Context, d time.Duration) {
	var ready []*group
	w.mu.Lock()
	now := time.Now()
	for key, g := range w.groups {
		if now.Sub(g.since) >= d {
			ready = append(ready, w.take(key))
		}
	}
	w.mu.Unlock()
	for _, g := range ready {
		w.launch(ctx, g)
	}
}

// launch sends a group; it waits for those that must go first, and while too
// many are under way.
func (w *Writer) launch(ctx context.Context, g *group) {
	for _, earlier := range g.after {
		<-earlier.done // taken before, and it ends with ctx at the latest
	}
	g.after = nil
	w.flights.Go(func() error {
		defer w.landed(g)
		defer func() {
			if p := recover(); p != nil { // a fault of ours must cost no more than these documents
				err := fmt.Errorf("creating records panicked: %v\n%s", p, debug.Stack())
				for _, d := range g.docs {
					if !d.finished {
						w.finish(d, 0, "", err)
					}
				}
			}
		}()
		w.send(ctx, g.docs)
		return nil
	})
}

// finish gives d its outcome and its bytes back.
func (w *Writer) finish(d *Document, o Outcome, reason string, err error) {
	d.finished = true
	w.room.Release(d.weight())
	d.done(o, reason, err)
}

// send creates documents of one partition, with no id twice among them, until
// each has its outcome.
func (w *Writer) send(ctx context.Context, docs []*Document) {
	for stale := 0; len(docs) > 0; {
		left, err := w.try(ctx, docs)
		if err != nil {
			for _, d := range left {
				w.finish(d, 0, "", err)
			}
			return
		}
		if len(left) == len(docs) {
			// Nothing is settled: what exists cannot be found yet.
			if stale++; stale == staleTries {
				err := &cosmos.Fault{Op: "create records", Err: errors.New("records are refused as existing but cannot be found")}
				for _, d := range left {
					w.finish(d, 0, "", err)
				}
				return
			}
			wait := time.NewTimer(time.Duration(stale) * (100*time.Millisecond + rand.N(100*time.Millisecond)))
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
		}
		docs = left
	}
}

// try sends docs once, settles those whose outcome is known, and returns the
// others. An error holds for all that it returns.
func (w *Writer) try(ctx context.Context, docs []*Document) (left []*Document, err error) {
	key := docs[0].key
	statuses, committed, err := w.create(ctx, key, docs)
	switch kind := cosmos.KindOf(err); {
	case err == nil:
	case kind == cosmos.Exists && len(docs) == 1:
		statuses = []int{http.StatusConflict}
	case (kind == cosmos.Refused || kind == cosmos.TooLarge || kind == cosmos.Full) && len(docs) == 1:
		w.finish(docs[0], Refused, "Cosmos DB refuses the document: "+kind.String(), nil)
		return nil, nil
	case kind == cosmos.Refused || kind == cosmos.TooLarge || kind == cosmos.Full:
		// The request as a whole: one of the documents is why. Halve until it is
		// alone.
		half := len(docs) / 2
		w.send(ctx, docs[:half])
		w.send(ctx, docs[half:])
		return nil, nil
	default:
		return docs, err
	}

	var conflicts, full bool
	for i, status := range statuses {
		d := docs[i]
		switch {
		case status/100 == 2 && committed:
			w.finish(d, Stored, "", nil)
		case status == http.StatusConflict:
			conflicts = true
			left = append(left, d)
		case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge:
			w.finish(d, Refused, fmt.Sprintf("Cosmos DB refuses the document with status %d", status), nil)
		case status/100 == 2 || status == http.StatusFailedDependency:
			left = append(left, d) // rolled back because of another
		case status == http.StatusForbidden:
			full = true
			left = append(left, d)
		default:
			return append(left, docs[i:]...), &cosmos.Fault{Op: "create records", Status: status, Err: errors.New("an operation of the batch was refused")}
		}
	}
	if full {
		// The logical partition has reached its 20 GB. That stays so: its records
		// are kept as dead letters, and the rest of the content goes on.
		for _, d := range left {
			w.finish(d, Refused, "Cosmos DB refuses the document: "+cosmos.Full.String(), nil)
		}
		return nil, nil
	}
	if !conflicts {
		return left, nil
	}
	there, err := w.archive.find(ctx, key, left)
	if err != nil {
		return left, err
	}
	unknown := left[:0:0]
	for _, d := range left {
		found, ok := there[d.id]
		switch {
		case !ok:
			unknown = append(unknown, d)
		case found.SHA256 != d.sha256:
			w.finish(d, Conflict, "", nil)
		case found.Content != d.content:
			w.finish(d, Duplicate, "", nil)
		default:
			w.finish(d, Stored, "", nil)
		}
	}
	return unknown, nil
}

// create sends docs in one request. A single document goes alone: it is then
// sent as it is, without the escapes that make it larger in a batch.
func (w *Writer) create(ctx context.Context, key cosmos.Key, docs []*Document) (statuses []int, committed bool, err error) {
	if len(docs) == 1 {
		if err := w.archive.container.Create(ctx, key, docs[0].body); err != nil {
			return nil, false, err
		}
		return []int{http.StatusCreated}, true, nil
	}
	ops := make([]cosmos.Op, len(docs))
	for i, d := range docs {
		ops[i] = cosmos.Create(d.body)
	}
	return w.archive.container.Batch(ctx, key, ops)
}

// present is what the archive holds under an id.
type present struct{ SHA256, Content string }

// find looks up which ids of docs, all of one partition, are there.
func (a *Archive) find(ctx context.Context, key cosmos.Key, docs []*Document) (map[string]present, error) {
	names := make([]string, len(docs))
	params := make([]cosmos.Param, len(docs))
	for i, d := range docs {
		names[i] = fmt.Sprintf("@i%d", i)
		params[i] = cosmos.Param{Name: names[i], Value: d.id}
	}
	there := map[string]present{}
	sql := "SELECT c.id, c.archive.sha256, c.archive.content FROM c WHERE c.id IN (" + strings.Join(names, ", ") + ")"
	err := a.container.Query(ctx, key, sql, params, func(row json.RawMessage) error {
		var doc struct{ ID, SHA256, Content string }
		if err := json.Unmarshal(row, &doc); err != nil {
			return fmt.Errorf("reading what the archive holds: %w", err)
		}
		there[doc.ID] = present{doc.SHA256, doc.Content}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking up records that exist: %w", err)
	}
	return there, nil
}
