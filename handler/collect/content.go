package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

const (
	// A content is confirmed in segments: after this many elements or bytes
	// reading waits until all of them are stored. It bounds what a killed process
	// has to do again, and what dead letters hold in memory.
	segmentElements = 1000
	segmentBytes    = 8 << 20
	letterBytes     = 256 << 10 // of dead letters that are waiting for that

	// progressEvery is how often the progress of a large content is saved.
	progressEvery = 15 * time.Second

	// patience is how long after contentCreated a body that ends too early is
	// taken for a passing fault: one day less than the service keeps it.
	patience = 6 * 24 * time.Hour

	// lastWords is how long the ledger may take to note the outcome of a content
	// when the run is over.
	lastWords = 10 * time.Second
)

// content fetches the content of e, stores its records, and settles e in the
// ledger: stored, lost, or due again later. Whatever the outcome, it logs one
// line.
//
// An error says that something is wrong that is not this content's own: Ends
// tells whether the run must end at once. Otherwise the caller goes on, unless
// the same happens to one content after another.
func (c *run) content(ctx context.Context, e *ledger.Entry) error {
	began := time.Now()
	r, err := c.whole(ctx, e)
	c.tally.add(func(s *Sum) { s.Bytes += r.sum.bytes })
	log := c.Logger.With("contentType", e.ContentType, "contentId", e.ContentID, "attempt", e.Attempts+1,
		"elements", r.elements, "bytes", r.sum.bytes, "elapsedMs", time.Since(began).Milliseconds())
	if err != nil && Ends(err) {
		log.Warn("content left open", "reason", err.Error())
		return err
	}

	now := c.API.Now()
	over := ctx.Err() != nil
	settle := func(ctx context.Context, save func(context.Context, *ledger.Entry) error) error {
		switch {
		case err == nil:
			e.Counts, e.Elements = r.confirmed, r.elements
			if err := c.Ledger.SaveIDs(ctx, e, r.ids); err != nil {
				return err
			}
			e.Close(ledger.Stored, "", now)
		case over || throttled(err): // out of time or quota, which is no failure of the content
			e.Due, e.Reason = ledger.At(now), "the run ended before the content did"
		case c.API.ClockKnown() && hopeless(err, e, now):
			e.GiveUp(err.Error(), now)
		default:
			e.Fail(err.Error(), now)
			if e.Late.IsZero() && c.API.ClockKnown() && now.After(e.LifeEnds()) && !isOurs(err) {
				e.Late = ledger.At(now)
			}
		}
		return save(ctx, e)
	}
	attempts := e.Attempts
	saveErr := settle(ctx, c.settler.Save)
	if saveErr != nil && ctx.Err() != nil && !isChanged(saveErr) {
		e.Attempts = attempts // the outcome is noted once more, not a second failure
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		saveErr = settle(last, c.Ledger.Save) // alone: others have given up
	}
	switch {
	case saveErr == nil:
		c.tell(log, e, r, err)
	case isChanged(saveErr):
		log.Info("content settled by another instance")
	default:
		log.Error("content not settled", "reason", saveErr.Error())
		c.tally.add(func(s *Sum) {
			s.Failed++
			count(&s.Reasons, reasonOf(saveErr), 1)
		})
		return saveErr
	}
	if f, ok := errors.AsType[*activity.Fault](err); ok && f.Kind == activity.Denied {
		return err
	}
	return nil
}

// whole reads the content of e, from its beginning if it is not what an earlier
// run has confirmed, and in a place among the large if it turns out to be one. It
// returns the reading that counts.
func (c *run) whole(ctx context.Context, e *ledger.Entry) (r *reading, err error) {
	placed := false
	defer func() {
		if placed {
			<-c.large
		}
	}()
	large, restarted := e.Progress.Done() >= segmentElements, false
	for {
		if large && !placed {
			if err := c.enter(ctx); err != nil {
				return c.begin(e), err
			}
			placed = true
		}
		r = c.begin(e)
		r.placed = placed
		err = r.guarded(ctx)
		placed = r.placed
		switch {
		case errors.Is(err, errCrowded):
			large = true
		case errors.Is(err, errRestart) && !restarted:
			// Writing everything again is safe; passing over what differs is not.
			restarted, e.Progress = true, nil
		default:
			return r, err
		}
	}
}

// isOurs reports whether a failure is not the service's, but one of storing or of
// this program.
func isOurs(err error) bool {
	_, stored := cosmosKind(err)
	_, panics := errors.AsType[*panicked](err)
	return stored || panics
}

// lastDay is for how long a content is tried after its life if the service does
// not refuse it, but fails: at least 24 times, and not for ever.
const lastDay = 24 * time.Hour

// hopeless reports whether e's content is lost. Its life must be over by the
// service's clock. Then a refusal counts; and after another day of failures any
// failure to get it from the service. A failure to store it never does: that is
// ours to mend.
func hopeless(err error, e *ledger.Entry, now time.Time) bool {
	if isOurs(err) {
		return false
	}
	return refuses(err) && now.After(e.LifeEnds()) || !e.Late.IsZero() && now.Sub(e.Late.Time) >= lastDay
}

// tell logs and counts the outcome that the ledger now holds.
func (c *run) tell(log *slog.Logger, e *ledger.Entry, r *reading, err error) {
	t := c.tally
	switch {
	case e.State == ledger.Stored && err != nil:
		log.Warn("content was opened again and cannot be had any more: what was stored before stands", "reason", e.Reason)
	case e.State == ledger.Stored:
		log.Info("content stored", "found", e.Found, "stored", e.Stored, "duplicate", e.Duplicate, "filtered", e.Filtered, "deadLettered", e.Dead)
		t.add(func(s *Sum) {
			s.Fetched++
			s.Counts.Add(e.Counts)
			for kind, n := range r.filtered {
				count(&s.Filter, kind, n)
			}
		})
	case e.State == ledger.Lost:
		log.Error("content lost: it cannot be had, and its time is over", "contentUri", e.ContentURI, "created", e.Created.String(), "reason", e.Reason)
		t.add(func(s *Sum) { s.Lost++ })
	default:
		log.Warn("content left open", "reason", e.Reason, "due", e.Due.String(), "confirmed", e.Progress.Done())
		t.add(func(s *Sum) {
			s.Failed++
			count(&s.Reasons, reasonOf(err), 1)
		})
	}
}

// throttled reports whether the quota of the service, or the throughput of
// Cosmos DB, did not suffice in the time there was.
func throttled(err error) bool {
	if kind, ok := cosmosKind(err); ok {
		return kind == cosmos.Throttled
	}
	f, ok := errors.AsType[*activity.Fault](err)
	return ok && f.Kind == activity.Throttled
}

// refuses reports whether the content cannot be had: the service itself says so,
// or its contentUri is none that we follow. A network fault says nothing of the
// kind.
func refuses(err error) bool {
	if f, ok := errors.AsType[*activity.Fault](err); ok {
		return f.Kind == activity.Gone || f.Kind == activity.BadRequest || f.Kind == activity.Untrusted
	}
	return false
}

// reasonOf names a failure in few words, for counting.
func reasonOf(err error) string {
	if f, ok := errors.AsType[*activity.Fault](err); ok {
		return "service: " + f.Kind.String()
	}
	if kind, ok := cosmosKind(err); ok {
		return "cosmos: " + kind.String()
	}
	if _, ok := errors.AsType[*panicked](err); ok {
		return "fault of this program"
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return "out of time"
	}
	return "body cut or broken"
}

// reading is one content on its way into the archive.
type reading struct {
	c *run
	e *ledger.Entry

	skip      *ledger.Progress // elements to pass over: confirmed by an earlier run
	parser    record.Parser
	elements  int                   // read so far
	sum       digest                // over the hashes of these elements
	seen      map[[16]byte][16]byte // identity to text, of the documents so far; both hashed
	filtered  map[string]int        // by RecordType and Workload
	confirmed ledger.Counts         // of all elements up to the last barrier
	segment   struct{ elements, bytes int }
	savedAt   time.Time
	placed    bool // there is a place for it among the large

	mu      sync.Mutex
	pending sync.WaitGroup
	counts  ledger.Counts // since the last barrier
	letters []letter      // to bury at the next barrier
	bytes   int           // of these
	ids     ledger.IDs    // of the content's records in the archive, whoever brought them
	dead    map[int]bool  // elements that an earlier run has confirmed as dead letters
	err     error         // first failure of a document
}

// digest hashes and counts a content's elements.
type digest struct {
	hash.Hash
	bytes int64
}

// element takes an element of n bytes with that hash, which stands for them: they
// need not be hashed twice.
func (d *digest) element(sum [sha256.Size]byte, n int64) {
	d.bytes += n
	d.Hash.Write(sum[:])
}

// hashed hashes and counts what is read through it.
type hashed struct {
	io.Reader
	sum hash.Hash
	n   int64
}

func newHashed(r io.Reader) *hashed { return &hashed{Reader: r, sum: sha256.New()} }

// Read implements [io.Reader].
func (h *hashed) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	h.sum.Write(b[:n])
	h.n += int64(n)
	return n, err
}

func (d *digest) hex() string { return hex.EncodeToString(d.Sum(nil)) }

// begin returns the reading of e's content.
func (c *run) begin(e *ledger.Entry) *reading {
	return &reading{
		c: c, e: e, skip: e.Progress,
		sum:  digest{Hash: sha256.New()},
		seen: map[[16]byte][16]byte{},
	}
}

// letter is a record that the archive did not take.
type letter struct {
	dead ledger.Dead
	raw  []byte
}

// panicked is a fault of this program that one content brought out.
type panicked struct{ what string }

func (p *panicked) Error() string { return "collecting panicked: " + p.what }

// guarded is read, except that a panic is an error: one odd content must not end
// the process, again and again, and all other contents with it.
func (r *reading) guarded(ctx context.Context) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		what := fmt.Sprintf("%T", p) // only the runtime's own texts are sure to hold no data
		if e, ok := p.(runtime.Error); ok {
			what = e.Error()
		}
		r.c.Logger.Error("collecting panicked", "contentId", r.e.ContentID, "panic", what, "stack", string(debug.Stack()))
		err = &panicked{what}
	}()
	return r.read(ctx)
}

// errRestart says that the content is no longer what an earlier run confirmed.
var errRestart = errors.New("the content differs from what was confirmed before")

// read reads the content from its beginning to its end. What an earlier run has
// confirmed is read again, to know its ids, but not written again. When read
// returns, nothing of the content is under way.
func (r *reading) read(ctx context.Context) error {
	if r.skip != nil && r.skip.Counts.Dead > 0 {
		var err error
		if r.dead, err = r.c.Ledger.Buried(ctx, r.e); err != nil {
			return err
		}
	}
	body, err := r.c.API.Open(ctx, r.e.ContentURI)
	if err != nil {
		return err
	}
	defer body.Close()
	r.savedAt = time.Now()
	defer r.pending.Wait()
	scanner := r.c.scanner(body)
	defer r.c.scanners.Put(scanner)
	for {
		element, err := scanner.Next()
		if err == nil {
			if err := r.element(ctx, scanner, element); errors.Is(err, errAllRead) {
				return r.finish(ctx)
			} else if err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			here, err := r.broken(ctx, err, -1)
			if err != nil {
				return err
			}
			if err := r.rest(ctx, here, scanner.Rest()); err != nil {
				return err
			}
		}
		return r.finish(ctx)
	}
}

// finish is the last barrier.
func (r *reading) finish(ctx context.Context) error {
	if r.skip != nil && r.elements < r.skip.Elements {
		return errRestart
	}
	return r.barrier(ctx)
}

// errCrowded says that a content has turned out to be large while there is no
// place for one more. Its body is closed: one that stands still holds up all
// others on its connection.
var errCrowded = errors.New("as many large contents as may be are read already")

// enter waits for a place among the large contents.
func (c *run) enter(ctx context.Context) error {
	select {
	case c.large <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for other large contents: %w", context.Cause(ctx))
	}
}

// element takes one element of the array to where it belongs.
func (r *reading) element(ctx context.Context, scanner *record.Scanner, el record.Element) error {
	if r.elements == segmentElements && !r.placed {
		select {
		case r.c.large <- struct{}{}:
			r.placed = true
		default:
			if r.skip == nil || r.elements >= r.skip.Elements {
				if err := r.barrier(ctx); err != nil {
					return err
				}
			}
			return errCrowded
		}
	}
	number := r.elements
	r.elements++
	skipping := r.skip != nil && number < r.skip.Elements
	dead := ledger.Dead{Element: number, Offset: el.Offset}
	if el.Oversize {
		return r.oversize(ctx, scanner, el, skipping)
	}
	parsed, err := r.parser.Parse(el.Raw)
	if err != nil {
		parsed.SHA256 = sha256.Sum256(el.Raw)
	}
	r.sum.element(parsed.SHA256, int64(len(el.Raw)))
	if err != nil {
		if skipping {
			return r.passed()
		}
		dead.Reason = err.Error()
		return r.bury(ctx, dead, el.Raw)
	}
	if !r.c.Filter.Keep(&parsed) {
		if skipping {
			return r.passed()
		}
		r.mu.Lock()
		r.counts.Filtered++
		r.mu.Unlock()
		count(&r.filtered, strconv.Itoa(parsed.RecordType)+" "+parsed.Workload, 1)
		return r.step(ctx, 0)
	}
	dead.RecordID = parsed.ID
	doc, err := r.c.Archive.Document(&parsed, el.Raw, record.Meta{Content: r.e.ID, Type: r.e.ContentType, Day: r.e.Day()})
	if err != nil {
		if skipping {
			return r.passed()
		}
		dead.Reason = err.Error()
		return r.bury(ctx, dead, el.Raw)
	}
	whole := sha256.Sum256([]byte(doc.Identity()))
	identity := [16]byte(whole[:16])
	text := [16]byte(parsed.SHA256[:16])
	earlier, repeated := r.seen[identity]
	if !repeated {
		r.seen[identity] = text
	}
	if skipping {
		if !repeated && !r.dead[number] {
			r.has(doc.ID())
		}
		return r.passed()
	}
	if repeated && earlier == text {
		r.mu.Lock()
		r.counts.Duplicate++
		r.mu.Unlock()
		return r.step(ctx, 0)
	}
	r.pending.Add(1)
	err = r.c.writer.Create(ctx, doc, func(o archive.Outcome, reason string, err error) {
		defer r.pending.Done()
		r.outcome(dead, doc, o, reason, err)
	})
	if err != nil {
		r.pending.Done()
		return err
	}
	return r.step(ctx, len(el.Raw))
}

// outcome notes what became of a document. It runs on the writer's goroutines.
func (r *reading) outcome(dead ledger.Dead, doc *archive.Document, o archive.Outcome, reason string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		if r.err == nil {
			r.err = err
		}
	case o == archive.Stored:
		r.counts.Stored++
		r.ids.Add(doc.ID())
	case o == archive.Duplicate:
		r.counts.Duplicate++
		r.ids.Add(doc.ID())
	case o == archive.Conflict:
		dead.Reason = "a record with this Id but other content is in the archive; the first stays"
		r.keep(dead, doc)
	default:
		dead.Reason = reason
		r.keep(dead, doc)
	}
}

// keep notes a dead letter; r.mu is held.
func (r *reading) keep(dead ledger.Dead, doc *archive.Document) {
	raw := doc.Raw()
	r.letters = append(r.letters, letter{dead, raw})
	r.bytes += len(raw)
}

// has notes that the archive holds a document.
func (r *reading) has(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids.Add(id)
}

// passed ends an element that an earlier run has confirmed. At the last of them
// the bytes must be the same as then.
func (r *reading) passed() error {
	if r.elements < r.skip.Elements {
		return nil
	}
	if r.sum.hex() != r.skip.SHA256 {
		return errRestart
	}
	r.confirmed, r.filtered = r.skip.Counts, maps.Clone(r.skip.Kinds)
	return nil
}

// step ends an element, and a segment when it is full.
func (r *reading) step(ctx context.Context, size int) error {
	r.mu.Lock()
	failed, letters := r.err, r.bytes
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	r.segment.elements++
	r.segment.bytes += size
	if r.segment.elements < segmentElements && r.segment.bytes < segmentBytes && letters < letterBytes {
		return nil
	}
	return r.barrier(ctx)
}

// barrier waits until everything read so far has its outcome and every dead
// letter is buried. Then, and only then, the entry's progress moves.
func (r *reading) barrier(ctx context.Context) error {
	r.pending.Wait()
	r.mu.Lock()
	letters, counts, failed := r.letters, r.counts, r.err
	r.letters, r.bytes, r.counts = nil, 0, ledger.Counts{}
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	for _, l := range letters {
		if err := r.c.Ledger.Bury(ctx, r.e, l.dead, bytes.NewReader(l.raw)); err != nil {
			return err
		}
		counts.Dead++
	}
	r.confirmed.Add(counts)
	r.segment.elements, r.segment.bytes = 0, 0
	r.e.Progress = &ledger.Progress{Elements: r.elements, SHA256: r.sum.hex(), Counts: r.confirmed, Kinds: maps.Clone(r.filtered)}
	if time.Since(r.savedAt) < progressEvery {
		return nil
	}
	r.savedAt = time.Now()
	return r.c.Ledger.Save(ctx, r.e)
}

// buryStream stores one dead letter now, without waiting for the barrier: its
// bytes are not kept in memory.
func (r *reading) buryStream(ctx context.Context, dead ledger.Dead, all io.Reader) error {
	in := newHashed(all)
	if err := r.c.Ledger.Bury(ctx, r.e, dead, in); err != nil {
		return err
	}
	r.sum.element([sha256.Size]byte(in.sum.Sum(nil)), in.n)
	return r.buried(ctx)
}

// bury stores an element as a dead letter now.
func (r *reading) bury(ctx context.Context, dead ledger.Dead, raw []byte) error {
	if err := r.c.Ledger.Bury(ctx, r.e, dead, bytes.NewReader(raw)); err != nil {
		return err
	}
	return r.buried(ctx)
}

func (r *reading) buried(ctx context.Context) error {
	r.mu.Lock()
	r.counts.Dead++
	r.mu.Unlock()
	return r.step(ctx, 0)
}

// errAllRead says that an element took the rest of the body with it.
var errAllRead = errors.New("the content is read to its end")

// oversize makes a dead letter of an element that is too large to be held. If
// the body breaks off inside of it, it is no element: what is wrong is where it
// begins, and broken decides.
func (r *reading) oversize(ctx context.Context, scanner *record.Scanner, el record.Element, skipping bool) error {
	if skipping {
		all := newHashed(scanner.Oversize())
		switch _, err := io.Copy(io.Discard, all); {
		case isFraming(err): // it was whole when it was confirmed
			return errRestart
		case err != nil:
			return fmt.Errorf("reading content: %w", err)
		}
		r.sum.element([sha256.Size]byte(all.sum.Sum(nil)), all.n)
		return r.passed()
	}
	all := scanner.Oversize()
	dead := ledger.Dead{Element: r.elements - 1, Offset: el.Offset, Reason: fmt.Sprintf("the record is larger than %d bytes", record.MaxElement)}
	// When it broke off here before, in the same place, the rest belongs to it.
	var rest bool
	if b := r.e.Broken; b != nil && b.Offset == el.Offset && b.SHA256 == r.sum.hex() {
		dead.Reason += ", and the content broke off in it before: what followed is here too"
		all = &onward{Reader: all, next: func(cause error) io.Reader {
			here, ok := r.place(cause, el.Offset)
			if rest = ok && here == *b; !rest {
				return nil
			}
			return scanner.Rest()
		}}
	}
	err := r.buryStream(ctx, dead, all)
	switch {
	case err == nil && rest:
		return errAllRead
	case err == nil:
		return nil
	case errors.Is(err, record.ErrCut), isFraming(err):
		r.elements--
		_, err = r.broken(ctx, err, el.Offset)
	}
	return err
}

func isFraming(err error) bool {
	_, ok := errors.AsType[*record.FramingError](err)
	return ok
}

// onward reads on in another reader when its own fails.
type onward struct {
	io.Reader
	next func(cause error) io.Reader // nil: the failure stays
}

// Read implements [io.Reader].
func (o *onward) Read(b []byte) (int, error) {
	n, err := o.Reader.Read(b)
	if err != nil && err != io.EOF && o.next != nil {
		if next := o.next(err); next != nil {
			o.Reader, o.next, err = next, nil, nil
		}
	}
	return n, err
}

// place says where a body cannot be read on; ok is false while that may be a
// fault on the way. at is where the element begins that it broke off in, -1 if
// the cause tells.
//
// Lost framing counts at once. A body that simply ends too early does so from the
// last day of its life on: a gateway may cut it for hours, but so does a record
// with a quotation mark missing, and for ever.
func (r *reading) place(cause error, at int64) (here ledger.Broken, ok bool) {
	here.SHA256 = r.sum.hex()
	if framing, lost := errors.AsType[*record.FramingError](cause); lost {
		here.Offset = framing.Offset
		if at >= 0 {
			here.End = framing.Offset
		}
	} else if cut, ended := errors.AsType[*record.CutError](cause); ended && cut.Err == nil && r.c.API.Now().After(r.e.Created.Add(patience)) {
		here.Offset, here.End = cut.Offset, cut.End
	} else {
		return here, false
	}
	if at >= 0 {
		here.Offset = at
	}
	return here, true
}

// broken handles a body that cannot be read on. It returns nil when what is left
// of it becomes a dead letter, which needs the same fault in the same place
// twice: once it may be a fault on the way.
func (r *reading) broken(ctx context.Context, cause error, at int64) (dead ledger.Dead, err error) {
	err = fmt.Errorf("reading content: %w", cause)
	here, ok := r.place(cause, at)
	if !ok {
		return dead, err
	}
	if r.skip != nil && r.elements < r.skip.Elements {
		return dead, errRestart
	}
	if r.e.Broken == nil || *r.e.Broken != here || at >= 0 {
		if err := r.barrier(ctx); err != nil { // what stands before is good
			return dead, err
		}
		r.e.Broken = &here
		return dead, err
	}
	return ledger.Dead{Element: r.elements, Offset: here.Offset, Reason: "the rest of the content: " + cause.Error()}, nil
}

// rest makes one dead letter of what is left of a body.
func (r *reading) rest(ctx context.Context, dead ledger.Dead, left io.Reader) error {
	r.elements++
	return r.buryStream(ctx, dead, left)
}
