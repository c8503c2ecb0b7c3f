package keys

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/integration/cell"
	"github.com/plyfs/plyfs/integration/scratch"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin      string // plyfs
	programs string // the directory with plyfs-key-*
	scratch  string
	tree     string // with moto
}

func TestMain(m *testing.M) {
	if os.Getenv("PLYFS_SID") == "" {
		fmt.Println("keys: skipped, wants PLYFS_SID and built programs (make providers)")
		os.Exit(0)
	}
	os.Exit(cell.Main("keys", func(dir string) int { return run(m, dir) }))
}

func run(m *testing.M, dir string) int {
	unix.Umask(0o022)
	env.scratch, env.tree, env.programs = dir, os.Getenv("PLYFS_SID"), filepath.Dir(os.Getenv("PLYFS_BIN"))
	var err error
	if env.bin, err = scratch.Plyfs(dir); err != nil {
		fmt.Fprintln(os.Stderr, "keys:", err)
		return 1
	}
	return m.Run()
}
