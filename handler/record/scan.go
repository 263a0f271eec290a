package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MaxElement is the longest element, in bytes, that a Scanner holds whole: a
// little more than the 2 MB of Cosmos DB's longest document (service
// documentation, "Azure Cosmos DB service quotas"). Nothing that can be stored as
// it stands is longer.
const MaxElement = 2 << 20

const (
	readStep   = 16 << 10     // how much is read at once
	bufferSize = 4 * readStep // a Scanner's buffer, but for long elements
	headSize   = 4 << 10      // how much of a foreign body NotArrayError shows

	// checkedDepth is how deep brackets are told from braces, at a bit a level.
	// Deeper ones are only counted.
	checkedDepth = 1 << 20
)

// ErrCut says that the body ended, or its reader failed, before the array did.
// Every such error is a *CutError.
var ErrCut = errors.New("content cut short")

// CutError is ErrCut with its place and cause.
//
// A body that arrives whole looks the same if a record in it lacks a quote or a
// bracket: then Err is nil, and both offsets are the same when it is fetched
// again.
type CutError struct {
	// Offset is where in the body the first byte stands that belongs to no
	// element returned.
	Offset int64
	// End is how many bytes of the body were read.
	End int64
	// Err is what the body's reader failed with, nil if it ended with io.EOF.
	// errors.Is and errors.As find what is behind it, but never io.EOF: no cut
	// passes for the array's end.
	Err error
}

func (e *CutError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%v at byte %d", ErrCut, e.End)
	}
	return fmt.Sprintf("%v at byte %d: %v", ErrCut, e.End, e.Err)
}

// Is reports whether target is ErrCut or found in e.Err.
func (e *CutError) Is(target error) bool {
	return target == ErrCut || target != io.EOF && errors.Is(e.Err, target)
}

// As finds target in e.Err.
func (e *CutError) As(target any) bool { return errors.As(e.Err, target) }

// FramingError says that the array's structure is lost: from Offset on nothing
// tells one element from the next.
type FramingError struct {
	// Offset is where in the body the first byte stands that belongs to no
	// element returned: the start of the element in which structure was lost,
	// or, inside of an oversize element, the byte itself.
	Offset int64
	Reason string // quotes nothing of the body
}

func (e *FramingError) Error() string {
	return fmt.Sprintf("array lost at byte %d: %s", e.Offset, e.Reason)
}

// NotArrayError says that the body is something other than an array: an error
// object, a page for people.
type NotArrayError struct {
	// Head is the body's beginning without white space before it, at most 4 KiB.
	// It is not part of the error's text.
	Head []byte
}

func (e *NotArrayError) Error() string { return "content is not a JSON array" }

// Element is one element of the array, not necessarily valid JSON.
type Element struct {
	// Raw is the element's bytes as they stand in the body, without white space
	// around them. It is valid until the next call of Next, Read or Rest.
	Raw []byte
	// Offset is where in the body the element starts.
	Offset int64
	// Oversize says that the element is longer than MaxElement, and Raw only its
	// beginning. Scanner.Oversize has all of it.
	Oversize bool
}

// Scanner cuts the elements out of one JSON array without holding more than one
// of them, and that up to MaxElement. A byte order mark before the array and a
// comma after its last element are let pass. An element whose brackets and
// quotes match is an element, valid or not, so that a bad one does not take its
// siblings with it.
type Scanner struct {
	r       io.Reader
	readErr error // what r ended with

	buf    []byte // its capacity is the buffer; what is in it ends at len
	start  int    // in buf: the first byte that is still needed
	pos    int    // in buf: the next byte to look at
	offset int64  // of buf[0] in the body

	frame    frame
	begun    bool  // the opening bracket is behind pos
	follows  bool  // an element is behind pos: a comma or the end comes next
	oversize bool  // pos is inside of an oversize element
	err      error // what Next answers from now on
}

// NewScanner returns a Scanner of the one JSON array that is in r. It reads r to
// its end if the array is whole, and does not close it.
func NewScanner(r io.Reader) *Scanner { return &Scanner{r: r} }

// Reset begins with another body, in the memory of the last one.
func (s *Scanner) Reset(r io.Reader) {
	buf := s.buf[:0]
	if cap(buf) > 2*bufferSize {
		buf = nil
	}
	*s = Scanner{r: r, buf: buf, frame: frame{square: s.frame.square}}
}

// Next returns the next element. Its error is io.EOF after the array's closing
// bracket if only white space follows; else ErrCut, a *FramingError or a
// *NotArrayError. Once it has failed it fails the same way for ever.
func (s *Scanner) Next() (Element, error) {
	if s.oversize && s.err == nil {
		s.discard()
	}
	if s.err != nil {
		return Element{}, s.err
	}
	var e Element
	if e, s.err = s.next(); s.err != nil {
		return Element{}, s.err
	}
	return e, nil
}

func (s *Scanner) next() (Element, error) {
	s.shrink()
	if !s.begun {
		if err := s.begin(); err != nil {
			return Element{}, err
		}
	}
	c, err := s.peek()
	if err == nil && s.follows {
		switch c {
		case ',':
			s.pos++
			c, err = s.peek()
		case ']':
		default:
			return Element{}, s.lost("neither comma nor bracket after an element")
		}
	}
	if err != nil {
		return Element{}, s.cut(err)
	}
	switch c {
	case ']':
		return Element{}, s.finish()
	case ',', ':', '}':
		return Element{}, s.lost("punctuation where an element should start")
	}
	return s.element()
}

// begin steps over the opening bracket.
func (s *Scanner) begin() error {
	const mark = "\xef\xbb\xbf" // UTF-8 byte order mark
	for len(s.buf) < len(mark) && s.fill() == nil {
	}
	if bytes.HasPrefix(s.buf, []byte(mark)) {
		s.pos = len(mark)
	} else if bytes.HasPrefix([]byte(mark), s.buf) {
		return s.cut(s.readErr)
	}
	c, err := s.peek()
	if err != nil {
		return s.cut(err)
	}
	if c != '[' {
		for len(s.buf)-s.start < headSize && s.fill() == nil {
		}
		return &NotArrayError{Head: bytes.Clone(s.buf[s.start:min(len(s.buf), s.start+headSize)])}
	}
	s.pos++
	s.begun = true
	return nil
}

// finish steps over the closing bracket and sees that nothing follows it.
func (s *Scanner) finish() error {
	s.pos++
	switch _, err := s.peek(); err {
	case io.EOF:
		return io.EOF
	case nil:
		return s.lost("text after the array")
	default:
		return s.cut(err)
	}
}

// element cuts out the element that starts at pos.
func (s *Scanner) element() (Element, error) {
	s.start, s.follows = s.pos, true
	s.frame.reset()
	for {
		n, done, reason := s.frame.scan(s.buf[s.pos:min(len(s.buf), s.start+MaxElement)])
		s.pos += n
		size := s.pos - s.start
		e := Element{Raw: s.buf[s.start:s.pos:s.pos], Offset: s.offset + int64(s.start)}
		switch {
		case reason != "":
			s.pos = s.start
			return Element{}, s.lost(reason)
		case done:
			return e, nil
		case size == MaxElement:
			s.oversize, e.Oversize = true, true
			return e, nil
		}
		if err := s.fill(); err != nil {
			s.pos = s.start
			return Element{}, s.cut(err)
		}
	}
}

// Oversize returns the whole bytes of the oversize element that Next has just
// returned, from its first byte. Reading fails with ErrCut or a *FramingError
// where Next would. Next leaves out what was not read; the reader is not to be
// used after it.
func (s *Scanner) Oversize() io.Reader { return oversizeReader{s} }

type oversizeReader struct{ s *Scanner }

func (o oversizeReader) Read(b []byte) (int, error) {
	s := o.s
	if s.start == s.pos {
		s.advance()
	}
	if s.start < s.pos {
		n := copy(b, s.buf[s.start:s.pos])
		s.start += n
		return n, nil
	}
	if s.err != nil {
		return 0, s.err
	}
	return 0, io.EOF
}

// advance moves pos on in the oversize element until there is something between
// start and pos, the element is over, or err is set.
func (s *Scanner) advance() {
	for s.oversize && s.err == nil && s.start == s.pos {
		n, done, reason := s.frame.scan(s.buf[s.pos:])
		s.pos += n
		switch {
		case done:
			s.oversize = false
		case reason != "":
			s.err = s.lost(reason)
		case n == 0:
			if err := s.fill(); err != nil {
				s.err = s.cut(err)
			}
		}
	}
}

// discard steps over what is left of the oversize element.
func (s *Scanner) discard() {
	for s.oversize && s.err == nil {
		s.start = s.pos
		s.advance()
	}
	s.start = s.pos
}

// Rest returns everything that no element holds: after a *FramingError or a
// *CutError the body from the error's Offset to its end, after a *NotArrayError
// all of the body but white space before it. It fails with ErrCut if the body's
// reader does. Next must have failed before.
func (s *Scanner) Rest() io.Reader {
	s.start = s.pos
	return restReader{s}
}

type restReader struct{ s *Scanner }

func (o restReader) Read(b []byte) (int, error) {
	s := o.s
	if s.start == len(s.buf) {
		s.pos = s.start
		if err := s.fill(); err == io.EOF {
			return 0, io.EOF
		} else if err != nil {
			return 0, s.cut(err)
		}
	}
	n := copy(b, s.buf[s.start:])
	s.start += n
	return n, nil
}

func (s *Scanner) lost(reason string) error {
	return &FramingError{Offset: s.offset + int64(s.pos), Reason: reason}
}

func (s *Scanner) cut(err error) error {
	if err == io.EOF {
		err = nil
	}
	return &CutError{Offset: s.offset + int64(s.pos), End: s.offset + int64(len(s.buf)), Err: err}
}

// peek skips white space and returns the byte at pos, from where on everything
// is needed.
func (s *Scanner) peek() (byte, error) {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			if c := s.buf[s.pos]; !isSpace(c) {
				s.start = s.pos
				return c, nil
			}
		}
		s.start = s.pos
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// fill reads at least one byte more, and at most readStep. It keeps what is from
// start on, and moves it.
func (s *Scanner) fill() error {
	if s.readErr != nil {
		return s.readErr
	}
	if cap(s.buf)-len(s.buf) < readStep {
		s.offset += int64(s.start)
		kept := s.buf[s.start:]
		s.pos, s.start = s.pos-s.start, 0
		if cap(s.buf)-len(kept) < readStep {
			size := min(max(2*cap(s.buf), bufferSize), MaxElement+readStep)
			s.buf = append(make([]byte, 0, size), kept...)
		} else {
			s.buf = append(s.buf[:0], kept...)
		}
	}
	const patience = 100 // as bufio has it, for a reader that gives nothing
	for range patience {
		n, err := s.r.Read(s.buf[len(s.buf):][:readStep])
		s.buf, s.readErr = s.buf[:len(s.buf)+n], err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.readErr = io.ErrNoProgress
	return s.readErr
}

// shrink gives the memory of a long element back.
func (s *Scanner) shrink() {
	if kept := s.buf[s.pos:]; cap(s.buf) > 2*bufferSize && len(kept) <= readStep {
		s.buf = append(make([]byte, 0, bufferSize), kept...)
		s.offset += int64(s.pos)
		s.pos, s.start = 0, 0
	}
}

// frame finds the end of one element, which may come in pieces.
type frame struct {
	begun   bool
	bare    bool // the element is neither object nor array nor string
	quoted  bool // inside of a string
	escaped bool // the next byte of the string is escaped
	depth   int
	square  []uint64 // a bit a level, the outermost first: it is an array
}

func (f *frame) reset() { *f = frame{square: f.square[:0]} }

// scan looks at the element's next bytes. It reports how many of b belong to the
// element and whether it ends with them, or else why it has no end; then the
// byte after those n is the culprit.
func (f *frame) scan(b []byte) (n int, done bool, reason string) {
	if !f.begun && len(b) > 0 {
		f.begun = true
		f.bare = b[0] != '{' && b[0] != '[' && b[0] != '"'
	}
	if f.bare {
		n = slices.IndexFunc(b, func(c byte) bool { return isSpace(c) || strings.IndexByte(`,:[]{}"`, c) >= 0 })
		if n < 0 {
			return len(b), false, ""
		}
		return n, true, ""
	}
	for i := 0; i < len(b); i++ {
		if f.quoted {
			if f.escaped {
				f.escaped = false
				continue
			}
			var end bool
			if i, end = f.unquote(b, i); end && f.depth == 0 {
				return i + 1, true, ""
			}
			continue
		}
		switch c := b[i]; c {
		case '"':
			f.quoted = true
		case '{', '[':
			f.push(c == '[')
		case '}', ']':
			if !f.pop(c == ']') {
				return i, false, "a bracket that closes another kind"
			}
			if f.depth == 0 {
				return i + 1, true, ""
			}
		}
	}
	return len(b), false, ""
}

// unquote goes on in a string at i and returns the index of the next quote,
// whether it ends the string, and the last index if there is none.
func (f *frame) unquote(b []byte, i int) (int, bool) {
	next := bytes.IndexByte(b[i:], '"')
	end := i + next
	if next < 0 {
		end = len(b)
	}
	back := end // a quote is escaped if an odd number of backslashes is before it
	for back > i && b[back-1] == '\\' {
		back--
	}
	odd := (end-back)%2 == 1
	if next < 0 {
		f.escaped = odd
		return end - 1, false
	}
	f.quoted = odd
	return end, !odd
}

func (f *frame) push(square bool) {
	if word, bit := f.depth/64, uint64(1)<<(f.depth%64); f.depth < checkedDepth {
		if word == len(f.square) {
			f.square = append(f.square, 0)
		}
		f.square[word] &^= bit
		if square {
			f.square[word] |= bit
		}
	}
	f.depth++
}

// pop reports whether the innermost level is of the kind that is closed.
func (f *frame) pop(square bool) bool {
	level := f.depth - 1
	if level < checkedDepth && (f.square[level/64]>>(level%64)&1 == 1) != square {
		return false
	}
	f.depth = level
	return true
}
