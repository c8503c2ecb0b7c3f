package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// place is a directory under test: on a mount, or a plain one as the control.
type place struct {
	dir   string
	vol   *volume   // nil for the control
	later *[]func() // checks to make after the case, past a remount
}

// plyfs says whether this is a mount.
func (p place) plyfs() bool { return p.vol != nil }

// path joins names to the directory under test.
func (p place) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// remount unmounts and mounts a volume; the control stays as it is. Nothing
// may be open below.
func (p place) remount(t testing.TB) {
	t.Helper()
	if p.plyfs() {
		p.vol.remount(t)
	}
}

// afterRemount has f run when the case's function has returned and, on a
// mount, the volume was unmounted and mounted once more.
func (p place) afterRemount(f func()) { *p.later = append(*p.later, f) }

// reread compares a file's content now and after a remount.
func (p place) reread(t testing.TB, name string, want []byte) {
	t.Helper()
	wantContent(t, p.path(name), want)
	p.afterRemount(func() { wantContent(t, p.path(name), want) })
}

// posixCase is one behaviour, tested in an empty directory that root owns.
type posixCase struct {
	name string
	run  func(t *testing.T, p place)
}

// caseLimit is when a case counts as hanging.
const caseLimit = 10 * time.Minute

// onBoth runs each case on the plain directory and on the shared mount.
func onBoth(t *testing.T, cases []posixCase) {
	only := os.Getenv("PLYFS_ONLY")
	if only != "mount" {
		t.Run("plain", func(t *testing.T) {
			base := filepath.Join(env.scratch, "plain")
			os.Mkdir(base, 0o755)
			runCases(t, place{dir: base}, cases)
		})
	}
	if only != "plain" {
		t.Run("mount", func(t *testing.T) {
			runCases(t, place{vol: sharedMount(t)}, cases)
		})
	}
}

func runCases(t *testing.T, p place, cases []posixCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if p.plyfs() {
				p.vol = sharedMount(t)
				p.dir = p.vol.mnt
				defer p.vol.watch(t, caseLimit)()
				logged := len(p.vol.log())
				defer func() {
					if t.Failed() {
						t.Logf("log of the daemon:\n%s", tail(p.vol.log()[logged:], 4096))
					}
				}()
			}
			dir, err := os.MkdirTemp(p.dir, "case")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			in := place{dir: dir, vol: p.vol, later: new([]func())}
			c.run(t, in)
			if len(*in.later) > 0 {
				in.remount(t)
			}
			for _, f := range *in.later {
				f()
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Errorf("removing the case's directory: %v", err)
			}
		})
	}
}

// sharedMount is one volume for all cases that do not need their own; made
// anew when a daemon had to be killed.
func sharedMount(t testing.TB) *volume {
	t.Helper()
	v := env.shared
	if v != nil && v.daemon != nil && !v.daemon.Exited() {
		return v
	}
	if v != nil {
		if v.daemon != nil {
			t.Logf("the shared mount's daemon has died:\n%s", tail(v.log(), 4096))
			unix.Unmount(v.mnt, unix.MNT_DETACH)
		}
		env.shared = nil
	}
	v = newVolume(t)
	v.mustMount(t)
	env.shared = v
	return v
}

// The unprivileged users of the tests: any IDs that are not 0 will do.
const (
	alice = 61001
	bob   = 61002
	staff = 61010 // a group
)

// asUser runs f on a thread with the IDs of a user, no capabilities, and the
// groups given besides gid. f must not call t.Fatal; an error it returns is
// handed on. The thread ends with f.
func asUser(uid, gid int, groups []int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread stands for the process in /proc: use another,
			// which it is as long as this one is held.
			done <- asUser(uid, gid, groups, f)
			runtime.UnlockOSThread()
			return
		}
		// Never unlocked: the thread ends with the goroutine.
		done <- func() error {
			g := make([]uint32, len(groups)+1)
			g[0] = uint32(gid)
			for i, id := range groups {
				g[i+1] = uint32(id)
			}
			// Raw calls change the calling thread alone.
			for _, c := range [][4]uintptr{
				{unix.SYS_SETGROUPS, uintptr(len(g)), uintptr(ptr(g)), 0},
				{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
				{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
			} {
				if _, _, e := unix.RawSyscall(c[0], c[1], c[2], c[3]); e != 0 {
					return fmt.Errorf("changing to user %d: %w", uid, e)
				}
			}
			return f()
		}()
	}()
	return <-done
}

// check fails the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr fails the test unless err is one of the errors wanted.
func wantErr(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, errName(err), errNames(want))
}

func errName(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return fmt.Sprintf("%s (%v)", unix.ErrnoName(e), err)
	}
	return fmt.Sprint(err)
}

func errNames(errs []error) string {
	var s []string
	for _, e := range errs {
		s = append(s, errName(e))
	}
	return strings.Join(s, " or ")
}

// open opens a file and closes it at the end of the test.
func open(t testing.TB, path string, flags int, perm uint32) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
	if err != nil {
		t.Fatalf("open %s: %s", filepath.Base(path), errName(err))
	}
	return fd
}

// touch makes a file with content.
func touch(t testing.TB, path string, content []byte) {
	t.Helper()
	check(t, os.WriteFile(path, content, 0o644))
}

// wantContent reads the file and compares.
func wantContent(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("reading %s: %v", filepath.Base(path), err)
		return
	}
	if d := firstDiff(got, want); d != "" {
		t.Errorf("content of %s: %s", filepath.Base(path), d)
	}
}

// firstDiff describes where got departs from want, "" when it does not.
func firstDiff(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	n := min(len(got), len(want))
	for i := range n {
		if got[i] != want[i] {
			return fmt.Sprintf("differs at byte %d of %d (want %d bytes): got % x..., want % x...", i, len(got), len(want),
				got[i:min(i+8, len(got))], want[i:min(i+8, len(want))])
		}
	}
	return fmt.Sprintf("got %d bytes, want %d", len(got), len(want))
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %s", filepath.Base(path), errName(err))
	}
	return st
}

func fstat(t testing.TB, fd int) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatalf("fstat: %s", errName(err))
	}
	return st
}

// pattern is n bytes that differ from place to place and from seed to seed.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		if i%8 == 0 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		b[i] = byte(x >> (8 * (i % 8)))
	}
	return b
}

// command runs a program that must succeed and returns its output.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(string(out), 4096))
	}
	return string(out)
}

// aligned is a buffer at a multiple of 4096, as O_DIRECT asks for.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	off := int(uintptr(ptr(b)) & 4095)
	if off != 0 {
		off = 4096 - off
	}
	return b[off : off+n : off+n]
}
