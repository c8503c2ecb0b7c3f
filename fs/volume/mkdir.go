package volume

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// Mkdir makes a directory. It is built in .plyfs/tmp with its ID, synced, and
// then put into its place, so that no directory without an ID is ever seen.
func (v *Volume) Mkdir(parent NodeID, name string, c Creator) (Entry, error) {
	if err := v.beginChange(); err != nil {
		return Entry{}, err
	}
	defer v.endChange()
	m, err := v.begin(parent, name, c)
	if err != nil {
		return Entry{}, err
	}
	n, st, err := m.mkdir()
	m.done()
	if err != nil {
		return Entry{}, err
	}
	return v.entry(n, &st), nil
}

func (m *making) mkdir() (*Node, Stat, error) {
	v := m.v
	from, tmp, err := v.nursery(m.own.defaultACL)
	if err != nil {
		v.dropSidecar(m.d, m.b)
		return nil, Stat{}, err
	}
	if from != v.tmp {
		defer func() {
			from.Close()
			if err := v.tmp.Rmdir(tmp); err != nil && !errors.Is(err, unix.ENOENT) {
				removeTree(v.tmp, tmp, treeDepth)
			}
		}()
	}
	st, err := m.d.Stat("")
	if err == nil {
		if st.Mode&unix.S_ISGID != 0 {
			m.own.mode |= unix.S_ISGID
		}
		err = m.build(from, tmp)
	}
	if err == nil {
		err = from.Rename(tmp, m.d.Dir, m.b.name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		removeTree(from, tmp, treeDepth)
		v.dropSidecar(m.d, m.b)
		return nil, Stat{}, err
	}
	n, st, err := m.adopt()
	return n, st, err
}

// nursery returns a directory in which one can be made under the name tmp such
// that the backing filesystem lets it inherit the default ACL: .plyfs/tmp
// itself where there is none, else a directory in it that is called tmp too.
func (v *Volume) nursery(acl []byte) (d backing.Dir, tmp string, err error) {
	tmp = v.tempName()
	if acl == nil {
		return v.tmp, tmp, nil
	}
	if err = v.tmp.Mkdir(tmp, 0o700); err != nil {
		return nil, "", err
	}
	if d, err = v.tmp.OpenDir(tmp); err == nil {
		if err = d.Setxattr("", defaultACL, acl, 0); err == nil {
			return d, tmp, nil
		}
		d.Close()
	}
	v.tmp.Rmdir(tmp)
	return nil, "", err
}

// build makes the directory tmp in from, with owner, mode, ACLs and a new ID,
// durably.
func (m *making) build(from backing.Dir, tmp string) error {
	mode := m.own.mode
	if m.own.defaultACL == nil {
		mode |= 0o700 // for a process without privileges; bestow sets the right one
	}
	if err := from.Mkdir(tmp, mode); err != nil {
		return err
	}
	d, err := from.OpenDir(tmp)
	if err != nil {
		return err
	}
	defer d.Close()
	id, err := m.v.cipher.NewDirID()
	if err != nil {
		return err
	}
	sealed := m.v.cipher.SealDirID(id)
	if err := m.placeID(d, sealed); err != nil {
		return err
	}
	if err := m.own.bestow(named{d, ""}); err != nil {
		return err
	}
	return d.Sync()
}

// placeID writes the ID file. It inherits no ACL that would open it to more
// than its directory's owner: who may pass the directory need not read it.
func (m *making) placeID(d backing.Dir, sealed []byte) error {
	if err := writeSmall(d, dirIDName, sealed); err != nil {
		return err
	}
	if m.own.defaultACL == nil {
		return nil
	}
	if err := d.Removexattr(dirIDName, accessACL); err != nil && !errors.Is(err, unix.ENODATA) {
		return err
	}
	return d.Chmod(dirIDName, 0o600)
}
