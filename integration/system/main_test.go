package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	deb     string // the package
	source  string // this repository
	scratch string // on a disk, removed at the end
	base    string // what installing the package changed, once it was
}

// ownNamespace is set in the process that has a mount namespace of its own.
const ownNamespace = "PLYFS_SYSTEM_NS"

// TestMain runs the tests in a mount namespace of their own: one that another
// process makes meanwhile would hold the mounts of these tests, and an unmount
// would wait for it.
func TestMain(m *testing.M) {
	if os.Getenv(ownNamespace) != "" {
		leaveOthers()
		os.Exit(run(m))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end would be the child's
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// leaveOthers keeps this namespace from holding volumes that are mounted in
// the one it was made from.
func leaveOthers() {
	b, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		// Each is told, for in a chroot there need be no mount at /. One that
		// stays shared is left alone: it is the same mount outside.
		if len(f) > 2 && unix.Mount("", f[1], "", unix.MS_PRIVATE, "") == nil && f[2] == "fuse.plyfs" {
			unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
}

func run(m *testing.M) int {
	unix.Umask(0o022)
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		return 1
	}
	code := m.Run()
	if err := removeTree(env.scratch); err != nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		code = 1
	}
	return code
}

func setUp() (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("needs root: it mounts")
	}
	if env.deb = os.Getenv("PLYFS_DEB"); env.deb == "" {
		return fmt.Errorf("PLYFS_DEB names no package; 'make system' builds one")
	}
	if env.source, err = filepath.Abs("../.."); err != nil {
		return err
	}
	base := os.Getenv("TMPDIR")
	if base == "" {
		base = "/var/tmp"
	}
	old, _ := filepath.Glob(filepath.Join(base, "plyfs-system-*"))
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "plyfs-system-"))
		if err == nil && unix.Kill(pid, 0) != nil {
			removeTree(dir)
		}
	}
	env.scratch = filepath.Join(base, fmt.Sprintf("plyfs-system-%d", os.Getpid()))
	return os.Mkdir(env.scratch, 0o755)
}

// removeTree takes a tree away with what is mounted in it. It removes nothing
// while anything is: that would reach into this machine's own root.
func removeTree(dir string) error {
	for _, m := range mountsBelow(dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	if left := mountsBelow(dir); len(left) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(left, ", "))
	}
	return os.RemoveAll(dir)
}

// mountsBelow lists mountpoints below dir, innermost first.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append([]string{strings.ReplaceAll(f[4], `\040`, " ")}, found...)
		}
	}
	return found
}

// check fails the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a program of this machine and returns what it printed.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// wantText fails unless text holds every part.
func wantText(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}
