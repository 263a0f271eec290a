package loss_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/google/go-cmp/cmp"

	"activityarchive/handler/activity"
	"activityarchive/handler/lab/tenant"
)

var listingRows = []row{
	{
		name: "D01", what: "the next page is looked up under a header name that net/http never uses",
		set: func(o *options) { o.knobs.PageSize = 200 },
		test: func(t *testing.T, s *system) {
			s.publishSingles(1000, dawn.Add(-100*time.Minute), 2*time.Second) // within one window
			given := s.namedPages(nil)
			s.online().mustTick()
			if n := len(*given); n != 4 {
				t.Errorf("the tenant named %d next pages, want 4", n)
			}
			s.followed(*given)
			if r := s.reconciled(nil); r.Contents != 1000 || r.Stored != 1000 {
				t.Errorf("%d contents, %d records stored, want 1000 of each", r.Contents, r.Stored)
			}
		},
	},
	{
		name: "D02", what: "only one name and spelling of the next page's header is read",
		set: func(o *options) { o.knobs.PageSize = 2 },
		test: func(t *testing.T, s *system) {
			p := s.online()
			for _, name := range []string{"NextPageUri", "NextPageUrl", "nextpageuri", "nextpageurl", "NEXTPAGEURI", "NEXTPAGEURL"} {
				s.tenant.Tune(func(k *tenant.Knobs) { k.NextPageHeader = name })
				s.publishSingles(3, time.Now().Add(-time.Minute), time.Second)
				p.mustTick()
				for _, f := range s.compare(nil).Faults { // now: the overlap would bring it with the next name
					t.Errorf("header %s: %s", name, f)
				}
				s.later(5 * time.Minute)
			}
		},
	},
	{
		name: "D03", what: "the page's token is cut out of its URL by a pattern",
		set: func(o *options) { o.knobs.PageSize = 1 },
		test: func(_ *testing.T, s *system) {
			shapes := []func(query string) string{
				func(q string) string { return q },
				func(q string) string { return strings.Replace(q, "nextPage=", "NEXTPAGE=", 1) },
				func(q string) string { return strings.Replace(q, "nextPage=", "nextpage=", 1) },
				func(q string) string { return strings.ReplaceAll(q, "$", "%24") },
				func(q string) string { return q + "&x=%24a$b%2fc+d~e&none&$top=" },
				func(q string) string {
					rest, token, _ := strings.Cut(q, "&nextPage=")
					return "nextPage=" + token + "&" + rest
				},
			}
			given := s.namedPages(func(n int, u *url.URL) { u.RawQuery = shapes[n%len(shapes)](u.RawQuery) })
			s.publishSingles(2*len(shapes), dawn.Add(-100*time.Minute), time.Second)
			s.online().mustTick()
			s.followed(*given)
			s.reconciled(nil)
		},
	},
	{
		name: "D04", what: "a page is decoded into the value of the page before it",
		set: func(o *options) {
			o.knobs.PageSize, o.knobs.EmptyPages = 3, true // 3, 0, 3, 0, 2
			n := 0
			o.knobs.ItemEdit = func(item map[string]any) {
				if n++; n > 3 { // what the first page has must not show through
					delete(item, "contentExpiration")
				}
			}
		},
		test: func(t *testing.T, s *system) {
			want := map[string]time.Time{}
			for i := range 8 {
				c := tenant.Content{Type: general, Created: dawn.Add(-100*time.Minute + time.Duration(i)*time.Second), Records: slices.Values(recs(i, 1))}
				c.Expires = c.Created.Add(9 * 24 * time.Hour)
				c = s.tenant.Add(c)
				want[c.ID] = c.Expires
				if i >= 3 {
					want[c.ID] = c.Created.Add(7 * 24 * time.Hour)
				}
			}
			given := s.namedPages(nil)
			s.online().mustTick()
			s.followed(*given)
			got := map[string]time.Time{}
			for _, e := range s.entries() {
				got[e.ContentID] = e.Expires.Time
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("expirations in the ledger (-want +got):\n%s", diff)
			}
			s.reconciled(nil)
		},
	},
	{
		name: "D05", what: "a listing ends with its first page, or with an empty one",
		set: func(o *options) { o.knobs.PageSize, o.knobs.EmptyPages, o.knobs.LastPageEmpty = 2, true, true },
		test: func(t *testing.T, s *system) {
			given := s.namedPages(nil)
			s.publishSingles(4, dawn.Add(-100*time.Minute), time.Second)
			s.online().mustTick()
			if n := len(*given); n != 3 { // 2, 0, 2, 0
				t.Errorf("the tenant named %d next pages, want 3", n)
			}
			s.followed(*given)
			s.reconciled(nil)
		},
	},
	{
		name: "D06", what: "the first answer's next page is taken again and again",
		set: func(o *options) { o.knobs.PageSize = 3 },
		test: func(t *testing.T, s *system) {
			given := s.namedPages(nil)
			s.publishSingles(9, dawn.Add(-100*time.Minute), time.Second)
			s.online().mustTick()
			if n := len(*given); n != 2 {
				t.Errorf("the tenant named %d next pages, want 2", n)
			}
			s.followed(*given)
			s.reconciled(nil)
		},
	},
	{
		name: "D07", what: "the header after NextPageUri is glued to it: page 2 fails for ever, and page 1 is ingested again and again",
		set: func(o *options) { o.knobs.PageSize = 3 },
		test: func(t *testing.T, s *system) {
			stuck := s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Path: "nextPage=", Status: 400, Code: "AF20031", Message: "The next page is not known."})
			s.tenant.Inject(tenant.Rule{Op: tenant.OpContent, Header: http.Header{
				"Nextpageuri-Note": {"https://collector.example/?a=b"}, "X-After": {"x: y"}, "Zone": {"harbor"},
			}})
			s.publishSingles(5, dawn.Add(-30*time.Minute), time.Second)
			p := s.online()
			for range 3 {
				if err := p.tick(); activity.KindOf(err) != activity.BadPage {
					t.Errorf("tick: %v, want a bad page", err)
				}
				s.markNotPast(dawn.Add(-30 * time.Minute))
				s.later(5 * time.Minute)
			}
			stuck.Remove()
			p.mustTick()
			for id, n := range s.fetches() {
				if n != 1 {
					t.Errorf("content %s was fetched %d times, want once", id, n)
				}
			}
			s.reconciled(nil)
		},
	},
	{
		name: "D08", what: "a page that names itself as the next is followed without end, or taken for the last",
		set: func(o *options) { o.knobs.PageSize = 2 },
		test: func(t *testing.T, s *system) {
			created := dawn.Add(-30 * time.Minute)
			s.publishSingles(5, created, time.Second)
			p := s.online()
			var second string
			loops := []struct {
				name string
				tune func(k *tenant.Knobs)
				asks int // in the window
			}{
				{"page 1 names itself", func(k *tenant.Knobs) { k.NextPageLoop = true }, 1},
				{"page 2 names itself", func(k *tenant.Knobs) {
					k.NextPageLoop = false
					k.NextPageEdit = func(u *url.URL) {
						if second == "" {
							second = u.RawQuery
						}
						u.RawQuery = second
					}
				}, 2},
			}
			for _, loop := range loops {
				s.tenant.Tune(loop.tune)
				before := len(s.windowAsks(created))
				if err := p.tick(); activity.KindOf(err) != activity.BadPage {
					t.Errorf("%s: tick: %v, want a bad page", loop.name, err)
				}
				if n := len(s.windowAsks(created)) - before; n != loop.asks {
					t.Errorf("%s: the window was asked for %d times, want %d", loop.name, n, loop.asks)
				}
				s.markNotPast(created)
				if _, states := s.counts(); states["stored"] != 2*loop.asks {
					t.Errorf("%s: contents by state: %v, want %d stored", loop.name, states, 2*loop.asks)
				}
				s.later(5 * time.Minute)
			}
			s.tenant.Tune(func(k *tenant.Knobs) { k.NextPageEdit = nil })
			p.mustTick()
			s.reconciled(nil)
		},
	},
	{
		name: "D09", what: "PublisherIdentifier is left out of next pages, or appended with a second question mark",
		set: func(o *options) { o.knobs.PageSize = 2 },
		test: func(t *testing.T, s *system) {
			p := s.online()
			given := s.namedPages(nil)
			for _, keeps := range []bool{false, true} {
				s.tenant.Tune(func(k *tenant.Knobs) { k.NextPageKeepsID = keeps })
				s.publishSingles(5, time.Now().Add(-30*time.Minute), time.Second)
				p.mustTick()
				s.later(5 * time.Minute)
			}
			s.followed(*given)
			for _, r := range s.tenant.Requests() {
				if r.Op == tenant.OpContent && (r.PublisherIdentifiers != 1 || strings.Contains(r.RawQuery, "?")) {
					t.Errorf("PublisherIdentifier stands %d times in %s", r.PublisherIdentifiers, r.RawQuery)
				}
			}
			s.reconciled(nil)
		},
	},
}

// online starts the product with HTTP/1.1 between it and the API, byte by byte:
// names of headers then pass net/http's own parser, as they do in the field.
func (s *system) online() *process {
	s.t.Helper()
	return s.onlineThrough(func(next http.RoundTripper) http.RoundTripper { return next })
}

// onlineThrough is online with something around the transport.
func (s *system) onlineThrough(around func(http.RoundTripper) http.RoundTripper) *process {
	s.t.Helper()
	p := s.process()
	line := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: s.tenant.Handler()}
	go func() { _ = server.Serve(line) }() // until Close
	transport := &http.Transport{DialTLSContext: line.dial, MaxIdleConnsPerHost: 32}
	s.t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
	})
	api := mortal{p, around(transport)}
	client, err := activity.New(activity.Config{
		Root: &url.URL{Scheme: "https", Host: "manage.office.com"}, Audience: tenant.DefaultAudience,
		TenantID: tenant.DefaultID, PublisherIdentifier: tenant.DefaultID,
		Credential:        func() (azcore.TokenCredential, error) { return credential{&http.Client{Transport: api}}, nil },
		RequestsPerMinute: s.opts.quota, Transport: api, Logger: slog.New(slog.NewJSONHandler(s.log, nil)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	p.timer.API, p.timer.Collector.API = client, client
	return p
}

// pipeListener is a listener without a socket. TLS is left out.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// publishSingles publishes n contents of one record each, step apart from first on.
func (s *system) publishSingles(n int, first time.Time, step time.Duration) {
	number := len(s.tenant.Contents())
	for i := range n {
		s.tenant.Publish(general, first.Add(time.Duration(i)*step), rec(number+i, ""))
	}
}

// namedPages returns where the query of every next page will stand that the tenant
// names from now on; edit, if set, edits the nth.
func (s *system) namedPages(edit func(n int, u *url.URL)) *[]string {
	var given []string
	s.tenant.Tune(func(k *tenant.Knobs) {
		k.NextPageEdit = func(u *url.URL) {
			if edit != nil {
				edit(len(given), u)
			}
			given = append(given, u.RawQuery)
		}
	})
	return &given
}

// followed checks that the given pages, and no others, were asked for, each once,
// in order, and byte for byte as given but for the PublisherIdentifier.
func (s *system) followed(given []string) {
	s.t.Helper()
	var want, got []string
	for _, query := range given {
		query = strings.TrimSuffix(query, "&publisherIdentifier="+tenant.DefaultID)
		want = append(want, query+"&PublisherIdentifier="+tenant.DefaultID)
	}
	for _, r := range s.tenant.Requests() {
		if r.Op == tenant.OpContent && strings.Contains(strings.ToLower(r.RawQuery), "nextpage=") {
			got = append(got, r.RawQuery)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("next pages (-named +asked for):\n%s", diff)
	}
}

// windowAsks returns the requests for pages of windows that hold at.
func (s *system) windowAsks(at time.Time) (list []tenant.Request) {
	for _, r := range s.tenant.Requests() {
		if from, to := windowOf(r); r.Op == tenant.OpContent && !at.Before(from) && at.Before(to) {
			list = append(list, r)
		}
	}
	return list
}

// windowOf is the window that a request asks for.
func windowOf(r tenant.Request) (from, to time.Time) {
	q, _ := url.ParseQuery(r.RawQuery)
	from, _ = time.Parse("2006-01-02T15:04:05", q.Get("startTime"))
	to, _ = time.Parse("2006-01-02T15:04:05", q.Get("endTime"))
	return from, to
}

// fetches counts the requests for each content.
func (s *system) fetches() map[string]int {
	times := map[string]int{}
	for _, r := range s.tenant.Requests() {
		if r.Op == tenant.OpAudit {
			times[r.ContentID]++
		}
	}
	return times
}
