package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "activityarchive/handler/app" // the binary is built from it: a change must not find a cached result
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/lab/world"
)

// repository is where the product lies, seen from here.
const repository = "../.."

// builtHandler builds the handler, once, as it is deployed.
var builtHandler = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "handler")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./handler")
	build.Dir = repository
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build handler: %w\n%s", err, out)
	}
	return path, nil
})

// endTime is how long a test waits for everything to be archived.
const endTime = 2 * time.Minute

// stageForTest raises a stage with the built handler. Its log is shown if the
// test fails.
func stageForTest(t *testing.T, cfg stageConfig) *stage {
	t.Helper()
	handler, err := builtHandler()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Root, cfg.Handler = repository, handler
	var log bytes.Buffer
	cfg.Log = &log // written under the stage's lock, read after close
	s, err := raise(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of hosts and handlers:\n%s", lastBytes(log.Bytes(), 64<<10))
		}
	})
	return s
}

func lastBytes(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// instanceForTest starts an instance that is closed at the test's end.
func instanceForTest(t *testing.T, s *stage) *instance {
	t.Helper()
	i, err := s.host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.close() }) // its host may have died on purpose
	return i
}

// keepTicking runs timer on i again and again until ctx or the host ends.
func keepTicking(ctx context.Context, i *instance) {
	for {
		if _, err := i.tick(ctx); err != nil || !sleep(ctx, 200*time.Millisecond) {
			return
		}
	}
}

// settle waits until the archive has what it must have. While nothing moves it
// turns the services' clocks on, because what a killed process had claimed falls
// due only later.
func settle(t *testing.T, s *stage, want func() (documents, contents int)) {
	t.Helper()
	const step, most = time.Minute, 30 * time.Minute // the world's oldest content has an hour to live
	ctx, cancel := context.WithTimeout(t.Context(), endTime)
	defer cancel()
	var last figures
	var turned time.Duration
	still := 0
	for sleep(ctx, 250*time.Millisecond) {
		f, err := s.measure(ctx)
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		documents, contents := want()
		if f.open == 0 && f.entries >= contents && f.documents >= documents {
			return
		}
		if still++; f != last {
			last, still = f, 0
		}
		if still >= 4 && turned < most {
			if err := s.advance(step); err != nil {
				t.Fatal(err)
			}
			turned, still = turned+step, 0
		}
	}
	documents, contents := want()
	t.Errorf("after %v: %+v, want %d documents of %d contents", endTime, last, documents, contents)
}

// compare reconciles and wants no fault and no breach of the API's rules.
func compare(t *testing.T, s *stage, p *reconcile.Published) reconcile.Report {
	t.Helper()
	r, err := s.check(context.WithoutCancel(t.Context()), p)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range r.Faults {
		if i == maxNamed {
			t.Errorf("and %d more", len(r.Faults)-i)
			break
		}
		t.Error(f)
	}
	for _, v := range s.tenant.Violations() {
		t.Errorf("breach of the API's rules: %s", v)
	}
	return r
}

// TestEndToEnd is the proof that matters: a backlog, more while it is worked
// on, handlers killed again and again, a host that dies, two instances at once;
// at the end the archive is what was published.
func TestEndToEnd(t *testing.T) {
	var mu sync.Mutex
	var victim *instance // whose handler is killed at a threshold
	var fetched int
	// Each lies within the backlog, so that a tick is at work when it comes.
	thresholds := []int{3, 12, 25, 40}
	struck := make(chan struct{}, len(thresholds))
	s := stageForTest(t, stageConfig{
		Tenant: tenant.Config{Seed: 3, Knobs: tenant.Knobs{PageSize: 4}},
		Watch: func(r *http.Request) {
			if !strings.Contains(r.URL.Path, "/feed/audit/") {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			fetched++
			if victim != nil && slices.Contains(thresholds, fetched) {
				_ = victim.tell("kill") // a host just killed is as good
				struck <- struct{}{}
			}
		},
	})
	w := world.New(world.Config{Seed: 3, Contents: 60, Records: 12, BigBytes: 2 << 20})
	w.Publish(s.tenant)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ticking sync.WaitGroup
	defer ticking.Wait()
	aim := func(i *instance) {
		mu.Lock()
		defer mu.Unlock()
		victim = i
	}
	await := func(what string) {
		t.Helper()
		limit := time.NewTimer(endTime)
		defer limit.Stop()
		select {
		case <-struck:
			w.PublishNext(s.tenant)
			if err := s.advance(time.Minute); err != nil { // past the lease of what was killed
				t.Fatal(err)
			}
		case <-limit.C:
			t.Fatalf("%s: the handler fetched too little to be killed", what)
		}
	}

	first := instanceForTest(t, s)
	aim(first)
	ticking.Go(func() { keepTicking(ctx, first) })
	await("first kill")
	await("second kill")

	// The host dies with the handler at work; two others take over.
	aim(nil)
	first.kill()
	second, third := instanceForTest(t, s), instanceForTest(t, s)
	aim(second)
	ticking.Go(func() { keepTicking(ctx, second) })
	ticking.Go(func() { keepTicking(ctx, third) })
	await("third kill")
	aim(third)
	await("fourth kill")
	aim(nil)
	for range 5 {
		w.PublishNext(s.tenant)
	}

	all := newTally()
	settle(t, s, func() (int, int) {
		all.update(w)
		return all.Wanted()
	})
	stop()
	ticking.Wait()
	if err := errors.Join(second.close(), third.close()); err != nil {
		t.Errorf("close hosts: %v", err)
	}
	r := compare(t, s, all.Published)
	t.Logf("%d contents, %d records, %d archived, %d dead letters", r.Contents, r.Records, r.Stored, r.Dead)
}

// TestOrphan: a handler whose host is killed in the middle of a tick ends
// itself, although the tick hangs.
func TestOrphan(t *testing.T) {
	fetching := make(chan struct{})
	var once sync.Once
	s := stageForTest(t, stageConfig{Watch: func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/feed/audit/") {
			once.Do(func() { close(fetching) })
		}
	}})
	s.tenant.Inject(tenant.Rule{Op: tenant.OpAudit, Hang: true})
	s.tenant.Publish("Audit.General", time.Now().Add(-time.Hour), json.RawMessage(`{"Id":"5e0c1a70-0000-4000-8000-0000000000f1","RecordType":21}`))
	i := instanceForTest(t, s)
	if err := i.tell("tick"); err != nil {
		t.Fatal(err)
	}
	limit := time.NewTimer(endTime)
	defer limit.Stop()
	select {
	case <-fetching:
	case <-limit.C:
		t.Fatal("the tick fetched nothing")
	}
	if !alive(i.handler) {
		t.Fatalf("handler %d is not alive in its tick", i.handler)
	}
	i.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for alive(i.handler) {
		if !sleep(ctx, 50*time.Millisecond) {
			_ = syscall.Kill(i.handler, syscall.SIGKILL)
			t.Fatalf("handler %d outlived its host", i.handler)
		}
	}
}

// alive reports whether a process runs. One that has ended but was not waited
// for, as an orphan in a container may stay for ever, does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || !procMounted()
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	return !ok || !strings.HasPrefix(rest, "Z")
}

func procMounted() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

// publishAndCompare publishes the records, ten to a content, lets one instance
// archive all of them and compares.
func publishAndCompare(t *testing.T, records []json.RawMessage) reconcile.Report {
	t.Helper()
	s := stageForTest(t, stageConfig{Env: []string{"RECORD_FILTER=all"}})
	all := reconcile.New()
	created := s.tenant.Now().Add(-3 * time.Hour)
	for part := range slices.Chunk(records, 10) {
		created = created.Add(time.Second)
		c := s.tenant.Publish("Audit.General", created, part...)
		for _, r := range part {
			all.Add(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}, r, reconcile.Archived)
		}
	}
	i := instanceForTest(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var ticking sync.WaitGroup
	ticking.Go(func() { keepTicking(ctx, i) })
	settle(t, s, all.Wanted)
	stop()
	ticking.Wait()
	if err := i.close(); err != nil {
		t.Errorf("close host: %v", err)
	}
	return compare(t, s, all)
}

// TestOddRecords: what a document cannot hold as it stands comes back all the
// same.
func TestOddRecords(t *testing.T) {
	var n atomic.Int32
	odd := func(more string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"Id":"5e0c1a70-0000-4000-8000-%012x","CreationTime":"2026-03-11T09:10:11","RecordType":21%s}`, n.Add(1), more))
	}
	r := publishAndCompare(t, []json.RawMessage{
		odd(`,"UserId":"user017@harbor.example"`),
		odd(``),                             // no UserId
		odd(`,"UserId":null`),               // null is another partition
		odd(`,"UserId":""`),                 //
		odd(`,"UserId":17`),                 //
		odd(`,"UserId":"\ud83d\ude00 😀"`),   // the header must be plain ASCII
		odd(`,"UserId":"tab\tand\u007f"`),   // and no control byte may break it
		odd(`,"n":9007199254740993`),        // beyond a double
		odd(`,"n":1e400,"m":-0.10`),         // beyond its range
		odd(`,"o":{"x":1,"x":2}`),           // a name twice
		odd(`,"s":"half \ud83d of a pair"`), //
		odd(`,"ttl":1`),                     // would delete the record
		odd(`,"id":"mine","_etag":"x","archive":{"v":9}`),
		odd(`,"html":"<b>&\u2028"`),
		json.RawMessage(`{"Id":"not a GUID","CreationTime":"soon","UserId":"user018@harbor.example"}`),
		json.RawMessage(`{}`),
		json.RawMessage(`{ "Id" : "5E0C1A70-0000-4000-8000-0000000000FF" , "CreationTime" : "2026-03-11T23:30:00+02:00" , "UserId" : "USER019@HARBOR.EXAMPLE" }`),
	})
	if r.Stored != 17 {
		t.Errorf("%d documents, want 17", r.Stored)
	}
}

// TestRecordCorpus archives the records of the files *.jsonl in the folder that
// RECORD_CORPUS names, one JSON record a line, and expects each to come back
// equal as a value.
func TestRecordCorpus(t *testing.T) {
	dir := os.Getenv("RECORD_CORPUS")
	if dir == "" {
		t.Skip("RECORD_CORPUS is not set: set it to a folder of *.jsonl files, one audit record a line, to archive them and compare")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no *.jsonl in %s: %v", dir, err)
	}
	var records []json.RawMessage
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
				records = append(records, bytes.Clone(line))
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := publishAndCompare(t, records)
	t.Logf("%d records of %d files: %d archived, %d duplicates, %d conflicts", r.Records, len(files), r.Stored, r.Duplicates, r.Conflicts)
}
