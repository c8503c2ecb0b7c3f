package blockfile

import (
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// Truncate makes the file size bytes long. What it grows by is a hole.
func (f *File) Truncate(size int64) error {
	switch {
	case f.ro:
		return unix.EROFS
	case size < 0:
		return unix.EINVAL
	case size > f.layout.MaxSize():
		return unix.EFBIG
	}
	l, old := f.lockResize(size)
	defer f.locks.release(l)
	if size == old {
		return f.b.Truncate(f.layout.PhysicalSize(size)) // for the times
	}
	ch := f.newChange(old, size)
	defer f.releaseChange(ch)
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

// trim cuts off what lies beyond the end that the header knows: what was left
// by a change that did not complete. st is of the backing file before.
func (f *File) trim(st backing.Stat, want int64) {
	f.log.log.Info("backing file is longer than its size, trimmed", "file", f.ID(), "physical", f.physical, "want", want)
	ch := f.newChange(f.Size(), f.Size())
	defer f.releaseChange(ch)
	ch.trim = true
	if err := f.commit(ch); err != nil {
		f.log.error("backing file was not trimmed", "file", f.ID(), "err", err)
	}
	_ = f.b.Utimes(unix.Timespec{Nsec: unix.UTIME_OMIT}, st.Mtim)
}
