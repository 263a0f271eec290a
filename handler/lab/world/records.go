package world

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const zeroGUID = "00000000-0000-0000-0000-000000000000"

// creationFormat is how the service writes CreationTime: UTC, without a zone.
const creationFormat = "2006-01-02T15:04:05"

// user is one member of the synthetic company.
type user struct {
	upn, name, object, puid, system, address string
}

// app is one canvas app.
type app struct{ id, name string }

func (w *World) makeUsers() {
	given := []string{"Ada", "Bjørn", "Chloé", "Dmitri", "Eilidh", "Farah", "Gökçe", "Håkon", "Inés", "Jürgen", "Kaori 香", "Lê"}
	family := []string{"Ahlgren", "Birdsall", "Çelik", "Dunmore", "Ekström", "Fraser", "Gruber", "Hövel", "Ibarra", "Jansson"}
	for i := range w.cfg.Users {
		w.users = append(w.users, user{
			upn:     fmt.Sprintf("user%03d@harbor.example", i),
			name:    given[i%len(given)] + " " + family[i/len(given)%len(family)] + " " + strconv.Itoa(i),
			object:  w.guid(),
			puid:    fmt.Sprintf("1003%012X", w.random.Uint64()>>16),
			system:  w.guid(),
			address: fmt.Sprintf("203.0.113.%d", 1+i%250), // a documentation range (RFC 5737)
		})
	}
	w.userPick = weights(len(w.users), 1.1)
}

func (w *World) makeApps() {
	names := []string{"Quay walk", "Crane log", "Berth planner", "Gate pass", "Ligne d’eau", "Reefer watch", "Pilot roster", "Übergabe", "Tug call", "潮汐", "Cargo claims", "Spill report"}
	for i := range w.cfg.Apps {
		name := names[i%len(names)]
		if i >= len(names) {
			name += " " + strconv.Itoa(i/len(names)+1)
		}
		w.apps = append(w.apps, app{id: w.guid(), name: name})
	}
	w.appPick = weights(len(w.apps), 0.8)
}

// object writes a JSON object with its members in the order given.
type object struct{ text []byte }

func (o *object) name(name string) {
	if len(o.text) == 0 {
		o.text = append(o.text, '{')
	} else {
		o.text = append(o.text, ',')
	}
	o.text = append(o.text, '"')
	o.text = append(o.text, name...)
	o.text = append(o.text, '"', ':')
}

func (o *object) str(name, value string) *object {
	o.name(name)
	o.text = appendString(o.text, value)
	return o
}

func (o *object) num(name string, value int) *object {
	o.name(name)
	o.text = strconv.AppendInt(o.text, int64(value), 10)
	return o
}

// raw writes a value that is JSON already.
func (o *object) raw(name, value string) *object {
	o.name(name)
	o.text = append(o.text, value...)
	return o
}

func (o *object) end() json.RawMessage { return append(o.text, '}') }

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // a string
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// pairs is a JSON array of name and value objects.
func pairs(nameValues ...string) string {
	text := []byte{'['}
	for i := 0; i < len(nameValues); i += 2 {
		if i > 0 {
			text = append(text, ',')
		}
		pair := (&object{}).str("Name", nameValues[i]).str("Value", nameValues[i+1])
		text = append(text, pair.end()...)
	}
	return string(append(text, ']'))
}

// common is what every record begins with.
type common struct {
	at        string // CreationTime
	operation string
	kind      int // RecordType
	result    string
	key       string // UserKey
	userType  int
	workload  string
	address   string // ClientIP; "": absent; "null": null
	subject   string // ObjectId; "": absent
	user      string // UserId
}

// head begins a record.
func (w *World) head(e common) (*object, string) {
	id := w.guid()
	o := (&object{text: make([]byte, 0, 1600)}).str("CreationTime", e.at).str("Id", id).str("Operation", e.operation).
		str("OrganizationId", w.cfg.TenantID).num("RecordType", e.kind).str("ResultStatus", e.result).
		str("UserKey", e.key).num("UserType", e.userType).num("Version", 1).str("Workload", e.workload)
	switch e.address {
	case "":
	case "null":
		o.raw("ClientIP", "null")
	default:
		o.str("ClientIP", e.address)
	}
	if e.subject != "" {
		o.str("ObjectId", e.subject)
	}
	return o.str("UserId", e.user), id
}

// makeRecord makes one record of Audit.General: one half noise, the other half
// Dynamics 365 and Power Platform in all the shapes they come in.
func (w *World) makeRecord(at time.Time) Record {
	if w.random.Float64() < 0.5 {
		return w.noise(at)
	}
	w.shapes++
	switch turn := w.shapes % 40; {
	case turn == 0:
		return w.rare(at)
	case turn < 30:
		return w.dataverse(at, w.shapes)
	case turn < 36:
		return w.launch(at, turn == 35)
	case turn < 38:
		return w.flow(at)
	default:
		return w.admin(at)
	}
}

func (w *World) anyone() user { return w.users[w.draw(w.userPick)] }

// entities and the field that names one.
var entities = [...][2]string{
	{"account", "name"},
	{"contact", "fullname"},
	{"opportunity", "name"},
	{"incident", "title"},
	{"hb_berth", "hb_label"},
	{"hb_crane", "hb_label"},
	{"hb_visit", "hb_vessel"},
}

var agents = [...]string{
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) SyntheticBrowser/41.0",
	"Mozilla/5.0 (Linux; Android 15) SyntheticApp/7.2",
	"Mozilla/5.0 (iPad; CPU OS 18_4 like Mac OS X) SyntheticBrowser/40.3",
}

// verbs with their weights in a hundred.
var verbs = [...]struct {
	message string
	weight  int
}{
	{"Retrieve", 26},
	{"RetrieveMultiple", 24},
	{"Update", 18},
	{"Create", 12},
	{"Delete", 4},
	{"UserSignIn", 8},
	{"Assign", 2},
	{"Associate", 2},
	{"ExportToExcel", 2},
	{"PublishAll", 2},
}

func (w *World) verb() string {
	p := w.random.IntN(100)
	for _, v := range verbs {
		if p -= v.weight; p < 0 {
			return v.message
		}
	}
	return "Retrieve"
}

// dataverse makes a record of RecordType 21. Turn decides which of the odd
// variants it is, most often none.
func (w *World) dataverse(at time.Time, turn int) Record {
	u, message := w.anyone(), w.verb()
	entity := entities[w.random.IntN(len(entities))]
	id := w.guid()
	e := common{
		at: at.Format(creationFormat), operation: "CrmDefaultActivity", kind: 21, result: "Success", key: u.puid,
		workload: "CRM", address: u.address + ":" + strconv.Itoa(49152+w.random.IntN(16000)),
		subject: message + " " + id, user: u.upn,
	}
	agent, upn, system := agents[w.random.IntN(len(agents))], u.upn, u.system
	label := "Lot " + strconv.Itoa(w.random.IntN(9000)) + " of " + u.name
	fields, query, results := "[]", "", strconv.Quote(id)
	service := true
	switch message {
	case "Create", "Update":
		fields = pairs(entity[1], label, "statecode", strconv.Itoa(w.random.IntN(2)), "hb_weight", strconv.Itoa(w.random.IntN(90000))+".50",
			"telephone1", "*", "modifiedby", u.system, entity[0]+"id", id)
		results = `""`
	case "Associate":
		fields = pairs("systemuser", u.system, "role", w.guid())
		entity = [2]string{"systemuser", "fullname"}
	case "Delete":
		results = `""`
		if w.random.IntN(2) == 0 { // by an application user
			app := w.guid()
			e.user, e.key, e.userType, upn = app+"@"+w.cfg.TenantID+".com", "Unknown", 5, ""
			e.address, agent = "198.51.100.7", "harbor-sync/3.1"
		}
	case "RetrieveMultiple", "ExportToExcel":
		e.subject, id, label = message+" ", zeroGUID, ""
		query = "<fetch><entity name='" + entity[0] + "'><filter><condition attribute='statecode' operator='eq' value='0'/></filter></entity></fetch>"
		rows := make([]string, 1+w.random.IntN(6))
		for i := range rows {
			rows[i] = w.guid()
		}
		results = strconv.Quote(strings.Join(rows, ","))
	case "UserSignIn":
		e.subject, id, entity, label = message+" ", zeroGUID, [2]string{"authentication", ""}, ""
		results = `""`
	case "PublishAll": // background work without user and entity
		e.subject, id, entity, label = message+" ", zeroGUID, [2]string{"Unknown", ""}, ""
		e.user, e.key, upn, agent, results, service = "Unknown", "Unknown", "", "crm-bts-jobs/1.0", `""`, false
	}
	switch turn % 97 {
	case 1: // as documented: the verb is the operation
		e.operation, message = message, ""
	case 2:
		e.workload = "Dynamics365"
	case 3:
		results = "7"
	case 4:
		e.at += "Z"
	case 5:
		e.at += ".7431200Z"
	case 6:
		e.address = "null"
	case 7:
		fields = "null"
	case 8, 9:
		if e.user == u.upn {
			e.user = strings.NewReplacer("user", "User", "harbor", "Harbor").Replace(e.user)
		}
	case 10:
		label = "Überseekai № 7 – 東埠頭 ⚓ “" + u.name + "”"
	case 11, 12: // as long as a source row may be, 3 KB
		query = strings.Repeat("<condition attribute='hb_remark' operator='like' value='%quay%'/>", 40)
	case 13:
		e.address = "[2001:db8:40::" + strconv.FormatInt(int64(w.random.IntN(4096)), 16) + "]:50122"
	case 14:
		e.user = ""
	}
	correlation := w.guid()
	if w.random.IntN(3) == 0 {
		correlation = zeroGUID
	}
	o, recordID := w.head(e)
	instance := "https://harbor-crm.example/"
	item := instance
	if id != zeroGUID {
		item += "main.aspx?etn=" + entity[0] + "&pagetype=entityrecord&id=" + id
	}
	o.str("CrmOrganizationUniqueName", "unq0harbor").raw("Fields", fields).str("InstanceUrl", instance).
		str("ItemType", "Dynamics365").str("ItemUrl", item).str("UserAgent", agent).str("CorrelationId", correlation).
		str("EntityId", id).str("EntityName", entity[0]).str("Message", message).str("PrimaryFieldValue", label).
		str("Query", query).raw("QueryResults", results)
	if service {
		o.str("ServiceContextId", zeroGUID).str("ServiceContextIdType", "").str("ServiceName", "D365").
			str("SystemUserId", system).str("UserUpn", upn)
	}
	return Record{Text: o.end(), ID: recordID, User: e.user, Area: Dynamics}
}

// launch makes a launch of a canvas app, in the shape of before or after March
// 2025.
func (w *World) launch(at time.Time, legacy bool) Record {
	u, app := w.anyone(), w.apps[w.draw(w.appPick)]
	environment := "default-" + w.cfg.TenantID
	e := common{
		at: at.Format(creationFormat), operation: "LaunchPowerApp", kind: 256, result: "Succeeded", key: u.object,
		workload: "PowerPlatform", address: u.address, user: u.upn,
	}
	if legacy {
		e.kind, e.workload, e.result, e.subject = 45, "PowerApps", "Success", app.id
		o, id := w.head(e)
		o.str("AppName", app.id).str("AdditionalInfo", `{"environmentName":"`+environment+`"}`)
		return Record{Text: o.end(), ID: id, User: e.user, Area: PowerPlatform}
	}
	o, id := w.head(e)
	const analytics = "powerplatform.analytics."
	properties := pairs(
		analytics+"resource.type", "PowerApp", analytics+"activity.name", "LaunchPowerApp", analytics+"activity.id", id,
		analytics+"operation.is_successful", "True",
		analytics+"resource.power_app.id", "/providers/Microsoft.PowerApps/apps/"+app.id,
		analytics+"resource.power_app.display_name", app.name,
		analytics+"resource.environment.id", environment, analytics+"resource.environment.name", "Harbor (default)",
		analytics+"resource.tenant.id", w.cfg.TenantID, analytics+"resource.telemetry_correlation.id", w.guid(),
		"enduser.id", u.object, "enduser.principal_name", u.upn, "enduser.role", "Regular",
		"enduser.ip_address", "::ffff:"+u.address, "user_agent.original", agents[1],
		"version", "1.0", "type", "PowerPlatformAdministratorActivityRecord",
	)
	if w.random.IntN(12) == 0 { // the same list as JSON text
		properties = string(appendString(nil, properties))
	}
	o.str("EnvironmentId", environment).raw("RequiresCustomerKeyEncryption", "false").raw("PropertyCollection", properties)
	return Record{Text: o.end(), ID: id, User: e.user, Area: PowerPlatform}
}

// flow makes a life-cycle event of Power Automate.
func (w *World) flow(at time.Time) Record {
	u := w.anyone()
	operation := []string{"CreateFlow", "EditFlow", "DeleteFlow", "PutPermissions"}[w.random.IntN(4)]
	e := common{
		at: at.Format(creationFormat), operation: operation, kind: 30, result: "Success", key: u.upn,
		workload: "MicrosoftFlow", user: u.upn,
	}
	o, id := w.head(e)
	o.str("FlowConnectorNames", "Dataverse, Mail, Tide table").str("FlowDetailsUrl", "https://flows.harbor.example/"+w.guid()).
		str("LicenseDisplayName", "").str("SharingPermission", "").str("RecipientUPN", "").str("UserUPN", u.upn).num("UserTypeInitiated", 1)
	return Record{Text: o.end(), ID: id, User: e.user, Area: PowerPlatform}
}

// admin makes a record of one of the administrative types.
func (w *World) admin(at time.Time) Record {
	u := w.anyone()
	kinds := []struct {
		kind                int
		workload, operation string
	}{
		{46, "PowerApps", "AssignedPlan"},
		{79, "PowerApps", "CreateCustomConnector"},
		{186, "PowerPages", "SiteRestarted"},
		{187, "PowerPlatform", "DlpPolicyChanged"},
		{278, "Dynamics365BusinessCentral", "EnvironmentUpdated"},
		{256, "PowerPlatform", "GovernanceApiPolicyOperation"},
	}
	k := kinds[w.random.IntN(len(kinds))]
	e := common{
		at: at.Format(creationFormat), operation: k.operation, kind: k.kind, result: "Succeeded", key: u.object, userType: 2,
		workload: k.workload, address: u.address, subject: w.guid(), user: u.upn,
	}
	o, id := w.head(e)
	o.str("EnvironmentId", "default-"+w.cfg.TenantID).raw("PropertyCollection", pairs("type", "Synthetic", "reason", "monthly review by "+u.name))
	return Record{Text: o.end(), ID: id, User: e.user, Area: PowerPlatform}
}

// rare makes records that belong to the Power Platform by one mark only.
func (w *World) rare(at time.Time) Record {
	u := w.anyone()
	e := common{at: at.Format(creationFormat), operation: "BerthStateChanged", result: "Success", key: u.object, address: u.address, user: u.upn}
	extra := `"tide"`
	area := PowerPlatform
	switch w.shapes / 40 % 4 {
	case 0: // a type not seen before, known by its workload
		e.kind, e.workload = 9001, "PowerPlatform"
	case 1: // known by its workload in another spelling
		e.kind, e.workload = 9003, "POWERAUTOMATE"
	case 2: // known by the Dataverse organisation
		e.kind, e.workload, area = 9002, "HarborServices", Dynamics
		extra = `"tide","CrmOrganizationUniqueName":"unq0harbor"`
	case 3: // known by its properties
		e.kind, e.workload = 9004, "HarborServices"
		extra = `"tide","PropertyCollection":` + pairs("powerplatform.analytics.resource.type", "Berth")
	}
	o, id := w.head(e)
	o.raw("Cause", extra).str("Remark", strings.Repeat("Synthetic remark of the harbour office. ", 12))
	return Record{Text: o.end(), ID: id, User: e.user, Area: area}
}

// noise makes a record of the other services that share Audit.General.
func (w *World) noise(at time.Time) Record {
	u := w.anyone()
	w.noises++
	e := common{at: at.Format(creationFormat), result: "Succeeded", key: u.object, address: u.address, user: u.upn}
	var more func(*object)
	switch w.noises % 8 {
	case 0, 1, 2: // Teams: Message is an object, CorrelationId another thing than in Dataverse
		e.kind, e.workload, e.operation = 25, "MicrosoftTeams", []string{"MessageSent", "MemberAdded", "TeamsSessionStarted"}[w.noises%3]
		more = func(o *object) {
			o.str("CommunicationType", "Team").str("TeamName", "Quay "+strconv.Itoa(w.random.IntN(40))).str("TeamGuid", "19:"+w.guid()+"@thread.example").
				raw("Message", `{"Id":"`+w.guid()+`","Size":`+strconv.Itoa(w.random.IntN(4000))+`}`).str("CorrelationId", w.guid()).
				raw("ExtraProperties", pairs("TimeZone", "Etc/UTC", "OsName", "synthetic", "Country", "zz", "ClientName", "skypeteams")).
				raw("Members", `[{"DisplayName":`+string(appendString(nil, u.name))+`,"Role":1,"UPN":"`+u.upn+`"}]`)
		}
	case 3: // Defender
		e.kind, e.workload, e.operation, e.user, e.key, e.userType = 40, "SecurityComplianceCenter", "AlertEntityGenerated", "SecurityComplianceAlerts", "SecurityComplianceAlerts", 4
		more = func(o *object) {
			o.str("AlertId", w.guid()).str("AlertType", "System").str("Category", "ThreatManagement").str("Severity", "Low").
				str("Name", "Synthetic alert").str("Status", "Active").str("Data", `{"etype":"User","eid":"`+u.upn+`","md":"`+at.Format(time.RFC3339)+`"}`)
		}
	case 4: // Forms
		e.kind, e.workload, e.operation = 66, "MicrosoftForms", []string{"ViewForm", "SubmitResponse", "ListForms"}[w.random.IntN(3)]
		more = func(o *object) {
			o.str("FormId", w.guid()).str("FormName", "Gangway survey").str("FormsUserTypes", "ActivityUser").str("SourceApp", "Web")
		}
	case 5: // Copilot
		e.kind, e.workload, e.operation = 261, "Copilot", "CopilotInteraction"
		more = func(o *object) {
			o.raw("CopilotEventData", `{"AppHost":"Word","ThreadId":"19:`+w.guid()+`@thread.example","Messages":[{"Id":"`+strconv.Itoa(w.random.IntN(1e9))+`","isPrompt":true}],"AccessedResources":[]}`).
				str("CopilotLogVersion", "1.0.0.0")
		}
	case 6: // endpoint data loss prevention
		e.kind, e.workload, e.operation = 63, "Endpoint", "FileRead"
		more = func(o *object) {
			o.str("DeviceName", "quay-pc-"+strconv.Itoa(w.random.IntN(400))).num("FileSize", w.random.IntN(1e8)).
				str("FileName", `C:\Users\synthetic\Documents\manifest `+strconv.Itoa(w.random.IntN(900))+`.xlsx`).str("Sha256", strings.ReplaceAll(w.guid()+w.guid(), "-", "")).
				raw("PolicyMatchInfo", `{"PolicyId":"`+w.guid()+`","RuleCount":0}`)
		}
	default: // Power BI is not Power Platform: it has a filter of its own
		e.kind, e.workload, e.operation = 20, "PowerBI", "ViewReport"
		more = func(o *object) {
			o.str("AppName", "Tonnage").str("ReportName", "Tonnage by quay").str("WorkSpaceName", "Harbor office").str("DatasetId", w.guid()).
				raw("IsSuccess", "true").str("ActivityId", w.guid()).str("DistributionMethod", "Shared")
		}
	}
	o, id := w.head(e)
	more(o)
	o.raw("AppAccessContext", `{"AADSessionId":"`+w.guid()+`","ClientAppId":"`+w.guid()+`","CorrelationId":"`+w.guid()+`","UniqueTokenId":"synthetic-token-id"}`)
	return Record{Text: o.end(), ID: id, User: e.user, Area: Noise}
}

// exchange makes an administrator's record of Audit.Exchange.
func (w *World) exchange(at time.Time) Record {
	e := common{
		at: at.Format(creationFormat), operation: "Set-Mailbox", kind: 1, result: "True", key: `NT AUTHORITY\SYSTEM (synthetic)`, userType: 2,
		workload: "Exchange", address: "203.0.113.251:60221", subject: `harbor.example\office`, user: w.users[0].upn,
	}
	o, id := w.head(e)
	o.raw("ExternalAccess", "false").str("OrganizationName", "harbor.example").raw("Parameters", pairs("Identity", "office", "AuditEnabled", "True")).str("SessionId", "")
	return Record{Text: o.end(), ID: id, User: e.user}
}

// signIn makes a record of Audit.AzureActiveDirectory.
func (w *World) signIn(at time.Time) Record {
	u := w.anyone()
	e := common{
		at: at.Format(creationFormat), operation: "UserLoggedIn", kind: 15, result: "Success", key: u.object,
		workload: "AzureActiveDirectory", address: u.address, subject: w.guid(), user: u.upn,
	}
	o, id := w.head(e)
	o.num("AzureActiveDirectoryEventType", 1).raw("ExtendedProperties", pairs("ResultStatusDetail", "Success", "RequestType", "OAuth2:Token")).
		raw("ModifiedProperties", "[]").raw("Actor", `[{"ID":"`+u.object+`","Type":0},{"ID":"`+u.upn+`","Type":5}]`).
		str("ActorContextId", w.cfg.TenantID).str("ApplicationId", w.guid()).str("ErrorNumber", "0")
	return Record{Text: o.end(), ID: id, User: e.user}
}
