package blockfile

import (
	"math/bits"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// reserved lists blocks that were punched and had been holes before: home may have
// space for them that was allocated and never written to. No record speaks of it, so
// this is known in memory alone, until the next checkpoint gives the space back.
// Whoever is given space meanwhile takes it off the list. A crash, or a list that is
// full, leaves the space allocated. File.spaceMu guards it.
type reserved struct {
	slots map[uint64]uint64 // of groups
	gaps  []gap             // whole groups
}

const (
	maxReserved = 1 << 16 // groups, and gaps
	smallGap    = 16      // groups that are noted one by one, by their slots
	gapStep     = 4096    // groups that are freed in one go
)

// punchReserved notes that blocks first to next-1, holes before the end, need no
// space.
func (f *File) punchReserved(first, next uint64) {
	if f.j == nil || first >= next {
		return
	}
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	f.endGiven(f.layout.BlockOffset(first))
	r := &f.reserved
	lo, hi := f.layout.Group(first), f.layout.Group(next-1)
	if hi-lo <= smallGap {
		f.noteSlots(first, next)
		return
	}
	if first > f.layout.FirstBlock(lo) {
		lo++
		f.noteSlots(first, f.layout.FirstBlock(lo))
	}
	f.noteSlots(f.layout.FirstBlock(hi), next)
	if len(r.gaps) < maxReserved {
		r.gaps = append(r.gaps, gap{lo, hi})
	}
}

// noteReserved notes those blocks that a change punches and that were holes before.
// The groups of the change are locked.
func (f *File) noteReserved(ch *change) {
	if ch.free != unix.FALLOC_FL_PUNCH_HOLE {
		return
	}
	for i, g := range ch.groups {
		slots := uint64(0)
		for _, h := range ch.holes {
			slot, n, _ := f.within(g.n, h.first, h.first+h.n)
			slots |= slotMask(slot, n)
		}
		if slots &^= ch.after[i].before.Present; slots == 0 {
			continue
		}
		f.spaceMu.Lock()
		f.endGiven(f.layout.TagOffset(g.n))
		f.noteGroup(g.n, slots)
		f.spaceMu.Unlock()
	}
}

// noteSlots enters blocks by their groups. spaceMu is held.
func (f *File) noteSlots(first, next uint64) {
	for first < next {
		n := f.layout.Group(first)
		slot, count, _ := f.within(n, first, next)
		f.noteGroup(n, slotMask(slot, count))
		first += uint64(count)
	}
}

func (f *File) noteGroup(n, slots uint64) {
	r := &f.reserved
	if r.slots == nil {
		r.slots = map[uint64]uint64{}
	}
	if _, ok := r.slots[n]; ok || len(r.slots) < maxReserved {
		r.slots[n] |= slots
	}
}

// keepSpace takes off the list the blocks that have any of the bytes from to to-1 of
// home: that space is somebody's now.
func (f *File) keepSpace(from, to int64) {
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	f.keepReserved(from, to)
}

// keepReserved is keepSpace with spaceMu held.
func (f *File) keepReserved(from, to int64) {
	r := &f.reserved
	if from >= to || len(r.slots) == 0 && len(r.gaps) == 0 {
		return
	}
	lo, hi := f.groupAt(from), f.groupAt(to-1)
	gaps := r.gaps[:0:0]
	for _, g := range r.gaps {
		if hi < g.lo || g.hi <= lo {
			gaps = append(gaps, g)
			continue
		}
		if g.lo < lo {
			gaps = append(gaps, gap{g.lo, lo})
		}
		if hi+1 < g.hi {
			gaps = append(gaps, gap{hi + 1, g.hi})
		}
		for _, n := range []uint64{lo, hi} { // in part, those between wholly
			if g.lo <= n && n < g.hi {
				f.noteGroup(n, f.allSlots(n))
			}
		}
	}
	r.gaps = gaps
	if hi-lo < uint64(len(r.slots)) {
		for n := lo; n <= hi; n++ {
			f.keepSlots(n, from, to)
		}
		return
	}
	for n := range r.slots {
		if lo <= n && n <= hi {
			f.keepSlots(n, from, to)
		}
	}
}

func (f *File) keepSlots(n uint64, from, to int64) {
	slots, ok := f.reserved.slots[n]
	if !ok {
		return
	}
	first := f.layout.FirstBlock(n)
	start, all := f.layout.BlockOffset(first), int64(f.layout.Blocks(n))
	a, b := max(from-start, 0)/f.bs, int64(0)
	if to > start {
		b = min((to-start-1)/f.bs+1, all)
	}
	if a < b {
		slots &^= slotMask(f.layout.Slot(first)+int(a), int(b-a))
	}
	if f.reserved.slots[n] = slots; slots == 0 {
		delete(f.reserved.slots, n)
	}
}

// allSlots returns the slots that group n has blocks in.
func (f *File) allSlots(n uint64) uint64 {
	return slotMask(f.layout.Slot(f.layout.FirstBlock(n)), f.layout.Blocks(n))
}

// freeReserved gives back the space of what is on the list and still a hole. The
// caller holds the checkpoint lock, and home has its length. Only disk space depends
// on it, so no failure is an error.
func (f *File) freeReserved() {
	for f.freeGap() {
	}
	f.spaceMu.Lock()
	groups := make([]uint64, 0, len(f.reserved.slots))
	for n := range f.reserved.slots {
		groups = append(groups, n)
	}
	f.spaceMu.Unlock()
	slices.Sort(groups)
	for _, n := range groups {
		f.freeReservedSlots(n)
	}
}

// freeGap deals with the beginning of the first gap, and reports whether there
// was one.
func (f *File) freeGap() bool {
	f.chain.RLock() // no group comes to be, or is cut off
	defer f.chain.RUnlock()
	f.spaceMu.Lock()
	if len(f.reserved.gaps) == 0 {
		f.spaceMu.Unlock()
		return false
	}
	lo := f.reserved.gaps[0].lo
	f.spaceMu.Unlock()
	g, p, err := f.loadChained(lo)
	if g != nil {
		f.cache.unpin(g)
	}
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	r := &f.reserved
	if len(r.gaps) == 0 || r.gaps[0].lo != lo { // given to somebody meanwhile
		return true
	}
	next := lo + 1
	switch {
	case err != nil: // let it be
	case g != nil:
		f.noteGroup(lo, f.allSlots(lo))
	default:
		next = min(r.gaps[0].hi, p.hi, lo+gapStep)
		// What a cut took away is the cut's, and not durable yet.
		if !f.j.Void(next - 1) {
			from := f.layout.TagOffset(lo)
			to := min(f.layout.TagOffset(next), f.layout.BlockOffset(f.blockCount(f.Size())))
			f.punchHome(from, to)
		}
	}
	if r.gaps[0].lo = next; next >= r.gaps[0].hi {
		r.gaps = slices.Delete(r.gaps, 0, 1)
	}
	return true
}

// freeReservedSlots gives back space of one group.
func (f *File) freeReservedSlots(n uint64) {
	f.chain.RLock()
	defer f.chain.RUnlock()
	g, _, err := f.loadChained(n)
	if err != nil {
		return
	}
	taken := uint64(0)
	if g == nil {
		if f.j.Void(n) {
			return
		}
	} else {
		defer f.cache.unpin(g)
		g.mu.Lock() // nobody is given space in it
		defer g.mu.Unlock()
		// The state in memory must be durable: a block whose punching is lost in a
		// crash needs its body.
		if _, err := f.j.Copy(n); err != nil || f.fill(g) != nil {
			return
		}
		taken = g.t.Present
	}
	f.spaceMu.Lock()
	defer f.spaceMu.Unlock()
	slots := f.reserved.slots[n] &^ taken
	delete(f.reserved.slots, n)
	if g == nil && n > 0 && slots == f.allSlots(n) {
		f.punchHome(f.layout.TagOffset(n), f.layout.TagOffset(n)+cipher.TagBlockSize)
	}
	f.eachRun(n, slots, f.punchHome)
}

// eachRun calls do with the bytes at home of each run of slots of group n, as far as
// it lies before the end.
func (f *File) eachRun(n, slots uint64, do func(from, to int64)) {
	end := f.blockCount(f.Size())
	for slots != 0 {
		from := bits.TrailingZeros64(slots)
		count := bits.TrailingZeros64(^(slots >> from))
		slots &^= slotMask(from, count)
		first := f.layout.FirstBlock(n) + uint64(from-f.layout.Slot(f.layout.FirstBlock(n)))
		if first >= end {
			return // what lies beyond is the cut's
		}
		off := f.layout.BlockOffset(first)
		do(off, off+int64(min(uint64(count), end-first))*f.bs)
	}
}

func (f *File) punchHome(from, to int64) {
	if from < to {
		_ = f.b.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	}
}
