package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// front stands before the hosts as the platform's front end does: it ends TLS
// and hands each connection to one instance after the other. Its address stays
// while hosts come and go.
type front struct {
	ln   net.Listener
	done sync.WaitGroup

	mu    sync.Mutex
	hosts []string // host:port
	next  int
}

// newFront listens on loopback and serves until ctx ends; close waits for that.
func newFront(ctx context.Context, config *tls.Config) (*front, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &front{ln: tls.NewListener(ln, config)}
	f.done.Go(func() {
		<-ctx.Done()
		_ = ln.Close()
	})
	f.done.Go(func() {
		for {
			c, err := f.ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				f.done.Go(func() { f.serve(ctx, c) })
			}
		}
	})
	return f, nil
}

func (f *front) url() string { return "https://" + f.ln.Addr().String() }

// add and remove change the instances; addr is host:port.
func (f *front) add(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts = append(f.hosts, addr)
}

func (f *front) remove(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts = slices.DeleteFunc(f.hosts, func(a string) bool { return a == addr })
}

// pick returns the instances, the one whose turn it is first.
func (f *front) pick() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.hosts) == 0 {
		return nil
	}
	f.next = (f.next + 1) % len(f.hosts)
	return slices.Concat(f.hosts[f.next:], f.hosts[:f.next])
}

// unavailable answers where there is no instance.
const unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func (f *front) serve(ctx context.Context, caller net.Conn) {
	defer caller.Close()
	stop := context.AfterFunc(ctx, func() { _ = caller.Close() })
	defer stop()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	for _, addr := range f.pick() {
		host, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			continue
		}
		defer host.Close()
		var up sync.WaitGroup
		up.Go(func() {
			_, _ = io.Copy(host, caller)
			_ = host.Close()
		})
		_, _ = io.Copy(caller, host)
		_ = caller.Close()
		up.Wait()
		return
	}
	_, _ = caller.Read(make([]byte, 16<<10)) // an answer before the request would look like a reset
	_, _ = io.WriteString(caller, unavailable)
}

// close waits until nothing of the front is left. The context has ended.
func (f *front) close() { f.done.Wait() }
