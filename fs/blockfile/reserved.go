package blockfile

import (
	"math/bits"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// reserved is which blocks were punched that were holes already: home may have
// space for them, which was allocated and nothing was written to. No record
// speaks of that, so it is known in memory alone, until the next checkpoint gives
// the space back. Who is given space meanwhile takes it out. A crash, or a list
// that is full, leaves the space where it is. It is guarded by File.spaceMu.
type reserved struct {
	slots map[uint64]uint64 // of groups
	gaps  []gap             // whole groups
}

const (
	maxReserved = 1 << 16 // groups, and gaps
	// smallGap is how many groups are told by their slots.
	smallGap = 16
	// gapStep is how many groups are freed in one go.
	gapStep = 4096
)

// punchReserved notes that blocks first to next-1, which are holes and lie before
// the end, need no space.
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

// noteReserved notes of the groups of a change, which are locked, what it punches
// and was a hole before.
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

// keepSpace takes the blocks whose bytes at home lie, if in part, in from to to-1
// out of reserved: the space is somebody's now.
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

// allSlots are those that group n has blocks in.
func (f *File) allSlots(n uint64) uint64 {
	return slotMask(f.layout.Slot(f.layout.FirstBlock(n)), f.layout.Blocks(n))
}

// freeReserved gives back the space of what was punched and is holes still. The
// caller holds the checkpoint lock, and home has its length. It is for the disk's
// sake alone, so that no failure is an error.
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

// eachRun calls do with the bytes at home of each run of slots of group n that
// lies before the end.
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
