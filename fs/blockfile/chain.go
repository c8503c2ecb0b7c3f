package blockfile

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// gap is a run of groups that were never written: those after owner, the
// present group that says so, up to next, the present group after them.
type gap struct {
	owner uint64
	next  uint64 // noGroup if there is none
}

const noGroup = cipher.RunToEnd

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
		if p.owner < n && n < p.next {
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

// loadGroup returns group n, pinned, or nil and the gap that it lies in: a
// group is a hole only where the nearest present one before it says so. The
// caller holds a lock on a block of the group.
//
// All reading of tag blocks goes through it, and that is where a journal's
// newer copies come in.
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

// loadChained is loadGroup for callers that hold chain.
func (f *File) loadChained(n uint64) (*group, gap, error) {
	if p, ok := f.gaps.find(n); ok {
		return nil, p, nil
	}
	g, err := f.readGroup(n)
	if err != nil || g != nil {
		return g, gap{}, err
	}
	owner, err := f.owner(n)
	if err != nil {
		return nil, gap{}, err
	}
	defer f.cache.unpin(owner)
	p := gap{owner: owner.n, next: f.after(owner)}
	if p.next <= n {
		return nil, gap{}, f.refuse(n, fmt.Errorf("tag block is missing: %w", ErrCorrupt))
	}
	f.gaps.note(p)
	return nil, p, nil
}

// after returns the present group that follows g, or noGroup.
func (f *File) after(g *group) uint64 {
	g.mu.Lock()
	run := g.t.Run
	g.mu.Unlock()
	last := f.layout.LastGroup(f.Size())
	if g.n >= last || run >= last-g.n {
		return noGroup
	}
	return g.n + run + 1
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
	m, err := f.b.ReadAt(g.tag[:], f.layout.TagOffset(g.n))
	if err != nil && err != io.EOF {
		return err
	}
	if m < len(g.tag) {
		return fmt.Errorf("backing file ends in its tag block: %w", ErrCorrupt)
	}
	if g.t, err = f.c.OpenTrailer(g.tag[:], g.n); err != nil {
		return err
	}
	g.present = true
	return nil
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
	if errors.Is(err, cipher.ErrAuth) || errors.Is(err, ErrCorrupt) || errors.Is(err, cipher.ErrMagic) || errors.Is(err, cipher.ErrZero) {
		return damaged
	}
	return "backing file failed"
}

const maxHints = 64

// owner returns the nearest present group before n, pinned. The caller holds
// chain. Where to look is a hint of the backing filesystem; that the group
// found owns n is proved by its run, which the caller checks.
func (f *File) owner(n uint64) (*group, error) {
	limit := min(n, f.layout.LastGroup(f.Size())+1)
	next := limit - 1 // appending: the group before is there
	for range maxHints {
		g, err := f.readGroup(next)
		if g != nil || err != nil {
			return g, err
		}
		limit = next
		next = f.hint(limit)
	}
	return f.walk(n)
}

// hint returns the last group before limit (1 or more) whose tag block or
// blocks the backing filesystem says hold data.
func (f *File) hint(limit uint64) uint64 {
	end := f.layout.PhysicalSize(f.Size())
	if limit <= f.layout.LastGroup(f.Size()) {
		end = f.layout.TagOffset(limit)
	}
	lo, hi := uint64(0), limit // data lies in lo and after, none lies in hi and after
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if off, err := f.b.SeekHole(f.layout.TagOffset(mid), unix.SEEK_DATA); err == nil && off < end {
			lo = mid
		} else if err == nil || errors.Is(err, unix.ENXIO) {
			hi = mid
		} else {
			return limit - 1
		}
	}
	return lo
}

// walk finds the owner of n from the file's start, for backing filesystems
// whose hints are of no use.
func (f *File) walk(n uint64) (*group, error) {
	at := uint64(0)
	for {
		g, err := f.readGroup(at)
		if err != nil {
			return nil, err
		}
		if g == nil {
			return nil, f.refuse(at, fmt.Errorf("tag block is missing: %w", ErrCorrupt))
		}
		next := f.after(g)
		if next >= n {
			return g, nil
		}
		f.cache.unpin(g)
		at = next
	}
}
