package volume

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// Unlink removes a name that is not a directory's.
func (v *Volume) Unlink(parent NodeID, name string) error {
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	n, d, err := v.dirOf(parent)
	if err != nil {
		return err
	}
	defer v.dirs.done(d)
	b, err := v.nameIn(n, name)
	if err != nil {
		return err
	}
	n.names.Lock()
	defer n.names.Unlock()
	st, err := v.statIn(d, b.name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	link := v.farTarget(d, b.name, &st)
	gone := v.keep(d, b.name, &st)
	if err := d.Unlink(b.name); err != nil {
		return err
	}
	if gone != nil {
		gone.touch()
	}
	v.dropSidecar(d, b)
	v.dropFarTarget(link)
	v.table.removed(gone, n, b.name, &st)
	v.lostName(st.Ino)
	return nil
}

// Rmdir removes an empty directory: it is moved to .plyfs/tmp, then taken
// apart.
func (v *Volume) Rmdir(parent NodeID, name string) error {
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	n, d, err := v.dirOf(parent)
	if err != nil {
		return err
	}
	defer v.dirs.done(d)
	b, err := v.nameIn(n, name)
	if err != nil {
		return err
	}
	for {
		st, err := v.statIn(d, b.name)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		child := v.table.at(st.Ino)
		unlock := lockDirs(n, child)
		again, err := v.rmdir(n, d, b, child)
		unlock()
		if !again {
			return err
		}
	}
}

// rmdir removes the directory at b, which child stands for if it is known. It
// asks for another try if it is not the one at b any more. The locks of both
// are held.
func (v *Volume) rmdir(n *Node, d *openDir, b backName, child *Node) (again bool, err error) {
	st, err := v.statIn(d, b.name)
	if err != nil {
		return false, err
	}
	if v.table.at(st.Ino) != child || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return true, nil
	}
	if err := v.checkEmpty(d, b.name); err != nil {
		return false, err
	}
	tmp := v.tempName()
	if err := d.Rename(b.name, v.tmp, tmp, unix.RENAME_NOREPLACE); err != nil {
		return false, err
	}
	v.dropSidecar(d, b)
	v.removedDir(n, b.name, &st, child)
	v.takeApart(tmp)
	return false, nil
}

// removedDir records that the directory st is gone from b in n.
func (v *Volume) removedDir(n *Node, name string, st *Stat, child *Node) {
	v.table.removed(child, n, name, st)
	if child != nil {
		v.dirs.drop(child)
	}
}

// takeApart removes a directory that was moved to .plyfs/tmp. What resists is
// removed when the volume is next opened.
func (v *Volume) takeApart(tmp string) {
	if err := removeTree(v.tmp, tmp, treeDepth); err != nil {
		v.complain("leftover stays in .plyfs/tmp", "name", tmp, "err", err)
	}
}

// checkEmpty returns ENOTEMPTY if the directory at name in d holds entries.
// Sidecars that no entry uses do not count, nor does the ID file.
func (v *Volume) checkEmpty(d backing.Dir, name string) error {
	sub, err := d.OpenDir(name)
	if err != nil {
		return hostile(err)
	}
	defer sub.Close()
	empty := true
	err = eachName(sub, func(e backing.Dirent) bool {
		empty = e.Name == dirIDName || isSidecar(e.Name)
		return empty
	})
	if err == nil && !empty {
		err = unix.ENOTEMPTY
	}
	return err
}

// isSidecar reports whether name is that of a long name's sidecar. While one is
// in use its entry is there as well.
func isSidecar(name string) bool {
	return strings.HasPrefix(name, longPrefix) && strings.HasSuffix(name, sidecarTail)
}

// Rename gives the inode at a name another one, as renameat2(2) with
// unix.RENAME_NOREPLACE or RENAME_EXCHANGE.
//
// A name is sealed for its directory, not for its inode. So an exchange is one
// of the backing filesystem's, atomic there. A directory takes the place of an
// empty one by such an exchange too, after which the empty one is removed
// under the old name.
func (v *Volume) Rename(from NodeID, name string, to NodeID, newName string, flags uint) error {
	if flags != 0 && flags != unix.RENAME_NOREPLACE && flags != unix.RENAME_EXCHANGE {
		return unix.EINVAL
	}
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	r := &renaming{v: v, flags: flags}
	var err error
	if r.from, r.fromDir, err = v.dirOf(from); err != nil {
		return err
	}
	defer v.dirs.done(r.fromDir)
	if r.to, r.toDir, err = v.dirOf(to); err != nil {
		return err
	}
	defer v.dirs.done(r.toDir)
	if r.old, err = v.nameIn(r.from, name); err != nil {
		return err
	}
	if r.new, err = v.nameIn(r.to, newName); err != nil {
		return err
	}
	for {
		var over *Node
		if st, err := r.toDir.Stat(r.new.name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			over = v.table.at(st.Ino)
		}
		unlock := lockDirs(r.from, r.to, over)
		again, err := r.run(over)
		unlock()
		if !again {
			return err
		}
	}
}

type renaming struct {
	v              *Volume
	from, to       *Node
	fromDir, toDir *openDir
	old, new       backName
	flags          uint
}

// run does the rename under the locks of the two directories and of over,
// which stands for the directory at the new name if that is known. It asks for
// another try if another directory is there now.
func (r *renaming) run(over *Node) (again bool, err error) {
	v := r.v
	src, err := v.statIn(r.fromDir, r.old.name)
	if err != nil {
		return false, err
	}
	dst, err := v.statIn(r.toDir, r.new.name)
	if errors.Is(err, unix.ENOENT) {
		if r.flags == unix.RENAME_EXCHANGE {
			return false, err
		}
		return false, r.free(&src)
	}
	switch {
	case err != nil:
		return false, err
	case dst.Mode&unix.S_IFMT == unix.S_IFDIR && v.table.at(dst.Ino) != over:
		return true, nil
	case r.flags == unix.RENAME_NOREPLACE:
		return false, unix.EEXIST
	case dst.Ino == src.Ino: // two names of one inode: POSIX wants nothing done
		return false, nil
	case r.flags == unix.RENAME_EXCHANGE:
		return false, r.exchange(&src, &dst)
	case src.Mode&unix.S_IFMT == unix.S_IFDIR:
		return false, r.overDir(&src, &dst, over)
	}
	return false, r.overFile(&src, &dst)
}

// free renames to a name that is not in use.
func (r *renaming) free(src *Stat) error {
	if err := r.v.addSidecar(r.toDir, r.new); err != nil {
		return err
	}
	defer r.v.moving(move{r.to, r.new})()
	if err := r.fromDir.Rename(r.old.name, r.toDir.Dir, r.new.name, r.flags); err != nil {
		r.v.dropSidecar(r.toDir, r.new)
		return err
	}
	r.v.dropSidecar(r.fromDir, r.old)
	r.v.table.moved(src.Ino, binding{r.from, r.old.name}, binding{r.to, r.new.name})
	r.v.renamed(r.v.table.at(src.Ino))
	return nil
}

func (r *renaming) exchange(src, dst *Stat) error {
	defer r.v.moving(move{r.to, r.new}, move{r.from, r.old})()
	if err := r.fromDir.Rename(r.old.name, r.toDir.Dir, r.new.name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	r.v.table.swapped(src.Ino, binding{r.from, r.old.name}, dst.Ino, binding{r.to, r.new.name})
	r.v.renamed(r.v.table.at(src.Ino))
	r.v.renamed(r.v.table.at(dst.Ino))
	return nil
}

func (r *renaming) overFile(src, dst *Stat) error {
	if dst.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	if err := r.v.settleBefore(src); err != nil {
		return err
	}
	link := r.v.farTarget(r.toDir, r.new.name, dst)
	gone := r.v.keep(r.toDir, r.new.name, dst)
	defer r.v.moving(move{r.to, r.new})()
	if err := r.fromDir.Rename(r.old.name, r.toDir.Dir, r.new.name, 0); err != nil {
		return err
	}
	r.v.dropSidecar(r.fromDir, r.old)
	r.v.dropFarTarget(link)
	r.v.table.removed(gone, r.to, r.new.name, dst)
	r.v.table.moved(src.Ino, binding{r.from, r.old.name}, binding{r.to, r.new.name})
	r.v.renamed(r.v.table.at(src.Ino))
	r.v.lostName(dst.Ino)
	return nil
}

func (r *renaming) overDir(src, dst *Stat, over *Node) error {
	if dst.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if err := r.v.checkEmpty(r.toDir, r.new.name); err != nil {
		return err
	}
	if err := r.exchange(src, dst); cannotExchange(err) {
		return r.overDirInSteps(src, dst, over)
	} else if err != nil {
		return err
	}
	tmp := r.v.tempName()
	if err := r.fromDir.Rename(r.old.name, r.v.tmp, tmp, unix.RENAME_NOREPLACE); err != nil {
		// The new name is right; the old one now is the empty directory's.
		r.v.complain("replaced directory stays behind", "inode", dst.Ino, "err", err)
		return err
	}
	r.v.dropSidecar(r.fromDir, r.old)
	r.v.removedDir(r.from, r.old.name, dst, over)
	r.v.takeApart(tmp)
	return nil
}

// cannotExchange reports that the backing filesystem has no RENAME_EXCHANGE.
func cannotExchange(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// overDirInSteps is overDir where nothing can be exchanged. A crash in between
// leaves nothing under the new name, and the directory under the old one.
func (r *renaming) overDirInSteps(src, dst *Stat, over *Node) error {
	tmp := r.v.tempName()
	if err := r.toDir.Rename(r.new.name, r.v.tmp, tmp, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	defer r.v.moving(move{r.to, r.new})()
	if err := r.fromDir.Rename(r.old.name, r.toDir.Dir, r.new.name, unix.RENAME_NOREPLACE); err != nil {
		return errors.Join(err, r.v.tmp.Rename(tmp, r.toDir.Dir, r.new.name, unix.RENAME_NOREPLACE))
	}
	r.v.dropSidecar(r.fromDir, r.old)
	r.v.removedDir(r.to, r.new.name, dst, over)
	r.v.table.moved(src.Ino, binding{r.from, r.old.name}, binding{r.to, r.new.name})
	r.v.renamed(r.v.table.at(src.Ino))
	r.v.takeApart(tmp)
	return nil
}
