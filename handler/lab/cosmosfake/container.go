package cosmosfake

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

type database struct {
	id         string
	properties map[string]any
	containers map[string]*container
}

func newDatabase(id string) *database {
	return &database{
		id:         id,
		properties: map[string]any{"id": id, "_rid": "d" + id, "_self": "dbs/" + id + "/", "_etag": `"1"`, "_ts": 0, "_colls": "colls/"},
		containers: map[string]*container{},
	}
}

// container holds documents by partition key and id.
type container struct {
	database, id string
	properties   map[string]any // as answered
	etag         string
	paths        [][]string // of the partition key
	longKeys     bool       // key version 2
	ttl          *int64     // seconds; nil: time to live is off; -1: nothing expires by itself
	index        index

	parts   map[string]map[string]*document
	sparse  map[string][]*document // by the name of a member: the versions that have it, some of them outdated
	lsn     int64                  // counts committed requests that wrote
	history [][]undo               // of the last of them, oldest first
}

// historyLength is how far back a stale read can look.
const historyLength = 64

// undo is how one document was before a write; nil: not there.
type undo struct {
	key, id string
	was     *document
}

// document is one version of a document.
type document struct {
	key   string // canonical partition key
	id    string
	seq   int64 // order of creation, kept by later versions
	etag  string
	ts    int64  // of the last write, Unix seconds
	ttl   *int64 // its own
	body  []byte // as answered
	value map[string]any
}

// values returns the decoded body; it is kept, because a query looks at the
// same documents again and again.
func (d *document) values() map[string]any {
	if d.value == nil {
		d.value, _ = decodeObject(d.body)
	}
	return d.value
}

// newContainer checks a definition. An error says what the service refuses.
func newContainer(databaseID string, definition map[string]any) (*container, error) {
	id, _ := definition["id"].(string)
	if problem := badID(id); problem != "" {
		return nil, errors.New(problem)
	}
	if len(id) > 255 {
		return nil, errors.New("the container's id is longer than 255 characters")
	}
	c := &container{database: databaseID, id: id, etag: `"1"`, parts: map[string]map[string]*document{}}
	var shape struct {
		PartitionKey struct {
			Paths   []string
			Kind    string
			Version int
		}
		DefaultTTL     *int64 `json:"defaultTtl"`
		IndexingPolicy *policy
	}
	if err := json.Unmarshal(encode(definition), &shape); err != nil {
		return nil, fmt.Errorf("reading the container's definition: %w", err)
	}
	key := shape.PartitionKey
	switch n := len(key.Paths); {
	case n == 0 || n > 3:
		return nil, fmt.Errorf("a partition key has 1 to 3 paths, not %d", n)
	case n == 1 && key.Kind != "Hash", n > 1 && (key.Kind != "MultiHash" || key.Version != 2):
		return nil, fmt.Errorf("a partition key of %d paths cannot have kind %q and version %d", n, key.Kind, key.Version)
	}
	for _, path := range key.Paths {
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || strings.HasSuffix(path, "/") || strings.ContainsAny(path, `"*?[]`) {
			return nil, fmt.Errorf("%q is no path of a partition key", path)
		}
		c.paths = append(c.paths, strings.Split(path[1:], "/"))
	}
	c.longKeys = key.Version == 2
	if ttl := shape.DefaultTTL; ttl != nil && *ttl != -1 && (*ttl < 1 || *ttl > maxTTL) {
		return nil, fmt.Errorf("defaultTtl is %d, which is neither -1 nor from 1 to 2147483647", *ttl)
	}
	c.ttl = shape.DefaultTTL
	if err := c.index.set(shape.IndexingPolicy); err != nil {
		return nil, err
	}
	c.properties = maps.Clone(definition)
	self := "dbs/" + databaseID + "/colls/" + id + "/"
	maps.Copy(c.properties, map[string]any{"_rid": "c" + id, "_self": self, "_etag": c.etag, "_ts": 0, "_docs": "docs/"})
	return c, nil
}

// policy is an indexing policy as it stands in a definition.
type policy struct {
	Automatic     *bool
	IndexingMode  string
	IncludedPaths []struct{ Path string }
	ExcludedPaths []struct{ Path string }
}

// index says which paths are indexed.
type index struct {
	include, exclude []string
	none             bool
}

func (x *index) set(p *policy) error {
	if p == nil {
		x.include = []string{"/*"}
		return nil
	}
	x.none = p.Automatic != nil && !*p.Automatic || strings.EqualFold(p.IndexingMode, "none")
	for _, path := range p.IncludedPaths {
		x.include = append(x.include, path.Path)
	}
	for _, path := range p.ExcludedPaths {
		x.exclude = append(x.exclude, path.Path)
	}
	for _, path := range slices.Concat(x.include, x.exclude) {
		if !strings.HasPrefix(path, "/") || !strings.HasSuffix(path, "/?") && !strings.HasSuffix(path, "/*") {
			return fmt.Errorf("the index path %q does not end in /? or /*", path)
		}
	}
	if !x.none && !slices.Contains(x.include, "/*") && !slices.Contains(x.exclude, "/*") {
		return errors.New("the indexing policy neither includes nor excludes the root path /*")
	}
	if len(x.include) > 1500 || len(x.exclude) > 1500 {
		return errors.New("the indexing policy has more than 1500 paths")
	}
	return nil
}

// has reports whether a property is indexed: the closest path decides. The
// service always indexes id and _ts.
func (x *index) has(path []string) bool {
	if len(path) == 1 && (path[0] == "id" || path[0] == "_ts") {
		return true
	}
	name := "/" + strings.Join(path, "/") + "/"
	match := func(patterns []string) (length int) {
		for _, p := range patterns {
			prefix, exact := p[:len(p)-1], strings.HasSuffix(p, "?")
			if exact && name == prefix || !exact && strings.HasPrefix(name, prefix) {
				length = max(length, len(p))
			}
		}
		return length
	}
	in, out := match(x.include), match(x.exclude)
	return !x.none && in > 0 && in >= out
}

// paths returns how many index entries a document costs: one for each path
// named, or one for each value where everything is included.
func (x *index) paths(v any) int {
	switch {
	case x.none:
		return 0
	case !slices.Contains(x.include, "/*"):
		return len(x.include)
	}
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			n += x.paths(member)
		}
	case []any:
		for _, element := range v {
			n += x.paths(element)
		}
	default:
		n = 1
	}
	return n
}

const maxTTL = 1<<31 - 1

// expired reports whether d's time is over: the item's own ttl counts before
// the container's, and only where that is on.
func (c *container) expired(d *document, now time.Time) bool {
	if c.ttl == nil {
		return false
	}
	ttl := *c.ttl
	if d.ttl != nil {
		ttl = *d.ttl
	}
	return ttl > 0 && now.Unix() >= d.ts+ttl
}

// get returns a document, nil if there is none.
func (c *container) get(key, id string, now time.Time) *document {
	d := c.parts[key][id]
	if d == nil || c.expired(d, now) {
		return nil
	}
	return d
}

// having returns the documents that have a member of that name, as every query
// for what few documents have asks for again and again. The list is built once
// and kept up by put; versions that are no longer there are dropped here.
func (c *container) having(name string, now time.Time) []*document {
	list, built := c.sparse[name]
	if !built {
		for _, part := range c.parts {
			for _, d := range part {
				if bytes.Contains(d.body, []byte(`"`+name+`":`)) && d.values()[name] != nil {
					list = append(list, d)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b *document) int { return cmp.Compare(a.seq, b.seq) })
	list = slices.Compact(slices.DeleteFunc(list, func(d *document) bool { return c.parts[d.key][d.id] != d }))
	if c.sparse == nil {
		c.sparse = map[string][]*document{}
	}
	c.sparse[name] = list
	return slices.DeleteFunc(slices.Clone(list), func(d *document) bool { return c.expired(d, now) })
}

// all returns the documents of every partition.
func (c *container) all(now time.Time) (list []*document) {
	for _, part := range c.parts {
		for _, d := range part {
			if !c.expired(d, now) {
				list = append(list, d)
			}
		}
	}
	return list
}

// put writes one document, nil to delete it, and returns how to undo that.
func (c *container) put(key, id string, d *document) undo {
	part := c.parts[key]
	for name, list := range c.sparse {
		if d != nil && d.values()[name] != nil {
			c.sparse[name] = append(list, d)
		}
	}
	u := undo{key, id, part[id]}
	switch {
	case d == nil:
		delete(part, id)
	case part == nil:
		c.parts[key] = map[string]*document{id: d}
	default:
		part[id] = d
	}
	return u
}

// commit makes the writes of one request known, or takes them back.
func (c *container) commit(writes []undo, ok bool) {
	if !ok {
		for _, u := range slices.Backward(writes) {
			c.put(u.key, u.id, u.was)
		}
		return
	}
	if len(writes) == 0 {
		return
	}
	c.lsn++
	if len(c.history) == historyLength {
		c.history = slices.Delete(c.history, 0, 1)
	}
	c.history = append(c.history, writes)
}

// past is the container as a replica shows it that lags n writes behind. The
// caller calls forward before anything else happens.
func (c *container) past(n int) (forward func()) {
	if n <= 0 {
		return func() {}
	}
	var back [][]undo
	for _, writes := range slices.Backward(c.history[max(0, len(c.history)-n):]) {
		var again []undo
		for _, u := range slices.Backward(writes) {
			again = append(again, c.put(u.key, u.id, u.was))
		}
		back = append(back, again)
	}
	return func() {
		for _, writes := range slices.Backward(back) {
			for _, u := range slices.Backward(writes) {
				c.put(u.key, u.id, u.was)
			}
		}
	}
}

// sorted puts documents in the order of their creation.
func sorted(list []*document) []*document {
	slices.SortFunc(list, func(a, b *document) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// lookup follows a path through objects; false where it leads nowhere.
func lookup(v any, path []string) (any, bool) {
	for _, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = object[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// decodeObject reads a JSON object as the service stores it: numbers become
// doubles, of equal names the last counts, and a lone surrogate becomes U+FFFD.
// problem is why the service refuses it.
func decodeObject(body []byte) (object map[string]any, problem string) {
	if !utf8.Valid(body) {
		return nil, "The request payload is invalid: it is not UTF-8."
	}
	if depth(body) > maxDepth {
		return nil, "The request payload is nested deeper than 128 levels."
	}
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return nil, "The request payload is invalid. Ensure to provide a valid request payload."
	}
	return object, ""
}

// depth returns how deep JSON text is nested.
func depth(body []byte) (deepest int) {
	level, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// badID returns why an id is refused.
func badID(id string) string {
	switch {
	case id == "":
		return "The input content is invalid because the required properties - 'id; ' - are missing, or it is no string."
	case len(id) > maxID:
		return "The id is longer than 1023 bytes."
	case strings.ContainsAny(id, `/\?#`) || id == "." || id == "..":
		return "The id contains illegal chars."
	}
	return ""
}

// parseKey reads a partition key header into its canonical form: JSON with {}
// for an absent value.
func (c *container) parseKey(header string) (key string, a *answer) {
	if header == "" {
		return "", refuse(400, 0, "PartitionKey value must be supplied for this operation.")
	}
	for i := range len(header) {
		if header[i] < ' ' || header[i] > '~' {
			return "", refuse(400, 0, "Partition key %q is invalid: the header is not ASCII.", header)
		}
	}
	var levels []any
	decoder := json.NewDecoder(strings.NewReader(header))
	if err := decoder.Decode(&levels); err != nil || decoder.InputOffset() != int64(len(header)) || levels == nil {
		return "", refuse(400, 0, "Partition key is invalid: the header is no JSON array.")
	}
	if len(levels) != len(c.paths) {
		return "", refuse(400, 1001, "Partition key provided doesn't correspond to definition in the collection: %d levels, not %d.", len(levels), len(c.paths))
	}
	for _, level := range levels {
		if problem := c.badLevel(level); problem != "" {
			return "", refuse(400, 0, "%s", problem)
		}
	}
	return string(encode(levels)), nil
}

func (c *container) badLevel(level any) string {
	limit := oldKeyValue
	if c.longKeys {
		limit = maxKeyValue
	}
	switch v := level.(type) {
	case string:
		if len(v) > limit {
			return fmt.Sprintf("Partition key value is longer than %d bytes.", limit)
		}
	case map[string]any:
		if len(v) > 0 {
			return "Partition key value is an object."
		}
	case []any:
		return "Partition key value is an array."
	}
	return ""
}

// keyOf returns the partition key of a document's own values.
func (c *container) keyOf(object map[string]any) (key, problem string) {
	levels := make([]any, len(c.paths))
	for i, path := range c.paths {
		v, ok := lookup(object, path)
		if !ok {
			levels[i] = map[string]any{}
			continue
		}
		if _, is := v.(map[string]any); is {
			return "", "Partition key value is an object."
		}
		if problem := c.badLevel(v); problem != "" {
			return "", problem
		}
		levels[i] = v
	}
	return string(bytes.TrimSpace(encode(levels))), ""
}
