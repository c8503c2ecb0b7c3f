package provider_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

// The example in PROVIDERS.md is a provider as it stands there.
func TestExampleOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../PROVIDERS.md")
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile("(?s)```sh\n(#!/bin/sh\n.*?)```").FindSubmatch(text)
	if script == nil {
		t.Fatal("PROVIDERS.md has no script")
	}
	h := newHost(t)
	program := filepath.Join(h.dir, "plyfs-key-rsa")
	if err := os.WriteFile(program, script[1], 0o755); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	settings := fmt.Sprintf(`{"key": %q}`, key)

	t.Run("conformance", func(t *testing.T) {
		// As plyfs sends them: without blanks.
		providertest.Conformance(t, providertest.Program{Path: program, Settings: settings, Env: []string{"PATH=/usr/bin:/bin"}})
	})
	t.Run("by a host", func(t *testing.T) {
		h.write(t, "cmk", `{"program": "rsa", "settings": `+settings+`, "timeout": "3m", "tries": 2}`)
		c, err := h.Provider("cmk")
		if err != nil {
			t.Fatal(err)
		}
		secret := bytes.Repeat([]byte{0xa5}, 32)
		wrapped, err := c.Wrap(t.Context(), names, secret)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Unwrap(t.Context(), names, wrapped); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("got %x, %v", got, err)
		}
		if err := os.Rename(key, key+".gone"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Unwrap(t.Context(), names, wrapped); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("without its key: %v", err)
		}
	})
}
