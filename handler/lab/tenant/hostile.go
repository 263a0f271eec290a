package tenant

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A Hostile is one request to a webhook that the service does not send.
type Hostile struct {
	Name   string
	AuthID string           // sent as Webhook-AuthID; "": none
	Header http.Header      // further headers
	Body   func() io.Reader // a new body at every call; it may be endless in all but name
	// Keeps are the contents among it that are in order and must be kept
	// although their neighbours are not.
	Keeps []string
}

// Send posts a hostile request to address and returns the status of the answer.
// An error is normal where the receiver hangs up on a large body.
func (t *Tenant) Send(ctx context.Context, address string, h Hostile) (int, error) {
	header := http.Header{"Content-Type": {"application/json; utf-8"}}
	for name, values := range h.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	return t.post(ctx, address, h.AuthID, header, h.Body(), time.Minute)
}

// Hostile makes requests that a receiver must refuse in whole or in part. AuthID
// is the right one; good is a content in order.
func (t *Tenant) Hostile(authID string, good Content) []Hostile {
	t.mu.Lock()
	defer t.mu.Unlock()
	origin, _ := url.Parse(t.origin)
	feed := "/api/v1.0/" + t.cfg.ID + "/activity/feed/audit/"
	text := func(v any) string {
		raw, _ := json.Marshal(v) // maps and slices of strings
		return string(raw)
	}
	whole := func(name, authID, body string) Hostile {
		return Hostile{Name: name, AuthID: authID, Body: func() io.Reader { return strings.NewReader(body) }}
	}
	honest := text([]any{t.pointer(&good)})
	list := []Hostile{
		whole("no AuthID", "", honest),
		whole("forged AuthID", authID+"x", honest),
		whole("AuthID in another case", strings.ToUpper(authID), honest),
		whole("an object", authID, text(t.pointer(&good))),
		whole("empty", authID, ""),
		whole("no JSON", authID, "<html>"),
		whole("cut short", authID, honest[:len(honest)-7]),
		whole("array of other things", authID, `[1,"two",null,[],true]`),
		whole("nested too deep", authID, strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)),
		whole("validation without its header", authID, `{"validationCode":"synthetic"}`),
		whole("100,000 items", authID, "["+strings.Repeat(text(t.pointer(&good))+",", 99_999)+text(t.pointer(&good))+"]"),
		{Name: "1 GiB", AuthID: authID, Body: func() io.Reader {
			return io.MultiReader(strings.NewReader("["), io.LimitReader(spaces{}, 1<<30), strings.NewReader("]"))
		}},
		{Name: "compressed", AuthID: authID, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: func() io.Reader {
			var packed bytes.Buffer
			packer := gzip.NewWriter(&packed)
			_, _ = packer.Write([]byte(honest))
			_ = packer.Close()
			return &packed
		}},
	}
	forged := whole("validation with a forged AuthID", authID+"x", `{"validationCode":"synthetic"}`)
	forged.Header = http.Header{"Webhook-ValidationCode": {"synthetic"}}
	unequal := whole("validation with two codes", authID, `{"validationCode":"synthetic"}`)
	unequal.Header = http.Header{"Webhook-ValidationCode": {"another"}}
	list = append(list, forged, unequal)

	// One bad item beside a good one.
	id := url.PathEscape(good.ID)
	for _, bad := range []struct{ name, field, value string }{
		{"another tenant", "tenantId", "7a10c0de-00ff-4000-8000-0000000000ff"},
		{"another application", "clientId", "7a10c0de-00fe-4000-8000-0000000000fe"},
		{"an unknown type", "contentType", "Audit.Harbor"},
		{"no id", "contentId", ""},
		{"a huge id", "contentId", strings.Repeat("9$", 4096)},
		{"a date that is none", "contentCreated", "yesterday"},
		{"no uri", "contentUri", ""},
		{"a uri of another host", "contentUri", "https://attacker.example" + feed + good.ID},
		{"a uri of another scheme", "contentUri", "http://" + origin.Host + feed + good.ID},
		{"a uri of another port", "contentUri", "https://" + origin.Hostname() + ":9" + feed + good.ID},
		{"a uri with userinfo", "contentUri", "https://" + origin.Host + "@attacker.example" + feed + good.ID},
		{"a uri with a user", "contentUri", "https://user@" + origin.Host + feed + good.ID},
		{"a uri of a longer host", "contentUri", "https://" + origin.Hostname() + ".attacker.example" + feed + good.ID},
		{"a uri with a dot after the host", "contentUri", "https://" + origin.Hostname() + "." + feed + good.ID},
		{"a uri with a backslash", "contentUri", `https://` + origin.Host + `\@attacker.example` + feed + good.ID},
		{"a uri without a scheme", "contentUri", "//" + origin.Host + feed + good.ID},
		{"a uri of another tenant", "contentUri", t.origin + "/api/v1.0/7a10c0de-00ff-4000-8000-0000000000ff/activity/feed/audit/" + good.ID},
		{"a uri with dots", "contentUri", t.origin + feed + "../subscriptions/list"},
		{"a uri with escaped dots", "contentUri", t.origin + feed + "%2e%2e/subscriptions/list"},
		{"a uri with twice escaped dots", "contentUri", t.origin + feed + "%252e%252e%252fsubscriptions/list"},
		{"a uri with an escaped slash", "contentUri", t.origin + feed + "x%2f..%2f" + id},
		{"a uri with an escaped backslash", "contentUri", t.origin + feed + "..%5c" + id},
		{"a uri with a double slash", "contentUri", t.origin + "/" + feed + good.ID},
		{"a uri of an operation", "contentUri", t.feed() + "/subscriptions/stop?contentType=" + good.Type},
		{"a uri with a fragment", "contentUri", t.origin + feed + good.ID + "#fragment"},
		{"a uri with a control character", "contentUri", t.origin + feed + good.ID + "\r\nX-Injected: yes"},
	} {
		item := t.pointer(&good)
		item["contentId"] = good.ID + "$hostile" // else it would be a copy of its neighbour
		item[bad.field] = bad.value
		h := whole(bad.name, authID, text([]any{item, t.pointer(&good)}))
		h.Keeps = []string{good.ID}
		list = append(list, h)
	}
	return list
}

// spaces reads as white space without end.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
