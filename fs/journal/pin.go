package journal

import (
	"sync"
	"sync/atomic"
)

// pins counts who is between looking a position up and having read it. Readers
// enter the present epoch; to reuse a segment, a new epoch is begun and the old
// one's readers are waited for. Nobody who enters ever waits, so that a reader
// may wait for any lock while it is in.
type pins struct {
	epoch atomic.Uint32
	n     [2]atomic.Int64

	mu   sync.Mutex
	cond sync.Cond // an epoch that is over may be empty
}

// Pin keeps positions readable.
type Pin struct {
	p     *pins
	epoch uint32
}

// Pin keeps every position that is looked up from now on readable until
// Unpin. It never waits.
func (j *Journal) Pin() Pin {
	p := &j.pins
	for {
		e := p.epoch.Load()
		p.n[e&1].Add(1)
		if p.epoch.Load() == e {
			return Pin{p, e}
		}
		Pin{p, e}.Unpin()
	}
}

// Unpin ends a Pin.
func (pin Pin) Unpin() {
	p := pin.p
	if p.n[pin.epoch&1].Add(-1) == 0 && p.epoch.Load() != pin.epoch {
		p.mu.Lock()
		p.cond.Broadcast()
		p.mu.Unlock()
	}
}

// wait returns when all who are in have left. Only one goroutine calls it at a
// time.
func (p *pins) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cond.L == nil {
		p.cond.L = &p.mu
	}
	old := p.epoch.Add(1) - 1
	for p.n[old&1].Load() != 0 {
		p.cond.Wait()
	}
}
