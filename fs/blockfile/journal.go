package blockfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// What a file does differently with a journal: changes become records, and what
// is read lies partly there.

// room reserves journal space for a change of so many groups and blocks. The groups
// that any change may touch, which are group 0, the last one and the one after, need
// not be counted. The caller holds no lock, since it may have to wait for a
// checkpoint. Without a journal it returns nil, whose methods do nothing.
func (f *File) room(groups, blocks int) (*journal.Reservation, error) {
	if f.j == nil {
		return nil, nil
	}
	return f.journal.Reserve(f.space(groups, blocks))
}

func (f *File) space(groups, blocks int) int {
	return journal.Space(groups+4, min(blocks, 3), blocks, blocks*int(f.bs))
}

// roomToWrite is room for a write of n bytes: its blocks, one more where it is
// not aligned, and the old last block of a file that grows.
func (f *File) roomToWrite(n int) (*journal.Reservation, error) {
	if f.j == nil {
		return nil, nil
	}
	return f.j.Reserve(f.space(f.blocksOf(n)))
}

func (f *File) blocksOf(n int) (groups, blocks int) {
	blocks = n/int(f.bs) + 3
	return blocks/cipher.EntriesPerGroup + 2, blocks
}

// limits sets how much one change may do, so that its record fits into a batch.
func (f *File) limits() {
	f.maxPart, f.maxHoles = maxRequest/2, holeGroups
	if f.journal == nil {
		return
	}
	for f.maxPart > int(f.bs) && f.space(f.blocksOf(f.maxPart)) > f.journal.MaxSpace() {
		f.maxPart /= 2
	}
	for f.maxHoles > 1 && f.space(f.maxHoles, 3) > f.journal.MaxSpace() {
		f.maxHoles /= 2
	}
}

// record is apply with a journal: the change becomes one record. Nothing is
// written home, but space is allocated there for what is new, so that a lack of it
// is told here and not to the checkpoint.
func (f *File) record(ch *change) error {
	ch.lockGroups()
	defer ch.unlockGroups()
	if f.stream.Load() != nil { // none begins while the groups are locked, or the end
		return errStreaming
	}
	if err := f.failed(); err != nil {
		return err
	}
	if err := f.planGroups(ch); err != nil {
		f.giveUp(ch)
		return err
	}
	f.noteReserved(ch)
	rec := f.recordOf(ch)
	if rec == nil {
		return nil
	}
	if err := f.allocateNew(ch); err != nil {
		f.giveUp(ch)
		return err
	}
	f.wrote.Store(time.Now().UnixNano())
	f.countInlined(ch)
	if _, err := f.j.Append(ch.room, rec); err != nil {
		f.giveUp(ch) // after a failure of the journal it decides
		return err
	}
	for i, g := range ch.groups {
		f.copyIn(ch, g, ch.after[i])
		if lost := ch.after[i].before.Present &^ ch.after[i].after.Present; lost != 0 && !f.zeroed.Load() {
			f.takeBack(f.layout.TagOffset(g.n)) // a checkpoint gives space of it back
		}
	}
	f.publishEnd(ch)
	if ch.shrinks() {
		f.inlined.Store(0)
		f.lowerKept(f.layout.PhysicalSize(ch.size))
		f.dropAhead()
		f.keepSpace(f.layout.BlockOffset(f.blockCount(ch.size)), math.MaxInt64)
		f.cache.drop(f, f.layout.LastGroup(ch.size)+1)
	}
	return nil
}

// countInlined counts the new bytes at the end of the file that the journal has and
// that are not committed.
func (f *File) countInlined(ch *change) {
	if ch.size <= ch.oldSize || len(ch.extents) == 0 {
		return
	}
	if f.journal.Durable(f.j.LSN()) {
		f.inlined.Store(0)
	}
	e := ch.extents[len(ch.extents)-1]
	f.inlined.Add(min(ch.size-ch.oldSize, int64(len(e.bodies))))
}

// giveUp has the locked groups read again: they hold parts of a change that was not
// made, or of which nobody knows, because the journal failed.
func (f *File) giveUp(ch *change) {
	for _, g := range ch.groups {
		g.present = false
	}
}

// recordOf returns the record of a planned change, nil if it changes nothing.
func (f *File) recordOf(ch *change) *journal.Record {
	now := time.Now()
	rec := &journal.Record{
		MtimeSec: now.Unix(), MtimeNsec: uint32(now.Nanosecond()),
		Size: journal.NoSize, Cut: journal.NoCut,
	}
	if ch.headerChanges() {
		rec.Size, rec.Last = ch.header.Size, ch.header.Last
	}
	if ch.size < ch.oldSize {
		rec.Cut = f.blockCount(ch.size)
	}
	for i, g := range ch.groups {
		c := ch.after[i]
		if c.dirty || ch.shrinks() || g.n == 0 && rec.Size != journal.NoSize {
			rec.Trailers = append(rec.Trailers, journal.Trailer{Group: g.n, Present: c.after.Present, Gap: c.after.Gap, Epoch: f.static.Epoch})
		}
	}
	for _, e := range ch.extents {
		rec.Extents = append(rec.Extents, journal.Extent{First: e.first, Entries: e.entries, Bodies: e.bodies})
	}
	slices.SortFunc(rec.Extents, func(a, b journal.Extent) int { return cmp.Compare(a.First, b.First) })
	if len(rec.Trailers) == 0 && len(rec.Extents) == 0 && rec.Size == journal.NoSize && !ch.times {
		return nil
	}
	return rec
}

// copyIn brings ch into the copy in memory of one group.
func (f *File) copyIn(ch *change, g *group, c groupChange) {
	f.copyEntries(ch, g)
	g.home |= c.before.Present &^ c.after.Present // space that is to be given back
	g.t, g.present = c.after, true
	if g.n == 0 {
		f.header = ch.header
	}
}

// probeFrom is the length from which a backing file may be too long for its
// filesystem.
const probeFrom = 1 << 40

// probe finds out whether the backing file can become so long, by allocating the
// last block of it.
func (f *File) probe(physical int64) error {
	if physical <= max(probeFrom, f.probed) {
		return nil
	}
	const block = cipher.TagBlockSize
	if err := f.allocated(f.b.Allocate(unix.FALLOC_FL_KEEP_SIZE, (physical-1)/block*block, block)); err != nil {
		return err
	}
	f.probed = physical
	return nil
}

// allocated judges the error of an allocation. That the backing filesystem cannot
// allocate ahead is none. But then a lack of space shows only when bytes are
// written, too late for a stream, which could not be taken back: there are none any
// more.
func (f *File) allocated(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		f.noAllocate.Store(true)
		return nil
	}
	return err
}

// fillLive is fill of a group that may have live records, which overrule what
// lies home, and blocks of a stream's head.
func (f *File) fillLive(g *group) error {
	err := f.fillRecorded(g)
	if err == nil {
		f.overlayHead(g)
	}
	return err
}

func (f *File) fillRecorded(g *group) error {
	pin := f.journal.Pin()
	defer pin.Unpin()
	live := f.j.Peek(g.n)
	void := f.j.Void(g.n)
	if live == nil && void {
		return cipher.ErrZero
	}
	home, err := f.readHomeTag(g, void)
	if errors.Is(err, errRollback) {
		return err
	}
	if errors.Is(err, errUnread) && (live == nil || g.n == 0 || bits.OnesCount64(live.Trailer.Present) != len(live.Blocks)) {
		return err // entries are needed that may be readable the next time
	}
	if live == nil {
		if err != nil {
			return err
		}
		g.t, g.home, g.present, g.mended = home, home.Present, true, true
		return nil
	}
	g.home = 0
	if err == nil {
		g.home = home.Present
	}
	t := live.Trailer
	g.t = cipher.Trailer{Epoch: t.Epoch, Present: t.Present, Gap: t.Gap, LSN: uint64(live.LSN)}
	if g.n == 0 {
		f.sealStatic(g.tag[:])
	}
	first := 0
	if g.n == 0 {
		first = cipher.HeaderSlots
	}
	for s := first; s < cipher.EntriesPerGroup; s++ {
		if t.Present>>s&1 == 0 {
			clear(entriesIn(g.tag[:], s, 1))
		}
	}
	for i := 0; i < len(live.Blocks); {
		n := recordRun(live.Blocks[i:])
		slot := f.layout.Slot(live.Blocks[i].Index)
		if err := f.journal.ReadAt(entriesIn(g.tag[:], slot, n), live.Blocks[i].Entry); err != nil {
			return err
		}
		i += n
	}
	g.present, g.mended = true, true
	return nil
}

// recordRun counts how many of the blocks, from the first on, follow each other
// both in the file and in one record.
func recordRun(blocks []journal.IndexedBlock) int {
	n := 1
	for n < len(blocks) && blocks[n].Index == blocks[n-1].Index+1 && blocks[n].LSN == blocks[0].LSN {
		n++
	}
	return n
}

// readHomeTag reads the tag block of g from home, zeros where there is none, and
// verifies its trailer. If the trailer does not verify, g has the entries all the
// same, though nothing vouches for them; after errUnread, a failed read, they are
// zero. void says that a cut voids what lies there.
func (f *File) readHomeTag(g *group, void bool) (cipher.Trailer, error) {
	if void {
		clear(g.tag[:])
		return cipher.Trailer{}, cipher.ErrZero
	}
	m, err := f.b.ReadAt(g.tag[:], f.layout.TagOffset(g.n))
	clear(g.tag[m:])
	if err != nil && err != io.EOF {
		clear(g.tag[:])
		return cipher.Trailer{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	t, err := f.c.OpenTrailer(g.tag[:], g.n)
	if err == nil && !f.journal.Knows(journal.LSN(t.LSN)) {
		return t, fmt.Errorf("%w: group %d at home is of record %d", errRollback, g.n, t.LSN)
	}
	return t, err
}

// errUnread reports a tag block that the disk did not give.
var errUnread = errors.New("tag block cannot be read")

// errRollback reports bytes at home that are newer than the journal.
var errRollback = fmt.Errorf("journal is older than the file: %w", ErrCorrupt)

// readLive is readBodies where some may lie in the journal.
func (f *File) readLive(p []byte, index uint64) error {
	pin := f.journal.Pin()
	defer pin.Unpin()
	for len(p) > 0 {
		n := (len(p) + int(f.bs) - 1) / int(f.bs)
		if k := f.readHead(p, index); k > 0 {
			index += uint64(k)
			p = p[min(k*int(f.bs), len(p)):]
			continue
		}
		if from := f.headFrom(); index < from {
			n = int(min(uint64(n), from-index))
		}
		run, b, live := f.j.Run(index, n)
		part := p[:min(run*int(f.bs), len(p))]
		var err error
		if live {
			err = f.journal.ReadAt(part, b.Body)
		} else {
			err = f.readHome(part, index)
		}
		if err != nil {
			return err
		}
		index += uint64(run)
		p = p[len(part):]
	}
	return nil
}

// SetMtime records a modification time that was set at home, where live
// records would bring back another one.
func (f *File) SetMtime(t unix.Timespec) error {
	if f.j == nil || f.ro || !f.stream.Load().setMtime(t) && !f.j.Live() {
		return nil
	}
	room, err := f.journal.Reserve(journal.Space(0, 0, 0, 0))
	if err != nil {
		return err
	}
	defer room.Release()
	return f.appendMtime(room, t)
}

func (f *File) appendMtime(room *journal.Reservation, t unix.Timespec) error {
	_, err := f.j.Append(room, &journal.Record{MtimeSec: t.Sec, MtimeNsec: uint32(t.Nsec), Size: journal.NoSize, Cut: journal.NoCut})
	return err
}

// modified moves the modification time to now, as a change that changes nothing
// does.
func (f *File) modified(room *journal.Reservation) error {
	now := time.Now()
	f.wrote.Store(now.UnixNano())
	f.stream.Load().setMtime(unix.NsecToTimespec(now.UnixNano()))
	return f.appendMtime(room, unix.NsecToTimespec(now.UnixNano()))
}

// Times returns the modification time, if the journal knows it better than home,
// and the time at which this File last changed the content, before which ctime
// cannot lie. A zero time says nothing.
func (f *File) Times() (mtime, changed unix.Timespec) {
	if f.j == nil {
		return
	}
	if sec, nsec, ok := f.j.Mtime(); ok {
		mtime = unix.Timespec{Sec: sec, Nsec: int64(nsec)}
	}
	if t, ok := f.stream.Load().time(); ok {
		mtime = t
	}
	if n := f.wrote.Load(); n != 0 {
		changed = unix.NsecToTimespec(n)
	}
	return mtime, changed
}

// Live reports whether some of the content is in the journal alone, or has no
// record yet.
func (f *File) Live() bool {
	// In this order: a stream gets its record before it is over.
	return f.j != nil && (f.stream.Load() != nil || f.j.Live())
}

// Failure returns why what was written can no longer become durable, if so.
func (f *File) Failure() error {
	if f.j == nil {
		return nil
	}
	if err := f.failed(); err != nil {
		return err
	}
	return f.j.Failure()
}

// Renamed has the next Sync make names durable, also one of data alone.
func (f *File) Renamed() { f.names.Add(1) }

// AttrsChanged has the next full Sync make attributes durable.
func (f *File) AttrsChanged() { f.attrs.Add(1) }

// Sync makes the content durable, and unless dataOnly the attributes too. Names
// of a new or renamed file are made durable as well, as far as the backing
// filesystem does that with a file.
func (f *File) Sync(dataOnly bool) error {
	if f.j == nil {
		if dataOnly {
			return f.b.Datasync()
		}
		return f.b.Sync()
	}
	if err := f.EndStream(); err != nil {
		return err
	}
	if err := f.j.Commit(); err != nil || f.ro {
		return err
	}
	names, attrs := f.names.Load(), f.attrs.Load()
	if f.syncedNames.Load() == names && (dataOnly || f.syncedAttrs.Load() == attrs) {
		return nil
	}
	return f.syncHome()
}

// syncHome syncs the backing file. The kernel may tell a failure to this call
// alone, so it is counted for the checkpoint and the stream under way.
func (f *File) syncHome() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	names, attrs := f.names.Load(), f.attrs.Load()
	if err := f.b.Sync(); err != nil {
		f.syncErrs.Add(1)
		err = home(err)
		if f.headerNew.Load() && !f.closed.Load() {
			f.fail(err) // the kernel may have dropped the header, and the next sync would not tell
		}
		return err
	}
	f.syncedNames.Store(names)
	f.syncedAttrs.Store(attrs)
	f.headerNew.Store(false)
	return nil
}

// datasync is syncHome of what is needed to read the content back.
func (f *File) datasync() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if err := f.b.Datasync(); err != nil {
		f.syncErrs.Add(1)
		return home(err)
	}
	return nil
}
