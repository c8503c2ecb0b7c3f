package journal

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

func newWorld(t testing.TB, files int) (*crashfs.FS, *world) {
	t.Helper()
	fs := crashfs.New()
	format(t, fs.Root(), files)
	return fs, mustMount(t, fs.Root(), files, nil)
}

// mustWrite writes one block and returns its LSN and stamp.
func mustWrite(t testing.TB, w *world, file int, block uint64) (LSN, uint64) {
	t.Helper()
	lsn, stamp, err := w.write(fileID(file), block, 1)
	must(t, err)
	return lsn, stamp
}

func wantBlock(t testing.TB, w *world, file int, block, stamp uint64) {
	t.Helper()
	c, err := w.files[fileID(file)].content(fileID(file))
	must(t, err)
	if c.blocks[block] != stamp {
		t.Errorf("file %d block %d holds %d, want %d", file, block, c.blocks[block], stamp)
	}
}

// kill abandons w and mounts what a killed process leaves.
func kill(t testing.TB, fs *crashfs.FS, w *world, change func(*Config)) (*crashfs.FS, *world) {
	t.Helper()
	im := fs.Snapshot()
	w.abandon()
	fs = im.Crash(crashfs.Kept)
	return fs, mustMount(t, fs.Root(), len(w.files), change)
}

func TestReadsOverlayHome(t *testing.T) {
	_, w := newWorld(t, 1)
	_, a := mustWrite(t, w, 0, 5)
	wantBlock(t, w, 0, 5, a) // from the batch in memory
	must(t, w.j.Drain())
	wantBlock(t, w, 0, 5, a) // from home
	lsn, b := mustWrite(t, w, 0, 5)
	must(t, w.j.Commit(lsn))
	wantBlock(t, w, 0, 5, b) // from the segment
	if s := w.j.Stats(); s.Files != 1 || s.Durable != lsn || s.Next != lsn+1 || s.Live == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestCleanUnmountLeavesAnEmptyJournal(t *testing.T) {
	fs, w := newWorld(t, 2)
	_, a := mustWrite(t, w, 0, 5)
	_, b := mustWrite(t, w, 1, 100)
	must(t, w.unmount())
	if !w.super.Clean() {
		t.Error("superblock is not clean")
	}
	for _, n := range []int{0, 1, 2} { // segments do not matter any more
		w.dir.Unlink(segName(n))
	}
	w = mustMount(t, fs.Root(), 2, nil)
	wantBlock(t, w, 0, 5, a)
	wantBlock(t, w, 1, 100, b)
	if n := len(w.j.LiveFiles()); n != 0 {
		t.Errorf("%d live files", n)
	}
}

func TestCloseStaysDirty(t *testing.T) {
	tests := map[string]struct {
		drain, clean bool
		want         bool
	}{
		"live records": {false, true, false},
		"not asked to": {true, false, false},
		"both":         {true, true, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fs, w := newWorld(t, 1)
			_, a := mustWrite(t, w, 0, 3)
			if tt.drain {
				must(t, w.j.Drain())
			}
			must(t, w.j.Close(tt.clean))
			s, err := OpenSuper(fs.Root(), testAuth("key"))
			must(t, err)
			if s.Clean() != tt.want {
				t.Errorf("clean %v, want %v", s.Clean(), tt.want)
			}
			fs = fs.Snapshot().Crash(crashfs.Lost)
			wantBlock(t, mustMount(t, fs.Root(), 1, nil), 0, 3, a)
		})
	}
}

func TestMarkCleanRefusesLiveRecords(t *testing.T) {
	_, w := newWorld(t, 1)
	mustWrite(t, w, 0, 3)
	if err := w.super.MarkClean(); !errors.Is(err, ErrLive) {
		t.Errorf("got %v, want ErrLive", err)
	}
}

// Crash, mount, checkpoint and trim without a new record, crash.
func TestTrimAfterRecovery(t *testing.T) {
	fs, w := newWorld(t, 1)
	var last uint64
	for i := range 12 {
		lsn, s := mustWrite(t, w, 0, uint64(i))
		must(t, w.j.Commit(lsn))
		last = s
	}
	if len(w.j.live) < 2 {
		t.Fatalf("%d live segments, want several", len(w.j.live))
	}
	fs, w = kill(t, fs, w, nil)
	must(t, w.j.Drain())
	fs, w = kill(t, fs, w, nil)
	wantBlock(t, w, 0, 11, last)
	must(t, w.unmount())
	_ = fs
}

// The first batch of a run that follows a crash is torn.
func TestTornFirstBatch(t *testing.T) {
	fs, w := newWorld(t, 1)
	lsn, a := mustWrite(t, w, 0, 1)
	must(t, w.j.Commit(lsn))
	fs, w = kill(t, fs, w, nil)
	seg, off := w.j.active(), w.j.active().end
	mustWrite(t, w, 0, 2)
	must(t, w.j.writeQueueAll())
	patch(t, fs.Root(), segName(seg.number), off+4096, func(b []byte) { clear(b[:512]) })
	_, w = kill(t, fs, w, nil)
	wantBlock(t, w, 0, 1, a)
	wantBlock(t, w, 0, 2, 0)
}

// writeQueueAll hands everything to the backing without a flush.
func (j *Journal) writeQueueAll() error {
	j.mu.Lock()
	j.closeBatch()
	j.mu.Unlock()
	return j.writeQueue(0)
}

func TestReadBufferedAfterRecovery(t *testing.T) {
	fs, w := newWorld(t, 1)
	lsn, _ := mustWrite(t, w, 0, 0)
	must(t, w.j.Commit(lsn))
	_, w = kill(t, fs, w, nil)
	_, b := mustWrite(t, w, 0, 1)
	wantBlock(t, w, 0, 1, b)
}

// A cut and a write behind it come after a checkpoint has looked what is to be
// done, before or after it has copied.
func TestCutDuringCheckpoint(t *testing.T) {
	for _, late := range []bool{false, true} {
		_, w := newWorld(t, 1)
		mustWrite(t, w, 0, 5)
		var b uint64
		hook := func(id cipher.FileID) {
			w.beforeDone, w.beforeCopy = nil, nil
			_, err := w.truncate(id, 1)
			must(t, err)
			_, b = mustWrite(t, w, 0, 5)
		}
		if late {
			w.beforeDone = hook
		} else {
			w.beforeCopy = hook
		}
		for range 3 {
			must(t, w.j.Drain())
			wantBlock(t, w, 0, 5, b)
		}
	}
}

// Home never takes what is not durable.
func TestCheckpointSeesDurableRecords(t *testing.T) {
	_, w := newWorld(t, 1)
	f := w.files[fileID(0)].jf
	lsn, _ := mustWrite(t, w, 0, 5)
	d, err := f.Dirty(lsn)
	must(t, err)
	if d.Header != lsn || !w.j.Knows(lsn) {
		t.Errorf("Dirty gives the size of record %d, durable %v", d.Header, w.j.Knows(lsn))
	}
	lsn, _ = mustWrite(t, w, 0, 5)
	c, err := f.Copy(0)
	must(t, err)
	if c.LSN != lsn || !w.j.Knows(lsn) {
		t.Errorf("Copy gives record %d, durable %v", c.LSN, w.j.Knows(lsn))
	}
	if c, err := f.Copy(7); c != nil || err != nil {
		t.Errorf("a group without records: %v, %v", c, err)
	}
}

// A record that has its place and is not in the index yet holds its segment.
func TestPlacedRecordsHoldTheirSegment(t *testing.T) {
	_, w := newWorld(t, 1)
	in := recordInfo(0, 0, 0, 0)
	b, buf, pos, lsn, err := w.j.place(in)
	must(t, err)
	rec := &Record{File: fileID(0), Size: NoSize, Cut: NoCut}
	rec.encode(buf, lsn)
	b.pending.Done()
	for w.j.active() == pos.seg {
		mustWrite(t, w, 0, 1)
	}
	must(t, w.j.Drain())
	if n, _ := w.j.trimmable(); n != 0 || w.j.live[0] != pos.seg {
		t.Error("the segment of a record under way was freed")
	}
	b.seg.placed--
	must(t, w.j.Trim())
	if w.j.live[0] == pos.seg {
		t.Error("the segment stays")
	}
}

// What was looked up under a pin stays until it was read.
func TestPinHoldsSegments(t *testing.T) {
	_, w := newWorld(t, 1)
	mustWrite(t, w, 0, 1)
	pin := w.j.Pin()
	b, _ := w.files[fileID(0)].jf.Block(1)
	for w.j.active() == b.Body.seg {
		mustWrite(t, w, 0, 2)
	}
	done := make(chan error, 1)
	go func() { done <- w.j.Drain() }()
	select {
	case <-done:
		t.Error("the segment was freed under a pin")
	case <-time.After(30 * time.Millisecond):
	}
	must(t, w.j.ReadAt(make([]byte, testBlock), b.Body))
	pin.Unpin()
	must(t, <-done)
}

// What overrules the records of a freed segment is durable before it is freed.
func TestTrimCommitsFirst(t *testing.T) {
	fs, w := newWorld(t, 1)
	mustWrite(t, w, 0, 5)
	must(t, w.j.Drain()) // the size is home, what follows only overwrites
	lsn, a := mustWrite(t, w, 0, 5)
	must(t, w.j.Commit(lsn))
	for len(w.j.live) < 3 {
		mustWrite(t, w, 0, 5)
	}
	if n, _ := w.j.trimmable(); n == 0 {
		t.Fatal("nothing to trim")
	}
	must(t, w.j.Trim())
	w = mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), 1, nil)
	c, err := w.files[fileID(0)].content(fileID(0))
	must(t, err)
	if c.blocks[5] < a {
		t.Errorf("block 5 holds %d, %d was acknowledged", c.blocks[5], a)
	}
}

// The process was killed, what it had written unflushed was recovered, and then
// power fails.
func TestRecoveryMakesDurable(t *testing.T) {
	fs, w := newWorld(t, 1)
	_, a := mustWrite(t, w, 0, 5)
	must(t, w.j.writeQueueAll())
	w.abandon()
	w = mustMount(t, fs.Root(), 1, nil)
	wantBlock(t, w, 0, 5, a)
	im := fs.Snapshot()
	w.abandon()
	wantBlock(t, mustMount(t, im.Crash(crashfs.Lost).Root(), 1, nil), 0, 5, a)
}

// The next segment's header reached the disk, the end of the one before it did
// not: the run that follows goes on in that one, and comes to the next again.
func TestHeaderAheadOfTheEnd(t *testing.T) {
	fs, w := newWorld(t, 1)
	first := w.j.active()
	var stamps []uint64
	var last int64
	for w.j.active() == first {
		last = first.end
		_, s := mustWrite(t, w, 0, uint64(len(stamps)))
		stamps = append(stamps, s)
	}
	must(t, w.j.writeQueueAll())
	patch(t, fs.Root(), segName(first.number), last, flip(batchHead+50))
	fs, w = kill(t, fs, w, nil)
	if len(w.j.live) != 1 {
		t.Fatalf("%d live segments", len(w.j.live))
	}
	var b uint64
	for range 20 {
		var lsn LSN
		lsn, b = mustWrite(t, w, 0, 50)
		must(t, w.j.Commit(lsn))
		if len(w.j.live) == 3 {
			break
		}
	}
	_, w = kill(t, fs, w, nil)
	wantBlock(t, w, 0, 50, b)
	wantBlock(t, w, 0, 0, stamps[0])
}

// What is written while a checkpoint copies stays live.
func TestWriteDuringCheckpoint(t *testing.T) {
	fs, w := newWorld(t, 1)
	mustWrite(t, w, 0, 5)
	var b uint64
	w.beforeDone = func(id cipher.FileID) {
		w.beforeDone = nil
		_, b = mustWrite(t, w, 0, 5)
	}
	must(t, w.j.Drain())
	wantBlock(t, w, 0, 5, b)
	must(t, w.j.Commit(w.j.lastLSN()))
	im := fs.Snapshot()
	wantBlock(t, mustMount(t, im.Crash(crashfs.Lost).Root(), 1, nil), 0, 5, b)
}

// A later cut further out does not stand in for an earlier one further in.
func TestTwoCuts(t *testing.T) {
	fs, w := newWorld(t, 1)
	for i := range uint64(8) {
		mustWrite(t, w, 0, i)
	}
	must(t, w.j.Drain())
	for _, n := range []uint64{2, 30, 20} {
		_, err := w.truncate(fileID(0), n)
		must(t, err)
	}
	must(t, w.j.Commit(w.j.lastLSN()))
	check := func(w *world) {
		t.Helper()
		c, err := w.files[fileID(0)].content(fileID(0))
		must(t, err)
		if c.size != 20*testBlock || len(c.blocks) != 2 {
			t.Errorf("got %v, want 20 blocks of which two are there", c)
		}
	}
	check(w)
	if got := w.files[fileID(0)].jf.VoidFrom(); got != 2 {
		t.Errorf("void from %d, want 2", got)
	}
	fs, w = kill(t, fs, w, nil)
	check(w)
	must(t, w.j.Drain())
	check(w)
	fs, w = kill(t, fs, w, nil)
	check(w)
}

func TestForgottenFilesStayForgotten(t *testing.T) {
	fs, w := newWorld(t, 2)
	mustWrite(t, w, 0, 1)
	_, b := mustWrite(t, w, 1, 1)
	w.j.Forget(fileID(0))
	must(t, w.j.Commit(w.j.lastLSN()))
	_, w = kill(t, fs, w, nil)
	if refs := w.j.LiveFiles(); len(refs) != 1 || refs[0] != (Ref{fileID(1), 1}) {
		t.Errorf("live files %v, want the other one", refs)
	}
	wantBlock(t, w, 1, 1, b)
}

func TestGoneFilesAreDropped(t *testing.T) {
	_, w := newWorld(t, 2)
	mustWrite(t, w, 0, 1)
	w.files[fileID(0)].jf.Close()
	delete(w.files, fileID(0))
	must(t, w.j.Drain())
	if refs := w.j.LiveFiles(); len(refs) != 0 {
		t.Errorf("live files %v", refs)
	}
}

func TestReservation(t *testing.T) {
	_, w := newWorld(t, 1)
	if _, err := w.j.Reserve(w.j.MaxSpace() + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: got %v", err)
	}
	rec := func() *Record { return &Record{Size: NoSize, Cut: NoCut} }
	f := w.files[fileID(0)].jf
	if _, err := f.Append(nil, rec()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("without a reservation: got %v", err)
	}
	r, err := w.j.Reserve(Space(0, 0, 0, 0))
	must(t, err)
	if _, err := f.Append(r, rec()); err != nil {
		t.Errorf("with one: %v", err)
	}
	if _, err := f.Append(r, rec()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("with a used one: got %v", err)
	}
	r.Release()
	r.Release()
	if w.j.reserved != 0 {
		t.Errorf("%d bytes stay reserved", w.j.reserved)
	}
}

// Whatever is reserved fits, whatever the sizes.
func TestReservedFits(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 9))
		_, w := newWorld(t, 1)
		for w.j.room() > int64(w.j.maxBatch) || w.j.growable() {
			n := r.IntN(3) + 1
			if _, _, err := w.write(fileID(0), uint64(r.IntN(30)), n); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if r.IntN(3) == 0 {
				must(t, w.j.Commit(w.j.lastLSN()))
			}
		}
		for w.j.room() >= int64(Space(1, 1, 1, testBlock)) {
			mustWrite(t, w, 0, 3)
		}
		w.abandon()
	}
}

func TestReadOnlyWritesNothing(t *testing.T) {
	fs, w := newWorld(t, 1)
	lsn, a := mustWrite(t, w, 0, 1)
	must(t, w.j.Commit(lsn))
	im := fs.Snapshot()
	w.abandon()
	fs = im.Crash(crashfs.Lost)
	fs.OnOp(func(op crashfs.Op) { t.Errorf("a read-only journal did %s", op) })
	w = mustMount(t, fs.Root(), 1, func(c *Config) { c.ReadOnly = true })
	wantBlock(t, w, 0, 1, a)
	if _, err := w.j.Reserve(100); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Reserve: got %v, want ErrReadOnly", err)
	}
	must(t, w.j.Close(true))
}

func TestKnows(t *testing.T) {
	fs, w := newWorld(t, 1)
	first, _ := mustWrite(t, w, 0, 1)
	if !w.j.Knows(0) || w.j.Knows(first) {
		t.Error("0 is known, and what is not durable is not")
	}
	must(t, w.j.Commit(first))
	_, w = kill(t, fs, w, nil)
	next, _ := mustWrite(t, w, 0, 1)
	must(t, w.j.Commit(next))
	for lsn, want := range map[LSN]bool{first: true, first + 1: false, first + 5000: false, next - 1: false, next: true, next + 1: false} {
		if got := w.j.Knows(lsn); got != want {
			t.Errorf("LSN %d (first %d, next %d): %v, want %v", lsn, first, next, got, want)
		}
	}
}

func TestTimedCommit(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.CommitInterval = 80 * time.Millisecond })
	_, a := mustWrite(t, w, 0, 1)
	for deadline := time.Now().Add(5 * time.Second); !w.j.Knows(w.j.lastLSN()); {
		if time.Now().After(deadline) {
			t.Fatal("nobody committed")
		}
		time.Sleep(5 * time.Millisecond)
	}
	wantBlock(t, mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), 1, nil), 0, 1, a)
}

// A killed process loses what it answered only in the first moment.
func TestWrittenSoon(t *testing.T) {
	_, w := newWorld(t, 1)
	mustWrite(t, w, 0, 1)
	for deadline := time.Now().Add(5 * time.Second); w.j.active().written.Load() == pageSize; {
		if time.Now().After(deadline) {
			t.Fatal("the batch stays in memory")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestOtherSizesOfSegments(t *testing.T) {
	fs, w := newWorld(t, 1)
	var stamps []uint64
	for i := range uint64(30) {
		if w.j.room() < int64(2*w.j.maxBatch) && !w.j.growable() {
			break
		}
		_, s := mustWrite(t, w, 0, i)
		stamps = append(stamps, s)
	}
	must(t, w.j.Commit(w.j.lastLSN()))
	check := func() {
		t.Helper()
		for i, s := range stamps {
			wantBlock(t, w, 0, uint64(i), s)
		}
	}
	larger := func(c *Config) { c.SegmentSize, c.Size = 2*testSegment, 4*testSegment }
	fs, w = kill(t, fs, w, larger)
	check()
	for i := range 20 { // through all the old segments
		mustWrite(t, w, 0, uint64(i))
		must(t, w.j.Drain())
	}
	for _, s := range append(w.j.live, w.j.free...) {
		if s.size != 2*testSegment {
			t.Errorf("segment %d still has %d bytes", s.number, s.size)
		}
	}
	must(t, w.unmount())
	w = mustMount(t, fs.Root(), 1, func(c *Config) { c.Size = 2 * testSegment })
	if n := w.j.total(); n > 4*testSegment {
		t.Errorf("%d bytes of segments", n)
	}
}

// Many writers, commits and checkpoints at once, with less space than they
// want.
func TestConcurrent(t *testing.T) {
	const files, writers, writes = 4, 8, 60
	fs := crashfs.New()
	format(t, fs.Root(), files)
	w := mustMount(t, fs.Root(), files, nil)
	w.j.home = nil
	w.j.Start(w)
	var mu sync.Mutex
	want := make([]map[uint64]uint64, files)
	var wg sync.WaitGroup
	for k := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(k), 5))
			for range writes {
				file := k % files
				block := uint64(k)*100 + uint64(r.IntN(80)) // each writer has blocks of its own
				lsn, stamp, err := w.writeLocked(&mu, fileID(file), block)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if want[file] == nil {
					want[file] = map[uint64]uint64{}
				}
				want[file][block] = stamp
				mu.Unlock()
				if r.IntN(3) == 0 {
					if err := w.j.Commit(lsn); err != nil {
						t.Error(err)
					}
				}
				if r.IntN(4) == 0 {
					if got, err := w.files[fileID(file)].lockedBlock(fileID(file), block); err != nil || got != stamp {
						t.Errorf("block %d: %d, %v, want %d", block, got, err, stamp)
					}
				}
			}
		}()
	}
	wg.Wait()
	got, err := w.contents()
	must(t, err)
	for i := range files {
		if !reflect.DeepEqual(got[fileID(i)].blocks, want[i]) {
			t.Errorf("file %d: got %v\nwant %v", i, got[fileID(i)].blocks, want[i])
		}
	}
	must(t, w.unmount())
	w = mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), files, nil)
	after, err := w.contents()
	must(t, err)
	if !reflect.DeepEqual(after, got) {
		t.Error("a clean unmount lost something")
	}
}

// writeLocked is write with a lock for the stamp counter.
func (w *world) writeLocked(mu *sync.Mutex, id cipher.FileID, block uint64) (LSN, uint64, error) {
	mu.Lock()
	w.stamp++
	stamp := w.stamp
	mu.Unlock()
	h := w.files[id]
	r, err := w.j.Reserve(Space(1, 1, 1, testBlock))
	if err != nil {
		return 0, 0, err
	}
	defer r.Release()
	h.mu.Lock()
	defer h.mu.Unlock()
	g := w.l.Group(block)
	present, err := h.present(g)
	if err != nil {
		return 0, 0, err
	}
	rec := &Record{
		Size: NoSize, Cut: NoCut, Trailers: []Trailer{{Group: g, Present: present | 1<<w.l.Slot(block), Epoch: 1}},
		Extents: []Extent{{block, stampBlock(cipher.EntrySize, id, block, stamp), stampBlock(testBlock, id, block, stamp)}},
	}
	size, err := h.size()
	if err != nil {
		return 0, 0, err
	}
	if end := int64(block+1) * testBlock; end > size {
		rec.Size, rec.Last = end, w.l.LastGroup(end)
	}
	lsn, err := h.jf.Append(r, rec)
	return lsn, stamp, err
}

func (h *homeFile) lockedBlock(id cipher.FileID, i uint64) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.block(id, i)
}

// Group commit: many callers, few flushes.
func TestGroupCommit(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	faults := faultfs.New(fs.Root())
	slow := faults.Root()
	w := mustMount(t, slow, 1, func(c *Config) { c.Size = 64 * testSegment })
	var mu sync.Mutex
	before := faults.Count(faultfs.Sync)
	w.j.mu.Lock() // as a flush would, hold everyone up once
	w.j.flushing = true
	w.j.mu.Unlock()
	var wg sync.WaitGroup
	for k := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			lsn, _, err := w.writeLocked(&mu, fileID(0), uint64(k))
			if err == nil {
				err = w.j.Commit(lsn)
			}
			if err != nil {
				t.Error(err)
			}
		}()
	}
	for w.j.lastLSN() < w.j.start+19 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	w.j.mu.Lock()
	w.j.flushing = false
	w.j.cond.Broadcast()
	w.j.mu.Unlock()
	wg.Wait()
	if n := faults.Count(faultfs.Sync) - before - (len(w.j.live) + len(w.j.free) - 2); n > 6 {
		t.Errorf("%d flushes for 20 commits that waited together", n)
	}
}

func TestPins(t *testing.T) {
	_, w := newWorld(t, 1)
	pin := w.j.Pin()
	done := make(chan struct{})
	go func() { w.j.pins.wait(); close(done) }()
	for w.j.pins.epoch.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	w.j.Pin().Unpin() // who comes later neither waits nor is waited for
	later := w.j.Pin()
	select {
	case <-done:
		t.Fatal("a pin was not waited for")
	case <-time.After(10 * time.Millisecond):
	}
	pin.Unpin()
	<-done
	later.Unpin()
	go func() {
		for range 1000 {
			w.j.Pin().Unpin()
		}
	}()
	for range 100 {
		w.j.pins.wait()
	}
}

func TestConfigIsChecked(t *testing.T) {
	tests := map[string]func(*Config){
		"segment too small":    func(c *Config) { c.SegmentSize = 4096 },
		"segment not in pages": func(c *Config) { c.SegmentSize = testSegment + 512 },
		"one segment":          func(c *Config) { c.Size = testSegment },
		"requests do not fit":  func(c *Config) { c.MaxRequest = 1 << 20 },
		"largest block, 1 MiB": func(c *Config) {
			c.SegmentSize, c.Size, c.MaxRequest = 4<<20, 64<<20, 0
			c.Layout, _ = cipher.NewLayout(65536)
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			fs := crashfs.New()
			format(t, fs.Root(), 0)
			if _, err := mount(t, fs.Root(), 0, change); err == nil {
				t.Error("accepted")
			}
		})
	}
	l, _ := cipher.NewLayout(65536)
	cfg := Config{Layout: l}.withDefaults()
	if err := cfg.validate(); err != nil {
		t.Errorf("defaults with the largest blocks: %v", err)
	}
}

// The index is bounded by its items, whatever they are.
func TestItemsAreBounded(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.Items = 50; c.Size = 64 * testSegment })
	w.j.home = nil
	w.j.Start(w)
	for i := range uint64(300) {
		r, err := w.j.Reserve(Space(1, 0, 0, 0))
		must(t, err)
		_, err = w.files[fileID(0)].jf.Append(r, &Record{Size: NoSize, Cut: NoCut, Trailers: []Trailer{{Group: i, Epoch: 1}}})
		must(t, err)
		r.Release()
		if n := w.j.items.Load(); n > 60 {
			t.Fatalf("%d items of 50", n)
		}
	}
}
