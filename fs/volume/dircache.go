package volume

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// openDir is a descriptor of a directory in the cache, with the number of
// calls that use it. Where a directory is an argument to a backing's method it
// is the Dir in it that is passed.
type openDir struct {
	backing.Dir
	node  *Node
	users int
	elem  *list.Element // nil once it left the cache
}

// dirCache bounds the directories that are open. Descriptors in use are never
// closed, so there may be more than max for a moment.
type dirCache struct {
	mu  sync.Mutex
	max int
	lru list.List // of *openDir, the most recently used in front
}

// use returns n's descriptor if it is in the cache.
func (c *dirCache) use(n *Node) *openDir {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := n.opened
	if o != nil {
		o.users++
		c.lru.MoveToFront(o.elem)
	}
	return o
}

// put takes over d as n's descriptor and returns it in use. If another call
// was faster it returns that one's and closes d.
func (c *dirCache) put(n *Node, d backing.Dir) *openDir {
	c.mu.Lock()
	o := n.opened
	var idle []backing.Dir
	if o != nil {
		idle = append(idle, d)
		c.lru.MoveToFront(o.elem)
	} else {
		o = &openDir{Dir: d, node: n}
		o.elem = c.lru.PushFront(o)
		n.opened = o
	}
	o.users++
	idle = append(idle, c.shrink(c.max)...)
	c.mu.Unlock()
	closeAll(idle)
	return o
}

// done ends a use.
func (c *dirCache) done(o *openDir) {
	c.mu.Lock()
	o.users--
	last := o.users == 0 && o.elem == nil
	c.mu.Unlock()
	if last {
		o.Dir.Close()
	}
}

// drop takes n's descriptor from the cache; it is closed when unused.
func (c *dirCache) drop(n *Node) {
	c.mu.Lock()
	o := n.opened
	idle := false
	if o != nil {
		c.leave(o)
		idle = o.users == 0
	}
	c.mu.Unlock()
	if idle {
		o.Dir.Close()
	}
}

// free closes descriptors that are not in use until at most keep are left.
func (c *dirCache) free(keep int) {
	c.mu.Lock()
	idle := c.shrink(keep)
	c.mu.Unlock()
	closeAll(idle)
}

func (c *dirCache) leave(o *openDir) {
	c.lru.Remove(o.elem)
	o.elem = nil
	o.node.opened = nil
}

// shrink takes unused descriptors out, the least recently used first. c.mu is
// held.
func (c *dirCache) shrink(keep int) (idle []backing.Dir) {
	for e := c.lru.Back(); e != nil && c.lru.Len() > keep; {
		o := e.Value.(*openDir)
		e = e.Prev()
		if o.users == 0 {
			c.leave(o)
			idle = append(idle, o.Dir)
		}
	}
	return idle
}

func closeAll(dirs []backing.Dir) {
	for _, d := range dirs {
		d.Close()
	}
}

// dir returns the directory n open, with its ID loaded. The caller gives it
// back with v.dirs.done and holds no directory's lock.
func (v *Volume) dir(n *Node) (*openDir, error) {
	if !n.isDir() {
		return nil, unix.ENOTDIR
	}
	o := v.dirs.use(n)
	if o == nil {
		d, err := v.openNode(n)
		if err != nil {
			return nil, err
		}
		o = v.dirs.put(n, d)
		if v.gone(n) { // removed meanwhile: keep no descriptor of it
			v.dirs.drop(n)
		}
	}
	if n.dirID.Load() == nil {
		if err := v.loadDirID(n, o); err != nil {
			v.dirs.done(o)
			return nil, err
		}
	}
	return o, nil
}

// dirOf is dir of the node of an ID.
func (v *Volume) dirOf(id NodeID) (*Node, *openDir, error) {
	n, err := v.table.get(id)
	if err != nil {
		return nil, nil, err
	}
	o, err := v.dir(n)
	return n, o, err
}

func (v *Volume) gone(n *Node) bool {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	return n.dead
}

// openNode opens the directory n by its name.
func (v *Volume) openNode(n *Node) (backing.Dir, error) {
	var d backing.Dir
	err := v.byName(n, func(at named) (err error) {
		return v.retry(func() error {
			d, err = at.dir.OpenDir(at.name)
			return err
		})
	})
	if err != nil {
		return nil, hostile(err)
	}
	st, err := d.Stat("")
	if err == nil && !v.is(n, &st) {
		err = fmt.Errorf("directory was replaced beneath the mount: %w", ErrDamaged)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// is reports whether st is of n's inode.
func (v *Volume) is(n *Node, st *Stat) bool {
	return st.Ino == n.ino && st.Dev == v.dev && st.Mode&unix.S_IFMT == n.kind
}

// retry runs open again, after closing what is open without need, where the
// process has too many files open.
func (v *Volume) retry(open func() error) error {
	err := open()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		v.dirs.free(1)
		err = open()
	}
	return err
}

// loadDirID reads the ID of the open directory n.
func (v *Volume) loadDirID(n *Node, d backing.Dir) error {
	id, err := v.readDirID(d)
	if err != nil {
		return err
	}
	if !v.table.claimDir(id, n) {
		v.complain("directory ID is in use by another directory", "inode", n.ino, "id", id)
		return fmt.Errorf("directory ID in use twice: %w", ErrDamaged)
	}
	n.dirID.Store(&id)
	return nil
}

// readDirID reads and opens the ID file in d.
func (v *Volume) readDirID(d backing.Dir) (cipher.DirID, error) {
	sealed, err := readSmall(d, dirIDName, maxDirID)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%s is missing: %w", dirIDName, ErrDamaged)
	}
	if err != nil {
		return cipher.DirID{}, hostile(err)
	}
	id, err := v.cipher.OpenDirID(sealed)
	if err != nil {
		return cipher.DirID{}, fmt.Errorf("%s: %w", dirIDName, err)
	}
	return id, nil
}
