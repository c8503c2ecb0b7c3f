package volume

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// Attributes of the namespaces user and trusted are kept sealed, name and
// value, under a name that follows from the owner and the name: a file's or
// directory's ID, zero for what has none: symlinks and special files, on which
// the kernel allows trusted ones alone. Those of security and the POSIX ACLs
// are kept as they are, since the backing filesystem acts on them.
const (
	userSpace     = "user."
	trustedSpace  = "trusted."
	securitySpace = "security."
	sealedPrefix  = "plyfs."

	xattrNameMax = 255
)

// attrName is the backing name of an attribute.
type attrName struct {
	plain   string
	backing string
	sealed  bool
}

// attrName finds out where attribute name of n is kept. EOPNOTSUPP for names
// of namespaces that the volume has not.
func (v *Volume) attrName(n *Node, name string) (attrName, error) {
	if len(name) > xattrNameMax {
		return attrName{}, unix.ERANGE
	}
	if strings.HasPrefix(name, securitySpace) || name == accessACL || name == defaultACL {
		return attrName{plain: name, backing: name}, nil
	}
	space, ok := sealedSpace(name)
	if !ok {
		return attrName{}, unix.EOPNOTSUPP
	}
	if name == space {
		return attrName{}, unix.EINVAL
	}
	owner, err := v.owner(n)
	if err != nil {
		return attrName{}, err
	}
	hidden := v.cipher.XattrName(owner, name)
	if hidden == "" {
		return attrName{}, cipher.ErrWiped
	}
	return attrName{plain: name, backing: space + sealedPrefix + hidden, sealed: true}, nil
}

func sealedSpace(name string) (space string, ok bool) {
	for _, space := range []string{userSpace, trustedSpace} {
		if strings.HasPrefix(name, space) {
			return space, true
		}
	}
	return "", false
}

// owner returns the ID that n's attributes are sealed for.
func (v *Volume) owner(n *Node) ([16]byte, error) {
	switch {
	case n.isDir():
		if n.dirID.Load() == nil {
			d, err := v.dir(n)
			if err != nil {
				return noOwner, err
			}
			v.dirs.done(d)
		}
		return *n.dirID.Load(), nil
	case n.isRegular():
		if n.fileID.Load() == nil {
			if _, err := v.openFile(n); err != nil {
				return noOwner, err
			}
			if err := v.leave(n); err != nil {
				return noOwner, err
			}
		}
		return *n.fileID.Load(), nil
	}
	return noOwner, nil
}

// GetXattr returns the value of an attribute, ENODATA if there is none.
func (v *Volume) GetXattr(id NodeID, name string) ([]byte, error) {
	if err := v.gate.enter(); err != nil {
		return nil, err
	}
	defer v.gate.leave()
	n, err := v.table.get(id)
	if err != nil {
		return nil, err
	}
	a, err := v.attrName(n, name)
	if err != nil {
		return nil, err
	}
	var value []byte
	err = v.reach(n, func(t target) (err error) {
		value, err = getAttr(t, a.backing)
		return err
	})
	if err != nil || !a.sealed {
		return value, err
	}
	owner, err := v.owner(n)
	if err == nil {
		value, err = v.cipher.OpenXattr(owner, name, value)
	}
	if err != nil {
		v.complain("extended attribute does not open", "inode", n.ino, "xattr", a.backing, "err", err)
		return nil, err
	}
	return value, nil
}

// SetXattr sets an attribute; flags are unix.XATTR_CREATE and XATTR_REPLACE.
// dropSetGID clears the set-group-ID bit with an access ACL, for a caller who
// is not in the file's group.
func (v *Volume) SetXattr(id NodeID, name string, value []byte, flags int, dropSetGID bool) error {
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	n, a, err := v.attrToChange(id, name)
	if err != nil {
		return err
	}
	if a.sealed {
		owner, err := v.owner(n)
		if err != nil {
			return err
		}
		if value, err = v.cipher.SealXattr(owner, name, value); err != nil {
			return err
		}
	}
	defer v.attrsChanged(n)
	return v.reach(n, func(t target) error {
		err := t.Setxattr(a.backing, value, flags)
		n.changes.Add(1)
		if err != nil || !dropSetGID || a.plain != accessACL {
			return err
		}
		st, err := t.Stat()
		if err != nil || st.Mode&unix.S_ISGID == 0 {
			return err
		}
		return t.Chmod(st.Mode & 0o7777 &^ unix.S_ISGID)
	})
}

// isSealed reports whether the attribute of that name of a backing file is a sealed one.
func isSealed(name string) bool {
	space, ok := sealedSpace(name)
	return ok && strings.HasPrefix(name[len(space):], sealedPrefix)
}

// RemoveXattr removes an attribute, ENODATA if there is none.
func (v *Volume) RemoveXattr(id NodeID, name string) error {
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	n, a, err := v.attrToChange(id, name)
	if err != nil {
		return err
	}
	defer v.attrsChanged(n)
	return v.reach(n, func(t target) error { return t.Removexattr(a.backing) })
}

func (v *Volume) attrToChange(id NodeID, name string) (*Node, attrName, error) {
	n, err := v.table.get(id)
	if err != nil {
		return nil, attrName{}, err
	}
	a, err := v.attrName(n, name)
	return n, a, err
}

// ListXattr returns the names of a node's attributes. What the backing
// filesystem has beside them is left out.
func (v *Volume) ListXattr(id NodeID) ([]string, error) {
	if err := v.gate.enter(); err != nil {
		return nil, err
	}
	defer v.gate.leave()
	n, err := v.table.get(id)
	if err != nil {
		return nil, err
	}
	var plain []string
	sealed := map[string][]byte{}
	err = v.reach(n, func(t target) error {
		list, err := grow(t.Listxattr)
		if err != nil {
			return err
		}
		for b := range bytes.SplitSeq(list, []byte{0}) {
			name := string(b)
			switch {
			case isSealed(name):
				value, err := getAttr(t, name)
				if err == nil {
					sealed[name] = value
				} else if !errors.Is(err, unix.ENODATA) {
					return err
				}
			case strings.HasPrefix(name, securitySpace) || name == accessACL || name == defaultACL:
				plain = append(plain, name)
			}
		}
		return nil
	})
	if err != nil || len(sealed) == 0 {
		return plain, err
	}
	return v.addSealed(n, plain, sealed)
}

// addSealed appends the names in sealed attributes to names. One that does not
// open, or is not where it belongs, is logged and left out.
func (v *Volume) addSealed(n *Node, names []string, sealed map[string][]byte) ([]string, error) {
	owner, err := v.owner(n)
	if err != nil {
		return nil, err
	}
	for at, value := range sealed {
		space, hidden, _ := strings.Cut(at, "."+sealedPrefix)
		name, err := v.cipher.OpenXattrName(owner, hidden, value)
		if err == nil && !strings.HasPrefix(name, space+".") {
			err = fmt.Errorf("extended attribute of another namespace: %w", ErrDamaged)
		}
		if err != nil {
			v.complain("extended attribute does not open", "inode", n.ino, "xattr", at, "err", err)
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// dropSealed removes the sealed attributes of n's backing file b, whose header
// and ID a crash took: a file that was never synced may keep what was set on it.
// They would count as tampered with. The next fsync makes that durable.
func (v *Volume) dropSealed(n *Node, b backing.File) {
	list, err := grow(b.Listxattr)
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if isSealed(string(name)) {
			err = errors.Join(err, b.Removexattr(string(name)))
		}
	}
	if err != nil {
		v.complain("extended attributes of a file that lost its header", "inode", n.ino, "err", err)
	}
}

// getAttr reads a whole attribute.
func getAttr(t target, name string) ([]byte, error) {
	return grow(func(dst []byte) (int, error) { return t.Getxattr(name, dst) })
}

// grow calls read with as large a buffer as it takes; read returns the size
// alone for an empty one.
func grow(read func(dst []byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) {
			return nil, err
		}
		if n, err = read(nil); err != nil {
			return nil, err
		}
		buf = make([]byte, max(n, 2*len(buf)))
	}
}
