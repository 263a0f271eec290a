package loss_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
)

var crashes = flag.String("crash", "part", `which schedules TestEveryCrash runs: "part", "all", or one in the words of a failure`)

// kill says when a process dies: at its nth boundary, before the request has an
// effect ('-'), or after it had one and before the answer came ('+'). With '='
// nobody dies there.
type kill struct {
	n   int
	how byte
}

// schedule is one way in which a run may go.
//
// With one instance, kills are of the first process, of the one started in its
// place, and so on; each counts the boundaries of its own process. With two
// there is one kill, it counts the boundaries of both, and order says whose the
// next two requests are: s of the instance that lives on, r of the other, which
// was started again.
type schedule struct {
	instances int
	kills     []kill
	order     string
}

// String is what the flag takes: "one 12+ 3-", or "two 12+ sr".
func (s schedule) String() string {
	words := []string{[]string{"one", "two"}[s.instances-1]}
	for _, k := range s.kills {
		words = append(words, strconv.Itoa(k.n)+string(k.how))
	}
	return strings.TrimSpace(strings.Join(words, " ") + " " + s.order)
}

func parseSchedule(text string) (schedule, error) {
	if !regexp.MustCompile(`^(one( \d+[-+])*|two( \d+[-+=] [sr][sr])?)$`).MatchString(text) {
		return schedule{}, fmt.Errorf("%q is no schedule", text)
	}
	words := strings.Fields(text)
	s := schedule{instances: 1}
	if words[0] == "two" {
		s.instances = 2
	}
	for _, word := range words[1:] {
		last := len(word) - 1
		n, err := strconv.Atoi(word[:last])
		if err != nil {
			s.order = word
			continue
		}
		s.kills = append(s.kills, kill{n, word[last]})
	}
	return s, nil
}

// stage is a small world in which a schedule is played. In it one request is
// served at a time, and which one is next depends on nothing but the requests
// that wait: so the same schedule gives the same run, and boundaries have
// numbers.
type stage struct {
	*system
	schedule

	mu       sync.Mutex
	slots    []*process
	starts   []int              // processes started so far, by slot
	whose    map[*process]int   // slot
	nth      map[*process]int   // of its slot
	met      map[int][]string   // boundaries met, by process with one instance, of all with two
	fired    int                // kills so far
	victim   *process           // of the last of them
	steps    string             // what is left of order
	yielded  bool               // an order was given up: the instance it named had nothing to do
	calls    int                // at the door
	finished bool               // no more kills
	ticking  sync.WaitGroup     // ticks, those of dead processes too
	outcomes map[*process]error // of the last tick
}

const (
	exchange = "Audit.Exchange"

	between = 10 * time.Minute // of ticks: longer than the lease

	// killRounds is how many rounds of ticks are open to kills: the first
	// listing, a notification, and the renewal of the webhooks. After at most
	// calmRounds more, enough for the pause between two start calls, all must be
	// in order.
	killRounds, calmRounds = 3, 4
)

// letterOfWorld is the element of the small world that cannot be a document.
var letterOfWorld = json.RawMessage(`["text"]`)

// play runs one schedule in a bubble of its own, and checks what must hold after
// each. It returns the stage for what it has met.
func play(t *testing.T, sched schedule) (c *stage) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(dawn)) // a bubble's clock begins in 2000
		c = &stage{
			schedule: sched, steps: sched.order,
			slots: make([]*process, sched.instances), starts: make([]int, sched.instances),
			whose: map[*process]int{}, nth: map[*process]int{}, met: map[int][]string{}, outcomes: map[*process]error{},
		}
		c.system = newSystem(t, func(o *options) {
			o.types, o.webhook, o.lifetime = []string{general, exchange}, true, time.Hour
			o.start, o.overlap, o.cached = time.Hour, 30*time.Minute, true
			o.knobs.PageSize = 1 // so that two contents are two pages
		})
		c.front = c
		c.run()
		c.judge()
		c.close()
		c.ticking.Wait()
		if t.Failed() {
			t.Fatalf("schedule %q; to see it alone: go test ./loss -run TestEveryCrash -crash=%[1]q", sched)
		}
	})
	return c
}

// run is the world's course: two contents, one with a duplicate and a dead
// letter, are there at the first tick; a third is notified; the webhooks are
// renewed.
func (c *stage) run() {
	created := time.Now().Add(-time.Minute)
	c.tenant.Publish(general, created, rec(1, ""), rec(8, ""))
	c.tenant.Publish(general, created, rec(15, ""), rec(1, ""), letterOfWorld)
	for round := range killRounds + calmRounds {
		c.mu.Lock()
		c.finished = round >= killRounds
		c.mu.Unlock()
		if round == 1 {
			c.tenant.Publish(exchange, time.Now(), rec(2, ""), rec(9, ""))
		}
		var all sync.WaitGroup
		all.Go(func() { c.tenant.Deliver(context.Background()) })
		for i := range c.slots {
			all.Go(func() { c.tickOf(i) })
		}
		all.Wait()
		if round >= killRounds && c.settled() {
			return
		}
		if round < killRounds+calmRounds-1 {
			time.Sleep(time.Until(dawn.Add(time.Duration(round+1) * between)))
		}
	}
}

// settled reports whether nothing is left to do.
func (c *stage) settled() bool {
	_, states := c.counts()
	heads := 0
	for _, h := range c.heads() {
		if time.Since(h.ListedTo.Time) < time.Minute {
			heads++
		}
	}
	return cmp.Equal(states, settledStates) && heads == len(c.opts.types) && c.notified() == len(c.opts.types)
}

// settledStates are the contents of the world by state, when all is done.
var settledStates = map[string]int{ledger.Stored: 3}

// heads returns the ledger's heads.
func (c *stage) heads() (list []ledger.Head) {
	c.t.Helper()
	for _, d := range c.account.Documents("ArchiveState") {
		var h ledger.Head
		if err := json.Unmarshal(d.Body, &h); err != nil {
			c.t.Fatal(err)
		}
		if h.Kind == "head" {
			list = append(list, h)
		}
	}
	return list
}

// notified is how many subscriptions have a webhook that is alive.
func (c *stage) notified() (n int) {
	for _, sub := range c.tenant.Subscriptions() {
		if w := sub.Webhook; sub.Status == tenant.Enabled && w != nil && w.Status == tenant.Enabled && w.Expiration.After(time.Now()) {
			n++
		}
	}
	return n
}

// tickOf runs a tick of one instance. If its process is killed in it or soon
// after, another is started and ticks at once.
func (c *stage) tickOf(slot int) {
	time.Sleep(time.Duration(slot) * time.Microsecond) // what is not ordered later is at least not at once
	for {
		p := c.up(slot)
		ended := make(chan struct{})
		c.ticking.Go(func() {
			defer close(ended)
			err := p.tick()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.outcomes[p] = err
		})
		select {
		case <-p.gone:
			continue
		case <-ended:
		}
		select { // what a notification has begun may still be under way
		case <-p.gone:
		case <-time.After(5 * time.Second):
			return
		}
	}
}

// up returns the process of a slot, and starts one if there is none that lives.
func (c *stage) up(slot int) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.slots[slot]; p != nil && !p.dead.Load() {
		return p
	}
	c.marked()
	p := c.process()
	c.slots[slot], c.whose[p], c.nth[p] = p, slot, c.starts[slot]
	c.starts[slot]++
	p.die = func(_ int64, r *http.Request) (before, after bool) {
		name := c.nameOf(p, r)
		// The SDK holds a mutex while it waits for the account's own document,
		// and a bubble's clock stands still while anyone waits for a mutex.
		if r.URL.Path != "/" && r.URL.Path != "" {
			time.Sleep(time.Millisecond + delayOf(name))
			c.await(p)
		}
		return c.boundary(p, name)
	}
	return p
}

// nameOf says what a request is.
func (c *stage) nameOf(p *process, r *http.Request) string {
	body := []byte(nil)
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body) // from memory
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%c%d: %s %s%s %s %.4x", 'A'+c.whose[p], c.nth[p], r.Method, r.URL.Host, r.URL.RequestURI(),
		r.Header.Get("x-ms-documentdb-partitionkey"), sha256.Sum256(body))
}

// delayOf is how long a request waits before it is served: of two that wait, the
// same is always first, whichever goroutine ran first.
func delayOf(name string) time.Duration {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	return time.Duration(h.Sum64() % uint64(time.Millisecond))
}

// boundary numbers one request of p and says whether p dies at it.
func (c *stage) boundary(p *process, name string) (before, after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.dead.Load() {
		return true, false
	}
	whose := 0
	if c.instances == 1 {
		whose = c.nth[p]
	}
	if c.finished {
		return false, false
	}
	c.met[whose] = append(c.met[whose], name)
	if c.fired != whose || c.fired >= len(c.kills) || len(c.met[whose]) != c.kills[c.fired].n {
		return false, false
	}
	how := c.kills[c.fired].how
	c.fired++
	c.victim = p
	return how == '-', how == '+'
}

// patience is how long an order waits for the instance that it names.
const patience = 3 * time.Second

// await returns when it is p's turn, as far as the schedule orders turns.
func (c *stage) await(p *process) {
	for began := time.Now(); !c.turn(p, time.Since(began) >= patience); {
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *stage) turn(p *process, late bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.victim == nil || c.steps == "" || p.dead.Load() || c.kills[0].how != '=' && !c.victim.dead.Load() {
		return true
	}
	me := byte('s')
	if c.whose[p] == c.whose[c.victim] {
		me = 'r'
	}
	switch {
	case c.steps[0] == me:
		c.steps = c.steps[1:]
	case late:
		c.steps, c.yielded = "", true
	default:
		return false
	}
	return true
}

// ServeHTTP is the front of all instances: what comes in goes to them in turn.
// Each call is a boundary of the one that answers it.
func (c *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	var p *process
	for range c.slots {
		p = c.slots[c.calls%len(c.slots)]
		if c.calls++; !p.dead.Load() {
			break
		}
	}
	name := fmt.Sprintf("%c%d: door %s", 'A'+c.whose[p], c.nth[p], r.Method)
	c.mu.Unlock()
	before, after := c.boundary(p, name)
	if before {
		p.kill()
		panic(http.ErrAbortHandler)
	}
	answer := httptest.NewRecorder()
	p.hook.ServeHTTP(answer, r)
	if after {
		p.kill()
	}
	if p.dead.Load() {
		panic(http.ErrAbortHandler)
	}
	for key, values := range answer.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// judge checks what must hold after every schedule, besides what system.close
// checks.
func (c *stage) judge() {
	c.t.Helper()
	if c.fired != len(c.kills) {
		c.t.Errorf("%d of %d boundaries were met", c.fired, len(c.kills))
	}
	c.mu.Lock() // ticks of dead processes may still end
	defer c.mu.Unlock()
	for i, p := range c.slots {
		if err := c.outcomes[p]; err != nil || p.dead.Load() {
			c.t.Errorf("instance %d: the last tick ends with %v", i, err)
		}
	}
	c.reconciled(refusing([]json.RawMessage{letterOfWorld}))
	c.counted(5, 1, 1)
	if _, states := c.counts(); !cmp.Equal(states, settledStates) {
		c.t.Errorf("contents by state are %v, want %v", states, settledStates)
	}
	c.countsHold()
	if !c.settled() {
		c.t.Errorf("after all rounds something is left to do: of %d content types %d are notified; heads: %+v", len(c.opts.types), c.notified(), c.heads())
	}
}

// countsHold compares each entry's counts with what its content holds and with
// what Cosmos DB holds.
func (c *stage) countsHold() {
	c.t.Helper()
	elements, stored, dead := map[string]int{}, map[string]int{}, map[string]int{}
	for content := range c.tenant.Records() {
		elements[content.ID]++
	}
	for _, d := range c.account.Documents("Audits") {
		var archive struct{ Content string }
		if err := unmarshalExact(d.Body, "archive", &archive); err != nil {
			c.t.Fatal(err)
		}
		stored[archive.Content]++
	}
	kinds := map[string]int{}
	for _, d := range c.account.Documents("ArchiveState") {
		var doc struct{ Kind, Content string }
		if err := json.Unmarshal(d.Body, &doc); err != nil {
			c.t.Fatal(err)
		}
		kinds[doc.Kind]++
		if doc.Kind == "dead" {
			dead[doc.Content]++
		}
	}
	if diff := cmp.Diff(map[string]int{"entry": 3, "dead": 1, "head": 2, "lease": 1}, kinds); diff != "" {
		c.t.Errorf("kinds of documents in the ledger (-want +got):\n%s", diff)
	}
	for _, e := range c.entries() {
		if e.Stored != stored[e.ID] || e.Dead != dead[e.ID] || e.Elements != elements[e.ContentID] || e.Stored+e.Duplicate+e.Dead != e.Elements {
			c.t.Errorf("content %s counts %+v of %d elements; it has %d, of which the archive holds %d and the dead letters %d",
				e.ContentID, e.Counts, e.Elements, elements[e.ContentID], stored[e.ID], dead[e.ID])
		}
		if e.Found != ledger.ByListing {
			c.t.Errorf("content %s was listed and is marked as found by %s", e.ContentID, e.Found)
		}
	}
}

// TestEveryCrash kills the product at every boundary of its I/O in a small
// world, at every pair of boundaries, and, with two instances, at every boundary
// with every order of the next two requests. After each, ticks go on, and all
// must be as if nothing had happened.
func TestEveryCrash(t *testing.T) {
	t.Parallel()
	if *crashes != "all" && *crashes != "part" {
		s, err := parseSchedule(*crashes)
		if err != nil {
			t.Fatal(err)
		}
		c := play(t, s)
		for i := range len(c.met) {
			t.Logf("boundaries met:\n%s", strings.Join(c.met[i], "\n"))
		}
		return
	}

	var singles, both []schedule
	for instances := 1; instances <= 2; instances++ {
		whole := play(t, schedule{instances: instances})
		for range 3 {
			if diff := cmp.Diff(whole.met, play(t, schedule{instances: instances}).met); diff != "" {
				t.Fatalf("with %d instances the boundaries of two runs differ:\n%s", instances, diff)
			}
		}
		t.Logf("instances: %d, boundaries: %d", instances, len(whole.met[0]))
		for n := range len(whole.met[0]) {
			if instances == 1 {
				for _, how := range "-+" {
					singles = append(singles, schedule{1, []kill{{n + 1, byte(how)}}, ""})
				}
				continue
			}
			for _, how := range "-+=" {
				for _, order := range []string{"ss", "sr", "rs", "rr"} {
					both = append(both, schedule{2, []kill{{n + 1, byte(how)}}, order})
				}
			}
		}
	}

	var mu sync.Mutex
	plans := map[string][]string{} // the second process's boundaries, by single
	each(t, "singles", singles, 1, func(s schedule, c *stage) {
		mu.Lock()
		defer mu.Unlock()
		plans[s.String()] = c.met[1]
	})
	var pairs []schedule
	for _, s := range singles {
		for n := range plans[s.String()] {
			for _, how := range "-+" {
				pairs = append(pairs, schedule{1, append(slices.Clone(s.kills), kill{n + 1, byte(how)}), ""})
			}
		}
	}
	everyPair, everyTwo := 1, 1
	if *crashes == "part" {
		everyPair, everyTwo = 199, 29 // primes, so that no kind of boundary is passed over
	}
	each(t, "pairs", pairs, everyPair, func(s schedule, c *stage) {
		n := s.kills[1].n
		plan := plans[schedule{1, s.kills[:1], ""}.String()][:n]
		if got := c.met[1][:min(n, len(c.met[1]))]; !slices.Equal(plan, got) {
			t.Errorf("schedule %q is not what the first kill alone led to:\n%s", s, cmp.Diff(plan, got))
		}
	})
	yielded := 0
	each(t, "two instances", both, everyTwo, func(_ schedule, c *stage) {
		mu.Lock()
		defer mu.Unlock()
		if c.yielded || c.steps != "" {
			yielded++
		}
	})
	t.Logf("two instances: in %d schedules the instance whose turn it was had nothing more to do", yielded)
}

// each plays every stride-th of the schedules, on all processors, and gives the
// stages to see. It ends at the first failure.
func each(t *testing.T, name string, all []schedule, stride int, see func(schedule, *stage)) {
	t.Helper()
	began, played := time.Now(), (len(all)+stride-1)/stride
	ok := t.Run(name, func(t *testing.T) {
		parts := runtime.GOMAXPROCS(0)
		for part := range parts {
			t.Run(strconv.Itoa(part), func(t *testing.T) {
				t.Parallel()
				for i := part; i < played && !t.Failed(); i += parts {
					see(all[i*stride], play(t, all[i*stride]))
				}
			})
		}
	})
	t.Logf("%s: %d of %d schedules in %v", name, played, len(all), time.Since(began).Round(time.Millisecond))
	if !ok {
		t.FailNow()
	}
}
