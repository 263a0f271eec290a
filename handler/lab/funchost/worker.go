package funchost

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// restartExit is the exit code by which a handler asks for a restart.
	restartExit = 200
	// maxErrors is the counted error that stops the host.
	maxErrors = 3
	// probePause is between readiness probes (measured on 4.1037).
	probePause = 25 * time.Millisecond
	// killWait is how long the host waits for a killed process.
	killWait = time.Second
	// maxLineBytes is where a longer line of output is split.
	maxLineBytes = 64 << 10
)

var (
	// ErrExceeded is how a host ends whose handler failed three times, each
	// within Timing.CrashGap of the one before. The real host's process exits
	// with 0 then.
	ErrExceeded = errors.New("exceeded http worker restart retry count")
	// ErrNeverReady is how a host ends that held an invocation for
	// Timing.EarlyWait and saw no handler.
	ErrNeverReady = errors.New("http worker was never initialized")

	errStopped = errors.New("host is not running")
	errKilled  = errors.New("function timed out")
)

// worker keeps one handler process alive on one port.
type worker struct {
	app  *app
	cfg  *Config
	port int
	emit func(Line)
	over chan struct{} // closed when run has returned

	mu       sync.Mutex
	proc     *process
	ready    chan struct{} // closed when proc has answered a probe
	errors   int
	last     time.Time // of the latest counted error
	restarts int
}

// process is one run of the executable.
type process struct {
	cmd       *exec.Cmd
	streams   []io.Closer   // our ends of stdout and stderr
	done      chan struct{} // closed when it has ended, nobody holds its output open, and it was reaped
	uncounted bool          // under worker.mu: its end is the host's doing
}

func newWorker(a *app, cfg *Config, emit func(Line)) (*worker, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0") // the host, too, asks the system and gives the port back
	if err != nil {
		return nil, fmt.Errorf("find a port for the handler: %w", err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	return &worker{app: a, cfg: cfg, port: port, emit: emit, over: make(chan struct{}), ready: make(chan struct{})}, ln.Close()
}

// run starts the handler again and again by the host's rules. It returns nil
// when ctx ends or the handler is not to be started again, ErrExceeded when the
// host has to stop. The last process may still run.
func (w *worker) run(ctx context.Context) error {
	defer close(w.over)
	log := w.cfg.Log
	for {
		p, err := w.start()
		if err != nil {
			log.Error("Failed to start Worker Channel. Process fileName: "+w.app.executable, "error", err)
			return nil
		}
		w.probe(ctx, p)
		select {
		case <-ctx.Done():
			return nil
		case <-p.done:
		}
		code := p.cmd.ProcessState.ExitCode() // -1 after a signal
		w.mu.Lock()
		counted := !p.uncounted && code != restartExit
		w.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return nil
		case counted && code == 0:
			log.Info("handler exited with code 0 and stays down")
			return nil
		case counted:
			log.Error("handler failed", "outcome", p.cmd.ProcessState)
		}
		if w.ended(counted) >= maxErrors {
			log.Error("Exceeded http worker restart retry count")
			return ErrExceeded
		}
	}
}

// ended makes invocations wait for the next process and returns the number of
// counted errors.
func (w *worker) ended(counted bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restarts++
	select {
	case <-w.ready:
		w.ready = make(chan struct{})
	default:
	}
	if counted {
		now := time.Now()
		if now.Sub(w.last) > w.cfg.Timing.CrashGap {
			w.errors = 0
		}
		w.errors, w.last = w.errors+1, now
	}
	return w.errors
}

func (w *worker) start() (*process, error) {
	port, id := strconv.Itoa(w.port), guid()
	cmd := exec.Command(w.app.executable) // ended by the rules of Stop, not by a context
	cmd.Dir = w.app.root
	cmd.Env = append(append(os.Environ(), w.cfg.Env...),
		"FUNCTIONS_CUSTOMHANDLER_PORT="+port,
		"FUNCTIONS_HTTPWORKER_PORT="+port,
		"FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+id,
		"FUNCTIONS_HTTPWORKER_ID="+id,
		"FUNCTIONS_APP_ROOT_PATH="+w.app.root,
	)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, streams: []io.Closer{stdout, stderr}, done: make(chan struct{})}
	w.mu.Lock()
	w.proc = p
	w.mu.Unlock()
	var readers sync.WaitGroup
	readers.Go(func() { w.read(stdout, "stdout") })
	readers.Go(func() { w.read(stderr, "stderr") })
	go func() { // ends with the process; only an orphan's outlives the host
		readers.Wait()
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

// read passes each line of r on, with its level.
func (w *worker) read(r io.Reader, stream string) {
	br := bufio.NewReaderSize(r, maxLineBytes)
	for {
		text, _, err := br.ReadLine()
		if err != nil {
			return
		}
		w.emit(Line{Stream: stream, Level: level(stream, string(text)), Text: string(text)})
	}
}

// level is the log level that the host gives a line where
// useStdErrorStreamForErrorsOnly is true, as it is by default.
func level(stream, text string) slog.Level {
	switch {
	case stream == "stdout":
		return slog.LevelInfo
	case strings.Contains(strings.ToLower(text), "warn"):
		return slog.LevelWarn
	}
	return slog.LevelError
}

// probe asks GET / until p gives any answer, and kills it if it does not in
// time. Only the pauses count against the limit: a handler that accepts and
// stays silent blocks the probe.
func (w *worker) probe(ctx context.Context, p *process) {
	limit := time.Duration(w.app.host.CustomHandler.InitTimeout)
	for waited := time.Duration(0); waited < limit; waited += probePause {
		_, _, err := call(ctx, w.port, &outgoing{method: http.MethodGet, target: "/", fields: fields{{"Host", w.address()}}})
		if err == nil {
			w.mu.Lock()
			close(w.ready)
			w.mu.Unlock()
			return
		}
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(probePause):
		}
	}
	w.cfg.Log.Error("Initializing HttpWorker timed out", "limit", limit)
	w.kill(p, false)
}

func (w *worker) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)) }

// awaitReady waits until the handler has answered a probe.
func (w *worker) awaitReady(ctx context.Context) (*process, error) {
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	select {
	case <-ready:
		return w.current(), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(w.cfg.Timing.EarlyWait):
		return nil, ErrNeverReady
	}
}

// kill ends p with SIGKILL and waits a second at most. With uncounted its end
// is no error of the handler's.
func (w *worker) kill(p *process, uncounted bool) {
	w.mu.Lock()
	p.uncounted = p.uncounted || uncounted
	w.mu.Unlock()
	_ = p.cmd.Process.Kill() // fails only when it has ended
	select {
	case <-p.done:
	case <-time.After(killWait):
	}
}

// current is the process last started, or nil.
func (w *worker) current() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc
}

// guid returns a random GUID (RFC 9562, version 4).
func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
