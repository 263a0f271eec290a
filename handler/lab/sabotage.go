package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"activityarchive/handler/lab/emulator"
)

// sabotage damages one archived record behind the product's back and says
// which.
func (s *stage) sabotage(ctx context.Context, how string) (string, error) {
	feed := emulator.Feed(database, archiveName)
	doc, err := s.victim(ctx, feed)
	if err != nil {
		return "", err
	}
	id, _ := doc["id"].(string)
	key, err := partitionKey(doc)
	if err != nil {
		return "", err
	}
	switch how {
	case "drop":
		err = s.account.Delete(ctx, feed, id, key)
		return fmt.Sprintf("dropped record %s", id), err
	case "alter":
		doc["Operation"] = "Sabotage"
	case "double":
		doc["id"] = id + "-twin"
	default:
		return "", fmt.Errorf("sabotage %q: want drop, alter or double", how)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("encode sabotaged record: %w", err)
	}
	if how == "double" {
		return fmt.Sprintf("doubled record %s", id), s.account.Create(ctx, feed, key, text)
	}
	return fmt.Sprintf("altered Operation of record %s", id), s.account.Replace(ctx, feed, id, key, text)
}

// victim is some record that has an Operation.
func (s *stage) victim(ctx context.Context, feed string) (map[string]any, error) {
	for text, err := range s.account.All(ctx, feed) {
		if err != nil {
			return nil, err
		}
		var doc map[string]any
		if err := json.Unmarshal(text, &doc); err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		if _, ok := doc["Operation"].(string); ok {
			return doc, nil
		}
	}
	return nil, errors.New("sabotage: nothing has been archived")
}

// partitionKey is a document's key in the form of the request header.
func partitionKey(doc map[string]any) (string, error) {
	archive, _ := doc["archive"].(map[string]any)
	text, err := json.Marshal([]any{doc["UserId"], archive["hour"]})
	if err != nil {
		return "", fmt.Errorf("encode partition key: %w", err)
	}
	return string(text), nil
}
