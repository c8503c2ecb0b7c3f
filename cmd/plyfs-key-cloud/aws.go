package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"gocloud.dev/secrets"
	"gocloud.dev/secrets/awskms"
)

// awsSettings are those of AWS KMS. Credentials come from the SDK's chain: the environment as far as it is passed on,
// the files named here or those of HOME, the identity of the machine.
type awsSettings struct {
	Service         string `json:"service"`
	Key             string `json:"key"`              // template: ID, ARN, alias/NAME or alias ARN
	Region          string `json:"region"`           //
	Endpoint        string `json:"endpoint"`         // URL of another server than AWS's own for the region
	Profile         string `json:"profile"`          // in the files below
	CredentialsFile string `json:"credentials_file"` // instead of $HOME/.aws/credentials
	ConfigFile      string `json:"config_file"`      // instead of $HOME/.aws/config
}

func openAWS(ctx context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	var s awsSettings
	if err := protocol.Settings(raw, &s); err != nil {
		return nil, err
	}
	if err := required(map[string]string{"key": s.Key, "region": s.Region}); err != nil {
		return nil, err
	}
	key, err := protocol.Expand(s.Key, n)
	if err != nil {
		return nil, err
	}
	// plyfs tries again; two loops would not know of each other.
	options := []func(*config.LoadOptions) error{config.WithRegion(s.Region), config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} })}
	if s.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.Profile))
	}
	if s.CredentialsFile != "" {
		options = append(options, config.WithSharedCredentialsFiles([]string{s.CredentialsFile}))
	}
	if s.ConfigFile != "" {
		options = append(options, config.WithSharedConfigFiles([]string{s.ConfigFile}))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, protocol.Usage("AWS configuration: %v", err)
	}
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = &s.Endpoint
		}
	})
	// Authenticated with what is wrapped, and shown in the key owner's audit log.
	about := map[string]string{"plyfs-cluster": n.Cluster, "plyfs-group": n.Group}
	return &keeperService{
		keeper:      awskms.OpenKeeper(client, key, &awskms.KeeperOptions{EncryptionContext: about}),
		description: describe("AWS KMS", key+" in "+s.Region),
		sort:        awsError,
	}, nil
}

// What AWS answers, by code. A key that is not there was deleted, or never was in this region. Credentials that AWS does
// not know are a denial; such as have run out are not, since they are renewed.
var (
	awsDenied = []string{"DisabledException", "NotFoundException", "AccessDeniedException", "AccessDenied", "NotAuthorizedException",
		"InvalidClientTokenId", "UnrecognizedClientException", "InvalidGrantTokenException"}
	awsInvalid = []string{"InvalidCiphertextException", "IncorrectKeyException"}
	awsUsage   = []string{"InvalidKeyUsageException", "InvalidArnException", "ValidationException", "UnsupportedOperationException"}
)

func awsError(err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("AWS KMS: %w", err)
	}
	code := api.ErrorCode()
	text := fmt.Sprintf("AWS KMS: %s: %s", code, api.ErrorMessage())
	switch {
	case slices.Contains(awsDenied, code):
		return protocol.Denied("%s", text)
	case slices.Contains(awsInvalid, code):
		return protocol.Invalid("%s", text)
	case slices.Contains(awsUsage, code):
		return protocol.Usage("%s", text)
	// Of the states that a key can be in, these are somebody's decision; another is that its HSM cluster is not
	// connected, or that it is being made.
	case code == "KMSInvalidStateException" && contains(api.ErrorMessage(), "pending deletion", "pendingdeletion", "pending import", "pendingimport", "disabled"):
		return protocol.Denied("%s", text)
	}
	return errors.New(text)
}

// keeperService is a service behind gocloud.dev/secrets.
type keeperService struct {
	keeper      *secrets.Keeper
	description protocol.Description
	sort        func(error) error // which kind of failure an error of the service is
	close       func()
}

func (s *keeperService) Describe() protocol.Description { return s.description }

func (s *keeperService) Wrap(ctx context.Context, secret []byte) ([]byte, error) {
	wrapped, err := s.keeper.Encrypt(ctx, secret)
	if err != nil {
		return nil, s.sort(err)
	}
	return wrapped, nil
}

func (s *keeperService) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	secret, err := s.keeper.Decrypt(ctx, wrapped)
	if err != nil {
		return nil, s.sort(err)
	}
	return secret, nil
}

func (s *keeperService) Close() {
	s.keeper.Close()
	if s.close != nil {
		s.close()
	}
}
