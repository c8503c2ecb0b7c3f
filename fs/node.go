package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// Requests about names and attributes.

func (a *adapter) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	e, err := a.v.Lookup(id(in.NodeId), name)
	if errors.Is(err, unix.ENOENT) && status(err) == fuse.ENOENT {
		// No node: the kernel remembers that there is none.
		out.SetEntryTimeout(negativeTimeout)
		return fuse.OK
	}
	return a.reply(out, e, err)
}

func (a *adapter) Forget(node, count uint64) {
	if a.v.Forget(id(node), count) {
		a.stale.Delete(id(node)) // the cached pages are gone too
	}
}

func (a *adapter) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	st, err := a.v.GetAttr(id(in.NodeId))
	return a.replyAttr(out, id(in.NodeId), &st, err)
}

func (a *adapter) replyAttr(out *fuse.AttrOut, id volume.NodeID, st *volume.Stat, err error) fuse.Status {
	if err == nil {
		out.SetTimeout(a.attrTimeout(id, st))
		putAttr(&out.Attr, st)
	}
	return status(err)
}

func (a *adapter) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := volume.Change{
		Mode: in.Mode, UID: in.Uid, GID: in.Gid, Size: int64(in.Size),
		Atime: timespec(in.Atime, in.Atimensec, in.Valid&fuse.FATTR_ATIME_NOW != 0),
		Mtime: timespec(in.Mtime, in.Mtimensec, in.Valid&fuse.FATTR_MTIME_NOW != 0),
		By:    writer(&in.InHeader, in.Valid&fuse.FATTR_KILL_SUIDGID != 0),
	}
	for _, m := range []struct {
		valid uint32
		mask  volume.Mask
	}{
		{fuse.FATTR_MODE, volume.ChangeMode},
		{fuse.FATTR_UID, volume.ChangeUID},
		{fuse.FATTR_GID, volume.ChangeGID},
		{fuse.FATTR_SIZE, volume.ChangeSize},
		{fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW, volume.ChangeAtime},
		{fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW, volume.ChangeMtime},
	} {
		if in.Valid&m.valid != 0 {
			c.Mask |= m.mask
		}
	}
	st, err := a.v.SetAttr(id(in.NodeId), c)
	return a.replyAttr(out, id(in.NodeId), &st, err)
}

func timespec(sec uint64, nsec uint32, now bool) unix.Timespec {
	if now {
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// creator says for whom a request makes something.
func creator(in *fuse.InHeader, mode, umask uint32) volume.Creator {
	return volume.Creator{UID: in.Uid, GID: in.Gid, Mode: mode & 0o7777, Umask: umask & 0o777}
}

func (a *adapter) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	e, err := a.v.Mknod(id(in.NodeId), name, creator(&in.InHeader, in.Mode, in.Umask), in.Mode&unix.S_IFMT, uint64(in.Rdev))
	return a.reply(out, e, err)
}

func (a *adapter) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	e, err := a.v.Mkdir(id(in.NodeId), name, creator(&in.InHeader, in.Mode, in.Umask))
	return a.reply(out, e, err)
}

func (a *adapter) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	e, err := a.v.Symlink(id(in.NodeId), name, target, creator(in, 0o777, 0))
	return a.reply(out, e, err)
}

func (a *adapter) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := a.v.Readlink(id(in.NodeId))
	return []byte(target), status(err)
}

func (a *adapter) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	e, err := a.v.Link(id(in.Oldnodeid), id(in.NodeId), name)
	return a.reply(out, e, err)
}

func (a *adapter) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(a.v.Unlink(id(in.NodeId), name))
}

func (a *adapter) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(a.v.Rmdir(id(in.NodeId), name))
}

func (a *adapter) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	return status(a.v.Rename(id(in.NodeId), name, id(in.Newdir), newName, uint(in.Flags)))
}

func (a *adapter) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	st, err := a.v.Statfs()
	if err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: volume.NameMax,
	}
	return fuse.OK
}
