// Package ledger keeps what the collector must not forget, in the container
// ArchiveState: an entry for each content, a head for each content type, the
// collector's lease, dead letters, and what a person has acknowledged.
//
// An entry is created before anything is promised: before a notification is
// acknowledged and before the mark of a listing moves. It stays open until every
// record of its content is confirmed in the archive, so whatever a killed
// process leaves undone, the next tick finds here. Ids are derived from what
// they name, so every write may run twice.
//
// Documents, all in partition key /pk:
//
//	kind   pk                         id (hex SHA-256 of)
//	entry  <contentType>|<day>        contentType, contentId
//	ids    <contentType>|<day>        entry id, number     record ids of a large content
//	dead   dead|<contentType>|<day>   entry id, element, chunk, bytes so far
//	head   control                    "head", contentType
//	lease  control                    "lease"
//	ack    ack                        "ack", what it is of
//
// where day is the UTC day of contentCreated. Failures are [*cosmos.Fault] or
// the end of the context.
package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"activityarchive/handler/cosmos"
)

// Ledger is the container ArchiveState. It is safe for concurrent use.
type Ledger struct {
	db        *cosmos.DB
	container *cosmos.Container

	turn  chan struct{} // held by the Prepare under way
	ready atomic.Bool   // Prepare has succeeded
}

// New returns the ledger in the container with that id. Nothing is requested.
func New(db *cosmos.DB, container string) *Ledger {
	return &Ledger{db: db, container: db.Container(container), turn: make(chan struct{}, 1)}
}

// Prepare checks the container's partition key, and creates the container first
// where the account key allows it. It asks once; later calls are free.
func (l *Ledger) Prepare(ctx context.Context) error {
	if l.ready.Load() {
		return nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return fmt.Errorf("preparing the ledger: %w", context.Cause(ctx))
	}
	paths, err := l.db.Provide(ctx, definition(l.container.ID()))
	if err != nil {
		return err
	}
	if len(paths) != 1 || paths[0] != "/pk" {
		return &cosmos.Fault{Op: "check container " + l.container.ID(), Kind: cosmos.Denied, Err: fmt.Errorf(
			"its partition key is %q, but the ledger needs /pk; give COSMOS_STATE_CONTAINER the name of a container with that key", strings.Join(paths, ", "))}
	}
	l.ready.Store(true)
	return nil
}

// definition is the container as recommended: only what is queried is indexed.
func definition(id string) azcosmos.ContainerProperties {
	include := []azcosmos.IncludedPath{}
	for _, path := range []string{"/pk/?", "/kind/?", "/open/?", "/due/?", "/created/?", "/state/?", "/contentType/?"} {
		include = append(include, azcosmos.IncludedPath{Path: path})
	}
	return azcosmos.ContainerProperties{
		ID: id,
		PartitionKeyDefinition: azcosmos.PartitionKeyDefinition{
			Paths: []string{"/pk"}, Kind: azcosmos.PartitionKeyKindHash, Version: 2,
		},
		DefaultTimeToLive: to.Ptr(int32(-1)),
		IndexingPolicy: &azcosmos.IndexingPolicy{
			Automatic: true, IndexingMode: azcosmos.IndexingModeConsistent,
			IncludedPaths: include, ExcludedPaths: []azcosmos.ExcludedPath{{Path: "/*"}},
		},
	}
}

// Stamp is a moment as the ledger writes it: UTC, milliseconds, always equally
// long, so that the order of the texts is the order of the moments.
type Stamp struct{ time.Time }

const stampLayout = "2006-01-02T15:04:05.000Z"

// At returns t as the ledger keeps it.
func At(t time.Time) Stamp { return Stamp{t.UTC().Truncate(time.Millisecond)} }

func (s Stamp) String() string { return s.Time.UTC().Format(stampLayout) }

// MarshalJSON implements [json.Marshaler]; the zero Stamp is null.
func (s Stamp) MarshalJSON() ([]byte, error) {
	if s.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(s.String())
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Stamp) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*s = Stamp{}
		return nil
	}
	t, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(b))
	if err == nil && (t.UTC().Year() < 1 || t.UTC().Year() > 9999) { // String writes four digits
		err = errors.New("its year has no four digits")
	}
	if err != nil {
		return fmt.Errorf("reading a time of the ledger: %w", err)
	}
	*s = At(t)
	return nil
}

// hash returns the hex SHA-256 of the parts, told apart by a line break.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

// document is one of ours on its way to the container.
type document struct {
	id   string
	body []byte
}

// create stores the documents of one partition that are not there yet and
// reports for each whether it is new. It may run any number of times.
func (l *Ledger) create(ctx context.Context, pk string, docs []document) (created []bool, err error) {
	created = make([]bool, len(docs))
	left := make([]int, len(docs))
	for i := range docs {
		left[i] = i
	}
	for stale := 0; len(left) > 0; {
		n, size := 0, 0
		for n < len(left) && n < cosmos.MaxBatch {
			if size += cosmos.Create(docs[left[n]].body).Size(); size > cosmos.MaxBatchBytes && n > 0 {
				break
			}
			n++
		}
		batch, rest := left[:n], left[n:]
		known, err := l.createBatch(ctx, pk, docs, batch, created)
		if err != nil {
			return created, err
		}
		retry := batch[:0:0]
		for _, i := range batch {
			if !created[i] && !known[docs[i].id] {
				retry = append(retry, i)
			}
		}
		// "It exists" and then not found is a stale read of a replica.
		if len(retry) == n {
			if stale++; stale > 5 {
				return created, &cosmos.Fault{Op: "record in the ledger", Err: errors.New("documents are refused as existing but cannot be read")}
			}
			wait := time.NewTimer(time.Duration(stale) * 200 * time.Millisecond)
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
		}
		left = append(retry, rest...)
	}
	return created, nil
}

// createBatch tries one batch, marks what it created and returns the ids that
// were there before.
func (l *Ledger) createBatch(ctx context.Context, pk string, docs []document, batch []int, created []bool) (known map[string]bool, err error) {
	ops := make([]cosmos.Op, len(batch))
	for n, i := range batch {
		ops[n] = cosmos.Create(docs[i].body)
	}
	statuses, committed, err := l.container.Batch(ctx, cosmos.KeyString(pk), ops)
	if err != nil {
		return nil, err
	}
	conflict := false
	for n, status := range statuses {
		switch {
		case status/100 == 2:
			created[batch[n]] = committed
		case status == http.StatusConflict:
			conflict = true
		case status != http.StatusFailedDependency:
			return nil, &cosmos.Fault{Op: "record in the ledger", Kind: cosmos.Refused, Status: status, Err: errors.New("the document was refused")}
		}
	}
	if !conflict {
		return nil, nil
	}
	ids := make([]string, 0, len(batch))
	for _, i := range batch {
		ids = append(ids, docs[i].id)
	}
	known = map[string]bool{}
	err = l.byID(ctx, pk, "c.id", ids, func(row json.RawMessage) error {
		var doc struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(row, &doc); err != nil {
			return fmt.Errorf("reading an id of the ledger: %w", err)
		}
		known[doc.ID] = true
		return nil
	})
	return known, err
}

// byID gives fields of the documents of one partition that have one of ids, at
// most cosmos.MaxBatch of them, to row.
func (l *Ledger) byID(ctx context.Context, pk, fields string, ids []string, row func(json.RawMessage) error) error {
	params := []cosmos.Param{{Name: "@pk", Value: pk}}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = fmt.Sprintf("@i%d", i)
		params = append(params, cosmos.Param{Name: names[i], Value: id})
	}
	sql := "SELECT " + fields + " FROM c WHERE c.pk = @pk AND c.id IN (" + strings.Join(names, ", ") + ")"
	return l.container.Query(ctx, cosmos.KeyString(pk), sql, params, 0, row)
}
