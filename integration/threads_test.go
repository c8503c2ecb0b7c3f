package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// together runs f on n goroutines and returns the first error.
func together(n int, f func(worker int) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for w := range n {
		wg.Go(func() {
			if err := f(w); err != nil {
				errs <- fmt.Errorf("worker %d: %w", w, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func TestThreads(t *testing.T) {
	onBoth(t, []posixCase{
		{"writers of interleaved records that share blocks", func(t *testing.T, p place) {
			const workers, records, size = 8, 300, 1000
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			check(t, together(workers, func(w int) error {
				for i := range records {
					b := pattern(size, uint64(w*records+i))
					if n, err := unix.Pwrite(fd, b, int64(i*workers+w)*size); n != size {
						return fmt.Errorf("record %d: %d, %w", i, n, err)
					}
				}
				return nil
			}))
			want := make([]byte, workers*records*size)
			for w := range workers {
				for i := range records {
					copy(want[(i*workers+w)*size:], pattern(size, uint64(w*records+i)))
				}
			}
			p.reread(t, "f", want)
		}},
		{"readers and writers of the same pages, by O_DIRECT old or new", func(t *testing.T, p place) {
			const pages = 64
			for _, flags := range []int{0, unix.O_DIRECT} {
				touch(t, p.path("f"), make([]byte, pages*4096))
				var stop atomic.Bool
				time.AfterFunc(700*time.Millisecond, func() { stop.Store(true) })
				check(t, together(6, func(w int) error {
					fd, err := unix.Open(p.path("f"), unix.O_RDWR|flags, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					rng := rand.New(rand.NewPCG(uint64(w), uint64(flags)))
					b := aligned(4096)
					for i := 0; !stop.Load(); i++ {
						off := int64(rng.IntN(pages)) * 4096
						if w < 3 {
							copy(b, bytes.Repeat([]byte{byte(w*80 + i%80)}, 4096))
							if n, err := unix.Pwrite(fd, b, off); n != 4096 {
								return fmt.Errorf("pwrite: %d, %w", n, err)
							}
						} else if n, err := unix.Pread(fd, b, off); n != 4096 {
							return fmt.Errorf("pread: %d, %w", n, err)
						} else if p.plyfs() && flags != 0 && bytes.Count(b, b[:1]) != 4096 {
							// Neither the page cache nor the control's disk promises it.
							return fmt.Errorf("page at %d is mixed: %s", off, firstDiff(b, bytes.Repeat(b[:1], 4096)))
						}
					}
					return nil
				}))
			}
		}},
		{"writes, truncates, punches and syncs of one file at once", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			b := bytes.Repeat([]byte{'x'}, 70000)
			check(t, together(6, func(w int) error {
				rng := rand.New(rand.NewPCG(uint64(w), 1))
				buf := make([]byte, 70000)
				for range 150 {
					off := rng.Int64N(1 << 20)
					var err error
					switch rng.IntN(6) {
					case 0:
						err = unix.Ftruncate(fd, off)
					case 1:
						err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 30000)
					case 2:
						err = unix.Fdatasync(fd)
					case 3:
						var n int
						if n, err = unix.Pread(fd, buf, off); err == nil {
							for _, c := range buf[:n] {
								if c != 0 && c != 'x' {
									return fmt.Errorf("byte %#x that nobody wrote", c)
								}
							}
						}
					default:
						_, err = unix.Pwrite(fd, b[:rng.IntN(len(b))+1], off)
					}
					if err != nil {
						return err
					}
				}
				return nil
			}))
		}},
		{"one directory, many hands", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("x"), 0o755))
			check(t, os.Mkdir(p.path("y"), 0o755))
			check(t, together(8, func(w int) error {
				rng := rand.New(rand.NewPCG(uint64(w), 2))
				names := func() string { return p.path([]string{"x", "y"}[rng.IntN(2)], fmt.Sprint("n", rng.IntN(12))) }
				for range 250 {
					var err error
					switch rng.IntN(9) {
					case 0, 1:
						err = os.WriteFile(names(), fmt.Append(nil, w), 0o644)
					case 2:
						err = unix.Unlink(names())
					case 3:
						err = unix.Rename(names(), names())
					case 4:
						err = rename2(names(), names(), unix.RENAME_EXCHANGE)
					case 5:
						err = unix.Link(names(), names())
					case 6:
						err = unix.Mkdir(names(), 0o755)
					case 7:
						err = unix.Rmdir(names())
					case 8:
						_, err = os.ReadDir(p.path("x"))
					}
					for _, ok := range []error{unix.ENOENT, unix.EEXIST, unix.EISDIR, unix.ENOTDIR, unix.EPERM, unix.ENOTEMPTY, unix.EINVAL} {
						if errors.Is(err, ok) {
							err = nil
						}
					}
					if err != nil {
						return err
					}
				}
				return nil
			}))
			// What is listed is there, and is as listed.
			for _, d := range []string{"x", "y"} {
				l, err := os.ReadDir(p.path(d))
				check(t, err)
				for _, e := range l {
					st, err := os.Lstat(p.path(d, e.Name()))
					if err != nil || st.IsDir() != e.IsDir() {
						t.Errorf("%s/%s: %v", d, e.Name(), err)
					}
					if err == nil && st.Mode().IsRegular() {
						if _, err := os.ReadFile(p.path(d, e.Name())); err != nil {
							t.Error(err)
						}
					}
				}
			}
		}},
		{"of eight that create one name one wins", func(t *testing.T, p place) {
			for i := range 50 {
				var won atomic.Int32
				check(t, together(8, func(int) error {
					fd, err := unix.Open(p.path(fmt.Sprint("f", i)), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
					if err == nil {
						won.Add(1)
						return unix.Close(fd)
					}
					if errors.Is(err, unix.EEXIST) {
						return nil
					}
					return err
				}))
				if won.Load() != 1 {
					t.Fatalf("round %d: %d won", i, won.Load())
				}
			}
		}},
		{"more open files than the daemon's usual limit", func(t *testing.T, p place) {
			var lim unix.Rlimit
			check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &lim))
			n := min(3000, int(lim.Cur)-200)
			fds := make([]int, n)
			for i := range fds {
				fds[i] = open(t, p.path(fmt.Sprint("f", i)), unix.O_CREAT|unix.O_RDWR, 0o644)
				unix.Pwrite(fds[i], fmt.Append(nil, i), 0)
			}
			b := make([]byte, 10)
			for i := range fds {
				if k, err := unix.Pread(fds[i], b, 0); string(b[:max(k, 0)]) != fmt.Sprint(i) {
					t.Fatalf("file %d: %q, %v", i, b[:max(k, 0)], err)
				}
				unix.Close(fds[i])
			}
		}},
	})
}
