package volume

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenUnlinkedBeyondTheBound removes more files, whose nodes are known, than
// are kept open: who opens one of the others is told to look it up again, all are
// given up at last, and then there is room for more.
func TestOpenUnlinkedBeyondTheBound(t *testing.T) {
	v := newVolume(t, 4096)
	for round := range 2 {
		const extra = 20
		var ids []NodeID
		for i := range maxOrphans + extra {
			name := fmt.Sprint("f", i)
			h := v.makeFile(name, []byte(name))
			if i%2 == 0 {
				must(t, h.Sync(false))
			}
			ids = append(ids, h.Node())
			e, err := v.Lookup(RootID, name) // and it stays known
			must(t, err)
			if e.ID != h.Node() {
				t.Fatalf("%s is node %d and %d", name, h.Node(), e.ID)
			}
			must(t, h.Close())
		}
		must(t, v.journal.Drain())
		for i := range ids {
			must(t, v.Unlink(RootID, fmt.Sprint("f", i)))
		}
		must(t, v.journal.Drain())
		opened, stale := 0, 0
		for i, id := range ids {
			if st, err := v.GetAttr(id); err != nil || st.Nlink != 0 {
				t.Errorf("attributes of a removed file: %d links, %v", st.Nlink, err)
			}
			h, err := v.Open(id, OpenOptions{})
			if errors.Is(err, unix.ESTALE) {
				stale++
				continue
			}
			must(t, err)
			opened++
			want := fmt.Sprint("f", i)
			p := make([]byte, 20)
			if n, err := h.ReadAt(p, 0); err != nil || string(p[:n]) != want {
				t.Errorf("%s reads %q, %v", want, p[:n], err)
			}
			_, err = h.WriteAt([]byte("more"), 4096, Writer{})
			must(t, err)
			must(t, h.Sync(true))
			must(t, h.Close())
		}
		if opened != maxOrphans || stale != extra {
			t.Errorf("round %d: %d could be opened, %d not; want %d and %d", round, opened, stale, maxOrphans, extra)
		}
		for _, id := range ids {
			v.Forget(id, 100)
		}
		if n := v.table.orphans.Load(); n != 0 || len(v.files.kept) != 0 {
			t.Errorf("round %d: %d files are kept, of %d inodes", round, n, len(v.files.kept))
		}
		must(t, v.journal.Drain())
		if n := len(v.files.all()); n != 0 {
			t.Errorf("round %d: %d files stay open", round, n)
		}
	}
	must(t, v.journal.Drain())
	if s := v.journal.Stats(); s.Files != 0 {
		t.Errorf("the journal has records of %d files that are gone", s.Files)
	}
}
