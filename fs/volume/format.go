package volume

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
)

// Format makes the structure of an empty volume in root: the root's ID, the
// directory .plyfs and the superblock, all durable on return. root must hold
// nothing but what the caller keeps beside the tree (plyfs.json). Of several
// calls for one directory one succeeds, and the others get ErrExists. After an
// error root holds nothing that this call made, as far as it can be removed.
func Format(root backing.Dir, v *cipher.Volume) error {
	if err := root.Mkdir(metaName, 0o700); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("directory %w", ErrExists)
		}
		return fmt.Errorf("%s: %w", metaName, err)
	}
	if err := formatMeta(root, v); err != nil {
		return errors.Join(err, removeTree(root, metaName, treeDepth))
	}
	id, err := v.NewDirID()
	if err == nil {
		err = writeSmall(root, dirIDName, v.SealDirID(id))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", dirIDName, err), removeTree(root, metaName, treeDepth))
	}
	if err := root.Sync(); err != nil {
		return errors.Join(err, Unformat(root))
	}
	return nil
}

// Unformat takes back what a Format made that succeeded. Nothing else in root is
// touched. The volume must not have been mounted.
func Unformat(root backing.Dir) error {
	return errors.Join(root.Unlink(dirIDName), removeTree(root, metaName, treeDepth))
}

// formatMeta fills .plyfs.
func formatMeta(root backing.Dir, v *cipher.Volume) error {
	meta, err := root.OpenDir(metaName)
	if err != nil {
		return fmt.Errorf("%s: %w", metaName, err)
	}
	defer meta.Close()
	for _, name := range []string{tmpName, linksName, journalName} {
		if err := meta.Mkdir(name, 0o700); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := writeSmall(meta, lockName, nil); err != nil {
		return fmt.Errorf("%s: %w", lockName, err)
	}
	if err := formatJournal(meta, v); err != nil {
		return err
	}
	return meta.Sync()
}

func formatJournal(meta backing.Dir, v *cipher.Volume) error {
	d, err := meta.OpenDir(journalName)
	if err != nil {
		return fmt.Errorf("%s: %w", journalName, err)
	}
	defer d.Close()
	auth := v.Authenticator(journalLabel)
	if auth == nil {
		return cipher.ErrWiped
	}
	return journal.CreateSuper(d, auth, nil)
}

// treeDepth is how deep what plyfs leaves in .plyfs/tmp can be.
const treeDepth = 3

// emptyTmp removes what an earlier run left in .plyfs/tmp.
func (v *Volume) emptyTmp() {
	for _, name := range v.list(v.tmp) {
		if err := removeTree(v.tmp, name, treeDepth); err != nil {
			v.complain("leftover stays in .plyfs/tmp", "name", name, "err", err)
		}
	}
}

// list returns the names in d without "." and "..", as far as they can be
// read.
func (v *Volume) list(d backing.Dir) (names []string) {
	err := eachName(d, func(e backing.Dirent) bool {
		names = append(names, e.Name)
		return true
	})
	if err != nil {
		v.complain("directory cannot be listed", "err", err)
	}
	return names
}

// eachName calls f for the entries of d but "." and "..", until it returns
// false.
func eachName(d backing.Dir, f func(backing.Dirent) bool) error {
	s, err := d.ReadDir()
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		e, ok, err := s.Next()
		if err != nil || !ok {
			return err
		}
		if e.Name != "." && e.Name != ".." && !f(e) {
			return nil
		}
	}
}

// removeTree removes the entry name of d with all below it, down to depth.
func removeTree(d backing.Dir, name string, depth int) error {
	err := d.Unlink(name)
	if err == nil || !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if depth == 0 {
		return unix.ENOTEMPTY
	}
	sub, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	var names []string
	err = eachName(sub, func(e backing.Dirent) bool {
		names = append(names, e.Name)
		return true
	})
	for _, n := range names {
		if e := removeTree(sub, n, depth-1); err == nil {
			err = e
		}
	}
	if cerr := sub.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return d.Rmdir(name)
}
