package tenant

import (
	"net/http"
	"net/url"
	"time"
)

// An IDShape is one of the shapes that contentIds have had over the years.
type IDShape int

// The shapes. All contain dollar signs.
const (
	IDRecent IDShape = iota // two stamps, type twice, region
	IDOld                   // two equal stamps, type twice
	IDOldest                // two numbers, tenant and type and date, hash, number
)

// A StartRule says what happens to a start within 15 minutes of the last.
type StartRule int

// The rules. The service's own answer is not known.
const (
	StartAllowed   StartRule = iota // nothing; it is a violation all the same
	StartThrottled                  // refused with 403 and AF429
	StartRefused                    // refused with 400 and AF20002
)

// Knobs are the tenant's switches. The zero value is the service as documented.
// Change them with Tenant.Tune. Functions are called under the tenant's lock
// and must not call the tenant.
type Knobs struct {
	// Tokens.

	TokenLifetime time.Duration // life of new tokens; 0: one hour
	TokenAudience string        // audience put into new tokens in place of the one asked for
	TokenTenant   string        // tenant id put into new tokens in place of the tenant's
	TokenRoles    []string      // roles put into new tokens; nil: the application's; empty: none
	TokenError    string        // AADSTS number that the token endpoint answers with, such as "7000222"

	// The service as a whole.

	AuditingOffUntil time.Time     // before this time every call answers that the tenant does not exist
	DateSkew         time.Duration // added to the Date header only
	NoDate           bool          // no Date header
	Gzip             bool          // compress content for clients that accept it
	BOM              bool          // a byte order mark before content

	// Quota. A call without PublisherIdentifier draws on a common pool of the
	// same size.

	Budget         int           // calls a minute; 0: 2,000 (service documentation); negative: no limit
	Burst          int           // calls that may be saved up; 0: a minute's worth
	ThrottleStatus int           // status that goes with AF429; 0: 403
	RetryAfter     time.Duration // Retry-After of throttled answers, whole seconds; 0: no such header
	SingleQuotes   bool          // throttled bodies are written with single quotes

	// Subscriptions.

	StartRule         StartRule           // for a start within 15 minutes of the last
	StickyStop        time.Duration       // after stop and start: lists as empty and AF20023, for so long
	StoppedShown      bool                // a stopped subscription is listed as disabled; else it is not listed
	AnyStartBody      bool                // start reads its body whatever its media type
	BodilessKeeps     bool                // a start without webhook keeps the webhook; else it removes it
	NotStartedCode    string              // code for a type that was never started; "": AF20022
	ExpirationNull    bool                // no expiration is listed as null; else as ""
	OmitStatus        bool                // list items lack their status
	OmitWebhook       bool                // list items lack their webhook
	EchoAddress       func(string) string // how list spells a webhook's address; nil: as given
	ValidationTimeout time.Duration       // real time for a webhook's validation; 0: 5 s (seen in the field)
	ValidationHeader  func(h http.Header) // edits the validation request's header
	Backfill          time.Duration       // how far before its start a subscription sees content; 0: all of it

	// Listing.

	PageSize        int                       // items a page; 0: 200
	Shuffle         bool                      // items in no order
	RepeatItems     bool                      // the last of a page of two or more items comes again on the next
	EmptyPages      bool                      // an empty page with a next page before each further page
	LastPageEmpty   bool                      // an empty page without a next page at the end
	NextPageHeader  string                    // name of the header exactly as sent; "": NextPageUri
	NextPageVersion string                    // API version in its URL; "": v1 (service documentation)
	NextPageLoop    bool                      // each page names itself as the next
	NextPageLife    time.Duration             // life of a nextPage token; 0: for ever
	NextPageKeepsID bool                      // its URL has the PublisherIdentifier, in another spelling
	NextPageEdit    func(u *url.URL)          // edits its URL: other scheme, host, tenant
	ItemEdit        func(item map[string]any) // edits items of listings
	OneSided        bool                      // a missing bound is filled in; else AF20055
	PartialSpan     time.Duration             // longer windows are answered in silence with only their first part; 0: never
	StartSlack      time.Duration             // how much earlier than 7 days a window may begin; 0: one hour; negative: none
	SpaceRefused    bool                      // a bound with a space answers AF20002; else an empty list
	SinceMidnight   bool                      // no bounds mean since midnight; else the last 24 h
	IDShape         IDShape                   // of new contentIds

	// Content.

	ToldLife      time.Duration // contentExpiration less contentCreated; 0: 7 days
	MissingStatus int           // status that goes with AF20050; 0: 404
	ExpiredStatus int           // status that goes with AF20051; 0: 400

	// Notifications.

	NotifyDelay   time.Duration             // from visible to sent; negative: sent before it is visible
	NotifyJitter  time.Duration             // a random part on top, which reorders too
	NotifyLoss    float64                   // share of notifications that are never sent
	NotifyTwice   float64                   // share of notifications that are sent twice
	NotifyShuffle bool                      // notifications leave in no order
	NotifyBatch   int                       // items an array; 0: 5
	NotifyEdit    func(item map[string]any) // edits items of notifications
	NotifyTimeout time.Duration             // real time for one notification; 0: 30 s
	NotifyAway    string                    // address that gets all notifications in place of the webhook's
	RetryBase     time.Duration             // wait after a webhook's first failure, doubled with each further; 0: one minute
	RetryCap      time.Duration             // longest such wait; 0: one hour
	DisableAfter  int                       // failures in a row after which a webhook is disabled; 0: 10; negative: never
}
