package crashfs

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// dir is an open directory.
type dir struct {
	fs     *FS
	n      *node
	closed bool
}

var _ backing.Dir = (*dir)(nil)

func (fs *FS) openDir(n *node) *dir { return &dir{fs: fs, n: n} }

func component(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// lookup returns what a name stands for; "" is the directory. fs.mu is held.
func (d *dir) lookup(name string) (*node, error) {
	switch {
	case d.closed:
		return nil, unix.EBADF
	case name == "":
		return d.n, nil
	case !component(name):
		return nil, unix.EINVAL
	case len(name) > 255:
		return nil, unix.ENAMETOOLONG
	}
	n := d.n.names[name]
	if n == nil {
		return nil, unix.ENOENT
	}
	return n, nil
}

// vacant checks that a name can be given here. fs.mu is held.
func (d *dir) vacant(name string) error {
	if name == "" {
		return unix.EINVAL
	}
	_, err := d.lookup(name)
	switch err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
		if d.n.nlink == 0 { // the directory itself was removed
			return unix.ENOENT
		}
		return nil
	}
	return err
}

// add makes a new inode under a name. fs.mu is held.
func (d *dir) add(name string, mode uint32, rdev uint64) (*node, error) {
	if err := d.vacant(name); err != nil {
		return nil, err
	}
	n := d.fs.newNode(mode, rdev)
	d.fs.do(&nameOp{node: n, sets: []set{{d.n, name, nil, n}}})
	return n, nil
}

func (d *dir) OpenFile(name string, flags int, perm uint32) (backing.File, error) {
	if flags&^(unix.O_ACCMODE|unix.O_CREAT|unix.O_EXCL) != 0 || name == "" {
		return nil, unix.EINVAL
	}
	if flags&unix.O_CREAT != 0 {
		d.fs.begin(OpName)
	} else {
		d.fs.mu.Lock()
	}
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	switch {
	case err == unix.ENOENT && flags&unix.O_CREAT != 0:
		if n, err = d.add(name, unix.S_IFREG|perm&0o7777, 0); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		return nil, unix.EEXIST
	case n.kind == unix.S_IFLNK:
		return nil, unix.ELOOP
	case n.kind == unix.S_IFDIR && flags != unix.O_RDONLY:
		return nil, unix.EISDIR
	case n.kind != unix.S_IFREG:
		return nil, unix.EINVAL
	}
	return &file{fs: d.fs, n: n, write: flags&unix.O_ACCMODE != unix.O_RDONLY}, nil
}

func (d *dir) Tmpfile(perm uint32) (backing.File, error) {
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	if d.closed {
		return nil, unix.EBADF
	}
	return &file{fs: d.fs, n: d.fs.newNode(unix.S_IFREG|perm&0o7777, 0), write: true}, nil
}

func (d *dir) OpenDir(name string) (backing.Dir, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	switch {
	case err != nil:
		return nil, err
	case n.kind == unix.S_IFLNK:
		return nil, unix.ELOOP
	case n.kind != unix.S_IFDIR:
		return nil, unix.ENOTDIR
	}
	return d.fs.openDir(n), nil
}

func (d *dir) LinkFile(f backing.File, name string) error {
	cf, ok := f.(*file)
	if !ok || cf.fs != d.fs {
		return unix.EXDEV
	}
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	if cf.closed {
		return unix.EBADF
	}
	if err := d.vacant(name); err != nil {
		return err
	}
	d.fs.do(&nameOp{node: cf.n, sets: []set{{d.n, name, nil, cf.n}}})
	return nil
}

func (d *dir) other(to backing.Dir) (*dir, error) {
	t, ok := to.(*dir)
	if !ok || t.fs != d.fs {
		return nil, unix.EXDEV
	}
	return t, nil
}

func (d *dir) Link(name string, to backing.Dir, newName string) error {
	t, err := d.other(to)
	if err != nil {
		return err
	}
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return err
	}
	if err := t.vacant(newName); err != nil {
		return err
	}
	if n.kind == unix.S_IFDIR {
		return unix.EPERM
	}
	d.fs.do(&nameOp{node: n, sets: []set{{t.n, newName, nil, n}}})
	return nil
}

func (d *dir) Rename(name string, to backing.Dir, newName string, flags uint) error {
	t, err := d.other(to)
	if err != nil {
		return err
	}
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil || name == "" || newName == "" {
		return cmpErr(err, unix.EINVAL)
	}
	old, err := t.lookup(newName)
	if err != nil && err != unix.ENOENT {
		return err
	}
	for p := t.n; p != nil; p = p.parent {
		if p == n { // a directory into itself
			return unix.EINVAL
		}
	}
	switch {
	case flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0:
		return unix.EINVAL
	case flags == unix.RENAME_EXCHANGE:
		if old == nil {
			return unix.ENOENT
		}
		d.fs.do(&nameOp{node: n, sets: []set{{d.n, name, n, old}, {t.n, newName, old, n}}})
		return nil
	case old == nil:
	case flags == unix.RENAME_NOREPLACE:
		return unix.EEXIST
	case old == n:
		return nil
	case old.kind == unix.S_IFDIR && n.kind != unix.S_IFDIR:
		return unix.EISDIR
	case old.kind != unix.S_IFDIR && n.kind == unix.S_IFDIR:
		return unix.ENOTDIR
	case len(old.names) > 0:
		return unix.ENOTEMPTY
	}
	d.fs.do(&nameOp{node: n, sets: []set{{d.n, name, n, nil}, {t.n, newName, old, n}}})
	return nil
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (d *dir) Unlink(name string) error {
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	switch {
	case err != nil:
		return err
	case n.kind == unix.S_IFDIR:
		return unix.EISDIR
	}
	d.fs.do(&nameOp{sets: []set{{d.n, name, n, nil}}})
	return nil
}

func (d *dir) Rmdir(name string) error {
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	switch {
	case err != nil:
		return err
	case name == "":
		return unix.EINVAL
	case n.kind != unix.S_IFDIR:
		return unix.ENOTDIR
	case len(n.names) > 0:
		return unix.ENOTEMPTY
	}
	d.fs.do(&nameOp{sets: []set{{d.n, name, n, nil}}})
	return nil
}

func (d *dir) Mkdir(name string, perm uint32) error {
	return d.make(name, unix.S_IFDIR|perm&0o7777, 0, "")
}

func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	if mode&unix.S_IFMT == 0 {
		mode |= unix.S_IFREG
	}
	return d.make(name, mode, dev, "")
}

func (d *dir) Symlink(target, name string) error {
	if len(target) >= 4096 {
		return unix.ENAMETOOLONG
	}
	return d.make(name, unix.S_IFLNK|0o777, 0, target)
}

func (d *dir) make(name string, mode uint32, rdev uint64, target string) error {
	d.fs.begin(OpName)
	defer d.fs.mu.Unlock()
	n, err := d.add(name, mode, rdev)
	if err == nil {
		n.target = target
	}
	return err
}

func (d *dir) Readlink(name string) (string, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err == nil && n.kind != unix.S_IFLNK {
		err = unix.EINVAL
	}
	if err != nil {
		return "", err
	}
	return n.target, nil
}

func (d *dir) Stat(name string) (backing.Stat, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return backing.Stat{}, err
	}
	return n.stat(), nil
}

// attr runs call for a change of what name stands for.
func (d *dir) attr(name string, call func(*node) error) error {
	d.fs.begin(OpAttr)
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return err
	}
	return call(n)
}

func (d *dir) Chmod(name string, perm uint32) error {
	return d.attr(name, func(n *node) error { return d.fs.chmod(n, perm) })
}

func (d *dir) Chown(name string, uid, gid int) error {
	return d.attr(name, func(n *node) error { return d.fs.chown(n, uid, gid) })
}

func (d *dir) Utimes(name string, atime, mtime unix.Timespec) error {
	return d.attr(name, func(n *node) error { return d.fs.utimes(n, atime, mtime) })
}

func (d *dir) Setxattr(name, attr string, value []byte, flags int) error {
	return d.attr(name, func(n *node) error { return d.fs.setxattr(n, attr, value, flags) })
}

func (d *dir) Removexattr(name, attr string) error {
	return d.attr(name, func(n *node) error { return d.fs.removexattr(n, attr) })
}

func (d *dir) Getxattr(name, attr string, dst []byte) (int, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return 0, err
	}
	return n.getxattr(attr, dst)
}

func (d *dir) Listxattr(name string, dst []byte) (int, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	n, err := d.lookup(name)
	if err != nil {
		return 0, err
	}
	return n.listxattr(dst)
}

func (d *dir) Sync() error {
	d.fs.begin(OpDirSync)
	defer d.fs.mu.Unlock()
	if d.closed {
		return unix.EBADF
	}
	d.n.syncAttr()
	d.fs.syncNames(func(op *nameOp) bool {
		return slices.ContainsFunc(op.sets, func(s set) bool { return s.dir == d.n })
	})
	return nil
}

func (d *dir) SyncAll() error {
	d.fs.begin(OpDirSync)
	defer d.fs.mu.Unlock()
	if d.fs.Remote {
		return nil
	}
	d.fs.syncNames(func(*nameOp) bool { return true })
	seen := map[*node]bool{}
	d.fs.root.walk(seen)
	for n := range seen {
		n.syncAttr()
		n.syncData()
	}
	return nil
}

// walk collects what can be reached from n.
func (n *node) walk(seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	for _, c := range n.names {
		c.walk(seen)
	}
}

func (d *dir) Statfs() (backing.Statfs, error) {
	st := backing.Statfs{Bsize: 4096, Frsize: 4096, Blocks: 1 << 30, Bfree: 1 << 29, Bavail: 1 << 29, Files: 1 << 30, Ffree: 1 << 29, Namelen: 255}
	if d.fs.Remote {
		st.Type = unix.FUSE_SUPER_MAGIC
	}
	return st, nil
}

func (d *dir) Close() error {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if d.closed {
		return unix.EBADF
	}
	d.closed = true
	return nil
}

// stream lists a directory as it was when the stream was opened.
type stream struct {
	list []backing.Dirent
	at   int
}

func (d *dir) ReadDir() (backing.DirStream, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if d.closed {
		return nil, unix.EBADF
	}
	up := d.n
	if up.parent != nil {
		up = up.parent
	}
	s := &stream{list: []backing.Dirent{{Name: ".", Ino: d.n.ino, Type: unix.DT_DIR}, {Name: "..", Ino: up.ino, Type: unix.DT_DIR}}}
	for _, name := range slices.Sorted(maps.Keys(d.n.names)) {
		n := d.n.names[name]
		s.list = append(s.list, backing.Dirent{Name: name, Ino: n.ino, Type: uint8(n.kind >> 12)})
	}
	for i := range s.list {
		s.list[i].Off = int64(i + 1)
	}
	return s, nil
}

func (s *stream) Next() (backing.Dirent, bool, error) {
	if s.at >= len(s.list) {
		return backing.Dirent{}, false, nil
	}
	s.at++
	return s.list[s.at-1], true, nil
}

func (s *stream) SeekTo(off int64) error {
	if off < 0 || off > int64(len(s.list)) {
		return unix.EINVAL
	}
	s.at = int(off)
	return nil
}

func (s *stream) Close() error { return nil }
