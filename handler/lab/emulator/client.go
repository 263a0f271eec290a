package emulator

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxFault bounds how much of an error body is quoted.
const maxFault = 512

// Client reads and writes documents over Cosmos DB's REST interface, signed
// with the account key. It is made for whoever checks an archive without the
// code that wrote it. It may be used concurrently.
type Client struct {
	base *url.URL
	key  []byte
	http *http.Client
}

// Param is a parameter of a query, such as @day.
type Param struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// NewClient returns a client of the account at endpoint. The http client stays
// the caller's.
func NewClient(endpoint, key string, client *http.Client) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(endpoint, "/"))
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, errors.New("read account key: not base64")
	}
	return &Client{base: base, key: raw, http: client}, nil
}

// Feed names the documents of a container.
func Feed(database, container string) string {
	return "/dbs/" + database + "/colls/" + container + "/docs"
}

// do sends one request and returns its response if the status is below 300.
// The caller closes the body.
func (c *Client) do(ctx context.Context, method, path string, body []byte, header map[string]string) (*http.Response, error) {
	u := *c.base
	u.Path = path
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	date := time.Now().UTC().Format(http.TimeFormat)
	r.Header.Set("x-ms-date", date)
	r.Header.Set("x-ms-version", "2018-12-31")
	r.Header.Set("Authorization", Authorization(c.key, method, path, date))
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxFault)) // for people only
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, nil
}

// one sends a request whose answer is a document or nothing.
func (c *Client) one(ctx context.Context, method, path string, body []byte, header map[string]string) (json.RawMessage, error) {
	resp, err := c.do(ctx, method, path, body, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxBody)) // an item as it is sent back is longer than it came
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return text, nil
}

// Read returns the document with that id.
func (c *Client) Read(ctx context.Context, feed, id string) (json.RawMessage, error) {
	return c.one(ctx, http.MethodGet, feed+"/"+id, nil, nil)
}

// Create stores a new document. key is its partition key in the header's form.
func (c *Client) Create(ctx context.Context, feed, key string, doc []byte) error {
	_, err := c.one(ctx, http.MethodPost, feed, doc, map[string]string{"x-ms-documentdb-partitionkey": key})
	return err
}

// Replace puts doc in the place of the document with that id.
func (c *Client) Replace(ctx context.Context, feed, id, key string, doc []byte) error {
	_, err := c.one(ctx, http.MethodPut, feed+"/"+id, doc, map[string]string{"x-ms-documentdb-partitionkey": key})
	return err
}

// Delete removes the document with that id.
func (c *Client) Delete(ctx context.Context, feed, id, key string) error {
	_, err := c.one(ctx, http.MethodDelete, feed+"/"+id, nil, map[string]string{"x-ms-documentdb-partitionkey": key})
	return err
}

// All yields every document of a container.
func (c *Client) All(ctx context.Context, feed string) iter.Seq2[json.RawMessage, error] {
	return c.pages(ctx, http.MethodGet, feed, nil, map[string]string{"x-ms-max-item-count": "-1"})
}

// Query yields what a query finds, over all partitions.
func (c *Client) Query(ctx context.Context, feed, sql string, params ...Param) iter.Seq2[json.RawMessage, error] {
	if params == nil {
		params = []Param{}
	}
	body, err := json.Marshal(map[string]any{"query": sql, "parameters": params})
	if err != nil {
		return func(yield func(json.RawMessage, error) bool) { yield(nil, fmt.Errorf("encode query: %w", err)) }
	}
	return c.pages(ctx, http.MethodPost, feed, body, map[string]string{
		"Content-Type":                               "application/query+json",
		"x-ms-documentdb-isquery":                    "True",
		"x-ms-documentdb-query-enablecrosspartition": "True",
	})
}

// pages yields the documents of all pages of an answer, and ends with the first
// error.
func (c *Client) pages(ctx context.Context, method, feed string, body []byte, header map[string]string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for {
			resp, err := c.do(ctx, method, feed, body, header)
			if err != nil {
				yield(nil, err)
				return
			}
			more, err := documents(resp.Body, yield)
			_ = resp.Body.Close()
			if err != nil {
				yield(nil, fmt.Errorf("read page of %s: %w", feed, err))
				return
			}
			next := resp.Header.Get("x-ms-continuation")
			if !more || next == "" {
				return
			}
			header["x-ms-continuation"] = next
		}
	}
}

// documents yields the elements of the member Documents as they are read. It
// reports false if yield wants no more.
func documents(r io.Reader, yield func(json.RawMessage, error) bool) (bool, error) {
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil { // the opening brace
		return false, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return false, err
		}
		if name != "Documents" {
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return false, err
			}
			continue
		}
		if _, err := d.Token(); err != nil { // the opening bracket
			return false, err
		}
		for d.More() {
			var doc json.RawMessage
			if err := d.Decode(&doc); err != nil {
				return false, err
			}
			if !yield(doc, nil) {
				return false, nil
			}
		}
		if _, err := d.Token(); err != nil { // the closing bracket
			return false, err
		}
	}
	return true, nil
}
