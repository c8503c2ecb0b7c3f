package blockfile

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

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
	ReadOnly bool // changes fail with EROFS, and nothing is written
	// Unclean says that the volume was not unmounted cleanly: a file whose
	// header is missing or zero was never synced and is taken as empty.
	Unclean bool
	// Cache bounds the tag blocks in memory. One belongs to all files of a
	// volume; a file without one keeps a small cache of its own.
	Cache *Cache
	Log   *slog.Logger // nil discards
}

// File is the content of one open regular file. There must be one File at a
// time for a backing inode. Its methods are safe for concurrent use: readers
// run side by side, and with writers of other blocks; a change of the size
// waits for and holds off all that lies beyond the smaller of both sizes.
type File struct {
	b       backing.File
	volume  *cipher.Volume
	c       *cipher.File
	layout  cipher.Layout
	bs      int64 // block size
	cache   *Cache
	log     limitedLog
	ro      bool
	unclean bool

	locks rangeLocks
	size  atomic.Int64

	// These change under a lock that holds all blocks from the end on.
	header   cipher.Header
	physical int64 // length of the backing file

	groups map[uint64]*group // guarded by cache.mu

	chain  sync.RWMutex // held to change, or to rely on, which groups exist
	gaps   gapMemo
	closed atomic.Bool
}

func newFile(b backing.File, c Config) *File {
	if c.Cache == nil {
		c.Cache = NewCache(privateCacheSize)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &File{
		b: b, volume: c.Volume, layout: c.Volume.Layout(), bs: int64(c.Volume.BlockSize()),
		cache: c.Cache, ro: c.ReadOnly, unclean: c.Unclean,
		log: limitedLog{log: c.Log}, groups: map[uint64]*group{},
	}
}

// Create makes the empty backing file b the empty file of a new ID. On success
// the File owns b; on an error b is the caller's still.
func Create(b backing.File, c Config) (*File, error) {
	if c.ReadOnly {
		return nil, unix.EROFS
	}
	f := newFile(b, c)
	if err := f.initialise(); err != nil {
		return nil, err
	}
	return f, nil
}

// Open opens the content that b holds. Ownership is as with Create. A backing
// file longer than the size in its header is trimmed; a shorter one is
// ErrCorrupt.
func Open(b backing.File, c Config) (*File, error) {
	f := newFile(b, c)
	st, err := b.Stat()
	if err != nil {
		return nil, err
	}
	f.physical = st.Size
	var head [2 * cipher.SectorSize]byte
	if n, err := b.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return nil, err
	} else if clear(head[n:]); n < len(head) && !c.Unclean {
		return nil, fmt.Errorf("backing file of %d bytes has no header: %w", st.Size, ErrCorrupt)
	}
	if err := f.openHeader(&head); err != nil {
		return nil, err
	}
	switch want := f.layout.PhysicalSize(f.Size()); {
	case f.physical < want:
		return nil, fmt.Errorf("file %s: backing file of %d bytes, size %d takes %d: %w", f.ID(), f.physical, f.Size(), want, ErrCorrupt)
	case f.physical > want && !c.ReadOnly:
		f.trim(st, want)
	}
	return f, nil
}

// openHeader verifies the header and gives the file one that lost or never
// had it, where the volume's state allows for that.
func (f *File) openHeader(head *[2 * cipher.SectorSize]byte) (err error) {
	if _, f.c, err = f.volume.OpenStatic(head[:cipher.SectorSize]); err == nil {
		f.header, err = f.c.OpenHeader(head[cipher.SectorSize:])
	}
	switch {
	case err == nil:
		f.size.Store(f.header.Size)
		return nil
	case !errors.Is(err, cipher.ErrZero):
		return f.identify(err)
	case !f.unclean:
		return f.identify(fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	f.log.log.Warn("file was never synced before an unclean stop, taken as empty", "physical", f.physical)
	return f.initialise()
}

func (f *File) identify(err error) error {
	if f.c != nil {
		return fmt.Errorf("file %s: %w", f.c.ID(), err)
	}
	return err
}

// initialise makes the file empty, with the ID it has, if it has one.
func (f *File) initialise() error {
	var tag [cipher.TagBlockSize]byte
	if f.c == nil {
		static, c, err := f.volume.NewFile()
		if err != nil {
			return err
		}
		f.c = c
		f.volume.SealStatic(tag[:cipher.SectorSize], static, f.c)
	} else if _, err := f.b.ReadAt(tag[:cipher.SectorSize], 0); err != nil {
		return err
	}
	f.header = cipher.Header{}
	f.c.SealHeader(tag[cipher.SectorSize:2*cipher.SectorSize], f.header)
	f.c.SealTrailer(tag[:], 0, cipher.Trailer{Run: cipher.RunToEnd})
	if f.ro {
		f.physical = cipher.TagBlockSize // as far as a reader of nothing can tell
		return nil
	}
	if f.physical > 0 {
		if err := f.b.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := f.b.WriteAt(tag[:], 0); err != nil {
		return err
	}
	f.physical = cipher.TagBlockSize
	return nil
}

// ReadID returns the ID in the header of b, verified.
func ReadID(b backing.File, v *cipher.Volume) (cipher.FileID, error) {
	var static [cipher.SectorSize]byte
	if n, err := b.ReadAt(static[:], 0); err == io.EOF {
		return cipher.FileID{}, fmt.Errorf("backing file of %d bytes has no header: %w", n, ErrCorrupt)
	} else if err != nil {
		return cipher.FileID{}, err
	}
	h, _, err := v.OpenStatic(static[:])
	return h.FileID, err
}

// ID returns the ID in the file's header.
func (f *File) ID() cipher.FileID { return f.c.ID() }

// Size returns the length of the content.
func (f *File) Size() int64 { return f.size.Load() }

// Backing returns the backing file, for attributes. Its content is this
// package's alone.
func (f *File) Backing() backing.File { return f.b }

// Sync makes the content durable, and unless dataOnly the attributes too.
func (f *File) Sync(dataOnly bool) error {
	if dataOnly {
		return f.b.Datasync()
	}
	return f.b.Sync()
}

// Close ends the use of the file and of its backing file. It does not sync.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return unix.EBADF
	}
	f.cache.drop(f, 0)
	return f.b.Close()
}
