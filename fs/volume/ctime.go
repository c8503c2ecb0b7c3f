package volume

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/blockfile"
)

// heldCtime has a file's change time stand still where a checkpoint or the like
// moves that of the backing file: to who reads the file, as tar(1) does, it would
// have changed meanwhile. It lasts as long as the node is known.
type heldCtime struct {
	busy  bool          // the backing file is being changed
	moved unix.Timespec // at home, thereafter
	shown unix.Timespec // instead of moved, and of all that is there while busy
}

// holdCtime is blockfile.Config.Unasked.
func (v *Volume) holdCtime(file *blockfile.File) (done func()) {
	st, err := file.Backing().Stat()
	if err != nil {
		return func() {}
	}
	n := v.table.at(st.Ino)
	if n == nil {
		return func() {}
	}
	n.showCtime(&st)
	_, changed := file.Times()
	shown := later(st.Ctim, changed)
	n.held.Store(&heldCtime{busy: true, shown: shown})
	return func() {
		st, err := file.Backing().Stat()
		if err != nil {
			n.held.Store(nil)
			return
		}
		n.held.Store(&heldCtime{moved: st.Ctim, shown: shown})
	}
}

// showCtime puts into st, which is what the backing filesystem says, the change
// time to show. What a caller changed during a checkpoint is not hidden by it.
func (n *Node) showCtime(st *Stat) {
	h := n.held.Load()
	if h == nil || !h.busy && h.moved != st.Ctim {
		return
	}
	st.Ctim = h.shown
	if at := n.touched.Load(); at != 0 {
		st.Ctim = later(st.Ctim, unix.NsecToTimespec(at))
	}
}

// touch notes that attributes or names of n were changed just now.
func (n *Node) touch() { n.touched.Store(time.Now().UnixNano()) }

func later(a, b unix.Timespec) unix.Timespec {
	if b.Sec > a.Sec || b.Sec == a.Sec && b.Nsec > a.Nsec {
		return b
	}
	return a
}
