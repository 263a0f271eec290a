package cosmos

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
)

// FuzzAnswer classifies any refusal, whoever it is from. The wait is bounded, the
// text fit for a log, and only the account itself can say that a document is to
// be given up.
func FuzzAnswer(f *testing.F) {
	f.Add(400, "1001", "", "0f6a9d0e-5d6b-4f52-a2f1-7b9b6f1c0001", `{"code":"BadRequest","message":"x"}`, true)
	f.Add(403, "1014", "-1", "", `{"message":"type=master&sig=c2ln"}`, true)
	f.Add(429, "3200", "9223372036854775807", "a", "", true)
	f.Add(401, "\x1b[31m"+strings.Repeat("0", 500), "1e9", "\u202e\u009b", `{"message":["x"]}`, true)
	f.Add(404, "", "0", "", "<html>Bearer abcdefgh12345", false)
	f.Add(413, "1", "", "", `{"message":"`+strings.Repeat("é", 400)+`"}`, false)
	f.Fuzz(func(t *testing.T, status int, subStatus, wait, activity, body string, own bool) {
		header := http.Header{}
		header.Set("x-ms-substatus", subStatus)
		header.Set("x-ms-retry-after-ms", wait)
		if own {
			header.Set("x-ms-request-charge", "1")
			header.Set("x-ms-activity-id", activity)
		}
		resp := &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}
		fault, hint := classify("test", fmt.Errorf("wrapped: %w", &azcore.ResponseError{StatusCode: status, RawResponse: resp}))
		if hint < 0 || hint > longestHint {
			t.Errorf("waits %v for %q", hint, wait)
		}
		switch fault.Kind {
		case Refused, OtherKey, TooLarge, NotFound, Denied:
			if !own {
				t.Errorf("status %d of another ends as %v", status, fault.Kind)
			}
		}
		if text := fault.Error(); len(text) > 800 || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
			t.Errorf("unfit text %q", text)
		}
		if KindOf(errors.Join(fault)) != fault.Kind || fault.Kind.String() == "" {
			t.Errorf("kind %d", fault.Kind)
		}
	})
}
