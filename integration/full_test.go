package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onSmallDisk makes a volume on an ext4 of so many bytes and takes all of that
// but free for a ballast file beside the ciphertext, which is returned.
func onSmallDisk(t *testing.T, size, free int64, opts ...string) (v *volume, ballast string) {
	t.Helper()
	v = newVolume(t)
	image, disk := filepath.Join(v.root, "image"), filepath.Join(v.root, "disk")
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, size))
	check(t, os.Mkdir(disk, 0o755))
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	command(t, "mount", "-o", "loop", image, disk)
	t.Cleanup(func() { v.close(t) }) // which unmounts all of it
	v.cipher = filepath.Join(disk, "cipher")
	check(t, os.Mkdir(v.cipher, 0o755))
	mustPlyfs(t, "init", "--keystore", v.keys, v.cipher)
	v.opts = append(v.opts, opts...)
	ballast = filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	check(t, err)
	defer f.Close()
	var st unix.Statfs_t
	check(t, unix.Fstatfs(int(f.Fd()), &st))
	check(t, unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free))
	return v, ballast
}

// fullFile is a file on a disk that becomes full, and what of it was
// acknowledged.
type fullFile struct {
	path  string
	f     *os.File
	acked []byte
}

func openFull(t *testing.T, path string) *fullFile {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return &fullFile{path: path, f: f}
}

// put writes at off and syncs. What failed may be there or not: it is written
// over, or cut off, before it is looked at.
func (f *fullFile) put(b []byte, off int) error {
	if _, err := f.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	if err := f.f.Sync(); err != nil {
		return err
	}
	if n := off + len(b) - len(f.acked); n > 0 {
		f.acked = append(f.acked, make([]byte, n)...)
	}
	copy(f.acked[off:], b)
	return nil
}

// fill appends, shrinks and punches until the disk was full for a while.
func (f *fullFile) fill(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	for full := 0; full < 40; {
		b := pattern(1+r.IntN(200_000), r.Uint64())
		err := f.put(b, len(f.acked))
		switch {
		case errors.Is(err, unix.ENOSPC):
			full++
			if err := f.f.Truncate(int64(len(f.acked))); err != nil && !errors.Is(err, unix.ENOSPC) {
				return err
			}
		case err != nil:
			return err
		}
		if k := r.IntN(12); k == 0 && len(f.acked) > 1<<20 { // space for the others, and for this one again
			n := len(f.acked) - r.IntN(1<<20)
			if err := f.f.Truncate(int64(n)); errors.Is(err, unix.ENOSPC) {
				continue
			} else if err != nil {
				return err
			}
			f.acked = f.acked[:n]
		}
	}
	return nil
}

func (f *fullFile) verify(t *testing.T) {
	t.Helper()
	got, err := os.ReadFile(f.path)
	if err != nil {
		t.Errorf("%s: %v", filepath.Base(f.path), err)
		return
	}
	if len(got) < len(f.acked) || !bytes.Equal(got[:len(f.acked)], f.acked) {
		t.Errorf("%s: %d bytes are not the %d that were acknowledged", filepath.Base(f.path), len(got), len(f.acked))
	}
}

// TestFullDisk fills the backing filesystem under load: writers are told ENOSPC
// and nothing else, pages that are there can be overwritten, nothing that was
// acknowledged is lost; once there is space again writing goes on in the same
// mount. The journal has all its segments, or no room for more than two.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		free int64
		opts []string
	}{
		{"with a small journal", 60 << 20, []string{"-o", "journal-size=16M"}},
		{"and the journal cannot grow", 40 << 20, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, ballast := onSmallDisk(t, 400<<20, c.free, c.opts...)
			v.mustMount(t)
			defer v.watch(t, 10*time.Minute)()
			pages := openFull(t, filepath.Join(v.mnt, "pages"))
			for off := 0; off < 4<<20; off += 1 << 20 {
				check(t, pages.put(pattern(1<<20, uint64(off)), off))
			}
			files := []*fullFile{pages}
			errs := make([]error, 4)
			stop := make(chan struct{})
			var fillers, others sync.WaitGroup
			for i := range 3 {
				f := openFull(t, filepath.Join(v.mnt, fmt.Sprint("f", i)))
				files = append(files, f)
				fillers.Go(func() { errs[i] = f.fill(uint64(i)) })
			}
			others.Go(func() {
				r := rand.New(rand.NewPCG(9, 9))
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := pages.put(pattern(16<<10, r.Uint64()), r.IntN(256)*16<<10); err != nil {
						errs[3] = fmt.Errorf("overwriting a page: %w", err)
						return
					}
				}
			})
			fillers.Wait()
			close(stop)
			others.Wait()
			check(t, errors.Join(errs...))
			for _, f := range files {
				f.verify(t)
			}

			check(t, os.Remove(ballast))
			for _, f := range files {
				b := pattern(500_000, 77)
				var err error
				for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					if err = f.put(b, len(f.acked)); err == nil || time.Now().After(end) {
						break
					}
				}
				if err != nil {
					t.Errorf("%s, with space again: %v", filepath.Base(f.path), err)
				}
				f.verify(t)
				check(t, f.f.Close())
			}
			v.remount(t)
			for _, f := range files {
				f.verify(t)
			}
			if log := v.log(); bytes.Contains([]byte(log), []byte("read-only from now on")) {
				t.Errorf("the volume was called failed:\n%s", tail(log, 4096))
			}
		})
	}
}
