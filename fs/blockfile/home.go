package blockfile

import (
	"fmt"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// The steps by which apply, and later a checkpoint, brings a change home.

// bringHome writes what is new of a change.
func (f *File) bringHome(ch *change) error {
	if err := f.writeBodies(ch); err != nil {
		return err
	}
	if err := f.growHome(ch); err != nil {
		return err
	}
	for i := len(ch.groups) - 1; i >= 0; i-- {
		if err := f.updateGroup(ch.groups[i], ch); err != nil {
			return err
		}
	}
	return f.updateHeader(ch)
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
		body := e.bodies[i*int(f.bs) : min((i+n)*int(f.bs), len(e.bodies))]
		off := f.layout.BlockOffset(index)
		m, err := f.b.WriteAt(body, off)
		f.grown(off + int64(m))
		if err != nil {
			return i + m/int(f.bs), err
		}
		i += n
	}
	return e.count(), nil
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

// growHome gives the backing file the length of the new size, where the bodies
// did not.
func (f *File) growHome(ch *change) error {
	if ch.size <= ch.oldSize {
		return nil
	}
	want := f.layout.PhysicalSize(ch.size)
	if f.physical >= want {
		return nil
	}
	if err := f.b.Truncate(want); err != nil {
		return err
	}
	f.physical = want
	return nil
}

// updateGroup brings what ch says of group g into its copy in memory and that
// home. Its MACs are made anew only if they cover something that changed.
func (f *File) updateGroup(g *group, ch *change) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	created := slices.Contains(ch.created, g.n)
	if err := f.prepare(g, created); err != nil {
		return err
	}
	ch.before = append(ch.before, g.t)
	t, dirty := g.t, created
	for _, e := range ch.extents {
		dirty = f.setEntries(g, &t, e) || dirty
	}
	for _, h := range ch.holes {
		f.clearEntries(g, &t, h.first, h.first+h.n)
	}
	if ch.shrinks() {
		f.clearEntries(g, &t, f.blockCount(ch.size), lastBlock)
	}
	for _, r := range ch.runs {
		if r.group == g.n {
			t.Run = r.run
		}
	}
	if t != g.t || created {
		t.LSN = max(t.LSN, ch.lsn)
		f.c.SealTrailer(g.tag[:], g.n, t)
		g.t, dirty = t, true
	}
	if g.n == 0 && (f.headerChanges(ch) || created) {
		f.sealHeader(g.tag[cipher.SectorSize:2*cipher.SectorSize], ch)
		dirty = true
	}
	if !dirty {
		return nil
	}
	return f.writeGroup(g)
}

// prepare makes a new group of g, or reads one again whose copy was given up
// when a write failed. Group 0 is new where it was damaged, and keeps its
// static header.
func (f *File) prepare(g *group, created bool) error {
	if !created {
		return f.fill(g)
	}
	clear(g.tag[:])
	g.t = cipher.Trailer{}
	if g.n > 0 {
		return nil
	}
	static := g.tag[:cipher.SectorSize]
	if _, err := f.b.ReadAt(static, 0); err != nil {
		return err
	}
	if h, _, err := f.volume.OpenStatic(static); err != nil {
		return f.refuse(0, err)
	} else if h.FileID != f.ID() {
		return f.refuse(0, fmt.Errorf("header of file %s: %w", h.FileID, ErrCorrupt))
	}
	return nil
}

// writeGroup brings the tag block of g home, whole: so the page cache need not
// read it first. The caller has locked g.
func (f *File) writeGroup(g *group) error {
	off := f.layout.TagOffset(g.n)
	m, err := f.b.WriteAt(g.tag[:], off)
	f.grown(off + int64(m))
	g.present = err == nil // else home decides
	return err
}

// setEntries copies the entries of e that belong to g, and reports whether
// there are any.
func (f *File) setEntries(g *group, t *cipher.Trailer, e extent) bool {
	first := f.layout.FirstBlock(g.n)
	from := max(first, e.first)
	to := min(first+uint64(f.layout.Blocks(g.n)), e.first+uint64(e.count()))
	if from >= to {
		return false
	}
	slot, n := f.layout.Slot(from), int(to-from)
	copy(g.tag[slot*cipher.EntrySize:(slot+n)*cipher.EntrySize], e.entries[(from-e.first)*cipher.EntrySize:])
	t.Present |= slotMask(slot, n)
	return true
}

// clearEntries makes holes of the blocks from to to-1 that belong to g.
func (f *File) clearEntries(g *group, t *cipher.Trailer, from, to uint64) {
	first := f.layout.FirstBlock(g.n)
	from, to = max(first, from), min(first+uint64(f.layout.Blocks(g.n)), to)
	if from >= to {
		return
	}
	slot, n := f.layout.Slot(from), int(to-from)
	clear(g.tag[slot*cipher.EntrySize : (slot+n)*cipher.EntrySize])
	t.Present &^= slotMask(slot, n)
}

// slotMask returns the bits of n slots from slot on.
func slotMask(slot, n int) uint64 { return (1<<n - 1) << slot }

// blockCount returns how many blocks a file of size bytes has.
func (f *File) blockCount(size int64) uint64 {
	return uint64(size)/uint64(f.bs) + min(uint64(size)%uint64(f.bs), 1)
}

func (f *File) headerChanges(ch *change) bool { return ch.size != ch.oldSize }

func (f *File) sealHeader(dst []byte, ch *change) {
	h := f.header
	h.Size, h.LSN = ch.size, max(h.LSN, ch.lsn)
	f.c.SealHeader(dst, h)
	f.header = h
}

// updateHeader brings the size home, unless tag block 0 took it along.
func (f *File) updateHeader(ch *change) error {
	if !f.headerChanges(ch) || len(ch.groups) > 0 && ch.groups[0].n == 0 {
		return nil
	}
	var sector [cipher.SectorSize]byte
	f.sealHeader(sector[:], ch)
	// The copy of tag block 0, if there is one, must not bring an old header
	// back. Its lock also orders the writes.
	g := f.cache.pin(f, 0)
	defer f.cache.unpin(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	copy(g.tag[cipher.SectorSize:2*cipher.SectorSize], sector[:])
	_, err := f.b.WriteAt(sector[:], cipher.SectorSize)
	if err != nil {
		g.present = false
	}
	return err
}

// freeHoles gives the space of whole blocks back, or has it zeroed. That is
// for the disk's sake alone: the blocks are holes already. So a filesystem that
// cannot is no error.
func (f *File) freeHoles(ch *change) {
	if ch.free == 0 {
		return
	}
	for _, g := range ch.groups {
		first := f.layout.FirstBlock(g.n)
		for _, h := range ch.holes {
			from := max(first, h.first)
			to := min(first+uint64(f.layout.Blocks(g.n)), h.first+h.n)
			if from < to {
				_ = f.b.Allocate(ch.free|unix.FALLOC_FL_KEEP_SIZE, f.layout.BlockOffset(from), int64(to-from)*f.bs)
			}
		}
	}
}

// shrinkHome cuts the backing file to the new size. The header says so
// already; should this fail, the next Open trims.
func (f *File) shrinkHome(ch *change) error {
	f.cache.drop(f, f.layout.LastGroup(ch.size)+1)
	want := f.layout.PhysicalSize(ch.size)
	if err := f.b.Truncate(want); err != nil {
		return err
	}
	f.physical = want
	return nil
}

// undo takes back, as far as the disk lets it, what a change that failed left:
// presence and runs, new tag blocks and what lies beyond the old end. Blocks
// that were overwritten stay as the change left them.
func (f *File) undo(ch *change) {
	for i, t := range ch.before {
		g := ch.groups[len(ch.groups)-1-i]
		g.mu.Lock()
		if slices.Contains(ch.created, g.n) {
			g.present = false
			f.erase(g.n, ch.oldSize)
		} else if g.present && g.t != t {
			f.c.SealTrailer(g.tag[:], g.n, t)
			g.t = t
			_ = f.writeGroup(g)
		}
		g.mu.Unlock()
	}
	if want := f.layout.PhysicalSize(ch.oldSize); ch.size > ch.oldSize && f.physical > want {
		if f.b.Truncate(want) == nil {
			f.physical = want
		}
	}
}

// erase makes the tag block of group n zero, as it was. One beyond the end goes
// with the end.
func (f *File) erase(n uint64, size int64) {
	if n == 0 || n > f.layout.LastGroup(size) {
		return
	}
	off := f.layout.TagOffset(n)
	err := f.b.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, cipher.TagBlockSize)
	if err != nil {
		var zero [cipher.TagBlockSize]byte
		_, _ = f.b.WriteAt(zero[:], off)
	}
}
