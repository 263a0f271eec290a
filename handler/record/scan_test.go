package record_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/record"
)

// scanAll returns the elements of body and how the Scanner ended.
func scanAll(r io.Reader) ([]string, error) {
	s := record.NewScanner(r)
	var elements []string
	for {
		e, err := s.Next()
		if err != nil {
			return elements, err
		}
		elements = append(elements, string(e.Raw))
	}
}

// readers are ways in which the same bytes can arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"whole":         func(r io.Reader) io.Reader { return r },
	"byte by byte":  iotest.OneByteReader,
	"in halves":     iotest.HalfReader,
	"data with EOF": iotest.DataErrReader,
}

func TestScannerElements(t *testing.T) {
	tests := []struct {
		name, body string
		want       []string
	}{
		{"empty array", `[]`, nil},
		{"empty array, spaced", " \r\n[\t ] \n", nil},
		{"records", `[{"Id":"a"},{"Id":"b"}]`, []string{`{"Id":"a"}`, `{"Id":"b"}`}},
		{"white space is not part of an element", "[ {\"a\" : 1 } ,\n\t{} ]\n", []string{`{"a" : 1 }`, `{}`}},
		{"byte order mark", "\xef\xbb\xbf[{}]", []string{`{}`}},
		{"byte order mark, then white space", "\xef\xbb\xbf \n[{}]", []string{`{}`}},
		{"trailing comma", `[{"a":1},]`, []string{`{"a":1}`}},
		{"trailing comma, spaced", "[{\"a\":1} ,\n]", []string{`{"a":1}`}},
		{"brackets in strings", `[{"a":"]}[{"},{"b":"},{"}]`, []string{`{"a":"]}[{"}`, `{"b":"},{"}`}},
		{"escaped quotes", `[{"a":"\"}"},{"b":"\\"},{"c":"\\\"]"}]`, []string{`{"a":"\"}"}`, `{"b":"\\"}`, `{"c":"\\\"]"}`}},
		{"strings", `["","\\","a,b"]`, []string{`""`, `"\\"`, `"a,b"`}},
		{"bare values", `[1, -2.5e3,null,true]`, []string{`1`, `-2.5e3`, `null`, `true`}},
		{"arrays", `[[],[[1],{"a":[2]}]]`, []string{`[]`, `[[1],{"a":[2]}]`}},
		{"invalid, but framed", `[{"a" 1},{oops},nonsense,{"c":"\x"},{"d":4}]`, []string{`{"a" 1}`, `{oops}`, `nonsense`, `{"c":"\x"}`, `{"d":4}`}},
		{"deep", `[` + strings.Repeat(`[{"a":`, 5000) + `1` + strings.Repeat(`}]`, 5000) + `,2]`, []string{strings.Repeat(`[{"a":`, 5000) + `1` + strings.Repeat(`}]`, 5000), `2`}},
	}
	for _, tt := range tests {
		for how, reader := range readers {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				got, err := scanAll(reader(strings.NewReader(tt.body)))
				if err != io.EOF {
					t.Errorf("Scanner ended with %v, want io.EOF", err)
				}
				if diff := cmp.Diff(got, tt.want); diff != "" {
					t.Errorf("elements (-got +want):\n%s", diff)
				}
			})
		}
	}
}

func TestScannerOffsets(t *testing.T) {
	short := strings.Repeat(`{"n":"`+strings.Repeat("x", 9000)+`"} , `, 20)
	long := sized(1<<20) + "," // the buffer grows for it and shrinks after it
	body := "\xef\xbb\xbf [" + short + long + short + `7]`
	s := record.NewScanner(iotest.HalfReader(strings.NewReader(body)))
	n := 0
	for {
		e, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := body[e.Offset:][:len(e.Raw)]; got != string(e.Raw) {
			t.Fatalf("element %d says offset %d, where other bytes stand", n, e.Offset)
		}
		n++
	}
	if n != 42 {
		t.Errorf("%d elements, want 42", n)
	}
}

// TestScannerCut cuts a body at every byte: what came before is returned as it
// is, and the end is never taken for the array's end.
func TestScannerCut(t *testing.T) {
	body := "\xef\xbb\xbf [{\"a\":\"\\\\\\\"]\"},\n[1,{}],\"s\\\"\", {\"b\":{\"c\":[2]}} ,null,]  "
	elements := []string{`{"a":"\\\"]"}`, `[1,{}]`, `"s\""`, `{"b":{"c":[2]}}`, `null`}
	whole := strings.LastIndexByte(body, ']') + 1
	reset := &faultError{code: "reset"}
	for cut := range whole {
		var want []string
		for _, e := range elements {
			end := strings.Index(body, e) + len(e)
			if e == "null" {
				end++ // only the byte after it shows its end
			}
			if end <= cut {
				want = append(want, e)
			}
		}
		for name, r := range map[string]io.Reader{
			"clean end":   strings.NewReader(body[:cut]),
			"byte reader": iotest.OneByteReader(strings.NewReader(body[:cut])),
			"failure":     io.MultiReader(strings.NewReader(body[:cut]), iotest.ErrReader(reset)),
		} {
			got, err := scanAll(r)
			if !errors.Is(err, record.ErrCut) || errors.Is(err, io.EOF) {
				t.Errorf("cut at %d, %s: error %v, want ErrCut and not io.EOF", cut, name, err)
			}
			if fault, ok := errors.AsType[*faultError](err); ok != (name == "failure") || ok && fault != reset {
				t.Errorf("cut at %d, %s: the reader's error is not behind %v", cut, name, err)
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("cut at %d, %s: elements (-got +want):\n%s", cut, name, diff)
			}
		}
	}
	if _, err := scanAll(strings.NewReader(body[:whole])); err != io.EOF {
		t.Errorf("uncut: %v, want io.EOF", err)
	}
}

type faultError struct{ code string }

func (e *faultError) Error() string { return "fault " + e.code }

func TestScannerReaderFails(t *testing.T) {
	closed := errors.New("connection closed")
	tests := []struct {
		name string
		body io.Reader
		is   error
	}{
		{"after the array", io.MultiReader(strings.NewReader(`[{}]`), iotest.ErrReader(closed)), closed},
		{"short of its length", io.MultiReader(strings.NewReader(`[{}]`), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		{"with io.EOF inside of an error", io.MultiReader(strings.NewReader(`[{},`), iotest.ErrReader(fmt.Errorf("read body: %w", io.EOF))), record.ErrCut},
		{"without progress", io.MultiReader(strings.NewReader(`[{},`), stuckReader{}), io.ErrNoProgress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := record.NewScanner(tt.body)
			if e, err := s.Next(); err != nil || string(e.Raw) != "{}" {
				t.Fatalf("Next = %s, %v, want {}", e.Raw, err)
			}
			for range 2 { // it stays so
				_, err := s.Next()
				if !errors.Is(err, record.ErrCut) || !errors.Is(err, tt.is) || errors.Is(err, io.EOF) {
					t.Errorf("Next fails with %v, want ErrCut and %v, not io.EOF", err, tt.is)
				}
			}
		})
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

func TestScannerFraming(t *testing.T) {
	tests := []struct {
		name, body string
		want       []string
		rest       string
	}{
		{"bracket closes a brace", `[{"a":1},{"b":[2},{"c":3}]`, []string{`{"a":1}`}, `{"b":[2},{"c":3}]`},
		{"brace closes a bracket", `[{"a":1}, [2},3]`, []string{`{"a":1}`}, `[2},3]`},
		{"garbage between elements", `[{"a":1} x {"b":2}]`, []string{`{"a":1}`}, `x {"b":2}]`},
		{"missing comma", `[{"a":1}{"b":2}]`, []string{`{"a":1}`}, `{"b":2}]`},
		{"two commas", `[{"a":1},,{"b":2}]`, []string{`{"a":1}`}, `,{"b":2}]`},
		{"comma first", `[,{"b":2}]`, nil, `,{"b":2}]`},
		{"brace closes the array", `[{"a":1}}`, []string{`{"a":1}`}, `}`},
		{"brace after a comma", `[{"a":1},}`, []string{`{"a":1}`}, `}`},
		{"text after the array", `[{"a":1}] {"b":2}`, []string{`{"a":1}`}, `{"b":2}`},
		{"second array", `[][{"b":2}]`, nil, `[{"b":2}]`},
	}
	for _, tt := range tests {
		for how, reader := range readers {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				// The rest is longer than what is read at once.
				tail := strings.Repeat(" tail", 50_000)
				s := record.NewScanner(reader(strings.NewReader(tt.body + tail)))
				var got []string
				e, err := s.Next()
				for ; err == nil; e, err = s.Next() {
					got = append(got, string(e.Raw))
				}
				if diff := cmp.Diff(got, tt.want); diff != "" {
					t.Errorf("elements (-got +want):\n%s", diff)
				}
				framing, ok := errors.AsType[*record.FramingError](err)
				if !ok {
					t.Fatalf("Scanner ended with %v, want a *FramingError", err)
				}
				if want := int64(len(tt.body) - len(tt.rest)); framing.Offset != want {
					t.Errorf("lost at %d, want %d", framing.Offset, want)
				}
				if _, again := s.Next(); again != err {
					t.Errorf("Next fails with %v afterwards, want %v again", again, err)
				}
				rest, err := io.ReadAll(s.Rest())
				if err != nil || string(rest) != tt.rest+tail {
					t.Errorf("Rest = %.40q… (%d bytes), %v, want %.40q…", rest, len(rest), err, tt.rest)
				}
			})
		}
	}
}

func TestScannerRestCut(t *testing.T) {
	reset := &faultError{code: "reset"}
	s := record.NewScanner(io.MultiReader(strings.NewReader(`[{]} and so on`), iotest.ErrReader(reset)))
	if _, err := s.Next(); !isFraming(err) {
		t.Fatalf("Next fails with %v, want a *FramingError", err)
	}
	rest, err := io.ReadAll(s.Rest())
	if string(rest) != `{]} and so on` || !errors.Is(err, record.ErrCut) || !errors.Is(err, reset) {
		t.Errorf("Rest = %q, %v, want all of it, then ErrCut and the reader's error", rest, err)
	}
}

// TestScannerQuoteMissing has a whole body look like a cut one.
func TestScannerQuoteMissing(t *testing.T) {
	rest := `{"ClientIP"198.51.100.7","b":1},{"c":2}` + strings.Repeat(" ", 100_000) + `]`
	for how, reader := range readers {
		s := record.NewScanner(reader(strings.NewReader(`[{"a":1}, ` + rest)))
		if e, err := s.Next(); err != nil || string(e.Raw) != `{"a":1}` {
			t.Errorf("%s: Next = %s, %v", how, e.Raw, err)
		}
		_, err := s.Next()
		cut, ok := errors.AsType[*record.CutError](err)
		if !ok || !errors.Is(err, record.ErrCut) || cut.Err != nil || cut.Offset != 10 || cut.End != int64(10+len(rest)) {
			t.Errorf("%s: Next fails with %#v, want a *CutError from 10 to %d", how, err, 10+len(rest))
		}
		if got, err := io.ReadAll(s.Rest()); err != nil || string(got) != rest {
			t.Errorf("%s: Rest = %.40q… (%d bytes), %v, want %.40q… (%d bytes)", how, got, len(got), err, rest, len(rest))
		}
	}
}

func isFraming(err error) bool {
	_, ok := errors.AsType[*record.FramingError](err)
	return ok
}

func TestScannerNotArray(t *testing.T) {
	page := "<html>" + strings.Repeat("<p>busy</p>", 20_000)
	tests := []struct{ name, body, head string }{
		{"error object", "\xef\xbb\xbf {\"error\":{\"code\":\"AF50000\"}}\n", "{\"error\":{\"code\":\"AF50000\"}}\n"},
		{"page", "\n" + page, page[:4096]},
		{"bare text", "x", "x"},
		{"bytes almost a byte order mark", "\xef\xbb[]", "\xef\xbb[]"},
	}
	for _, tt := range tests {
		for how, reader := range readers {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				s := record.NewScanner(reader(strings.NewReader(tt.body)))
				_, err := s.Next()
				foreign, ok := errors.AsType[*record.NotArrayError](err)
				if !ok {
					t.Fatalf("Next fails with %v, want a *NotArrayError", err)
				}
				if string(foreign.Head) != tt.head {
					t.Errorf("Head is %.60q (%d bytes), want %.60q (%d bytes)", foreign.Head, len(foreign.Head), tt.head, len(tt.head))
				}
				if strings.Contains(err.Error(), tt.head[:1]+tt.head[1:min(5, len(tt.head))]) && len(tt.head) > 4 {
					t.Errorf("the error's text %q quotes the body", err)
				}
				rest, err := io.ReadAll(s.Rest())
				if want := strings.TrimLeft(tt.body, "\xef\xbb\xbf \n"); err != nil || !strings.HasSuffix(string(rest), want) || len(rest) > len(want)+2 {
					t.Errorf("Rest = %.60q…, %v, want the whole body", rest, err)
				}
			})
		}
	}
}

// sized returns an object of n bytes.
func sized(n int) string { return `{"a":"` + strings.Repeat("x", n-8) + `"}` }

func TestScannerOversize(t *testing.T) {
	const limit = record.MaxElement
	small, exact, large, huge := `{"b":1}`, sized(limit), sized(limit+1), sized(3*limit+12345)
	s := record.NewScanner(strings.NewReader("[" + strings.Join([]string{small, exact, large, small, huge, huge, huge, small}, " , ") + "]"))
	next := func(want string, oversize bool) {
		t.Helper()
		e, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Oversize != oversize || !strings.HasPrefix(want, string(e.Raw)) || !oversize && len(e.Raw) != len(want) || len(e.Raw) > limit {
			t.Fatalf("element of %d bytes, oversize %v, want one of %d, oversize %v", len(e.Raw), e.Oversize, len(want), oversize)
		}
	}
	next(small, false)
	next(exact, false)
	next(large, true)
	if got, err := io.ReadAll(s.Oversize()); err != nil || string(got) != large {
		t.Fatalf("Oversize = %d bytes, %v, want %d as they stand", len(got), err, len(large))
	}
	next(small, false)
	next(huge, true) // not read at all
	next(huge, true) // read in part
	part := make([]byte, limit+limit/2)
	if _, err := io.ReadFull(s.Oversize(), part); err != nil || !strings.HasPrefix(huge, string(part)) {
		t.Fatalf("Oversize gives other bytes, %v", err)
	}
	next(huge, true)
	if got, err := io.ReadAll(iotest.OneByteReader(s.Oversize())); err != nil || string(got) != huge {
		t.Fatalf("Oversize = %d bytes, %v, want %d as they stand", len(got), err, len(huge))
	}
	next(small, false)
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("Scanner ended with %v, want io.EOF", err)
	}
}

// TestScannerOversizeBroken has a body end, and lose its structure, inside of an
// oversize element, which the caller reads or leaves.
func TestScannerOversizeBroken(t *testing.T) {
	begun := `{"a":"` + strings.Repeat("x", 2*record.MaxElement) + `",`
	for _, read := range []bool{true, false} {
		s := record.NewScanner(strings.NewReader("[" + begun))
		if e, err := s.Next(); err != nil || !e.Oversize {
			t.Fatalf("Next = oversize %v, %v", e.Oversize, err)
		}
		if read {
			got, err := io.ReadAll(s.Oversize())
			if !errors.Is(err, record.ErrCut) || string(got) != begun {
				t.Errorf("Oversize = %d bytes, %v, want all %d and ErrCut", len(got), err, len(begun))
			}
		}
		if _, err := s.Next(); !errors.Is(err, record.ErrCut) {
			t.Errorf("read %v: Next fails with %v, want ErrCut", read, err)
		}

		s = record.NewScanner(strings.NewReader("[" + begun + "],7]"))
		if e, err := s.Next(); err != nil || !e.Oversize {
			t.Fatalf("Next = oversize %v, %v", e.Oversize, err)
		}
		if read {
			got, err := io.ReadAll(s.Oversize())
			if !isFraming(err) || string(got) != begun {
				t.Errorf("Oversize = %d bytes, %v, want all %d before the wrong bracket and a *FramingError", len(got), err, len(begun))
			}
		}
		_, err := s.Next()
		framing, ok := errors.AsType[*record.FramingError](err)
		if !ok || framing.Offset != int64(1+len(begun)) {
			t.Errorf("read %v: Next fails with %v, want a *FramingError at %d", read, err, 1+len(begun))
		}
		if rest, err := io.ReadAll(s.Rest()); err != nil || string(rest) != "],7]" {
			t.Errorf("read %v: Rest = %.40q, %v, want %q", read, rest, err, "],7]")
		}
	}
}

// repeatReader gives unit n times over.
type repeatReader struct {
	unit string
	n    int
	pos  int
}

func (r *repeatReader) Read(b []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.unit[r.pos:])
	if r.pos += n; r.pos == len(r.unit) {
		r.pos, r.n = 0, r.n-1
	}
	return n, nil
}

// TestScannerMemory scans hostile bodies of 20 MiB each.
func TestScannerMemory(t *testing.T) {
	const size = 20 << 20
	unit := func(s string) string { return strings.Repeat(s, (1<<16)/len(s)) }
	tests := []struct{ name, start, unit string }{
		{"one string", `["`, unit("x")},
		{"one number", `[`, unit("1")},
		{"backslashes", `["`, unit(`\`)},
		{"open brackets", `[`, unit(`[`)},
		{"open objects", `[`, unit(`{"a":`)},
		{"white space", `[`, unit(" \n")},
		{"white space before", ``, unit(" \n")},
		{"white space after", `[]`, unit(" \n")},
		{"elements", `[`, unit(`{},`)},
		{"rest", `[}`, unit(`x`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s := record.NewScanner(io.MultiReader(strings.NewReader(tt.start), &repeatReader{unit: tt.unit, n: size / len(tt.unit)}))
			var err error
			for err == nil {
				_, err = s.Next()
			}
			_, _ = io.Copy(io.Discard, s.Rest())
			runtime.ReadMemStats(&after)
			// The buffer grows by doubling, so all its sizes come to twice the last.
			const want = 4 * record.MaxElement
			if got := after.TotalAlloc - before.TotalAlloc; got > want {
				t.Errorf("%d bytes allocated, want at most %d", got, want)
			}
		})
	}
}

// FuzzScanner holds the Scanner against encoding/json where that has an opinion,
// and against itself where bytes arrive in another way.
func FuzzScanner(f *testing.F) {
	for _, body := range []string{
		`[{"a":"]\\\""},[1,[2]], "x",null,-1.5e3]`, "\xef\xbb\xbf[ {} ,\n]", `[{"a":[1}]`, `[{} {}]`, `{"error":1}`, `[1]]`, `[tru`, ``, `[,]`, `["\\`,
	} {
		f.Add([]byte(body), uint(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, cut uint) {
		got, err := scanAll(bytes.NewReader(body))
		for how, reader := range readers {
			again, errAgain := scanAll(reader(bytes.NewReader(body)))
			if diff := cmp.Diff(again, got); diff != "" || fmt.Sprint(errAgain) != fmt.Sprint(err) {
				t.Errorf("%s: ends with %v, whole with %v; elements (-got +whole):\n%s", how, errAgain, err, diff)
			}
		}

		s := record.NewScanner(bytes.NewReader(body))
		end := int64(0)
		for e, err := s.Next(); ; e, err = s.Next() {
			offset := int64(-1)
			if framing, ok := errors.AsType[*record.FramingError](err); ok {
				offset = framing.Offset
			} else if cut, ok := errors.AsType[*record.CutError](err); ok {
				offset = cut.Offset
			}
			if offset >= 0 {
				if rest, err := io.ReadAll(s.Rest()); offset < end || err != nil || !bytes.Equal(rest, body[offset:]) {
					t.Errorf("Rest is not the body from %d on: %q, %v", offset, rest, err)
				}
			}
			if err != nil {
				break
			}
			if e.Offset < end || len(e.Raw) == 0 || !bytes.HasPrefix(body[e.Offset:], e.Raw) {
				t.Fatalf("element %q does not stand at %d, after %d", e.Raw, e.Offset, end)
			}
			end = e.Offset + int64(len(e.Raw))
		}

		var want []json.RawMessage
		if json.Unmarshal(body, &want) != nil || want == nil {
			return
		}
		if err != io.EOF || len(got) != len(want) {
			t.Fatalf("%d elements, then %v, want %d, then io.EOF", len(got), err, len(want))
		}
		for i := range want {
			if got[i] != string(want[i]) {
				t.Errorf("element %d is %q, want %q", i, got[i], want[i])
			}
		}
		if body = bytes.TrimRight(body, " \t\r\n"); len(body) == 0 {
			return
		}
		part, err := scanAll(bytes.NewReader(body[:int(cut%uint(len(body)))]))
		if !errors.Is(err, record.ErrCut) || len(part) > len(got) || !cmp.Equal(part, got[:len(part)], cmpEmpty) {
			t.Errorf("cut: %q, then %v, want a beginning of %q, then ErrCut", part, err, got)
		}
	})
}
