package backing

import (
	"strings"

	"golang.org/x/sys/unix"
)

// osDir is a Dir of the operating system.
type osDir struct {
	*handle
	// fuse says that it lies on a FUSE filesystem, one that other hosts may
	// write to. The kernel's pages of a file may then be older than the file.
	fuse bool
}

var _ Dir = osDir{}

// resolve holds every open below a directory to that directory: no symlink,
// no mount, no way up.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// OpenDir opens the directory at path, the root of a backing side. Symlinks
// in path itself are followed: it is the caller's, not the volume's.
func OpenDir(path string) (Dir, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			var st Statfs
			if err := unix.Fstatfs(fd, &st); err != nil {
				unix.Close(fd)
				return nil, err
			}
			return osDir{newHandle(fd), st.Type == unix.FUSE_SUPER_MAGIC}, nil
		case unix.EINTR:
		default:
			return nil, err
		}
	}
}

// component reports whether name is one path component.
func component(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// at runs call with the descriptor of d and the checked name.
func (d osDir) at(name string, call func(fd int) error) error {
	if !component(name) {
		return unix.EINVAL
	}
	return d.do(call)
}

// open is openat2(2) with the rules of this package.
func (d osDir) open(name string, flags int, perm uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK),
		Mode:    uint64(perm & 0o7777),
		Resolve: resolve,
	}
	fd := -1
	err := d.do(func(at int) (err error) {
		for range 8 { // EAGAIN: the kernel saw a rename and wants the lookup repeated
			if fd, err = unix.Openat2(at, name, &how); err != unix.EAGAIN {
				break
			}
		}
		return err
	})
	return fd, err
}

func (d osDir) OpenFile(name string, flags int, perm uint32) (File, error) {
	if !component(name) || flags&^(unix.O_ACCMODE|unix.O_CREAT|unix.O_EXCL) != 0 {
		return nil, unix.EINVAL
	}
	if flags&unix.O_CREAT == 0 {
		perm = 0
	}
	// O_NOATIME is for the owner and root.
	fd, err := d.open(name, flags|unix.O_NOATIME, perm)
	if err == unix.EPERM {
		fd, err = d.open(name, flags, perm)
	}
	if err != nil {
		return nil, err
	}
	if d.fuse {
		unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	}
	return regular(fd)
}

func (d osDir) Tmpfile(perm uint32) (File, error) {
	fd, err := d.open(".", unix.O_TMPFILE|unix.O_RDWR|unix.O_NOATIME, perm)
	if err != nil {
		return nil, err
	}
	return regular(fd)
}

func (d osDir) OpenDir(name string) (Dir, error) {
	if name == "" {
		name = "."
	} else if !component(name) {
		return nil, unix.EINVAL
	}
	fd, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return osDir{newHandle(fd), d.fuse}, nil
}

func (d osDir) LinkFile(f File, name string) error {
	file, ok := f.(osFile)
	if !ok {
		return unix.EXDEV
	}
	return d.at(name, func(at int) error {
		return file.do(func(fd int) error {
			// An empty path wants CAP_DAC_READ_SEARCH (ENOENT without it).
			err := unix.Linkat(fd, "", at, name, unix.AT_EMPTY_PATH)
			if err == unix.ENOENT || err == unix.EPERM || err == unix.EINVAL {
				err = unix.Linkat(unix.AT_FDCWD, fdPath(fd), at, name, unix.AT_SYMLINK_FOLLOW)
			}
			return err
		})
	})
}

// two runs call with the descriptors of d and to.
func (d osDir) two(name string, to Dir, newName string, call func(from, to int) error) error {
	t, ok := to.(osDir)
	if !ok {
		return unix.EXDEV
	}
	return d.at(name, func(from int) error {
		return t.at(newName, func(to int) error { return call(from, to) })
	})
}

func (d osDir) Link(name string, to Dir, newName string) error {
	return d.two(name, to, newName, func(from, to int) error {
		return unix.Linkat(from, name, to, newName, 0)
	})
}

func (d osDir) Rename(name string, to Dir, newName string, flags uint) error {
	err := d.two(name, to, newName, func(from, to int) error {
		return unix.Renameat2(from, name, to, newName, flags)
	})
	if flags != unix.RENAME_NOREPLACE || err != unix.EINVAL && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
		return err
	}
	// A network filesystem may have no flags. One process has the volume, and
	// makes a name in one place at a time, so looking first is as good.
	switch _, err := to.Stat(newName); err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
	default:
		return err
	}
	return d.two(name, to, newName, func(from, to int) error {
		return unix.Renameat(from, name, to, newName)
	})
}

func (d osDir) Unlink(name string) error {
	return d.at(name, func(fd int) error { return unix.Unlinkat(fd, name, 0) })
}

func (d osDir) Rmdir(name string) error {
	return d.at(name, func(fd int) error { return unix.Unlinkat(fd, name, unix.AT_REMOVEDIR) })
}

func (d osDir) Mkdir(name string, perm uint32) error {
	return d.at(name, func(fd int) error { return unix.Mkdirat(fd, name, perm) })
}

func (d osDir) Mknod(name string, mode uint32, dev uint64) error {
	return d.at(name, func(fd int) error { return unix.Mknodat(fd, name, mode, int(dev)) })
}

func (d osDir) Symlink(target, name string) error {
	return d.at(name, func(fd int) error { return unix.Symlinkat(target, fd, name) })
}

func (d osDir) Readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n := 0
	err := d.at(name, func(fd int) (err error) {
		n, err = unix.Readlinkat(fd, name, buf)
		return err
	})
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (d osDir) Sync() error { return d.do(unix.Fsync) }

func (d osDir) SyncAll() error { return d.do(unix.Syncfs) }

func (d osDir) Statfs() (Statfs, error) {
	var st Statfs
	err := d.do(func(fd int) error { return unix.Fstatfs(fd, &st) })
	return st, err
}

func (d osDir) Close() error { return d.close() }
