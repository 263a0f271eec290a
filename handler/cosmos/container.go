package cosmos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

// MaxDocument is the most bytes of one document: the service's limit is 2 MB of
// UTF-8 (Cosmos DB service limits).
const MaxDocument = 2_000_000

// Container is one container of a [DB].
type Container struct {
	db   *DB
	id   string
	bulk bool // its requests wait for their turn
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
	err = c.do(ctx, "read container", "", 1, func(ctx context.Context, container *azcosmos.ContainerClient) error {
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
	return missing(c.do(ctx, "create document", key, 1, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.CreateItem(ctx, placeholder, doc, nil)
		return fromAccount(resp.RawResponse, err)
	}))
}

// Replace overwrites the document with that id if its ETag is still etag, else
// returns a Fault of kind Changed. It returns the new ETag.
//
// Changed can also mean that an earlier try did it and its answer was lost.
func (c *Container) Replace(ctx context.Context, key Key, id string, doc []byte, etag string) (next string, err error) {
	match := azcore.ETag(etag)
	err = c.do(ctx, "replace document", key, 1, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.ReplaceItem(ctx, placeholder, id, doc, &azcosmos.ItemOptions{IfMatchEtag: &match})
		if err = fromAccount(resp.RawResponse, err); err == nil {
			next = string(resp.ETag)
		}
		return err
	})
	return next, err
}

// Read returns the document with that id, which must be one of ours: letters,
// digits and hyphens. A document that is not there is a Fault of kind NotFound.
func (c *Container) Read(ctx context.Context, key Key, id string) ([]byte, error) {
	var doc []byte
	err := c.do(ctx, "read document", key, 1, func(ctx context.Context, container *azcosmos.ContainerClient) error {
		resp, err := container.ReadItem(ctx, placeholder, id, nil)
		doc = resp.Value
		return fromAccount(resp.RawResponse, err)
	})
	return doc, err
}

// Query runs sql and gives every row to row, page by page, in the service's
// order. A page has at most rows rows; 0: as many as the service gives. With an empty key the query goes to all partitions, where the gateway
// serves filters and projections only. A page that fails is asked for again, so
// row sees each row once. An error of row ends the query and is returned.
func (c *Container) Query(ctx context.Context, key Key, sql string, params []Param, rows int32, row func(json.RawMessage) error) error {
	options := azcosmos.QueryOptions{PageSizeHint: cmp.Or(rows, -1)}
	for _, p := range params {
		options.QueryParameters = append(options.QueryParameters, azcosmos.QueryParameter{Name: p.Name, Value: p.Value})
	}
	partition := placeholder
	if key == "" {
		partition = azcosmos.NewPartitionKey()
	}
	for {
		var page azcosmos.QueryItemsResponse
		err := c.do(ctx, "query documents", key, 1, func(ctx context.Context, container *azcosmos.ContainerClient) (err error) {
			// A pager is of no use after an error, so each page has its own.
			page, err = container.NewQueryItemsPager(sql, partition, &options).NextPage(ctx)
			if err = fromAccount(page.RawResponse, err); err == nil && len(page.Items) == 0 {
				// Nor is an answer without a list an empty one.
				if body, _ := runtime.Payload(page.RawResponse); !bytes.Contains(body, []byte(`"Documents"`)) {
					err = &errAgain{status: page.RawResponse.StatusCode, reason: "the answer to a query holds no list of documents"}
				}
			}
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

// fromAccount returns err, or for a success that is not the account's an error
// that asks for another try: a proxy's page must not pass for "it is stored", nor
// for "there is nothing".
func fromAccount(resp *http.Response, err error) error {
	if err != nil || ours(resp) {
		return err
	}
	return &errAgain{status: resp.StatusCode, reason: "the answer is not from Cosmos DB itself; look for a proxy, and check COSMOS_ENDPOINT"}
}

func (c *Container) do(ctx context.Context, op string, key Key, n int, call func(context.Context, *azcosmos.ContainerClient) error) error {
	return c.db.do(ctx, op+" in "+c.id, n, c.bulk, func(ctx context.Context, client *azcosmos.Client) error {
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
