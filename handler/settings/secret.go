package settings

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a value that no log, print or encoding shows. The zero Secret is
// not set. Compare two with [Secret.Equal].
type Secret struct {
	// A pointer, because package fmt can't call Format on a Secret that stands
	// in an unexported field of another type; it then prints an address.
	value *string
}

// NewSecret returns value as a Secret; an empty value is not set.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{&value}
}

// Reveal returns the value itself, empty if it is not set. Let it go nowhere
// but into the request that needs it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsSet reports whether there is a value.
func (s Secret) IsSet() bool { return s.value != nil }

// Equal reports whether both hold the same value, in a time that tells nothing
// of either. Two that are not set are equal, so ask IsSet first where that
// would open a door.
func (s Secret) Equal(other Secret) bool {
	a, b := sha256.Sum256([]byte(s.Reveal())), sha256.Sum256([]byte(other.Reveal()))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// String returns a fixed text, whatever the value.
func (Secret) String() string { return redacted }

// GoString returns the text of String.
func (Secret) GoString() string { return redacted }

// Format writes the text of String for every verb, %x and %#v included.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns the text of String.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns the text of String. A Secret can't be read back.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText returns the text of String, for encoders that ask for that.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
