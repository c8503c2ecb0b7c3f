package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUmountBusy(t *testing.T) {
	b := mounted(t)
	f, err := os.Create(filepath.Join(b.mnt, "open"))
	if err != nil {
		t.Fatal(err)
	}
	r := b.run(exitBusy, "umount", b.mnt)
	wantText(t, "standard error", r.stderr, b.mnt+" is busy", "in use by", "process "+strconv.Itoa(os.Getpid()))
	f.Close()
	b.run(exitOK, "umount", b.mnt)
}

func TestUmountRefuses(t *testing.T) {
	b := withVolume(t)
	b.run(exitNotMounted, "umount", b.mnt)
	b.run(exitNotMounted, "umount", "/proc")
	b.run(exitFailure, "umount", filepath.Join(b.dir, "nowhere"))
}

// The ciphertext directory names the mount, and so do a symlink and a relative
// path; not where it is mounted twice.
func TestUmountByOtherNames(t *testing.T) {
	b := withVolume(t)
	link := filepath.Join(b.dir, "link")
	if err := os.Symlink(b.mnt, link); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(wd, b.mnt)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{b.cipher, link, relative, b.mnt + "/", b.mnt + "/../mnt/."} {
		b.mount()
		b.run(exitOK, "umount", name)
		if _, ok := b.entry(); ok {
			t.Fatalf("umount %s left it mounted", name)
		}
	}
	b.mount()
	bind := filepath.Join(b.dir, "bind")
	if err := os.Mkdir(bind, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(b.mnt, bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := b.run(exitUsage, "umount", b.cipher)
	wantText(t, "standard error", r.stderr, "mounted at 2 places", b.mnt, bind)
	b.run(exitOK, "umount", bind)
	b.run(exitOK, "umount", b.mnt)
}

// After umount the ciphertext is at rest: the lock is free and the daemon
// gone from the volume, at once.
func TestUmountWaits(t *testing.T) {
	b := withVolume(t)
	for range 5 {
		b.mount()
		b.write("f", "x")
		d := b.daemon()
		b.run(exitOK, "umount", b.mnt)
		lock, err := os.OpenFile(filepath.Join(b.cipher, ".plyfs/lock"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("the lock is held after umount: %v", err)
		}
		lock.Close()
		if readRunFile("/run/plyfs", b.mnt) != nil {
			t.Error("the run file is there after umount")
		}
		b.awaitEnd(d)
	}
}

// The volume is closed when its last mount goes.
func TestUmountOfABindMount(t *testing.T) {
	b := mounted(t)
	bind := filepath.Join(b.dir, "bind")
	if err := os.Mkdir(bind, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(b.mnt, bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := b.run(exitOK, "umount", b.mnt)
	wantText(t, "standard error", r.stderr, "still mounted at "+bind)
	if err := os.WriteFile(filepath.Join(bind, "f"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	b.run(exitOK, "umount", bind)
	b.mount()
	b.wantFile("f", "x")
	b.run(exitOK, "umount", b.mnt)
}

// What exit code 0 does not say is said where people look for what it says.
func TestUmountTellsWhatIsNotClosed(t *testing.T) {
	page, err := os.ReadFile("man/plyfs.1")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ = bytes.Cut(page, []byte("\n.It Cm umount\n"))
	page, _, _ = bytes.Cut(page, []byte("\n.It "))
	for where, text := range map[string]string{"umount --help": inProcess(nil, "umount", "--help").stdout, "plyfs(1)": string(page)} {
		wantText(t, where, strings.Join(strings.Fields(text), " "), "still mounted at another place", "mount --bind", "the mount was dead", "the next mount recovers")
	}
}

func TestStatus(t *testing.T) {
	b := withVolume(t)
	b.run(exitNotMounted, "status", b.mnt)
	b.mount("--log", filepath.Join(b.dir, "log"), "-o", "journal-size=64M")
	var s mountStatus
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json", b.mnt).stdout), &s); err != nil {
		t.Fatal(err)
	}
	if s.MountPoint != b.mnt || s.CipherDir != b.cipher || s.State != "serving" || s.PID != b.daemon().PID || s.Layers != 2 || s.ReadOnly ||
		s.Cluster != "default" || s.Group != "default" || s.Log != filepath.Join(b.dir, "log") || len(s.Stores) != 2 || s.Since == nil {
		t.Errorf("got %+v", s)
	}
	if j := s.Journal; j == nil || j.Limit != 64<<20 || j.Size == 0 || j.Size >= j.Limit {
		t.Errorf("the journal of a mount with journal-size=64M: %+v", j)
	}
	if len(s.Notes) != 1 {
		t.Fatalf("notes: %q", s.Notes)
	}
	wantText(t, "the note", s.Notes[0], "both key stores and their key files lie in "+b.keys)
	wantText(t, "status", b.run(exitOK, "status", b.mnt).stdout, b.mnt+"\n", "serving, process "+strconv.Itoa(s.PID), "data key", "infra key", "opened by key file", " of at most 64 MiB in use")

	var all []mountStatus
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json").stdout), &all); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range all {
		found = found || s.MountPoint == b.mnt
	}
	if !found {
		t.Errorf("the list lacks the mount: %+v", all)
	}
	wantText(t, "info of the mountpoint", b.run(exitOK, "info", b.mnt).stdout, "mounted at  "+b.mnt)
	b.run(exitOK, "umount", b.mnt)
}

// A daemon that does not answer is asked once.
func TestStatusOfASilentDaemon(t *testing.T) {
	b := mounted(t)
	path := socketPath("/run/plyfs", b.mnt)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan int, 1)
	go func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				asked <- n
				return
			}
			c.Close()
			n++
		}
	}()
	var s mountStatus
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json", b.mnt).stdout), &s); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if n := <-asked; n != 1 || s.PID != b.daemon().PID || !strings.Contains(strings.Join(s.Notes, "\n"), "does not answer") {
		t.Errorf("asked %d times: %+v", n, s)
	}
	b.run(exitOK, "umount", b.mnt)
}

func TestSharedProtection(t *testing.T) {
	key := func(dir string) storeNote {
		return storeNote{Path: dir + "/x.store", Protection: "key file", KeyFile: dir + "/x.key"}
	}
	tests := []struct {
		name   string
		stores []storeNote
		want   bool
	}{
		{"one directory", []storeNote{key("/k"), key("/k")}, true},
		{"two directories of one host", []storeNote{key("/k"), key("/l")}, true},
		{"a passphrase", []storeNote{key("/k"), {Path: "/k/y.store", Protection: "passphrase"}}, false},
		{"one store", []storeNote{key("/k")}, false},
		{"unknown", nil, false},
	}
	for _, tt := range tests {
		if got := sharedProtection(tt.stores); (got != "") != tt.want {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

// A ciphertext directory that was moved or removed beneath its mount does not
// keep umount from waiting for the end of the daemon, nor from telling of it.
func TestUmountWithoutCiphertext(t *testing.T) {
	b := mounted(t)
	b.write("f", "content")
	d := b.daemon()
	if err := os.Rename(b.cipher, b.cipher+".moved"); err != nil {
		t.Fatal(err)
	}
	b.write("g", "written where it went")
	b.run(exitOK, "umount", b.mnt)
	if d.alive() {
		t.Error("the daemon still runs")
	}
	if err := os.Rename(b.cipher+".moved", b.cipher); err != nil {
		t.Fatal(err)
	}
	b.mount()
	b.wantFile("g", "written where it went")
	d = b.daemon()
	if err := os.RemoveAll(b.cipher); err != nil {
		t.Fatal(err)
	}
	b.as("plyfs", "umount", b.mnt) // whatever it says, it ends
	b.awaitEnd(d)
}
