// Package settings turns the app settings of a function app, its public
// interface, into one checked and read-only value.
//
// [Load] reads them once and reports every problem at once, each with its
// remedy and with what it stops: everything, or only the webhook. It never
// corrects a value in silence. Blanks around a value are dropped, an empty
// value counts as not set, and so does a placeholder of
// local.settings.json.example ("<...>"). No text that this package makes, be
// it a problem, a note or an error, quotes a value, so none can leak a secret.
//
// The package reads no environment of its own and makes no network call. The
// only files it reads are those a setting names: the client certificate.
package settings

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Settings holds the settings after they were checked, with defaults filled
// in. Treat it as read-only; a copy is cheap. Make one with [Load].
type Settings struct {
	// TenantID is the customer's tenant, a GUID in lower case.
	TenantID string
	// PublisherIdentifier is sent with each request to the Management Activity
	// API, a GUID in lower case; the tenant unless set.
	PublisherIdentifier string
	// ManagementURL is the API root, "https://HOST" or "https://HOST:PORT" in
	// lower case, without a path.
	ManagementURL string
	// ManagementAudience is what a token for the API is issued for, always the
	// cloud's own, also where MANAGEMENT_API_URL overrides the root. The scope
	// to ask for is this and "/.default".
	ManagementAudience string
	// AuthorityHost is where Entra tokens come from, "https://HOST" like
	// ManagementURL.
	AuthorityHost string
	// ContentTypes are the content types to collect, at least one, spelled as
	// the service does, none twice, in the order given.
	ContentTypes []string
	// RequestsPerMinute is the tenant's quota at the Management Activity API.
	RequestsPerMinute int

	// WebhookAddress is the https address for notifications. It is empty where
	// no webhook is wanted and where a problem stops the webhook; the two
	// differ in [Problems.Webhook].
	WebhookAddress string
	// WebhookAuthID is what each call of the webhook must carry. It is set
	// where WebhookAddress is.
	WebhookAuthID Secret
	// WebhookAuthIDPrevious is accepted beside WebhookAuthID during rotation;
	// may be unset.
	WebhookAuthIDPrevious Secret
	// WebhookLifetime is the time after which the webhook expires unless it is
	// renewed; 0 is never.
	WebhookLifetime time.Duration

	// RecordFilter names the filter for records: "powerplatform",
	// "dynamics365" or "all".
	RecordFilter string
	// CatchUpWindow is the length of one listing, 1 minute to 24 hours.
	CatchUpWindow time.Duration
	// CatchUpOverlap is how far a listing reaches back over what was listed
	// before, 0 to 24 hours.
	CatchUpOverlap time.Duration
	// CatchUpStart is how far the first listing reaches back, at most 168
	// hours.
	CatchUpStart time.Duration

	// CosmosEndpoint is the account's address, "https://HOST[:PORT]/"; http
	// only on a loopback host.
	CosmosEndpoint string
	// CosmosKey is the account key in base64. Unset means Entra, see
	// [Settings.CosmosCredential].
	CosmosKey Secret
	// CosmosDatabase, CosmosContainer and CosmosStateContainer name where
	// records and the ledger go. The two containers differ.
	CosmosDatabase, CosmosContainer, CosmosStateContainer string

	// LogLevel is the least level that is logged.
	LogLevel slog.Level

	// ManagementCredentialName and CosmosCredentialName are the credentials by
	// azidentity's names for them, never empty.
	ManagementCredentialName, CosmosCredentialName string
	// ManagementClientID and CosmosClientID are those credentials' client ids,
	// GUIDs in lower case. Empty means the system-assigned identity, or the
	// account that is signed in to the Azure CLI.
	ManagementClientID, CosmosClientID string
	// ClientSecret, ClientCertificatePath, ClientCertificatePassword and
	// SendCertificateChain are what EnvironmentCredential signs in with; a
	// secret goes before a certificate, as in azidentity.
	ClientSecret              Secret
	ClientCertificatePath     string
	ClientCertificatePassword Secret
	SendCertificateChain      bool
	// FederatedTokenFile is the file WorkloadIdentityCredential signs in with.
	FederatedTokenFile string

	// Notes are choices made from what was given that an operator should see
	// once, in plain English. They are not problems.
	Notes []string
}

// Preset values of one cloud. Source: the Management Activity API reference
// ("Activity API operations", enterprise and government roots) for the roots;
// the audience of each is its root, without a slash.
type preset struct{ root, authority string }

var clouds = map[string]preset{
	"commercial": {"https://manage.office.com", "https://login.microsoftonline.com"},
	"gcc":        {"https://manage-gcc.office.com", "https://login.microsoftonline.com"},
	"gcchigh":    {"https://manage.office365.us", "https://login.microsoftonline.us"},
	"dod":        {"https://manage.protection.apps.mil", "https://login.microsoftonline.us"},
}

// The content types that the service offers. Source: Management Activity API
// reference, "Start a subscription".
var contentTypes = []string{"Audit.AzureActiveDirectory", "Audit.Exchange", "Audit.SharePoint", "Audit.General", "DLP.All"}

// Limits of the service on listings: a span of at most 24 hours that begins at
// most 7 days back. Source: Management Activity API reference, "List available
// content" (AF20030, AF20055).
const (
	maxWindow  = 24 * time.Hour
	maxHistory = 7 * 24 * time.Hour
)

const (
	// The shortest listing worth a request.
	minWindow = time.Minute
	// A tick runs every 5 minutes and the service asks for 15 minutes between
	// start calls, so a shorter life could not be renewed well before its end.
	minLifetime = time.Hour
	// The service grants 2000 requests a minute to a tenant at first and more
	// to large ones; far above that a value is a slip of the hand.
	maxRequestsPerMinute = 100_000
	// 16 characters of base64 hold 96 bits: out of reach for guessing.
	minAuthID = 16
	// Well under the 16 to 32 KB that front ends allow for all headers.
	maxAuthID = 512
	// Longest name of a Cosmos DB database or container. Source: "Azure Cosmos
	// DB service quotas".
	maxCosmosName = 255

	// The route of webhook/function.json under the route prefix of host.json.
	webhookPath = "/api/webhook"
)

// Load reads the settings through get, which has the shape of [os.LookupEnv].
// The names it asks for are those of [All] and WEBSITE_HOSTNAME, which the
// platform sets.
//
// With a problem of [ScopeAll] only LogLevel and Notes of the result may be
// used. With problems of [ScopeWebhook] alone the rest holds and
// WebhookAddress is empty.
func Load(get func(string) (string, bool)) (Settings, Problems) {
	var s Settings
	l := loader{get: get, bad: map[string]bool{}}

	l.read("LOG_LEVEL", logLevel(&s.LogLevel))
	l.read("AZURE_TENANT_ID", guid(&s.TenantID))
	s.PublisherIdentifier = s.TenantID
	l.read("PUBLISHER_IDENTIFIER", guid(&s.PublisherIdentifier))
	l.read("CONTENT_TYPES", contentTypeList(&s.ContentTypes))
	l.read("REQUESTS_PER_MINUTE", integer(&s.RequestsPerMinute, 1, maxRequestsPerMinute))
	l.read("RECORD_FILTER", oneOf(&s.RecordFilter, "powerplatform", "dynamics365", "all"))
	l.read("CATCH_UP_WINDOW", duration(&s.CatchUpWindow, minWindow, maxWindow))
	l.read("CATCH_UP_OVERLAP", duration(&s.CatchUpOverlap, 0, maxWindow))
	l.read("CATCH_UP_START", duration(&s.CatchUpStart, minWindow, maxHistory))

	var cloud string
	l.read("CLOUD", oneOf(&cloud, slices.Sorted(maps.Keys(clouds))...))
	s.ManagementURL, s.ManagementAudience, s.AuthorityHost = clouds[cloud].root, clouds[cloud].root, clouds[cloud].authority
	l.read("MANAGEMENT_API_URL", origin(&s.ManagementURL, "https://manage.office.com"))
	l.read("AZURE_AUTHORITY_HOST", origin(&s.AuthorityHost, "https://login.microsoftonline.com"))

	l.cosmos(&s)
	l.credentials(&s)
	l.webhook(&s)
	s.Notes = l.notes
	return s, l.problems
}

func (l *loader) cosmos(s *Settings) {
	l.read("COSMOS_ENDPOINT", cosmosEndpoint(&s.CosmosEndpoint))
	l.read("COSMOS_KEY", cosmosKey(&s.CosmosKey))
	l.read("COSMOS_DATABASE", cosmosName(&s.CosmosDatabase))
	l.read("COSMOS_CONTAINER", cosmosName(&s.CosmosContainer))
	l.read("COSMOS_STATE_CONTAINER", cosmosName(&s.CosmosStateContainer))
	if s.CosmosContainer != "" && s.CosmosContainer == s.CosmosStateContainer {
		l.report("COSMOS_STATE_CONTAINER", "is the container of COSMOS_CONTAINER", "name two different containers")
	}
	if strings.HasPrefix(s.CosmosEndpoint, "http:") && !s.CosmosKey.IsSet() && !l.bad["COSMOS_KEY"] {
		l.report("COSMOS_KEY", "is not set, and a token is never sent over http", "set the emulator's key, or give COSMOS_ENDPOINT as https")
	}
}

func (l *loader) webhook(s *Settings) {
	wanted := true
	switch given, ok := l.lookup("WEBHOOK_ADDRESS"); {
	case strings.EqualFold(given, "none"):
		l.note("WEBHOOK_ADDRESS is none: polling only, no webhook")
		wanted = false
	case ok:
		l.read("WEBHOOK_ADDRESS", webhookAddress(&s.WebhookAddress))
	default:
		host, why := publicHost(l.get)
		if why != "" {
			l.note("polling only, no webhook: WEBHOOK_ADDRESS is not set and WEBSITE_HOSTNAME " + why)
			wanted = false
			break
		}
		s.WebhookAddress = "https://" + host + webhookPath
	}

	l.read("WEBHOOK_AUTH_ID", authID(&s.WebhookAuthID))
	l.read("WEBHOOK_AUTH_ID_PREVIOUS", authID(&s.WebhookAuthIDPrevious))
	l.read("WEBHOOK_LIFETIME", lifetime(&s.WebhookLifetime))
	if wanted && !s.WebhookAuthID.IsSet() && !l.bad["WEBHOOK_AUTH_ID"] {
		l.report("WEBHOOK_AUTH_ID", "is not set, and a webhook is wanted",
			fmt.Sprintf("set it to at least %d random characters, such as the output of: openssl rand -hex 32; for polling only set WEBHOOK_ADDRESS to none", minAuthID))
	}
	if len(l.problems.Webhook()) > 0 {
		s.WebhookAddress = ""
	}
}

// publicHost returns the host name that the platform gave the app, or why it
// can't be the webhook's. A name with a port is what "func start" sets.
func publicHost(get func(string) (string, bool)) (host, why string) {
	host, _ = get("WEBSITE_HOSTNAME")
	host = strings.ToLower(strings.TrimSpace(host))
	switch u, err := url.Parse("https://" + host); {
	case host == "":
		return "", "is not set"
	case err != nil || u.Host != host || u.Hostname() == "":
		return "", "is not a plain host name"
	case u.Port() != "" || strings.Contains(host, ":"):
		return "", "names a port, so it is not the app's public name"
	case isLoopback(host):
		return "", "is this machine itself"
	}
	return host, ""
}

// Lookup returns a get function for [Load] that takes a setting from env and,
// where env lacks it or has only blanks, from local. A nil local is fine.
func Lookup(env func(string) (string, bool), local map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := env(name); ok && strings.TrimSpace(v) != "" {
			return v, true
		}
		v, ok := local[name]
		return v, ok
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") || ip != nil && ip.IsLoopback()
}
