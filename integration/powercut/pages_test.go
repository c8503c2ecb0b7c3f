package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pages overwrites 16 KiB pages in place, 32 at a time and then fsync, as a
// database flushes its pool without a doublewrite buffer. No page may be torn:
// by O_DIRECT, buffered, by native asynchronous I/O, by io_uring, one with vectors.
type pages struct {
	files [5]pageFile
}

type pageFile struct {
	name  string
	write func(fd int, bufs [][]byte, offs []int64) error
	flags int
	// versions[k] are those of page k, ascending. A batch is acknowledged as a
	// whole.
	versions [pageCount][]pageVersion
}

type pageVersion struct {
	number int
	step
}

const (
	pageSize  = 16 << 10
	pageCount = 192
	pageBatch = 32
)

func newPages() *pages {
	return &pages{[5]pageFile{
		{name: "direct", flags: unix.O_DIRECT, write: writeEach},
		{name: "buffered", write: writeEach},
		{name: "aio", flags: unix.O_DIRECT, write: writeAsync},
		{name: "uring", flags: unix.O_DIRECT, write: writeUring},
		{name: "vector", flags: unix.O_DIRECT, write: writeVector},
	}}
}

func (w *pages) name() string { return "pages" }

func pageBytes(b []byte, file, k, number int) {
	fill(b, uint64(file)<<56|uint64(number)<<20|uint64(k))
	for at := 0; at < len(b); at += sector {
		binary.LittleEndian.PutUint32(b[at:], uint32(number))
	}
}

func (w *pages) setup(dir string) error {
	b := make([]byte, pageSize*pageCount)
	for i, f := range w.files {
		for k := range pageCount {
			pageBytes(b[k*pageSize:(k+1)*pageSize], i, k, 0)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *pages) run(dir string, c *clock, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make([]error, len(w.files))
	for i := range w.files {
		wg.Go(func() { errs[i] = w.files[i].run(i, dir, c, stop) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *pageFile) run(file int, dir string, c *clock, stop <-chan struct{}) error {
	fd, err := unix.Open(filepath.Join(dir, f.name), unix.O_RDWR|unix.O_CLOEXEC|f.flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rng := rand.New(rand.NewPCG(env.seed, uint64(file)))
	mem := aligned(pageBatch * pageSize)
	defer unix.Munmap(mem)
	for n := 1; !stopped(stop); n++ {
		var bufs [][]byte
		var offs []int64
		order := rng.Perm(pageCount)[:pageBatch]
		s := step{c.now(), never}
		for i, k := range order {
			b := mem[i*pageSize : (i+1)*pageSize]
			pageBytes(b, file, k, n)
			bufs, offs = append(bufs, b), append(offs, int64(k)*pageSize)
		}
		if err := f.write(fd, bufs, offs); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := unix.Fsync(fd); err != nil {
			return err
		}
		s.acked = c.ack()
		for _, k := range order {
			f.versions[k] = append(f.versions[k], pageVersion{n, s})
		}
	}
	return nil
}

func writeEach(fd int, bufs [][]byte, offs []int64) error {
	for i, b := range bufs {
		if n, err := unix.Pwrite(fd, b, offs[i]); n != len(b) {
			return fmt.Errorf("pwrite: %d, %w", n, err)
		}
	}
	return nil
}

// writeVector writes each page from four pieces.
func writeVector(fd int, bufs [][]byte, offs []int64) error {
	for i, b := range bufs {
		n, err := unix.Pwritev(fd, [][]byte{b[:4096], b[4096:8192], b[8192:12288], b[12288:]}, offs[i])
		if n != len(b) {
			return fmt.Errorf("pwritev: %d, %w", n, err)
		}
	}
	return nil
}

type iocb struct {
	data    uint64
	key     uint32
	rwFlags int32
	opcode  uint16
	prio    int16
	fd      uint32
	buf     unsafe.Pointer
	nbytes  uint64
	off     int64
	_       uint64
	flags   uint32
	resfd   uint32
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

// writeAsync has all pages in flight at once, by io_submit.
func writeAsync(fd int, bufs [][]byte, offs []int64) error {
	const pwrite = 1
	var ctx uintptr
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(len(bufs)), uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
		return fmt.Errorf("io_setup: %w", e)
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0)
	blocks := make([]iocb, len(bufs))
	ptrs := make([]*iocb, len(bufs))
	for i, b := range bufs {
		blocks[i] = iocb{opcode: pwrite, fd: uint32(fd), buf: unsafe.Pointer(unsafe.SliceData(b)), nbytes: uint64(len(b)), off: offs[i]}
		ptrs[i] = &blocks[i]
	}
	for sent := 0; sent < len(ptrs); {
		n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, uintptr(len(ptrs)-sent), uintptr(unsafe.Pointer(&ptrs[sent])))
		if e != 0 {
			return fmt.Errorf("io_submit: %w", e)
		}
		sent += int(n)
	}
	events := make([]ioEvent, len(bufs))
	for got := 0; got < len(bufs); {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, uintptr(len(bufs)-got), uintptr(unsafe.Pointer(&events[0])), 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return fmt.Errorf("io_getevents: %w", e)
		}
		for _, ev := range events[:n] {
			if ev.res != pageSize {
				return fmt.Errorf("asynchronous write: %d", ev.res)
			}
		}
		got += int(n)
	}
	runtime.KeepAlive(blocks)
	return nil
}

func (w *pages) verify(dir string, at uint64, strict bool) (problems []string) {
	for i := range w.files {
		f := &w.files[i]
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil || len(b) != pageSize*pageCount {
			problems = append(problems, fmt.Sprintf("%s: %d bytes, %v", f.name, len(b), err))
			continue
		}
		for k := range pageCount {
			if p := f.page(b[k*pageSize:(k+1)*pageSize], i, k, at, strict); p != "" {
				problems = append(problems, p)
			}
		}
	}
	return problems
}

// page judges one page: each sector is of the last acknowledged version or a
// later one, and with strict all of one.
func (f *pageFile) page(b []byte, file, k int, at uint64, strict bool) string {
	allowed := map[int]bool{}
	acked := 0
	for _, v := range f.versions[k] {
		if v.acked <= at {
			acked = v.number
		} else if v.begun <= at {
			allowed[v.number] = true
		}
	}
	allowed[acked] = true
	want := make([]byte, pageSize)
	first := int(binary.LittleEndian.Uint32(b))
	for s := 0; s < pageSize; s += sector {
		n := int(binary.LittleEndian.Uint32(b[s:]))
		if !allowed[n] {
			return fmt.Sprintf("%s: page %d sector %d is version %d; acknowledged: %d, begun: %v", f.name, k, s/sector, n, acked, allowed)
		}
		if n != first && strict {
			return fmt.Sprintf("%s: page %d is torn: version %d, from sector %d on %d", f.name, k, first, s/sector, n)
		}
		pageBytes(want, file, k, n)
		if !bytes.Equal(want[s:s+sector], b[s:s+sector]) {
			return fmt.Sprintf("%s: page %d sector %d has version %d and other bytes", f.name, k, s/sector, n)
		}
	}
	return ""
}
