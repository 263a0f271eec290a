package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"activityarchive/handler/cosmos"
)

// States of an entry.
const (
	Pending = "pending" // open: not all of its records are confirmed
	Stored  = "stored"  // every record is in the archive or a dead letter
	Lost    = "lost"    // the service refused it until its time was over
)

// Who found a content.
const (
	ByListing = "listing"
	ByWebhook = "webhook" // no listing has shown it yet
)

const (
	// retention is how long the service keeps content (API documentation,
	// troubleshooting page: seven days after the first notice).
	retention = 7 * 24 * time.Hour

	// longestRetention caps a contentExpiration that a notification claims. The
	// longest seen in a live listing was about 20 days after contentCreated.
	longestRetention = 30 * 24 * time.Hour
)

// Claim is how long a content found by the webhook is left to the process that
// was notified before a tick takes it up.
const Claim = 2 * time.Minute

// Counts says what became of a content's records. They are the same however
// often the content is collected.
type Counts struct {
	Stored    int `json:"stored"`    // documents that this content brought into the archive
	Duplicate int `json:"duplicate"` // records that another content, or an earlier place in this one, had brought
	Filtered  int `json:"filtered"`  // records that RECORD_FILTER leaves out
	Dead      int `json:"dead"`      // dead letters
}

// Add adds d to c.
func (c *Counts) Add(d Counts) {
	c.Stored += d.Stored
	c.Duplicate += d.Duplicate
	c.Filtered += d.Filtered
	c.Dead += d.Dead
}

// Progress lets a content too large for one run go on where it was left.
type Progress struct {
	Elements int            `json:"elements"` // that many elements from the start are confirmed
	SHA256   string         `json:"sha256"`   // of those elements, hex
	Counts   Counts         `json:"counts"`
	Kinds    map[string]int `json:"kinds,omitempty"` // of Counts.Filtered, by RecordType and Workload
}

// Done returns how many elements are confirmed; none for nil.
func (p *Progress) Done() int {
	if p == nil {
		return 0
	}
	return p.Elements
}

// Broken remembers where a body could not be read on. Twice in the same place
// means that the content itself is so.
type Broken struct {
	Offset int64  `json:"offset"`        // bytes into the body
	End    int64  `json:"end,omitempty"` // where the body ended, if that was too early
	SHA256 string `json:"sha256"`        // of the elements before it, hex
}

// Entry is the ledger's document for one content.
type Entry struct {
	ID   string `json:"id"`
	PK   string `json:"pk"`
	Kind string `json:"kind"`
	V    int    `json:"v"`

	ContentType string `json:"contentType"`
	ContentID   string `json:"contentId"`
	ContentURI  string `json:"contentUri"`
	Created     Stamp  `json:"created"` // contentCreated; from a notification, clamped to what can be
	Expires     Stamp  `json:"expires"` // contentExpiration, likewise

	Found   string `json:"found"` // ByListing or ByWebhook
	FoundAt Stamp  `json:"foundAt"`

	State    string    `json:"state"`
	Open     int       `json:"open,omitempty"` // 1 while Pending, else absent: the one query of an idle tick
	Due      Stamp     `json:"due"`            // not to be tried before
	Attempts int       `json:"attempts"`       // tries that failed
	Late     Stamp     `json:"late,omitzero"`  // when the service first failed to give it after the end of its life
	Reason   string    `json:"reason,omitempty"`
	Again    bool      `json:"again,omitempty"` // it was stored, and is open to be collected once more
	Progress *Progress `json:"progress,omitempty"`
	Broken   *Broken   `json:"broken,omitempty"`

	Counts
	Elements int   `json:"elements"` // array elements in the content
	IDs      IDs   `json:"ids,omitzero"`
	IDChunks int   `json:"idChunks,omitempty"` // documents of kind ids, when IDs does not hold them
	DoneAt   Stamp `json:"doneAt"`

	etag string
	base work // as it was read or last saved
}

// work is the part of an entry that only a collector changes.
type work struct {
	state             string
	attempts, confirm int
}

func (e *Entry) work() work { return work{e.State, e.Attempts, e.Progress.Done()} }

// NewEntry returns the entry for a content that was just found. now is the
// service's clock.
func NewEntry(contentType, contentID, contentURI string, created, expires time.Time, found string, now time.Time) Entry {
	due := now
	if found == ByWebhook {
		// Whoever holds the AuthID may send any date; it must not choose an odd
		// partition, nor keep an entry open for ever.
		created = clampTime(created, now.Add(-retention-24*time.Hour), now.Add(24*time.Hour))
		due = now.Add(Claim)
	}
	expires = clampTime(expires, created, created.Add(longestRetention))
	return Entry{
		ID: EntryID(contentType, contentID), PK: partition(contentType, created), Kind: "entry", V: 1,
		ContentType: contentType, ContentID: contentID, ContentURI: contentURI,
		Created: At(created), Expires: At(expires),
		Found: found, FoundAt: At(now), State: Pending, Open: 1, Due: At(due),
	}
}

// NotifiedSuffix has been seen at the end of a contentId in notifications. Whether
// a listing names the content so too is not known: the entry is the same.
const NotifiedSuffix = "$IsFromNotification"

// EntryID returns the id of a content's entry: hex SHA-256.
func EntryID(contentType, contentID string) string {
	return hash(contentType, strings.TrimSuffix(contentID, NotifiedSuffix))
}

func partition(contentType string, created time.Time) string {
	return contentType + "|" + created.UTC().Format(time.DateOnly)
}

func clampTime(t, low, high time.Time) time.Time {
	if t.Before(low) {
		return low
	}
	if t.After(high) {
		return high
	}
	return t
}

// Day is the UTC day of contentCreated, as in 2026-03-11.
func (e *Entry) Day() string { return e.Created.UTC().Format(time.DateOnly) }

// LifeEnds is the moment after which a refusal means that the content is lost:
// seven days after contentCreated, or contentExpiration if that is later.
func (e *Entry) LifeEnds() time.Time {
	if end := e.Created.Add(retention); end.After(e.Expires.Time) {
		return end
	}
	return e.Expires.Time
}

// Fail notes a failed try: the entry stays open and is due again after a wait
// that doubles from one minute to one hour and never passes the end of the
// content's life.
func (e *Entry) Fail(reason string, now time.Time) {
	wait := min(time.Minute<<min(max(e.Attempts, 0), 6), LongestWait)
	e.Attempts++
	e.Reason = reason
	due := now.Add(wait)
	if end := e.LifeEnds(); due.After(end) && now.Before(end) {
		due = end
	}
	e.Due = At(due)
}

// Close ends the entry's open life.
func (e *Entry) Close(state, reason string, now time.Time) {
	e.State, e.Reason, e.Open, e.DoneAt = state, reason, 0, At(now)
	e.Progress, e.Broken, e.Again = nil, nil, false
}

// GiveUp ends the open life of an entry whose content cannot be had any more. It
// is lost, unless it was stored once: then that stands.
func (e *Entry) GiveUp(reason string, now time.Time) {
	if e.Again {
		e.Close(Stored, "opened again in vain: "+reason, now)
		return
	}
	e.Close(Lost, reason, now)
}

// Record creates the entries that are not there yet, and returns those. When the
// error is nil every one of them is in the ledger.
func (l *Ledger) Record(ctx context.Context, entries []Entry) (created []Entry, err error) {
	type part struct {
		docs    []document
		entries []Entry
	}
	parts := map[string]*part{}
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.PK+e.ID] {
			continue
		}
		seen[e.PK+e.ID] = true
		body, err := json.Marshal(&e)
		if err != nil {
			return nil, fmt.Errorf("encoding an entry: %w", err)
		}
		p := parts[e.PK]
		if p == nil {
			p = &part{}
			parts[e.PK] = p
		}
		p.docs = append(p.docs, document{e.ID, body})
		p.entries = append(p.entries, e)
	}
	for pk, p := range parts {
		fresh, err := l.create(ctx, pk, p.docs)
		for i, is := range fresh {
			if is {
				created = append(created, p.entries[i])
			}
		}
		if err != nil {
			return created, fmt.Errorf("recording contents: %w", err)
		}
	}
	return created, nil
}

// Digest is an entry's id as bytes, for maps of many.
type Digest [sha256.Size]byte

// DigestOf returns the Digest of an entry's id.
func DigestOf(id string) (d Digest) {
	_, _ = hex.Decode(d[:], []byte(id[:min(len(id), 2*len(d))])) // an id that is none of ours is none that is looked for
	return d
}

// Known is what a listing needs to know of an entry that is there.
type Known struct {
	PK        string
	Confirmed bool // a listing has shown it before
	Lost      bool
}

// knownRows is how many rows of Known a page may hold: about 150 bytes each, and
// usually all there are.
const knownRows = 10_000

// Known returns the entries of a content type whose contentCreated lies in
// [from, to), by id. It is one query, whatever days that touches.
func (l *Ledger) Known(ctx context.Context, contentType string, from, to time.Time) (map[Digest]Known, error) {
	params := []cosmos.Param{{Name: "@from", Value: At(from).String()}, {Name: "@to", Value: At(to).String()}}
	var days []string  // parameters
	var key cosmos.Key // of the one partition; of several: none
	for day := from.UTC().Truncate(24 * time.Hour); day.Before(to); day = day.Add(24 * time.Hour) {
		name := fmt.Sprintf("@p%d", len(days))
		days, params = append(days, name), append(params, cosmos.Param{Name: name, Value: partition(contentType, day)})
		if key = ""; len(days) == 1 {
			key = cosmos.KeyString(partition(contentType, day))
		}
	}
	known := map[Digest]Known{}
	names := map[string]string{} // of partitions: one text for all entries
	sql := "SELECT c.id, c.pk, c.found, c.state FROM c WHERE c.pk IN (" + strings.Join(days, ", ") + ") AND c.created >= @from AND c.created < @to"
	err := l.container.Query(ctx, key, sql, params, knownRows, func(row json.RawMessage) error {
		var e struct{ ID, PK, Found, State string }
		if err := json.Unmarshal(row, &e); err != nil {
			return fmt.Errorf("reading an entry: %w", err)
		}
		if _, ok := names[e.PK]; !ok {
			names[e.PK] = e.PK
		}
		known[DigestOf(e.ID)] = Known{PK: names[e.PK], Confirmed: e.Found == ByListing, Lost: e.State == Lost}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the known contents of %s: %w", contentType, err)
	}
	return known, nil
}

// Listed notes that a listing has shown contents whose entries are there: items
// are the entries that the listing would have made, all of one partition. What
// the listing says of a content goes before what a notification said: a find of
// the webhook is confirmed, one with another contentUri is collected again from
// the right one, and a lost content is open again.
func (l *Ledger) Listed(ctx context.Context, pk string, items []Entry, now time.Time) error {
	listed := map[string]Entry{}
	ids := make([]string, 0, len(items))
	for _, e := range items {
		listed[e.ID] = e
		ids = append(ids, e.ID)
	}
	err := l.edit(ctx, pk, ids, "confirm contents", func(e *Entry) bool {
		item := listed[e.ID]
		if e.Found == ByListing && e.State != Lost {
			return false // done by an earlier try
		}
		if e.ContentURI != item.ContentURI || e.State == Lost {
			e.State, e.Open, e.Due, e.Late, e.Reason = Pending, 1, At(now), Stamp{}, "listed again"
			e.Progress, e.Broken = nil, nil
		}
		e.Found, e.ContentURI, e.Expires = ByListing, item.ContentURI, item.Expires
		return true
	})
	if err != nil {
		return fmt.Errorf("confirming contents: %w", err)
	}
	return nil
}

// edit lets change alter the entries of one partition that have one of ids, and
// writes back those for which it returns true. It looks again, and calls change
// again, until change has nothing to alter.
func (l *Ledger) edit(ctx context.Context, pk string, ids []string, op string, change func(*Entry) bool) error {
	for chunk := range slices.Chunk(ids, cosmos.MaxBatch) {
		for try := 0; ; try++ {
			var ops []cosmos.Op
			err := l.byID(ctx, pk, "*", chunk, func(row json.RawMessage) error {
				e, err := decodeEntry(row)
				if err != nil {
					return err
				}
				if !change(&e) {
					return nil
				}
				body, err := json.Marshal(&e)
				ops = append(ops, cosmos.Replace(e.ID, body, e.etag))
				return err
			})
			if err != nil {
				return err
			}
			if len(ops) == 0 {
				break
			}
			if err := l.replace(ctx, pk, ops); err != nil {
				return err
			}
			if try == 5 { // another process works on these entries; the next run changes them
				return &cosmos.Fault{Op: op, Kind: cosmos.Changed, Err: errors.New("the entries keep changing")}
			}
		}
	}
	return nil
}

// replace runs replaces of one partition in batches of a size that is taken. An
// operation whose ETag has changed does nothing, nor does its batch; the caller
// looks again.
func (l *Ledger) replace(ctx context.Context, pk string, ops []cosmos.Op) error {
	for len(ops) > 0 {
		n, size := 0, 0
		for n < len(ops) && n < cosmos.MaxBatch {
			if size += ops[n].Size(); size > cosmos.MaxBatchBytes && n > 0 {
				break
			}
			n++
		}
		if _, _, err := l.container.Batch(ctx, cosmos.KeyString(pk), ops[:n]); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// Open is the sum of what is unfinished.
type Open struct {
	Partitions []string  // with at least one open entry, oldest day first
	Count      int       // open entries
	Oldest     time.Time // smallest contentCreated; zero if there is none
	LeastLife  time.Time // the earliest end of a content's life; zero if there is none
	LastDue    time.Time // when the last of them is due; zero if there is none
}

// LongestWait is the longest that an open entry waits until it is due. One that
// seems to wait longer was written by a clock that was ahead.
const LongestWait = time.Hour

// Open returns what is unfinished. It is one query over all partitions, and the
// only one that an idle ledger costs.
func (l *Ledger) Open(ctx context.Context) (Open, error) {
	var open Open
	seen := map[string]bool{}
	err := l.container.Query(ctx, "", "SELECT c.pk, c.created, c.expires, c.due FROM c WHERE c.open = @one",
		[]cosmos.Param{{Name: "@one", Value: 1}}, 0,
		func(row json.RawMessage) error {
			var e Entry
			if err := json.Unmarshal(row, &e); err != nil {
				return fmt.Errorf("reading an open entry: %w", err)
			}
			open.Count++
			if !seen[e.PK] {
				seen[e.PK] = true
				open.Partitions = append(open.Partitions, e.PK)
			}
			if open.Oldest.IsZero() || e.Created.Before(open.Oldest) {
				open.Oldest = e.Created.Time
			}
			if e.Due.After(open.LastDue) {
				open.LastDue = e.Due.Time
			}
			if end := e.LifeEnds(); open.LeastLife.IsZero() || end.Before(open.LeastLife) {
				open.LeastLife = end
			}
			return nil
		})
	if err != nil {
		return Open{}, fmt.Errorf("reading open entries: %w", err)
	}
	slices.SortFunc(open.Partitions, func(a, b string) int {
		return cmp.Or(cmp.Compare(dayOf(a), dayOf(b)), cmp.Compare(a, b))
	})
	return open, nil
}

// dayOf is the day in a partition's name.
func dayOf(pk string) string { return pk[max(0, len(pk)-len(time.DateOnly)):] }

// dueRows is how many entries a page of Due holds: an entry has about 1 KB, and
// pages of several partitions are held at once.
const dueRows = 1000

// Due gives the open entries that are due: day by day in the order of
// partitions, which is that of Open, and within a day the oldest contentCreated
// first, whatever the content type. It reads on as entries are taken. After an
// error there are no more.
func (l *Ledger) Due(ctx context.Context, partitions []string, now time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for len(partitions) > 0 {
			n := 1
			for n < len(partitions) && dayOf(partitions[n]) == dayOf(partitions[0]) {
				n++
			}
			if !l.merge(ctx, partitions[:n], now, yield) {
				return
			}
			partitions = partitions[n:]
		}
	}
}

// merge yields what is due in the partitions of one day. It reports whether the
// caller wants more.
func (l *Ledger) merge(ctx context.Context, partitions []string, now time.Time, yield func(Entry, error) bool) bool {
	type source struct {
		next func() (Entry, error, bool)
		head Entry
	}
	var sources []*source
	for _, pk := range partitions {
		next, stop := iter.Pull2(l.due(ctx, pk, now))
		defer stop()
		sources = append(sources, &source{next: next})
	}
	fill := func(s *source) (ok bool, err error) {
		s.head, err, ok = s.next()
		return ok, err
	}
	var ready []*source
	for _, s := range sources {
		ok, err := fill(s)
		if err != nil {
			yield(Entry{}, err)
			return false
		}
		if ok {
			ready = append(ready, s)
		}
	}
	for len(ready) > 0 {
		first := slices.MinFunc(ready, func(a, b *source) int { return a.head.Created.Compare(b.head.Created.Time) })
		if !yield(first.head, nil) {
			return false
		}
		ok, err := fill(first)
		if err != nil {
			yield(Entry{}, err)
			return false
		}
		if !ok {
			ready = slices.DeleteFunc(ready, func(s *source) bool { return s == first })
		}
	}
	return true
}

// due yields what is due in one partition, oldest first.
func (l *Ledger) due(ctx context.Context, pk string, now time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := l.container.Query(ctx, cosmos.KeyString(pk),
			"SELECT * FROM c WHERE c.pk = @pk AND c.open = @one AND c.due <= @now ORDER BY c.created",
			[]cosmos.Param{{Name: "@pk", Value: pk}, {Name: "@one", Value: 1}, {Name: "@now", Value: At(now).String()}}, dueRows,
			func(row json.RawMessage) error {
				e, err := decodeEntry(row)
				if err != nil {
					return err
				}
				if !yield(e, nil) {
					return errEnough
				}
				return nil
			})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Entry{}, fmt.Errorf("reading what is due: %w", err))
		}
	}
}

// errEnough ends a query whose reader wants no more.
var errEnough = errors.New("enough")

// Entry reads one entry again.
func (l *Ledger) Entry(ctx context.Context, pk, id string) (Entry, error) {
	row, err := l.container.Read(ctx, cosmos.KeyString(pk), id)
	if err != nil {
		return Entry{}, fmt.Errorf("reading an entry: %w", err)
	}
	return decodeEntry(row)
}

func decodeEntry(row []byte) (Entry, error) {
	var e struct {
		Entry
		ETag string `json:"_etag"`
	}
	if err := json.Unmarshal(row, &e); err != nil {
		return Entry{}, fmt.Errorf("reading an entry: %w", err)
	}
	if e.Kind != "entry" {
		return Entry{}, errors.New("reading an entry: the answer is not one")
	}
	e.etag, e.base = e.ETag, e.work()
	return e.Entry, nil
}

// Save writes the entry back if no other collector has worked on it since it was
// read. A listing that confirmed it meanwhile does not count, and what that says
// of the content stays; but if it gave another contentUri, the content was not
// collected from the right one, and the entry is left as it is. If another has,
// the outcome that tells more stands: a content that is stored stays stored
// whoever saw it last, and in any other case the other's word is left alone and
// Save returns a Fault of kind cosmos.Changed.
func (l *Ledger) Save(ctx context.Context, e *Entry) error {
	for try := 0; ; try++ {
		body, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encoding an entry: %w", err)
		}
		etag, err := l.container.Replace(ctx, cosmos.KeyString(e.PK), e.ID, body, e.etag)
		if err == nil {
			e.etag, e.base = etag, e.work()
			return nil
		}
		if cosmos.KindOf(err) != cosmos.Changed || try == 5 {
			return fmt.Errorf("saving an entry: %w", err)
		}
		now, readErr := l.Entry(ctx, e.PK, e.ID)
		if readErr != nil {
			return readErr
		}
		// Our own write may have been the one, its answer lost.
		if same, err := json.Marshal(&now); err == nil && string(same) == string(body) {
			e.etag, e.base = now.etag, now.base
			return nil
		}
		if now.ContentURI != e.ContentURI || now.base != e.base && (e.State != Stored || now.State == Stored) {
			return fmt.Errorf("saving an entry: %w", err)
		}
		e.etag, e.base, e.Found, e.Expires = now.etag, now.base, now.Found, now.Expires
	}
}
