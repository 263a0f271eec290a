package settings

import "strings"

// Scope says what a [Problem] stops.
type Scope int

const (
	// ScopeAll stops everything: no tick, no webhook, no command.
	ScopeAll Scope = iota
	// ScopeWebhook stops the webhook; polling goes on.
	ScopeWebhook
)

// String returns "all" or "webhook".
func (s Scope) String() string {
	if s == ScopeWebhook {
		return "webhook"
	}
	return "all"
}

// Problem is one thing that is wrong with one setting. None of its texts
// quotes a value.
type Problem struct {
	Setting string // the name
	What    string // what is wrong, to be read after the name
	Remedy  string // what to do about it, an order
	Scope   Scope  // what it stops
}

// String returns the problem on one line.
func (p Problem) String() string {
	return p.Setting + " " + p.What + ": " + p.Remedy
}

// Problems is everything that is wrong with the settings, in no order that
// means anything. It is an error only if it is not empty: compare its length,
// or take [Problems.Err], before you hand it on as an error.
type Problems []Problem

// Error returns all problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns ps, or nil if there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// All returns those that stop everything.
func (ps Problems) All() Problems { return ps.of(ScopeAll) }

// Webhook returns those that stop only the webhook.
func (ps Problems) Webhook() Problems { return ps.of(ScopeWebhook) }

func (ps Problems) of(s Scope) Problems {
	var found Problems
	for _, p := range ps {
		if p.Scope == s {
			found = append(found, p)
		}
	}
	return found
}
