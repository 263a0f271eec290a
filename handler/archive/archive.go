// Package archive is the one way into the container Audits: it creates the
// documents of records, in batches across contents, and tells for each what
// became of it.
//
// A document is created, never overwritten. What is already there decides: the
// same record brought by the same content was stored by an earlier try; by
// another content it is a duplicate; other text under the same id is a conflict.
// So every write may run twice, and two instances may write at once.
package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"activityarchive/handler/cosmos"
	"activityarchive/handler/record"
)

// The levels of the partition key that the archive can write.
const (
	userPath = "/UserId"
	hourPath = "/archive/hour"
)

// Archive is the container Audits. It is safe for concurrent use.
type Archive struct {
	db        *cosmos.DB
	container *cosmos.Container

	turn  chan struct{}            // held by the Prepare under way
	paths atomic.Pointer[[]string] // the container's partition key, nil until Prepare has succeeded
	stale atomic.Bool              // it is another by now
}

// New returns the archive in the container with that id. Nothing is requested.
func New(db *cosmos.DB, container string) *Archive {
	return &Archive{db: db, container: db.Bulk(container), turn: make(chan struct{}, 1)}
}

// Prepare reads the container's partition key definition, which decides where
// documents go, and creates the container first where the account key allows
// it. It asks once; later calls are free, unless the container has turned out to
// be another.
func (a *Archive) Prepare(ctx context.Context) error {
	if a.paths.Load() != nil && !a.stale.Load() {
		return nil
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return fmt.Errorf("preparing the archive: %w", context.Cause(ctx))
	}
	paths, err := a.db.Provide(ctx, definition(a.container.ID()))
	if err != nil {
		return err
	}
	if !slices.Equal(paths, []string{userPath, hourPath}) && !slices.Equal(paths, []string{userPath}) {
		return &cosmos.Fault{Op: "check container " + a.container.ID(), Kind: cosmos.Denied, Err: fmt.Errorf(
			"its partition key is %q, but the archive needs %s and %s (recommended) or %s alone; give COSMOS_CONTAINER the name of a container with such a key",
			strings.Join(paths, ", "), userPath, hourPath, userPath)}
	}
	a.paths.Store(&paths)
	a.stale.Store(false)
	return nil
}

// recheck reads the container's partition key again. If it is not what it was,
// someone has made the container anew while this process runs: it is an error,
// and the next Prepare begins with the new key.
func (a *Archive) recheck(ctx context.Context) error {
	paths, err := a.container.Paths(ctx)
	if err != nil {
		return err
	}
	if slices.Equal(paths, *a.paths.Load()) {
		return nil
	}
	a.stale.Store(true)
	return &cosmos.Fault{Op: "check container " + a.container.ID(), Kind: cosmos.Denied, Err: errors.New(
		"its partition key has changed since this process began; the next tick goes by the new one")}
}

// definition is the container as recommended (README, section Containers).
func definition(id string) azcosmos.ContainerProperties {
	include := []azcosmos.IncludedPath{}
	for _, path := range []string{
		"/UserId", "/CreationTime", "/Operation", "/RecordType", "/Workload", "/EntityName", "/EntityId", "/ObjectId", "/Message",
		"/archive/day", "/archive/content", "/archive/user", "/archive/hour",
	} {
		include = append(include, azcosmos.IncludedPath{Path: path + "/?"})
	}
	include = append(include, azcosmos.IncludedPath{Path: "/Fields/[]/{Name, Value}/?"})
	return azcosmos.ContainerProperties{
		ID: id,
		PartitionKeyDefinition: azcosmos.PartitionKeyDefinition{
			Paths: []string{userPath, hourPath}, Kind: azcosmos.PartitionKeyKindMultiHash, Version: 2,
		},
		DefaultTimeToLive: to.Ptr(int32(-1)), // on, nothing expires; retention can be set later
		IndexingPolicy: &azcosmos.IndexingPolicy{
			Automatic: true, IndexingMode: azcosmos.IndexingModeConsistent,
			IncludedPaths: include, ExcludedPaths: []azcosmos.ExcludedPath{{Path: "/*"}},
		},
	}
}

// Outcome is what became of a document.
type Outcome int

// The outcomes.
const (
	Stored    Outcome = iota // in the archive, by this or an earlier try
	Duplicate                // another content brought the same record before
	Conflict                 // the id is taken by other text, which stays
	Refused                  // can never be stored: too large, or refused by the service
)

// Document is one record on its way into the archive.
type Document struct {
	id      string
	sha256  string // of the record's bytes, hex
	content string // entry id
	key     cosmos.Key
	body    []byte
	raw     []byte // the record's bytes, nil where body's last ones give them back
	members int    // how many those are
	sent    int    // bytes of body inside a batch
	done    func(Outcome, string, error)

	finished bool // done was called
}

// Raw returns the record's bytes as they stood in the content.
func (d *Document) Raw() []byte {
	if d.raw != nil {
		return d.raw
	}
	end := len(d.body) - 1
	return slices.Concat([]byte{'{'}, d.body[end-d.members:end], []byte{'}'})
}

// errKey says that the record's UserId cannot be a partition key.
var errKey = errors.New("UserId is an object, an array, or longer than the 2,048 bytes that a partition key value may have")

// key returns the partition key of r, in the form of the header.
func (a *Archive) key(r *record.Record) (cosmos.Key, error) {
	key := []byte{'['}
	switch r.User.Kind {
	case record.Absent: // no value at all, which is not the same as null
		key = append(key, "{}"...)
	case record.Null:
		key = append(key, "null"...)
	case record.Bool, record.Number:
		key = append(key, r.User.Text...)
	case record.String:
		if len(r.User.Text) > cosmos.MaxKeyValue {
			return "", errKey
		}
		key = cosmos.AppendKeyString(key, r.User.Text)
	default:
		return "", errKey
	}
	if len(*a.paths.Load()) == 2 {
		key = cosmos.AppendKeyString(append(key, ','), r.Hour)
	}
	return cosmos.Key(append(key, ']')), nil
}

// Document builds the document of r, whose bytes were raw. It copies both. It
// returns an error, the reason of a dead letter, when the record cannot have
// one. Prepare must have succeeded before.
func (a *Archive) Document(r *record.Record, raw []byte, meta record.Meta) (*Document, error) {
	key, err := a.key(r)
	if err != nil {
		return nil, err
	}
	d := &Document{
		id: r.ID, sha256: hex.EncodeToString(r.SHA256[:]), content: meta.Content,
		key:  key,
		body: r.AppendDocument(make([]byte, 0, len(raw)+512), meta),
	}
	var verbatim bool
	if d.members, verbatim = r.Verbatim(); !verbatim {
		d.raw = slices.Clone(raw)
	}
	if len(d.body) > cosmos.MaxDocument {
		return nil, fmt.Errorf("the document would have %d bytes, more than the 2 MB that Cosmos DB stores", len(d.body))
	}
	d.sent = cosmos.Create(d.body).Size()
	return d, nil
}

// Identity tells documents apart: two with the same one are the same document
// to Cosmos DB.
func (d *Document) Identity() string { return string(d.key) + d.id }

// ID returns the document's id.
func (d *Document) ID() string { return d.id }
