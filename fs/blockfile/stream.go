package blockfile

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// streamFrom is how many bytes of new data a file gets by way of the journal,
// since its last commit, before it streams.
const streamFrom = 1 << 20

// stream is new data of a file that goes straight home, because it lies past the
// end of the file as home and all records know it (fs/DESIGN.md §5.11). From its
// first request to its record no other change of the file happens: such a change
// ends the stream first.
//
// Its first request may begin in a group whose tag block is not fresh. The blocks
// in that group, a short last block that the request completes included, are the
// stream's head: they do not go home but wait in memory for the record.
type stream struct {
	first  uint64 // first block, head included
	home   uint64 // first block that goes home, the first of a group
	head   extent
	before *group               // the head's group, pinned, with the head's entries; nil without a head
	room   *journal.Reservation // for the record
	entry  *journal.Stream
	anchor uint64 // LSN for the tag blocks: that of a durable record
	errs   uint64 // f.syncErrs when it began
	writes atomic.Uint64

	mu    sync.Mutex
	mtime unix.Timespec
	ended bool
}

// errStreaming reports that the stream has to end before a change can be made, or
// that none can begin with it.
var errStreaming = errors.New("file is streaming")

// afterStream makes a change, and ends the file's stream first if it has one. The
// caller holds no lock.
func (f *File) afterStream(change func() error) error {
	for {
		err := change()
		if !errors.Is(err, errStreaming) {
			return err
		}
		if err := f.EndStream(); err != nil {
			return err
		}
	}
}

// tryStream writes p at off straight home, if that is new data of a stream or
// one may begin with it; else it does nothing and done is false.
func (f *File) tryStream(p []byte, off int64) (done bool, err error) {
	if f.j == nil || f.streamFrom < 0 {
		return false, nil
	}
	end := off + int64(len(p))
	var room *journal.Reservation
	if f.stream.Load() == nil {
		if !f.streams(off, end, f.Size()) {
			return false, nil
		}
		if f.headerNew.Load() { // before the first body
			if err := f.syncHome(); err != nil {
				return true, err
			}
		}
		if room = f.journal.TryReserve(f.streamRoom(off)); room == nil {
			return false, nil
		}
	}
	l, size := f.lockChange(off, end)
	defer f.locks.release(l)
	s := f.stream.Load()
	switch {
	case s != nil:
		room.Release()
		if uint64(off/f.bs) < s.home || off > size {
			return false, nil
		}
	case room == nil:
		return false, nil
	default:
		if !f.streams(off, end, size) || f.headerNew.Load() {
			room.Release()
			return false, nil
		}
		s = &stream{first: uint64(off / f.bs), home: f.homeFrom(off), room: room, anchor: uint64(f.journal.Anchor()), errs: f.syncErrs.Load()}
	}
	err = f.streamWrite(s, p, off, size)
	if f.stream.Load() != s { // did not begin
		s.room.Release()
		if errors.Is(err, errStreaming) {
			return false, nil
		}
	}
	return true, err
}

// streams reports whether a write of off to end-1 may begin a stream: it appends,
// it reaches a group that is wholly fresh, and the file has grown by enough that is
// not committed. That stays so only under a lock on all blocks from the end on.
func (f *File) streams(off, end, size int64) bool {
	if off != size || f.inlined.Load() < f.streamFrom || f.noAllocate.Load() {
		return false
	}
	return uint64((end-1)/f.bs) >= f.homeFrom(off) && f.j.VoidFrom() == journal.NoCut && f.streamRoom(off) <= f.journal.MaxSpace()
}

// homeFrom returns the first block of the first group, other than group 0, that
// holds nothing of a file of size bytes.
func (f *File) homeFrom(size int64) uint64 {
	index := f.blockCount(size)
	g := f.layout.Group(index)
	if g > 0 && f.layout.FirstBlock(g) == index {
		return index
	}
	return f.layout.FirstBlock(g + 1)
}

// streamRoom returns the journal space that the record of a stream which begins at
// off needs.
func (f *File) streamRoom(off int64) int {
	n := int(f.homeFrom(off) - uint64(off/f.bs))
	return journal.Space(1, 1, n, n*int(f.bs))
}

// streamWrite makes one request of a stream. The caller holds the blocks, and
// where the file grows all from the old end on.
func (f *File) streamWrite(s *stream, p []byte, off, size int64) error {
	ch := f.newChange(size, max(size, off+int64(len(p))))
	defer f.releaseChange(ch)
	ch.stream = s
	if err := f.sealRange(ch, p, off); err != nil {
		return err
	}
	return f.commit(ch)
}

// applyStream is apply of a request of a stream: bodies and tag blocks go home,
// beyond what anything durable speaks of.
func (f *File) applyStream(ch *change) error {
	if err := f.failed(); err != nil {
		return err
	}
	s, e := ch.stream, ch.extents[0]
	if len(ch.created) > 0 && ch.created[0] < f.layout.Group(s.home) {
		return errStreaming // the group of the head would be new
	}
	if f.stream.Load() == nil && !f.fresh(ch.oldSize) {
		return errStreaming
	}
	if ch.size > ch.oldSize {
		if err := f.probe(f.layout.PhysicalSize(ch.size)); err != nil {
			return err
		}
		if e.first < f.blockCount(ch.oldSize) { // part of it is there, or a hole
			if err := f.allocate(f.layout.BlockOffset(e.first), f.bs); err != nil {
				return err
			}
		}
		if err := f.allocateEnd(ch, e.first, f.layout.PhysicalSize(ch.size)); err != nil {
			return err
		}
	}
	f.raiseKept(f.layout.PhysicalSize(ch.size))
	err := f.streamBodies(s, e)
	if err == nil {
		err = f.streamGroups(ch)
	}
	if err != nil {
		f.unstream(ch, err)
		return err
	}
	return nil
}

// streamBodies writes home the blocks of e that do not belong to the head.
func (f *File) streamBodies(s *stream, e extent) error {
	i := 0
	if e.first < s.home {
		i = int(s.home - e.first)
	}
	for i < e.count() {
		index := e.first + uint64(i)
		n := min(e.count()-i, f.leftInGroup(index))
		if err := f.writeHome(f.bodies(e.bodies, i, n), f.layout.BlockOffset(index)); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// streamGroups writes home the tag blocks of a request and makes it seen.
func (f *File) streamGroups(ch *change) error {
	ch.lockGroups()
	defer ch.unlockGroups()
	s := ch.stream
	err := f.planGroups(ch)
	for i := 0; i < len(ch.groups) && err == nil; i++ {
		if ch.groups[i].n >= f.layout.Group(s.home) {
			err = f.streamGroup(ch, ch.groups[i], &ch.after[i])
		}
	}
	if err != nil {
		f.giveUp(ch)
		return err
	}
	if f.stream.Load() == nil {
		f.beginStream(ch)
	}
	s.touch(time.Now())
	s.writes.Add(1)
	f.wrote.Store(time.Now().UnixNano())
	f.publishEnd(ch)
	return nil
}

// streamGroup writes home the tag block of one group.
func (f *File) streamGroup(ch *change, g *group, c *groupChange) error {
	f.copyEntries(ch, g)
	c.after.LSN = ch.stream.anchor
	f.c.SealTrailer(g.tag[:], g.n, c.after)
	if err := f.writeHome(g.tag[:], f.layout.TagOffset(g.n)); err != nil {
		return err
	}
	g.t, g.home, g.present, g.mended = c.after, c.after.Present, true, true
	return nil
}

// beginStream makes the stream of ch the file's. Nothing fails any more. The
// groups are locked.
func (f *File) beginStream(ch *change) {
	s, e := ch.stream, ch.extents[0]
	s.head.first = s.home
	if n := int(s.home - s.first); n > 0 {
		s.head = extent{
			first:   e.first,
			bodies:  append([]byte(nil), e.bodies[:n*int(f.bs)]...),
			entries: append([]byte(nil), e.entries[:n*cipher.EntrySize]...),
		}
		g := ch.groups[0]
		f.copyEntries(ch, g)
		g.t = ch.after[0].after
		s.before = f.cache.pin(f, g.n)
	}
	s.entry = f.journal.OpenStream(f.EndStream)
	f.stream.Store(s)
}

// touch sets the modification time that the record will have.
func (s *stream) touch(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mtime = unix.NsecToTimespec(t.UnixNano())
}

// setMtime is touch, and reports whether the record is still to come.
func (s *stream) setMtime(t unix.Timespec) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.mtime = t
	}
	return !s.ended
}

// time returns the modification time while the stream goes on.
func (s *stream) time() (t unix.Timespec, ok bool) {
	if s == nil {
		return t, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mtime, !s.ended
}

// Streaming reports whether new data goes straight home now.
func (f *File) Streaming() bool { return f.stream.Load() != nil }
