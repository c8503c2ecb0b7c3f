package blockfile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// Checkpoint is a checkpoint of one file under way: its records were copied home,
// and home is not synced yet. With a journal, only checkpoints, streams and the
// creation or opening of a file write content, tag blocks, header or length of a
// backing file.
type Checkpoint struct {
	f    *File
	done journal.Done
	errs uint64 // f.syncErrs before the first write

	holes   []groupHoles // to give the space of back
	skipped error        // of groups whose tag block could not be read
}

// Skipped returns why some groups were left for a later checkpoint.
func (c *Checkpoint) Skipped() error { return c.skipped }

type groupHoles struct{ group, slots uint64 }

// HeaderNew reports whether the file's header may not be durable yet. Checkpoint
// then syncs it first, unless the caller did: by SyncHeader, or for many files at
// once and then told each by HeaderSynced.
func (f *File) HeaderNew() bool { return f.headerNew.Load() }

// SyncHeader makes the header durable.
func (f *File) SyncHeader() error { return f.syncHome() }

// HeaderSynced tells that the whole backing filesystem was synced after the header
// was written.
func (f *File) HeaderSynced() { f.headerNew.Store(false) }

// Checkpoint copies home each group that has a record up to through, the size, and
// the modification time. It returns nil if there is nothing to do or the file is
// closed. Otherwise the caller syncs the backing file, by Sync or with others, and
// calls End; until then other checkpoints of the file wait. An error is the
// journal's, or that of writing home, which wraps journal.ErrHome.
func (f *File) Checkpoint(through journal.LSN) (*Checkpoint, error) {
	f.checkpoint.Lock()
	c, err := f.beginCheckpoint(through)
	if c == nil {
		f.checkpoint.Unlock()
	}
	return c, err
}

func (f *File) beginCheckpoint(through journal.LSN) (*Checkpoint, error) {
	if f.j == nil || f.ro || f.closed.Load() {
		return nil, nil
	}
	d, err := f.j.Dirty(through)
	if err != nil || d.Empty() {
		return nil, err
	}
	if f.headerNew.Load() { // before the first body
		if err := f.syncHome(); err != nil {
			return nil, err
		}
	}
	c := &Checkpoint{f: f, errs: f.syncErrs.Load()}
	done := f.unasked(f)
	err = c.copy(&d)
	done()
	if err != nil {
		f.log.log.Warn("checkpoint of a file failed", "file", f.ID(), "err", err)
		return nil, err
	}
	return c, nil
}

// Sync makes durable what was written.
func (c *Checkpoint) Sync() error { return c.f.syncHome() }

// End ends the checkpoint. synced says that the backing file was synced; then, if
// no sync of it failed since the checkpoint began, the records that are home now are
// dropped.
func (c *Checkpoint) End(synced bool) {
	f := c.f
	if synced && f.syncErrs.Load() == c.errs {
		f.j.Checkpointed(c.done)
	}
	f.checkpoint.Unlock()
}

// copy writes home what d says. A crash may leave any part of it, in any order: all
// of it is live until home was synced.
func (c *Checkpoint) copy(d *journal.Dirty) error {
	f := c.f
	if d.VoidFrom != journal.NoCut {
		if err := f.cutFrom(d.VoidFrom); err != nil {
			return home(err)
		}
		c.done.Cut = d.Cut
	}
	end := int64(0) // of what this wrote
	for _, n := range d.Groups {
		lsn, to, err := c.copyGroup(n, d)
		if errors.Is(err, errUnread) { // its records stay, the others go
			c.skipped = errors.Join(c.skipped, err)
			continue
		}
		if err != nil {
			return err
		}
		if lsn != 0 {
			c.done.Groups = append(c.done.Groups, journal.GroupDone{Group: n, LSN: lsn})
			end = max(end, to)
		}
	}
	if d.Header != 0 {
		if !slices.ContainsFunc(c.done.Groups, func(g journal.GroupDone) bool { return g.Group == 0 }) {
			if err := f.writeHeader(d); err != nil {
				return home(err)
			}
		}
		// Groups may have been copied that were added after d was made.
		if err := f.setLength(max(f.layout.PhysicalSize(d.Size), end), d.Header); err != nil {
			return home(err)
		}
		c.done.Header = d.Header
	}
	for _, h := range c.holes { // not before home reaches there
		f.punch(h.group, h.slots)
	}
	f.freeReserved()
	if d.Mtime != 0 {
		if err := f.setHomeMtime(unix.Timespec{Sec: d.MtimeSec, Nsec: int64(d.MtimeNsec)}); err != nil {
			return home(err)
		}
		c.done.Mtime = d.Mtime
	}
	return nil
}

// home wraps an error of writing home.
func home(err error) error { return fmt.Errorf("%w: %w", journal.ErrHome, err) }

// setHomeMtime sets the modification time of the backing file, and no access time.
func (f *File) setHomeMtime(t unix.Timespec) error {
	return f.b.Utimes(unix.Timespec{Nsec: unix.UTIME_OMIT}, t)
}

// fresh reports whether home has nothing beyond what a size takes.
func (f *File) fresh(size int64) bool {
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	return f.physical <= f.layout.PhysicalSize(size)
}

// raiseKept has checkpoints leave home at least so long, lowerKept at most.
func (f *File) raiseKept(physical int64) {
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	f.kept = max(f.kept, physical)
}

func (f *File) lowerKept(physical int64) {
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	f.kept = min(f.kept, physical)
}

// copyGroup brings a group home in its newest state, with the header of d in
// group 0. It returns the newest record that it copied, 0 if the journal has
// nothing of the group any more, and the end of what it wrote.
func (c *Checkpoint) copyGroup(n uint64, d *journal.Dirty) (lsn journal.LSN, end int64, err error) {
	f := c.f
	f.chain.RLock() // no truncation drops the group from the cache meanwhile
	defer f.chain.RUnlock()
	g := f.cache.pin(f, n)
	defer f.cache.unpin(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	pin := f.journal.Pin()
	defer pin.Unpin()
	live, err := f.j.Copy(n)
	if err != nil || live == nil {
		return 0, 0, err
	}
	tag, err := f.recordedTag(g)
	if err != nil {
		return 0, 0, f.refuse(n, err)
	}
	if f.j.Void(n) { // what lay there before the cut
		g.home = slotMask(0, cipher.EntriesPerGroup)
	}
	end, err = f.copyBodies(live.Blocks)
	if err != nil {
		return 0, 0, err
	}
	t := cipher.Trailer{Present: live.Trailer.Present, Gap: live.Trailer.Gap, LSN: uint64(live.LSN)}
	f.c.SealTrailer(tag, n, t)
	if n == 0 && d.Header != 0 {
		f.sealHeader(tag, d)
	}
	off := f.layout.TagOffset(n)
	if err := f.writeHome(tag, off); err != nil {
		return 0, 0, err
	}
	if holes := g.home &^ t.Present; holes != 0 {
		c.holes = append(c.holes, groupHoles{n, holes})
	}
	g.home = t.Present
	return live.LSN, max(end, off+cipher.TagBlockSize), nil
}

// recordedTag returns the tag block of a group, which is locked, without the
// entries of a stream's head: no record has them yet.
func (f *File) recordedTag(g *group) ([]byte, error) {
	if s := f.stream.Load(); s == nil || s.before != g {
		err := f.fill(g)
		return g.tag[:], err
	}
	bare := &group{n: g.n} // never in the cache
	err := f.fillRecorded(bare)
	return bare.tag[:], err
}

// sealHeader seals the header that d says into tag block 0.
func (f *File) sealHeader(tag []byte, d *journal.Dirty) {
	f.c.SealHeader(headerSector(tag), cipher.Header{Size: d.Size, Last: d.Last, LSN: uint64(d.Header), Epochs: f.epochs})
}

// writeHeader writes the sector of the header that changes.
func (f *File) writeHeader(d *journal.Dirty) error {
	g := f.cache.pin(f, 0)
	defer f.cache.unpin(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	f.sealHeader(g.tag[:], d)
	_, err := f.b.WriteAt(headerSector(g.tag[:]), cipher.SectorSize)
	return err
}

// copyBodies copies blocks of one group home and returns where the last ends.
func (f *File) copyBodies(blocks []journal.IndexedBlock) (end int64, err error) {
	for i := 0; i < len(blocks); {
		n := recordRun(blocks[i:])
		size := (n-1)*int(f.bs) + blocks[i+n-1].Size
		off := f.layout.BlockOffset(blocks[i].Index)
		b := f.cache.buffer(size)
		err := f.journal.ReadAt(*b, blocks[i].Body)
		if err == nil {
			err = f.writeHome(*b, off)
		}
		f.cache.recycle(b)
		if err != nil {
			return 0, err
		}
		end = max(end, off+int64(size))
		i += n
	}
	return end, nil
}

// writeHome writes a part of home and keeps account of the length that this leaves,
// also where it fails.
func (f *File) writeHome(p []byte, off int64) error {
	f.lengthMu.Lock()
	f.physical = max(f.physical, off+int64(len(p)))
	f.lengthMu.Unlock()
	_, err := f.b.WriteAt(p, off)
	if err == nil {
		return nil
	}
	f.lengthMu.Lock()
	defer f.lengthMu.Unlock()
	if st, serr := f.b.Stat(); serr == nil {
		f.physical = st.Size
	}
	return home(err)
}
