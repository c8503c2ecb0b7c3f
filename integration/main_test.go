package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/plyfs/plyfs/integration/scratch"
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
	if err := scratch.Remove(env.scratch); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	return code
}

func setUp() error {
	var err error
	if env.scratch, err = scratch.Make("test"); err != nil {
		return err
	}
	if os.Getenv("PLYFS_ONLY") == "plain" {
		return nil
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("no /dev/fuse here (modprobe fuse?): %w", err)
	}
	env.bin, err = scratch.Plyfs(env.scratch)
	return err
}
