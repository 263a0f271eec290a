package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	// The only caller is a process of this machine, which sends at once.
	headerTime = 10 * time.Second
	// Twice what the host lets a caller send (32 KB).
	maxHeaderBytes = 64 << 10
	// The host waits 10 s for a running tick when it stops (measured on host
	// 4.1037); be gone before.
	drainTime = 8 * time.Second
	// How often to look whether the host is still there.
	parentPoll = time.Second
)

// ErrParentGone says that the process that started this one has ended.
var ErrParentGone = errors.New("the Functions host is gone")

// Listen takes the port that the host gave in FUNCTIONS_CUSTOMHANDLER_PORT, on
// 127.0.0.1 alone, where the host dials. The caller closes the listener, or
// hands it to [Serve]. An error is final: the process should end with a code
// that is not 0.
func Listen(ctx context.Context, port string) (net.Listener, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("FUNCTIONS_CUSTOMHANDLER_PORT is not a port number: let the Functions host start this program")
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, fmt.Errorf("listen on FUNCTIONS_CUSTOMHANDLER_PORT: %w", err)
	}
	return l, nil
}

// Serve serves handler on l until ctx ends, then lets running requests end for
// some seconds, cuts off the rest and returns nil. It closes l. An error means
// that it could not serve.
func Serve(ctx context.Context, l net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    maxHeaderBytes,
		// No limit on idle connections: the host keeps and reuses them, and one
		// that we close as it sends is a failed invocation. No limit on an
		// answer: a tick may take as long as its own deadline.
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }() // ends with the server, and is waited for
	select {
	case err := <-failed:
		return fmt.Errorf("serve the Functions host: %w", err)
	case <-ctx.Done():
	}
	logger.Info("stopping", "cause", context.Cause(ctx).Error())
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		logger.Warn("stopping: requests were cut off", "error", err)
		_ = server.Close() // closes what is left; there is nothing to do about an error
	}
	<-failed
	return nil
}

// WatchParent returns [ErrParentGone] about a second after the parent of this
// process has changed: the host can end without ending what it started, in the
// middle of a tick too. It returns nil when ctx ends. parent is [os.Getppid];
// what it says first is taken for the host, so call WatchParent early.
func WatchParent(ctx context.Context, parent func() int) error {
	host := parent()
	tick := time.NewTicker(parentPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			// Not "is it 1": in a container the host may be process 1.
			if parent() != host {
				return ErrParentGone
			}
		}
	}
}
