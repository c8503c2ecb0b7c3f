package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// awaitLog waits until a daemon's log has a text.
func (b *bench) awaitLog(log, want string) {
	b.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(log)
		if strings.Contains(string(text), want) {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("the log lacks %q:\n%s", want, text)
		}
	}
}

// open opens a new file in the mount until the test ends.
func (b *bench) open(name string) *os.File {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.mnt, name))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { f.Close() })
	return f
}

// detached mounts the volume, takes the mount out of the tree with a file open,
// and mounts another volume at its place.
func detached(t *testing.T, log string) (b *bench, file *os.File, first *runFile, other *bench) {
	t.Helper()
	b, other = newBench(t), newBench(t)
	b.volume()
	b.mount("--log", filepath.Join(b.dir, log))
	file, first = b.open("held"), b.daemon()
	if err := unix.Unmount(b.mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	other.mnt = b.mnt
	other.volume()
	other.mount()
	return b, file, first, other
}

// A daemon that is told to end unmounts its own mount, and none that was made at
// its place since.
func TestTerminatedUnmountsNoOtherMount(t *testing.T) {
	needMounts(t)
	b, file, first, other := detached(t, "log")
	busy := other.open("busy")
	unix.Kill(first.PID, unix.SIGTERM)
	b.awaitLog(filepath.Join(b.dir, "log"), "the mount was detached before")
	if m, ok := other.entry(); !ok || m.Source != other.cipher {
		t.Fatalf("the other volume is not mounted any more: %+v", m)
	}
	if _, err := file.WriteString("served on"); err != nil {
		t.Error(err)
	}
	file.Close()
	b.awaitEnd(first)
	if m, ok := other.entry(); !ok || m.Source != other.cipher {
		t.Fatalf("the other volume went with the first: %+v", m)
	}
	busy.Close()
	other.run(exitOK, "umount", other.mnt)
}

// What covers a mount stays, and the mount with it.
func TestTerminatedWhileCovered(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.volume()
	log := filepath.Join(b.dir, "log")
	b.mount("--log", log)
	d := b.daemon()
	if err := unix.Mount("cover", b.mnt, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	unix.Kill(d.PID, unix.SIGTERM)
	b.awaitLog(log, "something else is mounted over it")
	if m, _ := b.entry(); m.Type != "tmpfs" {
		t.Fatalf("what covers it is gone: %+v", m)
	}
	if err := unix.Unmount(b.mnt, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.entry(); !ok {
		t.Fatal("the covered mount is gone")
	}
	unix.Kill(d.PID, unix.SIGTERM)
	b.awaitEnd(d)
	if m, ok := b.entry(); ok {
		t.Errorf("it stays mounted: %+v", m)
	}
}
