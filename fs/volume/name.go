package volume

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// NameMax is the longest name of a directory entry, in bytes.
const NameMax = 255

const (
	longPrefix  = "plyfs.long."
	sidecarTail = cipher.LongNameSuffix
	ownPrefix   = "plyfs." // nothing with it is a sealed name

	maxSidecar = 1024 // bytes of a sealed name, generously
	maxDirID   = 4096 // bytes of a sealed directory ID, generously
)

// backName is the name of an entry in the backing directory. Which form it has
// is decided by the length of the plaintext name alone, so that no entry can
// be had under two backing names.
type backName struct {
	name   string
	sealed string // what the sidecar of a long name holds; empty for others
}

func (b backName) sidecar() string { return b.name + sidecarTail }

// nameIn seals the plaintext name for the directory n, whose ID is loaded.
func (v *Volume) nameIn(n *Node, name string) (backName, error) {
	switch {
	case name == "":
		return backName{}, unix.ENOENT
	case len(name) > NameMax:
		return backName{}, unix.ENAMETOOLONG
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return backName{}, unix.EINVAL
	}
	sealed := v.cipher.SealName(*n.dirID.Load(), name)
	if sealed == "" {
		return backName{}, cipher.ErrWiped
	}
	if len(name) <= cipher.MaxDirectName {
		return backName{name: sealed}, nil
	}
	return backName{name: cipher.LongName(sealed), sealed: sealed}, nil
}

// plainName opens the backing name of an entry of the directory n. ok is false
// for what is no entry: plyfs's own files, and names that do not open, which
// are logged.
func (v *Volume) plainName(n *Node, d backing.Dir, name string) (plain string, ok bool) {
	sealed, long := name, false
	if strings.HasPrefix(name, ownPrefix) || name == metaName && n.id == RootID {
		if !strings.HasPrefix(name, longPrefix) || strings.HasSuffix(name, sidecarTail) {
			return "", false
		}
		b, err := readSmall(d, name+sidecarTail, maxSidecar)
		if err == nil && cipher.LongName(string(b)) != name {
			err = fmt.Errorf("sidecar belongs to another name: %w", ErrDamaged)
		}
		if err != nil {
			v.complain("name has no good sidecar", "directory", n.ino, "name", name, "err", err)
			return "", false
		}
		sealed, long = string(b), true
	}
	plain, err := v.cipher.OpenName(*n.dirID.Load(), sealed)
	if err == nil && long != (len(plain) > cipher.MaxDirectName) {
		err = fmt.Errorf("not the form of a name of this length: %w", ErrDamaged)
	}
	if err != nil {
		v.complain("name does not open", "directory", n.ino, "name", name, "err", err)
		return "", false
	}
	return plain, true
}

// addSidecar makes the sidecar of a long name durable before the name is
// used. One that is there already is replaced, since a crash may have torn it.
func (v *Volume) addSidecar(d *openDir, b backName) error {
	if b.sealed == "" {
		return nil
	}
	if have, err := readSmall(d, b.sidecar(), maxSidecar); err == nil && string(have) == b.sealed {
		return nil
	}
	return v.placeFile(d.Dir, b.sidecar(), []byte(b.sealed))
}

// dropSidecar removes the sidecar of a long name that is in use no more. What
// stays behind after an error is ignored by readers and removed with the
// directory.
func (v *Volume) dropSidecar(d backing.Dir, b backName) {
	if b.sealed == "" {
		return
	}
	if err := d.Unlink(b.sidecar()); err != nil && !errors.Is(err, unix.ENOENT) {
		v.complain("sidecar stays behind", "name", b.sidecar(), "err", err)
	}
}

// placeFile makes a small file durable under name in d, in one step.
func (v *Volume) placeFile(d backing.Dir, name string, content []byte) error {
	tmp := v.tempName()
	if err := writeSmall(v.tmp, tmp, content); err != nil {
		return err
	}
	if err := v.tmp.Rename(tmp, d, name, 0); err != nil {
		v.tmp.Unlink(tmp)
		return err
	}
	return nil
}

// writeSmall makes a new file and syncs it; after an error it is gone.
func writeSmall(d backing.Dir, name string, content []byte) error {
	f, err := d.OpenFile(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		d.Unlink(name)
	}
	return err
}

// readSmall reads a file of at most limit bytes, whole.
func readSmall(d backing.Dir, name string, limit int) ([]byte, error) {
	f, err := d.OpenFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, limit+1)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s is too long: %w", name, ErrDamaged)
	}
	return b[:n], nil
}
