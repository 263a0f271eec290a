package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"activityarchive/handler/lab/emulator"
)

// row is what the three questions need of a document.
type row struct {
	UserID       string          `json:"UserId"`
	CreationTime string          `json:"CreationTime"`
	EntityName   string          `json:"EntityName"`
	EntityID     string          `json:"EntityId"`
	AppName      string          `json:"AppName"`
	Properties   json.RawMessage `json:"PropertyCollection"`
}

// ask runs a query of the kind that Cosmos DB answers across partitions: a
// filter and a projection, summed up here.
func (s *stage) ask(ctx context.Context, sql string, params ...emulator.Param) (rows []row, err error) {
	for doc, err := range s.account.Query(ctx, emulator.Feed(database, archiveName), sql, params...) {
		if err != nil {
			return nil, err
		}
		var r row
		if err := json.Unmarshal(doc, &r); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

const best = 5 // rows shown of each answer

// answers prints who deleted what, who was most active and which apps were
// launched, from the archive alone.
func (s *stage) answers(ctx context.Context, w io.Writer) error {
	deleted, err := s.ask(ctx,
		"SELECT c.UserId, c.CreationTime, c.EntityName, c.EntityId FROM c WHERE c.RecordType = @crm AND (c.Message = @delete OR c.Operation = @delete)",
		emulator.Param{Name: "@crm", Value: 21}, emulator.Param{Name: "@delete", Value: "Delete"})
	if err != nil {
		return fmt.Errorf("ask who deleted what: %w", err)
	}
	slices.SortFunc(deleted, func(a, b row) int { return strings.Compare(b.CreationTime, a.CreationTime) })
	fmt.Fprintf(w, "\nWho deleted what in Dataverse: %d records, the latest\n", len(deleted))
	for _, r := range deleted[:min(best, len(deleted))] {
		fmt.Fprintf(w, "  %-20s %-40s %s %s\n", r.CreationTime, r.UserID, r.EntityName, r.EntityID)
	}

	all, err := s.ask(ctx, "SELECT c.UserId FROM c")
	if err != nil {
		return fmt.Errorf("ask for the most active users: %w", err)
	}
	users := map[string]int{}
	for _, r := range all {
		users[strings.ToLower(r.UserID)]++
	}
	fmt.Fprintf(w, "Most active users, of %d names in UserId (people, applications, services)\n", len(users))
	printTop(w, users)

	launched, err := s.ask(ctx, "SELECT c.AppName, c.PropertyCollection FROM c WHERE c.Operation = @launch",
		emulator.Param{Name: "@launch", Value: "LaunchPowerApp"})
	if err != nil {
		return fmt.Errorf("ask for launches: %w", err)
	}
	apps := map[string]int{}
	for _, r := range launched {
		apps[r.app()]++
	}
	fmt.Fprintf(w, "Power Apps launched: %d times\n", len(launched))
	printTop(w, apps)
	return nil
}

// app names the app of a launch: by the display name of the unified shape, which
// comes as an array or as its JSON text, else by the older shape's AppName.
func (r row) app() string {
	var pairs []struct{ Name, Value string }
	if json.Unmarshal(r.Properties, &pairs) != nil {
		var text string
		_ = json.Unmarshal(r.Properties, &text) // neither: AppName
		_ = json.Unmarshal([]byte(text), &pairs)
	}
	for _, p := range pairs {
		if p.Name == "powerplatform.analytics.resource.power_app.display_name" {
			return p.Value
		}
	}
	return cmp.Or(r.AppName, "(unnamed)")
}

func printTop(w io.Writer, counts map[string]int) {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
	for _, name := range names[:min(best, len(names))] {
		fmt.Fprintf(w, "  %8d  %s\n", counts[name], cmp.Or(name, "(none)"))
	}
}
