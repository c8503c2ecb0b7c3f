package blockfile

import (
	"github.com/plyfs/plyfs/fs/journal"
	"golang.org/x/sys/unix"
)

// Truncate makes the file size bytes long. What it gains is a hole.
func (f *File) Truncate(size int64) error {
	switch {
	case f.ro:
		return unix.EROFS
	case size < 0:
		return unix.EINVAL
	case size > f.layout.MaxSize():
		return unix.EFBIG
	}
	room, err := f.room(1, 3)
	if err != nil {
		return err
	}
	defer room.Release()
	return f.afterStream(func() error { return f.resize(room, size) })
}

func (f *File) resize(room *journal.Reservation, size int64) error {
	l, old := f.lockResize(size)
	defer f.locks.release(l)
	if size == old && f.j != nil {
		return f.modified(room)
	}
	if size == old {
		return f.cutHome(f.layout.PhysicalSize(size)) // for the times
	}
	ch := f.newChange(old, size)
	defer f.releaseChange(ch)
	ch.room = room
	if size > old {
		if err := f.complete(ch); err != nil {
			return err
		}
	} else if size%f.bs != 0 {
		if err := f.edit(ch, uint64(size/f.bs), 0, 0); err != nil {
			return err
		}
	}
	return f.commit(ch)
}

// lockResize takes the lock for a change of the size and returns the size as
// it is.
func (f *File) lockResize(size int64) (*rangeLock, int64) {
	for {
		old := f.Size()
		lo := uint64(size / f.bs)
		if old < size {
			lo = uint64(max(old-1, 0) / f.bs)
		}
		l := f.locks.acquire(lo, lastBlock, true)
		if f.Size() == old {
			return l, old
		}
		f.locks.release(l)
	}
}
