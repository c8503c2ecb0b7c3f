package journal

import (
	"errors"
	"testing"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

// randFunc is a source of random bytes that tells when it is asked.
type randFunc func(p []byte) (int, error)

func (f randFunc) Read(p []byte) (int, error) { return f(p) }

// TestForgetInAFreeze drops a file while the journal is frozen, and just before:
// what is acknowledged after the thaw outlasts a power cut, and until the thaw no
// segment changes.
func TestForgetInAFreeze(t *testing.T) {
	for _, before := range []bool{false, true} {
		fs := crashfs.New()
		format(t, fs.Root(), 2)
		w := mustMount(t, fs.Root(), 2, nil)
		mustWrite(t, w, 0, 1)
		mustWrite(t, w, 1, 1)
		must(t, w.j.Drain())
		if before {
			w.j.Forget(fileID(1))
		}
		clean, err := w.j.Freeze(true)
		must(t, err)
		if !clean {
			t.Fatal("not clean")
		}
		changed := false
		fs.OnOp(func(crashfs.Op) { changed = true })
		if !before {
			w.j.Forget(fileID(1))
		}
		must(t, w.j.writeSoonNow())
		if changed {
			t.Error("something was written while it was frozen")
		}
		fs.OnOp(nil)
		must(t, w.j.Thaw())
		lsn, stamp := mustWrite(t, w, 0, 2)
		must(t, w.j.Commit(lsn))
		w.abandon()
		after := mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), 2, nil)
		wantBlock(t, after, 0, 2, stamp)
		after.abandon()
	}
}

// writeSoonNow is what the committer does when records wait in memory.
func (j *Journal) writeSoonNow() error {
	j.mu.Lock()
	j.closeBatch()
	j.mu.Unlock()
	return j.writeQueue(0)
}

// TestThawHoldsOffPasses looks whether a pass could come between while a thaw has
// no segment in use.
func TestThawHoldsOffPasses(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	var during func()
	w := mustMount(t, fs.Root(), 1, func(c *Config) {
		c.Rand = randFunc(func(p []byte) (int, error) {
			if during != nil {
				during()
			}
			return len(p), nil
		})
	})
	defer w.abandon()
	_, err := w.j.Freeze(true)
	must(t, err)
	asked := false
	during = func() {
		asked = true
		if w.j.passMu.TryLock() {
			w.j.passMu.Unlock()
			t.Error("a pass can run")
		}
	}
	must(t, w.j.Thaw())
	if !asked {
		t.Error("no new run was begun")
	}
}

// TestFrozenRecordsStay has records that could not go home at the freeze, and
// could now: they stay until the thaw.
func TestFrozenRecordsStay(t *testing.T) {
	fs, w, want := newStuckWorld(t, 3)
	if clean, err := w.j.Freeze(true); clean || err != nil {
		t.Fatalf("clean %v, %v", clean, err)
	}
	changed := false
	fs.OnOp(func(crashfs.Op) { changed = true })
	w.j.passMu.Lock()
	w.stuck = nil
	w.j.passMu.Unlock()
	if err := w.j.Drain(); !errors.Is(err, ErrLive) {
		t.Errorf("a drain: %v, want ErrLive", err)
	}
	if changed {
		t.Error("something was written while it was frozen")
	}
	fs.OnOp(nil)
	must(t, w.j.Thaw())
	must(t, w.j.Drain())
	wantContent(t, w, fileID(0), want)
}

// TestTryReserveTakesNoSpare fills a journal of whose segments one is kept for
// moving records: who does not wait gets none of it, nor what others wait for.
func TestTryReserveTakesNoSpare(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.Size = 4 * testSegment })
	defer w.abandon()
	for i := uint64(0); ; i++ {
		w.j.mu.Lock()
		grow, last := w.j.growable(), len(w.j.free) == 1
		w.j.mu.Unlock()
		if grow {
			w.j.grow()
			continue
		}
		if last {
			break
		}
		mustWrite(t, w, 0, i%50)
	}
	var got int64
	n := Space(1, 1, 1, testBlock)
	for r := w.j.TryReserve(n); r != nil; r = w.j.TryReserve(n) {
		got += int64(n)
	}
	w.j.mu.Lock()
	defer w.j.mu.Unlock()
	if active := w.j.active(); got > active.size-w.j.activeEnd() {
		t.Errorf("%d bytes were given with %d left beside the spare segment", got, active.size-w.j.activeEnd())
	}
	w.j.reserved = 0
	w.j.waiters++
	w.j.free = append(w.j.free, w.j.free...)
	w.j.mu.Unlock()
	if w.j.TryReserve(n) != nil {
		t.Error("given to who does not wait, before who does")
	}
	w.j.mu.Lock()
	w.j.waiters--
	w.j.free = w.j.free[:1]
}
