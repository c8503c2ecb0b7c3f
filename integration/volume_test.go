package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// volume is a plyfs volume of its own, with its key stores, and its mount
// while it is mounted. Not for use by several goroutines at once.
type volume struct {
	root   string // holds all of the below
	keys   string
	cipher string
	mnt    string
	opts   []string // further arguments of mount

	daemon *process.Process // nil when not mounted by this harness
	logs   string           // what every daemon of this volume wrote, one after another
}

// startTimeout bounds how long a mount or an unmount may take.
const startTimeout = 30 * time.Second

var volumeCount atomic.Int32

// newVolume makes key stores and a volume, not mounted. initArgs are given to
// `plyfs init`.
func newVolume(t testing.TB, initArgs ...string) *volume {
	t.Helper()
	if env.bin == "" {
		t.Skip("PLYFS_ONLY=plain")
	}
	root := filepath.Join(env.scratch, fmt.Sprintf("vol%d", volumeCount.Add(1)))
	v := &volume{
		root:   root,
		keys:   filepath.Join(root, "keys"),
		cipher: filepath.Join(root, "cipher"),
		mnt:    filepath.Join(root, "mnt"),
		logs:   filepath.Join(root, "log"),
	}
	for _, d := range []string{root, v.cipher, v.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range initArgs {
		if a == "--single-layer" {
			v.opts = append(v.opts, "-o", "layers=1")
		}
	}
	mustPlyfs(t, "keystore", "init", "--keystore", v.keys)
	mustPlyfs(t, append(append([]string{"init", "--keystore", v.keys}, initArgs...), v.cipher)...)
	return v
}

// newMounted makes a volume and mounts it until the end of the test, which
// fails when the volume does not unmount cleanly.
func newMounted(t testing.TB, initArgs ...string) *volume {
	t.Helper()
	v := newVolume(t, initArgs...)
	v.mustMount(t)
	t.Cleanup(func() { v.close(t) })
	return v
}

// mount starts a daemon in the foreground and returns when its mount serves.
func (v *volume) mount() error {
	before := v.log()
	log, err := os.OpenFile(v.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"mount", "--keystore", v.keys, "-f"}, v.opts...)
	cmd := exec.Command(env.bin, append(args, v.cipher, v.mnt)...)
	// Each copy of a volume is on a host of its own, which has not seen a newer one.
	cmd.Env = scratch.Environ(v.root)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	for end := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		if v.mounted() {
			v.daemon = p
			return nil
		}
		if p.Exited() {
			return fmt.Errorf("mount ended with %d: %s", p.Code(), strings.TrimPrefix(v.log(), before))
		}
		if time.Now().After(end) {
			p.Dump()
			return fmt.Errorf("no mount after %v:\n%s", startTimeout, strings.TrimPrefix(v.log(), before))
		}
	}
}

// mounted says whether a filesystem serves at the mount point.
func (v *volume) mounted() bool {
	var outer, inner unix.Stat_t
	if unix.Stat(v.root, &outer) != nil || unix.Stat(v.mnt, &inner) != nil {
		return false
	}
	return outer.Dev != inner.Dev
}

func (v *volume) mustMount(t testing.TB) {
	t.Helper()
	if err := v.mount(); err != nil {
		t.Fatal(err)
	}
}

// unmount unmounts and waits for the daemon, which must end with 0.
func (v *volume) unmount() error {
	if v.daemon == nil {
		return errors.New("not mounted")
	}
	p := v.daemon
	var err error
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		// EBUSY lasts as long as the kernel still drops what was open.
		if err = unix.Unmount(v.mnt, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w%s", v.mnt, err, openBelow(v.mnt))
	}
	if !p.Wait(startTimeout) {
		p.Dump()
		return fmt.Errorf("daemon still runs %v after umount\n%s", startTimeout, tail(v.log(), 8192))
	}
	v.daemon = nil
	if p.Code() != 0 {
		return fmt.Errorf("daemon ended with %d after umount\n%s", p.Code(), tail(v.log(), 8192))
	}
	return nil
}

func (v *volume) mustUnmount(t testing.TB) {
	t.Helper()
	if err := v.unmount(); err != nil {
		t.Fatal(err)
	}
}

func (v *volume) remount(t testing.TB) {
	t.Helper()
	v.mustUnmount(t)
	v.mustMount(t)
}

// kill ends the daemon as the OOM killer would, and clears the dead mount.
func (v *volume) kill(t testing.TB) {
	t.Helper()
	v.daemon.Signal(unix.SIGKILL)
	if !v.daemon.Wait(startTimeout) {
		t.Fatal("daemon survives SIGKILL")
	}
	v.daemon = nil
	if err := unix.Unmount(v.mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// close ends the volume at the end of a test, whatever state it is in.
func (v *volume) close(t testing.TB) {
	if v.daemon != nil {
		if err := v.unmount(); err != nil {
			t.Error(err)
			if v.daemon != nil {
				v.daemon.Signal(unix.SIGKILL)
				v.daemon.Wait(startTimeout)
				v.daemon = nil
			}
		}
	}
	for _, m := range scratch.Mounts(v.root) {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	if t.Failed() {
		t.Logf("log of the daemon:\n%s", tail(v.log(), 4096))
	}
	if os.Getenv("PLYFS_KEEP") == "" {
		os.RemoveAll(v.root)
	}
}

// log is what this volume's daemons wrote so far.
func (v *volume) log() string {
	b, _ := os.ReadFile(v.logs)
	return string(b)
}

// watch kills the daemon when the test is not over in time, so that its calls
// end with ENOTCONN; the daemon's stacks go to its log.
func (v *volume) watch(t testing.TB, limit time.Duration) (stop func()) {
	p := v.daemon
	timer := time.AfterFunc(limit, func() {
		p.Dump()
		fmt.Fprintf(os.Stderr, "integration: %s hangs, daemon killed after %v\n%s\n",
			t.Name(), limit, tail(v.log(), 24<<10))
	})
	return func() { timer.Stop() }
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// plyfs runs the program to its end, with no terminal and no input.
func plyfs(args ...string) result { return plyfsWith(nil, args...) }

// plyfsWith adds variables to the environment.
func plyfsWith(vars []string, args ...string) result {
	var out, errs bytes.Buffer
	cmd := exec.Command(env.bin, args...)
	cmd.Env = append(scratch.Environ(env.scratch), vars...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = &out, &errs
	// A daemon may inherit the pipes; do not wait for it.
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		r.code, r.stderr = -1, r.stderr+err.Error()
	}
	return r
}

func mustPlyfs(t testing.TB, args ...string) string {
	t.Helper()
	r := plyfs(args...)
	if r.code != 0 {
		t.Fatalf("plyfs %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// openBelow tells which of this process's descriptors keep a mount busy.
func openBelow(dir string) string {
	var out strings.Builder
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir) {
			fmt.Fprintf(&out, "\n%s -> %s", fd, to)
		}
	}
	return out.String()
}

// tail is the end of s, whole lines of it, at most n bytes.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return "[...]\n" + s
}
