package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// passthrough is the least filesystem that the workloads can run on: regular
// files in one directory. Every byte is copied through this process, as it is
// in plyfs; the kernel's passthrough and splice are off.
type passthrough struct {
	fuse.RawFileSystem // answers ENOSYS
	dir                string

	mu    sync.RWMutex
	nodes map[uint64]*passNode
	names map[string]uint64
	last  uint64
}

// passNode is a file. Its descriptor serves all handles of it.
type passNode struct {
	fd      int
	lookups uint64
	gone    bool // its name is
}

const attrTimeout = time.Hour // as plyfs: nobody else changes the files

// servePassthrough mounts dir at mountpoint and serves until it is unmounted.
// It must be a process of its own: one that uses its own mount may wait for
// itself.
func servePassthrough(dir, mountpoint string) error {
	p := &passthrough{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dir:           dir,
		nodes:         map[uint64]*passNode{},
		names:         map[string]uint64{},
		last:          fuse.FUSE_ROOT_ID,
	}
	server, err := fuse.NewServer(p, mountpoint, &fuse.MountOptions{
		FsName:                   dir,
		Name:                     "hotpath-pass",
		Options:                  []string{"default_permissions"},
		DirectMountStrict:        true,
		MaxWrite:                 1 << 20,
		MaxBackground:            256,
		MaxInflightRequestBytes:  160 << 20,
		DisableSplice:            true,
		ExplicitDataCacheControl: true,
		ExtraCapabilities: fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT,
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	go func() {
		if err := server.WaitMount(); err != nil {
			fmt.Fprintln(os.Stderr, "hotpath: pass-through:", err)
			os.Exit(1)
		}
	}()
	server.Serve()
	return nil
}

func (p *passthrough) String() string { return "hotpath-pass" }

func status(err error) fuse.Status {
	var errno syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &errno):
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// fd is the descriptor of a node, -1 of one that there is not.
func (p *passthrough) fd(node uint64) int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if n := p.nodes[node]; n != nil {
		return n.fd
	}
	return -1
}

func attr(fd int, out *fuse.Attr) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	*out = fuse.Attr{
		Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks), Mode: st.Mode, Nlink: uint32(st.Nlink),
		Atime: uint64(st.Atim.Sec), Mtime: uint64(st.Mtim.Sec), Ctime: uint64(st.Ctim.Sec),
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid}, Blksize: uint32(st.Blksize),
	}
	return nil
}

// enter answers with the node of a name, opened with flags if it is not known.
func (p *passthrough) enter(parent uint64, name string, flags int, mode uint32, out *fuse.EntryOut) error {
	if parent != fuse.FUSE_ROOT_ID {
		return unix.ENOTDIR
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id, known := p.names[name]
	if !known {
		fd, err := unix.Open(filepath.Join(p.dir, name), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, mode)
		if err != nil {
			return err
		}
		p.last++
		id = p.last
		p.nodes[id], p.names[name] = &passNode{fd: fd}, id
	}
	n := p.nodes[id]
	if err := attr(n.fd, &out.Attr); err != nil {
		return err
	}
	n.lookups++
	out.NodeId, out.Generation = id, 1
	out.SetEntryTimeout(attrTimeout)
	out.SetAttrTimeout(attrTimeout)
	return nil
}

func (p *passthrough) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return status(p.enter(in.NodeId, name, 0, 0, out))
}

func (p *passthrough) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	err := p.enter(in.NodeId, name, unix.O_CREAT, in.Mode&0o777, &out.EntryOut)
	if err == nil {
		opened(in.Flags, &out.OpenOut)
	}
	return status(err)
}

func (p *passthrough) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	opened(in.Flags, out)
	return fuse.OK
}

func opened(flags uint32, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if flags&unix.O_DIRECT != 0 {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
}

func (p *passthrough) Forget(node, count uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[node]
	if n == nil {
		return
	}
	n.lookups -= min(count, n.lookups)
	p.drop(node, n)
}

// drop ends a node that has neither name nor use. p.mu is held.
func (p *passthrough) drop(node uint64, n *passNode) {
	if n.gone && n.lookups == 0 {
		unix.Close(n.fd)
		delete(p.nodes, node)
	}
}

func (p *passthrough) Unlink(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id, ok := p.names[name]; ok {
		delete(p.names, name)
		p.nodes[id].gone = true
		p.drop(id, p.nodes[id])
	}
	return status(unix.Unlink(filepath.Join(p.dir, name)))
}

func (p *passthrough) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(attrTimeout)
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Attr = fuse.Attr{Ino: 1, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
		return fuse.OK
	}
	return status(attr(p.fd(in.NodeId), &out.Attr))
}

func (p *passthrough) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	fd := p.fd(in.NodeId)
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if err := unix.Ftruncate(fd, int64(in.Size)); err != nil {
			return status(err)
		}
	}
	out.SetTimeout(attrTimeout)
	return status(attr(fd, &out.Attr))
}

func (p *passthrough) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := unix.Pread(p.fd(in.NodeId), buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (p *passthrough) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := unix.Pwrite(p.fd(in.NodeId), data, int64(in.Offset))
	return uint32(max(n, 0)), status(err)
}

func (p *passthrough) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if in.FsyncFlags&1 != 0 { // fdatasync
		return status(unix.Fdatasync(p.fd(in.NodeId)))
	}
	return status(unix.Fsync(p.fd(in.NodeId)))
}

func (p *passthrough) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }
func (p *passthrough) Release(<-chan struct{}, *fuse.ReleaseIn)         {}
