package volume

import (
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// On a disk filesystem, who has found a file can open it although its last
// name is gone by then. So that it is the same here, a file that loses its
// last name while its node is known is opened before, and closed when the node
// is forgotten, which the kernel does at once for a file that nobody uses. Of a
// symlink the target is kept.

// maxOrphans bounds the files held open so. Beyond it such an open fails with
// ESTALE, upon which the kernel looks the name up again.
const maxOrphans = 128

// keep returns the node of the inode st at name in d, nil if it is not known,
// and keeps what can be opened of it if this is its last name. The caller is
// about to remove the name and holds the lock of the directory.
func (v *Volume) keep(d backing.Dir, name string, st *Stat) *Node {
	n := v.table.at(st.Ino)
	if n == nil || st.Nlink != 1 || !v.is(n, st) {
		return n
	}
	switch {
	case n.isSymlink():
		text, err := d.Readlink(name)
		if err == nil {
			n.use.Lock()
			n.text = text
			n.use.Unlock()
		}
	case n.isRegular() && v.table.orphans.Load() < maxOrphans && !n.isOpen():
		f, err := d.OpenFile(name, unix.O_RDWR, 0)
		if err != nil {
			return n
		}
		n.use.Lock()
		had := n.orphan
		n.orphan = f
		n.use.Unlock()
		if had != nil {
			had.Close()
		} else {
			v.files.keep(n.ino, 1)
			v.table.orphans.Add(1)
		}
	}
	return n
}

func (n *Node) isOpen() bool {
	n.use.Lock()
	defer n.use.Unlock()
	return n.file != nil
}

// takeOrphan returns the descriptor kept of a file, which is the caller's
// from then on, nil if there is none. The caller tells the registry once the
// file is open by another way, or is not to be.
func (t *table) takeOrphan(n *Node) backing.File {
	n.use.Lock()
	defer n.use.Unlock()
	f := n.orphan
	if f != nil {
		n.orphan = nil
		t.orphans.Add(-1)
	}
	return f
}

// atOrphan calls f with the descriptor kept of n, ESTALE if there is none.
func (v *Volume) atOrphan(n *Node, f func(target) error) error {
	n.opening.Lock() // no open takes it away meanwhile
	defer n.opening.Unlock()
	n.use.Lock()
	o := n.orphan
	n.use.Unlock()
	if o == nil {
		return unix.ESTALE
	}
	return f(o)
}

// lastText returns the backing target of a symlink without a name.
func (n *Node) lastText() (string, error) {
	n.use.Lock()
	defer n.use.Unlock()
	if n.text == "" {
		return "", unix.ESTALE
	}
	return n.text, nil
}
