package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Filter says which records are kept.
type Filter int

// The filters.
const (
	// PowerPlatform keeps Dynamics 365 and all of the Power Platform. It knows a
	// record by its RecordType, by its Workload, or by members that only such
	// records have: record types appear before they are documented.
	PowerPlatform Filter = iota
	// Dynamics365 keeps Dataverse, model-driven apps and Business Central.
	Dynamics365
	// All keeps every record.
	All
)

var filterNames = [...]string{PowerPlatform: "powerplatform", Dynamics365: "dynamics365", All: "all"}

// ParseFilter returns the filter of that name: powerplatform, dynamics365 or
// all, as String writes it.
func ParseFilter(name string) (Filter, error) {
	if i := slices.Index(filterNames[:], name); i >= 0 {
		return Filter(i), nil
	}
	return 0, fmt.Errorf("no filter %q: use %s", name, strings.Join(filterNames[:], ", "))
}

func (f Filter) String() string {
	if f < 0 || int(f) >= len(filterNames) {
		return fmt.Sprintf("Filter(%d)", int(f))
	}
	return filterNames[f]
}

// Keep reports whether f wants r.
func (f Filter) Keep(r *Record) bool {
	switch f {
	case All:
		return true
	case Dynamics365:
		return isDynamics(r)
	}
	return isDynamics(r) || isPowerPlatform(r)
}

// isDynamics and isPowerPlatform go by the record types and workloads of the
// service documentation, "Office 365 Management Activity API schema", and the
// workload names that other collectors have met.
func isDynamics(r *Record) bool {
	switch r.RecordType {
	case 21, // CRM
		278: // Dynamics365BusinessCentral
		return true
	}
	return r.crm || isOneOf(r.Workload, "CRM", "Dynamics365", "Dynamics 365", "Dynamics365BusinessCentral")
}

func isPowerPlatform(r *Record) bool {
	switch r.RecordType {
	case 30, // MicrosoftFlow
		45,  // PowerAppsApp
		46,  // PowerAppsPlan
		79,  // PowerAppsResource
		186, // PowerPagesSite
		187, // PowerPlatformAdminDlp
		256: // PowerPlatformAdministratorActivity
		return true
	}
	if isOneOf(r.Workload, "PowerApps", "MicrosoftFlow", "PowerAutomate", "PowerPlatform", "PowerPages") {
		return true
	}
	return slices.ContainsFunc(r.properties[:], hasAnalytics)
}

func isOneOf(s string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(s, name) })
}

// hasAnalytics reports whether a property collection has a name of the unified
// Power Platform schema. Collections come as an array of name and value, as an
// object, or as either in a string.
func hasAnalytics(collection []byte) bool {
	if len(collection) == 0 {
		return false
	}
	if collection[0] == '"' {
		collection = appendUnescaped(nil, collection[1:len(collection)-1])
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(collection, &object) == nil {
		for name := range object {
			if isAnalytics(name) {
				return true
			}
		}
		return false
	}
	var pairs []json.RawMessage
	if json.Unmarshal(collection, &pairs) != nil {
		return false // no collection in a shape known
	}
	return slices.ContainsFunc(pairs, func(raw json.RawMessage) bool {
		var pair struct{ Name string }
		return json.Unmarshal(raw, &pair) == nil && isAnalytics(pair.Name)
	})
}

func isAnalytics(name string) bool {
	const prefix = "powerplatform.analytics."
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}
