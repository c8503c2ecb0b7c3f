package volume

import (
	"bytes"
	"testing"
	"time"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/blockfile"
	"golang.org/x/sys/unix"
)

// TestReopenedWhileLetGo opens a file anew that a checkpoint has just let go of,
// and has it stream, between any two operations that follow: what is written then
// is there.
func TestReopenedWhileLetGo(t *testing.T) {
	for at := 0; ; at++ {
		r := newCrashRun(t, crashCipher(t))
		for _, name := range []string{"p", "q", "s"} {
			r.create(name)
			r.grow(name, 30_000)
			r.sync(name, false)
		}
		i, h := r.fileOf("q")
		id := h.file.ID()
		for _, name := range []string{"p", "q", "s"} {
			r.close(name)
		}
		ops, done := 0, false
		r.fs.OnOp(func(crashfs.Op) {
			if done || r.v.files.get(id) != nil {
				return
			}
			if ops++; ops <= at {
				return
			}
			done = true // what follows is operations as well
			r.grow("q", 400_000)
			r.streams("q", true)
		})
		r.checkpointAll()
		r.fs.OnOp(nil)
		if !done && at > 0 {
			check(t, r.v.Close())
			return
		}
		if !done {
			r.grow("q", 400_000)
		}
		h = r.handles[i]
		want := r.o.files[i].now()
		p := make([]byte, len(want))
		if n, err := h.ReadAt(p, 0); err != nil || n != len(p) || !bytes.Equal(p, want) {
			t.Errorf("written at operation %d after it was let go: read %d bytes, %v", at, n, err)
		}
		r.sync("q", false)
		r.checkpointAll()
		if err := r.o.judge(r.v); err != nil {
			t.Errorf("written at operation %d after it was let go: %v", at, err)
		}
		r.close("q")
		check(t, r.v.Close())
	}
}

// closedAt makes a file with space ahead of its end and records in the journal,
// sets its modification time and closes it. The node stays known.
func closedAt(t *testing.T, mtime unix.Timespec) (*crashRun, NodeID, *blockfile.File) {
	t.Helper()
	r := newCrashRun(t, crashCipher(t))
	r.create("q")
	r.grow("q", 30_000)
	r.sync("q", false)
	_, h := r.fileOf("q")
	_, err := r.v.SetAttr(h.Node(), Change{Mask: ChangeMtime, Mtime: mtime})
	check(t, err)
	e, err := r.v.Lookup(RootID, "q")
	check(t, err)
	r.close("q")
	return r, e.ID, h.file
}

// TestTimesSetWhileLetGo sets a time just when a checkpoint gives back what was
// allocated ahead, which must not undo it.
func TestTimesSetWhileLetGo(t *testing.T) {
	r, node, file := closedAt(t, unix.Timespec{Sec: 1_000_000})
	want := unix.Timespec{Sec: 2_000_000}
	done, set := false, make(chan struct{})
	r.fs.OnOp(func(op crashfs.Op) {
		if done || op != crashfs.OpTruncate || file.Live() {
			return
		}
		done = true
		go func() {
			defer close(set)
			if _, err := r.v.SetAttr(node, Change{Mask: ChangeMtime, Mtime: want}); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-set:
		case <-time.After(100 * time.Millisecond):
		}
	})
	r.checkpointAll()
	r.fs.OnOp(nil)
	<-set
	st, err := r.v.GetAttr(node)
	check(t, err)
	if !done {
		t.Fatal("not hit")
	}
	if st.Mtim != want {
		t.Errorf("mtime is %v, was set to %v", st.Mtim, want)
	}
	check(t, r.v.Close())
}

// TestTimesShownWhileLetGo looks at the time at each of its operations.
func TestTimesShownWhileLetGo(t *testing.T) {
	old := unix.Timespec{Sec: 1_000_000}
	r, node, _ := closedAt(t, old)
	r.fs.OnOp(func(op crashfs.Op) {
		got := make(chan struct{})
		go func() {
			defer close(got)
			st, err := r.v.GetAttr(node)
			if err != nil || st.Mtim != old {
				t.Errorf("%s: modified %v, %v", op, st.Mtim, err)
			}
		}()
		select {
		case <-got:
		case <-time.After(100 * time.Millisecond):
		}
	})
	r.checkpointAll()
	r.fs.OnOp(nil)
	check(t, r.v.Close())
}
