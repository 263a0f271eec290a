package collect

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"activityarchive/handler/activity"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/ledger"
)

// What a Finding says.
const (
	MissingContent = "missing content"     // the service lists it, the ledger does not have it
	MissingRecord  = "missing record"      // the ledger says it is archived, the archive does not have it
	MissingIDs     = "missing record ids"  // the ledger does not name all records of a content any more
	MissingLetter  = "missing dead letter" // the ledger says it is there
	DeadLetter     = "dead letter"         // kept whole in the ledger, not in the archive
	LostContent    = "lost content"        // the service refused it until its life was over
	Gap            = "gap"                 // a stretch that could not be listed any more
)

// Finding is one thing that the archive lacks.
type Finding struct {
	What         string `json:"what"`
	ContentType  string `json:"contentType"`
	Day          string `json:"day"`
	ContentID    string `json:"contentId,omitempty"`
	Entry        string `json:"entry,omitempty"`    // entry id
	RecordID     string `json:"recordId,omitempty"` // document id in the archive
	Detail       string `json:"detail,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"` // the reason a person gave
}

// Acks are the acknowledgements that would cover f, that of the content or gap
// first.
func (f *Finding) Acks() (acks []ledger.Ack) {
	if f.ContentID != "" {
		acks = append(acks, ledger.AckContent(f.ContentType, f.ContentID))
	}
	if f.What == Gap {
		acks = append(acks, ledger.AckGap(f.ContentType, f.Day))
	}
	if f.RecordID != "" {
		acks = append(acks, ledger.AckRecord(f.RecordID))
	}
	return acks
}

// Report sums up one content type and UTC day.
type Report struct {
	ContentType  string         `json:"contentType"`
	Day          string         `json:"day"`
	Listed       int            `json:"listed"`             // contents that the service lists now
	Unlisted     string         `json:"unlisted,omitempty"` // why it could not be asked, or not for all of the day
	New          int            `json:"new"`                // of Listed, contents that the next tick will find
	Contents     int            `json:"contents"`           // entries of the ledger
	Open         int            `json:"open"`               // of these, not settled yet; their records are not looked at
	Records      int            `json:"records"`            // that the ledger names as archived
	Found        int            `json:"found"`              // of these, in the archive
	Counts       ledger.Counts  `json:"counts"`             // of the settled entries
	Findings     map[string]int `json:"findings"`           // by What
	Acknowledged int            `json:"acknowledged"`       // of the findings
}

// Lacking returns how many findings nobody has acknowledged.
func (r *Report) Lacking() int {
	n := -r.Acknowledged
	for _, count := range r.Findings {
		n += count
	}
	return n
}

const (
	// groupContents and groupRecords bound what one look into the archive is for.
	groupContents = 50
	groupRecords  = 10_000

	// heldFindings is how many findings wait for one look at what is
	// acknowledged: each may have two acknowledgements.
	heldFindings = cosmos.MaxBatch / 2

	// settling is how long after a content was settled its documents of ids may
	// have been written later than the ledger was asked for them.
	settling = 5 * time.Minute
)

// Check compares one content type and UTC day: what the service lists now, as
// far as it lists that day, with the ledger, and the ledger with the archive. It
// gives each difference to found, and now and then how far it is to progress. It
// changes nothing, and creates no container.
//
// It holds the names of a day's contents, its dead letters without their text,
// and 30 bytes or so for each record of the largest content. An error means that
// Cosmos DB could not be read to the end; that the service could not be asked
// stands in the Report.
//
// Contents whose entry was deleted are known only while the service lists them.
// Where one content has the same Id for several users or hours, a record that is
// missing may be taken for another's of that Id.
func (c *Collector) Check(ctx context.Context, contentType string, day time.Time, found func(Finding) error, progress func(Report)) (Report, error) {
	day = day.UTC().Truncate(24 * time.Hour)
	k := &check{
		c: c, day: day, found: found, progress: progress, known: map[string]*held{},
		report: Report{ContentType: contentType, Day: day.Format(time.DateOnly), Findings: map[string]int{}},
	}
	head, err := c.Ledger.Head(ctx, contentType)
	if err != nil {
		return k.report, err
	}
	for _, step := range []func(context.Context, *ledger.Head) error{k.gaps, k.entries, k.letters, k.listing} {
		if err := step(ctx, &head); err != nil {
			return k.report, err
		}
	}
	return k.report, k.flush(ctx)
}

// check is one Check under way.
type check struct {
	c        *Collector
	day      time.Time
	found    func(Finding) error
	progress func(Report)
	report   Report
	known    map[string]*held // by entry id
	waiting  []Finding        // not looked up yet among what is acknowledged

	idDocs   map[string][]ledger.IDDocument // by entry id; nil until one is needed
	idDocsAt time.Time
}

// held is what is kept of an entry of the ledger.
type held struct {
	settled   bool
	dead      int    // dead letters it should have
	contentID string // if it should have some
}

// add takes a finding.
func (k *check) add(ctx context.Context, f Finding) error {
	f.ContentType, f.Day = k.report.ContentType, k.report.Day
	if k.waiting = append(k.waiting, f); len(k.waiting) < heldFindings {
		return nil
	}
	return k.flush(ctx)
}

// flush gives the findings on that wait.
func (k *check) flush(ctx context.Context) error {
	var ids []string
	for i := range k.waiting {
		for _, ack := range k.waiting[i].Acks() {
			ids = append(ids, ack.ID)
		}
	}
	reasons, err := k.c.Ledger.Acknowledged(ctx, ids)
	if err != nil {
		return err
	}
	for _, f := range k.waiting {
		for _, ack := range f.Acks() {
			if reason, ok := reasons[ack.ID]; ok && f.Acknowledged == "" {
				f.Acknowledged = reason
			}
		}
		k.report.Findings[f.What]++
		if f.Acknowledged != "" {
			k.report.Acknowledged++
		}
		if err := k.found(f); err != nil {
			return err
		}
	}
	k.waiting = k.waiting[:0]
	return nil
}

// gaps names what could not be listed of the day.
func (k *check) gaps(ctx context.Context, head *ledger.Head) error {
	for _, gap := range head.Gaps {
		if !gap.From.Before(k.day.Add(24*time.Hour)) || !gap.To.After(k.day) {
			continue
		}
		err := k.add(ctx, Finding{What: Gap, Detail: fmt.Sprintf("nothing was listed from %s to %s, and at %s it was too late", gap.From, gap.To, gap.FoundAt)})
		if err != nil {
			return err
		}
	}
	return nil
}

// entries goes through the day's entries and looks for their records.
func (k *check) entries(ctx context.Context, head *ledger.Head) error {
	var group []ledger.Entry
	records := 0
	for e, err := range k.c.Ledger.Day(ctx, head.ContentType, k.day) {
		if err != nil {
			return err
		}
		k.report.Contents++
		h := &held{settled: e.State == ledger.Stored}
		k.known[e.ID] = h
		switch e.State {
		case ledger.Stored:
		case ledger.Lost:
			if err := k.add(ctx, Finding{What: LostContent, ContentID: e.ContentID, Entry: e.ID, Detail: e.Reason}); err != nil {
				return err
			}
			continue
		default:
			k.report.Open++
			continue
		}
		k.report.Counts.Add(e.Counts)
		if h.dead = e.Dead; e.Dead > 0 {
			h.contentID = e.ContentID
		}
		group = append(group, e)
		if records += e.Stored + e.Duplicate; len(group) == groupContents || records >= groupRecords {
			if err := k.records(ctx, group); err != nil {
				return err
			}
			group, records = group[:0], 0
		}
	}
	return k.records(ctx, group)
}

// name stands for a document id.
type name [16]byte

func nameOf(id string) name {
	sum := sha256.Sum256([]byte(id))
	return name(sum[:16])
}

// copies counts the documents of an id.
type copies struct{ want, have int32 }

// records looks in the archive for the records of a group of contents: first for
// what they brought themselves, then for each of the rest by its id.
func (k *check) records(ctx context.Context, group []ledger.Entry) error {
	if len(group) == 0 {
		return nil
	}
	need := map[string]map[name]copies{} // by entry id
	var contents []string
	for i := range group {
		e := &group[i]
		contents = append(contents, e.ID)
		names, err := k.names(ctx, e)
		if err != nil {
			return err
		}
		need[e.ID] = names
		for _, c := range names {
			k.report.Records += int(c.want)
		}
	}
	err := k.c.Archive.Brought(ctx, contents, func(content, id string) error {
		names, n := need[content], nameOf(id)
		if c, ok := names[n]; ok {
			c.have++
			names[n] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	var absent []absentee
	for i := range group {
		e := &group[i]
		names := need[e.ID]
		for n, c := range names {
			if c.have >= c.want {
				k.report.Found += int(c.want)
				delete(names, n)
			}
		}
		if len(names) == 0 {
			continue
		}
		_, err := k.ids(ctx, e, func(id string) error {
			n := nameOf(id)
			c, ok := names[n]
			if !ok {
				return nil
			}
			absent = append(absent, absentee{e, id, int(c.want)})
			delete(names, n)
			if len(absent) < cosmos.MaxBatch {
				return nil
			}
			err := k.lookUp(ctx, absent)
			absent = absent[:0]
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := k.lookUp(ctx, absent); err != nil {
		return err
	}
	k.progress(k.report)
	return nil
}

// names returns how many documents of each id the archive should hold for e.
func (k *check) names(ctx context.Context, e *ledger.Entry) (names map[name]copies, err error) {
	for {
		began := k.idDocsAt
		names = map[name]copies{}
		all := 0
		got, err := k.ids(ctx, e, func(id string) error {
			n := nameOf(id)
			names[n] = copies{want: names[n].want + 1}
			all++
			return nil
		})
		if err != nil {
			return nil, err
		}
		if got > e.IDChunks { // some are left over from a try that read otherwise
			for n := range names {
				names[n] = copies{want: 1}
			}
		}
		switch {
		case got >= e.IDChunks && all >= e.Stored:
			return names, nil
		case e.IDChunks > 0 && k.idDocsAt.Equal(began) && e.DoneAt.After(began.Add(-settling)):
			k.idDocs = nil // settled since they were read
			continue
		}
		detail := fmt.Sprintf("%d of at least %d record ids are there", all, e.Stored)
		if e.IDChunks > 0 {
			detail += fmt.Sprintf(", in %d of %d documents", got, e.IDChunks)
		}
		return names, k.add(ctx, Finding{What: MissingIDs, ContentID: e.ContentID, Entry: e.ID, Detail: detail})
	}
}

// ids gives each record id that the ledger has for e, and returns from how many
// documents beside the entry.
func (k *check) ids(ctx context.Context, e *ledger.Entry, each func(id string) error) (documents int, err error) {
	give := func(ids ledger.IDs) error {
		for _, id := range ids.All() {
			if err := each(id); err != nil {
				return err
			}
		}
		return nil
	}
	if e.IDChunks == 0 {
		return 0, give(e.IDs)
	}
	if k.idDocs == nil {
		k.idDocsAt = k.c.API.Now()
		if k.idDocs, err = k.c.Ledger.IDDocuments(ctx, k.report.ContentType, k.day); err != nil {
			return 0, err
		}
	}
	for _, doc := range k.idDocs[e.ID] {
		ids, err := k.c.Ledger.ReadIDs(ctx, e, doc)
		if cosmos.KindOf(err) == cosmos.NotFound {
			continue
		}
		if err != nil {
			return documents, err
		}
		documents++
		if err := give(ids); err != nil {
			return documents, err
		}
	}
	return documents, nil
}

// absentee is a record of a content that was not among what that has brought.
type absentee struct {
	e    *ledger.Entry
	id   string
	want int // documents
}

// lookUp asks for records by their ids: another content may have brought them.
func (k *check) lookUp(ctx context.Context, absent []absentee) error {
	if len(absent) == 0 {
		return nil
	}
	var ids []string
	for _, a := range absent {
		ids = append(ids, a.id)
	}
	there := map[string]int{} // documents by id, whoever brought them
	err := k.c.Archive.WithIDs(ctx, ids, func(id string) error {
		there[id]++
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range absent {
		k.report.Found += min(a.want, there[a.id])
		if there[a.id] >= a.want {
			continue
		}
		f := Finding{What: MissingRecord, ContentID: a.e.ContentID, Entry: a.e.ID, RecordID: a.id}
		if a.want > 1 {
			f.Detail = fmt.Sprintf("%d of %d documents of this id are there", there[a.id], a.want)
		}
		if err := k.add(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// letters names the day's dead letters, and those that are gone.
func (k *check) letters(ctx context.Context, head *ledger.Head) error {
	letters, err := k.c.Ledger.Letters(ctx, head.ContentType, k.day)
	if err != nil {
		return err
	}
	whole := map[string]int{} // by entry id
	for _, l := range letters {
		if l.Whole {
			whole[l.Content]++
		}
		h := k.known[l.Content]
		if h != nil && h.settled && h.dead == 0 {
			continue // collected again since, and archived
		}
		if !l.Whole {
			continue // a process was killed in the middle of it; if it is wanted, it is missing
		}
		if err := k.add(ctx, Finding{What: DeadLetter, ContentID: l.ContentID, Entry: l.Content, RecordID: l.RecordID, Detail: fmt.Sprintf("element %d: %s", l.Element, l.Reason)}); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(k.known)) {
		h := k.known[id]
		if h.settled && whole[id] < h.dead {
			err := k.add(ctx, Finding{What: MissingLetter, ContentID: h.contentID, Entry: id, Detail: fmt.Sprintf("%d of %d are there and whole", whole[id], h.dead)})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// listing compares what the service lists of the day, as far back as it does,
// with the ledger.
func (k *check) listing(ctx context.Context, head *ledger.Head) error {
	now := k.c.API.Now().UTC().Truncate(time.Second)
	from, to := k.day, k.day.Add(24*time.Hour)
	for _, bound := range []time.Time{now.Add(-reach), head.Began.Time} {
		if from.Before(bound) {
			from = bound.Truncate(time.Second)
		}
	}
	if to.After(now) {
		to = now
	}
	for _, windows := range split(span{from, to}, min(k.c.Window, sweepWindow)) {
		for _, w := range windows {
			var ledgerErr error
			err := k.c.API.List(ctx, head.ContentType, w.from, w.to, func(page []activity.Content) error {
				ledgerErr = k.page(ctx, page, head)
				return ledgerErr
			})
			switch {
			case ledgerErr != nil:
				return ledgerErr
			case err != nil && ctx.Err() != nil:
				return err
			case err != nil:
				k.report.Unlisted = err.Error()
				return nil
			}
			k.progress(k.report)
		}
	}
	return nil
}

// page compares one page of a listing.
func (k *check) page(ctx context.Context, page []activity.Content, head *ledger.Head) error {
	k.report.Listed += len(page)
	var unknown []activity.Content
	ids := map[time.Time][]string{} // by the day of contentCreated
	for _, content := range page {
		id := ledger.EntryID(content.ContentType, content.ContentID)
		if k.known[id] != nil {
			continue
		}
		unknown = append(unknown, content)
		day := content.Created.UTC().Truncate(24 * time.Hour)
		ids[day] = append(ids[day], id)
	}
	there := map[string]bool{}
	for day, list := range ids {
		some, err := k.c.Ledger.Having(ctx, head.ContentType, day, list)
		if err != nil {
			return err
		}
		for id := range some {
			there[id] = true
		}
	}
	next := head.ListedTo.Add(-k.c.Overlap) // where the next tick begins
	for _, content := range unknown {
		id := ledger.EntryID(content.ContentType, content.ContentID)
		if k.known[id] != nil {
			continue // the listing shows it twice
		}
		k.known[id] = &held{}
		switch {
		case there[id]:
		case head.ListedTo.IsZero() || content.Created.After(next):
			k.report.New++
		default:
			err := k.add(ctx, Finding{What: MissingContent, ContentID: content.ContentID, Entry: id, Detail: "created " + ledger.At(content.Created).String()})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
