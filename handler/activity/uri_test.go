package activity

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestCheckContentURI(t *testing.T) {
	c := newTestClient(t, service(func(*http.Request) (*http.Response, error) { return nil, errors.New("a request was made") }))
	change := func(from, to string) string { return strings.Replace(testContent, from, to, 1) }
	good := map[string]string{
		"as listed":          testContent,
		"host in upper case": change("api.harbor", "API.Harbor"),
		"scheme":             change("https", "HTTPS"),
		"default port":       change("harbor.example", "harbor.example:443"),
		"v1":                 change("v1.0", "v1"),
		"tenant":             change(testTenant, strings.ToUpper(testTenant)),
		"query":              testContent + "?publisherIdentifier=x&y=%2F",
		"escaped dollar":     change("$", "%24"),
		"escaped space":      change("$", "%20"),
		"one of 2015":        testFeed + "audit/301299007231$301299007231$0a1b2c3d$04",
	}
	for name, uri := range good {
		if err := c.CheckContentURI(uri); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]string{
		"empty":                       "",
		"http":                        change("https", "http"),
		"no scheme":                   strings.TrimPrefix(testContent, "https:"),
		"other host":                  change("api.harbor.example", "evil.example"),
		"host as prefix":              change("harbor.example", "harbor.example.evil.example"),
		"trailing dot":                change("harbor.example", "harbor.example."),
		"other port":                  change("harbor.example", "harbor.example:8443"),
		"user":                        change("https://", "https://user@"),
		"host as user":                change("harbor.example", "harbor.example@evil.example"),
		"host as user, escaped":       change("harbor.example", "harbor.example%40evil.example"),
		"backslash host":              change("harbor.example", `harbor.example\@evil.example`),
		"fragment":                    testContent + "#x",
		"empty fragment":              testContent + "#",
		"host by fragment":            change("api.harbor.example/", "evil.example#api.harbor.example/"),
		"opaque":                      change("https://", "https:"),
		"other tenant":                change(testTenant, testPublisher),
		"other version":               change("v1.0", "v2"),
		"other operation":             change("audit/", "subscriptions/"),
		"no id":                       testFeed + "audit/",
		"no id segment":               testFeed + "audit",
		"more segments":               testContent + "/x",
		"trailing slash":              testContent + "/",
		"double slash":                change("/activity", "//activity"),
		"leading slash":               change("/api", "//api"),
		"dot dot":                     testFeed + "audit/..",
		"dot dot parameter":           testFeed + "audit/..;",
		"dot":                         testFeed + "audit/.",
		"way up":                      testFeed + "audit/../subscriptions",
		"escaped dots":                testFeed + "audit/%2e%2E",
		"half escaped dots":           testFeed + "audit/.%2e",
		"twice escaped dots":          testFeed + "audit/%252e%252e",
		"escaped slash":               change("$", "%2F"),
		"twice escaped slash":         change("$", "%252f"),
		"escaped backslash":           change("$", "%5c"),
		"backslash":                   change("$", `\`),
		"needs an escape":             change("$", "|"),
		"escaped question mark":       change("$", "%3f"),
		"escaped hash":                change("$", "%23"),
		"escaped null":                change("$", "%00"),
		"escaped line end":            change("$", "%0d%0a"),
		"overlong slash":              change("$", "%c0%af"),
		"full width slash":            change("$", "%ef%bc%8f"),
		"broken escape":               change("$", "%zz"),
		"line end":                    change("$", "\r\n"),
		"space":                       testContent + " ",
		"letter of a segment escaped": change("audit/", "%61udit/"),
		"not ASCII":                   change("api.harbor", "аpi.harbor"),
		"too long":                    testContent + "?" + strings.Repeat("x", maxURI),
	}
	for name, uri := range bad {
		err := c.CheckContentURI(uri)
		if err == nil {
			t.Errorf("%s: accepted %q", name, uri)
			continue
		}
		wantKind(t, err, Untrusted)
	}
}

func TestRootMayNameAPort(t *testing.T) {
	c := newTestClient(t, nil, func(cfg *Config) { cfg.Root = &url.URL{Scheme: "https", Host: "127.0.0.1:4711"} })
	for host, ok := range map[string]bool{"127.0.0.1:4711": true, "127.0.0.1": false, "127.0.0.1:4712": false, "localhost:4711": false} {
		if err := c.CheckContentURI(strings.Replace(testContent, "api.harbor.example", host, 1)); (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestWithPublisher(t *testing.T) {
	c := newTestClient(t, nil)
	const mine = "PublisherIdentifier=" + testPublisher
	for in, want := range map[string]string{
		"https://h/a$b":                                        "https://h/a$b?" + mine,
		"https://h/a$b?":                                       "https://h/a$b?" + mine,
		"https://h/a?x=1$%2f%2F+&&y":                           "https://h/a?x=1$%2f%2F+&y&" + mine,
		"https://h/a?" + mine:                                  "https://h/a?" + mine,
		"https://h/a?publisheridentifier=other&x=1":            "https://h/a?x=1&" + mine,
		"https://h/a?PUBLISHER%49dentifier=&x=?&" + mine:       "https://h/a?x=?&" + mine,
		"https://h/a?xPublisherIdentifier=1&broken%zz=1":       "https://h/a?xPublisherIdentifier=1&broken%zz=1&" + mine,
		"https://h/a?PublisherIdentifier&PublisherIdentifier=": "https://h/a?" + mine,
	} {
		if got := c.withPublisher(in); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func FuzzCheckContentURI(f *testing.F) {
	f.Add(testContent)
	f.Add(testContent + "?publisherIdentifier=x")
	f.Add(strings.Replace(testContent, "$", "%24", 1))
	f.Add(testFeed + "audit/%2e%2e")
	f.Add("https://api.harbor.example@evil.example/" + strings.TrimPrefix(testContent, testRoot+"/"))
	c := newTestClient(f, nil)
	f.Fuzz(func(t *testing.T, uri string) {
		if c.CheckContentURI(uri) == nil {
			checkSent(t, c, uri, "audit/")
		}
	})
}

func FuzzCheckNextPage(f *testing.F) {
	f.Add(testFeed + "subscriptions/content?contentType=Audit.General&nextPage=a$b%2B")
	f.Add(testFeed + "subscriptions/content?PublisherIdentifier=1&publisheridentifier=2")
	f.Add(testFeed + "subscriptions/../content?x")
	c := newTestClient(f, nil)
	f.Fuzz(func(t *testing.T, uri string) {
		if c.checkNextPage(uri, general) != nil {
			return
		}
		u := checkSent(t, c, uri, "subscriptions/content")
		for name, values := range u.Query() {
			if strings.EqualFold(name, "contentType") && !strings.EqualFold(values[0], general) {
				t.Errorf("%q lists another contentType", uri)
			}
		}
	})
}

// checkSent builds the request for an accepted uri as the client would, and
// looks at where it goes.
func checkSent(t *testing.T, c *Client, uri, under string) *url.URL {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, c.withPublisher(uri), nil)
	if err != nil {
		t.Fatalf("accepted %q, which makes no request: %v", uri, err)
	}
	u := req.URL
	if u.Scheme != "https" || u.User != nil || strings.TrimSuffix(strings.ToLower(u.Host), ":443") != "api.harbor.example" || !strings.EqualFold(req.Host, u.Host) {
		t.Errorf("%q goes to %s://%s", uri, u.Scheme, u.Host)
	}
	// Whatever a server unescapes, it stays under the tenant's path.
	for p, previous := u.EscapedPath(), ""; p != previous; {
		inside := strings.Replace(strings.ToLower(path.Clean(strings.ReplaceAll(p, `\`, "/"))), "/api/v1/", "/api/v1.0/", 1)
		if !strings.HasPrefix(inside, "/api/v1.0/"+testTenant+"/activity/feed/"+under) || strings.Count(inside, "/") != 7 {
			t.Errorf("%q asks for %q", uri, p)
		}
		previous = p
		if next, err := url.PathUnescape(p); err == nil {
			p = next
		}
	}
	sent, _, _ := strings.Cut(u.RequestURI(), "?")
	if !strings.Contains(uri, sent) {
		t.Errorf("%q is sent as %q", uri, sent)
	}
	count := 0
	for param := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(param, "=")
		if n, err := url.QueryUnescape(name); err == nil && strings.EqualFold(n, "PublisherIdentifier") {
			count++
		}
	}
	if count != 1 || !strings.HasSuffix(u.RawQuery, "PublisherIdentifier="+testPublisher) {
		t.Errorf("%q is sent with query %q", uri, u.RawQuery)
	}
	return u
}

// Whatever a page names as the next one, the token goes nowhere but to the
// listing of this tenant.
func FuzzNextPage(f *testing.F) {
	f.Add("NextPageUri", testFeed+"subscriptions/content?contentType=Audit.General&nextPage=2")
	f.Add("NextPageUrl", testFeed+"subscriptions/content?nextPage=2&PublisherIdentifier=x")
	f.Add("NextPageUri", "//evil.example/api/v1.0/"+testTenant+"/activity/feed/subscriptions/content")
	f.Add("Location", "https://evil.example/")
	f.Fuzz(func(t *testing.T, header, next string) {
		pages := 0
		var c *Client
		c = newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
			checkSent(t, c, r.URL.String(), "subscriptions/content")
			if got := r.URL.Query()[publisherIdentifier]; len(got) != 1 || got[0] != testPublisher {
				t.Errorf("%s %q: the publisher is %q", header, next, got)
			}
			resp := answer(http.StatusOK, "[]")
			if pages++; pages == 1 {
				resp.Header.Set(header, next)
			}
			return resp, nil
		}))
		err := c.List(t.Context(), general, windowFrom, windowTo, func([]Content) error { return nil })
		named := next != "" && (strings.EqualFold(header, "NextPageUri") || strings.EqualFold(header, "NextPageUrl"))
		if named && err == nil && pages != 2 || !named && (err != nil || pages != 1) {
			t.Errorf("%s %q: %d pages, then %v", header, next, pages, err)
		}
	})
}
