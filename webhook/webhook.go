// Package webhook is the HTTP-triggered function: it receives the notifications
// of the Management Activity API.
//
// A notification is acknowledged when each of its contents is in the ledger, and
// not before. Then the process begins to collect them, as best effort: the host
// may kill it without notice, and what it leaves undone a tick finds.
//
// Everything that comes in is hostile until checked. Nothing here makes a
// request to an address that came in; the collector does, after the client has
// checked it again.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"activityarchive/handler/activity"
	"activityarchive/handler/collect"
	"activityarchive/handler/ledger"
)

const (
	// maxBody is the largest notification taken. An item has about 700 bytes, so
	// this is some 1,500 of them.
	maxBody = 1 << 20

	// answerTime bounds the work before the answer. The service's own patience
	// is not documented; one receiver reports five seconds for a validation,
	// which does no I/O here.
	answerTime = 15 * time.Second

	// refusalEvery is how often refused calls are logged, with their number.
	refusalEvery = 10 * time.Second

	// maxField bounds a contentUri, and so the contentId in it; those seen have
	// some 250 and 150 bytes.
	maxField = 2048
)

// Config is what a Handler needs.
type Config struct {
	AuthIDs      []string // accepted in the header Webhook-AuthID; at least one, none empty
	TenantID     string
	ContentTypes []string // others are acknowledged and left alone
	API          *activity.Client
	Ledger       *ledger.Ledger
	Collector    *collect.Collector
	Logger       *slog.Logger
}

// Handler answers the service's calls. It is safe for concurrent use.
type Handler struct {
	config  Config
	authIDs [][sha256.Size]byte
	queue   chan []ledger.Entry

	calls, items               rate.Sometimes // how often refusals are logged
	refusedCalls, refusedItems atomic.Int64   // since the process began
}

// New returns a Handler.
func New(config Config) *Handler {
	h := &Handler{
		config: config, queue: make(chan []ledger.Entry, queued),
		calls: rate.Sometimes{Interval: refusalEvery}, items: rate.Sometimes{Interval: refusalEvery},
	}
	for _, id := range config.AuthIDs {
		h.authIDs = append(h.authIDs, sha256.Sum256([]byte(id)))
	}
	return h
}

// ServeHTTP answers one call: 200 for a validation and for a notification that
// is in the ledger; 401 for a wrong AuthID, 400, 405, 413 or 415 for what is no
// notification, 503 when the ledger cannot be written.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, text := h.serve(r)
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	if status != http.StatusOK {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		h.refused(r.Context(), status, text)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// refused logs that a call was refused, not each time: anyone can call.
func (h *Handler) refused(ctx context.Context, status int, text string) {
	calls := h.refusedCalls.Add(1)
	h.calls.Do(func() {
		level := slog.LevelWarn
		if status >= 500 {
			level = slog.LevelError
		}
		h.config.Logger.Log(ctx, level, "webhook call refused", "status", status, "reason", text, "refusedSoFar", calls)
	})
}

func (h *Handler) serve(r *http.Request) (status int, text string) {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, "POST only"
	}
	if !h.knows(r.Header.Get("Webhook-AuthID")) {
		return http.StatusUnauthorized, "wrong or missing Webhook-AuthID"
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return http.StatusUnsupportedMediaType, "compressed bodies are not taken"
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB"
	}
	if err != nil {
		return http.StatusBadRequest, "the body cannot be read"
	}
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	switch {
	case len(body) > 0 && body[0] == '{':
		return validate(r.Header.Get("Webhook-ValidationCode"), body)
	case len(body) > 0 && body[0] == '[':
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		return h.notify(ctx, body)
	}
	return http.StatusBadRequest, "the body is neither a validation nor a notification"
}

// knows compares in constant time, whatever the lengths.
func (h *Handler) knows(authID string) bool {
	sum := sha256.Sum256([]byte(authID))
	ok := 0
	for i := range h.authIDs {
		ok |= subtle.ConstantTimeCompare(sum[:], h.authIDs[i][:])
	}
	return ok == 1
}

// validate answers the call that the service makes while /subscriptions/start is
// being served: the code comes in a header and in the body.
func validate(code string, body []byte) (status int, text string) {
	var v struct {
		ValidationCode string `json:"validationCode"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return http.StatusBadRequest, "the body is not JSON"
	}
	if code == "" || v.ValidationCode != code {
		return http.StatusBadRequest, "no validation: header and body do not carry the same code"
	}
	return http.StatusOK, ""
}

// item is one pointer of a notification.
type item struct {
	TenantID          string `json:"tenantId"`
	ClientID          string `json:"clientId"`
	ContentType       string `json:"contentType"`
	ContentID         string `json:"contentId"`
	ContentURI        string `json:"contentUri"`
	ContentCreated    string `json:"contentCreated"`
	ContentExpiration string `json:"contentExpiration"`
}

// notify puts each content of a notification into the ledger.
func (h *Handler) notify(ctx context.Context, body []byte) (status int, text string) {
	var items []json.RawMessage
	if err := json.Unmarshal(body, &items); err != nil {
		return http.StatusBadRequest, "the body is not a JSON array"
	}
	if len(items) == 0 {
		return http.StatusOK, ""
	}
	appID, err := h.config.API.AppID(ctx)
	if err != nil {
		h.config.Logger.Error("notification not taken: our own application id is unknown without a token", "reason", err.Error())
		return http.StatusServiceUnavailable, "not ready"
	}
	now := h.config.API.Now()
	var entries []ledger.Entry
	var foreign, other int
	var why error
	for _, raw := range items {
		entry, wanted, err := h.entry(raw, appID, now)
		switch {
		case err != nil:
			foreign++
			why = err
		case !wanted:
			other++
		default:
			entries = append(entries, entry)
		}
	}
	var created []ledger.Entry
	if len(entries) > 0 {
		if err = h.config.Ledger.Prepare(ctx); err == nil {
			created, err = h.config.Ledger.Record(ctx, entries)
		}
		if err != nil {
			h.config.Logger.Error("notification not recorded; the service will send it again", "items", len(items), "reason", err.Error())
			return http.StatusServiceUnavailable, "the ledger cannot be written"
		}
	}
	log := h.config.Logger.With("items", len(items), "new", len(created), "known", len(entries)-len(created), "otherTypes", other, "refused", foreign)
	if foreign > 0 {
		sum := h.refusedItems.Add(int64(foreign))
		h.items.Do(func() {
			log.Warn("notification with items that are not for us", "reason", why.Error(), "refusedSoFar", sum)
		})
	} else {
		log.Debug("notification recorded")
	}
	if len(created) > 0 { // only what this call recorded: the rest is someone else's claim
		select {
		case h.queue <- created:
		default: // busy: a tick takes them
		}
	}
	return http.StatusOK, ""
}

// entry checks one item and makes its ledger entry. The service never has a
// reason to point anywhere but to our tenant, our application and its own
// address, so anything else is refused; a content type that is not collected is
// merely not wanted.
func (h *Handler) entry(raw json.RawMessage, appID string, now time.Time) (e ledger.Entry, wanted bool, err error) {
	var it item
	if err := json.Unmarshal(raw, &it); err != nil {
		return e, false, errors.New("an item is not an object of strings")
	}
	switch {
	case !strings.EqualFold(it.TenantID, h.config.TenantID):
		return e, false, errors.New("an item is for another tenant")
	case !strings.EqualFold(it.ClientID, appID):
		return e, false, errors.New("an item is for another application")
	case it.ContentID == "" || len(it.ContentURI) > maxField:
		return e, false, errors.New("an item has no contentId, or its contentUri is too long")
	}
	if err := h.config.API.CheckContentURI(it.ContentURI); err != nil {
		return e, false, fmt.Errorf("an item points elsewhere: %w", err)
	}
	if !names(it.ContentURI, it.ContentID) {
		return e, false, errors.New("an item's contentUri is not that of its contentId")
	}
	for _, contentType := range h.config.ContentTypes {
		if strings.EqualFold(contentType, it.ContentType) {
			created, ok := moment(it.ContentCreated)
			if !ok { // its place in the ledger is unknown; a listing will tell
				return e, false, errors.New("an item has no contentCreated")
			}
			expires, _ := moment(it.ContentExpiration)
			return ledger.NewEntry(contentType, it.ContentID, it.ContentURI, created, expires, ledger.ByWebhook, now), true, nil
		}
	}
	return e, false, nil
}

// names reports whether uri ends in the content's id, as the service's do, with
// or without the suffix.
func names(uri, id string) bool {
	const suffix = ledger.NotifiedSuffix
	u, err := url.Parse(uri)
	if err != nil {
		return false
	}
	last := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	return strings.TrimSuffix(last, suffix) == strings.TrimSuffix(id, suffix)
}

// moment reads a time as the service writes it, with or without a zone.
func moment(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
