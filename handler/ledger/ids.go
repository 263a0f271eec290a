package ledger

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const (
	// idsInEntry is how many record ids an entry holds itself. Most contents are
	// small, and one write that closes the entry and names its records is then
	// enough; a larger list goes before it, in documents of its own.
	idsInEntry = 1000

	// idsInDocument keeps a document of ids under half a megabyte.
	idsInDocument = 20_000
)

// IDs is a compact list of document ids: those that are GUIDs in lower case as
// 16 bytes each (base64 in JSON), any others as they are.
type IDs struct {
	GUIDs []byte   `json:"guids,omitempty"`
	Other []string `json:"other,omitempty"`
}

// Add appends one id.
func (l *IDs) Add(id string) {
	if b, ok := guidBytes(id); ok {
		l.GUIDs = append(l.GUIDs, b[:]...)
	} else {
		l.Other = append(l.Other, id)
	}
}

// Len returns how many ids the list holds.
func (l *IDs) Len() int { return len(l.GUIDs)/16 + len(l.Other) }

// All returns the ids, GUIDs first, each kind in the order of Add.
func (l *IDs) All() []string {
	all := make([]string, 0, l.Len())
	for b := range slices.Chunk(l.GUIDs, 16) {
		if len(b) == 16 {
			x := hex.EncodeToString(b)
			all = append(all, x[:8]+"-"+x[8:12]+"-"+x[12:16]+"-"+x[16:20]+"-"+x[20:])
		}
	}
	return append(all, l.Other...)
}

// guidBytes reads a lower-case GUID, the only spelling that the bytes alone
// give back.
func guidBytes(s string) (b [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return b, false
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	for i := range len(digits) {
		if c := digits[i]; c >= 'A' && c <= 'F' {
			return b, false
		}
	}
	n, err := hex.Decode(b[:], []byte(digits))
	return b, err == nil && n == 16
}

// sorted returns the list in an order that depends on nothing but the ids.
func (l *IDs) sorted() IDs {
	guids := slices.Collect(slices.Chunk(slices.Clone(l.GUIDs), 16))
	slices.SortFunc(guids, bytes.Compare)
	return IDs{GUIDs: slices.Concat(guids...), Other: slices.Sorted(slices.Values(l.Other))}
}

// SaveIDs puts the ids of a content's records into e, or, when they are many,
// into documents beside it. Call it before the entry is closed and saved.
func (l *Ledger) SaveIDs(ctx context.Context, e *Entry, ids IDs) error {
	ids = ids.sorted()
	if ids.Len() <= idsInEntry {
		e.IDs, e.IDChunks = ids, 0
		return nil
	}
	var docs []document
	add := func(part IDs) error {
		// The ids are part of the identity: a content that read differently once
		// may have left others.
		id := hash("ids", e.ID, fmt.Sprint(len(docs)), string(part.GUIDs), strings.Join(part.Other, " "))
		body, err := json.Marshal(struct {
			ID      string `json:"id"`
			PK      string `json:"pk"`
			Kind    string `json:"kind"`
			V       int    `json:"v"`
			Content string `json:"content"` // entry id
			Number  int    `json:"number"`
			IDs     IDs    `json:"ids"`
		}{id, e.PK, "ids", 1, e.ID, len(docs), part})
		if err != nil {
			return fmt.Errorf("encoding record ids: %w", err)
		}
		docs = append(docs, document{id, body})
		return nil
	}
	for part := range slices.Chunk(ids.GUIDs, 16*idsInDocument) {
		if err := add(IDs{GUIDs: part}); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(ids.Other, idsInDocument/4) { // 64 characters each
		if err := add(IDs{Other: part}); err != nil {
			return err
		}
	}
	if _, err := l.create(ctx, e.PK, docs); err != nil {
		return fmt.Errorf("saving record ids: %w", err)
	}
	e.IDs, e.IDChunks = IDs{}, len(docs)
	return nil
}
