package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin     string // plyfs
	scratch string // a directory on a disk, removed at the end
	shared  *volume
}

func TestMain(m *testing.M) {
	if name := os.Getenv("PLYFS_HELPER"); name != "" {
		os.Exit(runHelper(name, os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("integration: skipped, needs root (mounts, other users, device nodes)")
		return 0
	}
	unix.Umask(0o022)
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	code := m.Run()
	if v := env.shared; v != nil && v.mounted() {
		if err := v.unmount(); err != nil {
			fmt.Fprintln(os.Stderr, "integration: shared mount:", err)
			code = 1
		}
	}
	killLeftovers()
	if os.Getenv("PLYFS_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "integration: kept", env.scratch)
	} else if err := os.RemoveAll(env.scratch); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	return code
}

func setUp() error {
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
	var err error
	env.scratch = filepath.Join(base, fmt.Sprintf("plyfs-test-%d", os.Getpid()))
	if err = os.Mkdir(env.scratch, 0o755); err != nil {
		return err
	}
	startSpawner()
	if os.Getenv("PLYFS_ONLY") == "plain" {
		return nil
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("no /dev/fuse here (modprobe fuse?): %w", err)
	}
	// A copy, so that a build during the run changes nothing.
	bin := filepath.Join(env.scratch, "plyfs")
	if from := os.Getenv("PLYFS_BIN"); from != "" {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(bin, b, 0o755); err != nil {
			return err
		}
	} else {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", bin, "../cmd/plyfs")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building plyfs: %w\n%s", err, out)
		}
	}
	env.bin = bin
	return nil
}

// removeStale takes away mounts and files of a run that was killed.
func removeStale(base string) {
	old, _ := filepath.Glob(filepath.Join(base, "plyfs-test-*"))
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "plyfs-test-"))
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		for _, m := range mountsBelow(dir) {
			unix.Unmount(m, unix.MNT_DETACH)
		}
		os.RemoveAll(dir)
	}
}

// killLeftovers detaches every mount below the scratch directory: when a test
// failed half way, removing the tree must not reach into a mount.
func killLeftovers() {
	for _, m := range mountsBelow(env.scratch) {
		unix.Unmount(m, unix.MNT_DETACH)
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
		if len(f) < 5 {
			continue
		}
		if f[4] == dir || strings.HasPrefix(f[4], dir+"/") {
			found = append([]string{f[4]}, found...)
		}
	}
	return found
}
