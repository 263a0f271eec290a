// Package reconcile compares, record by record, what a tenant published with
// what an archive in Cosmos DB holds: each wanted record once, equal as a JSON
// value with numbers by exact decimal, nothing added but the members id and
// archive, and nothing else in the container. Of records with the same Id and
// other bytes one is archived and each other lies whole in a dead letter.
//
// It follows the archive's documented shape and shares no code with the product
// that writes it, so an error there does not hide here.
package reconcile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Fate is what must become of a published record.
type Fate int

// The fates. That a record is a duplicate or in conflict with another follows
// from the records themselves.
const (
	Archived Fate = iota // it is what the archive is for
	Filtered             // it belongs to other products
	Refused              // it cannot be a document: a dead letter holds it
)

// Content is the content that a record came in.
type Content struct {
	Type    string    // contentType
	ID      string    // contentId
	Created time.Time // contentCreated
}

// entry is the id of the content's ledger entry, as the ledger documents it.
func (c Content) entry() string { return hash([]byte(c.Type + "\n" + c.ID)) }

func hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// What is wrong with a record or content.
const (
	Missing    = "missing"    // not archived
	Altered    = "altered"    // archived as something else
	Doubled    = "doubled"    // archived more than once
	Extra      = "extra"      // archived, and never published or not wanted
	Unfinished = "unfinished" // a content whose entry is not closed
)

// Fault is one difference.
type Fault struct {
	What      string // one of the constants above
	ID        string // the record's Id, or its document's id; empty for a content
	ContentID string // where it was published, empty if it never was
	Detail    string
}

func (f Fault) String() string {
	s := f.What
	if f.ID != "" {
		s += " record " + f.ID
	}
	if f.ContentID != "" {
		s += " of content " + f.ContentID
	}
	return s + ": " + f.Detail
}

// Report is the outcome. Contents, Records, Filtered, Duplicates and Conflicts
// count what was published; Stored and Dead what Cosmos DB holds.
type Report struct {
	Contents   int // contents published
	Records    int // records published, in all
	Filtered   int // of them: not wanted
	Duplicates int // of them: the same bytes as an earlier one
	Conflicts  int // of them: the Id of an earlier one, other bytes
	Refused    int // of them: cannot be a document
	Wanted     int // documents that the archive must hold
	Stored     int // documents that it holds
	Dead       int // dead letters
	Faults     []Fault
}

// record is one distinct text.
type record struct {
	raw      []byte
	id       string // its document's id
	fate     Fate
	contents []Content
	stored   []string // ids of the documents that hold it
	dead     int
}

// Published is what a tenant published. Add to it, then Check an archive
// against it once. It is not safe for concurrent use.
type Published struct {
	report   Report
	contents map[string]Content   // by entry id
	texts    map[string]*record   // by SHA-256 of the text
	ids      map[string][]*record // by document id, only what is wanted
	order    []*record
}

// New returns an empty Published.
func New() *Published {
	return &Published{contents: map[string]Content{}, texts: map[string]*record{}, ids: map[string][]*record{}}
}

// Add notes one record. raw is its text as it stood in the content; it must not
// change until Check has returned.
func (p *Published) Add(c Content, raw []byte, fate Fate) {
	p.AddContent(c)
	p.report.Records++
	sum := hash(raw)
	if r := p.texts[sum]; r != nil {
		r.contents = append(r.contents, c)
		if fate == Archived {
			p.report.Duplicates++
		} else {
			p.count(fate)
		}
		return
	}
	r := &record{raw: raw, id: documentID(raw, sum), fate: fate, contents: []Content{c}}
	p.texts[sum] = r
	p.order = append(p.order, r)
	p.count(fate)
	if fate == Archived {
		if len(p.ids[r.id]) > 0 {
			p.report.Conflicts++
		} else {
			p.report.Wanted++
		}
		p.ids[r.id] = append(p.ids[r.id], r)
	}
}

// AddContent notes a content, which may hold no record.
func (p *Published) AddContent(c Content) {
	if _, ok := p.contents[c.entry()]; !ok {
		p.contents[c.entry()] = c
		p.report.Contents++
	}
}

func (p *Published) count(f Fate) {
	switch f {
	case Filtered:
		p.report.Filtered++
	case Refused:
		p.report.Refused++
	}
}

// Wanted returns how many documents and contents the archive must end up with.
func (p *Published) Wanted() (documents, contents int) {
	return p.report.Wanted, p.report.Contents
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$`)

// documentID returns the id that a record's document must have: its Id if that
// is a GUID, else the hash of its text.
func documentID(raw []byte, sum string) string {
	var members map[string]json.RawMessage // not a struct: names are told apart by case
	var id string
	if json.Unmarshal(raw, &members) == nil && json.Unmarshal(members["Id"], &id) == nil && guid.MatchString(id) {
		return id
	}
	return sum
}

// Check compares the documents of the container of records and those of the
// ledger's container with what was published. Its error is the first that one of
// the two gave.
func (p *Published) Check(archive, ledger iter.Seq2[json.RawMessage, error]) (Report, error) {
	p.report.Faults = nil
	for doc, err := range archive {
		if err != nil {
			return p.report, fmt.Errorf("read archive: %w", err)
		}
		p.report.Stored++
		p.document(doc)
	}
	if err := p.ledger(ledger); err != nil {
		return p.report, err
	}
	for _, r := range p.order {
		p.outcome(r)
	}
	return p.report, nil
}

func (p *Published) fault(what string, r *record, id, detail string) {
	f := Fault{What: what, ID: id, Detail: detail}
	if r != nil {
		f.ContentID = r.contents[0].ID
	}
	p.report.Faults = append(p.report.Faults, f)
}

// stamp is the member archive.
type stamp struct {
	V        int     `json:"v"`
	Content  string  `json:"content"`
	Type     string  `json:"type"`
	Day      string  `json:"day"`
	Hour     string  `json:"hour"`
	User     string  `json:"user"`
	SHA256   string  `json:"sha256"`
	Original *string `json:"original"`
}

// system are the members that Cosmos DB adds to every document.
var system = []string{"_rid", "_self", "_etag", "_attachments", "_ts"}

// document compares one document of the archive.
func (p *Published) document(doc json.RawMessage) {
	var members map[string]json.RawMessage
	var id string
	var s stamp
	if err := json.Unmarshal(doc, &members); err != nil {
		p.fault(Extra, nil, "", "a document that is no JSON object")
		return
	}
	_ = json.Unmarshal(members["id"], &id) // empty if it is no string
	if err := json.Unmarshal(members["archive"], &s); err != nil {
		p.fault(Extra, nil, id, "a document without the member archive")
		return
	}
	r := p.texts[s.SHA256]
	switch {
	case r == nil && len(p.ids[id]) > 0:
		r = p.ids[id][0]
		r.stored = append(r.stored, id)
		p.fault(Altered, r, id, "archive.sha256 is not that of the record as published")
		return
	case r == nil:
		p.fault(Extra, nil, id, "was never published")
		return
	case r.fate != Archived:
		p.fault(Extra, r, id, "is not for this archive")
		return
	}
	if r.stored = append(r.stored, id); len(r.stored) > 1 {
		return // a fault whatever it holds
	}
	p.stamped(r, s)
	p.value(r, members, s)
}

// stamped compares the member archive with what the content and the record say.
func (p *Published) stamped(r *record, s stamp) {
	i := slices.IndexFunc(r.contents, func(c Content) bool { return c.entry() == s.Content })
	if i < 0 {
		p.fault(Altered, r, r.id, "archive.content names none of the contents it was published in")
		return
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(r.raw, &members) // a record with fate Archived is an object
	c, user, created := r.contents[i], "", ""
	_ = json.Unmarshal(members["UserId"], &user) // empty if it is no string
	_ = json.Unmarshal(members["CreationTime"], &created)
	want := stamp{
		V: 1, Content: s.Content, Type: c.Type, Day: c.Created.UTC().Format(time.DateOnly),
		Hour: hour(created), User: strings.ToLower(user), SHA256: s.SHA256, Original: s.Original,
	}
	if s != want {
		s.Original, want.Original = nil, nil
		p.fault(Altered, r, r.id, fmt.Sprintf("archive is %+v, want %+v", s, want))
	}
}

// hour is the UTC hour of a CreationTime, which has no zone unless it says so.
func hour(created string) string {
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", time.RFC3339Nano} {
		if t, err := time.Parse(layout, created); err == nil {
			return t.UTC().Format("2006-01-02T15")
		}
	}
	return "unknown"
}

// reserved are the members that a document cannot hold as the record had them.
var reserved = append([]string{"id", "archive", "ttl"}, system...)

// value compares a document's value with the record's. Where the original text
// is kept, that is the value, and the document must agree with it as far as
// Cosmos DB can hold it.
func (p *Published) value(r *record, doc map[string]json.RawMessage, s stamp) {
	for _, name := range append([]string{"id", "archive"}, system...) {
		delete(doc, name)
	}
	equal := equalExact
	var record map[string]json.RawMessage
	_ = json.Unmarshal(r.raw, &record) // a record with fate Archived is an object
	if s.Original != nil {
		if *s.Original != string(r.raw) {
			p.fault(Altered, r, r.id, "archive.original is not the record's text")
		}
		equal = equalRounded
		for _, name := range reserved {
			delete(record, name)
		}
	} else if what := beyondDocument(r.raw); what != "" {
		p.fault(Altered, r, r.id, "archive.original is missing, although the record has "+what)
	}
	for name, want := range record {
		got, ok := doc[name]
		if !ok {
			p.fault(Altered, r, r.id, fmt.Sprintf("member %q is missing", name))
		} else if !equal(got, want) {
			p.fault(Altered, r, r.id, fmt.Sprintf("member %q has another value", name))
		}
		delete(doc, name)
	}
	for name := range doc {
		p.fault(Altered, r, r.id, fmt.Sprintf("member %q was added", name))
	}
}

// ledger reads the dead letters and the states of the contents.
func (p *Published) ledger(docs iter.Seq2[json.RawMessage, error]) error {
	letters := map[string]map[int][]byte{} // by content and element, then by chunk
	done := map[string]string{}            // state of an entry by id
	for text, err := range docs {
		if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		var doc struct {
			ID      string `json:"id"`
			Kind    string `json:"kind"`
			State   string `json:"state"`
			Open    int    `json:"open"`
			Content string `json:"content"`
			Element int    `json:"element"`
			Chunk   int    `json:"chunk"`
			Data    []byte `json:"data"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return fmt.Errorf("read ledger document: %w", err)
		}
		switch doc.Kind {
		case "dead":
			at := fmt.Sprintf("%s %d", doc.Content, doc.Element)
			if letters[at] == nil {
				letters[at] = map[int][]byte{}
			}
			letters[at][doc.Chunk] = doc.Data
		case "entry":
			done[doc.ID] = doc.State
			if doc.Open != 0 {
				done[doc.ID] += ", open"
			}
		}
	}
	for at, chunks := range letters {
		p.report.Dead++
		var whole bytes.Buffer
		for i := range len(chunks) {
			whole.Write(chunks[i])
		}
		if r := p.texts[hash(whole.Bytes())]; r != nil {
			r.dead++
		} else {
			p.fault(Extra, nil, "", "dead letter "+at+" holds no published record whole")
		}
	}
	for id, c := range p.contents {
		if state := done[id]; state != "stored" {
			if state == "" {
				state = "absent"
			}
			p.report.Faults = append(p.report.Faults, Fault{What: Unfinished, ContentID: c.ID, Detail: "its entry is " + state})
		}
	}
	return nil
}

// outcome compares what became of one text with what must.
func (p *Published) outcome(r *record) {
	switch r.fate {
	case Filtered:
		if r.dead > 0 {
			p.fault(Extra, r, r.id, "is not for this archive, but lies in a dead letter")
		}
		return
	case Refused:
		if r.dead == 0 {
			p.fault(Missing, r, r.id, "cannot be a document, and lies in no dead letter")
		}
		return
	}
	if len(r.stored) == 1 && r.stored[0] != r.id {
		p.fault(Altered, r, r.id, "the document's id is "+r.stored[0])
	}
	stored, siblings := len(r.stored), 0
	for _, other := range p.ids[r.id] {
		siblings += len(other.stored)
	}
	switch {
	case stored > 1:
		p.fault(Doubled, r, r.id, "the documents "+strings.Join(r.stored, ", ")+" hold it")
	case stored == 0 && siblings == 0:
		if r == p.ids[r.id][0] {
			p.fault(Missing, r, r.id, fmt.Sprintf("published in %d contents, archived in no document", len(r.contents)))
		}
	case stored == 0 && r.dead == 0:
		p.fault(Missing, r, r.id, "another record with its Id is archived, and no dead letter holds this one")
	case stored > 0 && siblings > stored:
		p.fault(Doubled, r, r.id, "records with the same Id are archived side by side")
	case stored > 0 && r.dead > 0:
		p.fault(Doubled, r, r.id, "is archived, and lies in a dead letter as well")
	case r.dead > len(r.contents):
		p.fault(Doubled, r, r.id, "more dead letters hold it than contents")
	}
}

// Count returns how many faults are of that kind.
func (r Report) Count(what string) (n int) {
	for _, f := range r.Faults {
		if f.What == what {
			n++
		}
	}
	return n
}
