package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"activityarchive/handler/cosmos"
)

// ackPartition is the partition of the acknowledgements.
const ackPartition = "ack"

// Ack notes that a person knows of something that the archive lacks: a record, a
// content and every record of it, or what a gap on a day left out. It hides
// nothing else and repairs nothing.
type Ack struct {
	ID   string `json:"id"`
	PK   string `json:"pk"`
	Kind string `json:"kind"`
	V    int    `json:"v"`

	Record      string `json:"record,omitempty"`  // document id in the archive
	Content     string `json:"content,omitempty"` // entry id
	ContentType string `json:"contentType,omitempty"`
	ContentID   string `json:"contentId,omitempty"`
	Gap         string `json:"gap,omitempty"` // UTC day, as in 2026-03-11

	Reason string `json:"reason"`
	At     Stamp  `json:"at"` // by the account's clock
}

// AckRecord acknowledges what is wrong with the record of that document id.
func AckRecord(id string) Ack { return Ack{ID: hash("ack", "record", id), Record: id} }

// AckContent acknowledges what is wrong with a content and its records.
func AckContent(contentType, contentID string) Ack {
	e := EntryID(contentType, contentID)
	return Ack{ID: hash("ack", "content", e), Content: e, ContentType: contentType, ContentID: contentID}
}

// AckGap acknowledges what could not be listed of one UTC day.
func AckGap(contentType, day string) Ack {
	return Ack{ID: hash("ack", "gap", contentType, day), ContentType: contentType, Gap: day}
}

// Acknowledge stores acks, no two of them the same, with a reason, and returns
// how many are new. What was acknowledged before keeps its first reason.
func (l *Ledger) Acknowledge(ctx context.Context, acks []Ack, reason string) (created int, err error) {
	docs := make([]document, len(acks))
	for i, a := range acks {
		a.PK, a.Kind, a.V, a.Reason, a.At = ackPartition, "ack", 1, reason, At(l.db.Now())
		body, err := json.Marshal(&a)
		if err != nil {
			return 0, fmt.Errorf("encoding an acknowledgement: %w", err)
		}
		docs[i] = document{a.ID, body}
	}
	fresh, err := l.create(ctx, ackPartition, docs)
	for _, is := range fresh {
		if is {
			created++
		}
	}
	if err != nil {
		return created, fmt.Errorf("storing acknowledgements: %w", err)
	}
	return created, nil
}

// Acknowledged returns the reasons of those acknowledgements that are there, by
// id.
func (l *Ledger) Acknowledged(ctx context.Context, ids []string) (reasons map[string]string, err error) {
	reasons = map[string]string{}
	for chunk := range slices.Chunk(ids, cosmos.MaxBatch) {
		err := l.byID(ctx, ackPartition, "c.id, c.reason", chunk, func(row json.RawMessage) error {
			var a Ack
			if err := json.Unmarshal(row, &a); err != nil {
				return fmt.Errorf("reading an acknowledgement: %w", err)
			}
			reasons[a.ID] = a.Reason
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading acknowledgements: %w", err)
		}
	}
	return reasons, nil
}
