package journal

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// committed makes a journal of n commits, one block each, and returns the
// filesystem that a power cut leaves and the stamps by block.
func committed(t testing.TB, n int) (*crashfs.FS, []uint64) {
	t.Helper()
	fs, w := newWorld(t, 1)
	var stamps []uint64
	for i := range n {
		lsn, s := mustWrite(t, w, 0, uint64(i))
		must(t, w.j.Commit(lsn))
		stamps = append(stamps, s)
	}
	im := fs.Snapshot()
	w.abandon()
	return im.Crash(crashfs.Lost), stamps
}

// copyFile replaces one file by another's bytes.
func copyFile(t testing.TB, from, to backing.Dir, name string) {
	t.Helper()
	f, err := from.OpenFile(name, unix.O_RDONLY, 0)
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	b := make([]byte, st.Size)
	must(t, readFull(f, b, 0))
	g, err := to.OpenFile(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	must(t, err)
	_, err = g.WriteAt(b, 0)
	must(t, err)
}

const firstBatch = pageSize // where a segment's first batch lies

func TestTamperingIsRefused(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, d backing.Dir)
		want   error
	}{
		"batch header":    {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(30)) }, ErrTampered},
		"batch tag":       {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(batchTagOff)) }, ErrTampered},
		"record head":     {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(batchHead+50)) }, ErrTampered},
		"trailer":         {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(batchHead+recHeadLen+9)) }, ErrTampered},
		"CRC of bodies":   {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(batchHead+92)) }, ErrTampered},
		"body":            {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, flip(4000)) }, ErrTampered},
		"zeroed batch":    {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch, func(b []byte) { clear(b) }) }, ErrTampered},
		"segment header":  {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), 0, flip(60)) }, ErrMissing},
		"no tail segment": {func(t *testing.T, d backing.Dir) { must(t, d.Unlink(segName(0))) }, ErrMissing},
		"no later segment": {func(t *testing.T, d backing.Dir) {
			must(t, d.Rename(segName(0), d, segName(7), 0))
			must(t, d.Unlink(segName(1)))
		}, ErrTampered},
		"version": {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), 0, flip(9)) }, ErrVersion},
		"batches swapped": {func(t *testing.T, d backing.Dir) {
			var first []byte
			patch(t, d, segName(0), firstBatch, func(b []byte) { first = append(first, b...) })
			patch(t, d, segName(0), firstBatch+8192, func(b []byte) { copy(b, first) })
		}, ErrTampered},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fs, _ := committed(t, 9)
			w := mustMount(t, fs.Root(), 1, nil) // the superblock learns how far records go
			w.abandon()
			tt.change(t, fs.Root())
			if _, err := mount(t, fs.Root(), 1, nil); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// The superblock knows nothing of the run's records; later batches do.
func TestTamperingBelowAMark(t *testing.T) {
	for _, segs := range []int{5, 12} { // in one segment, and in several
		fs, _ := committed(t, segs)
		patch(t, fs.Root(), segName(0), firstBatch, flip(batchHead+50))
		if _, err := mount(t, fs.Root(), 1, nil); !errors.Is(err, ErrTampered) {
			t.Errorf("%d commits: got %v, want ErrTampered", segs, err)
		}
	}
}

func TestTheLastBatchMayBeTorn(t *testing.T) {
	fs, stamps := committed(t, 5)
	patch(t, fs.Root(), segName(0), firstBatch+4*8192, flip(batchHead+50))
	w := mustMount(t, fs.Root(), 1, nil)
	for i, s := range stamps[:4] {
		wantBlock(t, w, 0, uint64(i), s)
	}
	wantBlock(t, w, 0, 4, 0)
}

func TestReadOnlyServesWhatIsLeft(t *testing.T) {
	fs, stamps := committed(t, 5)
	patch(t, fs.Root(), segName(0), firstBatch+2*8192, flip(batchHead+50))
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.ReadOnly = true })
	wantBlock(t, w, 0, 1, stamps[1])
	wantBlock(t, w, 0, 2, 0)
	if !errors.Is(w.j.Lost(), ErrTampered) {
		t.Errorf("Lost is %v", w.j.Lost())
	}
}

func TestAcceptRollback(t *testing.T) {
	accept := func(c *Config) { c.AcceptRollback = true }
	tests := map[string]struct {
		change func(t *testing.T, d backing.Dir)
		left   int
	}{
		"batch":    {func(t *testing.T, d backing.Dir) { patch(t, d, segName(0), firstBatch+2*8192, flip(batchHead+50)) }, 2},
		"segments": {func(t *testing.T, d backing.Dir) { must(t, d.Unlink(segName(0))) }, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fs, stamps := committed(t, 5)
			tt.change(t, fs.Root())
			w := mustMount(t, fs.Root(), 1, accept)
			if w.j.Lost() == nil {
				t.Error("nothing is said to be lost")
			}
			lsn, s := mustWrite(t, w, 0, 30)
			must(t, w.j.Commit(lsn))
			_, w = kill(t, fs, w, nil) // from now on without
			wantBlock(t, w, 0, 30, s)
			for i := range tt.left {
				wantBlock(t, w, 0, uint64(i), stamps[i])
			}
		})
	}
}

func TestOlderJournalPutBack(t *testing.T) {
	old, _ := committed(t, 3)
	w := mustMount(t, old.Root(), 1, nil)
	im := old.Snapshot()
	lsn, _ := mustWrite(t, w, 0, 9)
	must(t, w.j.Commit(lsn))
	must(t, w.unmount()) // home has it now
	older := im.Crash(crashfs.Kept)
	for _, name := range []string{superName, segName(0), segName(1)} {
		copyFile(t, older.Root(), old.Root(), name)
	}
	w = mustMount(t, old.Root(), 1, nil)
	if w.j.Knows(lsn) {
		t.Error("the older journal says that it knows a newer record")
	}
}

func TestSegmentsPutBack(t *testing.T) {
	fs, w := newWorld(t, 1)
	im := fs.Snapshot()
	for i := range 40 { // around all segments
		lsn, _ := mustWrite(t, w, 0, uint64(i))
		must(t, w.j.Commit(lsn))
		if i%10 == 9 {
			must(t, w.j.Drain())
		}
	}
	w.abandon()
	older := im.Crash(crashfs.Kept)
	for n := range 2 {
		copyFile(t, older.Root(), fs.Root(), segName(n))
	}
	if _, err := mount(t, fs.Root(), 1, nil); !errors.Is(err, ErrMissing) && !errors.Is(err, ErrTampered) {
		t.Errorf("got %v, want it refused", err)
	}
}

func TestForeignJournal(t *testing.T) {
	a, _ := committed(t, 3)
	b, _ := committed(t, 3)
	copyFile(t, b.Root(), a.Root(), segName(0))
	if _, err := mount(t, a.Root(), 1, nil); !errors.Is(err, ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
}

// Segments in another directory that the next mount does not know of.
func TestForgottenPlace(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	must(t, fs.Root().Mkdir("elsewhere", 0o700))
	there, err := fs.Root().OpenDir("elsewhere")
	must(t, err)
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.Dir = there })
	lsn, a := mustWrite(t, w, 0, 1)
	must(t, w.j.Commit(lsn))
	w.abandon()
	if _, err := mount(t, fs.Root(), 1, nil); !errors.Is(err, ErrMissing) {
		t.Errorf("without the place: got %v, want ErrMissing", err)
	}
	w = mustMount(t, fs.Root(), 1, func(c *Config) { c.Dir = there })
	wantBlock(t, w, 0, 1, a)
	must(t, w.unmount())
	w = mustMount(t, fs.Root(), 1, nil) // after a clean one, anywhere
	wantBlock(t, w, 0, 1, a)
}

// A sector that cannot be read is not the end of the journal.
func TestReadErrorIsNotTheEnd(t *testing.T) {
	fs, _ := committed(t, 5)
	for skip := range 20 {
		faults := faultfs.New(fs.Root())
		faults.Set(faultfs.Plan{Kind: faultfs.Read, Skip: skip, Times: 1, Err: unix.EIO,
			Match: func(name string) bool { return name == segName(0) }})
		_, err := mount(t, faults.Root(), 1, func(c *Config) { c.ReadOnly = true })
		if faults.Hits() == 0 {
			if skip < 6 {
				t.Errorf("only %d reads", skip)
			}
			return
		}
		if !errors.Is(err, unix.EIO) {
			t.Errorf("read %d: got %v, want EIO", skip, err)
		}
	}
}

// The last batch was lost in a crash, and life went on without it. Who kept a
// copy puts it back.
func TestLostBatchPutBack(t *testing.T) {
	fs, stamps := committed(t, 5)
	var copied []byte
	last := int64(firstBatch + 4*8192)
	for off := last; off < last+8192; off += 4096 {
		patch(t, fs.Root(), segName(0), off, func(b []byte) { copied = append(copied, b...); clear(b) })
	}
	w := mustMount(t, fs.Root(), 1, nil)
	wantBlock(t, w, 0, 4, 0)
	w.abandon()
	for i := range int64(2) {
		patch(t, fs.Root(), segName(0), last+i*4096, func(b []byte) { copy(b, copied[i*4096:]) })
	}
	w = mustMount(t, fs.Root(), 1, nil)
	wantBlock(t, w, 0, 3, stamps[3])
	wantBlock(t, w, 0, 4, 0)
}

// A batch that is authentic and in its place, but continues something else.
func TestBrokenChain(t *testing.T) {
	fs, _ := committed(t, 5)
	patch(t, fs.Root(), segName(0), firstBatch+4*8192, func(b []byte) {
		h, _, ok := parseBatchHeader(b, 8192)
		if !ok {
			t.Fatal("no batch there")
		}
		h.prev[0] ^= 1
		h.encode(b)
		in, err := recordBounds(append(b[batchHead:], make([]byte, 8192)...))
		must(t, err)
		sealBatch(b, []recPlace{{batchHead, in}}, testAuth("key"))
	})
	w := mustMount(t, fs.Root(), 1, nil)
	wantBlock(t, w, 0, 4, 0)
}
