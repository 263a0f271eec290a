package record_test

import (
	"fmt"
	"testing"

	"activityarchive/handler/record"
)

func TestFilter(t *testing.T) {
	const none, dynamics, power = "none", "dynamics365", "powerplatform"
	tests := []struct{ raw, area string }{
		{`{"RecordType":21}`, dynamics},
		{`{"RecordType":278}`, dynamics},
		{`{"RecordType":"21"}`, dynamics},
		{`{"RecordType":21.0}`, dynamics},
		{`{"Workload":"CRM"}`, dynamics},
		{`{"Workload":"dynamics365"}`, dynamics},
		{`{"Workload":"Dynamics 365"}`, dynamics},
		{`{"Workload":"Dynamics365BusinessCentral"}`, dynamics},
		{`{"Workload":"C\u0052M"}`, dynamics},
		{`{"RecordType":9001,"CrmOrganizationUniqueName":"unq17harbor"}`, dynamics},
		{`{"RecordType":9001,"CrmOrganizationUniqueName":17}`, dynamics},
		{`{"RecordType":30}`, power},
		{`{"RecordType":45}`, power},
		{`{"RecordType":46}`, power},
		{`{"RecordType":79}`, power},
		{`{"RecordType":186}`, power},
		{`{"RecordType":187}`, power},
		{`{"RecordType":256}`, power},
		{`{"RecordType":9001,"Workload":"PowerPlatform"}`, power},
		{`{"Workload":"powerapps"}`, power},
		{`{"Workload":"MicrosoftFlow"}`, power},
		{`{"Workload":"PowerAutomate"}`, power},
		{`{"Workload":"PowerPages"}`, power},
		{`{"PropertyCollection":[{"Name":"x","Value":"y"},7,{"Name":"powerplatform.analytics.activity.name","Value":"z"}]}`, power},
		{`{"PropertyCollection":{"powerplatform.analytics.activity.id":"z"}}`, power},
		{`{"PropertyCollection":"[{\"Name\":\"powerplatform.analytics.activity.id\"}]"}`, power},
		{`{"JsonPropertiesCollection":"{\"powerplatform.analytics.activity.id\":1}"}`, power},

		{`{}`, none},
		{`{"RecordType":1,"Workload":"Exchange"}`, none},
		{`{"RecordType":2,"Workload":"Exchange"}`, none},
		{`{"RecordType":8,"Workload":"AzureActiveDirectory"}`, none},
		{`{"RecordType":15}`, none},
		{`{"RecordType":20,"Workload":"PowerBI"}`, none},
		{`{"RecordType":25,"Workload":"MicrosoftTeams"}`, none},
		{`{"RecordType":261,"Workload":"Copilot"}`, none},
		{`{"RecordType":357}`, none},
		{`{"RecordType":-21}`, none},
		{`{"RecordType":21.5}`, none},
		{`{"RecordType":[21]}`, none},
		{`{"recordtype":21}`, none},
		{`{"Data":{"RecordType":21,"Workload":"CRM"}}`, none},
		{`{"RecordType":21,"RecordType":1}`, none}, // the last counts
		{`{"CrmOrganizationUniqueName":""}`, none},
		{`{"CrmOrganizationUniqueName": null }`, none},
		{`{"Workload":null}`, none},
		{`{"PropertyCollection":[{"Name":"powerbi.analytics.x","Value":"powerplatform.analytics.x"}]}`, none},
		{`{"PropertyCollection":[{"Name":"powerplatform.analytics"}]}`, none},
		{`{"PropertyCollection":"powerplatform.analytics.x"}`, none},
		{`{"PropertyCollection":null,"JsonPropertiesCollection":3}`, none},
		{`{"Other":[{"Name":"powerplatform.analytics.x"}]}`, none},
	}
	for _, tt := range tests {
		t.Run(tt.raw, func(t *testing.T) {
			r := mustParse(t, tt.raw)
			for filter, want := range map[record.Filter]bool{
				record.All:           true,
				record.PowerPlatform: tt.area != none,
				record.Dynamics365:   tt.area == dynamics,
			} {
				if got := filter.Keep(&r); got != want {
					t.Errorf("%v keeps it: %v, want %v", filter, got, want)
				}
			}
		})
	}
}

func TestParseFilter(t *testing.T) {
	for _, want := range []record.Filter{record.PowerPlatform, record.Dynamics365, record.All} {
		if got, err := record.ParseFilter(want.String()); err != nil || got != want {
			t.Errorf("ParseFilter(%q) = %v, %v", want, got, err)
		}
	}
	for _, name := range []string{"", "ALL", "powerplatform,all", "Filter(3)"} {
		_, err := record.ParseFilter(name)
		if want := fmt.Sprintf("no filter %q: use powerplatform, dynamics365, all", name); err == nil || err.Error() != want {
			t.Errorf("ParseFilter(%q) fails with %v, want %s", name, err, want)
		}
	}
}
