package volume

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/plyfs/plyfs/cipher"
)

// ErrInaccessible reports that the volume's keys are not at hand: they were
// withdrawn, and may come back.
var ErrInaccessible = errors.New("volume is inaccessible: its keys were withdrawn")

// gate counts the calls that are under way and, once it is shut, refuses more.
type gate struct {
	n    atomic.Int64 // calls under way, plus draining and shut
	idle chan struct{}
}

const (
	draining = int64(1) << 40 // all but page writeback is refused
	shut     = int64(1) << 41 // all is
	calls    = draining - 1
)

func newGate() gate { return gate{idle: make(chan struct{}, 1)} }

// enter begins a call, which ends with leave, or refuses it.
func (g *gate) enter() error { return g.enterBelow(draining) }

// enterWriteback begins a call that a dirty page of the kernel's cache needs.
func (g *gate) enterWriteback() error { return g.enterBelow(shut) }

func (g *gate) enterBelow(state int64) error {
	if g.n.Add(1) >= state {
		g.leave()
		return ErrInaccessible
	}
	return nil
}

func (g *gate) leave() {
	if n := g.n.Add(-1); n >= draining && n&calls == 0 {
		select {
		case g.idle <- struct{}{}:
		default:
		}
	}
}

// close sets a state and waits until no call is under way.
func (g *gate) close(state int64) {
	if g.n.Or(state)&calls == 0 {
		return
	}
	for g.n.Load()&calls != 0 {
		<-g.idle
	}
}

func (g *gate) open()        { g.n.And(calls) }
func (g *gate) isShut() bool { return g.n.Load()&shut != 0 }

// Suspend makes the volume inaccessible: from the moment it is called new calls
// fail with ErrInaccessible, those under way end, everything that was written
// becomes durable, and the keys are wiped. Known, Forget, Close of handles, and
// GetAttr of the root and Statfs, which need no key, go on.
//
// forget, which may be nil, is called when all other calls have ended, while
// calls of WriteAt for Writer.Writeback and of Sync still pass: it is to make
// the kernel give up its cached pages, the dirty ones among them.
//
// A freeze ends by it: Thaw will answer ErrThawed.
//
// An error says that what was written last may not be durable; the keys are
// gone all the same.
func (v *Volume) Suspend(forget func()) error {
	v.suspending.Lock()
	defer v.suspending.Unlock()
	if v.gate.isShut() || v.closed {
		return nil
	}
	close(v.stopWalk) // who freezes the volume waits for it
	v.gate.close(draining)
	if err := v.Thaw(); err == nil {
		v.log.Warn("the keys are withdrawn: the volume is frozen no more, and a copy taken now is not whole")
	}
	if forget != nil {
		forget()
	}
	v.gate.close(shut)
	v.rest()
	err := v.commitAll()
	v.cipher.Wipe()
	for _, file := range v.files.all() {
		file.WipeKeys()
	}
	v.cache.Scrub()
	if err != nil {
		return fmt.Errorf("make durable what was written: %w", err)
	}
	return nil
}

// Resume undoes Suspend. The keys must be those that the volume had, else it
// returns cipher.ErrOtherKeys and the volume stays as it is.
func (v *Volume) Resume(k cipher.Keys) error {
	v.suspending.Lock()
	defer v.suspending.Unlock()
	if !v.gate.isShut() || v.closed {
		return nil
	}
	if err := v.cipher.Restore(k); err != nil {
		return err
	}
	v.work()
	v.gate.open()
	return nil
}

// Inaccessible reports whether the volume is suspended.
func (v *Volume) Inaccessible() bool { return v.gate.isShut() }

// rest ends all work in the background that takes keys, until work. stopWalk is
// closed.
func (v *Volume) rest() {
	v.resting.Store(true)
	v.walk.Wait()
	v.homing.Lock() // a reaper that is at it ends
	v.homing.Unlock()
	if v.journal != nil {
		v.journal.Rest()
	}
}

// work takes up what rest ended.
func (v *Volume) work() {
	v.resting.Store(false)
	v.stopWalk = make(chan struct{})
	if v.journal != nil {
		v.journal.Work()
	}
	v.startWalk()
	if v.journal != nil && !v.ro {
		select {
		case v.reap <- struct{}{}:
		default:
		}
	}
}

// commitAll makes durable what was written.
func (v *Volume) commitAll() error {
	if v.ro {
		return nil
	}
	if v.journal != nil {
		return v.journal.CommitAll()
	}
	var errs []error
	for _, file := range v.files.all() {
		errs = append(errs, file.Sync(false))
	}
	return errors.Join(errs...)
}

// Known returns the nodes that somebody knows.
func (v *Volume) Known() []NodeID {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	ids := make([]NodeID, 0, len(v.table.byID))
	for id := range v.table.byID {
		ids = append(ids, id)
	}
	return ids
}
