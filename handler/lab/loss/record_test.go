package loss_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
)

var recordRows = []row{
	{
		name: "X-members", what: "a record's own ttl deletes it, or its own id, archive or _ts is taken for the archive's",
		test: keeps(true, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"ttl":1`),
				rec(2, `,"ttl":"soon"`),
				rec(3, `,"id":"mine"`),
				rec(4, `,"id":17`),
				rec(5, `,"archive":{"v":9,"original":"mine"}`),
				rec(6, `,"_ts":5,"_rid":"a","_self":"b","_etag":"c","_attachments":null`),
				rec(7, `,"t\u0074l":1`),
				rec(8, `,"ttl":60,"ttl":1`),
				json.RawMessage(`{"ttl":1}`),
			}
		}),
	},
	{
		name: "X-members-alike", what: "members that only look like reserved ones are taken for them",
		test: keeps(false, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"TTL":1,"ID":"mine","Archive":1,"_Ts":5,"__proto__":{}`),
				rec(2, `,"inner":{"ttl":1,"id":2,"archive":3,"_ts":4}`),
				rec(3, `,"":0`),
			}
		}),
	},
	{
		name: "X-numbers", what: "numbers that a double does not hold come back as others",
		test: keeps(true, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"n":9007199254740993`),
				rec(2, `,"n":[-9007199254740993]`),
				rec(3, `,"n":123456789012345678901234567890`),
				rec(4, `,"n":1e400`),
				rec(5, `,"n":-1e400`),
				rec(6, `,"n":1e-400`),
				rec(7, `,"n":0.1000000000000000055511151231257827`),
			}
		}),
	},
	{
		name: "X-numbers-held", what: "numbers that a double does hold are changed in value",
		test: keeps(false, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"n":[9007199254740992,-9007199254740992,0,-0,0.0,1.50,1E2,2.5e-3,1e22,0.1]`),
				rec(2, `,"n":1.7976931348623157e308`),
				rec(3, `,"n":5e-324`),
			}
		}),
	},
	{
		name: "X-names", what: "a name that occurs twice loses its first value",
		test: keeps(true, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"x":1,"x":2`),
				rec(2, `,"x":{"y":1,"y":1}`),
				rec(3, `,"x":[{"y":1,"\u0079":2}]`),
				rec(4, `,"Id":"00000000-0000-4000-8000-000000000104"`),
				rec(5, `,"UserId":"another@harbor.example"`),
			}
		}),
	},
	{
		name: "X-surrogates", what: "half of a surrogate pair becomes another character",
		test: keeps(true, func() []json.RawMessage {
			return []json.RawMessage{
				rec(1, `,"x":"\ud83d"`),
				rec(2, `,"x":"\ude00\ud83d"`),
				rec(3, `,"\ud800":1`),
				rec(4, `,"x":["\ud83dx\ude00"]`),
				odd(5, guidOf(5), `"\udc00@harbor.example"`),
			}
		}),
	},
	{
		name: "X-surrogates-whole", what: "a whole surrogate pair is taken for a broken one",
		test: keeps(false, func() []json.RawMessage {
			return []json.RawMessage{rec(1, `,"x":"\ud83d\ude00"`), rec(2, `,"x":"\\ud83d"`), rec(3, `,"x":"😀\u2028"`)}
		}),
	},
	{
		name: "X-nesting", what: "a record nested deeper than Cosmos DB takes is dropped, or its siblings with it",
		test: func(t *testing.T, s *system) {
			nested := func(n, levels int) json.RawMessage { // the record itself is the first
				return rec(n, `,"x":`+strings.Repeat("[", levels-1)+strings.Repeat("]", levels-1))
			}
			mixed := rec(5, `,"x":`+strings.Repeat(`{"y":[`, 100)+strings.Repeat("]}", 100))
			dead := []json.RawMessage{nested(3, 129), nested(4, 200), mixed}
			s.tenant.Publish(general, time.Now(), slices.Concat(recs(900, 3), []json.RawMessage{nested(1, 20), nested(2, 128)}, dead, recs(910, 3))...)
			s.process().ticks(2)
			s.reconciled(refusing(dead))
			s.counted(8, 0, 3)
		},
	},
	{
		name: "X-sizes", what: "a record larger than Cosmos DB takes is dropped, or its siblings with it",
		test: func(t *testing.T, s *system) {
			filled := func(n, size int, filler string) json.RawMessage {
				return rec(n, `,"x":"`+strings.Repeat(filler, size/len(filler))+`"`)
			}
			good := []json.RawMessage{
				filled(1, 1_900_000, "x"),
				filled(2, 1_900_000, "<"), // six bytes each in a batch
				filled(3, 900_000, `\"`),
			}
			dead := []json.RawMessage{
				filled(4, 2_100_000, "x"),
				filled(5, 20_000_000, "x"),
				rec(6, `,"n":9007199254740993,"x":"`+strings.Repeat("x", 1_200_000)+`"`), // with its whole text beside it too large
			}
			s.tenant.Publish(general, time.Now(), slices.Concat(recs(900, 3), good, dead, recs(910, 3))...)
			s.process().ticks(2)
			s.reconciled(refusing(dead))
			s.counted(9, 0, 3)
		},
	},
	{
		name: "X-ids", what: "an Id that is no GUID makes the record unstorable, or is taken for another's",
		test: keeps(false, func() (list []json.RawMessage) {
			for i, id := range []string{
				"", "null", `""`, `"."`, `".."`, `"a/b"`, `"a\\b?c#d"`, `"\"quoted\" 'twice'"`, `"` + strings.Repeat("i", 2048) + `"`,
				"17", "1.5e3", "true", "{}", `["x"]`, `"\u0000"`, `"😀"`, `" ` + guidOf(1)[1:], `"{` + guidOf(1)[1:37] + `}"`,
				strings.ToUpper(`"00000000-0000-4000-8000-00000000abcd"`), `"00000000-0000-4000-8000-00000000abcd"`,
			} {
				list = append(list, odd(i, id, `"user001@harbor.example"`))
			}
			return list
		}),
	},
	{name: "X-users", what: "a UserId that is no plain name makes the record unstorable", test: users},
	{
		name: "X-users-flat", what: "the same in a container whose key is UserId alone",
		set:  func(o *options) { o.paths = []string{"/UserId"} },
		test: users,
	},
	{
		name: "X-duplicate", what: "the same record in several contents is stored as often, or counted as stored",
		test: func(t *testing.T, s *system) {
			same := recs(1, 20)
			s.tenant.Publish(general, time.Now(), slices.Concat(same, recs(100, 5))...)
			s.tenant.Publish(general, time.Now(), slices.Concat(recs(200, 5), same)...)
			p := s.process()
			p.ticks(1)
			s.tenant.Publish(general, time.Now(), same...)
			s.tenant.Publish(general, time.Now(), slices.Concat(same, same, recs(300, 5))...)
			p.ticks(2)
			s.reconciled(nil)
			s.counted(35, 4*20, 0)
		},
	},
	{
		name: "X-conflict", what: "a record with the Id of another overwrites it, or is dropped as its duplicate",
		test: func(t *testing.T, s *system) {
			first, second, third := recs(1, 10), []json.RawMessage{}, []json.RawMessage{}
			for i := range first {
				second = append(second, rec(1+i, `,"Version":2`))
				third = append(third, rec(1+i, `,"Version":3`))
			}
			p := s.process()
			s.tenant.Publish(general, time.Now(), first...)
			p.ticks(1)
			s.tenant.Publish(general, time.Now(), slices.Concat(recs(100, 5), second)...)
			p.ticks(1)
			s.tenant.Publish(general, time.Now(), slices.Concat(third, first, recs(200, 5))...)
			p.ticks(1)
			s.tenant.Publish(general, time.Now(), rec(300, ""), rec(300, `,"Version":2`)) // within one content
			p.ticks(2)
			s.reconciled(nil)
			s.counted(10+5+5+1, 10, 10+10+1)
			texts := s.texts()
			for _, raw := range first {
				if !slices.Contains(texts, hashOf(raw)) {
					t.Errorf("the first record with its Id is no longer archived: %s", raw)
				}
			}
		},
	},
	{
		name: "X-conflict-order", what: "of records with the same Id in one content another than the first stays, as it happens to be written",
		test: func(t *testing.T, s *system) {
			p := s.process()
			p.ticks(1)
			var first []string
			for seed := range 20 {
				s.account.Set(func(sw *cosmosfake.Switches) { sw.Hook = jitter(seed) })
				list := []json.RawMessage{}
				for i := range 100 { // a batch of one user
					list = append(list, rec(7*(seed*1000+i), ""))
				}
				b := rec(7*seed*1000, `,"Version":2`) // of the first
				c, d := rec(7*(seed*1000+500), ""), rec(7*(seed*1000+500), `,"Version":2`)
				for _, raw := range append(list, c) {
					first = append(first, hashOf(raw))
				}
				s.tenant.Publish(general, time.Now(), append(list, b, b, c, d, d)...)
				s.later(time.Second)
				p.mustTick()
			}
			p.ticks(1)
			s.reconciled(nil)
			slices.Sort(first)
			if diff := cmp.Diff(first, s.texts()); diff != "" {
				t.Errorf("records in the archive (-want +got):\n%s", diff)
			}
			s.counted(20*101, 0, 20*4) // whatever the order, the same counts
		},
	},
	{
		name: "X-twins", what: "records that share an Id but are of another user or hour push each other out",
		test: func(t *testing.T, s *system) {
			list := []json.RawMessage{
				odd(1, guidOf(1), `"user001@harbor.example"`),
				odd(1, guidOf(1), `"user002@harbor.example"`),
				odd(1, guidOf(1), `"USER001@harbor.example"`),
				odd(1, guidOf(1), "null"),
				odd(1, guidOf(1), ""),
			}
			later := bytes.Replace(list[0], []byte("T09:"), []byte("T08:"), 1)
			list = append(list, later)
			s.tenant.Publish(general, time.Now(), list[:3]...)
			s.tenant.Publish(general, time.Now(), list[3:]...)
			s.process().ticks(2)
			var want []string
			records := map[string]json.RawMessage{}
			for _, raw := range list {
				want = append(want, hashOf(raw))
				records[hashOf(raw)] = raw
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, s.texts()); diff != "" {
				t.Errorf("records in the archive (-want +got):\n%s", diff)
			}
			for _, d := range s.account.Documents("Audits") {
				var archive struct{ SHA256 string }
				if err := unmarshalExact(d.Body, "archive", &archive); err != nil {
					t.Fatal(err)
				}
				if raw, ok := records[archive.SHA256]; ok {
					s.holds(d, raw)
				}
			}
			s.counted(6, 0, 0)
		},
	},
}

// users is the row of odd UserIds.
func users(t *testing.T, s *system) {
	var good, dead []json.RawMessage
	for i, user := range []string{
		"", "null", `""`, `" "`, "17", "1.50", "true", "1e400", `"Mara@Harbor.example"`, `"mara@harbor.example"`,
		`"😀@harbor.example"`, `"\ud83d\ude00\u00e9@harbor.example"`, `"ünï@harbor.example"`, `"\u0000\u0007\u001f\u007f\r\n\t"`, `"\u2028<>&"`,
		`"a\"b\\c/d"`, `"\ufeff"`, `"` + strings.Repeat("u", 2048) + `"`, `"` + strings.Repeat("😀", 512) + `"`,
	} {
		good = append(good, odd(i, guidOf(i), user))
	}
	for i, user := range []string{`"` + strings.Repeat("u", 2049) + `"`, `"` + strings.Repeat("u", 3<<10) + `"`, `"` + strings.Repeat("😀", 513) + `"`, "{}", `["user001@harbor.example"]`} {
		dead = append(dead, odd(100+i, guidOf(100+i), user))
	}
	// What stands before the gateway does not take every header (16 KB is the
	// limit of HTTP.sys, its setting MaxFieldLength), and its page is no verdict on
	// a record.
	dead = append(dead, odd(110, guidOf(110), `"`+strings.Repeat("u", 100<<10)+`"`))
	s.account.Set(func(sw *cosmosfake.Switches) {
		sw.Hook = func(c cosmosfake.Call) *cosmosfake.Fault {
			if len(c.Key) > 16<<10 {
				return &cosmosfake.Fault{Status: http.StatusBadRequest, Body: "<html>Bad Request - Request Too Long</html>"}
			}
			return nil
		}
	})
	s.tenant.Publish(general, time.Now(), slices.Concat(recs(900, 3), good, dead, recs(910, 3))...)
	s.process().ticks(2)
	s.reconciled(refusing(dead))
	s.counted(6+len(good), 0, len(dead))
}

// keeps is a row whose records must all be archived among ordinary ones, and
// stay: with their whole text as archive.original, or all without it.
func keeps(original bool, records func() []json.RawMessage) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		odd := records()
		s.tenant.Publish(general, time.Now(), slices.Concat(recs(900, 3), odd, recs(910, 3))...)
		s.process().ticks(2)
		s.later(2 * time.Hour) // longer than any ttl among them
		s.reconciled(nil)
		s.counted(6+len(odd), 0, 0)
		var want, got []string
		if original {
			for _, raw := range odd {
				want = append(want, string(raw))
			}
		}
		for _, d := range s.account.Documents("Audits") {
			var archive struct{ Original *string }
			if err := unmarshalExact(d.Body, "archive", &archive); err != nil {
				t.Fatal(err)
			}
			if archive.Original != nil {
				got = append(got, *archive.Original)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("records kept with their whole text (-want +got):\n%s", diff)
		}
	}
}

// unmarshalExact reads one member whose name is spelled exactly so: a record may
// have an Archive of its own.
func unmarshalExact(object []byte, name string, v any) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return err
	}
	return json.Unmarshal(members[name], v)
}

// refusing is the fate of records of which those in dead cannot be documents.
func refusing(dead []json.RawMessage) fate {
	set := map[string]bool{}
	for _, raw := range dead {
		set[string(raw)] = true
	}
	return func(raw json.RawMessage) reconcile.Fate {
		if set[string(raw)] {
			return reconcile.Refused
		}
		return reconcile.Archived
	}
}

// counted compares the sums of the ledger's entries.
func (s *system) counted(stored, duplicate, dead int) {
	s.t.Helper()
	sum, _ := s.counts()
	got := [3]int{sum.Stored, sum.Duplicate, sum.Dead}
	if want := [3]int{stored, duplicate, dead}; got != want {
		s.t.Errorf("the ledger counts stored, duplicate, dead %v, want %v", got, want)
	}
}

// texts returns the sorted hashes of the records that the archive holds.
func (s *system) texts() (list []string) {
	s.t.Helper()
	for _, d := range s.account.Documents("Audits") {
		var archive struct{ SHA256 string }
		if err := unmarshalExact(d.Body, "archive", &archive); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, archive.SHA256)
	}
	slices.Sort(list)
	return list
}

func hashOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// guidOf is the Id of record n, in quotes.
func guidOf(n int) string { return fmt.Sprintf(`"00000000-0000-4000-8000-%012d"`, n) }

// odd makes a record with the given JSON texts as Id and UserId; an empty text
// leaves the member out.
func odd(n int, id, user string) json.RawMessage {
	text := fmt.Sprintf(`{"CreationTime":"%s","RecordType":21,"Workload":"CRM","Operation":"Odd%d"`,
		time.Now().UTC().Truncate(time.Hour).Format("2006-01-02T15:04:05"), n)
	if id != "" {
		text += `,"Id":` + id
	}
	if user != "" {
		text += `,"UserId":` + user
	}
	return json.RawMessage(text + "}")
}
