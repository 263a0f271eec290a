package timer

import (
	"testing"
	"time"

	"activityarchive/handler/activity"
)

func TestDue(t *testing.T) {
	now := time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)
	const address, authID = "https://collector.example/api/webhook", "synthetic-auth-id-0001"
	forever := &Webhook{Address: address, AuthID: authID}
	limited := &Webhook{Address: address, AuthID: authID, Lifetime: 6 * time.Hour}
	have := func(change func(*activity.Subscription)) *activity.Subscription {
		s := &activity.Subscription{ContentType: "Audit.General", Status: "enabled", Webhook: &activity.SubscriptionWebhook{
			Address: address, AuthID: authID, Status: "enabled",
		}}
		if change != nil {
			change(s)
		}
		return s
	}
	tests := []struct {
		name string
		have *activity.Subscription
		want *Webhook
		due  bool
	}{
		{"as wanted", have(nil), forever, false},
		{"none", nil, forever, true},
		{"none, polling only", nil, nil, true},
		{"disabled", have(func(s *activity.Subscription) { s.Status = "disabled" }), forever, true},
		{"disabled, polling only", have(func(s *activity.Subscription) { s.Status = "disabled" }), nil, true},
		{"no status", have(func(s *activity.Subscription) { s.Status = "" }), forever, false},
		{"webhook vanished", have(func(s *activity.Subscription) { s.Webhook = nil }), forever, true},
		{"no webhook, none wanted", have(func(s *activity.Subscription) { s.Webhook = nil }), nil, false},
		{"a webhook, none wanted", have(nil), nil, false},
		{"webhook disabled", have(func(s *activity.Subscription) { s.Webhook.Status = "disabled" }), forever, true},
		{"webhook expired", have(func(s *activity.Subscription) { s.Webhook.Status = "expired" }), forever, true},
		{"another address", have(func(s *activity.Subscription) { s.Webhook.Address = "https://old.example/api/webhook" }), forever, true},
		{"address echoed otherwise", have(func(s *activity.Subscription) { s.Webhook.Address = "HTTPS://Collector.example:443/API/webhook/" }), forever, false},
		{"another port", have(func(s *activity.Subscription) { s.Webhook.Address = "https://collector.example:8443/api/webhook" }), forever, true},
		{"AuthID not echoed", have(func(s *activity.Subscription) { s.Webhook.AuthID = "" }), forever, false},
		{"another AuthID", have(func(s *activity.Subscription) { s.Webhook.AuthID = "synthetic-auth-id-0000" }), forever, true},
		{"never expires and should", have(nil), limited, true},
		{"expires and should not", have(func(s *activity.Subscription) { s.Webhook.Expiration = now.Add(48 * time.Hour) }), forever, true},
		{"fresh", have(func(s *activity.Subscription) { s.Webhook.Expiration = now.Add(6 * time.Hour) }), limited, false},
		{"two thirds used", have(func(s *activity.Subscription) { s.Webhook.Expiration = now.Add(2*time.Hour - time.Second) }), limited, true},
		{"past, status not yet", have(func(s *activity.Subscription) { s.Webhook.Expiration = now.Add(-time.Second) }), forever, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if reason := due(tt.have, tt.want, now); (reason != "") != tt.due {
				t.Errorf("due = %q, want due %v", reason, tt.due)
			}
		})
	}
}

// Whatever the lifetime, two start calls and the ticks between them fit in
// before the webhook expires.
func TestRenewalLeavesRoom(t *testing.T) {
	now := time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)
	for lifetime := time.Hour; lifetime < 100*time.Hour; lifetime += 13 * time.Minute {
		want := &Webhook{Address: "https://collector.example/", Lifetime: lifetime}
		have := &activity.Subscription{Webhook: &activity.SubscriptionWebhook{Address: want.Address, Expiration: now.Add(2*startPause + 2*5*time.Minute)}}
		if due(have, want, now) == "" {
			t.Errorf("lifetime %v: not renewed 40 minutes before its end", lifetime)
		}
	}
}
