package blockfile

import (
	"fmt"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
)

// change is all that one request does to a file. It is built while the blocks it
// touches are locked, completed by commit, and carried out by apply alone. All that
// it then says is absolute.
type change struct {
	extents []extent // blocks sealed anew, none twice
	holes   []blocks // blocks that become holes; none of extents
	free    uint32   // what becomes of the space of holes, a fallocate mode
	oldSize int64
	size    int64 // of the file afterwards
	room    *journal.Reservation
	times   bool    // the modification time changes even if nothing else does
	stream  *stream // that it is a request of; nil is none
	trim    bool    // also drop what lies beyond size, though size is not new

	// By commit.
	oldLast uint64
	last    uint64        // highest group that is there afterwards
	groups  []*group      // all that change, pinned, rising; group 0 takes the header along
	created []uint64      // numbers of those that are new, rising
	gaps    []gapUpdate   // new gaps of groups
	after   []groupChange // by apply: one for each of groups
	header  cipher.Header // by apply, where it or group 0 changes

	buffers []*[]byte // memory of the extents
}

// groupChange is what becomes of one group.
type groupChange struct {
	created bool
	dirty   bool           // the tag block changes
	before  cipher.Trailer // valid unless created
	after   cipher.Trailer
}

// extent is a run of sealed blocks. All are whole, but the last may be short.
type extent struct {
	first   uint64
	bodies  []byte
	entries []byte
}

func (e extent) count() int { return len(e.entries) / cipher.EntrySize }

// next returns the block after the last one.
func (e extent) next() uint64 { return e.first + uint64(e.count()) }

// blocks is a range of block numbers.
type blocks struct{ first, n uint64 }

type gapUpdate struct{ group, gap uint64 }

func (f *File) newChange(size, newSize int64) *change {
	ch, ok := f.cache.changes.Get().(*change)
	if !ok {
		ch = &change{}
	}
	ch.oldSize, ch.size = size, newSize
	return ch
}

// lockGroups locks the groups of ch, which are in rising order.
func (ch *change) lockGroups() {
	for _, g := range ch.groups {
		g.mu.Lock()
	}
}

func (ch *change) unlockGroups() {
	for _, g := range ch.groups {
		g.mu.Unlock()
	}
}

// publishEnd makes the last group and the size after ch those of the file. If ch
// does not change one of them, another change may be under way that does.
func (f *File) publishEnd(ch *change) {
	if ch.last != ch.oldLast {
		f.last = ch.last
	}
	if ch.size != ch.oldSize {
		f.size.Store(ch.size)
	}
}

// releaseChange returns what ch holds. Its slices' memory is used again.
func (f *File) releaseChange(ch *change) {
	f.unpinGroups(ch)
	for _, b := range ch.buffers {
		f.cache.recycle(b)
	}
	clear(ch.buffers)
	clear(ch.extents)
	*ch = change{
		extents: ch.extents[:0], holes: ch.holes[:0], gaps: ch.gaps[:0],
		groups: ch.groups[:0], created: ch.created[:0], after: ch.after[:0], buffers: ch.buffers[:0],
	}
	f.cache.changes.Put(ch)
}

func (f *File) unpinGroups(ch *change) {
	for _, g := range ch.groups {
		f.cache.unpin(g)
	}
	clear(ch.groups)
	ch.groups = ch.groups[:0]
}

// extent adds room for n blocks from first on, the last of them of length
// last, and returns it to be sealed into.
func (f *File) extent(ch *change, first uint64, n int, last int) extent {
	size := (n-1)*int(f.bs) + last
	b := f.cache.buffer(size + n*cipher.EntrySize)
	ch.buffers = append(ch.buffers, b)
	e := extent{first: first, bodies: (*b)[:size:size], entries: (*b)[size:]}
	ch.extents = append(ch.extents, e)
	return e
}

// shortError reports that only the first blocks of the last extent of a change
// reached the disk. Nothing else of the change was applied.
type shortError struct {
	blocks int // how many, whole
	err    error
}

func (e *shortError) Error() string { return fmt.Sprintf("%d blocks written: %v", e.blocks, e.err) }
func (e *shortError) Unwrap() error { return e.err }
