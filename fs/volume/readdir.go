package volume

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// DirEntry is an entry of a directory listing.
type DirEntry struct {
	Name string
	Ino  uint64
	Kind uint32 // S_IFMT bits, 0 where unknown
	Off  int64  // cookie to go on after this entry

	back string // backing name, empty for "." and ".."
}

// DirHandle is an open directory. Its methods are safe for concurrent use;
// Close comes last.
type DirHandle struct {
	v *Volume
	n *Node

	mu     sync.Mutex
	stream backing.DirStream
	pos    int64     // cookie of the last entry taken
	ahead  *DirEntry // read, but not taken
}

// OpenDir opens a directory to list it.
func (v *Volume) OpenDir(id NodeID) (*DirHandle, error) {
	if err := v.gate.enter(); err != nil {
		return nil, err
	}
	defer v.gate.leave()
	return v.openDir(id)
}

func (v *Volume) openDir(id NodeID) (*DirHandle, error) {
	n, d, err := v.dirOf(id)
	if err != nil {
		return nil, err
	}
	defer v.dirs.done(d)
	h := &DirHandle{v: v, n: n}
	err = v.retry(func() (err error) {
		h.stream, err = d.ReadDir()
		return err
	})
	if err != nil {
		return nil, err
	}
	if quiet, ok := h.stream.(backing.Quiet); ok && v.noAtime.Load() {
		_ = quiet.NoAtime() // no reason to fail the listing
	}
	v.table.hold(n)
	return h, nil
}

// Close ends the handle.
func (h *DirHandle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream == nil {
		return unix.EBADF
	}
	err := h.stream.Close()
	h.stream = nil
	h.v.table.letGo(h.n)
	return err
}

// Read calls take for the entries after the cookie off, 0 for the start, until
// take refuses one or the directory ends. Entries that were made or removed
// since the handle was opened may be missed or seen until off is 0 again.
func (h *DirHandle) Read(off int64, take func(DirEntry) bool) error {
	if err := h.v.gate.enter(); err != nil {
		return err
	}
	defer h.v.gate.leave()
	return h.read(off, take)
}

func (h *DirHandle) read(off int64, take func(DirEntry) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream == nil {
		return unix.EBADF
	}
	if off != h.pos || off == 0 {
		if err := h.stream.SeekTo(off); err != nil {
			return err
		}
		h.pos, h.ahead = off, nil
	}
	for {
		e, err := h.next()
		if err != nil || e == nil {
			return err
		}
		if !take(*e) {
			h.ahead = e
			return nil
		}
		h.pos = e.Off
	}
}

// next returns the next entry, nil at the end. h.mu is held.
func (h *DirHandle) next() (*DirEntry, error) {
	if e := h.ahead; e != nil {
		h.ahead = nil
		return e, nil
	}
	for {
		b, ok, err := h.stream.Next()
		if err != nil || !ok {
			return nil, err
		}
		e := &DirEntry{Name: b.Name, Ino: b.Ino, Kind: uint32(b.Type) << 12, Off: b.Off}
		switch b.Name {
		case ".":
			e.Kind = unix.S_IFDIR
			return e, nil
		case "..":
			e.Ino, e.Kind = h.parent(), unix.S_IFDIR
			return e, nil
		}
		if name, ok := h.open(b.Name); ok {
			e.Name, e.back = name, b.Name
			return e, nil
		}
	}
}

// parent is the inode number of the directory above, as it is in the volume.
func (h *DirHandle) parent() uint64 {
	if b, ok := h.v.table.name(h.n); ok {
		return b.dir.ino
	}
	return h.n.ino
}

// open opens a backing name of the directory.
func (h *DirHandle) open(name string) (plain string, ok bool) {
	d, err := h.v.dir(h.n)
	if err != nil {
		return "", false // removed meanwhile
	}
	defer h.v.dirs.done(d)
	h.n.names.RLock()
	defer h.n.names.RUnlock()
	return h.v.plainName(h.n, d, name)
}

// Enter looks up an entry of a listing, which is none of "." and "..".
func (h *DirHandle) Enter(e DirEntry) (Entry, error) {
	if err := h.v.gate.enter(); err != nil {
		return Entry{}, err
	}
	defer h.v.gate.leave()
	return h.enter(e)
}

func (h *DirHandle) enter(e DirEntry) (Entry, error) {
	if e.back == "" {
		return Entry{}, unix.EINVAL
	}
	d, err := h.v.dir(h.n)
	if err != nil {
		return Entry{}, err
	}
	defer h.v.dirs.done(d)
	return h.v.enter(h.n, d, backName{name: e.back})
}

// Sync makes the names in the directory and its attributes durable.
func (h *DirHandle) Sync() error {
	if err := h.v.gate.enter(); err != nil {
		return err
	}
	defer h.v.gate.leave()
	if h.v.ro {
		return nil
	}
	d, err := h.v.dir(h.n)
	if err != nil {
		if h.v.gone(h.n) {
			return nil
		}
		return err
	}
	defer h.v.dirs.done(d)
	return d.Sync()
}
