package record

import (
	"encoding/hex"
	"strings"
)

// Meta is what a document says of the content that its record came in.
type Meta struct {
	Content string // id of the content's ledger entry
	Type    string // contentType, such as Audit.General
	Day     string // UTC day of contentCreated, such as 2026-03-11
}

// AppendDocument appends the document for r to dst: the record's own members as
// they stand, and before them the two that the archive adds, id and archive.
//
// archive holds v (1, the version of this shape), content, type and day (from
// m), hour, user (UserId in lower case, empty unless it is a string), sha256 (in
// hexadecimal), and original where the members alone would not give the record's
// value back: the record's whole text. That is so for a number that comes back
// from a float64 as another decimal, a name that occurs twice in one object, an
// escape of a lone surrogate, and a top-level member that Cosmos DB or the
// archive has another use for: id, archive, ttl, _rid, _self, _etag,
// _attachments, _ts. Then the document leaves out those members, and all but the
// last of equal names; it has null for a number beyond float64 and U+FFFD for
// each lone surrogate.
func (r *Record) AppendDocument(dst []byte, m Meta) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, r.ID)
	dst = append(dst, `,"archive":{"v":1,"content":`...)
	dst = appendString(dst, m.Content)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, m.Type)
	dst = append(dst, `,"day":`...)
	dst = appendString(dst, m.Day)
	dst = append(dst, `,"hour":`...)
	dst = appendString(dst, r.Hour)
	dst = append(dst, `,"user":`...)
	user := ""
	if r.User.Kind == String {
		user = strings.ToLower(r.User.Text)
	}
	dst = appendString(dst, user)
	dst = append(dst, `,"sha256":"`...)
	dst = hex.AppendEncode(dst, r.SHA256[:])
	dst = append(dst, '"')
	if r.original {
		dst = append(dst, `,"original":`...)
		dst = appendString(dst, r.raw)
	}
	dst = append(dst, '}')
	if r.members {
		dst = append(dst, ',')
	}
	return append(r.appendBody(dst), '}')
}

// Verbatim returns how many of the document's last bytes, before its closing
// brace, are the record's own but for its braces; ok is false where that does
// not give all of the record's bytes back.
func (r *Record) Verbatim() (n int, ok bool) {
	n = int(r.body.end - r.body.start)
	return n, len(r.edits) == 0 && n+2 == len(r.raw)
}

// appendBody appends the record's members, edited.
func (r *Record) appendBody(dst []byte) []byte {
	done := r.body.start
	for _, e := range r.edits {
		if e.start < done {
			continue // inside of something left out
		}
		dst = append(dst, r.raw[done:e.start]...)
		dst = append(dst, e.as.text()...)
		done = e.end
	}
	return append(dst, r.raw[done:r.body.end]...)
}

const hexDigits = "0123456789abcdef"

// appendString appends s, which is valid UTF-8, as a JSON string.
func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = append(dst, '"')
	plain := 0 // from here to i nothing needs an escape
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[plain:i]...)
		dst = appendEscape(dst, c)
		plain = i + 1
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

// appendEscape appends the escape of a quote, a backslash or a control byte.
func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return appendUnicode(dst, rune(c))
}

func appendUnicode(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
