package tenant

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// stampFormat is how the service writes times: UTC with milliseconds.
const stampFormat = "2006-01-02T15:04:05.000Z"

// boundFormat is the longest of the three documented formats of a window's
// bounds, and the one in which next pages repeat them.
const boundFormat = "2006-01-02T15:04:05"

// maxListings bounds how many listings can be under way. The oldest page
// tokens beyond it are forgotten and answer AF20031.
const maxListings = 10_000

// parseTime reads a time as the service does: the three documented formats and,
// plain being false, what it was seen to accept besides.
func parseTime(text string) (at time.Time, plain bool, err error) {
	for _, layout := range []string{boundFormat, "2006-01-02T15:04", time.DateOnly} {
		if at, err = time.Parse(layout, text); err == nil {
			return at, len(text) == len(layout), nil // time.Parse takes a fraction that no layout asks for
		}
	}
	at, err = time.Parse(time.RFC3339Nano, text)
	return at.UTC(), false, err
}

// listing is one listing under way: what is left after the pages served.
type listing struct {
	op         Op
	items      []map[string]any
	start, end time.Time
	issued     time.Time
	serial     int
	empty      bool // the next page is an empty one in between
}

// list serves subscriptions/content and subscriptions/notifications.
func (t *Tenant) list(a *answer, c *call, op Op) {
	t.mu.Lock()
	items, next, f := t.page(c, op)
	if f == nil && next != "" {
		name := t.knobs.NextPageHeader
		if name == "" {
			name = "NextPageUri"
		}
		a.Header()[name] = []string{next} // as spelled, not in Go's canonical form
	}
	t.mu.Unlock()
	if f != nil {
		a.fail(f)
		return
	}
	a.json(http.StatusOK, items)
}

// page makes one page of a listing and the address of the next.
func (t *Tenant) page(c *call, op Op) (items []map[string]any, next string, f *fail) {
	contentType, _ := c.param("contentType")
	s, f := t.subscribed(c, contentType)
	if f != nil {
		return nil, "", f
	}
	token, paged := c.param("nextPage")
	var l *listing
	if paged > 0 {
		held, ok := t.listings[token]
		if !ok || held.op != op || t.knobs.NextPageLife > 0 && c.now.Sub(held.issued) > t.knobs.NextPageLife {
			return nil, "", failf(400, "AF20031", "The next page is not known or no longer valid.")
		}
		copied := *held // the same page can be asked for again
		l = &copied
	} else {
		start, end, empty, f := t.window(c)
		if f != nil {
			return nil, "", f
		}
		l = &listing{op: op, start: start, end: end}
		if !empty {
			l.items = t.chosen(c, s, op, contentType, start, end)
		}
	}

	size := t.knobs.PageSize
	if size <= 0 {
		size = 200 // ours: the service's is not documented
	}
	if l.empty {
		l.empty = false
	} else {
		items = l.items[:min(size, len(l.items))]
		l.items = l.items[len(items):]
		l.empty = t.knobs.EmptyPages && len(l.items) > 0
		if t.knobs.RepeatItems && len(l.items) > 0 && len(items) > 1 { // else it would never end
			l.items = slices.Insert(slices.Clone(l.items), 0, items[len(items)-1])
		}
	}
	if items == nil {
		items = []map[string]any{}
	}
	more := len(l.items) > 0 || l.empty
	if t.knobs.LastPageEmpty && !more && len(items) > 0 {
		more, l.empty = true, true
	}
	switch {
	case more && t.knobs.NextPageLoop:
		return items, "https://" + c.Host + c.URL.RequestURI(), nil
	case more:
		return items, t.nextPage(c, l, contentType), nil
	}
	return items, "", nil
}

// nextPage keeps the rest of a listing and makes the address it is had under.
// As with the service it lacks the PublisherIdentifier.
func (t *Tenant) nextPage(c *call, l *listing, contentType string) string {
	l.issued = c.now
	t.serial++
	l.serial = t.serial
	token := fmt.Sprintf("%s$%08x$%d", l.start.Format("20060102150405"), t.random.Uint32(), t.serial)
	for len(t.listings) >= maxListings {
		oldest := ""
		for name, other := range t.listings {
			if oldest == "" || other.serial < t.listings[oldest].serial {
				oldest = name
			}
		}
		delete(t.listings, oldest)
	}
	t.listings[token] = l
	version := t.knobs.NextPageVersion
	if version == "" {
		version = "v1"
	}
	u, _ := url.Parse(t.origin)
	u.Path = "/api/" + version + "/" + t.cfg.ID + "/activity/feed" + c.URL.Path[strings.LastIndex(c.URL.Path, "/subscriptions/"):]
	u.RawQuery = "contentType=" + contentType + "&startTime=" + l.start.Format(boundFormat) + "&endTime=" + l.end.Format(boundFormat) + "&nextPage=" + token
	if t.knobs.NextPageKeepsID {
		u.RawQuery += "&publisherIdentifier=" + c.publisher
	}
	if t.knobs.NextPageEdit != nil {
		t.knobs.NextPageEdit(u)
	}
	return u.String()
}

// window reads and checks the bounds of a listing. Empty means that the list is
// empty whatever there is.
func (t *Tenant) window(c *call) (start, end time.Time, empty bool, f *fail) {
	refuse := func(format string, args ...any) (time.Time, time.Time, bool, *fail) {
		f := failf(400, "AF20055", format, args...)
		t.violated("listing %s: %s", c.URL.RequestURI(), f.message)
		return time.Time{}, time.Time{}, false, f
	}
	from, fromTimes := c.param("startTime")
	to, toTimes := c.param("endTime")
	if fromTimes+toTimes == 0 {
		t.violated("listing %s has no bounds", c.URL.RequestURI())
		if t.knobs.SinceMidnight {
			return c.now.Truncate(24 * time.Hour), c.now, false, nil
		}
		return c.now.Add(-24 * time.Hour), c.now, false, nil
	}
	if fromTimes != 1 || toTimes != 1 {
		if !t.knobs.OneSided || fromTimes+toTimes != 1 {
			return refuse("Both startTime and endTime are needed, once each.")
		}
		t.violated("listing %s has one bound", c.URL.RequestURI())
	}
	read := func(text string, into *time.Time) *fail {
		if strings.Contains(text, " ") {
			t.violated("listing %s has a bound with a space, which was a plus sign", c.URL.RequestURI())
			if empty = !t.knobs.SpaceRefused; empty {
				return nil
			}
		}
		at, plain, err := parseTime(text)
		if err != nil {
			t.violated("listing %s has the unreadable bound %q", c.URL.RequestURI(), text)
			return failf(400, "AF20002", "%q is not a time.", text)
		}
		if !plain {
			t.violated("listing %s has the bound %q, which is none of the documented formats", c.URL.RequestURI(), text)
		}
		*into = at.Truncate(time.Second) // bounds count in whole seconds
		return nil
	}
	if fromTimes == 1 {
		if f := read(from, &start); f != nil {
			return start, end, false, f
		}
	}
	if toTimes == 1 {
		if f := read(to, &end); f != nil {
			return start, end, false, f
		}
	}
	if empty {
		return start, end, true, nil
	}
	if fromTimes == 0 {
		start = end.Add(-24 * time.Hour)
	}
	if toTimes == 0 {
		end = start.Add(24 * time.Hour)
	}
	slack := max(t.knobs.StartSlack, 0)
	if t.knobs.StartSlack == 0 {
		slack = time.Hour // seen in the field
	}
	switch partial := t.knobs.PartialSpan; {
	case !start.Before(end):
		return refuse("startTime is not before endTime.")
	case start.Before(c.now.Add(-retention)) && start.Before(c.now.Add(-retention-slack)):
		return refuse("startTime is more than 7 days ago.")
	case partial > 0 && end.Sub(start) > partial:
		return start, start.Add(partial), false, nil
	case end.Sub(start) > 24*time.Hour:
		return refuse("The window is longer than 24 hours.")
	}
	return start, end, false, nil
}

// chosen picks the items of a window.
func (t *Tenant) chosen(c *call, s *subscription, op Op, contentType string, start, end time.Time) []map[string]any {
	items := []map[string]any{}
	if op == OpNotifications {
		for _, try := range t.attempts {
			if try.key == c.key(contentType) && !try.content.Listed.Before(start) && try.content.Listed.Before(end) {
				item := t.item(try.content)
				item["notificationSent"] = try.sent.Format(stampFormat)
				item["notificationStatus"] = try.status
				items = append(items, item)
			}
		}
		return items
	}
	list := t.byType[contentType]
	at, _ := slices.BinarySearchFunc(list, start, func(o *Content, at time.Time) int {
		if o.Listed.Before(at) {
			return -1
		}
		return 1
	})
	for _, content := range list[at:] {
		if !content.Listed.Before(end) {
			break
		}
		if s.sees(content, c.now, t.knobs.Backfill) {
			item := t.item(content)
			if t.knobs.ItemEdit != nil {
				t.knobs.ItemEdit(item)
			}
			items = append(items, item)
		}
	}
	if t.knobs.Shuffle {
		t.random.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	}
	return items
}

// item is a content as listings show it.
func (t *Tenant) item(c *Content) map[string]any {
	return map[string]any{
		"contentUri": c.URI, "contentId": c.ID, "contentType": c.Type,
		"contentCreated": c.Created.Format(stampFormat), "contentExpiration": c.Expires.UTC().Format(stampFormat),
	}
}

// audit serves one content.
func (t *Tenant) audit(a *answer, c *call) {
	t.mu.Lock()
	content, f := t.retrieve(c)
	compress := t.knobs.Gzip && strings.Contains(c.Header.Get("Accept-Encoding"), "gzip")
	mark := t.knobs.BOM
	t.mu.Unlock()
	if f != nil {
		a.fail(f)
		return
	}
	a.Header().Set("Content-Type", "application/json; charset=utf-8")
	if c.Method == http.MethodHead {
		return
	}
	var w io.Writer = a
	if compress {
		a.Header().Set("Content-Encoding", "gzip")
		packer := gzip.NewWriter(a)
		defer packer.Close()
		w = packer
	}
	a.WriteHeader(http.StatusOK)
	if mark {
		_, _ = io.WriteString(w, "\ufeff")
	}
	if _, err := content.WriteTo(w); err != nil {
		return // the client went away
	}
}

// retrieve finds the content that a call asks for.
func (t *Tenant) retrieve(c *call) (*Content, *fail) {
	id, err := url.PathUnescape(c.rest)
	if err != nil || !strings.Contains(id, "$") {
		t.violated("%s asks for a content id that is none", c.URL.EscapedPath())
		return nil, failf(400, "AF20052", "The content id is not valid here.")
	}
	content, ok := t.contents[id]
	missing := t.knobs.MissingStatus
	if missing == 0 {
		missing = http.StatusNotFound
	}
	if !ok {
		return nil, failf(missing, "AF20050", "There is no such content.")
	}
	if c.rest != id {
		t.violated("%s asks for a contentUri that was re-encoded", c.URL.EscapedPath())
	}
	s, f := t.subscribed(c, content.Type)
	switch {
	case f != nil:
		return nil, f
	case !s.sees(content, c.now, 0):
		return nil, failf(missing, "AF20050", "There is no such content.")
	case !c.now.Before(content.Ends):
		status := t.knobs.ExpiredStatus
		if status == 0 {
			status = http.StatusBadRequest
		}
		return nil, failf(status, "AF20051", "The content has expired.")
	}
	return content, nil
}

// WriteTo writes the content's body as it is served.
func (c *Content) WriteTo(w io.Writer) (int64, error) {
	if c.Body != nil {
		n, err := w.Write(c.Body)
		return int64(n), err
	}
	if c.Records == nil {
		return 0, errors.New("write content: it has neither records nor a body")
	}
	// Small writes are gathered, so that a large content leaves in large ones.
	buffer := make([]byte, 0, 64<<10)
	buffer = append(buffer, '[')
	var written int64
	flush := func() error {
		n, err := w.Write(buffer)
		written += int64(n)
		buffer = buffer[:0]
		return err
	}
	first := true
	for text := range c.Records {
		if !first {
			buffer = append(buffer, ',')
		}
		first = false
		buffer = append(buffer, text...)
		if len(buffer) >= 48<<10 {
			if err := flush(); err != nil {
				return written, err
			}
		}
	}
	buffer = append(buffer, ']')
	return written, flush()
}
