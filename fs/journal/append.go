package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxQueue bounds the closed batches that wait to be written.
const maxQueue = 3

// batch collects records until it is sealed and written.
type batch struct {
	seg     *segment
	off     int64 // in seg
	buf     []byte
	records []recPlace
	first   LSN
	pending sync.WaitGroup // records placed but not yet copied
}

// Space returns how much journal space a record may take, in bytes, for
// Reserve: of so many trailers, extents and blocks, and bytes of bodies.
func Space(trailers, extents, blocks, bodies int) int {
	return recordInfo(trailers, extents, blocks, bodies).space()
}

// space is what a record takes that is alone in its batch.
func (in recInfo) space() int { return roundPage(batchHead + in.total) }

func roundPage(n int) int { return (n + pageSize - 1) &^ (pageSize - 1) }

// MaxSpace returns the largest Space that one record may have.
func (j *Journal) MaxSpace() int { return j.maxBatch }

// Reservation is journal space for records to come. It is used by one
// goroutine.
type Reservation struct {
	j    *Journal
	size int64
	left int
}

// Reserve waits until the journal has room for n bytes, the sum of Space of
// records to be appended, at most MaxSpace, and holds it until Release. It must be
// called without any lock that a Home's Checkpoint takes, for it may wait for that.
// Errors: why the journal or the last checkpoint failed.
func (j *Journal) Reserve(n int) (*Reservation, error) {
	if n > j.maxBatch {
		return nil, ErrTooLarge
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if err := j.usable(); err != nil {
			return nil, err
		}
		full := j.reserved+int64(n) > j.room()-j.spare()
		crowded := j.items.Load() >= int64(j.cfg.Items)
		if !full && !crowded {
			break
		}
		if full && j.growable() {
			j.mu.Unlock()
			j.grow()
			j.mu.Lock()
			continue
		}
		if j.homeErr != nil {
			j.kick() // it may heal
			return nil, fmt.Errorf("journal is full: %w", j.homeErr)
		}
		j.waiters++
		j.kick()
		j.cond.Wait()
		j.waiters--
	}
	j.reserved += int64(n)
	return &Reservation{j: j, size: int64(n), left: n}, nil
}

// TryReserve is Reserve without waiting. It returns nil where there is no room,
// while others wait for some, and if less would be left than one record may take.
func (j *Journal) TryReserve(n int) *Reservation {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.usable() != nil || j.frozen || j.waiters > 0 || j.reserved+int64(n+j.maxBatch) > j.room()-j.spare() {
		return nil
	}
	j.reserved += int64(n)
	return &Reservation{j: j, size: int64(n), left: n}
}

// Release gives back what is reserved. It may be called more than once, and on
// nil.
func (r *Reservation) Release() {
	if r == nil || r.size == 0 {
		return
	}
	r.j.mu.Lock()
	r.j.reserved -= r.size
	r.j.cond.Broadcast()
	r.j.mu.Unlock()
	r.size, r.left = 0, 0
}

// room returns what can be appended for sure: each segment may lose the space
// of one largest batch at its end. j.mu is held.
func (j *Journal) room() int64 {
	var n int64
	if len(j.live) > 0 {
		n = max(0, j.active().size-j.activeEnd()-int64(j.maxBatch))
	}
	for _, s := range j.free {
		n += s.size - pageSize - int64(j.maxBatch)
	}
	return n
}

// activeEnd returns where the next batch after the open one would go. j.mu is
// held.
func (j *Journal) activeEnd() int64 {
	if j.open != nil {
		return j.open.off + int64(roundPage(len(j.open.buf)))
	}
	return j.active().end
}

// Append adds a record to the journal, using up space of r, and places it in
// the file's index: reads see it when Append returns. It is not durable before
// a Commit of its LSN. It sets rec.File and rec.Hint. The caller holds whatever
// orders changes of the same groups, and of the size. rec's slices are
// copied. After an error nothing was changed, unless the journal has failed.
func (f *File) Append(r *Reservation, rec *Record) (LSN, error) {
	f.amu.Lock()
	lsn, err := f.append(r, rec)
	f.amu.Unlock()
	if err != nil {
		return 0, err
	}
	return lsn, f.j.writeQueue(0)
}

// append is Append but for the writing. f.amu is held.
func (f *File) append(r *Reservation, rec *Record) (LSN, error) {
	j := f.j
	rec.File, rec.Hint = f.id, f.hint.Load()
	if err := rec.check(j.cfg.Layout); err != nil {
		return 0, err
	}
	in := rec.info()
	if in.space() > j.maxBatch {
		return 0, ErrTooLarge
	}
	if r == nil || r.j != j || r.left < in.space() {
		return 0, fmt.Errorf("record of %d bytes without a reservation: %w", in.space(), ErrTooLarge)
	}
	r.left -= in.space()

	b, buf, pos, lsn, err := j.place(in)
	if err != nil {
		return 0, err
	}
	rec.encode(buf, lsn)
	b.pending.Done()
	f.mu.Lock()
	f.apply(rec, lsn, pos)
	f.mu.Unlock()
	j.mu.Lock()
	b.seg.placed--
	j.mu.Unlock()
	return lsn, nil
}

// place finds room for a record in a batch and gives it its LSN. The caller
// fills buf, which will be at pos, and then calls b.pending.Done.
func (j *Journal) place(in recInfo) (b *batch, buf []byte, pos Pos, lsn LSN, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if err := j.usable(); err != nil {
			return nil, nil, Pos{}, 0, err
		}
		if len(j.queue) < maxQueue {
			break
		}
		j.mu.Unlock()
		err := j.writeQueue(maxQueue - 1)
		j.mu.Lock()
		if err != nil {
			return nil, nil, Pos{}, 0, err
		}
	}
	b = j.open
	if b != nil && (len(b.buf)+in.total > j.maxBatch || b.off+int64(roundPage(len(b.buf)+in.total)) > b.seg.size) {
		j.closeBatch()
		b = nil
	}
	if b == nil {
		if b, err = j.newBatch(in); err != nil {
			return nil, nil, Pos{}, 0, err
		}
		j.open = b
	}
	at := len(b.buf)
	b.buf = b.buf[:at+in.total]
	b.records = append(b.records, recPlace{at, in})
	b.pending.Add(1)
	b.seg.placed++
	lsn = j.next
	j.next++
	if j.since.IsZero() {
		j.since = time.Now()
	}
	select {
	case j.dirtyCh <- struct{}{}:
	default:
	}
	return b, b.buf[at : at+in.total], Pos{b.seg, b.off + int64(at)}, lsn, nil
}

// newBatch opens a batch in the active segment, or in the next one if a record
// as in does not fit. j.mu is held.
func (j *Journal) newBatch(in recInfo) (*batch, error) {
	if s := j.active(); s.end+int64(in.space()) > s.size {
		if err := j.take(); err != nil {
			return nil, err
		}
		if j.overHalf() {
			j.kick()
		}
	}
	var buf []byte
	if n := len(j.buffers); n > 0 {
		buf, j.buffers = j.buffers[n-1], j.buffers[:n-1]
	} else {
		buf = make([]byte, j.maxBatch)
	}
	s := j.active()
	return &batch{seg: s, off: s.end, buf: buf[:batchHead], first: j.next}, nil
}

// closeBatch queues the open batch for writing. j.mu is held.
func (j *Journal) closeBatch() {
	b := j.open
	if b == nil {
		return
	}
	n := len(b.buf)
	b.buf = b.buf[:roundPage(n)]
	clear(b.buf[n:])
	b.seg.end = b.off + int64(len(b.buf))
	j.queue = append(j.queue, b)
	j.open = nil
}

// writeQueue seals and writes closed batches, in order, until at most leave are
// left. A failure is sticky.
func (j *Journal) writeQueue(leave int) error {
	j.mu.Lock()
	if len(j.queue) <= leave {
		err := j.err
		j.mu.Unlock()
		return err
	}
	j.mu.Unlock()
	j.wmu.Lock()
	defer j.wmu.Unlock()
	for {
		j.mu.Lock()
		if j.err != nil || len(j.queue) <= leave {
			err := j.err
			j.mu.Unlock()
			return err
		}
		b, mark := j.queue[0], j.end
		j.mu.Unlock()

		err := j.writeBatch(b, mark)
		j.mu.Lock()
		if err != nil {
			j.fail(err)
			err = j.err
		} else {
			b.seg.dirty = true
			b.seg.written.Store(b.off + int64(len(b.buf)))
			j.queue = j.queue[1:]
			if len(j.buffers) <= maxQueue {
				j.buffers = append(j.buffers, b.buf[:cap(b.buf)])
			}
		}
		j.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// writeBatch seals one batch and hands it to the backing. j.wmu is held.
func (j *Journal) writeBatch(b *batch, mark LSN) error {
	b.pending.Wait()
	if !b.seg.headed {
		if err := j.writeHeader(b.seg, b.first); err != nil {
			return err
		}
	}
	last := b.records[len(b.records)-1]
	h := batchHeader{
		length: len(b.buf), payload: last.at + last.in.total - batchHead, records: len(b.records),
		first: b.first, mark: mark, journal: j.id, run: j.run, seg: b.seg.seq, off: uint32(b.off), prev: j.prev,
	}
	h.encode(b.buf)
	sealBatch(b.buf, b.records, j.cfg.Auth)
	if _, err := b.seg.file.WriteAt(b.buf, b.off); err != nil {
		return err
	}
	copy(j.prev[:], b.buf[batchTagOff:batchHead])
	return nil
}

// Commit returns when the record of lsn, and all before it, are durable.
// Callers that come together share a flush. A failure is never tried again: it
// is every later caller's too.
func (j *Journal) Commit(lsn LSN) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if lsn < j.durable || j.durable == j.next {
			return nil
		}
		if j.err != nil {
			return j.err
		}
		if !j.flushing {
			break
		}
		j.cond.Wait()
	}
	j.flushing = true
	j.closeBatch()
	target := j.next
	j.mu.Unlock()

	err := j.writeQueue(0)
	if err == nil {
		err = j.flush()
	}

	j.mu.Lock()
	j.flushing = false
	if err != nil {
		j.fail(err)
		return j.err
	}
	if target != j.durable {
		j.durable, j.end = target, target
	}
	j.since = time.Time{}
	if j.next != target {
		j.since = time.Now()
	}
	j.cond.Broadcast()
	return nil
}

// flush makes durable what was written to the segments.
func (j *Journal) flush() error {
	j.mu.Lock()
	var dirty []*segment
	for _, s := range j.live {
		if s.dirty {
			s.dirty = false
			dirty = append(dirty, s)
		}
	}
	j.mu.Unlock()
	for _, s := range dirty {
		if err := s.file.Datasync(); err != nil {
			return err
		}
	}
	return nil
}

// Pos is a place in the journal. It stays good as long as the index holds an
// item there, or the Pin is held under which it was looked up.
type Pos struct {
	seg *segment
	off int64
}

func (p Pos) add(n int) Pos { return Pos{p.seg, p.off + int64(n)} }

// ReadAt fills p from a position. What it reads is sealed and not verified.
func (j *Journal) ReadAt(p []byte, at Pos) error {
	if at.off+int64(len(p)) > at.seg.written.Load() && j.readBuffered(p, at) {
		return nil
	}
	n, err := at.seg.file.ReadAt(p, at.off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = unix.EIO // segments end after their last batch
	}
	return fmt.Errorf("journal: read at %d of %s: %w", at.off, segName(at.seg.number), err)
}

// readBuffered serves ReadAt from a batch that is not written yet.
func (j *Journal) readBuffered(p []byte, at Pos) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, b := range j.queue {
		if b.read(p, at) {
			return true
		}
	}
	return j.open != nil && j.open.read(p, at)
}

func (b *batch) read(p []byte, at Pos) bool {
	from := at.off - b.off
	if b.seg != at.seg || from < 0 || from+int64(len(p)) > int64(len(b.buf)) {
		return false
	}
	copy(p, b.buf[from:])
	return true
}
