package volume

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Lookup finds a name in a directory.
func (v *Volume) Lookup(parent NodeID, name string) (Entry, error) {
	if err := v.gate.enter(); err != nil {
		return Entry{}, err
	}
	defer v.gate.leave()
	n, d, err := v.dirOf(parent)
	if err != nil {
		return Entry{}, err
	}
	defer v.dirs.done(d)
	b, err := v.nameIn(n, name)
	if err != nil {
		return Entry{}, err
	}
	return v.enter(n, d, b)
}

// enter looks b up in the directory n.
func (v *Volume) enter(n *Node, d *openDir, b backName) (Entry, error) {
	n.names.RLock()
	st, err := v.statIn(d, b.name)
	if err != nil {
		n.names.RUnlock()
		return Entry{}, err
	}
	child := v.table.adopt(n, b.name, &st, false)
	if b.sealed != "" && !v.ro {
		v.mendSidecar(d, b)
	}
	n.names.RUnlock()
	return v.entry(child, &st), nil
}

// entry is the Entry of a node that was adopted for it. The caller holds no
// directory's lock.
func (v *Volume) entry(n *Node, st *Stat) Entry {
	v.present(n, st)
	return Entry{ID: n.id, Attr: *st}
}

// mendSidecar makes the sidecar of a long name that was found to exist, should
// it be lost: without it the name is in no listing.
func (v *Volume) mendSidecar(d *openDir, b backName) {
	if _, err := d.Stat(b.sidecar()); !errors.Is(err, unix.ENOENT) {
		return
	}
	if err := v.addSidecar(d, b); err != nil {
		v.complain("lost sidecar cannot be made again", "name", b.name, "err", err)
	}
}

// statIn is Stat for what may be an entry of the volume: an inode of the
// backing filesystem itself.
func (v *Volume) statIn(d *openDir, name string) (Stat, error) {
	st, err := d.Stat(name)
	if err == nil && st.Dev != v.dev {
		err = fmt.Errorf("another filesystem is mounted in the ciphertext: %w", ErrDamaged)
	}
	return st, err
}

// Forget takes back count Entries of a node, and reports whether they were the
// last.
func (v *Volume) Forget(id NodeID, count uint64) bool { return v.table.forget(id, count) }
