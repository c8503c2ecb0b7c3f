package blockfile

import (
	"errors"
	"fmt"
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
// end of the file as home and all records know it (fs/DESIGN.md, "Streams"). From
// its first request to its record no other change of the file happens: such a
// change ends the stream first.
//
// home is the first block that lies there, the first of a group. Blocks of the
// first request that belong to the group before it, whose tag block is not fresh,
// are the head, a short last block that they complete included: they wait in
// memory to go into the record. The group before, if there is a head, stays pinned
// with the head's entries in it.
type stream struct {
	first  uint64 // block, of the head or else home
	home   uint64
	head   extent
	before *group
	room   *journal.Reservation // for the record
	entry  *journal.Stream
	anchor uint64 // LSN in tag blocks
	errs   uint64 // f.syncErrs when it began
	writes atomic.Uint64

	mu    sync.Mutex
	mtime unix.Timespec
	ended bool
}

// errStreaming reports that a change has to wait for the end of the stream.
var errStreaming = errors.New("file is streaming")

// afterStream makes a change that ends the stream there may be first. The caller
// holds no lock.
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

// streams reports whether a write of off to end-1 may begin a stream: it appends
// up to a group that is wholly fresh, and the file has grown by enough that is not
// committed. It stays true only under a
// lock on all from the end on.
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

// streamRoom returns the space of the record of a stream that begins at off.
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
	f.keepHome(f.layout.PhysicalSize(ch.size))
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

// streamBodies writes home the blocks of e that lie there.
func (f *File) streamBodies(s *stream, e extent) error {
	i := 0
	if e.first < s.home {
		i = int(s.home - e.first)
	}
	for i < e.count() {
		index := e.first + uint64(i)
		n := min(e.count()-i, f.leftInGroup(index))
		body := e.bodies[i*int(f.bs) : min((i+n)*int(f.bs), len(e.bodies))]
		if err := f.writeHome(body, f.layout.BlockOffset(index)); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// streamGroups writes home the tag blocks of a request and makes it seen.
func (f *File) streamGroups(ch *change) error {
	for _, g := range ch.groups {
		g.mu.Lock()
	}
	defer func() {
		for _, g := range ch.groups {
			g.mu.Unlock()
		}
	}()
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
	if ch.last != ch.oldLast {
		f.last = ch.last
	}
	if ch.size != ch.oldSize {
		f.size.Store(ch.size)
	}
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

// unstream takes back what a request of a stream left home when it failed. What
// cannot be taken back ends the writing of the file.
func (f *File) unstream(ch *change, cause error) {
	err := f.restoreHome(ch)
	ch.stream.writes.Add(1)                   // a flush that is under way may have met what is restored
	if err == nil && f.stream.Load() == nil { // no record of the stream's comes that makes it durable
		err = f.datasync()
	}
	if err != nil {
		f.fail(err)
	} else if !noSpace(cause) {
		f.fail(cause)
	}
}

// restoreHome brings home what the blocks before the old end were: the last tag
// block, if it had been there. Bodies before the old end are lost if they were
// written again, a short last one.
func (f *File) restoreHome(ch *change) error {
	s := ch.stream
	if int64(max(ch.extents[0].first, s.home))*f.bs < ch.oldSize {
		return fmt.Errorf("block %d, not committed, was being written again: %w", ch.extents[0].first, journal.ErrHome)
	}
	if size := ch.oldSize; f.stream.Load() != nil {
		n := f.layout.LastGroup(size)
		if i := len(ch.after); i > 0 && ch.groups[0].n == n && n >= f.layout.Group(s.home) {
			g, c := ch.groups[0], ch.after[0]
			g.mu.Lock()
			defer g.mu.Unlock()
			from, count, _ := f.within(n, ch.extents[0].first, lastBlock)
			clear(g.tag[from*cipher.EntrySize : (from+count)*cipher.EntrySize])
			f.c.SealTrailer(g.tag[:], n, c.before)
			if err := f.writeHome(g.tag[:], f.layout.TagOffset(n)); err != nil {
				return err
			}
			g.t, g.present = c.before, true
		}
	}
	return f.dropHome(f.layout.PhysicalSize(ch.oldSize))
}

// noSpace reports whether err is one that freeing space heals.
func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// EndStream makes durable what the stream there may be wrote home, and appends
// its record, which is not yet flushed. The caller holds no lock. What comes
// meanwhile it may leave to another stream.
func (f *File) EndStream() error {
	for round := 0; ; round++ {
		s := f.stream.Load()
		if s == nil || f.failed() != nil {
			return f.failed()
		}
		writes := s.writes.Load()
		if err := f.syncStream(s); err != nil {
			return err
		}
		l := f.locks.acquire(s.first, lastBlock, true)
		done, err := f.tryEnd(s, writes, round >= maxRounds)
		f.locks.release(l)
		if done || err != nil {
			return err
		}
	}
}

// maxRounds is how often EndStream flushes without holding up writers.
const maxRounds = 2

// tryEnd ends the stream, which all is locked of, if nothing came since writes
// was read, before a flush; else with force it flushes again.
func (f *File) tryEnd(s *stream, writes uint64, force bool) (done bool, err error) {
	if f.stream.Load() != s {
		return true, f.failed()
	}
	if s.writes.Load() != writes {
		if !force {
			return false, nil
		}
		if err := f.syncStream(s); err != nil {
			return false, err
		}
	}
	return true, f.endLocked(s)
}

// syncStream makes durable at home what a stream wrote, and the names of a file
// that its next Sync would have to sync for in any case. After a failure nobody
// knows what is there: the stream can never be committed.
func (f *File) syncStream(s *stream) error {
	var err error
	if f.syncedNames.Load() != f.names.Load() {
		err = f.syncHome()
	} else {
		err = f.datasync()
	}
	if err == nil && f.syncErrs.Load() != s.errs {
		err = fmt.Errorf("an earlier flush failed: %w", journal.ErrHome)
	}
	if err != nil && f.closed.Load() { // the file is gone
		return unix.EBADF
	}
	if err != nil {
		f.fail(err)
	}
	return err
}

// endLocked appends the record of a stream, all of which is durable at home. All
// blocks from its first on are locked.
func (f *File) endLocked(s *stream) error {
	if f.closed.Load() {
		return unix.EBADF
	}
	f.chain.RLock()
	defer f.chain.RUnlock()
	zero := f.cache.pin(f, 0) // guards the header
	defer f.cache.unpin(zero)
	zero.mu.Lock()
	defer zero.mu.Unlock()
	rec := &journal.Record{Size: f.Size(), Last: f.last, Cut: journal.NoCut, Home: s.home}
	if g := s.before; g != nil {
		if g != zero {
			g.mu.Lock()
			defer g.mu.Unlock()
		}
		if err := f.fill(g); err != nil {
			return f.refuse(g.n, err)
		}
		rec.Trailers = []journal.Trailer{{Group: g.n, Present: g.t.Present, Gap: g.t.Gap, Epoch: f.static.Epoch}}
		rec.Extents = []journal.Extent{{First: s.head.first, Entries: s.head.entries, Bodies: s.head.bodies}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rec.MtimeSec, rec.MtimeNsec = s.mtime.Sec, uint32(s.mtime.Nsec)
	if _, err := f.j.Append(s.room, rec); err != nil {
		return err
	}
	s.ended = true
	f.header.Size, f.header.Last = rec.Size, rec.Last
	f.inlined.Store(0)
	f.dropStream(s)
	return nil
}

// dropStream ends the account of a stream.
func (f *File) dropStream(s *stream) {
	f.stream.Store(nil)
	s.entry.Close()
	s.room.Release()
	if s.before != nil {
		f.cache.unpin(s.before)
	}
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

// overlayHead brings the head of a stream into a group that was read anew.
func (f *File) overlayHead(g *group) {
	s := f.stream.Load()
	if s == nil || s.before == nil || s.before.n != g.n {
		return
	}
	slot, n, first := f.within(g.n, s.head.first, s.home)
	copy(g.tag[slot*cipher.EntrySize:(slot+n)*cipher.EntrySize], s.head.entries[(first-s.head.first)*cipher.EntrySize:])
	g.t.Present |= slotMask(slot, n)
}

// readHead copies the bodies of the head that p, of blocks from index on of one
// group, begins with, and returns how many blocks they are.
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

// failed returns why nothing of the file can be written any more.
func (f *File) failed() error {
	if err := f.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail ends the writing of the file, and of the volume.
func (f *File) fail(err error) {
	if f.failure.CompareAndSwap(nil, &err) {
		f.log.error("backing file failed, what was not synced of the file is lost", "file", f.ID(), "err", err)
		f.journal.HomeFailed(err)
	}
}

// Streaming reports whether new data goes straight home now.
func (f *File) Streaming() bool { return f.stream.Load() != nil }
