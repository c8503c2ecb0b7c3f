package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// retryPass is how long passes rest after one that failed, idlePass after one that
// made no room for those who wait.
const (
	retryPass = time.Second
	idlePass  = 5 * time.Millisecond
)

// Dirty is what a checkpoint of a file has to copy home.
type Dirty struct {
	// Groups, ascending, each have a record of an LSN up to the one asked for.
	Groups []uint64
	// Header reports that size and last are to be written, with its LSN.
	Header    LSN
	Size      int64
	Last      uint64
	MtimeSec  int64
	MtimeNsec uint32
	Mtime     LSN // 0: leave it
	// Home is to be cut to its first VoidFrom blocks before anything else is
	// written to it, unless that is NoCut.
	VoidFrom uint64
	Cut      LSN // newest record that cuts
}

// Empty reports whether there is nothing to do.
func (d *Dirty) Empty() bool {
	return len(d.Groups) == 0 && d.Header == 0 && d.Mtime == 0 && d.VoidFrom == NoCut
}

// Dirty returns what a checkpoint of the records up to through has to do. Cut,
// size and mtime are given whenever they are live. All records of the file are
// durable when it returns, for home takes nothing that is not.
func (f *File) Dirty(through LSN) (Dirty, error) {
	if err := f.Commit(); err != nil { // without the lock, as a rule all there is
		return Dirty{}, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	// An Append that has placed its record does not need f.mu to let this end.
	if err := f.j.Commit(f.last); err != nil {
		return Dirty{}, err
	}
	d := Dirty{
		Header: f.size.lsn, Size: f.size.size, Last: f.size.last,
		Mtime: f.mtime.lsn, MtimeSec: f.mtime.sec, MtimeNsec: f.mtime.nsec, VoidFrom: f.voidFrom(),
	}
	for _, c := range f.cuts {
		d.Cut = max(d.Cut, c.lsn)
	}
	for _, g := range f.order {
		gr := f.groups[g]
		oldest := gr.lsn
		for _, b := range gr.blocks {
			oldest = min(oldest, b.lsn)
		}
		if oldest <= through {
			d.Groups = append(d.Groups, g)
		}
	}
	return d, nil
}

// GroupCopy is all that a checkpoint of a group needs.
type GroupCopy struct {
	Trailer Trailer
	LSN     LSN // newest record
	// Blocks are those in the journal, ascending. Of the others that Trailer
	// has, the entries stay as they lie at home, verified or not; those that
	// it has not get a zero entry.
	Blocks []IndexedBlock
}

// IndexedBlock is a block in the journal and its number.
type IndexedBlock struct {
	Index uint64
	Block
}

// Copy returns the state that a group is to have at home, which is durable when it
// returns, or nil if the journal has nothing of the group. The caller keeps the
// group from changing, and holds a Pin until it has read the blocks.
func (f *File) Copy(g uint64) (*GroupCopy, error) {
	f.mu.RLock()
	gr := f.groups[g]
	if gr == nil {
		f.mu.RUnlock()
		return nil, nil
	}
	c := &GroupCopy{Trailer: gr.trailer, LSN: gr.lsn, Blocks: make([]IndexedBlock, len(gr.blocks))}
	for i, b := range gr.blocks {
		c.Blocks[i] = IndexedBlock{b.index, Block{b.lsn, int(b.size), Pos{b.seg, b.entry}, Pos{b.seg, b.body}}}
	}
	f.mu.RUnlock()
	return c, f.j.Commit(c.LSN)
}

// Done says what a checkpoint copied home and made durable.
type Done struct {
	Groups []GroupDone
	Header LSN // the newest size at home, 0 if it was not written
	Mtime  LSN
	Cut    LSN // home was cut as Dirty said, with this LSN
}

// GroupDone says that a group is at home with all its records up to LSN.
type GroupDone struct {
	Group uint64
	LSN   LSN
}

// Checkpointed drops from the index what is at home and durable there, and
// only what no newer record has replaced meanwhile. A group that reaches beyond
// a cut that came after Dirty stays: home is still to be cut below it.
func (f *File) Checkpointed(d Done) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts = slices.DeleteFunc(f.cuts, func(c cut) bool {
		if c.lsn > d.Cut {
			return false
		}
		f.release(c.seg)
		return true
	})
	l := f.j.cfg.Layout
	for _, g := range d.Groups {
		if l.FirstBlock(g.Group)+uint64(l.Blocks(g.Group)) <= f.voidFrom() {
			f.groupDone(g)
		}
	}
	f.order = slices.DeleteFunc(f.order, func(g uint64) bool { return f.groups[g] == nil })
	if f.size.lsn != 0 && f.size.lsn <= d.Header {
		f.release(f.size.seg)
		f.size = sizeItem{}
	}
	// As long as anything else goes home later, that would move the time again.
	rest := len(f.groups) > 0 || len(f.cuts) > 0 || f.size.lsn != 0
	if f.mtime.lsn != 0 && f.mtime.lsn <= d.Mtime && !rest {
		f.release(f.mtime.seg)
		f.mtime = mtimeItem{}
	}
}

// groupDone may leave a key in f.order that f.groups no longer has.
func (f *File) groupDone(d GroupDone) {
	gr := f.groups[d.Group]
	if gr == nil {
		return
	}
	for i := 0; i < len(gr.blocks); {
		if gr.blocks[i].lsn <= d.LSN {
			f.dropBlocks(gr, i, i+1)
		} else {
			i++
		}
	}
	if gr.lsn <= d.LSN {
		f.dropGroup(d.Group)
	}
}

// checkpointer runs passes when space is wanted, and otherwise now and then.
func (j *Journal) checkpointer() {
	defer j.workers.Done()
	t := time.NewTicker(max(j.cfg.CheckpointInterval/8, 10*time.Millisecond))
	defer t.Stop()
	var seen LSN // the newest record at the last look
	var since time.Time
	for {
		force := false
		select {
		case <-j.stop:
			return
		case <-j.kickCh:
		case now := <-t.C:
			if since.IsZero() || now.Sub(since) >= j.cfg.CheckpointInterval {
				force = !since.IsZero()
				since = now
			}
		}
		if force && j.failure() == nil {
			j.atWork(func() {
				j.pass(seen)
				seen = j.lastLSN()
			})
		}
		for !j.stopped() {
			var freed int
			j.atWork(func() {
				if through, ok := j.target(); ok {
					freed, _ = j.pass(through)
				}
			})
			if freed > 0 {
				continue
			}
			switch {
			case j.helpless():
				j.pause(retryPass)
			case j.waiting(): // what they wait for is no pass's to give, but perhaps a stream's
				j.atWork(func() { j.EndStreams() })
				j.pause(idlePass)
			}
			break
		}
	}
}

// helpless reports whether the last pass failed and left no space.
func (j *Journal) helpless() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.homeErr != nil
}

// waiting reports whether someone waits for space.
func (j *Journal) waiting() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err == nil && j.waiters > 0
}

// pause waits before another pass is tried.
func (j *Journal) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-j.stop:
	case <-t.C:
	}
}

func (j *Journal) stopped() bool {
	select {
	case <-j.stop:
		return true
	default:
		return false
	}
}

// target returns up to where a pass is needed: the older half of the segments
// when the journal is half full, or all when someone waits for space and
// there is but one segment.
func (j *Journal) target() (LSN, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || (j.waiters == 0 && !j.overHalf()) {
		return 0, false
	}
	n := (len(j.live) + 1) / 2
	if n >= len(j.live) || j.items.Load() >= int64(j.cfg.Items) {
		return j.next - 1, true
	}
	return j.live[n].first - 1, true
}

// overHalf reports whether more than half of the journal is in use. j.mu is
// held.
func (j *Journal) overHalf() bool {
	var used int64
	for _, s := range j.live {
		used += s.size
	}
	return len(j.live) > 1 && used > j.cfg.Size/2
}

// pass checkpoints every file that has records up to through, and frees
// segments, whose number it returns.
func (j *Journal) pass(through LSN) (freed int, first error) {
	j.passMu.Lock()
	defer j.passMu.Unlock()
	files := j.filesUpTo(through)
	if j.isFrozen() {
		if len(files) > 0 {
			return 0, fmt.Errorf("%d files wait for the end of a freeze: %w", len(files), ErrLive)
		}
		return 0, nil
	}
	if j.home == nil && len(files) > 0 {
		return 0, errors.New("journal: checkpoint without a home")
	}
	if len(files) > 0 {
		var gone []cipher.FileID
		gone, first = j.home.Checkpoint(files, through)
		for _, id := range gone {
			j.Forget(id)
		}
	}
	j.sweep()
	freed, err := j.trim()
	if first == nil {
		first = err
	}
	moved, err := j.makeRoom(through, first)
	freed += moved
	j.mu.Lock()
	defer j.mu.Unlock()
	j.homeErr = nil
	if first != nil {
		if errors.Is(first, ErrHome) && !noSpace(first) {
			j.HomeFailed(first)
		}
		if err != nil {
			first = fmt.Errorf("%w (%w)", first, err)
		}
		if j.stalled(freed) {
			j.homeErr = first
		}
		j.complain(first)
	}
	j.cond.Broadcast()
	return freed, first
}

func (j *Journal) isFrozen() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.frozen
}

// complainEvery bounds how often the same failure of passes is logged.
const complainEvery = 10 * time.Second

// complain logs why a pass failed. j.mu is held.
func (j *Journal) complain(err error) {
	if text := err.Error(); text != j.complaint || time.Since(j.complained) > complainEvery {
		j.complaint, j.complained = text, time.Now()
		j.log.Warn("checkpoint failed", "error", err)
	}
}

// sweep forgets files that are neither in use nor live.
func (j *Journal) sweep() {
	j.fmu.Lock()
	defer j.fmu.Unlock()
	for id, f := range j.files {
		if f.users == 0 && !f.Live() {
			delete(j.files, id)
		}
	}
}

func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// filesUpTo lists the files with items in segments that begin at or before
// through.
func (j *Journal) filesUpTo(through LSN) []Ref {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refMu.Lock()
	defer j.refMu.Unlock()
	seen := map[*File]bool{}
	var list []Ref
	for _, s := range j.live {
		if s.first > through {
			break
		}
		for f := range s.files {
			if !seen[f] {
				seen[f] = true
				list = append(list, Ref{f.id, f.hint.Load()})
			}
		}
	}
	return list
}

// Drain ends all streams, commits and checkpoints all there is, and frees all segments but the
// active one. Records that come meanwhile may stay.
func (j *Journal) Drain() error {
	first := j.EndStreams()
	lsn := j.lastLSN()
	if err := j.Commit(lsn); err != nil {
		return err
	}
	_, err := j.pass(lsn)
	return errors.Join(first, err)
}

// Trim frees the oldest segments that nothing live refers to, and moves the
// superblock's tail. It is called after Checkpointed.
func (j *Journal) Trim() error {
	_, err := j.trim()
	return err
}

func (j *Journal) trim() (int, error) {
	j.trimMu.Lock()
	defer j.trimMu.Unlock()
	n, lsn := j.trimmable()
	if n == 0 {
		return 0, nil
	}
	// What overruled the records in these segments must be durable first.
	if err := j.Commit(lsn); err != nil {
		return 0, err
	}
	j.mu.Lock()
	tail := j.live[n]
	st := superState{tailSeg: tail.seq, tail: tail.first, tailTag: tail.prev, next: j.end, nextSeg: j.nextSeg}
	headed := tail.headed
	j.mu.Unlock()
	if !headed {
		return 0, fmt.Errorf("journal: segment %d has no header after a commit", tail.seq)
	}
	err := j.cfg.Super.update(false, func(s *superState) {
		s.tailSeg, s.tail, s.tailTag, s.next, s.nextSeg = st.tailSeg, st.tail, st.tailTag, st.next, st.nextSeg
	})
	if err != nil {
		j.mu.Lock()
		j.fail(err)
		j.mu.Unlock()
		return 0, err
	}
	j.pins.wait() // for who looked up a position before
	j.recycle(n)
	return n, nil
}

// trimmable counts the oldest segments without items, and returns the newest
// record there is now. The active segment is never among them.
func (j *Journal) trimmable() (int, LSN) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refMu.Lock()
	defer j.refMu.Unlock()
	n := 0
	for !j.frozen && n < len(j.live)-1 && len(j.live[n].files) == 0 && j.live[n].placed == 0 {
		n++
	}
	return n, j.next - 1
}

// recycle makes the n oldest segments free, or removes those of an unfit size
// or beyond the journal's.
func (j *Journal) recycle(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	total := j.total()
	var drop []*segment
	for _, s := range j.live[:n] {
		if s.size < j.cfg.SegmentSize || (total > j.cfg.Size && len(j.live)+len(j.free)-len(drop) > 2) {
			total -= s.size
			drop = append(drop, s)
			continue
		}
		s.seq, s.headed, s.dirty = 0, false, false
		j.free = append(j.free, s)
	}
	j.live = slices.Clone(j.live[n:])
	j.cond.Broadcast()
	for _, s := range drop {
		j.remove(s)
	}
}
