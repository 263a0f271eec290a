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

	// One bad item beside a good one. Nothing is wrong with it but what its name
	// says: its contentUri ends in its contentId, which is not its neighbour's.
	id := good.ID + "$hostile"
	const nameless = "$IsFromNotification" // a suffix that says nothing: what is left of the id is empty
	huge := strings.Repeat("9$", 2048)
	for _, bad := range []struct {
		name string
		item map[string]string // what differs
	}{
		{"another tenant", map[string]string{"tenantId": "7a10c0de-00ff-4000-8000-0000000000ff"}},
		{"another application", map[string]string{"clientId": "7a10c0de-00fe-4000-8000-0000000000fe"}},
		{"an unknown type", map[string]string{"contentType": "Audit.Harbor"}},
		{"no id", map[string]string{"contentId": "", "contentUri": t.origin + feed + nameless}},
		{"a huge id", map[string]string{"contentId": huge, "contentUri": t.origin + feed + huge}},
		{"a huge uri", map[string]string{"contentUri": t.origin + feed + id + "?x=" + huge}},
		{"an id that is not the uri's", map[string]string{"contentUri": t.origin + feed + id + "x"}},
		{"no uri", map[string]string{"contentId": nameless, "contentUri": ""}},
		{"a uri of another host", uri("https://attacker.example" + feed + id)},
		{"a uri of another scheme", uri("http://" + origin.Host + feed + id)},
		{"a uri of another port", uri("https://" + origin.Hostname() + ":9" + feed + id)},
		{"a uri with userinfo", uri("https://" + origin.Host + "@attacker.example" + feed + id)},
		{"a uri with a user", uri("https://user@" + origin.Host + feed + id)},
		{"a uri of a longer host", uri("https://" + origin.Hostname() + ".attacker.example" + feed + id)},
		{"a uri with a dot after the host", uri("https://" + origin.Hostname() + "." + feed + id)},
		{"a uri with a backslash", uri(`https://` + origin.Host + `\@attacker.example` + feed + id)},
		{"a uri without a scheme", uri("//" + origin.Host + feed + id)},
		{"a uri of another tenant", uri(t.origin + "/api/v1.0/7a10c0de-00ff-4000-8000-0000000000ff/activity/feed/audit/" + id)},
		{"a uri with dots", uri(t.origin + feed + "../subscriptions/list")},
		{"a uri with escaped dots", uri(t.origin + feed + "%2e%2e/subscriptions/list")},
		{"a uri with twice escaped dots", uri(t.origin + feed + "%252e%252e%252fsubscriptions/list")},
		{"a uri with an escaped slash", uri(t.origin + feed + "x%2f..%2f" + id)},
		{"a uri with an escaped backslash", uri(t.origin + feed + "..%5c" + id)},
		{"a uri with a double slash", uri(t.origin + "/" + feed + id)},
		{"a uri of an operation", uri(t.feed() + "/subscriptions/stop?contentType=" + good.Type)},
		{"a uri with a fragment", uri(t.origin + feed + id + "#fragment")},
		{"a uri with a control character", uri(t.origin + feed + id + "\r\nX-Injected: yes")},
	} {
		item := t.pointer(&good)
		item["contentId"], item["contentUri"] = id, t.origin+feed+id
		for field, value := range bad.item {
			item[field] = value
		}
		h := whole(bad.name, authID, text([]any{item, t.pointer(&good)}))
		h.Keeps = []string{good.ID}
		list = append(list, h)
	}
	return list
}

// uri makes an item point to uri, with the id that stands at its end.
func uri(uri string) map[string]string {
	item := map[string]string{"contentUri": uri}
	if u, err := url.Parse(uri); err == nil {
		item["contentId"] = u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	}
	return item
}

// spaces reads as white space without end.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
