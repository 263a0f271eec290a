package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"activityarchive/handler/lab/emulator"
	"activityarchive/handler/lab/funchost"
)

// emitter writes events to standard output.
type emitter struct {
	mu  sync.Mutex
	out *json.Encoder
}

func newEmitter() *emitter { return &emitter{out: json.NewEncoder(os.Stdout)} }

func (e *emitter) emit(ev event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.out.Encode(ev) // the parent's death ends standard input too
}

// emulatorCommand serves the emulator. It takes one command: advance and a
// duration moves the account's clock.
type emulatorCommand struct {
	Cert   string `required:"" help:"Server certificate, PEM."`
	Key    string `required:"" help:"Its private key, PEM."`
	NoAuth bool   `help:"Take requests without a signature."`
}

// Run implements the command.
func (c *emulatorCommand) Run(ctx context.Context) error {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	e, err := emulator.Start(ctx, emulator.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, NoAuth: c.NoAuth,
	})
	if err != nil {
		return err
	}
	newEmitter().emit(event{URL: e.URL(), Key: e.Key()})
	untilInputEnds(ctx, func(command string) {
		if d, err := time.ParseDuration(strings.TrimPrefix(command, "advance ")); err == nil {
			e.Advance(d)
		}
	})
	return e.Close()
}

// hostCommand runs the stand-in for the Functions host. It takes two commands:
// tick runs timer now and tells the outcome, kill kills the handler, which the
// host then starts again.
type hostCommand struct {
	App string `required:"" type:"existingdir" help:"Folder of host.json."`
}

// Run implements the command.
func (c *hostCommand) Run(ctx context.Context) error {
	out := newEmitter()
	h, err := funchost.New(funchost.Config{
		AppRoot:     c.App,
		ManualTimer: true,
		Lines:       func(l funchost.Line) { out.emit(event{Line: l.Text}) },
		Log:         slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	if err := h.Start(ctx); err != nil {
		return err
	}
	if err := h.Ready(ctx); err != nil {
		return fmt.Errorf("start handler: %w", err)
	}
	out.emit(event{URL: h.URL(), Handler: h.HandlerPID()})

	var ticks sync.WaitGroup
	untilInputEnds(ctx, func(command string) {
		if command == "kill" {
			if err := h.KillHandler(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
		ticks.Go(func() {
			r, err := h.FireScheduled(ctx)
			t := tick{Status: r.Status, Seconds: r.Duration.Seconds()}
			if err == nil {
				err = r.Err
			}
			if err != nil {
				t.Problem = err.Error()
			}
			out.emit(event{Tick: &t})
		})
	})
	err = h.Stop()
	ticks.Wait()
	return err
}
