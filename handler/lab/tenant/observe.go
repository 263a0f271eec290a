package tenant

import (
	"fmt"
	"slices"
	"time"
)

// maxViolations bounds what is kept: a client that breaks a rule at all breaks
// it at every call.
const maxViolations = 1000

// A Request is one request that a client made. It holds no secret.
type Request struct {
	Time                 time.Time // by the tenant's clock
	Op                   Op
	Method               string
	Path                 string // as escaped by the client
	RawQuery             string
	Authorized           bool // an Authorization header was there
	PublisherIdentifiers int  // how often the parameter was given
	ContentType          string
	ContentID            string // of OpAudit
	Status               int    // of the answer; 0: none was sent
	Code                 string // of the answer's error, such as AF20024
}

// Requests returns what clients asked, in order of their answers.
func (t *Tenant) Requests() []Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.requests)
}

// Count returns how many requests for an operation came; OpUnknown counts all.
func (t *Tenant) Count(op Op) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i := range t.requests {
		if op == OpUnknown || t.requests[i].Op == op {
			n++
		}
	}
	return n
}

// Deliveries returns the notifications sent so far.
func (t *Tenant) Deliveries() []Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.deliveries)
}

// Violations returns what clients did against the rules of the API: a
// PublisherIdentifier that is missing, doubled or no GUID, a token for another
// audience, a start within 15 minutes of the last, a stop, a start body that
// the service overlooks, windows without both bounds, too long, too old or not
// in a documented format, a contentUri that was changed, and requests for what
// does not exist.
func (t *Tenant) Violations() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.violations)
}

// ForgetViolations empties the list.
func (t *Tenant) ForgetViolations() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.violations = nil
}

func (t *Tenant) violation(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.violated(format, args...)
}

// violated is violation for those who hold the lock.
func (t *Tenant) violated(format string, args ...any) {
	if len(t.violations) < maxViolations {
		t.violations = append(t.violations, fmt.Sprintf(format, args...))
	}
}
