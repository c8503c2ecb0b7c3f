package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRandomFile is in the manner of fsx: one file, one model in memory, all
// ways to read and write mixed, among them O_DIRECT and a shared mapping that
// stays. What is read is compared at once.
func TestRandomFile(t *testing.T) {
	randomised(t, func(t *testing.T, p place, seed uint64) {
		x := &fsx{t: t, p: p, rng: rand.New(rand.NewPCG(seed, 2))}
		x.open()
		defer func() { x.close() }()
		for i := range steps(4000) {
			x.step(i)
			if t.Failed() {
				t.Fatalf("the last steps:\n%s", strings.Join(x.last, "\n"))
			}
		}
		x.close()
		p.remount(t)
		wantContent(t, p.path("f"), x.model)
		x.open()
	})
}

// fsxMax bounds the file, and is the length of the mapping.
const fsxMax = 3 << 20

type fsx struct {
	t        *testing.T
	p        place
	rng      *rand.Rand
	model    []byte
	buffered int
	direct   int
	mapped   []byte
	last     []string
}

func (x *fsx) open() {
	x.buffered = open(x.t, x.p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
	x.direct = open(x.t, x.p.path("f"), unix.O_RDWR|unix.O_DIRECT, 0)
	m, err := unix.Mmap(x.buffered, 0, fsxMax, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(x.t, err)
	x.mapped = m
}

func (x *fsx) close() {
	if x.mapped != nil {
		unix.Munmap(x.mapped)
		unix.Close(x.direct)
		unix.Close(x.buffered)
		x.mapped = nil
	}
}

// span picks a range below fsxMax, whole pages for direct I/O.
func (x *fsx) span(direct bool) (off int64, n int) {
	off = x.rng.Int64N(fsxMax - 1)
	switch x.rng.IntN(4) {
	case 0:
		off = edges[x.rng.IntN(len(edges))]
	case 1:
		off = x.rng.Int64N(int64(len(x.model)) + 1)
	}
	n = x.rng.IntN([]int{5000, 70000, 300000}[x.rng.IntN(3)]) + 1
	if direct {
		off &^= 4095
		n = (n + 4095) &^ 4095
	}
	n = int(min(int64(n), fsxMax-off))
	return off, n
}

func (x *fsx) log(format string, args ...any) {
	x.last = append(x.last, fmt.Sprintf(format, args...))
	if len(x.last) > 25 {
		x.last = x.last[1:]
	}
}

func (x *fsx) compare(got []byte, off int64, n int) {
	x.t.Helper()
	if want := cut(x.model, off, n); !bytes.Equal(got, want) {
		x.t.Errorf("at %d: %s", off, firstDiff(got, want))
	}
}

func (x *fsx) step(i int) {
	off, n := x.span(false)
	switch x.rng.IntN(17) {
	case 0, 1, 2:
		x.write(i, x.buffered, "write", off, n)
	case 3, 4:
		off, n = x.span(true)
		x.write(i, x.direct, "direct write", off, n)
	case 5, 6:
		x.read(x.buffered, "read", off, n)
	case 7, 8:
		off, n = x.span(true)
		x.read(x.direct, "direct read", off, n)
	case 9, 10:
		n = len(cut(x.model, off, n))
		x.log("mapped write %d+%d of %d", off, n, len(x.model))
		b := pattern(n, uint64(i))
		if n > 0 {
			copy(x.mapped[off:], b)
			copy(x.model[off:], b)
		}
		if i%3 == 0 {
			check(x.t, unix.Msync(x.mapped, unix.MS_SYNC))
		}
	case 11:
		n = len(cut(x.model, off, n))
		x.log("mapped read %d+%d of %d", off, n, len(x.model))
		x.compare(x.mapped[min(off, int64(len(x.model))):][:n], off, n)
	case 12:
		x.log("truncate %d to %d", len(x.model), off)
		check(x.t, unix.Ftruncate(x.buffered, off))
		x.resize(off)
	case 13, 14:
		x.fallocate(off, n)
	case 15:
		x.log("sync")
		check(x.t, []func(int) error{unix.Fsync, unix.Fdatasync}[i%2]([]int{x.buffered, x.direct}[x.rng.IntN(2)]))
	case 16:
		if x.rng.IntN(8) > 0 {
			return
		}
		x.close()
		if x.rng.IntN(4) == 0 {
			x.log("remount")
			x.p.remount(x.t)
		} else {
			x.log("reopen")
		}
		x.open()
		x.read(x.buffered, "read all", 0, fsxMax)
	}
	if st := fstat(x.t, x.buffered); st.Size != int64(len(x.model)) {
		x.t.Errorf("size %d, want %d", st.Size, len(x.model))
	}
}

func (x *fsx) write(i, fd int, what string, off int64, n int) {
	x.log("%s %d+%d of %d", what, off, n, len(x.model))
	b := aligned(n)
	copy(b, pattern(n, uint64(i)))
	if got, err := unix.Pwrite(fd, b, off); got != n {
		x.t.Errorf("%s: %d of %d, %s", what, got, n, errName(err))
		return
	}
	x.model = put(x.model, b, off)
}

func (x *fsx) read(fd int, what string, off int64, n int) {
	x.log("%s %d+%d of %d", what, off, n, len(x.model))
	b := aligned(n)
	got, err := unix.Pread(fd, b, off)
	if err != nil {
		x.t.Errorf("%s: %s", what, errName(err))
		return
	}
	x.compare(b[:got], off, n)
}

func (x *fsx) resize(size int64) {
	if size < int64(len(x.model)) {
		x.model = x.model[:size:size]
	} else {
		x.model = put(x.model, nil, size)
	}
}

func (x *fsx) fallocate(off int64, n int) {
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[x.rng.IntN(5)]
	x.log("fallocate mode %#x %d+%d of %d", mode, off, n, len(x.model))
	check(x.t, unix.Fallocate(x.buffered, mode, off, int64(n)))
	if end := off + int64(n); mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > int64(len(x.model)) {
		x.resize(end)
	}
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		clear(cut(x.model, off, n))
	}
}
