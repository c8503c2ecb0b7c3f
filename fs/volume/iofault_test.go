package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
	"github.com/plyfs/plyfs/fs/journal"
)

// isHome accepts files that hold content, not the journal's.
func isHome(name string) bool {
	return name != "super" && !strings.HasPrefix(name, "segment-")
}

// faultRun is a volume on a disk that fails on demand.
type faultRun struct {
	*crashRun
	faults *faultfs.FS
}

func newFaultRun(t testing.TB, c *cipher.Volume) *faultRun {
	t.Helper()
	r := &crashRun{t: t, fs: crashfs.New(), handles: map[int]*Handle{}, o: &oracle{names: map[string][]candidate{}}}
	check(t, Format(r.fs.Root(), c))
	f := &faultRun{r, faultfs.New(r.fs.Root())}
	config := crashConfig(r.fs, c)
	config.Root = f.faults.Root()
	var err error
	r.v, err = Open(config)
	check(t, err)
	r.prepare()
	return f
}

// attempt makes a change of file a that may fail, and tries to make it durable.
// Only what was told to be durable counts as that.
func (r *faultRun) attempt(become func([]byte) []byte, do func(h *Handle) error) error {
	i, h := r.fileOf("a")
	r.tell(func(o *oracle) {
		f := o.files[i]
		f.versions = append(f.versions, become(slices.Clone(f.now())))
	})
	err := do(h)
	serr := h.Sync(false)
	if serr == nil && err == nil {
		r.tell(func(o *oracle) { o.files[i].acked = len(o.files[i].versions) - 1 })
	}
	return errors.Join(err, serr)
}

var faultOps = map[string]func(r *faultRun) error{
	"overwrite": func(r *faultRun) error { return r.put(100, 9000) },
	"append":    func(r *faultRun) error { return r.put(20_000, 9000) },
	"far write": func(r *faultRun) error { return r.put(700_000, 5000) },
	"truncate": func(r *faultRun) error {
		return r.attempt(func(b []byte) []byte { return b[:5000] }, func(h *Handle) error {
			_, err := r.v.SetAttr(h.Node(), Change{Mask: ChangeSize, Size: 5000})
			return err
		})
	},
	"punch": func(r *faultRun) error {
		return r.attempt(func(b []byte) []byte { clear(b[4096:13_000]); return b },
			func(h *Handle) error { return h.Allocate(punchHole|keepSize, 4096, 13_000-4096, Writer{}) })
	},
	"allocate": func(r *faultRun) error {
		return r.attempt(func(b []byte) []byte { return grown(b, 50_000) },
			func(h *Handle) error { return h.Allocate(0, 0, 50_000, Writer{}) })
	},
}

func (r *faultRun) put(off int64, n int) error {
	p := bytes.Repeat([]byte{0xab}, n)
	return r.attempt(func(b []byte) []byte {
		b = grown(b, off+int64(n))
		copy(b[off:], p)
		return b
	}, func(h *Handle) error {
		_, err := h.WriteAt(p, off, Writer{})
		return err
	})
}

// TestFaultsKeepWhatWasAcknowledged fails each call to the disk, once or from
// then on, while a change is made, committed and checkpointed. The caller is
// told or the change is there; what was acknowledged before is there always:
// in this mount, and after a power cut.
func TestFaultsKeepWhatWasAcknowledged(t *testing.T) {
	c := crashCipher(t)
	for _, op := range slices.Sorted(maps.Keys(faultOps)) {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			runs, hits := 0, 0
			for _, kind := range []faultfs.Kind{faultfs.Write, faultfs.Truncate, faultfs.Allocate, faultfs.Sync, faultfs.DirSync, faultfs.Attr} {
				for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
					for _, times := range []int{1, 0} {
						for skip := range 12 {
							if (skip+5*int(kind)+times)%oneIn(3) > 0 {
								continue
							}
							runs++
							plan := faultfs.Plan{Kind: kind, Skip: skip, Times: times, Err: errno, Short: 700 * (skip % 3)}
							if !faultOnce(t, c, op, plan) {
								break
							}
							hits++
						}
					}
				}
			}
			t.Logf("%d runs, %d with a fault", runs, hits)
		})
	}
}

// faultOnce reports whether the plan applied.
func faultOnce(t *testing.T, c *cipher.Volume, op string, plan faultfs.Plan) bool {
	t.Helper()
	what := fmt.Sprintf("%v failure %d, times %d, %v", plan.Kind, plan.Skip, plan.Times, plan.Err)
	r := newFaultRun(t, c)
	r.faults.Set(plan)
	err := faultOps[op](r)
	derr := r.v.journal.Drain()
	hit := r.faults.Hits() > 0
	if err := r.o.judge(r.v); err != nil && plan.Times == 1 {
		t.Errorf("%s: in the same mount: %v", what, err)
	}
	r.faults.Clear()
	if s, _ := r.v.Journal(); plan.Err == unix.ENOSPC && err == nil && derr != nil && s.Err == nil {
		// Space is there again: it heals without a mount.
		if err := r.v.journal.Drain(); err != nil {
			t.Errorf("%s: with space again: %v", what, err)
		}
		if err := r.put(30_000, 100); err != nil {
			t.Errorf("%s: writing with space again: %v", what, err)
		}
	}
	if err == nil && !hit && derr != nil {
		t.Errorf("%s: %v without a fault", what, derr)
	}
	image, o := r.fs.Snapshot(), r.o.clone()
	for _, h := range r.handles {
		h.Close()
	}
	cerr := r.v.Close()
	if (r.v.broken.Load() || derr != nil && plan.Err == unix.EIO && plan.Times == 0) && cerr == nil && len(r.v.files.all()) > 0 {
		t.Errorf("%s: closed without an error", what)
	}
	for how, choose := range map[string]crashfs.Chooser{"lost": crashfs.Lost, "kept": crashfs.Kept, "seed": crashfs.Seed(uint64(plan.Skip))} {
		if err := survive(t, c, image.Crash(choose), o, false, nil); err != nil {
			t.Errorf("%s, then a power cut, %s: %v", what, how, err)
		}
	}
	if err := survive(t, c, r.fs.Snapshot().Crash(crashfs.Kept), o, true, nil); err != nil {
		t.Errorf("%s, then an unmount: %v", what, err)
	}
	return hit
}

// TestOnlyTheCheckpointWritesHome lets every write and truncation of files with
// content fail: changes and commits must not notice.
func TestOnlyTheCheckpointWritesHome(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	r.checkpointAll()
	for _, kind := range []faultfs.Kind{faultfs.Write, faultfs.Truncate} {
		r.faults.Set(faultfs.Plan{Kind: kind, Err: unix.EIO, Match: isHome})
	}
	for range 2 {
		r.write("a", 0, 9000)
		r.write("a", 19_000, 9000)
		r.write("b", 700_000, 10)
		r.truncate("b", 250_000)
		r.truncate("b", 250_000)
		r.punch("b", 100, 50_000)
		r.zero("b", 240_000, 20_000)
		r.allocate("a", 0, 60_000)
		r.sync("a", true)
		r.sync("b", false)
		r.close("a")
		r.close("b")
	}
	check(t, r.o.judge(r.v))
	if err := r.v.journal.Drain(); !errors.Is(err, journal.ErrHome) {
		t.Errorf("a checkpoint that cannot write: %v", err)
	}
	r.faults.Clear()
	r.close("a")
	r.close("b")
	check(t, r.o.judge(r.v))
	r.v.Close()
}

// TestBrokenVolumeIsReadOnly lets a flush of the journal fail.
func TestBrokenVolumeIsReadOnly(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	r.faults.Set(faultfs.Plan{Kind: faultfs.Sync, Times: 1, Err: unix.EIO, Match: func(name string) bool { return !isHome(name) }})
	_, h := r.fileOf("a")
	_, err := h.WriteAt([]byte("x"), 0, Writer{})
	check(t, err)
	if err := h.Sync(true); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync: got %v, want EIO", err)
	}
	if err := h.Sync(true); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync again: got %v, want EIO: a failed flush is never retried", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for !r.v.broken.Load() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if _, err := h.WriteAt([]byte("y"), 0, Writer{}); err != unix.EROFS {
		t.Errorf("write: got %v, want EROFS", err)
	}
	if _, _, err := r.v.Create(RootID, "new", Creator{}, OpenOptions{}); err != unix.EROFS {
		t.Errorf("create: got %v, want EROFS", err)
	}
	p := make([]byte, 20_000)
	if _, err := h.ReadAt(p, 0); err != nil || p[0] != 'x' {
		t.Errorf("read: %q, %v", p[0], err)
	}
	for _, h := range r.handles {
		h.Close()
	}
	if err := r.v.Close(); err == nil {
		t.Error("closing tells nothing")
	}
}

// TestCloseTellsOfALostJournal has the journal fail under what was written and
// not synced: who closes that file is told, who closes another is not.
func TestCloseTellsOfALostJournal(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	_, a := r.fileOf("a")
	_, b := r.fileOf("b")
	_, err := a.WriteAt([]byte("lost"), 0, Writer{})
	check(t, err)
	if err := a.Failure(); err != nil {
		t.Errorf("before anything failed: %v", err)
	}
	r.faults.Set(faultfs.Plan{Kind: faultfs.Sync, Err: unix.EIO, Match: func(name string) bool { return !isHome(name) }})
	if err := a.Sync(true); !errors.Is(err, unix.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	if err := a.Failure(); !errors.Is(err, unix.EIO) {
		t.Errorf("a file whose content was lost: %v, want EIO", err)
	}
	if err := b.Failure(); err != nil {
		t.Errorf("a file that was synced before: %v", err)
	}
	r.faults.Clear()
	r.v.Close() // fails, as it must
}

// TestFailedWritebackThatTheReaperHearsOf fails the sync before removed files are
// dropped: a failure of writeback is told once, and no checkpoint will hear of it.
func TestFailedWritebackThatTheReaperHearsOf(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	r.write("a", 0, 5000)
	r.close("a")
	r.faults.Set(faultfs.Plan{Kind: faultfs.DirSync, Times: 1, Err: unix.EIO})
	r.unlink("a")
	for end := time.Now().Add(time.Minute); !r.v.broken.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody noticed")
		}
	}
	r.close("b")
	if r.v.Close() == nil {
		t.Log("closed without an error") // what is not home is in the journal
	}
	check(t, survive(t, r.v.cipher, r.fs.Snapshot().Crash(crashfs.Lost), r.o, false, nil))
}
