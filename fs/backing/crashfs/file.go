package crashfs

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// file is an open regular file.
type file struct {
	fs     *FS
	n      *node
	write  bool
	closed bool
}

var _ backing.File = (*file)(nil)

// lock locks the filesystem for an operation that changes nothing durable or
// visible.
func (f *file) lock() (unlock func(), err error) {
	f.fs.mu.Lock()
	if f.closed {
		f.fs.mu.Unlock()
		return nil, unix.EBADF
	}
	return f.fs.mu.Unlock, nil
}

// change is lock for one that does.
func (f *file) change(op Op) (unlock func(), err error) {
	f.fs.begin(op)
	switch {
	case f.closed, !f.write && (op == OpWrite || op == OpTruncate || op == OpAllocate):
		f.fs.mu.Unlock()
		return nil, unix.EBADF
	}
	return f.fs.mu.Unlock, nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	unlock, err := f.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	if off < 0 {
		return 0, unix.EINVAL
	}
	if off >= f.n.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.n.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		s, in := at/sectorSize, int(at%sectorSize)
		part := p[done:min(n, done+sectorSize-in)]
		if d := f.n.sector(s); d != nil {
			copy(part, d[in:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// sector returns what a sector holds now, nil for zeros.
func (n *node) sector(i int64) *[sectorSize]byte {
	v := n.sectors[i]
	if len(v) == 0 {
		return nil
	}
	return v[len(v)-1].data
}

// put gives a sector new content, volatile.
func (fs *FS) put(n *node, i int64, data *[sectorSize]byte) {
	v := n.sectors[i]
	if len(v) == 0 {
		if data == nil {
			return
		}
		v = []version{{}} // durable zeros
	}
	n.sectors[i] = append(v, version{fs.clock, data})
}

// fill sets a range, from p or, where p is nil, to zero.
func (fs *FS) fill(n *node, off, length int64, p []byte) {
	for done := int64(0); done < length; {
		at := off + done
		s, in := at/sectorSize, at%sectorSize
		part := min(length-done, sectorSize-in)
		old := n.sector(s)
		if p == nil && (old == nil || part == sectorSize) {
			fs.put(n, s, nil)
		} else {
			d := new([sectorSize]byte)
			if old != nil {
				*d = *old
			}
			if p == nil {
				clear(d[in : in+part])
			} else {
				copy(d[in:in+part], p[done:])
			}
			fs.put(n, s, d)
		}
		done += part
	}
}

func (fs *FS) setSize(n *node, size int64) {
	if size < n.size {
		// What lies beyond reads as zero when the file grows again.
		end := size + sectorSize - size%sectorSize
		if size%sectorSize != 0 && n.sector(size/sectorSize) != nil {
			fs.fill(n, size, end-size, nil)
		}
		for i := range n.sectors {
			if i*sectorSize >= size {
				fs.put(n, i, nil)
			}
		}
	}
	n.size = size
	n.sizes = append(n.sizes, sizeVersion{fs.clock, size})
}

func (fs *FS) touch(n *node) { fs.setAttr(n, func(a *attr) { a.mtime = fs.now() }) }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	unlock, err := f.change(OpWrite)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if off < 0 {
		return 0, unix.EINVAL
	}
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	f.fs.fill(f.n, off, int64(len(p)), p)
	if end > f.n.size {
		f.fs.setSize(f.n, end)
	}
	f.fs.touch(f.n)
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	unlock, err := f.change(OpTruncate)
	if err != nil {
		return err
	}
	defer unlock()
	if size < 0 {
		return unix.EINVAL
	}
	f.fs.setSize(f.n, size)
	f.fs.touch(f.n)
	return nil
}

func (f *file) Allocate(mode uint32, off, length int64) error {
	unlock, err := f.change(OpAllocate)
	if err != nil {
		return err
	}
	defer unlock()
	if off < 0 || length <= 0 {
		return unix.EINVAL
	}
	end := off + length
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
	case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
		if mode == unix.FALLOC_FL_PUNCH_HOLE {
			return unix.EOPNOTSUPP // it wants KEEP_SIZE
		}
		f.fs.fill(f.n, off, max(0, min(end, f.n.size)-off), nil)
	default:
		return unix.EOPNOTSUPP
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > f.n.size {
		f.fs.setSize(f.n, end)
	}
	f.fs.touch(f.n)
	return nil
}

// SeekHole knows data in units of 4096 bytes, as most filesystems do.
func (f *file) SeekHole(off int64, whence int) (int64, error) {
	unlock, err := f.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	if off < 0 || off >= f.n.size {
		return 0, unix.ENXIO
	}
	const unit = 4096
	for at := off; at < f.n.size; at = (at/unit + 1) * unit {
		data := false
		for s := at / unit * unit; s < (at/unit+1)*unit; s += sectorSize {
			data = data || f.n.sector(s/sectorSize) != nil
		}
		if data == (whence == unix.SEEK_DATA) {
			return at, nil
		}
	}
	if whence == unix.SEEK_HOLE {
		return f.n.size, nil
	}
	return 0, unix.ENXIO
}

func (f *file) Sync() error {
	unlock, err := f.change(OpSync)
	if err != nil {
		return err
	}
	defer unlock()
	f.n.syncData()
	f.n.syncAttr()
	if f.fs.FsyncNames {
		f.fs.syncNames(func(op *nameOp) bool { return op.node == f.n })
	}
	return nil
}

func (f *file) Datasync() error {
	unlock, err := f.change(OpSync)
	if err != nil {
		return err
	}
	defer unlock()
	f.n.syncData()
	return nil
}

func (f *file) Flock(how int) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if f.n.lock == nil {
		f.n.lock = map[*file]int{}
	}
	how &^= unix.LOCK_NB
	if how == unix.LOCK_UN {
		delete(f.n.lock, f)
		return nil
	}
	for g, held := range f.n.lock {
		if g != f && (held == unix.LOCK_EX || how == unix.LOCK_EX) {
			return unix.EWOULDBLOCK // waiting is not simulated
		}
	}
	f.n.lock[f] = how
	return nil
}

func (f *file) Stat() (backing.Stat, error) {
	unlock, err := f.lock()
	if err != nil {
		return backing.Stat{}, err
	}
	defer unlock()
	return f.n.stat(), nil
}

func (f *file) Close() error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	f.closed = true
	delete(f.n.lock, f)
	return nil
}
