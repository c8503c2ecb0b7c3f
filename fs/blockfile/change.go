package blockfile

import (
	"fmt"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// change is all that one request does to a file's backing bytes. It is built
// while the blocks it touches are locked, completed by commit, and carried out
// by apply alone.
type change struct {
	extents []extent    // blocks sealed anew, none twice
	holes   []blocks    // blocks that become holes; none of extents
	free    uint32      // what becomes of the space of holes, a fallocate mode
	runs    []runUpdate // by commit: runs of groups, all groups that are new among them
	oldSize int64
	size    int64 // of the file afterwards
	trim    bool  // also drop what lies beyond size, though it is not new

	groups  []*group         // by commit: all that change, pinned, rising
	created []uint64         // by commit: those of groups that are new
	before  []cipher.Trailer // by apply: of the last groups, as they were, falling
	lsn     uint64           // position in the journal

	buffers []*[]byte // behind the extents
}

// extent is a run of sealed blocks. All but the last are whole, that one may be
// shorter.
type extent struct {
	first   uint64
	bodies  []byte
	entries []byte
}

func (e extent) count() int { return len(e.entries) / cipher.EntrySize }

// blocks is a range of block numbers.
type blocks struct{ first, n uint64 }

type runUpdate struct{ group, run uint64 }

func (f *File) newChange(size, newSize int64) *change {
	ch, ok := f.cache.changes.Get().(*change)
	if !ok {
		ch = &change{}
	}
	ch.oldSize, ch.size = size, newSize
	return ch
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
		extents: ch.extents[:0], holes: ch.holes[:0], runs: ch.runs[:0],
		groups: ch.groups[:0], created: ch.created[:0], before: ch.before[:0], buffers: ch.buffers[:0],
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

// shortError reports that the bodies of the last extent of a change reached the
// disk only up to a block. Nothing else of the change was applied.
type shortError struct {
	blocks int // that are whole
	err    error
}

func (e *shortError) Error() string { return fmt.Sprintf("%d blocks written: %v", e.blocks, e.err) }
func (e *shortError) Unwrap() error { return e.err }

// commit finds the groups of a change, links those that are new into the chain
// of runs, and applies it. The caller holds an exclusive lock on its blocks,
// and where the size changes on all from the smaller end on.
func (f *File) commit(ch *change) error {
	ch.runs, ch.created, ch.before = ch.runs[:0], ch.created[:0], ch.before[:0]
	f.unpinGroups(ch)
	structural, err := f.pinGroups(ch)
	if err != nil {
		return err
	}
	if structural {
		f.chain.Lock()
		defer f.chain.Unlock()
		defer f.gaps.reset()
		if err := f.link(ch); err != nil {
			return err
		}
	}
	slices.SortFunc(ch.groups, func(a, b *group) int {
		if a.n < b.n {
			return -1
		}
		return 1
	})
	return f.apply(ch)
}

// pinGroups pins the groups that ch touches and that are there. It reports
// whether the chain of groups will change.
func (f *File) pinGroups(ch *change) (structural bool, err error) {
	for _, e := range ch.extents {
		last := f.layout.Group(e.first + uint64(e.count()) - 1)
		for n := f.layout.Group(e.first); n <= last; n++ {
			g, _, err := f.loadGroup(n)
			if err != nil {
				return false, err
			}
			if g == nil {
				structural = true
				continue
			}
			f.add(ch, g)
		}
	}
	for _, h := range ch.holes {
		last := f.layout.Group(h.first + h.n - 1)
		for n := f.layout.Group(h.first); n <= last; n++ {
			g, p, err := f.loadGroup(n)
			switch {
			case err != nil:
				return false, err
			case g != nil:
				f.add(ch, g)
			case p.next > last:
				n = last
			default:
				n = p.next - 1
			}
		}
	}
	return structural || ch.shrinks(), nil
}

// shrinks reports whether groups may go.
func (ch *change) shrinks() bool { return ch.trim || ch.size < ch.oldSize }

// add makes a pinned group one of the change's, which keeps one pin of it.
func (f *File) add(ch *change, g *group) {
	if slices.Contains(ch.groups, g) {
		f.cache.unpin(g)
		return
	}
	ch.groups = append(ch.groups, g)
}

// link plans the chain of groups as it is after ch: new groups take their part
// of the run that they lie in, and the last one there runs to the end. The
// caller holds chain.
func (f *File) link(ch *change) error {
	for _, e := range ch.extents {
		last := f.layout.Group(e.first + uint64(e.count()) - 1)
		for n := f.layout.Group(e.first); n <= last; n++ {
			if err := f.linkGroup(ch, n); err != nil {
				return err
			}
		}
	}
	if ch.shrinks() {
		return f.linkEnd(ch)
	}
	return nil
}

// linkGroup plans group n, if it is not there yet.
func (f *File) linkGroup(ch *change, n uint64) error {
	if slices.ContainsFunc(ch.groups, func(g *group) bool { return g.n == n }) {
		return nil
	}
	g, p, err := f.loadChained(n)
	if err != nil {
		return err
	}
	if g != nil { // came while chain was not held
		f.add(ch, g)
		return nil
	}
	// A group that this change made may lie between.
	owner := p.owner
	for _, c := range ch.created {
		if c < n {
			owner = max(owner, c)
		}
	}
	run := uint64(cipher.RunToEnd)
	if p.next != noGroup {
		run = p.next - n - 1
	}
	ch.setRun(n, run)
	ch.setRun(owner, n-owner-1)
	ch.created = append(ch.created, n)
	f.add(ch, f.cache.pin(f, n))
	return f.addOwner(ch, owner)
}

// linkEnd plans the end of the chain after the file was cut to its new size.
func (f *File) linkEnd(ch *change) error {
	last := f.layout.LastGroup(ch.size)
	g, p, err := f.loadChained(last)
	if err != nil && ch.size == 0 && describe(err) == damaged {
		// Nothing is kept: a damaged tag block 0 is made anew.
		ch.created = append(ch.created, 0)
		ch.setRun(0, cipher.RunToEnd)
		f.add(ch, f.cache.pin(f, 0))
		return nil
	}
	if err != nil {
		return err
	}
	if g == nil {
		ch.setRun(p.owner, cipher.RunToEnd)
		return f.addOwner(ch, p.owner)
	}
	ch.setRun(last, cipher.RunToEnd)
	f.add(ch, g)
	return nil
}

// addOwner makes group n, which is there, one of the change's.
func (f *File) addOwner(ch *change, n uint64) error {
	if slices.ContainsFunc(ch.groups, func(g *group) bool { return g.n == n }) {
		return nil
	}
	g, err := f.readGroup(n)
	if err != nil {
		return err
	}
	if g == nil {
		return f.refuse(n, fmt.Errorf("tag block is missing: %w", ErrCorrupt))
	}
	f.add(ch, g)
	return nil
}

func (ch *change) setRun(group, run uint64) {
	for i := range ch.runs {
		if ch.runs[i].group == group {
			ch.runs[i].run = run
			return
		}
	}
	ch.runs = append(ch.runs, runUpdate{group, run})
}

// apply carries out a change, and is the only function that writes to the
// backing file of an open File. After an error home holds the old state, save
// for blocks that were being overwritten.
//
// Here the journal takes its place (see the package comment). Without it all
// goes home at once: bodies, then tag blocks from the last to the first, so
// that a run never names a group that is not there yet, then the header.
func (f *File) apply(ch *change) error {
	if f.closed.Load() {
		return unix.EBADF
	}
	if err := f.bringHome(ch); err != nil {
		f.undo(ch)
		return err
	}
	f.size.Store(ch.size)
	f.freeHoles(ch)
	if ch.shrinks() {
		return f.shrinkHome(ch)
	}
	return nil
}
