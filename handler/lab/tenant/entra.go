package tenant

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxForm bounds the bodies that clients may send.
const maxForm = 1 << 20

// assertionType is the only kind of client assertion (RFC 7523).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// known reports whether the token endpoint knows the tenant of the path.
func (t *Tenant) known(segment string) bool {
	return strings.EqualFold(segment, t.cfg.ID) || strings.EqualFold(segment, t.cfg.Domain)
}

func (t *Tenant) discovery(a *answer, c *call) {
	if !t.known(c.segment) {
		a.oauth(http.StatusBadRequest, "invalid_tenant", "90002", "the tenant "+c.segment+" is not known")
		return
	}
	t.mu.Lock()
	authority := t.origin + "/" + t.cfg.ID
	t.mu.Unlock()
	a.json(http.StatusOK, map[string]any{
		"issuer":                                authority + "/v2.0",
		"authorization_endpoint":                authority + "/oauth2/v2.0/authorize",
		"token_endpoint":                        authority + "/oauth2/v2.0/token",
		"jwks_uri":                              authority + "/discovery/v2.0/keys",
		"response_types_supported":              []string{"code", "id_token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
	})
}

// oauth answers with an error in Entra's shape.
func (a *answer) oauth(status int, kind, number, text string) {
	a.seen.Code = "AADSTS" + number
	code, _ := strconv.Atoi(number)
	a.json(status, map[string]any{
		"error": kind, "error_description": "AADSTS" + number + ": " + text + ".", "error_codes": []int{code},
	})
}

// token serves the v1 and v2 token endpoints.
func (t *Tenant) token(a *answer, c *call) {
	c.Body = http.MaxBytesReader(a, c.Body, maxForm)
	if err := c.ParseForm(); err != nil {
		a.oauth(http.StatusBadRequest, "invalid_request", "900144", "the form cannot be read")
		return
	}
	form := c.PostForm
	v2 := strings.HasSuffix(c.URL.Path, "/v2.0/token")
	t.mu.Lock()
	number := t.knobs.TokenError
	origin := t.origin
	t.mu.Unlock()
	app := t.apps[strings.ToLower(form.Get("client_id"))]
	switch {
	case number != "":
		status := http.StatusUnauthorized
		if number == "700016" || number == "90002" {
			status = http.StatusBadRequest
		}
		a.oauth(status, "invalid_client", number, "the request was refused as the test asked for")
		return
	case !t.known(c.segment):
		a.oauth(http.StatusBadRequest, "invalid_request", "90002", "the tenant "+c.segment+" is not known")
		return
	case form.Get("grant_type") != "client_credentials":
		a.oauth(http.StatusBadRequest, "unsupported_grant_type", "70003", "the grant type is not supported")
		return
	case app == nil:
		a.oauth(http.StatusBadRequest, "unauthorized_client", "700016", "the application is not known in this tenant")
		return
	}

	acr := "1"
	if assertion := form.Get("client_assertion"); assertion != "" {
		acr = "2"
		if form.Get("client_assertion_type") != assertionType || !app.asserts(assertion, origin+c.URL.Path, c.now) {
			a.oauth(http.StatusUnauthorized, "invalid_client", "700027", "the client assertion is not accepted")
			return
		}
	} else if app.Secret == "" || !hmac.Equal([]byte(form.Get("client_secret")), []byte(app.Secret)) {
		a.oauth(http.StatusUnauthorized, "invalid_client", "7000215", "the client secret is not accepted")
		return
	}

	audience := form.Get("resource")
	if v2 {
		audience = ""
		for scope := range strings.FieldsSeq(form.Get("scope")) {
			if resource, ok := strings.CutSuffix(scope, "/.default"); ok {
				audience = resource
			}
		}
	}
	if u, err := url.Parse(audience); err != nil || u.Scheme == "" {
		a.oauth(http.StatusBadRequest, "invalid_scope", "70011", "the scope or resource is not valid")
		return
	}
	text, life, expires := t.issue(app, audience, acr, c.now)
	if v2 {
		a.json(http.StatusOK, map[string]any{
			"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": text,
		})
		return
	}
	// The v1 endpoint writes its numbers as strings.
	a.json(http.StatusOK, map[string]string{
		"token_type": "Bearer", "expires_in": strconv.Itoa(life), "ext_expires_in": strconv.Itoa(life),
		"expires_on": strconv.FormatInt(expires, 10), "not_before": strconv.FormatInt(expires-int64(life), 10),
		"resource": audience, "access_token": text,
	})
}

// asserts reports whether the application is known by the assertion: its
// federated token as it is, or a token of its own making, signed RS256 or PS256
// with its certificate's key and meant for this endpoint.
func (app *App) asserts(assertion, endpoint string, now time.Time) bool {
	if app.Assertion != "" && hmac.Equal([]byte(assertion), []byte(app.Assertion)) {
		return true
	}
	parts := strings.Split(assertion, ".")
	if app.Certificate == nil || len(parts) != 3 {
		return false
	}
	key, ok := app.Certificate.PublicKey.(*rsa.PublicKey)
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if !ok || err != nil {
		return false
	}
	var head struct{ Alg string }
	var body struct {
		Aud, Iss, Sub string
		Exp           int64
	}
	if !decodeSegment(parts[0], &head) || !decodeSegment(parts[1], &body) {
		return false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	switch head.Alg {
	case "RS256":
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature)
	case "PS256":
		err = rsa.VerifyPSS(key, crypto.SHA256, digest[:], signature, nil)
	default:
		return false
	}
	return err == nil && body.Aud == endpoint && body.Exp > now.Unix() &&
		strings.EqualFold(body.Iss, app.ID) && strings.EqualFold(body.Sub, app.ID)
}

// identity serves the managed identity endpoint as App Service has it.
func (t *Tenant) identity(a *answer, c *call) {
	id, _ := c.param("client_id")
	if id == "" {
		id = t.cfg.AppID
	}
	app := t.apps[strings.ToLower(id)]
	resource, _ := c.param("resource")
	if t.cfg.IdentityHeader == "" || c.Header.Get("X-Identity-Header") != t.cfg.IdentityHeader || app == nil || resource == "" {
		a.json(http.StatusBadRequest, map[string]any{"statusCode": 400, "message": "no identity answers to this request"})
		return
	}
	text, _, expires := t.issue(app, strings.TrimSuffix(resource, "/"), "2", c.now)
	a.json(http.StatusOK, map[string]string{
		"access_token": text, "expires_on": strconv.FormatInt(expires, 10), "resource": resource, "token_type": "Bearer", "client_id": app.ID,
	})
}

// issue makes a token. It returns its life in seconds and its end too.
func (t *Tenant) issue(app *App, audience, acr string, now time.Time) (text string, life int, expires int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	life = 3600
	if t.knobs.TokenLifetime > 0 {
		life = int(t.knobs.TokenLifetime.Seconds())
	}
	t.tokens++
	k := claims{
		Audience: audience, Issued: now.Unix(), Before: now.Unix(), Expires: now.Unix() + int64(life),
		AppID: app.ID, AppACR: acr, Tenant: t.cfg.ID, Version: "1.0", Unique: strconv.Itoa(t.tokens),
	}
	if t.knobs.TokenAudience != "" {
		k.Audience = t.knobs.TokenAudience
	}
	if t.knobs.TokenTenant != "" {
		k.Tenant = t.knobs.TokenTenant
	}
	k.Issuer = t.origin + "/" + k.Tenant + "/"
	if k.Roles = app.Roles; t.knobs.TokenRoles != nil {
		k.Roles = t.knobs.TokenRoles
	}
	signed := segmentJSON(map[string]string{"typ": "JWT", "alg": "HS256"}) + "." + segmentJSON(k)
	return signed + "." + base64.RawURLEncoding.EncodeToString(t.sign(signed)), life, k.Expires
}

// RevokeTokens makes the API refuse every token issued so far.
func (t *Tenant) RevokeTokens() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revoked = t.tokens
}

func (t *Tenant) sign(text string) []byte {
	mac := hmac.New(sha256.New, t.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// verify reads a token and reports whether this tenant made it.
func (t *Tenant) verify(token string) (k claims, ok bool) {
	at := strings.LastIndexByte(token, '.')
	if at < 0 {
		return k, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil || !hmac.Equal(signature, t.sign(token[:at])) {
		return k, false
	}
	_, body, _ := strings.Cut(token[:at], ".")
	return k, decodeSegment(body, &k)
}

func decodeSegment(text string, v any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && json.Unmarshal(raw, v) == nil
}
