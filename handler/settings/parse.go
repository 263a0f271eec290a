package settings

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// flaw is what is wrong with a value and what to do about it.
type flaw struct{ what, remedy string }

// loader collects what Load finds.
type loader struct {
	get      func(string) (string, bool)
	bad      map[string]bool // settings that have a problem
	problems Problems
	notes    []string
}

func (l *loader) note(text string) { l.notes = append(l.notes, text) }

func (l *loader) report(name, what, remedy string) {
	l.bad[name] = true
	l.problems = append(l.problems, Problem{Setting: name, What: what, Remedy: remedy, Scope: describe(name).Scope})
}

// lookup returns what was given for a setting, without blanks around it, and
// whether that is anything.
func (l *loader) lookup(name string) (string, bool) { return Given(l.get, name) }

// Given returns what get has for a setting, as [Load] takes it: without blanks
// around it, and nothing for a placeholder of local.settings.json.example.
func Given(get func(string) (string, bool), name string) (string, bool) {
	v, _ := get(name)
	v = strings.TrimSpace(v)
	if v == "" || strings.HasPrefix(v, "<") && strings.HasSuffix(v, ">") {
		return "", false
	}
	return v, true
}

// read hands a setting's value, or its default, to parse and reports what is
// wrong with it. parse is not called where there is neither.
func (l *loader) read(name string, parse func(string) *flaw) {
	d := describe(name)
	v, ok := l.lookup(name)
	if !ok {
		v = d.Default
	}
	switch {
	case v == "" && d.Required:
		l.report(name, "is not set", "give it its value. "+d.Doc)
	case v == "":
	case isReference(v):
		l.report(name, "holds a reference that the platform did not resolve",
			"let the app's identity read it (role Key Vault Secrets User, or App Configuration Data Reader), check its spelling, then restart the app")
	case !isText(v):
		l.report(name, "holds a control character or is not UTF-8", "enter it again, on one line")
	default:
		if f := parse(v); f != nil {
			l.report(name, f.what, f.remedy)
		}
	}
}

// describe returns the entry of a setting. Every name that Load uses has one,
// which a test holds.
func describe(name string) Setting {
	i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return Setting{Name: name}
	}
	return all[i]
}

// isReference reports whether v is a reference as App Service leaves it when
// it can't resolve it. Source: "Use Key Vault references as app settings".
func isReference(v string) bool {
	v = strings.ToLower(v)
	return strings.HasPrefix(v, "@microsoft.keyvault(") || strings.HasPrefix(v, "@microsoft.appconfiguration(")
}

func isText(v string) bool {
	return utf8.ValidString(v) && !strings.ContainsFunc(v, unicode.IsControl)
}

var guidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func guid(to *string) func(string) *flaw {
	return func(v string) *flaw {
		v = strings.ToLower(v)
		if !guidForm.MatchString(v) {
			return &flaw{"is not a GUID", "give it as 8-4-4-4-12 hexadecimal digits"}
		}
		*to = v
		return nil
	}
}

// clientID takes a GUID or the word "system" (the system-assigned identity).
func clientID(to *string) func(string) *flaw {
	return func(v string) *flaw {
		if strings.EqualFold(v, systemIdentity) {
			*to = systemIdentity
			return nil
		}
		return guid(to)(v)
	}
}

func text(to *string) func(string) *flaw {
	return func(v string) *flaw {
		*to = v
		return nil
	}
}

func secret(to *Secret) func(string) *flaw {
	return func(v string) *flaw {
		*to = NewSecret(v)
		return nil
	}
}

// oneOf takes one of names in any case and keeps it as spelled in names.
func oneOf(to *string, names ...string) func(string) *flaw {
	return func(v string) *flaw {
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, v) })
		if i < 0 {
			return &flaw{"is not a value it can have", "set it to one of " + strings.Join(names, ", ")}
		}
		*to = names[i]
		return nil
	}
}

// boolean takes what azidentity takes for true, and the opposites.
func boolean(to *bool) func(string) *flaw {
	return func(v string) *flaw {
		b, err := strconv.ParseBool(strings.ToLower(v))
		if err != nil {
			return &flaw{"is neither true nor false", "set it to true or false"}
		}
		*to = b
		return nil
	}
}

func logLevel(to *slog.Level) func(string) *flaw {
	return func(v string) *flaw {
		var name string
		if f := oneOf(&name, "debug", "info", "warn", "error")(v); f != nil {
			return f
		}
		if err := to.UnmarshalText([]byte(name)); err != nil {
			return &flaw{"is not a level", "set it to info"}
		}
		return nil
	}
}

func contentTypeList(to *[]string) func(string) *flaw {
	return func(v string) *flaw {
		remedy := "list some of " + strings.Join(contentTypes, ", ") + ", each once, separated by commas"
		var list []string
		for i, item := range strings.Split(v, ",") {
			var name string
			if oneOf(&name, contentTypes...)(strings.TrimSpace(item)) != nil {
				return &flaw{fmt.Sprintf("has an item that is no content type (item %d)", i+1), remedy}
			}
			if slices.Contains(list, name) {
				return &flaw{"names " + name + " twice", remedy}
			}
			list = append(list, name)
		}
		*to = list
		return nil
	}
}

// duration takes a Go duration of at least low and, unless high is 0, at most
// high.
func duration(to *time.Duration, low, high time.Duration) func(string) *flaw {
	return func(v string) *flaw {
		d, err := time.ParseDuration(v)
		switch {
		case err != nil:
			return &flaw{"is not a duration", "write it like 1h, 90m or 2h30m"}
		case d < low:
			return &flaw{"is too short", fmt.Sprintf("set it to at least %v", low)}
		case high > 0 && d > high:
			return &flaw{"is too long", fmt.Sprintf("set it to at most %v", high)}
		}
		*to = d
		return nil
	}
}

func lifetime(to *time.Duration) func(string) *flaw {
	return func(v string) *flaw {
		if strings.EqualFold(v, "none") {
			*to = 0
			return nil
		}
		return duration(to, minLifetime, 0)(v)
	}
}

func integer(to *int, low, high int) func(string) *flaw {
	return func(v string) *flaw {
		n, err := strconv.Atoi(v)
		if err != nil || n < low || n > high {
			return &flaw{"is not a whole number in its range", fmt.Sprintf("set it to %d to %d", low, high)}
		}
		*to = n
		return nil
	}
}

// parseURL parses an absolute URL that has a host and none of what could hide
// a secret or mislead a reader: user, query, fragment. It returns nil if v is
// anything else. The parser's own error is dropped because it quotes v.
func parseURL(v string) *url.URL {
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || strings.ContainsAny(v, "?#") {
		return nil
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return nil
	}
	u.Host = strings.ToLower(u.Host)
	if u.Scheme == "https" {
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	return u
}

// origin takes an https URL without a path and keeps it as scheme and host.
func origin(to *string, example string) func(string) *flaw {
	return func(v string) *flaw {
		u := parseURL(v)
		if u == nil || u.Scheme != "https" || u.Path != "" && u.Path != "/" {
			return &flaw{"is not an https address of a host alone", "give scheme and host only, like " + example}
		}
		*to = u.Scheme + "://" + u.Host
		return nil
	}
}

func cosmosEndpoint(to *string) func(string) *flaw {
	return func(v string) *flaw {
		const remedy = "give the account's URI, like https://ACCOUNT.documents.azure.com:443/ (not the connection string)"
		u := parseURL(v)
		switch {
		case u == nil || u.Path != "" && u.Path != "/":
			return &flaw{"is not the address of an account", remedy}
		case u.Scheme != "https" && u.Scheme != "http":
			return &flaw{"does not begin with https", remedy}
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			return &flaw{"is http, which only an emulator on this machine may be", remedy}
		}
		*to = u.Scheme + "://" + u.Host + "/"
		return nil
	}
}

func cosmosKey(to *Secret) func(string) *flaw {
	return func(v string) *flaw {
		if raw, err := base64.StdEncoding.DecodeString(v); err != nil || len(raw) == 0 {
			return &flaw{"is not base64", "copy the account's primary or secondary key whole (the key, not the connection string)"}
		}
		*to = NewSecret(v)
		return nil
	}
}

// cosmosName takes a name of a database or container. Source: "Azure Cosmos DB
// service quotas", naming: no / \ ? # and no blank at the end.
func cosmosName(to *string) func(string) *flaw {
	return func(v string) *flaw {
		if len(v) > maxCosmosName || strings.ContainsAny(v, `/\?#`) {
			return &flaw{"is not a name that Cosmos DB allows", fmt.Sprintf(`use at most %d bytes and none of / \ ? #`, maxCosmosName)}
		}
		*to = v
		return nil
	}
}

// webhookAddress takes an https address. It has no query: the service passes
// the AuthID in a header, and a key in an address ends up in logs.
func webhookAddress(to *string) func(string) *flaw {
	return func(v string) *flaw {
		u := parseURL(v)
		if u == nil || u.Scheme != "https" || u.Path == "" || u.Path == "/" {
			return &flaw{"is not an https address with a path and without user, query and fragment", "set it like https://APP.azurewebsites.net" + webhookPath + ", or to none"}
		}
		*to = u.String()
		return nil
	}
}

func authID(to *Secret) func(string) *flaw {
	return func(v string) *flaw {
		switch {
		case strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }):
			return &flaw{"has a character that a header value should not carry", "use visible ASCII characters only, no blanks"}
		case len(v) < minAuthID || len(v) > maxAuthID:
			return &flaw{"is too short or too long", fmt.Sprintf("use %d to %d characters", minAuthID, maxAuthID)}
		}
		*to = NewSecret(v)
		return nil
	}
}
