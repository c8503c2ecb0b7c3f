package blockfile

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// commit finds the groups of a change, plans which are there after it, and
// applies it. The caller holds an exclusive lock on the blocks of the change; where
// the size changes, on all blocks from the smaller end on.
func (f *File) commit(ch *change) error {
	ch.oldLast, ch.last = 0, 0
	ch.gaps, ch.created, ch.after = ch.gaps[:0], ch.created[:0], ch.after[:0]
	f.unpinGroups(ch)
	structural, err := f.pinGroups(ch)
	if err != nil {
		return err
	}
	if structural {
		f.chain.Lock()
		defer f.chain.Unlock()
		defer f.gaps.reset()
		// No group beyond the locked blocks may stay pinned without chain: a
		// truncation could not drop it.
		defer f.unpinGroups(ch)
		ch.oldLast, ch.last = f.last, f.last
		if err := f.link(ch); err != nil {
			return err
		}
	}
	if ch.stream == nil && ch.headerChanges() && !ch.has(0) {
		if err := f.addGroup(ch, 0); err != nil {
			return err
		}
	}
	slices.SortFunc(ch.groups, func(a, b *group) int { return cmp.Compare(a.n, b.n) })
	return f.apply(ch)
}

// headerChanges reports whether size or last changes.
func (ch *change) headerChanges() bool { return ch.size != ch.oldSize || ch.last != ch.oldLast }

// shrinks reports whether groups may go.
func (ch *change) shrinks() bool { return ch.trim || ch.size < ch.oldSize }

// has reports whether group n is one of the change's.
func (ch *change) has(n uint64) bool {
	return slices.ContainsFunc(ch.groups, func(g *group) bool { return g.n == n })
}

// pinGroups pins those of the groups that ch touches which are there. structural
// says that commit has to link: some are not there, may go, or need mending.
func (f *File) pinGroups(ch *change) (structural bool, err error) {
	for _, e := range ch.extents {
		last := f.layout.Group(e.next() - 1)
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
			structural = structural || !g.isMended()
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
				continue
			}
			next := min(last, p.hi-1) + 1
			if ch.free == unix.FALLOC_FL_PUNCH_HOLE {
				f.punchReserved(max(h.first, f.layout.FirstBlock(n)), min(h.first+h.n, f.layout.FirstBlock(next)))
			}
			n = next - 1
		}
	}
	return structural || ch.shrinks(), nil
}

// add makes a pinned group one of the change's, which keeps one pin of it.
func (f *File) add(ch *change, g *group) {
	if ch.has(g.n) {
		f.cache.unpin(g)
		return
	}
	ch.groups = append(ch.groups, g)
}

// addGroup makes group n, which must be there, one of the change's.
func (f *File) addGroup(ch *change, n uint64) error {
	if ch.has(n) {
		return nil
	}
	g, err := f.readGroup(n)
	if err != nil {
		return err
	}
	if g == nil {
		return f.missing(n)
	}
	f.add(ch, g)
	return nil
}

// link plans which groups are there after ch. The caller holds chain.
func (f *File) link(ch *change) error {
	for _, e := range ch.extents {
		last := f.layout.Group(e.next() - 1)
		for n := f.layout.Group(e.first); n <= last; n++ {
			if err := f.linkGroup(ch, n); err != nil {
				return err
			}
		}
	}
	if f.torn.Load() {
		for _, g := range slices.Clone(ch.groups) {
			if err := f.mendGap(ch, g); err != nil {
				return err
			}
		}
	}
	if ch.shrinks() {
		return f.linkEnd(ch)
	}
	return nil
}

// linkGroup plans group n, if it is not there yet: n gets the part of the gap before
// it as its own gap, and the group after the gap keeps the rest.
func (f *File) linkGroup(ch *change, n uint64) error {
	if ch.has(n) {
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
	if p.hi == noGroup {
		ch.setGap(n, n-ch.last-1)
		ch.last = n
	} else {
		// Groups in the gap: what this change made there, and torn ones.
		lo := p.lo
		for _, c := range ch.groups {
			if lo <= c.n && c.n < n {
				lo = c.n + 1
			}
		}
		ch.setGap(n, n-lo)
		ch.setGap(p.hi, p.hi-n-1)
		if err := f.addGroup(ch, p.hi); err != nil {
			return err
		}
	}
	ch.created = append(ch.created, n)
	f.add(ch, f.cache.pin(f, n))
	return nil
}

// mendGap sees to it that the gap of the group after g does not cover g, as a crash
// in the middle of a change may leave it.
func (f *File) mendGap(ch *change, g *group) error {
	if g.isMended() || g.n >= f.last || slices.Contains(ch.created, g.n) {
		return nil
	}
	q, err := f.next(g.n)
	if err != nil {
		return err
	}
	if ch.shrinks() && q.n > f.layout.LastGroup(ch.size) {
		f.cache.unpin(q) // goes with this change
		return nil
	}
	covers := q.n-f.gapBefore(q) <= g.n
	for _, u := range ch.gaps {
		if u.group == q.n {
			covers = q.n-u.gap <= g.n
		}
	}
	if !covers {
		f.cache.unpin(q)
		g.mu.Lock()
		g.mended = true
		g.mu.Unlock()
		return nil
	}
	ch.setGap(q.n, q.n-g.n-1)
	f.add(ch, q)
	return nil
}

// linkEnd plans what is the last group after the file is cut to its new size.
func (f *File) linkEnd(ch *change) error {
	last := f.layout.LastGroup(ch.size)
	g, p, err := f.loadChained(last)
	switch {
	case err != nil && ch.size == 0 && describe(err) == damaged:
		// Nothing is kept: a damaged tag block 0 is made anew.
		ch.last = 0
		ch.created = append(ch.created, 0)
		f.add(ch, f.cache.pin(f, 0))
	case err != nil:
		return err
	case g == nil:
		ch.last = p.lo - 1
	default:
		ch.last = last
		f.add(ch, g)
	}
	return nil
}

func (ch *change) setGap(group, gap uint64) {
	for i := range ch.gaps {
		if ch.gaps[i].group == group {
			ch.gaps[i].gap = gap
			return
		}
	}
	ch.gaps = append(ch.gaps, gapUpdate{group, gap})
}

// apply carries out a change. With a journal it becomes a record there, all or
// nothing. Without one it goes home at once: bodies; then tag blocks in rising
// order, so that a new group is there before a gap stops covering it; then tag block
// 0 with the header. After an error home has the old state, save for blocks that were
// being overwritten.
func (f *File) apply(ch *change) error {
	if f.closed.Load() {
		return unix.EBADF
	}
	f.changed.Store(true)
	if ch.stream != nil {
		return f.applyStream(ch)
	}
	if f.j != nil {
		return f.record(ch)
	}
	err := f.growHome(ch)
	if err == nil {
		err = f.writeBodies(ch)
	}
	if err != nil {
		f.shrinkBack(ch)
		return err
	}
	if err := f.applyGroups(ch); err != nil {
		return err
	}
	return f.settle(ch)
}

// applyGroups is apply's part under the locks of the groups. There the change
// becomes absolute, takes its place in the order of changes, and is seen.
func (f *File) applyGroups(ch *change) error {
	ch.lockGroups()
	defer ch.unlockGroups()
	err := f.planGroups(ch)
	if err == nil {
		err = f.writeGroups(ch)
	}
	if err != nil {
		f.undo(ch)
		return err
	}
	f.publishEnd(ch)
	return nil
}
