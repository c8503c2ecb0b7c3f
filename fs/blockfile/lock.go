package blockfile

import (
	"math"
	"sync"
)

// lastBlock as the end of a range means: however long the file becomes.
const lastBlock = math.MaxUint64

// rangeLocks lets readers of a file run side by side with each other, and with
// writers of other blocks. A request waits for every earlier one that it
// conflicts with, granted or waiting, so none starves.
type rangeLocks struct {
	mu   sync.Mutex
	list []*rangeLock // in order of arrival
	free []*rangeLock
}

// rangeLock holds blocks lo to hi, both included.
type rangeLock struct {
	lo, hi    uint64
	exclusive bool
	waiting   bool
	ready     chan struct{} // one slot
}

func (l *rangeLock) conflicts(o *rangeLock) bool {
	return (l.exclusive || o.exclusive) && l.lo <= o.hi && o.lo <= l.hi
}

// acquire waits until blocks lo to hi are free for the caller.
func (r *rangeLocks) acquire(lo, hi uint64, exclusive bool) *rangeLock {
	r.mu.Lock()
	var l *rangeLock
	if n := len(r.free); n > 0 {
		l, r.free = r.free[n-1], r.free[:n-1]
	} else {
		l = &rangeLock{ready: make(chan struct{}, 1)}
	}
	l.lo, l.hi, l.exclusive = lo, hi, exclusive
	l.waiting = r.blocked(l, len(r.list))
	wait := l.waiting
	r.list = append(r.list, l)
	r.mu.Unlock()
	if wait {
		<-l.ready
	}
	return l
}

// blocked reports whether l conflicts with one of the first n requests.
func (r *rangeLocks) blocked(l *rangeLock, n int) bool {
	for _, o := range r.list[:n] {
		if l.conflicts(o) {
			return true
		}
	}
	return false
}

// release gives the blocks of l up. l must not be used again.
func (r *rangeLocks) release(l *rangeLock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.list {
		if o == l {
			r.list = append(r.list[:i], r.list[i+1:]...)
			break
		}
	}
	for i, o := range r.list {
		if o.waiting && o.conflicts(l) && !r.blocked(o, i) {
			o.waiting = false
			o.ready <- struct{}{}
		}
	}
	if len(r.free) < 64 {
		r.free = append(r.free, l)
	}
}
