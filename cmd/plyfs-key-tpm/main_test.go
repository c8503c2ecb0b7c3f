package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

// The test binary is also the program, under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "plyfs-key-tpm" {
		main()
		return
	}
	os.Exit(m.Run())
}

// emulator is swtpm with a state of its own.
type emulator struct {
	dir, socket string
	cmd         *exec.Cmd
}

func newEmulator(t *testing.T) *emulator {
	t.Helper()
	// A socket's path is short.
	dir, err := os.MkdirTemp("", "swtpm-")
	if err != nil {
		t.Fatal(err)
	}
	e := &emulator{dir: dir, socket: filepath.Join(dir, "tpm")}
	t.Cleanup(func() {
		e.stop()
		os.RemoveAll(dir)
	})
	e.start(t)
	return e
}

// start starts the TPM as a boot does, and waits until it answers.
func (e *emulator) start(t *testing.T) {
	t.Helper()
	os.Remove(e.socket)
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+e.dir, "--server", "type=unixio,path="+e.socket, "--flags", "startup-clear,not-need-init")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		t.Fatalf("swtpm (integration/deps.sh test): %v", err)
	}
	for range 6000 {
		if c, err := net.Dial("unix", e.socket); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("swtpm does not listen\n%s", text)
}

func (e *emulator) stop() {
	e.cmd.Process.Kill()
	e.cmd.Wait()
}

func (e *emulator) settings(more string) string {
	return fmt.Sprintf(`{"device": %q%s}`, e.socket, more)
}

// extend changes a PCR, as software that is started does.
func (e *emulator) extend(t *testing.T, pcr uint) {
	t.Helper()
	c, err := linuxudstpm.Open(e.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{1}, 32)}}},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
}

var (
	group  = protocol.Names{Cluster: "east", Group: "db"}
	secret = []byte("0123456789abcdef0123456789abcdef")
)

func ask(t *testing.T, settings string, req protocol.Request) *protocol.Answer {
	t.Helper()
	req.Version, req.ID, req.Cluster, req.Group, req.Settings = protocol.Version, "id", group.Cluster, group.Group, json.RawMessage(settings)
	line, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := protocol.Serve(t.Context(), bytes.NewReader(line), &out, open); err != nil {
		t.Fatal(err)
	}
	a, err := protocol.DecodeAnswer(out.Bytes())
	if err != nil {
		t.Fatalf("%q: %v", out.Bytes(), err)
	}
	return a
}

func wrap(t *testing.T, settings string) []byte {
	t.Helper()
	a := ask(t, settings, protocol.Request{Op: protocol.OpWrap, Secret: bytes.Clone(secret)})
	if a.Error != nil {
		t.Fatalf("wrap: %s: %s", a.Error.Kind, a.Error.Message)
	}
	return a.Wrapped
}

func unwraps(t *testing.T, settings string, wrapped []byte) {
	t.Helper()
	a := ask(t, settings, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error != nil || !bytes.Equal(a.Secret, secret) {
		t.Fatalf("unwrap: %+v", a.Error)
	}
}

func refuses(t *testing.T, settings string, wrapped []byte, kind, word string) {
	t.Helper()
	a := ask(t, settings, protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if a.Error == nil || a.Error.Kind != kind || !strings.Contains(a.Error.Message, word) {
		t.Fatalf("unwrap: %+v; wanted %s: %s", a.Error, kind, word)
	}
}

func TestTPMKeepsTheProtocol(t *testing.T) {
	e := newEmulator(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "plyfs-key-tpm")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	for _, pcrs := range []string{"", `, "pcrs": [7, 11]`} {
		providertest.Conformance(t, providertest.Program{Path: program, Settings: e.settings(pcrs), BindsNames: true})
	}
}

func TestSecretOutlivesBootsAndNotTheMachine(t *testing.T) {
	e := newEmulator(t)
	wrapped := wrap(t, e.settings(""))
	e.stop()
	refuses(t, e.settings(""), wrapped, protocol.KindUnavailable, "")
	e.start(t)
	unwraps(t, e.settings(""), wrapped)
	refuses(t, newEmulator(t).settings(""), wrapped, protocol.KindInvalid, "this TPM did not seal")
	refuses(t, `{"device": "/nonexistent/tpm"}`, wrapped, protocol.KindUnavailable, "no such file")
}

func TestOtherPCRsAreDenied(t *testing.T) {
	e := newEmulator(t)
	bound := wrap(t, e.settings(`, "pcrs": [11, 7]`))
	free := wrap(t, e.settings(""))
	e.extend(t, 9)
	unwraps(t, e.settings(`, "pcrs": [7, 11]`), bound)
	e.extend(t, 11)
	refuses(t, e.settings(`, "pcrs": [7, 11]`), bound, protocol.KindDenied, "PCRs")
	// What a secret is bound to is in the TPM's hands, not in the settings'.
	refuses(t, e.settings(""), bound, protocol.KindDenied, "PCRs")
	unwraps(t, e.settings(`, "pcrs": [7, 11]`), free)
	e.stop()
	e.start(t)
	unwraps(t, e.settings(""), bound)
}

func TestWrappedBytesAreCheckedFirst(t *testing.T) {
	e := newEmulator(t)
	good := wrap(t, e.settings(""))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		a := ask(t, e.settings(""), protocol.Request{Op: protocol.OpUnwrap, Wrapped: bad})
		if a.Error == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
	}
	for n := range good {
		if n > 0 {
			refuses(t, `{"device": "/nonexistent"}`, good[:n], protocol.KindInvalid, "not wrapped by this program")
		}
	}
}

func TestSettingsAreStrict(t *testing.T) {
	for _, settings := range []string{`{"device": "tpm0"}`, `{"pcrs": [24]}`, `{"pcrs": [7, 7]}`, `{"pcrs": [-1]}`, `{"password": "x"}`} {
		if a := ask(t, settings, protocol.Request{Op: protocol.OpDescribe}); a.Error == nil || a.Error.Kind != protocol.KindUsage {
			t.Errorf("%s: %+v", settings, a.Error)
		}
	}
}
