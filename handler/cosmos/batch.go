package cosmos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

// Limits of a transactional batch.
const (
	MaxBatch      = 100       // operations (Cosmos DB service limits)
	MaxBatchBytes = 1_800_000 // sum of their sizes; the service's limit is 2 MB
)

// Op is one operation of a batch.
type Op struct {
	doc  []byte
	id   string // of the document to replace; empty: create
	etag string
}

// Size is how many bytes of a batch the operation takes, at most.
func (o Op) Size() int { return len(o.doc) + envelope }

// envelope is what stands around a document in a batch: at most the words of a
// replace with an id of 64 characters and an ETag.
const envelope = 256

// Words of a batch's body.
var (
	opens  = []byte("[")
	comma  = []byte(",")
	create = []byte(`{"operationType":"Create","resourceBody":`)
	ends   = []byte("}")
	closes = []byte("]")
)

// replace is what stands before the document of a replace.
func (o Op) replace() []byte {
	b := AppendKeyString([]byte(`{"operationType":"Replace","ifMatch":`), o.etag)
	b = AppendKeyString(append(b, `,"id":`...), o.id)
	return append(b, `,"resourceBody":`...)
}

// pieces is the body of a batch as the service reads it, in pieces: its
// documents are not copied.
func pieces(ops []Op) [][]byte {
	list := make([][]byte, 0, 4*len(ops)+1)
	for i, op := range ops {
		word, before := opens, create
		if i > 0 {
			word = comma
		}
		if op.id != "" {
			before = op.replace()
		}
		list = append(list, word, before, op.doc, ends)
	}
	return append(list, closes)
}

// pieceReader reads pieces one after the other.
type pieceReader struct {
	pieces [][]byte
	next   int // piece
	at     int // byte of it
}

// Read implements [io.Reader].
func (r *pieceReader) Read(b []byte) (n int, err error) {
	for n < len(b) && r.next < len(r.pieces) {
		part := copy(b[n:], r.pieces[r.next][r.at:])
		n, r.at = n+part, r.at+part
		if r.at == len(r.pieces[r.next]) {
			r.next, r.at = r.next+1, 0
		}
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Seek implements [io.Seeker] as far as a request needs it: to the beginning, and
// to the end for the length.
func (r *pieceReader) Seek(offset int64, whence int) (int64, error) {
	switch {
	case offset == 0 && whence == io.SeekStart:
		r.next, r.at = 0, 0
		return 0, nil
	case offset == 0 && whence == io.SeekEnd:
		r.next, r.at = len(r.pieces), 0
		size := int64(0)
		for _, piece := range r.pieces {
			size += int64(len(piece))
		}
		return size, nil
	}
	return 0, fmt.Errorf("seeking in a batch: %w", errors.ErrUnsupported)
}

// exchange is a batch on its way: what is sent, and what came back.
type exchange struct {
	body     [][]byte
	statuses []int
}

// exchangeContext is the context key under which an exchange travels to
// ownBatch.
type exchangeContext struct{}

// ownBatch is the policy that sends a batch as pieces has made it, and reads of
// the answer what is wanted. The SDK would write every document through Go's
// JSON encoder once more and make a map of every result: half of all that
// archiving a record costs the processor, four times the memory, and six bytes
// for each <, > and &.
type ownBatch struct{}

// maxAnswer bounds the answer to a batch. A result has some 100 bytes, and the
// documents are not sent back.
const maxAnswer = 1 << 20

// Do implements [policy.Policy].
func (ownBatch) Do(req *policy.Request) (*http.Response, error) {
	x, ok := req.Raw().Context().Value(exchangeContext{}).(*exchange)
	if !ok || req.Raw().Header.Get("x-ms-cosmos-is-batch-request") == "" {
		return req.Next()
	}
	x.statuses = x.statuses[:0]
	if err := req.SetBody(streaming.NopCloser(&pieceReader{pieces: x.body}), "application/json"); err != nil {
		return nil, fmt.Errorf("setting the body of a batch: %w", err)
	}
	resp, err := req.Next()
	if err != nil || resp.StatusCode/100 != 2 {
		return resp, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("reading the answer to a batch: %w", err)
	}
	var results []struct {
		Status int `json:"statusCode"`
	}
	if err := json.Unmarshal(answer, &results); err != nil {
		return nil, fmt.Errorf("reading the answer to a batch: %w", err)
	}
	for _, r := range results {
		x.statuses = append(x.statuses, r.Status)
	}
	resp.Body = io.NopCloser(strings.NewReader("[]")) // nothing is left for the SDK
	return resp, nil
}

// Create returns the operation that stores a new document.
func Create(doc []byte) Op { return Op{doc: doc} }

// Replace returns the operation that overwrites the document with that id, one
// of ours, if its ETag is still etag.
func Replace(id string, doc []byte, etag string) Op { return Op{doc: doc, id: id, etag: etag} }

// Batch runs at most MaxBatch operations of one partition in one transaction
// and returns one HTTP status for each.
//
// After a nil error the statuses are final. Usually all are 2xx (done), or none
// is: then the first that is not 424 names the cause and nothing was stored. An
// endpoint without transactions may mix them; an operation with a 2xx status is
// stored in any case when committed is true, and only then.
//
// Failures for a passing reason, inside the batch too, are tried again.
func (c *Container) Batch(ctx context.Context, key Key, ops []Op) (statuses []int, committed bool, err error) {
	x := &exchange{body: pieces(ops)}
	ctx = context.WithValue(ctx, exchangeContext{}, x)
	err = c.do(ctx, "run batch", key, len(ops), func(ctx context.Context, container *azcosmos.ContainerClient) error {
		batch := container.NewTransactionalBatch(placeholder)
		batch.CreateItem([]byte("{}"), nil) // it wants one; ownBatch sends ours
		resp, err := container.ExecuteTransactionalBatch(ctx, batch, nil)
		if err = fromAccount(resp.RawResponse, err); err != nil {
			return err
		}
		statuses, committed = x.statuses, resp.Success
		if len(statuses) != len(ops) {
			return &errAgain{status: resp.RawResponse.StatusCode, reason: fmt.Sprintf("the answer holds %d results for %d operations", len(statuses), len(ops))}
		}
		return c.passing(statuses)
	})
	if err != nil {
		return nil, false, missing(err)
	}
	return statuses, committed, nil
}

// passing returns an error when an operation failed for a passing reason.
func (c *Container) passing(statuses []int) error {
	i := slices.IndexFunc(statuses, func(status int) bool {
		switch status {
		case http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests, 449,
			http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return status == 0
	})
	if i < 0 {
		return nil
	}
	if statuses[i] == http.StatusTooManyRequests {
		c.db.meter.throttled.Add(1)
	}
	return &errAgain{status: statuses[i], reason: fmt.Sprintf("operation %d of the batch answered status %d", i, statuses[i])}
}
