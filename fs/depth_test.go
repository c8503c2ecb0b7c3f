package fs

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
)

const depth = 8

// gate holds reads and writes back until depth of them are there at once.
type gate struct {
	*adapter
	reads, writes meeting
}

// meeting lets those who come in together once depth have come, or one by one
// when they wait in vain.
type meeting struct {
	mu      sync.Mutex
	waiting int
	most    int
	all     chan struct{}
}

func (m *meeting) wait() {
	m.mu.Lock()
	m.waiting++
	m.most = max(m.most, m.waiting)
	if m.waiting == depth {
		close(m.all)
	}
	all := m.all
	m.mu.Unlock()
	select {
	case <-all:
	case <-time.After(2 * time.Second):
	}
}

// peak returns how many were there at once at most.
func (m *meeting) peak() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

func (g *gate) Write(c <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	g.writes.wait()
	return g.adapter.Write(c, in, data)
}

func (g *gate) Read(c <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	g.reads.wait()
	return g.adapter.Read(c, in, buf)
}

// TestParallelDirectIO keeps the in-flight depth of O_DIRECT on one file: the
// kernel hands the requests over together and they are served together.
func TestParallelDirectIO(t *testing.T) {
	back, dir := filepath.Join(t.TempDir(), "back"), t.TempDir()
	g := &gate{reads: meeting{all: make(chan struct{})}, writes: meeting{all: make(chan struct{})}}
	g.adapter = newAdapter(openTestVolume(t, back, asItIs), slog.New(slog.DiscardHandler))
	server, err := mount(dir, g, Options{Source: back}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	readableHere(t, server)
	t.Cleanup(func() { endOf(t, dir, server) })
	file := filepath.Join(dir, "file")
	const size = 64 << 10
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, depth*size); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

	together(t, func(i int) (int, error) { return unix.Pwrite(fd, alignedBuffer(size), int64(i)*size) }, size)
	if n := g.writes.peak(); n < depth {
		t.Errorf("%d writes in flight at once, want %d", n, depth)
	}
	together(t, func(i int) (int, error) { return unix.Pread(fd, alignedBuffer(size), int64(i)*size) }, size)
	if n := g.reads.peak(); n < depth {
		t.Errorf("%d reads in flight at once, want %d", n, depth)
	}
}

// together runs depth calls at once.
func together(t *testing.T, call func(i int) (int, error), want int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range depth {
		wg.Go(func() {
			if n, err := call(i); n != want || err != nil {
				t.Errorf("call %d: got %d, %v, want %d", i, n, err, want)
			}
		})
	}
	wg.Wait()
}

func asItIs(d backing.Dir) backing.Dir { return d }

func alignedBuffer(n int) []byte {
	b := make([]byte, n+4096)
	skip := -uintptr(unsafe.Pointer(&b[0])) & 4095
	return b[skip:][:n]
}

// openTestVolume formats back, opens the volume in it through wrap, and leaves
// it to the caller to close.
func openTestVolume(t *testing.T, back string, wrap func(backing.Dir) backing.Dir) *volume.Volume {
	t.Helper()
	c, err := testCipher(4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(back, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := backing.OpenDir(back)
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Format(root, c); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(volume.Config{Root: wrap(root), Cipher: c})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
