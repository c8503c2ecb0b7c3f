package volume

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/blockfile"
)

// OpenOptions say how a file is opened.
type OpenOptions struct {
	Truncate bool   // to size 0
	By       Writer // of Truncate
	Cached   bool   // the caller keeps what it reads, see Handle.Mixed
	NoAtime  bool   // reading by this handle moves no access time
}

// Handle is an open regular file. It goes on after the file's last name is
// gone. Its methods are safe for concurrent use; Close comes last.
type Handle struct {
	v      *Volume
	n      *Node
	file   *blockfile.File
	cached bool
	closed atomic.Bool

	noAtime bool
}

// Open opens the regular file of a node.
func (v *Volume) Open(id NodeID, o OpenOptions) (*Handle, error) {
	n, err := v.table.get(id)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, unix.EISDIR
	}
	if !n.isRegular() {
		return nil, unix.EINVAL
	}
	begin, end := v.gate.enter, v.gate.leave
	if o.Truncate {
		begin, end = v.beginChange, v.endChange
	}
	if err := begin(); err != nil {
		return nil, err
	}
	defer end()
	file, err := v.openFile(n)
	if err != nil {
		return nil, err
	}
	h := v.handle(n, file, o)
	if o.Truncate {
		if err := v.resize(n, Change{Mask: ChangeSize, By: o.By}); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

// handle makes a Handle of a use of n's file.
func (v *Volume) handle(n *Node, file *blockfile.File, o OpenOptions) *Handle {
	v.table.hold(n)
	if o.Cached {
		n.cached.Add(1)
	}
	return &Handle{v: v, n: n, file: file, cached: o.Cached, noAtime: o.NoAtime}
}

// Close ends the handle. What was written is not synced by it.
func (h *Handle) Close() error {
	if h.closed.Swap(true) {
		return unix.EBADF
	}
	if h.cached {
		h.n.cached.Add(-1)
	}
	err := h.v.leave(h.n)
	h.v.table.letGo(h.n)
	return err
}

// Node returns the node of the file.
func (h *Handle) Node() NodeID { return h.n.id }

// Mixed reports whether somebody has the file open who keeps what it reads,
// so that a write that goes past such a cache must be told to it.
func (h *Handle) Mixed() bool { return h.n.cached.Load() > 0 }

// Size returns the file's size.
func (h *Handle) Size() int64 { return h.file.Size() }

// ReadAt reads what there is of len(p) bytes at off; at the end of the file
// that is less, without an error.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.v.gate.enter(); err != nil {
		return 0, err
	}
	defer h.v.gate.leave()
	if off < 0 {
		return 0, unix.EINVAL
	}
	if h.noAtime {
		return h.file.ReadQuietly(p, off)
	}
	return h.file.ReadAt(p, off)
}

// WriteAt writes p at off.
func (h *Handle) WriteAt(p []byte, off int64, by Writer) (int, error) {
	enter := h.v.gate.enter
	if by.Writeback {
		enter = h.v.gate.enterWriteback
	}
	if err := h.v.beginChangeBy(enter); err != nil {
		return 0, err
	}
	defer h.v.endChange()
	if err := h.v.dropPrivileges(h.n, h.file.Backing(), by); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	return h.file.WriteAt(p, off)
}

// Modes of Allocate.
const (
	keepSize  = unix.FALLOC_FL_KEEP_SIZE
	punchHole = unix.FALLOC_FL_PUNCH_HOLE
	zeroRange = unix.FALLOC_FL_ZERO_RANGE
)

// Allocate is fallocate(2) with mode bits unix.FALLOC_FL_*: 0, KEEP_SIZE,
// PUNCH_HOLE|KEEP_SIZE and ZERO_RANGE with or without KEEP_SIZE; EOPNOTSUPP for
// others.
func (h *Handle) Allocate(mode uint32, off, length int64, by Writer) error {
	if off < 0 || length <= 0 {
		return unix.EINVAL
	}
	var do func() error
	switch mode {
	case 0, keepSize:
		do = func() error { return h.file.Allocate(off, length, mode == keepSize) }
	case punchHole | keepSize:
		do = func() error { return h.file.PunchHole(off, length) }
	case zeroRange, zeroRange | keepSize:
		do = func() error { return h.file.ZeroRange(off, length, mode&keepSize != 0) }
	default:
		return unix.EOPNOTSUPP
	}
	if err := h.v.beginChange(); err != nil {
		return err
	}
	defer h.v.endChange()
	if err := h.v.dropPrivileges(h.n, h.file.Backing(), by); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	// A change by the letter, also where there was nothing to do.
	defer h.n.touch()
	return h.file.Backing().Utimes(omit, now)
}

// Seek is lseek(2) with unix.SEEK_DATA or unix.SEEK_HOLE.
func (h *Handle) Seek(off int64, whence int) (int64, error) {
	if err := h.v.gate.enter(); err != nil {
		return 0, err
	}
	defer h.v.gate.leave()
	switch {
	case off < 0:
		return 0, unix.ENXIO
	case whence == unix.SEEK_DATA:
		return h.file.SeekData(off)
	case whence == unix.SEEK_HOLE:
		return h.file.SeekHole(off)
	}
	return 0, unix.EINVAL
}

// Sync makes the file durable: its data and size, with its other attributes
// unless dataOnly.
func (h *Handle) Sync(dataOnly bool) error {
	if err := h.v.gate.enterWriteback(); err != nil {
		return err
	}
	defer h.v.gate.leave()
	if h.v.ro {
		return nil
	}
	return h.file.Sync(dataOnly)
}

// Failure returns an error if some of what was written to the file was lost, for
// a caller that closes without Sync.
func (h *Handle) Failure() error { return h.file.Failure() }

// join returns n's file with one more use, nil if it is not open.
func (n *Node) join() *blockfile.File {
	n.use.Lock()
	defer n.use.Unlock()
	if n.file != nil {
		n.users++
	}
	return n.file
}

// leave ends a use; the last one closes the file, or leaves it to the journal.
// The caller holds no directory's lock.
func (v *Volume) leave(n *Node) error {
	err := v.endUse(n)
	v.settle()
	return err
}

func (v *Volume) endUse(n *Node) error {
	n.use.Lock()
	if n.users > 1 {
		n.users--
		n.use.Unlock()
		return nil
	}
	n.use.Unlock()

	// The last use, perhaps: no open may begin before the file is closed.
	n.opening.Lock()
	defer n.opening.Unlock()
	n.use.Lock()
	n.users--
	if n.users > 0 {
		n.use.Unlock()
		return nil
	}
	// At each moment the file is to be found here or there.
	file := n.file
	done := v.files.retire(n.ino, file)
	n.file = nil
	n.use.Unlock()
	if !done {
		v.lostName(n.ino)
		return nil
	}
	if v.freeze.gate.TryRLock() { // else the directory is to hold still
		file.ReleaseAhead()
		v.freeze.gate.RUnlock()
	}
	return errors.Join(v.lastHeader(file), file.Close())
}

// lastHeader makes the header of a file without records durable, which is about to
// be closed, where a clean unmount cannot do that for all files at once.
func (v *Volume) lastHeader(file *blockfile.File) error {
	if !v.fuseBelow || v.ro || !file.HeaderNew() {
		return nil
	}
	if st, err := file.Backing().Stat(); err == nil && st.Nlink == 0 {
		_ = file.Backing().Sync() // its name may come back, but nobody was promised that
		return nil
	}
	return file.SyncHeader()
}

// openFile returns n's file with one more use, opened if it was not. The
// caller holds no directory's lock.
func (v *Volume) openFile(n *Node) (*blockfile.File, error) {
	if file := n.join(); file != nil {
		return file, nil
	}
	if !n.isRegular() {
		return nil, unix.EINVAL
	}
	n.opening.Lock()
	defer n.opening.Unlock()
	if file := n.join(); file != nil {
		return file, nil
	}
	b, err := v.openBacking(n)
	if errors.Is(err, unix.ESTALE) {
		if b = v.table.takeOrphan(n); b != nil {
			defer v.files.keep(n.ino, -1)
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	// b keeps the inode number taken: what is idle under it is this inode.
	file := v.files.resume(n.ino)
	if file != nil {
		b.Close()
	} else if file, err = blockfile.Open(b, v.fileConfig()); err != nil {
		b.Close()
		v.complain("file does not open", "inode", n.ino, "err", err)
		return nil, err
	} else if file.HasNewID() && !v.ro {
		v.dropSealed(n, b)
	}
	if err := v.install(n, file); err != nil {
		return nil, err
	}
	n.checked.Store(!v.ro) // what is read-only is not trimmed
	return file, nil
}

// install makes file n's, in use once. After an error it is closed. n.opening
// is held, or n is not yet known.
func (v *Volume) install(n *Node, file *blockfile.File) error {
	id := file.ID()
	if !v.files.claim(n.ino, file) {
		v.complain("file ID is in use by another open file", "inode", n.ino, "id", id)
		file.Close()
		return fmt.Errorf("file ID in use twice: %w", ErrDamaged)
	}
	n.fileID.Store(&id)
	n.use.Lock()
	defer n.use.Unlock()
	n.file, n.users = file, 1
	return nil
}

func (v *Volume) fileConfig() blockfile.Config {
	return blockfile.Config{
		Volume: v.cipher, ReadOnly: v.ro, Unclean: v.unclean.Load(), SyncOpened: v.fuseBelow, Cache: v.cache,
		Journal: v.journal, StreamFrom: v.streamFrom, NoAtime: &v.noAtime,
		Times: &v.times, Unasked: v.holdCtime, Log: v.log,
	}
}

// openBacking opens the backing file of n by one of its names, to read and
// write unless the volume is read-only.
func (v *Volume) openBacking(n *Node) (backing.File, error) {
	flags := unix.O_RDWR
	if v.ro {
		flags = unix.O_RDONLY
	}
	var f backing.File
	err := v.byName(n, func(at named) (err error) {
		return v.retry(func() error {
			f, err = at.dir.OpenFile(at.name, flags, 0)
			if err == unix.EACCES {
				f, err = openOwn(at, flags)
			}
			return err
		})
	})
	if err != nil {
		return nil, hostile(err)
	}
	st, err := f.Stat()
	if err == nil && !v.is(n, &st) {
		err = fmt.Errorf("file was replaced beneath the mount: %w", ErrDamaged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openOwn opens a file whose mode keeps its owner, that is this process
// without privileges, from doing so. Whether the caller may is checked by the
// kernel.
func openOwn(at named, flags int) (backing.File, error) {
	st, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	mode := st.Mode & 0o7777
	if err := at.Chmod(mode | 0o600); err != nil {
		return nil, unix.EACCES
	}
	f, err := at.dir.OpenFile(at.name, flags, 0)
	if cerr := at.Chmod(mode); err == nil && cerr != nil {
		f.Close()
		return nil, cerr
	}
	return f, err
}
