package journal

import (
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

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
