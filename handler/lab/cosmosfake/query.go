package cosmosfake

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// statement is a query of the subset that the fake judges:
//
//	SELECT * | path, …  FROM c  [WHERE filter AND …]  [ORDER BY path [ASC|DESC]]
//
// with paths such as c.archive.sha256 and filters such as c.due <= @now or
// c.id IN (@a, @b).
type statement struct {
	fields  [][]string // nil: all of the document
	filters []filter
	order   []string // nil: none
	desc    bool
}

type filter struct {
	path   []string
	op     string // = < <= > >= IN
	values []any
}

// reserved words cannot be property names after a dot.
var reserved = strings.Fields("AND ARRAY AS ASC BETWEEN BY DESC DISTINCT ESCAPE EXISTS FALSE FROM GROUP HAVING IN INNER INSERT INTO IS JOIN LEFT LIKE LIMIT NOT NULL OFFSET ON OR ORDER OUTER OVER RIGHT SELECT SET TOP TRUE UDF UNDEFINED UPDATE VALUE WHERE")

// acrossRefused are the words that the gateway does not serve across
// partitions.
var acrossRefused = strings.Fields("AVG COUNT DISTINCT GROUP LIMIT MAX MIN OFFSET ORDER SUM TOP")

// tokens cuts a query into words, parameters, literals and signs.
func tokens(sql string) (list []string, err error) {
	word := func(c byte) bool {
		return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	for i := 0; i < len(sql); {
		start := i
		switch c := sql[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case c == '\'' || c == '"':
			for i++; i < len(sql) && sql[i] != c; i++ {
				if sql[i] == '\\' {
					return nil, errors.New("the fake reads no escapes in literals: use a parameter")
				}
			}
			if i++; i > len(sql) {
				return nil, errors.New("a literal does not end")
			}
		case c == '@' || word(c) || c == '-':
			numeric := c == '-' || c >= '0' && c <= '9'
			for i++; i < len(sql) && (word(sql[i]) || numeric && sql[i] == '.'); i++ {
			}
		case (c == '<' || c == '>') && i+1 < len(sql) && sql[i+1] == '=':
			i += 2
		case strings.IndexByte("(),.*=<>", c) >= 0:
			i++
		default:
			return nil, fmt.Errorf("unexpected %q", c)
		}
		list = append(list, sql[start:i])
	}
	return list, nil
}

// reader reads a statement from its tokens. After the first problem it reads on
// without effect.
type reader struct {
	rest   []string
	params map[string]any
	err    error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.rest = nil
}

func (r *reader) next() string {
	if len(r.rest) == 0 {
		r.fail("the query ends too early")
		return ""
	}
	token := r.rest[0]
	r.rest = r.rest[1:]
	return token
}

// take reads token if it comes next; keywords count in any case.
func (r *reader) take(token string) bool {
	if len(r.rest) > 0 && strings.EqualFold(r.rest[0], token) {
		r.rest = r.rest[1:]
		return true
	}
	return false
}

func (r *reader) want(token string) {
	if !r.take(token) {
		r.fail("%s expected", token)
	}
}

func (r *reader) path() (path []string) {
	if r.next() != "c" {
		r.fail("a path that begins with c expected")
	}
	for r.take(".") {
		name := r.next()
		if name == "" || strings.ContainsAny(name[:1], "@-\"'(),.*=<>0123456789") || slices.Contains(reserved, strings.ToUpper(name)) {
			r.fail("%q is no property name", name)
		}
		path = append(path, name)
	}
	if len(path) == 0 {
		r.fail("a property of c expected")
	}
	return path
}

func (r *reader) value() any {
	token := r.next()
	switch {
	case token == "":
	case token[0] == '@':
		v, ok := r.params[token]
		if !ok {
			r.fail("the parameter %s has no value", token)
		}
		return v
	case token[0] == '\'' || token[0] == '"':
		return token[1 : len(token)-1]
	case strings.EqualFold(token, "true") || strings.EqualFold(token, "false"):
		return strings.EqualFold(token, "true")
	case strings.EqualFold(token, "null"):
		return nil
	default:
		n, err := strconv.ParseFloat(token, 64)
		if err != nil {
			r.fail("%q is no value", token)
		}
		return n
	}
	return nil
}

func parse(sql string, params map[string]any) (statement, error) {
	list, err := tokens(sql)
	if err != nil {
		return statement{}, err
	}
	r := &reader{rest: list, params: params}
	var s statement
	r.want("SELECT")
	if !r.take("*") {
		names := map[string]bool{}
		for more := true; more && r.err == nil; more = r.take(",") {
			path := r.path()
			if len(path) > 0 {
				if name := path[len(path)-1]; names[name] {
					r.fail("two columns have the name %s", name)
				} else {
					names[name] = true
				}
			}
			s.fields = append(s.fields, path)
		}
	}
	r.want("FROM")
	r.want("c")
	if r.take("WHERE") {
		for more := true; more && r.err == nil; more = r.take("AND") {
			s.filters = append(s.filters, r.filter())
		}
	}
	if r.take("ORDER") {
		r.want("BY")
		s.order = r.path()
		if s.desc = r.take("DESC"); !s.desc {
			r.take("ASC")
		}
	}
	if len(r.rest) > 0 {
		r.fail("unexpected %q", r.rest[0])
	}
	return s, r.err
}

func (r *reader) filter() filter {
	f := filter{path: r.path(), op: strings.ToUpper(r.next())}
	switch f.op {
	case "=", "<", "<=", ">", ">=":
		f.values = []any{r.value()}
	case "IN":
		r.want("(")
		for more := true; more && r.err == nil; more = r.take(",") {
			f.values = append(f.values, r.value())
		}
		r.want(")")
	default:
		r.fail("the fake does not judge the operator %q", f.op)
	}
	for _, v := range f.values {
		switch v.(type) {
		case map[string]any, []any:
			r.fail("the fake compares no objects and arrays")
		}
	}
	return f
}

// compare orders two values of one type, text by code point; false: they have no
// order, and the row is dropped.
func compare(a, b any) (int, bool) {
	switch a := a.(type) {
	case nil:
		return 0, b == nil
	case bool:
		b, ok := b.(bool)
		n := func(v bool) int {
			if v {
				return 1
			}
			return 0
		}
		return n(a) - n(b), ok
	case float64:
		b, ok := b.(float64)
		return cmp.Compare(a, b), ok
	case string:
		b, ok := b.(string)
		return strings.Compare(a, b), ok
	}
	return 0, false
}

func (f filter) holds(object any) bool {
	v, ok := lookup(object, f.path)
	if !ok {
		return false
	}
	return slices.ContainsFunc(f.values, func(want any) bool {
		n, ok := compare(v, want)
		if !ok {
			return false
		}
		switch f.op {
		case "<":
			return n < 0
		case "<=":
			return n <= 0
		case ">":
			return n > 0
		case ">=":
			return n >= 0
		}
		return n == 0 // = and IN
	})
}

// token says where the next page begins: after a row with that order value and
// creation number. A row that another request changes or deletes in between
// does not shift those that follow.
type token struct {
	Query string `json:"q"` // hash of the query and its partition
	Value any    `json:"v,omitempty"`
	Seq   int64  `json:"s"`
	Empty bool   `json:"e,omitempty"` // an empty page came before
}

// query serves one page.
func (f *Fake) query(r *request, c *container, stale int) *answer {
	bad := func(sub int, format string, args ...any) *answer {
		return refuse(http.StatusBadRequest, sub, format, args...)
	}
	if mediaType, _, _ := strings.Cut(r.header.Get("Content-Type"), ";"); mediaType != "application/query+json" {
		return bad(0, "a query has the content type application/query+json")
	}
	var body struct {
		Query      string
		Parameters []struct {
			Name  string
			Value any
		}
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		return bad(0, "The query's body is no JSON object of query and parameters.")
	}
	if len(body.Query) > maxQuery {
		return bad(0, "The query's text is longer than 512 KB.")
	}
	params := map[string]any{}
	for _, p := range body.Parameters {
		if !strings.HasPrefix(p.Name, "@") {
			return bad(0, "the parameter %q does not begin with @", p.Name)
		}
		params[p.Name] = p.Value
	}
	key, across := "", r.header.Get(partitionKeyHeader) == ""
	if across {
		if !r.is("x-ms-documentdb-query-enablecrosspartition") {
			return bad(0, "Cross partition query is required but disabled.")
		}
		list, err := tokens(body.Query)
		if err != nil {
			return bad(0, "Syntax error: %v", err)
		}
		for _, word := range list {
			if slices.Contains(acrossRefused, strings.ToUpper(word)) {
				return bad(1004, "The provided cross partition query can not be directly served by the gateway: %s.", word)
			}
		}
	} else {
		var refused *answer
		if key, refused = c.parseKey(r.header.Get(partitionKeyHeader)); refused != nil {
			return refused
		}
	}
	s, err := parse(body.Query, params)
	if err != nil {
		return bad(0, "Syntax error: %v", err)
	}
	if s.order != nil && !c.index.has(s.order) {
		return bad(0, "The order-by item requires a range index to be defined on the path /%s.", strings.Join(s.order, "/"))
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", key, r.body))
	from := token{Query: hex.EncodeToString(sum[:8])}
	if header := r.header.Get("x-ms-continuation"); header != "" {
		text, err := base64.URLEncoding.DecodeString(header)
		want := from.Query
		if err != nil || json.Unmarshal(text, &from) != nil || from.Query != want {
			return bad(0, "Invalid Continuation Token")
		}
	}
	if f.switches.EmptyPages && !from.Empty {
		from.Empty = true
		a := page(nil, 2.5)
		a.continuation = from.String()
		return a
	}
	forward := c.past(stale)
	rows, scanned := s.run(c, f, key, across)
	forward()
	if from.Seq > 0 {
		i := slices.IndexFunc(rows, func(d *document) bool { return s.less(from.Value, from.Seq, d) })
		if i < 0 {
			i = len(rows)
		}
		rows = rows[i:]
	}
	charge := 2.5
	if across {
		charge *= 2
	}
	return s.page(rows, from.Query, f.rows(r), charge+0.1*float64(scanned))
}

func (t token) String() string { return base64.URLEncoding.EncodeToString(encode(t)) }

// rows returns the largest number of rows for a page.
func (f *Fake) rows(r *request) int {
	limit := 100 // the service's default
	if n, err := strconv.Atoi(r.header.Get("x-ms-max-item-count")); err == nil && n > 0 {
		limit = n
	} else if err == nil && n == -1 {
		limit = 1000 // as many as the service likes
	}
	if size := f.switches.PageSize; size > 0 {
		limit = min(limit, size)
	}
	return limit
}

// sparse is the one member whose few documents are found without a look at all
// others. It saves this machine's time and changes no answer and no charge.
const sparse = "open"

// run returns the documents that match, in order, and how many had to be looked
// at for want of an index.
func (s *statement) run(c *container, f *Fake, key string, across bool) (rows []*document, scanned int) {
	now := f.clock()
	var candidates []*document
	ids := slices.IndexFunc(s.filters, func(f filter) bool {
		return len(f.path) == 1 && f.path[0] == "id" && (f.op == "IN" || f.op == "=")
	})
	open := slices.ContainsFunc(s.filters, func(f filter) bool {
		return len(f.path) == 1 && f.path[0] == sparse && f.op == "=" && f.values[0] != nil && c.index.has(f.path)
	})
	switch {
	case ids < 0 && open:
		candidates = c.having(sparse, now)
		if !across {
			candidates = slices.DeleteFunc(candidates, func(d *document) bool { return d.key != key })
		}
	case across:
		candidates = c.all(now)
	case ids >= 0:
		seen := map[string]bool{}
		for _, v := range s.filters[ids].values {
			if id, ok := v.(string); ok && !seen[id] {
				seen[id] = true
				if d := c.get(key, id, now); d != nil {
					candidates = append(candidates, d)
				}
			}
		}
	default:
		for _, d := range c.parts[key] {
			if !c.expired(d, now) {
				candidates = append(candidates, d)
			}
		}
	}
	if !slices.ContainsFunc(s.filters, func(f filter) bool { return c.index.has(f.path) }) {
		scanned = len(candidates)
	}
	for _, d := range candidates {
		if !slices.ContainsFunc(s.filters, func(f filter) bool { return !f.holds(d.values()) }) {
			rows = append(rows, d)
		}
	}
	sorted(rows)
	if s.order == nil {
		return rows, scanned
	}
	rows = slices.DeleteFunc(rows, func(d *document) bool { return rank(s.value(d)) == 0 })
	slices.SortStableFunc(rows, func(a, b *document) int { return s.compare(s.value(a), a.seq, b) })
	return rows, scanned
}

// value is what d is ordered by.
func (s *statement) value(d *document) any {
	v, ok := lookup(d.values(), s.order)
	if !ok {
		return struct{}{} // undefined, which is not null
	}
	return v
}

// rank orders the types of values; 0: not to be ordered by.
func rank(v any) int {
	switch v.(type) {
	case nil:
		return 1
	case bool:
		return 2
	case float64:
		return 3
	case string:
		return 4
	}
	return 0
}

// compare orders a row, given by its order value and creation number, and d.
func (s *statement) compare(value any, seq int64, d *document) int {
	n := 0
	if s.order != nil {
		other := s.value(d)
		if n = cmp.Compare(rank(value), rank(other)); n == 0 {
			n, _ = compare(value, other)
		}
		if s.desc {
			n = -n
		}
	}
	return cmp.Or(n, cmp.Compare(seq, d.seq))
}

// less reports whether d comes after the row where a page ended.
func (s *statement) less(value any, seq int64, d *document) bool {
	return s.compare(value, seq, d) < 0
}

// page answers with the first rows, and a continuation if there are more.
func (s *statement) page(rows []*document, query string, limit int, charge float64) *answer {
	var out [][]byte
	size := 0
	for i, d := range rows {
		row := s.project(d)
		size += len(row)
		if i == limit || i > 0 && size > maxPage {
			last := rows[i-1]
			next := token{Query: query, Seq: last.seq}
			if s.order != nil {
				next.Value = s.value(last)
			}
			a := page(out, charge)
			a.continuation = next.String()
			return a
		}
		out = append(out, row)
		charge += 0.3
	}
	return page(out, charge)
}

// project returns the columns of one row: each under the last name of its path,
// left out where the document has none.
func (s *statement) project(d *document) []byte {
	if s.fields == nil {
		return d.body
	}
	row := map[string]any{}
	for _, path := range s.fields {
		if v, ok := lookup(d.values(), path); ok {
			row[path[len(path)-1]] = v
		}
	}
	return encode(row)
}

func page(rows [][]byte, charge float64) *answer {
	body := append([]byte(`{"_rid":"","Documents":[`), bytes.Join(rows, []byte{','})...)
	body = fmt.Appendf(body, `],"_count":%d}`, len(rows))
	return &answer{status: http.StatusOK, charge: charge, rows: len(rows), body: body}
}
