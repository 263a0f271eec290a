package tenant

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Op is one operation of the tenant's web side.
type Op string

// The operations. OpUnknown is a request for nothing that exists here.
const (
	OpUnknown        Op = ""
	OpDiscovery      Op = "discovery"      // Entra's OpenID configuration
	OpToken          Op = "token"          // Entra's token endpoints
	OpIdentity       Op = "identity"       // the managed identity look-alike
	OpStart          Op = "start"          // POST subscriptions/start
	OpStop           Op = "stop"           // POST subscriptions/stop
	OpSubscriptions  Op = "subscriptions"  // GET subscriptions/list
	OpContent        Op = "content"        // GET subscriptions/content
	OpNotifications  Op = "notifications"  // GET subscriptions/notifications
	OpAudit          Op = "audit"          // GET audit/{contentId}
	OpSensitiveTypes Op = "sensitiveTypes" // GET resources/dlpSensitiveTypes
)

// feedOps are the operations of the feed by their path below it.
var feedOps = map[string]struct {
	op     Op
	method string
}{
	"subscriptions/start":         {OpStart, http.MethodPost},
	"subscriptions/stop":          {OpStop, http.MethodPost},
	"subscriptions/list":          {OpSubscriptions, http.MethodGet},
	"subscriptions/content":       {OpContent, http.MethodGet},
	"subscriptions/notifications": {OpNotifications, http.MethodGet},
	"resources/dlpSensitiveTypes": {OpSensitiveTypes, http.MethodGet},
}

// A fail is an answer in the service's error shape.
type fail struct {
	status        int
	code, message string
}

func failf(status int, code, format string, args ...any) *fail {
	return &fail{status, code, fmt.Sprintf(format, args...)}
}

// A call is one request on its way through the tenant.
type call struct {
	*http.Request
	query     url.Values
	segment   string // tenant segment of the path
	rest      string // escaped contentId of OpAudit
	publisher string // PublisherIdentifier as given
	token     claims // after authorise
	now       time.Time
}

// param returns a query parameter, whose name is matched without regard to
// case as the service does, and how often it was given.
func (c *call) param(name string) (value string, times int) {
	for key, values := range c.query {
		if strings.EqualFold(key, name) {
			value, times = values[0], times+len(values)
		}
	}
	return value, times
}

// Handler serves Entra and the Management Activity API.
func (t *Tenant) Handler() http.Handler { return http.HandlerFunc(t.serve) }

func (t *Tenant) serve(w http.ResponseWriter, r *http.Request) {
	c := &call{Request: r}
	c.query, _ = url.ParseQuery(r.URL.RawQuery)
	op, method := c.route()
	seen := Request{
		Op: op, Method: r.Method, Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery,
		Authorized: r.Header.Get("Authorization") != "",
	}
	seen.ContentType, _ = c.param("contentType")
	c.publisher, seen.PublisherIdentifiers = c.param("PublisherIdentifier")
	if op == OpAudit {
		seen.ContentID, _ = url.PathUnescape(c.rest)
	}

	t.mu.Lock()
	c.now = t.now()
	if t.origin == "" {
		t.origin = "https://" + r.Host
	}
	seen.Time = c.now
	rule := t.match(&seen)
	t.headers(w.Header(), c.now)
	t.mu.Unlock()

	a := &answer{ResponseWriter: w, seen: &seen, ctx: r.Context()}
	defer func() {
		t.mu.Lock()
		t.requests = append(t.requests, seen)
		t.mu.Unlock()
		t.cfg.Logger.Debug("answered", "op", string(op), "method", r.Method, "path", seen.Path, "status", seen.Status, "code", seen.Code)
	}()
	if rule != nil && t.disturb(a, r, rule) {
		return
	}
	if op == OpUnknown || r.Method != method {
		t.violation("%s %s is no operation of this API", r.Method, seen.Path)
		http.Error(a, "no such resource", http.StatusNotFound)
		return
	}
	switch op {
	case OpDiscovery:
		t.discovery(a, c)
	case OpToken:
		t.token(a, c)
	case OpIdentity:
		t.identity(a, c)
	default:
		t.feedCall(a, c, op)
	}
}

// route names the operation of a request and the method that it takes.
func (c *call) route() (Op, string) {
	parts := strings.Split(strings.TrimPrefix(c.URL.EscapedPath(), "/"), "/")
	switch {
	case len(parts) == 2 && parts[0] == "msi" && parts[1] == "token":
		return OpIdentity, http.MethodGet
	case len(parts) == 4 && strings.Join(parts[1:], "/") == "v2.0/.well-known/openid-configuration":
		c.segment = parts[0]
		return OpDiscovery, http.MethodGet
	case len(parts) >= 3 && (strings.Join(parts[1:], "/") == "oauth2/token" || strings.Join(parts[1:], "/") == "oauth2/v2.0/token"):
		c.segment = parts[0]
		return OpToken, http.MethodPost
	}
	if len(parts) < 7 || parts[0] != "api" || parts[1] != "v1.0" && parts[1] != "v1" || parts[3] != "activity" || parts[4] != "feed" {
		return OpUnknown, ""
	}
	c.segment = parts[2]
	if len(parts) == 7 && parts[5] == "audit" {
		c.rest = parts[6]
		return OpAudit, http.MethodGet
	}
	known := feedOps[strings.Join(parts[5:], "/")]
	return known.op, known.method
}

// headers sets what the service sends with every answer.
func (t *Tenant) headers(h http.Header, now time.Time) {
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "-1")
	h.Set("Server", "Microsoft-IIS/10.0")
	h.Set("X-Aspnet-Version", "4.0.30319")
	h.Set("X-Powered-By", "ASP.NET")
	h.Set("Mise-Correlation-Id", t.uuid())
	if t.knobs.NoDate {
		h["Date"] = nil // keeps net/http from adding its own
	} else {
		h.Set("Date", now.Add(t.knobs.DateSkew).Format(http.TimeFormat))
	}
}

// feedCall serves one operation of the feed: what all have in common first.
func (t *Tenant) feedCall(a *answer, c *call, op Op) {
	if refused := t.authorise(c); refused {
		a.Header().Set("WWW-Authenticate", "Bearer")
		a.json(http.StatusUnauthorized, map[string]string{"Message": "Authorization has been denied for this request."})
		return
	}
	if f := t.admit(a, c, op); f != nil {
		a.fail(f)
		return
	}
	switch op {
	case OpStart:
		t.start(a, c)
	case OpStop:
		t.stop(a, c)
	case OpSubscriptions:
		t.listSubscriptions(a, c)
	case OpContent, OpNotifications:
		t.list(a, c, op)
	case OpAudit:
		t.audit(a, c)
	case OpSensitiveTypes:
		t.sensitiveTypes(a, c)
	}
}

// claims are the parts of a token that the API looks at.
type claims struct {
	Audience string   `json:"aud"`
	Issuer   string   `json:"iss"`
	Issued   int64    `json:"iat"`
	Before   int64    `json:"nbf"`
	Expires  int64    `json:"exp"`
	AppID    string   `json:"appid"`
	AppACR   string   `json:"appidacr"`
	Roles    []string `json:"roles,omitempty"`
	Tenant   string   `json:"tid"`
	Version  string   `json:"ver"`
	Unique   string   `json:"uti"` // number of the token
}

// authorise reads the request's token. It reports true if the token is refused
// with the bare 401.
func (t *Tenant) authorise(c *call) (refused bool) {
	values := c.Header.Values("Authorization")
	if len(values) != 1 {
		t.violation("%s %s came with %d Authorization headers", c.Method, c.URL.EscapedPath(), len(values))
		return true
	}
	text, ok := strings.CutPrefix(values[0], "Bearer ")
	k, valid := t.verify(text)
	if !ok || !valid {
		t.violation("%s %s came with an Authorization header that is no token of this tenant's", c.Method, c.URL.EscapedPath())
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if k.Audience != t.cfg.Audience && t.knobs.TokenAudience == "" {
		t.violated("%s %s came with a token for audience %s", c.Method, c.URL.EscapedPath(), k.Audience)
	}
	c.token = k
	number, _ := strconv.Atoi(k.Unique)
	return k.Audience != t.cfg.Audience || c.now.Unix() >= k.Expires || number <= t.revoked
}

// admit makes the checks that every operation shares, in the order in which
// the service is thought to make them.
func (t *Tenant) admit(a *answer, c *call, op Op) *fail {
	t.mu.Lock()
	defer t.mu.Unlock()
	ours := strings.EqualFold(c.segment, t.cfg.ID)
	switch {
	case !isGUID(c.segment):
		return failf(400, "AF20013", "The tenant id %q is not a GUID.", c.segment)
	case ours && strings.EqualFold(c.token.Tenant, t.cfg.ID):
	case op == OpAudit:
		return failf(400, "AF20052", "The content id is not valid here.")
	case ours, slices.ContainsFunc(t.cfg.OtherTenants, func(o string) bool { return strings.EqualFold(o, c.segment) }):
		return failf(400, "AF20010", "The tenant id %s of the address is not the one of the token.", c.segment)
	default:
		return failf(400, "AF20011", "The tenant %s does not exist or was deleted.", c.segment)
	}

	if _, times := c.param("PublisherIdentifier"); times != 1 {
		t.violated("%s %s has PublisherIdentifier %d times", c.Method, c.URL.EscapedPath(), times)
	}
	if c.publisher != "" && !isGUID(c.publisher) {
		t.violated("%s %s has a PublisherIdentifier that is not a GUID", c.Method, c.URL.EscapedPath())
		return failf(400, "AF20002", "PublisherIdentifier is not a GUID.")
	}
	if f := t.throttle(a, c, op); f != nil {
		return f
	}
	contentType, _ := c.param("contentType")
	if !slices.Contains(c.token.Roles, RoleRead) {
		return failf(401, "AF10001", "The token carries the permissions (%s) but %s is needed.", strings.Join(c.token.Roles, ","), RoleRead)
	}
	if contentType == "DLP.All" && !slices.Contains(c.token.Roles, RoleReadDLP) {
		return failf(401, "AF10001", "The token carries the permissions (%s) but %s is needed.", strings.Join(c.token.Roles, ","), RoleReadDLP)
	}
	if c.now.Before(t.knobs.AuditingOffUntil) {
		return t.auditingOff(c, contentType)
	}
	switch op {
	case OpStart, OpStop, OpContent, OpNotifications:
		if contentType == "" {
			t.violated("%s %s lacks contentType", c.Method, c.URL.EscapedPath())
			return failf(400, "AF20001", "The parameter contentType is missing.")
		}
		if !slices.Contains(contentTypes, contentType) {
			t.violated("%s %s has the unknown contentType %q", c.Method, c.URL.EscapedPath(), contentType)
			return failf(400, "AF20020", "There is no content type %q.", contentType)
		}
	}
	return nil
}

// auditingOff is the mangled exception that a tenant without auditing answers:
// one internal text, cut in two at its first colon, less the character after it.
func (t *Tenant) auditingOff(c *call, contentType string) *fail {
	text := fmt.Sprintf("Request [CorrId=%s][TenantId=%s,ContentType=%s,ApplicationId=%s,PublisherId=%s][AppId:%s] failed. Exception: Lab.Tenant.DataServiceException: Tenant %s does not exist.",
		t.uuid(), t.cfg.ID, contentType, c.token.AppID, c.publisher, c.token.AppID, t.cfg.ID)
	var stack strings.Builder
	for i := range 20 { // about as long as the service's own, 1.7 kB
		fmt.Fprintf(&stack, "\r\n   at Lab.Tenant.Feed.Layer%02d.Call(Request request) in synthetic.cs:line %d", i, 100+i)
	}
	code, message, _ := strings.Cut(text, ":")
	return &fail{400, code, message[1:] + stack.String()}
}

// bucket is a token bucket.
type bucket struct {
	used float64 // calls not yet paid back
	last time.Time
}

// take reports whether one more call fits into a budget of so many a minute, of
// which burst may be saved up.
func (b *bucket) take(now time.Time, budget, burst int) bool {
	if passed := now.Sub(b.last); passed > 0 {
		b.used = max(0, b.used-passed.Minutes()*float64(budget))
		b.last = now
	}
	if b.used+1 > float64(burst) {
		return false
	}
	b.used++
	return true
}

// throttle charges a call to its quota.
func (t *Tenant) throttle(a *answer, c *call, op Op) *fail {
	budget := t.knobs.Budget
	if budget == 0 {
		budget = 2000 // a minute and tenant (service documentation)
	}
	quota, publisher := &t.quota, c.publisher
	if publisher == "" {
		quota, publisher = &t.pool, "00000000-0000-0000-0000-000000000000"
	}
	if budget < 0 || quota.take(c.now, budget, cmp.Or(t.knobs.Burst, budget)) {
		return nil
	}
	if t.knobs.RetryAfter > 0 {
		a.Header().Set("Retry-After", strconv.Itoa(int(t.knobs.RetryAfter.Seconds())))
	}
	a.singleQuotes = t.knobs.SingleQuotes
	method := map[Op]string{OpAudit: "GetBlob", OpContent: "GetContents", OpStart: "StartSubscription", OpSubscriptions: "GetSubscriptions"}[op]
	if method == "" {
		method = string(op)
	}
	status := t.knobs.ThrottleStatus
	if status == 0 {
		status = http.StatusForbidden
	}
	return failf(status, "AF429", "Too many requests. Method=%s, PublisherId=%s", method, publisher)
}

func (t *Tenant) sensitiveTypes(a *answer, c *call) {
	languages := strings.Split(c.Header.Get("Accept-Language"), ",")
	switch {
	case len(languages) > 1:
		a.fail(failf(400, "AF20053", "Accept-Language names more than one language."))
	case strings.ContainsAny(languages[0], " _/"):
		a.fail(failf(400, "AF20054", "Accept-Language is not a language."))
	default:
		a.json(http.StatusOK, []map[string]string{{"id": "7a10c0de-0003-4000-8000-00000000c003", "name": "Synthetic berth number"}})
	}
}

// segmentJSON is one part of a token: base64url of v's JSON.
func segmentJSON(v any) string {
	text, _ := json.Marshal(v) // only maps and structs of plain values come here
	return base64.RawURLEncoding.EncodeToString(text)
}
