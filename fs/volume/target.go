package volume

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// target is a way to the attributes of an inode. A backing.File is one.
type target interface {
	Stat() (Stat, error)
	Chmod(perm uint32) error
	Chown(uid, gid int) error
	Utimes(atime, mtime unix.Timespec) error
	Getxattr(attr string, dst []byte) (int, error)
	Setxattr(attr string, value []byte, flags int) error
	Listxattr(dst []byte) (int, error)
	Removexattr(attr string) error
}

var _ target = backing.File(nil)

// named is the target at a name in a directory, or the directory itself where
// the name is empty.
type named struct {
	dir  backing.Dir
	name string
}

func (t named) Stat() (Stat, error)      { return t.dir.Stat(t.name) }
func (t named) Chmod(perm uint32) error  { return t.dir.Chmod(t.name, perm) }
func (t named) Chown(uid, gid int) error { return t.dir.Chown(t.name, uid, gid) }

func (t named) Utimes(atime, mtime unix.Timespec) error {
	return t.dir.Utimes(t.name, atime, mtime)
}

func (t named) Getxattr(attr string, dst []byte) (int, error) {
	return t.dir.Getxattr(t.name, attr, dst)
}

func (t named) Setxattr(attr string, value []byte, flags int) error {
	return t.dir.Setxattr(t.name, attr, value, flags)
}

func (t named) Listxattr(dst []byte) (int, error) { return t.dir.Listxattr(t.name, dst) }
func (t named) Removexattr(attr string) error     { return t.dir.Removexattr(t.name, attr) }

// byName calls f with a name of n that is n's for the duration of the call.
// The caller holds no directory's lock.
func (v *Volume) byName(n *Node, f func(named) error) error {
	for {
		b, ok := v.table.name(n)
		if !ok {
			return unix.ESTALE
		}
		d, err := v.dir(b.dir)
		if err != nil {
			return err
		}
		b.dir.names.RLock()
		held := v.table.holds(n, b)
		if held {
			err = f(named{d, b.name})
		}
		b.dir.names.RUnlock()
		v.dirs.done(d)
		if held {
			return err
		}
	}
}

// reach calls f with a way to n's attributes: its descriptor if it has one,
// else a name, else what was kept when its last name went. The caller holds no directory's lock.
func (v *Volume) reach(n *Node, f func(target) error) error {
	if n.isDir() {
		if d := v.dirs.use(n); d != nil {
			defer v.dirs.done(d)
			return f(named{d, ""})
		}
	} else if file := n.join(); file != nil {
		defer v.leave(n)
		return f(file.Backing())
	}
	err := v.byName(n, func(t named) error { return f(t) })
	if errors.Is(err, unix.ESTALE) {
		return v.atOrphan(n, f)
	}
	return err
}
