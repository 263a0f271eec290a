package cosmos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

// Limits of a transactional batch.
const (
	MaxBatch      = 100       // operations (Cosmos DB service limits)
	MaxBatchBytes = 1_800_000 // bytes as sent; the service's limit is 2 MB, the rest is the envelope
	MaxDocument   = 2_000_000 // bytes of one document; the service's limit is 2 MB of UTF-8
)

// Container is one container of a [DB].
type Container struct {
	db *DB
	id string
}

// ID returns the container's id.
func (c *Container) ID() string { return c.id }

// Param is one named value of a query, such as "@pk".
type Param struct {
	Name  string
	Value any
}

// Paths reads the container's partition key definition and returns its paths. A
// container or database that does not exist is a Fault of kind Missing.
func (c *Container) Paths(ctx context.Context) (paths []string, err error) {
	err = c.do(ctx, "read container", "", func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.Read(ctx, nil)
		if err == nil {
			paths = resp.ContainerProperties.PartitionKeyDefinition.Paths
		}
		return err
	})
	return paths, missing(err)
}

// Create stores a new document. A document that is there already is a Fault of
// kind Exists. doc is sent as it is.
func (c *Container) Create(ctx context.Context, key Key, doc []byte) error {
	return missing(c.do(ctx, "create document", key, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		_, err := container.CreateItem(ctx, placeholder, doc, nil)
		return err
	}))
}

// Replace overwrites the document with that id if its ETag is still etag, else
// returns a Fault of kind Changed. It returns the new ETag.
//
// Changed can also mean that an earlier try did it and its answer was lost.
func (c *Container) Replace(ctx context.Context, key Key, id string, doc []byte, etag string) (string, error) {
	match := azcore.ETag(etag)
	err := c.do(ctx, "replace document", key, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.ReplaceItem(ctx, placeholder, id, doc, &azcosmos.ItemOptions{IfMatchEtag: &match})
		etag = string(resp.ETag)
		return err
	})
	return etag, err
}

// Read returns the document with that id, which must be one of ours: letters,
// digits and hyphens. A document that is not there is a Fault of kind NotFound.
func (c *Container) Read(ctx context.Context, key Key, id string) ([]byte, error) {
	var doc []byte
	err := c.do(ctx, "read document", key, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.ReadItem(ctx, placeholder, id, nil)
		doc = resp.Value
		return err
	})
	return doc, err
}

// Query runs sql and gives every row to row, page by page, in the service's
// order. With an empty key the query goes to all partitions, where the gateway
// serves filters and projections only. A page that fails is asked for again, so
// row sees each row once. An error of row ends the query and is returned.
func (c *Container) Query(ctx context.Context, key Key, sql string, params []Param, row func(json.RawMessage) error) error {
	options := azcosmos.QueryOptions{PageSizeHint: -1}
	for _, p := range params {
		options.QueryParameters = append(options.QueryParameters, azcosmos.QueryParameter{Name: p.Name, Value: p.Value})
	}
	partition := placeholder
	if key == "" {
		partition = azcosmos.NewPartitionKey()
	}
	for {
		var page azcosmos.QueryItemsResponse
		err := c.do(ctx, "query documents", key, func(ctx context.Context, container *azcosmos.ContainerClient) (err error) {
			// A pager is of no use after an error, so each page has its own.
			page, err = container.NewQueryItemsPager(sql, partition, &options).NextPage(ctx)
			return err
		})
		if err != nil {
			return missing(err)
		}
		for _, item := range page.Items {
			if err := row(item); err != nil {
				return err
			}
		}
		if page.ContinuationToken == nil {
			return nil
		}
		options.ContinuationToken = page.ContinuationToken
	}
}

// Op is one operation of a batch.
type Op struct {
	doc  []byte
	id   string // of the document to replace; empty: create
	etag string
}

// Size is how many bytes of a batch the operation takes, envelope included.
func (o Op) Size() int { return SentSize(o.doc) + envelope }

// envelope is what the SDK writes around a document in a batch: at most the
// words of a replace with an id of 64 characters and an ETag.
const envelope = 256

// Create returns the operation that stores a new document.
func Create(doc []byte) Op { return Op{doc: doc} }

// Replace returns the operation that overwrites the document with that id, one
// of ours, if its ETag is still etag.
func Replace(id string, doc []byte, etag string) Op { return Op{doc: doc, id: id, etag: etag} }

// Batch runs at most MaxBatch operations of one partition in one transaction
// and returns one HTTP status for each.
//
// After a nil error the statuses are final. Usually all are 2xx (done), or none
// is: then the first that is not 424 names the cause and nothing was stored. An
// endpoint without transactions may mix them; an operation with a 2xx status is
// stored in any case when committed is true, and only then.
//
// Failures for a passing reason, inside the batch too, are tried again.
func (c *Container) Batch(ctx context.Context, key Key, ops []Op) (statuses []int, committed bool, err error) {
	err = c.do(ctx, "run batch", key, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		batch := container.NewTransactionalBatch(placeholder)
		for _, op := range ops {
			if op.id == "" {
				batch.CreateItem(op.doc, nil)
				continue
			}
			match := azcore.ETag(op.etag)
			batch.ReplaceItem(op.id, op.doc, &azcosmos.TransactionalBatchItemOptions{IfMatchETag: &match})
		}
		resp, err := container.ExecuteTransactionalBatch(ctx, batch, nil)
		if err != nil {
			return err
		}
		statuses, committed = statuses[:0], resp.Success
		for _, result := range resp.OperationResults {
			statuses = append(statuses, int(result.StatusCode))
		}
		if len(statuses) != len(ops) {
			return &errAgain{status: resp.RawResponse.StatusCode, reason: fmt.Sprintf("the answer holds %d results for %d operations", len(statuses), len(ops))}
		}
		return c.passing(statuses)
	})
	if err != nil {
		return nil, false, missing(err)
	}
	return statuses, committed, nil
}

// passing returns an error when an operation failed for a passing reason.
func (c *Container) passing(statuses []int) error {
	i := slices.IndexFunc(statuses, func(status int) bool {
		switch status {
		case http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests, 449,
			http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return status == 0
	})
	if i < 0 {
		return nil
	}
	if statuses[i] == http.StatusTooManyRequests {
		c.db.meter.throttled.Add(1)
	}
	return &errAgain{status: statuses[i], reason: fmt.Sprintf("operation %d of the batch answered status %d", i, statuses[i])}
}

func (c *Container) do(ctx context.Context, op string, key Key, call func(context.Context, *azcosmos.ContainerClient) error) error {
	return c.db.do(ctx, op+" in "+c.id, func(ctx context.Context, client *azcosmos.Client) error {
		container, err := client.NewContainer(c.db.config.Database, c.id)
		if err != nil {
			return err
		}
		return call(withKey(ctx, key), container)
	})
}

// missing turns NotFound into Missing where no single document was asked for.
func missing(err error) error {
	if f, ok := errors.AsType[*Fault](err); ok && f.Kind == NotFound {
		f.Kind = Missing
		f.Err = fmt.Errorf("the database or container does not exist; create it (README, section Containers) or set COSMOS_KEY so that it is created: %w", f.Err)
	}
	return err
}
