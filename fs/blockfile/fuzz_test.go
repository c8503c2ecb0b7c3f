package blockfile

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// memFile is a backing file in memory. It knows no holes.
type memFile struct {
	backing.File // nil: calls that a test does not expect
	mu           sync.Mutex
	b            []byte
}

const memLimit = 8 << 20

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memFile) resize(size int64) error {
	if size > memLimit {
		return unix.EFBIG
	}
	if n := int(size) - len(m.b); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
	m.b = m.b[:size]
	return nil
}

func (m *memFile) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.resize(max(int64(len(m.b)), off+int64(len(p)))); err != nil {
		return 0, err
	}
	return copy(m.b[off:], p), nil
}

func (m *memFile) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resize(size)
}

func (m *memFile) Stat() (backing.Stat, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return backing.Stat{Size: int64(len(m.b))}, nil
}

func (m *memFile) Allocate(uint32, int64, int64) error           { return unix.EOPNOTSUPP }
func (m *memFile) SeekHole(off int64, whence int) (int64, error) { return 0, unix.EINVAL }
func (m *memFile) Utimes(atime, mtime unix.Timespec) error       { return nil }
func (m *memFile) Sync() error                                   { return nil }
func (m *memFile) Datasync() error                               { return nil }
func (m *memFile) Close() error                                  { return nil }

// FuzzHostileBacking runs requests against a file whose backing bytes were
// altered at will, also as one who knows the keys could. Nothing may panic,
// hang, or take memory by what the bytes say; and where the MACs were not made
// anew, what is read is what was written.
func FuzzHostileBacking(f *testing.F) {
	v := testVolume(f, cipher.SuiteDouble, 4096)
	m := &memFile{}
	good, err := Create(m, Config{Volume: v})
	if err != nil {
		f.Fatal(err)
	}
	layout := v.Layout()
	content := make([]byte, layout.FirstBlock(3)*4096+5000)
	copy(content, pattern(1, 45*4096))
	copy(content[layout.FirstBlock(3)*4096:], pattern(2, 5000))
	write(f, good, content[:45*4096], 0)
	write(f, good, content[layout.FirstBlock(3)*4096:], int64(layout.FirstBlock(3))*4096)
	image := bytes.Clone(m.b)
	f.Add(uint32(512+8), []byte{1}, false, uint64(3), int64(1<<40), []byte{0, 1, 2, 3})
	f.Add(uint32(layout.TagOffset(1)), make([]byte, 4096), false, uint64(0), int64(0), []byte{1, 4, 5, 6})
	f.Add(uint32(0), []byte{}, true, ^uint64(0), int64(1<<62), []byte{0, 1, 2, 3, 4, 5, 6})
	f.Add(uint32(0), []byte{}, true, uint64(2), int64(len(content)), []byte{0, 3, 2, 1})
	f.Fuzz(func(t *testing.T, at uint32, alter []byte, reseal bool, gap uint64, size int64, ops []byte) {
		m := &memFile{b: bytes.Clone(image)}
		if len(alter) > 0 {
			copy(m.b[int(at)%len(m.b):], alter)
		}
		if reseal {
			resealAs(v, good, m, gap, size)
		}
		file, err := Open(m, Config{Volume: v, Unclean: at%2 == 1})
		if err != nil {
			return
		}
		defer file.Close()
		clean := !reseal && file.Size() == int64(len(content))
		if len(ops) > 20 {
			ops = ops[:20]
		}
		for _, op := range ops {
			off := int64(op) * 4099
			switch op % 7 {
			case 0:
				p := make([]byte, 30_000)
				n, err := file.ReadAt(p, off)
				if clean && err == nil && off < int64(len(content)) && !bytes.Equal(p[:n], content[off:][:n]) {
					t.Fatalf("read at %d differs", off)
				}
			case 1:
				_, _ = file.SeekData(off)
				_, _ = file.SeekHole(off)
			case 2:
				_, _ = file.WriteAt(pattern(1, 9000), off)
				clean = false
			case 3:
				_ = file.Truncate(off)
				clean = false
			case 4:
				_ = file.PunchHole(off, 1<<20)
				clean = false
			case 5:
				_ = file.ZeroRange(off, 5000, false)
				clean = false
			case 6:
				_, _ = file.ReadAt(make([]byte, 5000), file.Size()-1000)
			}
		}
	})
}

// resealAs makes header and trailers with true MACs that say what never was.
func resealAs(v *cipher.Volume, good *File, m *memFile, gap uint64, size int64) {
	size = max(0, size) % (v.Layout().MaxSize() + 1)
	h := cipher.Header{Size: size, Last: min(gap>>8, v.Layout().LastGroup(size))}
	good.c.SealHeader(m.b[512:1024], h)
	for _, g := range []uint64{1, 3} {
		tag := m.b[v.Layout().TagOffset(g):][:4096]
		good.c.SealTrailer(tag, g, cipher.Trailer{Gap: gap % g, Present: gap & (1<<56 - 1)})
	}
}

// What the file of another block size, suite or volume looks like.
func TestForeign(t *testing.T) {
	kinds := []struct {
		suite cipher.Suite
		bs    int
	}{{cipher.SuiteDouble, 4096}, {cipher.SuiteDouble, 8192}, {cipher.SuiteSingle, 4096}}
	for i, a := range kinds {
		m := &memFile{}
		f, err := Create(m, Config{Volume: testVolume(t, a.suite, a.bs)})
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, []byte("content"), 0)
		for j, b := range kinds {
			_, err := Open(&memFile{b: slices.Clone(m.b)}, Config{Volume: testVolume(t, b.suite, b.bs), Unclean: true})
			if (err == nil) != (i == j) {
				t.Errorf("file of %v opened in volume of %v: %v", a, b, err)
			}
		}
	}
}
