package volume

import (
	"sync"
	"sync/atomic"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/blockfile"
)

// registry holds all files whose content is open. A file with live records stays
// open when nobody uses it any more, idle, so that its records find their way
// home whatever becomes of its names, and its size and times are known.
type registry struct {
	mu    sync.Mutex
	byID  map[cipher.FileID]*blockfile.File
	byIno map[uint64]*content // an open file keeps its inode number taken
	idle  int
	drops atomic.Uint64  // files taken out
	ro    bool           // nothing goes home: no file is to wait for that
	kept  map[uint64]int // inodes of descriptors kept for nodes without a name
}

type content struct {
	file *blockfile.File
	idle bool
}

func newRegistry(ro bool) *registry {
	return &registry{ro: ro, byID: map[cipher.FileID]*blockfile.File{}, byIno: map[uint64]*content{}, kept: map[uint64]int{}}
}

// claim records that the file of an inode is open, and reports whether no other
// with its ID is.
func (r *registry) claim(ino uint64, file *blockfile.File) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.byID[file.ID()]; other != nil && other != file {
		return false
	}
	r.byID[file.ID()] = file
	r.byIno[ino] = &content{file: file}
	return true
}

// get returns the open file of an ID, used or idle.
func (r *registry) get(id cipher.FileID) *blockfile.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// at returns the open file of an inode, nil if there is none. It may be closed
// any time, which does no harm to who asks for its size.
func (r *registry) at(ino uint64) *blockfile.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.byIno[ino]; c != nil {
		return c.file
	}
	return nil
}

// resume takes the file of an inode that is open out of the idle ones.
func (r *registry) resume(ino uint64) *blockfile.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.byIno[ino]
	if c == nil || !c.idle {
		return nil
	}
	c.idle = false
	r.idle--
	return c.file
}

// retire takes back a file that nobody uses. It reports whether the caller is to
// close it.
func (r *registry) retire(ino uint64, file *blockfile.File) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if file.Live() && !r.ro {
		r.byIno[ino].idle = true
		r.idle++
		return false
	}
	r.drop(ino)
	return true
}

// drop takes a file out. r.mu is held.
func (r *registry) drop(ino uint64) *blockfile.File {
	c := r.byIno[ino]
	if c.idle {
		r.idle--
	}
	r.drops.Add(1)
	delete(r.byIno, ino)
	delete(r.byID, c.file.ID())
	return c.file
}

// keep counts a descriptor kept of an inode, or with -1 one given up.
func (r *registry) keep(ino uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept[ino] += n; r.kept[ino] == 0 {
		delete(r.kept, ino)
	}
}

// all returns the files that are open.
func (r *registry) all() (files []*blockfile.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.byID {
		files = append(files, file)
	}
	return files
}

func (r *registry) idleCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.idle
}

// home lists the idle files that are home. They may be in use again any time.
func (r *registry) home() (files []*blockfile.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.byIno {
		if c.idle && !c.file.Live() {
			files = append(files, c.file)
		}
	}
	return files
}

// settled takes out the idle files that are home.
func (r *registry) settled() (done []*blockfile.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ino, c := range r.byIno {
		if c.idle && !c.file.Live() {
			done = append(done, r.drop(ino))
		}
	}
	return done
}

// removed takes out the idle files that have no name, and no descriptor by which
// anyone could still open them.
func (r *registry) removed() map[uint64]*blockfile.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	var gone map[uint64]*blockfile.File
	for ino, c := range r.byIno {
		if !c.idle || r.kept[ino] > 0 {
			continue
		}
		if st, err := c.file.Backing().Stat(); err != nil || st.Nlink > 0 {
			continue
		}
		if gone == nil {
			gone = map[uint64]*blockfile.File{}
		}
		gone[ino] = r.drop(ino)
	}
	return gone
}

// restore undoes removed.
func (r *registry) restore(files map[uint64]*blockfile.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ino, file := range files {
		r.byIno[ino] = &content{file, true}
		r.byID[file.ID()] = file
		r.idle++
	}
}
