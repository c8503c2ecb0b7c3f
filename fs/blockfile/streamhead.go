package blockfile

import "github.com/plyfs/plyfs/cipher"

// The head of a stream: blocks that wait in memory for its record.

// overlayHead brings the head of a stream into a group that was read anew.
func (f *File) overlayHead(g *group) {
	s := f.stream.Load()
	if s == nil || s.before == nil || s.before.n != g.n {
		return
	}
	slot, n, first := f.within(g.n, s.head.first, s.home)
	copy(entriesIn(g.tag[:], slot, n), s.head.entries[(first-s.head.first)*cipher.EntrySize:])
	g.t.Present |= slotMask(slot, n)
}

// readHead copies to p, which is for blocks of one group from index on, the bodies
// that the head has of them from index on, and returns their number.
func (f *File) readHead(p []byte, index uint64) int {
	s := f.stream.Load()
	if s == nil || index < s.head.first || index >= s.home {
		return 0
	}
	return (copy(p, s.head.bodies[int(index-s.head.first)*int(f.bs):]) + int(f.bs) - 1) / int(f.bs)
}

// headFrom returns where the blocks of the head begin, lastBlock if there is
// none.
func (f *File) headFrom() uint64 {
	if s := f.stream.Load(); s != nil && s.head.count() > 0 {
		return s.head.first
	}
	return lastBlock
}
