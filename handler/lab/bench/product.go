package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"activityarchive/handler/lab/tenant"
)

const (
	readyTime = 10 * time.Second
	authID    = "synthetic-auth-id-of-the-bench"
	// accountKey is "synthetic" in base64; the account does not look at it.
	accountKey = "c3ludGhldGlj"
)

// product is one process of the handler, called as the host calls it.
type product struct {
	cmd    *exec.Cmd
	exited chan error
	url    string
	client *http.Client
	log    *os.File
	first  time.Duration // from the start of the process to its first answer
}

// launch starts the handler in the world. What env says goes before the world's
// settings. The caller stops it.
func (b *bench) launch(ctx context.Context, w *world, name string, env ...string) (*product, error) {
	log, err := os.Create(filepath.Join(b.out, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0") // the host, too, asks the system and gives the port back
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find a port: %w", err), log.Close())
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if err := ln.Close(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	p := &product{
		cmd: exec.Command(b.handler), exited: make(chan error, 1), log: log, url: "http://127.0.0.1:" + port,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	address, err := url.Parse(p.url)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	w.handler.Store(address)
	p.cmd.Dir = w.dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl+C ends it in order
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir,
		"FUNCTIONS_CUSTOMHANDLER_PORT=" + port, "FUNCTIONS_APP_ROOT_PATH=" + b.root,
		"AZURE_TENANT_ID=" + tenant.DefaultID, "AZURE_CLIENT_ID=" + tenant.DefaultAppID, "AZURE_CLIENT_SECRET=" + tenant.DefaultAppSecret,
		"AZURE_AUTHORITY_HOST=" + w.origin, "MANAGEMENT_API_URL=" + w.origin,
		"COSMOS_ENDPOINT=" + w.cosmos, "COSMOS_KEY=" + accountKey,
		"SSL_CERT_FILE=" + w.authority.CertFile,
		"WEBHOOK_ADDRESS=none",
		"CATCH_UP_START=1h", "CATCH_UP_OVERLAP=1m", // each run lists what it has published and little else
		"REQUESTS_PER_MINUTE=100000", // the most that the setting takes
	}, env...)
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start handler (has make build run?): %w", err), log.Close())
	}
	go func() { p.exited <- p.cmd.Wait() }() // ends with the process, which stop ends
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		if err := p.probe(ctx); err == nil {
			p.first = time.Since(began)
			return p, nil
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			return nil, errors.Join(fmt.Errorf("handler ended before it was ready, see %s", log.Name()), p.stop())
		case <-ctx.Done():
			return nil, errors.Join(errors.New("handler was not ready in time"), p.stop())
		case <-time.After(time.Millisecond / 2):
		}
	}
}

func (p *product) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/", nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// tickEnvelope is what the host sends for a timer.
const tickEnvelope = `{"Data":{"tick":{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":false}},"Metadata":{}}`

// tick runs the timer once. A tick that left something undone is an error.
func (p *product) tick(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/timer", strings.NewReader(tickEnvelope))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("tick: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	var answer struct{ Logs []string }
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &answer)
	}
	switch {
	case err != nil:
		return took, fmt.Errorf("tick: %w", err)
	case resp.StatusCode != http.StatusOK:
		return took, fmt.Errorf("tick failed with status %d: %s", resp.StatusCode, bytes.TrimSpace(body))
	case len(answer.Logs) == 0 || !strings.HasPrefix(answer.Logs[0], "ok:"):
		return took, fmt.Errorf("the tick was not ok: %q, see %s", answer.Logs, p.log.Name())
	}
	return took, nil
}

// cpu is the processor time that the handler's threads have taken. The kernel
// counts it in nanoseconds for each thread; Go's threads last (man 5 proc gives
// the times of the whole process in steps of 10 ms only).
func (p *product) cpu() (sum time.Duration, err error) {
	files, err := filepath.Glob("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/task/*/schedstat")
	if err != nil || len(files) == 0 {
		return 0, errors.New("read processor time: the process has no threads, or the kernel does not count them")
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanoseconds, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum, nil
}

// peak is the most memory that the handler has had resident, in MiB.
func (p *product) peak() (float64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kilobytes / 1024, err
		}
	}
	return 0, errors.New("read peak memory: /proc/PID/status has no VmHWM")
}

// stop kills the process, as the host does.
func (p *product) stop() error {
	_ = p.cmd.Process.Kill() // fails only where there is nothing left to kill
	<-p.exited
	p.client.CloseIdleConnections()
	return p.log.Close()
}
