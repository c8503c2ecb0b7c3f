package backing

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// osFile is a File of the operating system.
type osFile struct {
	*handle
	accessing *sync.Mutex
}

var _ interface {
	File
	Accessor
} = osFile{}

// regular takes over fd if it is a regular file and closes it otherwise. No
// byte has been read or written by then.
func regular(fd int) (File, error) {
	var st Stat
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, unix.EINVAL
	}
	return osFile{newHandle(fd), &sync.Mutex{}}, nil
}

func (f osFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	for n < len(p) {
		m := 0
		err := f.do(func(fd int) (err error) {
			m, err = unix.Pread(fd, p[n:], off+int64(n))
			return err
		})
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

func (f osFile) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	for n < len(p) {
		m := 0
		err := f.do(func(fd int) (err error) {
			m, err = unix.Pwrite(fd, p[n:], off+int64(n))
			return err
		})
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, unix.EIO
		}
		n += m
	}
	return n, nil
}

// Accessed reads a byte with O_NOATIME taken off the descriptor: setting the
// access time would move the change time, and whether a read moves it is for
// the options of the backing mount to say.
func (f osFile) Accessed() error {
	f.accessing.Lock()
	defer f.accessing.Unlock()
	return f.do(func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_NOATIME); err != nil {
			return err
		}
		var b [1]byte
		_, err = unix.Pread(fd, b[:], 0)
		if _, err2 := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags); err == nil {
			err = err2
		}
		return err
	})
}

func (f osFile) Truncate(size int64) error {
	return f.do(func(fd int) error { return unix.Ftruncate(fd, size) })
}

func (f osFile) Allocate(mode uint32, off, length int64) error {
	return f.do(func(fd int) error { return unix.Fallocate(fd, mode, off, length) })
}

func (f osFile) SeekHole(off int64, whence int) (pos int64, err error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	err = f.do(func(fd int) (err error) {
		pos, err = unix.Seek(fd, off, whence)
		return err
	})
	return pos, err
}

func (f osFile) Sync() error { return f.do(unix.Fsync) }

func (f osFile) Datasync() error { return f.do(unix.Fdatasync) }

func (f osFile) Flock(how int) error {
	return f.do(func(fd int) error { return unix.Flock(fd, how) })
}

func (f osFile) Stat() (Stat, error) {
	var st Stat
	err := f.do(func(fd int) error { return unix.Fstat(fd, &st) })
	return st, err
}

func (f osFile) Chmod(perm uint32) error {
	return f.do(func(fd int) error { return unix.Fchmod(fd, perm) })
}

func (f osFile) Chown(uid, gid int) error {
	return f.do(func(fd int) error { return unix.Fchown(fd, uid, gid) })
}

func (f osFile) Utimes(atime, mtime unix.Timespec) error {
	ts := []unix.Timespec{atime, mtime}
	return f.do(func(fd int) error {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), ts, 0)
		if err != unix.ESTALE {
			return err
		}
		// FUSE passes no open file along, and so a network filesystem below it
		// does not find one whose last name is gone. Its times go with it.
		var st Stat
		if e := unix.Fstat(fd, &st); e == unix.ESTALE || e == nil && st.Nlink == 0 {
			return nil
		}
		return err
	})
}

func (f osFile) Getxattr(attr string, dst []byte) (n int, err error) {
	err = f.do(func(fd int) (err error) { n, err = unix.Fgetxattr(fd, attr, dst); return err })
	return n, err
}

func (f osFile) Setxattr(attr string, value []byte, flags int) error {
	return f.do(func(fd int) error { return unix.Fsetxattr(fd, attr, value, flags) })
}

func (f osFile) Listxattr(dst []byte) (n int, err error) {
	err = f.do(func(fd int) (err error) { n, err = unix.Flistxattr(fd, dst); return err })
	return n, err
}

func (f osFile) Removexattr(attr string) error {
	return f.do(func(fd int) error { return unix.Fremovexattr(fd, attr) })
}

func (f osFile) Close() error { return f.close() }
