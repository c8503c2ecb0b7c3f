package blockfile

import (
	"math"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// holeGroups is how many groups one change makes holes in. A longer range takes
// several.
const holeGroups = 1024

// PunchHole makes off to off+n-1 read as zeros and frees whole blocks of it.
// The size stays. A long range takes several changes.
func (f *File) PunchHole(off, n int64) error {
	end, err := f.span(off, n)
	if err != nil {
		return err
	}
	return f.zeroAll(off, end, true, unix.FALLOC_FL_PUNCH_HOLE)
}

// ZeroRange makes off to off+n-1 read as zeros and reserves its space. Unless
// keepSize it grows the file to off+n.
func (f *File) ZeroRange(off, n int64, keepSize bool) error {
	end, err := f.span(off, n)
	if err != nil {
		return err
	}
	if end > f.layout.MaxSize() {
		return unix.EFBIG
	}
	if err := f.reserve(off, end); err != nil {
		return err
	}
	f.zeroed.Store(true)
	return f.zeroAll(off, end, keepSize, unix.FALLOC_FL_ZERO_RANGE)
}

// zeroAll zeroes in as many changes as it takes. The first one sees to the
// edges and to the size.
func (f *File) zeroAll(off, end int64, keepSize bool, free uint32) error {
	groups := f.layout.Group(uint64((end-1)/f.bs)) - f.layout.Group(uint64(off/f.bs)) + 1
	for at, edges := off, true; ; edges = false {
		room, err := f.room(int(min(groups, uint64(f.maxHoles))), 3)
		if err != nil {
			return err
		}
		err = f.afterStream(func() error {
			next, err := f.zeroSome(room, at, end, keepSize, edges, free)
			if err == nil {
				at = next
			}
			return err
		})
		room.Release()
		if err != nil || at >= end {
			return err
		}
	}
}

// zeroSome is one change of zeroAll, and returns where the next has to go on.
func (f *File) zeroSome(room *journal.Reservation, off, end int64, keepSize, edges bool, free uint32) (int64, error) {
	var l *rangeLock
	var size, newSize int64
	if keepSize || !edges {
		l = f.locks.acquire(uint64(off/f.bs), uint64((end-1)/f.bs), true)
		size = f.Size()
		newSize = size
	} else {
		l, size = f.lockChange(off, end)
		newSize = max(size, end)
	}
	defer f.locks.release(l)
	if end = min(end, newSize); off >= end && size == newSize {
		return math.MaxInt64, nil
	}
	ch := f.newChange(size, newSize)
	defer f.releaseChange(ch)
	ch.room, ch.free, ch.times = room, free, edges
	first, last := f.blockCount(off), uint64(end/f.bs)
	if end == newSize {
		last = f.blockCount(end)
	}
	if edges {
		if err := f.zeroEdges(ch, off, end, first, last); err != nil {
			return 0, err
		}
	}
	next, err := f.takeHoles(ch, first, last)
	if err != nil {
		return 0, err
	}
	if err := f.commit(ch); err != nil || next >= last {
		return math.MaxInt64, err
	}
	return int64(next) * f.bs, nil
}

// Allocate reserves the space of off to off+n-1, so that writing there does not
// fail for the lack of it. Unless keepSize it grows the file to off+n.
func (f *File) Allocate(off, n int64, keepSize bool) error {
	end, err := f.span(off, n)
	if err != nil {
		return err
	}
	if end > f.layout.MaxSize() {
		return unix.EFBIG
	}
	room, err := f.room(1, 3)
	if err != nil {
		return err
	}
	defer room.Release()
	if keepSize {
		if err := f.reserve(off, end); err != nil || f.j == nil {
			return err
		}
		return f.modified(room)
	}
	return f.afterStream(func() error { return f.allocateAndGrow(room, off, end) })
}

func (f *File) allocateAndGrow(room *journal.Reservation, off, end int64) error {
	l, size := f.lockChange(off, end)
	defer f.locks.release(l)
	if err := f.reserve(off, end); err != nil || end <= size && f.j == nil {
		return err
	}
	if end <= size {
		return f.modified(room)
	}
	ch := f.newChange(size, end)
	defer f.releaseChange(ch)
	ch.room = room
	if err := f.complete(ch); err != nil {
		return err
	}
	return f.commit(ch)
}

// span checks a range to change and returns its end.
func (f *File) span(off, n int64) (int64, error) {
	switch {
	case f.ro:
		return 0, unix.EROFS
	case off < 0 || n <= 0:
		return 0, unix.EINVAL
	case n > math.MaxInt64-off:
		return math.MaxInt64, nil
	}
	return off + n, nil
}

// reserve allocates backing space for off to end-1, tag blocks included. It
// fails with EOPNOTSUPP where the backing filesystem cannot.
func (f *File) reserve(off, end int64) error {
	first, last := uint64(off/f.bs), uint64((end-1)/f.bs)
	tag := f.layout.TagOffset(f.layout.Group(first))
	from := f.layout.BlockOffset(first)
	to := f.layout.BlockOffset(last) + end - int64(last)*f.bs
	if from == tag+cipher.TagBlockSize {
		from = tag
	} else if err := f.b.Allocate(unix.FALLOC_FL_KEEP_SIZE, tag, cipher.TagBlockSize); err != nil {
		return err
	}
	return f.allocateGiven(from, to)
}

// zeroEdges adds to ch the blocks that are zeroed in part, and the old last one
// if the file grows past it. Blocks first to last-1 are to be holes.
func (f *File) zeroEdges(ch *change, off, end int64, first, last uint64) error {
	head, tail := uint64(off/f.bs), uint64(end/f.bs)
	if old := uint64(ch.oldSize / f.bs); ch.size > ch.oldSize && ch.oldSize%f.bs != 0 && old < head {
		if err := f.complete(ch); err != nil {
			return err
		}
	}
	if head < first {
		lo := int(off - int64(head)*f.bs)
		hi := int(min(end-int64(head)*f.bs, f.bs))
		if err := f.edit(ch, head, lo, hi); err != nil {
			return err
		}
	}
	if tail >= last && tail*uint64(f.bs) < uint64(end) && (tail > head || head >= first) {
		return f.edit(ch, tail, 0, int(end-int64(tail)*f.bs))
	}
	return nil
}

// takeHoles adds to ch the blocks from first on, at most to last-1, that become
// holes, and returns the first block that is left for the next change. Groups that
// are not there are holes already.
func (f *File) takeHoles(ch *change, first, last uint64) (uint64, error) {
	for first < last {
		n := f.layout.Group(first)
		if n > f.layout.LastGroup(ch.oldSize) {
			return last, nil
		}
		g, p, err := f.loadGroup(n)
		if err != nil {
			return 0, err
		}
		if g != nil {
			f.cache.unpin(g)
			end := min(last, f.layout.FirstBlock(n+uint64(f.maxHoles)))
			ch.holes = append(ch.holes, blocks{first, end - first})
			return end, nil
		}
		next := last
		if p.hi != noGroup {
			next = min(last, f.layout.FirstBlock(p.hi))
		}
		if ch.free == unix.FALLOC_FL_PUNCH_HOLE {
			f.punchReserved(first, next)
		}
		first = next
	}
	return last, nil
}
