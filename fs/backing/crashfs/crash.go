package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Image is the state of a filesystem at one moment: what is durable, and what
// was in its cache.
type Image struct {
	fs *FS // never used by anyone else
}

// Snapshot freezes the present state. Open files and directories stay with fs.
func (fs *FS) Snapshot() *Image {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return &Image{fs.clone(nil)}
}

// clone copies the filesystem with all its nodes and history; sectors and
// attributes are shared, for they never change. It fills copies, if not nil.
func (fs *FS) clone(copies map[*node]*node) *FS {
	if copies == nil {
		copies = map[*node]*node{}
	}
	c := &FS{FsyncNames: fs.FsyncNames, Remote: fs.Remote, lastIno: fs.lastIno, clock: fs.clock}
	var copyNode func(*node) *node
	copyNode = func(n *node) *node {
		if n == nil {
			return nil
		}
		if m := copies[n]; m != nil {
			return m
		}
		m := *n
		copies[n] = &m
		m.lock = nil
		m.attrs, m.sizes = slices.Clone(n.attrs), slices.Clone(n.sizes)
		m.sectors = maps.Clone(n.sectors)
		for i, v := range m.sectors {
			m.sectors[i] = slices.Clip(v) // an append must not reach the original's
		}
		m.parent = copyNode(n.parent)
		m.names, m.durable = copyNames(n.names, copyNode), copyNames(n.durable, copyNode)
		return &m
	}
	c.root = copyNode(fs.root)
	for _, op := range fs.pending {
		o := &nameOp{at: op.at, node: copyNode(op.node)}
		for _, s := range op.sets {
			o.sets = append(o.sets, set{copyNode(s.dir), s.name, copyNode(s.old), copyNode(s.new)})
		}
		c.pending = append(c.pending, o)
	}
	return c
}

func copyNames(names map[string]*node, copyNode func(*node) *node) map[string]*node {
	if names == nil {
		return nil
	}
	m := make(map[string]*node, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		m[name] = copyNode(names[name])
	}
	return m
}

// Killed returns the filesystem that is left to the next process when this one is
// killed and the kernel lives: nothing is lost, and nothing became durable by it.
func (im *Image) Killed() *FS { return im.fs.clone(nil) }

// Kind is what a Chooser chooses a version of.
type Kind int

// The kinds.
const (
	KindSector Kind = iota
	KindSize
	KindAttr
	KindName // whether an operation on names happened: version 0 or 1
)

// Chooser decides what a crash leaves. It is asked for each thing of which
// there is more than one version: the operations' numbers that made the
// versions are in at, ascending, at[0] being the durable one. group tells the
// things of one file, or one directory operation, from others; it is the inode
// number. The answer is an index of at.
type Chooser func(kind Kind, group uint64, at []int64) int

// Lost keeps only what is durable.
func Lost(Kind, uint64, []int64) int { return 0 }

// Kept keeps everything, as when the process is killed and the kernel lives.
func Kept(_ Kind, _ uint64, at []int64) int { return len(at) - 1 }

// Only keeps what the given kinds have, and of the others what is durable: size
// without data, data without size, names without files.
func Only(kinds ...Kind) Chooser {
	return func(kind Kind, _ uint64, at []int64) int {
		if slices.Contains(kinds, kind) {
			return len(at) - 1
		}
		return 0
	}
}

// Seed chooses by a random number generator. Each file has a manner of its
// own: all lost or kept, in order up to a point with the last write torn, each
// write by itself, or each sector by itself.
func Seed(seed uint64) Chooser {
	r := rand.New(rand.NewPCG(seed, 0x706c796673))
	type manner struct {
		how    int
		cutoff int64
		odds   float64
		write  map[int64]bool
	}
	manners := map[uint64]*manner{}
	return func(kind Kind, group uint64, at []int64) int {
		m := manners[group]
		if m == nil {
			m = &manner{how: r.IntN(6), odds: r.Float64(), write: map[int64]bool{}}
			m.cutoff = at[len(at)-1] - r.Int64N(1+r.Int64N(1+at[len(at)-1]-at[0]))
			manners[group] = m
		}
		if kind == KindName {
			return r.IntN(2)
		}
		last := 0
		for i, a := range at {
			keep := false
			switch m.how {
			case 0: // lost
			case 1: // kept
				keep = true
			case 2: // in order, the last one torn
				keep = a < m.cutoff || a == m.cutoff && r.IntN(2) == 0
			case 3: // in order
				keep = a <= m.cutoff
			case 4: // each write by itself
				w, ok := m.write[a]
				if !ok {
					w = r.Float64() < m.odds
					m.write[a] = w
				}
				keep = w
			default: // each sector by itself
				keep = r.Float64() < m.odds
			}
			if keep {
				last = i
			}
		}
		return last
	}
}

// Crash returns the filesystem that a power cut leaves, everything in it
// durable. An Image may be crashed many times.
func (im *Image) Crash(choose Chooser) *FS {
	fs := im.fs.clone(nil)
	fs.applyNames(choose)
	seen := map[*node]bool{}
	order := fs.settleNames(fs.root, seen, nil)
	for _, n := range order {
		n.settle(choose)
	}
	fs.pending = nil
	return fs
}

// applyNames carries out, over the durable names, the pending operations that
// are chosen. One that builds on a lost one is lost.
func (fs *FS) applyNames(choose Chooser) {
	for _, op := range fs.pending {
		if choose(KindName, uint64(op.at)|1<<63, []int64{0, op.at}) == 0 {
			continue
		}
		if slices.ContainsFunc(op.sets, func(s set) bool { return s.dir.durable[s.name] != s.old }) {
			continue
		}
		for _, s := range op.sets {
			if s.new == nil {
				delete(s.dir.durable, s.name)
			} else {
				s.dir.durable[s.name] = s.new
			}
		}
	}
}

// settleNames makes the durable names the only ones, counts links anew and
// lists what is left, in a fixed order. A directory that two operations left
// under two names keeps the first.
func (fs *FS) settleNames(d *node, seen map[*node]bool, order []*node) []*node {
	seen[d] = true
	order = append(order, d)
	d.nlink = 2
	for _, name := range slices.Sorted(maps.Keys(d.durable)) {
		n := d.durable[name]
		if n.names == nil {
			if !seen[n] {
				seen[n] = true
				n.nlink = 0
				order = append(order, n)
			}
			n.nlink++
			continue
		}
		if seen[n] {
			delete(d.durable, name)
			continue
		}
		d.nlink++
		n.parent = d
		order = fs.settleNames(n, seen, order)
	}
	d.names = maps.Clone(d.durable)
	return order
}

// settle picks one version of everything a node has.
func (n *node) settle(choose Chooser) {
	if len(n.attrs) > 1 {
		n.attr = n.attrs[choose(KindAttr, n.ino, times(n.attrs, func(v attrVersion) int64 { return v.at }))].attr
	}
	n.attrs = []attrVersion{{n.attrs[0].at, n.attr}}
	if len(n.sizes) > 1 {
		n.size = n.sizes[choose(KindSize, n.ino, times(n.sizes, func(v sizeVersion) int64 { return v.at }))].size
	}
	n.sizes = []sizeVersion{{n.sizes[0].at, n.size}}
	for _, i := range slices.Sorted(maps.Keys(n.sectors)) {
		v := n.sectors[i]
		k := 0
		if len(v) > 1 {
			k = choose(KindSector, n.ino, times(v, func(v version) int64 { return v.at }))
		}
		data := v[k].data
		if from := n.size - i*sectorSize; data != nil && from < sectorSize {
			if from <= 0 {
				data = nil
			} else {
				d := *data
				clear(d[from:])
				data = &d
			}
		}
		if data == nil {
			delete(n.sectors, i)
		} else {
			n.sectors[i] = []version{{v[k].at, data}}
		}
	}
}

func times[T any](list []T, at func(T) int64) []int64 {
	t := make([]int64, len(list))
	for i, v := range list {
		t[i] = at(v)
	}
	return t
}
