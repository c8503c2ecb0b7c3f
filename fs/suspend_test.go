package fs

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSuspendedMount takes the keys from a mount on which a file is mapped and
// one is open with O_DIRECT, and gives them back.
func TestSuspendedMount(t *testing.T) {
	m := newMount(t, 4096)
	must(t, os.Mkdir(m.path("dir"), 0o755))
	content := bytes.Repeat([]byte("content."), 1<<15)
	must(t, os.WriteFile(m.path("dir/cached"), content, 0o644))
	must(t, os.WriteFile(m.path("mapped"), content, 0o644))
	must(t, os.Symlink("target", m.path("link")))
	must(t, unix.Setxattr(m.path("mapped"), "user.a", []byte("value"), 0))
	_, err := os.ReadFile(m.path("dir/cached"))
	must(t, err)

	reader, err := os.Open(m.path("dir/cached"))
	must(t, err)
	defer reader.Close()
	opened, err := os.Open(m.path("dir"))
	must(t, err)
	defer opened.Close()
	direct, err := os.OpenFile(m.path("direct"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
	must(t, err)
	defer direct.Close()
	page := alignedBuffer(4096)
	copy(page, "a page")
	_, err = direct.WriteAt(page, 0)
	must(t, err)
	mapped, err := os.OpenFile(m.path("mapped"), os.O_RDWR, 0)
	must(t, err)
	defer mapped.Close()
	pages, err := unix.Mmap(int(mapped.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(pages)
	if string(pages[:8]) != "content." {
		t.Fatalf("mapping begins with %q", pages[:8])
	}
	copy(pages[8192:], "dirty") // and not written back

	if got := m.tell("suspend"); got != "<nil>" {
		t.Fatalf("suspend: %s", got)
	}
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"read of cached pages", func() error { _, err := reader.ReadAt(make([]byte, 100), 0); return err }},
		{"read of the mapped file", func() error { _, err := mapped.ReadAt(make([]byte, 100), 0); return err }},
		{"direct read", func() error { _, err := direct.ReadAt(page, 0); return err }},
		{"direct write", func() error { _, err := direct.WriteAt(page, 0); return err }},
		{"buffered write", func() error { _, err := mapped.WriteAt(page, 0); return err }},
		{"fsync", mapped.Sync},
		{"fstat", func() error { _, err := mapped.Stat(); return err }},
		{"readdir of an open directory", func() error { _, err := opened.ReadDir(0); return err }},
		{"open", func() error { _, err := os.Open(m.path("dir/cached")); return err }},
		{"stat in a directory", func() error { _, err := os.Stat(m.path("dir/cached")); return err }},
		{"stat in the root", func() error { _, err := os.Stat(m.path("mapped")); return err }},
		{"a new name", func() error { return os.WriteFile(m.path("new"), nil, 0o644) }},
		{"readlink", func() error { _, err := os.Readlink(m.path("link")); return err }},
		{"getxattr", func() error { _, err := unix.Getxattr(m.path("mapped"), "user.a", nil); return err }},
		{"unlink", func() error { return os.Remove(m.path("mapped")) }},
		{"rename", func() error { return os.Rename(m.path("mapped"), m.path("other")) }},
		{"list of the root", func() error { _, err := os.ReadDir(m.dir); return err }},
	} {
		if err := c.do(); !errors.Is(err, unix.ENOKEY) {
			t.Errorf("%s: %v, want ENOKEY", c.what, err)
		}
	}
	for _, at := range []int{0, 8192, len(pages) - 1} {
		if b, ok := touch(pages, at); ok {
			t.Errorf("byte %d of the mapping reads %q, want a fault", at, b)
		}
	}
	if _, err := os.Stat(m.dir); err != nil {
		t.Errorf("stat of the mountpoint: %v", err)
	}

	if got := m.tell("resume otherwise"); !strings.Contains(got, "not the keys") {
		t.Errorf("other keys: %s", got)
	}
	if _, err := reader.ReadAt(make([]byte, 100), 0); !errors.Is(err, unix.ENOKEY) {
		t.Errorf("read after other keys: %v, want ENOKEY", err)
	}
	if got := m.tell("resume"); got != "<nil>" {
		t.Fatalf("resume: %s", got)
	}
	copy(content[8192:], "dirty")
	if !bytes.Equal(pages, content) {
		t.Error("the mapping shows other data than before")
	}
	if got, err := os.ReadFile(m.path("mapped")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the mapped file: %d bytes, %v", len(got), err)
	}
	if _, err := direct.ReadAt(page, 0); err != nil || !bytes.HasPrefix(page, []byte("a page")) {
		t.Errorf("direct read: %v", err)
	}
	if list, err := opened.ReadDir(0); err != nil || len(list) != 1 {
		t.Errorf("open directory: %v, %v", list, err)
	}
	if s, err := os.Readlink(m.path("link")); s != "target" || err != nil {
		t.Errorf("readlink: %q, %v", s, err)
	}
}

// touch reads a byte of a mapping, and reports whether it could.
func touch(pages []byte, at int) (b byte, ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return pages[at], true
}

// What was written before the keys went is there after an unmount without them.
func TestUmountWhileSuspended(t *testing.T) {
	m := newMount(t, 4096)
	content := bytes.Repeat([]byte("content."), 1<<15)
	must(t, os.WriteFile(m.path("f"), content, 0o644))
	if got := m.tell("suspend"); got != "<nil>" {
		t.Fatalf("suspend: %s", got)
	}
	m.unmount()
	m.mount()
	if got, err := os.ReadFile(m.path("f")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Readers and writers of all kinds go on while the keys come and go: they get
// what is right, or ENOKEY, or a fault, and nothing hangs.
func TestSuspendUnderUse(t *testing.T) {
	m := newMount(t, 4096)
	const size = 1 << 20
	content := bytes.Repeat([]byte("content."), size/8)
	must(t, os.WriteFile(m.path("read"), content, 0o644))
	must(t, os.WriteFile(m.path("written"), content, 0o644))
	var wg sync.WaitGroup
	var stop atomic.Bool
	loop := func(what string, do func(round int) error) {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := do(i); err != nil && !errors.Is(err, unix.ENOKEY) {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	f, err := os.Open(m.path("read"))
	must(t, err)
	defer f.Close()
	buf := make([]byte, size)
	loop("buffered read", func(int) error {
		n, err := f.ReadAt(buf, 0)
		if !bytes.Equal(buf[:n], content[:n]) {
			return errors.New("other data")
		}
		return err
	})
	pages, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(pages)
	loop("mapping", func(i int) error {
		at := i * 4096 % size
		if b, ok := touch(pages, at); ok && b != content[at] {
			return errors.New("other data")
		}
		return nil
	})
	d, err := os.OpenFile(m.path("written"), os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer d.Close()
	block := alignedBuffer(16 << 10)
	copy(block, content)
	loop("direct write", func(i int) error {
		_, err := d.WriteAt(block, int64(i)*int64(len(block))%size)
		return err
	})
	loop("names", func(int) error {
		if err := os.WriteFile(m.path("name"), content[:100], 0o644); err != nil {
			return err
		}
		return os.Remove(m.path("name"))
	})
	for range 10 {
		for _, what := range []string{"suspend", "resume"} {
			if got := m.tell(what); got != "<nil>" {
				t.Errorf("%s: %s", what, got)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	if got, err := os.ReadFile(m.path("written")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file that was written: %d bytes, %v", len(got), err)
	}
}
