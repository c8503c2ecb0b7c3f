package journal

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/plyfs/plyfs/cipher"
)

// File is the live records of one file's content: what lies over its home.
// Methods are safe for concurrent use; what they say about a group or a size
// stays true as long as the caller holds off changes of it.
type File struct {
	j    *Journal
	id   cipher.FileID
	hint atomic.Uint64

	amu sync.Mutex // one Append at a time, so that the index follows the LSNs

	stuck atomic.Pointer[error] // why the last checkpoint left records, if so
	bytes atomic.Int64          // of blocks and their entries in the index

	mu     sync.RWMutex
	users  int // Journal.fmu
	groups map[uint64]*group
	order  []uint64 // keys of groups, ascending
	cuts   []cut    // ascending at; a later one is further out
	size   sizeItem
	mtime  mtimeItem
	last   LSN // newest record, live or not
	refs   []segRef
	items  int
}

// group is what live records say of one group: the newest trailer, and where
// its blocks of live records lie. The trailer's LSN is the highest.
type group struct {
	trailer Trailer
	lsn     LSN
	seg     *segment
	blocks  []blockItem // ascending index
}

type blockItem struct {
	index uint64
	lsn   LSN
	seg   *segment
	entry int64 // offsets in seg
	body  int64
	size  int32
}

type cut struct {
	at  uint64 // first void block
	lsn LSN
	seg *segment
}

type sizeItem struct {
	size int64
	last uint64
	lsn  LSN // 0: none
	seg  *segment
}

type mtimeItem struct {
	sec  int64
	nsec uint32
	lsn  LSN
	seg  *segment
}

// segRef counts a file's items in one segment.
type segRef struct {
	seg *segment
	n   int
}

// Block is a block in the journal.
type Block struct {
	LSN   LSN
	Size  int // of its body
	Entry Pos
	Body  Pos
}

// File returns the live records of a file, none if it is new, and keeps them
// findable until Close. hint is the file's inode number on the backing side.
func (j *Journal) File(id cipher.FileID, hint uint64) *File {
	f := j.file(id)
	f.hint.Store(hint)
	return f
}

func (j *Journal) file(id cipher.FileID) *File {
	j.fmu.Lock()
	defer j.fmu.Unlock()
	f := j.files[id]
	if f == nil {
		f = &File{j: j, id: id, groups: map[uint64]*group{}}
		j.files[id] = f
	}
	f.users++
	return f
}

// Close ends the use of f. Live records stay.
func (f *File) Close() {
	j := f.j
	j.fmu.Lock()
	defer j.fmu.Unlock()
	if f.users--; f.users == 0 && !f.Live() {
		delete(j.files, f.id)
	}
}

// Ref names a file with live records.
type Ref struct {
	ID   cipher.FileID
	Hint uint64
}

// LiveFiles lists the files with live records: after recovery, those which a
// walk has to find.
func (j *Journal) LiveFiles() []Ref {
	j.fmu.Lock()
	defer j.fmu.Unlock()
	var refs []Ref
	for id, f := range j.files {
		if f.Live() {
			refs = append(refs, Ref{id, f.hint.Load()})
		}
	}
	return refs
}

// Forget drops a file's live records, for good. The caller has proof that no
// name and no descriptor leads to the file any more, durably. Where there is
// room at once, a record says so, and recovery will not ask again.
func (j *Journal) Forget(id cipher.FileID) {
	j.fmu.Lock()
	f := j.files[id]
	j.fmu.Unlock()
	if f == nil {
		return
	}
	if r := j.TryReserve(Space(0, 0, 0, 0)); r != nil {
		f.Append(r, &Record{gone: true, Size: NoSize, Cut: NoCut}) // a failure is sticky
		r.Release()
	}
	f.amu.Lock() // nothing of it is being moved
	f.mu.Lock()
	f.dropAll()
	f.mu.Unlock()
	f.amu.Unlock()
	j.sweep()
}

// Live reports whether anything of the file is in the journal alone.
func (f *File) Live() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.items > 0
}

// LSN returns the newest record of the file, 0 if there was none: what an
// fsync commits.
func (f *File) LSN() LSN {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.last
}

// Commit makes all records of the file durable.
func (f *File) Commit() error { return f.j.Commit(f.LSN()) }

// Failure returns why the journal failed, if records of the file were lost to
// that, as far as anyone knows.
func (f *File) Failure() error {
	lsn := f.LSN()
	f.j.mu.Lock()
	defer f.j.mu.Unlock()
	if f.j.err == nil || lsn < f.j.durable {
		return nil
	}
	return f.j.err
}

// Size returns size and last present group where live records say them, with
// the newest record's LSN.
func (f *File) Size() (size int64, last uint64, lsn LSN, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size.size, f.size.last, f.size.lsn, f.size.lsn != 0
}

// Mtime returns the modification time where live records say it.
func (f *File) Mtime() (sec int64, nsec uint32, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mtime.sec, f.mtime.nsec, f.mtime.lsn != 0
}

// VoidFrom returns the first block from which on what lies home is void, NoCut
// if none is. Groups that begin there, or after, have no tag block at home.
func (f *File) VoidFrom() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.voidFrom()
}

func (f *File) voidFrom() uint64 {
	if len(f.cuts) == 0 {
		return NoCut
	}
	return f.cuts[0].at
}

// Void reports whether the tag block that lies home for group g is void. Where
// Trailer has none either, the group is absent.
func (f *File) Void(g uint64) bool {
	return g > 0 && f.j.cfg.Layout.FirstBlock(g) >= f.VoidFrom()
}

// Trailer returns the newest trailer of a group, if a live record has it.
func (f *File) Trailer(g uint64) (t Trailer, lsn LSN, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if gr := f.groups[g]; gr != nil {
		return gr.trailer, gr.lsn, true
	}
	return Trailer{}, 0, false
}

// Next returns the lowest group from g on that has a trailer in live records.
func (f *File) Next(g uint64) (uint64, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	i, _ := slices.BinarySearch(f.order, g)
	if i == len(f.order) {
		return 0, false
	}
	return f.order[i], true
}

// Block returns where the newest version of a block lies, if in the journal. Of
// a block that it does not have, the trailer's presence bit says whether it
// lies home or is a hole.
func (f *File) Block(index uint64) (Block, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if b := f.block(index); b != nil {
		return Block{b.lsn, int(b.size), Pos{b.seg, b.entry}, Pos{b.seg, b.body}}, true
	}
	return Block{}, false
}

func (f *File) block(index uint64) *blockItem {
	gr := f.groups[f.j.cfg.Layout.Group(index)]
	if gr == nil {
		return nil
	}
	if i, ok := gr.find(index); ok {
		return &gr.blocks[i]
	}
	return nil
}

// Run says how many of the n blocks (at least 1) from index on are like the
// first: all in the journal with bodies and entries one after the other, which
// start at b, or all not in it.
func (f *File) Run(index uint64, n int) (run int, b Block, live bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	first := f.block(index)
	if first != nil {
		live = true
		b = Block{first.lsn, int(first.size), Pos{first.seg, first.entry}, Pos{first.seg, first.body}}
	}
	for run = 1; run < n; run++ {
		next := f.block(index + uint64(run))
		if (next != nil) != live {
			break
		}
		if live && (next.lsn != first.lsn || next.body != first.body+int64(run)*int64(f.j.cfg.Layout.BlockSize()) ||
			next.entry != first.entry+int64(run)*cipher.EntrySize) {
			break
		}
	}
	return run, b, live
}

func (g *group) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(g.blocks, index, func(b blockItem, i uint64) int {
		switch {
		case b.index < i:
			return -1
		case b.index > i:
			return 1
		}
		return 0
	})
}
