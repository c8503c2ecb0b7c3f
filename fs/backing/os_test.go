package backing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openTemp(t *testing.T) (Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func mustFile(t *testing.T, d Dir, name string) File {
	t.Helper()
	f, err := d.OpenFile(name, unix.O_RDWR|unix.O_CREAT, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFileRefuses(t *testing.T) {
	d, path := openTemp(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("x"), 0o600),
		d.Symlink(outside, "link"), d.Symlink("gone", "dangling"),
		d.Mkdir("dir", 0o700), d.Mknod("fifo", unix.S_IFIFO|0o600, 0),
		d.Mknod("socket", unix.S_IFSOCK|0o600, 0), os.WriteFile(filepath.Join(path, "file"), nil, 0o600))
	for _, tt := range []struct {
		name  string
		flags int
		want  error
	}{
		{"link", unix.O_RDONLY, unix.ELOOP},
		{"dangling", unix.O_RDWR | unix.O_CREAT, unix.ELOOP},
		{"dir", unix.O_RDONLY, unix.EINVAL},
		{"dir", unix.O_RDWR, unix.EISDIR},
		{"fifo", unix.O_RDONLY, unix.EINVAL},
		{"fifo", unix.O_RDWR, unix.EINVAL},
		{"socket", unix.O_RDWR, unix.ENXIO},
		{"missing", unix.O_RDWR, unix.ENOENT},
		{"file", unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, unix.EEXIST},
		{"file", unix.O_RDWR | unix.O_TRUNC, unix.EINVAL},
		{"file", unix.O_RDWR | unix.O_APPEND, unix.EINVAL},
		{"", unix.O_RDONLY, unix.EINVAL},
		{".", unix.O_RDONLY, unix.EINVAL},
		{"..", unix.O_RDONLY, unix.EINVAL},
		{"dir/x", unix.O_RDWR | unix.O_CREAT, unix.EINVAL},
		{"/etc/passwd", unix.O_RDONLY, unix.EINVAL},
		{"a\x00b", unix.O_RDWR | unix.O_CREAT, unix.EINVAL},
	} {
		done := make(chan error, 1)
		go func() { _, err := d.OpenFile(tt.name, tt.flags, 0o600); done <- err }()
		select {
		case err := <-done:
			if !errors.Is(err, tt.want) {
				t.Errorf("%q, flags %#x: %v, want %v", tt.name, tt.flags, err, tt.want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%q: open blocks", tt.name)
		}
	}
	if _, err := d.OpenDir("link"); err == nil {
		t.Error("a symlink opened as a directory")
	}
	if _, err := d.OpenDir(".."); !errors.Is(err, unix.EINVAL) {
		t.Errorf("..: %v", err)
	}
}

func TestNoWayToAnotherMount(t *testing.T) {
	d, path := openTemp(t)
	must(t, d.Mkdir("m", 0o700))
	m := filepath.Join(path, "m")
	if err := unix.Mount("none", m, "tmpfs", 0, ""); err != nil {
		t.Fatal("cannot mount, as root can:", err)
	}
	defer unix.Unmount(m, unix.MNT_DETACH)
	if _, err := d.OpenDir("m"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("got %v, want %v", err, unix.EXDEV)
	}
}

func TestFileReadWrite(t *testing.T) {
	d, _ := openTemp(t)
	f := mustFile(t, d, "f")
	if n, err := f.WriteAt([]byte("hello"), 1<<20); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 1<<20+2); n != 3 || err != io.EOF || string(p[:3]) != "llo" {
		t.Errorf("%d, %v, %q", n, err, p[:n])
	}
	if n, err := f.ReadAt(p[:2], 1<<20); n != 2 || err != nil {
		t.Errorf("full read: %d, %v", n, err)
	}
	if n, err := f.ReadAt(p, 2<<20); n != 0 || err != io.EOF {
		t.Errorf("past the end: %d, %v", n, err)
	}
	if off, err := f.SeekHole(0, unix.SEEK_DATA); err != nil || off == 0 || off > 1<<20 {
		t.Errorf("data at %d, %v", off, err)
	}
	if _, err := f.SeekHole(2<<20, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Errorf("seek past the end: %v", err)
	}
	if _, err := f.SeekHole(0, unix.SEEK_SET); !errors.Is(err, unix.EINVAL) {
		t.Errorf("seek of another kind: %v", err)
	}
	must(t, f.Allocate(unix.FALLOC_FL_KEEP_SIZE, 2<<20, 1<<20), f.Truncate(100), f.Sync(), f.Datasync())
	if st, err := f.Stat(); err != nil || st.Size != 100 {
		t.Errorf("size %d, %v", st.Size, err)
	}
	ro, err := d.OpenFile("f", unix.O_RDONLY, 0)
	must(t, err)
	if _, err := ro.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("write of a read-only file: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), -1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("write before the start: %v", err)
	}
	must(t, f.Flock(unix.LOCK_EX|unix.LOCK_NB))
	if err := ro.Flock(unix.LOCK_EX | unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second lock: %v", err)
	}
	must(t, f.Close(), ro.Flock(unix.LOCK_EX|unix.LOCK_NB), ro.Close())
}

// Reading leaves the access time, Accessed moves it and nothing else.
func TestAccessTime(t *testing.T) {
	d, path := openTemp(t)
	f := mustFile(t, d, "f")
	_, err := f.WriteAt([]byte("hello"), 0)
	must(t, err)
	old := unix.Timespec{Sec: 1000}
	must(t, f.Utimes(old, unix.Timespec{Sec: 2000}))
	before, err := f.Stat()
	must(t, err)
	for range 2 {
		_, err = f.ReadAt(make([]byte, 5), 0)
		must(t, err)
		if st, _ := f.Stat(); st.Atim != old {
			t.Error("reading moved the access time")
		}
	}
	must(t, f.(Accessor).Accessed())
	after, err := f.Stat()
	must(t, err)
	if after.Mtim != before.Mtim || after.Ctim != before.Ctim {
		t.Error("Accessed moved other times")
	}
	if after.Atim == old {
		if _, err := os.ReadFile(filepath.Join(path, "f")); err != nil {
			t.Fatal(err)
		}
		if st, _ := f.Stat(); st.Atim != old {
			t.Error("Accessed did not move the access time")
		} // else it is mounted so
	}
	must(t, f.Utimes(old, unix.Timespec{Sec: 2000}))
	_, err = f.ReadAt(make([]byte, 5), 0)
	must(t, err)
	if st, _ := f.Stat(); st.Atim != old {
		t.Error("reading moves the access time after Accessed")
	}
}

func TestTmpfileGetsAName(t *testing.T) {
	d, _ := openTemp(t)
	f, err := d.Tmpfile(0o600)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err, d.LinkFile(f, "name"))
	st, err := d.Stat("name")
	if err != nil || st.Size != 1 || st.Nlink != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := d.LinkFile(f, "name"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("second name: %v", err)
	}
}

func TestRename(t *testing.T) {
	d, _ := openTemp(t)
	must(t, d.Mkdir("sub", 0o700))
	sub, err := d.OpenDir("sub")
	must(t, err)
	defer sub.Close()
	mustFile(t, d, "a")
	mustFile(t, sub, "b")
	a, _ := d.Stat("a")
	if err := d.Rename("a", sub, "b", unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
		t.Errorf("no-replace: %v", err)
	}
	must(t, d.Rename("a", sub, "b", unix.RENAME_EXCHANGE))
	if b, _ := sub.Stat("b"); b.Ino != a.Ino {
		t.Error("not exchanged")
	}
	must(t, sub.Rename("b", d, "c", 0), d.Link("c", sub, "c2"), d.Unlink("c"), sub.Unlink("c2"), d.Rmdir("sub"))
	if err := d.Unlink("sub/x"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("path: %v", err)
	}
	if err := d.Rename("c", nil, "d", 0); !errors.Is(err, unix.EXDEV) {
		t.Errorf("another kind of directory: %v", err)
	}
}

func TestAttributes(t *testing.T) {
	d, _ := openTemp(t)
	mustFile(t, d, "file")
	must(t, d.Mkdir("dir", 0o700), d.Symlink("file", "link"), d.Mknod("fifo", unix.S_IFIFO|0o600, 0))
	before, err := d.Stat("file")
	must(t, err)
	at, mt := unix.Timespec{Sec: 5, Nsec: 6}, unix.Timespec{Sec: 7, Nsec: 8}
	for _, name := range []string{"file", "dir", "link", "fifo", ""} {
		err := d.Chmod(name, 0o711)
		if name == "link" {
			if !errors.Is(err, unix.EOPNOTSUPP) {
				t.Errorf("chmod of a symlink: %v", err)
			}
		} else if err != nil {
			t.Errorf("chmod of %q: %v", name, err)
		}
		must(t, d.Utimes(name, at, mt), d.Chown(name, -1, -1))
		st, err := d.Stat(name)
		if err != nil || st.Atim != at || st.Mtim != mt || name != "link" && st.Mode&0o7777 != 0o711 {
			t.Errorf("%q: %+v, %v", name, st, err)
		}
		must(t, d.Utimes(name, unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}))
		if st, _ := d.Stat(name); st.Atim != at || st.Mtim == mt {
			t.Errorf("%q: omit and now: %+v", name, st)
		}
	}
	if after, _ := d.Stat("file"); after.Ino != before.Ino {
		t.Error("another inode")
	}
	if s, err := d.Readlink("link"); s != "file" || err != nil {
		t.Errorf("readlink: %q, %v", s, err)
	}
	if _, err := d.Readlink("file"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("readlink of a file: %v", err)
	}
	var st Statfs
	if st, err = d.Statfs(); err != nil || st.Bsize == 0 {
		t.Errorf("statfs: %+v, %v", st, err)
	}
	must(t, d.Sync(), d.SyncAll())
}

func TestChmodWithoutFollowing(t *testing.T) {
	d, _ := openTemp(t)
	mustFile(t, d, "file")
	must(t, d.Symlink("file", "link"), d.Mknod("fifo", unix.S_IFIFO|0o600, 0))
	od := d.(osDir)
	for _, name := range []string{"file", "fifo"} {
		must(t, od.chmodByPath(name, 0o604, unix.EOPNOTSUPP))
		if st, _ := d.Stat(name); st.Mode&0o7777 != 0o604 {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
	}
	if err := od.chmodByPath("link", 0o777, unix.EOPNOTSUPP); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("symlink: %v", err)
	}
	if st, _ := d.Stat("file"); st.Mode&0o7777 != 0o604 {
		t.Error("a symlink was followed")
	}
}

func TestXattr(t *testing.T) {
	d, _ := openTemp(t)
	f := mustFile(t, d, "file")
	must(t, d.Mkdir("dir", 0o700), d.Symlink("file", "link"))
	names := []string{"file", "dir", ""}
	attr := "user.one"
	if err := d.Setxattr("link", "trusted.one", []byte("link"), 0); err == nil {
		if n, err := d.Getxattr("link", "trusted.one", make([]byte, 10)); n != 4 || err != nil {
			t.Errorf("symlink: %d, %v", n, err)
		}
		if _, err := d.Getxattr("file", "trusted.one", nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("a symlink was followed: %v", err)
		}
	}
	for _, name := range names {
		if err := d.Setxattr(name, attr, []byte("value"), unix.XATTR_CREATE); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("no user xattrs here")
		} else if err != nil {
			t.Fatal(name, err)
		}
		if err := d.Setxattr(name, attr, nil, unix.XATTR_CREATE); !errors.Is(err, unix.EEXIST) {
			t.Errorf("%q: %v", name, err)
		}
		p := make([]byte, 100)
		if n, err := d.Getxattr(name, attr, nil); n != 5 || err != nil {
			t.Errorf("%q: size %d, %v", name, n, err)
		}
		if n, err := d.Getxattr(name, attr, p); string(p[:n]) != "value" || err != nil {
			t.Errorf("%q: %q, %v", name, p[:n], err)
		}
		if n, err := d.Listxattr(name, p); !strings.Contains(string(p[:n]), attr+"\x00") || err != nil {
			t.Errorf("%q: %q, %v", name, p[:n], err)
		}
		must(t, d.Removexattr(name, attr))
	}
	must(t, f.Setxattr(attr, []byte("x"), 0))
	p := make([]byte, 100)
	if n, err := f.Getxattr(attr, p); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := f.Listxattr(p); n < len(attr) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	must(t, f.Removexattr(attr), f.Chmod(0o600), f.Chown(-1, -1), f.Utimes(unix.Timespec{Sec: 1}, unix.Timespec{Sec: 2}))
	if st, _ := f.Stat(); st.Mtim.Sec != 2 {
		t.Error("times not set")
	}
}

func TestReadDirResumes(t *testing.T) {
	d, _ := openTemp(t)
	const count = 3000
	for i := range count {
		must(t, d.Mknod(fmt.Sprintf("%0100d", i), unix.S_IFREG|0o600, 0))
	}
	s, err := d.ReadDir()
	must(t, err)
	defer s.Close()
	var all []Dirent
	for {
		e, ok, err := s.Next()
		must(t, err)
		if !ok {
			break
		}
		all = append(all, e)
	}
	if len(all) != count+2 {
		t.Fatalf("%d entries", len(all))
	}
	for _, i := range []int{0, 1, 17, count / 2, count} {
		must(t, s.SeekTo(all[i].Off))
		if e, ok, err := s.Next(); !ok || err != nil || e != all[i+1] {
			t.Errorf("after %d: %v, %v, %v, want %v", i, e, ok, err, all[i+1])
		}
	}
	must(t, s.SeekTo(all[count+1].Off))
	if e, ok, err := s.Next(); ok || err != nil {
		t.Errorf("after the last: %v, %v", e, err)
	}
	must(t, s.SeekTo(0))
	if e, ok, err := s.Next(); !ok || err != nil || e != all[0] {
		t.Errorf("from the start: %v, %v, %v", e, ok, err)
	}
	slices.SortFunc(all, func(a, b Dirent) int { return strings.Compare(a.Name, b.Name) })
	st, err := d.Stat(all[2].Name)
	must(t, err)
	if e := all[2]; e.Name != fmt.Sprintf("%0100d", 0) || e.Ino != st.Ino || e.Type != unix.DT_REG && e.Type != unix.DT_UNKNOWN {
		t.Errorf("%+v", e)
	}
}

func TestInterruptedCallsAreRepeated(t *testing.T) {
	d, _ := openTemp(t)
	calls := 0
	err := d.(osDir).do(func(int) error {
		if calls++; calls < 4 {
			return unix.EINTR
		}
		return unix.ENOSPC
	})
	if calls != 4 || err != unix.ENOSPC {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// A descriptor that is closed under a running call is not reused before the
// call ends, and calls after Close fail.
func TestCloseWhileInUse(t *testing.T) {
	d, _ := openTemp(t)
	for range 50 {
		f := mustFile(t, d, "f")
		other := make([]byte, 100)
		var wg sync.WaitGroup
		for range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					if _, err := f.WriteAt([]byte("mine"), 0); err != nil {
						if err != unix.EBADF {
							t.Error(err)
						}
						return
					}
				}
			}()
		}
		time.Sleep(time.Millisecond)
		must(t, f.Close())
		g := mustFile(t, d, "g") // likely to get the same number
		wg.Wait()
		if n, _ := g.ReadAt(other, 0); n != 0 {
			t.Fatal("a call reached another file")
		}
		if err := f.Close(); err != unix.EBADF {
			t.Errorf("second close: %v", err)
		}
		must(t, g.Close())
	}
}
