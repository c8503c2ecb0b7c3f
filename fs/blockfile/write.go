package blockfile

import (
	"errors"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// maxRequest is the longest write that is one change; with a journal it is half of
// that. The kernel sends at most 1 MiB; longer writes of other callers are divided.
const maxRequest = 2 << 20

// WriteAt writes p at off, beyond the end too. It writes less than p only with
// an error: EFBIG beyond what a file can be, ENOSPC and others of the disk.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	switch {
	case f.ro:
		return 0, unix.EROFS
	case off < 0:
		return 0, unix.EINVAL
	case len(p) == 0:
		return 0, nil
	}
	room := f.layout.MaxSize() - off
	if room <= 0 {
		return 0, unix.EFBIG
	}
	todo := p[:min(int64(len(p)), room)]
	for len(todo) > 0 {
		part := todo
		if len(part) > maxRequest || f.j != nil && len(part) > f.maxPart {
			part = part[:f.maxPart]
		}
		m, err := f.writePart(part, off)
		n, off, todo = n+m, off+int64(m), todo[m:]
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, unix.EFBIG
	}
	return n, nil
}

// lockChange takes the lock for a change of the bytes off to end-1 and returns the
// file's size. If the change makes the file grow, the lock covers all from the old
// last block on.
func (f *File) lockChange(off, end int64) (*rangeLock, int64) {
	for {
		lo, hi := f.changes(off, end, f.Size())
		l := f.locks.acquire(lo, hi, true)
		size := f.Size()
		if lo2, hi2 := f.changes(off, end, size); lo <= lo2 && hi >= hi2 {
			return l, size
		}
		f.locks.release(l)
	}
}

func (f *File) changes(off, end, size int64) (lo, hi uint64) {
	lo, hi = uint64(off/f.bs), uint64((end-1)/f.bs)
	if end > size {
		lo, hi = min(lo, uint64(max(size-1, 0)/f.bs)), lastBlock
	}
	return lo, hi
}

// writePart is one request.
func (f *File) writePart(p []byte, off int64) (n int, err error) {
	if done, err := f.tryStream(p, off); done && err != nil {
		return 0, err
	} else if done {
		return len(p), nil
	}
	room, err := f.roomToWrite(len(p))
	if err != nil {
		return 0, err
	}
	defer room.Release()
	err = f.afterStream(func() error {
		n, err = f.write(p, off, room)
		return err
	})
	return n, err
}

// write is one request, one change.
func (f *File) write(p []byte, off int64, room *journal.Reservation) (int, error) {
	end := off + int64(len(p))
	l, size := f.lockChange(off, end)
	defer f.locks.release(l)
	ch := f.newChange(size, max(size, end))
	defer f.releaseChange(ch)
	ch.room = room
	first := uint64(off / f.bs)
	if size > 0 && uint64((size-1)/f.bs) < first {
		if err := f.complete(ch); err != nil {
			return 0, err
		}
	}
	if err := f.sealRange(ch, p, off); err != nil {
		return 0, err
	}
	err := f.commit(ch)
	var short *shortError
	if !errors.As(err, &short) {
		if err != nil {
			return 0, err
		}
		return len(p), nil
	}
	// The disk took a part: write that, and say how much it was.
	f.cut(ch, short.blocks)
	if again := f.commit(ch); again != nil {
		return 0, again
	}
	return int(min(int64(first+uint64(short.blocks))*f.bs, end) - off), short.err
}

// cut shortens the last extent of a change to its first n blocks, which are whole.
func (f *File) cut(ch *change, n int) {
	e := &ch.extents[len(ch.extents)-1]
	e.bodies, e.entries = e.bodies[:n*int(f.bs)], e.entries[:n*cipher.EntrySize]
	ch.size = max(ch.oldSize, min(ch.size, int64(e.first+uint64(n))*f.bs))
}

// complete adds the old last block to a change that makes the file grow, if that
// block is short: it is sealed anew, extended by zeros.
func (f *File) complete(ch *change) error {
	if ch.oldSize%f.bs == 0 || ch.size == ch.oldSize {
		return nil
	}
	return f.edit(ch, uint64(ch.oldSize/f.bs), 0, 0)
}

// edit adds block index to a change, at the length that it then has, with its bytes
// lo to hi-1 zeroed. A hole stays one.
func (f *File) edit(ch *change, index uint64, lo, hi int) error {
	have, want := f.blockLength(index, ch.oldSize), f.blockLength(index, ch.size)
	if have == 0 || want == 0 {
		return nil
	}
	hole, err := f.isHole(index)
	if err != nil || hole {
		return err
	}
	b := f.cache.buffer(int(f.bs))
	defer f.cache.recycle(b)
	if lo > 0 || hi < min(have, want) {
		if _, err := f.readBlocks((*b)[:have], index, 1); err != nil {
			return err
		}
	}
	clear((*b)[have:])
	clear((*b)[lo:hi])
	e := f.extent(ch, index, 1, want)
	return f.c.Seal(e.bodies, e.entries, (*b)[:want], index)
}

func (f *File) isHole(index uint64) (bool, error) {
	var entry [cipher.EntrySize]byte
	var present [1]byte
	err := f.entries(entry[:], present[:], index)
	return present[0] == 0, err
}

// sealRange adds to a change the blocks that p covers at off, sealed.
func (f *File) sealRange(ch *change, p []byte, off int64) error {
	end := off + int64(len(p))
	first, last := uint64(off/f.bs), uint64((end-1)/f.bs)
	n := int(last-first) + 1
	head, err := f.merge(ch, first, p, off)
	if err != nil {
		return err
	}
	defer f.cache.recycle(head)
	tail := head
	if n > 1 {
		if tail, err = f.merge(ch, last, p, off); err != nil {
			return err
		}
		defer f.cache.recycle(tail)
	}
	e := f.extent(ch, first, n, f.blockLength(last, ch.size))
	return spread(n, int(f.bs), func(from, to int) error {
		for i := from; i < to; i++ {
			index := first + uint64(i)
			body := f.bodies(e.bodies, i, 1)
			var plain []byte
			switch {
			case i == 0 && head != nil:
				plain = *head
			case i == n-1 && tail != nil:
				plain = *tail
			default:
				at := int64(index)*f.bs - off
				plain = p[at : at+int64(len(body))]
			}
			if err := f.c.Seal(body, e.entries[i*cipher.EntrySize:(i+1)*cipher.EntrySize], plain, index); err != nil {
				return err
			}
		}
		return nil
	})
}

// merge returns block index as it is once p is written at off, at its length after
// ch. Where p covers the whole block it returns nil and reads nothing, so that a
// block that does not open can be overwritten.
func (f *File) merge(ch *change, index uint64, p []byte, off int64) (*[]byte, error) {
	start := int64(index) * f.bs
	have, want := f.blockLength(index, ch.oldSize), f.blockLength(index, ch.size)
	lo, hi := int(max(off-start, 0)), int(min(off+int64(len(p))-start, f.bs))
	if lo == 0 && hi == want {
		return nil, nil
	}
	b := f.cache.buffer(int(f.bs))
	if have > 0 {
		if _, err := f.readBlocks((*b)[:have], index, 1); err != nil {
			f.cache.recycle(b)
			return nil, err
		}
		clear((*b)[have:])
	} else {
		clear(*b)
	}
	copy((*b)[lo:hi], p[max(start-off, 0):])
	*b = (*b)[:want]
	return b, nil
}
