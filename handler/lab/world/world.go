// Package world makes the activity that a simulated tenant publishes: seven
// days of plainly synthetic Dynamics 365 and Power Platform records among the
// noise that shares Audit.General with them, and more of it on demand.
//
// The same Config makes the same world. The world knows of each record whether
// an archive must keep it, because it made the record so and not because it
// reads it back: see [Record] and [World.Expect].
//
// A record that comes again keeps its Id, UserId and hour; an Id is never used
// for two users or hours. A World is safe for concurrent use.
package world

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"activityarchive/handler/lab/tenant"
)

// An Area is what a record is about.
type Area int

// The areas. All but Noise pass the filter "powerplatform".
const (
	Noise         Area = iota
	Dynamics           // Dynamics 365 and Dataverse
	PowerPlatform      // Power Apps, Power Automate, Power Pages, administration
)

// A Kind is how a record relates to others of its Id.
type Kind int

// The kinds.
const (
	Plain   Kind = iota // the first of its Id
	Copy                // the bytes of a Plain record in another content
	Variant             // other bytes under a Plain record's Id: a conflict
)

// A Record is one record of a content.
type Record struct {
	Text json.RawMessage
	ID   string
	User string // UserId as it stands in Text
	Area Area
	Kind Kind
}

// Kept reports whether an archive filtered to the Power Platform keeps the
// record's Id.
func (r *Record) Kept() bool { return r.Area != Noise }

// A Content is one content of the world.
type Content struct {
	ID      string // contentId, once published
	Type    string
	Created time.Time
	Visible time.Time // zero: at once; else it comes late, some time into the run
	Records []Record
}

// Config is the size and seed of a world. Every field may be left zero.
type Config struct {
	Seed     uint64
	TenantID string    // default tenant.DefaultID
	Now      time.Time // end of the backlog, by the tenant's clock; default time.Now
	Contents int       // contents of Audit.General in the backlog; default 600
	Records  int       // records a content, on average; default 28
	Users    int       // default 300
	Apps     int       // canvas apps; default 12
	BigBytes int       // least size of the one big content; default 17 MiB; negative: none
	Variants int       // Ids with two texts; default 6; negative: none
}

// World is the made activity. Make it with New.
type World struct {
	cfg   Config
	users []user
	apps  []app

	mu       sync.Mutex
	random   *rand.Rand
	userPick []float64 // cumulated weights
	appPick  []float64
	variants int // still to be made
	contents []*Content
	pool     []Record        // plain records that can come again
	copied   map[string]bool // Ids of those that did
	shapes   int             // Dynamics 365 and Power Platform records made: whose turn it is
	noises   int             // other records made: likewise
}

// busyShare is the part of the backlog's contents that one busy hour has.
const busyShare = 5

// New makes a world.
func New(cfg Config) *World {
	cfg.TenantID = cmp.Or(cfg.TenantID, tenant.DefaultID)
	if cfg.Now.IsZero() {
		cfg.Now = time.Now()
	}
	cfg.Now = cfg.Now.UTC()
	cfg.Contents = cmp.Or(cfg.Contents, 600)
	cfg.Records = cmp.Or(cfg.Records, 28)
	cfg.Users = cmp.Or(cfg.Users, 300)
	cfg.Apps = cmp.Or(cfg.Apps, 12)
	cfg.BigBytes = cmp.Or(cfg.BigBytes, 17<<20)
	w := &World{cfg: cfg, random: rand.New(rand.NewPCG(cfg.Seed, 0x0ac71a)), variants: max(cmp.Or(cfg.Variants, 6), 0), copied: map[string]bool{}}
	w.makeUsers()
	w.makeApps()
	w.makeBacklog()
	return w
}

// PageSize is a page size with which the busy hour needs at least three pages.
func (w *World) PageSize() int { return max(w.cfg.Contents/busyShare/3, 1) }

// Contents returns all contents, in order of publication, the backlog first.
// The records must not be changed.
func (w *World) Contents() []Content {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Content, len(w.contents))
	for i, c := range w.contents {
		all[i] = *c
	}
	return all
}

// Publish publishes the backlog in t. Call it once, before clients come.
func (w *World) Publish(t *tenant.Tenant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.contents {
		w.publish(t, c)
	}
}

// PublishNext makes one more content, created now by t's clock, and publishes
// it.
func (w *World) PublishNext(t *tenant.Tenant) Content {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.makeContent("Audit.General", t.Now(), w.count(), 0)
	w.publish(t, c)
	return *c
}

func (w *World) publish(t *tenant.Tenant, c *Content) {
	records := c.Records
	published := t.Add(tenant.Content{
		Type: c.Type, Created: c.Created, Visible: c.Visible,
		Records: func(yield func(json.RawMessage) bool) {
			for i := range records {
				if !yield(records[i].Text) {
					return
				}
			}
		},
	})
	c.ID, c.Created = published.ID, published.Created
}

// An Expectation is what an archive must hold of one Id: one of its texts as a
// record, whichever came first, and every other one as a conflict. Variants
// aside there is one text.
type Expectation struct {
	ID    string
	User  string
	Area  Area
	Texts []Text
}

// A Text is one text of an Id with the contents that have it.
type Text struct {
	Bytes    json.RawMessage
	Contents []string // contentIds; more than one: duplicates
}

// Expect returns what an archive of Audit.General must hold of what has been
// published so far, in order of first publication. All says that the archive
// is not filtered.
func (w *World) Expect(all bool) []*Expectation {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*Expectation
	byID := map[string]*Expectation{}
	for _, c := range w.contents {
		if c.ID == "" || c.Type != "Audit.General" {
			continue
		}
		for i := range c.Records {
			r := &c.Records[i]
			if !all && !r.Kept() {
				continue
			}
			e := byID[r.ID]
			if e == nil {
				e = &Expectation{ID: r.ID, User: r.User, Area: r.Area}
				byID[r.ID] = e
				list = append(list, e)
			}
			at := slices.IndexFunc(e.Texts, func(t Text) bool { return bytes.Equal(t.Bytes, r.Text) })
			if at < 0 {
				at = len(e.Texts)
				e.Texts = append(e.Texts, Text{Bytes: r.Text})
			}
			e.Texts[at].Contents = append(e.Texts[at].Contents, c.ID)
		}
	}
	return list
}

// makeBacklog makes the seven days.
func (w *World) makeBacklog() {
	now, n := w.cfg.Now, w.cfg.Contents
	// Nothing so old that it would end while a run is on.
	oldest := now.Add(-7*24*time.Hour + time.Hour)
	span := now.Add(-time.Minute).Sub(oldest)
	busy := now.Add(-60 * time.Hour).Truncate(time.Hour).Add(27 * time.Minute)

	var times []time.Time
	for range n / busyShare {
		times = append(times, busy.Add(w.upTo(5*time.Minute)))
	}
	late := max(n/100, 2)
	for len(times) < n-late {
		at := oldest.Add(w.upTo(span))
		// A working day's rhythm: nights are thinned out.
		if hour := at.Hour(); (hour < 6 || hour > 18) && w.random.Float64() < 0.6 {
			continue
		}
		times = append(times, at)
		if w.random.Float64() < 0.02 && len(times) < n-late {
			times = append(times, at) // two contents in one millisecond
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for i, at := range times {
		switch {
		case i == len(times)/2 && w.cfg.BigBytes > 0:
			w.makeContent("Audit.General", at, math.MaxInt, w.cfg.BigBytes)
		case i == len(times)-1:
			// A fresh content of events that are nearly six days old.
			w.makeAged(at, 5*24*time.Hour+12*time.Hour)
		default:
			w.makeContent("Audit.General", at, w.count(), 0)
		}
		if i%50 == 25 {
			w.makeOther("Audit.Exchange", at)
			w.makeOther("Audit.AzureActiveDirectory", at)
		}
	}
	for i := range late {
		c := w.makeContent("Audit.General", now.Add(-5*time.Minute-w.upTo(80*time.Minute)), w.count(), 0)
		c.Visible = now.Add(5*time.Second + time.Duration(i)*20*time.Second/time.Duration(late))
	}
}

// count draws the number of records of one content: most are small.
func (w *World) count() int {
	return 1 + min(int(w.random.ExpFloat64()*float64(w.cfg.Records)), 8*w.cfg.Records)
}

// upTo draws a time span below d.
func (w *World) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d)))
}

// lag draws how long an event took to become available: four fifths within the
// hour and a half, the rest up to two days.
func (w *World) lag() time.Duration {
	switch p := w.random.Float64(); {
	case p < 0.80:
		return 10*time.Minute + w.upTo(80*time.Minute)
	case p < 0.95:
		return 90*time.Minute + w.upTo(22*time.Hour)
	default:
		return 24*time.Hour + w.upTo(24*time.Hour)
	}
}

// makeContent makes a content of n records, or of as many as size bytes need.
// A tenth of them are copies of earlier ones.
func (w *World) makeContent(contentType string, created time.Time, n, size int) *Content {
	c := &Content{Type: contentType, Created: created}
	made := len(w.pool)
	used := map[string]bool{}
	for sum := 0; len(c.Records) < n && (size == 0 || sum < size); {
		r, ok := w.repeat(made, used)
		if !ok {
			r = w.makeRecord(created.Add(-w.lag()))
			w.pool = append(w.pool, r)
		}
		used[r.ID] = true
		sum += len(r.Text) + 1
		c.Records = append(c.Records, r)
	}
	w.contents = append(w.contents, c)
	return c
}

// repeat draws, for a tenth of the records, one that was there before this
// content; rarely, and as often as the Config asks for, with another text.
func (w *World) repeat(made int, used map[string]bool) (Record, bool) {
	if made < 50 || w.random.Float64() >= 0.10 {
		return Record{}, false
	}
	at := w.random.IntN(made)
	r := w.pool[at]
	if used[r.ID] {
		return Record{}, false
	}
	r.Kind = Copy
	// An Id is either copied or varied, so that it is plain what is a duplicate
	// and what a conflict.
	if w.variants > 0 && r.Kept() && !w.copied[r.ID] && w.random.Float64() < 0.2 {
		w.variants--
		w.pool[at] = w.pool[(at+1)%made]
		r.Kind = Variant
		r.Text = bytes.Replace(r.Text, []byte(`"Version":1`), []byte(`"Version":2`), 1)
		return r, true
	}
	w.copied[r.ID] = true
	return r, true
}

// makeAged makes a content whose events are all older than age.
func (w *World) makeAged(created time.Time, age time.Duration) {
	c := &Content{Type: "Audit.General", Created: created}
	for range 40 {
		r := w.makeRecord(created.Add(-age - w.upTo(6*time.Hour)))
		w.pool = append(w.pool, r)
		c.Records = append(c.Records, r)
	}
	w.contents = append(w.contents, c)
}

// makeOther makes a content of a type that nobody here subscribes to.
func (w *World) makeOther(contentType string, created time.Time) {
	c := &Content{Type: contentType, Created: created}
	for range 1 + w.random.IntN(9) {
		at := created.Add(-w.lag())
		if contentType == "Audit.Exchange" {
			c.Records = append(c.Records, w.exchange(at))
		} else {
			c.Records = append(c.Records, w.signIn(at))
		}
	}
	w.contents = append(w.contents, c)
}

// guid makes a random GUID, version 4.
func (w *World) guid() string { return guid(w.random) }

func guid(r *rand.Rand) string {
	a, b := r.Uint64(), r.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}

// weights cumulates the weights 1, 1/2^s, 1/3^s, …: a few do most of it.
func weights(n int, s float64) []float64 {
	sums, sum := make([]float64, n), 0.0
	for i := range sums {
		sum += math.Pow(float64(i+1), -s)
		sums[i] = sum
	}
	return sums
}

// draw picks an index by cumulated weights.
func (w *World) draw(sums []float64) int {
	at, _ := slices.BinarySearch(sums, w.random.Float64()*sums[len(sums)-1])
	return min(at, len(sums)-1)
}
