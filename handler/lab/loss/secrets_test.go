package loss_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"activityarchive/handler/lab/tenant"
)

// previousAuthID is accepted beside authID where a row says so. Each of the
// escapings changes it.
const previousAuthID = `synthetic previous/auth+id="0000"&<x>`

// secrets are what no output of a row may hold: the keys themselves, and what
// begins every token and signature, whichever was issued.
func secrets() []string {
	decoded, _ := base64.StdEncoding.DecodeString(accountKey)
	return []string{
		authID, previousAuthID, accountKey, string(decoded), tenant.DefaultAppSecret,
		tokenHead, tokenBody, "type=master&", "&sig=",
	}
}

// Every access token of the tenant begins with tokenHead, and the second of its
// parts with tokenBody.
const (
	tokenHead = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
	tokenBody = "eyJhdWQiOi"
)

// leaks returns which of the secrets text holds, in any form.
func leaks(text string, secrets ...string) (found []string) {
	for _, secret := range secrets {
		all := forms(secret)
		for _, form := range slices.Sorted(maps.Keys(all)) {
			if strings.Contains(text, all[form]) {
				found = append(found, secret+" "+form)
				break
			}
		}
	}
	return found
}

// forms are the ways in which a secret may stand in a text.
func forms(secret string) map[string]string {
	html, _ := json.Marshal(secret) // a string always encodes
	var plain strings.Builder
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(secret)
	inner := func(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }
	twice, _ := json.Marshal(inner(plain.String()))
	all := map[string]string{
		"as it is":             secret,
		"escaped for a query":  url.QueryEscape(secret),
		"escaped for a path":   url.PathEscape(secret),
		"as JSON":              inner(plain.String()),
		"as JSON for HTML":     inner(string(html)),
		"as JSON within JSON":  inner(string(twice)),
		"escaped, lower case":  lowerEscapes(url.QueryEscape(secret)),
		"escaped twice":        url.QueryEscape(url.QueryEscape(secret)),
		"base64, escaped":      url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(secret))),
		"base64 of its escape": base64.RawStdEncoding.EncodeToString([]byte(url.QueryEscape(secret)))[:len(secret)],
	}
	// Inside a longer text base64 has three spellings, by where the secret begins.
	// What depends on its neighbours is left out.
	for at := range 3 {
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, at), secret...))
			all[name+" at "+string(rune('0'+at))] = text[(at*8+5)/6 : (at+len(secret))*8/6]
		}
	}
	return all
}

// lowerEscapes spells the digits of percent escapes in lower case.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], strings.ToLower(string(b[i+1:i+3])))
		}
	}
	return string(b)
}

// TestLeaks shows that a secret is found in each form, wherever it stands, and
// that every token is known by its beginning.
func TestLeaks(t *testing.T) {
	for _, secret := range secrets() {
		for _, before := range []string{"", "a", "ab", "abc"} {
			whole := before + secret + "tail"
			inJSON, err := json.Marshal(whole)
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{
				"plain":     whole,
				"base64":    base64.StdEncoding.EncodeToString([]byte(whole)),
				"base64url": base64.RawURLEncoding.EncodeToString([]byte(whole)),
				"query":     url.QueryEscape(whole),
				"path":      url.PathEscape(whole),
				"JSON":      string(inJSON),
			} {
				if len(leaks("before "+text+" after", secret)) == 0 {
					t.Errorf("%s, %s, after %q: not found", secret, name, before)
				}
			}
		}
		if found := leaks(`{"level":"INFO","msg":"tick","outcome":"ok","owner":"process 0"}`, secret); len(found) > 0 {
			t.Errorf("found %q in a clean line", found)
		}
	}
	run(t, nil, func(t *testing.T, s *system) {
		token, err := credential{&http.Client{Transport: wire{s.tenant.Handler()}}}.GetToken(t.Context(), tokenScope())
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(token.Token, ".")
		if len(parts) != 3 || parts[0] != tokenHead || !strings.HasPrefix(parts[1], tokenBody) {
			t.Errorf("the tenant's tokens do not look as expected")
		}
		if found := leaks(token.Token, secrets()...); len(found) != 2 || !strings.HasPrefix(found[0], tokenHead) || !strings.HasPrefix(found[1], tokenBody) {
			t.Errorf("in a token %q were found", found)
		}
	})
}
