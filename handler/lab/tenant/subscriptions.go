package tenant

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// States of a subscription or webhook as the service words them.
const (
	Enabled  = "enabled"
	Disabled = "disabled"
	Expired  = "expired" // webhooks only
)

// startGap is how long to wait between start requests (service documentation).
const startGap = 15 * time.Minute

// subscriptionKey tells subscriptions apart: the service keeps them by tenant,
// application and content type.
type subscriptionKey struct{ app, contentType string }

// A Webhook is the webhook of a subscription.
type Webhook struct {
	Address    string
	AuthID     string
	Expiration time.Time // zero: none
	Status     string    // Enabled, Disabled or Expired
}

// A Subscription is one application's subscription to one content type.
type Subscription struct {
	AppID       string
	ContentType string
	Status      string // Enabled or Disabled
	Webhook     *Webhook
}

// subscription is a Subscription with what the tenant keeps about it.
type subscription struct {
	Subscription
	since   time.Time // when it was first started
	stopped time.Time // when it was stopped; zero: it is not
	stuck   time.Time // until then a sticky stop holds it
	gaps    []gap     // times of being stopped
	hook    sender    // state of its webhook's sender
}

type gap struct{ from, to time.Time }

// Subscriptions returns all subscriptions that are not stopped, in the order of
// their application and type.
func (t *Tenant) Subscriptions() []Subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	var all []Subscription
	for _, key := range t.keys() {
		s := t.subscriptions[key]
		s.expire(now)
		if s.stopped.IsZero() {
			out := s.Subscription
			if s.Webhook != nil {
				hook := *s.Webhook
				out.Webhook = &hook
			}
			all = append(all, out)
		}
	}
	return all
}

func (t *Tenant) keys() []subscriptionKey {
	keys := make([]subscriptionKey, 0, len(t.subscriptions))
	for key := range t.subscriptions {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b subscriptionKey) int {
		return strings.Compare(a.app+" "+a.contentType, b.app+" "+b.contentType)
	})
	return keys
}

// EditSubscription changes the first application's subscription to a content
// type as the service sometimes does on its own: a webhook that vanishes, is
// disabled, has expired or names another address, a subscription that an
// administrator disabled. It reports whether there is one. Edit must not call
// the tenant.
func (t *Tenant) EditSubscription(contentType string, edit func(*Subscription)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.subscriptions[subscriptionKey{strings.ToLower(t.cfg.AppID), contentType}]
	if ok {
		edit(&s.Subscription)
	}
	return ok
}

// PutSubscription makes s what it says, without a validation: a subscription
// that somebody else started. An empty AppID means the first application.
func (t *Tenant) PutSubscription(s Subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.AppID = cmp.Or(s.AppID, t.cfg.AppID)
	now := t.now()
	t.subscriptions[subscriptionKey{strings.ToLower(s.AppID), s.ContentType}] = &subscription{Subscription: s, since: now, hook: sender{since: now}}
}

// DropSubscription makes the first application's subscription vanish. Like one
// that was never started it answers AF20022; started again it sees all.
func (t *Tenant) DropSubscription(contentType string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.subscriptions, subscriptionKey{strings.ToLower(t.cfg.AppID), contentType})
}

// expire turns a webhook past its expiration into an expired one.
func (s *subscription) expire(now time.Time) {
	if s.Webhook != nil && s.Webhook.Status == Enabled && !s.Webhook.Expiration.IsZero() && now.After(s.Webhook.Expiration) {
		s.Webhook.Status = Expired
		s.hook = sender{}
	}
}

// sees reports whether the subscription may have a content at all.
func (s *subscription) sees(c *Content, now time.Time, backfill time.Duration) bool {
	if now.Before(c.Visible) || backfill > 0 && c.Listed.Before(s.since.Add(-backfill)) {
		return false
	}
	return !slices.ContainsFunc(s.gaps, func(g gap) bool {
		return !c.Visible.Before(g.from) && c.Visible.Before(g.to)
	})
}

// key is the subscription that a call is about.
func (c *call) key(contentType string) subscriptionKey {
	return subscriptionKey{strings.ToLower(c.token.AppID), contentType}
}

// subscribed returns the enabled subscription to a content type, or the reason
// why there is none.
func (t *Tenant) subscribed(c *call, contentType string) (*subscription, *fail) {
	s, ok := t.subscriptions[c.key(contentType)]
	switch {
	case !ok || !s.stopped.IsZero() && !t.knobs.StoppedShown:
		if code := t.knobs.NotStartedCode; code != "" {
			return nil, failf(400, code, "There is no subscription to %s.", contentType)
		}
		return nil, failf(400, "AF20022", "There is no subscription to %s.", contentType)
	case s.Status != Enabled || !s.stopped.IsZero() || c.now.Before(s.stuck):
		return nil, failf(400, "AF20023", "The subscription was disabled.")
	}
	return s, nil
}

// start serves subscriptions/start. The validation of a webhook happens while
// the client waits, without the tenant's lock.
func (t *Tenant) start(a *answer, c *call) {
	contentType, _ := c.param("contentType")
	key := c.key(contentType)
	body, err := io.ReadAll(http.MaxBytesReader(a, c.Body, maxForm))
	if err != nil {
		a.fail(failf(400, "AF20001", "The body cannot be read."))
		return
	}

	t.mu.Lock()
	knobs := t.knobs
	last, again := t.lastStart[key]
	t.lastStart[key] = c.now
	if again = again && c.now.Sub(last) < startGap; again {
		t.violated("start of %s came %v after the last, sooner than %v", contentType, c.now.Sub(last), startGap)
	}
	t.mu.Unlock()
	if again && knobs.StartRule == StartThrottled {
		a.fail(failf(403, "AF429", "Too many requests. Method=StartSubscription, PublisherId=%s", c.publisher))
		return
	}
	if again && knobs.StartRule == StartRefused {
		a.fail(failf(400, "AF20002", "Starts must be 15 minutes apart."))
		return
	}
	hook, f := t.webhookOf(c, body, knobs.AnyStartBody)
	if f != nil {
		a.fail(f)
		return
	}

	t.mu.Lock()
	unchanged := t.unchanged(key, hook, c.now)
	t.mu.Unlock()
	if unchanged {
		a.fail(failf(400, "AF20024", "The subscription is already enabled. No property change."))
		return
	}
	if hook != nil && !t.validate(c.Context(), hook, knobs.ValidationTimeout, knobs.ValidationHeader) {
		a.fail(failf(400, "AF20021", "The webhook did not answer its validation with status 200."))
		return
	}

	t.mu.Lock()
	s := t.subscriptions[key]
	if s == nil {
		s = &subscription{since: c.now}
		s.AppID, s.ContentType = c.token.AppID, contentType
		t.subscriptions[key] = s
	}
	if !s.stopped.IsZero() {
		s.gaps = append(s.gaps, gap{s.stopped, c.now})
		s.stopped = time.Time{}
		s.stuck = c.now.Add(knobs.StickyStop)
	}
	s.Status = Enabled
	if hook != nil || !knobs.BodilessKeeps {
		s.Webhook = hook
	}
	s.hook = sender{since: c.now}
	item := t.subscriptionItem(&s.Subscription)
	t.mu.Unlock()
	a.json(http.StatusOK, item)
}

// webhookOf reads the webhook out of a start's body; nil: it has none.
func (t *Tenant) webhookOf(c *call, body []byte, anyType bool) (*Webhook, *fail) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	media, _, _ := mime.ParseMediaType(c.Header.Get("Content-Type"))
	var given struct {
		Webhook *struct {
			Address, AuthID string
			Expiration      *string
		}
	}
	// The service overlooks in silence what it takes for no JSON object.
	if media != "application/json" && !anyType || json.Unmarshal(body, &given) != nil {
		t.violation("start has a body that the service overlooks: Content-Type %q, or no JSON object", media)
		return nil, nil
	}
	if given.Webhook == nil {
		return nil, nil
	}
	hook := &Webhook{Address: given.Webhook.Address, AuthID: given.Webhook.AuthID, Status: Enabled}
	if hook.Address == "" {
		return nil, failf(400, "AF20001", "The webhook's address is missing.")
	}
	if u, err := url.Parse(hook.Address); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, failf(400, "AF20021", "The webhook's address is not an https address.")
	}
	if text := given.Webhook.Expiration; text != nil && *text != "" {
		at, _, err := parseTime(*text)
		if err != nil {
			return nil, failf(400, "AF20002", "The webhook's expiration is not a time.")
		}
		if hook.Expiration = at; !at.After(c.now) {
			return nil, failf(400, "AF20003", "The webhook's expiration lies in the past.")
		}
	}
	return hook, nil
}

// unchanged reports whether a start with hook would change nothing.
func (t *Tenant) unchanged(key subscriptionKey, hook *Webhook, now time.Time) bool {
	s, ok := t.subscriptions[key]
	if !ok || s.Status != Enabled || !s.stopped.IsZero() {
		return false
	}
	s.expire(now)
	if hook == nil {
		return s.Webhook == nil || t.knobs.BodilessKeeps
	}
	return s.Webhook != nil && s.Webhook.Status == Enabled && s.Webhook.Address == hook.Address &&
		s.Webhook.AuthID == hook.AuthID && s.Webhook.Expiration.Equal(hook.Expiration)
}

// stop serves subscriptions/stop. It is noted as a violation: what becomes
// available between stop and start is lost for good.
func (t *Tenant) stop(a *answer, c *call) {
	contentType, _ := c.param("contentType")
	t.mu.Lock()
	t.violated("the subscription to %s was stopped", contentType)
	s, ok := t.subscriptions[c.key(contentType)]
	if ok = ok && s.stopped.IsZero(); ok {
		s.stopped, s.Webhook, s.hook = c.now, nil, sender{}
	}
	t.mu.Unlock()
	if !ok {
		a.fail(failf(400, "AF20022", "There is no subscription to %s.", contentType))
		return
	}
	a.WriteHeader(http.StatusOK)
}

func (t *Tenant) listSubscriptions(a *answer, c *call) {
	t.mu.Lock()
	items := []map[string]any{}
	for _, key := range t.keys() {
		s := t.subscriptions[key]
		if key.app != strings.ToLower(c.token.AppID) || c.now.Before(s.stuck) {
			continue
		}
		s.expire(c.now)
		shown := s.Subscription
		if !s.stopped.IsZero() {
			if !t.knobs.StoppedShown {
				continue
			}
			shown.Status = Disabled
		}
		item := t.subscriptionItem(&shown)
		if t.knobs.OmitStatus {
			delete(item, "status")
		}
		if t.knobs.OmitWebhook {
			delete(item, "webhook")
		}
		items = append(items, item)
	}
	t.mu.Unlock()
	a.json(http.StatusOK, items)
}

// subscriptionItem is a subscription as start and list show it.
func (t *Tenant) subscriptionItem(s *Subscription) map[string]any {
	item := map[string]any{"contentType": s.ContentType, "status": s.Status, "webhook": nil}
	if s.Webhook == nil {
		return item
	}
	address, expiration := s.Webhook.Address, any("")
	if t.knobs.EchoAddress != nil {
		address = t.knobs.EchoAddress(address)
	}
	if !s.Webhook.Expiration.IsZero() {
		expiration = s.Webhook.Expiration.Format(stampFormat)
	} else if t.knobs.ExpirationNull {
		expiration = nil
	}
	item["webhook"] = map[string]any{
		"authId": s.Webhook.AuthID, "address": address, "expiration": expiration, "status": s.Webhook.Status,
	}
	return item
}
