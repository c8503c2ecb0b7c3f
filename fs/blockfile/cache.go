package blockfile

import (
	"math/bits"
	"sync"

	"github.com/plyfs/plyfs/cipher"
)

const (
	defaultCacheSize = 64 << 20
	privateCacheSize = 1 << 20 // of a file whose Config has none
	minCachedGroups  = 8
)

// Cache keeps the tag blocks of many files in memory, within a bound, and lends
// the buffers their requests work in. One Cache serves all files of a volume.
// It is safe for concurrent use.
type Cache struct {
	limit int // groups; more may be pinned for a while

	mu   sync.Mutex
	ring []*group // of all files, in the order of the clock's hand
	hand int

	buffers [bufferClasses]sync.Pool // *[]byte
	changes sync.Pool                // *change
	quiet   logLimit
}

// group is the one copy in memory of a group's tag block. It stays as long as it is
// pinned, and then until the hand of the clock has passed it twice.
type group struct {
	// These are guarded by the Cache's mu.
	file *File
	n    uint64
	pins int
	used bool
	at   int // index in ring

	// mu guards the rest. It is held while the tag block is read or written
	// home, so that home never sees an older copy after a newer one.
	mu      sync.Mutex
	present bool   // tag and t are valid; else unknown or never written
	mended  bool   // no gap covers the group, see mendGap
	home    uint64 // slots whose blocks may take up space at home; used with a journal only
	t       cipher.Trailer
	tag     [cipher.TagBlockSize]byte
}

// isMended reports whether no gap covers g.
func (g *group) isMended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mended
}

// NewCache makes a cache of at most size bytes of tag blocks; 0 chooses 64 MiB.
func NewCache(size int) *Cache {
	if size <= 0 {
		size = defaultCacheSize
	}
	return &Cache{limit: max(size/cipher.TagBlockSize, minCachedGroups)}
}

// pin returns the group in memory, a new one if there is none.
func (c *Cache) pin(f *File, n uint64) *group {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := f.groups[n]
	if g == nil {
		g = c.take()
		g.file, g.n = f, n
		f.groups[n] = g
	}
	g.pins++
	g.used = true
	return g
}

// take returns a group that nobody uses, linked into the ring.
func (c *Cache) take() *group {
	if len(c.ring) >= c.limit {
		for range 2 * len(c.ring) {
			c.hand = (c.hand + 1) % len(c.ring)
			g := c.ring[c.hand]
			if g.pins > 0 {
				continue
			}
			if g.used {
				g.used = false
				continue
			}
			delete(g.file.groups, g.n)
			g.present = false
			return g
		}
	}
	g := &group{at: len(c.ring)}
	c.ring = append(c.ring, g)
	return g
}

// unpin ends a use. A group that turned out not to be there is forgotten.
func (c *Cache) unpin(g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.pins--
	if g.pins == 0 && (!g.present || len(c.ring) > c.limit) {
		c.forget(g)
	}
}

func (c *Cache) forget(g *group) {
	delete(g.file.groups, g.n)
	last := len(c.ring) - 1
	c.ring[g.at] = c.ring[last]
	c.ring[g.at].at = g.at
	c.ring[last] = nil
	c.ring = c.ring[:last]
}

// drop forgets the groups of f from n on. None of them may be pinned.
func (c *Cache) drop(f *File, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, g := range f.groups {
		if i >= n && g.pins == 0 {
			c.forget(g)
		}
	}
}

const (
	minBufferBits = 12
	bufferClasses = 11 // 4 KiB to 4 MiB
)

// buffer lends n bytes, not zeroed, until recycle.
func (c *Cache) buffer(n int) *[]byte {
	class := max(bits.Len(uint(n-1)), minBufferBits) - minBufferBits
	if class >= bufferClasses {
		b := make([]byte, n)
		return &b
	}
	if b, ok := c.buffers[class].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(class+minBufferBits))
	return &b
}

// Scrub overwrites the plaintext that is left in buffers, and lets go of them.
// No request may be under way.
func (c *Cache) Scrub() {
	for i := range c.buffers {
		for {
			b, ok := c.buffers[i].Get().(*[]byte)
			if !ok {
				break
			}
			clear((*b)[:cap(*b)])
		}
	}
}

// recycle takes a buffer back. nil is ignored.
func (c *Cache) recycle(b *[]byte) {
	if b == nil {
		return
	}
	class := bits.Len(uint(cap(*b)-1)) - minBufferBits
	if class >= 0 && class < bufferClasses && cap(*b) == 1<<(class+minBufferBits) {
		c.buffers[class].Put(b)
	}
}
