package ca

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// serve starts an https server with a's certificate and returns its port.
func serve(t *testing.T, a *Authority) (port string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.TLS = a.ServerTLS()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL[strings.LastIndex(s.URL, ":")+1:]
}

func get(t *testing.T, c *tls.Config, url string) error {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: c}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestServerIsTrustedByItsOwnClientsOnly(t *testing.T) {
	a, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port := serve(t, a)
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if err := get(t, a.ClientTLS(), "https://"+host+":"+port); err != nil {
			t.Errorf("get %s: %v", host, err)
		}
	}

	other, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := get(t, other.ClientTLS(), "https://127.0.0.1:"+port); err == nil {
		t.Error("a client of another authority trusted the server")
	}
}

// TestFiles reads back what another process would: the authority for
// SSL_CERT_FILE and the pair for a server.
func TestFiles(t *testing.T) {
	a, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(a.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate in the authority's file")
	}
	pair, err := tls.LoadX509KeyPair(a.ServerFile, a.ServerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Errorf("verify: %v", err)
	}
	info, err := os.Stat(a.ServerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("key file mode = %v, want 0600", got)
	}
}
