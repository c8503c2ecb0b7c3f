package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// lsnGap is what a run leaves free above the end of the one before, so that no
// LSN of a record that was lost is given again.
const lsnGap = 1 << 20

// scan is the state of a recovery: what the next batch must continue.
type scan struct {
	j     *Journal
	super superState
	segs  map[segKey]*segment // of authentic headers
	heads map[segKey]segHeader
	next  LSN
	prev  [TagSize]byte
	seg   *segment
	off   int64
	done  int64
	total int64
	buf   []byte
	mark  LSN // records below are durable, batches or the superblock say
}

// extentAt is a piece of a segment.
type extentAt struct {
	seg    *segment
	off, n int64
	last   LSN
}

// segKey names a segment by what it continues. One sequence may be on disk
// twice: where a crash left the header of a segment and took what came before
// it, the next run gives the sequence again.
type segKey struct {
	seq  uint64
	prev [TagSize]byte
}

// recover opens the segments and, if the superblock is dirty, indexes all live
// records. It sets live, free, next, durable, prev and nextSeg. It writes
// nothing.
func (j *Journal) recover() error {
	st := j.cfg.Super.state()
	j.next, j.durable, j.nextSeg, j.prev = st.next, st.next, max(st.nextSeg, 1), [TagSize]byte{}
	j.end, j.before, j.start = st.next, st.next, st.next
	s := &scan{j: j, super: st, segs: map[segKey]*segment{}, heads: map[segKey]segHeader{}}
	// With nothing live, what lies in the segments is of no concern.
	needed := !st.clean && st.tailSeg != 0
	if err := s.load(needed); err != nil {
		return err
	}
	if !needed {
		return nil
	}
	s.next, s.prev = st.tail, st.tailTag
	s.mark = st.next
	if err := s.begin(); errors.Is(err, ErrMissing) && j.cfg.AcceptRollback {
		j.lost = err
		return nil
	} else if err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	if err := s.checkEnd(); errors.Is(err, ErrTampered) && (j.cfg.AcceptRollback || j.cfg.ReadOnly) {
		j.lost = err
		j.log.Warn("journal: going on with what is left", "error", err)
	} else if err != nil {
		return err
	}
	s.seg.written.Store(s.off)
	j.next, j.durable, j.prev = s.next, s.next, s.prev
	j.end, j.before, j.start = s.next, s.next, s.next
	j.nextSeg = s.seg.seq + 1 // recovery follows sequences without a gap
	for _, f := range j.files {
		f.users--
	}
	return nil
}

// load opens every segment file. All are free at first.
func (s *scan) load(needed bool) error {
	j := s.j
	numbers, err := listSegments(j.cfg.Dir, j.cfg.ReadOnly)
	if err != nil {
		return err
	}
	slices.Sort(numbers)
	flags := unix.O_RDWR
	if j.cfg.ReadOnly {
		flags = unix.O_RDONLY
	}
	for _, n := range numbers {
		f, err := j.cfg.Dir.OpenFile(segName(n), flags, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", segName(n), err)
		}
		seg := &segment{file: f, number: n}
		j.free = append(j.free, seg)
		size, err := f.Stat()
		if err != nil {
			return fmt.Errorf("%s: %w", segName(n), err)
		}
		seg.size = size.Size &^ (pageSize - 1)
		if err := s.head(seg, needed); err != nil {
			return err
		}
	}
	return nil
}

// head reads a segment's header. A segment of another journal is refused, but
// not where nothing is needed of it: then it is only to be overwritten.
func (s *scan) head(seg *segment, needed bool) error {
	b := make([]byte, segHead)
	if err := readFull(seg.file, b, 0); err != nil {
		return fmt.Errorf("%s: %w", segName(seg.number), err)
	}
	h, v := parseSegHeader(b, s.j.id, s.j.cfg.Auth)
	switch {
	case v == segForeign:
		return fmt.Errorf("%s: %w", segName(seg.number), ErrForeign)
	case v == segNewer && needed:
		return fmt.Errorf("%s: %w", segName(seg.number), ErrVersion)
	case v != segGood:
		return nil
	}
	s.j.nextSeg = max(s.j.nextSeg, h.seq+1)
	key := segKey{h.seq, h.prev}
	s.segs[key], s.heads[key] = seg, h
	return nil
}

// begin goes to the tail.
func (s *scan) begin() error {
	key := segKey{s.super.tailSeg, s.super.tailTag}
	seg, h := s.segs[key], s.heads[key]
	if seg == nil || h.first != s.super.tail {
		return fmt.Errorf("no segment begins at the tail, record %d: %w", s.super.tail, ErrMissing)
	}
	for key, seg := range s.segs {
		if key.seq >= s.super.tailSeg {
			s.total += seg.size
		}
	}
	s.enter(seg, h)
	return nil
}

// enter makes a free segment the last live one.
func (s *scan) enter(seg *segment, h segHeader) {
	j := s.j
	seg.seq, seg.first, seg.prev, seg.headed = h.seq, h.first, h.prev, true
	seg.end = pageSize
	seg.written.Store(seg.size)
	j.free = slices.DeleteFunc(j.free, func(f *segment) bool { return f == seg })
	j.live = append(j.live, seg)
	s.seg, s.off = seg, pageSize
}

// run takes batch after batch until nothing continues.
func (s *scan) run() error {
	for {
		ok, err := s.batch()
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		key := segKey{s.seg.seq + 1, s.prev}
		seg, h := s.segs[key], s.heads[key]
		if seg == nil || h.first < s.next {
			return nil
		}
		s.done += s.seg.size
		s.enter(seg, h)
	}
}

// batch takes the batch at the present place if it continues the journal.
func (s *scan) batch() (bool, error) {
	h, b, records, err := s.read(s.seg, s.off)
	if err != nil || records == nil {
		return false, err
	}
	if h.first < s.next || h.prev != s.prev || h.seg != s.seg.seq || int64(h.off) != s.off || !s.runFits(h) {
		return false, nil
	}
	for _, r := range records {
		if !bodiesIntact(b[r.at:], r.in) {
			return false, nil
		}
	}
	for i, p := range records {
		rec, lsn, err := parseRecord(b[p.at:], p.in, s.j.cfg.Layout)
		if err != nil {
			return false, fmt.Errorf("record %d of segment %d: %w", h.first+LSN(i), h.seg, err)
		}
		if lsn != h.first+LSN(i) {
			return false, fmt.Errorf("record %d says it is %d: %w", h.first+LSN(i), lsn, errRecord)
		}
		s.index(rec, lsn, Pos{s.seg, s.off + int64(p.at)})
	}
	s.unsure(h)
	s.next = h.first + LSN(h.records)
	copy(s.prev[:], b[batchTagOff:batchHead])
	s.off += int64(h.length)
	s.seg.end = s.off
	if s.j.cfg.Progress != nil {
		s.j.cfg.Progress(s.done+s.off, max(s.total, s.done+s.off))
	}
	return true, nil
}

// unsure remembers a batch until a later one says that it is durable. One that
// nothing says so of may be in the page cache alone, and even marked as
// written there: after a failed flush the kernel does not write it again.
func (s *scan) unsure(h *batchHeader) {
	j := s.j
	s.mark = max(s.mark, h.mark)
	j.unsure = slices.DeleteFunc(j.unsure, func(e extentAt) bool { return e.last < s.mark })
	last := h.first + LSN(h.records) - 1
	if last < s.mark {
		return
	}
	if s.off == pageSize {
		j.unsure = append(j.unsure, extentAt{s.seg, 0, pageSize, last})
	}
	j.unsure = append(j.unsure, extentAt{s.seg, s.off, int64(h.length), last})
}

// runFits reports whether a batch is of the run in progress, if it has LSNs of
// that, or else of an earlier one.
func (s *scan) runFits(h *batchHeader) bool {
	if h.first >= s.super.runStart {
		return h.run == s.super.run
	}
	return h.first+LSN(h.records) <= s.super.runFrom
}

func (s *scan) index(rec *Record, lsn LSN, pos Pos) {
	f := s.j.files[rec.File]
	if f == nil {
		f = s.j.file(rec.File)
	}
	f.hint.Store(rec.Hint)
	f.mu.Lock()
	f.apply(rec, lsn, pos)
	f.mu.Unlock()
}

// read returns the authentic batch at a place, or no records where there is
// none. b is good until the next read.
func (s *scan) read(seg *segment, off int64) (h *batchHeader, b []byte, records []recPlace, err error) {
	if off+pageSize > seg.size {
		return nil, nil, nil, nil
	}
	if len(s.buf) < pageSize {
		s.buf = make([]byte, pageSize)
	}
	if err := readFull(seg.file, s.buf[:pageSize], off); err != nil {
		return nil, nil, nil, fmt.Errorf("%s at %d: %w", segName(seg.number), off, err)
	}
	head, version, ok := parseBatchHeader(s.buf[:pageSize], seg.size-off)
	if version > batchV && head.journal == s.j.id && head.seg == seg.seq && seg.seq != 0 {
		return nil, nil, nil, fmt.Errorf("%s at %d: %w", segName(seg.number), off, ErrVersion)
	}
	if !ok || version != batchV || head.journal != s.j.id {
		return nil, nil, nil, nil
	}
	if len(s.buf) < head.length {
		s.buf = append(make([]byte, 0, head.length), s.buf[:pageSize]...)[:head.length]
	}
	if err := readFull(seg.file, s.buf[pageSize:head.length], off+pageSize); err != nil {
		return nil, nil, nil, fmt.Errorf("%s at %d: %w", segName(seg.number), off, err)
	}
	records, ok = verifyBatch(s.buf[:head.length], &head, s.j.cfg.Auth)
	if !ok {
		return nil, nil, nil, nil
	}
	return &head, s.buf[:head.length], records, nil
}

// checkEnd refuses an end of the journal that no crash can have made: one
// below what the superblock, or a later batch of this run, knows durable.
func (s *scan) checkEnd() error {
	if s.next < s.super.next {
		return fmt.Errorf("records from %d to %d are gone: %w", s.next, s.super.next-1, ErrTampered)
	}
	for _, seg := range append(slices.Clone(s.j.free), s.seg) {
		from := int64(pageSize)
		if seg == s.seg {
			from = s.off
		}
		mark, err := s.markBehind(seg, from)
		if err != nil && seg == s.seg {
			return err
		}
		if err != nil { // a bad sector in a free segment costs no data
			s.j.log.Warn("journal: cannot read a free segment", "error", err)
		}
		if mark > s.next {
			return fmt.Errorf("records from %d to %d were durable and are gone: %w", s.next, mark-1, ErrTampered)
		}
	}
	return nil
}

// markBehind returns the highest durable mark of batches of the run in
// progress at any place from off on that come after the end.
func (s *scan) markBehind(seg *segment, off int64) (LSN, error) {
	var mark LSN
	page := make([]byte, min(256*pageSize, seg.size))
	for ; off < seg.size; off += int64(len(page)) {
		chunk := page[:min(int64(len(page)), seg.size-off)]
		if n, err := seg.file.ReadAt(chunk, off); err != nil && !errors.Is(err, io.EOF) {
			return mark, fmt.Errorf("%s at %d: %w", segName(seg.number), off, err)
		} else {
			clear(chunk[n:])
		}
		for at := int64(0); at < int64(len(chunk)); at += pageSize {
			h, version, ok := parseBatchHeader(chunk[at:], seg.size-off-at)
			if !ok || version != batchV || h.journal != s.j.id || h.run != s.super.run || h.mark <= max(s.next, mark) {
				continue
			}
			_, _, records, err := s.read(seg, off+at)
			if err != nil {
				return mark, err
			}
			if records != nil {
				mark = h.mark
			}
		}
	}
	return mark, nil
}

// begin starts a run: it makes durable what recovery found, sees to it that
// there is an active segment, and marks the superblock dirty.
func (j *Journal) begin() error {
	if err := j.rewriteUnsure(); err != nil {
		return err
	}
	for _, s := range j.live {
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	if err := j.dropUnfit(); err != nil {
		return err
	}
	return j.startRun()
}

// startRun gives the journal a new run, which goes on after its live segments
// or begins a free one, and marks the superblock dirty. Nobody appends.
func (j *Journal) startRun() error {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	if _, err := io.ReadFull(j.cfg.Rand, j.run[:]); err != nil {
		return err
	}
	j.mu.Lock()
	from := j.next
	j.next = max(j.next, j.cfg.Super.state().runStart) + lsnGap
	first := j.next
	var fresh *segment
	if len(j.live) == 0 {
		from, j.end = first, first
		if err := j.take(); err != nil {
			j.mu.Unlock()
			return err
		}
		fresh = j.active()
	}
	j.mu.Unlock()
	if fresh != nil {
		if err := j.writeHeader(fresh, first); err != nil {
			return err
		}
		if err := fresh.file.Datasync(); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.durable, j.start = first, first
	tail, nextSeg := j.live[0], j.nextSeg
	j.mu.Unlock()
	return j.cfg.Super.update(true, func(st *superState) {
		st.clean = false
		st.run, st.runStart, st.runFrom, st.next = j.run, first, from, from
		st.tailSeg, st.tail, st.tailTag, st.nextSeg = tail.seq, tail.first, tail.prev, nextSeg
	})
}

// rewriteUnsure writes again, byte for byte, what nothing says is durable, so
// that the flush after it is a real one. No byte changes, so tearing is harmless.
func (j *Journal) rewriteUnsure() error {
	for _, e := range j.unsure {
		b := make([]byte, e.n)
		if err := readFull(e.seg.file, b, e.off); err != nil {
			return err
		}
		if _, err := e.seg.file.WriteAt(b, e.off); err != nil {
			return err
		}
	}
	j.unsure = nil
	return nil
}

// dropUnfit removes free segments that are too small, or beyond the configured
// size, and sees to it that there are two at least.
func (j *Journal) dropUnfit() error {
	total := j.total()
	j.free = slices.DeleteFunc(j.free, func(s *segment) bool {
		if s.size >= j.cfg.SegmentSize && total <= j.cfg.Size {
			return false
		}
		total -= s.size
		j.remove(s)
		return true
	})
	for len(j.live)+len(j.free) < 2 {
		s, err := createSegment(j.cfg.Dir, j.unusedNumber(), j.cfg.SegmentSize)
		if err != nil {
			return err
		}
		j.free = append(j.free, s)
	}
	return nil
}
