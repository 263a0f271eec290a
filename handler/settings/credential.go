package settings

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// The credentials that a setting can name, by azidentity's names for them.
const (
	environment      = "EnvironmentCredential"
	workloadIdentity = "WorkloadIdentityCredential"
	managedIdentity  = "ManagedIdentityCredential"
	azureCLI         = "AzureCLICredential"
)

// systemIdentity as a client id stands for the system-assigned identity where
// AZURE_CLIENT_ID, the default, belongs to something else.
const systemIdentity = "system"

// A certificate with its chain takes a few kilobytes; this bounds what a wrong
// path can make us read.
const maxCertificateBytes = 1 << 20

// Authorities for which azidentity's instance discovery makes sense. Any other
// host can't be known to it. Source: azcore/cloud, and the alias of older
// documentation.
var microsoftAuthorities = []string{"login.microsoftonline.com", "login.microsoftonline.us", "login.chinacloudapi.cn", "login.partner.microsoftonline.cn", "login.windows.net"}

// credentials reads how to sign in and checks that each credential in use has
// what it needs, so that the constructors later have nothing to refuse.
func (l *loader) credentials(s *Settings) {
	var common string
	l.read("AZURE_CLIENT_ID", guid(&common))
	l.read("AZURE_CLIENT_SECRET", secret(&s.ClientSecret))
	l.read("AZURE_CLIENT_CERTIFICATE_PATH", text(&s.ClientCertificatePath))
	l.read("AZURE_CLIENT_CERTIFICATE_PASSWORD", secret(&s.ClientCertificatePassword))
	l.read("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", boolean(&s.SendCertificateChain))
	l.read("AZURE_FEDERATED_TOKEN_FILE", text(&s.FederatedTokenFile))

	fallback := managedIdentity
	if s.ClientSecret.IsSet() || s.ClientCertificatePath != "" || l.bad["AZURE_CLIENT_SECRET"] || l.bad["AZURE_CLIENT_CERTIFICATE_PATH"] {
		fallback = environment
	}
	for _, c := range []struct {
		setting, idSetting string
		name, id           *string
		used               bool
	}{
		{"MANAGEMENT_API_CREDENTIAL", "MANAGEMENT_API_CLIENT_ID", &s.ManagementCredentialName, &s.ManagementClientID, true},
		{"COSMOS_CREDENTIAL", "COSMOS_CLIENT_ID", &s.CosmosCredentialName, &s.CosmosClientID, !s.CosmosKey.IsSet() && !l.bad["COSMOS_KEY"]},
	} {
		*c.name, *c.id = fallback, common
		l.read(c.setting, oneOf(c.name, environment, workloadIdentity, managedIdentity, azureCLI))
		l.read(c.idSetting, clientID(c.id))
		if c.used {
			l.usable(s, *c.name, *c.id, c.idSetting)
		} else if _, ok := l.lookup(c.setting); ok {
			l.note(c.setting + " is not used, because COSMOS_KEY is set")
		}
		if *c.id == systemIdentity {
			*c.id = ""
		}
	}
}

// usable reports what the credential name, with client id id, lacks.
func (l *loader) usable(s *Settings, name, id, idSetting string) {
	if name != managedIdentity && id == systemIdentity {
		l.report(idSetting, "is system, which only "+managedIdentity+" can be", "give the client id of the app registration, or name that credential")
		return
	}
	if (name == environment || name == workloadIdentity) && id == "" && !l.bad["AZURE_CLIENT_ID"] && !l.bad[idSetting] {
		l.report("AZURE_CLIENT_ID", "is not set, and "+name+" needs it", "set it to the app registration's client id")
	}
	switch name {
	case environment:
		if s.ClientSecret.IsSet() || l.bad["AZURE_CLIENT_SECRET"] || l.bad["AZURE_CLIENT_CERTIFICATE_PATH"] {
			return
		}
		if s.ClientCertificatePath == "" {
			l.report("AZURE_CLIENT_SECRET", "is not set, nor is AZURE_CLIENT_CERTIFICATE_PATH, and "+environment+" needs one",
				"set one of them, or name another credential")
			return
		}
		if _, _, err := s.certificate(); err != nil && !l.bad["AZURE_CLIENT_CERTIFICATE_PASSWORD"] {
			l.report("AZURE_CLIENT_CERTIFICATE_PATH", "names a file that can't be used: "+err.Error(),
				"name a readable PEM or PKCS #12 file with certificate and private key, and set AZURE_CLIENT_CERTIFICATE_PASSWORD if it has one")
		}
	case workloadIdentity:
		if s.FederatedTokenFile == "" && !l.bad["AZURE_FEDERATED_TOKEN_FILE"] {
			l.report("AZURE_FEDERATED_TOKEN_FILE", "is not set, and "+workloadIdentity+" needs it", "set it to the file that holds the token")
		}
	}
}

// certificate reads the client certificate. Its errors name neither the path
// nor any content.
func (s Settings) certificate() ([]*x509.Certificate, crypto.PrivateKey, error) {
	// A named pipe or device could block or never end; look before opening.
	info, err := os.Stat(s.ClientCertificatePath)
	if err != nil {
		return nil, nil, pathless(err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("not a regular file")
	}
	f, err := os.Open(s.ClientCertificatePath)
	if err != nil {
		return nil, nil, pathless(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCertificateBytes))
	if err != nil {
		return nil, nil, pathless(err)
	}
	var password []byte
	if s.ClientCertificatePassword.IsSet() {
		password = []byte(s.ClientCertificatePassword.Reveal())
	}
	certs, key, err := azidentity.ParseCertificates(data, password)
	if err != nil || len(certs) == 0 || key == nil {
		// The parser's error may describe content, so it is not passed on.
		return nil, nil, errors.New("no certificate with its private key could be read from it")
	}
	return certs, key, nil
}

// pathless returns err without the path, which a setting gave.
func pathless(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// ManagementCredential returns the credential for the Management Activity API.
// Tokens are fetched through transport, or azcore's own where it is nil. It
// makes no network call. A Settings that [Load] returned without a problem of
// [ScopeAll] gives no error unless the certificate file has changed since.
//
// Managed identity and the Azure CLI read the environment of the process, for
// the platform tells them there where to ask.
func (s Settings) ManagementCredential(transport policy.Transporter) (azcore.TokenCredential, error) {
	return s.credential(s.ManagementCredentialName, s.ManagementClientID, transport)
}

// CosmosCredential is ManagementCredential for Cosmos DB. It has no use where
// CosmosKey is set.
func (s Settings) CosmosCredential(transport policy.Transporter) (azcore.TokenCredential, error) {
	return s.credential(s.CosmosCredentialName, s.CosmosClientID, transport)
}

func (s Settings) credential(name, clientID string, transport policy.Transporter) (azcore.TokenCredential, error) {
	cred, err := s.build(name, clientID, transport)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return cred, nil
}

func (s Settings) build(name, clientID string, transport policy.Transporter) (azcore.TokenCredential, error) {
	client := azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: s.AuthorityHost},
		Transport: transport,
	}
	private := !s.microsoftAuthority()
	switch name {
	case environment:
		if s.ClientSecret.IsSet() {
			return azidentity.NewClientSecretCredential(s.TenantID, clientID, s.ClientSecret.Reveal(),
				&azidentity.ClientSecretCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: private})
		}
		certs, key, err := s.certificate()
		if err != nil {
			return nil, fmt.Errorf("read AZURE_CLIENT_CERTIFICATE_PATH: %w", err)
		}
		return azidentity.NewClientCertificateCredential(s.TenantID, clientID, certs, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: private, SendCertificateChain: s.SendCertificateChain})
	case workloadIdentity:
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: client, DisableInstanceDiscovery: private,
			TenantID: s.TenantID, ClientID: clientID, TokenFilePath: s.FederatedTokenFile,
		})
	case managedIdentity:
		o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: client}
		if clientID != "" {
			o.ID = azidentity.ClientID(clientID)
		}
		return azidentity.NewManagedIdentityCredential(o)
	case azureCLI:
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: s.TenantID})
	}
	return nil, errors.New("no such credential")
}

func (s Settings) microsoftAuthority() bool {
	u, err := url.Parse(s.AuthorityHost)
	return err == nil && slices.Contains(microsoftAuthorities, u.Hostname())
}
