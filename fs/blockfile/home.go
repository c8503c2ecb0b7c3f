package blockfile

import (
	"math"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// The planning of a change, and the steps by which apply brings it home where there
// is no journal.

// growHome gives the backing file the length of the new size. What an earlier
// change that failed left beyond the old end goes first, lest it come into the
// file.
func (f *File) growHome(ch *change) error {
	if ch.size <= ch.oldSize {
		return nil
	}
	if old := f.layout.PhysicalSize(ch.oldSize); f.physical > old {
		if err := f.cutHome(old); err != nil {
			return err
		}
	}
	want := f.layout.PhysicalSize(ch.size)
	if n := len(ch.extents); n > 0 {
		e := ch.extents[n-1]
		if e.next() == f.blockCount(ch.size) {
			f.allocateAhead(ch, e, want)
			return nil // the last body will reach there
		}
	}
	if err := f.b.Truncate(want); err != nil {
		return err
	}
	f.physical = want
	return nil
}

// cutHome makes the backing file shorter, or just frees what is allocated
// beyond its end.
func (f *File) cutHome(physical int64) error {
	if err := f.b.Truncate(physical); err != nil {
		return err
	}
	f.physical, f.ahead = physical, 0
	return nil
}

const (
	aheadFrom = 256 << 10 // bytes that an open file grows by before it is done
	aheadBy   = 1 << 20
)

// allocateAhead allocates backing space beyond the new end, in large steps, for
// a file that keeps growing: measured on ext4, writes then cost a quarter less.
// The length stays, since it tells the size. A write that leaves a hole behind
// it begins the count anew: such files stay sparse.
func (f *File) allocateAhead(ch *change, e extent, want int64) {
	if e.first > f.blockCount(ch.oldSize) {
		f.appended = min(f.appended, 0)
		return
	}
	if f.appended += ch.size - ch.oldSize; f.appended < aheadFrom || want <= f.ahead {
		return
	}
	from, to := max(f.ahead, f.layout.BlockOffset(e.first)), want+aheadBy
	if to < want || f.b.Allocate(unix.FALLOC_FL_KEEP_SIZE, from, to-from) != nil {
		f.appended = math.MinInt64 // not again
		return
	}
	f.ahead = to
}

// ReleaseAhead gives back the space beyond the end of a file that is home, and
// that the user did not ask for. It is for who is about to close it, while no
// other File of the inode can be made.
func (f *File) ReleaseAhead() {
	l := f.locks.acquire(0, lastBlock, true)
	defer f.locks.release(l)
	f.checkpoint.Lock()
	defer f.checkpoint.Unlock()
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	if !f.ro && !f.closed.Load() && !f.Live() {
		f.releaseAhead()
	}
}

// releaseAhead gives back the space that was allocated ahead. The times stay, and
// so does what the user reserved.
func (f *File) releaseAhead() {
	if g := f.given.Load(); f.ahead <= f.physical || g != nil && g.to > f.physical {
		return
	}
	defer f.unasked(f)()
	f.times.Lock()
	defer f.times.Unlock()
	st, err := f.b.Stat()
	if err == nil && f.cutHome(f.physical) == nil {
		_ = f.setHomeMtime(st.Mtim)
	}
}

// shrinkBack takes back what growHome and writeBodies added.
func (f *File) shrinkBack(ch *change) {
	if want := f.layout.PhysicalSize(ch.oldSize); ch.size > ch.oldSize && f.physical > want {
		_ = f.cutHome(want)
	}
}

// writeBodies writes the sealed blocks, the last extent first: should it fail,
// the others, which complete the block before, are not needed.
func (f *File) writeBodies(ch *change) error {
	for i := len(ch.extents) - 1; i >= 0; i-- {
		n, err := f.writeExtent(ch.extents[i])
		if err != nil {
			if i == len(ch.extents)-1 && n > 0 {
				return &shortError{n, err}
			}
			return err
		}
	}
	return nil
}

// writeExtent writes the bodies of e, those of one group in one piece, and
// returns how many blocks are there.
func (f *File) writeExtent(e extent) (int, error) {
	for i := 0; i < e.count(); {
		index := e.first + uint64(i)
		n := min(e.count()-i, f.leftInGroup(index))
		off := f.layout.BlockOffset(index)
		m, err := f.b.WriteAt(f.bodies(e.bodies, i, n), off)
		f.grown(off + int64(m))
		if err != nil {
			return i + m/int(f.bs), err
		}
		i += n
	}
	return e.count(), nil
}

// bodies returns the bodies of n blocks from block i on of p, whose last block may
// be short.
func (f *File) bodies(p []byte, i, n int) []byte {
	return p[i*int(f.bs) : min((i+n)*int(f.bs), len(p))]
}

// leftInGroup returns how many blocks of its group there are from index on.
func (f *File) leftInGroup(index uint64) int {
	return cipher.EntriesPerGroup - f.layout.Slot(index)
}

// grown notes that the backing file reaches to end at least. Only a request
// that holds all blocks from the end on gets beyond.
func (f *File) grown(end int64) {
	if end > f.layout.PhysicalSize(f.Size()) {
		f.physical = max(f.physical, end)
	}
}

// planGroups works out what becomes of each group. The caller has locked them:
// other requests may have changed other blocks of theirs up to now.
func (f *File) planGroups(ch *change) error {
	for _, g := range ch.groups {
		c := groupChange{created: slices.Contains(ch.created, g.n)}
		if err := f.prepare(g, c.created); err != nil {
			return err
		}
		c.before, c.after = g.t, g.t
		c.dirty = c.created || g.n == 0 && ch.headerChanges()
		for _, e := range ch.extents {
			slot, n, _ := f.within(g.n, e.first, e.next())
			c.after.Present |= slotMask(slot, n)
			c.dirty = c.dirty || n > 0
		}
		for _, h := range f.cleared(ch) {
			slot, n, _ := f.within(g.n, h.first, h.first+h.n)
			c.after.Present &^= slotMask(slot, n)
		}
		for _, u := range ch.gaps {
			if u.group == g.n {
				c.after.Gap = u.gap
			}
		}
		c.dirty = c.dirty || c.after != c.before
		ch.after = append(ch.after, c)
		if g.n == 0 {
			ch.header = f.header
		}
	}
	// Requests of other blocks may change the one while this changes the other.
	if ch.size != ch.oldSize {
		ch.header.Size = ch.size
	}
	if ch.last != ch.oldLast {
		ch.header.Last = ch.last
	}
	return nil
}

// cleared returns the blocks that ch makes holes, those past the end included.
func (f *File) cleared(ch *change) []blocks {
	if !ch.shrinks() {
		return ch.holes
	}
	end := f.blockCount(ch.size)
	return append(slices.Clip(ch.holes), blocks{end, lastBlock - end})
}

// within returns which of the blocks from to to-1 are of group n: the slot of the
// first, their number, and the first. All are 0 if there are none.
func (f *File) within(n, from, to uint64) (slot, count int, first uint64) {
	start := f.layout.FirstBlock(n)
	first, to = max(start, from), min(start+uint64(f.layout.Blocks(n)), to)
	if first >= to {
		return 0, 0, 0
	}
	return f.layout.Slot(first), int(to - first), first
}

// slotMask returns the bits of n slots from slot on.
func slotMask(slot, n int) uint64 { return (1<<n - 1) << slot }

// entriesIn returns the entries of n slots of a tag block, from slot on.
func entriesIn(tag []byte, slot, n int) []byte {
	return tag[slot*cipher.EntrySize : (slot+n)*cipher.EntrySize]
}

// headerSector returns the header in a tag block 0, without its static part.
func headerSector(tag []byte) []byte { return tag[cipher.SectorSize : 2*cipher.SectorSize] }

// blockCount returns how many blocks a file of size bytes has.
func (f *File) blockCount(size int64) uint64 {
	return uint64(size)/uint64(f.bs) + min(uint64(size)%uint64(f.bs), 1)
}

// prepare makes g an empty group if it is created, and otherwise reads it again if
// its copy was given up when a write failed. Group 0 is created where it was
// damaged; it keeps its static header, which was verified.
func (f *File) prepare(g *group, created bool) error {
	if !created {
		return f.fill(g)
	}
	clear(g.tag[:])
	g.t, g.home, g.mended = cipher.Trailer{}, 0, true
	if g.n == 0 {
		f.sealStatic(g.tag[:])
	}
	return nil
}

// writeGroups brings ch into the copies of its groups in memory, and those
// home, group 0 with the header last.
func (f *File) writeGroups(ch *change) error {
	zero := 0
	if len(ch.groups) > 0 && ch.groups[0].n == 0 {
		zero = 1
	}
	for i := range ch.groups {
		i = (i + zero) % len(ch.groups)
		if err := f.writeGroup(ch, ch.groups[i], ch.after[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeGroup brings one group home. MACs are made anew only if what they cover
// changed. The tag block is written whole, so that the page cache need not read it
// first.
func (f *File) writeGroup(ch *change, g *group, c groupChange) error {
	if !c.dirty {
		return nil
	}
	f.copyEntries(ch, g)
	if c.after != c.before || c.created {
		f.c.SealTrailer(g.tag[:], g.n, c.after)
	}
	if g.n == 0 && (ch.headerChanges() || c.created) {
		f.c.SealHeader(headerSector(g.tag[:]), ch.header)
	}
	off := f.layout.TagOffset(g.n)
	m, err := f.b.WriteAt(g.tag[:], off)
	f.grown(off + int64(m))
	if g.present = err == nil; err != nil {
		return err // home decides
	}
	g.t = c.after
	if g.n == 0 {
		f.header = ch.header
	}
	return nil
}

// copyEntries brings the entries of ch into the copy of a group.
func (f *File) copyEntries(ch *change, g *group) {
	for _, e := range ch.extents {
		slot, n, first := f.within(g.n, e.first, e.next())
		if n > 0 {
			copy(entriesIn(g.tag[:], slot, n), e.entries[(first-e.first)*cipher.EntrySize:])
		}
	}
	for _, h := range f.cleared(ch) {
		slot, n, _ := f.within(g.n, h.first, h.first+h.n)
		clear(entriesIn(g.tag[:], slot, n))
	}
}

// undo takes back, as far as the disk lets it, what a failed change left: presence
// and gaps, new tag blocks, and what lies beyond the old end. Blocks that were
// overwritten stay as the change left them. The groups are locked.
func (f *File) undo(ch *change) {
	for i, c := range ch.after {
		g := ch.groups[i]
		switch {
		case c.created && g.n > 0:
			g.present = false
			f.erase(g.n, ch.oldSize)
		case g.present && g.t == c.after && c.after != c.before:
			f.c.SealTrailer(g.tag[:], g.n, c.before)
			g.t = c.before
			_, err := f.b.WriteAt(g.tag[:], f.layout.TagOffset(g.n))
			g.present = err == nil
		}
	}
	f.shrinkBack(ch)
}

// erase makes the tag block of group n zero again. One beyond the end of a file of
// size bytes is left: it is cut off.
func (f *File) erase(n uint64, size int64) {
	if n > f.layout.LastGroup(size) {
		return
	}
	off := f.layout.TagOffset(n)
	err := f.b.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, cipher.TagBlockSize)
	if err != nil {
		_, err = f.b.WriteAt(zeroTag[:], off)
	}
	if err != nil {
		f.torn.Store(true)
	}
}

// settle gives back the space that ch freed, once ch is durable: else a crash could
// leave the old tag blocks or header without the bytes.
func (f *File) settle(ch *change) error {
	if ch.shrinks() {
		f.cache.drop(f, f.layout.LastGroup(ch.size)+1)
	}
	free := ch.free != 0 && len(ch.holes) > 0 && len(ch.groups) > 0
	if !free && !ch.shrinks() {
		return nil
	}
	if err := f.b.Datasync(); err != nil {
		return err
	}
	if free {
		f.freeHoles(ch)
	}
	if !ch.shrinks() {
		return nil
	}
	return f.cutHome(f.layout.PhysicalSize(ch.size))
}

// freeHoles gives the space of whole blocks back, or has it zeroed. That is
// for the disk's sake alone: the blocks are holes already. So a filesystem that
// cannot is no error.
func (f *File) freeHoles(ch *change) {
	for _, g := range ch.groups {
		for _, h := range ch.holes {
			if _, n, first := f.within(g.n, h.first, h.first+h.n); n > 0 {
				_ = f.b.Allocate(ch.free|unix.FALLOC_FL_KEEP_SIZE, f.layout.BlockOffset(first), int64(n)*f.bs)
			}
		}
	}
}
