package crashfs

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func (fs *FS) chmod(n *node, perm uint32) error {
	if n.kind == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	fs.setAttr(n, func(a *attr) { a.mode = perm & 0o7777 })
	return nil
}

func (fs *FS) chown(n *node, uid, gid int) error {
	fs.setAttr(n, func(a *attr) {
		if uid != -1 {
			a.uid = uint32(uid)
		}
		if gid != -1 {
			a.gid = uint32(gid)
		}
	})
	return nil
}

func (fs *FS) utimes(n *node, atime, mtime unix.Timespec) error {
	fs.setAttr(n, func(a *attr) {
		set := func(to *unix.Timespec, t unix.Timespec) {
			switch t.Nsec {
			case unix.UTIME_OMIT:
			case unix.UTIME_NOW:
				*to = fs.now()
			default:
				*to = t
			}
		}
		set(&a.atime, atime)
		set(&a.mtime, mtime)
	})
	return nil
}

func (n *node) getxattr(name string, dst []byte) (int, error) {
	v, ok := n.attr.xattrs[name]
	if !ok {
		return 0, unix.ENODATA
	}
	return give(dst, v)
}

// give copies v to dst as the xattr calls do.
func give(dst, v []byte) (int, error) {
	if len(dst) == 0 {
		return len(v), nil
	}
	if len(dst) < len(v) {
		return 0, unix.ERANGE
	}
	return copy(dst, v), nil
}

func (fs *FS) setxattr(n *node, name string, value []byte, flags int) error {
	_, ok := n.attr.xattrs[name]
	switch {
	case !strings.Contains(name, "."):
		return unix.EOPNOTSUPP
	case strings.HasPrefix(name, "user.") && n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR:
		return unix.EPERM
	case ok && flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !ok && flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	}
	fs.setAttr(n, func(a *attr) {
		x := maps.Clone(a.xattrs)
		if x == nil {
			x = map[string][]byte{}
		}
		x[name] = slices.Clone(value)
		a.xattrs = x
	})
	return nil
}

func (n *node) listxattr(dst []byte) (int, error) {
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(n.attr.xattrs)) {
		list = append(append(list, name...), 0)
	}
	return give(dst, list)
}

func (fs *FS) removexattr(n *node, name string) error {
	if _, ok := n.attr.xattrs[name]; !ok {
		return unix.ENODATA
	}
	fs.setAttr(n, func(a *attr) {
		a.xattrs = maps.Clone(a.xattrs)
		delete(a.xattrs, name)
	})
	return nil
}

func (f *file) attr(call func() error) error {
	unlock, err := f.change(OpAttr)
	if err != nil {
		return err
	}
	defer unlock()
	return call()
}

func (f *file) Chmod(perm uint32) error {
	return f.attr(func() error { return f.fs.chmod(f.n, perm) })
}

func (f *file) Chown(uid, gid int) error {
	return f.attr(func() error { return f.fs.chown(f.n, uid, gid) })
}

func (f *file) Utimes(atime, mtime unix.Timespec) error {
	return f.attr(func() error { return f.fs.utimes(f.n, atime, mtime) })
}

func (f *file) Setxattr(attr string, value []byte, flags int) error {
	return f.attr(func() error { return f.fs.setxattr(f.n, attr, value, flags) })
}

func (f *file) Removexattr(attr string) error {
	return f.attr(func() error { return f.fs.removexattr(f.n, attr) })
}

func (f *file) Getxattr(attr string, dst []byte) (int, error) {
	unlock, err := f.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	return f.n.getxattr(attr, dst)
}

func (f *file) Listxattr(dst []byte) (int, error) {
	unlock, err := f.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	return f.n.listxattr(dst)
}
