package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs"
)

// keyState is what is known of the keys of a mount.
type keyState struct {
	State keyAccess `json:"state"` // available or inaccessible
	Since time.Time `json:"since"`
	// Reason says why the volume is inaccessible, or why the keys of an available
	// one could not be validated.
	Reason string `json:"reason,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Deadline is when an available volume turns inaccessible unless its keys can
	// be validated before.
	Deadline   *time.Time   `json:"deadline,omitempty"`
	Layers     []layerState `json:"layers"`
	Revalidate string       `json:"revalidate"` // the interval, 0s for never
	Grace      string       `json:"grace"`
	// Lost says what the daemon cannot do any more since its helper has ended.
	Lost string `json:"lost,omitempty"`
}

type keyAccess string

const (
	keysAvailable    keyAccess = "available"
	keysInaccessible keyAccess = "inaccessible"
)

// layerState is what is known of one layer's key.
type layerState struct {
	Layer     string    `json:"layer"`
	Validated time.Time `json:"validated"` // for the last time
	Error     string    `json:"error,omitempty"`
}

// keyWatch validates the keys of a mount again and again. A definite no makes the
// volume inaccessible at once; where nobody can be asked it stays available for
// a time of grace. It comes back with the keys.
type keyWatch struct {
	helper *keyClient
	server *fs.Server
	log    *slog.Logger
	audit  *audit
	every  time.Duration // 0: never
	grace  time.Duration

	asking sync.Mutex // one validation at a time
	mu     sync.Mutex // guards what follows
	state  keyState
	failed time.Time // when the first validation of a row got no answer
}

// newKeyWatch is called when the keys were just opened.
func newKeyWatch(m *mounting, now time.Time) *keyWatch {
	o := &m.r.Mount.Options
	w := &keyWatch{helper: m.helper, server: m.server, log: m.log, audit: m.audit, every: o.RevalidateEvery(), grace: o.GraceTime()}
	w.state = keyState{State: keysAvailable, Since: now, Revalidate: w.every.String(), Grace: w.grace.String()}
	for i := range int(m.u.params.Layers) {
		w.state.Layers = append(w.state.Layers, layerState{Layer: cipher.Layer(i + 1).String(), Validated: now})
	}
	return w
}

// run validates until ctx ends.
func (w *keyWatch) run(ctx context.Context) {
	if w.every == 0 {
		return
	}
	for {
		t := time.NewTimer(w.pause(time.Now()))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		w.validate(ctx)
	}
}

// watchHelper tells when the helper ends before ctx does.
func (w *keyWatch) watchHelper(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-w.helper.gone:
	}
	if ctx.Err() != nil {
		return
	}
	lost := errNoHelper.Error() + ": the keys are not validated any more, and a signal may not unmount the volume"
	w.log.Error(lost, "hint", "unmount the volume with 'plyfs umount', and mount it again")
	w.set(func(s *keyState) { s.Lost = lost })
}

// pause is how long the next validation has time.
func (w *keyWatch) pause(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.every
	if w.state.Deadline != nil {
		d = min(d, max(w.state.Deadline.Sub(now), time.Second))
	}
	return d
}

// current returns a copy of the state.
func (w *keyWatch) current() keyState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	s.Layers = append([]layerState(nil), s.Layers...)
	return s
}

// validate asks for the keys now, and acts on the answer.
func (w *keyWatch) validate(ctx context.Context) keyState {
	w.asking.Lock()
	defer w.asking.Unlock()
	away := w.server.Inaccessible()
	asking, cancel := context.WithTimeoutCause(ctx, 2*validateTime, fmt.Errorf("the helper process does not answer"))
	defer cancel()
	a, err := w.helper.ask(asking, keyQuestion{Op: "validate", Keys: away})
	if ctx.Err() != nil {
		return w.current() // the mount is ending
	}
	if err != nil {
		a = keyAnswer{Verdict: verdictUnknown, Error: err.Error(), Hint: "unmount the volume, and mount it again"}
	}
	switch a.Verdict {
	case verdictYes:
		w.good(&a, away)
	case verdictNo:
		w.bad(&a)
		w.withdraw(a.Error, a.Hint)
	default:
		w.unsure(&a, away)
	}
	return w.current()
}

// good notes that all keys are valid, and gives them back to a volume that is
// without.
func (w *keyWatch) good(a *keyAnswer, away bool) {
	now := time.Now()
	if away {
		keys, err := a.keysOf()
		if err == nil {
			err = w.server.Resume(keys)
		}
		clearKeys(&keys)
		if err != nil {
			w.log.Error("the volume stays inaccessible", "error", err)
			w.audit.event(auditEvent{Event: "revalidate", Result: auditFailed, Reason: err.Error()})
			w.set(func(s *keyState) { s.Reason = err.Error() })
			return
		}
		w.log.Warn("the volume is available again: its keys are valid")
		w.audit.event(auditEvent{Event: "available", Result: auditOK})
	}
	w.set(func(s *keyState) {
		if s.State != keysAvailable {
			s.State, s.Since = keysAvailable, now
		} else if !w.failed.IsZero() {
			w.log.Info("the keys are validated again")
		}
		w.failed = time.Time{}
		s.Reason, s.Hint, s.Deadline = "", "", nil
		for i := range s.Layers {
			s.Layers[i].Validated, s.Layers[i].Error = now, ""
		}
	})
}

// set changes the state.
func (w *keyWatch) set(change func(*keyState)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.state)
}

// bad notes which layers' keys a failed validation was about.
func (w *keyWatch) bad(a *keyAnswer) {
	for _, f := range a.faults() {
		w.audit.event(auditEvent{Event: "revalidate", Result: auditResultOf(f.Verdict), Reason: f.Error}.of(f.layers()...))
	}
	w.set(func(s *keyState) {
		for i := range s.Layers {
			s.Layers[i].Error = ""
			for _, f := range a.faults() {
				if f.Layer == 0 || int(f.Layer) == i+1 {
					s.Layers[i].Error = f.Error
				}
			}
		}
	})
}

// unsure counts down the time of grace.
func (w *keyWatch) unsure(a *keyAnswer, away bool) {
	w.bad(a)
	now := time.Now()
	if away {
		w.log.Warn("the keys cannot be validated, the volume stays inaccessible", "error", a.Error)
		return
	}
	var deadline time.Time
	w.set(func(s *keyState) {
		if w.failed.IsZero() {
			w.failed = now
		}
		deadline = w.failed.Add(w.grace)
		s.Reason, s.Hint, s.Deadline = a.Error, a.Hint, &deadline
	})
	if !now.Before(deadline) {
		w.withdraw(fmt.Sprintf("the keys could not be validated for %s: %s", w.grace, a.Error), a.Hint)
		return
	}
	w.log.Warn("the keys cannot be validated; the volume turns inaccessible if that lasts", "error", a.Error, "until", deadline.Format(time.RFC3339))
}

// withdraw makes the volume inaccessible.
func (w *keyWatch) withdraw(reason, hint string) {
	if w.server.Inaccessible() {
		w.set(func(s *keyState) { s.Reason, s.Hint = reason, hint })
		return
	}
	w.log.Error("the volume turns inaccessible", "reason", reason)
	err := w.server.Suspend()
	if err != nil {
		w.log.Error("the keys are gone, but not all that was written is durable", "error", err)
	}
	w.set(func(s *keyState) {
		s.State, s.Since, s.Reason, s.Hint, s.Deadline = keysInaccessible, time.Now(), reason, hint, nil
	})
	w.audit.event(auditEvent{Event: "inaccessible", Result: auditOK, Reason: reason})
	// What plaintext is left in buffers that were given up goes back to the system.
	debug.FreeOSMemory()
}

// controls are the questions about keys that a mount's daemon answers.
func (w *keyWatch) controls() map[string]control {
	return map[string]control{
		"keys": func(context.Context, json.RawMessage) (any, error) { return w.current(), nil },
		"revalidate": func(ctx context.Context, _ json.RawMessage) (any, error) {
			if w.every == 0 {
				return nil, &problem{err: fmt.Errorf("the volume was mounted with revalidate=0: nothing is kept that could validate its keys"),
					code: exitUsage, hint: "mount it with revalidate=10m, say"}
			}
			return w.validate(context.WithoutCancel(ctx)), nil
		},
	}
}
