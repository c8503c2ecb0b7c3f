package volume

import (
	"testing"
	"time"
)

// tar says "file changed as we read it" of a file whose change time moved.
func TestCheckpointDoesNotMoveChangeTime(t *testing.T) {
	for _, closed := range []bool{false, true} {
		v := newVolume(t, 4096)
		h := v.makeFile("f", make([]byte, 30_000))
		e, err := v.Lookup(RootID, "f") // who knows the file
		must(t, err)
		if closed {
			must(t, h.Close())
		}
		now := func() time.Time {
			st := v.stat("f")
			return time.Unix(st.Ctim.Unix())
		}
		// The backing filesystem's clock ticks every few milliseconds.
		tick := func() { time.Sleep(20 * time.Millisecond) }

		written := now()
		tick()
		must(t, v.journal.Drain())
		if got := now(); !got.Equal(written) {
			t.Errorf("closed %v: the checkpoint moved the change time by %v", closed, got.Sub(written))
		}
		_, err = v.SetAttr(e.ID, Change{Mask: ChangeMode, Mode: 0o640})
		must(t, err)
		changed := now()
		if !changed.After(written) {
			t.Errorf("closed %v: chmod after the checkpoint left the change time at %v", closed, changed)
		}

		other := h
		if closed {
			other, err = v.Open(e.ID, OpenOptions{})
			must(t, err)
		}
		_, err = other.WriteAt([]byte("more"), 10_000, Writer{})
		must(t, err)
		written = now()
		tick()
		done := v.holdCtime(other.file) // as by a checkpoint; and a chmod and a link meanwhile
		_, err = v.SetAttr(e.ID, Change{Mask: ChangeMode, Mode: 0o600})
		must(t, err)
		during := now()
		tick()
		_, err = v.Link(e.ID, RootID, "g")
		must(t, err)
		linked := now()
		done()
		if after := now(); !during.After(written) || !linked.After(during) || after.Before(linked) {
			t.Errorf("closed %v: change times %v when written, %v after a chmod, %v after a link, %v after the checkpoint",
				closed, written, during, linked, after)
		}
		must(t, v.journal.Drain())
		if after := now(); after.Before(linked) {
			t.Errorf("closed %v: the next checkpoint brought the change time back to %v", closed, after)
		}
		must(t, other.Close())
		v.Forget(e.ID, 1)
	}
}
