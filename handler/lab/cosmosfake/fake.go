// Package cosmosfake is an account of Azure Cosmos DB (NoSQL API, gateway) in
// memory, for tests. It enforces what the emulators let pass: the partition key
// header against the document, ids unique within a key, ETags, atomic batches,
// the limits of size, depth and number, time to live, request units, and the
// few queries that the gateway serves across partitions. What it does not know
// it refuses with status 400, so that a test never passes by accident.
//
// A [Fake] is an [http.RoundTripper], which needs no socket and so works inside
// a synctest bubble, and an [http.Handler]. It starts no goroutine, and it waits
// only for a delay that was asked for or for the end of a request's context. On
// demand it fails as the service can fail: see [Fault]. All methods are safe for
// concurrent use.
//
// Request charges follow a simple model, near what the service documents for
// small documents: a create costs 5 RU for the first KB, 0.45 for each more and
// 0.4 for each indexed path; a replace twice that, a delete the same; a read 1 RU
// and 0.09 for each further KB; a query 2.5 RU, twice that across partitions, 0.3
// for each row, and 0.1 for each document looked at when no filter is on an
// indexed path. A request that is refused costs 1.2 RU, one over budget none.
package cosmosfake

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Switches change how a Fake behaves. The zero value is an account in order.
type Switches struct {
	// Budget is the provisioned throughput in RU/s, for all containers together;
	// 0: no limit. A request is let in while something is left of the last
	// second's budget, and may overdraw it; else it is answered 429/3200.
	Budget float64
	// DateOffset is how far the account's clock is ahead of Now. It moves the
	// Date header and _ts, and a signature made too far from it is refused.
	DateOffset time.Duration
	// PageSize caps the rows of a query page, whatever the request asks for;
	// 0: no cap.
	PageSize int
	// EmptyPages puts an empty page with a continuation before every page.
	EmptyPages bool
	// Latency is how long each request waits before it is served.
	Latency time.Duration
	// Canned names a container in which a batch is answered without a look at its
	// documents, as a batch of creates that all went well, and nothing is stored:
	// a sink for measuring what writes to it. Each operation must begin with its
	// operationType. It is charged as ever where the index names its paths; where
	// everything is indexed, an unseen document counts as one value.
	Canned string
	// Hook, if not nil, is asked before the rules what goes wrong with a call;
	// nil: nothing. It may use the Fake.
	Hook func(Call) *Fault
}

// Options are fixed for a Fake's life.
type Options struct {
	// Key is the account key in base64. Empty: any signature and any date will
	// do. Entra tokens are taken in both cases, without a look at them.
	Key string
	// Now is the clock; nil: [time.Now].
	Now func() time.Time
}

// Kind says what a request asks for.
type Kind string

// The kinds of request.
const (
	Account         Kind = "read account"
	CreateDatabase  Kind = "create database"
	ReadDatabase    Kind = "read database"
	CreateContainer Kind = "create container"
	ReadContainer   Kind = "read container"
	DeleteContainer Kind = "delete container"
	Create          Kind = "create document"
	Upsert          Kind = "upsert document"
	Replace         Kind = "replace document"
	Read            Kind = "read document"
	Delete          Kind = "delete document"
	Query           Kind = "query documents"
	Batch           Kind = "run batch"
	Unknown         Kind = "unknown request"
)

// Call is one request.
type Call struct {
	N          int // from 1, over all requests
	Kind       Kind
	Method     string
	Container  string // id, empty where there is none
	Key        string // the partition key header as sent
	ID         string // in the URL, or in the body of what creates something; empty for a batch
	Operations int    // of a batch
	Body       []byte // not to be changed
}

// LogEntry is one request and its answer.
type LogEntry struct {
	Call             // without Body
	Time   time.Time // by the Fake's clock
	Status int       // 0: no answer was given
	Sub    int       // sub-status
	Rows   int       // of a query page
	Charge float64   // request units
}

// logLength bounds the log; counts are kept for all requests.
const logLength = 20_000

// Document is one stored document.
type Document struct {
	Key  string // the partition key, as a JSON array
	ID   string
	Body []byte // as a read answers it
}

// Fake is the account. Make it with [New].
type Fake struct {
	key []byte // account key; nil: not checked
	now func() time.Time

	mu       sync.Mutex
	switches Switches
	rules    []*rule
	store    map[string]*database
	writes   int64 // of documents, over all containers; ETags and _rid come from it
	calls    int
	counts   map[countKey]int
	log      []LogEntry
	charge   float64
	left     float64   // of the budget
	filled   time.Time // when left was last filled up
}

type countKey struct {
	kind      Kind
	container string
}

// Set changes the switches.
func (f *Fake) Set(change func(*Switches)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.switches)
}

// Count returns how many requests of a kind there were for a container, those
// that failed included; an empty container counts over all.
func (f *Fake) Count(kind Kind, container string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for k, count := range f.counts {
		if k.kind == kind && (container == "" || k.container == container) {
			n += count
		}
	}
	return n
}

// Log returns the last requests, at most 20,000, in the order of their answers.
func (f *Fake) Log() []LogEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Charge returns the request units used so far.
func (f *Fake) Charge() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.charge
}

// Documents returns what a container holds, in the order of creation; expired
// documents are gone. A container that does not exist holds nothing.
func (f *Fake) Documents(container string) []Document {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*document
	for _, db := range f.store {
		if c := db.containers[container]; c != nil {
			all = append(all, c.all(f.clock())...)
		}
	}
	slices.SortFunc(all, func(a, b *document) int { return cmp.Compare(a.seq, b.seq) })
	list := make([]Document, len(all))
	for i, d := range all {
		list[i] = Document{Key: d.key, ID: d.id, Body: slices.Clone(d.body)}
	}
	return list
}

// Provision creates a container, and its database, as an operator does before
// the first start: with the partition key paths, version 2, everything indexed,
// time to live on and nothing expiring. One that exists is left alone.
func (f *Fake) Provision(databaseID, containerID string, paths ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	db := f.store[databaseID]
	if db == nil {
		db = newDatabase(databaseID)
		f.store[databaseID] = db
	}
	if db.containers[containerID] != nil {
		return nil
	}
	kind := "Hash"
	if len(paths) > 1 {
		kind = "MultiHash"
	}
	c, err := newContainer(databaseID, map[string]any{
		"id":           containerID,
		"partitionKey": map[string]any{"paths": toAny(paths), "kind": kind, "version": 2.0},
		"defaultTtl":   -1.0,
	})
	if err != nil {
		return err
	}
	db.containers[containerID] = c
	return nil
}

// Load puts documents into a container as they are, without a request, a check
// or a charge: a start with a history. Each body is a JSON object that lacks
// what the account adds.
func (f *Fake) Load(databaseID, containerID string, documents iter.Seq[Document]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	db := f.store[databaseID]
	if db == nil || db.containers[containerID] == nil {
		return fmt.Errorf("loading documents: no container %s in %s", containerID, databaseID)
	}
	c, now := db.containers[containerID], f.clock().Unix()
	for from := range documents {
		f.writes++
		d := &document{key: from.Key, id: from.ID, seq: f.writes, ts: now, etag: etagOf(now, f.writes)}
		members := fmt.Sprintf(`,"_rid":"r%012x","_self":"","_etag":%q,"_attachments":"attachments/","_ts":%d}`, d.seq, d.etag, now)
		d.body = slices.Concat(bytes.TrimSuffix(from.Body, []byte{'}'}), []byte(members))
		c.put(d.key, d.id, d)
	}
	return nil
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// clock is the account's time; f.mu is held.
func (f *Fake) clock() time.Time { return f.now().Add(f.switches.DateOffset).UTC() }

// admit takes part of the budget; f.mu is held. It returns how long to wait
// when nothing is left.
func (f *Fake) admit() time.Duration {
	budget := f.switches.Budget
	if budget <= 0 {
		f.filled = time.Time{}
		return 0
	}
	now := f.now()
	if f.filled.IsZero() {
		f.left = budget
	} else {
		f.left = min(budget, f.left+budget*now.Sub(f.filled).Seconds())
	}
	f.filled = now
	if f.left > 0 {
		return 0
	}
	return time.Duration(-f.left/budget*float64(time.Second)) + time.Millisecond
}

// note keeps the account of one answered request; f.mu is held.
func (f *Fake) note(call Call, a *answer) {
	call.Body = nil
	f.charge += a.charge
	f.left -= a.charge
	if len(f.log) == logLength {
		f.log = slices.Delete(f.log, 0, logLength/4)
	}
	f.log = append(f.log, LogEntry{Call: call, Time: f.now(), Status: a.status, Sub: a.sub, Rows: a.rows, Charge: a.charge})
}

var (
	_ http.Handler      = (*Fake)(nil)
	_ http.RoundTripper = (*Fake)(nil)
)
