package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	cloudkms "cloud.google.com/go/kms/apiv1"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"gocloud.dev/secrets/gcpkms"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gcpSettings are those of Google Cloud KMS. Credentials are the file named here, or Google's application default ones:
// GOOGLE_APPLICATION_CREDENTIALS as far as it is passed on, the service account of the machine.
type gcpSettings struct {
	Service         string `json:"service"`
	Key             string `json:"key"`              // template: projects/P/locations/L/keyRings/R/cryptoKeys/K
	CredentialsFile string `json:"credentials_file"` // key of a service account
	Endpoint        string `json:"endpoint"`         // HOST:PORT of another server than Google's own
}

func openGCP(ctx context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	return openGCPWith(ctx, raw, n)
}

func openGCPWith(ctx context.Context, raw json.RawMessage, n protocol.Names, options ...option.ClientOption) (protocol.Service, error) {
	var s gcpSettings
	if err := protocol.Settings(raw, &s); err != nil {
		return nil, err
	}
	if err := required(map[string]string{"key": s.Key}); err != nil {
		return nil, err
	}
	key, err := protocol.Expand(s.Key, n)
	if err != nil {
		return nil, err
	}
	if s.CredentialsFile != "" {
		if _, err := os.Stat(s.CredentialsFile); err != nil {
			return nil, protocol.Usage("settings: credentials_file: %v", err)
		}
		options = append(options, option.WithAuthCredentialsFile(option.ServiceAccount, s.CredentialsFile))
	}
	if s.Endpoint != "" {
		options = append(options, option.WithEndpoint(s.Endpoint))
	}
	client, err := cloudkms.NewKeyManagementClient(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("Google Cloud KMS: %w", err)
	}
	client.CallOptions.Encrypt, client.CallOptions.Decrypt = nil, nil // plyfs tries again
	about := []byte("plyfs/" + n.Cluster + "/" + n.Group)
	return &keeperService{
		keeper:      gcpkms.OpenKeeper(client, key, &gcpkms.KeeperOptions{AdditionalAuthenticatedData: about}),
		description: describe("Google Cloud KMS", key),
		sort:        gcpError,
		close:       func() { client.Close() },
	}, nil
}

// gcpError sorts what Google answers. FAILED_PRECONDITION is that the key's version is disabled, destroyed or about to
// be.
func gcpError(err error) error {
	var token *oauth2.RetrieveError
	if errors.As(err, &token) {
		if token.ErrorCode == "invalid_grant" || token.ErrorCode == "invalid_client" {
			return protocol.Denied("Google does not accept the service account of this host: %s", token.ErrorCode)
		}
		return errors.New("Google gave this host no token")
	}
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("Google Cloud KMS: %w", err)
	}
	text := fmt.Sprintf("Google Cloud KMS: %s: %s", s.Code(), s.Message())
	switch s.Code() {
	case codes.PermissionDenied, codes.FailedPrecondition, codes.NotFound:
		return protocol.Denied("%s", text)
	case codes.InvalidArgument:
		return protocol.Invalid("%s", text)
	}
	return errors.New(text)
}
