// Package contract_test holds the product's output to one contract on two
// accounts: the enforcing fake and Cosmium. Where Cosmium does not do what the
// service does, the point is skipped there, with the reason.
package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/ca"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/emulator"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
)

const key = "c3ludGhldGljIGFjY291bnQga2V5"

// output is the product's side of one account, prepared.
type output struct {
	db     *cosmos.DB
	audits *archive.Archive
	ledger *ledger.Ledger
}

func TestFake(t *testing.T) {
	contract(t, nil, func(t *testing.T) output {
		fake, err := cosmosfake.New(cosmosfake.Options{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return prepared(t, "https://fake.documents.example/", key, &http.Client{Transport: fake})
	})
}

func TestCosmium(t *testing.T) {
	skipped := map[string]string{
		"ids are unique within a partition":  "Cosmium ignores partition keys: an id is unique in its container",
		"the key must match the document":    "Cosmium ignores partition keys",
		"queries keep to their partition":    "Cosmium ignores partition keys",
		"only filters cross partitions":      "Cosmium serves every query across partitions",
		"a record's own ttl is kept from it": "Cosmium has no time to live, so it could not show a mistake",
	}
	contract(t, skipped, func(t *testing.T) output {
		authority, err := ca.New(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		e, err := emulator.Start(t.Context(), emulator.Config{TLS: authority.ServerTLS(), Key: key})
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: authority.ClientTLS(), ForceAttemptHTTP2: true}
		t.Cleanup(func() {
			transport.CloseIdleConnections()
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		return prepared(t, e.URL(), e.Key(), &http.Client{Transport: transport})
	})
}

func prepared(t *testing.T, endpoint, key string, client *http.Client) output {
	t.Helper()
	db, err := cosmos.Open(cosmos.Config{Endpoint: endpoint, Key: key, Database: "Audit", Transport: client})
	if err != nil {
		t.Fatal(err)
	}
	o := output{db, archive.New(db, "Audits"), ledger.New(db, "ArchiveState")}
	if err := errors.Join(o.audits.Prepare(t.Context()), o.ledger.Prepare(t.Context())); err != nil {
		t.Fatal(err)
	}
	return o
}

// contract runs every point on an account of its own.
func contract(t *testing.T, skipped map[string]string, account func(*testing.T) output) {
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			if reason, ok := skipped[p.name]; ok {
				t.Skip(reason)
			}
			p.test(t, account(t))
		})
	}
	for name := range skipped {
		if !slices.ContainsFunc(points, func(p point) bool { return p.name == name }) {
			t.Errorf("skipped point %q does not exist", name)
		}
	}
}

type point struct {
	name string
	test func(t *testing.T, o output)
}

func kind(t *testing.T, what string, err error, want cosmos.Kind) {
	t.Helper()
	if got := cosmos.KindOf(err); got != want {
		t.Errorf("%s: kind %v (%v), want %v", what, got, err, want)
	}
}

var now = time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)

func entry(id string, found string) ledger.Entry {
	return ledger.NewEntry("Audit.General", id, "https://manage.example/"+id, now.Add(-time.Hour), now.Add(167*time.Hour), found, now)
}

func text(n int, user, more string) string {
	return fmt.Sprintf(`{"Id":"%08x-0000-4000-8000-000000000001","CreationTime":"2026-03-11T09:00:00","RecordType":21,"UserId":%s%s}`, n, user, more)
}

// store gives records of one content to the archive and returns what became of
// each.
func store(t *testing.T, o output, content string, texts ...string) []archive.Outcome {
	t.Helper()
	outcomes := make([]archive.Outcome, len(texts))
	w := o.audits.Writer(t.Context())
	var mu sync.Mutex
	for i, raw := range texts {
		r, err := record.Parse([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		d, err := o.audits.Document(&r, []byte(raw), record.Meta{Content: content, Type: "Audit.General", Day: "2026-03-11"})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Create(t.Context(), d, func(outcome archive.Outcome, reason string, err error) {
			mu.Lock()
			defer mu.Unlock()
			if outcomes[i] = outcome; err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return outcomes
}

// rows runs a query over all partitions and returns one string member.
func rows(t *testing.T, o output, sql string, params ...cosmos.Param) (list []string) {
	t.Helper()
	err := o.db.Container("Audits").Query(t.Context(), "", sql, params, 0, func(row json.RawMessage) error {
		var doc map[string]any
		if err := json.Unmarshal(row, &doc); err != nil {
			return err
		}
		for _, v := range doc {
			list = append(list, fmt.Sprint(v))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

var points = []point{
	{"a document is created once", func(t *testing.T, o output) {
		c, k := o.db.Container("ArchiveState"), cosmos.KeyString("a")
		kind(t, "create", c.Create(t.Context(), k, []byte(`{"id":"1","pk":"a"}`)), cosmos.None)
		kind(t, "again", c.Create(t.Context(), k, []byte(`{"id":"1","pk":"a","n":2}`)), cosmos.Exists)
		_, err := c.Read(t.Context(), k, "2")
		kind(t, "read of nothing", err, cosmos.NotFound)
	}},
	{"a replace needs the last ETag", func(t *testing.T, o output) {
		c, k := o.db.Container("ArchiveState"), cosmos.KeyString("a")
		kind(t, "create", c.Create(t.Context(), k, []byte(`{"id":"1","pk":"a"}`)), cosmos.None)
		row, err := c.Read(t.Context(), k, "1")
		kind(t, "read", err, cosmos.None)
		var doc struct {
			ETag string `json:"_etag"`
		}
		if err := json.Unmarshal(row, &doc); err != nil {
			t.Fatal(err)
		}
		next, err := c.Replace(t.Context(), k, "1", []byte(`{"id":"1","pk":"a","n":1}`), doc.ETag)
		kind(t, "replace", err, cosmos.None)
		_, err = c.Replace(t.Context(), k, "1", []byte(`{"id":"1","pk":"a","n":2}`), doc.ETag)
		kind(t, "replace with an old ETag", err, cosmos.Changed)
		_, err = c.Replace(t.Context(), k, "1", []byte(`{"id":"1","pk":"a","n":3}`), next)
		kind(t, "replace with the new ETag", err, cosmos.None)
	}},
	{"a batch happens whole or not at all", func(t *testing.T, o output) {
		c, k := o.db.Container("ArchiveState"), cosmos.KeyString("a")
		create := func(id string) cosmos.Op { return cosmos.Create([]byte(`{"id":"` + id + `","pk":"a"}`)) }
		statuses, committed, err := c.Batch(t.Context(), k, []cosmos.Op{create("1"), create("2")})
		if err != nil || !committed || !slices.Equal(statuses, []int{201, 201}) {
			t.Errorf("statuses %v, committed %v, error %v", statuses, committed, err)
		}
		statuses, committed, err = c.Batch(t.Context(), k, []cosmos.Op{create("3"), create("2"), create("4")})
		if err != nil || committed || !slices.Equal(statuses, []int{424, 409, 424}) {
			t.Errorf("statuses %v, committed %v, error %v", statuses, committed, err)
		}
		_, err = c.Read(t.Context(), k, "3")
		kind(t, "read of what was rolled back", err, cosmos.NotFound)
	}},
	{"a batch has at most 100 operations", func(t *testing.T, o output) {
		var ops []cosmos.Op
		for i := range cosmos.MaxBatch + 1 {
			ops = append(ops, cosmos.Create(fmt.Appendf(nil, `{"id":"%d","pk":"a"}`, i)))
		}
		_, _, err := o.db.Container("ArchiveState").Batch(t.Context(), cosmos.KeyString("a"), ops)
		kind(t, "101 operations", err, cosmos.Refused)
	}},
	{"a document has at most 2 MB", func(t *testing.T, o output) {
		doc := []byte(`{"id":"1","pk":"a","x":"` + strings.Repeat("x", 2<<20) + `"}`)
		kind(t, "2 MB and some", o.db.Container("ArchiveState").Create(t.Context(), cosmos.KeyString("a"), doc), cosmos.TooLarge)
	}},
	{"ids are unique within a partition", func(t *testing.T, o output) {
		c := o.db.Container("ArchiveState")
		kind(t, "one", c.Create(t.Context(), cosmos.KeyString("a"), []byte(`{"id":"1","pk":"a"}`)), cosmos.None)
		kind(t, "another", c.Create(t.Context(), cosmos.KeyString("b"), []byte(`{"id":"1","pk":"b"}`)), cosmos.None)
	}},
	{"the key must match the document", func(t *testing.T, o output) {
		kind(t, "create", o.db.Container("ArchiveState").Create(t.Context(), cosmos.KeyString("b"), []byte(`{"id":"1","pk":"a"}`)), cosmos.OtherKey)
	}},
	{"what is there decides", func(t *testing.T, o output) {
		one, other := text(1, `"u@harbor.example"`, ""), text(1, `"u@harbor.example"`, `,"n":2`)
		for i, tt := range []struct {
			content, text string
			want          archive.Outcome
		}{
			{"first", one, archive.Stored},
			{"first", one, archive.Stored}, // an earlier try
			{"second", one, archive.Duplicate},
			{"second", other, archive.Conflict},
			{"first", one, archive.Stored},
		} {
			if got := store(t, o, tt.content, tt.text); got[0] != tt.want {
				t.Errorf("step %d: outcome %v, want %v", i, got[0], tt.want)
			}
		}
		// In one batch with new records, too.
		got := store(t, o, "third", text(2, `"u@harbor.example"`, ""), one, other, text(3, `"u@harbor.example"`, ""))
		want := []archive.Outcome{archive.Stored, archive.Duplicate, archive.Conflict, archive.Stored}
		if !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want %v", got, want)
		}
	}},
	{"every UserId finds its partition", func(t *testing.T, o output) {
		users := []string{`"plain@harbor.example"`, `"ZOË"`, `"😀"`, `"\u0007\u007f"`, `""`, `null`, `5`, `true`, `"a\"b\\c"`, `"` + strings.Repeat("x", 2000) + `"`}
		for i, user := range users {
			raw := text(100+i, user, "")
			for range 2 {
				if got := store(t, o, "c", raw); got[0] != archive.Stored {
					t.Errorf("UserId %.40s: outcome %v", user, got[0])
				}
			}
		}
		absent := strings.Replace(text(99, `"x"`, ""), `,"UserId":"x"`, "", 1)
		if got := store(t, o, "c", absent); got[0] != archive.Stored {
			t.Errorf("no UserId: outcome %v", got[0])
		}
		if n := len(rows(t, o, "SELECT c.id FROM c WHERE c.archive.content = @c", cosmos.Param{Name: "@c", Value: "c"})); n != len(users)+1 {
			t.Errorf("%d documents, want %d", n, len(users)+1)
		}
	}},
	{"a record's own ttl is kept from it", func(t *testing.T, o output) {
		if got := store(t, o, "c", text(1, `"u@harbor.example"`, `,"ttl":1`)); got[0] != archive.Stored {
			t.Fatalf("outcome %v", got[0])
		}
		ids := rows(t, o, "SELECT c.ttl, c.archive.original FROM c WHERE c.archive.content = @c", cosmos.Param{Name: "@c", Value: "c"})
		if len(ids) != 1 || !strings.Contains(ids[0], `"ttl":1`) {
			t.Errorf("ttl and original: %q", ids)
		}
	}},
	{"queries keep to their partition", func(t *testing.T, o output) {
		store(t, o, "c", text(1, `"a"`, ""), text(2, `"b"`, ""))
		n := 0
		err := o.db.Container("Audits").Query(t.Context(), cosmos.KeyString("a", "2026-03-11T09"), "SELECT c.id FROM c", nil, 0, func(json.RawMessage) error {
			n++
			return nil
		})
		if err != nil || n != 1 {
			t.Errorf("%d rows, error %v", n, err)
		}
	}},
	{"only filters cross partitions", func(t *testing.T, o output) {
		store(t, o, "c", text(1, `"a"`, ""))
		err := o.db.Container("Audits").Query(t.Context(), "", "SELECT * FROM c ORDER BY c.CreationTime", nil, 0, func(json.RawMessage) error { return nil })
		kind(t, "ORDER BY", err, cosmos.Refused)
	}},
	{"an entry's life", func(t *testing.T, o output) {
		ctx := t.Context()
		listed, notified := entry("listed", ledger.ByListing), entry("notified", ledger.ByWebhook)
		for _, want := range []int{2, 0} {
			if created, err := o.ledger.Record(ctx, []ledger.Entry{listed, notified, listed}); err != nil || len(created) != want {
				t.Errorf("recorded %d, want %d; error %v", len(created), want, err)
			}
		}
		known, err := o.ledger.Known(ctx, "Audit.General", now.Add(-2*time.Hour), now)
		if err != nil || len(known) != 2 || !known[ledger.DigestOf(listed.ID)].Confirmed || known[ledger.DigestOf(notified.ID)].Confirmed {
			t.Errorf("known %v, error %v", known, err)
		}
		if err := o.ledger.Listed(ctx, notified.PK, []ledger.Entry{notified}, now); err != nil {
			t.Error(err)
		}
		open, err := o.ledger.Open(ctx)
		if err != nil || open.Count != 2 || len(open.Partitions) != 1 {
			t.Errorf("open %+v, error %v", open, err)
		}
		var due []ledger.Entry
		for e, err := range o.ledger.Due(ctx, open.Partitions, now) {
			if err != nil {
				t.Fatal(err)
			}
			due = append(due, e)
		}
		if len(due) != 1 || due[0].ID != listed.ID {
			t.Fatalf("due %v", due)
		}
		due[0].Close(ledger.Stored, "", now)
		if err := o.ledger.Save(ctx, &due[0]); err != nil {
			t.Error(err)
		}
		again, err := o.ledger.Entry(ctx, notified.PK, notified.ID)
		if err != nil || again.Found != ledger.ByListing {
			t.Errorf("the notified entry: found by %s, error %v", again.Found, err)
		}
		if open, err = o.ledger.Open(ctx); err != nil || open.Count != 1 {
			t.Errorf("open %+v, error %v", open, err)
		}
	}},
	{"heads and the lease", func(t *testing.T, o output) {
		ctx := t.Context()
		for i := range 3 {
			h, err := o.ledger.Head(ctx, "Audit.General")
			if err == nil {
				err = o.ledger.UpdateHead(ctx, &h, func(h *ledger.Head) error {
					h.ListedTo = ledger.At(now.Add(time.Duration(i) * time.Hour))
					return nil
				})
			}
			if err != nil || !h.ListedTo.Equal(now.Add(time.Duration(i)*time.Hour)) {
				t.Errorf("head %+v, error %v", h, err)
			}
		}
		acquire := func(owner string) (*ledger.Lease, error) {
			control, err := o.ledger.Control(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if h, err := control.Head("Audit.General"); err != nil || !h.ListedTo.Equal(now.Add(2*time.Hour)) {
				t.Errorf("head %+v, error %v", h, err)
			}
			return control.Acquire(ctx, owner)
		}
		lease, err := acquire("one")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acquire("two"); err == nil {
			t.Error("two owners hold the lease")
		} else if held, ok := errors.AsType[*ledger.HeldError](err); !ok || held.Owner != "one" {
			t.Errorf("error = %v", err)
		}
		if err := lease.Renew(ctx); err != nil {
			t.Error(err)
		}
		if _, err := acquire("one"); err != nil {
			t.Errorf("its own lease: %v", err)
		}
	}},
	{"a dead letter of several chunks", func(t *testing.T, o output) {
		e := entry("content", ledger.ByListing)
		letter := bytes.Repeat([]byte("\xff<&>"), 700_000)
		for range 2 {
			if err := o.ledger.Bury(t.Context(), &e, ledger.Dead{Element: 3, Reason: "not valid UTF-8"}, bytes.NewReader(letter)); err != nil {
				t.Fatal(err)
			}
		}
		chunks := map[int][]byte{}
		err := o.db.Container("ArchiveState").Query(t.Context(), cosmos.KeyString("dead|"+e.PK), "SELECT * FROM c WHERE c.pk = @pk",
			[]cosmos.Param{{Name: "@pk", Value: "dead|" + e.PK}}, 0, func(row json.RawMessage) error {
				var doc struct {
					Chunk int
					Data  []byte
				}
				err := json.Unmarshal(row, &doc)
				chunks[doc.Chunk] = append(chunks[doc.Chunk], doc.Data...)
				return err
			})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for i := range len(chunks) {
			got = append(got, chunks[i]...)
		}
		if len(chunks) != 3 || !bytes.Equal(got, letter) {
			t.Errorf("%d chunks hold %d bytes, want 3 and %d", len(chunks), len(got), len(letter))
		}
	}},
}
