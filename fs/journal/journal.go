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
	// Items bounds the index: blocks, trailers, sizes and times of live
	// records. Zero is 1 Mi.
	Items int
	// MaxRequest is the largest write, in bytes, that must fit into one
	// record. Zero is 1 MiB. Segments have to be large enough for it.
	MaxRequest int
	// ReadOnly opens without writing anything.
	ReadOnly bool
	// CommitInterval bounds the age of what no one committed; 4 s by default.
	CommitInterval time.Duration
	// CheckpointInterval bounds, roughly, the time a live record waits for its
	// checkpoint; 30 s by default.
	CheckpointInterval time.Duration
	// AcceptRollback goes on where records are missing or fail authentication,
	// with what precedes them.
	AcceptRollback bool
	Log            *slog.Logger
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
	durable  LSN        // all records below are durable, if there are any
	end      LSN        // one past the last record that is known durable
	before   LSN        // where the runs before this one ended
	start    LSN        // first LSN of this run
	open     *batch     // takes records
	queue    []*batch   // closed, not yet written, oldest first
	buffers  [][]byte   // to reuse
	flushing bool       // a leader commits
	since    time.Time  // when the oldest record that is not durable came
	err      error      // sticky
	closed   bool
	frozen   bool
	live     []*segment // oldest first; the last one is active
	free     []*segment
	nextSeg  uint64
	reserved int64
	wanted   int64 // what is to be reserved for records that are moved
	waiters  int
	homeErr  error // why the last checkpoint pass made no space, where some is wanted
	stalls   int   // passes one after the other that freed nothing for who waits
	growErr  error // the last segment could not be made
	growAt   time.Time

	complaint  string // about the last pass that failed
	complained time.Time

	failOnce sync.Once

	growMu sync.Mutex
	trimMu sync.Mutex
	passMu sync.Mutex

	pins pins

	fmu   sync.Mutex
	files map[cipher.FileID]*File
	items atomic.Int64

	refMu sync.Mutex // guards segment.files; nothing is locked under it

	smu        sync.Mutex
	streams    map[*Stream]struct{}
	homeFailed atomic.Bool

	home    Home
	kickCh  chan struct{}
	dirtyCh chan struct{} // a first record waits to be written
	unsure  []extentAt    // what recovery found and nobody knows durable
	lost    error         // why recovery ended too early, if so
	stop    chan struct{}
	workers sync.WaitGroup
	resting atomic.Bool  // the workers do nothing
	busy    sync.RWMutex // shared by workers that are at it
}

// Home is where live records go: whoever knows the files.
type Home interface {
	// Checkpoint copies home, of each file, at least each group that holds a
	// record of an LSN up to through, in its newest state, makes it durable
	// and calls File.Checkpointed. It goes on after a file that fails. It
	// takes no lock under which anyone reserves space.
	//
	// gone lists files of which it has proof that no name and no descriptor
	// leads to them any more, durably: their records are dropped for good.
	//
	// An error that is ErrHome turns the volume read-only; others leave the
	// records where they are, for a later pass.
	Checkpoint(files []Ref, through LSN) (gone []cipher.FileID, err error)
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
		maxBatch: batchLimit(cfg.SegmentSize),
		files:    map[cipher.FileID]*File{},
		streams:  map[*Stream]struct{}{},
		kickCh:   make(chan struct{}, 1),
		dirtyCh:  make(chan struct{}, 1),
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

// batchLimit is the size of the largest batch for a segment size.
func batchLimit(segment int64) int {
	return int(min(segment/4, largestBatch)) &^ (pageSize - 1)
}

func (cfg Config) withDefaults() Config {
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = DefaultSegmentSize
	}
	if cfg.Size == 0 {
		cfg.Size = max(DefaultSize, 2*cfg.SegmentSize)
	}
	if cfg.MaxRequest == 0 {
		cfg.MaxRequest = 1 << 20
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
	b := cfg.Layout.BlockSize()
	blocks := cfg.MaxRequest/b + 2 // and both edges
	if need := Space(blocks/cipher.EntriesPerGroup+3, 2, blocks, blocks*b); need > batchLimit(cfg.SegmentSize) {
		return fmt.Errorf("segments of %d bytes cannot hold a write of %d", cfg.SegmentSize, cfg.MaxRequest)
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

// Close stops the journal. With clean, where nothing is live and nothing
// failed, it marks the superblock clean: the caller has called Drain, has made
// durable what else it changed, and knows every file to be whole. Otherwise the
// superblock stays dirty and the next Open recovers. Records that nobody
// committed are committed. The Super stays the caller's.
func (j *Journal) Close(clean bool) error {
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
		if err = j.Commit(j.lastLSN()); err == nil && clean && j.whole() {
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

// Knows reports whether a tag block or header at home may have this LSN: it is
// that of a record this journal once made durable. If not, the file is newer
// than the journal: an older journal, or superblock, was put back.
func (j *Journal) Knows(lsn LSN) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return lsn < j.before || (lsn >= j.start && lsn < j.durable)
}

// Lost returns why records are known to be missing, where a read-only journal
// or AcceptRollback went on all the same.
func (j *Journal) Lost() error { return j.lost }

// Stats is what a journal holds at a moment, in bytes and counts.
type Stats struct {
	Size     int64 // of all segments that exist
	Limit    int64 // that Size is kept to: beyond it, who writes waits
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
	s := Stats{Limit: j.cfg.Size, Segments: len(j.live) + len(j.free), Blocks: j.items.Load(), Next: j.next, Durable: j.durable - 1, Err: j.err}
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

// writeDelay is how long a record may stay in memory alone: after it, a killed
// process loses nothing that it had answered.
const writeDelay = 50 * time.Millisecond

// committer writes what waits in memory, commits what nobody has asked to
// within the interval, and makes segments ahead of need.
func (j *Journal) committer() {
	defer j.workers.Done()
	t := time.NewTicker(min(j.cfg.CommitInterval/8, time.Second))
	defer t.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.dirtyCh:
			j.writeSoon()
			continue
		case <-t.C:
		}
		j.atWork(func() { j.commitDue() })
	}
}

// commitDue commits what is old and makes a segment ahead of need.
func (j *Journal) commitDue() {
	j.mu.Lock()
	due := !j.since.IsZero() && time.Since(j.since) >= j.cfg.CommitInterval/2
	lsn := j.next - 1
	ahead := len(j.free) == 0 && j.growable()
	j.mu.Unlock()
	if due {
		j.Commit(lsn) // a failure is sticky, and Fail was told
	}
	j.endOldStreams()
	if ahead {
		j.grow()
	}
}

// atWork calls f unless the journal rests.
func (j *Journal) atWork(f func()) {
	j.busy.RLock()
	defer j.busy.RUnlock()
	if !j.resting.Load() {
		f()
	}
}

// Rest ends the work in the background until Work: no authenticator is called
// but by callers of the Journal.
func (j *Journal) Rest() {
	j.resting.Store(true)
	j.busy.Lock()
	j.busy.Unlock()
}

// Work undoes Rest.
func (j *Journal) Work() {
	j.resting.Store(false)
	j.kick()
}

// CommitAll ends all streams and commits all that was appended.
func (j *Journal) CommitAll() error {
	return errors.Join(j.EndStreams(), j.Commit(j.lastLSN()))
}

// writeSoon hands what is in memory to the backing, without a flush.
func (j *Journal) writeSoon() {
	t := time.NewTimer(writeDelay)
	defer t.Stop()
	select {
	case <-j.stop:
		return
	case <-t.C:
	}
	j.atWork(func() {
		j.mu.Lock()
		j.closeBatch()
		j.mu.Unlock()
		j.writeQueue(0) // a failure is sticky
	})
}
