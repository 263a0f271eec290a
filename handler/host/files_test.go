package host

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTickTimeout(t *testing.T) {
	tests := []struct {
		name, file, setting string
		want                time.Duration
		problem             bool
	}{
		{"ten minutes", `{"functionTimeout":"00:10:00"}`, "", 9 * time.Minute, false},
		{"byte order mark and comments", "\xef\xbb\xbf{ // a \"comment\"\n \"x\": \"//no\\\"//\", /* another */ \"functionTimeout\" : \"00:20:00\" }", "", 18 * time.Minute, false},
		{"setting goes first", `{"functionTimeout":"00:10:00"}`, "00:30:00", 27 * time.Minute, false},
		{"no limit", `{"functionTimeout":"-1"}`, "", 27 * time.Minute, false},
		{"none given", `{"version":"2.0"}`, "", leastTimeout - 30*time.Second, false},
		{"null", `{"functionTimeout":null}`, "", leastTimeout - 30*time.Second, false},
		{"a minute: the least margin", `{"functionTimeout":"00:01:00"}`, "", 30 * time.Second, false},
		{"short: half", `{"functionTimeout":"00:00:10"}`, "", 5 * time.Second, false},
		{"days, no seconds", `{"functionTimeout":"1.00:00"}`, "", 24*time.Hour - 144*time.Minute, false},
		{"fraction", "", "00:10:00.5000000", 9*time.Minute + 450*time.Millisecond, false},
		{"zero", `{"functionTimeout":"00:00:00"}`, "", leastTimeout - 30*time.Second, true},
		{"61 minutes", `{"functionTimeout":"00:61:00"}`, "", leastTimeout - 30*time.Second, true},
		{"a word", `{"functionTimeout":"long"}`, "", leastTimeout - 30*time.Second, true},
		{"a number", `{"functionTimeout":600}`, "", leastTimeout - 30*time.Second, true},
		{"setting a word", `{"functionTimeout":"00:10:00"}`, "10m", leastTimeout - 30*time.Second, true},
		{"no JSON", `functionTimeout: 10`, "", leastTimeout - 30*time.Second, true},
		{"no file", "", "", leastTimeout - 30*time.Second, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if tt.file != "" {
				root = filepath.Dir(write(t, "host.json", tt.file))
			}
			got, err := TickTimeout(root, func(name string) (string, bool) {
				return tt.setting, name == "AzureFunctionsJobHost__functionTimeout" && tt.setting != ""
			})
			if got != tt.want || (err != nil) != tt.problem {
				t.Errorf("TickTimeout = %v, %v; want %v, problem %v", got, err, tt.want, tt.problem)
			}
		})
	}
}

func TestAppRoot(t *testing.T) {
	if got := AppRoot(func(string) (string, bool) { return "", false }); got != "." {
		t.Errorf("AppRoot = %q, want the working directory", got)
	}
	if got := AppRoot(func(n string) (string, bool) { return "/app", n == "FUNCTIONS_APP_ROOT_PATH" }); got != "/app" {
		t.Errorf("AppRoot = %q", got)
	}
}

func TestReadLocalSettings(t *testing.T) {
	got, err := ReadLocalSettings(write(t, "local.settings.json", "\xef\xbb\xbf{\n// mine\n\"IsEncrypted\": false, \"Values\": {\"A\": \"https://x/*y*/\", \"N\": 2000, \"B\": true, \"Z\": null},\n\"Host\": {\"CORS\": \"*\"}}"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"A": "https://x/*y*/", "N": "2000", "B": "true"}, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if _, err := ReadLocalSettings(filepath.Join(t.TempDir(), "local.settings.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v, want ErrNotExist", err)
	}
	for name, text := range map[string]string{
		"encrypted":    `{"IsEncrypted":true,"Values":{"A":"tell-no-one"}}`,
		"nested value": `{"Values":{"A":{"tell-no-one":"x"}}}`,
		"no JSON":      `{"Values":{"A":"tell-no-one"`,
		"unclosed":     `{"Values":{} /* tell-no-one`,
	} {
		switch values, err := ReadLocalSettings(write(t, "local.settings.json", text)); {
		case name == "unclosed":
			// A comment that runs to the end hides the closing brace.
			if err == nil {
				t.Error("unclosed comment: no error")
			}
		case err == nil || values != nil || strings.Contains(err.Error(), "tell-no-one"):
			t.Errorf("%s: %v, %v", name, values, err)
		}
	}
	// The example that is handed out can be read as it is.
	if values, err := ReadLocalSettings("../../local.settings.json.example"); err != nil || values["FUNCTIONS_WORKER_RUNTIME"] != "custom" {
		t.Errorf("example: %v, %v", values, err)
	}
}

func FuzzStripComments(f *testing.F) {
	f.Add([]byte(`{"a":"\\"// "/*`))
	f.Add([]byte("\xef\xbb\xbf//\n1"))
	f.Add([]byte(`"\`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := stripComments(data)
		if json.Valid(data) && string(got) != string(data) {
			t.Errorf("JSON without comments was changed: %q to %q", data, got)
		}
	})
}

// The files that ship hold to what keeps the envelope paths out of a
// stranger's reach and both functions alive.
func TestShippedFiles(t *testing.T) {
	var host struct {
		Version         string
		FunctionTimeout string
		Retry           json.RawMessage
		Extensions      struct {
			HTTP struct{ RoutePrefix string }
		}
		CustomHandler struct {
			Description                 struct{ DefaultExecutablePath string }
			EnableForwardingHTTPRequest bool
			EnableProxyingHTTPRequest   bool
			Port, HTTP                  json.RawMessage
		}
		ConfigurationProfile string
		Logging              struct {
			ApplicationInsights struct {
				SamplingSettings struct{ ExcludedTypes string }
			}
		}
	}
	strict(t, "host.json", &host)
	if host.Version != "2.0" || host.FunctionTimeout != "00:10:00" || host.Retry != nil {
		t.Errorf("host.json: version %q, functionTimeout %q (more than 10 minutes is refused by some plans), retry %s", host.Version, host.FunctionTimeout, host.Retry)
	}
	if p := host.Extensions.HTTP.RoutePrefix; p != "api" {
		t.Errorf("routePrefix %q: with none a stranger could reach POST /timer", p)
	}
	c := host.CustomHandler
	if !c.EnableForwardingHTTPRequest || !c.EnableProxyingHTTPRequest || c.Port != nil || c.HTTP != nil || host.ConfigurationProfile != "" {
		t.Errorf("customHandler %+v: both flags, no fixed port, no routes, no profile", c)
	}
	if got := host.Logging.ApplicationInsights.SamplingSettings.ExcludedTypes; got != "Request;Exception" {
		t.Errorf("sampling excludes %q: failed ticks must not be sampled away", got)
	}
	path := c.Description.DefaultExecutablePath
	if path != "handler/handler" {
		t.Errorf("defaultExecutablePath %q", path)
	}
	if makefile, err := os.ReadFile("../../Makefile"); err == nil {
		if !strings.Contains(string(makefile), path) {
			t.Errorf("the Makefile does not build %s", path)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	var hook, timer function
	strict(t, "webhook/function.json", &hook)
	strict(t, "timer/function.json", &timer)
	want := function{Bindings: []binding{
		{Type: "httpTrigger", Direction: "in", Name: webhookBinding, AuthLevel: "anonymous", Methods: []string{"post"}, Route: "webhook"},
		{Type: "http", Direction: "out", Name: webhookOutput}, // a second output would turn forwarding off
	}}
	if diff := cmp.Diff(want, hook); diff != "" {
		t.Errorf("webhook/function.json (-want +got):\n%s", diff)
	}
	yes, no := true, false
	want = function{Bindings: []binding{{Type: "timerTrigger", Direction: "in", Name: "tick", Schedule: "0 */5 * * * *", UseMonitor: &yes, RunOnStartup: &no}}}
	if diff := cmp.Diff(want, timer); diff != "" {
		t.Errorf("timer/function.json (-want +got):\n%s", diff)
	}

	// A function.json anywhere else would be one more function.
	all, err := filepath.Glob("../../*/function.json")
	if err != nil || len(all) != 2 {
		t.Errorf("functions %v, want webhook and timer alone", all)
	}
}

type function struct {
	Bindings []binding
	Retry    json.RawMessage // the next tick is the retry
	Disabled *bool
}

type binding struct {
	Type, Direction, Name    string
	AuthLevel, Route         string
	Methods                  []string
	Schedule                 string
	UseMonitor, RunOnStartup *bool
}

// strict decodes a shipped file; a member that to does not know is an error in
// a function.json, where each one changes what the host does.
func strict(t *testing.T, name string, to any) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	if strings.HasSuffix(name, "function.json") {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(to); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Whatever stands for functionTimeout, a tick has a deadline that makes sense.
func FuzzTickTimeout(f *testing.F) {
	for _, v := range []string{"00:10:00", "-1", "9999.23:59:59.9999999", "0:0:1", "00:00:00.0000001", "1e9"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := TickTimeout(t.TempDir(), func(string) (string, bool) { return value, true })
		if got < time.Second/2 || got > 10_000*24*time.Hour || err != nil && got != lessMargin(leastTimeout) {
			t.Errorf("%q gives %v, %v", value, got, err)
		}
	})
}
