package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// The test program is a provider's program too, when this variable is set: a
// customer's key that is a file, whose content says what becomes of requests.
const asKeyProgram = "PLYFS_TEST_KEY_PROGRAM"

func keyProgram() {
	err := protocol.Serve(context.Background(), os.Stdin, os.Stdout, func(_ context.Context, settings json.RawMessage, n protocol.Names) (protocol.Service, error) {
		var s struct{ Key string }
		if err := json.Unmarshal(settings, &s); err != nil {
			return nil, protocol.Usage("settings: %v", err)
		}
		return fileKey{path: s.Key, names: n}, nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type fileKey struct {
	path  string
	names protocol.Names
}

func (k fileKey) prefix() ([]byte, error) {
	b, err := os.ReadFile(k.path)
	switch state := strings.TrimSpace(string(b)); {
	case err != nil:
		return nil, err // nobody answers
	case state == "disabled":
		return nil, protocol.Denied("the key is disabled")
	default:
		return []byte(state + "/" + k.names.Cluster + "/" + k.names.Group + ":"), nil
	}
}

func (k fileKey) Describe() protocol.Description {
	return protocol.Description{Program: "test", Key: k.path}
}
func (k fileKey) Close() {}

func (k fileKey) Wrap(_ context.Context, secret []byte) ([]byte, error) {
	p, err := k.prefix()
	return append(p, flip(secret)...), err
}

func (k fileKey) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	p, err := k.prefix()
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(wrapped, p)
	if !ok {
		return nil, protocol.Denied("not wrapped by this key")
	}
	return flip(rest), nil
}

func flip(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

// provider makes a provider of this host, and returns the file that is its key.
func (b *bench) provider(name string) string {
	b.t.Helper()
	for _, dir := range []string{"bin", "providers"} {
		if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	link := filepath.Join(b.dir, "bin/plyfs-key-file")
	if err := os.Symlink(exe, link); err != nil && !os.IsExist(err) {
		b.t.Fatal(err)
	}
	key := b.file(name+".key", "v1")
	b.file("providers/"+name+".json", fmt.Sprintf(`{"program":"file","settings":{"key":%q},"env":["%s=1"],"tries":1}`, key, asKeyProgram))
	return key
}
