package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// Requests about open directories.

func (a *adapter) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, err := a.v.OpenDir(id(in.NodeId))
	if err != nil {
		return status(err)
	}
	out.Fh = a.dirs.add(h)
	return fuse.OK
}

func (a *adapter) ReleaseDir(in *fuse.ReleaseIn) {
	if h, ok := a.dirs.remove(in.Fh); ok {
		h.Close()
	}
}

func dirent(e *volume.DirEntry) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind, Off: uint64(e.Off)}
}

func (a *adapter) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return a.list(in, out, func(_ *volume.DirHandle, e *volume.DirEntry) bool {
		return out.AddDirEntry(dirent(e))
	})
}

func (a *adapter) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return a.list(in, out, func(h *volume.DirHandle, e *volume.DirEntry) bool {
		entry := out.AddDirLookupEntry(dirent(e))
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		// An entry that cannot be looked up is listed without its node; the
		// kernel then looks it up itself when it is asked for.
		if found, err := h.Enter(*e); err == nil {
			a.putEntry(entry, &found)
			out.FixMode(found.Attr.Mode & unix.S_IFMT)
		}
		return true
	})
}

// list reads entries into out until one does not fit.
func (a *adapter) list(in *fuse.ReadIn, out *fuse.DirEntryList, take func(*volume.DirHandle, *volume.DirEntry) bool) fuse.Status {
	h, err := a.dirs.get(in.Fh)
	if err != nil {
		return status(err)
	}
	err = h.Read(int64(in.Offset), func(e volume.DirEntry) bool { return take(h, &e) })
	if err != nil && len(out.Bytes()) > 0 {
		err = nil // what there is first; the error comes with the next request
	}
	return status(err)
}

func (a *adapter) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, err := a.dirs.get(in.Fh)
	if err != nil {
		return status(err)
	}
	return status(h.Sync())
}
