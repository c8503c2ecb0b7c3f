package blockfile

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
)

// testHome is a journal and the files that it checkpoints.
type testHome struct {
	t   testing.TB
	dir backing.Dir
	c   journal.Config
	j   *journal.Journal
	log *slog.Logger

	mu    sync.Mutex
	files map[cipher.FileID]*File
}

func (h *testHome) add(f *File) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[f.ID()] = f
}

// Checkpoint is that of a volume without names: a file that is not open waits.
func (h *testHome) Checkpoint(files []journal.Ref, through journal.LSN) (gone []cipher.FileID, err error) {
	var errs []error
	for _, r := range files {
		h.mu.Lock()
		f := h.files[r.ID]
		h.mu.Unlock()
		if f == nil {
			continue
		}
		if f.HeaderNew() {
			errs = append(errs, f.SyncHeader())
		}
		c, err := f.Checkpoint(through)
		errs = append(errs, err)
		if c != nil {
			err := c.Sync()
			errs = append(errs, err)
			c.End(err == nil)
		}
	}
	return nil, errors.Join(errs...)
}

// withJournal gives the files of d a small journal, whose checkpoints come often.
func (d *disk) withJournal() {
	d.t.Helper()
	dir, err := backing.OpenDir(d.t.TempDir())
	if err != nil {
		d.t.Fatal(err)
	}
	auth := d.c.Volume.Authenticator("journal")
	if err := journal.CreateSuper(dir, auth, nil); err != nil {
		d.t.Fatal(err)
	}
	bs := d.c.Volume.BlockSize()
	segment := max(int64(bs)*40, 256<<10)
	d.journal = &testHome{t: d.t, dir: dir, log: d.c.Log, c: journal.Config{
		Dir: dir, Auth: auth, Layout: d.c.Volume.Layout(), Size: 6 * segment, SegmentSize: segment, MaxRequest: bs,
		CheckpointInterval: 40 * time.Millisecond, CommitInterval: 20 * time.Millisecond, Log: d.c.Log,
	}}
	d.c.StreamFrom = int64(2 * bs)
	d.openJournal()
	d.t.Cleanup(func() { d.journal.j.Close(false); dir.Close() })
}

func (d *disk) openJournal() {
	d.t.Helper()
	h := d.journal
	h.files = map[cipher.FileID]*File{}
	super, err := journal.OpenSuper(h.dir, h.c.Auth)
	if err != nil {
		d.t.Fatal(err)
	}
	h.c.Super = super
	if h.j, err = journal.Open(h.c); err != nil {
		d.t.Fatal(err)
	}
	h.j.Start(h)
	d.c.Journal = h.j
}

// recover ends the journal without a checkpoint and opens it again. No file is
// open.
func (d *disk) recover() {
	d.t.Helper()
	if err := d.journal.j.Close(false); err != nil {
		d.t.Fatal(err)
	}
	d.journal.c.Super.Close()
	d.openJournal()
}

// drain brings everything home.
func (d *disk) drain() {
	d.t.Helper()
	if d.journal == nil {
		return
	}
	if err := d.journal.j.Drain(); err != nil {
		d.t.Fatal(err)
	}
	if live := d.journal.j.LiveFiles(); len(live) > 0 {
		d.t.Fatalf("live after a drain: %v", live)
	}
}

// TestCheckpointBesideWriters changes a file, its end above all, while one
// checkpoint follows the other.
func TestCheckpointBesideWriters(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.withJournal()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	f := d.create("f")
	want := []byte{}
	for life := range 6 {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := d.journal.j.Drain(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for i := range 400 {
			switch k := rnd.IntN(10); {
			case k < 7:
				p := pattern(life*1000+i, rnd.IntN(9000)+1)
				write(t, f, p, int64(len(want)))
				want = append(want, p...)
			case k < 9:
				size := len(want) * rnd.IntN(100) / 100
				if err := f.Truncate(int64(size)); err != nil {
					t.Fatal(err)
				}
				want = want[:size]
			case len(want) > 0:
				p := pattern(i, 10_000)[:min(10_000, len(want))]
				off := rnd.IntN(len(want) - len(p) + 1)
				write(t, f, p, int64(off))
				copy(want[off:], p)
			}
		}
		close(stop)
		<-stopped
		if err := errors.Join(f.EndStream(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if life%2 == 0 {
			d.recover()
		}
		f = d.mustOpen("f")
		if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
			t.Fatalf("life %d, seed %d: content differs, %d bytes, want %d", life, seed, len(got), len(want))
		}
	}
	d.drain()
	f.Close()
	d.checkChain("f")
}
