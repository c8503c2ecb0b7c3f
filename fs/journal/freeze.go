package journal

import (
	"fmt"
	"slices"
)

// Freeze leaves what a clean unmount would, while the journal stays open: all
// records are home and durable, and the superblock is clean, so that a copy of
// the ciphertext directory needs no journal. Until Thaw nothing of the journal
// changes on the disk. It answers whether that is so: where records cannot go home,
// or whole says that not every file is known to be, the superblock stays dirty,
// and a copy has to take the segments along, as after a power cut.
//
// The caller has called Drain, sees to it that nobody appends from before that
// until Thaw, and has made durable what else was changed.
func (j *Journal) Freeze(whole bool) (clean bool, err error) {
	// No pass and no growth is under way, and none changes anything from here on.
	j.passMu.Lock()
	defer j.passMu.Unlock()
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.trimMu.Lock()
	defer j.trimMu.Unlock()
	j.mu.Lock()
	err = j.usable()
	if err == nil && j.frozen {
		err = fmt.Errorf("journal is frozen: %w", ErrLive)
	}
	j.frozen = err == nil
	if j.frozen {
		j.buffers = nil // nobody appends for long
	}
	j.mu.Unlock()
	if err != nil {
		return false, err
	}
	// What Forget appended since Drain is not to be written later; now it appends
	// nothing any more.
	clean = whole && j.whole()
	if err := j.Commit(j.lastLSN()); err != nil || !clean {
		return false, err
	}
	if err := j.markClean(); err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.fail(err)
		return false, j.err
	}
	return true, nil
}

// Thaw ends Freeze. If the superblock was clean a new run begins, which makes
// it dirty.
func (j *Journal) Thaw() error {
	j.passMu.Lock() // for a moment there is no segment in use
	defer j.passMu.Unlock()
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.trimMu.Lock()
	defer j.trimMu.Unlock()
	j.mu.Lock()
	err := j.usable()
	again := j.frozen && err == nil && j.cfg.Super.Clean()
	j.frozen = false
	j.mu.Unlock()
	if !again {
		return err
	}
	j.pins.wait() // for who looked up a position before
	j.mu.Lock()
	for _, s := range j.live {
		s.seq, s.headed, s.dirty = 0, false, false
	}
	j.free, j.live = slices.Concat(j.free, j.live), nil
	j.before = j.next
	j.mu.Unlock()
	err = j.startRun()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.fail(err)
		return j.err
	}
	j.cond.Broadcast()
	return nil
}
