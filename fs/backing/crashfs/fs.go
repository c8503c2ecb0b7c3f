package crashfs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// Op names a kind of operation that changes something or makes it durable.
type Op string

// The operations that OnOp hears of.
const (
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpSync     Op = "sync"    // of a file, also Datasync
	OpDirSync  Op = "dirsync" // also SyncAll
	OpName     Op = "name"    // create, link, unlink, rename, mkdir, rmdir
	OpAttr     Op = "attr"    // mode, owner, times, xattrs
)

// FS is a filesystem in memory. Its methods, and those of its directories and
// files, are safe for concurrent use.
type FS struct {
	// FsyncNames makes a file's sync cover the operations that gave it its
	// names, as ext4 and xfs do and POSIX does not promise. Set before use.
	FsyncNames bool
	// Remote makes it a FUSE filesystem of a server: SyncAll does not reach that.
	// Set before use.
	Remote bool

	mu      sync.Mutex
	root    *node
	lastIno uint64
	clock   int64 // of operations; every change has its own number
	pending []*nameOp
	onOp    func(Op)
}

// New returns an empty filesystem; its root is durable.
func New() *FS {
	fs := &FS{}
	fs.root = fs.newNode(unix.S_IFDIR|0o755, 0)
	return fs
}

// Root opens the root directory.
func (fs *FS) Root() backing.Dir {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.openDir(fs.root)
}

// OnOp has f called before each operation that changes something or makes
// something durable, on the goroutine that does it and with no lock held, so
// that f may take a Snapshot. nil calls nothing.
func (fs *FS) OnOp(f func(Op)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.onOp = f
}

// begin announces an operation and locks the filesystem.
func (fs *FS) begin(op Op) {
	fs.mu.Lock()
	if f := fs.onOp; f != nil {
		fs.mu.Unlock()
		f(op)
		fs.mu.Lock()
	}
	fs.clock++
}

// node is an inode. FS.mu guards it.
type node struct {
	ino    uint64
	kind   uint32 // unix.S_IF*
	rdev   uint64
	target string // of a symlink

	attr  *attr
	attrs []attrVersion // not durable; attrs[0] is durable

	// Of a regular file.
	size    int64
	sizes   []sizeVersion // sizes[0] is durable
	sectors map[int64][]version

	// Of a directory.
	names   map[string]*node
	durable map[string]*node
	parent  *node // directories have one
	nlink   uint32
	lock    map[*file]int // flock
}

// attr is what stat and xattr calls tell; a change makes a new one.
type attr struct {
	mode         uint32 // permission bits
	uid, gid     uint32
	atime, mtime unix.Timespec
	ctime        unix.Timespec
	xattrs       map[string][]byte
}

type attrVersion struct {
	at   int64
	attr *attr
}

type sizeVersion struct {
	at   int64
	size int64
}

// version is what a sector held from an operation on; nil data is zeros.
type version struct {
	at   int64
	data *[sectorSize]byte
}

const sectorSize = 512

// epoch is the clock's time 0; it is fixed so that runs repeat.
const epoch = 1_700_000_000

func (fs *FS) now() unix.Timespec {
	return unix.NsecToTimespec((epoch * time.Second).Nanoseconds() + fs.clock*1000)
}

func (fs *FS) newNode(mode uint32, rdev uint64) *node {
	fs.lastIno++
	t := fs.now()
	n := &node{
		ino: fs.lastIno, kind: mode & unix.S_IFMT, rdev: rdev,
		attr:  &attr{mode: mode & 0o7777, atime: t, mtime: t, ctime: t},
		sizes: []sizeVersion{{at: fs.clock}},
	}
	n.attrs = []attrVersion{{fs.clock, n.attr}}
	switch n.kind {
	case unix.S_IFDIR:
		n.names, n.durable, n.nlink = map[string]*node{}, map[string]*node{}, 2
	case unix.S_IFREG:
		n.sectors = map[int64][]version{}
	}
	return n
}

// setAttr changes attributes, volatile. ctime follows.
func (fs *FS) setAttr(n *node, change func(*attr)) {
	a := *n.attr
	change(&a)
	a.ctime = fs.now()
	n.attr = &a
	n.attrs = append(n.attrs, attrVersion{fs.clock, n.attr})
}

// syncData makes a file's content and size durable.
func (n *node) syncData() {
	for i, v := range n.sectors {
		last := v[len(v)-1]
		if last.data == nil {
			delete(n.sectors, i)
		} else if len(v) > 1 {
			n.sectors[i] = []version{last}
		}
	}
	n.sizes = []sizeVersion{n.sizes[len(n.sizes)-1]}
}

func (n *node) syncAttr() { n.attrs = n.attrs[len(n.attrs)-1:] }

func (n *node) stat() backing.Stat {
	a := n.attr
	st := backing.Stat{
		Dev: 1, Ino: n.ino, Mode: n.kind | a.mode, Nlink: uint64(n.nlink), Uid: a.uid, Gid: a.gid, Rdev: n.rdev,
		Size: n.size, Blksize: 4096, Atim: a.atime, Mtim: a.mtime, Ctim: a.ctime,
	}
	switch n.kind {
	case unix.S_IFLNK:
		st.Size = int64(len(n.target))
	case unix.S_IFREG:
		for _, v := range n.sectors {
			if v[len(v)-1].data != nil {
				st.Blocks++
			}
		}
	}
	return st
}
