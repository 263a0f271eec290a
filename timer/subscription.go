package timer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/collect"
	"activityarchive/handler/ledger"
)

const (
	// startPause is the least time between two start calls for a content type
	// (API documentation, "Start a subscription"). It holds across instances.
	startPause = 15 * time.Minute

	// renewMargin is the least time before a webhook's expiration at which it is
	// renewed: two start calls and a few ticks fit into it.
	renewMargin = 45 * time.Minute

	// touchTime bounds the call that wakes the webhook before a start.
	touchTime = 20 * time.Second
)

// Webhook is the webhook as it is wanted.
type Webhook struct {
	Address  string // https
	AuthID   string
	Lifetime time.Duration // 0: it never expires
}

// errTooSoon says that another start call has to wait.
var errTooSoon = errors.New("the service asks for 15 minutes between start calls")

// subscriptions compares what the service has with what is wanted, and starts
// what differs. It never stops anything. It returns an error only when the
// service refuses this application altogether, or Cosmos DB does; what concerns
// one content type must not keep the others from being collected.
func (t *tick) subscriptions(ctx context.Context) error {
	list, err := t.API.Subscriptions(ctx)
	if err != nil {
		if activity.KindOf(err) == activity.Denied {
			return err
		}
		t.problem(fmt.Sprintf("subscriptions not checked: %v", err))
		return nil
	}
	for _, contentType := range t.ContentTypes {
		var have *activity.Subscription
		for i := range list {
			if strings.EqualFold(list[i].ContentType, contentType) {
				have = &list[i]
			}
		}
		reason := due(have, t.Webhook, t.API.Now())
		if reason == "" {
			continue
		}
		switch err := t.start(ctx, contentType, have); {
		case err == nil:
			t.started = true
			t.log.Info("subscription started", "contentType", contentType, "because", reason)
		case collect.Ends(err):
			return err
		default:
			t.problem(fmt.Sprintf("subscription %s (%s): %v", contentType, reason, err))
		}
	}
	return nil
}

// due says why a start call is needed, or nothing.
func due(have *activity.Subscription, want *Webhook, now time.Time) (reason string) {
	switch {
	case have == nil:
		return "there is none"
	case strings.EqualFold(have.Status, "disabled"):
		return "it is disabled"
	case want == nil:
		return "" // a webhook that someone registered is left alone: polling works beside it
	case have.Webhook == nil:
		return "its webhook is missing"
	case !sameAddress(have.Webhook.Address, want.Address):
		return "its webhook has another address"
	case strings.EqualFold(have.Webhook.Status, "disabled"):
		return "its webhook is disabled"
	case strings.EqualFold(have.Webhook.Status, "expired"):
		return "its webhook has expired"
	case have.Webhook.AuthID != "" && string(have.Webhook.AuthID) != want.AuthID:
		return "its webhook has another AuthID"
	}
	expiration := have.Webhook.Expiration
	switch {
	case expiration.IsZero() && want.Lifetime > 0:
		return "its webhook never expires, and should"
	case !expiration.IsZero() && !expiration.After(now):
		return "its webhook has expired"
	case !expiration.IsZero() && expiration.Sub(now) < max(want.Lifetime/3, renewMargin):
		return "its webhook is about to expire"
	case !expiration.IsZero() && want.Lifetime == 0:
		return "its webhook expires, and should not"
	}
	return ""
}

// sameAddress reports whether two addresses lead to the same place: an echo may
// differ in case, a default port, escapes or a slash at the end.
func sameAddress(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	if errX != nil || errY != nil {
		return a == b
	}
	host := func(u *url.URL) string { return strings.TrimSuffix(strings.ToLower(u.Host), ":443") }
	path := func(u *url.URL) string { return strings.ToLower(strings.TrimSuffix(u.Path, "/")) }
	return strings.EqualFold(x.Scheme, y.Scheme) && host(x) == host(y) && path(x) == path(y) && x.RawQuery == y.RawQuery
}

// start makes one start call, unless one was made within startPause by any
// instance. The call is noted before it is made, so that a killed process does
// not make the next one too early.
func (t *tick) start(ctx context.Context, contentType string, have *activity.Subscription) error {
	now := t.API.Now()
	head, err := t.Ledger.Head(ctx, contentType)
	if err != nil {
		return err
	}
	var lastOutcome string
	err = t.Ledger.UpdateHead(ctx, &head, func(h *ledger.Head) error {
		if !h.StartCall.IsZero() && now.Sub(h.StartCall.Time).Abs() < startPause {
			if h.StartOutcome != "" && h.StartOutcome != "ok" {
				return fmt.Errorf("%w; the last one was refused: %s", errTooSoon, h.StartOutcome)
			}
			return errTooSoon
		}
		lastOutcome = h.StartOutcome
		h.StartCall, h.StartOwner, h.StartOutcome = ledger.At(now), t.Owner, ""
		return nil
	})
	if err != nil {
		return err
	}

	var webhook *activity.Webhook
	running := have != nil && !strings.EqualFold(have.Status, "disabled")
	// When the webhook was refused the last time and there is no subscription
	// yet, this call goes without it: content is then listed at least, and the
	// webhook is tried again later.
	if t.Webhook != nil && (running || lastOutcome != refusedWebhook) {
		webhook = &activity.Webhook{Address: t.Webhook.Address, AuthID: activity.AuthID(t.Webhook.AuthID)}
		if t.Webhook.Lifetime > 0 {
			webhook.Expiration = now.Add(t.Webhook.Lifetime)
		}
		t.touch(ctx)
	}
	started, startErr := t.API.Start(ctx, contentType, webhook)
	outcome := "ok"
	if startErr != nil {
		outcome = "refused"
		if f, ok := errors.AsType[*activity.Fault](startErr); ok && f.Kind == activity.WebhookRefused {
			outcome = refusedWebhook
		}
	}
	err = t.Ledger.UpdateHead(ctx, &head, func(h *ledger.Head) error {
		h.StartOutcome = outcome
		return nil
	})
	switch {
	case startErr != nil:
		return startErr
	case err != nil:
		return err
	case webhook != nil && started.Webhook == nil:
		return errors.New("the service took the call but shows no webhook yet; the next tick looks again")
	}
	return nil
}

// refusedWebhook is a Head's StartOutcome after the service could not validate
// the webhook.
const refusedWebhook = "the webhook could not be validated"

// touch wakes the webhook's instance: a cold start can take longer than the
// service waits for an answer to its validation. What it answers is of no
// interest, and it gets no secret.
func (t *tick) touch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, touchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Webhook.Address, nil)
	if err != nil {
		return
	}
	resp, err := t.Touch.Do(req)
	if err != nil {
		t.log.Warn("the webhook's own address cannot be reached from here", "reason", err.Error())
		return
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}
