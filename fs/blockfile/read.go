package blockfile

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// ReadAt reads from off. It reads less than p holds only at the end of the
// file, and then returns no error. Where a block does not open, n says how much
// before it is good.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= 0 && len(p) > 0 {
		f.access()
	}
	return f.ReadQuietly(p, off)
}

// ReadQuietly is ReadAt without a trace in the access time.
func (f *File) ReadQuietly(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	if len(p) == 0 {
		return 0, nil
	}
	first, last := uint64(off/f.bs), uint64((off+int64(len(p))-1)/f.bs)
	if off+int64(len(p)) < off {
		last = lastBlock
	}
	l := f.locks.acquire(first, last, false)
	defer f.locks.release(l)
	size := f.Size()
	if off >= size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	for n < len(p) && err == nil {
		var m int
		m, err = f.readSome(p[n:], off+int64(n), size)
		n += m
	}
	return n, err
}

// accessInterval is the seconds after which a read moves the access time again. Of
// a file that was changed since it does so after one second.
const accessInterval = 3600

// access has the access time follow a read of the user's, roughly as relatime
// does. What the package reads for itself must not show there.
func (f *File) access() {
	if f.ro || f.noAtime != nil && f.noAtime.Load() {
		return
	}
	now := time.Now().Unix()
	since := now - f.touched.Load()
	if since == 0 || since < accessInterval && !f.changed.Load() {
		return
	}
	f.touched.Store(now)
	f.changed.Store(false)
	if b, ok := f.b.(backing.Accessor); ok {
		_ = b.Accessed() // no reason to fail the read
	}
}

// readSome reads the beginning of p: all whole blocks straight into it, or else the
// part of one block.
func (f *File) readSome(p []byte, off, size int64) (int, error) {
	index, skip := uint64(off/f.bs), int(off%f.bs)
	if skip == 0 {
		n := len(p) / int(f.bs)
		want := n * int(f.bs)
		if off+int64(len(p)) == size { // the short last block is whole too
			n, want = int((int64(len(p))+f.bs-1)/f.bs), len(p)
		}
		if n > 0 {
			return f.readBlocks(p[:want], index, n)
		}
	}
	b := f.cache.buffer(f.blockLength(index, size))
	defer f.cache.recycle(b)
	if _, err := f.readBlocks(*b, index, 1); err != nil {
		return 0, err
	}
	return copy(p, (*b)[skip:]), nil
}

// blockLength returns the length of a block of a file of size bytes, 0 beyond
// its end.
func (f *File) blockLength(index uint64, size int64) int {
	return int(max(0, min(f.bs, size-int64(index)*f.bs)))
}

// readBlocks reads n blocks from first on into p. All are whole, but the last
// may be the file's short last one. It returns how many bytes are good. The
// caller holds a lock on the blocks.
func (f *File) readBlocks(p []byte, first uint64, n int) (int, error) {
	// Entries are copied, so that no group is held up while blocks are opened.
	b := f.cache.buffer(n * (cipher.EntrySize + 1))
	defer f.cache.recycle(b)
	entries, present := (*b)[:n*cipher.EntrySize], (*b)[n*cipher.EntrySize:]
	for i := 0; i < n; {
		m := min(n-i, f.leftInGroup(first+uint64(i)))
		if err := f.entries(entries[i*cipher.EntrySize:], present[i:i+m], first+uint64(i)); err != nil {
			return 0, err
		}
		for end := i + m; i < end; {
			j := i + 1
			for j < end && present[j] == present[i] {
				j++
			}
			if present[i] == 0 {
				clear(f.bodies(p, i, j-i))
			} else if err := f.readBodies(f.bodies(p, i, j-i), first+uint64(i)); err != nil {
				return 0, f.bad(first+uint64(i), err)
			}
			i = j
		}
	}
	err := spread(n, int(f.bs), func(from, to int) error {
		for i := from; i < to; i++ {
			if present[i] == 0 {
				continue
			}
			entry := entriesIn(entries, i, 1)
			body := f.bodies(p, i, 1)
			if err := f.c.Open(body, body, entry, first+uint64(i)); err != nil {
				return &blockError{first + uint64(i), err}
			}
		}
		return nil
	})
	var at *blockError
	if errors.As(err, &at) {
		return int(at.index-first) * int(f.bs), f.bad(at.index, at.err)
	}
	return len(p), err
}

// entries copies the entries of blocks of one group, from index on, and sets
// present to 1 for those that are there, else to 0.
func (f *File) entries(dst, present []byte, index uint64) error {
	g, _, err := f.loadGroup(f.layout.Group(index))
	if err != nil {
		return err
	}
	if g == nil {
		clear(present)
		return nil
	}
	defer f.cache.unpin(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := f.fill(g); err != nil { // given up by a write that failed
		return f.refuse(g.n, err)
	}
	slot := f.layout.Slot(index)
	copy(dst, entriesIn(g.tag[:], slot, len(present)))
	for i := range present {
		present[i] = byte(g.t.Present >> (slot + i) & 1)
	}
	return nil
}

// readBodies reads the sealed bodies of blocks that are all present and of one
// group, from index on.
func (f *File) readBodies(p []byte, index uint64) error {
	if f.j != nil {
		return f.readLive(p, index)
	}
	return f.readHome(p, index)
}

func (f *File) readHome(p []byte, index uint64) error {
	n, err := f.b.ReadAt(p, f.layout.BlockOffset(index))
	if err == io.EOF || err == nil && n < len(p) {
		return fmt.Errorf("backing file ends %d bytes short: %w", len(p)-n, ErrCorrupt)
	}
	return err
}

// blockError is an error of one block.
type blockError struct {
	index uint64
	err   error
}

func (e *blockError) Error() string { return fmt.Sprintf("block %d: %v", e.index, e.err) }
func (e *blockError) Unwrap() error { return e.err }

// bad logs what is wrong with a block and returns the error for the caller.
func (f *File) bad(index uint64, err error) error {
	f.log.error(describe(err), "file", f.ID(), "block", index, "err", err)
	return fmt.Errorf("file %s, block %d: %w", f.ID(), index, err)
}
