package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"activityarchive/handler/lab/cosmosfake"
)

// historyDays is how far back a preloaded ledger reaches.
const historyDays = 90

// cost is what a tick or a run takes.
type cost struct{ requests, charge, cpu []float64 }

func (c *cost) add(requests int, charge float64, cpu time.Duration, per float64) {
	c.requests = append(c.requests, float64(requests)/per)
	c.charge = append(c.charge, charge/per)
	c.cpu = append(c.cpu, milliseconds(cpu)/per)
}

// history compares a ledger of many contents with one of few. The two take
// turns.
func history(ctx context.Context, b *bench) (rows []row, err error) {
	sizes := []int{b.contents(10_000), b.contents(1_000_000)}
	var settings []*setting
	defer func() {
		for _, s := range settings {
			err = errors.Join(err, s.end())
		}
	}()
	for _, size := range sizes {
		s, err := b.settle(ctx, "ledger"+strconv.Itoa(size), noQuota(), 0, canned(), "CATCH_UP_OVERLAP=5m")
		if err != nil {
			return nil, err
		}
		settings = append(settings, s)
		if err := s.load(size); err != nil {
			return nil, err
		}
	}
	const ticks = 20 // a turn: one alone takes too little processor time to be told
	contents := b.contents(100)
	idles, works := make([]cost, len(sizes)), make([]cost, len(sizes))
	for rep := range b.reps + 1 {
		for i, s := range settings {
			s.tenant.Advance(between) // once more: a turn lists again what the one before has brought, and no more
			o, err := s.collect(ctx, contents, full)
			if err != nil {
				return nil, err
			}
			idle, err := s.rest(ctx, ticks)
			if err != nil {
				return nil, err
			}
			if rep > 0 { // the first warms up
				works[i].add(o.requests, o.charge, o.cpu, float64(contents*full)/1000)
				idles[i].add(idle.requests, idle.charge, idle.cpu, ticks)
			}
		}
	}
	of := func(what string) string {
		return fmt.Sprintf("%s, %d contents in the ledger; baseline %d", what, sizes[1], sizes[0])
	}
	few, many := 0, 1
	return []row{
		against("ledger", of("Cosmos requests of a tick with nothing new"), idles[many].requests, idles[few].requests).ratioAtMost(1.2),
		against("ledger", of("RU of a tick with nothing new"), idles[many].charge, idles[few].charge).ratioAtMost(1.2),
		against("ledger", of("processor ms of a tick with nothing new"), idles[many].cpu, idles[few].cpu).ratioAtMost(1.2),
		against("ledger", of("Cosmos requests per 1,000 records"), works[many].requests, works[few].requests).ratioAtMost(1.2),
		against("ledger", of("RU per 1,000 records"), works[many].charge, works[few].charge).ratioAtMost(1.2),
		against("ledger", of("processor ms per 1,000 records"), works[many].cpu, works[few].cpu).ratioAtMost(1.2),
	}, nil
}

// rest runs ticks with nothing new.
func (s *setting) rest(ctx context.Context, ticks int) (o outcome, err error) {
	s.forget()
	from := s.world.calls()
	before, err := s.product.cpu()
	if err != nil {
		return o, err
	}
	for range ticks {
		if _, err := s.product.tick(ctx); err != nil {
			return o, err
		}
	}
	after, err := s.product.cpu()
	if err != nil {
		return o, err
	}
	if n := s.fetches.Load(); n > 0 {
		return o, fmt.Errorf("%d content requests of ticks that had nothing to do", n)
	}
	o.cpu = after - before
	o.use, err = s.used(from)
	return o, err
}

// load gives the ledger a history of n stored contents. They look like one that
// the handler has written, and lie evenly over the days before the overlap.
func (s *setting) load(n int) error {
	pattern, err := s.pattern()
	if err != nil {
		return err
	}
	latest := s.tenant.Now().Add(-3 * time.Hour)
	step := historyDays * 24 * time.Hour / time.Duration(n)
	return s.fake.Load(database, ledgerName, iter.Seq[cosmosfake.Document](func(yield func(cosmosfake.Document) bool) {
		for i := range n {
			created := latest.Add(-step * time.Duration(n-1-i))
			sum := sha256.Sum256([]byte("history " + strconv.Itoa(i)))
			id, pk := hex.EncodeToString(sum[:]), contentType+"|"+created.Format(time.DateOnly)
			body := strings.NewReplacer("@id@", id, "@pk@", pk, "@created@", created.Format("2006-01-02T15:04:05.000Z")).Replace(pattern)
			if !yield(cosmosfake.Document{Key: `["` + pk + `"]`, ID: id, Body: []byte(body)}) {
				return
			}
		}
	}))
}

// pattern is the text of a stored entry with marks for id, pk and created.
func (s *setting) pattern() (string, error) {
	for _, d := range s.fake.Documents(ledgerName) {
		var entry map[string]any
		if err := json.Unmarshal(d.Body, &entry); err != nil {
			return "", fmt.Errorf("read the ledger: %w", err)
		}
		if entry["kind"] != "entry" || entry["open"] != nil {
			continue
		}
		for name := range entry {
			if strings.HasPrefix(name, "_") || name == "ids" { // the ids of 100 records, a million times, are for no query
				delete(entry, name)
			}
		}
		entry["id"], entry["pk"], entry["created"] = "@id@", "@pk@", "@created@"
		text, err := json.Marshal(entry)
		return string(bytes.TrimSpace(text)), err
	}
	return "", errors.New("read the ledger: it holds no stored content")
}
