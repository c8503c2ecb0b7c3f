package blockfile

import (
	"errors"
	"log/slog"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// ErrCorrupt reports that the structure of a file does not verify: a tag
// block or header is missing where one must be, or the backing file is shorter
// than its authenticated size says. Blocks, tag blocks and headers that do not
// open wrap [cipher.ErrAuth].
var ErrCorrupt = errors.New("file is damaged")

// Config is what the files of one volume share.
type Config struct {
	Volume   *cipher.Volume
	ReadOnly bool
	// Unclean says that the volume was not unmounted cleanly: a file whose
	// header is missing or zero was never synced and is empty.
	Unclean bool
	// Cache bounds the tag blocks kept in memory. One belongs to all files of
	// a volume; a file without one keeps a small cache of its own.
	Cache *Cache
	Log   *slog.Logger // nil discards
}

// File is the content of one open regular file.
type File struct{}

// Cache is a bounded store of tag blocks.
type Cache struct{}

// NewCache makes a cache of at most size bytes; 0 chooses 64 MiB.
func NewCache(size int) *Cache { return &Cache{} }

// Create makes the empty backing file b the empty file of a new ID. On success
// the File owns b; on an error b is the caller's still.
func Create(b backing.File, c Config) (*File, error) { return nil, unix.ENOSYS }

// Open opens the content b holds. Ownership is as with Create.
func Open(b backing.File, c Config) (*File, error) { return nil, unix.ENOSYS }

// ReadID returns the ID in the header of b.
func ReadID(b backing.File, v *cipher.Volume) (cipher.FileID, error) {
	return cipher.FileID{}, unix.ENOSYS
}

func (f *File) ID() cipher.FileID { return cipher.FileID{} }
func (f *File) Size() int64       { return 0 }

// Backing returns the backing file, for attributes.
func (f *File) Backing() backing.File                          { return nil }
func (f *File) ReadAt(p []byte, off int64) (n int, err error)  { return 0, unix.ENOSYS }
func (f *File) WriteAt(p []byte, off int64) (n int, err error) { return 0, unix.ENOSYS }
func (f *File) Truncate(size int64) error                      { return unix.ENOSYS }
func (f *File) Allocate(off, n int64, keepSize bool) error     { return unix.ENOSYS }
func (f *File) PunchHole(off, n int64) error                   { return unix.ENOSYS }
func (f *File) ZeroRange(off, n int64, keepSize bool) error    { return unix.ENOSYS }
func (f *File) SeekData(off int64) (int64, error)              { return 0, unix.ENOSYS }
func (f *File) SeekHole(off int64) (int64, error)              { return 0, unix.ENOSYS }
func (f *File) Sync(dataOnly bool) error                       { return unix.ENOSYS }
func (f *File) Close() error                                   { return unix.ENOSYS }
