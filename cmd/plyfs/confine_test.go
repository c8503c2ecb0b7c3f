package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// reach asks the daemon to open a path, and returns why it could not.
func (b *bench) reach(path string) string {
	b.t.Helper()
	var why string
	if err := askDaemon("/run/plyfs", b.mnt, "reach", path, &why, time.Minute); err != nil {
		b.t.Fatal(err)
	}
	return why
}

// The daemon opens what it works on, and nothing else: no key store above all.
func TestDaemonIsConfined(t *testing.T) {
	b := withVolume(t)
	journal, logs := filepath.Join(b.dir, "journal"), filepath.Join(b.dir, "logs")
	for _, d := range []string{journal, logs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.mount("-o", "journal="+journal, "--log", filepath.Join(logs, "log"))
	h := askHygiene("/run/plyfs", b.mnt)
	if h == nil || !h.NoDump {
		t.Fatalf("hygiene: %+v", h)
	}
	status := b.run(exitOK, "status", b.mnt).stdout
	if abi, err := ll.LandlockGetABIVersion(); err != nil || abi < landlockABI {
		// What cannot be had is told.
		if h.Confined || !strings.Contains(h.Note, "Landlock") {
			t.Errorf("without Landlock: %+v", h)
		}
		wantText(t, "status", status, "Landlock")
		return
	}
	if !h.Confined {
		t.Fatalf("not confined: %+v", h)
	}
	wantText(t, "status", status, "confined to its directories")
	for _, path := range []string{b.cipher, filepath.Join(b.cipher, "plyfs.json"), journal, logs, "/run/plyfs"} {
		if why := b.reach(path); why != "" {
			t.Errorf("%s, which it needs: %s", path, why)
		}
	}
	for _, path := range []string{
		"/", "/etc/passwd", b.keys, filepath.Join(b.keys, "data.store"), filepath.Join(b.keys, "data.key"), b.dir,
		"/proc/self/mem", "/proc/1/environ", "/dev/fuse", "/dev/mem", filepath.Join(b.cipher, ".."),
	} {
		if why := b.reach(path); why != unix.EACCES.Error() && why != unix.ENOENT.Error() {
			t.Errorf("%s, which is none of its business: %q, want %q", path, why, unix.EACCES.Error())
		}
	}

	// All of its work still gets done.
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(b.mnt, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write("a/f", "content")
	if err := os.Rename(filepath.Join(b.mnt, "a/f"), filepath.Join(b.mnt, "b/f")); err != nil {
		t.Errorf("rename between directories: %v", err)
	}
	if err := os.Link(filepath.Join(b.mnt, "b/f"), filepath.Join(b.mnt, "a/link")); err != nil {
		t.Errorf("link between directories: %v", err)
	}
	if err := unix.Mkfifo(filepath.Join(b.mnt, "fifo"), 0o600); err != nil {
		t.Errorf("mkfifo: %v", err)
	}
	if err := os.Symlink("x", filepath.Join(b.mnt, "link")); err != nil {
		t.Errorf("symlink: %v", err)
	}
	b.run(exitOK, "revalidate", b.mnt)
	log := filepath.Join(logs, "log")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(b.daemon().PID, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if there, _ := exists(log); there {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the log is not opened anew")
		}
	}
	// A signal unmounts, though the daemon may not itself.
	run := b.daemon()
	if err := unix.Kill(run.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.awaitEnd(run)
	if _, there := b.entry(); there {
		t.Error("the mount is there after SIGTERM")
	}
	if left := readRunFile("/run/plyfs", b.mnt); left != nil {
		t.Errorf("the run file is there after SIGTERM: %+v", left)
	}
	b.mount("-o", "journal="+journal)
	b.wantFile("b/f", "content")
}

// Neither core dumps nor memory give keys away, as far as the system allows.
func TestDaemonMemory(t *testing.T) {
	b := mounted(t)
	d := b.daemon()
	for _, pid := range []int{d.PID, keyHelperOf(t, d.PID)} {
		proc := "/proc/" + strconv.Itoa(pid)
		limits, err := os.ReadFile(proc + "/limits")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(limits)) {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Fields(rest)[0] != "0" {
				t.Errorf("process %d may leave core files: %s", pid, line)
			}
		}
		// An undumpable process's files in /proc are root's, whoever runs it; its
		// locked memory is what it uses.
		text, err := os.ReadFile(proc + "/status")
		if err != nil {
			t.Fatal(err)
		}
		locked := strings.Contains(string(text), "VmLck:") && !strings.Contains(string(text), "VmLck:\t       0 kB")
		if h := askHygiene("/run/plyfs", b.mnt); h == nil || h.Locked != locked || !h.Locked && !strings.Contains(h.Note, "swap") {
			t.Errorf("process %d: memory locked %v, it says %+v", pid, locked, h)
		}
	}
	var s mountStatus
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json", b.mnt).stdout), &s); err != nil || s.Hygiene == nil || !s.Hygiene.NoDump {
		t.Errorf("status: %+v, %v", s.Hygiene, err)
	}
}

// askHygiene asks a mount's daemon what protects it; nil where it does not answer.
func askHygiene(dir, target string) *hygiene {
	var h hygiene
	if askDaemon(dir, target, "hygiene", nil, &h, statusTime) != nil {
		return nil
	}
	return &h
}
