package mysql

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
	unix.Umask(0o022)
	err := setUp(mode)
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
	base := os.Getenv("TMPDIR")
	if base == "" {
		base = "/var/tmp"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(base, &fs); err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return fmt.Errorf("%s is a tmpfs; set TMPDIR to a directory on a disk", base)
	}
	removeStale(base)
	env.scratch = filepath.Join(base, fmt.Sprintf("plyfs-mysql-%d", os.Getpid()))
	if err := os.Mkdir(env.scratch, 0o755); err != nil {
		return err
	}
	// Shared, so that servers in mount namespaces of their own see what is
	// mounted and unmounted here, and keep no mount alive.
	err := unix.Mount(env.scratch, env.scratch, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", env.scratch, "", unix.MS_SHARED, "")
	}
	if err != nil {
		return fmt.Errorf("making %s a shared mount: %w", env.scratch, err)
	}
	startSpawner()
	if err := build(); err != nil {
		return err
	}
	return findProducts()
}

// build makes a copy of the program, so that a build during the run changes
// nothing.
func build() error {
	env.bin = filepath.Join(env.scratch, "plyfs")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", env.bin, "../../cmd/plyfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if from := os.Getenv("PLYFS_BIN"); from != "" {
		cmd = exec.Command("cp", from, env.bin)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building plyfs: %w\n%s", err, out)
	}
	return nil
}

// cleanUp detaches every mount below the scratch directory first, so that
// removing the tree does not reach into one.
func cleanUp() error {
	if env.scratch == "" {
		return nil
	}
	for _, m := range mountsBelow(env.scratch) {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, p := range env.products {
		if p.root != "" {
			os.Remove(filepath.Join(p.root, env.scratch))
		}
	}
	if os.Getenv("PLYFS_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "mysql: kept", env.scratch)
		return nil
	}
	return os.RemoveAll(env.scratch)
}

// removeStale takes away mounts and files of a run that was killed.
func removeStale(base string) {
	old, _ := filepath.Glob(filepath.Join(base, "plyfs-mysql-*"))
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "plyfs-mysql-"))
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		for _, m := range mountsBelow(dir) {
			unix.Unmount(m, unix.MNT_DETACH)
		}
		os.RemoveAll(dir)
	}
}

// mountsBelow lists mount points at or below dir, innermost first.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []string
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			found = append([]string{f[4]}, found...)
		}
	}
	return found
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
