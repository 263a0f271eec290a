package activity

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

const (
	// maxPage bounds one page of a listing: some 60,000 contents. The service
	// documents no page size; pages seen hold up to a few hundred.
	maxPage = 32 << 20
	// maxSmall bounds every answer that is neither a page nor a content.
	maxSmall = 1 << 20
	// retention is how long the service keeps content. Source: its
	// documentation. Used only where an item does not say.
	retention = 7 * 24 * time.Hour
	// maxDrain bounds what is read after the end of an array.
	maxDrain = 4 << 10
	// maxName bounds a contentId and a contentUri. Those seen have some 150 and
	// 250 bytes.
	maxName = 2048
	// unnamed begins the ContentID of an item that has no usable contentId; the
	// item's SHA-256 follows.
	unnamed = "item:"
)

// Content is a pointer to one body of records, as a listing gives it.
type Content struct {
	ContentType string
	ContentID   string // opaque
	ContentURI  string // where Open gets it: passed CheckContentURI
	Created     time.Time
	Expires     time.Time // Created plus 7 days if the service names none
}

// Subscription is the service's view of one content type.
type Subscription struct {
	ContentType string
	Status      string               // "enabled", "disabled", or "" if the service names none
	Webhook     *SubscriptionWebhook // nil if there is none
}

// SubscriptionWebhook is the webhook of a subscription as the service has it.
type SubscriptionWebhook struct {
	Address    string
	AuthID     AuthID    // empty if there is none
	Expiration time.Time // zero: never
	Status     string    // "enabled", "disabled" or "expired"
}

// Webhook is the webhook that a subscription should have.
type Webhook struct {
	Address    string    // https
	AuthID     AuthID    // comes back with every notification as header Webhook-AuthID
	Expiration time.Time // zero: never
}

// AuthID is the secret that a notification carries. However it is printed,
// logged or encoded, its value does not appear; string(id) is the value.
type AuthID string

// Format implements [fmt.Formatter] for every verb.
func (AuthID) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redactedAuthID) }

// String returns a placeholder.
func (AuthID) String() string { return redactedAuthID }

// MarshalText returns a placeholder.
func (AuthID) MarshalText() ([]byte, error) { return []byte(redactedAuthID), nil }

// LogValue returns a placeholder.
func (AuthID) LogValue() slog.Value { return slog.StringValue(redactedAuthID) }

const redactedAuthID = "[redacted]"

// text is a JSON string where the service may also send null, another type or
// nothing, which all read as "".
type text string

// UnmarshalJSON never fails.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		s = ""
	}
	*t = text(s)
	return nil
}

// parseTime reads the service's times: UTC, with or without zone and fraction.
// Years before 2000 and the last of .NET's calendar are how that prints "no
// time", and count as none; later ones have no four digits in some zone.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil && t.UTC().Year() >= 2000 && t.UTC().Year() < 9999 {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// arrayStart returns r from the '[' of its JSON array on. If r holds something
// else, refused is the first part of that.
func arrayStart(r io.Reader) (array *bufio.Reader, refused []byte, err error) {
	b := bufio.NewReaderSize(r, 4<<10) // longer reads go past it
	const mark = "\uFEFF"
	if first, _ := b.Peek(1); string(first) == mark[:1] { // else do not wait for more
		if start, _ := b.Peek(len(mark)); string(start) == mark {
			_, _ = b.Discard(len(mark))
		}
	}
	for range maxErrorBody {
		first, err := b.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return nil, []byte{}, nil
		case err != nil:
			return nil, nil, err
		case first == '[':
			return b, nil, b.UnreadByte()
		case !bytes.ContainsRune([]byte(" \t\r\n"), rune(first)):
			_ = b.UnreadByte()
			refused, err = io.ReadAll(io.LimitReader(b, maxErrorBody))
			return nil, refused, err
		}
	}
	return nil, []byte{}, nil
}

// elements calls each with every element of the JSON array in r, as it stands.
// An error of each ends it and is returned.
func elements(r io.Reader, each func(json.RawMessage) error) error {
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return err
		}
		if err := each(element); err != nil {
			return err
		}
	}
	_, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		_, _ = io.CopyN(io.Discard, r, maxDrain) // to the end, so that the connection serves again
	}
	return err
}

// parseContent decodes one item of a listing. It never fails: an item that names its
// content badly, or not at all, becomes a Content that cannot be opened, so that
// whoever keeps account of contents can name it.
func parseContent(element json.RawMessage, contentType string, from time.Time) Content {
	var w struct {
		ContentID  text `json:"contentId"`
		ContentURI text `json:"contentUri"`
		Created    text `json:"contentCreated"`
		Expires    text `json:"contentExpiration"`
	}
	if err := json.Unmarshal(element, &w); err != nil { // not an object
		w.ContentID = ""
	}
	// contentType as it was asked for, so that a content has one spelling.
	c := Content{ContentType: contentType, ContentID: string(w.ContentID), ContentURI: string(w.ContentURI)}
	if c.ContentID == "" || len(c.ContentID) > maxName {
		c.ContentID = fmt.Sprintf("%s%x", unnamed, sha256.Sum256(element))
	}
	if len(c.ContentURI) > maxName {
		c.ContentURI = ""
	}
	var ok bool
	if c.Created, ok = parseTime(string(w.Created)); !ok {
		// The same at each listing, as far as that is possible.
		c.Created = from.Truncate(24 * time.Hour)
	}
	if c.Expires, ok = parseTime(string(w.Expires)); !ok {
		c.Expires = c.Created.Add(retention)
	}
	return c
}

// parseSubscription decodes one subscription. Only one without a contentType
// is no use.
func parseSubscription(element json.RawMessage) (s Subscription, ok bool) {
	var w struct {
		ContentType text            `json:"contentType"`
		Status      text            `json:"status"`
		Webhook     json.RawMessage `json:"webhook"`
	}
	if err := json.Unmarshal(element, &w); err != nil || w.ContentType == "" {
		return s, false
	}
	s = Subscription{ContentType: string(w.ContentType), Status: string(w.Status)}
	var hook struct {
		Address    text `json:"address"`
		AuthID     text `json:"authId"`
		Expiration text `json:"expiration"`
		Status     text `json:"status"`
	}
	// null, "" and a missing webhook are all seen for "none".
	if !bytes.HasPrefix(w.Webhook, []byte("{")) || json.Unmarshal(w.Webhook, &hook) != nil {
		return s, true
	}
	s.Webhook = &SubscriptionWebhook{Address: string(hook.Address), AuthID: AuthID(hook.AuthID), Status: string(hook.Status)}
	s.Webhook.Expiration, _ = parseTime(string(hook.Expiration))
	return s, true
}

// startBody is the body of a start request. Without a webhook it is empty.
func startBody(w *Webhook) ([]byte, error) {
	if w == nil {
		return nil, nil
	}
	var body struct {
		Webhook struct {
			Address    string `json:"address"`
			AuthID     string `json:"authId"`
			Expiration string `json:"expiration"`
		} `json:"webhook"`
	}
	body.Webhook.Address, body.Webhook.AuthID = w.Address, string(w.AuthID)
	if !w.Expiration.IsZero() {
		body.Webhook.Expiration = w.Expiration.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return json.Marshal(body)
}
