package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// freezer is the gate that every change of the volume passes. It is the
// outermost of all locks.
type freezer struct {
	gate  sync.RWMutex // held alone while the volume is frozen
	mu    sync.Mutex   // one freeze or thaw at a time
	since time.Time    // zero: not frozen
	clean bool
}

// Frozen is what a volume is while Freeze holds.
type Frozen struct {
	Since time.Time // tells a freeze from every other
	// Clean says that the ciphertext directory is what an unmount leaves. If
	// not, a copy of it is as good as after a power cut: it needs the journal.
	Clean bool
}

// ErrFrozen reports that a volume is frozen already, ErrThawed that it is not.
var (
	ErrFrozen = errors.New("volume is frozen already")
	ErrThawed = errors.New("volume is not frozen")
)

// beginChange lets in who is about to change the volume, once it is not
// frozen; endChange follows. EROFS for a read-only volume, ErrInaccessible for a
// suspended one. The caller holds no lock, and is not let in twice.
func (v *Volume) beginChange() error { return v.beginChangeBy(v.gate.enter) }

// beginChangeBy is beginChange by one of the gate's entries. Who waits for the
// end of a freeze is not through the gate, so that a suspension need not.
func (v *Volume) beginChangeBy(enter func() error) error {
	v.freeze.gate.RLock()
	err := v.writable()
	if err == nil {
		err = enter()
	}
	if err != nil {
		v.freeze.gate.RUnlock()
	}
	return err
}

func (v *Volume) endChange() {
	v.gate.leave()
	v.freeze.gate.RUnlock()
}

// Freeze makes the ciphertext directory whole, as an unmount would, and keeps it
// so until Thaw or Close: who changes something waits, who reads does not. It
// first waits for the look at all files that follows an unclean stop; ctx ends that
// wait. Errors: ErrFrozen, EROFS where the volume was turned read-only by an
// error, the backing's; the volume is then not frozen.
func (v *Volume) Freeze(ctx context.Context) (Frozen, error) {
	if err := v.gate.enter(); err != nil {
		return Frozen{}, err
	}
	defer v.gate.leave()
	v.freeze.mu.Lock()
	defer v.freeze.mu.Unlock()
	if !v.freeze.since.IsZero() {
		return Frozen{}, ErrFrozen
	}
	if err := v.awaitWalk(ctx); err != nil {
		return Frozen{}, err
	}
	if v.journal != nil && !v.ro {
		// The bulk of it, while writers go on. What fails here fails again below.
		v.journal.Drain()
	}
	v.freeze.gate.Lock()
	clean, err := v.quiesce()
	if err != nil {
		v.freeze.gate.Unlock()
		return Frozen{}, err
	}
	v.freeze.since, v.freeze.clean = time.Now(), clean
	v.log.Info("volume is frozen", "clean", clean)
	return Frozen{v.freeze.since, clean}, nil
}

// awaitWalk returns when the walk is over, or at once where none is needed.
func (v *Volume) awaitWalk(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		v.walk.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("files are still looked at after an unclean stop: %w", context.Cause(ctx))
	}
}

// quiesce brings everything home. Nobody changes anything.
func (v *Volume) quiesce() (clean bool, err error) {
	if v.ro {
		return v.super.Clean(), nil
	}
	if v.broken.Load() {
		return false, unix.EROFS
	}
	if v.journal == nil {
		return false, errors.New("a volume without a journal cannot be frozen")
	}
	if err := v.journal.Drain(); err != nil {
		v.log.Warn("not all records go home; a copy needs the journal", "err", err)
	}
	for _, file := range v.files.all() {
		if err := v.lastHeader(file); err != nil {
			return false, err
		}
	}
	if err := v.rootDir.SyncAll(); err != nil {
		v.syncFailed(err)
		return false, err
	}
	return v.journal.Freeze(!v.unclean.Load())
}

// Thaw lets changes go on: ErrThawed if the volume was not frozen. After another
// error it is read-only.
func (v *Volume) Thaw() error {
	v.freeze.mu.Lock()
	defer v.freeze.mu.Unlock()
	return v.thaw()
}

// EndFreeze is Thaw of the freeze that began at since: ErrThawed if another holds,
// or none.
func (v *Volume) EndFreeze(since time.Time) error {
	v.freeze.mu.Lock()
	defer v.freeze.mu.Unlock()
	if !v.freeze.since.Equal(since) {
		return ErrThawed
	}
	return v.thaw()
}

// thaw is Thaw. The caller holds freeze.mu.
func (v *Volume) thaw() error {
	if v.freeze.since.IsZero() {
		return ErrThawed
	}
	defer v.freeze.gate.Unlock()
	v.freeze.since = time.Time{}
	if v.ro {
		return nil
	}
	err := v.journal.Thaw()
	if err != nil {
		v.fail(err)
	}
	v.log.Info("volume is thawed", "err", err)
	return err
}

// Frozen reports whether the volume is frozen, and since when.
func (v *Volume) Frozen() (Frozen, bool) {
	v.freeze.mu.Lock()
	defer v.freeze.mu.Unlock()
	return Frozen{v.freeze.since, v.freeze.clean}, !v.freeze.since.IsZero()
}
