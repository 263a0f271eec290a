// Package app puts the parts together: it makes one of each from the settings
// and serves them to the Functions host until the host is gone, or runs a command
// for whoever looks after the archive.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"golang.org/x/sync/errgroup"

	"activityarchive/handler/activity"
	"activityarchive/handler/archive"
	"activityarchive/handler/collect"
	"activityarchive/handler/cosmos"
	"activityarchive/handler/host"
	"activityarchive/handler/ledger"
	"activityarchive/handler/record"
	"activityarchive/handler/settings"
	"activityarchive/timer"
	"activityarchive/webhook"
)

const (
	// collectorShare is the collector's part of the tenant's quota. The rest is
	// for the processes that receive notifications, each of which fetches only
	// what it was told of.
	collectorShare = 0.98

	// commandShare is the part of a command that a person runs, beside the function:
	// a week of one content type is some 170 requests, and someone waits for them.
	// Should both need all they may take, the service's refusals slow them down.
	commandShare = 0.2

	// collectorParallel is the most contents that a tick collects at a time. Up to
	// there, how many there are follows from the quota, which lets their requests
	// leave one by one, and from how long each takes: 2,000 requests a minute at a
	// round trip of a second are some 40. Cosmos DB holds new ones back when it is
	// slower (archive.Writer.Ready).
	collectorParallel = 128

	// memoryLimit is where the garbage collector begins to work harder, unless
	// GOMEMLIMIT says otherwise. What the process keeps at any time is about half
	// of that; the rest is what a busy process would let pile up.
	memoryLimit = 80 << 20

	// webhookParallel is how many contents a notified process collects at a time.
	webhookParallel = 8
)

// Options is what the process is given.
type Options struct {
	Getenv  func(string) (string, bool) // has the shape of [os.LookupEnv]
	Stdout  io.Writer                   // log below Error
	Stderr  io.Writer                   // log from Error on
	Version string
}

// Serve runs the custom handler until ctx ends (nil) or the host is gone (an
// error). It listens before anything else. Broken settings do not end it: it
// then answers every tick with a failure that names them. A missing or taken
// port does.
func Serve(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, set := o.Getenv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryLimit)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return host.WatchParent(ctx, os.Getppid) }) // first: it must know the host before that can be gone
	port, _ := o.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT")
	listener, err := host.Listen(ctx, port)
	if err != nil {
		cancel()
		_ = g.Wait() // nothing but the end that was asked for
		return err
	}
	s, problems := settings.Load(o.Getenv)
	log := host.NewLogger(o.Stdout, o.Stderr, s.LogLevel)
	timeout, err := host.TickTimeout(host.AppRoot(o.Getenv), o.Getenv)
	if err != nil {
		log.Warn("functionTimeout cannot be read; ticks use the default", "reason", err.Error(), "tickTimeout", timeout.String())
	}
	a, err := build(s, problems, log)
	if err != nil {
		problems = append(problems, settings.Problem{Setting: "settings", What: "cannot be used", Remedy: err.Error()})
		a = broken(problems.All(), log)
	}
	if err := problems.Err(); err != nil {
		log.Error("settings need attention", "problems", texts(problems))
	}
	for _, note := range s.Notes {
		log.Info("settings", "note", note)
	}
	log.Info("listening", "version", o.Version, "contentTypes", s.ContentTypes, "webhook", s.WebhookAddress, "tickTimeout", timeout.String())

	server := host.Server{Webhook: a.webhook, Tick: a.tick, TickTimeout: timeout, Logger: log}
	g.Go(func() error { return host.Serve(ctx, listener, server.Handler(ctx), log) })
	g.Go(func() error {
		a.background(ctx)
		return nil
	})
	return g.Wait()
}

// functions is what the process serves.
type functions struct {
	webhook    http.Handler
	tick       func(context.Context, host.Invocation) (string, error)
	background func(context.Context) // runs beside them, until its context ends
}

// build makes the functions. It makes no request.
func build(s settings.Settings, problems settings.Problems, log *slog.Logger) (functions, error) {
	if wrong := problems.All(); len(wrong) > 0 {
		return broken(wrong, log), nil
	}
	filter, err := record.ParseFilter(s.RecordFilter)
	if err != nil {
		return functions{}, err
	}
	db, err := database(s)
	if err != nil {
		return functions{}, err
	}
	book, audits := ledger.New(db, s.CosmosStateContainer), archive.New(db, s.CosmosContainer)
	collector := func(share float64, parallel int) (*collect.Collector, error) {
		api, err := client(s, share, log)
		if err != nil {
			return nil, err
		}
		return &collect.Collector{
			API: api, Ledger: book, Archive: audits, Filter: filter, Logger: log,
			Parallel: parallel, Window: s.CatchUpWindow, Overlap: s.CatchUpOverlap, Start: s.CatchUpStart,
		}, nil
	}
	ticking, err := collector(collectorShare, collectorParallel)
	if err != nil {
		return functions{}, err
	}
	notified, err := collector(1-collectorShare, webhookParallel)
	if err != nil {
		return functions{}, err
	}

	t := &timer.Timer{
		API: ticking.API, DB: db, Ledger: book, Collector: ticking, Logger: log,
		ContentTypes: s.ContentTypes, Owner: rand.Text(),
		Touch: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Notes: texts(problems.Webhook()),
	}
	a := functions{
		tick:       func(ctx context.Context, inv host.Invocation) (string, error) { return t.Tick(ctx, inv.ID) },
		background: func(context.Context) {},
	}
	switch {
	case len(problems.Webhook()) > 0:
		a.webhook = unavailable(http.StatusServiceUnavailable, "the webhook's settings need attention, see the log")
	case s.WebhookAddress == "":
		a.webhook = unavailable(http.StatusNotFound, "this installation has no webhook")
	default:
		t.Webhook = &timer.Webhook{Address: s.WebhookAddress, AuthID: s.WebhookAuthID.Reveal(), Lifetime: s.WebhookLifetime}
		authIDs := []string{s.WebhookAuthID.Reveal()}
		if s.WebhookAuthIDPrevious.IsSet() {
			authIDs = append(authIDs, s.WebhookAuthIDPrevious.Reveal())
		}
		h := webhook.New(webhook.Config{
			AuthIDs: authIDs, TenantID: s.TenantID, ContentTypes: s.ContentTypes,
			API: notified.API, Ledger: book, Collector: notified, Logger: log,
		})
		a.webhook, a.background = h, h.Run
	}
	return a, nil
}

// database opens the account. It makes no request.
func database(s settings.Settings) (*cosmos.DB, error) {
	var credential azcore.TokenCredential
	if !s.CosmosKey.IsSet() {
		var err error
		if credential, err = s.CosmosCredential(nil); err != nil {
			return nil, err
		}
	}
	return cosmos.Open(cosmos.Config{
		Endpoint: s.CosmosEndpoint, Key: s.CosmosKey.Reveal(), Credential: credential, Database: s.CosmosDatabase,
	})
}

// client makes a client of the Management Activity API with a share of the
// tenant's quota.
func client(s settings.Settings, share float64, log *slog.Logger) (*activity.Client, error) {
	root, err := url.Parse(s.ManagementURL)
	if err != nil {
		return nil, errors.New("MANAGEMENT_API_URL is not a URL")
	}
	return activity.New(activity.Config{
		Root: root, Audience: s.ManagementAudience, TenantID: s.TenantID, PublisherIdentifier: s.PublisherIdentifier,
		Credential:        func() (azcore.TokenCredential, error) { return s.ManagementCredential(nil) },
		RequestsPerMinute: float64(s.RequestsPerMinute) * share,
		Logger:            log,
	})
}

// broken serves failures that name what is wrong with the settings, so that the
// platform's monitors turn red and the cause stands in their text.
func broken(problems settings.Problems, log *slog.Logger) functions {
	return functions{
		webhook: unavailable(http.StatusServiceUnavailable, "the settings need attention, see the log"),
		tick: func(_ context.Context, inv host.Invocation) (string, error) {
			log.Error("tick", "invocationId", inv.ID, "outcome", "failed", "problems", texts(problems))
			return "", fmt.Errorf("settings need attention:\n%w", problems)
		},
		background: func(context.Context) {},
	}
}

func unavailable(status int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) })
}

func texts(problems settings.Problems) []string {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	return lines
}
