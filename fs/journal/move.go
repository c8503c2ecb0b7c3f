package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plyfs/plyfs/cipher"
)

// Records of a file whose checkpoint fails, or that is not found, would pin the
// tail. Where space is wanted they are moved: what the index has of the file in
// the oldest segment is appended anew, sealed as it is, and the segment is free.
// fs/DESIGN.md §5.8 has the argument.

// Shares of the journal's size. A file whose checkpoint failed gets no more space
// once its records fill an eighth. Nothing is moved if what cannot go home fills more
// than three quarters.
const (
	refuseShare = 8
	moveShare   = 4 // all but one of
)

// A journal of minSpare segments or more keeps one for what is moved. A smaller one
// grows beyond its size if it has to.
const minSpare = 4

// moveRecord is how long moved records become, in bytes: padding is little then.
const moveRecord = 256 << 10

// errStuck says why a file that cannot go home may not grow.
var errStuck = errors.New("the file's records cannot leave the journal, and fill too much of it")

// Reserve is Journal.Reserve for a write to this file. It fails where the file
// cannot go home and its records fill too much of the journal.
func (f *File) Reserve(n int) (*Reservation, error) {
	if why := f.stuck.Load(); why != nil {
		if held := f.bytes.Load(); held > f.j.cfg.Size/refuseShare {
			f.j.kick() // it may heal
			return nil, fmt.Errorf("%w (%d bytes): %w", errStuck, held, *why)
		}
	}
	return f.j.Reserve(n)
}

// spare is the room that no reservation gets. j.mu is held.
func (j *Journal) spare() int64 {
	few := len(j.live)+len(j.free) < minSpare || j.cfg.Size < minSpare*j.cfg.SegmentSize
	if few || len(j.free) == 0 || j.growable() {
		return j.wanted
	}
	return max(j.wanted, j.free[0].size-pageSize-int64(j.maxBatch))
}

// scarce reports whether segments are to be freed at any cost. j.mu is held.
func (j *Journal) scarce() bool {
	enough := 1
	if len(j.live)+len(j.free) >= minSpare {
		enough = max(2, len(j.live)/8)
	}
	return !j.growable() && (j.waiters > 0 || len(j.free) < enough)
}

// left returns how many bytes the journal holds of the files that a pass up to
// through did not bring home, and notes in each of them the cause, if there is one.
func (j *Journal) left(through LSN, cause error) (held int64) {
	files := map[*File]bool{}
	j.mu.Lock()
	active := j.active()
	j.refMu.Lock()
	for _, s := range j.live {
		if s.first > through || s == active {
			break
		}
		for f := range s.files {
			files[f] = true
		}
	}
	j.refMu.Unlock()
	j.mu.Unlock()
	j.fmu.Lock()
	defer j.fmu.Unlock()
	for _, f := range j.files {
		switch {
		case !files[f] || !f.since(through): // or it was written to since the pass began
			f.stuck.Store(nil)
		case cause != nil:
			f.stuck.Store(&cause)
			fallthrough
		default:
			held += f.bytes.Load() + recHeadLen
		}
	}
	return held
}

// since reports whether some live record is of an LSN up to through.
func (f *File) since(through LSN) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.size.lsn != 0 && f.size.lsn <= through || len(f.cuts) > 0 && f.cuts[0].lsn <= through {
		return true
	}
	for _, gr := range f.groups {
		if gr.lsn <= through || slices.ContainsFunc(gr.blocks, func(b blockItem) bool { return b.lsn <= through }) {
			return true
		}
	}
	return false
}

// exhausted reports whether some record has no room. j.mu is held.
func (j *Journal) exhausted() bool {
	return j.reserved+int64(j.maxBatch) > j.room()-j.spare() || j.items.Load() >= int64(j.cfg.Items)
}

// makeRoom frees the oldest segments, if free ones are scarce, by moving what a pass
// up to through left in them, and returns how many it gained. cause is why the pass
// left it. An error says why segments that are needed could not be freed. j.passMu is
// held.
func (j *Journal) makeRoom(through LSN, cause error) (gained int, err error) {
	j.mu.Lock()
	scarce := j.scarce()
	free, newest := len(j.free), j.active().seq
	j.mu.Unlock()
	held := j.left(through, cause)
	if !scarce {
		return 0, nil
	}
	if held > j.cfg.Size-j.cfg.Size/moveShare {
		return 0, fmt.Errorf("%d bytes of a journal of %d cannot leave it", held, j.cfg.Size)
	}
	for s := j.oldest(); s != nil && s.first <= through && s.seq < newest; s = j.oldest() {
		for _, f := range j.filesIn(s) {
			if err := f.move(s.seq); err != nil {
				return 0, err
			}
		}
		if n, err := j.trim(); n == 0 || err != nil {
			return 0, err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(0, len(j.free)-free), nil
}

// maxStalls is how many passes may free nothing for who waits before that counts
// as a failure: one may have begun before there was a need.
const maxStalls = 3

// stalled reports whether passes go on without making room. j.mu is held.
func (j *Journal) stalled(freed int) bool {
	if freed > 0 || j.waiters == 0 || !j.exhausted() {
		j.stalls = 0
		return false
	}
	j.stalls++
	return j.stalls >= maxStalls
}

// oldest returns the segment that is to be freed next, nil if none is.
func (j *Journal) oldest() *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || len(j.live) < 2 || !j.scarce() {
		return nil
	}
	return j.live[0]
}

func (j *Journal) filesIn(s *segment) (files []*File) {
	j.refMu.Lock()
	defer j.refMu.Unlock()
	for f := range s.files {
		files = append(files, f)
	}
	return files
}

// reserveMove is Reserve without waiting for what is moved: it may take the spare
// segment too, and has the journal grow beyond its size where that does not do. It
// returns nil if there is no room all the same.
func (j *Journal) reserveMove(n int64) *Reservation {
	most := j.cfg.Size + 2*(n+j.cfg.SegmentSize) // some is lost at each segment's end
	j.mu.Lock()
	defer j.mu.Unlock()
	j.wanted = n // nobody else takes what is made for this
	defer func() { j.wanted = 0 }()
	for j.usable() == nil {
		if j.reserved+n <= j.room() {
			j.reserved += n
			return &Reservation{j: j, size: n, left: int(n)}
		}
		before := j.total()
		j.mu.Unlock()
		j.growTo(most)
		j.mu.Lock()
		if j.total() <= before {
			break
		}
	}
	return nil
}

// move appends anew what the index has of the file in segments of sequence seq
// or below. No checkpoint of the file may be under way.
func (f *File) move(seq uint64) error {
	f.amu.Lock() // nothing is appended, and what is moved is the newest
	defer f.amu.Unlock()
	plan, void := f.planMove(seq)
	if len(plan) == 0 {
		return nil
	}
	var total int64
	for _, p := range plan {
		total += int64(p.info().space())
	}
	room := f.j.reserveMove(total)
	if room == nil {
		return fmt.Errorf("no room for %d bytes to be moved", total)
	}
	defer room.Release()
	// A moved cut must be followed by all that lies beyond it. What stayed behind
	// could go home and leave the journal before the cut does, and recovery would
	// find home void. So all is read once before the first record is appended.
	for _, p := range plan {
		if !void {
			break
		}
		if err := p.load(f.j); err != nil {
			return err
		}
		p.rec.Extents = nil
	}
	for i, p := range plan {
		err := p.load(f.j)
		if err == nil {
			_, err = f.append(room, &p.rec)
		}
		p.rec.Extents = nil
		if err == nil {
			continue
		}
		if void && i > 0 {
			f.j.mu.Lock()
			f.j.fail(err)
			f.j.mu.Unlock()
		}
		return err
	}
	return nil
}

// movePlan is a record to be, and where its blocks lie now.
type movePlan struct {
	rec  Record // without extents
	runs []moveRun
	from []blockItem // of all runs
	size int         // of their bodies, in bytes
}

// moveRun will be an extent.
type moveRun struct {
	first  uint64
	blocks int
	size   int
}

func (p *movePlan) info() recInfo {
	return recordInfo(len(p.rec.Trailers), len(p.runs), len(p.from), p.size)
}

// planMove lists records that say what the index has in segments up to seq,
// and, if that voids home, all there is beyond. f.amu is held.
func (f *File) planMove(seq uint64) (plan []*movePlan, void bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.items == 0 {
		return nil, false
	}
	l := f.j.cfg.Layout
	limit := max(f.j.maxBatch/4, min(f.j.maxBatch, moveRecord)) // so that segments are filled well
	p := f.newPlan()
	void = slices.ContainsFunc(f.cuts, func(c cut) bool { return c.seg.seq <= seq })
	if void {
		p.rec.Cut, p.rec.moved = f.voidFrom(), true
	}
	if f.size.lsn != 0 && f.size.seg.seq <= seq {
		p.rec.Size, p.rec.Last = f.size.size, f.size.last
	}
	some := void || p.rec.Size != NoSize || f.mtime.seg.seq <= seq
	for _, g := range f.order {
		gr := f.groups[g]
		all := void && l.FirstBlock(g)+uint64(l.Blocks(g)) > f.voidFrom()
		named := !all && gr.seg.seq > seq // else its trailer is to be moved
		for _, b := range gr.blocks {
			if !all && b.seg.seq > seq {
				continue
			}
			if some && p.infoWith(b).space() > limit {
				plan, p = append(plan, p), f.newPlan()
			}
			p.add(gr, b, l.BlockSize())
			named, some = true, true
		}
		if !named {
			if p.info().space() > limit {
				plan, p = append(plan, p), f.newPlan()
			}
			p.rec.Trailers = append(p.rec.Trailers, gr.trailer)
			some = true
		}
	}
	if some {
		plan = append(plan, p)
	}
	return plan, void
}

func (f *File) newPlan() *movePlan {
	return &movePlan{rec: Record{Size: NoSize, Cut: NoCut, MtimeSec: f.mtime.sec, MtimeNsec: f.mtime.nsec}}
}

// infoWith is the record's geometry if b comes to it.
func (p *movePlan) infoWith(b blockItem) recInfo {
	return recordInfo(len(p.rec.Trailers)+1, len(p.runs)+1, len(p.from)+1, p.size+int(b.size))
}

// add plans one more block, of group gr.
func (p *movePlan) add(gr *group, b blockItem, blockSize int) {
	if n := len(p.rec.Trailers); n == 0 || p.rec.Trailers[n-1].Group != gr.trailer.Group {
		p.rec.Trailers = append(p.rec.Trailers, gr.trailer)
	}
	if n := len(p.from); n == 0 || p.from[n-1].index+1 != b.index || int(p.from[n-1].size) < blockSize {
		p.runs = append(p.runs, moveRun{first: b.index})
	}
	run := &p.runs[len(p.runs)-1]
	run.blocks++
	run.size += int(b.size)
	p.from = append(p.from, b)
	p.size += int(b.size)
}

// load reads entries and bodies, sealed as they are.
func (p *movePlan) load(j *Journal) error {
	from := p.from
	for _, run := range p.runs {
		e := Extent{First: run.first, Entries: make([]byte, run.blocks*cipher.EntrySize), Bodies: make([]byte, run.size)}
		entry, body := e.Entries, e.Bodies
		for _, b := range from[:run.blocks] {
			if err := j.ReadAt(entry[:cipher.EntrySize], Pos{b.seg, b.entry}); err != nil {
				return err
			}
			if err := j.ReadAt(body[:b.size], Pos{b.seg, b.body}); err != nil {
				return err
			}
			entry, body = entry[cipher.EntrySize:], body[b.size:]
		}
		from = from[run.blocks:]
		p.rec.Extents = append(p.rec.Extents, e)
	}
	return nil
}
