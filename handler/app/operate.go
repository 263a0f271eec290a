package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"activityarchive/handler/archive"
	"activityarchive/handler/collect"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
	"activityarchive/handler/settings"
)

// ErrLacking says that the archive lacks something that nobody has acknowledged.
var ErrLacking = errors.New("the archive lacks what is named above; repair it with handler redrive or handler backfill, or note that you know with handler acknowledge")

const (
	// week is how far back completeness looks if it is not told.
	week = 7 * 24 * time.Hour

	// progressEvery is how often a long scan says how far it is.
	progressEvery = 5 * time.Second
)

// operator is what a command works with.
type operator struct {
	Options
	db        *cosmos.DB
	ledger    *ledger.Ledger
	collector *collect.Collector
	types     []string
}

// operate makes the parts that a command needs. It makes no request. What is
// wrong with the settings is returned as [settings.Problems].
func operate(o Options) (*operator, error) {
	get, _, err := lookup(o)
	if err != nil {
		return nil, err
	}
	s, problems := settings.Load(get)
	if wrong := problems.All(); len(wrong) > 0 {
		return nil, wrong.Err()
	}
	db, err := database(s)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(o.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	api, err := client(s, commandShare, log)
	if err != nil {
		return nil, err
	}
	book := ledger.New(db, s.CosmosStateContainer)
	return &operator{
		Options: o, db: db, ledger: book, types: s.ContentTypes,
		collector: &collect.Collector{
			API: api, Ledger: book, Archive: archive.New(db, s.CosmosContainer), Logger: log,
			Window: s.CatchUpWindow, Overlap: s.CatchUpOverlap,
		},
	}, nil
}

// charge tells what a command has cost.
func (p *operator) charge() string {
	return fmt.Sprintf("Request charge at Cosmos DB: %.0f RU in %d requests.", p.db.Usage().RequestCharge, p.db.Usage().Requests)
}

// chosen returns the content types that a command is for.
func (p *operator) chosen(contentType string) ([]string, error) {
	if contentType == "" {
		return p.types, nil
	}
	for _, t := range p.types {
		if strings.EqualFold(t, contentType) {
			return []string{t}, nil
		}
	}
	return nil, fmt.Errorf("--type %s is none of the content types that are collected (%s); see CONTENT_TYPES", plain(contentType), strings.Join(p.types, ", "))
}

// plain is foreign text for a terminal: quoted if it holds anything but letters,
// digits, marks and spaces.
func plain(s string) string {
	if quoted := strconv.QuoteToGraphic(s); quoted[1:len(quoted)-1] != s {
		return quoted
	}
	return s
}

// CompletenessQuery says what to look at.
type CompletenessQuery struct {
	Since time.Time // first day; zero: a week ago
	Day   time.Time // this day only; zero: until today
	JSON  bool      // one JSON object a line
}

// Completeness compares, by content type and day, the service with the ledger and
// the ledger with the archive, and names what is missing, on stdout. It returns
// [ErrLacking] if any of that is not acknowledged.
func Completeness(ctx context.Context, o Options, q CompletenessQuery) error {
	p, err := operate(o)
	if err != nil {
		return err
	}
	defer p.collector.API.Close()
	if _, err := p.ledger.Control(ctx); err != nil { // and so the account's time is known
		return err
	}
	first, last := q.Since, p.db.Now()
	switch {
	case !q.Day.IsZero():
		first, last = q.Day, q.Day
	case first.IsZero():
		first = last.Add(-week)
	}
	if first = first.UTC().Truncate(24 * time.Hour); first.After(last) {
		return fmt.Errorf("%s lies in the future", first.Format(time.DateOnly))
	}
	out := printer{Options: o, json: q.JSON}
	var lacking, acknowledged, unlisted int
	for day := first; !day.After(last); day = day.Add(24 * time.Hour) {
		for _, contentType := range p.types {
			r, err := p.collector.Check(ctx, contentType, day, out.finding, out.progress)
			if err != nil {
				return fmt.Errorf("checking %s of %s: %w", contentType, day.Format(time.DateOnly), err)
			}
			if err := out.report(r); err != nil {
				return err
			}
			lacking, acknowledged = lacking+r.Lacking(), acknowledged+r.Acknowledged
			if r.Unlisted != "" {
				unlisted++
			}
		}
	}
	if err := out.total(p, lacking, acknowledged); err != nil {
		return err
	}
	switch {
	case lacking > 0:
		return ErrLacking
	case unlisted > 0:
		return errors.New("the service could not be asked what it lists, see above; the ledger and the archive agree")
	}
	return nil
}

// printer writes what completeness finds.
type printer struct {
	Options
	json bool
	said time.Time // the last word of progress
}

func (o *printer) line(v any, text string) error {
	if o.json {
		if err := json.NewEncoder(o.Stdout).Encode(v); err != nil {
			return fmt.Errorf("print a line: %w", err)
		}
		return nil
	}
	if _, err := fmt.Fprintln(o.Stdout, text); err != nil {
		return fmt.Errorf("print a line: %w", err)
	}
	return nil
}

func (o *printer) finding(f collect.Finding) error {
	text := fmt.Sprintf("%s: %s %s", f.What, f.ContentType, f.Day)
	for _, part := range []struct{ what, value string }{
		{" record ", f.RecordID}, {" content ", f.ContentID}, {": ", f.Detail}, {" (acknowledged: ", f.Acknowledged},
	} {
		if part.value != "" {
			text += part.what + plain(part.value)
		}
	}
	if f.Acknowledged != "" {
		text += ")"
	}
	return o.line(map[string]any{"finding": f}, text)
}

func (o *printer) report(r collect.Report) error {
	text := fmt.Sprintf("%s %s: %d contents listed now (%d new), %d in the ledger (%d open); %d of %d records found; %d duplicates, %d filtered, %d dead letters; %d lacking, %d acknowledged",
		r.ContentType, r.Day, r.Listed, r.New, r.Contents, r.Open, r.Found, r.Records, r.Counts.Duplicate, r.Counts.Filtered, r.Counts.Dead, r.Lacking(), r.Acknowledged)
	if r.Unlisted != "" {
		text += "\n  not compared with the service: " + plain(r.Unlisted)
	}
	return o.line(map[string]any{"day": r}, text)
}

func (o *printer) total(p *operator, lacking, acknowledged int) error {
	return o.line(map[string]any{"total": map[string]any{"lacking": lacking, "acknowledged": acknowledged, "ru": p.db.Usage().RequestCharge, "requests": p.db.Usage().Requests}},
		fmt.Sprintf("%d lacking, %d acknowledged. %s", lacking, acknowledged, p.charge()))
}

// progress says on stderr how far a scan is.
func (o *printer) progress(r collect.Report) {
	now := time.Now()
	if o.said.IsZero() {
		o.said = now
	}
	if now.Sub(o.said) < progressEvery {
		return
	}
	o.said = now
	fmt.Fprintf(o.Stderr, "%s %s: %d contents and %d records looked at, %d contents listed\n", r.ContentType, r.Day, r.Contents, r.Records, r.Listed)
}

// entryID is what an entry id looks like.
var entryID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// entriesOf finds the entries of a content that a person names: by its contentId,
// or by its entry's id.
func (p *operator) entriesOf(ctx context.Context, content, contentType string) ([]ledger.Entry, error) {
	types, err := p.chosen(contentType)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, t := range types {
		ids = append(ids, ledger.EntryID(t, content))
	}
	if entryID.MatchString(content) {
		ids = append(ids, content)
	}
	return p.ledger.Find(ctx, ids)
}

// Acknowledgement says what a person knows of: one of Content, Record and Day.
type Acknowledgement struct {
	Reason  string
	Content string // contentId or entry id
	Record  string // document id in the archive
	Day     time.Time
	Type    string // content type; empty: any that is collected
}

// Acknowledge notes in the ledger that a person knows of what is missing.
// Completeness then still names it, and does not fail for it.
func Acknowledge(ctx context.Context, o Options, q Acknowledgement) error {
	if strings.TrimSpace(q.Reason) == "" {
		return errors.New("--reason is empty: say in a few words why what is missing is well known")
	}
	p, err := operate(o)
	if err != nil {
		return err
	}
	defer p.collector.API.Close()
	var created, known int
	note := func(acks ...ledger.Ack) error {
		n, err := p.ledger.Acknowledge(ctx, acks, q.Reason)
		created, known = created+n, known+len(acks)-n
		return err
	}
	switch {
	case q.Record != "":
		err = note(ledger.AckRecord(q.Record))
	case q.Content != "":
		err = p.acknowledgeContent(ctx, q, note)
	default:
		err = p.acknowledgeDay(ctx, q, note)
	}
	fmt.Fprintf(o.Stdout, "%d acknowledged, %d were before. %s\n", created, known, p.charge())
	return err
}

func (p *operator) acknowledgeContent(ctx context.Context, q Acknowledgement, note func(...ledger.Ack) error) error {
	entries, err := p.entriesOf(ctx, q.Content, q.Type)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return note(ledger.AckContent(entries[0].ContentType, entries[0].ContentID))
	}
	types, err := p.chosen(q.Type)
	if err != nil {
		return err
	}
	if len(types) != 1 || entryID.MatchString(q.Content) {
		return fmt.Errorf("content %s is not in the ledger: give its contentId and --type", plain(q.Content))
	}
	return note(ledger.AckContent(types[0], q.Content)) // the ledger lacks it, and that is what is known
}

// acknowledgeDay acknowledges each content and gap of a day that something is
// wrong with now. What goes missing in other contents later is not covered.
func (p *operator) acknowledgeDay(ctx context.Context, q Acknowledgement, note func(...ledger.Ack) error) error {
	types, err := p.chosen(q.Type)
	if err != nil {
		return err
	}
	out := printer{Options: p.Options}
	for _, contentType := range types {
		done := map[string]bool{}
		var acks []ledger.Ack
		r, err := p.collector.Check(ctx, contentType, q.Day, func(f collect.Finding) error {
			if f.Acknowledged != "" {
				return nil
			}
			if ack := f.Acks()[0]; !done[ack.ID] {
				done[ack.ID] = true
				acks = append(acks, ack)
			}
			return out.finding(f)
		}, out.progress)
		switch {
		case err != nil:
			return err
		case r.Unlisted != "":
			return fmt.Errorf("the service could not be asked what it lists: %s", r.Unlisted)
		}
		if err := note(acks...); err != nil {
			return err
		}
	}
	return nil
}

// Redriving says which contents to open again: one of the first four.
type Redriving struct {
	Content string // contentId or entry id
	Day     time.Time
	Lost    bool
	Dead    bool   // those with dead letters
	Type    string // content type; empty: any that is collected
}

// Redrive opens entries of the ledger again, so that the function collects their
// contents once more. It writes nothing but the ledger.
func Redrive(ctx context.Context, o Options, q Redriving) error {
	p, err := operate(o)
	if err != nil {
		return err
	}
	defer p.collector.API.Close()
	types, err := p.chosen(q.Type)
	if err != nil {
		return err
	}
	found, err := p.toRedrive(ctx, q, types)
	if err != nil {
		return err
	}
	opened, over := 0, 0
	for _, pk := range slices.Sorted(maps.Keys(found)) {
		if q.Type != "" && !strings.EqualFold(ledger.Type(pk), q.Type) {
			continue
		}
		for ids := range slices.Chunk(found[pk], cosmos.MaxBatch) {
			entries, openErr := p.ledger.Reopen(ctx, pk, ids)
			for _, e := range entries {
				opened++
				if p.db.Now().After(e.LifeEnds()) {
					over++
				}
				fmt.Fprintf(o.Stdout, "opened: %s %s content %s\n", e.ContentType, e.Day(), plain(e.ContentID))
			}
			if err = openErr; err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if over > 0 {
		fmt.Fprintf(o.Stdout, "The time of %d of them is over: the service will hardly give them. What was stored of them stands.\n", over)
	}
	fmt.Fprintf(o.Stdout, "%d contents opened; the next tick collects them. %s\n", opened, p.charge())
	if err == nil && q.Content != "" && len(found) == 0 {
		return fmt.Errorf("content %s is not in the ledger: handler backfill lists it again, if it is younger than seven days", plain(q.Content))
	}
	return err
}

// toRedrive returns the ids of the entries to open, by partition.
func (p *operator) toRedrive(ctx context.Context, q Redriving, types []string) (found map[string][]string, err error) {
	if q.Dead {
		return p.ledger.WithLetters(ctx)
	}
	found = map[string][]string{}
	add := func(entries iter.Seq2[ledger.Entry, error]) error {
		for e, err := range entries {
			if err != nil {
				return err
			}
			found[e.PK] = append(found[e.PK], e.ID)
		}
		return nil
	}
	switch {
	case q.Lost:
		err = add(p.ledger.Lost(ctx))
	case q.Content != "":
		var entries []ledger.Entry
		entries, err = p.entriesOf(ctx, q.Content, q.Type)
		for _, e := range entries {
			found[e.PK] = append(found[e.PK], e.ID)
		}
	default:
		for _, contentType := range types {
			if err = add(p.ledger.Day(ctx, contentType, q.Day)); err != nil {
				break
			}
		}
	}
	return found, err
}

// Backfilling says what to list again.
type Backfilling struct {
	From time.Time
	To   time.Time // zero: now
	Type string    // content type; empty: all that are collected
}

// Backfill asks the function to list a stretch of contentCreated again. It writes
// nothing but the ledger.
func Backfill(ctx context.Context, o Options, q Backfilling) error {
	p, err := operate(o)
	if err != nil {
		return err
	}
	defer p.collector.API.Close()
	types, err := p.chosen(q.Type)
	if err != nil {
		return err
	}
	if _, err := p.ledger.Control(ctx); err != nil { // and so the account's time is known
		return err
	}
	now := p.db.Now()
	if q.To.IsZero() {
		q.To = now
	}
	for _, contentType := range types {
		head, err := p.collector.Backfill(ctx, contentType, q.From, q.To, now)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.Stdout, "%s: the next tick lists %s to %s again.\n", contentType, head.BackfillFrom, head.BackfillTo)
	}
	_, err = fmt.Fprintln(o.Stdout, p.charge())
	return err
}
