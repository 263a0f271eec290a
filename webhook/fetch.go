package webhook

import (
	"context"
	"sync"

	"activityarchive/handler/collect"
	"activityarchive/handler/ledger"
)

const (
	// fetchers is how many notifications are collected at a time.
	fetchers = 4

	// queued is how many wait. More are left to the next tick.
	queued = 64

	// gathered is how many contents that wait are collected in one go, so that
	// their records share batches.
	gathered = 256
)

// Run collects what the handler has recorded, until ctx ends; then it finishes
// what is under way and returns. Each run may take as long as its claim on the
// entries lasts; what is left then belongs to the next tick.
func (h *Handler) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range fetchers {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case entries := <-h.queue:
					h.fetch(ctx, h.gather(entries))
				}
			}
		})
	}
	all.Wait()
}

// gather adds to entries what else is waiting.
func (h *Handler) gather(entries []ledger.Entry) []ledger.Entry {
	for len(entries) < gathered {
		select {
		case more := <-h.queue:
			entries = append(entries, more...)
		default:
			return entries
		}
	}
	return entries
}

func (h *Handler) fetch(ctx context.Context, entries []ledger.Entry) {
	ctx, cancel := context.WithTimeout(ctx, ledger.Claim)
	defer cancel()
	var tally collect.Tally
	if err := h.config.Collector.Archive.Prepare(ctx); err != nil {
		h.config.Logger.Warn("notified contents left to the next tick", "contents", len(entries), "reason", err.Error())
		return
	}
	if err := h.config.Collector.Some(ctx, entries, &tally); err != nil && ctx.Err() == nil {
		h.config.Logger.Warn("notified contents left to the next tick", "contents", len(entries), "reason", err.Error())
	}
}
