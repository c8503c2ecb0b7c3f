package mysql

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// patience bounds a start, a stop, and what else must end by itself. It is for
// a machine that stalls, not for a measurement.
const patience = 2 * time.Minute

// runName is in the names of scratch directories.
const runName = "mysql"

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin      string // plyfs
	scratch  string // a directory on a disk, removed at the end
	long     bool   // every combination, larger sets
	bench    bool   // measure cost
	soak     time.Duration
	products []*product
	results  results
}

func TestMain(m *testing.M) {
	mode := os.Getenv("PLYFS_MYSQL")
	if mode == "" {
		fmt.Println("mysql: not run; PLYFS_MYSQL=short or long, as make mysql-short and make mysql set it")
		os.Exit(0)
	}
	if os.Getuid() != 0 {
		fmt.Println("mysql: skipped, needs root")
		os.Exit(0)
	}
	if os.Getenv(ownNamespace) == "" {
		os.Exit(rerun())
	}
	unix.Umask(0o022)
	err := scratch.LeaveOthers()
	if err == nil {
		err = setUp(mode)
	}
	code := 1
	if err == nil {
		interrupted := make(chan os.Signal, 1)
		signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			<-interrupted
			cleanUp()
			os.Exit(1)
		}()
		code = m.Run()
		env.results.print(os.Stdout)
	} else {
		fmt.Fprintln(os.Stderr, "mysql:", err)
	}
	if err := cleanUp(); err != nil {
		fmt.Fprintln(os.Stderr, "mysql:", err)
		code = 1
	}
	os.Exit(code)
}

// ownNamespace says that this process has a mount namespace of its own: the
// mounts in it are shared with the servers' namespaces, and so with whatever
// others take away there, but for that.
const ownNamespace = "PLYFS_MYSQL_NAMESPACE"

// rerun runs this program again in a mount namespace of its own, and returns its
// exit code.
func rerun() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // whose end would be the child's
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "mysql:", err)
		return 1
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	return 1 // by a signal
}

func setUp(mode string) error {
	switch mode {
	case "short", "long", "bench":
		env.long, env.bench = mode == "long", mode == "bench"
	default:
		return fmt.Errorf("PLYFS_MYSQL=%s: want short, long or bench", mode)
	}
	env.soak = 40 * time.Second
	if s := os.Getenv("PLYFS_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return fmt.Errorf("PLYFS_SOAK=%s: want a duration, as in 1h", s)
		}
		env.soak = d
	}
	var err error
	if env.scratch, err = scratch.Make(runName); err != nil {
		return err
	}
	// Shared, so that servers in mount namespaces of their own see what is
	// mounted and unmounted here, and keep no mount alive.
	err = unix.Mount(env.scratch, env.scratch, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", env.scratch, "", unix.MS_SHARED, "")
	}
	if err != nil {
		return fmt.Errorf("making %s a shared mount: %w", env.scratch, err)
	}
	if env.bin, err = scratch.Plyfs(env.scratch); err != nil {
		return err
	}
	return findProducts()
}

// cleanUp also takes away the places at which the products' trees see the
// scratch directory.
func cleanUp() error {
	if env.scratch == "" {
		return nil
	}
	err := scratch.Remove(env.scratch)
	for _, p := range env.products {
		if p.root != "" {
			os.Remove(filepath.Join(p.root, env.scratch))
		}
	}
	return err
}

// check ends the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stages returns a function that logs what was reached, and how long it took.
func stages(t testing.TB) func(what string) {
	start := time.Now()
	return func(what string) {
		t.Helper()
		t.Logf("%5.1f s: %s", time.Since(start).Seconds(), what)
		start = time.Now()
	}
}

// command runs a program and returns what it printed; it must succeed.
func command(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, tail(string(out), 4000))
	}
	return string(out)
}

// lastLines is the end of s, so many lines of it, long ones cut: a server that
// crashes writes down the statement.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = head(line, 250)
	}
	return strings.Join(lines, "\n")
}

// head is the beginning of s, at most n bytes.
func head(s string, n int) string { return s[:min(len(s), n)] }

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
