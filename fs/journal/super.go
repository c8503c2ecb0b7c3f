package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// TagSize is the length of a MAC of both layers.
const TagSize = 32

// Authenticator makes and checks MACs of both layers over a list of parts.
// cipher.Authenticator is one. It is safe for concurrent use.
type Authenticator interface {
	// Sum writes TagSize bytes to dst.
	Sum(dst []byte, parts ...[]byte)
	// Verify reports whether tag is what Sum makes of parts.
	Verify(tag []byte, parts ...[]byte) bool
}

// LSN is a log sequence number: it counts the records of a journal from 1 on
// and is never used twice.
type LSN uint64

// ID is the random name of a journal or of a run.
type ID [16]byte

const (
	superName    = "super"
	superSlot    = 4096 // distance of the two slots, so that they share no page
	superLen     = 512  // a slot's bytes: one sector
	superTagOff  = superLen - TagSize
	superVersion = 1

	superFlagClean = 1
)

var superMagic = [8]byte{'P', 'L', 'Y', 'F', 'S', 'J', 'S', 'B'}

// superLabel separates superblocks from segment headers and batches.
var superLabel = []byte("super")

// superState is what one slot says: FORMAT.md §14.1.
type superState struct {
	clean    bool
	journal  ID
	run      ID            // the run that may write; zero before the first
	seq      uint64        // counts writes; the higher of two valid slots is in force
	tailSeg  uint64        // sequence of the oldest live segment; 0 before the first
	tail     LSN           // records from here on may be live
	next     LSN           // all records below were durable when this was written
	runStart LSN           // first LSN of run
	tailTag  [TagSize]byte // of the batch before the tail
	runFrom  LSN           // where the runs before it ended
	nextSeg  uint64        // above every segment sequence given when this was written
}

// Super is a volume's superblock, open. Its methods are safe for concurrent
// use.
type Super struct {
	dir  backing.Dir
	auth Authenticator

	mu   sync.Mutex
	file backing.File // nil until the first write
	st   superState
	err  error // first failed write or flush; sticky
}

// CreateSuper makes the superblock of a new, clean, empty journal in dir and
// makes it durable. random is crypto/rand where nil.
func CreateSuper(dir backing.Dir, a Authenticator, random io.Reader) error {
	if random == nil {
		random = rand.Reader
	}
	st := superState{clean: true, seq: 1, tail: 1, next: 1, runStart: 1, runFrom: 1, nextSeg: 1}
	if _, err := io.ReadFull(random, st.journal[:]); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	f, err := dir.OpenFile(superName, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("journal superblock: %w", ErrExists)
	}
	if err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	s := &Super{dir: dir, auth: a, file: f, st: st}
	err = s.writeBoth(st)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	return nil
}

// OpenSuper reads the superblock in dir and changes nothing. dir must stay
// open as long as the Super is used. Errors: ErrMissing, ErrVersion,
// ErrTampered where neither slot is authentic, or the backing's own.
func OpenSuper(dir backing.Dir, a Authenticator) (*Super, error) {
	f, err := dir.OpenFile(superName, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %w", ErrSuper, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSuper, err)
	}
	defer f.Close()
	s := &Super{dir: dir, auth: a}
	found := false
	worst := error(nil)
	for slot := range int64(2) {
		st, err := readSlot(f, a, slot)
		switch {
		case err == nil && (!found || st.seq > s.st.seq):
			s.st, found = st, true
		case errors.Is(err, ErrVersion), err != nil && worst == nil:
			worst = err
		}
		if err != nil && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrVersion) {
			return nil, fmt.Errorf("%w: %w", ErrSuper, err)
		}
	}
	// No torn write makes a slot of another version, so one that is there may
	// be the newer one: it is not to be outvoted.
	if !found || errors.Is(worst, ErrVersion) {
		return nil, fmt.Errorf("%w: %w", ErrSuper, worst)
	}
	return s, nil
}

func readSlot(f backing.File, a Authenticator, slot int64) (superState, error) {
	var b [superLen]byte
	n, err := f.ReadAt(b[:], slot*superSlot)
	if err != nil && !errors.Is(err, io.EOF) {
		return superState{}, err
	}
	if n < superLen {
		return superState{}, ErrTampered
	}
	return parseSuper(b[:], a)
}

// parseSuper checks and decodes one slot of superLen bytes.
func parseSuper(b []byte, a Authenticator) (superState, error) {
	var st superState
	be := binary.BigEndian
	if [8]byte(b[:8]) != superMagic {
		return st, ErrTampered
	}
	if be.Uint16(b[8:]) != superVersion {
		return st, ErrVersion
	}
	if !a.Verify(b[superTagOff:], superLabel, b[:superTagOff]) {
		return st, ErrTampered
	}
	flags := be.Uint16(b[10:])
	if flags&^superFlagClean != 0 || !zero(b[12:16]) || !zero(b[88:96]) || !zero(b[144:superTagOff]) {
		return st, ErrVersion
	}
	st.clean = flags&superFlagClean != 0
	copy(st.journal[:], b[16:])
	copy(st.run[:], b[32:])
	st.seq = be.Uint64(b[48:])
	st.tailSeg = be.Uint64(b[56:])
	st.tail = LSN(be.Uint64(b[64:]))
	st.next = LSN(be.Uint64(b[72:]))
	st.runStart = LSN(be.Uint64(b[80:]))
	copy(st.tailTag[:], b[96:])
	st.runFrom = LSN(be.Uint64(b[128:]))
	st.nextSeg = be.Uint64(b[136:])
	if st.seq == 0 || st.tail == 0 || st.next == 0 || st.runStart < st.runFrom || st.nextSeg <= st.tailSeg {
		return st, ErrTampered
	}
	return st, nil
}

// zero reports whether b is zero throughout.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// encode fills b, of superLen bytes.
func (st *superState) encode(b []byte, a Authenticator) {
	clear(b)
	be := binary.BigEndian
	copy(b, superMagic[:])
	be.PutUint16(b[8:], superVersion)
	if st.clean {
		be.PutUint16(b[10:], superFlagClean)
	}
	copy(b[16:], st.journal[:])
	copy(b[32:], st.run[:])
	be.PutUint64(b[48:], st.seq)
	be.PutUint64(b[56:], st.tailSeg)
	be.PutUint64(b[64:], uint64(st.tail))
	be.PutUint64(b[72:], uint64(st.next))
	be.PutUint64(b[80:], uint64(st.runStart))
	copy(b[96:], st.tailTag[:])
	be.PutUint64(b[128:], uint64(st.runFrom))
	be.PutUint64(b[136:], st.nextSeg)
	a.Sum(b[superTagOff:], superLabel, b[:superTagOff])
}

func (s *Super) state() superState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

// JournalID names the journal for as long as the volume lives.
func (s *Super) JournalID() ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.journal
}

// Clean reports whether the volume was unmounted cleanly: nothing of it is in
// the journal, and every file at home is whole.
func (s *Super) Clean() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.clean
}

// Position returns the number of writes of the superblock and the LSN up to
// which it knows records. Both only grow: a host that remembers them can tell
// an older copy of the volume.
func (s *Super) Position() (sequence uint64, next LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.seq, s.st.next
}

// MarkDirty makes it durable that the volume is in use. Nothing of the volume
// may change before it has returned nil.
func (s *Super) MarkDirty() error {
	return s.update(true, func(st *superState) { st.clean = false })
}

// MarkClean makes it durable that the volume is whole without its journal.
// The caller has synced everything before. While a journal is open on the
// superblock, or was and left records, it is Journal.Close that does this, and
// the call is refused with ErrLive.
func (s *Super) MarkClean() error {
	if s.state().tailSeg != 0 {
		return fmt.Errorf("journal superblock: %w", ErrLive)
	}
	return s.update(true, func(st *superState) { st.clean = true })
}

// Close releases what the first write opened. It does not mark anything.
func (s *Super) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// update changes the state and makes it durable: in both slots, one after the
// other, so that no damage to one slot brings the old state back, or in the
// older slot alone. A failure is sticky, since a failed flush leaves unknown
// what is on the disk.
func (s *Super) update(both bool, change func(*superState)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.file == nil {
		f, err := s.dir.OpenFile(superName, unix.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("journal superblock: %w", err)
		}
		s.file = f
	}
	st := s.st
	change(&st)
	var err error
	if both {
		err = s.writeBoth(st)
	} else {
		st.seq++
		err = s.write(st)
	}
	if err != nil {
		s.err = fmt.Errorf("journal superblock: %w", err)
	}
	return s.err
}

func (s *Super) writeBoth(st superState) error {
	for range 2 {
		st.seq++
		if err := s.write(st); err != nil {
			return err
		}
	}
	return nil
}

// write puts st into the slot its sequence names. s.mu is held, or s is not
// yet shared.
func (s *Super) write(st superState) error {
	var b [superSlot]byte
	st.encode(b[:superLen], s.auth)
	if _, err := s.file.WriteAt(b[:], int64(st.seq%2)*superSlot); err != nil {
		return err
	}
	if err := s.file.Datasync(); err != nil { // the slots were allocated at creation
		return err
	}
	s.st = st
	return nil
}
