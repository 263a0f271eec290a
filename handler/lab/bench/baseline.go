package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"

	"activityarchive/handler/lab/tenant"
)

// maxBatch is how many operations a batch may have (Cosmos DB service limits).
const maxBatch = 100

// plain is a client as one writes it in an afternoon: the baselines' own.
type plain struct {
	w     *world
	token string
}

// plainClient signs in.
func (w *world) plainClient(ctx context.Context) (*plain, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {tenant.DefaultAppID}, "client_secret": {tenant.DefaultAppSecret},
		"scope": {tenant.DefaultAudience + "/.default"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.origin+"/"+tenant.DefaultID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		return nil, fmt.Errorf("sign in: status %d: %w", resp.StatusCode, err)
	}
	return &plain{w: w, token: answer.Token}, nil
}

// get reads one content to its end.
func (p *plain) get(ctx context.Context, c *tenant.Content, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URI+"?PublisherIdentifier="+tenant.DefaultID, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := p.w.client.Do(req)
	if err != nil {
		return fmt.Errorf("get content: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get content: status %d", resp.StatusCode)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("get content: %w", err)
	}
	return nil
}

// batch is a transactional batch, ready to be sent.
type batch struct {
	user      string
	key       string // header
	body      []byte
	documents [][]byte // that body is made of
}

func (s *source) key(user string) string { return `["` + user + `","` + s.hour + `"]` }

// newBatch makes a batch of creates.
func (s *source) newBatch(user string, documents [][]byte) batch {
	body := []byte{'['}
	for i, d := range documents {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"operationType":"Create","resourceBody":`...)
		body = append(append(body, d...), '}')
	}
	return batch{user, s.key(user), append(body, ']'), documents}
}

// put sends a batch to the archive.
func (p *plain) put(ctx context.Context, b batch) error {
	return p.write(ctx, archiveName, b.key, b.body, http.StatusOK, "x-ms-cosmos-is-batch-request", "x-ms-cosmos-batch-atomic")
}

// enter creates a document for a content in the ledger: a notified process's
// least work.
func (p *plain) enter(ctx context.Context, c *tenant.Content) error {
	sum := sha256.Sum256([]byte("plain " + c.ID))
	body, err := json.Marshal(map[string]string{"id": hex.EncodeToString(sum[:]), "pk": "plain", "contentId": c.ID, "contentUri": c.URI})
	if err != nil {
		return err
	}
	return p.write(ctx, ledgerName, `["plain"]`, body, http.StatusCreated)
}

// write posts a body to a container's documents; flags are headers that are set
// to True.
func (p *plain) write(ctx context.Context, container, key string, body []byte, want int, flags ...string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.w.cosmos+"/dbs/"+database+"/colls/"+container+"/docs", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "type%3Dmaster%26ver%3D1.0%26sig%3Dc3ludGhldGlj")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("x-ms-documentdb-partitionkey", key)
	req.Header.Set("Prefer", "return=minimal")
	for _, flag := range flags {
		req.Header.Set(flag, "True")
	}
	resp, err := p.w.client.Do(req)
	if err != nil {
		return fmt.Errorf("write to Cosmos DB: %w", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("write to Cosmos DB: %w", err)
	}
	if resp.StatusCode != want {
		return fmt.Errorf("write to Cosmos DB: status %d", resp.StatusCode)
	}
	return nil
}

// sequential archives one content after the other: fetch, parse, write in the
// largest batches there are. It returns contents a second.
func (p *plain) sequential(ctx context.Context, contents []tenant.Content) (float64, error) {
	began := time.Now()
	for i := range contents {
		var body bytes.Buffer
		if err := p.get(ctx, &contents[i], &body); err != nil {
			return 0, err
		}
		var records []map[string]any
		if err := json.Unmarshal(body.Bytes(), &records); err != nil {
			return 0, fmt.Errorf("parse content: %w", err)
		}
		order, groups := []string{}, map[string][][]byte{}
		for _, r := range records {
			id, _ := r["Id"].(string)
			user, _ := r["UserId"].(string)
			at, _ := r["CreationTime"].(string)
			if len(at) < 13 {
				return 0, errors.New("parse content: a record has no CreationTime")
			}
			r["id"], r["archive"] = id, map[string]any{"hour": at[:13], "content": contents[i].ID}
			document, err := json.Marshal(r)
			if err != nil {
				return 0, err
			}
			if groups[user] == nil {
				order = append(order, user)
			}
			groups[user] = append(groups[user], document)
		}
		for _, user := range order {
			if err := p.put(ctx, p.w.source.newBatch(user, groups[user])); err != nil {
				return 0, err
			}
		}
	}
	return float64(len(contents)) / time.Since(began).Seconds(), nil
}

// parallel calls do for each of n, so many at a time, and returns how many it
// did a second.
func parallel(n, at int, do func(i int) error) (float64, error) {
	began := time.Now()
	var next atomic.Int64
	errs := make([]error, at)
	var all sync.WaitGroup
	for worker := range at {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[worker] == nil; i = int(next.Add(1)) - 1 {
				errs[worker] = do(i)
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(began).Seconds(), errors.Join(errs...)
}

// Workers of the two baselines of the bound. More were not faster on two cores.
const (
	wireWorkers = 16
	sinkWorkers = 8
)

// wire fetches all contents and throws them away. It returns contents a second.
func (p *plain) wire(ctx context.Context, contents []tenant.Content) (float64, error) {
	return parallel(len(contents), wireWorkers, func(i int) error { return p.get(ctx, &contents[i], io.Discard) })
}

// readyBatches are documents of so many contents of templates records, in full
// batches of one user each.
func (s *source) readyBatches(contents int) (list []batch) {
	groups := map[string][][]byte{}
	for serial := range uint32(contents) {
		for i := range templates {
			user, document := s.document(serial, i)
			if groups[user] = append(groups[user], document); len(groups[user]) == maxBatch {
				list = append(list, s.newBatch(user, groups[user]))
				groups[user] = nil
			}
		}
	}
	return list
}

// sink writes batches round and round until n were written. It returns records
// a second.
func (p *plain) sink(ctx context.Context, batches []batch, n int) (float64, error) {
	rate, err := parallel(n, sinkWorkers, func(i int) error { return p.put(ctx, batches[i%len(batches)]) })
	return rate * maxBatch, err
}

// sdk is sink through Azure's client library, which encodes every document once
// more and reads every result: a floor under what any program that uses it takes.
func (w *world) sdk(ctx context.Context, batches []batch, n int) (float64, error) {
	key, err := azcosmos.NewKeyCredential(accountKey)
	if err != nil {
		return 0, err
	}
	client, err := azcosmos.NewClientWithKey(w.cosmos, key, &azcosmos.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: w.client}})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	container, err := client.NewContainer(database, archiveName)
	if err != nil {
		return 0, err
	}
	rate, err := parallel(n, sinkWorkers, func(i int) error {
		ready := batches[i%len(batches)]
		b := container.NewTransactionalBatch(azcosmos.NewPartitionKeyString(ready.user).AppendString(w.source.hour))
		for _, document := range ready.documents {
			b.CreateItem(document, nil)
		}
		resp, err := container.ExecuteTransactionalBatch(ctx, b, nil)
		if err == nil && !resp.Success {
			err = errors.New("run batch: it was refused")
		}
		return err
	})
	return rate * maxBatch, err
}
