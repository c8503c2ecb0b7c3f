package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/blockfile"
	"github.com/plyfs/plyfs/fs/volume"
)

// damage are the errors of a volume that was altered or lost bytes. To an
// application they are all EIO, whatever else they wrap.
var damage = []error{
	cipher.ErrAuth, cipher.ErrZero, cipher.ErrMagic, cipher.ErrVersion, cipher.ErrSuite, cipher.ErrForeign,
	blockfile.ErrCorrupt, volume.ErrDamaged,
}

// status turns an error into the errno that the kernel gets. It is the only
// place that does. What is neither known here nor an errno is EIO.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errors.Is(err, cipher.ErrWiped) || errors.Is(err, volume.ErrInaccessible) {
		return fuse.Status(unix.ENOKEY)
	}
	for _, d := range damage {
		if errors.Is(err, d) {
			return fuse.EIO
		}
	}
	if errors.Is(err, cipher.ErrTooLong) {
		return fuse.Status(unix.E2BIG)
	}
	var errno unix.Errno
	if !errors.As(err, &errno) || errno == 0 {
		return fuse.EIO
	}
	switch errno {
	case unix.EMFILE: // of this process, not of the one that asked
		return fuse.Status(unix.ENFILE)
	case unix.ENOSYS: // the kernel would stop asking
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return fuse.Status(errno)
}
