package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTruncate(t *testing.T) {
	onBoth(t, []posixCase{
		{"down and up again reads zeros", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			full := pattern(1<<20, 1)
			var model []byte
			for _, to := range edges {
				unix.Pwrite(fd, full, 0)
				check(t, unix.Ftruncate(fd, to))
				if st := fstat(t, fd); st.Size != to {
					t.Fatalf("size %d, want %d", st.Size, to)
				}
				check(t, unix.Ftruncate(fd, to+70000))
				model = make([]byte, to+70000)
				copy(model, cut(full, 0, int(to)))
				wantContent(t, p.path("f"), model)
			}
			p.reread(t, "f", model)
		}},
		{"many sizes in a row", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			var model []byte
			x := uint64(12345)
			for i := range 200 {
				x = x*6364136223846793005 + 1442695040888963407
				size := int64(x>>33) % 500000
				check(t, unix.Ftruncate(fd, size))
				model = put(cut(model, 0, int(size)), nil, size)
				b := pattern(1000, uint64(i))
				unix.Pwrite(fd, b, size/2)
				model = put(model, b, size/2)
			}
			p.reread(t, "f", model)
		}},
		{"by path, through links, of nothing", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(5000, 1))
			check(t, os.Symlink("f", p.path("l")))
			check(t, unix.Truncate(p.path("l"), 4999))
			check(t, unix.Truncate(p.path("f"), 4999))
			wantContent(t, p.path("f"), pattern(5000, 1)[:4999])
			check(t, os.Mkdir(p.path("d"), 0o755))
			wantErr(t, "directory", unix.Truncate(p.path("d"), 0), unix.EISDIR)
			wantErr(t, "missing", unix.Truncate(p.path("x"), 0), unix.ENOENT)
			wantErr(t, "negative", unix.Truncate(p.path("f"), -1), unix.EINVAL)
		}},
		{"a mapping past the new end gets SIGBUS, and zeros in the last page", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(16384, 1))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			m, err := unix.Mmap(fd, 0, 16384, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			check(t, err)
			defer unix.Munmap(m)
			_ = m[12000]
			check(t, unix.Ftruncate(fd, 5000))
			if !bytes.Equal(m[5000:8192], make([]byte, 3192)) {
				t.Error("bytes past the end in the last page are not zero")
			}
			if !faults(func() byte { return m[8192] }) {
				t.Error("no SIGBUS past the last page")
			}
			// What a mapping leaves past the end is not part of the file.
			m[6000] = 0xff
			check(t, unix.Msync(m[:8192], unix.MS_SYNC))
			check(t, unix.Ftruncate(fd, 16384))
			p.reread(t, "f", append(pattern(16384, 1)[:5000], make([]byte, 11384)...))
		}},
	})
}

// faults says whether f touches memory that is not there.
func faults(f func() byte) (did bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { did = recover() != nil }()
	return f() == 0 && false
}

func TestFallocate(t *testing.T) {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	onBoth(t, []posixCase{
		{"mode 0 extends with zeros and keeps what is there", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			model := pattern(5000, 1)
			unix.Pwrite(fd, model, 0)
			for _, c := range [][2]int64{{0, 100}, {4000, 1000}, {0, 9000}, {20000, 4096}, {1 << 20, 333}} {
				check(t, unix.Fallocate(fd, 0, c[0], c[1]))
				if end := c[0] + c[1]; end > int64(len(model)) {
					model = put(model, nil, end)
				}
				if st := fstat(t, fd); st.Size != int64(len(model)) {
					t.Fatalf("fallocate %v: size %d, want %d", c, st.Size, len(model))
				}
			}
			p.reread(t, "f", model)
		}},
		{"KEEP_SIZE leaves the size", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			unix.Pwrite(fd, []byte("abc"), 0)
			check(t, unix.Fallocate(fd, keep, 0, 1<<20))
			check(t, unix.Fallocate(fd, keep, 1<<20, 8192))
			if st := fstat(t, fd); st.Size != 3 {
				t.Errorf("size %d, want 3", st.Size)
			}
			p.reread(t, "f", []byte("abc"))
		}},
		{"writes after allocation", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			check(t, unix.Fallocate(fd, 0, 0, 1<<20))
			model := make([]byte, 1<<20)
			for i, off := range []int64{0, 4096, 100, 300000, 1<<20 - 10} {
				b := pattern(10, uint64(i))
				unix.Pwrite(fd, b, off)
				model = put(model, b, off)
			}
			p.reread(t, "f", model)
		}},
		{"punched and zeroed ranges read as zeros", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			size := int64(600000)
			model := pattern(int(size), 1)
			for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | keep, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | keep} {
				unix.Pwrite(fd, model, 0)
				model = pattern(int(size), 1)
				unix.Ftruncate(fd, size)
				unix.Pwrite(fd, model, 0)
				for i, off := range edges {
					n := []int64{1, 4096, 10000, 300000, 65536}[i%5]
					check(t, unix.Fallocate(fd, mode, off, n))
					end := off + n
					if mode == unix.FALLOC_FL_ZERO_RANGE && end > int64(len(model)) {
						model = put(model, nil, end)
					}
					clear(cut(model, off, int(n)))
					if st := fstat(t, fd); st.Size != int64(len(model)) {
						t.Fatalf("mode %#x at %d+%d: size %d, want %d", mode, off, n, st.Size, len(model))
					}
					wantContent(t, p.path("f"), model)
					if t.Failed() {
						t.Fatalf("after mode %#x at %d+%d", mode, off, n)
					}
					b := pattern(5000, uint64(i))
					at := off / 2
					unix.Pwrite(fd, b, at)
					model = put(model, b, at)
				}
			}
			p.reread(t, "f", model)
		}},
		{"punching gives space back", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			unix.Pwrite(fd, pattern(8<<20, 1), 0)
			check(t, unix.Fsync(fd))
			before := fstat(t, fd).Blocks
			check(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|keep, 1<<20, 6<<20))
			check(t, unix.Fsync(fd))
			after := fstat(t, fd).Blocks
			// A mount punches its backing file with the next checkpoint, which a
			// freeze is, and the kernel, which keeps what stat says, does not keep this.
			if p.plyfs() {
				mustPlyfs(t, "freeze", p.vol.mnt, "--", "true")
			}
			for end := time.Now().Add(90 * time.Second); after > before-5<<20/512 && time.Now().Before(end); {
				time.Sleep(100 * time.Millisecond)
				after = fstat(t, fd).Blocks
			}
			if before < 8<<20/512 || after > before-5<<20/512 {
				t.Errorf("st_blocks %d, then %d after punching 6 MiB of 8", before, after)
			}
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("abc"))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			r := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(r)
			wantErr(t, "read-only", unix.Fallocate(r, 0, 0, 10), unix.EBADF)
			wantErr(t, "no length", unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
			wantErr(t, "negative", unix.Fallocate(fd, 0, -1, 10), unix.EINVAL)
			wantErr(t, "punch without KEEP_SIZE", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, 0, 10), unix.EOPNOTSUPP)
			wantErr(t, "too large", unix.Fallocate(fd, 0, 1<<62, 1<<61), unix.EFBIG)
			// The control can do these for whole blocks; a mount may not.
			wantErr(t, "collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 1, 1), unix.EINVAL, unix.EOPNOTSUPP)
			wantErr(t, "insert", unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 1, 1), unix.EINVAL, unix.EOPNOTSUPP)
			wantContent(t, p.path("f"), []byte("abc"))
		}},
	})
}

func TestSeekHoleData(t *testing.T) {
	onBoth(t, []posixCase{
		{"data, hole, data, hole", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			const k, m = 1 << 10, 1 << 20
			unix.Pwrite(fd, pattern(64*k, 1), 0)
			unix.Pwrite(fd, pattern(64*k, 1), 4*m)
			check(t, unix.Ftruncate(fd, 8*m))
			check(t, unix.Fsync(fd))
			for _, c := range []struct {
				off    int64
				whence int
				want   int64
			}{
				{0, unix.SEEK_DATA, 0}, {100, unix.SEEK_DATA, 100}, {64*k - 1, unix.SEEK_DATA, 64*k - 1},
				{64 * k, unix.SEEK_DATA, 4 * m}, {2*m + 5, unix.SEEK_DATA, 4 * m}, {4*m + 9, unix.SEEK_DATA, 4*m + 9},
				{0, unix.SEEK_HOLE, 64 * k}, {64 * k, unix.SEEK_HOLE, 64 * k}, {3*m + 7, unix.SEEK_HOLE, 3*m + 7},
				{4 * m, unix.SEEK_HOLE, 4*m + 64*k}, {5 * m, unix.SEEK_HOLE, 5 * m}, {8*m - 1, unix.SEEK_HOLE, 8*m - 1},
			} {
				if got, err := unix.Seek(fd, c.off, c.whence); got != c.want || err != nil {
					t.Errorf("seek(%d, %d): got %d, %v, want %d", c.off, c.whence, got, err, c.want)
				}
			}
			for _, c := range [][2]int64{{4*m + 64*k, unix.SEEK_DATA}, {8 * m, unix.SEEK_DATA}, {8 * m, unix.SEEK_HOLE}, {9 * m, unix.SEEK_HOLE}} {
				_, err := unix.Seek(fd, c[0], int(c[1]))
				wantErr(t, fmt.Sprint("seek", c), err, unix.ENXIO)
			}
		}},
		{"no hole: its end is one", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(10001, 1))
			fd := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(fd)
			if got, err := unix.Seek(fd, 0, unix.SEEK_HOLE); got != 10001 {
				t.Errorf("got %d, %v, want 10001", got, err)
			}
		}},
		{"nothing but a hole", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			check(t, unix.Ftruncate(fd, 1<<30))
			if got, err := unix.Seek(fd, 5, unix.SEEK_HOLE); got != 5 {
				t.Errorf("got %d, %v, want 5", got, err)
			}
			_, err := unix.Seek(fd, 0, unix.SEEK_DATA)
			wantErr(t, "SEEK_DATA", err, unix.ENXIO)
		}},
		{"a punched hole is found", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			unix.Pwrite(fd, pattern(1<<20, 1), 0)
			check(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 128<<10, 128<<10))
			if got, err := unix.Seek(fd, 0, unix.SEEK_HOLE); got != 128<<10 {
				t.Errorf("hole at %d, %v, want %d", got, err, 128<<10)
			}
			if got, err := unix.Seek(fd, 128<<10, unix.SEEK_DATA); got != 256<<10 {
				t.Errorf("data at %d, %v, want %d", got, err, 256<<10)
			}
		}},
	})
}

// backingLimit is the largest size a plain file may have where tests run.
func backingLimit(t testing.TB) int64 {
	t.Helper()
	f, err := os.CreateTemp(env.scratch, "limit")
	check(t, err)
	defer os.Remove(f.Name())
	defer f.Close()
	lo, hi := int64(0), int64(1<<62)
	for lo+1 < hi {
		mid := lo + (hi-lo)/2
		if unix.Ftruncate(int(f.Fd()), mid) == nil {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

func TestSparse(t *testing.T) {
	limit := backingLimit(t)
	onBoth(t, []posixCase{
		{"written far apart, up to what the backing holds", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			offs := []int64{1 << 20, 1 << 30, 1<<32 + 5, 1 << 40, 1<<40 + 1<<30, 8 << 40}
			if limit >= 15<<40+8<<20 {
				offs = append(offs, 15<<40+12345) // DESIGN: 15.7 TiB on ext4
			}
			for i, off := range offs {
				if off >= limit {
					continue
				}
				if n, err := unix.Pwrite(fd, pattern(5000, uint64(i)), off); n != 5000 {
					t.Fatalf("at %d: %d, %s", off, n, errName(err))
				}
			}
			for i, off := range offs {
				got := make([]byte, 5100)
				if off >= limit {
					continue
				}
				n, err := unix.Pread(fd, got[100:], off)
				if n != 5000 || !bytes.Equal(got[100:], pattern(5000, uint64(i))) {
					t.Errorf("at %d: %d, %v", off, n, err)
				}
				if n, err := unix.Pread(fd, got, off-100); n != 5100 || !bytes.Equal(got[:100], make([]byte, 100)) {
					t.Errorf("before %d: %d, %v, not zeros", off, n, err)
				}
			}
			if st := fstat(t, fd); st.Blocks > 2*1024*1024/512 {
				t.Errorf("a sparse file of %d writes takes %d KiB", len(offs), st.Blocks/2)
			}
			got, err := unix.Seek(fd, 1<<20+5000+4096, unix.SEEK_DATA)
			if err != nil || got > 1<<30 || got < 1<<30-65536 {
				t.Errorf("SEEK_DATA finds %d, %v, want %d", got, err, 1<<30)
			}
		}},
		{"in order downwards", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			for i := int64(60); i >= 0; i-- {
				if n, err := unix.Pwrite(fd, pattern(100, uint64(i)), i<<30); n != 100 {
					t.Fatal(i, n, err)
				}
			}
			got := make([]byte, 100)
			for i := range int64(61) {
				if n, err := unix.Pread(fd, got, i<<30); n != 100 || !bytes.Equal(got, pattern(100, uint64(i))) {
					t.Fatal(i, n, err)
				}
			}
			check(t, unix.Ftruncate(fd, 30<<30+50))
			check(t, unix.Ftruncate(fd, 70<<30))
			if n, err := unix.Pread(fd, got, 30<<30); n != 100 || !bytes.Equal(got[:50], pattern(100, 30)[:50]) || !bytes.Equal(got[50:], make([]byte, 50)) {
				t.Error("after truncate down and up:", n, err)
			}
		}},
		{"beyond the limit is EFBIG", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			unix.Pwrite(fd, []byte("abc"), 0)
			_, err := unix.Pwrite(fd, []byte("x"), limit)
			wantErr(t, "pwrite", err, unix.EFBIG)
			wantErr(t, "ftruncate", unix.Ftruncate(fd, limit+1), unix.EFBIG, unix.EINVAL)
			wantErr(t, "fallocate", unix.Fallocate(fd, 0, limit, 4096), unix.EFBIG)
			_, err = unix.Pwrite(fd, []byte("x"), 1<<63-1)
			wantErr(t, "pwrite at 2^63-1", err, unix.EFBIG, unix.EINVAL)
			wantContent(t, p.path("f"), []byte("abc"))
		}},
	})
}

func TestStatfs(t *testing.T) {
	onBoth(t, []posixCase{
		{"plausible and near to the backing's", func(t *testing.T, p place) {
			var s, b unix.Statfs_t
			check(t, unix.Statfs(p.path(), &s))
			check(t, unix.Statfs(env.scratch, &b))
			if s.Bsize <= 0 || s.Blocks == 0 || s.Bavail > s.Bfree || s.Bfree > s.Blocks || s.Files == 0 {
				t.Errorf("got %+v", s)
			}
			if s.Namelen != 255 {
				t.Errorf("namelen %d, want 255", s.Namelen)
			}
			if got, want := s.Blocks*uint64(s.Bsize)>>20, b.Blocks*uint64(b.Bsize)>>20; got > want || got < want*9/10 {
				t.Errorf("%d MiB, the backing has %d", got, want)
			}
			if p.plyfs() && s.Type != unix.FUSE_SUPER_MAGIC {
				t.Errorf("type %#x", s.Type)
			}
			fd := open(t, p.path(), unix.O_RDONLY, 0)
			defer unix.Close(fd)
			var fs unix.Statfs_t
			if err := unix.Fstatfs(fd, &fs); err != nil || fs.Blocks != s.Blocks {
				t.Errorf("fstatfs: %d blocks, %v, want %d", fs.Blocks, err, s.Blocks)
			}
		}},
		{"free space shrinks by what is written", func(t *testing.T, p place) {
			free := func() int64 {
				var s unix.Statfs_t
				check(t, unix.Statfs(p.path(), &s))
				return int64(s.Bfree) * int64(s.Bsize)
			}
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			// Others write to this disk too: what counts is that some of the
			// 256 MiB shows.
			before := free()
			err := unix.Fallocate(fd, 0, 0, 256<<20)
			if errors.Is(err, unix.ENOSPC) {
				t.Fatal("the test disk is full")
			}
			check(t, err)
			check(t, unix.Fsync(fd))
			if after := free(); before-after < 128<<20 {
				t.Errorf("free %d, then %d after allocating 256 MiB", before, after)
			}
		}},
	})
}
