package fs

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/blockfile"
	"github.com/plyfs/plyfs/fs/volume"
)

func TestStatus(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("file: %w", err) }
	for _, c := range []struct {
		what string
		err  error
		want fuse.Status
	}{
		{"success", nil, fuse.OK},
		{"an errno", unix.ENOSPC, fuse.Status(unix.ENOSPC)},
		{"a wrapped errno", wrap(unix.EFBIG), fuse.Status(unix.EFBIG)},
		{"an errno of package os", &os.PathError{Op: "open", Err: unix.EROFS}, fuse.EROFS},
		{"quota", unix.EDQUOT, fuse.Status(unix.EDQUOT)},
		{"a stale node", unix.ESTALE, fuse.Status(unix.ESTALE)},
		{"this process's descriptors", unix.EMFILE, fuse.Status(unix.ENFILE)},
		{"something missing in the backing filesystem", unix.ENOSYS, fuse.Status(unix.EOPNOTSUPP)},
		{"a block that does not open", wrap(cipher.ErrAuth), fuse.EIO},
		{"a zero header", cipher.ErrZero, fuse.EIO},
		{"bytes of something else", cipher.ErrMagic, fuse.EIO},
		{"another version", cipher.ErrVersion, fuse.EIO},
		{"another suite", cipher.ErrSuite, fuse.EIO},
		{"another volume's", cipher.ErrForeign, fuse.EIO},
		{"an unknown epoch", cipher.ErrEpoch, fuse.EIO},
		{"a damaged file", wrap(blockfile.ErrCorrupt), fuse.EIO},
		{"a damaged volume", wrap(volume.ErrDamaged), fuse.EIO},
		{"damage that wraps an errno too", errors.Join(unix.ENOENT, volume.ErrDamaged), fuse.EIO},
		{"an inaccessible volume", wrap(volume.ErrInaccessible), fuse.Status(unix.ENOKEY)},
		{"dropped keys", cipher.ErrWiped, fuse.Status(unix.ENOKEY)},
		{"a value too long to seal", cipher.ErrTooLong, fuse.Status(unix.E2BIG)},
		{"anything else", errors.New("?"), fuse.EIO},
	} {
		if got := status(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v", c.what, got, c.want)
		}
	}
}
