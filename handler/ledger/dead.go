package ledger

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"activityarchive/handler/cosmos"
)

// chunkBytes is how much of a dead letter one document holds: in base64 it stays
// well under the 2 MB that the service takes.
const chunkBytes = 1_200_000

// Dead describes a dead letter: an element of a content that cannot be a
// document of the archive, kept whole.
type Dead struct {
	Element  int    // its place in the content, from 0: with the entry it is the letter's identity
	Offset   int64  // where it began in the body
	RecordID string // the document id it would have had, empty if none
	Reason   string // for people
}

// deadDocument is one chunk of a dead letter.
type deadDocument struct {
	ID          string `json:"id"`
	PK          string `json:"pk"`
	Kind        string `json:"kind"`
	V           int    `json:"v"`
	Content     string `json:"content"` // entry id
	ContentType string `json:"contentType"`
	ContentID   string `json:"contentId"`
	Element     int    `json:"element"`
	Offset      int64  `json:"offset"`
	RecordID    string `json:"recordId,omitempty"`
	Reason      string `json:"reason"`
	Chunk       int    `json:"chunk"`
	Last        bool   `json:"last"`
	Data        []byte `json:"data"`   // base64: the text may be no valid JSON string
	Bytes       int64  `json:"bytes"`  // of the letter up to the end of this chunk
	SHA256      string `json:"sha256"` // of the same bytes: in the last chunk, of the whole letter
}

// Bury stores a dead letter of e: all of r, in as many documents as it takes. A
// letter that is there already is left as it is. When r fails, what came before
// is stored and r's error is returned.
func (l *Ledger) Bury(ctx context.Context, e *Entry, d Dead, r io.Reader) error {
	in := bufio.NewReader(r)
	sum := sha256.New()
	buf := make([]byte, chunkBytes)
	pk := "dead|" + e.PK
	doc := deadDocument{
		PK: pk, Kind: "dead", V: 1,
		Content: e.ID, ContentType: e.ContentType, ContentID: e.ContentID,
		Element: d.Element, Offset: d.Offset, RecordID: d.RecordID, Reason: d.Reason,
	}
	for total := int64(0); ; doc.Chunk++ {
		n, err := fill(in, buf)
		if err == nil {
			_, err = in.Peek(1)
		}
		if err == io.EOF {
			doc.Last = true
		} else if err != nil {
			return fmt.Errorf("reading a dead letter: %w", err)
		}
		sum.Write(buf[:n])
		total += int64(n)
		doc.Data, doc.Bytes, doc.SHA256 = buf[:n], total, hex.EncodeToString(sum.Sum(nil))
		// The bytes are part of the identity: a try that was cut short may have
		// left chunks of a letter that reads differently now.
		doc.ID = hash("dead", e.ID, fmt.Sprint(d.Element), fmt.Sprint(doc.Chunk), doc.SHA256)
		body, err := json.Marshal(&doc)
		if err != nil {
			return fmt.Errorf("encoding a dead letter: %w", err)
		}
		if err := l.container.Create(ctx, cosmos.KeyString(pk), body); err != nil && cosmos.KindOf(err) != cosmos.Exists {
			return fmt.Errorf("storing a dead letter: %w", err)
		}
		if doc.Last {
			return nil
		}
	}
}

// Buried returns which elements of e's content are dead letters.
func (l *Ledger) Buried(ctx context.Context, e *Entry) (elements map[int]bool, err error) {
	pk := "dead|" + e.PK
	elements = map[int]bool{}
	err = l.container.Query(ctx, cosmos.KeyString(pk),
		"SELECT c.element FROM c WHERE c.pk = @pk AND c.content = @content AND c.chunk = @first",
		[]cosmos.Param{{Name: "@pk", Value: pk}, {Name: "@content", Value: e.ID}, {Name: "@first", Value: 0}}, 0,
		func(row json.RawMessage) error {
			var doc struct{ Element int }
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading a dead letter: %w", err)
			}
			elements[doc.Element] = true
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading which elements are dead letters: %w", err)
	}
	return elements, nil
}

// fill reads until buf is full or r ends. Unlike [io.ReadFull] it keeps a body
// that was cut short (an error of r) apart from one that simply ends (io.EOF).
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if n == len(buf) {
		err = nil
	}
	return n, err
}
