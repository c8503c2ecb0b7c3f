package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"gocloud.dev/secrets/hashivault"
)

// vaultSettings are those of the transit engine of HashiCorp Vault or OpenBao. What is not set here is taken from VAULT_*
// variables as far as they are passed on.
type vaultSettings struct {
	Service   string `json:"service"`
	Address   string `json:"address"`    // https://HOST:8200
	Key       string `json:"key"`        // template: name of a key of the engine
	Mount     string `json:"mount"`      // of the engine; transit
	TokenFile string `json:"token_file"` // as the agent writes it
	Namespace string `json:"namespace"`
	CAFile    string `json:"ca_file"` // of the server's certificate
}

func openVault(ctx context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	var s vaultSettings
	if err := protocol.Settings(raw, &s); err != nil {
		return nil, err
	}
	if err := required(map[string]string{"key": s.Key, "address": s.Address}); err != nil {
		return nil, err
	}
	key, err := protocol.Expand(s.Key, n)
	if err != nil {
		return nil, err
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	mount := s.Mount
	if mount == "" {
		mount = "transit"
	}
	return &keeperService{
		keeper:      hashivault.OpenKeeper(client, key, &hashivault.KeeperOptions{Engine: mount}),
		description: describe("Vault transit", strings.TrimSuffix(s.Address, "/")+"/v1/"+mount+"/keys/"+key),
		sort:        vaultError,
	}, nil
}

func (s *vaultSettings) client(ctx context.Context) (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, protocol.Usage("Vault: %v", cfg.Error)
	}
	cfg.Address = s.Address
	cfg.MaxRetries = 0 // plyfs tries again
	if end, ok := ctx.Deadline(); ok {
		cfg.Timeout = time.Until(end)
	}
	if s.CAFile != "" {
		if err := cfg.ConfigureTLS(&api.TLSConfig{CACert: s.CAFile}); err != nil {
			return nil, protocol.Usage("settings: ca_file: %v", err)
		}
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, protocol.Usage("Vault: %v", err)
	}
	if s.TokenFile != "" {
		token, err := os.ReadFile(s.TokenFile)
		if err != nil {
			// The agent that writes it may not have come so far.
			return nil, fmt.Errorf("token file: %w", err)
		}
		client.SetToken(string(bytes.TrimSpace(token)))
		clear(token)
	}
	if s.Namespace != "" {
		client.SetNamespace(s.Namespace)
	}
	return client, nil
}

// vaultError sorts what Vault answers. It says 403 to a token that it does not know and to one whose policy lacks the
// key, and 400 to what the key cannot do. 503 is a sealed server, which is somebody's decision or a restart.
func vaultError(err error) error {
	var r *api.ResponseError
	if !errors.As(err, &r) {
		return fmt.Errorf("Vault: %w", err)
	}
	text := fmt.Sprintf("Vault: status %d: %s", r.StatusCode, strings.Join(r.Errors, "; "))
	switch {
	case r.RawError: // no answer of Vault's, but of a proxy before it
		return errors.New(text)
	case r.StatusCode == 403, r.StatusCode == 404:
		return protocol.Denied("%s", text)
	case r.StatusCode == 400 && contains(text, "key not found", "disallowed by policy", "no longer"):
		return protocol.Denied("%s", text)
	case r.StatusCode == 400:
		return protocol.Invalid("%s", text)
	}
	return errors.New(text)
}
