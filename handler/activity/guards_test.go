package activity

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// One answer of a cache, or of a gateway in trouble, moves the clock by nothing,
// be it as near as clocks drift.
func TestOthersClocksDoNotCount(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header []string
		want   time.Duration
	}{
		{"the service", 200, nil, 10*time.Minute + time.Second/2},
		{"a refusal of the service", 400, nil, 10*time.Minute + time.Second/2},
		{"a gateway in trouble", 502, nil, 0},
		{"a cache", 200, []string{"Age: 600"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				date := "Date: " + time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat)
				c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
					return answer(tt.status, "[]", append(tt.header, date)...), nil
				}))
				_, _ = c.Start(t.Context(), general, nil) // one request, never a second
				if got := time.Until(c.Now()).Round(time.Millisecond); got != tt.want || c.ClockKnown() != (tt.want != 0) {
					t.Errorf("the clock is ahead by %v, known %v; want %v", got, c.ClockKnown(), tt.want)
				}
			})
		})
	}
}
