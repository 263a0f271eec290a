package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/tenant"
)

// cases are in the order of the table.
var cases = []benchCase{
	{[]string{"latency"}, latency},
	{[]string{"quota50", "quota200", "quota1000"}, quotas},
	{[]string{"bound"}, bound},
	{[]string{"budget"}, budget},
	{[]string{"requests"}, requests},
	{[]string{"small"}, small},
	{[]string{"memory"}, memory},
	{[]string{"idle"}, idle},
	{[]string{"start"}, start},
	{[]string{"webhook"}, notified},
	{[]string{"ledger"}, history},
}

// between is how far the tenant's clock moves from run to run, so that a run
// lists its own contents and not those of the runs before.
const between = 5 * time.Minute

// full is how many records a content has where nothing else is said.
const full = 100

// noQuota is a tenant that throttles nobody.
func noQuota() tenant.Knobs { return tenant.Knobs{Budget: -1} }

// canned is an account that takes whatever comes, at once.
func canned() cosmosfake.Switches { return cosmosfake.Switches{Canned: archiveName} }

// setting is a world with a handler that has run once.
type setting struct {
	*world
	product *product
}

// settle raises a world, starts the handler in it and lets it collect a few
// contents, so that containers, subscription and connections are there. The
// caller ends the setting.
func (b *bench) settle(ctx context.Context, name string, knobs tenant.Knobs, roundTrip time.Duration, account cosmosfake.Switches, env ...string) (*setting, error) {
	w, err := raise(ctx, knobs, roundTrip, account)
	if err != nil {
		return nil, err
	}
	p, err := b.launch(ctx, w, name, env...)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	s := &setting{w, p}
	s.source.publish(s.tenant, 50, full, time.Minute)
	if _, err := p.tick(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("first tick: %w", err), s.end())
	}
	return s, nil
}

func (s *setting) end() error { return errors.Join(s.product.stop(), s.world.close()) }

// outcome is one tick that collected contents.
type outcome struct {
	use
	rate  float64       // contents a second, from the first content request on
	took  time.Duration // the whole tick
	cpu   time.Duration // of the handler
	calls int           // requests at the Management Activity API
}

// collect publishes contents, lets the handler collect them in one tick, and
// checks that each was fetched once.
func (s *setting) collect(ctx context.Context, contents, records int) (o outcome, err error) {
	s.tenant.Advance(between)
	s.source.publish(s.tenant, contents, records, 3*time.Minute)
	s.forget()
	from, calls := s.world.calls(), s.tenant.Count(tenant.OpUnknown)
	cpu, err := s.product.cpu()
	if err != nil {
		return o, err
	}
	if o.took, err = s.product.tick(ctx); err != nil {
		return o, err
	}
	elapsed := s.since()
	if n := s.fetches.Load(); n != int64(contents) {
		return o, fmt.Errorf("the handler made %d content requests for %d contents", n, contents)
	}
	o.rate = float64(contents) / elapsed.Seconds()
	o.calls = s.tenant.Count(tenant.OpUnknown) - calls
	after, err := s.product.cpu()
	if err != nil {
		return o, err
	}
	o.cpu = after - cpu
	if o.use, err = s.used(from); err != nil {
		return o, err
	}
	if o.failed > 0 || o.writes != contents*records {
		return o, fmt.Errorf("%d operations on the archive for %d records, %d failed requests", o.writes, contents*records, o.failed)
	}
	return o, nil
}

// latency is 50 ms to the Management Activity API, no quota, a sink that takes
// all at once.
func latency(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.settle(ctx, "latency", noQuota(), 50*time.Millisecond, canned())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	client, err := s.plainClient(ctx)
	if err != nil {
		return nil, err
	}
	var ours, theirs []float64
	for rep := range b.reps + 1 {
		one := s.source.hide(s.tenant, b.contents(30), full)
		rate, err := client.sequential(ctx, one)
		if err != nil {
			return nil, err
		}
		o, err := s.collect(ctx, b.contents(1200), full)
		if err != nil {
			return nil, err
		}
		if rep > 0 { // the first warms up
			ours, theirs = append(ours, o.rate), append(theirs, rate)
		}
	}
	return []row{against("latency", "contents/s at 50 ms, 100 records each, from the first content request on; baseline sequential, a batch for each user of a content", ours, theirs).ratioAtLeast(20)}, nil
}

// bound is no latency at all: what stops the handler is the machine.
func bound(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.settle(ctx, "bound", noQuota(), 0, canned())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	client, err := s.plainClient(ctx)
	if err != nil {
		return nil, err
	}
	contents := b.contents(1200)
	batches := s.source.readyBatches(max(b.contents(200), 100))
	var ours, bounds, wires, sinks, library, work []float64
	for rep := range b.reps + 1 {
		all := s.source.hide(s.tenant, contents, full)
		wire, err := client.wire(ctx, all)
		if err != nil {
			return nil, err
		}
		sink, err := client.sink(ctx, batches, contents*full/maxBatch)
		if err != nil {
			return nil, err
		}
		sink /= full
		sdk, err := s.sdk(ctx, batches, contents*full/maxBatch)
		if err != nil {
			return nil, err
		}
		sdk /= full
		o, err := s.collect(ctx, contents, full)
		if err != nil {
			return nil, err
		}
		if rep > 0 {
			ours, bounds = append(ours, o.rate), append(bounds, 1/(1/wire+1/sink))
			wires, sinks = append(wires, wire), append(sinks, sink)
			library = append(library, 1/(1/wire+1/sdk))
			work = append(work, milliseconds(o.cpu)/float64(contents))
		}
	}
	return []row{
		against("bound", "contents/s at 0 ms, 100 records each, from the first content request on; baseline 1/(1/wire + 1/sink)", ours, bounds).ratioAtLeast(0.75),
		alone("bound", "contents/s of wire: fetched and thrown away", wires...),
		alone("bound", "contents/s of sink: the same documents, ready-made", sinks...),
		against("bound", "contents/s at 0 ms; baseline the same bound with the sink written through Azure's SDK", ours, library).stated(),
		alone("bound", "processor ms of the handler a content", work...),
	}, nil
}

// requests counts what the archive costs: 50 ms to the Management Activity API,
// 10 ms to Cosmos DB, and an account that looks at everything.
func requests(ctx context.Context, b *bench) ([]row, error) {
	perThousand, charge, _, err := b.cost(ctx, "requests", 200, full)
	if err != nil {
		return nil, err
	}
	return []row{
		alone("requests", "Cosmos requests per 1,000 records, 100 a content, 20 users, one hour, ledger included", perThousand...).atMost(60),
		alone("requests", "RU per 1,000 records, likewise, as the fake account charges", charge...),
	}, nil
}

// small is the same with contents of 3 records, as most are.
func small(ctx context.Context, b *bench) ([]row, error) {
	perThousand, charge, rates, err := b.cost(ctx, "small", 2000, 3)
	if err != nil {
		return nil, err
	}
	return []row{
		alone("small", "Cosmos requests per 1,000 records, 3 a content, ledger included", perThousand...),
		alone("small", "RU per 1,000 records, likewise", charge...),
		alone("small", "contents/s at 50 ms, likewise", rates...),
	}, nil
}

// cost returns Cosmos requests and request units per 1,000 records, and contents
// a second.
func (b *bench) cost(ctx context.Context, name string, contents, records int) (perThousand, charge, rates []float64, err error) {
	s, err := b.settle(ctx, name, noQuota(), 50*time.Millisecond, cosmosfake.Switches{Latency: 10 * time.Millisecond})
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	contents = b.contents(contents)
	for range b.reps {
		o, err := s.collect(ctx, contents, records)
		if err != nil {
			return nil, nil, nil, err
		}
		thousands := float64(contents*records) / 1000
		perThousand = append(perThousand, float64(o.requests)/thousands)
		charge = append(charge, o.charge/thousands)
		rates = append(rates, o.rate)
	}
	return perThousand, charge, rates, nil
}

// idle is a tick that finds nothing new among what the overlap lists again.
func idle(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.settle(ctx, "idle", noQuota(), 0, canned(), "CATCH_UP_OVERLAP=2h", "CATCH_UP_START=2h")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	known := b.contents(3200)
	s.source.publish(s.tenant, known, 3, 100*time.Minute)
	if _, err := s.product.tick(ctx); err != nil {
		return nil, err
	}
	var account, api []float64
	for range b.reps {
		s.tenant.Advance(time.Minute)
		from, calls, pages := s.world.calls(), s.tenant.Count(tenant.OpUnknown), s.tenant.Count(tenant.OpContent)
		if _, err := s.product.tick(ctx); err != nil {
			return nil, err
		}
		u, err := s.used(from)
		if err != nil {
			return nil, err
		}
		pages = s.tenant.Count(tenant.OpContent) - pages
		account = append(account, float64(u.requests))
		api = append(api, float64(s.tenant.Count(tenant.OpUnknown)-calls-pages))
	}
	return []row{
		alone("idle", fmt.Sprintf("Cosmos requests of a tick with nothing new, %d known contents in the overlap, 1 content type", known), account...).atMost(5),
		alone("idle", "requests at the Management Activity API besides listing pages, likewise", api...).atMost(1),
	}, nil
}

// memory is the most that the handler has resident: of each backlog in a process
// of its own.
func memory(ctx context.Context, b *bench) ([]row, error) {
	var few []float64
	for range min(b.reps, 3) {
		v, err := b.backlog(ctx, 1000, full, 68<<20)
		if err != nil {
			return nil, err
		}
		few = append(few, v)
	}
	crowd, err := b.crowd(ctx, 24)
	if err != nil {
		return nil, err
	}
	base, err := b.backlog(ctx, 1000, 3, 0)
	if err != nil {
		return nil, err
	}
	many, err := b.backlog(ctx, 100_000, 3, 0)
	if err != nil {
		return nil, err
	}
	return []row{
		alone("memory", "MiB resident at most: backlog of 1,000 contents of 100 records and one of 68 MB", few...).atMost(96),
		alone("memory", "MiB resident at most: 24 contents of 5 MB at once", crowd).atMost(96),
		against("memory", "MiB resident at most: backlog of 100,000 contents of 3 records; baseline 1,000 of them", []float64{many}, []float64{base}).ratioAtMost(1.3),
	}, nil
}

// crowd lets a new process collect contents of 4,000 records, and returns its
// peak memory in MiB. One tick must be enough: bodies that wait for each other on
// one connection would end it early.
func (b *bench) crowd(ctx context.Context, contents int) (mib float64, err error) {
	s, err := b.settle(ctx, "crowd", noQuota(), 0, canned())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	s.tenant.Advance(between)
	s.source.publish(s.tenant, contents, 4000, 3*time.Minute)
	before := s.stored()
	if _, err := s.product.tick(ctx); err != nil {
		return 0, err
	}
	if n := s.stored() - before; n != contents {
		return 0, fmt.Errorf("one tick has stored %d large contents of %d", n, contents)
	}
	return s.product.peak()
}

// backlog lets a new process collect a backlog of seven days and one large
// content, and returns its peak memory in MiB.
func (b *bench) backlog(ctx context.Context, contents, records, large int) (mib float64, err error) {
	s, err := b.settle(ctx, "memory", noQuota(), 0, canned(), "CATCH_UP_START=168h", "CATCH_UP_OVERLAP=24h")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	s.source.publish(s.tenant, b.contents(contents), records, 23*time.Hour)
	if large > 0 {
		s.source.publish(s.tenant, 1, large/len(s.source.records[0].text), time.Second)
	}
	if _, err := s.product.tick(ctx); err != nil {
		return 0, err
	}
	return s.product.peak()
}
