package activity

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// maxURI bounds a URL that came from outside. Real ones are about 300 bytes.
const maxURI = 8 << 10

// CheckContentURI reports why the client would not send its token to uri, as
// a Fault of Kind Untrusted, or nil. It does no I/O. Accepted is only
// https://{Root's host}/api/v1.0/{TenantID}/activity/feed/audit/{id}, with v1
// for v1.0 too, and with any query.
func (c *Client) CheckContentURI(uri string) error {
	id, err := c.checkURL(uri, "audit")
	if err == nil {
		err = checkID(id)
	}
	if err != nil {
		return untrusted("check content URI", err)
	}
	return nil
}

// checkNextPage is CheckContentURI's like for the next page of a listing.
func (c *Client) checkNextPage(uri, contentType string) error {
	last, err := c.checkURL(uri, "subscriptions")
	switch {
	case err != nil:
	case !strings.EqualFold(last, "content"):
		err = errors.New("the path is not that of a listing")
	default:
		for param := range strings.SplitSeq(query(uri), "&") {
			name, value, _ := strings.Cut(param, "=")
			if !isParameter(name, "contentType") {
				continue
			}
			if v, e := url.QueryUnescape(value); e != nil || !strings.EqualFold(v, contentType) {
				err = errors.New("the page is of another contentType")
			}
		}
	}
	if err != nil {
		return untrusted("follow next page", err)
	}
	return nil
}

// checkURL checks all of raw but the last segment of its path, which it
// returns still escaped. collection is the segment before the last.
func (c *Client) checkURL(raw, collection string) (last string, err error) {
	if len(raw) > maxURI {
		return "", fmt.Errorf("the URL is longer than %d bytes", maxURI)
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`\#"<>`, r) }) {
		return "", errors.New("the URL holds a character that none of the service's holds")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "", errors.New("the URL cannot be parsed")
	case u.Scheme != "https" || u.Opaque != "":
		return "", errors.New("the URL is not https")
	case u.User != nil:
		return "", errors.New("the URL names a user")
	case hostPort(u) != hostPort(c.root):
		return "", fmt.Errorf("the host is %q, not %q", clean(u.Host), c.root.Host)
	case !strings.Contains(raw, u.EscapedPath()): // net/url would send another path
		return "", errors.New("the path is not well escaped")
	}
	// Fixed segments are compared as they will be sent, so no escape passes.
	got := strings.Split(u.EscapedPath(), "/")
	want := []string{"", "api", "v1.0", c.tenant, "activity", "feed", collection}
	if len(got) != len(want)+1 {
		return "", errors.New("the path has not the right number of segments")
	}
	for i := range want {
		if strings.EqualFold(got[i], want[i]) || i == 2 && strings.EqualFold(got[i], "v1") {
			continue
		}
		if i == 3 {
			return "", errors.New("the path belongs to another tenant")
		}
		return "", fmt.Errorf("the path has %q where %q belongs", clean(got[i]), want[i])
	}
	return got[len(want)], nil
}

// checkID checks a contentId as it stands, escaped, at the end of a path.
func checkID(escaped string) error {
	id, err := url.PathUnescape(escaped)
	switch {
	case err != nil || id == "":
		return errors.New("the path has no contentId")
	case id[0] == '.': // escaped or not
		return errors.New("the contentId could be read as a step in the path")
	case strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r >= 0x7f || strings.ContainsRune(`/\%?#`, r) }):
		return errors.New("the contentId holds a character that could end it")
	}
	return nil
}

// withPublisher returns uri with the parameter PublisherIdentifier exactly
// once and as configured, and with all else byte for byte as it was: a page's
// token and the "$" of a contentId are opaque.
func (c *Client) withPublisher(uri string) string {
	path, q, _ := strings.Cut(uri, "?")
	var kept []string
	for param := range strings.SplitSeq(q, "&") {
		if name, _, _ := strings.Cut(param, "="); param != "" && !isParameter(name, publisherIdentifier) {
			kept = append(kept, param)
		}
	}
	return path + "?" + strings.Join(append(kept, publisherIdentifier+"="+c.publisher), "&")
}

// publisherIdentifier is the parameter that every request carries. Without it
// the service counts the request in a pool shared with strangers.
const publisherIdentifier = "PublisherIdentifier"

// isParameter compares a query parameter's name as the service does: unescaped
// and whatever its case.
func isParameter(escaped, name string) bool {
	got, err := url.QueryUnescape(escaped)
	return err == nil && strings.EqualFold(got, name)
}

func query(uri string) string {
	_, q, _ := strings.Cut(uri, "?")
	return q
}

// hostPort is u's host in one spelling: lower case, without the default port.
func hostPort(u *url.URL) string {
	return strings.TrimSuffix(strings.ToLower(u.Host), ":443")
}

func untrusted(op string, err error) *Fault {
	return &Fault{
		Op: op, Kind: Untrusted, Err: err,
		Remedy: "no request was made to it: if the host is the service's own, check MANAGEMENT_API_URL, else someone may be after the token",
	}
}
