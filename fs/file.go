package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// Requests about open files.

// openFile is a handle with how it was opened.
type openFile struct {
	*volume.Handle
	direct bool // O_DIRECT: requests pass the kernel's page cache
}

func isDirect(flags uint32) bool { return flags&unix.O_DIRECT != 0 }

// opened makes a file handle of h and says how the kernel is to use it.
//
// An O_DIRECT open bypasses the page cache, with parallel writes. Another one
// keeps what the cache holds from before, unless a direct write outdated it, or
// O_NOATIME read it: reads from the cache move no access time. A handle that
// cannot write has nothing to flush on close.
func (a *adapter) opened(h *volume.Handle, flags uint32, out *fuse.OpenOut) {
	f := &openFile{Handle: h, direct: isDirect(flags)}
	out.Fh = a.files.add(f)
	if f.direct {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
		return
	}
	if _, outdated := a.stale.LoadAndDelete(h.Node()); !outdated {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	if flags&unix.O_NOATIME != 0 {
		a.stale.Store(h.Node(), struct{}{}) // what it leaves in the cache would hide others' reads
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
}

func openOptions(in *fuse.InHeader, flags, how uint32) volume.OpenOptions {
	return volume.OpenOptions{
		Truncate: flags&unix.O_TRUNC != 0,
		By:       writer(in, how&fuse.OPEN_KILL_SUIDGID != 0),
		Cached:   !isDirect(flags),
		NoAtime:  flags&unix.O_NOATIME != 0,
	}
}

// writer says for whom a request changes content. The kernel names no groups
// but the first.
func writer(in *fuse.InHeader, dropSetIDs bool) volume.Writer {
	return volume.Writer{DropSetIDs: dropSetIDs, GID: in.Gid}
}

func (a *adapter) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, err := a.v.Open(id(in.NodeId), openOptions(&in.InHeader, in.Flags, in.Mode))
	if err != nil {
		return status(err)
	}
	a.opened(h, in.Flags, out)
	return fuse.OK
}

func (a *adapter) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	o := openOptions(&in.InHeader, in.Flags, in.OpenFlags)
	e, h, err := a.v.Create(id(in.NodeId), name, creator(&in.InHeader, in.Mode, in.Umask), o)
	if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		// The kernel believed the name to be free.
		if e, err = a.v.Lookup(id(in.NodeId), name); err == nil {
			if h, err = a.v.Open(e.ID, o); err != nil {
				a.v.Forget(e.ID, 1)
			}
		}
	}
	return a.created(e, h, in.Flags, out, err)
}

func (a *adapter) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	e, h, err := a.v.Tmpfile(id(in.NodeId), creator(&in.InHeader, in.Mode, in.Umask), openOptions(&in.InHeader, in.Flags, in.OpenFlags))
	return a.created(e, h, in.Flags, out, err)
}

func (a *adapter) created(e volume.Entry, h *volume.Handle, flags uint32, out *fuse.CreateOut, err error) fuse.Status {
	if err != nil {
		return status(err)
	}
	a.putEntry(&out.EntryOut, &e)
	a.opened(h, flags, &out.OpenOut)
	return fuse.OK
}

func (a *adapter) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if f, ok := a.files.remove(in.Fh); ok {
		if err := f.Close(); err != nil {
			a.log.Error("closing a file failed", "node", in.NodeId, "err", err)
		}
	}
}

func (a *adapter) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return nil, status(err)
	}
	n, err := f.ReadAt(buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (a *adapter) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return 0, status(err)
	}
	by := writer(&in.InHeader, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	by.Writeback = in.WriteFlags&fuse.WRITE_CACHE != 0
	n, err := f.WriteAt(data, int64(in.Offset), by)
	direct := f.direct && !by.Writeback
	if n > 0 && direct && f.Mixed() {
		a.outdate(f.Node(), int64(in.Offset), int64(n))
	}
	if n == 0 {
		return 0, status(err)
	}
	// The kernel follows a write through its cache with an FSYNC where one is
	// due. After a direct one it sends none: it passes the flags of the file
	// and of the call.
	if direct && in.Flags&unix.O_DSYNC != 0 {
		if err := f.Sync(in.Flags&unix.O_SYNC != unix.O_SYNC); err != nil {
			return 0, status(err)
		}
	}
	return uint32(n), fuse.OK
}

// outdate makes the kernel drop what it may have cached of a range while a
// direct write of it was under way, before that write is answered. It had
// dropped the range before the write, but others read meanwhile.
func (a *adapter) outdate(n volume.NodeID, off, length int64) {
	select {
	case a.notify <- struct{}{}:
		st := a.server.InodeNotify(uint64(n), off, length)
		<-a.notify
		if st == fuse.OK || st == fuse.ENOENT {
			return
		}
	default:
	}
	a.stale.Store(n, struct{}{})
}

// Flush answers close(2). No write is pending by then that could fail; but what
// was written may have been lost since, by a journal that failed.
func (a *adapter) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return status(err)
	}
	return status(f.Failure())
}

// fsyncData is the bit of FsyncIn.FsyncFlags that fdatasync(2) sets.
const fsyncData = 1

func (a *adapter) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return status(err)
	}
	return status(f.Sync(in.FsyncFlags&fsyncData != 0))
}

// Fallocate has no flag of the kernel's for who may keep set-ID bits; root may.
func (a *adapter) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return status(err)
	}
	return status(f.Allocate(in.Mode, int64(in.Offset), int64(in.Length), writer(&in.InHeader, in.Uid != 0)))
}

func (a *adapter) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f, err := a.files.get(in.Fh)
	if err != nil {
		return status(err)
	}
	off, err := f.Seek(int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// Ioctl knows none. ENOSYS would do, but ENOTTY is what programs expect.
func (a *adapter) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
