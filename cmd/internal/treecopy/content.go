package treecopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// chunk is how much is read and written at once, in bytes: what the kernel
// hands to a FUSE filesystem as one request.
const chunk = 1 << 20

// copyContent makes the content of the file work that of the regular file from,
// durable and verified, going on with what an interrupted copy left. work is
// followed (byFD).
func (c *copier) copyContent(ctx context.Context, e *entry, from, work string) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(work, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		// An interrupted copy had given it the source's mode, which keeps out its
		// owner, too.
		if err = os.Chmod(work, 0o600); err == nil {
			dst, err = os.OpenFile(work, os.O_RDWR, 0)
		}
	}
	if err != nil {
		return err
	}
	defer dst.Close()
	b := &copyBuffers{make([]byte, chunk), make([]byte, chunk)}
	had, err := commonPrefix(ctx, src, dst, b)
	if err != nil {
		return err
	}
	c.add(had)
	counted := had
	// What is beyond is thrown away first, so that it is a hole where the source
	// has one.
	if err = dst.Truncate(had); err == nil {
		err = dst.Truncate(e.st.Size)
	}
	if err == nil {
		err = extents(src, had, e.st.Size, func(off, end int64) error {
			for off < end {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				n, err := src.ReadAt(b.src[:min(chunk, end-off)], off)
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				if n == 0 {
					return ErrChanged
				}
				if _, err := dst.WriteAt(b.src[:n], off); err != nil {
					return err
				}
				off += int64(n)
				c.add(off - counted)
				counted = off
			}
			return nil
		})
	}
	if err == nil {
		err = dst.Sync()
	}
	if err == nil {
		err = verify(ctx, src, dst, e.st.Size, b)
	}
	if err == nil || errors.Is(err, ErrVerify) {
		// A source that was written to does not read back as it was copied either.
		if changed := unchanged(src, &e.st); changed != nil {
			err = changed
		}
	}
	c.add(e.st.Size - counted) // holes at the end
	return err
}

type copyBuffers struct{ src, dst []byte }

// commonPrefix returns up to which byte, a multiple of chunk, dst is as src.
func commonPrefix(ctx context.Context, src, dst *os.File, b *copyBuffers) (int64, error) {
	st, err := dst.Stat()
	if err != nil {
		return 0, err
	}
	for off := int64(0); ; off += chunk {
		if off+chunk > st.Size() {
			return off, nil
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		same, err := sameAt(src, dst, off, chunk, b)
		if err != nil || !same {
			return off, err
		}
	}
}

// sameAt compares n bytes of both files.
func sameAt(src, dst *os.File, off int64, n int, b *copyBuffers) (bool, error) {
	m, err := src.ReadAt(b.src[:n], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	k, err := dst.ReadAt(b.dst[:n], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return m == k && bytes.Equal(b.src[:m], b.dst[:k]), nil
}

// extents calls f for each range from off to size that the file has data in.
func extents(src *os.File, off, size int64, f func(off, end int64) error) error {
	fd := int(src.Fd())
	for off < size {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		end := size
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // a filesystem without
			data = off
		case err != nil:
			return err
		default:
			if end, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if err := f(data, min(end, size)); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// verify reads dst back and compares all of it. The kernel drops its pages of dst
// first, so that the target's filesystem is asked: a volume decrypts and
// authenticates it anew. What lies below that may answer from memory, so it does
// not show that the medium holds it.
func verify(ctx context.Context, src, dst *os.File, size int64, b *copyBuffers) error {
	if err := unix.Fadvise(int(dst.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	for off := int64(0); off < size; off += chunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		same, err := sameAt(src, dst, off, chunk, b)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("bytes %d to %d: %w", off, off+chunk, ErrVerify)
		}
	}
	return nil
}

// unchanged compares the source with what it was at first.
func unchanged(src *os.File, was *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &now); err != nil {
		return err
	}
	if now.Dev != was.Dev || now.Ino != was.Ino || now.Size != was.Size || now.Mtim != was.Mtim || now.Ctim != was.Ctim {
		return ErrChanged
	}
	return nil
}
