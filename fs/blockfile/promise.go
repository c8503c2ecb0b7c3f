package blockfile

import (
	"errors"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// A record is appended only after home has space for what it brings, so that a
// full disk is told to the writer. That space stays promised until the record is
// home: what a checkpoint gives back is never space that live records, or the
// user, were given meanwhile. Otherwise durable records might find no room.

// given is a range of home, in bytes, whose space the user had allocated.
type given struct{ from, to int64 }

// allocateGiven allocates a range for the user.
func (f *File) allocateGiven(from, to int64) error {
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	if err := f.b.Allocate(unix.FALLOC_FL_KEEP_SIZE, from, to-from); err != nil {
		return err
	}
	f.keepReserved(from, to)
	if g := f.given.Load(); g != nil && from <= g.to && g.from <= to {
		from, to = min(from, g.from), max(to, g.to)
	}
	f.given.Store(&given{from, to})
	return nil
}

// isGiven reports whether the user has space from one byte to another.
func (f *File) isGiven(from, to int64) bool {
	g := f.given.Load()
	return g != nil && g.from <= from && to <= g.to
}

// takeBack ends what the user was given from a byte on.
func (f *File) takeBack(from int64) {
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	f.endGiven(from)
}

// endGiven is takeBack with spaceMu held.
func (f *File) endGiven(from int64) {
	if g := f.given.Load(); g != nil && from < g.to {
		f.given.Store(&given{min(g.from, from), from})
	}
}

// dropAhead forgets what space there is beyond the end.
func (f *File) dropAhead() {
	g := f.given.Load()
	f.lengthMu.Lock()
	f.loose = f.loose || f.ahead > f.physical || g != nil && g.to > f.physical
	f.ahead = 0
	f.lengthMu.Unlock()
	f.given.Store(nil)
}

// allocateNew has home allocate space for blocks and tag blocks that it has
// none for yet: at the end of a growing file some more, in rising steps.
func (f *File) allocateNew(ch *change) error {
	if ch.size > ch.oldSize {
		if err := f.probe(f.layout.PhysicalSize(ch.size)); err != nil {
			return err
		}
	}
	old, size := f.blockCount(ch.oldSize), f.blockCount(ch.size)
	for _, e := range ch.extents {
		next := e.first + uint64(e.count())
		if next < size || next <= old { // no end of a file that grows
			old = max(old, next)
		}
		if err := f.allocateHoles(ch, e.first, min(next, old)); err != nil {
			return err
		}
		if next > old {
			end := f.layout.BlockOffset(next-1) + int64(len(e.bodies)) - int64(e.count()-1)*f.bs
			if err := f.allocateEnd(ch, max(e.first, old), end); err != nil {
				return err
			}
		}
	}
	return nil
}

// allocateEnd allocates from block first up to end, where the file now ends,
// and ahead of it.
func (f *File) allocateEnd(ch *change, first uint64, end int64) error {
	ahead := int64(0)
	if first <= f.blockCount(ch.oldSize) { // no hole before it
		f.appended += ch.size - ch.oldSize
		ahead = min(f.appended, aheadBy)
	}
	group := f.layout.Group(first)
	from := f.layout.BlockOffset(first)
	switch {
	case f.layout.Slot(first) == 0:
		from = f.layout.TagOffset(group)
	case slices.Contains(ch.created, group):
		if err := f.allocate(f.layout.TagOffset(group), cipher.TagBlockSize); err != nil {
			return err
		}
	}
	f.lengthMu.Lock() // no checkpoint frees it at the same time
	defer f.lengthMu.Unlock()
	if end <= f.ahead || f.isGiven(from, end) {
		return nil
	}
	if f.ahead > from {
		from = f.ahead
	}
	to := (end + ahead + 4095) &^ 4095
	err := f.allocate(from, to-from)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		to = end
		err = f.allocate(from, to-from)
	}
	if err == nil {
		f.ahead = to
	}
	return err
}

// allocateHoles allocates, of blocks first to next-1, those that are holes now,
// and the rest of what was a short last block.
func (f *File) allocateHoles(ch *change, first, next uint64) error {
	for i, g := range ch.groups {
		slot, n, at := f.within(g.n, first, next)
		if n == 0 {
			continue
		}
		if ch.after[i].created {
			if err := f.allocate(f.layout.TagOffset(g.n), cipher.TagBlockSize); err != nil {
				return err
			}
		}
		short := f.bs > cipher.TagBlockSize && ch.oldSize%f.bs != 0 && at <= uint64(ch.oldSize/f.bs) && uint64(ch.oldSize/f.bs) < at+uint64(n)
		from, to := f.layout.BlockOffset(at), f.layout.BlockOffset(at)+int64(n)*f.bs
		if !short && ch.after[i].before.Present&slotMask(slot, n) == slotMask(slot, n) || f.isGiven(from, to) {
			continue
		}
		if err := f.allocate(from, to-from); err != nil {
			return err
		}
	}
	return nil
}

// allocate gives home space. A filesystem that cannot tells of a lack of space
// later.
func (f *File) allocate(off, n int64) error {
	f.keepSpace(off, off+n)
	return f.allocated(f.b.Allocate(unix.FALLOC_FL_KEEP_SIZE, off, n))
}

// lockEnd holds off all that makes the file grow or adds groups to it, and
// returns what ends that.
func (f *File) lockEnd() (unlock func()) {
	f.chain.Lock()
	g := f.cache.pin(f, 0)
	g.mu.Lock()
	return func() {
		g.mu.Unlock()
		f.cache.unpin(g)
		f.chain.Unlock()
	}
}

// cutFrom cuts home to its first count blocks, but for the space of groups that
// have live records. What lies there counts no more than what is cut: all that is
// present in them is in the records, and their tag blocks are written whole.
func (f *File) cutFrom(count uint64) error {
	if f.length() <= f.layout.PhysicalSize(int64(count)*f.bs) {
		return nil
	}
	defer f.lockEnd()()
	n := f.layout.Group(count)
	if n == 0 || f.layout.FirstBlock(n) < count {
		n++ // its header or first blocks stay
	}
	for f.layout.TagOffset(n) < f.length() {
		next, ok := f.j.Next(n)
		if !ok {
			return f.cutEnd(f.layout.TagOffset(n))
		}
		from, to := f.layout.TagOffset(n), f.layout.TagOffset(next)
		if from < to {
			if err := f.b.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from); f.allocated(err) != nil {
				return err
			} else if err != nil { // it cannot
				return f.cutEnd(from)
			}
			f.takeBack(from)
		}
		n = next + 1
	}
	return nil
}

// length returns the length of home.
func (f *File) length() int64 {
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	return f.physical
}

// cutEnd cuts home at a byte, but for what a stream wrote. The end is locked.
func (f *File) cutEnd(to int64) error {
	f.lengthMu.Lock()
	to = max(to, f.kept)
	g := f.given.Load()
	longer := f.physical > to || f.loose && f.physical == to && (g == nil || g.to <= to)
	var err error
	if longer {
		if err = f.b.Truncate(to); err == nil {
			f.physical, f.ahead, f.loose = to, 0, false
		}
	}
	f.lengthMu.Unlock()
	if longer && err == nil {
		f.takeBack(to)
	}
	return err
}

// dropHome cuts home to a length that a stream reached before. The end is locked.
func (f *File) dropHome(physical int64) error {
	f.lengthMu.Lock()
	f.kept, f.ahead = min(f.kept, physical), 0
	longer := f.physical > physical
	var err error
	if longer {
		if err = f.b.Truncate(physical); err == nil {
			f.physical = physical
		}
	}
	f.lengthMu.Unlock()
	if err != nil {
		return home(err)
	}
	if longer {
		f.takeBack(physical)
	}
	return nil
}

// setLength gives home the length that a size takes, or more where a stream
// wrote. The size was the newest when the checkpoint began; if it is not any more
// a later checkpoint cuts what is too long: a record may have its space there.
func (f *File) setLength(want int64, lsn journal.LSN) error {
	if longer, err := f.lengthen(want); longer || err != nil {
		return err
	}
	defer f.lockEnd()()
	if _, _, newest, ok := f.j.Size(); !ok || newest != lsn {
		return nil
	}
	return f.cutEnd(want)
}

// lengthen makes home as long as is wanted, if it is shorter, and reports
// whether it is no longer than that then.
func (f *File) lengthen(want int64) (done bool, err error) {
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	want = max(want, f.kept)
	if f.physical < want {
		if err := f.b.Truncate(want); err != nil {
			return false, err
		}
		f.physical = want
	}
	return f.physical == want && !f.loose, nil
}

// punch frees the space of slots of group n that were blocks and are holes still,
// or has it zeroed where the file asked for that. It is for the disk's sake
// alone, so that no failure is an error.
func (f *File) punch(n, slots uint64) {
	f.chain.RLock()
	defer f.chain.RUnlock()
	g := f.cache.pin(f, n)
	defer f.cache.unpin(g)
	g.mu.Lock() // nobody is given space in it
	defer g.mu.Unlock()
	if f.fill(g) != nil {
		return
	}
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE)
	if f.zeroed.Load() {
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	f.eachRun(n, slots&^g.t.Present, func(from, to int64) {
		if g := f.given.Load(); mode == unix.FALLOC_FL_PUNCH_HOLE && g != nil && g.from < to && from < g.to {
			return
		}
		_ = f.b.Allocate(mode|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	})
}
