package cosmos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

// Kind says what a caller does about a failure.
type Kind int

// None is the Kind of no failure.
const None Kind = -1

// The kinds of failure.
const (
	Transient Kind = iota // tried again without success: a later run may do better
	Throttled             // still over the provisioned throughput when time ran out
	Exists                // a document with this id and partition key is there
	Changed               // the document's ETag is not the one given: someone else wrote it
	NotFound              // no such document
	Missing               // database or container does not exist
	Refused               // this document will never be accepted
	TooLarge              // document or request over the service's limit
	Full                  // the logical partition has reached 20 GB
	Denied                // key, role or firewall: nothing will work until someone acts
	OtherKey              // the partition key given is not the container's, or not the document's
)

var kindNames = [...]string{"transient", "throttled", "exists", "changed", "not found", "missing", "refused", "too large", "partition full", "denied", "another partition key"}

// String names the Kind in plain words, for logs.
func (k Kind) String() string {
	if k == None {
		return "none"
	}
	return kindNames[k]
}

// Fault is one failed operation.
type Fault struct {
	Op        string // verb and noun: "create document"
	Kind      Kind
	Status    int    // HTTP status, 0 if no answer came
	SubStatus string // x-ms-substatus, may be empty
	Activity  string // x-ms-activity-id, for the vendor's support
	Foreign   bool   // a refusal that is not the account's: something before it does not like the request
	Err       error  // the cause, never nil
}

// Error names the operation, the kind, the status and the cause.
func (f *Fault) Error() string {
	if f.Status == 0 {
		return fmt.Sprintf("%s: %s: %v", f.Op, f.Kind, f.Err)
	}
	text := fmt.Sprintf("%s: %s: status %d", f.Op, f.Kind, f.Status)
	if f.SubStatus != "" {
		text += "/" + f.SubStatus
	}
	text += fmt.Sprintf(": %v", f.Err)
	if f.Activity != "" {
		text += " (activity " + f.Activity + ")"
	}
	return text
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// KindOf reports the Kind of the first Fault in err's tree, None for a nil error,
// else Transient.
func KindOf(err error) Kind {
	if err == nil {
		return None
	}
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Kind
	}
	return Transient
}

const (
	// attempts bounds the tries of one operation that fails for a passing
	// reason: with the waits below about half a minute. Throttling is bounded
	// by the context alone: the service asks for patience.
	attempts = 8
	// foreignAttempts bounds them where something before the account refuses the
	// request: it may be in trouble, or not like what the request holds.
	foreignAttempts = 4
	firstWait       = 250 * time.Millisecond
	lastWait        = 10 * time.Second

	// longestHint caps what the service may ask us to wait in one go.
	longestHint = time.Minute

	errorBody = 8 << 10 // bytes read of an error's body
)

// errAgain marks an answer that asks for another try although the SDK reports
// no error: a batch that failed for a passing reason, or an answer cut short.
type errAgain struct {
	status int
	reason string
}

func (e *errAgain) Error() string { return e.reason }

// do runs one operation on n documents until it succeeds, fails for good, or no
// further try fits before the context's deadline. Every operation given to it
// may run more than once: creates carry fixed ids and replaces carry an ETag, so
// a try whose answer was lost shows up as Exists or Changed in the next.
func (db *DB) do(ctx context.Context, op string, n int, bulk bool, call func(context.Context, *azcosmos.Client) error) error {
	for tries, failures := 1, 0; ; tries++ {
		aside, err := db.pace.wait(ctx, op, n, bulk)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		client := db.current()
		var cost bill
		try, cancel := context.WithTimeout(context.WithValue(ctx, billContext{}, &cost), tryTimeout)
		err = call(try, client)
		cancel()
		fault, hint := classify(op, err)
		kind := None
		if fault != nil {
			kind = fault.Kind
		}
		db.pace.done(op, n, aside, cost.units(), kind)
		if fault == nil {
			return nil
		}
		db.renew(client)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", op, errors.Join(context.Cause(ctx), fault))
		}
		switch fault.Kind {
		case Throttled:
		case Transient:
			if failures++; failures >= attempts || fault.Foreign && failures >= foreignAttempts {
				return fault
			}
		default:
			return fault
		}
		wait := max(backoff(tries), hint)
		if fault.Kind == Throttled && hint > 0 { // the account knows, and the pace does the rest
			wait = hint
		}
		if deadline, ok := ctx.Deadline(); ok && !time.Now().Add(wait).Before(deadline) {
			return fault
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", op, errors.Join(err, fault))
		}
	}
}

// backoff is the wait after the nth failed try: doubled each time, capped, and
// spread over its upper half so that workers do not return in step.
func backoff(n int) time.Duration {
	d := min(firstWait<<min(n-1, 10), lastWait)
	return d/2 + rand.N(d/2+1)
}

// sleep waits for d or the end of ctx, whose cause it returns.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// classify turns the SDK's error into a Fault, nil for none, and the wait that
// the service asked for.
func classify(op string, err error) (*Fault, time.Duration) {
	if err == nil {
		return nil, 0
	}
	if again, ok := errors.AsType[*errAgain](err); ok {
		kind := Transient
		if again.status == http.StatusTooManyRequests {
			kind = Throttled
		}
		return &Fault{Op: op, Kind: kind, Status: again.status, Err: err}, 0
	}
	re, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		// No usable answer: dial, TLS, reset, time-out, cut body, or no token.
		if denied := tokenRefused(err); denied != nil {
			return &Fault{Op: op, Kind: Denied, Err: denied}, 0
		}
		return &Fault{Op: op, Kind: Transient, Err: err}, 0
	}
	fault := &Fault{Op: op, Status: re.StatusCode, Kind: Refused, Err: errors.New(http.StatusText(re.StatusCode))}
	var hint time.Duration
	var message string
	own := false // the account itself answered, not something in front of it
	if re.RawResponse != nil {
		header := re.RawResponse.Header
		own = ours(re.RawResponse)
		fault.SubStatus = clean(header.Get("x-ms-substatus"), 16)
		fault.Activity = clean(header.Get("x-ms-activity-id"), 64)
		if ms, err := strconv.ParseInt(header.Get("x-ms-retry-after-ms"), 10, 64); err == nil && ms > 0 {
			hint = time.Duration(min(ms, longestHint.Milliseconds())) * time.Millisecond
		}
		message = serviceMessage(re.RawResponse)
	}
	switch re.StatusCode {
	case http.StatusTooManyRequests:
		fault.Kind = Throttled
	case http.StatusRequestTimeout, http.StatusGone, 449, // 449: Retry With
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		fault.Kind = Transient
	case http.StatusBadRequest:
		if fault.SubStatus == "1001" {
			fault.Kind = OtherKey
		}
	case http.StatusConflict:
		fault.Kind = Exists
	case http.StatusPreconditionFailed:
		fault.Kind = Changed
	case http.StatusRequestEntityTooLarge:
		fault.Kind = TooLarge
	case http.StatusNotFound:
		fault.Kind = NotFound
		if fault.SubStatus == "1002" { // read session not yet available
			fault.Kind = Transient
		}
	case http.StatusUnauthorized:
		fault.Kind = Denied
		fault.Err = fmt.Errorf("%s; check COSMOS_KEY or the credential's data-plane role, and the clock of this machine", or(message, "unauthorized"))
	case http.StatusForbidden:
		switch fault.SubStatus {
		case "3", "1008": // the write region moved
			fault.Kind, hint = Transient, max(hint, time.Second)
		case "1014":
			fault.Kind = Full
			fault.Err = errors.New("this logical partition holds 20 GB, the most the service allows")
		default:
			fault.Kind = Denied
			fault.Err = fmt.Errorf("%s; check the account's firewall, the credential's data-plane role, and the clock of this machine", or(message, "forbidden"))
		}
	}
	// A proxy's page must not turn records into dead letters, nor a state that is
	// there into none; and one that does not like one record must not end a run.
	if !own && (fault.Kind == Refused || fault.Kind == OtherKey || fault.Kind == TooLarge || fault.Kind == NotFound || fault.Kind == Denied) {
		fault.Kind, fault.Foreign = Transient, true
		fault.Err = fmt.Errorf("%s, and not from Cosmos DB itself; look for a proxy or firewall, and check COSMOS_ENDPOINT", http.StatusText(re.StatusCode))
	}
	return fault, hint
}

// ours reports whether the account itself has answered.
func ours(resp *http.Response) bool {
	return resp.Header.Get("x-ms-activity-id") != "" || resp.Header.Get("x-ms-request-charge") != ""
}

// tokenRefused tells an Entra refusal from a passing fault of the network: the
// SDK reports both without an answer of the account.
func tokenRefused(err error) error {
	text := err.Error()
	if i := strings.Index(text, "AADSTS"); i >= 0 {
		return fmt.Errorf("a token for Cosmos DB was refused by Entra ID (%s); check COSMOS_CREDENTIAL and its secret or certificate", clean(text[i:min(len(text), i+12)], 12))
	}
	if strings.Contains(text, "CredentialUnavailable") || strings.Contains(text, "credential unavailable") {
		return errors.New("no credential for Cosmos DB is available here; set COSMOS_CREDENTIAL or COSMOS_KEY")
	}
	return nil
}

// serviceMessage reads the message of an error body. Only callers whose message
// cannot quote a document use it.
func serviceMessage(resp *http.Response) string {
	if resp.Body == nil {
		return ""
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, errorBody))
	if err != nil {
		return ""
	}
	var parsed struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &parsed) != nil {
		return ""
	}
	return clean(parsed.Message, 300)
}

// credentials finds what looks like a signature or a token in a foreign text: a
// refusal may quote the request's Authorization header.
var credentials = regexp.MustCompile(`(?i)\btype(?:=|%3d)\S*|\bsig(?:=|%3d)\S*|\bbearer\s+\S+|\beyJ[\w+/=-]{8,}[\w.+/=-]*`)

// clean keeps the printable part of foreign text, without credentials, at most n
// bytes of it.
func clean(s string, n int) string {
	s = credentials.ReplaceAllString(s, "[redacted]")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '\ufffd' {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return strings.TrimSpace(s)
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
