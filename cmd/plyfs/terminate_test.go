package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
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
	b := withVolume(t)
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

// status is what is told of the mount.
func (b *bench) status() (s mountStatus) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json", b.mnt).stdout), &s); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// A daemon that ends leaves the run file and the socket of another mount that was
// made at its place.
func TestEndOfADetachedMountLeavesAnother(t *testing.T) {
	needMounts(t)
	b, file, first, other := detached(t, "log")
	file.Close()
	b.awaitEnd(first)
	d := readRunFile("/run/plyfs", other.mnt)
	if d == nil || d.Source != other.cipher {
		t.Fatalf("the run file is not that of the mount: %+v", d)
	}
	if s := other.status(); s.PID != d.PID || s.Keys == nil || s.Journal == nil {
		t.Errorf("its daemon does not answer: %+v", s)
	}
	other.run(exitOK, "umount", other.mnt)
	other.awaitEnd(d)
	for _, path := range []string{runPath("/run/plyfs", other.mnt), socketPath("/run/plyfs", other.mnt)} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left: %v", path, err)
		}
	}
	b.mount()
	b.run(exitOK, "umount", b.mnt)
}

// Why a volume could not be closed is not written over another daemon's run file.
func TestEndRunFileOfAnother(t *testing.T) {
	m := &mounting{r: &request{StateDir: t.TempDir(), Target: "/m", Source: "/own"}, u: &unlocked{}, audit: &audit{}}
	other := &runFile{PID: 1, Start: "1", Target: "/m", Source: "/other"}
	for _, closing := range []error{nil, errors.New("no space")} {
		if err := writeRunFile(m.r.StateDir, other); err != nil {
			t.Fatal(err)
		}
		m.endRunFile(closing)
		if got := readRunFile(m.r.StateDir, "/m"); got == nil || got.Source != "/other" || got.CloseError != "" {
			t.Errorf("closed with %v: %+v", closing, got)
		}
	}
	writeRunFile(m.r.StateDir, m.runFile("log"))
	m.endRunFile(errors.New("no space"))
	if got := readRunFile(m.r.StateDir, "/m"); got == nil || got.Source != "/own" || got.CloseError != "no space" {
		t.Errorf("its own: %+v", got)
	}
	m.endRunFile(nil)
	if got := readRunFile(m.r.StateDir, "/m"); got != nil {
		t.Errorf("its own was left: %+v", got)
	}
}

// A mount that was let through by the command's check finds another one there
// when it has the volume.
func TestMountFindsAnotherAtItsPlace(t *testing.T) {
	needMounts(t)
	b, other := newBench(t), newBench(t)
	b.volume()
	other.mnt = b.mnt
	other.volume()
	root, err := backing.OpenDir(b.cipher)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	lock, err := volume.Lock(root, 0)
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := b.command("plyfs", "mount", b.cipher, b.mnt)
	says, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains(errs.Bytes(), []byte("still in use")) { // its daemon is past the check
		part := make([]byte, 512)
		n, err := says.Read(part)
		errs.Write(part[:n])
		if err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
	}
	other.mount()
	d := other.daemon()
	lock.Close()
	errs.ReadFrom(says)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != int(exitBusy) {
		t.Errorf("exit code %d, want %d", code, exitBusy)
	}
	wantText(t, "standard error", errs.String(), "another volume is mounted there, "+other.cipher)
	if m, _ := other.entry(); m.Source != other.cipher || !d.sameProcess(other.daemon()) {
		t.Errorf("mounted is %s, and the run file is of %s", m.Source, other.daemon().Source)
	}
	other.run(exitOK, "umount", other.mnt)
	b.mount() // its volume was left closed
	b.run(exitOK, "umount", b.mnt)
}

// A daemon that lost its helper says so at once, and on a signal what unmounts
// the volume where it cannot.
func TestTerminatedWithoutHelper(t *testing.T) {
	b := withVolume(t)
	log := filepath.Join(b.dir, "log")
	b.mount("--log", log)
	d := b.daemon()
	if s := b.status(); s.Keys == nil || s.Keys.Lost != "" {
		t.Errorf("lost with a helper: %+v", s.Keys)
	}
	if err := unix.Kill(keyHelperOf(t, d.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.awaitLog(log, errNoHelper.Error())
	for end := time.Now().Add(time.Minute); !strings.Contains(strings.Join(b.status().Notes, "\n"), errNoHelper.Error()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("status does not tell of it: %q", b.status().Notes)
		}
	}
	confined := b.status().Hygiene.Confined
	unix.Kill(d.PID, unix.SIGTERM)
	if confined {
		b.awaitLog(log, "run 'plyfs umount "+b.mnt+"'")
		if _, ok := b.entry(); !ok || !d.alive() {
			t.Fatal("it is unmounted")
		}
		b.run(exitOK, "umount", b.mnt)
	}
	b.awaitEnd(d)
	if _, ok := b.entry(); ok {
		t.Error("it stays mounted")
	}
	b.mount()
	b.run(exitOK, "umount", b.mnt)
}

// The place where it was mounted goes; another one that somebody made of it stays
// and is served.
func TestTerminatedWhileMountedElsewhere(t *testing.T) {
	b := withVolume(t)
	log, bind := filepath.Join(b.dir, "log"), filepath.Join(b.dir, "bind")
	b.mount("--log", log)
	d := b.daemon()
	if err := os.Mkdir(bind, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(b.mnt, bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unix.Kill(d.PID, unix.SIGTERM)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := b.entry(); !ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it stays mounted")
		}
	}
	unix.Kill(d.PID, unix.SIGTERM)
	b.awaitLog(log, "it is not mounted at "+b.mnt+" any more, but at "+bind)
	if err := os.WriteFile(filepath.Join(bind, "f"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	b.run(exitOK, "umount", bind)
	b.awaitEnd(d)
}
