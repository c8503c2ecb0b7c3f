package main

import (
	"encoding/json"
	"errors"
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

// awaitTrue waits for something that another process brings about.
func awaitTrue(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (b *bench) frozen() bool {
	var s mountStatus
	r := b.run(exitOK, "status", "--json", b.mnt)
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		b.t.Fatal(err)
	}
	return s.Journal != nil && s.Journal.Frozen != nil
}

// A copy that a command makes while the volume is frozen is a clean volume.
func TestFreezeDuringCommand(t *testing.T) {
	b := mounted(t)
	b.write("file", "as it was")
	copied := filepath.Join(b.dir, "copied")
	r := b.run(exitOK, "freeze", b.mnt, "--", "sh", "-c", `cp -a "$0" "$1" && rm "$1"/.plyfs/journal/segment-* && echo done`, b.cipher, copied)
	wantText(t, "standard output", r.stdout, "done")
	wantText(t, "standard error", r.stderr, "frozen: a copy of "+b.cipher)
	b.write("file", "changed since")
	b.run(exitOK, "umount", b.mnt)

	// The volume went on since, so that the copy is old news to this host.
	b.run(exitOK, "mount", "-o", "accept-rollback", "--log", filepath.Join(b.dir, "copy.log"), copied, b.mnt)
	b.wantFile("file", "as it was")
	b.run(exitOK, "umount", b.mnt)
	log, err := os.ReadFile(filepath.Join(b.dir, "copy.log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "not unmounted cleanly") {
		t.Error("the copy is not that of a clean volume")
	}

	b.mount()
	r = b.run(exitCode(7), "freeze", b.mnt, "--", "sh", "-c", "exit 7")
	wantText(t, "standard error", r.stderr, "exit status 7")
	b.run(exitFailure, "freeze", b.mnt, "--", filepath.Join(b.dir, "no-such-program"))
	if b.frozen() {
		t.Error("frozen after commands that failed")
	}
	b.run(exitOK, "umount", b.mnt)
}

// Writers wait until the thaw, and nobody unmounts meanwhile.
func TestFreezeAndThaw(t *testing.T) {
	b := withVolume(t)
	r := b.run(exitNotMounted, "freeze", b.mnt)
	wantText(t, "standard error", r.stderr, "plyfs: hint: ")
	b.mount()
	b.write("file", "before")
	r = b.run(exitNotFrozen, "thaw", b.mnt)
	wantText(t, "standard error", r.stderr, "volume is not frozen")
	b.run(exitOK, "freeze", b.mnt)
	r = b.run(exitBusy, "freeze", b.mnt)
	wantText(t, "standard error", r.stderr, "volume is frozen already", "plyfs thaw")
	r = b.run(exitOK, "status", b.mnt)
	wantText(t, "status", r.stdout, "frozen since")
	r = b.run(exitBusy, "umount", b.mnt)
	wantText(t, "standard error", r.stderr, "is frozen", "plyfs thaw "+b.mnt)

	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(filepath.Join(b.mnt, "file"), []byte("after"), 0o600) }()
	b.wantFile("file", "before")
	select {
	case err := <-wrote:
		t.Errorf("written while frozen: %v", err)
	case <-time.After(300 * time.Millisecond): // a moment in which it would
	}
	b.run(exitOK, "thaw", b.mnt)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	b.wantFile("file", "after")
	b.run(exitOK, "umount", b.mnt)
}

// A freeze that is forgotten ends, whether by its time-out or with the death
// of who asked for it.
func TestFreezeEnds(t *testing.T) {
	b := mounted(t)
	b.run(exitOK, "freeze", "--timeout", "50ms", b.mnt)
	b.write("file", "written once it ended")

	cmd := b.command("plyfs", "freeze", b.mnt, "--", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "frozen", b.frozen)
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // with its command: it leads a session
	cmd.Wait()
	b.write("file", "written once its owner was killed")

	r := b.run(exitNotFrozen, "freeze", "--timeout", "100ms", b.mnt, "--", "sh", "-c", `until echo > "$0"; do :; done`, filepath.Join(b.mnt, "file"))
	wantText(t, "standard error", r.stderr, "may not be whole")

	// The daemon ends also while frozen, and cleanly.
	b.run(exitOK, "freeze", b.mnt)
	d := b.daemon()
	unix.Kill(d.PID, unix.SIGTERM)
	b.awaitEnd(d)
	b.mount()
	b.wantFile("file", "\n")
	b.run(exitOK, "umount", b.mnt)
}

// A freeze whose command runs still, and which was ended, is not told from one
// that held by a freeze which another began since, nor does it end that.
func TestFreezeThatEndedEarlyIsReported(t *testing.T) {
	b := mounted(t)
	for _, timeout := range []string{"50ms", "0"} {
		began := filepath.Join(b.dir, "began"+timeout)
		first, endFirst := b.freezing("--timeout", timeout, b.mnt, "--", "sh", "-c", `echo > "$0"; exec cat`, began)
		awaitTrue(t, "the first command", func() bool { _, err := os.Stat(began); return err == nil })
		if timeout == "0" {
			b.run(exitOK, "thaw", b.mnt)
		}
		b.write("file", "what the copy has or has not")
		second, endSecond := b.freezing(b.mnt, "--", "cat")
		awaitTrue(t, "frozen", b.frozen)
		endFirst.Close()
		if code := codeAtEnd(t, first); code != exitNotFrozen {
			t.Errorf("timeout %s: the first freeze ended with %d", timeout, code)
		}
		if !b.frozen() {
			t.Errorf("timeout %s: the first freeze ended the second", timeout)
		}
		endSecond.Close()
		if code := codeAtEnd(t, second); code != exitOK {
			t.Errorf("timeout %s: the second freeze ended with %d", timeout, code)
		}
	}
	b.run(exitOK, "umount", b.mnt)
}

// freezing starts a freeze. end is the standard input of its command.
func (b *bench) freezing(args ...string) (cmd *exec.Cmd, end io.Closer) {
	b.t.Helper()
	cmd = b.command("plyfs", append([]string{"freeze"}, args...)...)
	end, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // with its command: it leads a session
			cmd.Wait()
		}
	})
	return cmd, end
}

func codeAtEnd(t *testing.T, cmd *exec.Cmd) exitCode {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exitCode(cmd.ProcessState.ExitCode())
}

// The command does not go on with a volume that thawed as plyfs was killed.
func TestFreezeTakesItsCommandAlong(t *testing.T) {
	b := mounted(t)
	note := filepath.Join(b.dir, "pid")
	cmd, end := b.freezing(b.mnt, "--", "sh", "-c", `echo $$ > "$0".new && mv "$0".new "$0" && exec sleep 1000`, note)
	defer end.Close()
	awaitTrue(t, "the command", func() bool { _, err := os.Stat(note); return err == nil })
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	session := cmd.Process.Pid
	t.Cleanup(func() { unix.Kill(-session, unix.SIGKILL) })
	cmd.Process.Kill()
	cmd.Wait()
	awaitTrue(t, "the end of the command", func() bool { _, err := startOf(pid); return err != nil })
	b.write("file", "written once plyfs was killed")
	b.run(exitOK, "umount", b.mnt)
}

// Who waits to write to a volume that was detached while frozen is let go on.
func TestThawOfADetachedMount(t *testing.T) {
	b := parted(t)
	b.mount()
	d := b.daemon()
	f, err := os.Create(filepath.Join(b.mnt, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b.run(exitOK, "freeze", b.mnt)
	if err := unix.Unmount(b.mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	changed := make(chan error, 1)
	go func() { changed <- f.Truncate(1 << 20) }()
	defer func() {
		if t.Failed() { // the change, and f with it, would wait for ever
			unix.Kill(d.PID, unix.SIGTERM)
		}
	}()
	b.run(exitOK, "thaw", b.mnt)
	if err := <-changed; err != nil {
		t.Error(err)
	}
	f.Close()
	b.awaitEnd(d)
	b.run(exitNotMounted, "thaw", b.mnt)
}

// part makes the bench's directory a mount of its own, so that what is mounted and
// unmounted below it from here on reaches no other mount namespace.
func (b *bench) part() {
	b.t.Helper()
	if err := unix.Mount(b.dir, b.dir, "", unix.MS_BIND, ""); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { unix.Unmount(b.dir, unix.MNT_DETACH) })
	if err := unix.Mount("", b.dir, "", unix.MS_PRIVATE, ""); err != nil {
		b.t.Fatal(err)
	}
}

// elsewhere starts a command in a mount namespace with copies of what is mounted
// now.
func (b *bench) elsewhere(cmd *exec.Cmd) {
	b.t.Helper()
	// Go would make / private if it were to unshare, and there need be no mount.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setsid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// Who asks about a mount is not answered about that of another mount namespace
// at the same path, least of all that it is frozen.
func TestFreezeIsOfTheMountThatIsMeant(t *testing.T) {
	b := parted(t)
	other, log := filepath.Join(b.dir, "other"), filepath.Join(b.dir, "other.log")
	b.run(exitOK, "init", other)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	theirs := b.command("plyfs")
	theirs.Path = "/bin/sh"
	theirs.Args = []string{"sh", "-c", `read go && exec "$@"`, "sh", self, "mount", "-f", "--log", log, other, b.mnt}
	start, err := theirs.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.elsewhere(theirs)
	b.mount()
	own := b.daemon()
	if _, err := start.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "the mount in the other namespace", func() bool {
		text, _ := os.ReadFile(log)
		return strings.Contains(string(text), "msg=mounted")
	})
	now := b.daemon()
	if now.PID != theirs.Process.Pid {
		t.Fatalf("the run file is of %d", now.PID)
	}
	wantText(t, "freeze", b.run(exitFailure, "freeze", b.mnt).stderr, "another mount namespace")
	var s mountStatus
	if err := json.Unmarshal([]byte(b.run(exitOK, "status", "--json", b.mnt).stdout), &s); err != nil {
		t.Fatal(err)
	}
	if s.CipherDir != b.cipher || s.PID != 0 || s.Journal != nil {
		t.Errorf("status tells of the other mount: %+v", s)
	}
	b.run(exitOK, "umount", b.mnt)
	b.awaitEnd(own)
	if err := writeRunFile("/run/plyfs", now); err != nil { // if own took that along
		t.Fatal(err)
	}
	b.run(exitNotMounted, "thaw", b.mnt)
	theirs.Process.Signal(unix.SIGTERM) // unmounts
	if err := theirs.Wait(); err != nil {
		t.Errorf("the other mount ended with %v", err)
	}
}
