package volume

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/blockfile"
	"github.com/plyfs/plyfs/fs/journal"
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

// journalLabel names the MAC keys of the journal, FORMAT.md §11.
const journalLabel = "journal"

// Config is what Open needs.
type Config struct {
	Root     backing.Dir    // the ciphertext directory; the Volume owns it once Open succeeds
	Cipher   *cipher.Volume // unlocked
	ReadOnly bool           // change nothing in Root
	NoAtime  bool           // reading moves no access times; SetNoAtime changes it
	Log      *slog.Logger   // nil discards

	// OpenDirs bounds the directories kept open, 0 chooses.
	OpenDirs int

	// JournalDir is where the journal's segments lie, in a directory of their
	// own; nil is the ciphertext directory. It stays the caller's, and open. A
	// volume that was not unmounted cleanly is opened with the same one as before.
	JournalDir backing.Dir
	// JournalSize bounds the segments' bytes, at least MinJournalSize; 0 is
	// DefaultJournalSize.
	JournalSize int64
	// JournalSegment is the size of a segment; 0 chooses. With less than 8 MiB
	// long writes are not all-or-nothing: that is for tests.
	JournalSegment int64
	// AcceptRollback opens a volume whose journal lost records that were durable.
	AcceptRollback bool
	// Admit, if not nil, is told the volume's Position before anything is
	// changed, and refuses the volume by an error.
	Admit       func(position uint64) error
	unjournaled bool  // for comparison
	streamFrom  int64 // for tests, see blockfile.Config
}

// Volume is an open volume. Its methods are safe for concurrent use.
type Volume struct {
	cipher *cipher.Volume
	layout cipher.Layout
	ro     bool
	log    *slog.Logger
	dev    uint64 // of the backing filesystem

	// fuseBelow says that the backing filesystem is a FUSE one, whose server does
	// not hear of syncfs(2).
	fuseBelow bool

	meta, tmp, links, journalDir backing.Dir // links is nil where there is none
	super                        *journal.Super
	place                        *journal.Place   // of the journal, if not journalDir
	journal                      *journal.Journal // nil where none is needed
	rootDir                      *openDir
	cache                        *blockfile.Cache
	files                        *registry
	streamFrom                   int64
	noAtime                      atomic.Bool
	modeDropped                  atomic.Pointer[func(NodeID)]
	times                        sync.RWMutex // see blockfile.Config

	table      *table
	dirs       dirCache
	complaints complaints

	// unclean says that the volume was not unmounted cleanly and that not all
	// files were looked at since.
	unclean atomic.Bool
	walked  atomic.Bool // the walk is over, or none was needed
	broken  atomic.Bool // nothing is to be written any more
	moved   moves       // what the walk might miss

	// unopened maps inode numbers to backing paths of files that the walk could
	// not open, of those that records name.
	unopened sync.Map

	stop    chan struct{} // closed to end the walk and the reaper
	walk    sync.WaitGroup
	workers sync.WaitGroup

	freeze   freezer
	reap     chan struct{} // a removed file waits
	settling sync.Mutex

	gate       gate          // of all calls that take keys
	suspending sync.Mutex    // held by Suspend, Resume and Close
	closed     bool          // guarded by suspending
	resting    atomic.Bool   // nothing is done in the background
	stopWalk   chan struct{} // closed to end the walk for a while
	homing     sync.Mutex    // held while records go home, or are dropped
}

const defaultOpenDirs = 256

// OpenWithoutJournal is for measuring what the journal costs, and nothing else may
// call it: a crash leaves blocks in such a volume that do not open.
func OpenWithoutJournal(c Config) (*Volume, error) {
	c.unjournaled = true
	return Open(c)
}

// Open opens the volume in c.Root. The caller holds its Lock. Errors wrap
// ErrNotVolume, journal.ErrTampered, journal.ErrVersion, cipher.ErrAuth,
// ErrDamaged or the backing's own.
func Open(c Config) (*Volume, error) {
	v := &Volume{
		cipher: c.Cipher, layout: c.Cipher.Layout(), ro: c.ReadOnly, log: c.Log,
		cache: blockfile.NewCache(0), stop: make(chan struct{}), files: newRegistry(c.ReadOnly), streamFrom: c.streamFrom, reap: make(chan struct{}, 1),
		gate: newGate(), stopWalk: make(chan struct{}),
	}
	v.noAtime.Store(c.NoAtime)
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.dirs.max = max(c.OpenDirs, 1)
	if c.OpenDirs == 0 {
		v.dirs.max = defaultOpenDirs
	}
	st, err := c.Root.Stat("")
	if err != nil {
		return nil, err
	}
	v.dev = st.Dev
	below, err := c.Root.Statfs()
	if err != nil {
		return nil, err
	}
	v.fuseBelow = below.Type == unix.FUSE_SUPER_MAGIC
	if err := v.openMeta(c.Root); err != nil {
		v.closeMeta()
		return nil, err
	}
	root := &Node{id: RootID, ino: st.Ino, kind: unix.S_IFDIR, lookups: 1}
	v.table = newTable(root, v.files)
	if err := v.loadDirID(root, c.Root); err != nil {
		v.closeMeta()
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if c.Admit != nil {
		if err := c.Admit(v.Position()); err != nil {
			v.closeMeta()
			return nil, err
		}
	}
	v.unclean.Store(!v.super.Clean())
	if v.unclean.Load() && !v.ro {
		// What the run before cut off files must be gone for good before they grow.
		if err := c.Root.SyncAll(); err != nil {
			v.closeMeta()
			return nil, err
		}
	}
	if c.unjournaled {
		err = v.super.MarkDirty()
	} else {
		err = v.openJournal(&c)
	}
	if err != nil {
		v.closeMeta()
		return nil, err
	}
	if !v.ro {
		v.emptyTmp()
	}
	v.rootDir = v.dirs.put(root, c.Root) // in use, hence open, until Close
	v.walked.Store(!v.unclean.Load())
	if v.unclean.Load() {
		v.log.Warn("volume was not unmounted cleanly")
	}
	v.start()
	return v, nil
}

// start begins the work in the background.
func (v *Volume) start() {
	if v.ro {
		return
	}
	if v.journal != nil {
		v.journal.Start(v)
		v.workers.Add(1)
		go v.reaper()
	}
	v.startWalk()
}

// startWalk begins to look at all files where that is due.
func (v *Volume) startWalk() {
	if v.unclean.Load() && !v.ro {
		v.moved.start()
		v.walk.Add(1)
		go v.lookAtAll(v.stopWalk)
	}
}

// Position returns a number that grows with the life of the volume, at least
// once with each mount that changes it, and that is durable: a host that
// remembers it can tell an older copy. It is valid after Close too.
func (v *Volume) Position() uint64 {
	sequence, _ := v.super.Position()
	return sequence
}

// openMeta opens .plyfs and what is in it.
func (v *Volume) openMeta(root backing.Dir) (err error) {
	if v.meta, err = root.OpenDir(metaName); err != nil {
		return notVolume(err)
	}
	if v.journalDir, err = v.meta.OpenDir(journalName); err != nil {
		return fmt.Errorf("%s: %w", journalName, err)
	}
	auth := v.cipher.Authenticator(journalLabel)
	if auth == nil {
		return cipher.ErrWiped
	}
	if v.super, err = journal.OpenSuper(v.journalDir, auth); err != nil {
		return hostile(err)
	}
	if v.tmp, err = v.openOrMake(tmpName); err != nil {
		return err
	}
	v.links, err = v.openOrMake(linksName)
	return err
}

// openOrMake opens a directory in .plyfs; copies of a volume often lack empty
// ones. In a read-only volume a missing one is nil.
func (v *Volume) openOrMake(name string) (backing.Dir, error) {
	d, err := v.meta.OpenDir(name)
	if errors.Is(err, unix.ENOENT) {
		if v.ro {
			return nil, nil
		}
		if err = v.meta.Mkdir(name, 0o700); err == nil {
			d, err = v.meta.OpenDir(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

func (v *Volume) closeMeta() {
	if v.super != nil {
		v.super.Close()
	}
	if v.place != nil {
		v.place.Close()
	}
	for _, d := range []backing.Dir{v.meta, v.tmp, v.links, v.journalDir} {
		if d != nil {
			d.Close()
		}
	}
}

// Close makes everything durable and marks the volume clean. Handles still
// open are closed; no other call may be under way. It returns the first error;
// the volume then stays marked unclean. So does a suspended one, without an
// error: its data is durable, and going home takes keys.
func (v *Volume) Close() error {
	v.suspending.Lock()
	defer v.suspending.Unlock()
	v.closed = true
	close(v.stop)
	v.walk.Wait()
	v.workers.Wait()
	var errs []error
	orphans := v.leftOpen()
	for _, f := range orphans {
		errs = append(errs, f.Close())
	}
	keys := !v.gate.isShut()
	if !keys {
		v.log.Warn("volume is closed while its keys are withdrawn: what the journal holds stays there for the next mount")
	}
	if v.journal != nil && !v.ro && keys {
		if f, frozen := v.Frozen(); frozen && !f.Clean {
			errs = append(errs, v.journal.Thaw()) // what could not go home may be able to now
		}
		errs = append(errs, v.journal.Drain())
	}
	for _, file := range v.files.all() {
		if v.journal == nil && !v.ro && keys {
			errs = append(errs, file.Sync(false))
		}
		if keys && !v.broken.Load() {
			file.ReleaseAhead()
			errs = append(errs, v.lastHeader(file))
		}
		errs = append(errs, file.Close())
	}
	if !v.ro {
		errs = append(errs, v.rootDir.SyncAll())
	}
	// What was not looked at after an unclean stop is to be next time.
	clean := keys && errors.Join(errs...) == nil && !v.unclean.Load() && !v.broken.Load()
	if v.journal != nil {
		errs = append(errs, v.journal.Close(clean))
	} else if !v.ro && clean {
		errs = append(errs, v.super.MarkClean())
	}
	v.closeMeta()
	v.dirs.done(v.rootDir)
	v.dirs.free(0)
	return errors.Join(errs...)
}

// leftOpen takes the files kept open of nodes without a name.
func (v *Volume) leftOpen() (orphans []backing.File) {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	for _, n := range v.table.byID {
		if f := v.table.takeOrphan(n); f != nil {
			v.files.keep(n.ino, -1)
			orphans = append(orphans, f)
		}
	}
	return orphans
}

// ReadOnly reports whether the volume was opened to read alone.
func (v *Volume) ReadOnly() bool { return v.ro }

// SetNoAtime says whether reading leaves access times alone from now on.
func (v *Volume) SetNoAtime(on bool) { v.noAtime.Store(on) }

// Statfs is what the backing filesystem says, with the names that fit here.
func (v *Volume) Statfs() (backing.Statfs, error) {
	st, err := v.rootDir.Statfs()
	st.Namelen = NameMax
	return st, err
}

// writable returns EROFS for a read-only volume.
func (v *Volume) writable() error {
	if v.ro || v.broken.Load() {
		return unix.EROFS
	}
	return nil
}

// tempName is a name for something in .plyfs/tmp or .plyfs/links.
func (v *Volume) tempName() string {
	var b [15]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}
