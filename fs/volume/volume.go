package volume

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// Names in the backing directory that are plyfs's own. A sealed name is
// base64url and so never contains a dot.
const (
	metaName    = ".plyfs"
	lockName    = "lock"
	tmpName     = "tmp"
	linksName   = "links"
	journalName = "journal"
	dirIDName   = "plyfs.dirid"
)

var (
	// ErrNotVolume reports that a directory holds no volume.
	ErrNotVolume = errors.New("not a plyfs volume")
	// ErrExists reports that a directory holds a volume already.
	ErrExists = errors.New("holds a plyfs volume already")
)

// Config is what Open needs.
type Config struct {
	Root     backing.Dir    // the ciphertext directory; the Volume owns it once Open succeeds
	Cipher   *cipher.Volume // unlocked
	ReadOnly bool           // change nothing in Root
	Log      *slog.Logger   // nil discards
}

// Volume is an open volume.
type Volume struct{}

// Format makes the structure of an empty volume in root: the root's ID, the
// directory .plyfs and the superblock, all durable on return. root must hold
// nothing but what the caller keeps beside the tree (plyfs.json).
func Format(root backing.Dir, v *cipher.Volume) error { return unix.ENOSYS }

// Open opens the volume in c.Root. The caller holds its Lock. Errors wrap
// ErrNotVolume, journal.ErrTampered, journal.ErrVersion, cipher.ErrAuth or the
// backing's own.
func Open(c Config) (*Volume, error) { return nil, unix.ENOSYS }

// Close makes everything durable and marks the volume clean. Handles still
// open are closed. It returns the first error; the volume then stays marked
// unclean.
func (v *Volume) Close() error { return nil }

// notVolume says that what is missing makes the directory no volume.
func notVolume(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: no %s in it", ErrNotVolume, metaName)
	}
	return fmt.Errorf("%s: %w", metaName, err)
}
