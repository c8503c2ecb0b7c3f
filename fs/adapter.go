package fs

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// How long the kernel may trust what it was told. Nobody but this process
// changes the volume, at the kernel's request, and the kernel drops what such
// a request changes: the times and link count of a file that lost a name, a
// directory's after a change in it, sizes and times after a write.
const (
	entryTimeout    = time.Hour
	attrTimeout     = time.Hour
	settlingTimeout = time.Second // of a file whose space changes without a request
	negativeTimeout = time.Hour
)

// notifySlots bounds the writes that tell the kernel to drop cached pages at
// one time. Each may have to wait for requests that others serve.
const notifySlots = 8

// adapter is the fuse.RawFileSystem of a volume. Requests that it does not
// implement are listed, with the reason, in the test of that name.
type adapter struct {
	fuse.RawFileSystem // answers ENOSYS
	v                  *volume.Volume
	log                *slog.Logger
	server             *fuse.Server

	files handles[*openFile]
	dirs  handles[*volume.DirHandle]

	notify chan struct{} // slots of notifySlots
	stale  sync.Map      // NodeIDs whose cached pages the next open is to drop
}

func newAdapter(v *volume.Volume, log *slog.Logger) *adapter {
	return &adapter{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		v:             v,
		log:           log,
		notify:        make(chan struct{}, notifySlots),
	}
}

func (a *adapter) String() string { return "plyfs" }
func (a *adapter) Init(server *fuse.Server) {
	a.server = server
	// The kernel asks for the mode again after a write through its cache, and not
	// after others: it would go on to show, and to honour, set-ID bits.
	a.v.OnModeDropped(func(n volume.NodeID) { server.InodeNotify(uint64(n), -1, 0) })
}
func (a *adapter) close() error { return a.v.Close() }

// handles maps file handles, which the kernel keeps for us, to what they
// stand for.
type handles[T any] struct {
	mu   sync.RWMutex
	last uint64
	open map[uint64]T
}

func (h *handles[T]) add(x T) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = map[uint64]T{}
	}
	h.last++
	h.open[h.last] = x
	return h.last
}

func (h *handles[T]) get(fh uint64) (T, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	x, ok := h.open[fh]
	if !ok {
		return x, unix.EBADF
	}
	return x, nil
}

func (h *handles[T]) remove(fh uint64) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.open[fh]
	delete(h.open, fh)
	return x, ok
}

func id(n uint64) volume.NodeID { return volume.NodeID(n) }

// putAttr fills in the attributes that a reply carries.
func putAttr(out *fuse.Attr, st *volume.Stat) {
	*out = fuse.Attr{
		Ino:       st.Ino,
		Size:      uint64(st.Size),
		Blocks:    uint64(st.Blocks),
		Atime:     uint64(st.Atim.Sec),
		Mtime:     uint64(st.Mtim.Sec),
		Ctime:     uint64(st.Ctim.Sec),
		Atimensec: uint32(st.Atim.Nsec),
		Mtimensec: uint32(st.Mtim.Nsec),
		Ctimensec: uint32(st.Ctim.Nsec),
		Mode:      st.Mode,
		Nlink:     uint32(st.Nlink),
		Owner:     fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:      uint32(st.Rdev),
		Blksize:   uint32(st.Blksize),
	}
}

// attrTimeout is how long the kernel may keep a node's attributes.
func (a *adapter) attrTimeout(id volume.NodeID, st *volume.Stat) time.Duration {
	if st.Mode&unix.S_IFMT == unix.S_IFREG && a.v.Settling(id) {
		return settlingTimeout
	}
	return attrTimeout
}

func (a *adapter) putEntry(out *fuse.EntryOut, e *volume.Entry) {
	out.NodeId = uint64(e.ID)
	out.Generation = 1 // an ID is never used twice
	out.SetEntryTimeout(entryTimeout)
	out.SetAttrTimeout(a.attrTimeout(e.ID, &e.Attr))
	putAttr(&out.Attr, &e.Attr)
}

// reply completes the answer to a request that looks up or makes a name.
func (a *adapter) reply(out *fuse.EntryOut, e volume.Entry, err error) fuse.Status {
	if err == nil {
		a.putEntry(out, &e)
	}
	return status(err)
}
