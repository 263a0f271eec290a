// Package tenant is a simulated Microsoft 365 tenant: the Entra token endpoint,
// the Office 365 Management Activity API and the service's webhook sender, on
// one https origin.
//
// It is made for tests of clients that it knows nothing of. It answers as the
// service's documentation says and, where a [Knobs] field or a [Rule] is set,
// as the service has been seen to misbehave. It keeps what was published, so
// that a test can compare it with what arrived, and it notes what a client does
// against the rules of the API: see [Tenant.Violations].
//
// All policy (visibility, expiry, windows, quota, tokens, webhook retries, the
// Date header) follows the tenant's own clock, which [Tenant.Advance] moves.
// The zero values of [Config] and [Knobs] are usable. A Tenant is safe for
// concurrent use. It owns no goroutine: notifications leave while [Tenant.Run]
// or [Tenant.Deliver] runs.
package tenant

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Defaults of a zero Config. They are plainly synthetic.
const (
	DefaultID        = "7a10c0de-0001-4000-8000-00000000a001"
	DefaultAppID     = "7a10c0de-0002-4000-8000-00000000b002"
	DefaultAppSecret = "synthetic-app-secret"
	DefaultDomain    = "harbor.example"
	DefaultAudience  = "https://manage.office.com" // commercial cloud (service documentation, national clouds)
)

// RoleRead is the application permission that every feed operation needs.
const RoleRead = "ActivityFeed.Read"

// RoleReadDLP is the permission that content type DLP.All needs as well.
const RoleReadDLP = "ActivityFeed.ReadDlp"

// retention is how long a content can be had after it became available
// (service documentation, troubleshooting page).
const retention = 7 * 24 * time.Hour

// contentTypes are the five content types of the service documentation.
var contentTypes = []string{"Audit.AzureActiveDirectory", "Audit.Exchange", "Audit.SharePoint", "Audit.General", "DLP.All"}

// An App is an application registered in the tenant.
type App struct {
	ID          string            // client id, a GUID
	Secret      string            // client secret; empty: no secret is accepted
	Certificate *x509.Certificate // accepts assertions signed with its RSA key; nil: none is accepted
	Assertion   string            // accepts this federated token as the assertion; empty: none is accepted
	Roles       []string          // application permissions; nil: RoleRead only
}

// Config is what a tenant is made of. Every field may be left zero.
type Config struct {
	ID        string // tenant GUID in lower case; default DefaultID
	Domain    string // verified domain, accepted at the token endpoint only; default DefaultDomain
	AppID     string // client id of the first application; default DefaultAppID
	AppSecret string // its secret; default DefaultAppSecret

	Apps         []App    // further applications; each has subscriptions of its own
	OtherTenants []string // tenants that the service knows but that are not this one

	// Origin is the https origin under which Handler is reached, such as
	// "https://127.0.0.1:8443". Empty: taken from SetOrigin, else from the
	// first request.
	Origin string
	// Audience is the token audience that the API accepts; default DefaultAudience.
	Audience string
	// IdentityHeader is the secret of the managed identity endpoint at
	// /msi/token; empty: that endpoint refuses all.
	IdentityHeader string

	// Clock is the clock under the tenant's own; nil: time.Now.
	Clock func() time.Time
	// Client sends validations and notifications; nil: a plain client. Its
	// CheckRedirect is replaced: redirects are never followed.
	Client *http.Client
	// Seed makes every random choice of the tenant repeatable.
	Seed uint64
	// Knobs are the switches at the start.
	Knobs Knobs
	// Logger receives one debug line per request; nil: none.
	Logger *slog.Logger
}

// A Content is one published content: a JSON array of records behind a contentUri.
type Content struct {
	Type    string    // contentType
	ID      string    // contentId; empty: made by Knobs.IDShape
	URI     string    // contentUri; filled in by Add
	Created time.Time // contentCreated; zero: now

	// Visible is when the content is first listed, notified and served; zero:
	// at once, or at Created if that lies ahead.
	Visible time.Time
	// Listed is the time by which windows select it; zero: Created. Another
	// value makes the content appear outside its window.
	Listed time.Time
	// Expires is the contentExpiration told to clients; zero: Created plus 7
	// days, or plus Knobs.ToldLife.
	Expires time.Time
	// Ends is when retrieval is refused with AF20051; zero: Created plus 7
	// days, or Visible plus 7 days if that lies ahead.
	Ends time.Time

	// Records yields the records' texts, the same at every call. They are
	// served verbatim, joined by commas. Nil only if Body is set.
	Records iter.Seq[json.RawMessage]
	// Body, if not nil, is served verbatim in place of Records.
	Body []byte
}

// A Tenant is the simulated tenant. Make it with New.
type Tenant struct {
	cfg  Config
	apps map[string]*App // by client id
	key  []byte          // signs tokens

	wake    chan struct{} // tells Run that something may be due
	sending sync.Mutex    // one delivery at a time

	mu            sync.Mutex
	offset        time.Duration // of the tenant's clock
	origin        string
	knobs         Knobs
	random        *mathrand.Rand
	subscriptions map[subscriptionKey]*subscription
	lastStart     map[subscriptionKey]time.Time
	contents      map[string]*Content   // by contentId
	byType        map[string][]*Content // in order of Listed
	published     []*Content            // in order of publication
	serial        int                   // of contents, for their ids
	listings      map[string]*listing   // open listings by nextPage token
	tokens        int                   // issued so far
	revoked       int                   // tokens up to this one are refused
	quota         bucket                // calls that name their publisher
	pool          bucket                // calls that do not
	rules         []*Injected
	announced     []announcement // not yet queued, in no order
	attempts      []attempt
	deliveries    []Delivery
	requests      []Request
	violations    []string
}

// New makes a tenant.
func New(cfg Config) *Tenant {
	cfg.ID = strings.ToLower(cmp.Or(cfg.ID, DefaultID))
	cfg.Domain = cmp.Or(cfg.Domain, DefaultDomain)
	cfg.AppID = cmp.Or(cfg.AppID, DefaultAppID)
	cfg.AppSecret = cmp.Or(cfg.AppSecret, DefaultAppSecret)
	cfg.Audience = strings.TrimSuffix(cmp.Or(cfg.Audience, DefaultAudience), "/")
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	client := http.Client{}
	if cfg.Client != nil {
		client = *cfg.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.Client = &client

	t := &Tenant{
		cfg:           cfg,
		apps:          map[string]*App{},
		key:           []byte(rand.Text()),
		wake:          make(chan struct{}, 1),
		origin:        strings.TrimSuffix(cfg.Origin, "/"),
		knobs:         cfg.Knobs,
		random:        mathrand.New(mathrand.NewPCG(cfg.Seed, 0x7e4a47)),
		subscriptions: map[subscriptionKey]*subscription{},
		lastStart:     map[subscriptionKey]time.Time{},
		contents:      map[string]*Content{},
		byType:        map[string][]*Content{},
		listings:      map[string]*listing{},
	}
	for _, app := range append([]App{{ID: cfg.AppID, Secret: cfg.AppSecret}}, cfg.Apps...) {
		if app.Roles == nil {
			app.Roles = []string{RoleRead}
		}
		t.apps[strings.ToLower(app.ID)] = &app
	}
	return t
}

// Now is the tenant's time, in UTC.
func (t *Tenant) Now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now()
}

func (t *Tenant) now() time.Time { return t.cfg.Clock().Add(t.offset).UTC() }

// Advance moves the tenant's clock by d, which may be negative, and wakes Run.
func (t *Tenant) Advance(d time.Duration) {
	t.mu.Lock()
	t.offset += d
	t.mu.Unlock()
	t.nudge()
}

// SetOrigin tells the https origin under which Handler is reached. Call it
// before anything is published: contentUris are built from it.
func (t *Tenant) SetOrigin(origin string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.origin = strings.TrimSuffix(origin, "/")
}

// Tune changes the switches under the tenant's lock: edit must not call the
// tenant.
func (t *Tenant) Tune(edit func(*Knobs)) {
	t.mu.Lock()
	edit(&t.knobs)
	t.mu.Unlock()
	t.nudge()
}

// Publish makes a content of the records, whose texts are served verbatim and
// must not be changed afterwards. It becomes visible at once, or at created if
// that lies ahead, and its webhook notification is queued.
func (t *Tenant) Publish(contentType string, created time.Time, records ...json.RawMessage) Content {
	return t.Add(Content{Type: contentType, Created: created, Records: slices.Values(records)})
}

// Add publishes c and returns it as filled in. A content with an old Created
// that becomes visible now, or at a later Visible, is a content that came late.
func (t *Tenant) Add(c Content) Content {
	t.mu.Lock()
	now := t.now()
	if c.Created.IsZero() {
		c.Created = now
	}
	// The service tells milliseconds (service documentation, list content).
	c.Created = c.Created.UTC().Truncate(time.Millisecond)
	if c.Visible.IsZero() {
		c.Visible = now
		if c.Created.After(now) {
			c.Visible = c.Created
		}
	}
	if c.Listed.IsZero() {
		c.Listed = c.Created
	}
	if c.Expires.IsZero() {
		c.Expires = c.Created.Add(cmp.Or(t.knobs.ToldLife, retention))
	}
	if c.Ends.IsZero() {
		// A content that was there all along ends 7 days after its creation,
		// one that comes late 7 days after it could first be seen.
		c.Ends = c.Created.Add(retention)
		if c.Visible.After(now) {
			c.Ends = c.Visible.Add(retention)
		}
	}
	t.serial++
	if c.ID == "" {
		c.ID = t.contentID(&c)
	}
	c.URI = t.feed() + "/audit/" + c.ID
	t.contents[c.ID] = &c
	t.published = append(t.published, &c)
	list := t.byType[c.Type]
	at, _ := slices.BinarySearchFunc(list, c.Listed, func(o *Content, at time.Time) int {
		if o.Listed.After(at) {
			return 1
		}
		return -1 // after its equals: order of publication
	})
	t.byType[c.Type] = slices.Insert(list, at, &c)
	t.announce(&c)
	t.mu.Unlock()
	t.nudge()
	return c
}

// Contents returns what was published, in that order.
func (t *Tenant) Contents() []Content {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Content, len(t.published))
	for i, c := range t.published {
		all[i] = *c
	}
	return all
}

// Records yields every published record with its content, in order of
// publication. Contents published with a Body of their own have none.
func (t *Tenant) Records() iter.Seq2[Content, json.RawMessage] {
	return func(yield func(Content, json.RawMessage) bool) {
		for _, c := range t.Contents() {
			if c.Records == nil {
				continue
			}
			for text := range c.Records {
				if !yield(c, text) {
					return
				}
			}
		}
	}
}

// feed is the root of the tenant's feed, as contentUris begin.
func (t *Tenant) feed() string {
	return t.origin + "/api/v1.0/" + t.cfg.ID + "/activity/feed"
}

// contentID makes an id of the shape that Knobs.IDShape names.
func (t *Tenant) contentID(c *Content) string {
	kind := strings.ReplaceAll(c.Type, ".", "_")
	stamp := func(at time.Time) string {
		return fmt.Sprintf("%s%03d%06d", at.Format("20060102150405"), at.Nanosecond()/1e6, t.serial%1e6)
	}
	switch t.knobs.IDShape {
	case IDOldest:
		return fmt.Sprintf("%012d$%012d$%s%s%s$%08x$%02d", t.serial, t.serial+7,
			strings.ReplaceAll(t.cfg.ID, "-", ""), strings.ToLower(kind), c.Created.Format("20060102"), t.random.Uint32(), t.serial%100)
	case IDOld:
		return stamp(c.Created) + "$" + stamp(c.Created) + "$" + strings.ToLower(kind) + "$" + kind
	default:
		region := []string{"emea", "na", "apac"}[t.serial%3]
		return stamp(c.Created) + "$" + stamp(c.Created.Add(time.Duration(t.serial%4)*time.Second)) + "$" +
			strings.ToLower(kind) + "$" + kind + "$" + region + fmt.Sprintf("%04d", 10+t.serial%40)
	}
}

func (t *Tenant) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// chance reports true with probability p.
func (t *Tenant) chance(p float64) bool { return p > 0 && t.random.Float64() < p }

// uuid makes a random GUID for correlation headers and the like.
func (t *Tenant) uuid() string {
	a, b := t.random.Uint64(), t.random.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}

// isGUID reports whether s has the form 8-4-4-4-12 in hex.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)):
			return false
		}
	}
	return true
}
