package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

// fakeVault answers as the transit engine does. Its keys "encrypt" by reversing.
type fakeVault struct {
	*httptest.Server
	fail atomic.Pointer[vaultFailure] // nil: it works
}

type vaultFailure struct {
	status int
	text   string
}

func newVault(t *testing.T) *fakeVault {
	v := &fakeVault{}
	v.Server = httptest.NewServer(http.HandlerFunc(v.serve))
	t.Cleanup(v.Close)
	return v
}

func (v *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	say := func(status int, text string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
	}
	if f := v.fail.Load(); f != nil {
		say(f.status, f.text)
		return
	}
	if r.Header.Get("X-Vault-Token") != "root" {
		say(403, "permission denied")
		return
	}
	var in struct{ Plaintext, Ciphertext string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		say(400, "failed to parse JSON input")
		return
	}
	key, encrypt := strings.CutPrefix(r.URL.Path, "/v1/transit/encrypt/")
	if encrypt {
		plain, _ := base64.StdEncoding.DecodeString(in.Plaintext)
		fmt.Fprintf(w, `{"data": {"ciphertext": %q}}`, "vault:v1:"+base64.StdEncoding.EncodeToString([]byte(key+"|"+reverse(string(plain))+"|end")))
		return
	}
	key, decrypt := strings.CutPrefix(r.URL.Path, "/v1/transit/decrypt/")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Ciphertext, "vault:v1:"))
	rest, mine := strings.CutPrefix(string(raw), key+"|")
	rest, whole := strings.CutSuffix(rest, "|end")
	switch {
	case !decrypt:
		say(404, "no handler for route")
	case err != nil || !mine || !whole:
		say(400, "invalid ciphertext: could not decode")
	default:
		fmt.Fprintf(w, `{"data": {"plaintext": %q}}`, base64.StdEncoding.EncodeToString([]byte(reverse(rest))))
	}
}

func reverse(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

func (v *fakeVault) settings(t *testing.T, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"service": "vault-transit", "address": %q, "key": "plyfs-{cluster}-{group}", "token_file": %q}`, v.URL, file)
}

func TestVaultKeepsTheProtocol(t *testing.T) {
	providertest.Conformance(t, providertest.Program{
		Path: programPath(t), Settings: newVault(t).settings(t, "root"), BindsNames: true,
		Foreign: []byte("vault:v1:" + base64.StdEncoding.EncodeToString([]byte("another-key|x|end"))),
	})
}

func TestVaultErrors(t *testing.T) {
	v := newVault(t)
	c := with(v.settings(t, "root"))
	wrapped := c.wrap(t)
	for _, test := range []struct {
		failure vaultFailure
		want    string
	}{
		{vaultFailure{403, "permission denied"}, protocol.KindDenied},
		{vaultFailure{404, "no handler for route"}, protocol.KindDenied},
		{vaultFailure{400, "encryption key not found"}, protocol.KindDenied},
		{vaultFailure{400, "ciphertext or signature version is disallowed by policy (too old)"}, protocol.KindDenied},
		{vaultFailure{400, "cipher: message authentication failed"}, protocol.KindInvalid},
		{vaultFailure{503, "Vault is sealed"}, protocol.KindUnavailable},
		{vaultFailure{500, "internal error"}, protocol.KindUnavailable},
		{vaultFailure{429, "too many requests"}, protocol.KindUnavailable},
	} {
		v.fail.Store(&test.failure)
		c.refuses(t, wrapped, test.want, "Vault")
	}
	v.fail.Store(nil)
	c.unwraps(t, wrapped)
	with(v.settings(t, "wrong")).refuses(t, wrapped, protocol.KindDenied, "permission denied")
	v.Close()
	c.refuses(t, wrapped, protocol.KindUnavailable, "Vault")
}

// A proxy has no say in who may use a key.
func TestVaultBehindAProxyIsUnavailable(t *testing.T) {
	for _, status := range []int{403, 404, 400} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>Access to this site is forbidden</html>")
		}))
		v := &fakeVault{Server: s}
		with(v.settings(t, "root")).refuses(t, []byte("vault:v1:x"), protocol.KindUnavailable, "")
		s.Close()
	}
}

// gocloud.dev takes such answers apart without looking.
func TestVaultNonsenseIsUnavailable(t *testing.T) {
	for _, body := range []string{"", "{}", `{"data": {}}`, `{"data": {"plaintext": 7}}`, "<html>"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		v := &fakeVault{Server: s}
		with(v.settings(t, "root")).refuses(t, []byte("vault:v1:x"), protocol.KindUnavailable, "")
		s.Close()
	}
}

func TestVaultTokenThatIsNotThereYet(t *testing.T) {
	c := with(`{"service": "vault-transit", "address": "http://127.0.0.1:1", "key": "k", "token_file": "/nonexistent/token"}`)
	c.refuses(t, []byte("vault:v1:x"), protocol.KindUnavailable, "token file")
}
