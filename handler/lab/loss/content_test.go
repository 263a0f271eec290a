package loss_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var contentRows = []row{
	{
		name: "D35", what: "fields that are not known are dropped: all that is of Dynamics 365",
		set: func(o *options) { o.filter = "powerplatform" },
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, time.Now(),
				rec(1, `,"ClientIP":"192.0.2.7:51544","CrmOrganizationUniqueName":"unqharbor","EntityId":"5b0b6a2e-0000-4000-8000-000000000001",`+
					`"Fields":[{"Name":"fullname","Value":"Ada Quay"},{"Name":"telephone1","Value":"*"},{"Name":"berth","Value":null}],`+
					`"InstanceUrl":"https://harbor.crm4.example/","ItemType":"Dynamics365","PrimaryFieldValue":"Ada Quay","Query":"","ServiceName":"D365",`+
					`"QueryResults":"{\"account\":[\"5b0b6a2e\"]}","SystemUserId":"5b0b6a2e-0000-4000-8000-000000000002","UserUpn":"USER001@harbor.example"`),
				rec(2, `,"fields":[],"FIELDS":{},"Fields":{"a":{"b":[1,2.50,-0.0,1e3,true,null,"\u00e9\ud83d\udea2 \/"]}},"":"no name","A field of tomorrow":[[[]]]`),
				rec(3, `,"entityName":"lower","Id ":"space","userid":"lower","Big":12345678901234567890,"Twice":1,"Twice":2`),
			)
			p := s.process()
			p.mustTick()
			s.later(5 * time.Minute)
			p.mustTick()
			// reconciled compares every member of every record with its document.
			if r := s.reconciled(nil); r.Stored != 3 {
				t.Errorf("%d records stored, want 3", r.Stored)
			}
		},
	},
	{
		name: "D36", what: "app launches have another shape since March 2025, and count as none",
		set: func(o *options) { o.filter = "powerplatform" },
		test: func(t *testing.T, s *system) {
			launch := func(n, kind int, workload, more string) json.RawMessage {
				return json.RawMessage(fmt.Sprintf(`{"CreationTime":"2026-03-11T09:0%d:00","Id":"00000000-0000-4000-8000-%012d","Operation":"LaunchPowerApp","OrganizationId":"%s",`+
					`"RecordType":%d,"UserId":"user001@harbor.example","Workload":"%s"%s}`, n%10, n, tenant.DefaultID, kind, workload, more))
			}
			pairs := `[{"Name":"powerplatform.analytics.resource.type","Value":"PowerApp"},{"Name":"powerplatform.analytics.resource.power_app.display_name","Value":"Berth plan"}]`
			before := launch(1, 45, "PowerApps", `,"AppName":"5b0b6a2e-0000-4000-8000-000000000003","AdditionalInfo":"{\"environmentName\":\"Default-harbor\"}"`)
			since := launch(2, 256, "PowerPlatform", `,"EnvironmentId":"default-harbor","PropertyCollection":`+pairs)
			// And shapes that may be next: a number or a workload that nobody knows.
			quoted, err := json.Marshal(pairs)
			if err != nil {
				t.Fatal(err)
			}
			next := []json.RawMessage{
				launch(3, 4711, "Harbor", `,"PropertyCollection":`+pairs),
				launch(4, 4711, "Harbor", `,"JsonPropertiesCollection":`+string(quoted)),
				launch(5, 4711, "powerplatform", ""),
				launch(6, 45, "Harbor", ""),
			}
			other := []json.RawMessage{
				launch(7, 2, "Exchange", ""),
				launch(8, 4711, "Harbor", `,"PropertyCollection":[{"Name":"berth","Value":"powerplatform.analytics."}]`),
			}
			wanted := append([]json.RawMessage{before, since}, next...)
			s.tenant.Publish(general, time.Now(), slices.Concat(wanted, other)...)
			s.tenant.Publish(general, time.Now(), slices.Concat(wanted, other)...) // once more in another content
			p := s.process()
			p.mustTick()
			s.later(5 * time.Minute)
			p.mustTick()
			r := s.reconciled(func(raw json.RawMessage) reconcile.Fate {
				if slices.ContainsFunc(other, func(o json.RawMessage) bool { return string(o) == string(raw) }) {
					return reconcile.Filtered
				}
				return reconcile.Archived
			})
			launches := 0
			for _, d := range s.account.Documents("Audits") {
				if strings.Contains(string(d.Body), `"LaunchPowerApp"`) {
					launches++
				}
			}
			if launches != len(wanted) || r.Stored != len(wanted) {
				t.Errorf("%d launches in %d documents, want %d", launches, r.Stored, len(wanted))
			}
			if sum, _ := s.counts(); sum != (ledger.Counts{Stored: 6, Duplicate: 6, Filtered: 4}) {
				t.Errorf("the counts are %+v", sum)
			}
		},
	},
	{
		name: "D37", what: "the same record comes twice, after a retry or from two contents",
		test: func(t *testing.T, s *system) {
			shared := rec(500, "")
			for i := range 3 {
				s.tenant.Publish(general, dawn.Add(-time.Minute), append(recs(i*10, 3), shared)...)
			}
			killed := s.process() // after its first record is stored, before anyone knows
			killed.die = func(_ int64, r *http.Request) (before, after bool) {
				return false, r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/colls/Audits/docs") && r.Header.Get("x-ms-documentdb-isquery") == ""
			}
			_ = killed.tick()
			if !killed.dead.Load() || len(s.account.Documents("Audits")) == 0 {
				t.Fatal("no record is stored by a killed process")
			}
			s.later(5 * time.Minute)
			// Then a write is carried out and its answer lost: it is sent again.
			s.account.Inject(cosmosfake.Rule{
				Container: "Audits", Kinds: []cosmosfake.Kind{cosmosfake.Batch, cosmosfake.Create},
				Fault: cosmosfake.Fault{Commit: true, Reset: true},
			})
			p := s.process()
			p.mustTick()
			s.later(25 * time.Hour) // and all is listed once more
			p.mustTick()
			want := ledger.Counts{Stored: 10, Duplicate: 2}
			if sum, states := s.counts(); sum != want || states[ledger.Stored] != 3 {
				t.Errorf("the counts are %+v in %v, want %+v", sum, states, want)
			}
			if r := s.reconciled(nil); r.Stored != 10 || r.Duplicates != 2 {
				t.Errorf("%d records stored of which %d came again", r.Stored, r.Duplicates)
			}
		},
	},
	{
		name: "D38", what: "a failed read of the saved state counts as no state: all begins anew",
		test: func(t *testing.T, s *system) {
			s.tenant.Publish(general, dawn.Add(-time.Hour), recs(0, 5)...)
			first := s.process()
			first.ticks(2)
			head := func() ledger.Head {
				h, err := first.ledger.Head(context.Background(), general)
				if err != nil {
					t.Fatal(err)
				}
				return h
			}
			was := head()
			page, number := "<html>a gateway's page</html>", 100
			for i, fault := range []cosmosfake.Fault{
				{Refuse: true},
				{Reset: true},
				{Hang: true},
				{Status: 503},
				{Status: 500, Body: page},
				{Status: 429, SubStatus: 3200},
				{Status: 401},
				{Status: 403},
				{Status: 404, SubStatus: 1002},
				{Status: 200, Body: page},
				{Status: 200, Body: "{}"},
			} {
				for _, key := range []string{"", `["control"]`} { // all of the state, and what steers ticks
					number += 10
					s.tenant.Publish(general, time.Now(), recs(number, 5)...)
					s.later(time.Minute)
					s.account.Inject(cosmosfake.Rule{
						Container: "ArchiveState", Kinds: []cosmosfake.Kind{cosmosfake.Read, cosmosfake.Query}, Key: key,
						Times: cosmosfake.Always, Fault: fault,
					})
					listings, fetches := s.tenant.Count(tenant.OpContent), s.tenant.Count(tenant.OpAudit)
					if err := s.process().tick(); err == nil {
						t.Errorf("fault %d in %q: the tick ended well", i, key)
					}
					if n := s.tenant.Count(tenant.OpContent) - listings; n != 0 {
						t.Errorf("fault %d in %q: %d listings without a state", i, key, n)
					}
					if n := s.tenant.Count(tenant.OpAudit) - fetches; n != 0 {
						t.Errorf("fault %d in %q: %d fetches without a state", i, key, n)
					}
					s.account.Recover()
					if is := head(); !reflect.DeepEqual(is, was) {
						t.Errorf("fault %d in %q: the head is now %+v, was %+v", i, key, is, was)
					}
					s.later(time.Minute)
					first.mustTick()
					was = head()
				}
			}
			s.reconciled(nil)
		},
	},
}
