package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// What a tick may assume where nobody says how long it may run: the least
	// default of any plan (Consumption). Source: "Azure Functions hosting
	// options", function app timeout.
	leastTimeout = 5 * time.Minute
	// What it takes where the host sets no limit ("-1"): a tick that never
	// ended would hold back every later one.
	unlimitedTimeout = 30 * time.Minute
	// The margin to the host's deadline, for which the host kills the whole
	// process: a tenth, but enough to end a request to a slow service, and at
	// most half.
	marginPart, leastMargin = 10, 30 * time.Second
	// These files take a few kilobytes.
	maxFileBytes = 1 << 20
)

// AppRoot returns the folder that holds host.json: what the host says in
// FUNCTIONS_APP_ROOT_PATH, else the working directory. get has the shape of
// [os.LookupEnv].
func AppRoot(get func(string) (string, bool)) string {
	if root, _ := get("FUNCTIONS_APP_ROOT_PATH"); root != "" {
		return root
	}
	return "."
}

// TickTimeout returns how long a tick may take: the host's functionTimeout, as
// the app setting AzureFunctionsJobHost__functionTimeout or the file host.json
// in root gives it, less a margin. Where neither gives one that can be read it
// is the least that any plan allows; then the error says what is wrong and the
// duration is good nevertheless.
func TickTimeout(root string, get func(string) (string, bool)) (time.Duration, error) {
	const setting = "AzureFunctionsJobHost__functionTimeout"
	value, _ := get(setting)
	source := setting
	if strings.TrimSpace(value) == "" {
		source = "functionTimeout in host.json"
		var file struct{ FunctionTimeout *string }
		if err := readJSON(filepath.Join(root, "host.json"), &file); err != nil {
			return lessMargin(leastTimeout), fmt.Errorf("read host.json: %w", err)
		}
		if file.FunctionTimeout == nil {
			return lessMargin(leastTimeout), nil
		}
		value = *file.FunctionTimeout
	}
	timeout, ok := parseTimeSpan(strings.TrimSpace(value))
	if !ok {
		return lessMargin(leastTimeout), errors.New(source + ` is not a time: write it as hh:mm:ss, like "00:10:00"`)
	}
	return lessMargin(timeout), nil
}

func lessMargin(timeout time.Duration) time.Duration {
	return timeout - min(max(timeout/marginPart, leastMargin), timeout/2)
}

// The forms of a .NET TimeSpan that make sense here: [d.]hh:mm[:ss[.fffffff]].
var timeSpan = regexp.MustCompile(`^(?:(\d{1,4})\.)?(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d{1,7})?))?$`)

// parseTimeSpan reads a functionTimeout; "-1" is no limit.
func parseTimeSpan(v string) (time.Duration, bool) {
	if v == "-1" {
		return unlimitedTimeout, true
	}
	m := timeSpan.FindStringSubmatch(v)
	if m == nil {
		return 0, false
	}
	var part [4]float64 // days, hours, minutes, seconds; absent is 0
	for i, text := range m[1:] {
		part[i], _ = strconv.ParseFloat(text, 64)
	}
	if part[1] >= 24 || part[2] >= 60 || part[3] >= 60 {
		return 0, false
	}
	seconds := ((part[0]*24+part[1])*60+part[2])*60 + part[3]
	// The host itself refuses less than a second.
	return time.Duration(math.Round(seconds * float64(time.Second))), seconds >= 1
}

// ReadLocalSettings returns the Values of a local.settings.json, for commands
// on a developer's machine; the host hands them to the process itself. A
// missing file is an error that is [os.ErrNotExist]. No error quotes a value.
func ReadLocalSettings(path string) (map[string]string, error) {
	var file struct {
		IsEncrypted bool
		Values      map[string]any
	}
	if err := readJSON(path, &file); err != nil {
		return nil, fmt.Errorf("read local settings: %w", err)
	}
	if file.IsEncrypted {
		return nil, fmt.Errorf("read local settings: the values in %s are encrypted: run func settings decrypt", filepath.Base(path))
	}
	values := make(map[string]string, len(file.Values))
	for name, v := range file.Values {
		switch v := v.(type) {
		case string:
			values[name] = v
		case bool, json.Number:
			values[name] = fmt.Sprint(v)
		case nil:
		default:
			return nil, fmt.Errorf("read local settings: the value of %s is not a string", name)
		}
	}
	return values, nil
}

// readJSON decodes a file as the host's tooling reads its own: a byte order
// mark and comments are no fault. Its errors quote nothing of the file.
func readJSON(path string, to any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(stripComments(data)))
	decoder.UseNumber()
	if err := decoder.Decode(to); err != nil {
		return fmt.Errorf("%s is not JSON of the expected form", filepath.Base(path))
	}
	return nil
}

// stripComments returns JSON text without byte order mark and with blanks in
// place of // and /* */ comments.
func stripComments(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	out := bytes.Clone(data)
	blank := func(from, to int) int {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
		return to
	}
	end := func(from int, mark string) int { // behind mark, or the end of the text
		if n := bytes.Index(data[from:], []byte(mark)); n >= 0 {
			return from + n + len(mark)
		}
		return len(data)
	}
	for i := 0; i < len(data); {
		rest := data[i:]
		switch {
		case data[i] == '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			i++
		case bytes.HasPrefix(rest, []byte("//")):
			i = blank(i, end(i, "\n"))
		case bytes.HasPrefix(rest, []byte("/*")):
			i = blank(i, end(i+2, "*/"))
		default:
			i++
		}
	}
	return out
}
