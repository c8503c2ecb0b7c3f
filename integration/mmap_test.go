package integration

import (
	"bytes"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMmap(t *testing.T) {
	const rw = unix.PROT_READ | unix.PROT_WRITE
	onBoth(t, []posixCase{
		{"shared writes reach the file", func(t *testing.T, p place) {
			want := pattern(100000, 1)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			m, err := unix.Mmap(fd, 0, len(want), rw, unix.MAP_SHARED)
			check(t, err)
			if !bytes.Equal(m, want) {
				t.Fatal("mapping differs from the file")
			}
			for i := 0; i < len(m); i += 4099 {
				m[i]++
				want[i]++
			}
			got := make([]byte, len(want))
			if n, err := unix.Pread(fd, got, 0); n != len(got) || !bytes.Equal(got, want) {
				t.Errorf("read before msync: %d, %v: %s", n, err, firstDiff(got[:n], want))
			}
			check(t, unix.Msync(m, unix.MS_SYNC))
			check(t, unix.Munmap(m))
			p.reread(t, "f", want)
		}},
		{"without msync too, once unmapped and closed", func(t *testing.T, p place) {
			want := pattern(64<<10, 1)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			m, err := unix.Mmap(fd, 0, len(want), rw, unix.MAP_SHARED)
			check(t, err)
			unix.Close(fd)
			copy(m[1000:], "written through the map")
			copy(want[1000:], "written through the map")
			check(t, unix.Munmap(m))
			p.reread(t, "f", want)
		}},
		{"writes to the file are seen in a shared mapping", func(t *testing.T, p place) {
			touch(t, p.path("f"), make([]byte, 32768))
			for _, flags := range []int{0, unix.O_DIRECT} {
				fd := open(t, p.path("f"), unix.O_RDWR|flags, 0)
				m, err := unix.Mmap(fd, 0, 32768, rw, unix.MAP_SHARED)
				check(t, err)
				b := aligned(8192)
				for i := range 8 {
					copy(b, pattern(8192, uint64(i+flags)))
					off := i % 4 * 8192
					_ = m[off]
					if n, err := unix.Pwrite(fd, b, int64(off)); n != 8192 {
						t.Fatal(n, err)
					}
					if !bytes.Equal(m[off:off+8192], b) {
						t.Errorf("flags %#x, round %d: mapping is stale", flags, i)
					}
				}
				unix.Munmap(m)
				unix.Close(fd)
			}
		}},
		{"private writes stay private", func(t *testing.T, p place) {
			want := pattern(8192, 1)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(fd)
			m, err := unix.Mmap(fd, 0, 8192, rw, unix.MAP_PRIVATE)
			check(t, err)
			clear(m)
			check(t, unix.Munmap(m))
			wantContent(t, p.path("f"), want)
		}},
		{"permissions", func(t *testing.T, p place) {
			touch(t, p.path("f"), make([]byte, 4096))
			r := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(r)
			_, err := unix.Mmap(r, 0, 4096, rw, unix.MAP_SHARED)
			wantErr(t, "shared writing of an O_RDONLY file", err, unix.EACCES)
			w := open(t, p.path("f"), unix.O_WRONLY, 0)
			defer unix.Close(w)
			_, err = unix.Mmap(w, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			wantErr(t, "mapping of an O_WRONLY file", err, unix.EACCES)
		}},
		{"a mapping larger than the file grows with it", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			unix.Pwrite(fd, []byte("abc"), 0)
			m, err := unix.Mmap(fd, 0, 16384, rw, unix.MAP_SHARED)
			check(t, err)
			defer unix.Munmap(m)
			if string(m[:4]) != "abc\x00" {
				t.Errorf("got %q", m[:4])
			}
			unix.Pwrite(fd, []byte("xyz"), 10000)
			if string(m[9999:10004]) != "\x00xyz\x00" {
				t.Errorf("got %q", m[9999:10004])
			}
			m[5000] = 'm'
			check(t, unix.Msync(m[:12288], unix.MS_SYNC))
			want := make([]byte, 10003)
			copy(want, "abc")
			want[5000] = 'm'
			copy(want[10000:], "xyz")
			p.reread(t, "f", want)
		}},
		{"writing into a hole through a mapping", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			check(t, unix.Ftruncate(fd, 4<<20))
			m, err := unix.Mmap(fd, 0, 4<<20, rw, unix.MAP_SHARED)
			check(t, err)
			want := make([]byte, 4<<20)
			for _, at := range []int{0, 4096, 500000, 1 << 20, 4<<20 - 1} {
				m[at], want[at] = 1, 1
			}
			check(t, unix.Munmap(m))
			p.reread(t, "f", want)
		}},
		{"several mappings by several threads", func(t *testing.T, p place) {
			const n, size = 4, 1 << 20
			touch(t, p.path("f"), make([]byte, size))
			var wg sync.WaitGroup
			want := make([]byte, size)
			for w := range n {
				fd := open(t, p.path("f"), unix.O_RDWR, 0)
				defer unix.Close(fd)
				m, err := unix.Mmap(fd, 0, size, rw, unix.MAP_SHARED)
				check(t, err)
				defer unix.Munmap(m)
				wg.Go(func() {
					for i := w; i < size; i += n * 97 {
						m[i] = byte(w + 1)
					}
					unix.Msync(m, unix.MS_SYNC)
				})
				for i := w; i < size; i += n * 97 {
					want[i] = byte(w + 1)
				}
			}
			wg.Wait()
			p.reread(t, "f", want)
		}},
		{"reading and writing from and into a mapping of the same file", func(t *testing.T, p place) {
			want := pattern(65536, 1)
			touch(t, p.path("f"), want)
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			m, err := unix.Mmap(fd, 0, 65536, rw, unix.MAP_SHARED)
			check(t, err)
			defer unix.Munmap(m)
			// The kernel faults the source in while it copies.
			if n, err := unix.Pwrite(fd, m[:16384], 32768); n != 16384 {
				t.Fatal(n, err)
			}
			copy(want[32768:], want[:16384])
			if n, err := unix.Pread(fd, m[49152:], 0); n != 16384 {
				t.Fatal(n, err)
			}
			copy(want[49152:], want[:16384])
			if !bytes.Equal(m, want) {
				t.Error(firstDiff(m, want))
			}
		}},
	})
}
