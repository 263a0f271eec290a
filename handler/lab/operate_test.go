package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/lab/reconcile"
)

// TestOperate runs the commands of the built binary beside the function: what is
// deleted by hand is named, acknowledged, and collected again.
func TestOperate(t *testing.T) {
	s := stageForTest(t, stageConfig{Env: []string{"RECORD_FILTER=all", "REQUESTS_PER_MINUTE=100000"}})
	all := reconcile.New()
	n := 0
	for range 5 {
		var records []json.RawMessage
		for range 4 {
			n++
			records = append(records, json.RawMessage(fmt.Sprintf(
				`{"Id":"6e0c1a70-0000-4000-8000-%012x","CreationTime":"2026-03-11T09:10:11","RecordType":21,"Operation":"CrmDefaultActivity","UserId":"user017@harbor.example"}`, n)))
		}
		c := s.tenant.Publish("Audit.General", s.tenant.Now().Add(-time.Duration(n)*time.Minute), records...)
		for _, r := range records {
			all.Add(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}, r, reconcile.Archived)
		}
	}
	i := instanceForTest(t, s)
	tick := func() {
		t.Helper()
		if _, err := i.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	settle(t, s, all.Wanted)

	s.operate(t, 0, "20 of 20 records found", "completeness")
	what, err := s.sabotage(t.Context(), "drop")
	if err != nil {
		t.Fatal(err)
	}
	gone := what[strings.LastIndex(what, " ")+1:]
	out := s.operate(t, 4, "missing record: Audit.General", "completeness", "--json=false")
	if !strings.Contains(out, gone) || !strings.Contains(out, "1 lacking, 0 acknowledged. Request charge at Cosmos DB: ") {
		t.Errorf("completeness does not name %s, or what it cost:\n%s", gone, out)
	}
	var found struct {
		Finding struct{ RecordID, ContentID string }
	}
	lines := strings.Split(strings.TrimSpace(s.operate(t, 4, `"ru":`, "completeness", "--json")), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
		if strings.HasPrefix(line, `{"finding"`) {
			if err := json.Unmarshal([]byte(line), &found); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found.Finding.RecordID != gone || found.Finding.ContentID == "" {
		t.Errorf("JSON names %+v, want record %s", found.Finding, gone)
	}
	s.operate(t, 0, "1 acknowledged, 0 were before", "acknowledge", "--reason", "taken out on purpose", "--record", gone)
	s.operate(t, 0, "(acknowledged: taken out on purpose)", "completeness")
	s.operate(t, 0, "opened: Audit.General", "redrive", "--content", found.Finding.ContentID)
	tick()
	settle(t, s, all.Wanted)
	s.operate(t, 0, "0 lacking, 0 acknowledged", "completeness")

	now := s.tenant.Now().UTC()
	s.operate(t, 0, "the next tick lists", "backfill", "--from", now.Add(-3*time.Hour).Format(time.RFC3339))
	tick()
	s.operate(t, 1, "the last seven days only", "backfill", "--from", now.Add(-8*24*time.Hour).Format(time.RFC3339))
	s.operate(t, 1, "is none of the content types", "backfill", "--type", "Audit.Exchange", "--from", now.Add(-time.Hour).Format(time.RFC3339))
	s.operate(t, 1, "is not in the ledger", "redrive", "--content", "nothing of the kind")
	s.operate(t, 1, "lies in the future", "completeness", "--since", now.Add(48*time.Hour).Format(time.DateOnly))
	s.operate(t, 0, "0 contents opened", "redrive", "--lost")
	s.operate(t, 0, "0 contents opened", "redrive", "--dead", "--type", "Audit.General")
	s.operate(t, 0, "0 acknowledged, 0 were before", "acknowledge", "--reason", "nothing", "--day", now.Format(time.DateOnly))
	s.operate(t, 2, "missing flags", "redrive")
	s.operate(t, 0, "opened: Audit.General", "redrive", "--day", now.Add(-time.Hour).Format(time.DateOnly))
	tick()
	settle(t, s, all.Wanted)
	compare(t, s, all)
}

// operate runs a command of the built handler with the stage's settings, and
// returns what it writes, which must hold text.
func (s *stage) operate(t *testing.T, code int, text string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.cfg.Handler, args...)
	cmd.Dir, cmd.Env = s.app, s.environment(s.settings)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil
		if exit.ExitCode() != code {
			t.Errorf("handler %q ended with %d, want %d", args, exit.ExitCode(), code)
		}
	} else if err == nil && code != 0 {
		t.Errorf("handler %q ended with 0, want %d", args, code)
	}
	if all := out.String() + errs.String(); err != nil || !strings.Contains(all, text) {
		t.Errorf("handler %q: %v; want %q in\n%s", args, err, text, all)
	}
	return out.String()
}
