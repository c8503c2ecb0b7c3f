package journal

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

const crashFiles = 3

// scale multiplies the number of runs: make crash gives more, see CRASHSCALE.
var scale = flag.Int("crash.scale", 1, "how much longer crash tests run")

// moment is what the disk and the promises were at one operation.
type moment struct {
	image *crashfs.Image
	acked LSN // all records up to here were acknowledged
	op    crashfs.Op
}

// history is a run of random changes on a filesystem that is photographed at
// every operation.
type history struct {
	moments []moment
	states  map[LSN]map[cipher.FileID]content // after each record
	acked   LSN
	moves   int // times that segments were freed although a file was stuck
}

func (h *history) record(fs *crashfs.FS) {
	fs.OnOp(func(op crashfs.Op) { h.moments = append(h.moments, moment{fs.Snapshot(), h.acked, op}) })
}

// note remembers the state after a record.
func (h *history) note(lsn LSN, state map[cipher.FileID]content) {
	c := map[cipher.FileID]content{}
	for id, s := range state {
		c[id] = s.clone()
	}
	h.states[lsn] = c
}

// runHistory makes so many random steps.
func runHistory(t testing.TB, seed uint64, steps int) *history {
	fs := crashfs.New()
	format(t, fs.Root(), crashFiles)
	h := &history{states: map[LSN]map[cipher.FileID]content{}}
	h.record(fs)
	w := mustMount(t, fs.Root(), crashFiles, func(c *Config) { c.Size *= int64(1 + seed%2) })
	r := rand.New(rand.NewPCG(seed, 2))
	state := map[cipher.FileID]content{}
	for i := range crashFiles {
		state[fileID(i)] = content{0, map[uint64]uint64{}}
	}
	h.note(0, state)
	for range steps {
		w.step(r, h, state)
	}
	fs.OnOp(nil)
	h.moments = append(h.moments, moment{fs.Snapshot(), h.acked, "end"})
	w.abandon()
	return h
}

// step makes one random change, or a commit, or a checkpoint. Space is made
// when it runs out, since nothing works in the background.
func (w *world) step(r *rand.Rand, h *history, state map[cipher.FileID]content) {
	id := fileID(r.IntN(crashFiles))
	c := state[id]
	if !w.roomy() {
		w.makeRoom(h)
	}
	switch k := r.IntN(22); {
	case k < 10:
		i, n := uint64(r.IntN(60)), r.IntN(3)+1
		if r.IntN(4) == 0 {
			i = uint64(r.IntN(300))
		}
		lsn, stamp, err := w.write(id, i, n)
		must(w.t, err)
		for b := i; b < i+uint64(n); b++ {
			c.blocks[b] = stamp
		}
		c.size = max(c.size, int64(i+uint64(n))*testBlock)
		state[id] = c
		h.note(lsn, state)
	case k < 12:
		blocks := uint64(r.IntN(100))
		lsn, err := w.truncate(id, blocks)
		must(w.t, err)
		for b := range c.blocks {
			if b >= blocks {
				delete(c.blocks, b)
			}
		}
		c.size = int64(blocks) * testBlock
		state[id] = c
		h.note(lsn, state)
	case k < 13:
		i := uint64(r.IntN(8))
		lsn, err := w.punch(id, i, 5)
		must(w.t, err)
		for b := i; b < i+5; b++ {
			delete(c.blocks, b)
		}
		h.note(lsn, state)
	case k < 17:
		lsn := w.files[id].jf.LSN()
		must(w.t, w.j.Commit(lsn))
		if h.states[lsn] != nil { // else it is of an earlier life
			h.acked = max(h.acked, lsn)
		}
	case k < 18:
		if r.IntN(2) == 0 { // one file only
			if err := w.checkpoint(id, w.j.lastLSN()); err != nil && !errors.Is(err, errTestStuck) {
				w.t.Fatal(err)
			}
			must(w.t, w.j.Trim())
			break
		}
		w.pass(w.j.lastLSN() - LSN(r.IntN(4)))
	case k < 19:
		must(w.t, w.j.writeQueue(0)) // no flush
	case k < 20:
		must(w.t, w.files[id].f.Datasync()) // as the kernel may write back
	default:
		w.stuck = map[cipher.FileID]stuckness{id: stuckness(r.IntN(3))}
	}
}

// pass lets files fail that are stuck.
func (w *world) pass(through LSN) {
	if _, err := w.j.pass(through); err != nil && (!errors.Is(err, errTestStuck) || len(w.stuck) == 0) {
		w.t.Fatal(err)
	}
}

// makeRoom has records of stuck files moved, or if there are too many lets them
// go home.
func (w *world) makeRoom(h *history) {
	first := w.j.live[0]
	w.pass(w.j.live[(len(w.j.live)+1)/2].first - 1)
	if w.stuck != nil && w.j.live[0] != first {
		h.moves++
	}
	for !w.roomy() {
		w.stuck = nil
		w.pass(w.j.lastLSN())
	}
}

// roomy reports whether any record can be appended without waiting.
func (w *world) roomy() bool {
	for {
		w.j.mu.Lock()
		grow := w.j.growable()
		ok := w.j.room()-w.j.spare() >= int64(w.j.maxBatch)
		w.j.mu.Unlock()
		if ok || !grow {
			return ok
		}
		w.j.grow()
	}
}

// verify mounts a filesystem after a crash and compares.
func (h *history) verify(t testing.TB, fs *crashfs.FS, m moment) (LSN, error) {
	w, err := mount(t, fs.Root(), crashFiles, nil)
	if err != nil {
		return 0, fmt.Errorf("mount: %w", err)
	}
	defer w.abandon()
	return h.compare(w, m.acked)
}

// compare checks that w has the state after the last record it recovered, which
// it returns, 0 for what was before the first.
func (h *history) compare(w *world, acked LSN) (LSN, error) {
	end := w.super.state().runFrom
	var lsn LSN
	for l := range h.states {
		if l < end {
			lsn = max(lsn, l)
		}
	}
	if lsn < acked {
		return 0, fmt.Errorf("recovered up to record %d, %d was acknowledged", lsn, acked)
	}
	want := h.states[lsn]
	got, err := w.contents()
	if err != nil {
		return 0, fmt.Errorf("after record %d: %w", lsn, err)
	}
	if !reflect.DeepEqual(got, want) {
		for id := range want {
			if !reflect.DeepEqual(got[id], want[id]) {
				return 0, fmt.Errorf("after record %d, file %d: got %v\nwant %v", lsn, id[15], got[id], want[id])
			}
		}
	}
	return lsn, nil
}

func choosers(seed uint64, seeds int) map[string]crashfs.Chooser {
	c := map[string]crashfs.Chooser{
		"lost": crashfs.Lost, "kept": crashfs.Kept,
		"names": crashfs.Only(crashfs.KindName), "sizes": crashfs.Only(crashfs.KindSize, crashfs.KindName),
		"sectors": crashfs.Only(crashfs.KindSector),
	}
	for i := range seeds {
		s := seed*1000 + uint64(i)
		c[fmt.Sprint("seed ", s)] = crashfs.Seed(s)
	}
	return c
}

// TestCrashAnywhere is the heart: at each operation of a random run, power
// fails in many ways; the recovered state is exactly that after some record at
// or above the last acknowledged one, of all files alike.
func TestCrashAnywhere(t *testing.T) {
	states, moves := 0, 0
	for seed := range uint64(2 * *scale) {
		h := runHistory(t, seed, 80)
		moves += h.moves
		for at, m := range h.moments {
			for name, choose := range choosers(seed<<20|uint64(at), 3) {
				states++
				if _, err := h.verify(t, m.image.Crash(choose), m); err != nil {
					t.Fatalf("seed %d, operation %d of %d (%s), %s: %v", seed, at, len(h.moments), m.op, name, err)
				}
			}
		}
	}
	t.Logf("%d states, %d moves", states, moves)
}

// TestCrashInRecovery crashes again at each operation of a recovery, and goes
// on after it.
func TestCrashInRecovery(t *testing.T) {
	states := 0
	for seed := range uint64(*scale) {
		h := runHistory(t, 1000+seed, 40)
		r := rand.New(rand.NewPCG(seed, 3))
		for range 25 {
			at := r.IntN(len(h.moments))
			m := h.moments[at]
			first := r.Uint64()
			fs := m.image.Crash(crashfs.Seed(first))
			var again []*crashfs.Image
			fs.OnOp(func(crashfs.Op) { again = append(again, fs.Snapshot()) })
			lsn, err := h.verify(t, fs, m)
			if err != nil {
				t.Fatalf("seed %d, operation %d, crash %d: %v", seed, at, first, err)
			}
			fs.OnOp(nil)
			for k, im := range append(again, fs.Snapshot()) {
				for name, choose := range choosers(first, 3) {
					states++
					got, err := h.verify(t, im.Crash(choose), moment{acked: m.acked})
					if err == nil && got != lsn {
						err = fmt.Errorf("recovered to record %d, the first recovery to %d", got, lsn)
					}
					if err != nil {
						t.Fatalf("seed %d, operation %d, crash %d, operation %d of recovery, %s: %v", seed, at, first, k, name, err)
					}
				}
			}
		}
	}
	t.Logf("%d states", states)
}

// TestLifeAfterCrash crashes, mounts, goes on, and crashes again, many times.
func TestLifeAfterCrash(t *testing.T) {
	for seed := range uint64(5 * *scale) {
		r := rand.New(rand.NewPCG(seed, 4))
		fs := crashfs.New()
		format(t, fs.Root(), crashFiles)
		state := map[cipher.FileID]content{}
		for i := range crashFiles {
			state[fileID(i)] = content{0, map[uint64]uint64{}}
		}
		stamp := uint64(0)
		for life := range 25 {
			h := &history{states: map[LSN]map[cipher.FileID]content{}}
			w := mustMount(t, fs.Root(), crashFiles, nil)
			w.stamp = stamp
			h.note(0, state)
			for range r.IntN(40) {
				w.step(r, h, state)
			}
			stamp = w.stamp
			if r.IntN(5) == 0 {
				w.stuck = nil
				must(t, w.unmount())
				fs = fs.Snapshot().Crash(crashfs.Lost)
			} else {
				w.abandon()
				if r.IntN(3) > 0 { // else it is only killed
					fs = fs.Snapshot().Crash(crashfs.Seed(r.Uint64()))
				}
				lsn, err := h.verify(t, fs, moment{acked: h.acked})
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				state = h.states[lsn]
			}
		}
	}
}
