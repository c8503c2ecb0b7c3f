package journal

import (
	"slices"

	"github.com/plyfs/plyfs/cipher"
)

// apply enters a record that lies at pos into the index. f.mu is held, and
// records come in LSN order.
func (f *File) apply(r *Record, lsn LSN, pos Pos) {
	f.last = lsn
	if r.gone {
		f.dropAll()
		return
	}
	if r.Cut != NoCut {
		if !r.moved {
			f.dropBeyond(r.Cut)
		}
		f.applyCut(r.Cut, lsn, pos.seg)
	}
	if r.Home != 0 {
		f.applyHome(r.Home)
	}
	if r.Size != NoSize {
		f.hold(pos.seg)
		f.release(f.size.seg)
		f.size = sizeItem{r.Size, r.Last, lsn, pos.seg}
	}
	f.hold(pos.seg)
	f.release(f.mtime.seg)
	f.mtime = mtimeItem{r.MtimeSec, r.MtimeNsec, lsn, pos.seg}

	for _, t := range r.Trailers {
		f.applyTrailer(t, lsn, pos.seg)
	}
	in := r.info()
	entry := pos.off + int64(in.meta)
	body := entry
	for _, e := range r.Extents {
		entry -= int64(len(e.Entries))
	}
	for _, e := range r.Extents {
		f.applyExtent(e, lsn, Pos{pos.seg, entry}, Pos{pos.seg, body})
		entry += int64(len(e.Entries))
		body += int64(len(e.Bodies))
	}
}

// dropBeyond drops what the index has beyond a cut.
func (f *File) dropBeyond(at uint64) {
	l := f.j.cfg.Layout
	from, _ := slices.BinarySearch(f.order, l.Group(at))
	keep := from
	for _, g := range f.order[from:] {
		if g == 0 || l.FirstBlock(g) < at {
			gr := f.groups[g]
			i, _ := gr.find(at)
			f.dropBlocks(gr, i, len(gr.blocks))
			f.order[keep] = g
			keep++
			continue
		}
		f.dropGroup(g)
	}
	f.order = f.order[:keep]
}

// applyCut remembers that home has to be cut. Earlier cuts at the same block or
// further out are done along with it.
func (f *File) applyCut(at uint64, lsn LSN, seg *segment) {
	n := len(f.cuts)
	for n > 0 && f.cuts[n-1].at >= at {
		n--
		f.release(f.cuts[n].seg)
	}
	f.hold(seg)
	f.cuts = append(f.cuts[:n], cut{at, lsn, seg})
}

// applyHome drops what a record overrules that says: from a block on, what lies at
// home counts. Only recovery finds anything to drop, since such a record is appended
// only where there is nothing.
func (f *File) applyHome(from uint64) {
	i, _ := slices.BinarySearch(f.order, f.j.cfg.Layout.Group(from))
	for _, g := range f.order[i:] {
		f.dropGroup(g)
	}
	f.order = f.order[:i]
	for _, c := range f.cuts {
		f.release(c.seg)
	}
	f.cuts = nil
}

// applyTrailer sets a group's trailer and drops blocks that became holes.
func (f *File) applyTrailer(t Trailer, lsn LSN, seg *segment) {
	f.hold(seg)
	gr := f.groups[t.Group]
	if gr == nil {
		gr = &group{}
		f.groups[t.Group] = gr
		i, _ := slices.BinarySearch(f.order, t.Group)
		f.order = slices.Insert(f.order, i, t.Group)
	} else {
		f.release(gr.seg)
	}
	gr.trailer, gr.lsn, gr.seg = t, lsn, seg
	l := f.j.cfg.Layout
	for i := 0; i < len(gr.blocks); {
		if t.Present>>l.Slot(gr.blocks[i].index)&1 == 0 {
			f.dropBlocks(gr, i, i+1)
		} else {
			i++
		}
	}
}

func (f *File) applyExtent(e Extent, lsn LSN, entry, body Pos) {
	l := f.j.cfg.Layout
	size := l.BlockSize()
	for k := range e.blocks() {
		index := e.First + uint64(k)
		gr := f.groups[l.Group(index)] // the record has its trailer
		item := blockItem{
			index: index, lsn: lsn, seg: body.seg, entry: entry.off + int64(k)*cipher.EntrySize,
			body: body.off + int64(k)*int64(size), size: int32(min(size, len(e.Bodies)-k*size)),
		}
		f.hold(body.seg)
		f.bytes.Add(cipher.EntrySize + int64(item.size))
		if i, ok := gr.find(index); ok {
			f.bytes.Add(-cipher.EntrySize - int64(gr.blocks[i].size))
			f.release(gr.blocks[i].seg)
			gr.blocks[i] = item
		} else {
			gr.blocks = slices.Insert(gr.blocks, i, item)
		}
	}
}

// dropBlocks removes blocks i to k of a group from the index.
func (f *File) dropBlocks(gr *group, i, k int) {
	for _, b := range gr.blocks[i:k] {
		f.bytes.Add(-cipher.EntrySize - int64(b.size))
		f.release(b.seg)
	}
	gr.blocks = slices.Delete(gr.blocks, i, k)
}

// dropGroup removes a group, but not from f.order.
func (f *File) dropGroup(g uint64) {
	gr := f.groups[g]
	f.dropBlocks(gr, 0, len(gr.blocks))
	f.release(gr.seg)
	delete(f.groups, g)
}

func (f *File) dropAll() {
	for _, g := range f.order {
		f.dropGroup(g)
	}
	f.order = nil
	for _, c := range f.cuts {
		f.release(c.seg)
	}
	f.cuts = nil
	f.release(f.size.seg)
	f.size = sizeItem{}
	f.release(f.mtime.seg)
	f.mtime = mtimeItem{}
}

// hold counts an item in a segment.
func (f *File) hold(s *segment) {
	f.items++
	f.j.items.Add(1)
	for i := len(f.refs) - 1; i >= 0; i-- {
		if f.refs[i].seg == s {
			f.refs[i].n++
			return
		}
	}
	f.refs = append(f.refs, segRef{s, 1})
	f.j.refMu.Lock()
	if s.files == nil {
		s.files = map[*File]struct{}{}
	}
	s.files[f] = struct{}{}
	f.j.refMu.Unlock()
}

// release undoes one hold. nil is ignored.
func (f *File) release(s *segment) {
	if s == nil {
		return
	}
	f.items--
	f.j.items.Add(-1)
	i := slices.IndexFunc(f.refs, func(r segRef) bool { return r.seg == s })
	if f.refs[i].n--; f.refs[i].n > 0 {
		return
	}
	f.refs = slices.Delete(f.refs, i, i+1)
	f.j.refMu.Lock()
	delete(s.files, f)
	f.j.refMu.Unlock()
}
