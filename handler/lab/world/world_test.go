package world

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/lab/tenant"
)

// at is an arbitrary time for the worlds of these tests.
var at = time.Date(2026, 3, 12, 10, 20, 0, 0, time.UTC)

// head is what the tests read of a record.
type head struct {
	ID                        string
	CreationTime              string
	UserID                    string
	RecordType                int
	Workload                  string
	CrmOrganizationUniqueName string
	PropertyCollection        json.RawMessage
}

// passes is the filter "powerplatform" as the service's record types and
// workloads define it, read from the text: the opposite way from how the world
// knows it.
func (r *head) passes() bool {
	return slices.Contains([]int{21, 30, 45, 46, 79, 186, 187, 256, 278}, r.RecordType) ||
		slices.Contains([]string{"crm", "dynamics365", "dynamics 365", "powerapps", "microsoftflow", "powerautomate", "powerplatform", "powerpages", "dynamics365businesscentral"}, strings.ToLower(r.Workload)) ||
		r.CrmOrganizationUniqueName != "" || bytes.Contains(r.PropertyCollection, []byte(`"Name":"powerplatform.analytics.`))
}

func TestWorldIsAsPromised(t *testing.T) {
	w := New(Config{Seed: 1, Now: at})
	contents := w.Contents()
	users, perID := map[string]int{}, map[string]Record{}
	firstHour := map[string]string{}
	general, records, kept, copies, variants, biggest, late, aged := 0, 0, 0, 0, 0, 0, 0, 0
	for _, c := range contents {
		size, old := 0, len(c.Records) > 0
		ids := map[string]bool{}
		for _, r := range c.Records {
			size += len(r.Text) + 1
			var head head
			if err := json.Unmarshal(r.Text, &head); err != nil {
				t.Fatal(err)
			}
			if head.ID != r.ID || head.UserID != r.User {
				t.Fatalf("record says Id %q UserId %q, the world %q %q", head.ID, head.UserID, r.ID, r.User)
			}
			if ids[r.ID] {
				t.Errorf("Id %s is twice in one content", r.ID)
			}
			ids[r.ID] = true
			if place := head.UserID + " " + head.CreationTime[:13]; firstHour[r.ID] == "" {
				firstHour[r.ID] = place
			} else if firstHour[r.ID] != place {
				t.Errorf("Id %s is used for %q and %q", r.ID, firstHour[r.ID], place)
			}
			if got := head.passes(); got != r.Kept() {
				t.Errorf("Kept = %v but the filter says %v: %s", r.Kept(), got, r.Text)
			}
			created, err := time.Parse("2006-01-02T15", head.CreationTime[:13])
			if err != nil {
				t.Fatal(err)
			}
			old = old && c.Created.Sub(created) > 5*24*time.Hour
			if c.Type != "Audit.General" {
				continue
			}
			records++
			if r.Kept() {
				kept++
			}
			users[strings.ToLower(r.User)]++
			first, seen := perID[r.ID]
			switch r.Kind {
			case Plain:
				if seen {
					t.Errorf("plain record %s was there before", r.ID)
				}
				perID[r.ID] = r
			case Copy:
				copies++
				if !bytes.Equal(first.Text, r.Text) {
					t.Errorf("copy %s has other bytes", r.ID)
				}
			case Variant:
				variants++
				if !seen || bytes.Equal(first.Text, r.Text) {
					t.Errorf("variant %s has the same bytes, or no first", r.ID)
				}
			}
		}
		if c.Type == "Audit.General" {
			general++
			biggest = max(biggest, size)
		}
		if !c.Visible.IsZero() {
			late++
		}
		if old && c.Type == "Audit.General" {
			aged++
		}
		if c.Created.Before(at.Add(-7*24*time.Hour)) || c.Created.After(at) {
			t.Errorf("content of %v lies outside the seven days", c.Created)
		}
	}
	t.Logf("%d contents, %d records, %d kept, %d copies, %d variants, %d users, biggest %d bytes", general, records, kept, copies, variants, len(users), biggest)
	counts := []int{}
	for user, n := range users {
		if strings.HasSuffix(user, "@harbor.example") {
			counts = append(counts, n)
		}
	}
	slices.Sort(counts)
	if general != 600 || records < 20_000 || records > 40_000 || len(counts) < 290 {
		t.Errorf("%d contents, %d records, %d users", general, records, len(counts))
	}
	if share := float64(kept) / float64(records); share < 0.45 || share > 0.55 {
		t.Errorf("%.2f of the records are kept, want about a half", share)
	}
	if share := float64(copies) / float64(records); share < 0.08 || share > 0.12 {
		t.Errorf("%.2f of the records are copies, want about a tenth", share)
	}
	if biggest <= 16<<20 || variants != 6 || late < 2 || aged < 1 {
		t.Errorf("biggest content %d bytes, %d variants, %d late, %d aged", biggest, variants, late, aged)
	}
	if top := counts[len(counts)-1]; top < 50*counts[len(counts)/10] {
		t.Errorf("the busiest user has %d records, the quietest tenth %d: too equal", top, counts[len(counts)/10])
	}

	expected := w.Expect(false)
	if len(expected) != 0 {
		t.Errorf("%d records are expected before anything was published", len(expected))
	}
	w.Publish(tenant.New(tenant.Config{Clock: func() time.Time { return at }}))
	several := 0
	for _, e := range w.Expect(false) {
		if len(e.Texts) > 1 {
			several++
		}
	}
	if several != 6 {
		t.Errorf("%d Ids have several texts, want 6", several)
	}
	if all := len(w.Expect(true)); all != len(perID) {
		t.Errorf("Expect(true) has %d Ids, the contents %d", all, len(perID))
	}
}

func TestWorldIsRepeatable(t *testing.T) {
	cfg := Config{Seed: 7, Now: at, Contents: 30, BigBytes: -1}
	a, b := New(cfg).Contents(), New(cfg).Contents()
	cfg.Seed = 8
	c := New(cfg).Contents()
	text := func(contents []Content) string {
		out, _ := json.Marshal(contents)
		return string(out)
	}
	if text(a) != text(b) {
		t.Error("the same seed made two worlds")
	}
	if text(a) == text(c) {
		t.Error("another seed made the same world")
	}
}

// TestS36Variants looks for every shape of record and every odd variant.
func TestS36Variants(t *testing.T) {
	var all bytes.Buffer
	for _, c := range New(Config{Seed: 3, Now: at, BigBytes: 8 << 20}).Contents() {
		for _, r := range c.Records {
			all.Write(r.Text)
			all.WriteByte('\n')
		}
	}
	text := all.String()
	for _, want := range []string{
		`"Message":"Create"`, `"Message":"Update"`, `"Message":"Delete"`, `"Message":"Retrieve"`, `"Message":"RetrieveMultiple"`,
		`"Message":"UserSignIn"`, `"Message":"PublishAll"`, `"RecordType":45`, `"RecordType":256`, `"RecordType":30`,
		`"RecordType":1,`, `"RecordType":15`, `"Operation":"Retrieve","`, `"Message":"",`, `"Workload":"Dynamics365"`, `"RecordType":9001`,
		`"QueryResults":7`, `"PropertyCollection":"[{\"Name\"`, `"ClientIP":null`, `"Fields":null`, `"UserId":"User0`, `東埠頭`,
		`.7431200Z"`, `"UserId":"Unknown"`, `"UserId":""`, `@` + tenant.DefaultID + `.com"`, `"ClientIP":"[2001:db8:40::`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no record has %s", want)
		}
	}
	if slices.IndexFunc(strings.Split(text, "\n"), func(line string) bool { return len(line) > 3000 }) < 0 {
		t.Error("no record has 3 KB")
	}
}

func TestWorldThroughTenant(t *testing.T) {
	lab := tenant.New(tenant.Config{Clock: func() time.Time { return at }})
	w := New(Config{Seed: 5, Now: at, Contents: 60, BigBytes: -1})
	lab.Tune(func(k *tenant.Knobs) { k.PageSize = w.PageSize() })
	server := httptest.NewTLSServer(lab.Handler())
	defer server.Close()
	lab.SetOrigin(server.URL)
	w.Publish(lab)
	w.PublishNext(lab)
	reply, err := server.Client().PostForm(server.URL+"/"+tenant.DefaultID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {tenant.DefaultAppID}, "client_secret": {tenant.DefaultAppSecret}, "scope": {tenant.DefaultAudience + "/.default"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var token struct {
		Text string `json:"access_token"`
	}
	if err := json.NewDecoder(reply.Body).Decode(&token); err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	call := func(method, address string, into any) *http.Response {
		t.Helper()
		separator := "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		r, _ := http.NewRequestWithContext(t.Context(), method, address+separator+"PublisherIdentifier="+tenant.DefaultID, nil)
		r.Header.Set("Authorization", "Bearer "+token.Text)
		r.Header.Set("Content-Type", "application/json")
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
			t.Fatalf("%s %s: status %d: %v", method, address, answer.StatusCode, err)
		}
		return answer
	}
	feed := server.URL + "/api/v1.0/" + tenant.DefaultID + "/activity/feed"
	call("POST", feed+"/subscriptions/start?contentType=Audit.General", new(any))

	got, most := map[string][]json.RawMessage{}, 0
	for from := at.Add(-7 * 24 * time.Hour).Truncate(time.Hour); from.Before(at.Add(time.Hour)); from = from.Add(time.Hour) {
		next := feed + "/subscriptions/content?contentType=Audit.General&startTime=" + from.Format("2006-01-02T15:04:05") + "&endTime=" + from.Add(time.Hour).Format("2006-01-02T15:04:05")
		pages := 0
		for ; next != ""; pages++ {
			var items []struct{ ContentID, ContentURI string }
			next = call("GET", next, &items).Header.Get("NextPageUri")
			for _, item := range items {
				var records []json.RawMessage
				call("GET", item.ContentURI, &records)
				got[item.ContentID] = records
			}
		}
		most = max(most, pages)
	}
	if most < 3 {
		t.Errorf("the busiest window has %d pages, want at least 3", most)
	}
	for _, c := range w.Contents() {
		texts, listed := got[c.ID]
		if want := c.Type == "Audit.General" && c.Visible.IsZero(); listed != want {
			t.Errorf("content %s of %s, visible %v: listed %v", c.ID, c.Type, c.Visible, listed)
		} else if want && !slices.EqualFunc(texts, c.Records, func(a json.RawMessage, b Record) bool { return bytes.Equal(a, b.Text) }) {
			t.Errorf("content %s came back with other records", c.ID)
		}
	}
	if v := lab.Violations(); len(v) > 0 {
		t.Errorf("violations: %q", v)
	}
}
