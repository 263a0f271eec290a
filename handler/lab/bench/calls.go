package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
)

// start is the time from the process to its first answer.
func start(ctx context.Context, b *bench) (rows []row, err error) {
	w, err := raise(ctx, noQuota(), 0, canned())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var times []float64
	for rep := range 2*b.reps + 1 {
		p, err := b.launch(ctx, w, "start")
		if err != nil {
			return nil, err
		}
		if rep > 0 { // the first reads the binary from disk
			times = append(times, milliseconds(p.first))
		}
		if err := p.stop(); err != nil {
			return nil, err
		}
	}
	return []row{alone("start", "ms from process start to the first answer on /", times...).atMost(50)}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const (
	notifyRate = 500 // a second
	notifySpan = 4 * time.Second
)

// notified sends notifications of one content each, at a steady pace whatever
// the answers do, as the host forwards them.
func notified(ctx context.Context, b *bench) (rows []row, err error) {
	w, err := raise(ctx, tenant.Knobs{Budget: quota}, 0, cosmosfake.Switches{Canned: archiveName, Latency: 10 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	p, err := b.launch(ctx, w, "webhook", "WEBHOOK_ADDRESS="+w.front+"/api/webhook", "WEBHOOK_AUTH_ID="+authID, "REQUESTS_PER_MINUTE=2000")
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	s := &setting{w, p}
	defer func() { err = errors.Join(err, s.end()) }()
	if _, err := p.tick(ctx); err != nil { // starts the subscription
		return nil, err
	}
	client, err := s.plainClient(ctx)
	if err != nil {
		return nil, err
	}
	var writes ledgerWrites
	watch := writes.note
	w.watch.Store(&watch)
	var ours, theirs, whole, work []float64
	n := b.contents(int(notifyRate * notifySpan.Seconds()))
	for rep := range b.reps + 1 {
		floor, _, err := s.pace(ctx, &writes, n, client.enter)
		if err != nil {
			return nil, err
		}
		before, err := p.cpu()
		if err != nil {
			return nil, err
		}
		beyond, all, err := s.pace(ctx, &writes, n, s.notify)
		if err != nil {
			return nil, err
		}
		after, err := p.cpu()
		if err != nil {
			return nil, err
		}
		if rep > 0 {
			theirs = append(theirs, percentile(floor, 99))
			ours, whole = append(ours, percentile(beyond, 99)), append(whole, percentile(all, 99))
			work = append(work, milliseconds(after-before)/float64(n))
		}
	}
	return []row{
		against("webhook", "ms of a webhook answer beyond its ledger write, p99, 500 notifications/s; baseline the bare write", ours, theirs).atMost(5),
		alone("webhook", "ms of the whole answer, p99, the ledger taking 10 ms", whole...),
		alone("webhook", "processor ms a notification", work...),
	}, nil
}

// ledgerWrites keeps how long the account took over each content's entry.
type ledgerWrites struct {
	mu   sync.Mutex
	took map[string]time.Duration // by contentId
}

// note takes one request to the account.
func (l *ledgerWrites) note(body []byte, took time.Duration) {
	const member = `"contentId":"`
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		at := bytes.Index(body, []byte(member))
		if at < 0 {
			return
		}
		body = body[at+len(member):]
		id, _, _ := bytes.Cut(body, []byte{'"'})
		if _, ok := l.took[string(id)]; !ok && l.took != nil { // what comes later is the collecting
			l.took[string(id)] = took
		}
	}
}

// pace calls do for n contents at a steady pace, and returns how long each call
// took beyond the ledger write, and in all, in milliseconds.
func (s *setting) pace(ctx context.Context, writes *ledgerWrites, n int, do func(context.Context, *tenant.Content) error) (beyond, all []float64, err error) {
	contents := s.source.hide(s.tenant, n, 1)
	writes.mu.Lock()
	writes.took = make(map[string]time.Duration, n)
	writes.mu.Unlock()
	took, errs := make([]time.Duration, n), make([]error, n)
	var calls sync.WaitGroup
	ticker := time.NewTicker(time.Second / notifyRate)
	defer ticker.Stop()
	began := time.Now()
	for i := range contents {
		due := began.Add(time.Duration(i) * time.Second / notifyRate)
		for time.Now().Before(due) {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				calls.Wait()
				return nil, nil, context.Cause(ctx)
			}
		}
		calls.Go(func() {
			sent := time.Now()
			errs[i] = do(ctx, &contents[i])
			took[i] = time.Since(sent)
		})
	}
	calls.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	writes.mu.Lock()
	defer writes.mu.Unlock()
	for i, c := range contents {
		write, ok := writes.took[c.ID]
		if !ok {
			return nil, nil, fmt.Errorf("the call for %s has ended well, but no request to the ledger names it", c.ID)
		}
		all = append(all, milliseconds(took[i]))
		beyond = append(beyond, milliseconds(took[i]-write))
	}
	return beyond, all, nil
}

// notify sends the notification of one content and wants it acknowledged.
func (s *setting) notify(ctx context.Context, c *tenant.Content) error {
	body, err := json.Marshal([]map[string]string{{
		"tenantId": tenant.DefaultID, "clientId": tenant.DefaultAppID, "contentType": c.Type, "contentId": c.ID, "contentUri": c.URI,
		"contentCreated": c.Created.Format(time.RFC3339Nano), "contentExpiration": c.Expires.Format(time.RFC3339Nano),
	}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.product.url+"/api/webhook", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; utf-8")
	req.Header.Set("Webhook-AuthID", authID)
	resp, err := s.product.client.Do(req)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("notify: status %d", resp.StatusCode)
	}
	return nil
}

// percentile is the smallest value that so many percent of values do not exceed.
func percentile(values []float64, percent int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max((len(sorted)*percent+99)/100, 1)-1]
}
