// Package ca makes a certificate authority on the spot, and one server
// certificate signed by it, for the lab's https servers on the loopback
// interface.
//
// Everything lies as PEM files in one folder, so that other processes can use
// it: a client that has SSL_CERT_FILE set to CertFile trusts the servers. The
// keys protect nothing but a lab on one machine and last for two days.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime bounds both certificates: longer than any run of the lab, short
// enough that a folder left behind is soon worthless.
const lifetime = 48 * time.Hour

// Authority is a certificate authority with one server certificate, valid for
// localhost, 127.0.0.1 and ::1. It does not change and may be used
// concurrently.
type Authority struct {
	CertFile      string // the authority's certificate: the value for SSL_CERT_FILE
	ServerFile    string // the server's certificate
	ServerKeyFile string // the server's private key, readable by the owner only

	pool   *x509.CertPool
	server tls.Certificate
}

// New makes an authority and its server certificate and writes them to dir,
// which must exist. The folder is the caller's to remove.
func New(dir string) (*Authority, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	root := template(1, "Activity Archive lab authority")
	root.IsCA = true
	root.BasicConstraintsValid = true
	root.KeyUsage = x509.KeyUsageCertSign
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	leaf := template(2, "localhost")
	leaf.DNSNames = []string{"localhost"}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign server certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode server key: %w", err)
	}

	a := &Authority{
		CertFile:      filepath.Join(dir, "ca.pem"),
		ServerFile:    filepath.Join(dir, "server.pem"),
		ServerKeyFile: filepath.Join(dir, "server-key.pem"),
		pool:          x509.NewCertPool(),
		server:        tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key},
	}
	a.pool.AddCert(root)
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{
		{a.CertFile, "CERTIFICATE", rootDER},
		{a.ServerFile, "CERTIFICATE", leafDER},
		{a.ServerKeyFile, "PRIVATE KEY", keyDER},
	} {
		text := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})
		if err := os.WriteFile(f.path, text, 0o600); err != nil {
			return nil, fmt.Errorf("write certificates: %w", err)
		}
	}
	return a, nil
}

// template is what both certificates share.
func template(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // a clock set back a little must not break the lab
		NotAfter:     now.Add(lifetime),
	}
}

// ServerTLS returns a new configuration for a server that shows the server
// certificate.
func (a *Authority) ServerTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.server}, MinVersion: tls.VersionTLS12}
}

// ClientTLS returns a new configuration for a client that trusts this
// authority and no other.
func (a *Authority) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS12}
}
