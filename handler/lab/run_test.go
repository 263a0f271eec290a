package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/lab/emulator"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/world"
)

// emptyRoot is a repository whose files say nothing, for stages without a host.
func emptyRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range deployed {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// archiveByHand does what the product must, for a world without anything odd in
// it: it is the least that the reconciliation accepts.
func archiveByHand(t *testing.T, s *stage, w *world.World) {
	t.Helper()
	post := func(path, body string) {
		t.Helper()
		if err := s.account.Create(t.Context(), path, "[]", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	post("/dbs", `{"id":"`+database+`"}`)
	post("/dbs/"+database+"/colls", `{"id":"`+archiveName+`"}`)
	post("/dbs/"+database+"/colls", `{"id":"`+ledgerName+`"}`)
	stored := map[string]string{} // by Id: hash of the text that is archived
	for _, c := range w.Contents() {
		if c.Type != "Audit.General" {
			continue
		}
		sum := sha256.Sum256([]byte(c.Type + "\n" + c.ID))
		entry := hex.EncodeToString(sum[:])
		post(emulator.Feed(database, ledgerName), fmt.Sprintf(`{"id":%q,"kind":"entry","state":"stored"}`, entry))
		for i, r := range c.Records {
			if !r.Kept() {
				continue
			}
			sum := sha256.Sum256(r.Text)
			hash := hex.EncodeToString(sum[:])
			switch stored[r.ID] {
			case hash:
				continue
			case "":
				stored[r.ID] = hash
			default:
				body, err := json.Marshal(map[string]any{
					"id": fmt.Sprint(entry, i), "kind": "dead", "content": entry, "element": i, "chunk": 0, "data": []byte(r.Text),
				})
				if err != nil {
					t.Fatal(err)
				}
				post(emulator.Feed(database, ledgerName), string(body))
				continue
			}
			var head struct{ CreationTime string }
			if err := json.Unmarshal(r.Text, &head); err != nil {
				t.Fatal(err)
			}
			post(emulator.Feed(database, archiveName), fmt.Sprintf(
				`{"id":%q,"archive":{"v":1,"content":%q,"type":%q,"day":%q,"hour":%q,"user":%q,"sha256":%q},%s`,
				r.ID, entry, c.Type, c.Created.Format(time.DateOnly), head.CreationTime[:13], strings.ToLower(r.User), hash, r.Text[1:]))
		}
	}
}

// TestSabotage: an archive that is right passes, and each kind of damage is
// found and named.
func TestSabotage(t *testing.T) {
	for how, want := range map[string]string{"": "", "drop": reconcile.Missing, "alter": reconcile.Altered, "double": reconcile.Doubled} {
		t.Run("sabotage "+how, func(t *testing.T) {
			s, err := raise(t.Context(), stageConfig{Root: emptyRoot(t)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			})
			w := world.New(world.Config{Seed: 7, Contents: 30, Records: 8, BigBytes: -1})
			w.Publish(s.tenant)
			archiveByHand(t, s, w)

			id := ""
			if how != "" {
				what, err := s.sabotage(t.Context(), how)
				if err != nil {
					t.Fatal(err)
				}
				id = what[strings.LastIndex(what, " ")+1:]
			}
			all := newTally()
			all.update(w)
			report, err := s.check(t.Context(), all.Published)
			if err != nil {
				t.Fatal(err)
			}
			if how == "" {
				if len(report.Faults) != 0 {
					t.Errorf("faults in an archive that is right: %v", report.Faults)
				}
				f, err := s.measure(t.Context())
				documents, contents := all.Wanted()
				if want := (figures{documents: documents, entries: contents}); err != nil || f != want {
					t.Errorf("measure = %+v, %v, want %+v", f, err, want)
				}
				return
			}
			if len(report.Faults) != 1 || report.Faults[0].What != want || report.Faults[0].ID != id || report.Faults[0].ContentID == "" {
				t.Errorf("faults = %v, want one: %s record %s", report.Faults, want, id)
			}
		})
	}
}

// TestAnswers compares the three answers with what the world knows of itself.
func TestAnswers(t *testing.T) {
	s, err := raise(t.Context(), stageConfig{Root: emptyRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	w := world.New(world.Config{Seed: 7, Contents: 60, Records: 8, BigBytes: -1})
	w.Publish(s.tenant)
	archiveByHand(t, s, w)
	deleted, launched := 0, 0
	for _, e := range w.Expect(false) {
		text := string(e.Texts[0].Bytes)
		if strings.Contains(text, `"Operation":"LaunchPowerApp"`) {
			launched++
		}
		if strings.Contains(text, `"Message":"Delete"`) || strings.Contains(text, `"Operation":"Delete"`) {
			deleted++
		}
	}
	if deleted == 0 || launched == 0 {
		t.Fatalf("the world has %d deletions and %d launches", deleted, launched)
	}
	var out bytes.Buffer
	if err := s.answers(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Dataverse: %d records", deleted), fmt.Sprintf("launched: %d times", launched), "user000@harbor.example"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("answers lack %q:\n%s", want, out.String())
		}
	}
}

// TestRaiseNamesWhatIsMissing: without a built handler the lab says what to do.
func TestRaiseNamesWhatIsMissing(t *testing.T) {
	_, err := raise(context.WithoutCancel(t.Context()), stageConfig{Root: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "host.json") {
		t.Errorf("raise = %v", err)
	}
}
