package volume

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/blockfile"
	"github.com/plyfs/plyfs/fs/journal"
)

const (
	// DefaultJournalSize and MinJournalSize are bounds of a journal, in bytes.
	DefaultJournalSize = journal.DefaultSize
	MinJournalSize     = 2 * journalSegment

	journalSegment = 8 << 20

	// syncAllFrom is the number of files from which one syncfs is cheaper than
	// an fsync of each.
	syncAllFrom = 32
	syncWorkers = 8
)

// openJournal recovers the journal and, unless read-only, begins to use it,
// which marks the volume dirty. A volume that was unmounted cleanly needs none to
// be read.
func (v *Volume) openJournal(c *Config) error {
	if v.ro && v.super.Clean() {
		return nil
	}
	dir := v.journalDir
	if c.JournalDir != nil {
		var err error
		if v.place, err = journal.OpenPlace(c.JournalDir, v.super, v.ro); err != nil {
			return err
		}
		dir = v.place.Dir
	}
	jc := journal.Config{
		Super: v.super, Dir: dir, Auth: v.cipher.Authenticator(journalLabel), Layout: v.layout,
		Size: c.JournalSize, SegmentSize: c.JournalSegment, ReadOnly: v.ro, AcceptRollback: c.AcceptRollback,
		Log: v.log, Fail: v.fail, Progress: v.progress(),
	}
	if jc.Size == 0 {
		jc.Size = DefaultJournalSize
	}
	if jc.SegmentSize == 0 {
		jc.SegmentSize = journalSegment
	} else {
		jc.MaxRequest = v.layout.BlockSize()
	}
	var err error
	if v.journal, err = journal.Open(jc); err != nil {
		return hostile(err)
	}
	if err := v.journal.Lost(); err != nil {
		v.log.Error("records of the journal are missing, what precedes them is shown", "err", err)
	}
	return nil
}

// progress logs how far a recovery is that takes longer than a second.
func (v *Volume) progress() func(done, total int64) {
	next := time.Now().Add(time.Second)
	return func(done, total int64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(5 * time.Second)
			v.log.Warn("reading the journal", "percent", 100*done/max(total, 1), "bytes", done)
		}
	}
}

// fail makes the volume read-only, after an error after which nothing that is
// written can be trusted to last.
func (v *Volume) fail(err error) {
	v.broken.Store(true)
	v.log.Error("the volume is read-only from now on: mount it again once the disk is well", "err", err)
}

// Journal reports what the journal holds. It is false where there is none: in
// a clean volume that was opened read-only.
func (v *Volume) Journal() (journal.Stats, bool) {
	if v.journal == nil {
		return journal.Stats{}, false
	}
	return v.journal.Stats(), true
}

// dropRemoved ends the files that are gone, after their removal was made
// durable, all by one sync, and returns their IDs: their records go nowhere.
// v.homing is held.
func (v *Volume) dropRemoved() ([]cipher.FileID, error) {
	files := v.files.removed()
	if len(files) == 0 {
		return nil, nil
	}
	if err := v.rootDir.SyncAll(); err != nil {
		v.files.restore(files)
		return nil, fmt.Errorf("%w: %w", journal.ErrHome, err)
	}
	if v.fuseBelow {
		v.lastHome(files)
	}
	var gone []cipher.FileID
	for _, file := range files {
		gone = append(gone, file.ID())
		file.Close() // before: its stream, if it has one, is not to make a record any more
		v.journal.Forget(file.ID())
	}
	return gone, nil
}

// lastHome brings removed files home where no sync of their directories can be
// had: should a crash bring a name back, what was acknowledged is there without
// records. A file that cannot go home goes without: to be removed is its cure.
func (v *Volume) lastHome(files map[uint64]*blockfile.File) {
	for _, file := range files {
		err := file.EndStream() // else home stays longer than its header says
		c, cerr := file.Checkpoint(^journal.LSN(0))
		if c != nil {
			cerr = c.Sync()
			c.End(cerr == nil)
		}
		err = errors.Join(err, cerr)
		if err != nil {
			v.complain("removed file is dropped without having gone home", "err", err)
		}
	}
}

// Removed files are collected for reapDelay before their records, and with their
// descriptors their space, are given up; longer, up to reapAtMost, where syncing
// the backing filesystem takes long: it is to take no more than a reapShare of the
// time.
const (
	reapDelay  = time.Second
	reapAtMost = 20 * time.Second
	reapShare  = 20
)

// reapAfter is how long to collect removed files when the last time it took so
// long to drop some.
func reapAfter(took time.Duration) time.Duration {
	return min(max(reapDelay, took*reapShare), reapAtMost)
}

// reaper drops removed files soon, so that their space becomes free.
func (v *Volume) reaper() {
	defer v.workers.Done()
	delay := reapDelay
	for {
		select {
		case <-v.stop:
			return
		case <-v.reap:
		}
		select {
		case <-v.stop:
			return
		case <-time.After(delay):
		}
		var err error
		v.homing.Lock()
		start := time.Now()
		if !v.resting.Load() {
			_, err = v.dropRemoved()
		}
		delay = reapAfter(time.Since(start))
		v.homing.Unlock()
		if err != nil {
			v.complain("removed files cannot be dropped yet", "err", err)
			v.syncFailed(err)
		}
	}
}

// syncFailed tells that a sync of everything failed: of a failed writeback nobody
// else may hear.
func (v *Volume) syncFailed(err error) {
	if v.journal != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		v.journal.HomeFailed(err)
	}
}

// lostName is to be called when the inode lost what may have been its last name
// or user.
func (v *Volume) lostName(ino uint64) {
	if v.journal != nil && v.files.at(ino) != nil && !v.ro {
		select {
		case v.reap <- struct{}{}:
		default:
		}
	}
}

// Checkpoint implements journal.Home. It takes no lock of a node or directory.
func (v *Volume) Checkpoint(refs []journal.Ref, through journal.LSN) (gone []cipher.FileID, err error) {
	v.homing.Lock()
	defer v.homing.Unlock()
	var errs []error
	if gone, err = v.dropRemoved(); err != nil {
		errs = append(errs, err)
	}
	var files []*blockfile.File
	for _, r := range refs {
		if file := v.files.get(r.ID); file != nil {
			files = append(files, file)
		}
	}
	if err := v.syncHeaders(files); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, v.checkpoint(files, through))
	}
	for _, file := range v.files.home() {
		file.ReleaseAhead() // before it may be opened anew
	}
	for _, file := range v.files.settled() {
		errs = append(errs, file.Close())
	}
	if len(files) < len(refs) && v.walked.Load() {
		errs = append(errs, v.missing(gone))
	}
	return gone, errors.Join(errs...)
}

// missing returns an error if the journal has records of files that the walk did
// not find; those in gone are about to be dropped.
func (v *Volume) missing(gone []cipher.FileID) error {
	lost, unopened := 0, ""
	for _, r := range v.journal.LiveFiles() {
		if v.files.get(r.ID) != nil || slices.Contains(gone, r.ID) {
			continue
		}
		lost++
		if path, ok := v.unopened.Load(r.Hint); ok {
			unopened = path.(string)
		}
	}
	switch {
	case lost == 0:
		return nil
	case unopened != "":
		return fmt.Errorf("%s, with records in the journal, does not open (%d files like it): %w", unopened, lost, ErrDamaged)
	}
	return fmt.Errorf("%d files with records in the journal were not found: %w", lost, ErrDamaged)
}

// where says, for an error, which backing file is meant.
func (v *Volume) where(file *blockfile.File, err error) error {
	if err == nil {
		return nil
	}
	st, serr := file.Backing().Stat()
	if serr != nil {
		return err
	}
	if n := v.table.at(st.Ino); n != nil {
		return fmt.Errorf("%s: %w", v.table.path(n), err)
	}
	return fmt.Errorf("backing inode %d: %w", st.Ino, err)
}

// syncsAll reports whether so many files are made durable by one syncfs.
func (v *Volume) syncsAll(files int) bool { return files >= syncAllFrom && !v.fuseBelow }

// syncHeaders makes durable the headers that may not be.
func (v *Volume) syncHeaders(files []*blockfile.File) error {
	var fresh []*blockfile.File
	for _, file := range files {
		if file.HeaderNew() {
			fresh = append(fresh, file)
		}
	}
	if v.syncsAll(len(fresh)) {
		if err := v.rootDir.SyncAll(); err != nil {
			return fmt.Errorf("%w: %w", journal.ErrHome, err)
		}
		for _, file := range fresh {
			file.HeaderSynced()
		}
		return nil
	}
	return each(fresh, func(file *blockfile.File) error {
		if err := file.SyncHeader(); err != nil && !errors.Is(err, unix.EBADF) { // closed meanwhile
			return err
		}
		return nil
	})
}

// checkpoint copies files home, syncs them, and drops the records.
func (v *Volume) checkpoint(files []*blockfile.File, through journal.LSN) error {
	var errs []error
	var begun []*blockfile.Checkpoint
	for _, file := range files {
		c, err := file.Checkpoint(through)
		errs = append(errs, v.where(file, err))
		if c != nil {
			errs = append(errs, v.where(file, c.Skipped()))
			begun = append(begun, c)
		}
	}
	if v.syncsAll(len(begun)) {
		err := v.rootDir.SyncAll()
		for _, c := range begun {
			c.End(err == nil)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", journal.ErrHome, err))
		}
		return errors.Join(errs...)
	}
	errs = append(errs, each(begun, func(c *blockfile.Checkpoint) error {
		err := c.Sync()
		c.End(err == nil)
		return err
	}))
	return errors.Join(errs...)
}

// each calls f for all of list, several at a time.
func each[T any](list []T, f func(T) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	slots := make(chan struct{}, syncWorkers)
	for i, x := range list {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = f(x)
			<-slots
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// maxIdle bounds the files that are open for the journal alone.
const maxIdle = 256

// settle brings everything home where too many files wait for it. The caller
// holds no lock.
func (v *Volume) settle() {
	if v.journal == nil || v.ro || v.files.idleCount() <= maxIdle {
		return
	}
	if v.gate.enter() != nil {
		return
	}
	defer v.gate.leave()
	v.settling.Lock()
	defer v.settling.Unlock()
	if v.files.idleCount() <= maxIdle || v.broken.Load() {
		return
	}
	if err := v.journal.Drain(); err != nil {
		v.complain("files wait for their checkpoint", "err", err)
	}
}

// contentOf returns the open file of a node, used or idle, for a look at what
// it knows; nil if there is none.
func (v *Volume) contentOf(n *Node) *blockfile.File {
	n.use.Lock()
	file, orphan := n.file, n.orphan != nil
	n.use.Unlock()
	// The inode number is still this node's if it has a name or a descriptor.
	if file == nil && v.journal != nil && (orphan || !v.gone(n)) {
		file = v.files.at(n.ino)
	}
	return file
}

// attrsChanged and renamed see to it that the next fsync of a node's file covers
// what was changed.
func (v *Volume) attrsChanged(n *Node) {
	if n == nil || !n.isRegular() {
		return
	}
	n.touch()
	if file := v.contentOf(n); file != nil {
		file.AttrsChanged()
	}
}

func (v *Volume) renamed(n *Node) {
	if n == nil || !n.isRegular() {
		return
	}
	n.touch()
	if file := v.contentOf(n); file != nil {
		file.Renamed()
	}
}

// mustLast sees to it that even an fsync of data alone covers the attributes.
func (v *Volume) mustLast(n *Node) {
	n.touch()
	if file := v.contentOf(n); file != nil {
		file.Renamed()
	}
}

// settleBefore makes the content of the inode st durable before it takes the
// place of another file.
func (v *Volume) settleBefore(st *Stat) error {
	if v.journal == nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	file := v.files.at(st.Ino)
	if n := v.table.at(st.Ino); file == nil && n != nil {
		file = v.contentOf(n)
	}
	if file == nil || !file.Live() && !file.HeaderNew() {
		return nil
	}
	if err := file.Sync(false); err != nil && !errors.Is(err, unix.EBADF) { // closed meanwhile: it is home
		return err
	}
	return nil
}

// recordMtime has the journal know a modification time that is about to be set
// at home, where live records know another one.
func (v *Volume) recordMtime(n *Node, t unix.Timespec) error {
	if v.journal == nil || !n.isRegular() || t.Nsec == unix.UTIME_OMIT {
		return nil
	}
	file := v.contentOf(n)
	if (file == nil || !file.Live()) && (!v.unclean.Load() || n.checked.Load()) {
		return nil
	}
	file, err := v.openFile(n)
	if err != nil {
		return nil // home gets the time; there are no records to overrule it
	}
	defer v.leave(n)
	if t.Nsec == unix.UTIME_NOW {
		t = unix.NsecToTimespec(time.Now().UnixNano())
	}
	return file.SetMtime(t)
}
