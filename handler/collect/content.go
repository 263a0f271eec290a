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
	"strconv"
	"sync"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/archive"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

const (
	// A content is confirmed in segments: after this many elements or bytes
	// reading waits until all of them are stored. It bounds what a killed process
	// has to do again, and what dead letters hold in memory.
	segmentElements = 1000
	segmentBytes    = 8 << 20

	// progressEvery is how often the progress of a large content is saved.
	progressEvery = 15 * time.Second

	// patience is how long after contentCreated a body that ends too early is
	// taken for a passing fault: one day less than the service keeps it.
	patience = 6 * 24 * time.Hour

	// lastWords is how long the ledger may take to note the outcome of a content
	// when the run is over.
	lastWords = 10 * time.Second
)

// Content fetches the content of e, stores its records, and settles e in the
// ledger: stored, lost, or due again later. It returns an error only when the
// run must end: sign-in or permission refused, a container missing, the ledger
// out of reach. Whatever the outcome, it logs one line.
func (c *Collector) Content(ctx context.Context, w *archive.Writer, e *ledger.Entry, t *Tally) error {
	began := time.Now()
	r := c.begin(w, e)
	err := r.read(ctx)
	if errors.Is(err, errRestart) {
		// Writing everything again is safe; passing over what differs is not.
		e.Progress = nil
		r = c.begin(w, e)
		err = r.read(ctx)
	}
	t.add(func(s *Sum) { s.Bytes += r.sum.bytes })
	log := c.Logger.With("contentType", e.ContentType, "contentId", e.ContentID, "attempt", e.Attempts+1,
		"elements", r.elements, "bytes", r.sum.bytes, "elapsedMs", time.Since(began).Milliseconds())
	if err != nil && Ends(err) {
		log.Warn("content left open", "reason", err.Error())
		return err
	}

	save, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	now := c.API.Now()
	switch {
	case err == nil:
		e.Counts, e.Elements = r.confirmed, r.elements
		if err := c.Ledger.SaveIDs(save, e, r.keptIDs()); err != nil {
			return err
		}
		e.Close(ledger.Stored, "", now)
	case ctx.Err() != nil: // out of time, which is no failure of the content
		e.Due = ledger.At(now)
		e.Reason = "the run ended before the content did"
	case refuses(err) && now.After(e.LifeEnds()):
		e.Close(ledger.Lost, err.Error(), now)
	default:
		e.Fail(err.Error(), now)
	}
	switch saveErr := c.Ledger.Save(save, e); {
	case saveErr == nil:
	case isChanged(saveErr):
		log.Info("content settled by another instance")
		return nil
	default:
		log.Error("content not settled", "reason", saveErr.Error())
		return saveErr
	}
	c.tell(log, t, e, r, err)
	return nil
}

// tell logs and counts the outcome that the ledger now holds.
func (c *Collector) tell(log *slog.Logger, t *Tally, e *ledger.Entry, r *reading, err error) {
	switch e.State {
	case ledger.Stored:
		log.Info("content stored", "found", e.Found, "stored", e.Stored, "duplicate", e.Duplicate, "filtered", e.Filtered, "deadLettered", e.Dead)
		t.add(func(s *Sum) {
			s.Fetched++
			s.Counts.Add(e.Counts)
			for kind, n := range r.filtered {
				count(&s.Filter, kind, n)
			}
		})
	case ledger.Lost:
		log.Error("content lost: the service refuses it and its time is over", "contentUri", e.ContentURI, "created", e.Created.String(), "reason", e.Reason)
		t.add(func(s *Sum) { s.Lost++ })
	default:
		log.Warn("content left open", "reason", e.Reason, "due", e.Due.String(), "confirmed", e.Progress.Done())
		t.add(func(s *Sum) {
			s.Failed++
			count(&s.Reasons, reasonOf(err), 1)
		})
	}
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
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return "out of time"
	}
	return "body cut or broken"
}

// reading is one content on its way into the archive.
type reading struct {
	c *Collector
	w *archive.Writer
	e *ledger.Entry

	skip      *ledger.Progress      // elements to pass over: confirmed by an earlier run
	elements  int                   // read so far
	sum       digest                // over the bytes of these elements
	seen      map[[16]byte][16]byte // identity to text, of the documents so far; both hashed
	ids       ledger.IDs
	filtered  map[string]int // by RecordType and Workload
	confirmed ledger.Counts  // of all elements up to the last barrier
	segment   struct{ elements, bytes int }
	savedAt   time.Time

	mu      sync.Mutex
	pending sync.WaitGroup
	counts  ledger.Counts // since the last barrier
	letters []letter      // to bury at the next barrier
	refused map[string]bool
	err     error // first failure of a document
}

// digest hashes and counts what is written to it.
type digest struct {
	hash.Hash
	bytes int64
}

func (d *digest) Write(b []byte) (int, error) {
	d.bytes += int64(len(b))
	return d.Hash.Write(b)
}

func (d *digest) hex() string { return hex.EncodeToString(d.Sum(nil)) }

// begin returns the reading of e's content.
func (c *Collector) begin(w *archive.Writer, e *ledger.Entry) *reading {
	return &reading{
		c: c, w: w, e: e, skip: e.Progress,
		sum:     digest{Hash: sha256.New()},
		seen:    map[[16]byte][16]byte{},
		refused: map[string]bool{},
	}
}

// letter is a record that the archive did not take.
type letter struct {
	dead ledger.Dead
	raw  []byte
}

// errRestart says that the content is no longer what an earlier run confirmed.
var errRestart = errors.New("the content differs from what was confirmed before")

// read reads the content from its beginning to its end. What an earlier run has
// confirmed is read again, to know its ids, but not written again. When read
// returns, nothing of the content is under way.
func (r *reading) read(ctx context.Context) error {
	body, err := r.c.API.Open(ctx, r.e.ContentURI)
	if err != nil {
		return err
	}
	defer body.Close()
	r.savedAt = time.Now()
	defer r.pending.Wait()
	scanner := record.NewScanner(body)
	for {
		element, err := scanner.Next()
		if err == nil {
			if err := r.element(ctx, scanner, element); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			if err := r.broken(ctx, scanner, err); err != nil {
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

// element takes one element of the array to where it belongs.
func (r *reading) element(ctx context.Context, scanner *record.Scanner, el record.Element) error {
	number := r.elements
	r.elements++
	skipping := r.skip != nil && number < r.skip.Elements
	dead := ledger.Dead{Element: number, Offset: el.Offset}
	if el.Oversize {
		all := io.TeeReader(scanner.Oversize(), &r.sum)
		if skipping {
			if _, err := io.Copy(io.Discard, all); err != nil {
				return fmt.Errorf("reading content: %w", err)
			}
			return r.passed()
		}
		dead.Reason = fmt.Sprintf("the record is larger than %d bytes", record.MaxElement)
		return r.bury(ctx, dead, all)
	}
	r.sum.Write(el.Raw)
	parsed, err := record.Parse(el.Raw)
	if err != nil {
		if skipping {
			return r.passed()
		}
		dead.Reason = err.Error()
		return r.bury(ctx, dead, bytes.NewReader(el.Raw))
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
		return r.bury(ctx, dead, bytes.NewReader(el.Raw))
	}
	whole := sha256.Sum256([]byte(doc.Identity()))
	identity := [16]byte(whole[:16])
	text := [16]byte(parsed.SHA256[:16])
	earlier, repeated := r.seen[identity]
	if !repeated {
		r.seen[identity] = text
		r.ids.Add(doc.ID())
	}
	if skipping {
		return r.passed()
	}
	if repeated && earlier == text {
		r.mu.Lock()
		r.counts.Duplicate++
		r.mu.Unlock()
		return r.step(ctx, 0)
	}
	r.pending.Add(1)
	err = r.w.Create(ctx, doc, func(o archive.Outcome, reason string, err error) {
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
	case o == archive.Duplicate:
		r.counts.Duplicate++
	case o == archive.Conflict:
		dead.Reason = "a record with this Id but other content is in the archive; the first stays"
		r.letters = append(r.letters, letter{dead, doc.Raw()})
	default:
		dead.Reason = reason
		r.refused[doc.ID()] = true
		r.letters = append(r.letters, letter{dead, doc.Raw()})
	}
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
	r.confirmed = r.skip.Counts
	return nil
}

// step ends an element, and a segment when it is full.
func (r *reading) step(ctx context.Context, size int) error {
	r.mu.Lock()
	failed := r.err
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	r.segment.elements++
	r.segment.bytes += size
	if r.segment.elements < segmentElements && r.segment.bytes < segmentBytes {
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
	r.letters, r.counts = nil, ledger.Counts{}
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
	r.e.Progress = &ledger.Progress{Elements: r.elements, SHA256: r.sum.hex(), Counts: r.confirmed}
	if time.Since(r.savedAt) < progressEvery {
		return nil
	}
	r.savedAt = time.Now()
	return r.c.Ledger.Save(ctx, r.e)
}

// bury stores one dead letter now, without waiting for the barrier: its bytes
// are not kept in memory.
func (r *reading) bury(ctx context.Context, dead ledger.Dead, all io.Reader) error {
	err := r.c.Ledger.Bury(ctx, r.e, dead, all)
	if _, broken := errors.AsType[*record.FramingError](err); err != nil && !broken {
		return err
	}
	// An oversize record with broken framing is buried as far as it goes; the
	// scanner reports the same fault next, and the rest is handled there.
	r.mu.Lock()
	r.counts.Dead++
	r.mu.Unlock()
	return r.step(ctx, 0)
}

// broken handles a body that cannot be read to its end. It returns nil when what
// is left of the body has become one dead letter, which needs the same fault in
// the same place twice: once it may be a fault on the way.
//
// Lost framing is settled at the second try. A body that simply ends too early
// gets until the last day of its life: a gateway may cut it for hours, but so
// does a record with a quotation mark missing, and for ever.
func (r *reading) broken(ctx context.Context, scanner *record.Scanner, cause error) error {
	err := fmt.Errorf("reading content: %w", cause)
	here := ledger.Broken{SHA256: r.sum.hex()}
	if framing, ok := errors.AsType[*record.FramingError](cause); ok {
		here.Offset = framing.Offset
	} else if cut, ok := errors.AsType[*record.CutError](cause); ok && cut.Err == nil && r.c.API.Now().After(r.e.Created.Add(patience)) {
		here.Offset, here.End = cut.Offset, cut.End
	} else {
		return err
	}
	if r.skip != nil && r.elements < r.skip.Elements {
		return errRestart
	}
	if r.e.Broken == nil || *r.e.Broken != here {
		if err := r.barrier(ctx); err != nil { // what stands before is good
			return err
		}
		r.e.Broken = &here
		return err
	}
	dead := ledger.Dead{Element: r.elements, Offset: here.Offset, Reason: "the rest of the content: " + cause.Error()}
	r.elements++
	return r.bury(ctx, dead, io.TeeReader(scanner.Rest(), &r.sum))
}

// keptIDs is the list of document ids that this content's records have in the
// archive, whoever brought them.
func (r *reading) keptIDs() ledger.IDs {
	if len(r.refused) == 0 {
		return r.ids
	}
	var kept ledger.IDs
	for _, id := range r.ids.All() {
		if !r.refused[id] {
			kept.Add(id)
		}
	}
	return kept
}
