package cosmosfake

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Limits of the service (Azure Cosmos DB service quotas). Where 2 MB could mean
// two things, the smaller is taken.
const (
	maxDocument   = 2_000_000 // bytes of a document, in UTF-8
	maxRequest    = 2_097_152 // bytes of a request; a batch has the limit of a document
	maxPage       = 4_000_000 // bytes of a query page
	maxOperations = 100       // of a batch
	maxQuery      = 512 << 10 // bytes of a query's text
	maxDepth      = 128
	maxID         = 1023 // bytes
	maxKeyValue   = 2048 // bytes of a partition key value, key version 2
	oldKeyValue   = 101  // bytes, key version 1
	maxSkew       = 15 * time.Minute
)

const refusalCharge = 1.2

const partitionKeyHeader = "x-ms-documentdb-partitionkey"

// New returns an empty account.
func New(o Options) (*Fake, error) {
	f := &Fake{now: o.Now, store: map[string]*database{}, counts: map[countKey]int{}}
	if f.now == nil {
		f.now = time.Now
	}
	if o.Key != "" {
		key, err := base64.StdEncoding.DecodeString(o.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the account key: %w", err)
		}
		f.key = key
	}
	return f, nil
}

// request is a request as far as the account looks at it.
type request struct {
	method   string
	segments []string // of the path, unescaped
	badPath  bool
	endpoint string // scheme and host that the client used
	header   http.Header
	body     []byte
	tooLarge bool
	kind     Kind
	ops      []operation // on documents
	problem  string      // why they are none
	canned   bool        // a batch that is not to be looked at
}

func newRequest(req *http.Request, scheme, host string) *request {
	r := &request{method: req.Method, header: req.Header, endpoint: scheme + "://" + host + "/"}
	if path := strings.Trim(req.URL.EscapedPath(), "/"); path != "" {
		for segment := range strings.SplitSeq(path, "/") {
			s, err := url.PathUnescape(segment)
			r.badPath = r.badPath || err != nil
			r.segments = append(r.segments, s)
		}
	}
	r.kind = r.classify()
	return r
}

// read takes the body in, at most a little more than is allowed. length is what
// the client says; -1: nothing.
func (r *request) read(body io.Reader, length int64) error {
	buffer := bytes.NewBuffer(make([]byte, 0, min(max(length, 0), maxRequest)+bytes.MinRead))
	if _, err := buffer.ReadFrom(io.LimitReader(body, maxRequest+1)); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	r.body = buffer.Bytes()
	if r.tooLarge = len(r.body) > maxRequest; !r.tooLarge && !r.canned {
		r.ops, r.problem = r.operations()
	}
	return nil
}

// is reports whether a header has the value true, in any case.
func (r *request) is(name string) bool { return strings.EqualFold(r.header.Get(name), "true") }

func (r *request) classify() Kind {
	s := r.segments
	for i, name := range []string{"dbs", "colls", "docs"} {
		if len(s) > 2*i && s[2*i] != name {
			return Unknown
		}
	}
	switch route := r.method + " " + strconv.Itoa(len(s)); route {
	case "GET 0":
		return Account
	case "POST 1":
		return CreateDatabase
	case "GET 2":
		return ReadDatabase
	case "POST 3":
		return CreateContainer
	case "GET 4":
		return ReadContainer
	case "DELETE 4":
		return DeleteContainer
	case "POST 5":
		switch {
		case r.is("x-ms-documentdb-query"):
			return Query
		case r.is("x-ms-cosmos-is-batch-request"):
			return Batch
		case r.is("x-ms-documentdb-is-upsert"):
			return Upsert
		}
		return Create
	case "GET 6":
		return Read
	case "PUT 6":
		return Replace
	case "DELETE 6":
		return Delete
	}
	return Unknown
}

// call describes the request for rules and the log.
func (r *request) call() Call {
	c := Call{Kind: r.kind, Method: r.method, Key: r.header.Get(partitionKeyHeader), Body: r.body}
	if len(r.segments) > 3 {
		c.Container = r.segments[3]
	}
	switch r.kind {
	case Batch:
		if c.Operations = len(r.ops); r.canned {
			c.Operations = bytes.Count(r.body, cannedMark)
		}
	case Read, Replace, Delete:
		c.ID = r.segments[5]
	case Create, Upsert:
		if len(r.ops) == 1 {
			c.ID, _ = r.ops[0].object["id"].(string)
		}
	case CreateDatabase, CreateContainer:
		object, _ := decodeObject(r.body)
		c.ID, _ = object["id"].(string)
	}
	return c
}

// answer is an answer on its way out.
type answer struct {
	status, sub  int
	retryAfter   string
	charge       float64
	etag         string
	session      int64 // log sequence number of the container
	continuation string
	contentType  string
	rows         int
	results      []result // of a batch
	body         []byte
	cut          int
}

// refuse is an answer with the service's error body.
func refuse(status, sub int, format string, args ...any) *answer {
	code := strings.ReplaceAll(http.StatusText(status), " ", "")
	if status == 449 {
		code = "RetryWith"
	}
	charge := refusalCharge
	if status == http.StatusTooManyRequests {
		charge = 0
	}
	return &answer{status: status, sub: sub, charge: charge, body: encode(map[string]any{
		"code": code, "message": fmt.Sprintf(format, args...),
	})}
}

// encode writes JSON as the service does: numbers as the shortest decimal of
// their double, no escapes that JSON does not ask for.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // cannot be: everything here was decoded from JSON
		return nil
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// header returns an answer's headers.
func (f *Fake) header(r *request, a *answer) http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := http.Header{}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	if a.contentType != "" { // a page of something in front of the account
		set("Content-Type", a.contentType)
		return h
	}
	activity := r.header.Get("x-ms-activity-id")
	if activity == "" {
		activity = fmt.Sprintf("%08x-0000-4000-8000-%012x", f.calls, f.writes)
	}
	set("Date", f.clock().Format(http.TimeFormat))
	set("x-ms-activity-id", activity)
	set("x-ms-request-charge", strconv.FormatFloat(a.charge, 'f', 2, 64))
	set("x-ms-retry-after-ms", a.retryAfter)
	set("x-ms-continuation", a.continuation)
	set("Etag", a.etag)
	if a.sub != 0 {
		set("x-ms-substatus", strconv.Itoa(a.sub))
	}
	if a.session != 0 {
		set("x-ms-session-token", fmt.Sprintf("0:-1#%d", a.session))
	}
	contentType := ""
	if len(a.body) > 0 {
		contentType = "application/json"
	}
	set("Content-Type", contentType)
	return h
}

// handle carries a request out; f.mu is held.
func (f *Fake) handle(r *request, stale int) *answer {
	if a := f.authorize(r); a != nil {
		return a
	}
	switch {
	case r.badPath || r.kind == Unknown:
		return refuse(http.StatusBadRequest, 0, "the fake does not serve %s on such a path", r.method)
	case r.tooLarge:
		return refuse(http.StatusRequestEntityTooLarge, 0, "Request size is too large")
	case r.kind == Account:
		return f.account(r)
	case r.kind == CreateDatabase:
		return f.createDatabase(r)
	}
	db := f.store[r.segments[1]]
	if db == nil {
		return refuse(http.StatusNotFound, 1003, "Owner resource does not exist")
	}
	switch r.kind {
	case ReadDatabase:
		return &answer{status: http.StatusOK, charge: 1, body: encode(db.properties)}
	case CreateContainer:
		return f.createContainer(r, db)
	}
	c := db.containers[r.segments[3]]
	if c == nil {
		return refuse(http.StatusNotFound, 1003, "Owner resource does not exist")
	}
	switch r.kind {
	case ReadContainer:
		return &answer{status: http.StatusOK, charge: 1, etag: c.etag, session: c.lsn, body: encode(c.properties)}
	case DeleteContainer:
		delete(db.containers, c.id)
		return &answer{status: http.StatusNoContent, charge: 1}
	}
	if wait := f.admit(); wait > 0 {
		a := refuse(http.StatusTooManyRequests, 3200, "Request rate is large. More Request Units may be needed, so no changes were made.")
		a.retryAfter = strconv.FormatInt(max(1, wait.Milliseconds()), 10)
		return a
	}
	var a *answer
	switch r.kind {
	case Query:
		a = f.query(r, c, stale)
	case Batch:
		if r.canned {
			a = r.can(c)
			break
		}
		a = f.batch(r, c)
	default:
		a = f.single(r, c, stale)
	}
	a.session = c.lsn
	return a
}

// cannedMark begins each operation of a batch.
var cannedMark = []byte(`{"operationType":`)

// can answers a batch of creates without a look at the documents.
func (r *request) can(c *container) *answer {
	n := bytes.Count(r.body, cannedMark)
	if n == 0 || n > maxOperations || len(r.body) > maxDocument {
		return refuse(http.StatusBadRequest, 0, "a batch of %d operations in %d bytes", n, len(r.body))
	}
	each := createCharge(len(r.body)/n, c.index.paths(nil))
	a := &answer{status: http.StatusOK, charge: each * float64(n), body: []byte{'['}}
	for i := range n {
		if i > 0 {
			a.body = append(a.body, ',')
		}
		a.body = append(a.body, `{"statusCode":201,"requestCharge":`...)
		a.body = strconv.AppendFloat(a.body, each, 'f', 2, 64)
		a.body = append(a.body, '}')
	}
	a.body = append(a.body, ']')
	return a
}

// canned reports whether r is to be answered so.
func (f *Fake) canned(r *request) bool {
	if r.kind != Batch {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.switches.Canned != "" && r.segments[3] == f.switches.Canned
}

// authorize checks who asks; nil: let in.
func (f *Fake) authorize(r *request) *answer {
	header, err := url.PathUnescape(r.header.Get("Authorization")) // unlike QueryUnescape it leaves a + alone
	token := map[string]string{}
	for part := range strings.SplitSeq(header, "&") {
		name, value, _ := strings.Cut(part, "=")
		token[name] = value
	}
	if err != nil || token["sig"] == "" {
		return refuse(http.StatusUnauthorized, 0, "Required Header authorization is missing. Ensure a valid Authorization token is passed.")
	}
	switch token["type"] {
	case "aad":
		switch r.kind {
		case CreateDatabase, CreateContainer, DeleteContainer:
			return refuse(http.StatusForbidden, 5300, "The given request cannot be authorized by AAD token in data plane.")
		}
		return nil
	case "master":
		return f.checkSignature(r, token["sig"])
	}
	return refuse(http.StatusUnauthorized, 0, "The authorization token has an unknown type.")
}

func (f *Fake) checkSignature(r *request, signature string) *answer {
	if f.key == nil {
		return nil
	}
	date := r.header.Get("x-ms-date")
	at, err := http.ParseTime(date)
	if err != nil {
		return refuse(http.StatusUnauthorized, 0, "Required header x-ms-date is missing or no date.")
	}
	if f.clock().Sub(at).Abs() > maxSkew {
		return refuse(http.StatusForbidden, 0, "The authorization token is not valid at the current time.")
	}
	kind, link := "", r.segments
	switch n := len(link); {
	case n == 0:
	case n%2 == 0:
		kind = link[n-2]
	default:
		kind, link = link[n-1], link[:n-1]
	}
	mac := hmac.New(sha256.New, f.key)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n\n", strings.ToLower(r.method), kind, strings.Join(link, "/"), strings.ToLower(date))
	got, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return refuse(http.StatusUnauthorized, 0, "The input authorization token can't serve the request. The wrong key is being used or the expected payload is not built as per the protocol.")
	}
	return nil
}

func (f *Fake) account(r *request) *answer {
	region := []map[string]any{{"name": "West US", "databaseAccountEndpoint": r.endpoint}}
	return &answer{status: http.StatusOK, body: encode(map[string]any{
		"_self": "", "id": "fake", "_rid": "fake", "writableLocations": region, "readableLocations": region,
		"enableMultipleWriteLocations": false, "userConsistencyPolicy": map[string]any{"defaultConsistencyLevel": "Session"},
	})}
}

func (f *Fake) createDatabase(r *request) *answer {
	body, problem := decodeObject(r.body)
	id, _ := body["id"].(string)
	if problem == "" {
		problem = badID(id)
	}
	switch {
	case problem != "":
		return refuse(http.StatusBadRequest, 0, "%s", problem)
	case f.store[id] != nil:
		return refuse(http.StatusConflict, 0, "Resource with specified id or name already exists.")
	}
	db := newDatabase(id)
	f.store[id] = db
	return &answer{status: http.StatusCreated, charge: 5, body: encode(db.properties)}
}

func (f *Fake) createContainer(r *request, db *database) *answer {
	body, problem := decodeObject(r.body)
	if problem != "" {
		return refuse(http.StatusBadRequest, 0, "%s", problem)
	}
	c, err := newContainer(db.id, body)
	if err != nil {
		return refuse(http.StatusBadRequest, 0, "%v", err)
	}
	if db.containers[c.id] != nil {
		return refuse(http.StatusConflict, 0, "Resource with specified id or name already exists.")
	}
	db.containers[c.id] = c
	return &answer{status: http.StatusCreated, charge: 5, etag: c.etag, body: encode(c.properties)}
}
