package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// fakeGCP answers as Cloud KMS does; it "encrypts" by reversing.
type fakeGCP struct {
	kmspb.UnimplementedKeyManagementServiceServer
	server  *grpc.Server
	address string
	fail    atomic.Uint32 // a code; 0: it works
}

func newGCP(t *testing.T) *fakeGCP {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGCP{server: grpc.NewServer(), address: l.Addr().String()}
	kmspb.RegisterKeyManagementServiceServer(g.server, g)
	go g.server.Serve(l)
	t.Cleanup(g.server.Stop)
	return g
}

func (g *fakeGCP) failure() error {
	if code := codes.Code(g.fail.Load()); code != codes.OK {
		return status.Error(code, "no")
	}
	return nil
}

func (g *fakeGCP) Encrypt(_ context.Context, r *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	mark := r.Name + "|" + string(r.AdditionalAuthenticatedData) + "|"
	return &kmspb.EncryptResponse{Ciphertext: []byte(mark + reverse(string(r.Plaintext)))}, g.failure()
}

func (g *fakeGCP) Decrypt(_ context.Context, r *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	rest, mine := bytes.CutPrefix(r.Ciphertext, []byte(r.Name+"|"+string(r.AdditionalAuthenticatedData)+"|"))
	if err := g.failure(); err != nil {
		return nil, err
	}
	if !mine {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
	}
	return &kmspb.DecryptResponse{Plaintext: []byte(reverse(string(rest)))}, nil
}

func (g *fakeGCP) call() call {
	c := with(fmt.Sprintf(`{"service": "gcp-kms", "key": "projects/p/locations/l/keyRings/r/cryptoKeys/{cluster}", "endpoint": %q}`, g.address))
	c.open = func(ctx context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
		return openGCPWith(ctx, raw, n, option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	return c
}

func TestGCPWrapsAndUnwraps(t *testing.T) {
	c := newGCP(t).call()
	wrapped := c.wrap(t)
	c.unwraps(t, wrapped)
	// One key for the cluster, and still a group's secret is that group's.
	c.names.Group = "web"
	c.refuses(t, wrapped, protocol.KindInvalid, "InvalidArgument")
}

func TestGCPErrors(t *testing.T) {
	g := newGCP(t)
	c := g.call()
	wrapped := c.wrap(t)
	for code, want := range map[codes.Code]string{
		codes.PermissionDenied:   protocol.KindDenied,
		codes.FailedPrecondition: protocol.KindDenied,
		codes.NotFound:           protocol.KindDenied,
		codes.InvalidArgument:    protocol.KindInvalid,
		codes.Unavailable:        protocol.KindUnavailable,
		codes.ResourceExhausted:  protocol.KindUnavailable,
		codes.Internal:           protocol.KindUnavailable,
		codes.Unauthenticated:    protocol.KindUnavailable,
	} {
		g.fail.Store(uint32(code))
		c.refuses(t, wrapped, want, code.String())
	}
	g.fail.Store(0)
	c.unwraps(t, wrapped)
	g.server.Stop()
	c.refuses(t, wrapped, protocol.KindUnavailable, "Google")
}

func TestGCPIdentityErrors(t *testing.T) {
	for code, want := range map[string]string{"invalid_grant": protocol.KindDenied, "temporarily_unavailable": protocol.KindUnavailable} {
		if got := kindOf(gcpError(fmt.Errorf("token: %w", &oauth2.RetrieveError{ErrorCode: code}))); got != want {
			t.Errorf("%s: got %s", code, got)
		}
	}
}
