package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"activityarchive/handler/lab/ca"
	"activityarchive/handler/lab/emulator"
	"activityarchive/handler/lab/reconcile"
	"activityarchive/handler/lab/tenant"
)

// Names of the database and its containers: the product's defaults.
const (
	database     = "Audit"
	archiveName  = "Audits"
	ledgerName   = "ArchiveState"
	startTimeout = 30 * time.Second // for a child to be ready, the machine's load included
)

// stageConfig says what to put on its feet.
type stageConfig struct {
	Root    string        // repository: host.json, the functions and the built handler
	Handler string        // the built handler, if it lies elsewhere
	Tenant  tenant.Config // Origin, Client and AppSecret are filled in
	Env     []string      // NAME=value, over the settings that the stage makes
	Log     io.Writer     // what the children have to say; nil: nobody hears it

	// Watch, if not nil, is called with every request that reaches the tenant,
	// before it is answered.
	Watch func(*http.Request)
}

// stage is the world around the handler: authority, emulator, tenant, front
// end and, on demand, hosts.
type stage struct {
	cfg      stageConfig
	app      string // folder as deployed
	dir      string // holds everything that needs a file
	settings []string
	tenant   *tenant.Tenant
	origin   string // of the tenant
	front    *front
	account  *emulator.Client
	cosmos   event // the emulator's address and key

	emulator *child
	server   *http.Server
	client   *http.Client
	end      context.CancelFunc
	tasks    sync.WaitGroup

	mu sync.Mutex // guards Log
}

// raise puts a stage on its feet. The caller closes it.
func raise(ctx context.Context, cfg stageConfig) (*stage, error) {
	dir, err := os.MkdirTemp("", "activity-archive-lab")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // until close, so that things end in order
	s := &stage{cfg: cfg, dir: dir, app: filepath.Join(dir, "app"), end: end}
	if err := s.raise(ctx, life); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stage) raise(ctx, life context.Context) error {
	if err := deploy(s.cfg.Root, s.cfg.Handler, s.app); err != nil {
		return err
	}
	authority, err := ca.New(s.dir)
	if err != nil {
		return err
	}
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: authority.ClientTLS(), ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}}

	s.emulator, err = startChild(s, s.environment(nil), "emulator", "--cert="+authority.ServerFile, "--key="+authority.ServerKeyFile)
	if err != nil {
		return err
	}
	readyCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.cosmos, err = s.emulator.ready(readyCtx); err != nil {
		return err
	}
	if s.account, err = emulator.NewClient(s.cosmos.URL, s.cosmos.Key, s.client); err != nil {
		return err
	}

	if s.front, err = newFront(life, authority.ServerTLS()); err != nil {
		return fmt.Errorf("start front end: %w", err)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start tenant: %w", err)
	}
	s.origin = "https://" + ln.Addr().String()
	s.cfg.Tenant.Origin, s.cfg.Tenant.Client, s.cfg.Tenant.AppSecret = s.origin, s.client, rand.Text()
	s.tenant = tenant.New(s.cfg.Tenant)
	handler := s.tenant.Handler()
	if watch := s.cfg.Watch; watch != nil {
		next := handler
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			watch(r)
			next.ServeHTTP(w, r)
		})
	}
	s.server = &http.Server{Handler: handler, TLSConfig: authority.ServerTLS(), ReadHeaderTimeout: 10 * time.Second}
	s.tasks.Go(func() { _ = s.server.ServeTLS(ln, "", "") }) // ends with close
	s.tasks.Go(func() { _ = s.tenant.Run(life) })            // always nil

	s.settings = []string{
		"AZURE_TENANT_ID=" + orDefault(s.cfg.Tenant.ID, tenant.DefaultID),
		"AZURE_CLIENT_ID=" + orDefault(s.cfg.Tenant.AppID, tenant.DefaultAppID),
		"AZURE_CLIENT_SECRET=" + s.cfg.Tenant.AppSecret,
		"AZURE_AUTHORITY_HOST=" + s.origin,
		"MANAGEMENT_API_URL=" + s.origin,
		"COSMOS_ENDPOINT=" + s.cosmos.URL,
		"COSMOS_KEY=" + s.cosmos.Key,
		"WEBHOOK_ADDRESS=" + s.front.url() + "/api/webhook",
		"WEBHOOK_AUTH_ID=" + rand.Text(),
		"SSL_CERT_FILE=" + authority.CertFile,
	}
	return nil
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// Write implements io.Writer for what several children have to say.
func (s *stage) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Log == nil {
		return len(p), nil
	}
	return s.cfg.Log.Write(p)
}

// environment is a child's: what any process needs of this one's, and the
// settings. Nothing else gets in, such as a real app's secrets.
func (s *stage) environment(settings []string) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(append(env, settings...), s.cfg.Env...)
}

// deployed are the files that a package of the app holds.
var deployed = []string{"host.json", "webhook/function.json", "timer/function.json", "handler/handler"}

// deploy copies to dir what a deployment would. So the lab never reads a
// local.settings.json with a real tenant in it.
func deploy(root, handler, dir string) error {
	for _, name := range deployed {
		from, to := filepath.Join(root, filepath.FromSlash(name)), filepath.Join(dir, filepath.FromSlash(name))
		if name == "handler/handler" && handler != "" {
			from = handler
		}
		if err := copyFile(from, to); err != nil {
			return fmt.Errorf("deploy %s (has make build run?): %w", name, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// instance is one host with its handler.
type instance struct {
	*child
	stage *stage
	addr  string // where the front end reaches it

	handler int       // process id of its first handler
	ended   chan tick // outcomes, for who waits

	mu    sync.Mutex
	ticks []tick // that have ended
}

// host starts an instance behind the front end.
func (s *stage) host(ctx context.Context) (*instance, error) {
	c, err := startChild(s, s.environment(s.settings), "host", "--app="+s.app)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	e, err := c.ready(ctx)
	if err != nil {
		c.kill()
		return nil, err
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("read the host's address: %w", err)
	}
	i := &instance{child: c, stage: s, addr: u.Host, handler: e.Handler, ended: make(chan tick, 16)}
	s.front.add(i.addr)
	s.tasks.Go(i.listen)
	return i, nil
}

// listen takes the events until the host is gone.
func (i *instance) listen() {
	defer close(i.ended)
	defer i.stage.front.remove(i.addr)
	for e := range i.events {
		if e.Line != "" {
			fmt.Fprintln(i.stage, e.Line)
		}
		if e.Tick != nil {
			i.mu.Lock()
			i.ticks = append(i.ticks, *e.Tick)
			i.mu.Unlock()
			i.ended <- *e.Tick
		}
	}
}

// tick runs timer once and returns the outcome. One caller at a time.
func (i *instance) tick(ctx context.Context) (tick, error) {
	if err := i.tell("tick"); err != nil {
		return tick{}, err
	}
	select {
	case t, ok := <-i.ended:
		if !ok {
			return tick{}, fmt.Errorf("run timer: %w", errEnded)
		}
		return t, nil
	case <-ctx.Done():
		return tick{}, context.Cause(ctx)
	}
}

// advance turns both services' clocks on. What a killed process had claimed
// falls due, and its lease ends.
func (s *stage) advance(d time.Duration) error {
	s.tenant.Advance(d)
	return s.emulator.tell("advance " + d.String())
}

// close ends the stage in order and removes its folder. Hosts are closed
// before.
func (s *stage) close() error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	s.end()
	if s.front != nil {
		s.front.close()
	}
	s.tasks.Wait()
	if s.emulator != nil {
		errs = append(errs, s.emulator.close())
	}
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// figures are how far the archive has come.
type figures struct {
	documents int
	entries   int
	open      int
}

// measure asks the emulator. Before the containers exist there is nothing.
func (s *stage) measure(ctx context.Context) (f figures, err error) {
	for n, err := range s.account.Query(ctx, emulator.Feed(database, archiveName), "SELECT VALUE COUNT(1) FROM c") {
		if err != nil {
			return f, missingIsNone(err)
		}
		if _, err := fmt.Sscan(string(n), &f.documents); err != nil {
			return f, fmt.Errorf("read count %s: %w", n, err)
		}
	}
	for doc, err := range s.account.Query(ctx, emulator.Feed(database, ledgerName),
		"SELECT c.open FROM c WHERE c.kind = @kind", emulator.Param{Name: "@kind", Value: "entry"}) {
		if err != nil {
			return f, missingIsNone(err)
		}
		var entry struct {
			Open int `json:"open"`
		}
		if err := json.Unmarshal(doc, &entry); err != nil {
			return f, fmt.Errorf("read entry: %w", err)
		}
		f.entries++
		f.open += entry.Open
	}
	return f, nil
}

// missingIsNone drops the error that Cosmium gives for a container that does
// not exist: 500 and these words.
func missingIsNone(err error) error {
	if strings.Contains(err.Error(), "Unknown error") {
		return nil
	}
	return err
}

// check compares the archive with what was published.
func (s *stage) check(ctx context.Context, p *reconcile.Published) (reconcile.Report, error) {
	return p.Check(
		s.account.All(ctx, emulator.Feed(database, archiveName)),
		s.account.All(ctx, emulator.Feed(database, ledgerName)))
}
