// Package loss_test sends every known way to lose a record through the product:
// its own packages, over a simulated network and clock, between the simulated
// tenant and the enforcing Cosmos DB.
package loss_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/activity"
	"activityarchive/handler/archive"
	"activityarchive/handler/collect"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/lab/cosmosfake"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
	"activityarchive/timer"
	"activityarchive/webhook"
)

const (
	origin     = "https://manage.office.com" // the commercial root, as the client requires https; no request leaves the process
	address    = "https://collector.example/api/webhook"
	authID     = "synthetic-auth-id-0001"
	accountKey = "c3ludGhldGljIGFjY291bnQga2V5"
	general    = "Audit.General"
	tickTime   = 9 * time.Minute
)

// dawn is when every row begins.
var dawn = time.Date(2026, 3, 11, 9, 45, 0, 0, time.UTC)

// options are what a row may set before the system starts.
type options struct {
	types    []string
	filter   string
	webhook  bool
	lifetime time.Duration
	overlap  time.Duration
	start    time.Duration
	quota    float64
	knobs    tenant.Knobs
	paths    []string // partition key of the archive; nil: as recommended
	cached   bool     // tokens are kept while they live, as azidentity does
}

// system is a tenant, an account and the product between them.
type system struct {
	t       *testing.T
	tenant  *tenant.Tenant
	account *cosmosfake.Fake
	opts    options
	log     *logBuffer
	heard   *logBuffer   // what ticks tell the host
	said    *logBuffer   // what the webhook answers
	door    *door        // where the tenant's notifications arrive
	front   http.Handler // takes them, for the process that was started last; nil: that does itself
	procs   []*process
}

// run runs one row in a bubble of its own.
func run(t *testing.T, set func(*options), row func(t *testing.T, s *system)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(dawn)) // a bubble's clock begins in 2000
		s := newSystem(t, set)
		defer s.close()
		row(t, s)
	})
}

func newSystem(t *testing.T, set func(*options)) *system {
	t.Helper()
	o := options{types: []string{general}, filter: "all", overlap: 2 * time.Hour, start: 168 * time.Hour, quota: 2000}
	if set != nil {
		set(&o)
	}
	s := &system{t: t, opts: o, log: &logBuffer{}, heard: &logBuffer{}, said: &logBuffer{}}
	s.door = &door{said: s.said}
	s.tenant = tenant.New(tenant.Config{Origin: origin, Client: &http.Client{Transport: s.door}, Knobs: o.knobs, Seed: 1})
	var err error
	if s.account, err = cosmosfake.New(cosmosfake.Options{Key: accountKey}); err != nil {
		t.Fatal(err)
	}
	if o.paths != nil {
		if err := s.account.Provision("Audit", "Audits", o.paths...); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// close ends every process and checks what must hold after every row.
func (s *system) close() {
	for _, p := range s.procs {
		p.kill()
		<-p.done
	}
	synctest.Wait()
	if found := leaks(s.log.String()+s.heard.String()+s.said.String(), secrets()...); len(found) > 0 {
		s.t.Errorf("the log, or what ticks or the webhook say, holds the secrets %q", found)
	}
	var kept strings.Builder
	for _, d := range s.account.Documents("ArchiveState") {
		kept.WriteString(withoutData(d.Body))
	}
	if found := leaks(kept.String(), secrets()...); len(found) > 0 {
		s.t.Errorf("the ledger holds the secrets %q", found)
	}
	if v := s.tenant.Violations(); len(v) > 0 {
		s.t.Errorf("breaches of the API's rules: %s", strings.Join(v, "; "))
	}
}

// withoutData is a document of the ledger but for the text that a dead letter
// keeps: that is the service's.
func withoutData(document []byte) string {
	before, data, dead := bytes.Cut(document, []byte(`"data":"`))
	if !dead {
		return string(document)
	}
	_, after, _ := bytes.Cut(data, []byte(`"`))
	return string(before) + string(after)
}

// door leads notifications to the process that is up.
type door struct {
	said *logBuffer
	mu   sync.Mutex
	to   http.Handler
}

func (d *door) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	to := d.to
	d.mu.Unlock()
	return recorder{wire{to}, d.said}.RoundTrip(r)
}

// recorder is a transport that keeps what is answered.
type recorder struct {
	next http.RoundTripper
	to   *logBuffer
}

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	fmt.Fprintln(r.to, resp.Status, resp.Header, string(text), err)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp, nil
}

func (d *door) set(h http.Handler) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = h
}

// process is one run of the product, from start to SIGKILL.
type process struct {
	s      *system
	timer  *timer.Timer
	hook   *webhook.Handler
	ledger *ledger.Ledger
	cancel context.CancelFunc
	gone   <-chan struct{} // closed at the kill
	done   chan struct{}   // closed when its background has ended

	dead  atomic.Bool
	calls atomic.Int64 // requests so far, to the API and to Cosmos DB
	// die, if set, decides whether the process is killed at its nth request:
	// before it leaves, or after it was carried out and before the answer came.
	die func(n int64, r *http.Request) (before, after bool)
}

// errKilled is all that a killed process sees.
var errKilled = errors.New("the process was killed")

// mortal is a transport of a process.
type mortal struct {
	p    *process
	next http.RoundTripper
}

func (m mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.p.dead.Load() {
		return nil, errKilled
	}
	n := m.p.calls.Add(1)
	var before, after bool
	if m.p.die != nil {
		before, after = m.p.die(n, r)
	}
	if before {
		m.p.kill()
		return nil, errKilled
	}
	resp, err := m.next.RoundTrip(r)
	if after {
		m.p.kill()
	}
	if m.p.dead.Load() {
		if resp != nil {
			_ = resp.Body.Close()
		}
		return nil, errKilled
	}
	return resp, err
}

// kill ends the process as SIGKILL does: nothing it has under way has any
// further effect.
func (p *process) kill() {
	p.dead.Store(true)
	p.cancel()
}

// credential gets tokens from the tenant's own endpoint.
type credential struct{ client *http.Client }

func (c credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {tenant.DefaultAppID}, "client_secret": {tenant.DefaultAppSecret},
		"scope": {strings.Join(o.Scopes, " ")},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+"/"+tenant.DefaultID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return azcore.AccessToken{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.client.Do(req)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	defer resp.Body.Close()
	var token struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&token); err != nil || token.AccessToken == "" {
		return azcore.AccessToken{}, fmt.Errorf("no token: status %d, AADSTS7000215", resp.StatusCode)
	}
	return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: time.Now().Add(time.Duration(token.ExpiresIn) * time.Second)}, nil
}

// cached keeps a credential's token. It waits for no one while it gets one: a
// bubble's clock stands still while anyone waits for a mutex.
type cached struct {
	azcore.TokenCredential
	mu   sync.Mutex
	held azcore.AccessToken
}

func (c *cached) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	if time.Until(held.ExpiresOn) > 5*time.Minute {
		return held, nil
	}
	got, err := c.TokenCredential.GetToken(ctx, o)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held = got
	}
	return got, err
}

// process starts the product, with the settings of the row.
func (s *system) process() *process {
	s.t.Helper()
	must := func(err error) {
		if err != nil {
			s.t.Helper()
			s.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{s: s, cancel: cancel, gone: ctx.Done(), done: make(chan struct{})}
	log := slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	api := mortal{p, wire{s.tenant.Handler()}}
	root, err := url.Parse(origin)
	must(err)
	client := func(quota float64) *activity.Client {
		c, err := activity.New(activity.Config{
			Root: root, Audience: tenant.DefaultAudience, TenantID: tenant.DefaultID, PublisherIdentifier: tenant.DefaultID,
			Credential: func() (azcore.TokenCredential, error) {
				entra := credential{&http.Client{Transport: api}}
				if s.opts.cached {
					return &cached{TokenCredential: entra}, nil
				}
				return entra, nil
			},
			RequestsPerMinute: quota, Transport: api, Logger: log,
		})
		must(err)
		return c
	}
	db, err := cosmos.Open(cosmos.Config{
		Endpoint: "https://fake.documents.example/", Key: accountKey, Database: "Audit",
		Transport: &http.Client{Transport: mortal{p, s.account}},
	})
	must(err)
	filter, err := record.ParseFilter(s.opts.filter)
	must(err)
	p.ledger = ledger.New(db, "ArchiveState")
	audits := archive.New(db, "Audits")
	collector := func(quota float64, parallel int) *collect.Collector {
		return &collect.Collector{
			API: client(quota), Ledger: p.ledger, Archive: audits, Filter: filter, Logger: log,
			Parallel: parallel, Window: time.Hour, Overlap: s.opts.overlap, Start: s.opts.start,
		}
	}
	ticking, notified := collector(s.opts.quota*0.98, 16), collector(s.opts.quota*0.02, 8)
	p.timer = &timer.Timer{
		API: ticking.API, DB: db, Ledger: p.ledger, Collector: ticking, Logger: log,
		ContentTypes: s.opts.types, Owner: fmt.Sprintf("process %d", len(s.procs)),
		Touch: &http.Client{Transport: s.door},
	}
	close(p.done)
	if s.opts.webhook {
		p.timer.Webhook = &timer.Webhook{Address: address, AuthID: authID, Lifetime: s.opts.lifetime}
		p.hook = webhook.New(webhook.Config{
			AuthIDs: []string{authID}, TenantID: tenant.DefaultID, ContentTypes: s.opts.types,
			API: notified.API, Ledger: p.ledger, Collector: notified, Logger: log,
		})
		if s.front != nil {
			s.door.set(s.front)
		} else {
			s.door.set(p.hook)
		}
		p.done = make(chan struct{})
		go func() {
			defer close(p.done)
			p.hook.Run(ctx)
		}()
	}
	s.procs = append(s.procs, p)
	return p
}

// tick runs one tick of p.
func (p *process) tick() error { return p.tickWithin(tickTime) }

// tickWithin runs one tick of p under another deadline.
func (p *process) tickWithin(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // SIGKILL ends a tick too
		select {
		case <-stop:
		case <-p.gone:
			cancel()
		}
	}()
	sentence, err := p.timer.Tick(ctx, "00000000-0000-4000-8000-000000000001")
	fmt.Fprintln(p.s.heard, sentence, err)
	return err
}

// catchUp lists as a tick does, and nothing else.
func (p *process) catchUp(tally *collect.Tally) error {
	head, err := p.ledger.Head(p.s.t.Context(), general)
	if err != nil {
		return err
	}
	return p.timer.Collector.CatchUp(p.s.t.Context(), &head, tally)
}

// mustTick runs a tick that must succeed.
func (p *process) mustTick() {
	p.s.t.Helper()
	if err := p.tick(); err != nil {
		p.s.t.Errorf("tick: %v\n%s", err, p.s.log.tail())
	}
}

// later lets time pass and sends what notifications are due.
func (s *system) later(d time.Duration) {
	time.Sleep(d)
	s.tenant.Deliver(context.Background())
	synctest.Wait()
}

// ticks runs n ticks of p, five minutes apart.
func (p *process) ticks(n int) {
	p.s.t.Helper()
	for range n {
		p.mustTick()
		p.s.later(5 * time.Minute)
	}
}

// fate says what must become of a record; nil: it is archived.
type fate func(raw json.RawMessage) reconcile.Fate

// reconciled compares what the tenant published with what Cosmos DB holds, fails
// the test for every difference, and returns the report.
func (s *system) reconciled(of fate) reconcile.Report {
	s.t.Helper()
	report := s.compare(of)
	for _, f := range report.Faults {
		s.t.Errorf("%s", f)
	}
	s.listsIDs()
	if s.t.Failed() {
		s.t.Logf("log:\n%s", s.log.tail())
	}
	return report
}

// reconciledBut is reconciled where the named contents, each of them, are not
// stored and their records are missing, and nothing else is amiss.
func (s *system) reconciledBut(missing map[string]bool) {
	s.t.Helper()
	unfinished := map[string]bool{}
	for _, f := range s.compare(nil).Faults {
		switch {
		case missing[f.ContentID] && f.What == reconcile.Unfinished:
			unfinished[f.ContentID] = true
		case missing[f.ContentID] && f.What == reconcile.Missing:
		default:
			s.t.Errorf("%s", f)
		}
	}
	if diff := cmp.Diff(missing, unfinished); diff != "" {
		s.t.Errorf("contents that are not stored (-want +got):\n%s", diff)
	}
}

// compare is reconciled without a judgement.
func (s *system) compare(of fate) reconcile.Report {
	s.t.Helper()
	p := reconcile.New()
	for _, c := range s.tenant.Contents() {
		p.AddContent(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created})
	}
	for c, raw := range s.tenant.Records() {
		what := reconcile.Archived
		if of != nil {
			what = of(raw)
		}
		p.Add(reconcile.Content{Type: c.Type, ID: c.ID, Created: c.Created}, raw, what)
	}
	report, err := p.Check(s.documents("Audits"), s.documents("ArchiveState"))
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

func (s *system) documents(container string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for _, d := range s.account.Documents(container) {
			if !yield(d.Body, nil) {
				return
			}
		}
	}
}

// entries returns the ledger's entries.
func (s *system) entries() (list []ledger.Entry) {
	s.t.Helper()
	for _, d := range s.account.Documents("ArchiveState") {
		var e ledger.Entry
		if err := json.Unmarshal(d.Body, &e); err != nil {
			s.t.Fatal(err)
		}
		if e.Kind == "entry" {
			list = append(list, e)
		}
	}
	return list
}

// counts sums the ledger's counts and says how many entries are in which state.
func (s *system) counts() (sum ledger.Counts, states map[string]int) {
	s.t.Helper()
	states = map[string]int{}
	for _, e := range s.entries() {
		sum.Add(e.Counts)
		states[e.State]++
	}
	return sum, states
}

// logBuffer is the log of all processes.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tail is the end of the log.
func (l *logBuffer) tail() string {
	s := l.String()
	return s[max(0, len(s)-6000):]
}

// rec makes a record of Dataverse shape; more are further members, each with a
// leading comma.
func rec(n int, more string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"CreationTime":"%s","Id":"00000000-0000-4000-8000-%012d","Operation":"CrmDefaultActivity","OrganizationId":"%s",`+
		`"RecordType":21,"UserId":"user%03d@harbor.example","Workload":"CRM","Message":"Update","EntityName":"account"%s}`,
		time.Now().UTC().Truncate(time.Hour).Format("2006-01-02T15:04:05"), n, tenant.DefaultID, n%7, more))
}

// recs makes n records numbered from first.
func recs(first, n int) (list []json.RawMessage) {
	for i := range n {
		list = append(list, rec(first+i, ""))
	}
	return list
}
