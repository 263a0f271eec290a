package cosmos

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/data/azcosmos"
)

// MaxKeyValue is the largest partition key value in bytes, for containers whose
// key has version 2 (Cosmos DB service limits).
const MaxKeyValue = 2048

// Key is a partition key as the service's header carries it: a JSON array in
// ASCII with one element for each level. The empty Key means all partitions and
// is for queries only.
//
// The SDK writes its header with Go's string escapes, which are not JSON for
// emoji, control characters or DEL, and it has no way to say that a property is
// absent. Setting the header ourselves covers both.
type Key string

// KeyString returns the key with one string for each level.
func KeyString(levels ...string) Key {
	b := []byte{'['}
	for i, level := range levels {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendKeyString(b, level)
	}
	return Key(append(b, ']'))
}

// AppendKeyString appends s to b as a JSON string of ASCII characters only.
// Invalid UTF-8 becomes U+FFFD; a caller that must not confuse values refuses
// such text before.
func AppendKeyString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	unit := func(u rune) {
		b = append(b, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= ' ' && r < 0x7f:
			b = append(b, byte(r))
		case r <= 0xffff:
			unit(r)
		default: // outside the basic plane: a surrogate pair
			r -= 0x10000
			unit(0xd800 + r>>10)
			unit(0xdc00 + r&0x3ff)
		}
	}
	return append(b, '"')
}

// keyContext is the context key under which the header travels to keyHeader.
type keyContext struct{}

// placeholder makes the SDK send a partition key header at all; keyHeader then
// replaces its value.
var placeholder = azcosmos.NewPartitionKeyString("-")

func withKey(ctx context.Context, key Key) context.Context {
	return context.WithValue(ctx, keyContext{}, string(key))
}

// keyHeader is the policy that replaces the partition key header.
type keyHeader struct{}

// Do implements [policy.Policy].
func (keyHeader) Do(req *policy.Request) (*http.Response, error) {
	const header = "x-ms-documentdb-partitionkey"
	if key, ok := req.Raw().Context().Value(keyContext{}).(string); ok && req.Raw().Header.Get(header) != "" {
		req.Raw().Header.Set(header, key)
	}
	return req.Next()
}
