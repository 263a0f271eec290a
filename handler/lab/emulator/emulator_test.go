package emulator

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"activityarchive/handler/lab/ca"
)

// client speaks to an emulator as a signed REST client does.
type client struct {
	t    *testing.T
	http *http.Client
	url  string
	key  []byte
}

// start gives an emulator with database d and container c.
func start(t *testing.T, c Config) *client {
	t.Helper()
	cl, _ := startBoth(t, c)
	return cl
}

func startBoth(t *testing.T, c Config) (*client, *Emulator) {
	t.Helper()
	authority, err := ca.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.TLS = authority.ServerTLS()
	e, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: authority.ClientTLS(), ForceAttemptHTTP2: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	key, err := base64.StdEncoding.DecodeString(e.Key())
	if err != nil {
		t.Fatal(err)
	}
	cl := &client{t, &http.Client{Transport: tr}, strings.TrimSuffix(e.URL(), "/"), key}
	cl.want(http.StatusCreated, http.MethodPost, "/dbs", `{"id":"d"}`)
	cl.want(http.StatusCreated, http.MethodPost, "/dbs/d/colls", `{"id":"c","partitionKey":{"paths":["/UserId","/archive/hour"],"kind":"MultiHash","version":2}}`)
	return cl, e
}

// do sends one signed request; header holds names and values in turn.
func (c *client) do(method, path, body string, header ...string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return nil, ""
	}
	date := time.Now().UTC().Format(http.TimeFormat)
	r.Header.Set("x-ms-date", date)
	r.Header.Set("Authorization", Authorization(c.key, method, path, date))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Error(err)
		return nil, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	return resp, string(text)
}

// want sends one request and expects a status.
func (c *client) want(status int, method, path, body string, header ...string) (*http.Response, string) {
	c.t.Helper()
	resp, text := c.do(method, path, body, header...)
	if resp == nil || resp.StatusCode != status {
		c.t.Fatalf("%s %s = %v %s, want %d", method, path, resp, text, status)
	}
	return resp, text
}

const docs = "/dbs/d/colls/c/docs"

func TestAccountNamesTheAddressDialled(t *testing.T) {
	c := start(t, Config{})
	_, text := c.want(http.StatusOK, http.MethodGet, "/", "")
	if want := fmt.Sprintf("%q", c.url+"/"); !strings.Contains(text, want) {
		t.Errorf("account document does not name %s: %s", want, text)
	}
}

func TestAdvance(t *testing.T) {
	c, e := startBoth(t, Config{})
	e.Advance(time.Hour)
	resp, _ := c.want(http.StatusOK, http.MethodGet, "/", "")
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if ahead := time.Until(date); err != nil || ahead < 59*time.Minute || ahead > time.Hour {
		t.Errorf("Date is %v ahead, %v, want an hour", ahead, err)
	}
}

func TestStartRefuses(t *testing.T) {
	authority, err := ca.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"every interface": {Addr: "0.0.0.0:0", TLS: authority.ServerTLS()},
		"no certificate":  {},
		"broken key":      {Key: "%", TLS: authority.ServerTLS()},
	} {
		if e, err := Start(t.Context(), c); err == nil {
			t.Errorf("%s: started", name)
			_ = e.Close()
		}
	}
}

func TestAuthorization(t *testing.T) {
	c := start(t, Config{})
	c.want(http.StatusUnauthorized, http.MethodGet, "/dbs/d", "", "Authorization", "")
	c.want(http.StatusUnauthorized, http.MethodGet, docs, "", "x-ms-date", "Mon, 02 Mar 2026 08:00:00 GMT")
	c.want(http.StatusNotFound, http.MethodGet, "/cosmium/export", "")
	open := start(t, Config{NoAuth: true})
	open.want(http.StatusOK, http.MethodGet, "/dbs/d", "", "Authorization", "")
}

func TestItem(t *testing.T) {
	c := start(t, Config{})
	resp, text := c.want(http.StatusCreated, http.MethodPost, docs, `{"id":"a","n":1}`, "Prefer", "return=minimal")
	first := resp.Header.Get("ETag")
	if first == "" || text != "" {
		t.Errorf("create: ETag %q, body %q, want an ETag and no body", first, text)
	}
	c.want(http.StatusConflict, http.MethodPost, docs, `{"id":"a"}`)
	c.want(http.StatusPreconditionFailed, http.MethodPut, docs+"/a", `{"id":"a","n":2}`, "If-Match", `"other"`)
	resp, _ = c.want(http.StatusOK, http.MethodPut, docs+"/a", `{"id":"a","n":2}`, "If-Match", first)
	if second := resp.Header.Get("ETag"); second == "" || second == first {
		t.Errorf("replace: ETag %q after %q", second, first)
	}
	c.want(http.StatusPreconditionFailed, http.MethodDelete, docs+"/a", "", "If-Match", first)
	if _, text := c.want(http.StatusOK, http.MethodGet, docs+"/a", ""); !strings.Contains(text, `"n": 2`) {
		t.Errorf("read: %s", text)
	}
	c.want(http.StatusNoContent, http.MethodDelete, docs+"/a", "", "If-Match", "*")
	c.want(http.StatusNotFound, http.MethodGet, docs+"/a", "")
	c.want(http.StatusNotFound, http.MethodPut, docs+"/a", `{"id":"a"}`, "If-Match", first)
	big := fmt.Sprintf(`{"id":"b","text":%q}`, bytes.Repeat([]byte("x"), maxBody))
	c.want(http.StatusRequestEntityTooLarge, http.MethodPost, docs, big)
}

// TestConditionalReplace: of writers that all hold the same ETag one wins.
func TestConditionalReplace(t *testing.T) {
	c := start(t, Config{})
	resp, _ := c.want(http.StatusCreated, http.MethodPost, docs, `{"id":"a"}`)
	tag := resp.Header.Get("ETag")
	var won, lost, other atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch resp, _ := c.do(http.MethodPut, docs+"/a", `{"id":"a"}`, "If-Match", tag); resp.StatusCode {
			case http.StatusOK:
				won.Add(1)
			case http.StatusPreconditionFailed:
				lost.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || other.Load() != 0 {
		t.Errorf("%d won, %d lost, %d neither; want 1, 7, 0", won.Load(), lost.Load(), other.Load())
	}
}

func TestQuery(t *testing.T) {
	c := start(t, Config{})
	c.want(http.StatusCreated, http.MethodPost, docs, `{"id":"a","n":1}`)
	c.want(http.StatusCreated, http.MethodPost, docs, `{"id":"b","n":2}`)
	query := []string{"Content-Type", "application/query+json", "x-ms-documentdb-query", "True"}
	_, text := c.want(http.StatusOK, http.MethodPost, docs,
		`{"query":"SELECT c.id FROM c WHERE c.n = @n","parameters":[{"name":"@n","value":2}]}`, query...)
	if !strings.Contains(text, `"b"`) || strings.Contains(text, `"a"`) {
		t.Errorf("query: %s", text)
	}
	c.want(http.StatusBadRequest, http.MethodPost, docs, `{"query":"SELEKT everything"}`, query...)
	for where, want := range map[string]int{
		`c.id IN (@a, @b, @none, @a)`: 2,
		`c.n = @n AND c.id IN (@a)`:   0,
		`c.n = @n AND c.id IN (@b)`:   1,
		`c.n = @n OR c.id IN (@a)`:    2, // restricts nothing to the ids named
		`c.id IN (@n)`:                0, // no string
	} {
		_, text := c.want(http.StatusOK, http.MethodPost, docs, `{"query":"SELECT c.id FROM c WHERE `+where+`","parameters":[`+
			`{"name":"@a","value":"a"},{"name":"@b","value":"b"},{"name":"@none","value":"x"},{"name":"@n","value":2}]}`, query...)
		var got struct{ Documents []struct{ ID string } }
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Documents) != want {
			t.Errorf("%s: %d documents, %v, want %d", where, len(got.Documents), err, want)
		}
	}
	if _, text := c.want(http.StatusOK, http.MethodGet, docs, ""); !strings.Contains(text, `"_count": 2`) {
		t.Errorf("list: %s", text)
	}
}

func TestBatch(t *testing.T) {
	c := start(t, Config{})
	batch := []string{"x-ms-cosmos-is-batch-request", "True", "Prefer", "return=minimal"}
	statuses := func(text string) (got []int) {
		var results []result
		if err := json.Unmarshal([]byte(text), &results); err != nil {
			t.Fatalf("read %s: %v", text, err)
		}
		for _, r := range results {
			got = append(got, r.StatusCode)
			if (r.StatusCode == http.StatusCreated) != (r.ETag != "") || r.ResourceBody != nil {
				t.Errorf("result %+v: an ETag belongs to what was created, and no body", r)
			}
		}
		return got
	}
	create := func(ids ...string) string {
		var ops []string
		for _, id := range ids {
			ops = append(ops, fmt.Sprintf(`{"operationType":"Create","resourceBody":{"id":%q}}`, id))
		}
		return "[" + strings.Join(ops, ",") + "]"
	}

	_, text := c.want(http.StatusOK, http.MethodPost, docs, create("a", "b"), batch...)
	if got := fmt.Sprint(statuses(text)); got != "[201 201]" {
		t.Errorf("statuses = %s", got)
	}
	_, text = c.want(http.StatusMultiStatus, http.MethodPost, docs, create("x", "b", "y"), batch...)
	if got := fmt.Sprint(statuses(text)); got != "[424 409 424]" {
		t.Errorf("statuses = %s", got)
	}
	c.want(http.StatusNotFound, http.MethodGet, docs+"/x", "") // nothing of it happened
	c.want(http.StatusNotFound, http.MethodGet, docs+"/y", "")
	_, text = c.want(http.StatusMultiStatus, http.MethodPost, docs, create("z", "z"), batch...)
	if got := fmt.Sprint(statuses(text)); got != "[424 409]" {
		t.Errorf("same id twice: statuses = %s", got)
	}
	_, text = c.want(http.StatusMultiStatus, http.MethodPost, docs,
		`[{"operationType":"Replace","id":"a","ifMatch":"\"old\"","resourceBody":{"id":"a"}}]`, batch...)
	if got := fmt.Sprint(statuses(text)); got != "[412]" {
		t.Errorf("stale replace: statuses = %s", got)
	}
	// A member Id is not the id.
	_, text = c.want(http.StatusOK, http.MethodPost, docs,
		`[{"operationType":"Create","resourceBody":{"id":"p","Id":"same"}},{"operationType":"Create","resourceBody":{"id":"q","Id":"same"}}]`, batch...)
	if got := fmt.Sprint(statuses(text)); got != "[201 201]" {
		t.Errorf("members called Id: statuses = %s", got)
	}
	many := make([]string, maxOperations+1)
	for i := range many {
		many[i] = fmt.Sprint("m", i)
	}
	c.want(http.StatusBadRequest, http.MethodPost, docs, create(many...), batch...)
}
