package funchost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// TickResult is the outcome of one timer run.
type TickResult struct {
	Status   int           // the handler's HTTP status; 0 if none came
	Duration time.Duration // from the call to its outcome
	Err      error         // why the host counts the run as failed; nil if it does not
}

// FireScheduled runs the app's first timer function now, as if an occurrence of its
// schedule had come, and waits for the outcome. It waits for a run already
// going on, as the schedule does. The run is as the schedule's: its status is
// kept, and Stop waits for it. The error says that no run took place; a run
// that failed is in the result.
func (h *Host) FireScheduled(ctx context.Context) (TickResult, error) {
	i := slices.IndexFunc(h.app.functions, (*function).isTimer)
	if i < 0 {
		return TickResult{}, errors.New("fire schedule: the app has no timer function that can run")
	}
	if err := h.Err(); err != nil {
		return TickResult{}, fmt.Errorf("fire schedule: %w", err)
	}
	return h.tick(ctx, h.app.functions[i], time.Now().UTC().Truncate(time.Second), false)
}

// tick runs fn's occurrence of the time next and keeps the status after it.
func (h *Host) tick(ctx context.Context, fn *function, next time.Time, pastDue bool) (TickResult, error) {
	select {
	case fn.running <- struct{}{}:
		defer func() { <-fn.running }()
	case <-ctx.Done():
		return TickResult{}, context.Cause(ctx)
	}
	status := h.status(fn)
	status.Next = next
	begin := time.Now()
	r := h.runTimer(ctx, scheduledRun, fn, status, pastDue, nil)
	last := begin
	if !pastDue && begin.Before(next) {
		last = next // an early run counts as the nominal time
	}
	last = last.UTC()
	return r, h.keep(fn, timerStatus{Last: last, Next: fn.schedule.Next(last), LastUpdated: last})
}

// fire runs fn beside its schedule: the status is shown and stays.
func (h *Host) fire(ctx context.Context, fn *function, input string) {
	status := h.status(fn)
	if status.Next.IsZero() {
		status.Next = fn.schedule.Next(time.Now().UTC())
	}
	h.runTimer(ctx, adminRun, fn, status, false, &input)
}

func (h *Host) runTimer(ctx context.Context, k kind, fn *function, status timerStatus, pastDue bool, input *string) TickResult {
	var r TickResult
	begin := time.Now()
	r.Err = h.invoke(ctx, k, fn, func(ctx context.Context, id string) (err error) {
		_, r.Status, err = h.post(ctx, fn, id, timerEnvelope(fn, status, pastDue, input, time.Now()))
		return err
	})
	r.Duration = time.Since(begin)
	return r
}

// schedule runs fn's occurrences until stop ends. The runs themselves last as
// long as ctx: what is under way is not cut short.
func (h *Host) schedule(ctx, stop context.Context, fn *function) error {
	now, status := time.Now().UTC(), h.status(fn)
	pastDue := fn.monitor && !status.Next.IsZero() && now.After(status.Next)
	if status.Next.IsZero() || !fn.monitor {
		status.Next = fn.schedule.Next(now)
		if err := h.keep(fn, status); err != nil {
			return err
		}
	}
	for pastDue || pause(stop, time.Until(h.status(fn).Next)) {
		if _, err := h.tick(ctx, fn, h.status(fn).Next, pastDue); err != nil {
			return err
		}
		pastDue = false
	}
	return nil
}

// pause waits d and says whether ctx still lasts.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

// timerStatus is what the schedule monitor keeps between runs.
type timerStatus struct{ Last, Next, LastUpdated time.Time }

// status is zero if fn never was scheduled.
func (h *Host) status(fn *function) timerStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fn.status
}

func (h *Host) statusFile(fn *function) string {
	return filepath.Join(h.cfg.StateDir, fn.name+".status.json")
}

// keep replaces fn's status, and its file as a whole.
func (h *Host) keep(fn *function, s timerStatus) error {
	h.mu.Lock()
	fn.status = s
	h.mu.Unlock()
	if h.cfg.StateDir == "" {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("keep timer status: %w", err)
	}
	path := h.statusFile(fn)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("keep timer status: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep timer status: %w", err)
	}
	return nil
}
