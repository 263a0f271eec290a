package settings

import "slices"

// Setting describes one app setting.
type Setting struct {
	Name     string
	Required bool   // without it nothing runs
	Default  string // as it would be written; empty where there is none or another setting decides
	Secret   bool   // never shown
	Scope    Scope  // what a problem with it stops
	Doc      string // what it means, one sentence
}

// All returns every setting that [Load] reads, in the order in which they are
// documented.
func All() []Setting { return slices.Clone(all) }

var all = []Setting{
	{Name: "AZURE_TENANT_ID", Required: true, Doc: "The tenant whose activity is collected, a GUID."},
	{Name: "AZURE_CLIENT_ID", Doc: "Client id of the app registration or of the user-assigned identity, a GUID."},
	{Name: "AZURE_CLIENT_SECRET", Secret: true, Doc: "Secret of the app registration."},
	{Name: "AZURE_CLIENT_CERTIFICATE_PATH", Doc: "File with certificate and private key of the app registration, PEM or PKCS #12."},
	{Name: "AZURE_CLIENT_CERTIFICATE_PASSWORD", Secret: true, Doc: "Password of a PKCS #12 file."},
	{Name: "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", Default: "false", Doc: "Whether sign-in sends the certificate's chain: true or false."},
	{Name: "AZURE_FEDERATED_TOKEN_FILE", Doc: "File with the token that WorkloadIdentityCredential exchanges."},
	{Name: "AZURE_AUTHORITY_HOST", Doc: "Where Entra tokens come from, https; by default the cloud's."},
	{Name: "MANAGEMENT_API_CREDENTIAL", Doc: "Credential for the Management Activity API: EnvironmentCredential, WorkloadIdentityCredential, ManagedIdentityCredential or AzureCLICredential; by default environment if a secret or certificate is set, else managed identity."},
	{Name: "MANAGEMENT_API_CLIENT_ID", Doc: "That credential's client id where it is not AZURE_CLIENT_ID, or system for the system-assigned identity."},
	{Name: "COSMOS_CREDENTIAL", Doc: "Credential for Cosmos DB, named and defaulted like MANAGEMENT_API_CREDENTIAL; not used with COSMOS_KEY."},
	{Name: "COSMOS_CLIENT_ID", Doc: "That credential's client id where it is not AZURE_CLIENT_ID, or system for the system-assigned identity."},
	{Name: "CLOUD", Default: "commercial", Doc: "commercial, gcc, gcchigh or dod: presets of API root, audience and authority."},
	{Name: "MANAGEMENT_API_URL", Doc: "Overrides the API root, https; the audience stays the cloud's."},
	{Name: "CONTENT_TYPES", Default: "Audit.General", Doc: "Content types to collect, separated by commas."},
	{Name: "PUBLISHER_IDENTIFIER", Doc: "GUID whose quota the requests count against; by default the tenant."},
	{Name: "WEBHOOK_ADDRESS", Scope: ScopeWebhook, Doc: "https address for notifications, by default the app's own; none for polling only."},
	{Name: "WEBHOOK_AUTH_ID", Secret: true, Scope: ScopeWebhook, Doc: "Secret of at least 16 characters that each notification carries; required with a webhook."},
	{Name: "WEBHOOK_AUTH_ID_PREVIOUS", Secret: true, Scope: ScopeWebhook, Doc: "Accepted beside WEBHOOK_AUTH_ID while that is changed."},
	{Name: "WEBHOOK_LIFETIME", Scope: ScopeWebhook, Default: "none", Doc: "Time after which the webhook expires, at least 1h; it is renewed well before."},
	{Name: "RECORD_FILTER", Default: "powerplatform", Doc: "Records to keep: powerplatform (Dynamics 365 included), dynamics365 or all."},
	{Name: "CATCH_UP_WINDOW", Default: "1h", Doc: "Length of one listing, 1m to 24h."},
	{Name: "CATCH_UP_OVERLAP", Default: "2h", Doc: "How far each listing reaches back over the last, 0 to 24h."},
	{Name: "CATCH_UP_START", Default: "168h", Doc: "How far the first listing reaches back, at most 168h."},
	{Name: "REQUESTS_PER_MINUTE", Default: "2000", Doc: "The tenant's quota at the Management Activity API."},
	{Name: "COSMOS_ENDPOINT", Required: true, Doc: "Address of the Cosmos DB account, https."},
	{Name: "COSMOS_KEY", Secret: true, Doc: "Key of the account; without it Entra."},
	{Name: "COSMOS_DATABASE", Default: "Audit", Doc: "The database."},
	{Name: "COSMOS_CONTAINER", Default: "Audits", Doc: "The container for records."},
	{Name: "COSMOS_STATE_CONTAINER", Default: "ArchiveState", Doc: "The container for the ledger."},
	{Name: "LOG_LEVEL", Default: "info", Doc: "Least level that is logged: debug, info, warn or error."},
}
