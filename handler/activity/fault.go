package activity

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Kind says what a caller does about a failure, not where it arose.
type Kind int

// The kinds of failure.
const (
	Transient      Kind = iota // try again later: network, 5xx, cut or unreadable answers
	Throttled                  // over the request quota: wait Fault.RetryAfter, then again
	Gone                       // this content is unknown or expired: lost only once its life is over
	Denied                     // credentials, permission, tenant or auditing: nothing works until someone acts
	NotSubscribed              // no subscription, or a disabled one: start it, then slowly again
	WebhookRefused             // the service could not validate the webhook address
	BadRequest                 // the request itself is wrong, or its window is
	BadPage                    // the listing cannot be followed: list the window again from its first page
	Untrusted                  // a URL or item that must not be followed: no request was made to it
)

var kindNames = [...]string{"transient", "throttled", "gone", "denied", "not subscribed", "webhook refused", "bad request", "bad page", "untrusted"}

// String names the Kind in plain words, for logs.
func (k Kind) String() string { return kindNames[k] }

// Fault is one failed call. Its text is for people; branch on Kind. The text
// is bounded, free of control characters, and holds no token and no AuthID.
type Fault struct {
	Op            string // verb and noun: "list content"
	Kind          Kind
	Status        int           // HTTP status, 0 if no answer came
	Code          string        // the service's code such as AF20051, or an AADSTS code; may be empty
	RetryAfter    time.Duration // how long the service asks to wait, capped; 0 if it named none
	CorrelationID string        // mise-correlation-id, for the vendor's support; may be empty
	Remedy        string        // what an operator does about it; may be empty
	Err           error         // the cause, never nil
}

// Error names the operation, the status, the code, the cause and the remedy.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.Op + ": ")
	if f.Status != 0 {
		b.WriteString("status " + strconv.Itoa(f.Status) + ": ")
	}
	if f.Code != "" {
		b.WriteString(f.Code + ": ")
	}
	b.WriteString(f.Err.Error())
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	if f.CorrelationID != "" {
		b.WriteString(" (mise-correlation-id " + f.CorrelationID + ")")
	}
	return b.String()
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// KindOf reports the Kind of the first Fault in err's tree, else Transient.
func KindOf(err error) Kind {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Kind
	}
	return Transient
}

// Service codes that decide something here. Source: the service's
// documentation of this API, section "Errors", but for AF20024, which is not
// documented and seen in practice.
const (
	codeThrottled      = "AF429"
	codeNoPermission   = "AF10001"
	codeWrongTenant    = "AF20010"
	codeUnknownTenant  = "AF20011"
	codeBrokenTenant   = "AF20012"
	codeWebhook        = "AF20021"
	codeNoSubscription = "AF20022"
	codeDisabled       = "AF20023"
	codeNothingToDo    = "AF20024"
	codeWindow         = "AF20030"
	codeStalePage      = "AF20031"
	codeNoContent      = "AF20050"
	codeExpired        = "AF20051"
	codeBadContentID   = "AF20052"
	codeWindowToo      = "AF20055"
)

const (
	// maxErrorBody bounds what is read of an error's body. The longest seen
	// is a .NET stack of about 2 kB.
	maxErrorBody = 64 << 10
	// maxMessage bounds, in characters, how much of a foreign message enters an error.
	maxMessage = 300
	// maxRetryAfter caps the wait that the service can ask for. Its quota
	// counts by the minute, so that twice that is ample.
	maxRetryAfter = 2 * time.Minute
)

const (
	remedyPermission = "give this application the application permission ActivityFeed.Read of the Office 365 Management APIs, with admin consent" +
		" (a delegated permission does not count, DLP.All needs ActivityFeed.ReadDlp as well, and a new grant takes some minutes)"
	remedyAuditing = "turn on unified audit logging in this tenant; the service then needs an hour, and up to a day the first time"
	remedyTenant   = "check AZURE_TENANT_ID, and that the credential belongs to that tenant"
	remedyToken    = "check that CLOUD or MANAGEMENT_API_URL is the tenant's cloud, and that the application has the permission ActivityFeed.Read"
	remedyRefused  = "something refuses this request that is not the Management Activity API: look for a proxy, a firewall or a conditional access policy"
	remedyRedirect = "redirects are never followed, because the request carries a token: check MANAGEMENT_API_URL, and look for a proxy"
	remedyRoot     = "check MANAGEMENT_API_URL"
	remedyWebhook  = "the webhook's address must be reachable from the Internet over https and answer the validation with 200"
	remedyTrust    = "if a private authority signed this certificate, name its file in SSL_CERT_FILE"
	remedyClock    = "the window must lie within the last 7 days, span at most 24 hours and begin before it ends"
)

// serviceCode finds a code of the service in text. Codes have five digits but
// for AF429; other lengths are left out because GUIDs hold such strings too.
var serviceCode = regexp.MustCompile(`\bAF(?:429|\d{5})\b`)

// refusal is an error as the service, or whatever stands in front of it,
// worded it.
type refusal struct {
	code    string // AF code or empty
	message string // as received: neither bounded nor clean
	text    string // everything to search in, when neither code nor status decides
}

// parseRefusal reads an error's body in any of its shapes. What is not JSON
// gives a code but no message, because nothing is known of what it holds.
func parseRefusal(body []byte) refusal {
	var outer struct {
		Error            json.RawMessage `json:"error"`
		ErrorDescription text            `json:"error_description"`
		Message          text            `json:"Message"`
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return refusal{code: serviceCode.FindString(string(body)), text: string(body)}
	}
	var inner struct {
		Code    text `json:"code"`
		Message text `json:"message"`
	}
	if err := json.Unmarshal(outer.Error, &inner); err != nil {
		var word text // {"error":"invalid_token"}
		if err := json.Unmarshal(outer.Error, &word); err == nil {
			inner.Code, inner.Message = word, outer.ErrorDescription
		}
	}
	r := refusal{code: serviceCode.FindString(string(inner.Code)), message: string(inner.Message)}
	switch {
	case r.message == "" && outer.Message != "":
		r.message = string(outer.Message)
	case r.message == "" && r.code == "":
		r.message = string(inner.Code)
	case r.code == "" && inner.Code != "":
		// One internal exception text, cut in two at its first colon.
		r.message = string(inner.Code) + ": " + r.message
	}
	r.text = r.message
	if r.code == "" {
		r.code = serviceCode.FindString(r.text)
	}
	return r
}

// kindOf decides by the service's code, then by text that only one condition
// produces, then by the status. content says that the answer is about one
// content, where 404 means that content and not the address.
func (r refusal) kindOf(status int, content bool) (kind Kind, remedy string) {
	switch r.code {
	case codeThrottled:
		return Throttled, ""
	case codeNoPermission:
		return Denied, remedyPermission
	case codeWrongTenant, codeUnknownTenant, codeBrokenTenant:
		return Denied, remedyTenant
	case codeWebhook:
		return WebhookRefused, remedyWebhook
	case codeNoSubscription, codeDisabled:
		return NotSubscribed, ""
	case codeStalePage:
		return BadPage, ""
	case codeNoContent, codeExpired, codeBadContentID:
		return Gone, ""
	case codeWindow, codeWindowToo:
		return BadRequest, remedyClock
	}
	text := strings.ToLower(r.text)
	switch {
	case strings.HasPrefix(r.code, "AF5"):
		return Transient, ""
	case strings.HasPrefix(r.code, "AF2"):
		return BadRequest, ""
	case strings.Contains(text, "too many requests"):
		return Throttled, ""
	case strings.Contains(text, "dataserviceexception") && strings.Contains(text, "does not exist"):
		return Denied, remedyAuditing
	}
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled, ""
	case status == http.StatusUnauthorized:
		return Denied, remedyToken
	case status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return Denied, remedyRefused
	case content && (status == http.StatusNotFound || status == http.StatusGone):
		return Gone, ""
	case status == http.StatusNotFound, status == http.StatusGone:
		return BadRequest, remedyRoot
	case status >= 300 && status < 400:
		return BadRequest, remedyRedirect
	case status == http.StatusBadRequest, status == http.StatusRequestTimeout, status < 400, status >= 500:
		// A 400 without a code is the service's own exception, or a gateway's page.
		return Transient, ""
	default:
		return BadRequest, ""
	}
}

// newFault makes a Fault of the answer to asked. None of secrets appears in it.
func newFault(asked request, resp *http.Response, body []byte, now time.Time, secrets ...string) *Fault {
	r := parseRefusal(body)
	kind, remedy := r.kindOf(resp.StatusCode, asked.content)
	message := clean(r.message, secrets...)
	switch {
	case asked.private:
		message = fmt.Sprintf("the answer (%d bytes) is not shown, for it may hold an AuthID", len(body))
	case message == "":
		message = fmt.Sprintf("no readable message in the answer (%d bytes)", len(body))
	}
	id := resp.Header.Get("mise-correlation-id")
	if !guid.MatchString(id) {
		id = ""
	}
	return &Fault{
		Op: asked.op, Kind: kind, Status: resp.StatusCode, Code: r.code, Remedy: remedy,
		RetryAfter: retryAfter(resp.Header, now), CorrelationID: id, Err: errors.New(message),
	}
}

// retryAfter reads the header Retry-After, seconds or a date, and caps it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// bearer finds what looks like a token in a foreign text, whoever's it is.
var bearer = regexp.MustCompile(`(?i)\bbearer\s+[\w.~+/=-]{8,}|\beyJ[\w+/=-]{8,}[\w.+/=-]*`)

// spellings returns each secret as it stands, and as it stands in JSON, in a URL
// and in base64: an answer may quote the request. Longer ones come first.
func spellings(secrets []string) (forms []string) {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		forms = append(forms, secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)))
		for _, html := range []bool{false, true} {
			var b strings.Builder
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(html)
			if e.Encode(secret) == nil {
				quoted := strings.TrimSuffix(b.String(), "\n")
				forms = append(forms, quoted[1:len(quoted)-1])
			}
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return forms
}

// clean makes a foreign text fit for an error: one line, bounded, without
// control characters, without the given secrets in any form, and without tokens.
func clean(s string, secrets ...string) string {
	forms := spellings(secrets)
	redact := func(s string) string {
		for _, secret := range forms {
			s = strings.ReplaceAll(s, secret, "[redacted]")
		}
		return bearer.ReplaceAllString(s, "[redacted]")
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, redact(s))
	// Again, because dropped characters may have stood inside a secret.
	s = redact(strings.Join(strings.Fields(s), " "))
	if r := []rune(s); len(r) > maxMessage {
		s = string(r[:maxMessage]) + "…"
	}
	return s
}

// cleaned is an error with a cleaned text that keeps its cause.
type cleaned struct {
	text  string
	cause error
}

func (c *cleaned) Error() string { return c.text }
func (c *cleaned) Unwrap() error { return c.cause }

// ended is the error of a call whose context has ended.
func ended(ctx context.Context, op string) error {
	if cause := context.Cause(ctx); !errors.Is(ctx.Err(), cause) {
		return fmt.Errorf("%s: %w: %w", op, ctx.Err(), cause)
	}
	return fmt.Errorf("%s: %w", op, ctx.Err())
}
