package volume

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/blockfile"
)

// Creator says for whom a node is made and with what mode: permission, set-ID
// and sticky bits. Umask counts where the directory has no default ACL.
type Creator struct {
	UID, GID uint32
	Mode     uint32
	Umask    uint32
}

// birth is what a new node of a directory is to be like.
type birth struct {
	uid, gid   int
	mode       uint32
	defaultACL []byte // the directory's, nil where it has none
}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// birthIn applies the rules of the directory d to c.
func (v *Volume) birthIn(d *openDir, c Creator) (birth, error) {
	st, err := d.Stat("")
	if err != nil {
		return birth{}, err
	}
	b := birth{uid: int(c.UID), gid: int(c.GID), mode: c.Mode & 0o7777}
	if st.Mode&unix.S_ISGID != 0 {
		b.gid = int(st.Gid)
	}
	acl, err := getAttr(named{d, ""}, defaultACL)
	switch {
	case err == nil:
		b.defaultACL = acl
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		b.mode &^= c.Umask
	default:
		return birth{}, err
	}
	return b, nil
}

// bestow gives a node that was made with b.mode its owner and mode. With a
// default ACL the backing filesystem has worked out the permission bits.
func (b *birth) bestow(t target) error {
	st, err := t.Stat()
	if err != nil {
		return err
	}
	if int(st.Uid) != b.uid || int(st.Gid) != b.gid {
		if err := t.Chown(b.uid, b.gid); err != nil {
			return err
		}
		st.Mode &^= unix.S_ISUID | unix.S_ISGID // as chown may have
	}
	mode := b.mode
	if b.defaultACL != nil {
		mode = mode&^0o777 | st.Mode&0o777
	}
	if st.Mode&0o7777 == mode {
		return nil
	}
	return t.Chmod(mode)
}

// making is a name that is about to be made in a directory, whose lock is
// held alone until done.
type making struct {
	v   *Volume
	n   *Node
	d   *openDir
	b   backName
	own birth
}

// begin prepares to make name in the directory parent. EEXIST if it is there.
// The caller is let in by beginChange.
func (v *Volume) begin(parent NodeID, name string, c Creator) (*making, error) {
	n, d, err := v.dirOf(parent)
	if err != nil {
		return nil, err
	}
	m := &making{v: v, n: n, d: d}
	if m.b, err = v.nameIn(n, name); err == nil {
		m.own, err = v.birthIn(d, c)
	}
	if err != nil {
		v.dirs.done(d)
		return nil, err
	}
	n.names.Lock()
	if m.b.sealed != "" {
		// A direct name is found to exist when it is made. A long one must be
		// known to be free first, or undoing would take its sidecar.
		if err = vacant(d, m.b.name); err == nil {
			err = v.addSidecar(d, m.b)
		}
		if err != nil {
			m.done()
			return nil, err
		}
	}
	return m, nil
}

// vacant returns EEXIST if name exists in d.
func vacant(d backing.Dir, name string) error {
	_, err := d.Stat(name)
	switch {
	case err == nil:
		return unix.EEXIST
	case errors.Is(err, unix.ENOENT):
		return nil
	}
	return err
}

func (m *making) done() {
	m.n.names.Unlock()
	m.v.dirs.done(m.d)
}

// undo removes what was made under the name after all.
func (m *making) undo() {
	m.d.Unlink(m.b.name)
	m.v.dropSidecar(m.d, m.b)
}

// adopt makes a node of what was made.
func (m *making) adopt() (*Node, Stat, error) {
	st, err := m.v.statIn(m.d, m.b.name)
	if err != nil {
		return nil, st, err
	}
	return m.v.table.adopt(m.n, m.b.name, &st, true), st, nil
}

// Create makes a regular file and opens it; EEXIST if the name exists.
func (v *Volume) Create(parent NodeID, name string, c Creator, o OpenOptions) (Entry, *Handle, error) {
	if err := v.beginChange(); err != nil {
		return Entry{}, nil, err
	}
	defer v.endChange()
	m, err := v.begin(parent, name, c)
	if err != nil {
		return Entry{}, nil, err
	}
	n, st, file, err := m.createFile()
	m.done()
	if err != nil {
		return Entry{}, nil, err
	}
	h := v.handle(n, file, o)
	return v.entry(n, &st), h, nil
}

// createFile makes the empty regular file; it is in use once.
func (m *making) createFile() (*Node, Stat, *blockfile.File, error) {
	var f backing.File
	err := m.v.retry(func() (err error) {
		f, err = m.d.OpenFile(m.b.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, m.own.mode)
		return err
	})
	if err != nil {
		m.v.dropSidecar(m.d, m.b)
		return nil, Stat{}, nil, err
	}
	n, st, file, err := m.fill(f)
	if err != nil {
		m.undo()
	}
	return n, st, file, err
}

// fill makes f, of which it takes possession, the content of a new node.
func (m *making) fill(f backing.File) (*Node, Stat, *blockfile.File, error) {
	err := m.own.bestow(f)
	var file *blockfile.File
	if err == nil {
		file, err = blockfile.Create(f, m.v.fileConfig())
	}
	if err != nil {
		f.Close()
		return nil, Stat{}, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		file.Close()
		return nil, Stat{}, nil, err
	}
	n := m.v.table.adopt(m.n, m.b.name, &st, true)
	n.checked.Store(true)
	if err := m.v.install(n, file); err != nil {
		m.v.table.forget(n.id, 1)
		return nil, Stat{}, nil, err
	}
	return n, st, file, nil
}

// Tmpfile makes a regular file without a name, on the terms of the directory
// parent, and opens it. Link can give it a name while it is open.
func (v *Volume) Tmpfile(parent NodeID, c Creator, o OpenOptions) (Entry, *Handle, error) {
	if err := v.beginChange(); err != nil {
		return Entry{}, nil, err
	}
	defer v.endChange()
	_, d, err := v.dirOf(parent)
	if err != nil {
		return Entry{}, nil, err
	}
	defer v.dirs.done(d)
	m := &making{v: v, d: d}
	if m.own, err = v.birthIn(d, c); err != nil {
		return Entry{}, nil, err
	}
	var f backing.File
	err = v.retry(func() (err error) {
		f, err = d.Tmpfile(m.own.mode)
		return err
	})
	if err != nil {
		return Entry{}, nil, err
	}
	n, st, file, err := m.fill(f)
	if err != nil {
		return Entry{}, nil, err
	}
	h := v.handle(n, file, o)
	return v.entry(n, &st), h, nil
}

// Mknod makes a regular file, fifo, socket or device; kind is its S_IFMT.
func (v *Volume) Mknod(parent NodeID, name string, c Creator, kind uint32, rdev uint64) (Entry, error) {
	if kind == unix.S_IFREG || kind == 0 {
		e, h, err := v.Create(parent, name, c, OpenOptions{})
		if err == nil {
			h.Close()
		}
		return e, err
	}
	if kind != unix.S_IFIFO && kind != unix.S_IFSOCK && kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return Entry{}, unix.EINVAL
	}
	if err := v.beginChange(); err != nil {
		return Entry{}, err
	}
	defer v.endChange()
	m, err := v.begin(parent, name, c)
	if err != nil {
		return Entry{}, err
	}
	n, st, err := m.mknod(kind, rdev)
	m.done()
	if err != nil {
		return Entry{}, err
	}
	return v.entry(n, &st), nil
}

func (m *making) mknod(kind uint32, rdev uint64) (n *Node, st Stat, err error) {
	if err = m.d.Mknod(m.b.name, kind|m.own.mode, rdev); err != nil {
		m.v.dropSidecar(m.d, m.b)
		return nil, st, err
	}
	if err = m.own.bestow(named{m.d, m.b.name}); err == nil {
		n, st, err = m.adopt()
	}
	if err != nil {
		m.undo()
	}
	return n, st, err
}

// Link gives a node, not a directory, another name.
func (v *Volume) Link(id, parent NodeID, name string) (Entry, error) {
	if err := v.beginChange(); err != nil {
		return Entry{}, err
	}
	defer v.endChange()
	n, err := v.table.get(id)
	if err != nil {
		return Entry{}, err
	}
	if n.isDir() {
		return Entry{}, unix.EPERM
	}
	to, d, err := v.dirOf(parent)
	if err != nil {
		return Entry{}, err
	}
	defer v.dirs.done(d)
	b, err := v.nameIn(to, name)
	if err != nil {
		return Entry{}, err
	}
	st, err := v.link(n, to, d, b)
	if err != nil {
		return Entry{}, err
	}
	return v.entry(n, &st), nil
}

// link makes the name b of n in the directory to, by one of n's names or, if
// it has none, by its descriptor.
func (v *Volume) link(n, to *Node, d *openDir, b backName) (Stat, error) {
	for {
		old, ok := v.table.name(n)
		if !ok {
			return v.linkOpen(n, to, d, b)
		}
		from, err := v.dir(old.dir)
		if err != nil {
			return Stat{}, err
		}
		unlock := lockDirs(old.dir, to)
		held := v.table.holds(n, old)
		var st Stat
		if held {
			st, err = v.linkAs(n, to, d, b, func() error { return from.Link(old.name, d.Dir, b.name) })
		}
		unlock()
		v.dirs.done(from)
		if held {
			return st, err
		}
	}
}

func (v *Volume) linkOpen(n, to *Node, d *openDir, b backName) (Stat, error) {
	file := n.join()
	if file == nil {
		return Stat{}, unix.ENOENT
	}
	defer v.leave(n)
	to.names.Lock()
	defer to.names.Unlock()
	return v.linkAs(n, to, d, b, func() error { return d.LinkFile(file.Backing(), b.name) })
}

// linkAs runs link, which makes the name b of n in the directory to, whose
// lock is held.
func (v *Volume) linkAs(n, to *Node, d *openDir, b backName, link func() error) (Stat, error) {
	err := vacant(d, b.name)
	if err == nil {
		err = v.addSidecar(d, b)
	}
	if err != nil {
		return Stat{}, err
	}
	defer v.moving(move{to, b})()
	if err = link(); err != nil {
		v.dropSidecar(d, b)
		return Stat{}, err
	}
	st, err := v.statIn(d, b.name)
	if err != nil {
		return st, err
	}
	if !v.is(n, &st) {
		d.Unlink(b.name)
		v.dropSidecar(d, b)
		return st, unix.ESTALE
	}
	v.table.revive(n, binding{to, b.name})
	v.renamed(n)
	return st, nil
}
