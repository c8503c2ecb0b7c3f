package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// copyTree copies a directory with all that is in it to a new place.
func (b *bench) copyTree(from, to string) {
	b.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		b.t.Fatalf("cp: %v: %s", err, out)
	}
}

// TestOlderVolumeIsRefused restores an older copy of a whole volume, which is valid in itself.
func TestOlderVolumeIsRefused(t *testing.T) {
	b := mounted(t)
	b.write("a", "first")
	b.run(exitOK, "umount", b.mnt)
	old := filepath.Join(b.dir, "old")
	b.copyTree(b.cipher, old)
	b.mount()
	b.write("a", "second")
	b.run(exitOK, "umount", b.mnt)
	if err := os.RemoveAll(b.cipher); err != nil {
		t.Fatal(err)
	}
	b.copyTree(old, b.cipher)
	b.run(exitTampered, "mount", b.cipher, b.mnt)
	b.run(exitTampered, "mount", "-o", "ro", b.cipher, b.mnt)
	r := b.run(exitTampered, "mount", b.cipher, b.mnt) // trying changed nothing
	wantText(t, "standard error", r.stderr, "older than this host has seen", "journal", "accept-rollback=journal")
	if _, ok := b.entry(); ok {
		t.Fatal("it is mounted")
	}
	b.run(exitTampered, "mount", "-o", "accept-rollback=keys", b.cipher, b.mnt)
	b.run(exitUsage, "mount", "-o", "accept-rollback=yes", b.cipher, b.mnt)
	r = b.run(exitOK, "mount", "-o", "accept-rollback=journal", b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "warning: ", "older than this host has seen")
	b.wantFile("a", "first")
	b.run(exitOK, "umount", b.mnt)
	b.mount() // it was accepted once and for all
	b.run(exitOK, "umount", b.mnt)
}

// TestPinsThatCannotBeKept is told of and stops nothing.
func TestPinsThatCannotBeKept(t *testing.T) {
	b := withVolume(t)
	b.file("state", "in the way")
	r := b.run(exitOK, "mount", "--log", filepath.Join(b.dir, "log"), b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "warning: this host does not remember")
	b.run(exitOK, "umount", b.mnt)
	os.Remove(filepath.Join(b.dir, "state"))
	os.MkdirAll(filepath.Join(b.dir, "state/plyfs"), 0o700)
	b.file("state/plyfs/hosts.json", "nonsense")
	r = b.run(exitTampered, "mount", b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "hosts.json", "Remove the file")
}

// TestConfigOffTheMedium keeps the wrapped keys elsewhere than in the ciphertext directory.
func TestConfigOffTheMedium(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	config := filepath.Join(b.dir, "stick", "vol.json")
	if err := os.Mkdir(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	b.run(exitUsage, "init", "--config", filepath.Join(b.cipher, "x.json"), b.cipher)
	r := b.run(exitOK, "init", "--config", config, b.cipher)
	wantText(t, "standard error", r.stderr, "config="+config)
	b.run(exitExists, "init", "--config", config, filepath.Join(b.dir, "other"))
	entries, err := os.ReadDir(b.cipher)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "plyfs.json") {
			t.Errorf("%s is on the medium", e.Name())
		}
	}
	b.run(exitNotVolume, "mount", b.cipher, b.mnt)
	b.run(exitNotVolume, "info", b.cipher)
	b.run(exitOK, "info", "--config", config, b.cipher)
	b.run(exitOK, "mount", "-o", "config="+config, b.cipher, b.mnt)
	b.write("a", "x")
	wantText(t, "status", b.run(exitOK, "status", b.mnt).stdout, "cluster default, group default")
	b.run(exitOK, "info", b.mnt) // the daemon knows
	b.run(exitOK, "umount", b.mnt)
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "mount", "--config", config, b.cipher, b.mnt) // its copy is enough
	b.wantFile("a", "x")
	b.run(exitOK, "umount", b.mnt)
	if err := os.Remove(config); err != nil { // made anew from it
		t.Fatal(err)
	}
	os.Remove(config + ".bak")
	b.run(exitNotVolume, "mount", "--config", config, b.cipher, b.mnt)
}
