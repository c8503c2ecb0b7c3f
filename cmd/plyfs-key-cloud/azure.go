package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// azureSettings are those of Azure Key Vault, or a managed HSM. The host is known to Azure by its managed identity, by a
// workload identity, or by AZURE_* variables as far as they are passed on.
type azureSettings struct {
	Service string `json:"service"`
	Vault   string `json:"vault"` // https://NAME.vault.azure.net
	Key     string `json:"key"`   // template: name of an RSA key
}

// azureService asks one key. New secrets are wrapped by its newest version, which is kept with them.
type azureService struct {
	client      *azkeys.Client
	key         string
	description protocol.Description
}

func openAzure(_ context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	credential, err := azureCredential()
	if err != nil {
		return nil, err
	}
	return openAzureWith(raw, n, credential, azkeys.ClientOptions{})
}

func openAzureWith(raw json.RawMessage, n protocol.Names, credential azcore.TokenCredential, options azkeys.ClientOptions) (protocol.Service, error) {
	var s azureSettings
	if err := protocol.Settings(raw, &s); err != nil {
		return nil, err
	}
	if err := required(map[string]string{"vault": s.Vault, "key": s.Key}); err != nil {
		return nil, err
	}
	if u, err := url.Parse(s.Vault); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, protocol.Usage("settings: vault is not an https URL")
	}
	key, err := protocol.Expand(s.Key, n)
	if err != nil {
		return nil, err
	}
	options.Retry = policy.RetryOptions{MaxRetries: -1} // plyfs tries again
	client, err := azkeys.NewClient(s.Vault, credential, &options)
	if err != nil {
		return nil, protocol.Usage("Azure Key Vault: %v", err)
	}
	return &azureService{client: client, key: key, description: describe("Azure Key Vault", strings.TrimSuffix(s.Vault, "/")+"/keys/"+key)}, nil
}

// azureCredential is the chain of identities that a server can have. Those of a person's desktop are not asked.
func azureCredential() (azcore.TokenCredential, error) {
	var chain []azcore.TokenCredential
	if c, err := azidentity.NewEnvironmentCredential(nil); err == nil {
		chain = append(chain, c)
	}
	if c, err := azidentity.NewWorkloadIdentityCredential(nil); err == nil {
		chain = append(chain, c)
	}
	c, err := azidentity.NewManagedIdentityCredential(nil)
	if err != nil {
		return nil, protocol.Usage("Azure: %v", err)
	}
	return azidentity.NewChainedTokenCredential(append(chain, c), nil)
}

// azureAlgorithm is what the key encrypts with; all RSA keys of Key Vault have it.
const azureAlgorithm = azkeys.EncryptionAlgorithmRSAOAEP256

func (s *azureService) Describe() protocol.Description { return s.description }
func (s *azureService) Close()                         {}

func (s *azureService) Wrap(ctx context.Context, secret []byte) ([]byte, error) {
	algorithm := azureAlgorithm
	r, err := s.client.WrapKey(ctx, s.key, "", azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: secret}, nil)
	if err != nil {
		return nil, azureError(err)
	}
	if r.KID == nil || r.KID.Version() == "" || len(r.Result) == 0 {
		return nil, errors.New("Azure Key Vault: an answer without version or result")
	}
	return append([]byte(r.KID.Version()+"\n"), r.Result...), nil
}

func (s *azureService) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	version, value, ok := bytes.Cut(wrapped, []byte("\n"))
	if !ok || len(version) == 0 || len(version) > 64 || strings.Trim(string(version), "0123456789abcdefABCDEF") != "" {
		return nil, protocol.Invalid("the wrapped secret does not begin with the version of a key")
	}
	algorithm := azureAlgorithm
	r, err := s.client.UnwrapKey(ctx, s.key, string(version), azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: value}, nil)
	if err != nil {
		return nil, azureError(err)
	}
	return r.Result, nil
}

// azureError sorts what Azure answers. 403 is that the key is disabled, expired or not for this host; 404 that it was
// deleted, or never was; 409 that it is deleted and can be recovered.
func azureError(err error) error {
	var identity *azidentity.AuthenticationFailedError
	if errors.As(err, &identity) {
		if r := identity.RawResponse; r != nil && (r.StatusCode == 400 || r.StatusCode == 401) && contains(identity.Error(), "invalid_client", "unauthorized_client", "invalid_grant") {
			return protocol.Denied("Azure does not accept the identity of this host (status %d)", r.StatusCode)
		}
		return errors.New("Azure gave this host no token")
	}
	var r *azcore.ResponseError
	if !errors.As(err, &r) {
		return fmt.Errorf("Azure Key Vault: %w", err)
	}
	text := fmt.Sprintf("Azure Key Vault: status %d %s", r.StatusCode, r.ErrorCode)
	if r.ErrorCode == "" { // no answer of Azure's, but of a proxy before it
		return errors.New(text)
	}
	switch r.StatusCode {
	case 401, 403, 404, 409:
		return protocol.Denied("%s", text)
	case 400:
		return protocol.Invalid("%s", text)
	}
	return errors.New(text)
}
