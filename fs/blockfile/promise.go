package blockfile

import (
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// Space at home. A record is appended only after home has space for what it
// brings, so that it is the writer who is told of a full disk. That space stays
// promised until the record is home: a checkpoint never gives back space that live
// records, or the user, were given meanwhile. Else a durable record might find no
// room.

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

// isGiven reports whether the user had all of from to to-1 allocated.
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

// dropAhead forgets what space was allocated beyond the end, and leaves it to a
// checkpoint to free it.
func (f *File) dropAhead() {
	g := f.given.Load()
	f.lengthMu.Lock()
	f.loose = f.loose || f.ahead > f.physical || g != nil && g.to > f.physical
	f.ahead = 0
	f.lengthMu.Unlock()
	f.given.Store(nil)
}

// allocateNew allocates space at home for those blocks and tag blocks of ch that
// have none yet, and at the end of a growing file for more, in rising steps.
func (f *File) allocateNew(ch *change) error {
	if ch.size > ch.oldSize {
		if err := f.probe(f.layout.PhysicalSize(ch.size)); err != nil {
			return err
		}
	}
	old, size := f.blockCount(ch.oldSize), f.blockCount(ch.size)
	for _, e := range ch.extents {
		next := e.next()
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
	from = max(from, f.ahead)
	to := (end + ahead + 4095) &^ 4095
	err := f.allocate(from, to-from)
	if noSpace(err) { // not that much
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

// lockEnd holds off whatever makes the file grow or adds groups to it, until
// unlock is called.
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

// cutFrom cuts home to its first count blocks, but keeps the space of groups that
// have live records. The bytes there count no more than those that are cut: all
// that is present in those groups is in the records, and a checkpoint writes their
// tag blocks whole.
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

// cutEnd cuts home at a byte, or at the end of what streams wrote, if that lies
// further out. The end is locked.
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

// setLength gives home the length that a size takes, or more where a stream
// wrote. lsn is the record of that size, the newest when the checkpoint began. If
// there is a newer one by now, nothing is cut, since what that record needs may lie
// there: a later checkpoint cuts.
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

// lengthen makes home as long as is wanted, if it is shorter. done says that
// nothing lies beyond that then, which would have to be cut.
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
	given := f.given.Load()
	f.eachRun(n, slots&^g.t.Present, func(from, to int64) {
		if mode == unix.FALLOC_FL_PUNCH_HOLE && given != nil && given.from < to && from < given.to {
			return
		}
		_ = f.b.Allocate(mode|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	})
}
