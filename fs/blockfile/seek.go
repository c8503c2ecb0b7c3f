package blockfile

import (
	"math/bits"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// seekGroups is how many groups SeekHole reads one by one before it asks the
// backing filesystem where to go on.
const seekGroups = 64

// SeekData returns the first offset from off on where there is data, ENXIO if
// there is none. Data is what lies in a block that was written.
func (f *File) SeekData(off int64) (int64, error) { return f.seek(off, true) }

// SeekHole returns the first offset from off on where there is a hole; the end
// of the file is one. ENXIO if off is not before the end.
func (f *File) SeekHole(off int64) (int64, error) { return f.seek(off, false) }

func (f *File) seek(off int64, data bool) (int64, error) {
	if off < 0 {
		return 0, unix.ENXIO
	}
	l := f.locks.acquire(uint64(off/f.bs), lastBlock, false)
	defer f.locks.release(l)
	size := f.Size()
	if off >= size {
		return 0, unix.ENXIO
	}
	index, count := uint64(off/f.bs), f.blockCount(size)
	for dense := 1; index < count; dense++ {
		n := f.layout.Group(index)
		g, p, err := f.loadGroup(n)
		switch {
		case err != nil:
			return 0, err
		case g != nil:
			at, ok, err := f.seekIn(g, index, data)
			if err != nil {
				return 0, err
			}
			if ok && at < count {
				return max(off, int64(at)*f.bs), nil
			}
			index = f.layout.FirstBlock(n + 1)
		case !data:
			return max(off, int64(index)*f.bs), nil
		case p.hi == noGroup:
			index = count
		default:
			index = f.layout.FirstBlock(p.hi)
		}
		if !data && dense%seekGroups == 0 {
			index = f.skipData(index, count)
		}
	}
	if data {
		return 0, unix.ENXIO
	}
	return size, nil
}

// seekIn looks in g, which it unpins, from index on.
func (f *File) seekIn(g *group, index uint64, data bool) (at uint64, ok bool, err error) {
	defer f.cache.unpin(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := f.fill(g); err != nil {
		return 0, false, f.refuse(g.n, err)
	}
	wanted := g.t.Present
	if !data {
		wanted = ^wanted
	}
	slot := f.layout.Slot(index)
	s := slot + bits.TrailingZeros64(wanted>>slot)
	return index + uint64(s-slot), s < cipher.EntriesPerGroup, nil
}

// skipData returns a block from index on, up to which the backing filesystem knows
// no hole. If it is wrong, a hole is taken for data, which does no harm.
func (f *File) skipData(index, count uint64) uint64 {
	if index >= count {
		return index
	}
	off, err := f.b.SeekHole(f.layout.TagOffset(f.layout.Group(index)), unix.SEEK_HOLE)
	if err != nil {
		return index
	}
	to := uint64(f.layout.SizeOf(off)) / uint64(f.bs)
	return max(index, min(to, count))
}
