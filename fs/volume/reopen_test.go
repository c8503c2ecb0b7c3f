package volume

import (
	"bytes"
	"testing"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
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
