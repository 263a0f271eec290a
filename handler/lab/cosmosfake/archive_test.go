package cosmosfake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/record"
)

// archiveBubble is a bubble with a prepared archive in the container Audits,
// which the archive has created.
func archiveBubble(t *testing.T, test func(t *testing.T, a account, arc *archive.Archive)) {
	t.Helper()
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		arc := archive.New(db, "Audits")
		if err := arc.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, a, arc)
	})
}

// audit is a synthetic record.
func audit(n int, user string, more string) string {
	return fmt.Sprintf(`{"Id":"%08x-0000-4000-8000-000000000001","RecordType":21,"CreationTime":"2026-03-11T09:%02d:00","Operation":"Delete","Workload":"CRM","UserId":%s%s}`, n, n%60, cosmos.AppendKeyString(nil, user), more)
}

// outcome is what a writer says of a document.
type outcome struct {
	archive.Outcome
	reason string
	err    error
}

const unknown = archive.Outcome(-1)

// store gives records to one writer and returns the outcomes, in order; one that
// failed is unknown.
func store(t *testing.T, ctx context.Context, arc *archive.Archive, content string, raws ...string) []outcome {
	t.Helper()
	var mu sync.Mutex
	outcomes := make([]outcome, len(raws))
	calls := make([]int, len(raws))
	w := arc.Writer(ctx)
	for i, raw := range raws {
		r, err := record.Parse([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		d, err := arc.Document(&r, []byte(raw), record.Meta{Content: content, Type: contentType, Day: "2026-03-11"})
		if err != nil {
			t.Fatal(err)
		}
		if string(d.Raw()) != raw || d.ID() != r.ID || !strings.HasSuffix(d.Identity(), r.ID) {
			t.Errorf("document %s of %s has identity %s", d.ID(), r.ID, d.Identity())
		}
		err = w.Create(ctx, d, func(o archive.Outcome, reason string, err error) {
			mu.Lock()
			defer mu.Unlock()
			calls[i]++
			if err != nil {
				o = unknown
			}
			outcomes[i] = outcome{o, reason, err}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	for i, n := range calls {
		if n != 1 {
			t.Errorf("document %d has %d outcomes", i, n)
		}
	}
	return outcomes
}

// tally counts outcomes.
func tally(list []outcome) map[archive.Outcome]int {
	counts := map[archive.Outcome]int{}
	for _, o := range list {
		counts[o.Outcome]++
	}
	return counts
}

type counts = map[archive.Outcome]int

// audits returns n records of a few users.
func audits(from, n int) (list []string) {
	for i := range n {
		list = append(list, audit(from+i, fmt.Sprintf("user%03d@harbor.example", i%3), ""))
	}
	return list
}

func TestArchivePrepare(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		ctx := t.Context()
		wantKind(t, "another key", archive.New(db, "Flat").Prepare(ctx), cosmos.Denied)
		wantKind(t, "no container, Entra", archive.New(connect(t, a.f, ""), "Audits").Prepare(ctx), cosmos.Missing)
		wantKind(t, "created", archive.New(db, "Audits").Prepare(ctx), none)
		wantKind(t, "there, Entra", archive.New(connect(t, a.f, ""), "Audits").Prepare(ctx), none)
		if err := a.f.Provision("Audit", "ByUser", "/UserId"); err != nil {
			t.Fatal(err)
		}
		byUser := archive.New(db, "ByUser")
		wantKind(t, "by user alone", byUser.Prepare(ctx), none)
		equal(t, "outcomes", tally(store(t, ctx, byUser, "c1", audits(0, 5)...)), counts{archive.Stored: 5})
	})
}

func TestSameRecordAgain(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		ctx := t.Context()
		list := audits(0, 250)
		equal(t, "first", tally(store(t, ctx, arc, "c1", list...)), counts{archive.Stored: 250})
		equal(t, "same content", tally(store(t, ctx, arc, "c1", list...)), counts{archive.Stored: 250})
		equal(t, "another content", tally(store(t, ctx, arc, "c2", list[:120]...)), counts{archive.Duplicate: 120})
		equal(t, "twice in one run", tally(store(t, ctx, arc, "c3", audit(900, "u@harbor.example", ""), audit(900, "u@harbor.example", ""))), counts{archive.Stored: 2})
		other := strings.Replace(list[7], "Delete", "Update", 1)
		mixed := append(audits(300, 60), other, list[8])
		equal(t, "mixed", tally(store(t, ctx, arc, "c4", mixed...)), counts{archive.Stored: 60, archive.Conflict: 1, archive.Duplicate: 1})
		equal(t, "documents", len(a.f.Documents("Audits")), 311)
		for _, d := range a.f.Documents("Audits") {
			if strings.Contains(string(d.Body), "Update") {
				t.Error("the first record was overwritten")
			}
		}
	})
}

func TestArchiveUnderFaults(t *testing.T) {
	for name, fault := range map[string]cosmosfake.Fault{
		"lost": {Reset: true, Commit: true}, "500 after commit": {Status: 500, Commit: true}, "hang after commit": {Hang: true, Commit: true},
		"reset": {Reset: true}, "refused": {Refuse: true}, "429": {Status: 429, RetryAfter: "50"}, "449": {Status: 449}, "410": {Status: 410, SubStatus: 1002},
		"408": {Status: 408}, "503": {Status: 503}, "403/3": {Status: 403, SubStatus: 3}, "cut": {Cut: 20}, "short": {Drop: 1}, "empty": {Drop: cosmosfake.EmptyBody},
		"429 first": {Status: 429, Operation: 1}, "449 middle": {Status: 449, Operation: cosmosfake.Middle}, "500 last": {Status: 500, Operation: cosmosfake.Last},
		"409 first": {Status: 409, Operation: 1}, "424 everywhere": {Status: 424, Operation: 1},
		"413": {Status: 413}, "413 middle": {Status: 413, Operation: cosmosfake.Middle}, "400 last": {Status: 400, Operation: cosmosfake.Last},
	} {
		t.Run(name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Container: "Audits", Times: 2, Fault: fault})
				got := store(t, t.Context(), arc, "c1", audits(0, 250)...)
				// What a batch says of one of its documents is asked again, alone.
				equal(t, "outcomes", tally(got), counts{archive.Stored: 250})
				equal(t, "documents", len(a.f.Documents("Audits")), 250)
			})
		})
	}
}

func TestArchiveSingleUnderFaults(t *testing.T) {
	for name, fault := range map[string]cosmosfake.Fault{
		"lost": {Reset: true, Commit: true}, "500 after commit": {Status: 500, Commit: true}, "429": {Status: 429}, "503": {Status: 503}, "reset": {Reset: true},
	} {
		t.Run(name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Create}, Container: "Audits", Times: 2, Fault: fault})
				equal(t, "outcomes", tally(store(t, t.Context(), arc, "c1", audits(0, 1)...)), counts{archive.Stored: 1})
				equal(t, "documents", len(a.f.Documents("Audits")), 1)
			})
		})
	}
}

// TestPoisonIsFound has the service refuse whole requests because of one
// document: the others must get through.
func TestPoisonIsFound(t *testing.T) {
	for _, status := range []int{400, 413} {
		archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
			list := audits(0, 200)
			for i, n := range []int{3, 77, 199} {
				list[n] = audit(n, "user000@harbor.example", fmt.Sprintf(`,"Message":"poison %d"`, i))
			}
			a.f.Set(func(s *cosmosfake.Switches) {
				s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
					if bytes.Contains(c.Body, []byte("poison")) {
						return &cosmosfake.Fault{Status: status}
					}
					return nil
				}
			})
			got := store(t, t.Context(), arc, "c1", list...)
			equal(t, "outcomes", tally(got), counts{archive.Stored: 197, archive.Refused: 3})
			for _, n := range []int{3, 77, 199} {
				equal(t, "outcome", got[n].Outcome, archive.Refused)
			}
		})
	}
}

// A full logical partition stays full: its records become dead letters, and
// those of others go on.
func TestArchivePartitionFull(t *testing.T) {
	for name, fault := range map[string]cosmosfake.Fault{
		"request": {Status: 403, SubStatus: 1014}, "operation": {Status: 403, SubStatus: 1014, Operation: cosmosfake.Middle},
	} {
		t.Run(name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				list := []string{audit(1, "full@harbor.example", ""), audit(2, "full@harbor.example", ""), audit(3, "other@harbor.example", "")}
				a.f.Set(func(s *cosmosfake.Switches) {
					s.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
						if strings.Contains(c.Key, "full@") {
							return &fault
						}
						return nil
					}
				})
				equal(t, "outcomes", tally(store(t, t.Context(), arc, "c1", list...)), counts{archive.Refused: 2, archive.Stored: 1})
			})
		})
	}
}

func TestArchiveCannotGoOn(t *testing.T) {
	for name, tt := range map[string]struct {
		fault cosmosfake.Fault
		want  cosmos.Kind
	}{
		"denied":         {cosmosfake.Fault{Status: 401}, cosmos.Denied},
		"container gone": {cosmosfake.Fault{Status: 404, SubStatus: 1003}, cosmos.Missing},
		"down":           {cosmosfake.Fault{Status: 503}, cosmos.Transient},
		"unreachable":    {cosmosfake.Fault{Refuse: true}, cosmos.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
				a.f.Inject(cosmosfake.Rule{Container: "Audits", Times: cosmosfake.Always, Fault: tt.fault})
				got := store(t, t.Context(), arc, "c1", audits(0, 30)...)
				equal(t, "outcomes", tally(got), counts{unknown: 30})
				wantKind(t, "error", got[0].err, tt.want)
				a.f.Recover()
				equal(t, "afterwards", tally(store(t, t.Context(), arc, "c1", audits(0, 30)...)), counts{archive.Stored: 30})
				equal(t, "documents", len(a.f.Documents("Audits")), 30)
			})
		})
	}
}

// TestStaleAnswers has a replica lag: what a create refuses as existing cannot
// be found for a while.
func TestStaleAnswers(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		list := audits(0, 30)
		store(t, t.Context(), arc, "c1", list...)
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, Times: 6, Fault: cosmosfake.Fault{Stale: 64}})
		equal(t, "outcomes", tally(store(t, t.Context(), arc, "c2", list...)), counts{archive.Duplicate: 30})
		a.f.Recover()
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Stale: 64}})
		equal(t, "for ever", tally(store(t, t.Context(), arc, "c2", list...)), counts{unknown: 30})
	})
}

// TestHostileRecords stores what Cosmos DB would change, act on or refuse; each
// must come back from archive.original or from the document itself.
func TestHostileRecords(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		records := map[string]string{
			"ttl":           audit(1, "u", `,"ttl":1`),
			"bad ttl":       audit(2, "u", `,"ttl":"never"`),
			"id":            audit(3, "u", `,"id":"../x"`),
			"archive":       audit(4, "u", `,"archive":{"hour":"x"}`),
			"system":        audit(5, "u", `,"_ts":1,"_etag":"x","_rid":2,"_self":3,"_attachments":4`),
			"big number":    audit(6, "u", `,"n":9007199254740993`),
			"beyond double": audit(7, "u", `,"n":1e400`),
			"twice":         audit(8, "u", `,"x":{"a":1,"a":2}`),
			"lone":          audit(9, "u", `,"x":"\ud800"`),
			"plain":         audit(10, "u", `,"n":1.50,"x":"<&>\u2028","deep":{"Value":[1,null,true]}`),
			"emoji user":    audit(11, "😀 \u007f@harbor.example", ""),
			"no user":       `{"Id":"0000000c-0000-4000-8000-000000000001","CreationTime":"2026-03-11T09:00:00"}`,
			"null user":     `{"Id":"0000000d-0000-4000-8000-000000000001","CreationTime":"2026-03-11T09:00:00","UserId":null}`,
			"number user":   `{"Id":"0000000e-0000-4000-8000-000000000001","CreationTime":"2026-03-11T09:00:00","UserId":17}`,
			"huge user":     `{"Id":"0000000f-0000-4000-8000-000000000001","UserId":1e400}`,
			"minus zero":    `{"Id":"00000010-0000-4000-8000-000000000001","UserId":-0}`,
			"odd number":    `{"Id":"00000011-0000-4000-8000-000000000001","UserId":0.10E+2}`,
			"long number":   `{"Id":"00000012-0000-4000-8000-000000000001","UserId":12345678901234567890}`,
			"bool user":     `{"Id":"00000013-0000-4000-8000-000000000001","UserId":false}`,
			"empty user":    `{"Id":"00000014-0000-4000-8000-000000000001","UserId":""}`,
			"lone user":     `{"Id":"00000015-0000-4000-8000-000000000001","UserId":"a\ud800b"}`,
			"two users":     `{"Id":"00000016-0000-4000-8000-000000000001","UserId":"first","UserId":"last"}`,
			"escaped user":  `{"Id":"00000017-0000-4000-8000-000000000001","UserId":"\u0041\/\b\u2028\ud83d\ude00"}`,
			"escaped name":  `{"Id":"00000018-0000-4000-8000-000000000001","\u0055serId":"x","tt\u006c":1,"UserId":"y"}`,
			"longest user":  audit(25, strings.Repeat("é", 1024), ""),
			"deep":          audit(26, "u", `,"x":`+strings.Repeat("[", 127)+strings.Repeat("]", 127)),
			"no Id":         `{"CreationTime":"nonsense","UserId":"u"}`,
			"odd Id":        `{"Id":"..","CreationTime":"2026-03-11T09:00:00","UserId":"u"}`,
		}
		byHash := map[string]string{}
		for name, raw := range records {
			equal(t, name, tally(store(t, t.Context(), arc, "c1", raw)), counts{archive.Stored: 1})
			r, err := record.Parse([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			byHash[fmt.Sprintf("%x", r.SHA256)] = name
		}
		time.Sleep(24 * time.Hour) // any time to live is over
		for _, d := range a.f.Documents("Audits") {
			var doc map[string]any
			if err := json.Unmarshal(d.Body, &doc); err != nil {
				t.Fatal(err)
			}
			meta, _ := doc["archive"].(map[string]any)
			name := byHash[fmt.Sprint(meta["sha256"])]
			delete(byHash, fmt.Sprint(meta["sha256"]))
			if original, ok := meta["original"].(string); ok {
				equal(t, name, original, records[name])
				continue
			}
			var want map[string]any
			if err := json.Unmarshal([]byte(records[name]), &want); err != nil {
				t.Fatal(err)
			}
			for _, member := range []string{"id", "archive", "_rid", "_self", "_etag", "_attachments", "_ts"} {
				delete(doc, member)
			}
			if !reflect.DeepEqual(doc, want) { // cmp.Diff does not end on 127 levels
				t.Errorf("%s came back as %s", name, d.Body)
			}
		}
		equal(t, "missing", byHash, map[string]string{})

		for name, raw := range map[string]string{
			"object as user": `{"UserId":{"a":1}}`, "long user": audit(20, strings.Repeat("u", 2049), ""), "2.1 MB": audit(21, "u", `,"x":"`+strings.Repeat("x", 2_100_000)+`"`),
		} {
			r, err := record.Parse([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := arc.Document(&r, []byte(raw), record.Meta{}); err == nil {
				t.Errorf("%s: a document is made of it", name)
			}
		}
	})
}

// TestThroughput writes at a small provisioned throughput: slower, and complete.
func TestThroughput(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		a.f.Set(func(s *cosmosfake.Switches) { s.Budget = 1000 })
		begin := time.Now()
		equal(t, "outcomes", tally(store(t, t.Context(), arc, "c1", audits(0, 2000)...)), counts{archive.Stored: 2000})
		equal(t, "documents", len(a.f.Documents("Audits")), 2000)
		if took, ideal := time.Since(begin), time.Duration(a.f.Charge()/1000*float64(time.Second)); took < ideal/2 || took > 4*ideal {
			t.Errorf("%.0f RU took %v, at 1000 RU/s %v are ideal", a.f.Charge(), took, ideal)
		}
	})
}

func TestWriterEndsWithItsContext(t *testing.T) {
	archiveBubble(t, func(t *testing.T, a account, arc *archive.Archive) {
		a.f.Inject(cosmosfake.Rule{Container: "Audits", Times: cosmosfake.Always, Fault: cosmosfake.Fault{Hang: true}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		got := store(t, ctx, arc, "c1", audits(0, 50)...)
		equal(t, "outcomes", tally(got), counts{unknown: 50})
		if d := time.Since(begin); d > 11*time.Second || !errors.Is(got[0].err, context.DeadlineExceeded) {
			t.Errorf("ended after %v: %v", d, got[0].err)
		}
	})
}
