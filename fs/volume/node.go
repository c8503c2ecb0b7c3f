package volume

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/blockfile"
)

// NodeID names a node. No ID is given to two nodes of one Volume.
type NodeID uint64

// RootID is the node of the root directory, which is always known.
const RootID NodeID = 1

// Stat is what stat(2) shows of a node: plaintext size, the volume's block
// size, everything else as the backing filesystem has it.
type Stat = backing.Stat

// Entry is the result of a lookup: a node, known once more, and its
// attributes. Each Entry returned is to be given back with Forget.
type Entry struct {
	ID   NodeID
	Attr Stat
}

// binding is a name of a node: a backing name in a directory.
type binding struct {
	dir  *Node
	name string
}

// Node is a backing inode that somebody knows. See the package comment for
// its life and its locks.
type Node struct {
	id   NodeID
	ino  uint64
	kind uint32 // S_IFMT bits; an inode never changes its type

	// Guarded by table.mu.
	lookups uint64
	refs    int                  // open handles, and bindings whose dir this is
	first   binding              // a name, where dir is not nil
	more    map[binding]struct{} // further names
	last    Stat                 // attributes when the last known name went
	noted   bool                 // last is set
	dead    bool                 // the backing inode has no name left, or is not this node's any more

	// Of a directory.
	names  sync.RWMutex // over the binding of names in it
	opened *openDir     // guarded by dirCache.mu
	dirID  atomic.Pointer[cipher.DirID]

	// What is left of a file or symlink whose last name went while it was
	// known, for a caller that was on its way to open it. Guarded by use.
	orphan backing.File
	text   string // a symlink's backing target

	// Of a regular file. opening serialises opens and last closes, and may be
	// held while waiting for the lock of a directory; use guards what follows
	// it and is held for moments.
	opening sync.Mutex
	use     sync.Mutex
	file    *blockfile.File
	users   int
	fileID  atomic.Pointer[cipher.FileID]
	checked atomic.Bool  // the physical length was found to agree with the header
	cached  atomic.Int32 // handles whose owner caches what it reads
	held    atomic.Pointer[heldCtime]
	touched atomic.Int64 // when its attributes or names were last changed, Unix nanoseconds

	// The file is known to have neither set-ID bits nor capabilities while
	// plain is one more than changes, which counts what may give it some.
	changes atomic.Uint64
	plain   atomic.Uint64
}

func (n *Node) isDir() bool     { return n.kind == unix.S_IFDIR }
func (n *Node) isRegular() bool { return n.kind == unix.S_IFREG }
func (n *Node) isSymlink() bool { return n.kind == unix.S_IFLNK }

// table holds the nodes that are known.
type table struct {
	mu      sync.Mutex
	byID    map[NodeID]*Node
	byIno   map[uint64]*Node
	dirIDs  map[cipher.DirID]*Node
	next    NodeID
	idle    []backing.File // to be closed once mu is free
	orphans atomic.Int32   // nodes with an orphan
	files   *registry
}

// unlock ends what may have let go of nodes.
func (t *table) unlock() {
	idle := t.idle
	t.idle = nil
	t.mu.Unlock()
	for _, f := range idle {
		f.Close()
	}
}

func newTable(root *Node, files *registry) *table {
	return &table{
		files:  files,
		byID:   map[NodeID]*Node{RootID: root},
		byIno:  map[uint64]*Node{root.ino: root},
		dirIDs: map[cipher.DirID]*Node{},
		next:   RootID + 1,
	}
}

// get returns the node of an ID, ESTALE if it was forgotten.
func (t *table) get(id NodeID) (*Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byID[id]; n != nil {
		return n, nil
	}
	return nil, unix.ESTALE
}

// adopt returns the node of the inode st at name in dir, with one more
// lookup. fresh says that the inode was made just now, so that a node that
// goes by its number stands for one that is gone. The caller holds dir's lock.
// A nil dir is a file without a name.
func (t *table) adopt(dir *Node, name string, st *Stat, fresh bool) *Node {
	t.mu.Lock()
	defer t.unlock()
	n := t.byIno[st.Ino]
	if n != nil && n.id != RootID && (fresh || n.kind != st.Mode&unix.S_IFMT) {
		t.bury(n)
		n = nil
	}
	if n == nil {
		n = &Node{id: t.next, ino: st.Ino, kind: st.Mode & unix.S_IFMT}
		t.next++
		t.byID[n.id] = n
		t.byIno[n.ino] = n
	}
	n.lookups++
	if dir != nil {
		t.bind(n, binding{dir, name})
	} else {
		n.last, n.noted = *st, true
	}
	return n
}

// revive records that n, which may have had no name, got one, and counts a
// lookup.
func (t *table) revive(n *Node, b binding) {
	t.mu.Lock()
	defer t.unlock()
	n.dead = false
	t.byIno[n.ino] = n
	t.byID[n.id] = n
	n.lookups++
	t.bind(n, b)
}

// bind gives n a name. A directory has one name; t.mu is held.
func (t *table) bind(n *Node, b binding) {
	if n.id == RootID || t.bound(n, b) {
		return
	}
	if n.isDir() && n.first.dir != nil {
		t.unbind(n, n.first)
	}
	b.dir.refs++
	if n.first.dir == nil {
		n.first = b
		return
	}
	if n.more == nil {
		n.more = map[binding]struct{}{}
	}
	n.more[b] = struct{}{}
}

func (t *table) bound(n *Node, b binding) bool {
	if n.first == b {
		return true
	}
	_, ok := n.more[b]
	return ok
}

// unbind takes a name from n, if it has it; t.mu is held.
func (t *table) unbind(n *Node, b binding) {
	switch {
	case n.first == b:
		n.first = binding{}
		for m := range n.more {
			n.first = m
			delete(n.more, m)
			break
		}
	case t.bound(n, b):
		delete(n.more, b)
	default:
		return
	}
	b.dir.refs--
	t.drop(b.dir)
}

// name returns a name of n and reports whether it has one.
func (t *table) name(n *Node) (binding, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.first, n.first.dir != nil
}

// path returns the backing path of n, below the ciphertext directory, by one of
// its names, for a message.
func (t *table) path(n *Node) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	path := ""
	for n.id != RootID {
		if n.first.dir == nil {
			return fmt.Sprintf("backing inode %d", n.ino)
		}
		path = filepath.Join(n.first.name, path)
		n = n.first.dir
	}
	return path
}

// holds reports whether n still goes by b. It says so for good while the lock
// of b's directory is held.
func (t *table) holds(n *Node, b binding) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bound(n, b)
}

// at returns the node that goes by an inode number, nil if none is known.
func (t *table) at(ino uint64) *Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byIno[ino]
}

// removed records that n, nil if not known, lost a name; st is what it was
// before. n was looked up before the name was removed, under the lock of dir,
// which is still held: its number may be another inode's by now.
func (t *table) removed(n, dir *Node, name string, st *Stat) {
	if n == nil {
		return
	}
	t.mu.Lock()
	defer t.unlock()
	n.last, n.noted = *st, true
	if n.isDir() {
		n.last.Nlink = 0
	} else if n.last.Nlink > 0 {
		n.last.Nlink--
	}
	if n.last.Nlink == 0 {
		t.bury(n)
	} else {
		t.unbind(n, binding{dir, name})
	}
}

// moved records that the inode ino goes by another name now. The caller holds
// the locks of both directories.
func (t *table) moved(ino uint64, from, to binding) {
	t.mu.Lock()
	defer t.unlock()
	if n := t.byIno[ino]; n != nil {
		to.dir.refs++ // over the moment between two names of a directory
		t.unbind(n, from)
		t.bind(n, to)
		to.dir.refs--
	}
}

// swapped records an exchange of the inodes behind two names.
func (t *table) swapped(inoA uint64, a binding, inoB uint64, b binding) {
	if inoA == inoB {
		return
	}
	t.moved(inoA, a, b)
	t.moved(inoB, b, a)
}

// bury ends what goes by n's numbers and names: they may be another inode's
// from now on. t.mu is held.
func (t *table) bury(n *Node) {
	n.dead = true
	if t.byIno[n.ino] == n {
		delete(t.byIno, n.ino)
	}
	if id := n.dirID.Load(); id != nil && t.dirIDs[*id] == n {
		delete(t.dirIDs, *id)
	}
	first, more := n.first, n.more
	n.first, n.more = binding{}, nil
	if first.dir != nil {
		first.dir.refs--
		t.drop(first.dir)
	}
	for b := range more {
		b.dir.refs--
		t.drop(b.dir)
	}
}

// forget takes back count lookups of a node.
func (t *table) forget(id NodeID, count uint64) (last bool) {
	t.mu.Lock()
	defer t.unlock()
	n := t.byID[id]
	if n == nil || id == RootID {
		return false
	}
	n.lookups -= min(count, n.lookups)
	last = n.lookups == 0
	t.drop(n)
	return last
}

// drop lets go of n, and of the directories that only it kept known, if
// nobody knows it. t.mu is held.
func (t *table) drop(n *Node) {
	if n.id != RootID && n.lookups == 0 && n.refs == 0 && t.byID[n.id] == n {
		delete(t.byID, n.id)
		t.bury(n)
		if f := t.takeOrphan(n); f != nil {
			t.files.keep(n.ino, -1)
			t.idle = append(t.idle, f)
		}
	}
}

// hold keeps a node known beyond its lookups; letGo ends that.
func (t *table) hold(n *Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.refs++
}

func (t *table) letGo(n *Node) {
	t.mu.Lock()
	defer t.unlock()
	n.refs--
	t.drop(n)
}

// lastSeen returns the attributes n had when its last known name went.
func (t *table) lastSeen(n *Node) (Stat, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.last, n.noted
}

// claimDir records that n has the directory ID id and reports whether no
// other live directory has it.
func (t *table) claimDir(id cipher.DirID, n *Node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.dirIDs[id]; other != nil && other != n && !other.dead {
		return false
	}
	t.dirIDs[id] = n
	return true
}

// lockDirs takes the locks of directories alone, each once, in the order of
// their IDs, and returns what gives them back. nil ones are skipped.
func lockDirs(dirs ...*Node) (unlock func()) {
	var set [4]*Node
	k := 0
	for _, d := range dirs {
		if d == nil {
			continue
		}
		i := 0
		for i < k && set[i].id < d.id {
			i++
		}
		if i < k && set[i] == d {
			continue
		}
		copy(set[i+1:k+1], set[i:k])
		set[i] = d
		k++
	}
	for _, d := range set[:k] {
		d.names.Lock()
	}
	return func() {
		for i := k - 1; i >= 0; i-- {
			set[i].names.Unlock()
		}
	}
}
