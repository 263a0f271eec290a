package tenant

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"
)

// idle is how long Run sleeps when nothing is announced. Publishing and moving
// the clock wake it.
const idle = time.Minute

// sender is the state of one webhook's notifications.
type sender struct {
	since    time.Time // contents visible before it are not notified
	queue    []*Content
	failures int       // in a row
	retry    time.Time // nothing is sent before it
}

// announcement is a content whose notification is due at some time.
type announcement struct {
	content *Content
	due     time.Time
}

// attempt is one try to notify one content.
type attempt struct {
	key     subscriptionKey
	content *Content
	sent    time.Time
	status  string
}

// A Delivery is one notification as it was sent, for observation.
type Delivery struct {
	Time        time.Time // by the tenant's clock
	ContentType string
	ContentIDs  []string
	Status      int // 0: no answer
}

// announce puts a new content's notification on the way, twice or not at all
// where the switches say so.
func (t *Tenant) announce(c *Content) {
	if t.chance(t.knobs.NotifyLoss) {
		return
	}
	times := 1
	if t.chance(t.knobs.NotifyTwice) {
		times = 2
	}
	for range times {
		due := c.Visible.Add(t.knobs.NotifyDelay)
		if t.knobs.NotifyJitter > 0 {
			due = due.Add(time.Duration(t.random.Int64N(int64(t.knobs.NotifyJitter))))
		}
		t.announced = append(t.announced, announcement{c, due})
	}
}

// Run sends notifications as they fall due, until ctx ends. It returns nil.
func (t *Tenant) Run(ctx context.Context) error {
	for {
		_, next := t.deliver(ctx)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-t.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Deliver sends every notification that is due by the tenant's clock and
// returns what it sent. Use it in place of Run where a test wants to say when.
func (t *Tenant) Deliver(ctx context.Context) []Delivery {
	sent, _ := t.deliver(ctx)
	return sent
}

// deliver sends what is due and says how long until there may be more.
func (t *Tenant) deliver(ctx context.Context) (sent []Delivery, next time.Duration) {
	t.sending.Lock()
	defer t.sending.Unlock()
	for ctx.Err() == nil {
		t.mu.Lock()
		now := t.now()
		next = t.enqueue(now)
		key, batch, knobs := t.batch(now, &next)
		var hook Webhook
		var body []byte
		if batch != nil {
			hook = *t.subscriptions[key].Webhook
			body = t.notification(key, batch)
		}
		t.mu.Unlock()
		if batch == nil {
			return sent, next
		}
		address := cmp.Or(knobs.NotifyAway, hook.Address)
		header := http.Header{"Content-Type": {"application/json; utf-8"}}
		status, _ := t.post(ctx, address, hook.AuthID, header, bytes.NewReader(body), cmp.Or(knobs.NotifyTimeout, 30*time.Second))
		if ctx.Err() != nil {
			status = 0
		}
		sent = append(sent, t.settle(key, batch, now, status))
	}
	return sent, next
}

// enqueue moves what is due into the webhooks' queues and says how long until
// the next is due.
func (t *Tenant) enqueue(now time.Time) time.Duration {
	next := idle
	rest := t.announced[:0]
	for _, a := range t.announced {
		if wait := a.due.Sub(now); wait > 0 {
			next = min(next, wait)
			rest = append(rest, a)
			continue
		}
		for _, key := range t.keys() {
			s := t.subscriptions[key]
			s.expire(now)
			// One that became visible before the webhook was there is not told.
			if key.contentType == a.content.Type && s.notifies() && !a.content.Visible.Before(s.hook.since) {
				s.hook.queue = append(s.hook.queue, a.content)
			}
		}
	}
	clear(t.announced[len(rest):])
	t.announced = rest
	return next
}

func (s *subscription) notifies() bool {
	return s.Status == Enabled && s.stopped.IsZero() && s.Webhook != nil && s.Webhook.Status == Enabled
}

// batch takes the next contents to be told to one webhook off its queue.
func (t *Tenant) batch(now time.Time, next *time.Duration) (subscriptionKey, []*Content, Knobs) {
	for _, key := range t.keys() {
		s := t.subscriptions[key]
		s.expire(now)
		if len(s.hook.queue) == 0 {
			continue
		}
		if !s.notifies() {
			s.hook.queue = nil // what a dead webhook missed is never sent
			continue
		}
		if wait := s.hook.retry.Sub(now); wait > 0 {
			*next = min(*next, wait)
			continue
		}
		if t.knobs.NotifyShuffle {
			t.random.Shuffle(len(s.hook.queue), func(i, j int) {
				s.hook.queue[i], s.hook.queue[j] = s.hook.queue[j], s.hook.queue[i]
			})
		}
		size := t.knobs.NotifyBatch
		if size <= 0 {
			size = 5 // ours: the service's limit is not documented
		}
		size = min(size, len(s.hook.queue))
		taken := slices.Clone(s.hook.queue[:size])
		s.hook.queue = slices.Clone(s.hook.queue[size:])
		return key, taken, t.knobs
	}
	return subscriptionKey{}, nil, Knobs{}
}

// notification is the body that tells contents to a webhook.
func (t *Tenant) notification(key subscriptionKey, batch []*Content) []byte {
	items := make([]map[string]any, len(batch))
	for i, c := range batch {
		items[i] = t.pointer(c)
		items[i]["clientId"] = t.subscriptions[key].AppID
		if t.knobs.NotifyEdit != nil {
			t.knobs.NotifyEdit(items[i])
		}
	}
	body, _ := json.Marshal(items) // maps of strings
	return body
}

// pointer is a content as notifications show it.
func (t *Tenant) pointer(c *Content) map[string]any {
	item := t.item(c)
	item["tenantId"] = t.cfg.ID
	item["clientId"] = t.cfg.AppID
	return item
}

// settle books the outcome of one notification. Only status 200 is success;
// after a failure the webhook rests, ever longer, and is disabled in the end.
func (t *Tenant) settle(key subscriptionKey, batch []*Content, sent time.Time, status int) Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := Delivery{Time: sent, ContentType: key.contentType, Status: status}
	word := "success"
	if status != http.StatusOK {
		word = "failed"
	}
	for _, c := range batch {
		d.ContentIDs = append(d.ContentIDs, c.ID)
		t.attempts = append(t.attempts, attempt{key, c, sent, word})
	}
	t.deliveries = append(t.deliveries, d)
	s, ok := t.subscriptions[key]
	if !ok || !s.notifies() {
		return d
	}
	if status == http.StatusOK {
		s.hook.failures, s.hook.retry = 0, time.Time{}
		return d
	}
	s.hook.queue = append(batch, s.hook.queue...)
	s.hook.failures++
	limit := t.knobs.DisableAfter
	if limit == 0 {
		limit = 10 // ours, as are the waits: the service's are not documented
	}
	if limit > 0 && s.hook.failures >= limit {
		s.Webhook.Status = Disabled
		s.hook = sender{}
		return d
	}
	wait := cmp.Or(t.knobs.RetryBase, time.Minute) << min(s.hook.failures-1, 20)
	s.hook.retry = t.now().Add(min(wait, cmp.Or(t.knobs.RetryCap, time.Hour)))
	return d
}

// validate asks a webhook whether it wants to be one, as start does.
func (t *Tenant) validate(ctx context.Context, hook *Webhook, limit time.Duration, edit func(http.Header)) bool {
	t.mu.Lock()
	code := t.uuid()
	t.mu.Unlock()
	body, _ := json.Marshal(map[string]string{"validationCode": code})
	header := http.Header{"Content-Type": {"application/json; charset=utf-8"}, "Webhook-Validationcode": {code}}
	if edit != nil {
		edit(header)
	}
	status, _ := t.post(ctx, hook.Address, hook.AuthID, header, bytes.NewReader(body), cmp.Or(limit, 5*time.Second))
	return status == http.StatusOK
}

// post sends one request to a webhook and returns the status of its answer.
func (t *Tenant) post(ctx context.Context, address, authID string, header http.Header, body io.Reader, limit time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, body)
	if err != nil {
		return 0, err
	}
	maps.Copy(r.Header, header)
	if authID != "" {
		r.Header.Set("Webhook-AuthID", authID)
	}
	answer, err := t.cfg.Client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	return answer.StatusCode, nil
}
