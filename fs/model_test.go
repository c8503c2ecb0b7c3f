package fs

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume/modeltest"
)

// TestModel runs random operations on a mount and on a plain directory:
// buffered, mapped, direct and synchronous writes of one file in turn, with
// remounts in between.
func TestModel(t *testing.T) {
	for _, blockSize := range []int{4096, 16384, 65536} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			old := unix.Umask(0)
			defer unix.Umask(old)
			m := newMount(t, blockSize)
			modeltest.Run(t, modeltest.Config{
				Seed: uint64(time.Now().UnixNano()), Steps: 1000, Reach: int64(blockSize) * 64, Ways: true,
				Subject: modeltest.Dir(m.dir), Model: modeltest.Dir(t.TempDir()),
				Reopen: func() modeltest.Tree { m.remount(); return modeltest.Dir(m.dir) },
			})
		})
	}
}
