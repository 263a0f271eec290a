package cosmosfake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
)

// accountKey is synthetic: base64 of a sentence.
const accountKey = "c3ludGhldGljIGtleSBvZiB0aGUgZmFrZQ=="

// bubble runs test in a synctest bubble with a fake that checks signatures and
// has the containers of newAccount, and with the product's connection to it.
func bubble(t *testing.T, test func(t *testing.T, a account, db *cosmos.DB)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, cosmosfake.Options{Key: accountKey})
		test(t, a, connect(t, a.f, accountKey))
	})
}

// connect opens the product's connection; an empty key means an Entra token.
func connect(t testing.TB, f *cosmosfake.Fake, key string) *cosmos.DB {
	t.Helper()
	db, err := cosmos.Open(cosmos.Config{
		Endpoint: "https://fake.documents.example:443/", Key: key, Credential: token{}, Database: "Audit",
		Transport: &http.Client{Transport: f},
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// token is a credential whose tokens are synthetic.
type token struct{}

func (token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "synthetic", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func wantKind(t *testing.T, what string, err error, want cosmos.Kind) {
	t.Helper()
	if got := cosmos.KindOf(err); got != want {
		t.Errorf("%s: %v, want kind %d", what, err, want)
	}
}

const none = cosmos.Kind(-1)

var a1 = cosmos.KeyString("a")

func TestConnection(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		ctx, c := t.Context(), db.Container("Flat")
		equal(t, "ID", c.ID(), "Flat")
		paths, err := db.Container("Levels").Paths(ctx)
		wantKind(t, "Paths", err, none)
		equal(t, "paths", paths, []string{"/UserId", "/archive/hour"})
		_, err = db.Container("None").Paths(ctx)
		wantKind(t, "Paths of no container", err, cosmos.Missing)
		properties := azcosmos.ContainerProperties{ID: "New", PartitionKeyDefinition: azcosmos.PartitionKeyDefinition{Paths: []string{"/pk"}, Version: 2, Kind: azcosmos.PartitionKeyKindHash}}
		before := a.f.Count(cosmosfake.CreateContainer, "")
		for range 2 {
			paths, err = db.Provide(ctx, properties)
			wantKind(t, "Provide", err, none)
			equal(t, "paths", paths, []string{"/pk"})
		}
		equal(t, "containers created", a.f.Count(cosmosfake.CreateContainer, "")-before, 1)

		doc := []byte(`{"id":"1","pk":"a","n":1}`)
		wantKind(t, "Create", c.Create(ctx, a1, doc), none)
		wantKind(t, "Create again", c.Create(ctx, a1, doc), cosmos.Exists)
		wantKind(t, "Create elsewhere", db.Container("None").Create(ctx, a1, doc), cosmos.Missing)
		wantKind(t, "Create with another key", c.Create(ctx, cosmos.KeyString("b"), doc), cosmos.OtherKey)
		row, err := c.Read(ctx, a1, "1")
		wantKind(t, "Read", err, none)
		var got struct {
			N    int
			ETag string `json:"_etag"`
		}
		if err := json.Unmarshal(row, &got); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(ctx, a1, "2")
		wantKind(t, "Read of nothing", err, cosmos.NotFound)
		etag, err := c.Replace(ctx, a1, "1", []byte(`{"id":"1","pk":"a","n":2}`), got.ETag)
		wantKind(t, "Replace", err, none)
		if etag == got.ETag || etag == "" {
			t.Errorf("ETag after Replace = %q", etag)
		}
		_, err = c.Replace(ctx, a1, "1", doc, got.ETag)
		wantKind(t, "Replace of what has changed", err, cosmos.Changed)

		statuses, committed, err := c.Batch(ctx, a1, []cosmos.Op{cosmos.Create([]byte(`{"id":"3","pk":"a"}`)), cosmos.Replace("1", doc, etag)})
		wantKind(t, "Batch", err, none)
		equal(t, "statuses", []any{statuses, committed}, []any{[]int{201, 200}, true})
		statuses, committed, err = c.Batch(ctx, a1, []cosmos.Op{cosmos.Create([]byte(`{"id":"4","pk":"a"}`)), cosmos.Replace("1", doc, etag)})
		wantKind(t, "Batch with a changed document", err, none)
		equal(t, "statuses", []any{statuses, committed}, []any{[]int{424, 412}, false})

		usage := db.Usage()
		if usage.Requests == 0 || usage.Throttled != 0 || usage.RequestCharge < 20 {
			t.Errorf("Usage = %+v", usage)
		}
		if diff := usage.RequestCharge - a.f.Charge(); diff > 0.5 || diff < -0.5 {
			t.Errorf("charge = %v, the account says %v", usage.RequestCharge, a.f.Charge())
		}
	})
}

func TestSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, cosmosfake.Options{Key: accountKey})
		_, err := connect(t, a.f, "b3RoZXI=").Container("Flat").Paths(t.Context())
		wantKind(t, "wrong key", err, cosmos.Denied)
		db := connect(t, a.f, "")
		_, err = db.Container("Flat").Paths(t.Context())
		wantKind(t, "Entra token", err, none)
		// With a token nothing is created, and the fault says how to.
		before := a.f.Count(cosmosfake.CreateContainer, "")
		_, err = db.Provide(t.Context(), azcosmos.ContainerProperties{ID: "New"})
		wantKind(t, "Provide with an Entra token", err, cosmos.Missing)
		equal(t, "containers asked for", a.f.Count(cosmosfake.CreateContainer, "")-before, 0)
		a.f.Set(func(s *cosmosfake.Switches) { s.DateOffset = 16 * time.Minute })
		_, err = connect(t, a.f, accountKey).Container("Flat").Paths(t.Context())
		wantKind(t, "signature of a wrong clock", err, cosmos.Denied)
	})
}

func TestAccountClock(t *testing.T) {
	for _, offset := range []time.Duration{0, -10 * time.Minute, time.Hour} {
		bubble(t, func(t *testing.T, a account, _ *cosmos.DB) {
			db := connect(t, a.f, "")
			a.f.Set(func(s *cosmosfake.Switches) { s.DateOffset = offset })
			if _, err := db.Container("Flat").Paths(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := time.Until(db.Now()); (got - offset).Abs() > 2*time.Second {
				t.Errorf("account's clock is ahead by %v, want %v", got, offset)
			}
		})
	}
}

// TestPassingFaults sees each write through two failures of every passing kind:
// what was not done is done, and what was done and lost shows as done.
func TestPassingFaults(t *testing.T) {
	faults := map[string]cosmosfake.Fault{
		"408":                 {Status: 408},
		"410/1002":            {Status: 410, SubStatus: 1002},
		"429":                 {Status: 429, SubStatus: 3200, RetryAfter: "20"},
		"429 no hint":         {Status: 429},
		"429 hint of 0":       {Status: 429, RetryAfter: "0"},
		"429 hint of an hour": {Status: 429, RetryAfter: "3600000"},
		"449":                 {Status: 449},
		"500":                 {Status: 500},
		"502 page":            {Status: 502, Body: "<html>Bad Gateway</html>"},
		"503":                 {Status: 503},
		"404/1002":            {Status: 404, SubStatus: 1002},
		"403/3":               {Status: 403, SubStatus: 3},
		"reset":               {Reset: true},
		"refused":             {Refuse: true},
		"hang":                {Hang: true},
		"cut":                 {Cut: 1}, // a batch's answer; creates have none
		"lost":                {Reset: true, Commit: true},
		"500 after commit":    {Status: 500, Commit: true},
		"hang after commit":   {Hang: true, Commit: true},
		"short":               {Drop: 1},
		"empty":               {Drop: cosmosfake.EmptyBody},
		"429 first":           {Status: 429, Operation: 1},
		"449 middle":          {Status: 449, Operation: cosmosfake.Middle},
		"503 last":            {Status: 503, Operation: cosmosfake.Last},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
				ctx, c := t.Context(), db.Container("Flat")
				if _, err := c.Paths(ctx); err != nil {
					t.Fatal(err)
				}
				lost := fault.Commit
				twice := func(kind cosmosfake.Kind) {
					a.f.Recover()
					a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{kind}, Times: 2, Fault: fault})
				}
				ops := func(from int) (list []cosmos.Op) {
					for i := range 3 {
						list = append(list, cosmos.Create(fmt.Appendf(nil, `{"id":"b%d","pk":"a"}`, from+i)))
					}
					return list
				}

				if fault.Operation == 0 {
					twice(cosmosfake.Create)
					err := c.Create(ctx, a1, []byte(`{"id":"1","pk":"a"}`))
					if lost {
						wantKind(t, "Create", err, cosmos.Exists)
					} else {
						wantKind(t, "Create", err, none)
					}
					doc, err := c.Read(ctx, a1, "1")
					if err != nil {
						t.Fatal(err)
					}
					var got struct {
						ETag string `json:"_etag"`
					}
					if err := json.Unmarshal(doc, &got); err != nil {
						t.Fatal(err)
					}
					twice(cosmosfake.Replace)
					_, err = c.Replace(ctx, a1, "1", []byte(`{"id":"1","pk":"a","n":2}`), got.ETag)
					if lost {
						wantKind(t, "Replace", err, cosmos.Changed)
					} else {
						wantKind(t, "Replace", err, none)
					}
					twice(cosmosfake.Read)
					doc, err = c.Read(ctx, a1, "1")
					wantKind(t, "Read", err, none)
					if !strings.Contains(string(doc), `"n":2`) {
						t.Errorf("document = %s", doc)
					}
					twice(cosmosfake.Query)
					rows := 0
					err = c.Query(ctx, a1, "SELECT * FROM c", nil, 0, func(json.RawMessage) error { rows++; return nil })
					wantKind(t, "Query", err, none)
					equal(t, "rows", rows, 1)
				}

				twice(cosmosfake.Batch)
				statuses, committed, err := c.Batch(ctx, a1, ops(0))
				wantKind(t, "Batch", err, none)
				if lost || fault.Drop != 0 || fault.Cut != 0 {
					equal(t, "batch", []any{statuses, committed}, []any{[]int{409, 424, 424}, false})
				} else {
					equal(t, "batch", []any{statuses, committed}, []any{[]int{201, 201, 201}, true})
				}
				for i := range 3 {
					if _, err := c.Read(ctx, a1, fmt.Sprint("b", i)); err != nil {
						t.Error(err)
					}
				}
				if fault.Status == 429 && db.Usage().Throttled < 2 {
					t.Errorf("Usage = %+v", db.Usage())
				}
			})
		})
	}
}

func TestLastingFaults(t *testing.T) {
	tests := []struct {
		fault cosmosfake.Fault
		want  cosmos.Kind
		calls int
	}{
		{cosmosfake.Fault{Status: 400}, cosmos.Refused, 1},
		{cosmosfake.Fault{Status: 401}, cosmos.Denied, 1},
		{cosmosfake.Fault{Status: 403}, cosmos.Denied, 1},
		{cosmosfake.Fault{Status: 403, SubStatus: 5300}, cosmos.Denied, 1},
		{cosmosfake.Fault{Status: 403, SubStatus: 1014}, cosmos.Full, 1},
		{cosmosfake.Fault{Status: 404, SubStatus: 1003}, cosmos.Missing, 1},
		{cosmosfake.Fault{Status: 409}, cosmos.Exists, 1},
		{cosmosfake.Fault{Status: 413}, cosmos.TooLarge, 1},
		{cosmosfake.Fault{Status: 500}, cosmos.Transient, 8},
		{cosmosfake.Fault{Status: 503, Body: "no JSON"}, cosmos.Transient, 8},
		{cosmosfake.Fault{Reset: true}, cosmos.Transient, 8},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.fault), func(t *testing.T) {
			bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Create}, Times: cosmosfake.Always, Fault: tt.fault})
				err := db.Container("Flat").Create(t.Context(), a1, []byte(`{"id":"1","pk":"a"}`))
				wantKind(t, "Create", err, tt.want)
				equal(t, "tries", a.f.Count(cosmosfake.Create, "Flat"), tt.calls)
				f, ok := errors.AsType[*cosmos.Fault](err)
				if !ok || f.Status != tt.fault.Status || f.Unwrap() == nil {
					t.Fatalf("error = %#v", err)
				}
				for _, secret := range []string{accountKey, "type%3D", `"pk"`} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("error tells %q: %v", secret, err)
					}
				}
			})
		})
	}
}

func TestThrottlingIsEndlessUntilTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Create}, Times: cosmosfake.Always, Fault: cosmosfake.Fault{Status: 429, RetryAfter: "1000"}})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		begin := time.Now()
		err := db.Container("Flat").Create(ctx, a1, []byte(`{"id":"1","pk":"a"}`))
		wantKind(t, "Create", err, cosmos.Throttled)
		if d := time.Since(begin); d > 5*time.Minute || d < 4*time.Minute {
			t.Errorf("gave up after %v", d)
		}
		a.f.Recover()
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Create}, Times: 40, Fault: cosmosfake.Fault{Status: 429}})
		wantKind(t, "Create after a storm", db.Container("Flat").Create(t.Context(), a1, []byte(`{"id":"1","pk":"a"}`)), none)
	})
}

// TestFirstContact takes the account away at the start: azcosmos would keep the
// first failure for five minutes.
func TestFirstContact(t *testing.T) {
	for name, fault := range map[string]cosmosfake.Fault{
		"503": {Status: 503}, "429": {Status: 429, SubStatus: 3200}, "401": {Status: 401}, "403": {Status: 403}, "404": {Status: 404},
		"refused": {Refuse: true}, "reset": {Reset: true}, "cut": {Cut: 9}, "page": {Status: 200, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
				a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Account}, Times: cosmosfake.Always, Fault: fault})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := db.Container("Flat").Paths(ctx); err == nil {
					t.Fatal("no error while the account is away")
				}
				a.f.Recover()
				begin := time.Now()
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := db.Container("Flat").Paths(ctx)
				wantKind(t, "Paths when the account is back", err, none)
				if d := time.Since(begin); d > 5*time.Second {
					t.Errorf("recovered after %v", d)
				}
			})
		})
	}
}

func TestCancelledWhileHanging(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		c := db.Container("Flat")
		if _, err := c.Paths(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.f.Inject(cosmosfake.Rule{Times: cosmosfake.Always, Fault: cosmosfake.Fault{Hang: true}})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begin := time.Now()
		err := c.Create(ctx, a1, []byte(`{"id":"1","pk":"a"}`))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 7*time.Second {
			t.Errorf("Create = %v after %v", err, time.Since(begin))
		}
	})
}

func TestQueryGivesEachRowOnce(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		c := db.Container("Flat")
		var want []string
		for i := range 25 {
			id := fmt.Sprintf("%02d", i)
			want = append(want, id)
			if err := c.Create(t.Context(), a1, fmt.Appendf(nil, `{"id":%q,"pk":"a"}`, id)); err != nil {
				t.Fatal(err)
			}
		}
		a.f.Set(func(s *cosmosfake.Switches) { s.PageSize, s.EmptyPages = 4, true })
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Query}, From: 5, Times: 2, Fault: cosmosfake.Fault{Cut: 40}})
		for _, key := range []cosmos.Key{a1, ""} {
			var got []string
			err := c.Query(t.Context(), key, "SELECT c.id FROM c WHERE c.pk = @pk", []cosmos.Param{{Name: "@pk", Value: "a"}}, 0, func(row json.RawMessage) error {
				got = append(got, strings.Trim(string(row), `{}"id:`))
				return nil
			})
			wantKind(t, "Query", err, none)
			equal(t, "rows", got, want)
		}
		stop := errors.New("enough")
		if err := c.Query(t.Context(), a1, "SELECT * FROM c", nil, 0, func(json.RawMessage) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("Query = %v, want the error of row", err)
		}
		wantKind(t, "bad query", c.Query(t.Context(), a1, "SELEKT", nil, 0, nil), cosmos.Refused)
		wantKind(t, "no container", db.Container("None").Query(t.Context(), a1, "SELECT * FROM c", nil, 0, nil), cosmos.Missing)
	})
}

// TestOverTheWire uses the product's own transport and a real connection.
func TestOverTheWire(t *testing.T) {
	a := newAccount(t, cosmosfake.Options{Key: accountKey})
	server := httptest.NewServer(a.f)
	defer server.Close()
	db, err := cosmos.Open(cosmos.Config{Endpoint: server.URL, Key: accountKey, Database: "Audit"})
	if err != nil {
		t.Fatal(err)
	}
	c := db.Container("Flat")
	for _, fault := range []cosmosfake.Fault{{}, {Reset: true, Commit: true}, {Cut: 1, Status: 500}, {Status: 429, RetryAfter: "1"}} {
		a.f.Inject(cosmosfake.Rule{Kinds: []cosmosfake.Kind{cosmosfake.Batch}, Fault: fault})
		statuses, _, err := c.Batch(t.Context(), a1, []cosmos.Op{cosmos.Create([]byte(`{"id":"1","pk":"a"}`)), cosmos.Create([]byte(`{"id":"2","pk":"a"}`))})
		wantKind(t, "Batch", err, none)
		for i, id := range []string{"1", "2"} {
			doc, err := c.Read(t.Context(), a1, id)
			if err != nil || !strings.Contains(string(doc), `"_etag"`) || len(statuses) != 2 {
				t.Errorf("document %d = %s %v after %v", i, doc, err, statuses)
			}
			a.must("204", "DELETE", flat+"/docs/"+id, "", keyHeader, `["a"]`)
		}
	}
}

func TestKeys(t *testing.T) {
	bubble(t, func(t *testing.T, a account, db *cosmos.DB) {
		c := db.Container("Flat")
		values := []string{"", "plain", `quote " and \ and 'single'`, "emoji 😀 𝄞", "DEL \u007f", "bell \a tab \t line\n", "é ü 漢", "<&>\u2028", strings.Repeat("é", 1024)}
		for i, v := range values {
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprint(i)
			wantKind(t, v, c.Create(t.Context(), cosmos.KeyString(v), fmt.Appendf(nil, `{"id":%q,"pk":%s}`, id, text)), none)
			_, err = c.Read(t.Context(), cosmos.KeyString(v), id)
			wantKind(t, v, err, none)
		}
		for key, body := range map[string]string{
			"[{}]": `{"id":"x"}`, "[null]": `{"id":"x","pk":null}`, "[true]": `{"id":"x","pk":true}`,
			"[1e21]": `{"id":"x","pk":1e21}`, "[-0.50]": `{"id":"x","pk":-0.5}`,
			string(append(cosmos.AppendKeyString([]byte{'['}, "s"), ']')): `{"id":"x","pk":"s"}`,
		} {
			wantKind(t, key, c.Create(t.Context(), cosmos.Key(key), []byte(body)), none)
		}
		equal(t, "documents", len(a.f.Documents("Flat")), len(values)+6)
	})
}
