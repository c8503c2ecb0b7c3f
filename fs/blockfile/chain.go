package blockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// gap is a range of groups that were never written: lo to hi-1. Group hi is there,
// and its trailer vouches for the gap. Where hi is noGroup, the header does, and no
// group from lo on is there.
type gap struct{ lo, hi uint64 }

const noGroup = ^uint64(0)

// gapMemo remembers the gaps found last, so that reading through a hole
// verifies it once. A change of which groups exist empties it.
type gapMemo struct {
	mu   sync.Mutex
	gaps [4]gap
	n    int // gaps noted since the last reset
}

func (m *gapMemo) find(n uint64) (gap, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.gaps[:min(m.n, len(m.gaps))] {
		if p.lo <= n && n < p.hi {
			return p, true
		}
	}
	return gap{}, false
}

func (m *gapMemo) note(p gap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gaps[m.n%len(m.gaps)] = p
	m.n++
}

func (m *gapMemo) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n = 0
}

// loadGroup returns group n, pinned, or nil and the gap that it lies in. The
// caller holds a lock on a block of the group.
//
// All reading of tag blocks goes through here to fill, which overlays what the
// journal has newer.
func (f *File) loadGroup(n uint64) (*group, gap, error) {
	g := f.cache.pin(f, n)
	g.mu.Lock()
	ok := g.present
	g.mu.Unlock()
	if ok {
		return g, gap{}, nil
	}
	f.cache.unpin(g)
	f.chain.RLock()
	defer f.chain.RUnlock()
	return f.loadChained(n)
}

// loadChained is loadGroup for callers that hold chain. A group without a tag
// block is a hole only if the header says that no group as high was ever written,
// or if the gap of the next group that is there covers it (FORMAT.md §7).
func (f *File) loadChained(n uint64) (*group, gap, error) {
	if p, ok := f.gaps.find(n); ok {
		return nil, p, nil
	}
	if n > f.last {
		return nil, gap{f.last + 1, noGroup}, f.checkAbsent(n)
	}
	if g, err := f.readGroup(n); g != nil || err != nil {
		return g, gap{}, err
	}
	q, err := f.next(n)
	if err != nil {
		return nil, gap{}, err
	}
	defer f.cache.unpin(q)
	p := gap{q.n - f.gapBefore(q), q.n}
	if n < p.lo {
		return nil, gap{}, f.missing(n)
	}
	f.gaps.note(p)
	return nil, p, nil
}

// checkAbsent makes sure that a group after the last has no tag block: if an old
// one was put back, that must not pass unnoticed. It does not use the cache, where
// the group would be found as if it were the file's.
func (f *File) checkAbsent(n uint64) error {
	if n > f.layout.LastGroup(f.Size()) {
		return nil
	}
	if f.j != nil && f.j.Void(n) {
		return nil
	}
	b := f.cache.buffer(cipher.TagBlockSize)
	defer f.cache.recycle(b)
	if err := f.readTag(*b, n); err != nil {
		return f.refuse(n, err)
	}
	if !bytes.Equal(*b, zeroTag[:]) {
		return f.refuse(n, fmt.Errorf("tag block after the last group, %d: %w", f.last, ErrCorrupt))
	}
	return nil
}

// zeroTag is a tag block that was never written.
var zeroTag [cipher.TagBlockSize]byte

// gapBefore returns how many groups before g, which is present, are not there.
func (f *File) gapBefore(g *group) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.t.Gap
}

// readGroup returns group n, pinned, or nil if its tag block is zero or lies
// beyond the end of the file.
func (f *File) readGroup(n uint64) (*group, error) {
	if n > f.layout.LastGroup(f.Size()) {
		return nil, nil
	}
	g := f.cache.pin(f, n)
	g.mu.Lock()
	err := f.fill(g)
	g.mu.Unlock()
	if err == nil {
		return g, nil
	}
	f.cache.unpin(g)
	if errors.Is(err, cipher.ErrZero) && n > 0 {
		return nil, nil
	}
	return nil, f.refuse(n, err)
}

// fill reads and verifies the tag block of g, which the caller has locked.
func (f *File) fill(g *group) error {
	if g.present {
		return nil
	}
	if f.j != nil {
		return f.fillLive(g)
	}
	err := f.readTag(g.tag[:], g.n)
	if err != nil {
		return err
	}
	if g.t, err = f.c.OpenTrailer(g.tag[:], g.n); err != nil {
		return err
	}
	g.present, g.mended = true, !f.torn.Load()
	return nil
}

// readTag reads the tag block of group n from home.
func (f *File) readTag(tag []byte, n uint64) error {
	m, err := f.b.ReadAt(tag, f.layout.TagOffset(n))
	if err == io.EOF && f.j != nil {
		clear(tag[m:]) // home may end early until the next checkpoint
		return nil
	}
	if err == io.EOF || err == nil && m < len(tag) {
		return fmt.Errorf("backing file ends in the tag block: %w", ErrCorrupt)
	}
	return err
}

// eagerSteps is how many groups next looks at before it also searches backwards from
// the last one.
const eagerSteps = 16

// next returns the first group after n that is there, pinned; n is less than last.
// The backing filesystem only hints at where to look, and may lie: whether nothing
// lies between, the gap of the group found decides. In case the hints are of no use,
// the gaps are also followed backwards from the last group.
func (f *File) next(n uint64) (*group, error) {
	back := f.last
	for at, step := n+1, 0; ; step++ {
		if at = f.hint(at); at > f.last {
			return nil, f.missing(n)
		}
		g, err := f.readGroup(at)
		if g != nil || err != nil {
			return g, err
		}
		if at++; step < eagerSteps {
			continue
		}
		if g, err = f.readGroup(back); err != nil {
			return nil, err
		} else if g == nil {
			return nil, f.missing(back)
		}
		before := f.gapBefore(g) + 1
		if back-min(before, back) <= n {
			return g, nil
		}
		f.cache.unpin(g)
		back -= before
	}
}

// hint returns the first group from at on that holds bytes, as far as the
// backing filesystem and the journal know. The last group does in any case.
func (f *File) hint(at uint64) uint64 {
	if at >= f.last {
		return at
	}
	found := f.last
	off, err := f.b.SeekHole(f.layout.TagOffset(at), unix.SEEK_DATA)
	switch {
	case err == nil:
		found = min(max(at, f.groupAt(off)), f.last)
	case !errors.Is(err, unix.ENXIO):
		return at
	}
	if f.j != nil {
		if n, ok := f.j.Next(at); ok {
			found = min(found, n)
		}
	}
	return found
}

// groupAt returns the group that a byte of the backing file belongs to.
func (f *File) groupAt(off int64) uint64 {
	tag := uint64(cipher.TagBlockSize)
	bs := uint64(f.bs)
	return (uint64(off) + cipher.HeaderSlots*bs) / (tag + cipher.EntriesPerGroup*bs)
}

// missing is refuse for a group that must have a tag block.
func (f *File) missing(n uint64) error {
	return f.refuse(n, fmt.Errorf("tag block is missing: %w", ErrCorrupt))
}

// refuse logs what is wrong with group n and returns the error for the caller.
func (f *File) refuse(n uint64, err error) error {
	f.log.error(describe(err), "file", f.ID(), "group", n, "err", err)
	return fmt.Errorf("file %s, group %d: %w", f.ID(), n, err)
}

// damaged is what the log says of bytes that do not verify.
const damaged = "content does not verify: tampered or damaged"

// describe tells an altered file from a disk that fails.
func describe(err error) string {
	for _, e := range []error{ErrCorrupt, cipher.ErrAuth, cipher.ErrMagic, cipher.ErrZero} {
		if errors.Is(err, e) {
			return damaged
		}
	}
	return "backing file failed"
}
