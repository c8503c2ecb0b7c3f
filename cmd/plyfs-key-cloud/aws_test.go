package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

const region = "eu-west-1"

// awsEnv are credentials for moto, which takes any.
var awsEnv = []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true", "HOME=/nonexistent"}

func setAWSEnv(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("HOME", "/nonexistent")
}

func awsConfig(endpoint, region string) string {
	return fmt.Sprintf(`{"service": "aws-kms", "key": "alias/plyfs-{cluster}-{group}", "region": %q, "endpoint": %q}`, region, endpoint)
}

func startMoto(t *testing.T) *providertest.Moto {
	t.Helper()
	tree := os.Getenv("PLYFS_SID")
	if tree == "" {
		t.Skip("PLYFS_SID names no tree with moto (integration/sid.sh); make providers sets it")
	}
	return providertest.StartMoto(t, tree)
}

func TestAWSKeepsTheProtocol(t *testing.T) {
	m := startMoto(t)
	m.CreateKey(t, region, "alias/plyfs-conformance-group-1")
	m.CreateKey(t, region, "alias/plyfs-conformance-group-2")
	providertest.Conformance(t, providertest.Program{
		Path: programPath(t), Settings: awsConfig(m.URL, region), Env: awsEnv, BindsNames: true,
	})
}

// What a customer does to his key is what the host is told.
func TestAWSFollowsTheStateOfTheKey(t *testing.T) {
	m := startMoto(t)
	setAWSEnv(t)
	key := map[string]any{"KeyId": m.CreateKey(t, region, "alias/plyfs-east-db")}
	c := with(awsConfig(m.URL, region))
	wrapped := c.wrap(t)
	c.unwraps(t, wrapped)

	m.Call(t, region, "DisableKey", key)
	c.refuses(t, wrapped, protocol.KindDenied, "is disabled")
	m.Call(t, region, "EnableKey", key)
	c.unwraps(t, wrapped)
	m.Call(t, region, "ScheduleKeyDeletion", map[string]any{"KeyId": key["KeyId"], "PendingWindowInDays": 7})
	c.refuses(t, wrapped, protocol.KindDenied, "pending deletion")
	m.Call(t, region, "CancelKeyDeletion", key)
	c.refuses(t, wrapped, protocol.KindDenied, "is disabled")
	m.Call(t, region, "EnableKey", key)
	c.unwraps(t, wrapped)

	other := c
	other.names.Group = "web"
	other.refuses(t, wrapped, protocol.KindInvalid, "InvalidCiphertext")
	a := other.ask(t, protocol.Request{Op: protocol.OpWrap, Secret: secret})
	if a.Error == nil || a.Error.Kind != protocol.KindDenied {
		t.Errorf("no such alias: %+v", a.Error)
	}
	a = with(awsConfig(m.URL, "us-east-1")).ask(t, protocol.Request{Op: protocol.OpWrap, Secret: secret})
	if a.Error == nil || a.Error.Kind != protocol.KindDenied {
		t.Errorf("another region: %+v", a.Error)
	}
	m.Stop()
	c.refuses(t, wrapped, protocol.KindUnavailable, "AWS KMS")
}

func TestAWSWithoutAnswerIsUnavailable(t *testing.T) {
	setAWSEnv(t)
	serve := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	// Takes connections and never answers.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	const patience = 2 * time.Minute
	for _, test := range []struct {
		name, endpoint string
		timeout        time.Duration
	}{
		{"nobody listens", closed.URL, patience},
		{"no answer", "http://" + silent.Addr().String(), 3 * time.Second},
		{"another protocol", serve(200, "<html>It works!</html>"), patience},
		{"a proxy that forbids", serve(403, "<html>Forbidden</html>"), patience},
		{"server error", serve(500, `{"__type": "KMSInternalException"}`), patience},
		{"too many requests", serve(400, `{"__type": "ThrottlingException"}`), patience},
		{"token that has run out", serve(400, `{"__type": "ExpiredTokenException"}`), patience},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := with(awsConfig(test.endpoint, region))
			c.timeout = test.timeout
			c.refuses(t, []byte("wrapped"), protocol.KindUnavailable, "AWS KMS")
		})
	}
}

func TestAWSWithoutCredentialsIsUnavailable(t *testing.T) {
	setAWSEnv(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	with(awsConfig("http://127.0.0.1:1", region)).refuses(t, []byte("wrapped"), protocol.KindUnavailable, "credentials")
}

func TestAWSErrors(t *testing.T) {
	for _, test := range []struct{ code, message, want string }{
		{"DisabledException", "", protocol.KindDenied},
		{"NotFoundException", "", protocol.KindDenied},
		{"AccessDeniedException", "", protocol.KindDenied},
		{"UnrecognizedClientException", "", protocol.KindDenied},
		{"KMSInvalidStateException", "arn:aws:kms:x is pending deletion.", protocol.KindDenied},
		{"KMSInvalidStateException", "arn:aws:kms:x is pending import.", protocol.KindDenied},
		{"KMSInvalidStateException", "arn:aws:kms:x is unavailable.", protocol.KindUnavailable},
		{"KMSInvalidStateException", "arn:aws:kms:x is creating.", protocol.KindUnavailable},
		{"KeyUnavailableException", "", protocol.KindUnavailable},
		{"DependencyTimeoutException", "", protocol.KindUnavailable},
		{"InvalidSignatureException", "Signature expired", protocol.KindUnavailable},
		{"ExpiredTokenException", "", protocol.KindUnavailable},
		{"IncorrectKeyException", "", protocol.KindInvalid},
		{"InvalidCiphertextException", "", protocol.KindInvalid},
		{"InvalidKeyUsageException", "", protocol.KindUsage},
	} {
		err := awsError(fmt.Errorf("operation: %w", &smithy.GenericAPIError{Code: test.code, Message: test.message}))
		if got := kindOf(err); got != test.want {
			t.Errorf("%s %s: got %s", test.code, test.message, got)
		}
	}
}

// kindOf is the kind that the protocol gives an error.
func kindOf(err error) string {
	var f *protocol.Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return protocol.KindUnavailable
}
