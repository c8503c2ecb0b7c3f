package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keyState is what status says of the keys.
func (b *bench) keyState() *keyState {
	b.t.Helper()
	var s mountStatus
	r := b.as("plyfs", "status", "--json", b.mnt)
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || s.Keys == nil {
		b.t.Fatalf("status: %v\n%v", err, r)
	}
	return s.Keys
}

// awaitKeys waits until the keys are as wanted.
func (b *bench) awaitKeys(want keyAccess) *keyState {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s := b.keyState()
		if s.State == want {
			return s
		}
		if time.Now().After(end) {
			b.t.Fatalf("the keys are never %s: %+v", want, s)
		}
	}
}

// hide moves a file away, and back.
func (b *bench) hide(path string) (back func()) {
	b.t.Helper()
	if err := os.Rename(path, path+".hidden"); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		if err := os.Rename(path+".hidden", path); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A key that is refused takes the volume away at once, on its own and when asked;
// it comes back with the key.
func TestRefusedKey(t *testing.T) {
	b := mounted(t, "-o", "revalidate=1s")
	b.write("f", "content")
	open, err := os.Open(filepath.Join(b.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if s := b.keyState(); s.State != keysAvailable || len(s.Layers) != 2 || s.Layers[1].Layer != "infra" {
		t.Errorf("after the mount: %+v", s)
	}
	b.run(exitOK, "revalidate", b.mnt)

	store := filepath.Join(b.keys, "infra.key")
	back := b.hide(store)
	other := newBench(t)
	other.volume()
	key, err := os.ReadFile(filepath.Join(other.keys, "infra.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, key, 0o600); err != nil {
		t.Fatal(err)
	}
	s := b.awaitKeys(keysInaccessible)
	if !strings.Contains(s.Reason, "wrong key") || s.Layers[0].Error != "" && s.Layers[1].Error == "" {
		t.Errorf("state: %+v", s)
	}
	if _, err := os.ReadFile(filepath.Join(b.mnt, "f")); !errors.Is(err, unix.ENOKEY) {
		t.Errorf("read: %v, want ENOKEY", err)
	}
	if _, err := open.ReadAt(make([]byte, 1), 0); !errors.Is(err, unix.ENOKEY) {
		t.Errorf("read of an open file: %v, want ENOKEY", err)
	}
	wantText(t, "status", b.run(exitInaccessible, "status", b.mnt).stdout, "Inaccessible since", "wrong key")
	wantText(t, "revalidate", b.run(exitInaccessible, "revalidate", b.mnt).stdout, "Inaccessible since")
	var j keyState
	if r := b.run(exitInaccessible, "revalidate", "--json", b.mnt); json.Unmarshal([]byte(r.stdout), &j) != nil || j.State != keysInaccessible {
		t.Errorf("revalidate --json: %v", r)
	}

	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	back()
	b.awaitKeys(keysAvailable)
	b.wantFile("f", "content")
	got := make([]byte, 7)
	if _, err := open.ReadAt(got, 0); err != nil || string(got) != "content" {
		t.Errorf("the open file: %q, %v", got, err)
	}
	open.Close()
	b.run(exitOK, "umount", b.mnt)
}

// A key that cannot be read is waited for, then missed.
func TestMissingKeyHasGrace(t *testing.T) {
	b := mounted(t, "-o", "revalidate=1h,grace=1h")
	b.write("f", "content")
	back := b.hide(filepath.Join(b.keys, "data.key"))
	wantText(t, "revalidate", b.run(exitOK, "revalidate", b.mnt).stdout, "Available", "if that lasts")
	if s := b.keyState(); s.Deadline == nil || s.Reason == "" {
		t.Errorf("in grace: %+v", s)
	}
	b.wantFile("f", "content")
	back()
	b.run(exitOK, "revalidate", b.mnt)
	if s := b.keyState(); s.Deadline != nil || s.Reason != "" {
		t.Errorf("after grace: %+v", s)
	}
	b.run(exitOK, "umount", b.mnt)

	b.mount("-o", "revalidate=1h,grace=0")
	back = b.hide(filepath.Join(b.keys, "data.key"))
	b.run(exitInaccessible, "revalidate", b.mnt)
	// It unmounts like that, by anybody's means, and nothing is lost.
	b.run(exitOK, "umount", b.mnt)
	back()
	b.mount()
	b.wantFile("f", "content")
}

// The passphrase is kept, not asked for again; without validations it is not.
func TestRevalidateByPassphrase(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	pass := b.file("pass", "a long enough passphrase of the data layer")
	b.run(exitOK, "keystore", "init", "--data-passphrase-file", pass)
	b.volume("--data-passphrase-file", pass)
	b.mount("--data-passphrase-file", pass, "-o", "grace=0")
	if err := os.Remove(pass); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "revalidate", b.mnt)
	back := b.hide(filepath.Join(b.keys, "data.store"))
	b.run(exitInaccessible, "revalidate", b.mnt)
	back()
	b.run(exitOK, "revalidate", b.mnt)
	b.run(exitOK, "umount", b.mnt)

	pass = b.file("pass", "a long enough passphrase of the data layer")
	b.mount("--data-passphrase-file", pass, "-o", "revalidate=0")
	b.run(exitUsage, "revalidate", b.mnt)
	wantText(t, "status", b.run(exitOK, "status", b.mnt).stdout, "Available", "revalidate=0")
}

// A helper that was killed is not started again: the keys cannot be validated
// from then on, and the volume goes when the time of grace is over.
func TestKilledKeyHelper(t *testing.T) {
	b := mounted(t, "-o", "revalidate=1h,grace=0")
	b.write("f", "content")
	pid := keyHelperOf(t, b.daemon().PID)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantText(t, "revalidate", b.run(exitInaccessible, "revalidate", b.mnt).stdout, "helper process")
	b.run(exitOK, "umount", b.mnt)
	b.mount()
	b.wantFile("f", "content")
	pid = keyHelperOf(t, b.daemon().PID)
	b.run(exitOK, "umount", b.mnt)
	for end := time.Now().Add(time.Minute); unix.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the helper outlives the mount")
		}
	}
}

// keyHelperOf finds the key helper of a daemon.
func keyHelperOf(t *testing.T, daemon int) int {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(rest) > 1 && rest[1] == strconv.Itoa(daemon) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	t.Fatalf("daemon %d has no helper", daemon)
	return 0
}

func TestRevalidateOfNoMount(t *testing.T) {
	b := newBench(t)
	b.run(exitNotMounted, "revalidate", b.dir)
	b.run(exitUsage, "revalidate")
}
