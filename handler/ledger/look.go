package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"activityarchive/handler/cosmos"
)

// dayRows is how many entries a page of Day holds: one with the ids of its
// records has up to 22 KB.
const dayRows = 100

// Day gives every entry of a content type and UTC day, in no order. It reads on
// as entries are taken. After an error there are no more.
func (l *Ledger) Day(ctx context.Context, contentType string, day time.Time) iter.Seq2[Entry, error] {
	pk := partition(contentType, day)
	return l.entries(ctx, cosmos.KeyString(pk), "SELECT * FROM c WHERE c.pk = @pk AND c.kind = @kind",
		[]cosmos.Param{{Name: "@pk", Value: pk}, {Name: "@kind", Value: "entry"}})
}

// Lost gives every content that is lost. It is one query over all partitions.
func (l *Ledger) Lost(ctx context.Context) iter.Seq2[Entry, error] {
	return l.entries(ctx, "", "SELECT * FROM c WHERE c.state = @state", []cosmos.Param{{Name: "@state", Value: Lost}})
}

func (l *Ledger) entries(ctx context.Context, key cosmos.Key, sql string, params []cosmos.Param) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		enough := false
		err := l.container.Query(ctx, key, sql, params, dayRows, func(row json.RawMessage) error {
			e, err := decodeEntry(row)
			if err != nil {
				return err
			}
			if enough = !yield(e, nil); enough {
				return errEnough
			}
			return nil
		})
		if err != nil && !enough {
			yield(Entry{}, fmt.Errorf("reading entries: %w", err))
		}
	}
}

// Find returns the entries that have one of ids, at most [cosmos.MaxBatch],
// wherever they are. It is one query over all partitions.
func (l *Ledger) Find(ctx context.Context, ids []string) (found []Entry, err error) {
	params := make([]cosmos.Param, len(ids))
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = fmt.Sprintf("@i%d", i)
		params[i] = cosmos.Param{Name: names[i], Value: id}
	}
	for e, err := range l.entries(ctx, "", "SELECT * FROM c WHERE c.id IN ("+strings.Join(names, ", ")+")", params) {
		if err != nil {
			return nil, err
		}
		found = append(found, e)
	}
	return found, nil
}

// Having returns which of ids, entry ids of the day of created, are in the
// ledger.
func (l *Ledger) Having(ctx context.Context, contentType string, created time.Time, ids []string) (there map[string]bool, err error) {
	there = map[string]bool{}
	for chunk := range slices.Chunk(ids, cosmos.MaxBatch) {
		err := l.byID(ctx, partition(contentType, created), "c.id", chunk, func(row json.RawMessage) error {
			var doc struct{ ID string }
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading an id of the ledger: %w", err)
			}
			there[doc.ID] = true
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading which contents are there: %w", err)
		}
	}
	return there, nil
}

// IDDocument is one document of kind ids: where to find a part of the record ids
// of a large content.
type IDDocument struct {
	ID      string
	Content string // entry id
	Number  int    // from 0; another may have the same if the content read differently once
}

// IDDocuments returns the documents of kind ids of a content type and UTC day, by
// entry id.
func (l *Ledger) IDDocuments(ctx context.Context, contentType string, day time.Time) (docs map[string][]IDDocument, err error) {
	pk := partition(contentType, day)
	docs = map[string][]IDDocument{}
	err = l.container.Query(ctx, cosmos.KeyString(pk), "SELECT c.id, c.content, c.number FROM c WHERE c.pk = @pk AND c.kind = @kind",
		[]cosmos.Param{{Name: "@pk", Value: pk}, {Name: "@kind", Value: "ids"}}, 0, func(row json.RawMessage) error {
			var doc IDDocument
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading record ids: %w", err)
			}
			docs[doc.Content] = append(docs[doc.Content], doc)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading which record ids there are: %w", err)
	}
	return docs, nil
}

// ReadIDs reads the record ids in a document of kind ids of e.
func (l *Ledger) ReadIDs(ctx context.Context, e *Entry, doc IDDocument) (IDs, error) {
	row, err := l.container.Read(ctx, cosmos.KeyString(e.PK), doc.ID)
	if err != nil {
		return IDs{}, fmt.Errorf("reading record ids: %w", err)
	}
	var held struct{ IDs IDs }
	if err := json.Unmarshal(row, &held); err != nil {
		return IDs{}, fmt.Errorf("reading record ids: %w", err)
	}
	return held.IDs, nil
}

// Letter is a dead letter, without its text.
type Letter struct {
	Content   string // entry id
	ContentID string
	Element   int    // its place in the content
	RecordID  string // the document id it would have had, may be empty
	Reason    string
	Whole     bool // every document of it is there
}

// Letters returns the dead letters of a content type and UTC day: all at once,
// about 300 bytes each.
func (l *Ledger) Letters(ctx context.Context, contentType string, day time.Time) (letters []Letter, err error) {
	pk := "dead|" + partition(contentType, day)
	type place struct {
		content string
		element int
	}
	type parts struct {
		letter Letter
		chunks map[int]bool
		last   int // -1: the last chunk was not seen
	}
	var order []*parts
	seen := map[place]*parts{}
	err = l.container.Query(ctx, cosmos.KeyString(pk),
		"SELECT c.content, c.contentId, c.element, c.recordId, c.reason, c.chunk, c.last FROM c WHERE c.pk = @pk",
		[]cosmos.Param{{Name: "@pk", Value: pk}}, 0, func(row json.RawMessage) error {
			var doc deadDocument
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading a dead letter: %w", err)
			}
			p := seen[place{doc.Content, doc.Element}]
			if p == nil {
				p = &parts{letter: Letter{
					Content: doc.Content, ContentID: doc.ContentID, Element: doc.Element, RecordID: doc.RecordID, Reason: doc.Reason,
				}, chunks: map[int]bool{}, last: -1}
				seen[place{doc.Content, doc.Element}] = p
				order = append(order, p)
			}
			p.chunks[doc.Chunk] = true
			if doc.Last {
				p.last = doc.Chunk
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading dead letters: %w", err)
	}
	for _, p := range order {
		p.letter.Whole = p.last >= 0
		for chunk := range p.last {
			p.letter.Whole = p.letter.Whole && p.chunks[chunk]
		}
		letters = append(letters, p.letter)
	}
	return letters, nil
}

// WithLetters returns the entry ids of the contents that have dead letters, by
// partition. It is one query over all partitions.
func (l *Ledger) WithLetters(ctx context.Context) (entries map[string][]string, err error) {
	entries = map[string][]string{}
	seen := map[string]bool{}
	err = l.container.Query(ctx, "", "SELECT c.pk, c.content FROM c WHERE c.kind = @kind",
		[]cosmos.Param{{Name: "@kind", Value: "dead"}}, 0, func(row json.RawMessage) error {
			var doc struct{ PK, Content string }
			if err := json.Unmarshal(row, &doc); err != nil {
				return fmt.Errorf("reading a dead letter: %w", err)
			}
			if pk, ok := strings.CutPrefix(doc.PK, "dead|"); ok && !seen[doc.Content] {
				seen[doc.Content] = true
				entries[pk] = append(entries[pk], doc.Content)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading which contents have dead letters: %w", err)
	}
	return entries, nil
}
