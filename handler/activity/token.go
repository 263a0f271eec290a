package activity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

const (
	// tokenTimeout bounds one wait for a token: azidentity asks an identity
	// endpoint that does not answer until its context ends.
	tokenTimeout = time.Minute
	// roleDelay is how old a credential must be before a missing permission
	// makes us ask for a new token: one issued before the permission was
	// granted never shows it.
	roleDelay = 5 * time.Minute
)

// tokens gives out the client's access token. azidentity caches tokens in the
// credential, so a token that the service refuses goes only with its credential.
type tokens struct {
	scope  string
	create func() (azcore.TokenCredential, error)
	log    *slog.Logger

	mu         sync.Mutex
	credential azcore.TokenCredential // nil: to be created
	generation int                    // counts the credentials given up
	created    time.Time
}

// token is an access token and the generation of the credential it came from.
type token struct {
	secret     string
	generation int
}

// get returns a token that is valid by its own claims.
func (t *tokens) get(ctx context.Context) (token, error) {
	const op = "get access token"
	t.mu.Lock()
	if t.credential == nil {
		credential, err := t.create()
		if err != nil {
			t.mu.Unlock()
			return token{}, &Fault{Op: op, Kind: Denied, Err: &cleaned{clean(err.Error()), err}, Remedy: "check the credential's settings"}
		}
		t.credential, t.created = credential, time.Now()
	}
	credential, generation := t.credential, t.generation
	t.mu.Unlock()

	limited, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	got, err := credential.GetToken(limited, policy.TokenRequestOptions{Scopes: []string{t.scope}})
	switch {
	case err == nil && got.Token != "":
		return token{got.Token, generation}, nil
	case ctx.Err() != nil:
		return token{}, ended(ctx, op)
	case err == nil:
		err = errors.New("the credential gave an empty token")
	}
	return token{}, tokenFault(op, err)
}

// refuse gives up the credential that a refused token came from, once however
// many callers held that token, and not before the credential is minAge old.
func (t *tokens) refuse(refused token, minAge time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if refused.generation != t.generation || time.Since(t.created) < minAge {
		return
	}
	t.credential = nil
	t.generation++
	t.log.Warn("access token refused, getting a new one")
}

// entraError finds what Entra ID says went wrong inside azidentity's text.
var entraError = regexp.MustCompile(`(AADSTS\d+):?([^"\\\r\n]*)`)

// entraRemedies explains Entra ID's codes for a wrong configuration. Source:
// Entra ID's reference of authentication error codes.
var entraRemedies = map[string]string{
	"AADSTS7000215": "the client secret is wrong: set AZURE_CLIENT_SECRET to the secret's value, not to its id",
	"AADSTS7000222": "the client secret has expired: create a new one and set AZURE_CLIENT_SECRET",
	"AADSTS700016":  "this tenant has no such application: check AZURE_CLIENT_ID and AZURE_TENANT_ID",
	"AADSTS90002":   "there is no such tenant: check AZURE_TENANT_ID and CLOUD",
	"AADSTS700027":  "the certificate is not one of the application's: check AZURE_CLIENT_CERTIFICATE_PATH",
	"AADSTS700024":  "the client assertion is not valid now: check this machine's clock and the federated token",
	"AADSTS500011":  "this tenant does not have the Office 365 Management APIs: check CLOUD, and that the tenant has a Microsoft 365 subscription",
}

// tokenFault classifies azidentity's error. Entra ID's refusals are 400 and
// 401; anything else, no answer at all included, may pass.
func tokenFault(op string, err error) *Fault {
	f := &Fault{Op: op, Kind: Transient}
	message := err.Error()
	if found := entraError.FindStringSubmatch(message); found != nil {
		f.Code, message = found[1], strings.TrimSpace(found[2])
		f.Remedy = entraRemedies[f.Code]
	}
	if failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok && failed.RawResponse != nil {
		f.Status = failed.RawResponse.StatusCode
		switch f.Status {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
			f.Kind = Denied
		case http.StatusTooManyRequests:
			f.RetryAfter = retryAfter(failed.RawResponse.Header, time.Now())
		}
	}
	if f.Remedy != "" {
		f.Kind = Denied
	} else if f.Kind == Denied {
		f.Remedy = "check the credential's settings"
	}
	if message = clean(message); message == "" {
		message = "no readable message"
	}
	f.Err = &cleaned{message, err}
	return f
}

// claims are the parts of an access token that tell whose it is.
type claims struct {
	Audience audience `json:"aud"`
	TenantID text     `json:"tid"`
	AppID    text     `json:"appid"` // version 1 tokens
	Azp      text     `json:"azp"`   // version 2 tokens
	Roles    []text   `json:"roles"`
}

// audience is a claim that may be one string or several.
type audience []text

// UnmarshalJSON accepts a string or an array.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one text
	if err := json.Unmarshal(b, &one); err == nil && one != "" {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]text)(a))
}

// readClaims reads a token's claims without checking its signature: the token
// is our own, and only the service decides on it.
func readClaims(secret string) (claims, error) {
	var c claims
	parts := strings.Split(secret, ".")
	if len(parts) != 3 {
		return c, errors.New("the access token is not a JSON Web Token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return c, errors.New("the access token's claims cannot be read")
	}
	return c, nil
}

// String is for an operator who looks for the reason of a refusal.
func (c claims) String() string {
	if !slices.Contains(c.Roles, "ActivityFeed.Read") {
		return clean(fmt.Sprintf("the token has aud %q, tid %q, roles %q: ActivityFeed.Read is missing", c.Audience, c.TenantID, c.Roles))
	}
	return clean(fmt.Sprintf("the token has aud %q, tid %q, roles %q", c.Audience, c.TenantID, c.Roles))
}

// AppID returns the application (client) id that the client's access token
// was issued to, which is the clientId of its notifications. A Fault of Kind
// Denied if the token is another tenant's.
func (c *Client) AppID(ctx context.Context) (string, error) {
	const op = "read access token"
	got, err := c.tokens.get(ctx)
	if err != nil {
		return "", err
	}
	claims, err := readClaims(got.secret)
	if err != nil {
		return "", &Fault{Op: op, Kind: Denied, Err: err, Remedy: remedyToken}
	}
	if !strings.EqualFold(string(claims.TenantID), c.tenant) {
		return "", &Fault{Op: op, Kind: Denied, Err: errors.New(claims.String()), Remedy: remedyTenant}
	}
	id := claims.AppID
	if id == "" {
		id = claims.Azp
	}
	if id == "" {
		return "", &Fault{Op: op, Kind: Denied, Err: errors.New("the access token names no application"), Remedy: remedyToken}
	}
	return string(id), nil
}
