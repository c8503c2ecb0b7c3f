package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/plyfs/plyfs/integration/scratch"
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

func run(m *testing.M) int {
	unix.Umask(0o022)
	err := scratch.LeaveOthers()
	if err == nil {
		err = setUp()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		return 1
	}
	code := m.Run()
	if err := scratch.Remove(env.scratch); err != nil {
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
	env.scratch, err = scratch.Make("system")
	return err
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
