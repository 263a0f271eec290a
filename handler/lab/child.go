package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// childVariable is set in the environment of the lab's own children, so that a
// test binary knows that it is to be the lab.
const childVariable = "ACTIVITY_ARCHIVE_LAB"

// maxEvent bounds one line from a child: a line of the handler's log with room
// to spare.
const maxEvent = 4 << 20

// event is what a child tells, one JSON line each on its standard output.
type event struct {
	URL     string `json:"url,omitempty"`     // ready, and where it is reached
	Key     string `json:"key,omitempty"`     // with URL, the emulator's
	Tick    *tick  `json:"tick,omitempty"`    // a tick has ended
	Line    string `json:"line,omitempty"`    // a line that the handler wrote
	Handler int    `json:"handler,omitempty"` // with URL, the host's: process id of the handler
}

// tick is the outcome of one run of timer.
type tick struct {
	Status  int     `json:"status"`
	Seconds float64 `json:"seconds"`
	Problem string  `json:"problem,omitempty"` // empty: the host counts it as a success
}

// child is another process of the lab's own binary. It ends when its standard
// input does, which is also what this process's death brings about.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan event // closed when the child's output ends
	exited chan error // holds what Wait returned
}

// startChild starts a command of the lab with exactly that environment besides
// what names the lab. What it writes to standard error goes to stderr. ctx does
// not end it: close or kill does.
func startChild(stderr io.Writer, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the lab's binary: %w", err)
	}
	c := &child{cmd: exec.Command(self, args...), events: make(chan event, 64), exited: make(chan error, 1)}
	c.cmd.Env = append(env, childVariable+"=1")
	c.cmd.Stderr = stderr
	c.cmd.WaitDelay = 5 * time.Second // an orphan of its own may hold its standard error
	// Ctrl+C goes to a whole group; children are ended in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	go func() {
		defer close(c.events)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				c.events <- e
			}
		}
		_, _ = io.Copy(io.Discard, stdout) // after a line too long
		c.exited <- c.cmd.Wait()
	}()
	return c, nil
}

// ready waits for the child's first event, which says where it is reached.
func (c *child) ready(ctx context.Context) (event, error) {
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				return event{}, fmt.Errorf("%s ended before it was ready: %w", c.cmd.Args[1], errors.Join(<-c.exited, errEnded))
			}
			if e.URL != "" {
				return e, nil
			}
		case <-ctx.Done():
			return event{}, fmt.Errorf("wait for %s: %w", c.cmd.Args[1], context.Cause(ctx))
		}
	}
}

var errEnded = errors.New("process ended")

// tell sends a command.
func (c *child) tell(command string) error {
	if _, err := io.WriteString(c.stdin, command+"\n"); err != nil {
		return fmt.Errorf("tell %s: %w", c.cmd.Args[1], err)
	}
	return nil
}

// close ends the child in order and waits for it.
func (c *child) close() error {
	_ = c.stdin.Close()
	return c.wait()
}

// kill ends the child as a crash would and waits for it.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // fails only where there is nothing left to kill
	_ = c.wait()
	_ = c.stdin.Close()
}

// wait takes what is left of the events, and the exit.
func (c *child) wait() error {
	for range c.events {
	}
	err := <-c.exited
	c.exited <- err // for the next who waits
	return err
}

// untilInputEnds reads commands, one a line, and gives each to do; it returns
// when standard input or ctx ends.
func untilInputEnds(ctx context.Context, do func(command string)) {
	commands := make(chan string)
	go func() { // ends with the process: a read of standard input cannot be stopped
		defer close(commands)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			select {
			case commands <- lines.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case command, ok := <-commands:
			if !ok {
				return
			}
			do(command)
		case <-ctx.Done():
			return
		}
	}
}
