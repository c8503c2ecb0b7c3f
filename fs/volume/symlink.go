package volume

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// A symlink's target is the base64url of a blob of no owner, since a symlink
// has no ID and may be moved and linked. In the blob, after a byte that says
// which: the target, or where that is too long for the backing filesystem, the
// ID of a file in .plyfs/links and the target's length. That file is the blob,
// of this ID, that holds the target.
const (
	nearTarget = 0
	farTarget  = 1

	linkIDSize = 16
	farSize    = 1 + linkIDSize + 2

	// TargetMax is the longest target of a symlink, in bytes.
	TargetMax = unix.PathMax - 1
)

var (
	linkEncoding = base64.RawURLEncoding.Strict()
	noOwner      [16]byte
)

type linkID [linkIDSize]byte

func (id linkID) file() string { return linkEncoding.EncodeToString(id[:]) }

// Symlink makes a symlink.
func (v *Volume) Symlink(parent NodeID, name, target string, c Creator) (Entry, error) {
	switch {
	case target == "":
		return Entry{}, unix.ENOENT
	case len(target) > TargetMax:
		return Entry{}, unix.ENAMETOOLONG
	}
	c.Mode, c.Umask = 0o777, 0
	if err := v.beginChange(); err != nil {
		return Entry{}, err
	}
	defer v.endChange()
	m, err := v.begin(parent, name, c)
	if err != nil {
		return Entry{}, err
	}
	n, st, err := m.symlink(target)
	m.done()
	if err != nil {
		return Entry{}, err
	}
	return v.entry(n, &st), nil
}

func (m *making) symlink(target string) (n *Node, st Stat, err error) {
	v := m.v
	var far *linkID
	err = v.placeLink(m.d, m.b.name, append([]byte{nearTarget}, target...))
	if errors.Is(err, unix.ENAMETOOLONG) {
		far, err = m.farSymlink(target)
	}
	if err != nil {
		v.dropSidecar(m.d, m.b)
		return nil, st, err
	}
	at := named{m.d, m.b.name}
	if st, err = at.Stat(); err == nil && (int(st.Uid) != m.own.uid || int(st.Gid) != m.own.gid) {
		err = at.Chown(m.own.uid, m.own.gid)
	}
	if err == nil {
		n, st, err = m.adopt()
	}
	if err != nil {
		m.undo()
		v.dropFarTarget(far)
	}
	return n, st, err
}

// placeLink makes the symlink whose blob holds content.
func (v *Volume) placeLink(d backing.Dir, name string, content []byte) error {
	sealed, err := v.cipher.SealBlob(cipher.BlobSymlink, noOwner, content)
	if err != nil {
		return err
	}
	text := linkEncoding.EncodeToString(sealed)
	if len(text) > TargetMax {
		return unix.ENAMETOOLONG
	}
	return d.Symlink(text, name)
}

// farSymlink makes a symlink whose target is in .plyfs/links, durably there
// before the symlink is made.
func (m *making) farSymlink(target string) (*linkID, error) {
	v := m.v
	raw, err := v.cipher.NewDirID() // random, as any ID
	if err != nil {
		return nil, err
	}
	id := linkID(raw)
	sealed, err := v.cipher.SealBlob(cipher.BlobSymlink, id, []byte(target))
	if err != nil {
		return nil, err
	}
	if err := writeSmall(v.links, id.file(), sealed); err != nil {
		return nil, err
	}
	err = v.links.Sync()
	if err == nil {
		content := append([]byte{farTarget}, id[:]...)
		err = v.placeLink(m.d, m.b.name, binary.BigEndian.AppendUint16(content, uint16(len(target))))
	}
	if err != nil {
		v.dropFarTarget(&id)
		return nil, err
	}
	return &id, nil
}

// Readlink returns the target of a symlink.
func (v *Volume) Readlink(id NodeID) (string, error) {
	if err := v.gate.enter(); err != nil {
		return "", err
	}
	defer v.gate.leave()
	n, err := v.table.get(id)
	if err != nil {
		return "", err
	}
	if !n.isSymlink() {
		return "", unix.EINVAL
	}
	content, err := v.linkContent(n)
	if err != nil {
		return "", err
	}
	if content[0] == nearTarget {
		return string(content[1:]), nil
	}
	far := linkID(content[1 : 1+linkIDSize])
	if v.links == nil {
		return "", fmt.Errorf("no %s: %w", path.Join(metaName, linksName), ErrDamaged)
	}
	sealed, err := readSmall(v.links, far.file(), TargetMax+v.cipher.BlobOverhead())
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("target of a symlink is missing: %w", ErrDamaged)
	}
	if err != nil {
		return "", hostile(err)
	}
	target, err := v.cipher.OpenBlob(cipher.BlobSymlink, far, sealed)
	if err == nil && len(target) != int(binary.BigEndian.Uint16(content[1+linkIDSize:])) {
		err = fmt.Errorf("target of a symlink has another length: %w", ErrDamaged)
	}
	return string(target), err
}

// linkContent returns what the blob of the symlink n holds, checked.
func (v *Volume) linkContent(n *Node) (content []byte, err error) {
	var text string
	err = v.byName(n, func(at named) (err error) {
		text, err = at.dir.Readlink(at.name)
		return err
	})
	if errors.Is(err, unix.ESTALE) {
		text, err = n.lastText()
	}
	if err == nil {
		content, err = v.openLink(text)
	}
	if err != nil && !errors.Is(err, unix.ESTALE) {
		v.complain("symlink does not open", "inode", n.ino, "err", err)
	}
	return content, err
}

// openLink opens the text of a backing symlink.
func (v *Volume) openLink(text string) ([]byte, error) {
	sealed, err := linkEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("symlink is not base64url: %w", ErrDamaged)
	}
	content, err := v.cipher.OpenBlob(cipher.BlobSymlink, noOwner, sealed)
	if err != nil {
		return nil, err
	}
	if len(content) > 1 && content[0] == nearTarget || len(content) == farSize && content[0] == farTarget {
		return content, nil
	}
	return nil, fmt.Errorf("symlink holds no target: %w", ErrDamaged)
}

// linkSize is the length of the target of the symlink n, whose text is length
// bytes long. It follows from that, but where the text may name a file. A
// damaged symlink has some length too, so that it can be removed.
func (v *Volume) linkSize(n *Node, length int64) int64 {
	inside := linkEncoding.DecodedLen(int(length)) - v.cipher.BlobOverhead()
	if inside == farSize {
		content, err := v.linkContent(n)
		if err == nil && content[0] == farTarget {
			return int64(binary.BigEndian.Uint16(content[1+linkIDSize:]))
		}
	}
	return int64(max(inside-1, 0))
}

// farTarget returns the file in .plyfs/links that goes when name, an inode
// like st, is removed from d; nil if none does.
func (v *Volume) farTarget(d backing.Dir, name string, st *Stat) *linkID {
	if st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Nlink != 1 ||
		linkEncoding.DecodedLen(int(st.Size))-v.cipher.BlobOverhead() != farSize {
		return nil
	}
	text, err := d.Readlink(name)
	if err != nil {
		return nil
	}
	content, err := v.openLink(text)
	if err != nil || content[0] != farTarget {
		return nil
	}
	id := linkID(content[1 : 1+linkIDSize])
	return &id
}

// dropFarTarget removes a file of .plyfs/links that is in use no more.
func (v *Volume) dropFarTarget(id *linkID) {
	if id == nil {
		return
	}
	if err := v.links.Unlink(id.file()); err != nil && !errors.Is(err, unix.ENOENT) {
		v.complain("target of a symlink stays behind", "name", id.file(), "err", err)
	}
}
