// Package funchost is a stand-in for the Azure Functions host, version 4, as
// far as a custom handler with a timer and a webhook can tell: it reads
// host.json and */function.json of an app folder, starts the handler, probes
// it, restarts it, sends it what the real host sends, byte for byte where
// exchanges were recorded, and treats its answers as the real host does. No
// recording shows proxying; it follows the host's public source.
//
// Two shapes of function run: a timerTrigger, and an anonymous httpTrigger with
// one http output; any other is logged as in error. An app that needs more than
// that will not be told what is left out:
//
//   - host.json, but for functionTimeout, routePrefix and, in customHandler,
//     defaultExecutablePath, initializationTimeout and the two flags; a least
//     functionTimeout; AzureFunctionsJobHost__ settings, local.settings.json and
//     %NAME%; a new start when a file changes;
//   - keys, so that everyone is admin; disabled functions; host-wide throttles;
//     every admin endpoint but the one that fires a function;
//   - a lease on the timer, so that one host alone may run an app; retry policies;
//   - GET / after the first answer to it, and redirects, which the real host
//     follows for envelopes and probes;
//   - in envelopes: base64 of binary bodies, body members that are not text, in
//     Metadata, and func start's Content-Length;
//   - in answers: ReturnValue; bodies and Logs other than text, which fail here;
//   - the refusal to forward, and the dropping of, headers that .NET finds odd;
//   - streaming: a proxied body and its answer are each passed on as a whole;
//   - 100-continue, and the platform's front end with TLS and its 230 seconds.
//
// A probe that is reset counts as no answer yet; the real host takes the third
// for one. The stand-in opens one connection a call; the real host keeps them.
//
// The handler watches its parent. A test that needs the host to die hard runs
// this package in a process of its own and kills that; inside a process, the
// nearest thing is [Host.Abandon]. The real host ignores SIGTERM; a main that
// does the same takes it with signal.Notify, because an ignored signal would
// be inherited by the handler.
//
// It runs on Unix systems.
package funchost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Config says what to run and how. AppRoot is required; the rest has defaults.
type Config struct {
	AppRoot string   // folder of host.json
	Env     []string // NAME=value, over the process's own environment

	// OldHost makes a host up to 4.1037, which does not know
	// enableProxyingHttpRequest.
	OldHost bool
	// ManualTimer leaves the schedule alone: only Fire and FireScheduled run
	// timers.
	ManualTimer bool
	// StateDir keeps the timers' status from one Host to the next, which must
	// not overlap. By default it ends with the Host.
	StateDir string
	// Timing overrides waits; its zero fields keep the real host's.
	Timing Timing

	// Lines gets each line of the handler's output and of its answers' Logs,
	// one after the other. It must not call the Host.
	Lines func(Line)
	// Log gets what the host itself has to say; discarded by default.
	Log *slog.Logger
}

// Line is one line from the handler.
type Line struct {
	Stream       string // stdout, stderr, or logs for an answer's Logs
	Level        slog.Level
	Text         string
	InvocationID string // only with logs
}

// Timing holds the host's waits, measured on 4.1037 or read in its source.
type Timing struct {
	EarlyWait  time.Duration // an invocation waits for readiness: 4 x initializationTimeout
	CrashGap   time.Duration // after it the count of errors starts anew: 30 min
	KillDelay  time.Duration // from a function timeout to the kill: 2 s
	TimerDrain time.Duration // Stop waits for a scheduled run: 10 s
	HTTPDrain  time.Duration // Stop waits for HTTP calls: 30 s
}

// Host is one host. Its methods may be called concurrently once Start has
// returned.
type Host struct {
	cfg    Config
	log    *slog.Logger
	app    *app
	worker *worker
	ln     net.Listener
	done   chan struct{}
	tasks  sync.WaitGroup // every goroutine but an orphan's reaper

	mu        sync.Mutex
	end       context.CancelFunc // of all that runs; nil before Start
	retire    context.CancelFunc // no new handler and no new scheduled run
	flights   [3]int             // invocations going on, by kind
	landed    chan struct{}      // closed and made anew with each invocation's end
	okay, bad int                // invocations
	failure   error
	stopped   bool

	emitting sync.Mutex // one Line at a time
}

// New reads the app folder. It starts nothing. An app that the real host would
// refuse is no error here: such a host stays up and answers 503, and Err gives
// the reason.
func New(cfg Config) (*Host, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a, err := readApp(cfg.AppRoot)
	if err != nil {
		return nil, err
	}
	t := &cfg.Timing
	t.EarlyWait = cmp.Or(t.EarlyWait, 4*time.Duration(a.host.CustomHandler.InitTimeout))
	t.CrashGap = cmp.Or(t.CrashGap, 30*time.Minute)
	t.KillDelay = cmp.Or(t.KillDelay, 2*time.Second)
	t.TimerDrain = cmp.Or(t.TimerDrain, 10*time.Second)
	t.HTTPDrain = cmp.Or(t.HTTPDrain, 30*time.Second)
	h := &Host{cfg: cfg, log: cfg.Log, app: a, failure: a.problem, done: make(chan struct{}), landed: make(chan struct{})}
	if h.worker, err = newWorker(a, &h.cfg, h.emit); err != nil {
		return nil, err
	}
	for _, fn := range a.functions {
		if cfg.StateDir == "" || !fn.isTimer() {
			continue
		}
		if err := readJSON(h.statusFile(fn), &fn.status); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return h, nil
}

// Start listens for callers, starts the handler and the schedule, and returns
// without waiting for either. Until Stop, the host lives as long as ctx; the
// end of ctx is like Abandon.
func (h *Host) Start(ctx context.Context) error {
	var err error
	if h.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return fmt.Errorf("listen for callers: %w", err)
	}
	ctx, end := context.WithCancel(ctx)
	active, retire := context.WithCancel(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end, h.retire = end, retire
	h.tasks.Go(func() {
		<-ctx.Done()
		_ = h.finish(false)
	})
	h.tasks.Go(func() {
		for {
			conn, err := h.ln.Accept()
			if err != nil {
				return // closed by finish
			}
			h.tasks.Go(func() { h.serve(ctx, conn) })
		}
	})
	if h.failure != nil {
		h.log.Error("A host error has occurred during startup operation", "error", h.failure)
		close(h.worker.over)
		return nil
	}
	for _, fn := range h.app.functions {
		if fn.problem != nil {
			h.log.Error("The '"+fn.name+"' function is in error", "error", fn.problem)
			continue
		}
		if fn.isTimer() && !h.cfg.ManualTimer {
			h.tasks.Go(func() {
				if err := h.schedule(ctx, active, fn); err != nil {
					h.log.Error("schedule ended", "function", fn.name, "error", err)
				}
			})
		}
	}
	h.tasks.Go(func() {
		if err := h.worker.run(active); err != nil {
			h.fail(err)
		}
	})
	return nil
}

// fail ends the host as its own process's end would: the handler is killed.
func (h *Host) fail(err error) {
	h.mu.Lock()
	h.failure = err
	h.mu.Unlock()
	h.tasks.Go(func() { _ = h.shutdown(0, 0) })
}

// kind is what set an invocation going; Stop treats each in its way.
type kind int

const (
	httpCall kind = iota
	scheduledRun
	adminRun
)

// invoke makes one call to the handler and counts it. It returns after call
// has.
func (h *Host) invoke(ctx context.Context, k kind, fn *function, call func(ctx context.Context, id string) error) error {
	h.mu.Lock()
	if h.stopped || h.failure != nil {
		h.mu.Unlock()
		return errStopped
	}
	h.flights[k]++
	h.mu.Unlock()

	err := h.attempt(ctx, fn, call)
	if err != nil {
		h.log.Error("Executed '"+fn.name+"' (Failed)", "error", err)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.flights[k]--
	close(h.landed)
	h.landed = make(chan struct{})
	if err != nil {
		h.bad++
	} else {
		h.okay++
	}
	return err
}

// attempt waits for the handler and makes the call under the function's
// timeout.
func (h *Host) attempt(ctx context.Context, fn *function, call func(context.Context, string) error) error {
	ctx, release := h.whileAlive(ctx)
	defer release()
	p, err := h.worker.awaitReady(ctx)
	if errors.Is(err, ErrNeverReady) {
		h.log.Error("HttpFunctionInvocationDispatcher was never initialized")
		h.fail(err)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	id, late, limit := guid(), make(chan struct{}), time.Duration(h.app.host.FunctionTimeout)
	killed := fmt.Errorf("%w: '%s' ran for more than %v", errKilled, fn.name, limit)
	timeout := time.AfterFunc(limit, func() {
		defer close(late)
		if pause(ctx, h.cfg.Timing.KillDelay) {
			h.log.Error("A function timeout has occurred. Restarting worker process executing invocationId "+id, "function", fn.name)
			h.worker.kill(p, true)
			cancel(killed)
		}
	})
	err = call(ctx, id)
	if !timeout.Stop() {
		<-late // an answer is too late now
		return killed
	}
	return err
}

// whileAlive returns a context that ends with ctx and with the host.
func (h *Host) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-h.done:
			cancel(errors.Join(errStopped, h.Err()))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
	}
}

// Fire starts a timer function as POST /admin/functions/NAME with an empty
// input does, and does not wait for it.
func (h *Host) Fire(function string) error {
	fn := h.app.function(function)
	if fn == nil || !fn.isTimer() {
		return fmt.Errorf("fire: no timer function %q", function)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || h.end == nil || h.failure != nil {
		return fmt.Errorf("fire %s: %w", function, errStopped)
	}
	h.tasks.Go(func() { h.fire(context.Background(), fn, "") }) // ends with the host
	return nil
}

func (h *Host) emit(line Line) {
	h.emitting.Lock()
	defer h.emitting.Unlock()
	if h.cfg.Lines != nil {
		h.cfg.Lines(line)
	}
}

// Ready waits until the handler has answered a probe. The error is the reason
// why it never will.
func (h *Host) Ready(ctx context.Context) error {
	if err := h.Err(); err != nil {
		return err
	}
	ctx, cancel := h.whileAlive(ctx)
	defer cancel()
	_, err := h.worker.awaitReady(ctx)
	return err
}

// URL is where callers reach the host, without a slash at the end.
func (h *Host) URL() string { return "http://" + h.ln.Addr().String() }

// HandlerPID is the process id of the handler last started, 0 if none was.
func (h *Host) HandlerPID() int {
	if p := h.worker.current(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Counts are the figures of a host since Start.
type Counts struct {
	OK, Failed int // invocations
	Restarts   int // of the handler
}

// Counts returns the figures so far.
func (h *Host) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.worker.mu.Lock()
	defer h.worker.mu.Unlock()
	return Counts{OK: h.okay, Failed: h.bad, Restarts: h.worker.restarts}
}

// Done is closed when the host has stopped, by Stop or by itself.
func (h *Host) Done() <-chan struct{} { return h.done }

// Err is why the host runs no function: what is wrong with the app, or
// [ErrExceeded] or [ErrNeverReady] after it stopped by itself.
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure
}

// KillHandler kills the handler with SIGKILL. By the host's rules this counts as
// an error and restarts it; the third within Timing.CrashGap stops the host.
func (h *Host) KillHandler() error { return h.signal(syscall.SIGKILL) }

// Interrupt sends the handler SIGINT and then stops, as Ctrl+C under func start
// does.
func (h *Host) Interrupt() error {
	h.mu.Lock()
	if h.retire != nil {
		h.retire() // the handler's end is no crash
	}
	h.mu.Unlock()
	return errors.Join(h.signal(syscall.SIGINT), h.Stop())
}

func (h *Host) signal(s syscall.Signal) error {
	p := h.worker.current()
	if p == nil {
		return errors.New("signal handler: none is running")
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal handler: %w", err)
	}
	return nil
}

// Stop stops as the host does on SIGINT: it waits for a scheduled run up to
// Timing.TimerDrain and leaves the handler running if that is not enough; else
// it waits for HTTP calls up to Timing.HTTPDrain and kills the handler. Of the
// host itself nothing is left when it returns, except what reaps an orphan.
func (h *Host) Stop() error {
	err := h.shutdown(h.cfg.Timing.TimerDrain, h.cfg.Timing.HTTPDrain)
	h.tasks.Wait()
	return err
}

// Abandon stops everything at once but the handler: the nearest thing to the
// host's sudden death that a process can do to itself. The handler's parent
// stays the same, so it will not notice; its output goes nowhere, and a write
// to it fails as after a real death.
func (h *Host) Abandon() error {
	err := h.finish(false)
	h.tasks.Wait()
	return err
}

func (h *Host) shutdown(timerDrain, httpDrain time.Duration) error {
	h.mu.Lock()
	if h.stopped || h.end == nil {
		h.mu.Unlock()
		return nil
	}
	h.retire()
	h.mu.Unlock()
	kill := h.landing(scheduledRun, timerDrain)
	if kill {
		h.landing(httpCall, httpDrain)
	}
	return h.finish(kill)
}

// landing waits until no invocation of kind k goes on, limit at most, and says
// whether that is so.
func (h *Host) landing(k kind, limit time.Duration) bool {
	late := time.After(limit)
	for {
		h.mu.Lock()
		n, landed := h.flights[k], h.landed
		h.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-landed:
		case <-late:
			return false
		}
	}
}

// finish ends all that runs, once. The handler is killed or left.
func (h *Host) finish(kill bool) error {
	h.mu.Lock()
	if h.stopped || h.end == nil {
		h.mu.Unlock()
		return nil
	}
	h.stopped = true
	h.retire()
	h.mu.Unlock()
	<-h.worker.over // no other process comes
	if p := h.worker.current(); p != nil && kill {
		h.worker.kill(p, true)
	} else if p != nil {
		for _, s := range p.streams {
			_ = s.Close() // what an orphan writes fails
		}
	}
	h.end()
	defer close(h.done)
	return h.ln.Close()
}
