package activity

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func TestRetriesPassingFailures(t *testing.T) {
	failures := map[string]func() (*http.Response, error){
		"500":            func() (*http.Response, error) { return answer(500, ""), nil },
		"408":            func() (*http.Response, error) { return answer(408, ""), nil },
		"503, HTML":      func() (*http.Response, error) { return answer(503, "<html>"), nil },
		"AF50000":        func() (*http.Response, error) { return answer(500, envelope("AF50000")), nil },
		"AF429 with 403": func() (*http.Response, error) { return answer(403, envelope("AF429")), nil },
		"429":            func() (*http.Response, error) { return answer(429, ""), nil },
		"reset":          func() (*http.Response, error) { return nil, errors.New("connection reset by peer") },
	}
	for name, failure := range failures {
		for broken := 1; broken <= maxRetries+1; broken++ {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var calls int
					c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
						if calls++; calls <= broken {
							return failure()
						}
						return answer(200, items(0, 5)), nil
					}))
					begin := time.Now()
					got, err := listAll(t, c)
					var least time.Duration
					for n := 1; n <= min(broken, maxRetries); n++ {
						least += backoffFirst << (n - 1) / 2
					}
					if waited := time.Since(begin); waited < least || waited > 2*least+time.Second {
						t.Errorf("waited %v, want %v to twice that", waited, least)
					}
					if broken > maxRetries {
						if calls != maxRetries+1 || len(got) != 0 || err == nil {
							t.Errorf("%d requests, %v", calls, err)
						}
						return
					}
					if err != nil || len(got) != 5 || calls != broken+1 {
						t.Errorf("%d contents after %d requests, %v; want 5 after %d", len(got), calls, err, broken+1)
					}
				})
			})
		}
	}
}

func TestNoRetryOfDefiniteAnswers(t *testing.T) {
	for _, body := range []string{envelope("AF10001"), envelope("AF20022"), envelope("AF20030"), envelope("AF20051"), envelope("AF20031")} {
		var calls atomic.Int64
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
			calls.Add(1)
			return answer(400, body), nil
		}))
		if _, err := c.Open(t.Context(), testContent); err == nil || calls.Load() != 1 {
			t.Errorf("%s: %v after %d requests, want 1", body, err, calls.Load())
		}
	}
}

func TestRetryAfterIsHonouredAndCapped(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		status       int
		want         time.Duration
	}{
		{"seconds", "90", 429, 90 * time.Second},
		{"date", "Wed, 11 Mar 2026 09:01:40 GMT", 503, 100 * time.Second},
		{"capped", "86400", 403, maxRetryAfter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := ""
				if tt.status == 403 {
					body = envelope("AF429")
				}
				c := newTestClient(t, inTurn(
					always(tt.status, body, "Retry-After: "+tt.header, "Date: Wed, 11 Mar 2026 09:00:00 GMT"),
					always(200, items(0, 1))))
				c.wire.clock.offset.Store(int64(time.Until(windowFrom)))
				begin := time.Now()
				if _, err := listAll(t, c); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(begin); got < tt.want || got > tt.want+time.Second {
					t.Errorf("waited %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestRetryNeverOutlivesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls int
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
			calls++
			return answer(403, envelope("AF429"), "Retry-After: 60"), nil
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 59*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := c.Subscriptions(ctx)
		if f := wantKind(t, err, Throttled); f.RetryAfter != time.Minute || f.Code != "AF429" {
			t.Errorf("fault %+v", f)
		}
		// The pause holds for every caller, and this one cannot sit it out.
		_, err = c.Open(ctx, testContent)
		if f := wantKind(t, err, Throttled); f.RetryAfter != time.Minute || !strings.HasPrefix(f.Error(), "open content: ") {
			t.Errorf("fault %v", f)
		}
		if waited := time.Since(begin); waited > time.Second || calls != 1 {
			t.Errorf("waited %v for %d requests", waited, calls)
		}
	})
}

func TestEndOfContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("host is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) { return answer(500, ""), nil }))
		begin := time.Now()
		time.AfterFunc(300*time.Millisecond, func() { cancel(stop) })
		_, err := c.Subscriptions(ctx)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, stop) {
			t.Errorf("error %v", err)
		}
		if _, ok := errors.AsType[*Fault](err); ok {
			t.Errorf("the context's end became a Fault: %v", err)
		}
		if got := time.Since(begin); got != 300*time.Millisecond {
			t.Errorf("waited %v", got)
		}
	})
}

func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	const bare = `{"Message":"Authorization has been denied for this request."}`
	var made issuer
	first := "Bearer " + made.token(1)
	arrived := make(chan struct{}, 32)
	all := make(chan struct{})
	var refusals atomic.Int64
	c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Authorization") == first {
			refusals.Add(1)
			arrived <- struct{}{}
			<-all // all callers hold the first token before one is refused
			return answer(401, bare), nil
		}
		return answer(200, "[]"), nil
	}), func(cfg *Config) { cfg.Credential = made.credential })
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := c.Subscriptions(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range 32 {
		<-arrived
	}
	close(all)
	wg.Wait()
	if made.made.Load() != 2 || refusals.Load() != 32 {
		t.Errorf("%d credentials after %d refusals, want 2 after 32", made.made.Load(), refusals.Load())
	}
}

func TestTokenRefusedTwiceIsDenied(t *testing.T) {
	made := issuer{claim: map[string]any{"aud": "https://other.example", "roles": []string{"ServiceHealth.Read"}}}
	var calls atomic.Int64
	c := newTestClient(t, service(func(*http.Request) (*http.Response, error) {
		calls.Add(1)
		return answer(401, `{"Message":"Authorization has been denied for this request."}`), nil
	}), func(cfg *Config) { cfg.Credential = made.credential })
	_, err := c.Start(t.Context(), general, nil)
	f := wantKind(t, err, Denied)
	for _, want := range []string{"https://other.example", testTenant, "ServiceHealth.Read", "ActivityFeed.Read is missing", "MANAGEMENT_API_URL"} {
		if !strings.Contains(f.Error(), want) {
			t.Errorf("error does not name %q: %v", want, f)
		}
	}
	if calls.Load() != 2 || made.made.Load() != 2 {
		t.Errorf("%d requests, %d credentials, want 2 and 2", calls.Load(), made.made.Load())
	}
}

func TestMissingPermissionRenewsAnOldToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := issuer{claim: map[string]any{"roles": nil}}
		c := newTestClient(t, inTurn(always(401, envelope("AF10001"))), func(cfg *Config) { cfg.Credential = made.credential })
		for range 3 {
			_, err := c.Subscriptions(t.Context())
			wantKind(t, err, Denied)
		}
		if got := made.made.Load(); got != 1 {
			t.Errorf("%d credentials at once, want 1", got)
		}
		time.Sleep(roleDelay)
		for range 3 {
			_, err := c.Subscriptions(t.Context())
			wantKind(t, err, Denied)
		}
		if got := made.made.Load(); got != 2 {
			t.Errorf("%d credentials later, want 2", got)
		}
	})
}

func TestCredentialFailures(t *testing.T) {
	refused := func(status int, body string) error {
		return &azidentity.AuthenticationFailedError{RawResponse: &http.Response{
			StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body)),
		}}
	}
	for _, tt := range []struct {
		name string
		err  error
		want Kind
		text string
	}{
		{"wrong secret", refused(401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"}`), Denied, "AADSTS7000215: Invalid client secret provided.; the client secret is wrong"},
		{"unknown tenant", refused(400, `{"error":"invalid_request","error_description":"AADSTS90002: Tenant not found."}`), Denied, "AZURE_TENANT_ID"},
		{"other refusal", refused(400, `{"error":"invalid_request"}`), Denied, "check the credential's settings"},
		{"busy", refused(429, ""), Transient, "status 429"},
		{"down", refused(503, ""), Transient, "status 503"},
		{"no network", errors.New("dial tcp: no route to host"), Transient, "no route to host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestClient(t, nil, func(cfg *Config) {
				cfg.Credential = func() (azcore.TokenCredential, error) { return broken{tt.err}, nil }
			})
			_, err := c.Subscriptions(t.Context())
			f := wantKind(t, err, tt.want)
			if !strings.Contains(f.Error(), tt.text) || strings.ContainsAny(f.Error(), "\r\n") {
				t.Errorf("text %q does not hold %q", f, tt.text)
			}
			if !errors.Is(err, tt.err) {
				t.Error("the cause is lost")
			}
		})
	}
	c := newTestClient(t, nil, func(cfg *Config) {
		cfg.Credential = func() (azcore.TokenCredential, error) { return nil, errors.New("no such file") }
	})
	_, err := c.Subscriptions(t.Context())
	wantKind(t, err, Denied)
}

func TestCredentialThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t, nil, func(cfg *Config) {
			cfg.Credential = func() (azcore.TokenCredential, error) { return hanging{}, nil }
		})
		begin := time.Now()
		_, err := c.Subscriptions(t.Context())
		wantKind(t, err, Transient)
		if got := time.Since(begin); got != tokenTimeout {
			t.Errorf("waited %v, want %v", got, tokenTimeout)
		}
	})
}

func TestAppID(t *testing.T) {
	for _, tt := range []struct {
		name  string
		claim map[string]any
		want  string
	}{
		{"version 1", nil, testApp},
		{"version 2", map[string]any{"appid": nil, "azp": "app-2", "aud": []string{"a", "b"}}, "app-2"},
		{"tenant in upper case", map[string]any{"tid": strings.ToUpper(testTenant)}, testApp},
		{"another tenant", map[string]any{"tid": testPublisher}, ""},
		{"no tenant", map[string]any{"tid": nil}, ""},
		{"no application", map[string]any{"appid": nil}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			made := issuer{claim: tt.claim}
			c := newTestClient(t, nil, func(cfg *Config) { cfg.Credential = made.credential })
			got, err := c.AppID(t.Context())
			if tt.want == "" {
				wantKind(t, err, Denied)
			} else if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	for _, secret := range []string{"opaque", "a.b.c", "a.!!.c", "...."} {
		if _, err := readClaims(secret); err == nil {
			t.Errorf("claims read from %q", secret)
		}
	}
}

// trickle is a body that gives one byte after each wait.
type trickle struct {
	ctx   context.Context
	waits []time.Duration
}

func (b *trickle) Read(p []byte) (int, error) {
	if len(b.waits) == 0 {
		return 0, io.EOF
	}
	timer := time.NewTimer(b.waits[0])
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	b.waits = b.waits[1:]
	return copy(p, "["), nil
}

func (b *trickle) Close() error { return nil }

func TestWatchdog(t *testing.T) {
	flowing := func(r *http.Request, waits ...time.Duration) *http.Response {
		resp := answer(200, "")
		resp.Body = &trickle{r.Context(), waits}
		return resp
	}
	t.Run("a slow body may take its time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				return flowing(r, slices.Repeat([]time.Duration{bodyIdle - time.Second}, 100)...), nil
			}))
			body, err := c.Open(t.Context(), testContent)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // a slow reader is none of its concern
			got, err := io.ReadAll(body)
			if err != nil || len(got) != 100 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			_ = body.Close()
		})
	})
	t.Run("a body that stops is given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) { return flowing(r, 0, bodyIdle+time.Second), nil }))
			body, err := c.Open(t.Context(), testContent)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, err = io.ReadAll(body)
			if f := wantKind(t, err, Transient); !errors.Is(f, errIdle) {
				t.Errorf("error %v", err)
			}
			if got := time.Since(begin); got != bodyIdle {
				t.Errorf("waited %v, want %v", got, bodyIdle)
			}
			_ = body.Close()
		})
	})
	t.Run("the context ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) { return flowing(r, 0, time.Hour), nil }))
			body, err := c.Open(ctx, testContent)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(body)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			_ = body.Close()
		})
	})
	t.Run("an error's body that stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newTestClient(t, service(func(r *http.Request) (*http.Response, error) {
				resp := flowing(r, time.Hour)
				resp.StatusCode = 404
				return resp, nil
			}))
			_, err := c.Open(t.Context(), testContent)
			wantKind(t, err, Gone)
		})
	})
}

func TestNowFollowsTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var header []string
		status := 200
		c := newTestClient(t, service(func(*http.Request) (*http.Response, error) { return answer(status, "[]", header...), nil }))
		ask := func(h ...string) time.Duration {
			header = h
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = c.Subscriptions(ctx)
			return time.Until(c.Now()).Round(time.Millisecond) // the limiter takes nanoseconds
		}
		date := func(ahead time.Duration) string {
			return "Date: " + time.Now().Add(ahead).UTC().Format(http.TimeFormat)
		}
		const half = time.Second / 2
		for i, tt := range []struct {
			status int
			header []string
			want   time.Duration
		}{
			{200, nil, 0},
			{200, []string{date(time.Hour)}, time.Hour + half},
			{200, []string{date(time.Hour - time.Second)}, time.Hour + half}, // holds still
			{200, nil, time.Hour + half},
			{200, []string{"Date: soon"}, time.Hour + half},
			{502, []string{date(-time.Hour)}, time.Hour + half},
			{200, []string{date(-time.Hour), "Age: 7200"}, time.Hour + half},
			{400, []string{date(-8 * 24 * time.Hour)}, time.Hour + half}, // a leap: once is no proof
			{200, []string{date(time.Hour)}, time.Hour + half},
			{200, []string{date(-8 * 24 * time.Hour)}, time.Hour + half},
			{200, []string{date(3 * 24 * time.Hour)}, time.Hour + half}, // two that differ neither
			{400, []string{date(-8 * 24 * time.Hour)}, time.Hour + half},
			{400, []string{date(-8 * 24 * time.Hour)}, -8*24*time.Hour + half},
			{200, []string{date(0)}, -8*24*time.Hour + half},
			{200, []string{date(0)}, 0},
			{200, []string{date(10 * time.Minute)}, 10*time.Minute + half}, // as far as clocks drift
		} {
			status = tt.status
			if got := ask(tt.header...); got != tt.want {
				t.Errorf("step %d: offset %v, want %v", i, got, tt.want)
			}
		}
	})
}

// serve starts a TLS server that speaks HTTP/2 and returns a client of it with
// the default transport.
func serve(t *testing.T, h http.Handler) (*Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	root, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := defaultTransport()
	transport.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := newTestClient(t, transport, func(cfg *Config) { cfg.Root = root })
	t.Cleanup(c.Close)
	return c, s
}

func TestOverTheNetwork(t *testing.T) {
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(z, "["+strings.Repeat(`{"Id":"1"},`, 50_000)+"{}]")
	_ = z.Close()
	var mu sync.Mutex
	conns := make(map[string]bool)
	c, s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		conns[r.RemoteAddr] = true
		mu.Unlock()
		switch {
		case r.ProtoMajor != 2:
			t.Errorf("request over %s", r.Proto)
		case strings.HasSuffix(r.URL.Path, "/gone"):
			http.Error(w, envelope("AF20051"), 400)
		case strings.HasSuffix(r.URL.Path, "/broken"):
			panic(http.ErrAbortHandler)
		case strings.HasSuffix(r.URL.Path, "/cut"):
			_, _ = w.Write(compressed.Bytes()[:compressed.Len()/2])
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(compressed.Bytes())
		}
	}))
	base := s.URL + "/api/v1.0/" + testTenant + "/activity/feed/audit/"
	for range 10 {
		body, err := c.Open(t.Context(), base+"a$b")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, body)
		if err != nil || n != 550_004 {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = body.Close()
		_, err = c.Open(t.Context(), base+"gone")
		wantKind(t, err, Gone)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = c.Open(ctx, base+"broken")
		cancel()
		wantKind(t, err, Transient)
	}
	if len(conns) != 1 {
		t.Errorf("%d connections, want 1: failures drop the pool", len(conns))
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	var other atomic.Int64
	_, stranger := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other.Add(1) }))
	var calls atomic.Int64
	c, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		target := stranger.URL
		if strings.HasSuffix(r.URL.Path, "/list") {
			target = "/elsewhere"
		}
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	}))
	_, err := c.Subscriptions(t.Context())
	wantKind(t, err, BadRequest)
	_, err = c.Start(t.Context(), general, nil)
	wantKind(t, err, BadRequest)
	if calls.Load() != 2 || other.Load() != 0 {
		t.Errorf("%d requests here, %d there; want 2 and 0", calls.Load(), other.Load())
	}
}

func TestOldTLSAndStrangersAreRefused(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10} // what is to be refused
	s.StartTLS()
	defer s.Close()
	root, _ := url.Parse(s.URL)
	transport := defaultTransport()
	transport.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := newTestClient(t, transport, func(cfg *Config) { cfg.Root = root })
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Subscriptions(ctx)
	wantKind(t, err, Transient)
	if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("error %v", err)
	}

	modern := httptest.NewUnstartedServer(http.NotFoundHandler())
	modern.Config.ErrorLog = log.New(io.Discard, "", 0)
	modern.StartTLS()
	defer modern.Close()
	root, _ = url.Parse(modern.URL)
	stranger := newTestClient(t, nil, func(cfg *Config) { cfg.Root, cfg.Transport = root, nil })
	defer stranger.Close()
	_, err = stranger.Subscriptions(t.Context()) // not retried: no deadline bounds it
	if f := wantKind(t, err, Transient); !strings.Contains(f.Error(), "SSL_CERT_FILE") {
		t.Errorf("error %v", err)
	}
}

func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	var logged bytes.Buffer
	c := newTestClient(t, nil, func(cfg *Config) {
		cfg.Root, cfg.Transport = &url.URL{Scheme: "https", Host: address}, nil
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = c.Subscriptions(ctx)
	if f := wantKind(t, err, Transient); f.Status != 0 || strings.Contains(f.Error(), testPublisher) {
		t.Errorf("fault %v", f)
	}
	if logged.Len() != 0 {
		t.Errorf("logged %s", logged.String())
	}
}
