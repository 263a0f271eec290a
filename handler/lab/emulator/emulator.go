// Package emulator serves Cosmium, an in-memory stand-in for Azure Cosmos DB,
// over https on the loopback interface only.
//
// Cosmium alone accepts things that Cosmos DB refuses and on which a careful
// client relies. A gate in front of it therefore adds: the signature check,
// conditional writes (ETag, If-Match, 412), batches that happen whole or not at
// all (207 with 409 and 424), the limits of 100 operations and 2 MB, minimal
// answers, and 400 for a query that Cosmium cannot read and would answer with
// every document. What stays unlike the service: partition keys are ignored
// (an id is unique in its container), nothing is throttled, charged or expired,
// answers come in one page, and everything is lost at the end.
package emulator

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pikami/cosmium/api"
	"github.com/pikami/cosmium/api/config"
)

// Config says how an emulator is served.
type Config struct {
	Addr   string      // loopback address to listen on, "" for 127.0.0.1 and any free port
	TLS    *tls.Config // holds the server certificate, required
	Key    string      // account key in base64, "" for one made on the spot
	NoAuth bool        // take every request, whatever its Authorization says
}

// Emulator is a running emulator. Its methods may be used concurrently.
type Emulator struct {
	url    string
	key    string
	gate   *gate
	server *http.Server
	served chan error // what Serve returned
}

// keyBytes is the length of a Cosmos DB account key once decoded.
const keyBytes = 64

// Start listens and serves until Close. It returns once clients can connect;
// ctx bounds only the start.
func Start(ctx context.Context, c Config) (*Emulator, error) {
	if c.TLS == nil {
		return nil, errors.New("start emulator: no server certificate")
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	if c.Key == "" {
		raw := make([]byte, keyBytes)
		_, _ = rand.Read(raw) // never fails: crypto/rand.Read
		c.Key = base64.StdEncoding.EncodeToString(raw)
	}
	key, err := base64.StdEncoding.DecodeString(c.Key)
	if err != nil {
		return nil, errors.New("start emulator: the key is not base64")
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("start emulator: %w", err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	if !addr.IP.IsLoopback() {
		_ = ln.Close()
		return nil, fmt.Errorf("start emulator: %s is not a loopback address", c.Addr)
	}

	g := &gate{next: cosmium(addr)}
	if !c.NoAuth {
		g.key = key
	}
	e := &Emulator{
		url:    "https://" + addr.String() + "/",
		key:    c.Key,
		gate:   g,
		server: &http.Server{Handler: g, TLSConfig: c.TLS, ReadHeaderTimeout: 10 * time.Second},
		served: make(chan error, 1),
	}
	go func() { e.served <- e.server.ServeTLS(ln, "", "") }()
	return e, nil
}

// cosmium returns the handler of a new, empty, silent Cosmium whose account
// document names addr, because clients move to the address they find there.
func cosmium(addr *net.TCPAddr) http.Handler {
	// The signature is the gate's business: its own requests carry none.
	c := &config.ServerConfig{Host: addr.IP.String(), Port: addr.Port, DisableAuth: true, LogLevel: "silent"}
	c.ApplyDefaultsToEmptyFields()
	c.PopulateCalculatedFields()
	store := newFirstArgument(api.NewApiServer)
	_ = store.LoadStateJSON("{}") // makes the maps; an empty object cannot be wrong
	return api.NewApiServer(store, c).GetRouter()
}

// newFirstArgument makes the first argument of f. Cosmium's store has a type
// that cannot be named outside its module, but can be inferred.
func newFirstArgument[T any](func(*T, *config.ServerConfig) *api.ApiServer) *T { return new(T) }

// URL returns the account's endpoint, with a closing slash.
func (e *Emulator) URL() string { return e.url }

// Key returns the account key in base64.
func (e *Emulator) Key() string { return e.key }

// Advance moves the account's clock, which clients see in the header Date, by d.
func (e *Emulator) Advance(d time.Duration) { e.gate.offset.Add(int64(d)) }

// Close ends the emulator, its connections and all it holds.
func (e *Emulator) Close() error {
	err := e.server.Close()
	if served := <-e.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	e.served <- http.ErrServerClosed // a second Close finds an answer too
	return err
}

// Authorization returns the Authorization header that signs a request with the
// account key: path is the request's unescaped path, date its x-ms-date header.
// The form is Cosmos DB's master key token, version 1.0 (REST reference,
// "Access control on Cosmos DB resources").
func Authorization(key []byte, method, path, date string) string {
	kind, link := resource(path)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n\n", strings.ToLower(method), kind, link, strings.ToLower(date))
	return url.QueryEscape("type=master&ver=1.0&sig=" + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// resource splits a path into the type of the resource and its link: a feed
// such as dbs/a/colls belongs to its parent.
func resource(path string) (kind, link string) {
	path = strings.Trim(path, "/")
	if path == "" {
		return "", ""
	}
	parts := strings.Split(path, "/")
	if len(parts)%2 == 1 {
		return parts[len(parts)-1], strings.Join(parts[:len(parts)-1], "/")
	}
	return parts[len(parts)-2], path
}
