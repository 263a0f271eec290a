package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"activityarchive/handler/cosmos"
)

// control is the partition of the lease and the heads.
const control = "control"

// Head is what is kept for one content type.
type Head struct {
	ID          string `json:"id"`
	PK          string `json:"pk"`
	Kind        string `json:"kind"`
	V           int    `json:"v"`
	ContentType string `json:"contentType"`

	Began       Stamp `json:"began"`       // where the first listing began; older content is not wanted
	ListedTo    Stamp `json:"listedTo"`    // everything before was listed and is in the ledger
	FullListing Stamp `json:"fullListing"` // when the last listing of all seven days began that was completed
	SweepBegan  Stamp `json:"sweepBegan"`  // when the one under way began; null if none is
	SweptTo     Stamp `json:"sweptTo"`     // how far it has come

	BackfillFrom Stamp `json:"backfillFrom,omitzero"` // what an operator wants listed again, and how far that has come;
	BackfillTo   Stamp `json:"backfillTo,omitzero"`   // both null if nothing is

	StartCall    Stamp  `json:"startCall"`            // last call of /subscriptions/start, by any instance
	StartOwner   string `json:"startOwner,omitempty"` // the process that made it, or notes of one millisecond would be alike
	StartOutcome string `json:"startOutcome"`         // "ok", or in words what became of it; empty while unknown

	Heartbeat Stamp `json:"heartbeat"` // last tick that listed this type
	Gaps      []Gap `json:"gaps,omitempty"`
	etag      string
}

// Gap is a span that could not be listed any more, because nothing was listed
// for longer than the service keeps content.
type Gap struct {
	From    Stamp `json:"from"`
	To      Stamp `json:"to"`
	FoundAt Stamp `json:"foundAt"`
}

// maxGaps bounds the list in a head; older ones are in the log.
const maxGaps = 100

// AddGap notes a gap.
func (h *Head) AddGap(from, to, now time.Time) {
	h.Gaps = append(h.Gaps, Gap{At(from), At(to), At(now)})
	h.Gaps = h.Gaps[max(0, len(h.Gaps)-maxGaps):]
}

func headID(contentType string) string { return hash("head", contentType) }

// newHead is the head of a content type that has none yet.
func newHead(contentType string) Head {
	return Head{ID: headID(contentType), PK: control, Kind: "head", V: 1, ContentType: contentType}
}

// Head reads the head of a content type. One that is not there yet is returned
// empty; any other failure is an error, never an empty head: that would begin
// the archive anew.
func (l *Ledger) Head(ctx context.Context, contentType string) (Head, error) {
	row, err := l.container.Read(ctx, cosmos.KeyString(control), headID(contentType))
	if cosmos.KindOf(err) == cosmos.NotFound {
		return newHead(contentType), nil
	}
	if err != nil {
		return Head{}, fmt.Errorf("reading the head of %s: %w", contentType, err)
	}
	return decodeHead(row, contentType)
}

func decodeHead(row []byte, contentType string) (Head, error) {
	var h struct {
		Head
		ETag string `json:"_etag"`
	}
	if err := json.Unmarshal(row, &h); err != nil {
		return Head{}, fmt.Errorf("reading the head of %s: %w", contentType, err)
	}
	if h.Kind != "head" || h.ContentType != contentType {
		return Head{}, fmt.Errorf("reading the head of %s: the answer is not that document", contentType)
	}
	h.etag = h.ETag
	return h.Head, nil
}

// UpdateHead lets change alter h and writes it back. If another instance wrote
// since h was read, it is read again and change called again. After a nil error
// h is as the ledger has it. An error of change ends it, nothing is written, and
// the error is returned as it is.
func (l *Ledger) UpdateHead(ctx context.Context, h *Head, change func(*Head) error) error {
	var sent []byte
	for try := 0; ; try++ {
		// Our own write may have been the one before, its answer lost.
		if now, err := json.Marshal(h); err == nil && sent != nil && bytes.Equal(now, sent) {
			return nil
		}
		next := *h
		next.Gaps = slices.Clone(h.Gaps)
		if err := change(&next); err != nil {
			return err
		}
		body, err := json.Marshal(&next)
		if err != nil {
			return fmt.Errorf("encoding a head: %w", err)
		}
		if h.etag == "" {
			err = l.container.Create(ctx, cosmos.KeyString(control), body)
		} else if next.etag, err = l.container.Replace(ctx, cosmos.KeyString(control), h.ID, body, h.etag); err == nil {
			*h = next
			return nil
		}
		// After a Create, too, it is read: for its ETag.
		kind := cosmos.KindOf(err)
		if kind != cosmos.None && (kind != cosmos.Changed && kind != cosmos.Exists || try == 9) {
			return fmt.Errorf("saving the head of %s: %w", h.ContentType, err)
		}
		sent = body
		if *h, err = l.Head(ctx, h.ContentType); err != nil {
			return err
		}
	}
}

// Control is what the ledger holds to steer ticks: the heads and the lease, as
// they were when it was read.
type Control struct {
	ledger *Ledger
	rows   map[string][]byte // by id
}

// Control reads heads and lease in one query.
func (l *Ledger) Control(ctx context.Context) (*Control, error) {
	c := &Control{ledger: l, rows: map[string][]byte{}}
	err := l.container.Query(ctx, cosmos.KeyString(control), "SELECT * FROM c WHERE c.pk = @pk",
		[]cosmos.Param{{Name: "@pk", Value: control}}, 0, func(row json.RawMessage) error {
			var doc struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading an id of the ledger: %w", err)
			}
			c.rows[doc.ID] = row
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading heads and lease: %w", err)
	}
	return c, nil
}

// Head returns the head of a content type, an empty one where there is none yet.
func (c *Control) Head(contentType string) (Head, error) {
	row, ok := c.rows[headID(contentType)]
	if !ok {
		return newHead(contentType), nil
	}
	return decodeHead(row, contentType)
}

// LeaseTime is how long a lease lasts unless it is renewed. A process that is
// killed holds up the next tick for no longer than this.
const LeaseTime = 30 * time.Second

// ErrLeaseLost says that another instance has taken the lease.
var ErrLeaseLost = errors.New("the collector's lease was taken by another instance")

// HeldError says who holds the lease.
type HeldError struct {
	Owner   string
	Expires time.Time
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another instance (%s) holds the collector's lease until %s", e.Owner, At(e.Expires))
}

type leaseDocument struct {
	ID      string `json:"id"`
	PK      string `json:"pk"`
	Kind    string `json:"kind"`
	V       int    `json:"v"`
	Owner   string `json:"owner"`
	Expires Stamp  `json:"expires"` // by the account's clock
}

// Lease is the right to collect in ticks. It is no fence: everything done under
// it is safe without it too. It saves doing it twice.
type Lease struct {
	ledger *Ledger
	owner  string
	etag   string
}

// Acquire takes the lease for owner, which must be unique to the process, or
// returns a [*HeldError]. A lease is not given back: it ends by itself, sooner
// than the default schedule's next tick, and its owner may take it again before.
func (c *Control) Acquire(ctx context.Context, owner string) (*Lease, error) {
	lease := &Lease{ledger: c.ledger, owner: owner}
	var held heldLease
	var err error
	if row, ok := c.rows[hash("lease")]; ok {
		held, err = decodeLease(row)
	} else {
		err = c.ledger.container.Create(ctx, cosmos.KeyString(control), lease.body())
		if err == nil || cosmos.KindOf(err) == cosmos.Exists { // by another, or by a try whose answer was lost
			held, err = c.ledger.lease(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("taking the lease: %w", err)
	}
	if held.Owner != owner && c.ledger.db.Now().Before(held.Expires.Time) {
		return nil, &HeldError{Owner: held.Owner, Expires: held.Expires.Time}
	}
	lease.etag = held.ETag
	if err := lease.Renew(ctx); errors.Is(err, ErrLeaseLost) {
		return nil, &HeldError{Owner: "unknown", Expires: c.ledger.db.Now().Add(LeaseTime)}
	} else if err != nil {
		return nil, err
	}
	return lease, nil
}

// heldLease is the lease as it stands.
type heldLease struct {
	leaseDocument
	ETag string `json:"_etag"`
}

func (l *Ledger) lease(ctx context.Context) (held heldLease, err error) {
	row, err := l.container.Read(ctx, cosmos.KeyString(control), hash("lease"))
	if err != nil {
		return held, err
	}
	return decodeLease(row)
}

func decodeLease(row []byte) (held heldLease, err error) {
	if err := json.Unmarshal(row, &held); err != nil {
		return held, fmt.Errorf("reading the lease: %w", err)
	}
	if held.Kind != "lease" {
		return held, errors.New("reading the lease: the answer is not that document")
	}
	return held, nil
}

// Renew extends the lease by LeaseTime, or returns ErrLeaseLost.
func (l *Lease) Renew(ctx context.Context) error {
	for try := 0; ; try++ {
		etag, err := l.ledger.container.Replace(ctx, cosmos.KeyString(control), hash("lease"), l.body(), l.etag)
		if err == nil {
			l.etag = etag
			return nil
		}
		if cosmos.KindOf(err) != cosmos.Changed {
			return fmt.Errorf("writing the lease: %w", err)
		}
		// It may have been ourselves, the answer lost.
		held, err := l.ledger.lease(ctx)
		if err != nil {
			return fmt.Errorf("writing the lease: %w", err)
		}
		if held.Owner != l.owner || try == 5 {
			return ErrLeaseLost
		}
		l.etag = held.ETag
	}
}

func (l *Lease) body() []byte {
	body, err := json.Marshal(leaseDocument{
		ID: hash("lease"), PK: control, Kind: "lease", V: 1,
		Owner: l.owner, Expires: At(l.ledger.db.Now().Add(LeaseTime)),
	})
	if err != nil { // cannot be: strings and a time
		return nil
	}
	return body
}
