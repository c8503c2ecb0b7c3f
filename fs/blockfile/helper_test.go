package blockfile

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// testVolume returns a volume with fixed keys.
func testVolume(t testing.TB, suite cipher.Suite, blockSize int) *cipher.Volume {
	t.Helper()
	p := cipher.Params{Format: cipher.FormatVersion, Suite: suite, Layers: 2, BlockSize: uint32(blockSize), VolumeID: cipher.VolumeID{1, 2, 3}}
	k := cipher.Keys{Data: [32]byte{4}, Infra: [32]byte{5}}
	if suite == cipher.SuiteSingle {
		p.Layers, k.Infra = 1, [32]byte{}
	}
	v, err := cipher.NewVolume(p, 1, k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// disk is a directory of backing files.
type disk struct {
	t    testing.TB
	path string
	dir  backing.Dir
	c    Config
	log  *bytes.Buffer
	hook func(op string, off, n int64) (int64, error)

	journal *testHome // nil without a journal
}

// hooked is a backing file with a hook before each call that changes it.
type hooked struct {
	backing.File
	before func(op string, off, n int64) (allow int64, err error) // how much of a write goes through
}

func (h *hooked) WriteAt(p []byte, off int64) (int, error) {
	n, err := h.before("write", off, int64(len(p)))
	if err == nil {
		return h.File.WriteAt(p, off)
	}
	m, _ := h.File.WriteAt(p[:n], off)
	return m, err
}

func (h *hooked) Truncate(size int64) error {
	if _, err := h.before("truncate", size, 0); err != nil {
		return err
	}
	return h.File.Truncate(size)
}

func (h *hooked) Allocate(mode uint32, off, n int64) error {
	if _, err := h.before("allocate", off, n); err != nil {
		return err
	}
	return h.File.Allocate(mode, off, n)
}

// Datasync and Sync do nothing: what the page cache holds is enough for a test.
func (h *hooked) Datasync() error {
	_, err := h.before("datasync", 0, 0)
	return err
}

func (h *hooked) Accessed() error { return h.File.(backing.Accessor).Accessed() }

func (h *hooked) Sync() error {
	_, err := h.before("sync", 0, 0)
	return err
}

func allowAll(string, int64, int64) (int64, error) { return 0, nil }

func newDisk(t testing.TB, suite cipher.Suite, blockSize int) *disk {
	t.Helper()
	d := &disk{t: t, path: t.TempDir(), log: &bytes.Buffer{}, hook: allowAll}
	var err error
	if d.dir, err = backing.OpenDir(d.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.dir.Close() })
	d.c = Config{Volume: testVolume(t, suite, blockSize), Log: slog.New(slog.NewTextHandler(d.log, nil))}
	return d
}

func (d *disk) backing(name string, flags int) backing.File {
	d.t.Helper()
	b, err := d.dir.OpenFile(name, unix.O_RDWR|flags, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	return &hooked{b, func(op string, off, n int64) (int64, error) { return d.hook(op, off, n) }}
}

func (d *disk) create(name string) *File {
	d.t.Helper()
	f, err := Create(d.backing(name, unix.O_CREAT|unix.O_EXCL), d.c)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { f.Close() })
	d.journal.add(f)
	return f
}

func (d *disk) open(name string) (*File, error) {
	b := d.backing(name, 0)
	f, err := Open(b, d.c)
	if err != nil {
		b.Close()
		return nil, err
	}
	d.t.Cleanup(func() { f.Close() })
	d.journal.add(f)
	return f, nil
}

func (d *disk) mustOpen(name string) *File {
	d.t.Helper()
	f, err := d.open(name)
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

// file is the path of a backing file, to tamper with.
func (d *disk) file(name string) string { return filepath.Join(d.path, name) }

// tamper overwrites bytes of a backing file behind the package's back.
func (d *disk) tamper(name string, off int64, b []byte) {
	d.t.Helper()
	h, err := os.OpenFile(d.file(name), os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.WriteAt(b, off); err != nil {
		d.t.Fatal(err)
	}
}

// peek reads bytes of a backing file.
func (d *disk) peek(name string, off int64, n int) []byte {
	d.t.Helper()
	h, err := os.Open(d.file(name))
	if err != nil {
		d.t.Fatal(err)
	}
	defer h.Close()
	b := make([]byte, n)
	if _, err := h.ReadAt(b, off); err != nil {
		d.t.Fatal(err)
	}
	return b
}

func write(t testing.TB, f *File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write of %d at %d: %d, %v", len(p), off, n, err)
	}
}

func read(t testing.TB, f *File, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	m, err := f.ReadAt(p, off)
	if err != nil {
		t.Fatalf("read of %d at %d: %v", n, off, err)
	}
	return p[:m]
}

// pattern is n bytes that tell where in which write they are from.
func pattern(seed, n int) []byte {
	p := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
		if p[i] == 0 {
			p[i] = 1
		}
	}
	return p
}

// checkChain walks every tag block of a backing file: gaps and last must name
// exactly the groups that are there. It returns their number.
func (d *disk) checkChain(name string) int {
	d.t.Helper()
	f := d.mustOpen(name)
	defer f.Close()
	st, err := f.b.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	if want := f.layout.PhysicalSize(f.Size()); st.Size != want {
		d.t.Fatalf("%s is %d bytes long, size %d takes %d", name, st.Size, f.Size(), want)
	}
	last, count, present := f.layout.LastGroup(f.Size()), f.blockCount(f.Size()), 0
	var tag [cipher.TagBlockSize]byte
	before := uint64(0) // the last group that was there
	for n := uint64(0); n <= last; n++ {
		// Where a test made a vast hole the disk's word is taken that it is zero.
		off, err := f.b.SeekHole(f.layout.TagOffset(n), unix.SEEK_DATA)
		if err != nil {
			break
		}
		if n = max(n, f.groupAt(off)); n > last {
			break
		}
		if _, err := f.b.ReadAt(tag[:], f.layout.TagOffset(n)); err != nil {
			d.t.Fatalf("group %d: %v", n, err)
		}
		tr, err := f.c.OpenTrailer(tag[:], n)
		if errors.Is(err, cipher.ErrZero) {
			continue
		}
		if err != nil {
			d.t.Fatalf("group %d: %v", n, err)
		}
		present++
		if want := n - min(n, before+1); tr.Gap != want {
			d.t.Fatalf("group %d has gap %d, the group before is %d", n, tr.Gap, before)
		}
		before = n
		for s := range cipher.EntriesPerGroup {
			index := f.layout.FirstBlock(n) + uint64(s) - uint64(f.layout.Slot(f.layout.FirstBlock(n)))
			if tr.Present>>s&1 != 0 && index >= count {
				d.t.Fatalf("group %d has slot %d beyond the end", n, s)
			}
		}
	}
	if before != f.last {
		d.t.Fatalf("header says last is %d, it is %d", f.last, before)
	}
	return present
}

// eachKind runs a test for both suites and three block sizes.
func eachKind(t *testing.T, run func(t *testing.T, suite cipher.Suite, blockSize int)) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		for _, bs := range []int{4096, 16384, 65536} {
			t.Run(suite.String()+"/"+strconv.Itoa(bs), func(t *testing.T) { run(t, suite, bs) })
		}
	}
}

// blind is a backing file on a filesystem without holes.
type blind struct {
	backing.File
	err error // of SeekHole; nil: all is data
}

func (b blind) SeekHole(off int64, whence int) (int64, error) {
	if b.err != nil {
		return 0, b.err
	}
	st, err := b.Stat()
	if err == nil && off >= st.Size {
		err = unix.ENXIO
	}
	if whence == unix.SEEK_HOLE {
		off = st.Size
	}
	return off, err
}
