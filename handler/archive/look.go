package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"activityarchive/handler/cosmos"
)

// Brought gives to each the id of every document that one of contents brought:
// entry ids, at most [cosmos.MaxBatch]. It is one query over all partitions, and
// needs no Prepare.
func (a *Archive) Brought(ctx context.Context, contents []string, each func(content, id string) error) error {
	return a.look(ctx, "c.id, c.archive.content", "c.archive.content", contents, each)
}

// WithIDs gives to each the id of every document that has one of ids, at most
// [cosmos.MaxBatch]. An id can stand in several partitions, and then comes several
// times. It is one query over all partitions, and needs no Prepare.
func (a *Archive) WithIDs(ctx context.Context, ids []string, each func(id string) error) error {
	return a.look(ctx, "c.id", "c.id", ids, func(_, id string) error { return each(id) })
}

func (a *Archive) look(ctx context.Context, fields, path string, values []string, each func(content, id string) error) error {
	params := make([]cosmos.Param, len(values))
	names := make([]string, len(values))
	for i, value := range values {
		names[i] = fmt.Sprintf("@v%d", i)
		params[i] = cosmos.Param{Name: names[i], Value: value}
	}
	sql := "SELECT " + fields + " FROM c WHERE " + path + " IN (" + strings.Join(names, ", ") + ")"
	return a.container.Query(ctx, "", sql, params, 0, func(row json.RawMessage) error {
		var doc struct{ ID, Content string }
		if err := json.Unmarshal(row, &doc); err != nil {
			return fmt.Errorf("reading which records the archive holds: %w", err)
		}
		return each(doc.Content, doc.ID)
	})
}
