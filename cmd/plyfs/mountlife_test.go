package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount waits for a mount that is ending.
func TestMountWaitsForTheLock(t *testing.T) {
	b := withVolume(t)
	lock, err := os.OpenFile(filepath.Join(b.cipher, ".plyfs/lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cmd := b.command("plyfs", "mount", b.cipher, b.mnt)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	errs := bufio.NewReader(stderr)
	said, err := errs.ReadString('\n')
	if err != nil || !strings.Contains(said, "still in use by a mount that is ending") {
		t.Errorf("it says %q, %v", said, err)
	}
	if _, ok := b.entry(); ok {
		t.Error("it was mounted under the lock")
	}
	lock.Close()
	rest, _ := io.ReadAll(errs)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, rest)
	}
	b.run(exitOK, "umount", b.mnt)
}

// An interrupted mount leaves neither daemon nor mount.
func TestMountInterrupted(t *testing.T) {
	needMounts(t)
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGKILL} {
		b := newBench(t)
		b.volume()
		lock, err := os.OpenFile(filepath.Join(b.cipher, ".plyfs/lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		cmd := b.command("plyfs", "mount", "--log", filepath.Join(b.dir, "log"), b.cipher, b.mnt)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		cmd.Process.Signal(s)
		if cmd.Wait() == nil {
			t.Errorf("%v: exit code 0", s)
		}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if text, _ := os.ReadFile(filepath.Join(b.dir, "log")); strings.Contains(string(text), "the process that started the daemon is gone") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%v: the daemon waits on", s)
			}
		}
		lock.Close()
		time.Sleep(50 * time.Millisecond)
		if _, ok := b.entry(); ok {
			t.Errorf("%v: mounted", s)
		}
	}
}

// The daemon keeps nothing of its caller but the environment, and shows no
// secret to others.
func TestDaemonIsApart(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	const secret = "correct horse battery staple"
	pass := b.file("pass", secret+"\n")
	b.run(exitOK, "keystore", "init", "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	given, err := os.Open(pass)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	kept, err := os.Create(filepath.Join(b.dir, "kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	b.inherit = []*os.File{given, kept}
	b.run(exitOK, "init", "--data-passphrase-fd", "3", "--infra-passphrase-file", pass, b.cipher)
	given.Seek(0, 0)
	b.mount("-o", "data-passphrase-file=fd:3", "--infra-passphrase-file", pass)

	d := b.daemon()
	proc := "/proc/" + strconv.Itoa(d.PID)
	if sid, _ := unix.Getsid(d.PID); sid != d.PID {
		t.Errorf("session %d, want one of its own", sid)
	}
	if cwd, _ := os.Readlink(proc + "/cwd"); cwd != "/" {
		t.Errorf("working directory %s", cwd)
	}
	for fd := range 3 {
		if to, _ := os.Readlink(proc + "/fd/" + strconv.Itoa(fd)); to != "/dev/null" {
			t.Errorf("descriptor %d is %s", fd, to)
		}
	}
	// The request pipe goes when the parent has, a moment after it returned.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		held := b.held(proc, pass, kept.Name(), "pipe:")
		if held == "" {
			break
		}
		if time.Now().After(end) {
			t.Errorf("it holds %s", held)
			break
		}
	}
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(proc + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("horse")) {
			t.Errorf("%s shows the passphrase", file)
		}
	}
	limits, _ := os.ReadFile(proc + "/limits")
	for line := range strings.Lines(string(limits)) {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "Max open files") && f[3] != f[4] {
			t.Errorf("the soft limit of open files is not the hard one: %s", line)
		}
		if strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("core files are on: %s", line)
		}
	}
	status, _ := os.ReadFile(proc + "/status")
	wantText(t, "status of the daemon", string(status), "Umask:\t0000")
	if st, err := os.Stat(proc + "/mem"); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("memory of the daemon: %v", err)
	}
	b.run(exitOK, "umount", b.mnt)
}

// held returns a file that a process has open whose name begins with one of
// the prefixes.
func (b *bench) held(proc string, prefixes ...string) string {
	links, _ := filepath.Glob(proc + "/fd/*")
	for _, l := range links {
		to, _ := os.Readlink(l)
		for _, p := range prefixes {
			if strings.HasPrefix(to, p) {
				return to
			}
		}
	}
	return ""
}

func TestMountWithPassphrases(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	good, bad := b.file("good", "correct horse"), b.file("bad", "wrong horse")
	infra := filepath.Join(b.dir, "infra.store")
	b.run(exitOK, "keystore", "init", "--infra-keystore", infra, "--infra-passphrase-file", good)
	b.run(exitOK, "init", "--infra-keystore", infra, "--infra-passphrase-file", good, b.cipher)
	r := b.run(exitUsage, "mount", "--infra-keystore", infra, b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "no terminal to ask at", "--infra-passphrase-file FILE")
	b.run(exitWrongKey, "mount", "--infra-keystore", infra, "--infra-passphrase-file", bad, b.cipher, b.mnt)
	b.mount("-o", "infra-keystore="+infra+",infra-passphrase-file="+good)
	b.write("f", "x")
	b.run(exitOK, "umount", b.mnt)

	// At a terminal.
	master, slave := pty(t)
	shown := typist(t, master, "correct horse")
	cmd := b.command("plyfs", "mount", "--infra-keystore", infra, b.cipher, b.mnt)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, shown())
	}
	wantText(t, "the terminal", shown(), "Passphrase of the infra layer's key store: ")
	b.wantFile("f", "x")
	b.run(exitOK, "umount", b.mnt)
}

// In the foreground it ends with the mount, or on a signal.
func TestMountForeground(t *testing.T) {
	b := withVolume(t)
	for _, end := range []func(cmd *exec.Cmd) error{
		func(*exec.Cmd) error { return unix.Unmount(b.mnt, 0) },
		func(cmd *exec.Cmd) error { return cmd.Process.Signal(unix.SIGTERM) },
		func(cmd *exec.Cmd) error { return cmd.Process.Signal(unix.SIGINT) },
	} {
		var errs bytes.Buffer
		cmd := b.command("plyfs", "mount", "-f", b.cipher, b.mnt)
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b.awaitMount()
		b.write("f", "in the foreground")
		if err := end(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
		wantText(t, "the log", errs.String(), "msg=mounted", "unmounted, volume closed")
		if r := readRunFile("/run/plyfs", b.mnt); r != nil {
			t.Errorf("a run file was left: %+v", r)
		}
	}
}

func (b *bench) awaitMount() {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, ok := b.entry(); ok && readRunFile("/run/plyfs", b.mnt) != nil {
			return
		}
		if time.Now().After(end) {
			b.t.Fatal("no mount")
		}
	}
}

// With a file open, SIGTERM takes the mount out of the tree; the daemon serves
// the file until it is closed, then closes the volume and ends.
func TestMountTerminatedWhileBusy(t *testing.T) {
	b := withVolume(t)
	log := filepath.Join(b.dir, "log")
	b.mount("--log", log)
	f, err := os.Create(filepath.Join(b.mnt, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := b.daemon()
	unix.Kill(d.PID, unix.SIGTERM)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := b.entry(); !ok {
			break
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log)
			t.Fatalf("it stays in the tree:\n%s", text)
		}
	}
	if _, err := f.WriteString("written while detached"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	unix.Kill(d.PID, unix.SIGTERM) // it says once more what it waits for
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(log)
		if strings.Contains(string(text), "files are still open") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a second signal is not answered:\n%s", text)
		}
	}
	if !d.alive() {
		t.Fatal("the daemon ended with a file open")
	}
	f.Close()
	b.awaitEnd(d)
	b.mount()
	b.wantFile("open", "written while detached")
	b.run(exitOK, "umount", b.mnt)
	text, _ := os.ReadFile(log)
	wantText(t, "the log", string(text), "files are open", "unmounted, volume closed")
}

// A reader of standard error that goes away must not end a foreground mount.
func TestMountForegroundWithoutReader(t *testing.T) {
	b := withVolume(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := b.command("plyfs", "mount", "-f", b.cipher, b.mnt)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b.awaitMount()
	r.Close()
	b.write("f", "x")
	if err := unix.Unmount(b.mnt, 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil { // it logs its end to nobody
		t.Error(err)
	}
}

// The mountpoint may be named through a symlink, the source stays as given.
func TestMountNames(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.mnt = filepath.Join(b.dir, "a b\\c,d")
	b.cipher = filepath.Join(b.dir, "the cipher, text")
	if err := os.Mkdir(b.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	b.volume()
	link, source := filepath.Join(b.dir, "link"), filepath.Join(b.dir, "source")
	os.Symlink(b.mnt, link)
	os.Symlink(b.cipher, source)
	b.run(exitOK, "mount", source, link)
	if m, ok := b.entry(); !ok || m.Source != source {
		t.Errorf("mounted: %v, source %q, want %q", ok, m.Source, source)
	}
	b.write("f", "x")
	b.run(exitBusy, "mount", source, link)
	second := filepath.Join(b.dir, "second")
	os.Mkdir(second, 0o755)
	b.run(exitBusy, "mount", b.cipher, second) // by its other name, and at once
	b.run(exitOK, "umount", link)

	// Relative names, too.
	cmd := b.command("plyfs", "mount", "the cipher, text", filepath.Base(b.mnt))
	cmd.Dir = b.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if m, _ := b.entry(); m.Source != b.cipher {
		t.Errorf("source %q, want %q", m.Source, b.cipher)
	}
	b.run(exitOK, "umount", b.mnt)
}

// An interrupt ends a foreground mount that waits, too.
func TestMountForegroundInterruptedWhileWaiting(t *testing.T) {
	b := newBench(t)
	b.volume()
	lock, err := os.OpenFile(filepath.Join(b.cipher, ".plyfs/lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	var errs bytes.Buffer
	cmd := b.command("plyfs", "mount", "-f", b.cipher, b.mnt)
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(600 * time.Millisecond)
	cmd.Process.Signal(unix.SIGINT)
	start := time.Now()
	if err := cmd.Wait(); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
	wantText(t, "standard error", errs.String(), "waiting up to 60 s", "plyfs: error: ")
}
