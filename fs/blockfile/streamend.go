package blockfile

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/journal"
)

// How a stream ends: by its record, or by an error.

// EndStream ends the stream, if there is one: it makes durable what the stream
// wrote home, and appends its record, which the caller has to commit. The caller
// holds no lock. Writes that come meanwhile may already belong to the next stream.
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

// tryEnd ends the stream, all blocks of which are locked, if no request came since
// the flush, before which s.writes was read as writes. If one did, it flushes again
// with force, and without leaves the stream as it is.
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

// syncStream makes durable at home what a stream wrote. Where the file's next Sync
// would have to make names durable, that is done along with it. After a failure
// nobody knows what is there: the stream can never be committed.
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

// endLocked appends the record of a stream that is durable at home. All blocks
// from its first on are locked.
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

// unstream takes back what a failed request of a stream left at home. If it cannot,
// or if cause is not a lack of space, nothing more is written to the file.
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

// restoreHome makes home what it was before a failed request of a stream: the tag
// block of the old last group, if that is the stream's, and the length. The body of
// a short last block, if the request wrote it anew, cannot be had back.
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
			clear(entriesIn(g.tag[:], from, count))
			f.c.SealTrailer(g.tag[:], n, c.before)
			if err := f.writeHome(g.tag[:], f.layout.TagOffset(n)); err != nil {
				return err
			}
			g.t, g.present = c.before, true
		}
	}
	old := f.layout.PhysicalSize(ch.oldSize)
	f.lowerKept(old)
	if err := f.cutEnd(old); err != nil {
		return home(err)
	}
	return nil
}

// noSpace reports whether err is one that freeing space heals.
func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
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
