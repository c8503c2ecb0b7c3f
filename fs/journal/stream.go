package journal

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is a file whose newest bytes, past its committed end, go straight home:
// no record says of them yet. The journal sees to it that one does within the
// commit interval.
type Stream struct {
	j      *Journal
	end    func() error
	since  time.Time
	ending bool // Journal.smu
}

// OpenStream has the journal call end, on a goroutine that holds no lock, when
// the stream gets old or the journal is drained. end makes durable what lies home
// and appends the record; it may be called at any time, and more than once. The
// stream counts until Close.
func (j *Journal) OpenStream(end func() error) *Stream {
	s := &Stream{j: j, end: end, since: time.Now()}
	j.smu.Lock()
	defer j.smu.Unlock()
	j.streams[s] = struct{}{}
	return s
}

// Close ends the account of a stream. It may be called more than once.
func (s *Stream) Close() {
	s.j.smu.Lock()
	defer s.j.smu.Unlock()
	delete(s.j.streams, s)
}

// EndStreams ends all streams there are. Their records are not flushed. One of
// a file that is gone needs none (EBADF).
func (j *Journal) EndStreams() error {
	var errs []error
	for _, s := range j.openStreams() {
		if err := s.end(); !errors.Is(err, unix.EBADF) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (j *Journal) openStreams() (list []*Stream) {
	j.smu.Lock()
	defer j.smu.Unlock()
	for s := range j.streams {
		list = append(list, s)
	}
	return list
}

// endOldStreams has the streams that are due ended and committed, each on a
// goroutine of its own: a flush of much data must not hold up other files.
func (j *Journal) endOldStreams() {
	j.smu.Lock()
	defer j.smu.Unlock()
	for s := range j.streams {
		if s.ending || time.Since(s.since) < j.cfg.CommitInterval/2 {
			continue
		}
		s.ending = true
		j.workers.Add(1)
		go func() {
			defer j.workers.Done()
			j.atWork(func() {
				if err := s.end(); err == nil {
					j.Commit(j.lastLSN()) // a failure is sticky
				}
			})
			j.smu.Lock()
			s.ending, s.since = false, time.Now() // if it failed and is still open
			j.smu.Unlock()
		}()
	}
}

// Durable reports whether all records up to lsn are.
func (j *Journal) Durable(lsn LSN) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return lsn < j.durable
}

// Anchor returns an LSN for what is written home before its record has one: of
// the newest record that is durable. Should an older journal be put back, it does
// not know it.
func (j *Journal) Anchor() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.durable > j.start {
		return j.durable - 1
	}
	return max(j.before, 1) - 1
}

// HomeFailed tells, as a failed checkpoint does, that what was written home
// cannot be trusted to last. The superblock will not be marked clean.
func (j *Journal) HomeFailed(err error) {
	j.homeFailed.Store(true)
	j.tell(err)
}

// whole reports whether home has all there is, and nothing else.
func (j *Journal) whole() bool {
	return !j.homeFailed.Load() && len(j.openStreams()) == 0 && len(j.LiveFiles()) == 0
}
