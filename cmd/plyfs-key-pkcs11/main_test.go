package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

// softHSM is Debian's place of SoftHSM 2.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// The test binary is also the program, under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "plyfs-key-pkcs11" {
		main()
		return
	}
	os.Exit(m.Run())
}

// rig is a token of SoftHSM, and a provider's file for it.
type rig struct {
	program, file, pinFile string
	settings               string
	env                    []string
}

const userPIN = "1234-user"

func newRig(t *testing.T) *rig {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		t.Fatalf("SoftHSM is not here (integration/deps.sh test): %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &rig{program: filepath.Join(dir, "plyfs-key-pkcs11"), file: filepath.Join(dir, "hsm.json"), pinFile: filepath.Join(dir, "pin")}
	if err := os.Symlink(self, r.program); err != nil {
		t.Fatal(err)
	}
	r.setPIN(t, userPIN)
	r.settings = fmt.Sprintf(`{"module": %q, "token": "plyfs test", "key": "{cluster}/{group}", "pin_file": %q}`, softHSM, r.pinFile)
	conf := filepath.Join(dir, "softhsm2.conf")
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		conf:   "directories.tokendir = " + tokens + "\nlog.level = ERROR\n",
		r.file: fmt.Sprintf(`{"program": "pkcs11", "settings": %s}`, r.settings),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.env = []string{"SOFTHSM2_CONF=" + conf, "PATH=/usr/bin:/bin"}
	r.run(t, "softhsm2-util", "--init-token", "--free", "--label", "plyfs test", "--so-pin", "so-pin", "--pin", userPIN)
	return r
}

func (r *rig) setPIN(t *testing.T, pin string) {
	t.Helper()
	if err := os.WriteFile(r.pinFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := r.try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
	return out
}

func (r *rig) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *rig) create(t *testing.T, n protocol.Names) {
	t.Helper()
	r.run(t, r.program, "create", "--provider", r.file, "--cluster", n.Cluster, "--group", n.Group)
}

// ask runs the program with a request.
func (r *rig) ask(t *testing.T, n protocol.Names, req protocol.Request) *protocol.Answer {
	t.Helper()
	req.Version, req.ID, req.Cluster, req.Group, req.Settings = protocol.Version, "id", n.Cluster, n.Group, json.RawMessage(r.settings)
	line, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(r.program)
	cmd.Env, cmd.Stdin, cmd.Stderr = r.env, bytes.NewReader(line), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	a, err := protocol.DecodeAnswer(out)
	if err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return a
}

var (
	group  = protocol.Names{Cluster: "east", Group: "db"}
	secret = []byte("0123456789abcdef0123456789abcdef")
)

func (r *rig) wrap(t *testing.T) []byte {
	t.Helper()
	a := r.ask(t, group, protocol.Request{Op: protocol.OpWrap, Secret: bytes.Clone(secret)})
	if a.Error != nil {
		t.Fatalf("wrap: %s: %s", a.Error.Kind, a.Error.Message)
	}
	return a.Wrapped
}

func (r *rig) unwraps(t *testing.T, wrapped []byte) {
	t.Helper()
	a := r.ask(t, group, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error != nil || !bytes.Equal(a.Secret, secret) {
		t.Fatalf("unwrap: %+v", a.Error)
	}
}

func (r *rig) refuses(t *testing.T, wrapped []byte, kind, word string) {
	t.Helper()
	a := r.ask(t, group, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error == nil || a.Error.Kind != kind || !strings.Contains(a.Error.Message, word) {
		t.Fatalf("unwrap: %+v; wanted %s: %s", a.Error, kind, word)
	}
}

func TestSoftHSMKeepsTheProtocol(t *testing.T) {
	r := newRig(t)
	for _, g := range []string{"group-1", "group-2"} {
		r.create(t, protocol.Names{Cluster: "conformance", Group: g})
	}
	providertest.Conformance(t, providertest.Program{Path: r.program, Settings: r.settings, Env: r.env, BindsNames: true})
}

func TestKeyIsMadeByCreateAlone(t *testing.T) {
	r := newRig(t)
	a := r.ask(t, group, protocol.Request{Op: protocol.OpWrap, Secret: secret})
	if a.Error == nil || a.Error.Kind != protocol.KindDenied || !strings.Contains(a.Error.Message, "no AES key east/db") {
		t.Fatalf("before: %+v", a.Error)
	}
	r.create(t, group)
	r.unwraps(t, r.wrap(t))
	if out, err := r.try(r.program, "create", "--provider", r.file, "--cluster", "east", "--group", "db"); err == nil || !strings.Contains(out, "already") {
		t.Errorf("a second time: %v, %s", err, out)
	}
	for _, args := range [][]string{{"create"}, {"create", "--provider", r.file}, {"create", "--provider", r.file, "--cluster", "../x", "--group", "g"}, {"destroy"}} {
		if out, err := r.try(r.program, args...); err == nil {
			t.Errorf("%q: %s", args, out)
		}
	}
}

func TestWrongPINIsDenied(t *testing.T) {
	r := newRig(t)
	r.create(t, group)
	wrapped := r.wrap(t)
	r.setPIN(t, "wrong-pin")
	r.refuses(t, wrapped, protocol.KindDenied, "CKR_PIN_INCORRECT")
	r.setPIN(t, "")
	r.refuses(t, wrapped, protocol.KindUsage, "no PIN")
	r.setPIN(t, userPIN)
	r.unwraps(t, wrapped)
	if err := os.Chmod(r.pinFile, 0o644); err != nil {
		t.Fatal(err)
	}
	r.refuses(t, wrapped, protocol.KindUsage, "read by others")
	if err := os.Remove(r.pinFile); err != nil {
		t.Fatal(err)
	}
	r.refuses(t, wrapped, protocol.KindUnavailable, "PIN")
}

func TestPINFromCredential(t *testing.T) {
	r := newRig(t)
	r.create(t, group)
	wrapped := r.wrap(t)
	r.settings = fmt.Sprintf(`{"module": %q, "token": "plyfs test", "key": "{cluster}/{group}", "pin_credential": "pin"}`, softHSM)
	r.refuses(t, wrapped, protocol.KindUsage, "CREDENTIALS_DIRECTORY")
	r.env = append(r.env, "CREDENTIALS_DIRECTORY="+filepath.Dir(r.pinFile))
	r.unwraps(t, wrapped)
}

// inToken changes objects of the token as its owner does, in a process of its own: SoftHSM reads its configuration once.
func (r *rig) inToken(t *testing.T, what string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestInToken$", "-test.v")
	cmd.Env = append(r.env, "PLYFS_TEST_IN_TOKEN="+what, "PLYFS_TEST_SETTINGS="+r.settings)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "did "+what) {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
}

func TestInToken(t *testing.T) {
	what := os.Getenv("PLYFS_TEST_IN_TOKEN")
	if what == "" {
		return // a part of the tests below
	}
	s, err := parseSettings(json.RawMessage(os.Getenv("PLYFS_TEST_SETTINGS")), group)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := openToken(s, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.close()
	key, err := tok.findKey()
	if err != nil {
		t.Fatal(err)
	}
	switch what {
	case "disable", "enable":
		err = tok.ctx.SetAttributeValue(tok.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, what == "enable")})
	case "destroy":
		err = tok.ctx.DestroyObject(tok.session, key)
	case "inspect":
		var got []*pkcs11.Attribute
		got, err = tok.ctx.GetAttributeValue(tok.session, key, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil),
			pkcs11.NewAttribute(pkcs11.CKA_ALWAYS_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_NEVER_EXTRACTABLE, nil)})
		for i, want := range []byte{1, 0, 1, 1} {
			if err == nil && !bytes.Equal(got[i].Value, []byte{want}) {
				t.Errorf("attribute %#x is %x", got[i].Type, got[i].Value)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log("did " + what)
}

func TestKeyNeverLeavesTheToken(t *testing.T) {
	r := newRig(t)
	r.create(t, group)
	r.inToken(t, "inspect")
}

func TestKeyThatItsOwnerTakesAwayIsDenied(t *testing.T) {
	r := newRig(t)
	r.create(t, group)
	wrapped := r.wrap(t)
	r.inToken(t, "disable")
	r.refuses(t, wrapped, protocol.KindDenied, "CKR_KEY_FUNCTION_NOT_PERMITTED")
	r.inToken(t, "enable")
	r.unwraps(t, wrapped)
	r.inToken(t, "destroy")
	r.refuses(t, wrapped, protocol.KindDenied, "no AES key")
	// A new key of the same name is another key.
	r.create(t, group)
	r.refuses(t, wrapped, protocol.KindInvalid, "")
}

func TestTokenOrModuleThatIsNotThereIsUnavailable(t *testing.T) {
	r := newRig(t)
	r.create(t, group)
	wrapped := r.wrap(t)
	good := r.settings
	r.settings = strings.Replace(good, "plyfs test", "another", 1)
	r.refuses(t, wrapped, protocol.KindUnavailable, "no slot has a token another")
	r.settings = strings.Replace(good, softHSM, "/nonexistent.so", 1)
	r.refuses(t, wrapped, protocol.KindUnavailable, "module")
	// A library, but no PKCS#11 module.
	r.settings = strings.Replace(good, softHSM, r.file, 1)
	r.refuses(t, wrapped, protocol.KindUnavailable, "cannot be loaded")
}

func TestSettingsAreStrict(t *testing.T) {
	for _, test := range []struct{ name, settings, word string }{
		{"none", `{}`, "no module"},
		{"relative module", `{"module": "lib.so", "token": "t", "key": "k", "pin_file": "/p"}`, "absolute"},
		{"no token", `{"module": "/lib.so", "key": "k", "pin_file": "/p"}`, "no token"},
		{"no PIN", `{"module": "/lib.so", "token": "t", "key": "k"}`, "one of pin_file"},
		{"two PINs", `{"module": "/lib.so", "token": "t", "key": "k", "pin_file": "/p", "pin_credential": "p"}`, "one of pin_file"},
		{"PIN itself", `{"module": "/lib.so", "token": "t", "key": "k", "pin": "1234"}`, "unknown field"},
		{"credential elsewhere", `{"module": "/lib.so", "token": "t", "key": "k", "pin_credential": "../p"}`, "not a name"},
		{"template", `{"module": "/lib.so", "token": "t", "key": "{volume}", "pin_file": "/p"}`, "{volume}"},
	} {
		_, err := parseSettings(json.RawMessage(test.settings), group)
		if err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}
