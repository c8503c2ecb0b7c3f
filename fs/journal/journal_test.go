package journal

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
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
