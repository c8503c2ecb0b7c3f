package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// Bounds of a journal's size in bytes.
const (
	DefaultSize        = 256 << 20
	DefaultSegmentSize = 16 << 20
	minSegment         = 64 << 10
	maxSegment         = 1 << 30
	largestBatch       = 2 << 20
	defaultItems       = 1 << 20
)

// Config says how to open a journal. Super, Dir, Auth and Layout are required.
type Config struct {
	Super *Super
	// Dir is where the segments lie. It stays the caller's.
	Dir  backing.Dir
	Auth Authenticator
	// Layout is the volume's.
	Layout cipher.Layout
	// Size bounds the bytes of all segments, SegmentSize is that of one, a
	// multiple of 4096. Zero is the default. Segments that hold live records
	// keep the size they have.
	Size, SegmentSize int64
	// Items bounds the index: blocks with live records. Zero is 1 Mi.
	Items int
	// ReadOnly opens without writing anything.
	ReadOnly bool
	// CommitInterval bounds the age of what no one committed; 4 s by default.
	CommitInterval time.Duration
	// CheckpointInterval bounds, roughly, the time a live record waits for its
	// checkpoint; 30 s by default.
	CheckpointInterval time.Duration
	Log                *slog.Logger
	// Fail, if not nil, is told once, on a goroutine of its own, that the
	// journal cannot go on and the volume has to be read-only.
	Fail func(error)
	// Progress, if not nil, is told during recovery how many of how many bytes
	// were read.
	Progress func(done, total int64)
	// Rand is crypto/rand where nil.
	Rand io.Reader
}

// Journal is an open journal. Its methods are safe for concurrent use.
type Journal struct {
	cfg      Config
	id       ID
	run      ID
	maxBatch int
	log      *slog.Logger

	// wmu orders the sealing and writing of batches.
	wmu  sync.Mutex
	prev [TagSize]byte // tag of the last sealed batch

	mu       sync.Mutex
	cond     *sync.Cond // durable, err, space, flushing
	next     LSN        // of the next record
	durable  LSN        // all records below are durable
	open     *batch     // takes records
	queue    []*batch   // closed, not yet written, oldest first
	buffers  [][]byte   // to reuse
	flushing bool       // a leader commits
	since    time.Time  // when the oldest record that is not durable came
	err      error      // sticky
	closed   bool
	live     []*segment // oldest first; the last one is active
	free     []*segment
	nextSeg  uint64
	reserved int64
	waiters  int
	homeErr  error // of the last checkpoint pass
	growErr  error // the last segment could not be made
	growAt   time.Time

	failOnce sync.Once

	growMu sync.Mutex
	trimMu sync.Mutex
	passMu sync.Mutex

	// readers is held shared from looking a position up to having read it,
	// and exclusively before a segment is reused.
	readers sync.RWMutex

	fmu   sync.Mutex
	files map[cipher.FileID]*File
	items atomic.Int64

	refMu sync.Mutex // guards segment.files; nothing is locked under it

	home    Home
	kickCh  chan struct{}
	stop    chan struct{}
	workers sync.WaitGroup
}

// Home is where live records go: whoever knows the files.
type Home interface {
	// Checkpoint copies home, of the file, at least each group that holds a
	// record of an LSN up to through, in its newest state, makes it durable
	// and calls File.Checkpointed. ErrGone says that no such file exists any
	// more, durably; then its records are dropped.
	Checkpoint(id cipher.FileID, hint uint64, through LSN) error
}

// Open recovers the journal: it indexes all live records, and unless ReadOnly
// begins a new run, which marks the superblock dirty. It changes nothing else.
// Errors: ErrMissing, ErrForeign, ErrVersion, ErrTampered, the backing's.
func Open(cfg Config) (*Journal, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{
		cfg: cfg, id: cfg.Super.JournalID(), log: cfg.Log,
		maxBatch: int(min(cfg.SegmentSize/4, largestBatch)) &^ (pageSize - 1),
		files:    map[cipher.FileID]*File{},
		kickCh:   make(chan struct{}, 1),
		stop:     make(chan struct{}),
	}
	j.cond = sync.NewCond(&j.mu)
	err := j.recover()
	if err == nil && !cfg.ReadOnly {
		err = j.begin()
	}
	if err != nil {
		j.closeSegments()
		return nil, fmt.Errorf("journal: %w", err)
	}
	if !cfg.ReadOnly {
		j.workers.Add(1)
		go j.committer()
	}
	return j, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = DefaultSegmentSize
	}
	if cfg.Size == 0 {
		cfg.Size = max(DefaultSize, 2*cfg.SegmentSize)
	}
	if cfg.Items == 0 {
		cfg.Items = defaultItems
	}
	if cfg.CommitInterval == 0 {
		cfg.CommitInterval = 4 * time.Second
	}
	if cfg.CheckpointInterval == 0 {
		cfg.CheckpointInterval = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	return cfg
}

func (cfg Config) validate() error {
	if cfg.SegmentSize < minSegment || cfg.SegmentSize > maxSegment || cfg.SegmentSize%pageSize != 0 {
		return fmt.Errorf("segment size %d is not a multiple of %d from %d to %d", cfg.SegmentSize, pageSize, minSegment, maxSegment)
	}
	if cfg.Size < 2*cfg.SegmentSize {
		return fmt.Errorf("size %d holds less than two segments of %d", cfg.Size, cfg.SegmentSize)
	}
	return nil
}

// Start begins checkpoints to home in the background. It is called once.
func (j *Journal) Start(home Home) {
	j.home = home
	j.workers.Add(1)
	go j.checkpointer()
}

// Close stops the journal. Where nothing is live and nothing failed, it marks
// the superblock clean: the caller has called Drain and made durable what else
// it changed. Otherwise the superblock stays dirty and the next Open recovers.
// The Super stays the caller's.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.cond.Broadcast()
	j.mu.Unlock()
	close(j.stop)
	j.workers.Wait()
	err := j.failure()
	if !j.cfg.ReadOnly && err == nil {
		if err = j.Commit(j.lastLSN()); err == nil && len(j.LiveFiles()) == 0 {
			err = j.markClean()
		}
	}
	if cerr := j.closeSegments(); err == nil {
		err = cerr
	}
	return err
}

// markClean leaves an empty journal behind.
func (j *Journal) markClean() error {
	return j.cfg.Super.update(true, func(st *superState) {
		st.clean = true
		st.tailSeg, st.tailTag = 0, [TagSize]byte{}
		st.tail, st.next = j.next, j.next
		st.nextSeg = j.nextSeg
	})
}

func (j *Journal) closeSegments() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	for _, s := range append(j.live, j.free...) {
		if cerr := s.file.Close(); err == nil {
			err = cerr
		}
	}
	j.live, j.free = nil, nil
	return err
}

// fail makes err sticky. j.mu is held.
func (j *Journal) fail(err error) {
	if j.err != nil {
		return
	}
	j.err = fmt.Errorf("journal: %w", err)
	j.log.Error("journal failed, no more writing", "error", err)
	j.cond.Broadcast()
	j.tell(j.err)
}

// tell calls Config.Fail the first time.
func (j *Journal) tell(err error) {
	if j.cfg.Fail != nil {
		j.failOnce.Do(func() { go j.cfg.Fail(err) })
	}
}

func (j *Journal) failure() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// usable returns why nothing can be appended. j.mu is held.
func (j *Journal) usable() error {
	switch {
	case j.err != nil:
		return j.err
	case j.cfg.ReadOnly:
		return ErrReadOnly
	case j.closed:
		return ErrClosed
	}
	return nil
}

func (j *Journal) lastLSN() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Durable returns the LSN up to which all is durable. A tag block or header at
// home with a higher one is newer than the journal: this is an older one, put
// back.
func (j *Journal) Durable() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable - 1
}

// Stats is what a journal holds at a moment, in bytes and counts.
type Stats struct {
	Size     int64 // of all segments that exist
	Live     int64 // in segments that are in use
	Segments int
	Files    int // with live records
	Blocks   int64
	Next     LSN
	Durable  LSN
	Err      error
}

// Stats reports what the journal holds.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	s := Stats{Segments: len(j.live) + len(j.free), Blocks: j.items.Load(), Next: j.next, Durable: j.durable - 1, Err: j.err}
	for _, seg := range j.live {
		s.Size += seg.size
		s.Live += seg.end
	}
	for _, seg := range j.free {
		s.Size += seg.size
	}
	if j.open != nil {
		s.Live += int64(len(j.open.buf))
	}
	j.mu.Unlock()
	j.fmu.Lock()
	for _, f := range j.files {
		if f.Live() {
			s.Files++
		}
	}
	j.fmu.Unlock()
	return s
}

// kick wakes the checkpointer.
func (j *Journal) kick() {
	select {
	case j.kickCh <- struct{}{}:
	default:
	}
}

// committer commits what nobody has asked to within the interval, and makes
// segments ahead of need.
func (j *Journal) committer() {
	defer j.workers.Done()
	t := time.NewTicker(min(j.cfg.CommitInterval/8, time.Second))
	defer t.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-t.C:
		}
		j.mu.Lock()
		due := !j.since.IsZero() && time.Since(j.since) >= j.cfg.CommitInterval/2
		lsn := j.next - 1
		ahead := len(j.free) == 0 && j.growable()
		j.mu.Unlock()
		if due {
			if err := j.Commit(lsn); err != nil && !errors.Is(err, ErrClosed) {
				continue // sticky; Fail was told
			}
		}
		if ahead {
			j.grow()
		}
	}
}
