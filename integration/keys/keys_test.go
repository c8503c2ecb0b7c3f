package keys

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/keystore/provider/providertest"
)

// owner is who has the key of a volume, and what he does to it.
type owner interface {
	// provider is the text of a host's file.
	provider() string
	disable(t *testing.T)
	enable(t *testing.T)
	// traces are words that are no business of the volume.
	traces() []string
}

// kms is a key of AWS KMS.
type kms struct {
	moto *providertest.Moto
	key  map[string]any
}

const region = "eu-west-1"

func newKMS(t *testing.T) owner {
	m := providertest.StartMoto(t, env.tree)
	return &kms{moto: m, key: map[string]any{"KeyId": m.CreateKey(t, region, "alias/plyfs-east-db")}}
}

func (k *kms) provider() string {
	return fmt.Sprintf(`{"program": "cloud", "timeout": "60s", "tries": 2,
		"settings": {"service": "aws-kms", "region": %q, "endpoint": %q, "key": "alias/plyfs-{cluster}-{group}"},
		"env": ["AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true"]}`, region, k.moto.URL)
}

func (k *kms) disable(t *testing.T) { k.moto.Call(t, region, "DisableKey", k.key) }
func (k *kms) enable(t *testing.T)  { k.moto.Call(t, region, "EnableKey", k.key) }
func (k *kms) traces() []string     { return []string{"127.0.0.1", "alias", region, "arn:aws"} }

// hsm is a key in an HSM. Its owner takes it away by another PIN.
type hsm struct {
	dir, pinFile, conf string
}

const hsmPIN = "1234-user"

func newHSM(t *testing.T) owner {
	dir, err := os.MkdirTemp(env.scratch, "hsm-")
	if err != nil {
		t.Fatal(err)
	}
	h := &hsm{dir: dir, pinFile: filepath.Join(dir, "pin"), conf: filepath.Join(dir, "softhsm2.conf")}
	h.enable(t)
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cmk.json")
	for path, text := range map[string]string{h.conf: "directories.tokendir = " + tokens + "\n", file: h.provider()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "plyfs", "--so-pin", "so-pin", "--pin", hsmPIN},
		{filepath.Join(env.programs, "plyfs-key-pkcs11"), "create", "--provider", file, "--cluster", "east", "--group", "db"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.conf)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	return h
}

func (h *hsm) provider() string {
	return fmt.Sprintf(`{"program": "pkcs11", "timeout": "60s", "env": ["SOFTHSM2_CONF=%s"],
		"settings": {"module": "/usr/lib/softhsm/libsofthsm2.so", "token": "plyfs", "key": "plyfs/{cluster}/{group}", "pin_file": %q}}`, h.conf, h.pinFile)
}

func (h *hsm) setPIN(t *testing.T, pin string) {
	t.Helper()
	if err := os.WriteFile(h.pinFile, []byte(pin), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *hsm) disable(t *testing.T) { h.setPIN(t, "wrong-pin") }
func (h *hsm) enable(t *testing.T)  { h.setPIN(t, hsmPIN) }
func (h *hsm) traces() []string     { return []string{"libsofthsm2", "pkcs11", hsmPIN} }

// Whoever has the key opens and closes the volume, mounted or not.
func TestOwnerOfTheKeyRules(t *testing.T) {
	for _, test := range []struct {
		name  string
		owner func(*testing.T) owner
	}{
		{"AWS KMS", newKMS},
		{"HSM", newHSM},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, h := test.owner(t), newHost(t)
			h.provider(t, o.provider())
			h.init(t)
			h.noTrace(t, o.traces()...)
			h.mount(t, exitOK)
			h.write(t)
			h.umount(t)

			o.disable(t)
			if out := h.mount(t, exitDenied); !strings.Contains(out, "denied") {
				t.Errorf("the refusal says:\n%s", out)
			}
			o.enable(t)
			h.mount(t, exitOK)
			h.reads(t)

			o.disable(t)
			h.run(t, exitInaccessible, "revalidate", h.mnt)
			if _, err := os.ReadFile(filepath.Join(h.mnt, "file")); !errors.Is(err, unix.ENOKEY) {
				t.Errorf("read without a key: %v", err)
			}
			o.enable(t)
			h.run(t, exitOK, "revalidate", h.mnt)
			h.reads(t)
			h.umount(t)
		})
	}
}

// A service that cannot be asked, and a host that cannot ask, refuse nobody for good.
func TestKeyServiceThatCannotBeAsked(t *testing.T) {
	o, h := newKMS(t).(*kms), newHost(t)
	h.provider(t, o.provider())
	h.init(t)

	path := h.path
	h.path = "/usr/sbin:/usr/bin:/sbin:/bin"
	if out := h.mount(t, exitUnavailable); !strings.Contains(out, "plyfs-key-cloud is nowhere on PATH") {
		t.Errorf("no program:\n%s", out)
	}
	h.path = path
	h.mount(t, exitOK)
	h.write(t)
	o.moto.Stop()
	h.reads(t) // it has its grace period
	h.umount(t)
	h.mount(t, exitUnavailable)
}

func TestKeyOfAnotherRegionIsDenied(t *testing.T) {
	o, h := newKMS(t), newHost(t)
	h.provider(t, o.provider())
	h.init(t)
	h.provider(t, strings.Replace(o.provider(), region, "us-east-1", 1))
	// moto opens what any of its keys wrapped; wrapping asks for the key of the region.
	h.volume += "-2"
	h.run(t, exitDenied, "init", "--keystore", h.keystore, "--cluster", "east", "--group", "db", "--providers", h.providers, "--provider", "cmk", h.volume)
	if _, err := os.Stat(filepath.Join(h.volume, "plyfs.json")); err == nil {
		t.Error("a volume was made without its key")
	}
}

// Whatever a program does but answer, the mount is refused, in bounded time, as if nobody could be asked; with the right
// program the volume is there as it was.
func TestProgramThatDoesNotAnswer(t *testing.T) {
	o, h := newHSM(t), newHost(t)
	h.provider(t, o.provider())
	h.init(t)
	h.mount(t, exitOK)
	h.write(t)
	h.umount(t)
	programs := filepath.Join(h.dir, "programs")
	if err := os.Mkdir(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	h.path = programs + ":" + h.path
	for _, test := range []struct{ name, script, says string }{
		{"hangs", "sleep 3600", "no answer within 2s"},
		{"nonsense", "echo no; echo nothing >&2", "not of the protocol"},
		{"empty", "true", "not of the protocol"},
		{"answer to another", `echo '{"plyfs_key":1,"id":"0","error":{"kind":"denied","message":"no"}}'`, "another request"},
		{"killed in the middle", `printf '{"plyfs_key":1,'; kill -9 $$`, "signal 9"},
		{"fails", "exit 3", "exit status 3"},
		{"endless", "cat /dev/zero", "more than 65536 bytes"},
	} {
		if err := os.WriteFile(filepath.Join(programs, "plyfs-key-bad"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		timeout := "60s"
		if test.name == "hangs" {
			timeout = "2s"
		}
		h.provider(t, fmt.Sprintf(`{"program": "bad", "timeout": %q, "tries": 1}`, timeout))
		if out := h.mount(t, exitUnavailable); !strings.Contains(out, test.says) {
			t.Errorf("%s: plyfs says\n%s", test.name, out)
		}
	}
	h.provider(t, o.provider())
	h.mount(t, exitOK)
	h.reads(t)
	h.umount(t)
}
