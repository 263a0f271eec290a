package settings

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// entra is a token service that answers everyone and keeps what it was asked.
type entra struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string     // method and path, in order
	forms []url.Values // of the token requests
}

func newEntra(t *testing.T) *entra {
	e := &entra{}
	e.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.asked = append(e.asked, r.Method+" "+r.URL.Path)
		answer := map[string]any{
			"issuer":                 e.URL + "/" + tenant + "/v2.0",
			"authorization_endpoint": e.URL + "/" + tenant + "/oauth2/v2.0/authorize",
			"token_endpoint":         e.URL + "/" + tenant + "/oauth2/v2.0/token",
		}
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			e.forms = append(e.forms, r.PostForm)
			answer = map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "a-token"}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(e.Close)
	return e
}

func TestCredentialsSignIn(t *testing.T) {
	pemFile, tokenFile := certificateFile(t), filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("a-federated-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change []string
		want   map[string]string // form fields; "*" means any but empty
	}{
		{"secret", []string{"MANAGEMENT_API_CLIENT_ID=" + other}, map[string]string{"client_id": other, "client_secret": "s3cret~of~the~app"}},
		{"certificate", []string{"AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH=" + pemFile, "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN=1"}, map[string]string{"client_id": client, "client_assertion": "*"}},
		{"workload", []string{"AZURE_CLIENT_SECRET=", "MANAGEMENT_API_CREDENTIAL=WorkloadIdentityCredential", "AZURE_FEDERATED_TOKEN_FILE=" + tokenFile}, map[string]string{"client_id": client, "client_assertion": "a-federated-token"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEntra(t)
			// What the process's own environment says must not matter.
			t.Setenv("AZURE_CLIENT_ID", "11111111-1111-4111-8111-111111111111")
			t.Setenv("AZURE_TENANT_ID", "22222222-2222-4222-8222-222222222222")
			t.Setenv("AZURE_AUTHORITY_HOST", "https://login.nowhere.example")
			s, problems := Load(getter(with(append(tt.change, "AZURE_AUTHORITY_HOST="+e.URL)...)))
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			cred, err := s.ManagementCredential(e.Client())
			if err != nil {
				t.Fatal(err)
			}
			if len(e.asked) > 0 {
				t.Errorf("making the credential asked %q, want nothing", e.asked)
			}
			token, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{s.ManagementAudience + "/.default"}})
			if err != nil {
				t.Fatal(err)
			}
			if token.Token != "a-token" || len(e.forms) != 1 {
				t.Fatalf("token %q after %d token requests", token.Token, len(e.forms))
			}
			form := e.forms[0]
			if !strings.HasPrefix(form.Get("scope"), "https://manage.office.com/.default") {
				t.Errorf("scope %q", form.Get("scope"))
			}
			for field, want := range tt.want {
				if got := form.Get(field); got != want && (want != "*" || got == "") {
					t.Errorf("%s = %q, want %q", field, got, want)
				}
			}
			// The header of a certificate's assertion carries the chain, as asked.
			if tt.name == "certificate" {
				head, _, _ := strings.Cut(form.Get("client_assertion"), ".")
				if raw, err := base64.RawURLEncoding.DecodeString(head); err != nil || !strings.Contains(string(raw), `"x5c"`) {
					t.Errorf("assertion header %s, error %v; want x5c in it", raw, err)
				}
			}
			for _, a := range e.asked {
				if !strings.Contains(a, "/"+tenant+"/") {
					t.Errorf("asked %s, which is not the tenant's", a)
				}
			}
		})
	}
}

func TestManagedIdentitySignsIn(t *testing.T) {
	var asked url.Values
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"of-the-identity","expires_on":"4102444800","resource":"x","token_type":"Bearer"}`))
	}))
	defer srv.Close()
	t.Setenv("IDENTITY_ENDPOINT", srv.URL)
	t.Setenv("IDENTITY_HEADER", "h")
	s, problems := Load(getter(with("AZURE_CLIENT_SECRET=", "COSMOS_CLIENT_ID="+other)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	cred, err := s.CosmosCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	// azidentity keeps such tokens for the whole process, so ask for a new one.
	scope := "https://" + strings.ToLower(rand.Text()) + ".documents.example/.default"
	token, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{scope}})
	if err != nil || token.Token != "of-the-identity" || asked.Get("client_id") != other {
		t.Errorf("token %q, asked %v, error %v", token.Token, asked, err)
	}
}

func TestEveryCredentialCanBeMade(t *testing.T) {
	file := certificateFile(t)
	for _, name := range []string{environment, workloadIdentity, managedIdentity, azureCLI} {
		s, problems := Load(getter(with("MANAGEMENT_API_CREDENTIAL="+name, "AZURE_FEDERATED_TOKEN_FILE=token", "AZURE_CLIENT_CERTIFICATE_PATH="+file)))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if cred, err := s.ManagementCredential(nil); err != nil || cred == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cred, err := (Settings{}).ManagementCredential(nil); err == nil || cred != nil {
		t.Errorf("no credential named: %v, %v; want nil and an error", cred, err)
	}
}

// The file may vanish between Load and use: an error, which keeps its cause.
func TestCertificateGone(t *testing.T) {
	file := certificateFile(t)
	s, problems := Load(getter(with("AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH="+file)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ManagementCredential(nil); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), file) {
		t.Errorf("error %v, want one that is ErrNotExist and does not name the path", err)
	}
}

// A pipe or device could block or never end, so it is not even opened.
func TestCertificateIsARegularFile(t *testing.T) {
	_, problems := Load(getter(with("AZURE_CLIENT_SECRET=", "AZURE_CLIENT_CERTIFICATE_PATH="+os.DevNull)))
	if len(problems) != 1 || !strings.Contains(problems[0].What, "not a regular file") {
		t.Errorf("problems %v", problems)
	}
}

func TestInstanceDiscoveryOnlyAtMicrosoft(t *testing.T) {
	for host, want := range map[string]bool{
		"https://login.microsoftonline.com":              true,
		"https://login.microsoftonline.us":               true,
		"https://login.harbor.example":                   false,
		"https://login.microsoftonline.com.evil.example": false,
	} {
		if got := (Settings{AuthorityHost: host}).microsoftAuthority(); got != want {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
}

// certificateFile writes a self-signed certificate with its key and returns
// the path.
func certificateFile(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector.harbor.example"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	file := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
