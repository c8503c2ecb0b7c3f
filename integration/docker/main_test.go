package docker

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/integration/cell"
	"github.com/plyfs/plyfs/integration/scratch"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin     string // plyfs
	scratch string
	lab     *lab
}

func TestMain(m *testing.M) {
	if os.Getenv("PLYFS_DOCKER") == "" {
		fmt.Println("docker: skipped, wants PLYFS_DOCKER=1 (make docker)")
		os.Exit(0)
	}
	os.Exit(cell.Main("docker", func(dir string) int { return run(m, dir) }))
}

func run(m *testing.M, dir string) int {
	unix.Umask(0o022)
	env.scratch = dir
	err := cell.Cgroups()
	if err == nil {
		env.bin, err = scratch.Plyfs(dir)
	}
	if err == nil {
		env.lab, err = newLab(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docker:", err)
		return 1
	}
	code := m.Run()
	if err := env.lab.close(); err != nil {
		fmt.Fprintln(os.Stderr, "docker:", err)
		code = 1
	}
	return code
}
