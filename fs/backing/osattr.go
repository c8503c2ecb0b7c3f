package backing

import "golang.org/x/sys/unix"

// The attributes of what a directory holds, or of the directory itself where
// the name is empty. No call follows a symlink.

// nameOrSelf is at, with "" for the directory itself.
func (d osDir) nameOrSelf(name string, call func(fd int) error) error {
	if name == "" {
		return d.do(call)
	}
	return d.at(name, call)
}

// path runs call with a path of name for calls that have no descriptor form.
// The last component is not resolved by it: call must be an l* one.
func (d osDir) path(name string, call func(path string) error) error {
	return d.at(name, func(fd int) error { return call(fdPath(fd) + "/" + name) })
}

func (d osDir) Stat(name string) (Stat, error) {
	var st Stat
	err := d.nameOrSelf(name, func(fd int) error {
		if name == "" {
			return unix.Fstat(fd, &st)
		}
		return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

func (d osDir) Chmod(name string, perm uint32) error {
	return d.nameOrSelf(name, func(fd int) error {
		if name == "" {
			return unix.Fchmod(fd, perm)
		}
		// fchmodat2(2) is there from Linux 6.6 on.
		err := unix.Fchmodat(fd, name, perm, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EOPNOTSUPP || err == unix.EPERM {
			return d.chmodByPath(name, perm, err)
		}
		return err
	})
}

// chmodByPath is chmod for kernels that cannot do it without following a
// symlink: the inode is pinned first, then changed by its name in /proc.
func (d osDir) chmodByPath(name string, perm uint32, first error) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	return d.do(func(at int) error {
		fd, err := unix.Openat2(at, name, &how)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st Stat
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return first
		}
		return unix.Chmod(fdPath(fd), perm)
	})
}

func (d osDir) Chown(name string, uid, gid int) error {
	return d.nameOrSelf(name, func(fd int) error {
		return unix.Fchownat(fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	})
}

func (d osDir) Utimes(name string, atime, mtime unix.Timespec) error {
	ts := []unix.Timespec{atime, mtime}
	return d.nameOrSelf(name, func(fd int) error {
		if name == "" {
			return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), ts, 0)
		}
		return unix.UtimesNanoAt(fd, name, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (d osDir) Getxattr(name, attr string, dst []byte) (n int, err error) {
	if name == "" {
		err = d.do(func(fd int) (err error) { n, err = unix.Fgetxattr(fd, attr, dst); return err })
		return n, err
	}
	err = d.path(name, func(path string) (err error) { n, err = unix.Lgetxattr(path, attr, dst); return err })
	return n, err
}

func (d osDir) Setxattr(name, attr string, value []byte, flags int) error {
	if name == "" {
		return d.do(func(fd int) error { return unix.Fsetxattr(fd, attr, value, flags) })
	}
	return d.path(name, func(path string) error { return unix.Lsetxattr(path, attr, value, flags) })
}

func (d osDir) Listxattr(name string, dst []byte) (n int, err error) {
	if name == "" {
		err = d.do(func(fd int) (err error) { n, err = unix.Flistxattr(fd, dst); return err })
		return n, err
	}
	err = d.path(name, func(path string) (err error) { n, err = unix.Llistxattr(path, dst); return err })
	return n, err
}

func (d osDir) Removexattr(name, attr string) error {
	if name == "" {
		return d.do(func(fd int) error { return unix.Fremovexattr(fd, attr) })
	}
	return d.path(name, func(path string) error { return unix.Lremovexattr(path, attr) })
}
