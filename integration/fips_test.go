package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/integration/scratch"
)

// fipsBin is plyfs built against a frozen Go Cryptographic Module.
func fipsBin(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("PLYFS_FIPS_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "plyfs-fips")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", bin, "../cmd/plyfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFIPS140=v1.0.0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building plyfs-fips: %v\n%s", err, out)
	}
	return bin
}

// fipsRun runs the FIPS build, with what GODEBUG is to say.
func fipsRun(bin, godebug string, args ...string) ([]byte, error) {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(scratch.Environ(env.scratch), "GODEBUG="+godebug)
	return cmd.CombinedOutput()
}

// A volume is the same for both builds: either reads what the other wrote.
func TestFIPSBuildReadsAnyVolume(t *testing.T) {
	bin := fipsBin(t)
	v := newVolume(t)
	content := bytes.Repeat([]byte("content."), 50_000)
	v.mustMount(t)
	check(t, os.WriteFile(filepath.Join(v.mnt, "normal"), content, 0o644))
	check(t, v.unmount())

	for _, step := range []struct {
		write, read string
	}{{"fips", "normal"}, {"fips2", "fips"}} {
		args := []string{"mount", "--keystore", v.keys, v.cipher, v.mnt}
		if out, err := fipsRun(bin, "fips140=on", args...); err != nil {
			t.Fatalf("plyfs-fips mount: %v\n%s", err, out)
		}
		got, err := os.ReadFile(filepath.Join(v.mnt, step.read))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", step.read, len(got), err)
		}
		if err := os.WriteFile(filepath.Join(v.mnt, step.write), content, 0o644); err != nil {
			t.Error(err)
		}
		if out, err := fipsRun(bin, "fips140=on", "umount", v.mnt); err != nil {
			t.Fatalf("plyfs-fips umount: %v\n%s", err, out)
		}
	}
	v.mustMount(t)
	got, err := os.ReadFile(filepath.Join(v.mnt, "fips2"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("fips2 by the normal build: %d bytes, %v", len(got), err)
	}
	v.close(t)
}

// Where the module enforces approved algorithms, whatever is not in it fails. A
// volume of layer 1 alone works like that from init to the last read: all of
// layer 1 is inside. One of two layers cannot: layer 2 is none of FIPS's.
func TestFIPSLayer1IsInside(t *testing.T) {
	bin := fipsBin(t)
	root := filepath.Join(env.scratch, "fips-only")
	keys, cipher, mnt := filepath.Join(root, "keys"), filepath.Join(root, "cipher"), filepath.Join(root, "mnt")
	check(t, os.MkdirAll(mnt, 0o755))
	if out, err := fipsRun(bin, "fips140=only", "keystore", "init", "--keystore", keys); err == nil {
		t.Errorf("a key store of layer 2 was made with approved algorithms alone\n%s", out)
	}
	mustPlyfs(t, "keystore", "init", "--keystore", keys)
	for _, args := range [][]string{
		{"init", "--single-layer", "--keystore", keys, cipher},
		{"mount", "-o", "layers=1", "--keystore", keys, cipher, mnt},
	} {
		if out, err := fipsRun(bin, "fips140=only", args...); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	content := bytes.Repeat([]byte("content."), 50_000)
	file := filepath.Join(mnt, "a name")
	check(t, os.WriteFile(file, content, 0o644))
	check(t, os.Symlink("target", filepath.Join(mnt, "link")))
	if out, err := fipsRun(bin, "fips140=only", "umount", mnt); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	if out, err := fipsRun(bin, "fips140=only", "mount", "-o", "layers=1", "--keystore", keys, cipher, mnt); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if to, err := os.Readlink(filepath.Join(mnt, "link")); err != nil || to != "target" {
		t.Errorf("link to %q, %v", to, err)
	}
	if out, err := fipsRun(bin, "fips140=only", "umount", mnt); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
}

// What a build says of itself is so.
func TestFIPSClaims(t *testing.T) {
	bin := fipsBin(t)
	type claims struct {
		FIPS struct {
			Module, Build   string
			Enabled         bool
			Inside, Outside []string
		}
	}
	ask := func(godebug, bin string) (c claims) {
		t.Helper()
		out, err := fipsRun(bin, godebug, "version", "--json")
		if err != nil || json.Unmarshal(out, &c) != nil {
			t.Fatalf("version: %v\n%s", err, out)
		}
		if !slices.ContainsFunc(c.FIPS.Outside, func(s string) bool { return strings.Contains(s, "XChaCha20-Poly1305") }) {
			t.Errorf("layer 2 is not said to be outside: %+v", c)
		}
		return c
	}
	if c := ask("", bin).FIPS; !c.Enabled || c.Module == "latest" || !strings.HasPrefix(c.Build, "v1.") || len(c.Inside) == 0 {
		t.Errorf("plyfs-fips: %+v", c)
	}
	if c := ask("fips140=off", bin).FIPS; c.Enabled || len(c.Inside) != 0 {
		t.Errorf("plyfs-fips with the mode off claims %+v", c)
	}
	if c := ask("", env.bin).FIPS; len(c.Inside) != 0 {
		t.Errorf("plyfs claims %+v", c)
	}
}
