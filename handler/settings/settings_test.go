package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	tenant    = "5b0f9a1e-0c1d-4e2f-8a3b-4c5d6e7f8091"
	client    = "0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9"
	other     = "c0ffee00-1111-4222-8333-444455556666"
	authValue = "lantern-harbor-0001-x"
	keyValue  = "aGFyYm9yLWtleS1vZi1hbi1lbXVsYXRvcg=="
)

// base is a complete set of settings with a webhook.
func base() map[string]string {
	return map[string]string{
		"AZURE_TENANT_ID":     tenant,
		"AZURE_CLIENT_ID":     client,
		"AZURE_CLIENT_SECRET": "s3cret~of~the~app",
		"COSMOS_ENDPOINT":     "https://harbor.documents.example:443/",
		"WEBHOOK_AUTH_ID":     authValue,
		"WEBSITE_HOSTNAME":    "harbor-archive.example",
	}
}

// with returns base with changes of the form NAME=value; "NAME=" unsets.
func with(changes ...string) map[string]string {
	m := base()
	for _, c := range changes {
		name, value, _ := strings.Cut(c, "=")
		if value == "" {
			delete(m, name)
		} else {
			m[name] = value
		}
	}
	return m
}

func getter(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

func TestLoadFillsDefaults(t *testing.T) {
	got, problems := Load(getter(base()))
	if len(problems) > 0 {
		t.Fatalf("problems:\n%v", problems)
	}
	want := Settings{
		TenantID:                 tenant,
		PublisherIdentifier:      tenant,
		ManagementURL:            "https://manage.office.com",
		ManagementAudience:       "https://manage.office.com",
		AuthorityHost:            "https://login.microsoftonline.com",
		ContentTypes:             []string{"Audit.General"},
		RequestsPerMinute:        2000,
		WebhookAddress:           "https://harbor-archive.example/api/webhook",
		WebhookAuthID:            NewSecret(authValue),
		RecordFilter:             "powerplatform",
		CatchUpWindow:            time.Hour,
		CatchUpOverlap:           2 * time.Hour,
		CatchUpStart:             168 * time.Hour,
		CosmosEndpoint:           "https://harbor.documents.example/",
		CosmosDatabase:           "Audit",
		CosmosContainer:          "Audits",
		CosmosStateContainer:     "ArchiveState",
		ManagementCredentialName: "EnvironmentCredential",
		CosmosCredentialName:     "EnvironmentCredential",
		ManagementClientID:       client,
		CosmosClientID:           client,
		ClientSecret:             NewSecret("s3cret~of~the~app"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

func TestLoadTakes(t *testing.T) {
	tests := []struct {
		name   string
		change []string
		show   func(Settings) any
		want   any
	}{
		{"GUID in capitals, blanks around", []string{"AZURE_TENANT_ID= " + strings.ToUpper(tenant) + "\n"}, func(s Settings) any { return s.TenantID }, tenant},
		{"publisher", []string{"PUBLISHER_IDENTIFIER=" + other}, func(s Settings) any { return s.PublisherIdentifier }, other},
		{"content types in any case", []string{"CONTENT_TYPES=audit.exchange, DLP.ALL"}, func(s Settings) any { return fmt.Sprint(s.ContentTypes) }, "[Audit.Exchange DLP.All]"},
		{"cloud", []string{"CLOUD=GCCHigh"}, func(s Settings) any { return s.ManagementURL + " " + s.ManagementAudience + " " + s.AuthorityHost }, "https://manage.office365.us https://manage.office365.us https://login.microsoftonline.us"},
		{"audience stays the cloud's", []string{"CLOUD=gcc", "MANAGEMENT_API_URL=https://API.harbor.example:443/"}, func(s Settings) any { return s.ManagementURL + " " + s.ManagementAudience }, "https://api.harbor.example https://manage-gcc.office.com"},
		{"authority with port", []string{"AZURE_AUTHORITY_HOST=https://localhost:8443"}, func(s Settings) any { return s.AuthorityHost }, "https://localhost:8443"},
		{"cloud dod", []string{"CLOUD=dod"}, func(s Settings) any { return s.ManagementURL + " " + s.AuthorityHost }, "https://manage.protection.apps.mil https://login.microsoftonline.us"},
		{"emulator", []string{"COSMOS_ENDPOINT=http://127.0.0.1:8081", "COSMOS_KEY=" + keyValue}, func(s Settings) any { return s.CosmosEndpoint + s.CosmosKey.Reveal() }, "http://127.0.0.1:8081/" + keyValue},
		{"filter", []string{"RECORD_FILTER=ALL"}, func(s Settings) any { return s.RecordFilter }, "all"},
		{"lifetime", []string{"WEBHOOK_LIFETIME=36h"}, func(s Settings) any { return s.WebhookLifetime }, 36 * time.Hour},
		{"lifetime none", []string{"WEBHOOK_LIFETIME=None"}, func(s Settings) any { return s.WebhookLifetime }, time.Duration(0)},
		{"no overlap", []string{"CATCH_UP_OVERLAP=0s"}, func(s Settings) any { return s.CatchUpOverlap }, time.Duration(0)},
		{"level", []string{"LOG_LEVEL=Warn"}, func(s Settings) any { return s.LogLevel }, slog.LevelWarn},
		{"webhook elsewhere", []string{"WEBHOOK_ADDRESS=https://front.harbor.example/hooks/m365"}, func(s Settings) any { return s.WebhookAddress }, "https://front.harbor.example/hooks/m365"},
		{"second AuthID", []string{"WEBHOOK_AUTH_ID_PREVIOUS=lantern-harbor-0000-x"}, func(s Settings) any { return s.WebhookAuthIDPrevious.Reveal() }, "lantern-harbor-0000-x"},
		{"polling only", []string{"WEBHOOK_ADDRESS=none", "WEBHOOK_AUTH_ID="}, func(s Settings) any { return s.WebhookAddress + fmt.Sprint(s.Notes) }, "[WEBHOOK_ADDRESS is none: polling only, no webhook]"},
		{"identity by default", []string{"AZURE_CLIENT_SECRET="}, func(s Settings) any { return s.ManagementCredentialName + s.ManagementClientID }, "ManagedIdentityCredential" + client},
		{"own client for Cosmos DB", []string{"COSMOS_CREDENTIAL=managedidentitycredential", "COSMOS_CLIENT_ID=" + other}, func(s Settings) any { return s.CosmosCredentialName + s.CosmosClientID + s.ManagementClientID }, "ManagedIdentityCredential" + other + client},
		{"system-assigned identity beside an app", []string{"COSMOS_CREDENTIAL=ManagedIdentityCredential", "COSMOS_CLIENT_ID=system"}, func(s Settings) any { return s.CosmosClientID }, ""},
		{"key makes the Cosmos credential moot", []string{"COSMOS_KEY=" + keyValue, "COSMOS_CREDENTIAL=WorkloadIdentityCredential"}, func(s Settings) any { return s.Notes[0] }, "COSMOS_CREDENTIAL is not used, because COSMOS_KEY is set"},
		{"placeholder counts as not set", []string{"PUBLISHER_IDENTIFIER=<GUID>"}, func(s Settings) any { return s.PublisherIdentifier }, tenant},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, problems := Load(getter(with(tt.change...)))
			if len(problems) > 0 {
				t.Fatalf("problems:\n%v", problems)
			}
			if got := tt.show(s); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name    string
		change  []string
		setting string
		scope   Scope
	}{
		{"no tenant", []string{"AZURE_TENANT_ID="}, "AZURE_TENANT_ID", ScopeAll},
		{"tenant by domain", []string{"AZURE_TENANT_ID=harbor.example"}, "AZURE_TENANT_ID", ScopeAll},
		{"placeholder in a required setting", []string{"AZURE_TENANT_ID=<GUID>"}, "AZURE_TENANT_ID", ScopeAll},
		{"no endpoint", []string{"COSMOS_ENDPOINT="}, "COSMOS_ENDPOINT", ScopeAll},
		{"http endpoint", []string{"COSMOS_ENDPOINT=http://harbor.documents.example/", "COSMOS_KEY=" + keyValue}, "COSMOS_ENDPOINT", ScopeAll},
		{"connection string", []string{"COSMOS_ENDPOINT=AccountEndpoint=https://harbor.documents.example/;AccountKey=" + keyValue}, "COSMOS_ENDPOINT", ScopeAll},
		{"endpoint with a user", []string{"COSMOS_ENDPOINT=https://me:pw@harbor.documents.example/"}, "COSMOS_ENDPOINT", ScopeAll},
		{"endpoint with a bad port", []string{"COSMOS_ENDPOINT=https://harbor.documents.example:99999/"}, "COSMOS_ENDPOINT", ScopeAll},
		{"token over http", []string{"COSMOS_ENDPOINT=http://localhost:8081"}, "COSMOS_KEY", ScopeAll},
		{"key not base64", []string{"COSMOS_KEY=not base64"}, "COSMOS_KEY", ScopeAll},
		{"database name", []string{"COSMOS_DATABASE=a/b"}, "COSMOS_DATABASE", ScopeAll},
		{"one container for both", []string{"COSMOS_STATE_CONTAINER=Audits"}, "COSMOS_STATE_CONTAINER", ScopeAll},
		{"cloud", []string{"CLOUD=china"}, "CLOUD", ScopeAll},
		{"API over http", []string{"MANAGEMENT_API_URL=http://api.harbor.example"}, "MANAGEMENT_API_URL", ScopeAll},
		{"API with a path", []string{"MANAGEMENT_API_URL=https://manage.office.com/api/v1.0"}, "MANAGEMENT_API_URL", ScopeAll},
		{"authority over http", []string{"AZURE_AUTHORITY_HOST=http://login.harbor.example"}, "AZURE_AUTHORITY_HOST", ScopeAll},
		{"content type unknown", []string{"CONTENT_TYPES=Audit.General,Audit.Teams"}, "CONTENT_TYPES", ScopeAll},
		{"content type twice", []string{"CONTENT_TYPES=Audit.General,audit.general"}, "CONTENT_TYPES", ScopeAll},
		{"content type empty", []string{"CONTENT_TYPES=Audit.General,"}, "CONTENT_TYPES", ScopeAll},
		{"window too long", []string{"CATCH_UP_WINDOW=24h1s"}, "CATCH_UP_WINDOW", ScopeAll},
		{"window too short", []string{"CATCH_UP_WINDOW=59s"}, "CATCH_UP_WINDOW", ScopeAll},
		{"window not a duration", []string{"CATCH_UP_WINDOW=60"}, "CATCH_UP_WINDOW", ScopeAll},
		{"overlap negative", []string{"CATCH_UP_OVERLAP=-1h"}, "CATCH_UP_OVERLAP", ScopeAll},
		{"start too early", []string{"CATCH_UP_START=169h"}, "CATCH_UP_START", ScopeAll},
		{"quota 0", []string{"REQUESTS_PER_MINUTE=0"}, "REQUESTS_PER_MINUTE", ScopeAll},
		{"quota a word", []string{"REQUESTS_PER_MINUTE=many"}, "REQUESTS_PER_MINUTE", ScopeAll},
		{"filter", []string{"RECORD_FILTER=some"}, "RECORD_FILTER", ScopeAll},
		{"level", []string{"LOG_LEVEL=loud"}, "LOG_LEVEL", ScopeAll},
		{"Key Vault reference", []string{"AZURE_CLIENT_SECRET=@Microsoft.KeyVault(SecretUri=https://v.example/secrets/a)"}, "AZURE_CLIENT_SECRET", ScopeAll},
		{"App Configuration reference", []string{"CLOUD=@microsoft.appconfiguration(Endpoint=https://c.example; Key=k)"}, "CLOUD", ScopeAll},
		{"control character", []string{"COSMOS_CONTAINER=Aud\x00its"}, "COSMOS_CONTAINER", ScopeAll},
		{"not UTF-8", []string{"AZURE_CLIENT_SECRET=a\xffb"}, "AZURE_CLIENT_SECRET", ScopeAll},
		{"credential unknown", []string{"COSMOS_CREDENTIAL=DefaultAzureCredential"}, "COSMOS_CREDENTIAL", ScopeAll},
		{"environment without a secret", []string{"AZURE_CLIENT_SECRET=", "COSMOS_CREDENTIAL=EnvironmentCredential"}, "AZURE_CLIENT_SECRET", ScopeAll},
		{"environment without a client", []string{"AZURE_CLIENT_ID="}, "AZURE_CLIENT_ID", ScopeAll},
		{"client not a GUID", []string{"AZURE_CLIENT_ID=collector"}, "AZURE_CLIENT_ID", ScopeAll},
		{"workload without a token file", []string{"MANAGEMENT_API_CREDENTIAL=WorkloadIdentityCredential"}, "AZURE_FEDERATED_TOKEN_FILE", ScopeAll},
		{"certificate not there", []string{"AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH=/nowhere/app.pem"}, "AZURE_CLIENT_CERTIFICATE_PATH", ScopeAll},
		{"certificate a device", []string{"AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH=/dev/zero"}, "AZURE_CLIENT_CERTIFICATE_PATH", ScopeAll},
		{"certificate no certificate", []string{"AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH=settings.go"}, "AZURE_CLIENT_CERTIFICATE_PATH", ScopeAll},
		{"chain neither", []string{"AZURE_CLIENT_SEND_CERTIFICATE_CHAIN=perhaps"}, "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", ScopeAll},
		{"system for an app", []string{"COSMOS_CLIENT_ID=system"}, "COSMOS_CLIENT_ID", ScopeAll},
		{"webhook over http", []string{"WEBHOOK_ADDRESS=http://harbor.example/api/webhook"}, "WEBHOOK_ADDRESS", ScopeWebhook},
		{"webhook with a key", []string{"WEBHOOK_ADDRESS=https://harbor.example/api/webhook?code=abc"}, "WEBHOOK_ADDRESS", ScopeWebhook},
		{"no AuthID", []string{"WEBHOOK_AUTH_ID="}, "WEBHOOK_AUTH_ID", ScopeWebhook},
		{"AuthID short", []string{"WEBHOOK_AUTH_ID=123456789012345"}, "WEBHOOK_AUTH_ID", ScopeWebhook},
		{"AuthID with a blank", []string{"WEBHOOK_AUTH_ID=lantern harbor 0001"}, "WEBHOOK_AUTH_ID", ScopeWebhook},
		{"AuthID not ASCII", []string{"WEBHOOK_AUTH_ID=läntern-harbor-0001"}, "WEBHOOK_AUTH_ID", ScopeWebhook},
		{"AuthID a reference", []string{"WEBHOOK_AUTH_ID=@Microsoft.KeyVault(VaultName=v;SecretName=s)"}, "WEBHOOK_AUTH_ID", ScopeWebhook},
		{"previous AuthID short", []string{"WEBHOOK_AUTH_ID_PREVIOUS=x"}, "WEBHOOK_AUTH_ID_PREVIOUS", ScopeWebhook},
		{"lifetime short", []string{"WEBHOOK_LIFETIME=59m"}, "WEBHOOK_LIFETIME", ScopeWebhook},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, problems := Load(getter(with(tt.change...)))
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1:\n%v", len(problems), problems)
			}
			p := problems[0]
			if p.Setting != tt.setting || p.Scope != tt.scope || p.What == "" || p.Remedy == "" {
				t.Errorf("problem %+v, want setting %s, scope %v, a what and a remedy", p, tt.setting, tt.scope)
			}
			if p.Scope == ScopeWebhook && (s.WebhookAddress != "" || s.CosmosEndpoint == "") {
				t.Errorf("a problem of the webhook must empty its address and leave the rest: %+v", s)
			}
		})
	}
}

func TestLoadReportsEveryProblem(t *testing.T) {
	_, problems := Load(getter(map[string]string{"CLOUD": "mars", "WEBHOOK_ADDRESS": "ftp://x", "REQUESTS_PER_MINUTE": "-1"}))
	var names []string
	for _, p := range problems {
		names = append(names, p.Setting)
	}
	slices.Sort(names)
	want := []string{"AZURE_TENANT_ID", "CLOUD", "COSMOS_ENDPOINT", "REQUESTS_PER_MINUTE", "WEBHOOK_ADDRESS", "WEBHOOK_AUTH_ID"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("settings with problems (-want +got):\n%s", diff)
	}
	if got := strings.Count(problems.Error(), "\n") + 1; got != len(want) {
		t.Errorf("text has %d lines, want %d:\n%v", got, len(want), problems)
	}
	if len(problems.All()) != 4 || len(problems.Webhook()) != 2 {
		t.Errorf("%d stop all and %d the webhook, want 4 and 2", len(problems.All()), len(problems.Webhook()))
	}
	if err := problems.Err(); err == nil {
		t.Error("Err is nil with problems")
	}
	if err := Problems(nil).Err(); err != nil {
		t.Errorf("Err without problems = %v, want nil", err)
	}
}

func TestLoadTakesTheWebhookFromTheHostName(t *testing.T) {
	tests := []struct{ host, want string }{
		{"Harbor-Archive.example", "https://harbor-archive.example/api/webhook"},
		{"", ""},
		{"localhost:7071", ""},
		{"localhost", ""},
		{"127.0.0.1", ""},
		{"harbor-archive.example:443", ""},
		{"harbor-archive.example/api", ""},
		{"me@harbor-archive.example", ""},
		{"[::1]", ""},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			// Without a webhook its AuthID is not needed either.
			changes := []string{"WEBSITE_HOSTNAME=" + tt.host}
			if tt.want == "" {
				changes = append(changes, "WEBHOOK_AUTH_ID=")
			}
			s, problems := Load(getter(with(changes...)))
			if s.WebhookAddress != tt.want || len(problems) > 0 {
				t.Errorf("address %q, problems %v; want %q, none", s.WebhookAddress, problems, tt.want)
			}
			if noted := len(s.Notes) == 1; noted != (tt.want == "") {
				t.Errorf("notes %q, want one if and only if there is no webhook", s.Notes)
			}
		})
	}
}

func TestSecretShowsNothing(t *testing.T) {
	const value = "tell-no-one-0001"
	s := NewSecret(value)
	inside := struct {
		Shown  Secret
		hidden Secret
		deep   *Secret
	}{s, s, &s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "inside", inside)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "inside", inside)
	text := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		text += fmt.Sprintf(verb+verb+verb, s, &s, inside)
	}
	for _, got := range []string{fmt.Sprintf("%x", s), fmt.Sprintf("%d", s), s.LogValue().String()} {
		if got != redacted {
			t.Errorf("shown as %q, want %q", got, redacted)
		}
	}
	encoded, err := json.Marshal(map[string]any{"a": s, "b": inside})
	if err != nil {
		t.Fatal(err)
	}
	text += string(encoded) + s.String() + s.GoString()
	for _, leak := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value)} {
		if strings.Contains(text, leak) {
			t.Errorf("%q shows in %q", leak, text)
		}
	}
	if s.Reveal() != value || !s.IsSet() || NewSecret("").IsSet() || !s.Equal(NewSecret(value)) || s.Equal(NewSecret("x")) {
		t.Error("Reveal, IsSet or Equal is wrong")
	}
}

// The table, the code, the example file and the README name the same settings.
func TestSettingsAreInStep(t *testing.T) {
	var table []string
	for _, d := range All() {
		table = append(table, d.Name)
		if d.Doc == "" || !strings.HasSuffix(d.Doc, ".") {
			t.Errorf("%s: doc %q is not a sentence", d.Name, d.Doc)
		}
	}
	slices.Sort(table)
	if unique := slices.Compact(slices.Clone(table)); len(unique) != len(table) {
		t.Fatal("the table names a setting twice")
	}

	t.Run("code", func(t *testing.T) {
		asked := map[string]bool{}
		Load(func(name string) (string, bool) {
			asked[name] = true
			return "", false
		})
		if !asked["WEBSITE_HOSTNAME"] {
			t.Error("Load did not ask for WEBSITE_HOSTNAME")
		}
		delete(asked, "WEBSITE_HOSTNAME")
		if diff := cmp.Diff(table, slices.Sorted(maps.Keys(asked))); diff != "" {
			t.Errorf("Load reads (-table +code):\n%s", diff)
		}
	})

	t.Run("example", func(t *testing.T) {
		data, err := os.ReadFile("../../local.settings.json.example")
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			IsEncrypted *bool
			Values      map[string]string
		}
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		if file.IsEncrypted == nil || *file.IsEncrypted || file.Values["FUNCTIONS_WORKER_RUNTIME"] != "custom" || file.Values["AzureWebJobsStorage"] == "" {
			t.Error("IsEncrypted false, FUNCTIONS_WORKER_RUNTIME custom and AzureWebJobsStorage must be there")
		}
		delete(file.Values, "FUNCTIONS_WORKER_RUNTIME")
		delete(file.Values, "AzureWebJobsStorage")
		if diff := cmp.Diff(table, slices.Sorted(maps.Keys(file.Values))); diff != "" {
			t.Errorf("example has (-table +example):\n%s", diff)
		}
		for _, d := range All() {
			if v := file.Values[d.Name]; v == "" || d.Default != "" && v != d.Default {
				t.Errorf("%s: example has %q, want the default %q or a placeholder", d.Name, v, d.Default)
			}
		}
		// Copied as it is, it asks for what only the customer knows.
		_, problems := Load(getter(file.Values))
		var names []string
		for _, p := range problems {
			names = append(names, p.Setting)
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "COSMOS_ENDPOINT"}, slices.Compact(names)); diff != "" {
			t.Errorf("problems of the untouched example (-want +got):\n%s", diff)
		}
	})

	t.Run("README", func(t *testing.T) {
		data, err := os.ReadFile("../../README.md")
		if err != nil {
			t.Fatal(err)
		}
		_, section, found := strings.Cut(string(data), "\n## Settings\n")
		if !found {
			t.Fatal(`README.md has no heading "## Settings"`)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		rows := map[string]string{}
		for line := range strings.Lines(section) {
			if cells := strings.SplitN(line, "|", 3); len(cells) == 3 && cells[0] == "" {
				for _, m := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(cells[1], -1) {
					rows[m[1]] = cells[2]
				}
			}
		}
		if diff := cmp.Diff(table, slices.Sorted(maps.Keys(rows))); diff != "" {
			t.Errorf("README has (-table +README):\n%s", diff)
		}
		for _, d := range All() {
			if !strings.Contains(rows[d.Name], d.Default) {
				t.Errorf("%s: its row does not name the default %q", d.Name, d.Default)
			}
		}
	})
}

func TestLookup(t *testing.T) {
	env := map[string]string{"A": "env", "B": " "}
	local := map[string]string{"A": "local", "B": "local", "C": "local"}
	get := Lookup(getter(env), local)
	for name, want := range map[string]string{"A": "env", "B": "local", "C": "local", "D": ""} {
		if got, ok := get(name); got != want || ok != (want != "") {
			t.Errorf("Lookup(%s) = %q, %v, want %q", name, got, ok, want)
		}
	}
	if _, ok := Lookup(getter(nil), nil)("A"); ok {
		t.Error("Lookup without a local file found something")
	}
}

// FuzzLoad gives any text as any setting and a marked secret as each secret
// one: nothing panics and nothing that can be printed shows the secret.
func FuzzLoad(f *testing.F) {
	f.Add("CLOUD=gcc\nCONTENT_TYPES=Audit.General,DLP.All", "")
	f.Add("COSMOS_ENDPOINT=https://u:p@[::1%25z]:1/\nWEBHOOK_ADDRESS=%zz\nWEBSITE_HOSTNAME=:x", " ")
	f.Add("AZURE_CLIENT_CERTIFICATE_PATH=.\nWEBHOOK_LIFETIME=9999999999h", "@Microsoft.KeyVault(")
	f.Fuzz(func(t *testing.T, text, tail string) {
		const mark = "Q7xZ-mark-of-a-secret"
		m := map[string]string{}
		for line := range strings.SplitSeq(text, "\n") {
			name, value, _ := strings.Cut(line, "=")
			m[name] = value
		}
		for _, d := range All() {
			if d.Secret {
				m[d.Name] = tail + mark
			}
		}
		s, problems := Load(getter(m))
		encoded, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range []string{problems.Error(), fmt.Sprintf("%v %+v %#v", s, s, problems), string(encoded)} {
			if strings.Contains(shown, mark) {
				t.Fatalf("a secret shows in %q", shown)
			}
		}
		if len(problems.All()) == 0 && (s.TenantID == "" || s.CosmosEndpoint == "" || len(s.ContentTypes) == 0 || s.ManagementURL == "") {
			t.Fatalf("no problem, yet incomplete: %+v", s)
		}
		if s.WebhookAddress != "" && !s.WebhookAuthID.IsSet() {
			t.Fatal("a webhook without an AuthID")
		}
	})
}
