package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// edges are offsets and lengths around the borders of blocks of every size
// and of groups (56 blocks a tag block, 40 in the first).
var edges = []int64{0, 1, 511, 4095, 4096, 4097, 16383, 16384, 65535, 65536, 65537,
	40*4096 - 1, 40 * 4096, 40*4096 + 1, 96*4096 - 1, 96*4096 + 4096, 1<<20 - 1, 1<<20 + 1}

func TestReadWrite(t *testing.T) {
	onBoth(t, []posixCase{
		{"each border of blocks and groups", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			var model []byte
			for i, off := range edges {
				for j, n := range []int{1, 2, 4096, 5000, 70000} {
					b := pattern(n, uint64(i*10+j))
					if got, err := unix.Pwrite(fd, b, off); got != n || err != nil {
						t.Fatalf("pwrite(%d at %d): %d, %v", n, off, got, err)
					}
					model = put(model, b, off)
				}
				if st := fstat(t, fd); st.Size != int64(len(model)) {
					t.Fatalf("size %d, want %d", st.Size, len(model))
				}
			}
			for _, off := range edges {
				for _, n := range []int{1, 4096, 5000, 131072} {
					got := make([]byte, n)
					k, err := unix.Pread(fd, got, off)
					want := cut(model, off, n)
					if err != nil || !bytes.Equal(got[:k], want) {
						t.Fatalf("pread(%d at %d): %d, %v: %s", n, off, k, err, firstDiff(got[:k], want))
					}
				}
			}
			p.reread(t, "f", model)
		}},
		{"past the end", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("abc"))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			for _, off := range []int64{3, 4, 4096, 1 << 40} {
				if n, err := unix.Pread(fd, make([]byte, 10), off); n != 0 || err != nil {
					t.Errorf("pread at %d: %d, %v", off, n, err)
				}
			}
			_, err := unix.Pread(fd, make([]byte, 1), -1)
			wantErr(t, "negative offset", err, unix.EINVAL)
			if n, err := unix.Pwrite(fd, nil, 10); n != 0 || err != nil {
				t.Errorf("write of nothing: %d, %v", n, err)
			}
			if st := fstat(t, fd); st.Size != 3 {
				t.Errorf("size %d after a write of nothing, want 3", st.Size)
			}
		}},
		{"a write past the end leaves zeros between", func(t *testing.T, p place) {
			for _, gap := range edges {
				name := fmt.Sprint("f", gap)
				touch(t, p.path(name), []byte("abc"))
				fd := open(t, p.path(name), unix.O_RDWR, 0)
				unix.Pwrite(fd, []byte("xyz"), 3+gap)
				unix.Close(fd)
				wantContent(t, p.path(name), append(append([]byte("abc"), make([]byte, gap)...), "xyz"...))
			}
		}},
		{"one large write, one large read", func(t *testing.T, p place) {
			want := pattern(24<<20+333, 9)
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			if n, err := unix.Write(fd, want); n != len(want) {
				t.Fatal(n, err)
			}
			got := make([]byte, len(want)+10)
			if n, err := unix.Pread(fd, got, 0); n != len(want) || !bytes.Equal(got[:n], want) {
				t.Fatalf("%d, %v", n, err)
			}
			p.reread(t, "f", want)
		}},
		{"vectors", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			a, b, c := pattern(1, 1), pattern(9000, 2), pattern(77, 3)
			if n, err := unix.Pwritev(fd, [][]byte{a, b, c}, 4000); n != 9078 {
				t.Fatal(n, err)
			}
			x, y := make([]byte, 5000), make([]byte, 4078)
			if n, err := unix.Preadv(fd, [][]byte{x, y}, 4000); n != 9078 {
				t.Fatal(n, err)
			}
			if !bytes.Equal(append(x, y...), append(append(append([]byte{}, a...), b...), c...)) {
				t.Error("content differs")
			}
		}},
		{"lseek", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(10000, 1))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			for _, c := range []struct {
				off    int64
				whence int
				want   int64
			}{{100, unix.SEEK_SET, 100}, {5, unix.SEEK_CUR, 105}, {0, unix.SEEK_END, 10000}, {100, unix.SEEK_END, 10100}, {-10100, unix.SEEK_CUR, 0}} {
				if got, err := unix.Seek(fd, c.off, c.whence); got != c.want || err != nil {
					t.Errorf("seek %d,%d: got %d, %v, want %d", c.off, c.whence, got, err, c.want)
				}
			}
			_, err := unix.Seek(fd, -1, unix.SEEK_SET)
			wantErr(t, "before the start", err, unix.EINVAL)
		}},
		{"copying by the kernel", func(t *testing.T, p place) {
			want := pattern(300000, 4)
			touch(t, p.path("from"), want)
			from := open(t, p.path("from"), unix.O_RDONLY, 0)
			defer unix.Close(from)
			to := open(t, p.path("to"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(to)
			var off int64
			for int(off) < len(want) {
				n, err := unix.CopyFileRange(from, &off, to, nil, len(want)-int(off), 0)
				if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || n == 0 {
					t.Fatalf("copy_file_range at %d: %d, %v", off, n, err)
				}
				check(t, err)
			}
			wantContent(t, p.path("to"), want)
			to2 := open(t, p.path("to2"), unix.O_CREAT|unix.O_WRONLY, 0o644)
			defer unix.Close(to2)
			off = 0
			for int(off) < len(want) {
				n, err := unix.Sendfile(to2, from, &off, len(want)-int(off))
				if err != nil || n == 0 {
					t.Fatalf("sendfile at %d: %d, %v", off, n, err)
				}
			}
			wantContent(t, p.path("to2"), want)
		}},
		{"splice from a pipe and to one", func(t *testing.T, p place) {
			r, w, err := os.Pipe()
			check(t, err)
			defer r.Close()
			defer w.Close()
			want := pattern(32768, 8)
			w.Write(want)
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			for off := int64(0); off < 32768; {
				n, err := unix.Splice(int(r.Fd()), nil, fd, &off, 32768, 0)
				if err != nil || n == 0 {
					t.Fatal(n, err)
				}
			}
			wantContent(t, p.path("f"), want)
			for off := int64(0); off < 32768; {
				n, err := unix.Splice(fd, &off, int(w.Fd()), nil, 32768, 0)
				if err != nil || n == 0 {
					t.Fatal(n, err)
				}
			}
			got := make([]byte, 32768)
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
				t.Error("content differs", err)
			}
		}},
		{"a file's limit (RLIMIT_FSIZE)", func(t *testing.T, p place) {
			if got := helper(t, "fsize", p.path("f"), "8192"); got != "EFBIG" {
				t.Errorf("got %s, want EFBIG", got)
			}
		}},
		{"readahead and fadvise change nothing", func(t *testing.T, p place) {
			want := pattern(1<<20, 2)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(fd)
			for _, a := range []int{unix.FADV_SEQUENTIAL, unix.FADV_WILLNEED, unix.FADV_DONTNEED, unix.FADV_RANDOM} {
				check(t, unix.Fadvise(fd, 0, 0, a))
			}
			wantContent(t, p.path("f"), want)
		}},
	})
}

func TestDirect(t *testing.T) {
	onBoth(t, []posixCase{
		{"aligned", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
			defer unix.Close(fd)
			var model []byte
			for i, c := range []struct {
				off int64
				n   int
			}{{0, 4096}, {8192, 16384}, {4096, 4096}, {1 << 20, 1 << 20}, {160 << 10, 8192}, {0, 65536}, {4 << 20, 3 << 20}} {
				b := aligned(c.n)
				copy(b, pattern(c.n, uint64(i)))
				if n, err := unix.Pwrite(fd, b, c.off); n != c.n {
					t.Fatalf("pwrite(%d at %d): %d, %v", c.n, c.off, n, err)
				}
				model = put(model, b, c.off)
			}
			got := aligned(len(model) + 4096)
			if n, err := unix.Pread(fd, got, 0); n != len(model) || !bytes.Equal(got[:n], model) {
				t.Fatalf("pread: %d of %d, %v: %s", n, len(model), err, firstDiff(got[:n], model))
			}
			p.reread(t, "f", model)
		}},
		{"the end of a file that is no multiple", func(t *testing.T, p place) {
			want := pattern(10000, 1)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDWR|unix.O_DIRECT, 0)
			defer unix.Close(fd)
			got := aligned(16384)
			if n, err := unix.Pread(fd, got, 0); n != 10000 || !bytes.Equal(got[:n], want) {
				t.Errorf("pread: %d, %v", n, err)
			}
			if n, err := unix.Pread(fd, got, 8192); n != 10000-8192 || !bytes.Equal(got[:n], want[8192:]) {
				t.Errorf("pread of the tail: %d, %v", n, err)
			}
			if n, err := unix.Pread(fd, got, 12288); n != 0 || err != nil {
				t.Errorf("pread past the end: %d, %v", n, err)
			}
		}},
		{"unaligned works, or is refused", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
			defer unix.Close(fd)
			var model []byte
			for i, c := range []struct {
				off int64
				n   int
			}{{0, 10}, {5, 4096}, {4000, 200}, {100000, 70001}, {1, 300000}} {
				b := pattern(c.n+1, uint64(i))[1:]
				n, err := unix.Pwrite(fd, b, c.off)
				if !p.plyfs() { // the control's disk may ask for alignment
					if err != nil {
						wantErr(t, "pwrite", err, unix.EINVAL)
						continue
					}
				} else if n != c.n {
					t.Fatalf("pwrite(%d at %d): %d, %v", c.n, c.off, n, err)
				}
				model = put(model, b, c.off)
				got := make([]byte, c.n+1)[1:]
				if n, err := unix.Pread(fd, got, c.off); n != c.n || !bytes.Equal(got, b) {
					t.Fatalf("pread(%d at %d): %d, %v", c.n, c.off, n, err)
				}
			}
			p.reread(t, "f", model)
		}},
		{"and buffered writes see each other", func(t *testing.T, p place) {
			d := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
			defer unix.Close(d)
			b := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(b)
			buf, got := aligned(8192), aligned(8192)
			for i := range 50 {
				copy(buf, pattern(8192, uint64(i)))
				w, r := d, b
				if i%2 == 1 {
					w, r = b, d
				}
				off := int64(i%5) * 8192
				if n, err := unix.Pwrite(w, buf, off); n != 8192 {
					t.Fatal(n, err)
				}
				if n, err := unix.Pread(r, got, off); n != 8192 || !bytes.Equal(got, buf) {
					t.Fatalf("round %d: %d, %v: stale data", i, n, err)
				}
			}
		}},
		{"switched on and off by fcntl", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			check(t, err)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, fl|unix.O_DIRECT)
			check(t, err)
			b := aligned(8192)
			copy(b, pattern(8192, 4))
			if n, err := unix.Pwrite(fd, b, 0); n != 8192 {
				t.Fatal(n, err)
			}
			wantContent(t, p.path("f"), b)
		}},
	})
}

func TestSync(t *testing.T) {
	onBoth(t, []posixCase{
		{"O_SYNC, O_DSYNC and the flags of pwritev2", func(t *testing.T, p place) {
			var model []byte
			for i, c := range []struct{ open, rwf int }{
				{unix.O_SYNC, 0}, {unix.O_DSYNC, 0}, {0, unix.RWF_DSYNC}, {0, unix.RWF_SYNC}, {0, unix.RWF_HIPRI},
				{unix.O_DIRECT | unix.O_DSYNC, 0}, {unix.O_DIRECT, unix.RWF_DSYNC}, {unix.O_DIRECT | unix.O_SYNC, unix.RWF_SYNC},
			} {
				fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR|c.open, 0o644)
				b := aligned(8192)
				copy(b, pattern(8192, uint64(i)))
				off := int64(i) * 4096
				n, err := unix.Pwritev2(fd, [][]byte{b}, off, c.rwf)
				unix.Close(fd)
				if n != len(b) {
					t.Fatalf("case %d: %d, %s", i, n, errName(err))
				}
				model = put(model, b, off)
				wantContent(t, p.path("f"), model)
			}
			p.reread(t, "f", model)
		}},
		{"RWF_APPEND", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("abc"))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			if n, err := unix.Pwritev2(fd, [][]byte{[]byte("def")}, 0, unix.RWF_APPEND); n != 3 {
				t.Fatal(n, err)
			}
			wantContent(t, p.path("f"), []byte("abcdef"))
		}},
		{"the fsync family", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(100000, 1))
			r := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(r)
			w := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(w)
			unix.Pwrite(w, []byte("changed"), 50000)
			for what, err := range map[string]error{
				"fsync":           unix.Fsync(w),
				"fdatasync":       unix.Fdatasync(w),
				"fsync, O_RDONLY": unix.Fsync(r),
				"sync_file_range": unix.SyncFileRange(w, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER),
				"syncfs":          unix.Syncfs(w),
			} {
				if err != nil {
					t.Errorf("%s: %s", what, errName(err))
				}
			}
			d := open(t, p.path(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
			defer unix.Close(d)
			check(t, unix.Fsync(d))
			check(t, unix.Fdatasync(d))
			check(t, unix.Unlink(p.path("f")))
			check(t, unix.Fsync(w))
			check(t, unix.Fsync(d))
		}},
		{"fsync of special files' directory and of an empty file", func(t *testing.T, p place) {
			check(t, unix.Mkfifo(p.path("fifo"), 0o644))
			touch(t, p.path("empty"), nil)
			for _, name := range []string{"empty", "."} {
				fd := open(t, p.path(name), unix.O_RDONLY, 0)
				check(t, unix.Fsync(fd))
				unix.Close(fd)
			}
		}},
	})
}

// put writes b into the model of a file at off.
func put(model, b []byte, off int64) []byte {
	if end := int(off) + len(b); end > len(model) {
		model = append(model, make([]byte, end-len(model))...)
	}
	copy(model[off:], b)
	return model
}

// cut is what reading n bytes at off must give.
func cut(model []byte, off int64, n int) []byte {
	if off >= int64(len(model)) {
		return nil
	}
	return model[off:min(int(off)+n, len(model))]
}
