package modeltest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is the Tree below a directory, reached by system calls.
type Dir string

func (d Dir) path(p string) string { return filepath.Join(string(d), p) }

// errno takes errors of package os apart.
func errno(err error) error {
	switch e := err.(type) {
	case *os.PathError:
		return errno(e.Err)
	case *os.SyscallError:
		return errno(e.Err)
	}
	return err
}

func (d Dir) open(path string, flags int, mode uint32) (File, error) {
	fd, err := unix.Open(d.path(path), flags|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, unix.EINVAL
	}
	return &plainFile{fd}, nil
}

func (d Dir) Create(path string, mode uint32) (File, error) {
	return d.open(path, unix.O_CREAT|unix.O_EXCL, mode)
}

func (d Dir) Open(path string, truncate bool) (File, error) {
	flags := 0
	if truncate {
		flags = unix.O_TRUNC
	}
	return d.open(path, flags, 0)
}

func (d Dir) Truncate(path string, size int64) error { return unix.Truncate(d.path(path), size) }
func (d Dir) Mkdir(path string, mode uint32) error   { return unix.Mkdir(d.path(path), mode) }
func (d Dir) Rmdir(path string) error                { return unix.Rmdir(d.path(path)) }
func (d Dir) Unlink(path string) error               { return unix.Unlink(d.path(path)) }
func (d Dir) Mkfifo(path string, mode uint32) error  { return unix.Mkfifo(d.path(path), mode) }

func (d Dir) Symlink(target, path string) error { return unix.Symlink(target, d.path(path)) }

func (d Dir) Link(path, newPath string) error {
	return unix.Linkat(unix.AT_FDCWD, d.path(path), unix.AT_FDCWD, d.path(newPath), 0)
}

func (d Dir) Rename(path, newPath string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, d.path(path), unix.AT_FDCWD, d.path(newPath), flags)
}

func (d Dir) Chmod(path string, mode uint32) error { return unix.Chmod(d.path(path), mode) }

func (d Dir) SetTimes(path string, mtime unix.Timespec) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	return unix.UtimesNanoAt(unix.AT_FDCWD, d.path(path), ts, unix.AT_SYMLINK_NOFOLLOW)
}

func (d Dir) SetXattr(path, name string, value []byte, flags int) error {
	return unix.Lsetxattr(d.path(path), name, value, flags)
}

func (d Dir) RemoveXattr(path, name string) error { return unix.Lremovexattr(d.path(path), name) }

func (d Dir) Stat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(d.path(path), &st)
	return st, err
}

func (d Dir) Readlink(path string) (string, error) {
	s, err := os.Readlink(d.path(path))
	return s, errno(err)
}

func (d Dir) Xattrs(path string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(d.path(path), buf)
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	for b := range bytes.SplitSeq(buf[:n], []byte{0}) {
		name := string(b)
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(d.path(path), name, value)
		if err != nil {
			return nil, err
		}
		attrs[name] = string(value[:n])
	}
	return attrs, nil
}

func (d Dir) List(path string) ([]string, error) {
	entries, err := os.ReadDir(d.path(path))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, errno(err)
}

type plainFile struct{ fd int }

func (f *plainFile) Read(off int64, n int) ([]byte, error) {
	buf := make([]byte, n)
	got := 0
	for got < n {
		m, err := unix.Pread(f.fd, buf[got:], off+int64(got))
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		got += m
	}
	return buf[:got], nil
}

func (f *plainFile) Write(w Way, off int64, data []byte) error {
	switch w {
	case Mapped:
		return f.mapped(off, data)
	case Direct:
		return f.flagged(unix.O_DIRECT, off, data)
	case Synced:
		return f.flagged(unix.O_DSYNC, off, data)
	}
	return writeAll(f.fd, off, data)
}

func writeAll(fd int, off int64, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		if err != nil {
			return err
		}
		off, data = off+int64(n), data[n:]
	}
	return nil
}

// mapped writes through a shared mapping, after extending the file.
func (f *plainFile) mapped(off int64, data []byte) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	end := off + int64(len(data))
	if size < end {
		if err := unix.Ftruncate(f.fd, end); err != nil {
			return err
		}
	}
	if len(data) == 0 {
		return nil
	}
	start := off &^ int64(os.Getpagesize()-1)
	m, err := unix.Mmap(f.fd, start, int(end-start), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m[off-start:], data)
	return unix.Munmap(m)
}

// flagged writes through a second descriptor, opened with flags. On a plain
// directory O_DIRECT must be aligned, and is left out.
func (f *plainFile) flagged(flags int, off int64, data []byte) error {
	link := "/proc/self/fd/" + itoa(f.fd)
	fd, err := unix.Open(link, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = writeAll(fd, off, data)
	if err == unix.EINVAL && flags == unix.O_DIRECT {
		err = writeAll(f.fd, off, data)
	}
	return err
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func (f *plainFile) Truncate(size int64) error { return unix.Ftruncate(f.fd, size) }
func (f *plainFile) Sync() error               { return unix.Fsync(f.fd) }
func (f *plainFile) Close() error              { return unix.Close(f.fd) }

func (f *plainFile) Allocate(mode uint32, off, n int64) error {
	return unix.Fallocate(f.fd, mode, off, n)
}

func (f *plainFile) Size() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return st.Size, err
}
