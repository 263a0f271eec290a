package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"activityarchive/handler/app"
)

func TestRun(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	tests := []struct {
		name           string
		args           []string
		port           string
		code           int
		stdout, stderr string // what they contain; empty means nothing at all
	}{
		{"version", []string{"version"}, "", 0, "v1.2.3", ""},
		{"a command goes before the port", []string{"version"}, port, 0, "v1.2.3", ""},
		{"help", []string{"--help"}, port, 0, "Print the version.", ""},
		{"help on a command", []string{"version", "--help"}, "", 0, "Usage: handler version", ""},
		{"completeness of two kinds", []string{"completeness", "--since", "2026-03-10", "--day", "2026-03-11"}, "", 2, "", "can't be used together"},
		{"completeness of no day", []string{"completeness", "--day", "2026-13-01"}, "", 2, "", "--day"},
		{"completeness without settings", []string{"completeness"}, "", 2, "", "AZURE_TENANT_ID"},
		{"acknowledge without a reason", []string{"acknowledge", "--record", "x"}, "", 2, "", "--reason"},
		{"acknowledge with a blank reason", []string{"acknowledge", "--record", "x", "--reason", " "}, "", 1, "", "--reason is empty"},
		{"acknowledge nothing", []string{"acknowledge", "--reason", "x"}, "", 2, "", "--content"},
		{"redrive what", []string{"redrive"}, "", 2, "", "--lost"},
		{"redrive too much", []string{"redrive", "--lost", "--dead"}, "", 2, "", "can't be used together"},
		{"backfill from when", []string{"backfill"}, "", 2, "", "--from"},
		{"backfill by day", []string{"backfill", "--from", "2026-03-11"}, "", 2, "", "a time as 2026-03-11T09:00:00Z"},
		{"help on redrive", []string{"redrive", "--help"}, "", 0, "Safe at any time", ""},
		{"unknown command", []string{"fly"}, "", 2, "", "handler --help"},
		{"unknown flag", []string{"version", "--fast"}, "", 2, "", "--fast"},
		{"flag without a command", []string{"--fast"}, port, 2, "", "--fast"},
		{"nothing", nil, "", 1, "", "the Functions host starts this program"},
		{"port taken", nil, port, 1, "", "FUNCTIONS_CUSTOMHANDLER_PORT"},
		{"port no port", nil, "http", 1, "", "FUNCTIONS_CUSTOMHANDLER_PORT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tt.args, app.Options{
				Getenv: func(name string) (string, bool) {
					return tt.port, name == "FUNCTIONS_CUSTOMHANDLER_PORT" && tt.port != ""
				},
				Stdout: &stdout, Stderr: &stderr, Version: "v1.2.3",
			})
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, s := range []struct{ name, got, want string }{{"stdout", stdout.String(), tt.stdout}, {"stderr", stderr.String(), tt.stderr}} {
				if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
					t.Errorf("%s %q, want %q in it", s.name, s.got, s.want)
				}
			}
		})
	}
}

// A requested stop is no fault.
func TestServeStops(t *testing.T) {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var stdout, stderr bytes.Buffer
	code := run(ctx, nil, app.Options{Stdout: &stdout, Stderr: &stderr, Getenv: func(name string) (string, bool) {
		return port, name == "FUNCTIONS_CUSTOMHANDLER_PORT"
	}})
	if code != 0 {
		t.Errorf("exit code %d, want 0; stderr %s", code, &stderr)
	}
}
