package archive

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"activityarchive/handler/cosmos"
)

const (
	// linger is how long a batch waits for records of other contents to fill it,
	// as long as there is no better use for a request.
	linger = 40 * time.Millisecond

	// flights is how many requests a writer has under way.
	flights = 16

	// held bounds the bytes of documents that wait or are under way.
	held = 10 << 20

	// staleTries is how often "it exists", followed by "it cannot be found", is
	// taken for a replica that lags behind.
	staleTries = 6
)

// Writer creates documents in batches, one batch for each partition key value,
// filled across contents. Make one for a run, Close it at its end. All its
// methods take the context of that run: a batch carries records of several
// contents, so no single content may end it.
//
// A batch is due when it is full, when it has lingered, or when its bytes are
// wanted; it fills on until a sender is free. So batches are the fuller the more
// Cosmos DB is what everything waits for.
type Writer struct {
	archive   *Archive
	room      *semaphore.Weighted
	used      atomic.Int64 // of room
	strangers atomic.Int64 // records refused alone by something before Cosmos DB, in a row
	stop      chan struct{}
	senders   sync.WaitGroup
	ticking   sync.WaitGroup

	mu      sync.Mutex
	work    sync.Cond               // there may be a batch to send
	filling map[cosmos.Key]*group   // take more documents
	waiting list.List               // of *group: those of them that are not due, oldest first
	due     []*group                // to be sent, in this order; full or not
	flying  map[cosmos.Key][]*group // take no more documents, and are not done
	blocked int                     // callers of Create that wait for room
	closing bool
	eased   chan struct{} // closed when room is plenty again; nil while it is
}

// group is a batch.
type group struct {
	docs  []*Document
	ids   map[string]bool
	bytes int
	since time.Time
	wait  *list.Element // its place in waiting, nil once it is due
	done  chan struct{} // closed when every document has its outcome
	after []*group      // go first, because they hold one of the ids: which text stays must not depend on the network
}

// Writer returns a writer for one run. The caller closes it.
func (a *Archive) Writer(ctx context.Context) *Writer {
	w := &Writer{
		archive: a,
		room:    semaphore.NewWeighted(held),
		stop:    make(chan struct{}),
		filling: map[cosmos.Key]*group{},
		flying:  map[cosmos.Key][]*group{},
	}
	w.work.L = &w.mu
	w.ticking.Go(w.tick)
	for range flights {
		w.senders.Go(func() {
			for g := w.next(); g != nil; g = w.next() {
				for _, earlier := range g.after {
					<-earlier.done // handed out before, and it ends with ctx at the latest
				}
				g.after = nil
				w.deliver(ctx, g)
			}
		})
	}
	return w
}

// Close sends what is waiting, and returns when every document has its outcome.
func (w *Writer) Close() {
	close(w.stop)
	w.ticking.Wait()
	w.mu.Lock()
	w.closing = true
	w.work.Broadcast()
	w.mu.Unlock()
	w.senders.Wait()
}

// tick looks for batches that have lingered.
func (w *Writer) tick() {
	ticker := time.NewTicker(linger / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.mu.Lock()
			for e := w.waiting.Front(); e != nil && time.Since(e.Value.(*group).since) >= linger; e = w.waiting.Front() {
				w.hurry(e.Value.(*group))
			}
			w.mu.Unlock()
		case <-w.stop:
			return
		}
	}
}

// Ready returns when more contents may be opened: at once, unless half the room
// is taken by what waits for Cosmos DB. Its error is the end of ctx.
func (w *Writer) Ready(ctx context.Context) error {
	w.mu.Lock()
	if w.eased == nil && w.used.Load() > held/2 {
		w.eased = make(chan struct{})
	}
	eased := w.eased
	w.mu.Unlock()
	if eased == nil {
		return nil
	}
	select {
	case <-eased:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for Cosmos DB to take earlier records: %w", context.Cause(ctx))
	}
}

// Create takes d over. done is called once, from another goroutine, with what
// became of it: an outcome (and for Refused the reason), or an error when that
// is not known and the content must be collected again. Create waits while too
// many bytes are under way; its own error is the end of ctx, and then done is
// not called.
func (w *Writer) Create(ctx context.Context, d *Document, done func(o Outcome, reason string, err error)) error {
	d.done = done
	if err := w.admit(ctx, d.weight()); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.filling[d.key]
	if g != nil && (g.ids[d.id] || g.bytes+d.sent > cosmos.MaxBatchBytes) {
		w.hurry(g)
		w.shut(g)
		g = nil
	}
	if g == nil {
		g = &group{ids: map[string]bool{}, since: time.Now(), done: make(chan struct{})}
		w.filling[d.key] = g
		g.wait = w.waiting.PushBack(g)
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
		w.hurry(g)
		w.shut(g)
	}
	return nil
}

// admit waits for room for size bytes.
func (w *Writer) admit(ctx context.Context, size int64) error {
	if !w.room.TryAcquire(size) {
		w.mu.Lock()
		w.blocked++
		w.work.Signal() // batches that wait for company must not keep out what would fill them
		w.mu.Unlock()
		err := w.room.Acquire(ctx, size)
		w.mu.Lock()
		w.blocked--
		w.mu.Unlock()
		if err != nil {
			return fmt.Errorf("waiting for Cosmos DB to take earlier records: %w", context.Cause(ctx))
		}
	}
	w.used.Add(size)
	return nil
}

// weight is what d counts against held.
func (d *Document) weight() int64 { return int64(len(d.body) + len(d.raw)) }

// hurry makes g due, if it is not; w.mu is held.
func (w *Writer) hurry(g *group) {
	if g.wait == nil {
		return
	}
	w.waiting.Remove(g.wait)
	g.wait = nil
	w.due = append(w.due, g)
	w.work.Signal()
}

// shut ends the filling of g, if it has not ended; w.mu is held.
func (w *Writer) shut(g *group) {
	key := g.docs[0].key
	if w.filling[key] == g {
		delete(w.filling, key)
		w.flying[key] = append(w.flying[key], g)
	}
}

// next waits for a batch to send; nil at the end. Of two that hold the same id
// the one begun first is handed out first: it is due before the other begins.
func (w *Writer) next() *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.due) == 0 {
		oldest := w.waiting.Front()
		switch {
		case oldest != nil && (w.closing || w.blocked > 0):
			w.hurry(oldest.Value.(*group))
		case w.closing:
			return nil
		default:
			w.work.Wait()
		}
	}
	g := w.due[0]
	w.due[0] = nil
	w.due = w.due[1:]
	w.shut(g)
	return g
}

// deliver sends a group and lets those that wait for it go on.
func (w *Writer) deliver(ctx context.Context, g *group) {
	defer w.landed(g)
	defer func() {
		if p := recover(); p != nil { // a fault of ours must cost no more than these documents
			what := fmt.Sprintf("%T", p) // only the runtime's own texts are sure to hold no data
			if e, ok := p.(runtime.Error); ok {
				what = e.Error()
			}
			err := fmt.Errorf("creating records panicked: %s\n%s", what, debug.Stack())
			for _, d := range g.docs {
				if !d.finished {
					w.finish(d, 0, "", err)
				}
			}
		}
	}()
	w.send(ctx, g.docs)
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
	if w.eased != nil && w.used.Load() <= held/2 {
		close(w.eased)
		w.eased = nil
	}
}

// finish gives d its outcome and its bytes back.
func (w *Writer) finish(d *Document, o Outcome, reason string, err error) {
	d.finished = true
	w.used.Add(-d.weight())
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
		w.strangers.Store(0)
	case kind == cosmos.Exists && len(docs) == 1:
		statuses = []int{http.StatusConflict}
	case forGood(kind) && len(docs) == 1:
		return w.refuse(ctx, docs, kind)
	case forGood(kind), w.worthHalving(docs, err):
		// The request as a whole: one of the documents is why. Halve until it is
		// alone.
		half := len(docs) / 2
		w.send(ctx, docs[:half])
		w.send(ctx, docs[half:])
		return nil, nil
	default:
		return docs, err
	}

	var conflicts bool
	var suspects []*Document
	for i, status := range statuses {
		d := docs[i]
		switch {
		case status/100 == 2 && committed:
			w.finish(d, Stored, "", nil)
		case status == http.StatusConflict:
			conflicts = true
			left = append(left, d)
		case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusForbidden:
			suspects = append(suspects, d)
		case status/100 == 2 || status == http.StatusFailedDependency:
			left = append(left, d) // rolled back because of another
		default:
			return append(left, docs[i:]...), &cosmos.Fault{Op: "create records", Status: status, Err: errors.New("an operation of the batch was refused")}
		}
	}
	for _, d := range suspects {
		// Alone the answer has a sub-status, which says more.
		w.send(ctx, []*Document{d})
	}
	if !conflicts {
		return left, nil
	}
	return w.compare(ctx, left)
}

// forGood reports whether a failure of one document stays for ever.
func forGood(kind cosmos.Kind) bool {
	return kind == cosmos.Refused || kind == cosmos.TooLarge || kind == cosmos.Full || kind == cosmos.OtherKey
}

// strangersInRow is after how many records that something before Cosmos DB has
// refused alone, with nothing written between, it is taken to refuse everything.
const strangersInRow = 5

// worthHalving reports whether something before Cosmos DB has refused the batch
// and may have done so for one of its records.
func (w *Writer) worthHalving(docs []*Document, err error) bool {
	f, ok := errors.AsType[*cosmos.Fault](err)
	if !ok || !f.Foreign {
		return false
	}
	if len(docs) == 1 {
		w.strangers.Add(1)
		return false
	}
	return w.strangers.Load() < strangersInRow
}

// refuse settles a document that Cosmos DB refuses alone, unless it is there
// already, or the container is not what it was. A logical partition that has
// reached its 20 GB stays full: its records are kept as dead letters, and the
// rest of their contents goes on.
func (w *Writer) refuse(ctx context.Context, docs []*Document, kind cosmos.Kind) (left []*Document, err error) {
	if kind == cosmos.OtherKey {
		if err := w.archive.recheck(ctx); err != nil {
			return docs, err
		}
	}
	if left, err = w.compare(ctx, docs); err != nil && !forGood(cosmos.KindOf(err)) { // its key may not do for a query either
		return left, err
	}
	for _, d := range left {
		w.finish(d, Refused, "Cosmos DB refuses the document: "+kind.String(), nil)
	}
	return nil, nil
}

// compare settles those of docs, all of one partition, that are in the archive,
// and returns the others.
func (w *Writer) compare(ctx context.Context, docs []*Document) (unknown []*Document, err error) {
	there, err := w.archive.find(ctx, docs[0].key, docs)
	if err != nil {
		return docs, err
	}
	for _, d := range docs {
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

// create sends docs in one request, a single document without a batch around it.
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
	err := a.container.Query(ctx, key, sql, params, 0, func(row json.RawMessage) error {
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
