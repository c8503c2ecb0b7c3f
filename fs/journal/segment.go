package journal

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

const (
	segPrefix = "segment-"
	segTemp   = ".new"
	// growRetry is how long a failure to make a segment is remembered.
	growRetry = 5 * time.Second
)

// segment is one file of the journal. Journal.mu guards it where nothing else
// is said.
type segment struct {
	file   backing.File
	number int    // in its name
	seq    uint64 // rises with each use; 0 while free
	size   int64
	first  LSN           // of its first batch
	prev   [TagSize]byte // tag of the batch before it; valid if headed
	headed bool          // the header was written
	end    int64         // where the next batch goes
	dirty  bool          // written to since the last flush
	placed int           // records placed here and not yet in the index

	// written is the end of what has left the batch buffers.
	written atomic.Int64

	files map[*File]struct{} // with items in here; Journal.refMu
}

func segName(number int) string { return fmt.Sprintf("%s%04d", segPrefix, number) }

// segNumber is the inverse of segName.
func segNumber(name string) (int, bool) {
	s, ok := strings.CutPrefix(name, segPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && segName(n) == name
}

// listSegments returns the numbers of the segment files of dir, and removes
// what an interrupted grow left, unless readOnly.
func listSegments(dir backing.Dir, readOnly bool) ([]int, error) {
	ds, err := dir.ReadDir()
	if err != nil {
		return nil, err
	}
	defer ds.Close()
	var numbers []int
	var temps []string
	for {
		e, ok, err := ds.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if n, ok := segNumber(e.Name); ok {
			numbers = append(numbers, n)
		} else if strings.HasPrefix(e.Name, segPrefix) && strings.HasSuffix(e.Name, segTemp) {
			temps = append(temps, e.Name)
		}
	}
	if !readOnly {
		for _, name := range temps {
			if err := dir.Unlink(name); err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
		}
	}
	return numbers, nil
}

// createSegment makes a segment of zeros, durable, under a free name from
// number on.
func createSegment(dir backing.Dir, number int, size int64) (*segment, error) {
	temp := segName(number) + segTemp
	f, err := dir.OpenFile(temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = fillZero(f, size)
	if err == nil {
		number, err = nameSegment(dir, temp, number)
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		f.Close()
		dir.Unlink(temp) // a failure leaves a file that the next open removes
		return nil, err
	}
	return &segment{file: f, number: number, size: size}, nil
}

// nameSegment renames to the first number that is free: one may be taken by a
// segment that could not be made durable.
func nameSegment(dir backing.Dir, temp string, number int) (int, error) {
	for {
		err := dir.Rename(temp, dir, segName(number), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return number, err
		}
		number++
	}
}

// fillZero writes size zeros, so that later writes change no metadata.
func fillZero(f backing.File, size int64) error {
	err := f.Allocate(0, 0, size) // for few extents; not every filesystem can
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	zero := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(zero)) {
		if _, err := f.WriteAt(zero[:min(size-off, int64(len(zero)))], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// take makes a free segment the active one. j.mu is held.
func (j *Journal) take() error {
	if len(j.free) == 0 {
		return fmt.Errorf("no free segment: %w", unix.ENOSPC)
	}
	s := j.free[0]
	j.free = j.free[1:]
	s.seq, s.first, s.headed = j.nextSeg, j.next, false
	s.end = pageSize
	s.written.Store(pageSize)
	j.nextSeg++
	j.live = append(j.live, s)
	return nil
}

func (j *Journal) active() *segment { return j.live[len(j.live)-1] }

// writeHeader begins a segment. j.wmu is held, or nobody else knows j yet.
func (j *Journal) writeHeader(s *segment, first LSN) error {
	h := segHeader{journal: j.id, run: j.run, seq: s.seq, first: first, size: s.size, prev: j.prev}
	b := make([]byte, pageSize)
	h.encode(b, j.cfg.Auth)
	if _, err := s.file.WriteAt(b, 0); err != nil {
		return err
	}
	j.mu.Lock()
	s.first, s.prev, s.headed = first, j.prev, true
	j.mu.Unlock()
	return nil
}

// growable reports whether another segment may be made now. j.mu is held.
func (j *Journal) growable() bool { return j.growableTo(j.cfg.Size) }

func (j *Journal) growableTo(size int64) bool {
	if j.frozen || j.growErr != nil && time.Since(j.growAt) < growRetry {
		return false
	}
	return j.total()+j.cfg.SegmentSize <= size
}

// total returns the bytes of all segments. j.mu is held.
func (j *Journal) total() int64 {
	var n int64
	for _, s := range j.live {
		n += s.size
	}
	for _, s := range j.free {
		n += s.size
	}
	return n
}

// remove takes away the file of a segment that is not in use any more.
func (j *Journal) remove(s *segment) {
	s.file.Close()
	if err := j.cfg.Dir.Unlink(segName(s.number)); err != nil {
		j.log.Warn("cannot remove a segment", "name", segName(s.number), "error", err)
	}
}

// grow makes another segment if it still may. Its failure is remembered in
// growErr; a journal of two segments goes on without.
func (j *Journal) grow() { j.growTo(j.cfg.Size) }

// growTo is grow up to another size than the configured one.
func (j *Journal) growTo(size int64) {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.mu.Lock()
	ok := j.growableTo(size) && j.usable() == nil
	number := j.unusedNumber()
	j.mu.Unlock()
	if !ok {
		return
	}
	s, err := createSegment(j.cfg.Dir, number, j.cfg.SegmentSize)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.growErr, j.growAt = err, time.Now()
	if err != nil {
		j.log.Warn("journal cannot grow", "segments", len(j.live)+len(j.free), "error", err)
	} else {
		j.free = append(j.free, s)
	}
	j.cond.Broadcast()
}

// unusedNumber returns the lowest number no segment has. j.mu is held.
func (j *Journal) unusedNumber() int {
	used := map[int]bool{}
	for _, s := range j.live {
		used[s.number] = true
	}
	for _, s := range j.free {
		used[s.number] = true
	}
	n := 0
	for used[n] {
		n++
	}
	return n
}

// readFull is ReadAt where an early end of file is zeros.
func readFull(f backing.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}
