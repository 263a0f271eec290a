// Package activity is a client for one tenant's Office 365 Management Activity
// API: it lists and starts subscriptions, lists available content, and opens
// content for reading.
//
// Windows are half open, [from, to), in UTC and whole seconds, at most 24 hours
// long and at most 7 days back; they select by when content became available,
// never by when its records happened.
//
// All requests of a Client pass one limiter that slows down when the service
// throttles, and carry the PublisherIdentifier. Passing failures are retried a
// few times within the call and never past the context's deadline. The access
// token goes to no URL but the tenant's own under the configured root, and no
// redirect is followed.
//
// Every failure is a [*Fault] or wraps the context's error. Neither errors nor
// log lines hold a token, an AuthID or a part of a record. A Client is safe for
// concurrent use.
package activity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
)

const (
	// maxWindow is the longest window that the service lists. Beyond it the
	// list may be partial without a word. Source: service documentation.
	maxWindow = 24 * time.Hour
	// pageItems is how many contents of a page are held at a time.
	pageItems = 1000
	// maxPages bounds a listing whose pages never end.
	maxPages = 10_000
	// windowTime is the documented form of startTime and endTime. A zone
	// would need escaping, and has led to empty answers.
	windowTime = "2006-01-02T15:04:05"
)

// Config is what a Client needs. All but Transport and Logger is required.
type Config struct {
	Root                *url.URL // https, host and port only: https://manage.office.com
	Audience            string   // whom the access token is for; the scope is Audience + "/.default"
	TenantID            string   // GUID
	PublisherIdentifier string   // GUID of the tenant whose quota counts

	// Credential makes a credential. It is called at the first request, and
	// again to get rid of a token that the service refused.
	Credential func() (azcore.TokenCredential, error)

	RequestsPerMinute float64 // this client's share of the tenant's quota, above 0

	Transport http.RoundTripper // nil: one made for this service
	Logger    *slog.Logger      // nil: none
}

// Client is a client of the API. Make it with New.
type Client struct {
	root      *url.URL
	tenant    string
	publisher string
	tokens    *tokens
	wire      *wire
	http      *http.Client
	log       *slog.Logger
}

// Stats are cumulative figures of a Client.
type Stats struct {
	Requests          uint64  // sent, retries included
	Throttled         uint64  // answers that said "too many requests"
	RequestsPerMinute float64 // the rate allowed at present
}

var guid = regexp.MustCompile(`^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// New returns a Client. It does no I/O. Its error joins all that is wrong with
// the Config.
func New(cfg Config) (*Client, error) {
	var problems []error
	require := func(ok bool, what string) {
		if !ok {
			problems = append(problems, errors.New(what))
		}
	}
	root := cfg.Root
	require(root != nil && root.Scheme == "https" && root.Host != "" && root.User == nil &&
		(root.Path == "" || root.Path == "/") && root.RawQuery == "" && root.Fragment == "",
		"API root: must be https with a host and nothing else")
	require(cfg.Audience != "", "token audience: missing")
	require(guid.MatchString(cfg.TenantID), "tenant: must be a GUID")
	require(guid.MatchString(cfg.PublisherIdentifier), "PublisherIdentifier: must be a GUID")
	require(cfg.Credential != nil, "credential: missing")
	require(cfg.RequestsPerMinute > 0, "requests per minute: must be above 0")
	if len(problems) > 0 {
		return nil, fmt.Errorf("configuring the Management Activity API client: %w", errors.Join(problems...))
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	transport := cfg.Transport
	if transport == nil {
		transport = defaultTransport()
	}
	w := &wire{next: transport, limiter: newLimiter(cfg.RequestsPerMinute, log)}
	return &Client{
		root:      root,
		tenant:    cfg.TenantID,
		publisher: cfg.PublisherIdentifier,
		tokens:    &tokens{scope: cfg.Audience + "/.default", create: cfg.Credential, log: log},
		wire:      w,
		http: &http.Client{
			Transport:     w,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log: log,
	}, nil
}

// Close closes the connections that are idle. The Client stays usable.
func (c *Client) Close() {
	(&http.Client{Transport: c.wire.next}).CloseIdleConnections()
}

// Now is the time by the service's clock, as far as answers have told it, else
// this machine's.
func (c *Client) Now() time.Time { return c.wire.clock.now() }

// ClockKnown reports whether an answer has told the service's time. Until then
// Now is this machine's, which may be anything.
func (c *Client) ClockKnown() bool { return c.wire.clock.known.Load() }

// Stats returns the figures so far.
func (c *Client) Stats() Stats {
	return Stats{
		Requests:          c.wire.requests.Load(),
		Throttled:         c.wire.limiter.throttles(),
		RequestsPerMinute: c.wire.limiter.perMinute(),
	}
}

// feed is the URL of an operation, query included.
func (c *Client) feed(operation string, query ...string) string {
	return "https://" + c.root.Host + "/api/v1.0/" + c.tenant + "/activity/feed/" + operation +
		"?" + strings.Join(append(query, publisherIdentifier+"="+c.publisher), "&")
}

// Subscriptions lists this application's subscriptions.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	r := request{op: "list subscriptions", method: http.MethodGet, url: c.feed("subscriptions/list"), retries: maxRetries, private: true}
	resp, body, err := c.array(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var list []Subscription
	err = elements(io.LimitReader(body, maxSmall), func(element json.RawMessage) error {
		if s, ok := parseSubscription(element); ok {
			list = append(list, s)
		}
		return nil
	})
	if err != nil {
		return nil, unreadable(ctx, r.op, resp, err)
	}
	return list, nil
}

// Start starts or changes the subscription to contentType. With w the service
// validates the webhook before it answers; without, the subscription is for
// listing only. That nothing had to change counts as success, and returns what
// was asked for: only Subscriptions tells what the service has.
//
// The service wants 15 minutes between two starts, so Start does not retry.
// Kinds to expect besides the general ones: WebhookRefused.
func (c *Client) Start(ctx context.Context, contentType string, w *Webhook) (Subscription, error) {
	body, err := startBody(w)
	if err != nil {
		return Subscription{}, &Fault{Op: "start subscription", Kind: BadRequest, Err: errors.New("the webhook's expiration cannot be encoded")}
	}
	r := request{
		op: "start subscription", method: http.MethodPost, body: body,
		url: c.feed("subscriptions/start", "contentType="+url.QueryEscape(contentType)),
	}
	asked := Subscription{ContentType: contentType, Status: "enabled"}
	if w != nil {
		r.secrets = []string{string(w.AuthID)}
		asked.Webhook = &SubscriptionWebhook{Address: w.Address, AuthID: w.AuthID, Expiration: w.Expiration, Status: "enabled"}
	}
	resp, err := c.call(ctx, r)
	if f, ok := errors.AsType[*Fault](err); ok && f.Code == codeNothingToDo {
		return asked, nil
	}
	if err != nil {
		return Subscription{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxSmall))
	if err != nil {
		return Subscription{}, unreadable(ctx, r.op, resp, err)
	}
	if refused := parseRefusal(answer); refused.code == codeNothingToDo {
		return asked, nil
	}
	if s, ok := parseSubscription(bytes.TrimPrefix(answer, []byte("\uFEFF"))); ok {
		return s, nil
	}
	return Subscription{}, newFault(r, resp, answer, c.Now(), r.secrets...)
}

// List calls each with the contents of the window [from, to) of contentType, at
// most pageItems at a time and at least once. Bounds are cut to whole seconds, so
// windows that meet still meet. Order means nothing, and a content may come
// twice.
//
// No item is left out. One without a usable contentId has "item:" and its
// SHA-256 for one, one without a time the day of from; what its contentUri is
// worth Open tells.
//
// List returns nil only if the last page was reached. Kinds to expect besides
// the general ones: NotSubscribed, BadRequest for the window, BadPage, and
// Untrusted for a next page that leads elsewhere. An error of each ends the
// listing and is returned, wrapped.
func (c *Client) List(ctx context.Context, contentType string, from, to time.Time, each func([]Content) error) error {
	const op = "list content"
	from, to = from.UTC().Truncate(time.Second), to.UTC().Truncate(time.Second)
	if !from.Before(to) || to.Sub(from) > maxWindow {
		return &Fault{Op: op, Kind: BadRequest, Err: fmt.Errorf("window from %s to %s", from.Format(windowTime), to.Format(windowTime)), Remedy: remedyClock}
	}
	next := c.feed("subscriptions/content", "contentType="+url.QueryEscape(contentType),
		"startTime="+url.QueryEscape(from.Format(windowTime)), "endTime="+url.QueryEscape(to.Format(windowTime)))
	seen := make(map[[sha256.Size]byte]bool)
	for {
		sum := sha256.Sum256([]byte(next))
		if seen[sum] || len(seen) == maxPages {
			return &Fault{Op: op, Kind: BadPage, Err: fmt.Errorf("the listing does not end: page %d repeats an earlier one, or there are more than %d", len(seen)+1, maxPages)}
		}
		seen[sum] = true
		following, err := c.page(ctx, next, contentType, from, each)
		if err != nil {
			return err
		}
		if next = following; next == "" {
			return nil
		}
		if err := c.checkNextPage(next, contentType); err != nil {
			return err
		}
		next = c.withPublisher(next)
	}
}

// page gives one page of a listing to each and returns, as received, the URL of
// the next, "" after the last.
func (c *Client) page(ctx context.Context, uri, contentType string, from time.Time, each func([]Content) error) (next string, err error) {
	r := request{op: "list content", method: http.MethodGet, url: uri, retries: maxRetries}
	resp, body, err := c.array(ctx, r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	limited := &io.LimitedReader{R: body, N: maxPage}
	var got []Content
	var eachErr error
	hand := func() error {
		if err := each(got); err != nil {
			eachErr = fmt.Errorf("%s: %w", r.op, err)
		}
		got = got[:0]
		return eachErr
	}
	err = elements(limited, func(element json.RawMessage) error {
		if got = append(got, parseContent(element, contentType, from)); len(got) == pageItems {
			return hand()
		}
		return nil
	})
	switch {
	case eachErr != nil:
		return "", eachErr
	case err != nil && limited.N <= 0:
		return "", &Fault{Op: r.op, Kind: BadPage, Status: resp.StatusCode, Err: fmt.Errorf("a page is larger than %d bytes", maxPage), Remedy: "make CATCH_UP_WINDOW smaller"}
	case err != nil:
		return "", unreadable(ctx, r.op, resp, err)
	}
	if err := hand(); err != nil {
		return "", err
	}
	// Documentation has both names.
	if next = resp.Header.Get("NextPageUri"); next == "" {
		next = resp.Header.Get("NextPageUrl")
	}
	return next, nil
}

// Open returns the body of the content at contentURI: a JSON array of records,
// from its '[' on. It is streamed, of any length, and the caller closes it. A
// read that fails, or gives no byte for a minute, returns a Fault of Kind
// Transient or wraps the context's error; ctx ends the stream too.
//
// Kinds to expect besides the general ones: Gone; and Untrusted if
// CheckContentURI refuses contentURI, in which case nothing was sent. What is
// not a JSON array is not a content, and Transient unless it is an error.
func (c *Client) Open(ctx context.Context, contentURI string) (io.ReadCloser, error) {
	if err := c.CheckContentURI(contentURI); err != nil {
		return nil, err
	}
	r := request{op: "open content", method: http.MethodGet, url: c.withPublisher(contentURI), content: true, retries: maxRetries}
	resp, body, err := c.array(ctx, r)
	if err != nil {
		return nil, err
	}
	return &content{body: body, closer: resp.Body, failed: func(err error) error { return unreadable(ctx, "read content", resp, err) }}, nil
}

// content is the body that Open returns.
type content struct {
	body   io.Reader
	closer io.Closer
	failed func(error) error
}

// Read implements [io.Reader].
func (b *content) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.failed(err)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *content) Close() error { return b.closer.Close() }

// array calls r and returns the answer, which the caller closes, and its body
// from the '[' of its JSON array on. Anything else in the body is a Fault.
func (c *Client) array(ctx context.Context, r request) (*http.Response, io.Reader, error) {
	resp, err := c.call(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	array, refused, err := arrayStart(resp.Body)
	switch {
	case err != nil:
		err = unreadable(ctx, r.op, resp, err)
	case refused != nil:
		err = c.notArray(r, resp, refused)
	default:
		return resp, array, nil
	}
	_ = resp.Body.Close()
	return nil, nil, err
}

// notArray is the Fault of an answer with status 200 that is not the array it
// should be: an error after all, or not from the service.
func (c *Client) notArray(r request, resp *http.Response, body []byte) *Fault {
	f := newFault(r, resp, body, c.Now(), r.secrets...)
	if f.Kind == Throttled {
		c.wire.limiter.slow(f.RetryAfter)
	}
	if f.Code == "" { // then what looks like a message may be part of a record
		f.Err = fmt.Errorf("the answer is not a JSON array (%d bytes)", len(body))
	}
	return f
}

// unreadable is the error of a body that ended early or made no sense.
func unreadable(ctx context.Context, op string, resp *http.Response, err error) error {
	if ctx.Err() != nil {
		return ended(ctx, op)
	}
	return &Fault{Op: op, Kind: Transient, Status: resp.StatusCode, Err: &cleaned{clean(err.Error()), err}}
}
