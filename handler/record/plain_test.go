package record

import (
	"bytes"
	"testing"
)

// Every byte ends a run of plain ones or does not, wherever it stands and
// whatever stands beside it.
func TestPlainBytes(t *testing.T) {
	for _, filler := range []byte{'a', ' ', '!', '#', '[', ']', 0x7f, 0x80, 0xa2, 0xdc, 0xff} {
		for c := range 256 {
			for at := range 19 {
				for _, next := range []byte{filler, '"', '\\', 0x1f, 0x21, 0x23, 0x5d} {
					b := bytes.Repeat([]byte{filler}, 20)
					b[at], b[at+1] = byte(c), next
					want := len(b)
					for i, c := range b {
						if c == '"' || c == '\\' || c < ' ' {
							want = i
							break
						}
					}
					if got := plainBytes(b); got != want {
						t.Fatalf("plainBytes(%q) = %d, want %d", b, got, want)
					}
				}
			}
		}
	}
}
