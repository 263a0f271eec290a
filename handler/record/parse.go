package record

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep Cosmos DB lets a document nest objects and arrays, the
// outermost being level 1 (service documentation, "Azure Cosmos DB service
// quotas").
const maxDepth = 128

const tooDeep = "nested deeper than the 128 levels that Cosmos DB takes"

// fewMembers is up to how many members of an object every pair is compared;
// with more, sorting them is faster and can't be made slow by hostile input.
const fewMembers = 64

// span is a piece of the record's bytes. A record's length fits 31 bits; small
// fields keep the worst record's bookkeeping within bounds.
type span struct{ start, end int32 }

// edit is a piece of the record's bytes that the document has otherwise.
type edit struct {
	span
	as editKind
}

type editKind uint8

const (
	leaveOut      editKind = iota
	asNull                 // a number beyond float64
	asReplacement          // a lone surrogate's escape
)

func (k editKind) text() string {
	switch k {
	case asNull:
		return "null"
	case asReplacement:
		return `\ufffd`
	}
	return ""
}

// member is one member of an object that is being read.
type member struct {
	span              // from the name's quote to the value's end
	name        int32 // where the name starts, in raw or in parser.names
	length      int32 // of the name
	fingerprint uint32
	decoded     bool // the name has escapes and stands in parser.names
	drop        bool // the document leaves this member out
}

// parser reads one record in one pass. Its methods advance pos, and report
// false once reason says what is wrong.
type parser struct {
	raw    []byte
	pos    int
	reason string

	members []member // of all objects that are open, outermost first
	names   []byte   // names of members that have escapes, without them
	edits   []edit

	body     span
	kept     bool // the outermost object keeps at least one member
	original bool
	found    struct {
		id, userID, creationTime, recordType, workload, crm, properties, jsonProperties span
	}
}

func (p *parser) fail(reason string) bool {
	p.reason = fmt.Sprintf("%s at byte %d", reason, p.pos)
	return false
}

// record reads the whole of raw as one object.
func (p *parser) record() bool {
	if p.space() != '{' {
		return p.fail("not a JSON object")
	}
	p.body.start = int32(p.pos + 1)
	if !p.object(1) {
		return false
	}
	p.body.end = int32(p.pos - 1)
	if p.space(); p.pos < len(p.raw) {
		return p.fail("invalid JSON: text after the object")
	}
	// An inner object's edits were noted before those of the objects around it.
	slices.SortFunc(p.edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	return true
}

// space skips white space and gives the byte after it, 0 at the end.
func (p *parser) space() byte {
	for ; p.pos < len(p.raw); p.pos++ {
		if c := p.raw[p.pos]; !isSpace(c) {
			return c
		}
	}
	return 0
}

// element reads any value; depth is the level of what holds it.
func (p *parser) element(depth int) bool {
	switch c := p.space(); c {
	case '{':
		return p.object(depth + 1)
	case '[':
		return p.array(depth + 1)
	case '"':
		_, ok := p.text()
		return ok
	case 't':
		return p.literal("true")
	case 'f':
		return p.literal("false")
	case 'n':
		return p.literal("null")
	default:
		if c != '-' && !isDigit(c) {
			return p.fail("invalid JSON: no value")
		}
		return p.number()
	}
}

func (p *parser) literal(want string) bool {
	if end := p.pos + len(want); end <= len(p.raw) && string(p.raw[p.pos:end]) == want {
		p.pos = end
		return true
	}
	return p.fail("invalid JSON: no value")
}

func (p *parser) array(depth int) bool {
	if depth > maxDepth {
		return p.fail(tooDeep)
	}
	p.pos++ // the opening bracket
	if p.space() == ']' {
		p.pos++
		return true
	}
	for {
		if !p.element(depth) {
			return false
		}
		switch p.space() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return true
		default:
			return p.fail("invalid JSON: no comma or bracket in an array")
		}
	}
}

func (p *parser) object(depth int) bool {
	if depth > maxDepth {
		return p.fail(tooDeep)
	}
	p.pos++ // the opening brace
	if p.space() == '}' {
		p.pos++
		return true
	}
	first, names := len(p.members), len(p.names)
	for {
		if p.space() != '"' {
			return p.fail("invalid JSON: no name in an object")
		}
		start := p.pos
		escapes, ok := p.text()
		if !ok {
			return false
		}
		m := member{span: span{start: int32(start)}, name: int32(start + 1), length: int32(p.pos - start - 2), decoded: escapes}
		if escapes {
			m.name = int32(len(p.names))
			p.names = appendUnescaped(p.names, p.raw[start+1:p.pos-1])
			m.length = int32(len(p.names)) - m.name
		}
		m.fingerprint = fingerprint(p.name(&m))
		if p.space() != ':' {
			return p.fail("invalid JSON: no colon after a name")
		}
		p.pos++
		p.space()
		value := p.pos
		if !p.element(depth) {
			return false
		}
		m.end = int32(p.pos)
		if depth == 1 {
			m.drop = p.note(p.name(&m), span{int32(value), m.end})
		}
		p.members = append(p.members, m)
		switch p.space() {
		case ',':
			p.pos++
			continue
		case '}':
			p.pos++
		default:
			return p.fail("invalid JSON: no comma or brace in an object")
		}
		break
	}
	p.close(p.members[first:], depth == 1)
	p.members, p.names = p.members[:first], p.names[:names]
	return true
}

func (p *parser) name(m *member) []byte {
	if m.decoded {
		return p.names[m.name:][:m.length]
	}
	return p.raw[m.name:][:m.length]
}

// note remembers where a top-level member's value stands if the archive reads
// it, and reports whether Cosmos DB or the archive itself has another use for
// the name. ttl alone would delete the record.
func (p *parser) note(name []byte, value span) (reserved bool) {
	switch string(name) {
	case "Id":
		p.found.id = value
	case "UserId":
		p.found.userID = value
	case "CreationTime":
		p.found.creationTime = value
	case "RecordType":
		p.found.recordType = value
	case "Workload":
		p.found.workload = value
	case "CrmOrganizationUniqueName":
		p.found.crm = value
	case "PropertyCollection":
		p.found.properties = value
	case "JsonPropertiesCollection":
		p.found.jsonProperties = value
	case "id", "archive", "ttl", "_rid", "_self", "_etag", "_attachments", "_ts":
		return true
	}
	return false
}

// fingerprint tells most names apart without a look at the bytes.
func fingerprint(name []byte) uint32 {
	n := len(name)
	if n < 4 {
		h := uint32(n)
		for _, c := range name {
			h = h<<8 | uint32(c)
		}
		return h
	}
	head, tail := binary.LittleEndian.Uint32(name), binary.LittleEndian.Uint32(name[n-4:])
	return head*0x9e3779b1 ^ tail*0x85ebca77 ^ uint32(n)<<16 // odd factors: no bit is lost
}

// close ends an object: of a name that occurs twice only the last occurrence
// stays, and what is dropped becomes edits.
func (p *parser) close(members []member, outermost bool) {
	if len(members) <= fewMembers {
		for i := range members {
			for j := range i {
				if members[i].fingerprint == members[j].fingerprint && bytes.Equal(p.name(&members[i]), p.name(&members[j])) {
					members[j].drop = true
				}
			}
		}
	} else {
		order := make([]int32, len(members))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int {
			return cmp.Or(bytes.Compare(p.name(&members[a]), p.name(&members[b])), cmp.Compare(a, b))
		})
		for i := range len(order) - 1 {
			if m := &members[order[i]]; bytes.Equal(p.name(m), p.name(&members[order[i+1]])) {
				m.drop = true
			}
		}
	}

	last := len(members) - 1 // the last one kept
	for last >= 0 && members[last].drop {
		last--
	}
	if outermost {
		p.kept = last >= 0
	}
	for i := range last {
		if members[i].drop {
			p.edit(span{members[i].start, members[i+1].start}, leaveOut)
		}
	}
	end := members[len(members)-1].end
	switch {
	case last < 0:
		p.edit(span{members[0].start, end}, leaveOut)
	case last < len(members)-1:
		p.edit(span{members[last].end, end}, leaveOut)
	}
}

// edit notes that the document differs from the record in s.
func (p *parser) edit(s span, as editKind) {
	p.original = true
	p.edits = append(p.edits, edit{s, as})
}

// text reads a string and reports whether it has escapes.
func (p *parser) text() (escapes, ok bool) {
	raw := p.raw
	for i := p.pos + 1; i < len(raw); i++ {
		if i += plainBytes(raw[i:]); i == len(raw) {
			break
		}
		switch c := raw[i]; {
		case c == '"':
			p.pos = i + 1
			return escapes, true
		case c == '\\':
			escapes = true
			n := p.escape(i)
			if n == 0 {
				p.pos = i
				return false, p.fail("invalid JSON: unknown escape")
			}
			i += n - 1
		case c < ' ':
			p.pos = i
			return false, p.fail("invalid JSON: control byte in a string")
		}
	}
	return false, p.fail("invalid JSON: string without end")
}

// plainBytes returns how many bytes b begins with that are neither quote nor
// backslash nor control byte. It looks at eight at a time: in each word below the
// high bit of a byte is set if that byte is what it looks for, and the lowest such
// bit is right, whatever a borrow does to those above.
func plainBytes(b []byte) int {
	const (
		each  = 0x0101010101010101
		highs = 0x80 * each
	)
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		word := binary.LittleEndian.Uint64(b[n:])
		quote, backslash := word^'"'*each, word^'\\'*each
		found := ((quote-each)&^quote | (backslash-each)&^backslash | (word-' '*each)&^word) & highs
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(b); n++ {
		if c := b[n]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return n
}

// escape gives the length of the escape at i, 0 if it is none. A pair of
// surrogates counts as one.
func (p *parser) escape(i int) int {
	if i+1 >= len(p.raw) {
		return 0
	}
	switch p.raw[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	_, n := unicodeEscape(p.raw[i:])
	if n == 6 && utf16.IsSurrogate(hex4(p.raw[i:])) {
		p.edit(span{int32(i), int32(i + 6)}, asReplacement)
	}
	return n
}

// number reads a number and notes it if a float64 does not hold it.
func (p *parser) number() bool {
	start := p.pos
	if p.raw[p.pos] == '-' {
		p.pos++
	}
	whole := p.pos
	digits := p.digits()
	if digits == 0 || digits > 1 && p.raw[whole] == '0' {
		return p.fail("invalid JSON: malformed number")
	}
	if p.pos < len(p.raw) && p.raw[p.pos] == '.' {
		p.pos++
		fraction := p.digits()
		if fraction == 0 {
			return p.fail("invalid JSON: malformed number")
		}
		digits += fraction
	}
	exponent := p.pos < len(p.raw) && p.raw[p.pos]|0x20 == 'e'
	if exponent {
		p.pos++
		if p.pos < len(p.raw) && (p.raw[p.pos] == '+' || p.raw[p.pos] == '-') {
			p.pos++
		}
		if p.digits() == 0 {
			return p.fail("invalid JSON: malformed number")
		}
	}
	if !exponent && digits <= 15 { // IEEE 754: a double holds any 15 digits
		return true
	}
	switch same, finite := survives(p.raw[start:p.pos]); {
	case !finite:
		p.edit(span{int32(start), int32(p.pos)}, asNull)
	case !same:
		p.original = true
	}
	return true
}

// digits skips digits and gives their number.
func (p *parser) digits() int {
	start := p.pos
	for p.pos < len(p.raw) && isDigit(p.raw[p.pos]) {
		p.pos++
	}
	return p.pos - start
}

// bytes gives the value at s, nil for none.
func (p *parser) bytes(s span) []byte { return p.raw[s.start:s.end:s.end] }

// value gives the value at s as the document will have it.
func (p *parser) value(s span) Value {
	b := p.bytes(s)
	if len(b) == 0 {
		return Value{}
	}
	switch b[0] {
	case '"':
		if b = b[1 : len(b)-1]; bytes.IndexByte(b, '\\') < 0 {
			return Value{String, string(b)}
		}
		return Value{String, string(appendUnescaped(nil, b))}
	case '{', '[':
		return Value{Kind: Other}
	case 't':
		return Value{Bool, "true"}
	case 'f':
		return Value{Bool, "false"}
	case 'n':
		return Value{Kind: Null}
	}
	if _, finite := survives(b); !finite {
		return Value{Kind: Null}
	}
	return Value{Number, string(b)}
}

// survives reports whether a number comes back as the same decimal from a
// float64 in its shortest form, and whether it is within float64 at all.
func survives(literal []byte) (same, finite bool) {
	f, err := strconv.ParseFloat(string(literal), 64)
	if err != nil {
		return false, false // out of range: the syntax was checked before
	}
	var short [32]byte
	return decimalOf(literal) == decimalOf(strconv.AppendFloat(short[:0], f, 'e', -1, 64)), true
}

// decimal is a number's value, and two equal values are equal decimals: 0.d1d2…
// times ten to the exponent, without leading and trailing zeros. Zero has no
// digits, no exponent and no sign.
type decimal struct {
	negative bool
	long     bool     // has more digits, so no float64 prints as it
	digits   [17]byte // what the shortest form of a float64 needs at most
	n        int
	exponent int
}

// decimalOf reads a JSON number of valid syntax.
func decimalOf(literal []byte) decimal {
	var d decimal
	point, zeros := false, 0
	i := 0
	if literal[0] == '-' {
		d.negative = true
		i++
	}
	for ; i < len(literal) && literal[i]|0x20 != 'e'; i++ {
		c := literal[i]
		if c == '.' {
			point = true
			continue
		}
		leading := d.n == 0 && c == '0'
		if !point && !leading {
			d.exponent++
		} else if point && leading {
			d.exponent--
		}
		if leading {
			continue
		}
		if c == '0' {
			zeros++ // trailing, unless another digit follows
			continue
		}
		if d.n+zeros >= len(d.digits) {
			d.long = true
			continue
		}
		for ; zeros > 0; zeros-- {
			d.digits[d.n] = '0'
			d.n++
		}
		d.digits[d.n] = c
		d.n++
	}
	if d.n == 0 {
		return decimal{}
	}
	if i < len(literal) {
		// Out of range saturates, and is no float64 other than zero either way.
		e, _ := strconv.ParseInt(string(literal[i+1:]), 10, 32)
		d.exponent += int(e)
	}
	return d
}

// unicodeEscape decodes the escape of the form \uXXXX, or a pair of them, at the
// start of b. It gives length 0 if b has none, and U+FFFD with length 6 for a
// lone surrogate.
func unicodeEscape(b []byte) (rune, int) {
	r := hex4(b)
	if r < 0 {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if pair := utf16.DecodeRune(r, hex4(b[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return utf8.RuneError, 6
}

// hex4 reads \uXXXX, -1 if b does not start so.
func hex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		d := hexDigit(c)
		if d < 0 {
			return -1
		}
		r = r<<4 | rune(d)
	}
	return r
}

func hexDigit(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isSpace reports whether c is white space in JSON.
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// appendUnescaped appends the inside of a JSON string of valid syntax without
// its escapes, a lone surrogate as U+FFFD.
func appendUnescaped(dst, b []byte) []byte {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		b = b[i:]
		if b[1] == 'u' {
			r, n := unicodeEscape(b)
			dst = utf8.AppendRune(dst, r)
			b = b[n:]
			continue
		}
		c := b[1]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		dst = append(dst, c)
		b = b[2:]
	}
	return dst
}
