package emulator

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of Cosmos DB (service quotas, "Per-item limits" and "Per-request
// limits").
const (
	maxBody       = 2 << 20 // bytes of one item and of one batch
	maxOperations = 100     // in one batch
)

// gate adds to Cosmium what the package comment promises.
type gate struct {
	next http.Handler
	key  []byte // nil: no signature is asked for

	offset atomic.Int64 // nanoseconds that Date is ahead

	containers sync.Map // path of a container's feed to its *sync.RWMutex
}

// answer is a response held back, so that it can be read and changed.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *answer) WriteHeader(status int)      { a.status = status }

// send gives the answer to the client.
func (a *answer) send(w http.ResponseWriter) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // the client may have gone
}

// refuse answers with Cosmos DB's error shape.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"code": strings.ReplaceAll(http.StatusText(status), " ", ""), "message": message,
	})
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("x-ms-activity-id", rand.Text()) // every answer of the account has one
	w.Header().Set("Date", time.Now().Add(time.Duration(g.offset.Load())).UTC().Format(http.TimeFormat))
	if g.key != nil && !g.signed(r) {
		refuse(w, http.StatusUnauthorized, "The Authorization header does not match this request.")
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] != "" && parts[0] != "dbs" && parts[0] != "offers":
		refuse(w, http.StatusNotFound, "Not a resource of an account.") // Cosmium's export needs no key
	case len(parts) == 5 && parts[4] == "docs":
		g.feed(w, r, r.URL.Path)
	case len(parts) == 6 && parts[4] == "docs":
		g.item(w, r, strings.TrimSuffix(r.URL.Path, "/"+parts[5]))
	default:
		g.next.ServeHTTP(w, r)
	}
}

// signed reports whether r carries the signature that the key gives it.
func (g *gate) signed(r *http.Request) bool {
	want := Authorization(g.key, r.Method, r.URL.Path, r.Header.Get("x-ms-date"))
	return subtle.ConstantTimeCompare([]byte(want), []byte(r.Header.Get("Authorization"))) == 1
}

// lock returns the lock of the container whose feed is at path. Cosmium
// replaces a document by deleting and creating it; the lock hides the gap.
func (g *gate) lock(path string) *sync.RWMutex {
	l, _ := g.containers.LoadOrStore(path, new(sync.RWMutex))
	return l.(*sync.RWMutex)
}

// ask sends Cosmium a request and holds its answer back. The caller has the
// container's lock.
func (g *gate) ask(r *http.Request, body []byte) *answer {
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	a := &answer{status: http.StatusOK, header: http.Header{}}
	g.next.ServeHTTP(a, r)
	return a
}

// feed serves the documents of a container: a list, a query, a batch or one
// new document.
func (g *gate) feed(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "Request size is too large.")
		return
	}
	l := g.lock(path)
	var a *answer
	switch {
	case r.Method == http.MethodGet:
		l.RLock()
		a = g.ask(r, body)
		l.RUnlock()
	case r.Header.Get("Content-Type") == "application/query+json":
		l.RLock()
		a, err = g.query(r, path, body)
		l.RUnlock()
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
	case strings.EqualFold(r.Header.Get("x-ms-cosmos-is-batch-request"), "true"):
		l.Lock()
		a, err = g.batch(r, path, body)
		l.Unlock()
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
	default:
		l.Lock()
		a = g.ask(r, body)
		l.Unlock()
		finish(r, a)
	}
	a.send(w)
}

// item serves one document of the container whose feed is at path.
func (g *gate) item(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "Request size is too large.")
		return
	}
	l := g.lock(path)
	if r.Method == http.MethodGet {
		l.RLock()
		a := g.ask(r, body)
		l.RUnlock()
		finish(r, a)
		a.send(w)
		return
	}
	l.Lock()
	defer l.Unlock()
	if want := r.Header.Get("If-Match"); want != "" {
		if have, ok := g.etag(r, r.URL.Path); ok && want != "*" && want != have {
			refuse(w, http.StatusPreconditionFailed, "One of the specified pre-condition is not met.")
			return
		}
	}
	a := g.ask(r, body)
	if r.Method == http.MethodPut && a.status == http.StatusCreated {
		a.status = http.StatusOK // as the service answers a replace
	}
	finish(r, a)
	a.send(w)
}

// etag returns the ETag of the document at path, and whether there is one. The
// caller has the container's lock.
func (g *gate) etag(r *http.Request, path string) (string, bool) {
	get := r.Clone(r.Context())
	get.Method = http.MethodGet
	get.URL = &url.URL{Path: path}
	a := g.ask(get, nil)
	if a.status != http.StatusOK {
		return "", false
	}
	return member(a.body.Bytes(), "_etag"), true
}

// finish gives an answer with one document its ETag, and drops the document
// where the client wants no content back.
func finish(r *http.Request, a *answer) {
	if a.status >= http.StatusMultipleChoices || a.body.Len() == 0 {
		return
	}
	if tag := member(a.body.Bytes(), "_etag"); tag != "" {
		a.header.Set("ETag", tag)
	}
	if r.Method != http.MethodGet && minimal(r) {
		a.body.Reset()
	}
}

// member returns a string member of a document, empty if there is none. It does
// not decode into a struct, which would take Id for id.
func member(doc []byte, name string) (value string) {
	var members map[string]json.RawMessage
	if json.Unmarshal(doc, &members) == nil {
		_ = json.Unmarshal(members[name], &value) // no string: empty
	}
	return value
}

func minimal(r *http.Request) bool { return r.Header.Get("Prefer") == "return=minimal" }

// operation is one operation of a batch, as azcosmos sends it.
type operation struct {
	Type    string          `json:"operationType"`
	ID      string          `json:"id"`
	IfMatch string          `json:"ifMatch"`
	Body    json.RawMessage `json:"resourceBody"`
}

// result is one result of a batch, in the service's spelling.
type result struct {
	StatusCode   int             `json:"statusCode"`
	ETag         string          `json:"eTag,omitempty"`
	ResourceBody json.RawMessage `json:"resourceBody,omitempty"`
}

// batch runs a batch if every operation can be done, and else none. The caller
// has the container's lock, so what is found beforehand holds to the end. An
// error means a batch that the service would refuse whole.
func (g *gate) batch(r *http.Request, path string, body []byte) (*answer, error) {
	var ops []operation
	if err := json.Unmarshal(body, &ops); err != nil {
		return nil, fmt.Errorf("read batch: %w", err)
	}
	if len(ops) == 0 || len(ops) > maxOperations {
		return nil, fmt.Errorf("batch has %d operations, 1 to %d are allowed", len(ops), maxOperations)
	}
	exists := make(map[string]bool, len(ops)) // as the operations so far leave it
	for i, op := range ops {
		id := op.ID
		if op.Type == "Create" || op.Type == "Upsert" {
			if id = member(op.Body, "id"); id == "" {
				return nil, fmt.Errorf("operation %d has no document with an id", i)
			}
		}
		tag, found := "", false
		if known, ok := exists[id]; ok {
			found = known
		} else {
			tag, found = g.etag(r, path+"/"+id)
		}
		status := 0
		switch {
		case op.Type == "Create" && found:
			status = http.StatusConflict
		case op.Type != "Create" && op.Type != "Upsert" && !found:
			status = http.StatusNotFound
		case op.IfMatch != "" && op.IfMatch != "*" && op.IfMatch != tag:
			status = http.StatusPreconditionFailed
		}
		if status != 0 {
			return failed(len(ops), i, status), nil
		}
		exists[id] = op.Type != "Delete"
	}

	a := g.ask(r, body)
	var results []result
	if err := json.Unmarshal(a.body.Bytes(), &results); err != nil || a.status != http.StatusOK {
		return a, nil
	}
	for i := range results {
		results[i].ETag = member(results[i].ResourceBody, "_etag")
		if minimal(r) {
			results[i].ResourceBody = nil
		}
	}
	a.body.Reset()
	_ = json.NewEncoder(&a.body).Encode(results)
	return a, nil
}

// failed is the answer to a batch of n operations of which the one at index i
// cannot be done.
func failed(n, i, status int) *answer {
	results := make([]result, n)
	for k := range results {
		results[k].StatusCode = http.StatusFailedDependency
	}
	results[i].StatusCode = status
	a := &answer{status: http.StatusMultiStatus, header: http.Header{"Content-Type": {"application/json"}}}
	_ = json.NewEncoder(&a.body).Encode(results)
	return a
}
