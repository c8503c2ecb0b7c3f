package volume

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/blockfile"
)

// After an unclean stop a file's backing length may not be what its size takes,
// and the journal has records of files by ID alone. lookAtAll opens every file
// once, in the background; when it is through, the volume is as after a clean
// unmount, a file without a header is damage again, and records of files that
// are nowhere are dropped.

// moves lists names that got another inode while a walk was under way, which
// may so have missed that.
type moves struct {
	mu      sync.Mutex
	done    *sync.Cond // pending is 0
	pending int        // moves under way
	walking bool
	list    []move
}

// move is a name in a directory, which is held.
type move struct {
	dir  *Node
	name backName
}

// moving is to be called before names change, with those that are bound anew,
// and what it returns afterwards.
func (v *Volume) moving(to ...move) (end func()) {
	m := &v.moved
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.walking {
		return func() {}
	}
	m.pending++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, t := range to {
			v.table.hold(t.dir)
		}
		m.list = append(m.list, to...)
		if m.pending--; m.pending == 0 {
			m.done.Broadcast()
		}
	}
}

// start is called with no move under way. What a walk that ended early left in
// the list is the next one's.
func (m *moves) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.walking {
		return
	}
	m.done = sync.NewCond(&m.mu)
	m.walking = true
}

// take waits for moves under way and returns those since the last take. If there
// are none the walk is over.
func (m *moves) take() []move {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.pending > 0 {
		m.done.Wait()
	}
	list := m.list
	m.list = nil
	m.walking = len(list) > 0
	return list
}

// walk is one look at all files.
type walk struct {
	v     *Volume
	stop  <-chan struct{}
	files int
	blind bool                   // some could not be looked at
	again bool                   // for a reason that may pass
	seen  map[cipher.FileID]bool // of files without a readable name
	hints map[uint64]bool        // inode numbers in records, which may be wrong
	brief bool                   // only files are looked at that are hinted at
}

// lookAtAll ends early, without having cleared v.unclean, when v.stop or stop
// is closed.
func (v *Volume) lookAtAll(stop <-chan struct{}) {
	defer v.walk.Done()
	w := &walk{v: v, stop: stop, seen: map[cipher.FileID]bool{}, hints: v.hints()}
	w.lookForHinted()
	whole := w.lookAt(RootID)
	for whole {
		list := v.moved.take()
		if len(list) == 0 {
			break
		}
		for _, m := range list {
			if whole {
				whole = w.lookAtMoved(m)
			} else {
				v.table.letGo(m.dir)
			}
		}
	}
	if !whole {
		return
	}
	w.dropLost()
	v.walked.Store(true)
	if w.again {
		v.log.Warn("not every file could be looked at after the unclean stop: the next mount tries again", "files", w.files)
		return
	}
	v.unclean.Store(false)
	v.log.Info("every file was looked at after the unclean stop", "files", w.files)
	if v.journal != nil {
		v.journal.Kick()
	}
}

// lookForHinted opens the files first that records of the journal name by their
// inode numbers: a full journal waits for them, and reading directories is much
// faster than opening all that is in them. What it misses, or takes for another
// file, is none the worse: the walk that follows looks at everything.
func (w *walk) lookForHinted() {
	if len(w.hints) == 0 {
		return
	}
	w.brief = true
	w.lookAt(RootID)
	w.brief, w.blind, w.again, w.files = false, false, false, 0
	if w.v.journal != nil {
		w.v.journal.Kick()
	}
}

// hints lists the inode numbers of files that records say are theirs.
func (v *Volume) hints() map[uint64]bool {
	hints := map[uint64]bool{}
	if v.journal != nil {
		for _, ref := range v.journal.LiveFiles() {
			hints[ref.Hint] = true
		}
	}
	return hints
}

// dropLost drops the records of files that are nowhere: their names were never
// durable, or were removed since.
func (w *walk) dropLost() {
	v := w.v
	if v.journal == nil {
		return
	}
	for synced := false; ; synced = true {
		lost := w.lost(synced)
		switch {
		case lost == 0:
			return
		case w.blind:
			v.log.Error("files with records in the journal were not found, and not all could be looked at: the records stay", "files", lost)
			return
		case synced:
			v.log.Info("records of files that no longer exist were dropped", "files", lost)
			return
		}
		// An error of writeback is told to one caller: not while a checkpoint
		// waits for its own.
		v.homing.Lock()
		err := v.rootDir.SyncAll()
		v.homing.Unlock()
		if err != nil {
			v.syncFailed(err)
			v.log.Error("removals cannot be made durable: records of files that no longer exist stay", "err", err)
			return
		}
	}
}

// lost counts the files that have records and are nowhere, and forgets them if it
// is told to. No checkpoint lets go of a file meanwhile, so one with records is
// known.
func (w *walk) lost(forget bool) (n int) {
	v := w.v
	v.homing.Lock()
	defer v.homing.Unlock()
	for _, ref := range v.journal.LiveFiles() {
		if v.files.get(ref.ID) != nil || w.seen[ref.ID] {
			continue
		}
		n++
		if forget {
			v.journal.Forget(ref.ID)
		}
	}
	return n
}

// lookAt looks at the files below a directory, which is known to the table,
// and reports whether it got to all of them.
func (w *walk) lookAt(id NodeID) bool {
	dirs, ok := w.lookAtDir(id)
	for i, d := range dirs {
		ok = ok && w.lookAt(d)
		w.v.Forget(dirs[i], 1)
	}
	return ok
}

// lookAtMoved looks at what has a new name.
func (w *walk) lookAtMoved(m move) bool {
	v := w.v
	defer v.table.letGo(m.dir)
	d, err := v.dir(m.dir)
	if err != nil {
		if !v.gone(m.dir) { // else what was in it has moved on, or is gone too
			w.failed(err)
		}
		return true
	}
	child, err := v.enter(m.dir, d, m.name)
	v.dirs.done(d)
	if err != nil {
		w.failed(err)
		return true
	}
	defer v.Forget(child.ID, 1)
	if child.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
		return w.lookAt(child.ID)
	}
	w.lookAtFile(child)
	return true
}

// lookAtFile opens a regular file.
func (w *walk) lookAtFile(e Entry) {
	if e.Attr.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	w.files++
	n, err := w.v.table.get(e.ID)
	if err != nil || n.checked.Load() {
		return
	}
	if _, err := w.v.openFile(n); err != nil {
		if w.hints[n.ino] {
			w.v.unopened.Store(n.ino, w.v.table.path(n))
		}
		w.failed(err)
		return
	}
	w.v.leave(n)
}

// failed notes that something could not be looked at, unless it is gone.
func (w *walk) failed(err error) {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return
	}
	w.blind = true
	for _, damage := range []error{blockfile.ErrCorrupt, ErrDamaged, cipher.ErrAuth, cipher.ErrZero, cipher.ErrMagic} {
		if errors.Is(err, damage) {
			return
		}
	}
	w.again = true
}

// lookAtUnnamed looks, in the backing directory itself, at what the listing of
// the volume's left out, since its name could not be read.
func (w *walk) lookAtUnnamed(n *Node, listed map[string]bool) {
	v := w.v
	d, err := v.dir(n)
	if err != nil {
		w.failed(err)
		return
	}
	defer v.dirs.done(d)
	var rest []string
	err = eachName(d, func(e backing.Dirent) bool {
		sealed := !strings.Contains(e.Name, ".") || strings.HasPrefix(e.Name, longPrefix) && !isSidecar(e.Name)
		if sealed && !listed[e.Name] {
			rest = append(rest, e.Name)
		}
		return true
	})
	if err != nil {
		w.failed(err)
	}
	for _, name := range rest {
		st, err := d.Stat(name)
		switch {
		case err != nil:
			w.failed(err)
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			w.failed(fmt.Errorf("directory without a readable name: %w", ErrDamaged))
		case st.Mode&unix.S_IFMT == unix.S_IFREG:
			if id, err := w.readID(d, name); err != nil {
				w.failed(err)
			} else {
				w.seen[id] = true
				w.again = true
			}
		}
	}
}

// readID returns the ID of the file at a backing name.
func (w *walk) readID(d backing.Dir, name string) (cipher.FileID, error) {
	f, err := d.OpenFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return cipher.FileID{}, err
	}
	defer f.Close()
	return blockfile.ReadID(f, w.v.cipher)
}

// lookAtDir opens the files of one directory and returns the directories in
// it, looked up. What cannot be read is logged where it fails and counts as
// looked at: it will fail in the same way for whoever asks for it.
func (w *walk) lookAtDir(id NodeID) (dirs []NodeID, ok bool) {
	v := w.v
	h, err := v.openDir(id)
	if err != nil {
		v.complain("directory cannot be looked at", "err", err)
		w.failed(err)
		return nil, true
	}
	defer h.Close()
	ok = true
	var entries []DirEntry
	listed := map[string]bool{}
	err = h.read(0, func(e DirEntry) bool {
		if w.brief && e.Kind == unix.S_IFREG && !w.hints[e.Ino] {
			return true
		}
		listed[e.back] = true
		if e.back != "" && (e.Kind == unix.S_IFREG || e.Kind == unix.S_IFDIR || e.Kind == 0) {
			entries = append(entries, e)
		}
		return true
	})
	if err != nil {
		v.complain("directory cannot be looked at", "err", err)
		w.failed(err)
	}
	if !w.brief {
		w.lookAtUnnamed(h.n, listed)
	}
	for _, e := range entries {
		select {
		case <-v.stop:
			return dirs, false
		case <-w.stop:
			return dirs, false
		default:
		}
		child, err := h.enter(e)
		if err != nil {
			w.failed(err)
			continue
		}
		if child.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			dirs = append(dirs, child.ID)
			continue
		}
		w.lookAtFile(child)
		v.Forget(child.ID, 1)
	}
	return dirs, ok
}
