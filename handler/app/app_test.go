package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"activityarchive/handler/host"
	"activityarchive/handler/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// good is a complete set of settings. Nothing listens at these addresses.
func good() map[string]string {
	return map[string]string{
		"AZURE_TENANT_ID":     "11111111-2222-4333-8444-555555555555",
		"AZURE_CLIENT_ID":     "66666666-7777-4888-8999-aaaaaaaaaaaa",
		"AZURE_CLIENT_SECRET": "synthetic-client-secret",
		"COSMOS_ENDPOINT":     "https://127.0.0.1:1/",
		"COSMOS_KEY":          "c3ludGhldGljLWtleQ==",
		"WEBHOOK_ADDRESS":     "https://collector.example/api/webhook",
		"WEBHOOK_AUTH_ID":     "synthetic-auth-id-0001",
	}
}

func getenv(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

func built(t *testing.T, values map[string]string) (functions, settings.Problems) {
	t.Helper()
	s, problems := settings.Load(getenv(values))
	f, err := build(s, problems, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f, problems
}

func call(t *testing.T, h http.Handler) int {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/webhook", strings.NewReader("[]"))
	r.Header.Set("Webhook-AuthID", "synthetic-auth-id-0001")
	h.ServeHTTP(w, r)
	return w.Code
}

// Every problem is named in every failed tick, and the webhook answers 503.
func TestBrokenSettings(t *testing.T) {
	values := good()
	delete(values, "AZURE_TENANT_ID")
	values["COSMOS_ENDPOINT"] = "not a url"
	values["CATCH_UP_WINDOW"] = "25h"
	f, _ := built(t, values)
	_, err := f.tick(t.Context(), host.Invocation{})
	for _, name := range []string{"AZURE_TENANT_ID", "COSMOS_ENDPOINT", "CATCH_UP_WINDOW"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the tick's failure does not name %s: %v", name, err)
		}
	}
	if _, ok := errors.AsType[settings.Problems](err); !ok {
		t.Errorf("the failure is no settings.Problems: %v", err)
	}
	if code := call(t, f.webhook); code != http.StatusServiceUnavailable {
		t.Errorf("the webhook answers %d", code)
	}
}

// What concerns only the webhook stops only the webhook.
func TestWebhookSettingsStopOnlyTheWebhook(t *testing.T) {
	values := good()
	delete(values, "WEBHOOK_AUTH_ID")
	f, problems := built(t, values)
	if len(problems.All()) != 0 || len(problems.Webhook()) != 1 {
		t.Fatalf("problems: %v", problems)
	}
	if code := call(t, f.webhook); code != http.StatusServiceUnavailable {
		t.Errorf("the webhook answers %d", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the tick is to begin, not to wait for an address where nothing listens
	if _, err := f.tick(ctx, host.Invocation{}); err == nil || strings.Contains(err.Error(), "WEBHOOK_AUTH_ID") {
		t.Errorf("polling does not go on: %v", err)
	}
}

func TestWebhookWanted(t *testing.T) {
	f, _ := built(t, good())
	if code := call(t, f.webhook); code != http.StatusOK {
		t.Errorf("with a webhook: %d", code)
	}
	values := good()
	values["WEBHOOK_ADDRESS"] = "none"
	f, _ = built(t, values)
	if code := call(t, f.webhook); code != http.StatusNotFound {
		t.Errorf("polling only: %d", code)
	}
}

// output is a log that can be waited for.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	line chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b)
	if bytes.Contains(b, []byte(`"listening"`)) {
		close(o.line)
	}
	return len(b), nil
}

// serve runs Serve on a free port and returns its address.
func serve(t *testing.T, values map[string]string) (address string, stdout, stderr *output) {
	t.Helper()
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(probe.Addr().String())
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	values["FUNCTIONS_CUSTOMHANDLER_PORT"] = port
	values["FUNCTIONS_APP_ROOT_PATH"] = t.TempDir()
	stdout, stderr = &output{line: make(chan struct{})}, &output{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Options{Getenv: getenv(values), Stdout: stdout, Stderr: stderr, Version: "test"})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	select {
	case <-stdout.line:
	case err := <-done:
		t.Fatalf("Serve ended: %v", err)
	}
	return "http://127.0.0.1:" + port, stdout, stderr
}

func TestServe(t *testing.T) {
	values := good()
	values["COSMOS_KEY"] = "secret that is not base64"
	values["CLOUD"] = "moon"
	address, stdout, stderr := serve(t, values)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/": 200, "/timer": 500, "/api/webhook": 503, "/other": 404} {
		method, body := http.MethodPost, `{"Data":{},"Metadata":{}}`
		if path == "/" {
			method, body = http.MethodGet, ""
		}
		req, err := http.NewRequestWithContext(t.Context(), method, address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s answers %d (%s), want %d", path, resp.StatusCode, text, want)
		}
		if path == "/timer" && (!strings.Contains(string(text), "COSMOS_KEY") || !strings.Contains(string(text), "CLOUD")) {
			t.Errorf("the failed tick says %s", text)
		}
	}
	stdout.mu.Lock()
	defer stdout.mu.Unlock()
	stderr.mu.Lock()
	defer stderr.mu.Unlock()
	for line := range strings.Lines(stdout.text.String() + stderr.text.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a log line is not JSON: %s", line)
		}
	}
	if strings.Contains(stdout.text.String(), `"level":"ERROR"`) || !strings.Contains(stderr.text.String(), `"level":"ERROR"`) {
		t.Error("errors are not on stderr alone")
	}
	if all := stdout.text.String() + stderr.text.String(); strings.Contains(all, "synthetic-client-secret") || strings.Contains(all, "secret that is") {
		t.Error("a secret is in the log")
	}
}

// Only the port ends the process.
func TestPort(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for name, value := range map[string]string{"missing": "", "no number": "x", "taken": port} {
		values := good()
		values["FUNCTIONS_CUSTOMHANDLER_PORT"] = value
		err := Serve(t.Context(), Options{Getenv: getenv(values), Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.Contains(fmt.Sprint(err), "FUNCTIONS_CUSTOMHANDLER_PORT") {
			t.Errorf("%s: Serve = %v", name, err)
		}
	}
}

func TestPrintSettings(t *testing.T) {
	root := t.TempDir()
	local := `{"IsEncrypted": false, "Values": {"LOG_LEVEL": "debug", "COSMOS_DATABASE": "Local", "COSMOS_KEY": "c3ludGhldGljLWtleQ=="}}`
	if err := os.WriteFile(filepath.Join(root, "local.settings.json"), []byte(local), 0o600); err != nil {
		t.Fatal(err)
	}
	values := good()
	delete(values, "COSMOS_KEY")
	values["FUNCTIONS_APP_ROOT_PATH"] = root
	values["COSMOS_DATABASE"] = "Environment"
	var out bytes.Buffer
	if err := PrintSettings(Options{Getenv: getenv(values), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`LOG_LEVEL +debug +local.settings.json`, `COSMOS_DATABASE +Environment +environment`,
		`COSMOS_KEY +\(secret\) +local.settings.json`, `CATCH_UP_WINDOW +1h +default`, `CLOUD +commercial +default`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(out.String()) {
			t.Errorf("no line %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "c3ludGhl") || strings.Contains(out.String(), "synthetic-client-secret") {
		t.Error("a secret is printed")
	}
	// A secret in the wrong place is not printed either, and a placeholder is none.
	values["COSMOS_ENDPOINT"] = "AccountEndpoint=https://account.example/;AccountKey=c2VjcmV0"
	values["WEBHOOK_ADDRESS"] = "https://collector.example/api/webhook?code=c2VjcmV0"
	values["AZURE_TENANT_ID"] = "<GUID of the tenant>"
	out.Reset()
	err := PrintSettings(Options{Getenv: getenv(values), Stdout: &out})
	if problems, ok := errors.AsType[settings.Problems](err); !ok || len(problems) != 3 {
		t.Errorf("error = %v, want three problems", err)
	}
	if text := out.String() + err.Error(); strings.Contains(text, "c2VjcmV0") || strings.Contains(text, "<GUID") {
		t.Errorf("printed:\n%s", text)
	}
}
