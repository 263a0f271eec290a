// Package cosmos carries requests to one Azure Cosmos DB database (NoSQL API)
// and decides, once and for every caller, which failures are worth another try.
//
// It owns what azcosmos leaves to the application: retries of writes, a client
// that recovers from a failed first contact, partition key headers that are
// always JSON, and a look at every status of a transactional batch. It knows
// nothing of what is stored.
//
// Every failure is a [*Fault] or the end of the context. All types are safe for
// concurrent use. No text made here holds a document, a key or a token.
package cosmos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

const (
	// tryTimeout bounds one request. The service itself ends an operation or a
	// query page after 5 s (Cosmos DB service limits); the rest is the network.
	tryTimeout = 20 * time.Second

	// idleConnections is how many connections are kept for reuse: at least as
	// many as there are requests under way, or TLS handshakes dominate.
	idleConnections = 128
)

// Config says how to reach a database.
type Config struct {
	Endpoint   string                 // account endpoint, https (http only on loopback)
	Key        string                 // account key in base64; empty: Credential is used
	Credential azcore.TokenCredential // used when Key is empty
	Database   string                 // database id
	Transport  policy.Transporter     // nil: a tuned HTTP client
}

// DB is one database. Nothing is requested before the first call.
type DB struct {
	config    Config
	transport policy.Transporter
	meter     meter
	pace      pace

	mu     sync.Mutex
	client *azcosmos.Client
}

// Usage counts what a DB has used since it was opened.
type Usage struct {
	Requests      int64   // answered requests, retries included
	Throttled     int64   // answers with status 429, alone or inside a batch
	RequestCharge float64 // request units
}

// Open checks the configuration and returns the database without any request.
func Open(config Config) (*DB, error) {
	db := &DB{config: config, transport: config.Transport, pace: pace{turn: make(chan struct{}, 1)}}
	if db.transport == nil {
		db.transport = newTransport()
	}
	client, err := db.newClient()
	if err != nil {
		return nil, err
	}
	db.client = client
	return db, nil
}

// Usage returns the counts so far.
func (db *DB) Usage() Usage { return db.meter.usage() }

// Now is the account's clock: the local clock plus the offset read from the
// Date header of its answers. Leases are compared with it, so that instances
// with different clocks agree.
func (db *DB) Now() time.Time { return db.meter.now() }

func newTransport() *http.Client {
	return &http.Client{
		Timeout: 2 * tryTimeout, // back-stop for the account read, which ignores the caller's deadline
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          idleConnections,
			MaxIdleConnsPerHost:   idleConnections,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: tryTimeout,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (db *DB) newClient() (*azcosmos.Client, error) {
	options := &azcosmos.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport:        db.transport,
		Retry:            policy.RetryOptions{MaxRetries: -1}, // db.do is the one retry loop
		PerCallPolicies:  []policy.Policy{keyHeader{}, ownBatch{}},
		PerRetryPolicies: []policy.Policy{&db.meter},
		Telemetry:        policy.TelemetryOptions{ApplicationID: "activityarchive"},
	}}
	if db.config.Key == "" {
		client, err := azcosmos.NewClient(db.config.Endpoint, db.config.Credential, options)
		if err != nil {
			return nil, fmt.Errorf("opening the Cosmos account with an Entra credential: %w", err)
		}
		return client, nil
	}
	key, err := azcosmos.NewKeyCredential(db.config.Key)
	if err != nil {
		return nil, errors.New("opening the Cosmos account: the account key is not base64") // the cause might quote it
	}
	client, err := azcosmos.NewClientWithKey(db.config.Endpoint, key, options)
	if err != nil {
		return nil, fmt.Errorf("opening the Cosmos account with its key: %w", err)
	}
	return client, nil
}

// current returns the client to use now.
func (db *DB) current() *azcosmos.Client {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.client
}

// renew replaces client after a failure if nothing but the account document was
// ever asked for: azcosmos keeps the error of a failed first account read for
// five minutes without asking again. Once it has read it, it goes on by itself.
func (db *DB) renew(client *azcosmos.Client) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if client != db.client || db.meter.contact.Load() {
		return
	}
	if fresh, err := db.newClient(); err == nil {
		db.client.Close()
		db.client = fresh
	}
}

// Container returns the container with that id. Nothing is requested.
func (db *DB) Container(id string) *Container { return &Container{db: db, id: id} }

// Bulk returns the container with that id, for what is written to it in bulk:
// once the account has throttled, requests of Container go before its own.
func (db *DB) Bulk(id string) *Container { return &Container{db: db, id: id, bulk: true} }

// Provide makes sure that a container is there and returns the paths of its
// partition key, such as ["/UserId", "/archive/hour"]. Where the account key is
// used it creates what is missing, as properties says; what is there stays as it
// is. With an Entra token a missing database or container is a Fault of kind
// Missing that says how to create it.
func (db *DB) Provide(ctx context.Context, properties azcosmos.ContainerProperties) (paths []string, err error) {
	container := db.Container(properties.ID)
	paths, err = container.Paths(ctx)
	if KindOf(err) != Missing || db.config.Key == "" {
		return paths, err
	}
	err = db.do(ctx, "create database "+db.config.Database, 1, false, func(ctx context.Context, client *azcosmos.Client) error {
		_, err := client.CreateDatabase(ctx, azcosmos.DatabaseProperties{ID: db.config.Database}, nil)
		return err
	})
	if err != nil && KindOf(err) != Exists {
		return nil, err
	}
	err = db.do(ctx, "create container "+properties.ID, 1, false, func(ctx context.Context, client *azcosmos.Client) error {
		database, err := client.NewDatabase(db.config.Database)
		if err != nil {
			return err
		}
		_, err = database.CreateContainer(ctx, properties, nil)
		return err
	})
	if err != nil && KindOf(err) != Exists {
		return nil, err
	}
	return container.Paths(ctx)
}

// meter sees every answer: it counts requests, throttling and request units and
// keeps the offset of the account's clock. It is a policy of the SDK's pipeline,
// because an SDK error carries neither charge nor date in a usable form.
type meter struct {
	contact   atomic.Bool // something but the account document was answered
	requests  atomic.Int64
	throttled atomic.Int64
	millis    atomic.Int64 // request units x 1000
	offset    atomic.Int64 // account's clock minus ours, ns
}

func (m *meter) usage() Usage {
	return Usage{
		Requests:      m.requests.Load(),
		Throttled:     m.throttled.Load(),
		RequestCharge: float64(m.millis.Load()) / 1000,
	}
}

func (m *meter) now() time.Time { return time.Now().Add(time.Duration(m.offset.Load())).UTC() }

// bill is what one operation has been charged for.
type bill struct{ millis atomic.Int64 } // request units x 1000

func (b *bill) units() float64 { return float64(b.millis.Load()) / 1000 }

// billContext is the context key under which a bill travels to the meter.
type billContext struct{}

// Do implements [policy.Policy].
func (m *meter) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	if err != nil {
		return resp, err
	}
	m.requests.Add(1)
	if path := req.Raw().URL.Path; path != "" && path != "/" {
		m.contact.Store(true)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		m.throttled.Add(1)
	}
	if charge, err := strconv.ParseFloat(resp.Header.Get("x-ms-request-charge"), 64); err == nil && charge > 0 && charge < 1e9 {
		m.millis.Add(int64(charge * 1000))
		if bill, ok := req.Raw().Context().Value(billContext{}).(*bill); ok {
			bill.millis.Add(int64(charge * 1000))
		}
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		offset := time.Until(date)
		if offset.Abs() < 2*time.Second { // the header counts whole seconds
			offset = 0
		}
		m.offset.Store(int64(offset))
	}
	return resp, nil
}
