package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// The test binary is also the program, under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "plyfs-key-cloud" {
		main()
		return
	}
	os.Exit(m.Run())
}

// programPath returns a path under which the program can be run.
func programPath(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "plyfs-key-cloud")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

var group = protocol.Names{Cluster: "east", Group: "db"}

// call asks a service in this process, through the protocol.
type call struct {
	open     protocol.Open
	settings string
	names    protocol.Names
	timeout  time.Duration
}

func with(settings string) call {
	return call{open: open, settings: settings, names: group, timeout: 2 * time.Minute}
}

func (c call) ask(t *testing.T, req protocol.Request) *protocol.Answer {
	t.Helper()
	req.Version, req.ID, req.Cluster, req.Group = protocol.Version, "id", c.names.Cluster, c.names.Group
	req.Settings, req.TimeoutMS = json.RawMessage(c.settings), c.timeout.Milliseconds()
	line, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := protocol.Serve(context.Background(), bytes.NewReader(line), &out, c.open); err != nil {
		t.Fatal(err)
	}
	a, err := protocol.DecodeAnswer(out.Bytes())
	if err != nil {
		t.Fatalf("%q: %v", out.Bytes(), err)
	}
	return a
}

var secret = []byte("0123456789abcdef0123456789abcdef")

func (c call) wrap(t *testing.T) []byte {
	t.Helper()
	a := c.ask(t, protocol.Request{Op: protocol.OpWrap, Secret: bytes.Clone(secret)})
	if a.Error != nil {
		t.Fatalf("wrap: %s: %s", a.Error.Kind, a.Error.Message)
	}
	return a.Wrapped
}

// unwraps checks that the key gives the secret back.
func (c call) unwraps(t *testing.T, wrapped []byte) {
	t.Helper()
	a := c.ask(t, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error != nil {
		t.Fatalf("unwrap: %s: %s", a.Error.Kind, a.Error.Message)
	}
	if !bytes.Equal(a.Secret, secret) {
		t.Fatal("unwrap gave another secret")
	}
}

// refuses checks the kind of failure that an unwrap is, and a word of its message.
func (c call) refuses(t *testing.T, wrapped []byte, kind, word string) {
	t.Helper()
	a := c.ask(t, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error == nil || a.Secret != nil {
		t.Fatalf("unwrap answered, wanted %s", kind)
	}
	if a.Error.Kind != kind || !strings.Contains(a.Error.Message, word) {
		t.Fatalf("unwrap: %s: %s; wanted %s: %s", a.Error.Kind, a.Error.Message, kind, word)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	for _, test := range []struct{ name, settings, word string }{
		{"none", `{}`, "service"},
		{"unknown service", `{"service": "rot13"}`, "rot13"},
		{"unknown member", `{"service": "aws-kms", "key": "k", "region": "r", "secret_key": "x"}`, "secret_key"},
		{"no key", `{"service": "aws-kms", "region": "r"}`, "no key"},
		{"no region", `{"service": "aws-kms", "key": "k"}`, "no region"},
		{"unknown template", `{"service": "aws-kms", "key": "alias/{volume}", "region": "r"}`, "{volume}"},
		{"no vault", `{"service": "azure-key-vault", "key": "k"}`, "no vault"},
		{"vault without TLS", `{"service": "azure-key-vault", "key": "k", "vault": "http://x"}`, "https"},
		{"no address", `{"service": "vault-transit", "key": "k"}`, "no address"},
		{"no certificate", `{"service": "vault-transit", "key": "k", "address": "https://x", "ca_file": "/nonexistent"}`, "ca_file"},
		{"no Google key", `{"service": "gcp-kms"}`, "no key"},
		{"no Google credentials", `{"service": "gcp-kms", "key": "k", "credentials_file": "/nonexistent"}`, "credentials_file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := with(test.settings).ask(t, protocol.Request{Op: protocol.OpDescribe})
			if a.Error == nil || a.Error.Kind != protocol.KindUsage || !strings.Contains(a.Error.Message, test.word) {
				t.Errorf("got %+v", a.Error)
			}
		})
	}
}
