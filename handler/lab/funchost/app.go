package funchost

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// defaultFunctionTimeout is the plan default outside the old Consumption
	// plan (host.json reference).
	defaultFunctionTimeout = span(30 * time.Minute)
	// defaultInitTimeout is customHandler.initializationTimeout's default.
	defaultInitTimeout = span(30 * time.Second)
)

// app is an app folder as read from disk.
type app struct {
	root       string
	host       hostFile
	executable string
	functions  []*function
	problem    error // why nothing can run; the host answers 503
}

// hostFile is what is read of host.json.
type hostFile struct {
	FunctionTimeout span `json:"functionTimeout"`
	Extensions      struct {
		HTTP struct {
			RoutePrefix string `json:"routePrefix"`
		} `json:"http"`
	} `json:"extensions"`
	CustomHandler struct {
		Description struct {
			DefaultExecutablePath string `json:"defaultExecutablePath"`
		} `json:"description"`
		EnableForwarding bool `json:"enableForwardingHttpRequest"`
		EnableProxying   bool `json:"enableProxyingHttpRequest"`
		InitTimeout      span `json:"initializationTimeout"`
	} `json:"customHandler"`
}

// span is a .NET TimeSpan of less than a day; "-1" is without end.
type span time.Duration

// UnmarshalJSON implements [json.Unmarshaler].
func (s *span) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "-1" {
		*s = math.MaxInt64
		return nil
	}
	var h, m int
	var sec float64
	if _, err := fmt.Sscanf(text, "%d:%d:%g", &h, &m, &sec); err != nil {
		return fmt.Errorf("read time span %q: want hh:mm:ss: %w", text, err)
	}
	*s = span(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(sec*float64(time.Second)))
	return nil
}

// readApp reads host.json and every */function.json below folder. Its error is
// for a folder that is no app at all; what the real host reports and survives
// is in app.problem or function.problem.
func readApp(folder string) (*app, error) {
	root, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("find app folder: %w", err)
	}
	var text json.RawMessage
	if err := readJSON(filepath.Join(root, "host.json"), &text); err != nil {
		return nil, err
	}
	a := &app{root: root}
	a.host.FunctionTimeout, a.host.CustomHandler.InitTimeout = defaultFunctionTimeout, defaultInitTimeout
	a.host.Extensions.HTTP.RoutePrefix = "api"
	if err := json.Unmarshal(text, &a.host); err != nil {
		a.problem = fmt.Errorf("read host.json: %w", err)
	}
	path := a.host.CustomHandler.Description.DefaultExecutablePath
	if path == "" && a.problem == nil {
		a.problem = errors.New("host.json: customHandler.description.defaultExecutablePath is missing or empty")
	}
	a.executable = path // a command on PATH, unless it is found below the app
	if below := filepath.Join(root, path); isFile(below) && !filepath.IsAbs(path) {
		a.executable = below
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "function.json"))
	if err != nil {
		return nil, fmt.Errorf("list functions: %w", err)
	}
	for _, file := range files {
		f := &function{name: filepath.Base(filepath.Dir(file)), running: make(chan struct{}, 1)}
		f.problem = a.index(f, file)
		a.functions = append(a.functions, f)
	}
	return a, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read file %s: %w", path, err)
	}
	return nil
}

// function is one folder with a function.json.
type function struct {
	name    string
	binding string // the trigger's name
	problem error  // why it was not indexed

	route   string // of an HTTP function, without slashes around it
	methods []string
	out     string // the http output's name

	schedule cron.Schedule // of a timer function
	monitor  bool          // its status is kept and shown
	running  chan struct{} // holds one token: a timer never overlaps itself
	status   timerStatus   // under Host.mu
}

func (f *function) isTimer() bool { return f.schedule != nil }

// binding is one entry of function.json.
type binding struct {
	Type         string   `json:"type"`
	Direction    string   `json:"direction"`
	Name         string   `json:"name"`
	AuthLevel    string   `json:"authLevel"`
	Methods      []string `json:"methods"`
	Route        string   `json:"route"`
	Schedule     string   `json:"schedule"`
	RunOnStartup bool     `json:"runOnStartup"`
	UseMonitor   *bool    `json:"useMonitor"`
}

// index reads f from its file. The error says why it cannot run.
func (a *app) index(f *function, file string) error {
	var content struct{ Bindings []binding }
	if err := readJSON(file, &content); err != nil {
		return err
	}
	is := func(i int, kind, direction string) bool {
		b := content.Bindings[i]
		return strings.EqualFold(b.Type, kind) && strings.EqualFold(b.Direction, direction)
	}
	switch n := len(content.Bindings); {
	case n == 1 && is(0, "timerTrigger", "in"):
		return f.indexTimer(content.Bindings[0])
	case n == 2 && is(0, "httpTrigger", "in") && is(1, "http", "out"):
		return f.indexHTTP(content.Bindings[0], content.Bindings[1], a.host.Extensions.HTTP.RoutePrefix)
	}
	return errors.New("bindings: want a timerTrigger, or an httpTrigger and then an http output")
}

func (f *function) indexHTTP(in, out binding, prefix string) error {
	if !strings.EqualFold(in.AuthLevel, "anonymous") || strings.Contains(in.Route, "{") {
		return fmt.Errorf("httpTrigger with authLevel %q and route %q: want anonymous and a plain path", in.AuthLevel, in.Route)
	}
	f.binding, f.out = in.Name, out.Name
	f.route = strings.Trim(path.Join(prefix, cmp.Or(in.Route, f.name)), "/")
	for _, m := range in.Methods {
		f.methods = append(f.methods, strings.ToUpper(m))
	}
	return nil
}

func (f *function) indexTimer(b binding) error {
	parser := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	schedule, err := parser.Parse(b.Schedule)
	if err != nil {
		return fmt.Errorf("schedule %q: %w", b.Schedule, err)
	}
	if b.RunOnStartup {
		return errors.New("runOnStartup: this stand-in does not have it")
	}
	first := schedule.Next(time.Unix(0, 0).UTC())
	often := schedule.Next(first).Sub(first) < time.Minute
	f.binding, f.schedule = b.Name, schedule
	f.monitor = !often && (b.UseMonitor == nil || *b.UseMonitor)
	return nil
}

// function finds one by name, in any letter case.
func (a *app) function(name string) *function {
	i := slices.IndexFunc(a.functions, func(f *function) bool { return f.problem == nil && strings.EqualFold(f.name, name) })
	if i < 0 {
		return nil
	}
	return a.functions[i]
}

// match finds the function whose route path has, in any letter case and with or
// without a slash at the end.
func (a *app) match(method, path string) *function {
	for _, f := range a.functions {
		if f.problem == nil && !f.isTimer() && strings.EqualFold(f.route, strings.Trim(path, "/")) &&
			(len(f.methods) == 0 || slices.Contains(f.methods, method)) {
			return f
		}
	}
	return nil
}
