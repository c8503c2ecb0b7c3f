package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

func ofJournal(name string) bool { return name == superName || strings.HasPrefix(name, segPrefix) }

// The n-th write or sync of the journal fails: the caller is told, nothing is
// acknowledged any more, and what was acknowledged survives a power cut.
func TestJournalFailures(t *testing.T) {
	plans := []faultfs.Plan{
		{Kind: faultfs.Write, Err: unix.EIO}, {Kind: faultfs.Write, Err: unix.ENOSPC, Short: 1000},
		{Kind: faultfs.Write, Err: unix.EIO, Short: 5000}, {Kind: faultfs.Sync, Err: unix.EIO},
	}
	for k, plan := range plans {
		for skip := 0; ; skip++ {
			fs := crashfs.New()
			format(t, fs.Root(), 1)
			faults := faultfs.New(fs.Root())
			told := make(chan error, 1)
			w := mustMount(t, faults.Root(), 1, func(c *Config) { c.Fail = func(err error) { told <- err } })
			plan.Skip, plan.Times, plan.Match = skip, 1, ofJournal
			faults.Set(plan)
			acked, failed := failingRun(w)
			if faults.Hits() == 0 {
				if skip < 10 {
					t.Errorf("plan %d: only %d operations", k, skip)
				}
				break
			}
			where := fmt.Sprintf("%v, %v short by %d, number %d", plan.Kind, plan.Err, plan.Short, skip)
			if failed == nil {
				t.Fatalf("%s: nobody was told", where)
			}
			if err := w.j.Commit(w.j.lastLSN()); w.j.failure() == nil || (err == nil && w.j.durable != w.j.next) {
				t.Errorf("%s: the failure is not sticky: %v", where, err)
			}
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				t.Errorf("%s: Fail was not called", where)
			}
			im := fs.Snapshot()
			w.abandon()
			for _, c := range choosers(uint64(skip), 3) {
				after := mustMount(t, im.Crash(c).Root(), 1, nil)
				for block, stamp := range acked {
					c, err := after.files[fileID(0)].content(fileID(0))
					must(t, err)
					if c.blocks[block] < stamp {
						t.Errorf("%s: block %d holds %d, %d was acknowledged", where, block, c.blocks[block], stamp)
					}
				}
				after.abandon()
			}
		}
	}
}

// failingRun writes, commits and checkpoints until something fails. It returns
// what was acknowledged.
func failingRun(w *world) (acked map[uint64]uint64, failed error) {
	acked = map[uint64]uint64{}
	for i := range uint64(24) {
		lsn, stamp, err := w.write(fileID(0), i%7, 1)
		if err == nil {
			err = w.j.Commit(lsn)
		}
		if err != nil {
			return acked, err
		}
		acked[i%7] = stamp
		if i%8 == 7 {
			if err := w.j.Drain(); err != nil {
				return acked, err
			}
		}
	}
	return acked, nil
}

// Home is full: nobody is lied to, nothing is lost, and room heals it.
func TestHomeIsFull(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	faults := faultfs.New(fs.Root())
	w := mustMount(t, faults.Root(), 1, func(c *Config) {
		c.Fail = func(err error) { t.Errorf("the volume is called failed: %v", err) }
	})
	w.j.home = nil
	w.j.Start(w)
	faults.Set(faultfs.Plan{Kind: faultfs.Write, Err: unix.ENOSPC, Match: func(name string) bool { return !ofJournal(name) }})
	want := map[uint64]uint64{}
	var err error
	for i := range uint64(200) {
		var lsn LSN
		var stamp uint64
		if lsn, stamp, err = w.write(fileID(0), i%60, 1); err != nil {
			break
		}
		must(t, w.j.Commit(lsn))
		want[i%60] = stamp
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("writing into a full journal: got %v, want ENOSPC", err)
	}
	check := func(w *world) {
		t.Helper()
		c, err := w.files[fileID(0)].content(fileID(0))
		must(t, err)
		for b, s := range want {
			if c.blocks[b] != s {
				t.Errorf("block %d holds %d, want %d", b, c.blocks[b], s)
			}
		}
	}
	check(w)
	im := fs.Snapshot()
	faults.Clear()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, s, err := w.write(fileID(0), 60, 1); err == nil {
			want[60] = s
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not heal")
		}
		time.Sleep(20 * time.Millisecond)
	}
	check(w)
	must(t, w.unmount())
	delete(want, 60)
	check(mustMount(t, im.Crash(crashfs.Lost).Root(), 1, nil))
}

// A home that cannot be written stops the volume; other errors do not.
func TestHomeFails(t *testing.T) {
	for _, err := range []error{fmt.Errorf("%w: %w", ErrHome, unix.EIO), unix.EMFILE} {
		told := make(chan error, 1)
		fs := crashfs.New()
		format(t, fs.Root(), 1)
		w := mustMount(t, fs.Root(), 1, func(c *Config) { c.Fail = func(err error) { told <- err } })
		w.j.home = homeError{err}
		lsn, _ := mustWrite(t, w, 0, 1)
		if got := w.j.Drain(); !errors.Is(got, err) {
			t.Errorf("Drain: got %v, want %v", got, err)
		}
		select {
		case <-told:
			if !errors.Is(err, ErrHome) {
				t.Errorf("%v stopped the volume", err)
			}
		case <-time.After(50 * time.Millisecond):
			if errors.Is(err, ErrHome) {
				t.Errorf("%v did not stop the volume", err)
			}
		}
		if err := w.j.Commit(lsn); err != nil {
			t.Errorf("the journal itself failed: %v", err)
		}
		w.abandon()
	}
}

type homeError struct{ err error }

func (h homeError) Checkpoint([]Ref, LSN) ([]cipher.FileID, error) { return nil, h.err }

// No room for more segments: two are enough.
func TestCannotGrow(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	faults := faultfs.New(fs.Root())
	w := mustMount(t, faults.Root(), 1, nil)
	w.j.home = nil
	w.j.Start(w)
	faults.Set(faultfs.Plan{Kind: faultfs.Allocate, Err: unix.ENOSPC, Match: ofJournal})
	for i := range uint64(60) {
		mustWrite(t, w, 0, i%20)
	}
	if n := len(w.j.live) + len(w.j.free); n != 2 {
		t.Errorf("%d segments", n)
	}
	must(t, w.unmount())
}

// A segment whose name could not be made durable does not block its number.
func TestGrowAfterFailedSync(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	faults := faultfs.New(fs.Root())
	w := mustMount(t, faults.Root(), 1, nil)
	faults.Set(faultfs.Plan{Kind: faultfs.DirSync, Times: 1, Err: unix.EIO})
	w.j.grow()
	if w.j.growErr == nil {
		t.Fatal("growing did not fail")
	}
	w.j.growErr = nil
	w.j.grow()
	if w.j.growErr != nil || len(w.j.free) != 2 {
		t.Errorf("growing again: %v, %d free", w.j.growErr, len(w.j.free))
	}
}

// After a failed flush the kernel holds the pages for clean. A mount on the
// same kernel must not take them for durable.
func TestFailedFlushThenMountThenPowerCut(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	faults := faultfs.New(fs.Root())
	w := mustMount(t, faults.Root(), 1, nil)
	faults.Set(faultfs.Plan{Kind: faultfs.Sync, Times: 1, Err: unix.EIO, Match: ofJournal})
	lsn, a := mustWrite(t, w, 0, 1)
	if err := w.j.Commit(lsn); !errors.Is(err, unix.EIO) {
		t.Fatalf("got %v, want EIO", err)
	}
	w.abandon()
	var written []string
	spy := faultfs.New(fs.Root())
	spy.Set(faultfs.Plan{Kind: faultfs.Write, Skip: 1 << 30, Match: func(name string) bool {
		written = append(written, name)
		return false
	}})
	w = mustMount(t, spy.Root(), 1, nil)
	wantBlock(t, w, 0, 1, a)
	if len(written) < 3 || written[0] != segName(0) || written[1] != segName(0) {
		t.Errorf("written at mount: %v, want the segment's header and batch again, then the superblock", written)
	}
	must(t, w.unmount())
}
