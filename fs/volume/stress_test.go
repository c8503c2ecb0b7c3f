package volume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// harmless are the errors that calls may get from each other.
var harmless = []error{
	unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.EINVAL, unix.ESTALE, unix.ENODATA, unix.EPERM, unix.EOPNOTSUPP,
}

// TestManyAtOnce lets many goroutines do everything in one small tree. They
// must neither deadlock nor see damage, and the tree must be whole afterwards.
func TestManyAtOnce(t *testing.T) {
	v := newVolume(t, 4096)
	v.dirs.max = 2 // so that directories are closed and opened all the time
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 300 {
				if err := v.anything(r); err != nil && !isHarmless(err) {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
			}
		})
	}
	wg.Wait()
	v.reopen()
	if w := (&walk{v: v.Volume, seen: map[cipher.FileID]bool{}}); !w.lookAt(RootID) {
		t.Error("not all files were looked at")
	}
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	if len(v.table.byID) != 1 || len(v.table.byIno) != 1 || v.table.orphans.Load() != 0 {
		t.Errorf("%d nodes, %d inodes and %d orphans are known after all were forgotten, want the root alone",
			len(v.table.byID), len(v.table.byIno), v.table.orphans.Load())
	}
}

func isHarmless(err error) bool {
	for _, e := range harmless {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (v *testVolume) anything(r *rand.Rand) error {
	e := engine{v}
	path := func() string {
		names := []string{"a", "b", "c", fmt.Sprintf("%0200d", r.IntN(3))}
		p := names[r.IntN(len(names))]
		for range r.IntN(3) {
			p += "/" + names[r.IntN(len(names))]
		}
		return p
	}
	p, q := path(), path()
	switch r.IntN(14) {
	case 0, 1:
		return e.Mkdir(p, 0o700)
	case 2:
		return e.Rmdir(p)
	case 3:
		return e.Unlink(p)
	case 4:
		return e.Link(p, q)
	case 5:
		if len(q) > len(p) && q[:len(p)] == p || len(p) > len(q) && p[:len(q)] == q {
			return nil
		}
		return e.Rename(p, q, uint(r.IntN(3)))
	case 6:
		return e.Symlink(q, p)
	case 7:
		_, err := e.List(p)
		return err
	case 8:
		return e.Chmod(p, 0o700|r.Uint32()&0o77)
	case 9:
		return e.SetXattr(p, "user.x", []byte("y"), 0)
	case 10:
		_, err := e.Stat(p)
		return err
	default:
		f, err := e.Create(p, 0o600)
		if err != nil {
			f, err = e.Open(p, false)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Write(0, r.Int64N(300_000), make([]byte, r.IntN(5000)+1)); err != nil {
			return err
		}
		_, err = f.Read(0, 100_000)
		return err
	}
}
