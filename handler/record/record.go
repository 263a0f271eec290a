// Package record knows one audit record as the bytes that the service sent: it
// cuts records out of the JSON array that is a content's body ([Scanner]),
// reads from a record what the archive must know of it ([Parse]), builds the
// document to store ([Record.AppendDocument]) and decides whether a record is
// wanted ([Filter]).
//
// The document gives the record's JSON value back unchanged, numbers by exact
// decimal. Where Cosmos DB would change or act on something in it, the document
// carries the record's whole text as well. Nothing is dropped: what can't be a
// document is a [*Refused], what can't be cut is still to be had as bytes.
//
// The package does no I/O but read the [io.Reader] it is given, and no error of
// it quotes a record; only [NotArrayError] holds the beginning of a body, for
// its caller. Nothing here is safe for concurrent use of one value.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// unknownHour is the hour of a record whose CreationTime can't be read.
const unknownHour = "unknown"

// manyMembers is the most members, or bytes of names, that a Parser keeps room
// for.
const manyMembers = 4096

// maxWorkload bounds Record.Workload, which becomes a key of counts and stands
// in logs. The longest name the service documents has 26 bytes.
const maxWorkload = 64

// Record is what the archive needs to know of one record. It aliases the bytes
// given to Parse, which must not change while it is in use.
//
// Where a name occurs twice, the last occurrence counts, as it does for Cosmos
// DB and most parsers.
type Record struct {
	// ID is the document's id: the record's Id as it stands if that is a GUID
	// (8-4-4-4-12 hexadecimal digits), else SHA256 in hexadecimal. Both are safe
	// in a URL.
	ID string
	// User is the top-level UserId, as the document holds it.
	User Value
	// Hour is the UTC hour of CreationTime, such as 2026-03-11T09, or "unknown".
	Hour string
	// SHA256 is the hash of the record's bytes.
	SHA256 [sha256.Size]byte
	// RecordType is -1 where it is absent or not a whole number from 0 to
	// 2147483647. A number written as a string counts.
	RecordType int
	// Workload is cut at 64 bytes, and empty where it is neither string nor
	// number.
	Workload string

	raw        []byte
	body       span // of raw: what stands between the outermost braces
	members    bool // something is left of body after edits
	original   bool // the document alone would not give the record back
	edits      []edit
	crm        bool      // has a CrmOrganizationUniqueName
	properties [2][]byte // PropertyCollection, JsonPropertiesCollection
}

// Refused says why bytes can never become a document, whatever is tried. Its
// text names a place at most and quotes nothing.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return "record refused: " + e.Reason }

// Parse reads one record. Its error is a *Refused: raw is not one JSON object
// (RFC 8259), not UTF-8, or nested deeper than Cosmos DB takes.
func Parse(raw []byte) (Record, error) { return new(Parser).Parse(raw) }

// Parser reads records one after the other, in the memory of those before. The
// zero value is ready.
type Parser struct {
	members []member
	names   []byte
}

// Parse does what the function Parse does.
func (x *Parser) Parse(raw []byte) (Record, error) {
	if !utf8.Valid(raw) {
		return Record{}, &Refused{Reason: "not valid UTF-8"}
	}
	if len(raw) > math.MaxInt32 {
		return Record{}, &Refused{Reason: "longer than 2 GiB"}
	}
	p := parser{raw: raw, members: x.members[:0], names: x.names[:0]}
	ok := p.record()
	if x.members, x.names = p.members, p.names; cap(x.members) > manyMembers || cap(x.names) > manyMembers {
		*x = Parser{} // an odd record's
	}
	if !ok {
		return Record{}, &Refused{Reason: p.reason}
	}
	r := Record{
		SHA256:     sha256.Sum256(raw),
		User:       p.value(p.found.userID),
		Hour:       unknownHour,
		RecordType: -1,
		raw:        raw,
		body:       p.body,
		members:    p.kept,
		original:   p.original,
		edits:      p.edits,
		crm:        !isBlank(p.bytes(p.found.crm)),
		properties: [2][]byte{p.bytes(p.found.properties), p.bytes(p.found.jsonProperties)},
	}
	if v := p.value(p.found.id); v.Kind == String && isGUID(v.Text) {
		r.ID = v.Text
	} else {
		r.ID = hex.EncodeToString(r.SHA256[:])
	}
	if v := p.value(p.found.creationTime); v.Kind == String {
		r.Hour = hourOf(v.Text)
	}
	if v := p.value(p.found.recordType); v.Kind == Number || v.Kind == String {
		r.RecordType = wholeNumber(v.Text)
	}
	if v := p.value(p.found.workload); v.Kind == Number || v.Kind == String {
		r.Workload = clip(v.Text, maxWorkload)
	}
	return r, nil
}

// isBlank reports whether a value says nothing: absent, null or an empty string.
func isBlank(value []byte) bool {
	switch string(value) {
	case "", "null", `""`:
		return true
	}
	return false
}

// isGUID reports whether s is a GUID in its plain form, without braces.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if hexDigit(c) < 0 {
				return false
			}
		}
	}
	return true
}

// hourOf gives the UTC hour of a CreationTime: YYYY-MM-DDTHH:MM:SS, with or
// without fraction, Z or an offset. Without a zone it is UTC: so the service
// documents it.
func hourOf(s string) string {
	const local = "2006-01-02T15:04:05"
	// time.Parse alone takes an hour of one digit.
	if len(s) < len(local) || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return unknownHour
	}
	t, err := time.Parse(local, s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	t = t.UTC()
	// 1601 is where Windows file times begin: an earlier year is some default
	// value. Later than 9999 has no form of four digits.
	if err != nil || t.Year() < 1601 || t.Year() > 9999 {
		return unknownHour
	}
	return t.Format("2006-01-02T15")
}

// wholeNumber reads a RecordType, -1 if s is none. 21.0 is 21: some senders
// write all numbers so.
func wholeNumber(s string) int {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil && n >= 0 {
		return int(n)
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f == math.Trunc(f) && f >= 0 && f <= math.MaxInt32 {
		return int(f)
	}
	return -1
}

// clip cuts s to at most limit bytes, between two runes.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// Kind is the JSON type of a Value.
type Kind int

// The kinds of a Value.
const (
	Absent Kind = iota // there is no such member
	Null
	Bool
	Number
	String
	Other // an object or an array
)

func (k Kind) String() string {
	switch k {
	case Absent:
		return "absent"
	case Null:
		return "null"
	case Bool:
		return "bool"
	case Number:
		return "number"
	case String:
		return "string"
	case Other:
		return "other"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Value is one member's value, as the document holds it.
type Value struct {
	Kind Kind
	// Text is a string without its quotes and escapes, a number's literal, true
	// or false; else empty. It is valid UTF-8.
	Text string
}
