package volume

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Mask says which attributes a Change changes.
type Mask uint8

// Attributes of a Change.
const (
	ChangeMode Mask = 1 << iota
	ChangeUID
	ChangeGID
	ChangeSize
	ChangeAtime
	ChangeMtime
)

// Change is a change of attributes. A Change of nothing moves ctime, as
// chown(2) of nobody to nobody does.
type Change struct {
	Mask     Mask
	Mode     uint32 // permission, set-ID and sticky bits
	UID, GID uint32
	Size     int64
	Atime    unix.Timespec // UTIME_NOW is understood
	Mtime    unix.Timespec

	By Writer // of a change of size
}

// Writer says for whom content is changed. Who lacks CAP_FSETID loses a file's
// set-user-ID bit by that, and its set-group-ID bit if the file is executable
// for its group or the caller is not of that group. File capabilities go in
// any case.
type Writer struct {
	DropSetIDs bool
	GID        uint32
	Writeback  bool // it is the kernel, with dirty pages of its cache
}

// GetAttr returns the attributes of a node.
func (v *Volume) GetAttr(id NodeID) (Stat, error) {
	if id != RootID { // whose attributes take no key, and umount(8) wants them
		if err := v.gate.enter(); err != nil {
			return Stat{}, err
		}
		defer v.gate.leave()
	}
	n, err := v.table.get(id)
	if err != nil {
		return Stat{}, err
	}
	return v.attr(n)
}

func (v *Volume) attr(n *Node) (Stat, error) {
	var st Stat
	err := v.reach(n, func(t target) (err error) {
		v.times.RLock()
		defer v.times.RUnlock()
		st, err = t.Stat()
		return err
	})
	if errors.Is(err, unix.ESTALE) {
		if last, ok := v.table.lastSeen(n); ok {
			st, err = last, nil
		}
	}
	if err != nil {
		return Stat{}, err
	}
	v.present(n, &st)
	return st, nil
}

// present turns what the backing filesystem says of n into what the volume
// shows. The caller holds no directory's lock.
func (v *Volume) present(n *Node, st *Stat) {
	st.Blksize = int64(v.layout.BlockSize())
	switch n.kind {
	case unix.S_IFREG:
		v.contentAttr(n, st)
	case unix.S_IFLNK:
		st.Size = v.linkSize(n, st.Size)
	case unix.S_IFDIR:
		if n.id == RootID && st.Nlink > 2 {
			st.Nlink-- // .plyfs
		}
	}
}

// Settling reports whether records of a file are still to go home. What space it
// takes then changes without a request.
func (v *Volume) Settling(id NodeID) bool {
	n, err := v.table.get(id)
	if err != nil {
		return false
	}
	file := v.contentOf(n)
	return file != nil && file.Live()
}

// contentAttr puts size and times of a regular file's content into st, which is
// what the backing filesystem says. An open file knows better. After an unclean
// stop the length of a backing file proves nothing until the file was opened.
func (v *Volume) contentAttr(n *Node, st *Stat) {
	unsure := v.unclean.Load() && !n.checked.Load()
	drops := v.files.drops.Load()
	file := v.contentOf(n)
	for file == nil && v.journal != nil && !v.ro && !unsure {
		// st may be of before a checkpoint that has let go of the file since.
		var fresh Stat
		err := v.reach(n, func(t target) (err error) {
			v.times.RLock()
			defer v.times.RUnlock()
			fresh, err = t.Stat()
			return err
		})
		if err != nil {
			break
		}
		fresh.Blksize = st.Blksize
		*st = fresh
		file = v.contentOf(n)
		now := v.files.drops.Load()
		if now == drops {
			break
		}
		drops = now
	}
	if file == nil && unsure {
		if opened, err := v.openFile(n); err == nil {
			defer v.leave(n)
			file = opened
		}
	}
	n.showCtime(st)
	if file == nil {
		st.Size = v.layout.SizeOf(st.Size)
		return
	}
	st.Size = file.Size()
	mtime, changed := file.Times()
	if mtime != (unix.Timespec{}) {
		st.Mtim = mtime
	}
	st.Ctim = later(st.Ctim, changed)
}

// SetAttr changes attributes of a node and returns them all.
func (v *Volume) SetAttr(id NodeID, c Change) (Stat, error) {
	n, err := v.table.get(id)
	if err == nil {
		err = v.changeGated(n, c)
	}
	if err != nil {
		return Stat{}, err
	}
	return v.GetAttr(id)
}

// changeGated is change, once the volume is not frozen.
func (v *Volume) changeGated(n *Node, c Change) error {
	if err := v.beginChange(); err != nil {
		return err
	}
	defer v.endChange()
	return v.change(n, c)
}

// change applies c in the order in which one attribute bears on another:
// chown clears set-ID bits, truncate moves times.
func (v *Volume) change(n *Node, c Change) error {
	if c.Mask&ChangeSize != 0 {
		if err := v.resize(n, c); err != nil {
			return err
		}
	}
	if c.Mask&ChangeMtime != 0 {
		if err := v.recordMtime(n, c.Mtime); err != nil {
			return err
		}
	}
	defer v.attrsChanged(n)
	return v.reach(n, func(t target) error {
		if c.Mask&(ChangeUID|ChangeGID) != 0 || c.Mask == 0 {
			if err := t.Chown(c.owner()); err != nil {
				return err
			}
		}
		if c.Mask&ChangeMode != 0 {
			err := t.Chmod(c.Mode & 0o7777)
			n.changes.Add(1)
			if err != nil {
				return err
			}
		}
		if c.Mask&(ChangeAtime|ChangeMtime) != 0 {
			v.times.RLock()
			defer v.times.RUnlock()
			return t.Utimes(c.times())
		}
		return nil
	})
}

func (c *Change) owner() (uid, gid int) {
	uid, gid = -1, -1
	if c.Mask&ChangeUID != 0 {
		uid = int(c.UID)
	}
	if c.Mask&ChangeGID != 0 {
		gid = int(c.GID)
	}
	return uid, gid
}

func (c *Change) times() (atime, mtime unix.Timespec) {
	atime, mtime = omit, omit
	if c.Mask&ChangeAtime != 0 {
		atime = c.Atime
	}
	if c.Mask&ChangeMtime != 0 {
		mtime = c.Mtime
	}
	return atime, mtime
}

var (
	omit = unix.Timespec{Nsec: unix.UTIME_OMIT}
	now  = unix.Timespec{Nsec: unix.UTIME_NOW}
)

// resize truncates a regular file up or down.
func (v *Volume) resize(n *Node, c Change) error {
	if n.isDir() {
		return unix.EISDIR
	}
	if !n.isRegular() || c.Size < 0 {
		return unix.EINVAL
	}
	file, err := v.openFile(n)
	if err != nil {
		return err
	}
	defer v.leave(n)
	if err := v.dropPrivileges(n, file.Backing(), c.By); err != nil {
		return err
	}
	if file.Size() == c.Size && v.journal == nil {
		return file.Backing().Utimes(omit, now) // truncation is a change even then
	}
	return file.Truncate(c.Size)
}

// OnModeDropped has f called when a file lost set-ID bits because its content is
// about to change, before the call that changes it ends. f asks nothing of the
// volume.
func (v *Volume) OnModeDropped(f func(NodeID)) { v.modeDropped.Store(&f) }

const capabilityAttr = "security.capability"

// dropPrivileges takes from a file, before its content changes, what content
// gives power.
func (v *Volume) dropPrivileges(n *Node, t target, by Writer) error {
	seen := n.changes.Load() + 1
	if n.plain.Load() == seen {
		return nil
	}
	st, err := t.Stat()
	if err != nil {
		return err
	}
	drop := uint32(0)
	if by.DropSetIDs {
		drop = st.Mode & unix.S_ISUID
		if st.Mode&unix.S_IXGRP != 0 || st.Gid != by.GID {
			drop |= st.Mode & unix.S_ISGID
		}
	}
	if drop != 0 {
		if err := t.Chmod(st.Mode & 0o7777 &^ drop); err != nil {
			return err
		}
		v.mustLast(n)
		if f := v.modeDropped.Load(); f != nil {
			(*f)(n.id)
		}
	}
	if _, err := t.Getxattr(capabilityAttr, nil); err == nil {
		if err := t.Removexattr(capabilityAttr); err != nil {
			return err
		}
		v.mustLast(n)
	}
	if (st.Mode&^drop)&(unix.S_ISUID|unix.S_ISGID) == 0 {
		n.plain.Store(seen)
	}
	return nil
}
