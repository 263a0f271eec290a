package cosmosfake

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
)

// operation is one read or write of a document, alone or in a batch.
type operation struct {
	kind    Kind
	id      string // of the document to read, replace or delete
	ifMatch string
	minimal bool           // no document in the answer to a write
	size    int            // bytes of the document
	object  map[string]any // the document
	problem string         // why it is none
}

// newOperation decodes the document of a write.
func newOperation(kind Kind, id, ifMatch string, minimal bool, body []byte) operation {
	op := operation{kind: kind, id: id, ifMatch: ifMatch, minimal: minimal, size: len(body)}
	if kind != Read && kind != Delete {
		op.object, op.problem = decodeObject(body)
	}
	return op
}

// operations decodes what a request does with documents. problem is why the
// whole request is refused.
func (r *request) operations() (list []operation, problem string) {
	minimal := r.header.Get("Prefer") == "return=minimal"
	switch r.kind {
	case Read, Delete, Replace:
		return []operation{newOperation(r.kind, r.segments[5], r.header.Get("If-Match"), minimal, r.body)}, ""
	case Create, Upsert:
		return []operation{newOperation(r.kind, "", r.header.Get("If-Match"), minimal, r.body)}, ""
	case Batch:
	default:
		return nil, ""
	}
	var items []struct {
		OperationType string
		ID            string
		IfMatch       string
		ResourceBody  json.RawMessage
	}
	if err := json.Unmarshal(r.body, &items); err != nil {
		return nil, "The batch is no JSON array of operations."
	}
	kinds := map[string]Kind{"Create": Create, "Upsert": Upsert, "Replace": Replace, "Delete": Delete, "Read": Read}
	for _, item := range items {
		kind, ok := kinds[item.OperationType]
		if !ok {
			problem = fmt.Sprintf("the fake does not serve the operation %q", item.OperationType)
		}
		list = append(list, newOperation(kind, item.ID, item.IfMatch, minimal, item.ResourceBody))
	}
	if len(list) == 0 || len(list) > maxOperations {
		problem = fmt.Sprintf("Batch request has %d operations; it may have 1 to 100.", len(list))
	}
	return list, problem
}

// result is the outcome of an operation, in the form of a batch's answer.
type result struct {
	Status     int             `json:"statusCode"`
	SubStatus  int             `json:"subStatusCode,omitempty"`
	Charge     float64         `json:"requestCharge"`
	RetryAfter int             `json:"retryAfterMilliseconds,omitempty"`
	ETag       string          `json:"eTag,omitempty"`
	Body       json.RawMessage `json:"resourceBody,omitempty"`
	message    string
}

func refusal(status, sub int, message string) result {
	return result{Status: status, SubStatus: sub, Charge: refusalCharge, message: message}
}

// single serves a request for one document.
func (f *Fake) single(r *request, c *container, stale int) *answer {
	key, refused := c.parseKey(r.header.Get(partitionKeyHeader))
	if refused != nil {
		return refused
	}
	if r.kind == Read {
		defer c.past(stale)()
	}
	res, writes := f.apply(c, key, r.ops[0])
	c.commit(writes, true)
	if res.Status >= 400 {
		return refuse(res.Status, res.SubStatus, "%s", res.message)
	}
	return &answer{status: res.Status, charge: res.Charge, etag: res.ETag, body: res.Body}
}

// batch runs a transactional batch: all operations or none.
func (f *Fake) batch(r *request, c *container) *answer {
	if !r.is("x-ms-cosmos-batch-atomic") {
		return refuse(http.StatusBadRequest, 0, "the fake serves atomic batches only")
	}
	key, refused := c.parseKey(r.header.Get(partitionKeyHeader))
	if refused != nil {
		return refused
	}
	if len(r.body) > maxDocument {
		return refuse(http.StatusRequestEntityTooLarge, 0, "Request size is too large")
	}
	if r.problem != "" {
		return refuse(http.StatusBadRequest, 0, "%s", r.problem)
	}
	results := make([]result, len(r.ops))
	var writes []undo
	failed := -1
	for i, op := range r.ops {
		var undos []undo
		results[i], undos = f.apply(c, key, op)
		writes = append(writes, undos...)
		if results[i].Status >= 400 {
			failed = i
			break
		}
	}
	c.commit(writes, failed < 0)
	if failed < 0 {
		return batchAnswer(http.StatusOK, results)
	}
	for i := range results {
		if i != failed {
			// What was rolled back has been paid for.
			results[i] = result{Status: http.StatusFailedDependency, Charge: results[i].Charge}
		}
	}
	return batchAnswer(http.StatusMultiStatus, results)
}

func batchAnswer(status int, results []result) *answer {
	a := &answer{status: status, results: results, body: encode(results)}
	for _, res := range results {
		a.charge += res.Charge
	}
	return a
}

// drop takes the last n results out of the answer, or its whole body.
func (a *answer) drop(n int) {
	if n == EmptyBody {
		a.body = nil
		return
	}
	a.body = encode(a.results[:max(0, len(a.results)-n)])
}

// apply carries out one operation in one partition and returns how to undo it.
func (f *Fake) apply(c *container, key string, op operation) (result, []undo) {
	now := f.clock()
	switch op.kind {
	case Read, Delete:
		if problem := badID(op.id); problem != "" {
			return refusal(http.StatusBadRequest, 0, problem), nil
		}
		d := c.get(key, op.id, now)
		switch {
		case d == nil:
			return refusal(http.StatusNotFound, 0, "Resource Not Found."), nil
		case op.kind == Read:
			return result{Status: http.StatusOK, Charge: readCharge(len(d.body)), ETag: d.etag, Body: d.body}, nil
		case mismatch(op.ifMatch, d):
			return changed, nil
		}
		f.writes++
		charge := 2 * createCharge(len(d.body), c.index.paths(d.values()))
		return result{Status: http.StatusNoContent, Charge: charge}, []undo{c.put(key, op.id, nil)}
	}

	if op.size > maxDocument {
		return refusal(http.StatusRequestEntityTooLarge, 0, "Request size is too large"), nil
	}
	if op.problem != "" {
		return refusal(http.StatusBadRequest, 0, op.problem), nil
	}
	object := op.object
	id, _ := object["id"].(string)
	if problem := badID(id); problem != "" {
		return refusal(http.StatusBadRequest, 0, problem), nil
	}
	own, problem := c.keyOf(object)
	if problem != "" {
		return refusal(http.StatusBadRequest, 0, problem), nil
	}
	if own != key {
		return refusal(http.StatusBadRequest, 1001, "PartitionKey extracted from document doesn't match the one specified in the header."), nil
	}
	ttl, problem := ttlOf(object)
	if problem != "" {
		return refusal(http.StatusBadRequest, 0, problem), nil
	}

	old := c.get(key, id, now)
	switch {
	case op.kind == Replace && op.id != id:
		return refusal(http.StatusBadRequest, 0, "The id in the document is not the one to replace."), nil
	case op.kind == Replace && old == nil:
		return refusal(http.StatusNotFound, 0, "Resource Not Found."), nil
	case op.kind == Create && old != nil:
		return refusal(http.StatusConflict, 0, "Resource with specified id or name already exists."), nil
	case op.kind != Create && old != nil && mismatch(op.ifMatch, old):
		return changed, nil
	}
	f.writes++
	d := &document{key: key, id: id, seq: f.writes, ts: now.Unix(), ttl: ttl, etag: etagOf(now.Unix(), f.writes)}
	res := result{Status: http.StatusCreated}
	if old != nil {
		d.seq, res.Status = old.seq, http.StatusOK
	}
	rid := fmt.Sprintf("r%012x", d.seq)
	object["_rid"] = rid
	object["_self"] = "dbs/" + c.database + "/colls/" + c.id + "/docs/" + rid + "/"
	object["_etag"] = d.etag
	object["_attachments"] = "attachments/"
	object["_ts"] = float64(d.ts)
	d.body = encode(object)
	if c.sparse != nil { // else put would decode it again
		d.value = object
	}
	res.ETag = d.etag
	res.Charge = createCharge(op.size, c.index.paths(object))
	if old != nil {
		res.Charge *= 2
	}
	if !op.minimal {
		res.Body = d.body
	}
	return res, []undo{c.put(key, id, d)}
}

func etagOf(at, write int64) string {
	return fmt.Sprintf(`"%08x-0000-0000-0000-%012x"`, at&math.MaxUint32, write)
}

var changed = refusal(http.StatusPreconditionFailed, 0, "Operation cannot be performed because one of the specified precondition is not met.")

func mismatch(ifMatch string, d *document) bool {
	return ifMatch != "" && ifMatch != "*" && ifMatch != d.etag
}

// ttlOf reads a document's own time to live.
func ttlOf(object map[string]any) (ttl *int64, problem string) {
	v, ok := object["ttl"]
	if !ok {
		return nil, ""
	}
	n, ok := v.(float64)
	if !ok || n != math.Trunc(n) || n != -1 && (n < 1 || n > maxTTL) {
		return nil, "The input ttl is invalid. Ensure to provide a nonzero positive integer less than or equal to " + strconv.Itoa(maxTTL) + ", or -1."
	}
	seconds := int64(n)
	return &seconds, ""
}

func kilobytes(n int) float64 { return max(1, float64(n)/1024) }

func createCharge(bytes, paths int) float64 {
	return 5 + 0.45*(kilobytes(bytes)-1) + 0.4*float64(paths)
}

func readCharge(bytes int) float64 { return 1 + 0.09*(kilobytes(bytes)-1) }
