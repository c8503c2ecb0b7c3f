package blockfile

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
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
	// NoAtime, while it is set, keeps reads from moving access times. nil is never
	// set.
	NoAtime *atomic.Bool
	// Times, if not nil, is held while the backing file has, for a moment, a
	// modification time that nobody set.
	Times sync.Locker
	// Unclean says that the volume was not unmounted cleanly. Then a file whose
	// header is missing or zero and that holds nothing was never synced and is
	// taken as empty, and what a half-done change left is cleared away.
	Unclean bool
	// SyncOpened has Open sync the file if Unclean: what a killed run cut off,
	// without making that durable, must not come back once the file has grown over
	// it.
	SyncOpened bool
	// Cache bounds the tag blocks in memory. One belongs to all files of a
	// volume; a file without one keeps a small cache of its own.
	Cache *Cache
	// Journal takes all changes, and holds what is not home yet. Without one
	// they go home at once, and a power cut may leave blocks that do not open.
	Journal *journal.Journal
	// StreamFrom is how many bytes a file may grow by through the journal since its
	// last commit, before it streams: more goes straight home. 0 chooses a number;
	// with a negative one all goes through the journal.
	StreamFrom int64
	// Unasked, if not nil, is called before the package changes a backing file of
	// its own accord, as a checkpoint does, and not for a request; done is called
	// after that. Calls for one file do not overlap.
	Unasked func(*File) (done func())
	Log     *slog.Logger // nil discards
}

// File is the content of one open regular file. There must be one File at a
// time for a backing inode. Its methods are safe for concurrent use: readers
// run side by side, and with writers of other blocks; a change of the size
// excludes whatever concerns blocks beyond the smaller of both sizes.
type File struct {
	b       backing.File
	volume  *cipher.Volume
	c       *cipher.File
	layout  cipher.Layout
	bs      int64 // block size
	cache   *Cache
	log     limitedLog
	ro      bool
	noAtime *atomic.Bool // may be nil
	unasked func(*File) (done func())
	times   sync.Locker
	unclean bool

	journal  *journal.Journal // nil without
	j        *journal.File    // the file's live records; nil without a journal
	maxPart  int              // most bytes of a write that is one change
	maxHoles int              // most groups that one change makes holes in

	locks rangeLocks
	size  atomic.Int64

	static cipher.StaticHeader
	newID  bool              // made by initialise
	epochs []uint32          // those in the header; they never change
	header cipher.Header     // as in the newest record or, without one, at home; guarded by the mu of group 0
	groups map[uint64]*group // guarded by cache.mu

	// checkpoint is held, with a journal, while home is written.
	checkpoint sync.Mutex
	// lengthMu guards what follows; without a journal the lock on all blocks from
	// the end on does. physical is the length of the backing file, or more while
	// that is being written.
	lengthMu sync.Mutex
	physical int64
	kept     int64 // up to where streams wrote home: no checkpoint cuts that
	ahead    int64 // up to where backing space is allocated ahead
	loose    bool  // a truncation left space beyond the end, for a checkpoint to free
	appended int64 // bytes that the file grew by, by writing; guarded by the lock on the end
	probed   int64 // a length that the backing file can have; likewise

	streamFrom int64
	noAllocate atomic.Bool            // the backing filesystem gives no space ahead: no streams
	stream     atomic.Pointer[stream] // nil if none
	inlined    atomic.Int64           // new bytes in the journal that are not committed; set under the lock on the end
	failure    atomic.Pointer[error]  // sticky, of writing home

	spaceMu  sync.Mutex            // held while space is given to the user, or freed
	given    atomic.Pointer[given] // nil is none
	reserved reserved

	touched atomic.Int64 // when a read last moved the access time, Unix seconds
	changed atomic.Bool  // the content, since then
	zeroed  atomic.Bool  // holes are to keep their space
	wrote   atomic.Int64 // when the content was last changed, Unix nanoseconds

	// What the next Sync has to make durable at home, counted.
	names, syncedNames atomic.Uint64
	attrs, syncedAttrs atomic.Uint64
	headerNew          atomic.Bool   // the header may not be durable
	syncErrs           atomic.Uint64 // failed syncs of the backing file
	syncMu             sync.Mutex    // held by each sync, so that it knows of errors that earlier ones were told

	// chain is held to change which groups there are, and shared to rely on it.
	// It is taken before any group's mu.
	chain  sync.RWMutex
	last   uint64 // the highest group that is there; guarded by chain
	gaps   gapMemo
	torn   atomic.Bool // a gap may cover groups that are there, see mendGap
	closed atomic.Bool
}

func newFile(b backing.File, c Config) *File {
	if c.Cache == nil {
		c.Cache = NewCache(privateCacheSize)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Unasked == nil {
		c.Unasked = func(*File) func() { return func() {} }
	}
	f := &File{
		b: b, volume: c.Volume, layout: c.Volume.Layout(), bs: int64(c.Volume.BlockSize()),
		cache: c.Cache, ro: c.ReadOnly, noAtime: c.NoAtime, unasked: c.Unasked, unclean: c.Unclean,
		log: limitedLog{log: c.Log, limit: &c.Cache.quiet}, groups: map[uint64]*group{},
	}
	if f.times = c.Times; f.times == nil {
		f.times = &sync.Mutex{}
	}
	f.torn.Store(c.Unclean && c.Journal == nil)
	f.journal = c.Journal
	if f.streamFrom = c.StreamFrom; f.streamFrom == 0 {
		f.streamFrom = streamFrom
	}
	f.limits()
	f.names.Store(1)
	return f
}

// ID returns the ID in the file's header.
func (f *File) ID() cipher.FileID { return f.c.ID() }

// Size returns the length of the content.
func (f *File) Size() int64 { return f.size.Load() }

// Backing returns the backing file, for attributes. Its content is this
// package's alone.
func (f *File) Backing() backing.File { return f.b }

// WipeKeys drops the file's keys, after those of its volume were wiped, with no
// call under way. They come back with the volume's.
func (f *File) WipeKeys() { f.c.Wipe() }

// Close waits for requests under way, and closes the file and its backing file. It
// does not sync. Live records stay in the journal; a stream that was not ended is
// given up. With a journal it changes nothing at home, so that there may already be
// another File of the inode.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return unix.EBADF
	}
	l := f.locks.acquire(0, lastBlock, true)
	defer f.locks.release(l)
	f.checkpoint.Lock()
	defer f.checkpoint.Unlock()
	if f.j == nil {
		f.releaseAhead()
	}
	if s := f.stream.Load(); s != nil { // of a file that is gone
		f.dropStream(s)
	}
	f.cache.drop(f, 0)
	if f.j != nil {
		f.j.Close()
	}
	return f.b.Close()
}
