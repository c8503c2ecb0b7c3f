package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// freezeArgs ask for a freeze, or for something about one.
type freezeArgs struct {
	Timeout time.Duration `json:"timeout"`        // 0: until it is ended
	Since   time.Time     `json:"since,omitzero"` // which freeze; the zero time for a thaw of any
}

// frozenStatus tells of a freeze.
type frozenStatus struct {
	Since time.Time `json:"since"` // to name it by
	Clean bool      `json:"clean"`
}

// freezes is the daemon's side: it ends a freeze that is forgotten.
type freezes struct {
	volume *volume.Volume
	log    *slog.Logger

	mu    sync.Mutex
	timer *time.Timer // of the last freeze with a time-out; it ends no other
}

func (m *mounting) freezes() *freezes { return &freezes{volume: m.volume, log: m.log} }

// controls is what the daemon can be asked about freezing.
func (f *freezes) controls() map[string]control {
	return map[string]control{
		"freeze": about(func(ctx context.Context, a freezeArgs) (any, error) { return f.freeze(ctx, a.Timeout) }),
		"extend": about(func(_ context.Context, a freezeArgs) (any, error) { return nil, f.limit(a.Since, a.Timeout) }),
		"hold":   about(func(ctx context.Context, a freezeArgs) (any, error) { return nil, f.hold(ctx, a.Since) }),
		"thaw":   about(func(_ context.Context, a freezeArgs) (any, error) { return nil, f.thaw(a.Since) }),
		"settle": func(ctx context.Context, _ json.RawMessage) (any, error) { return nil, f.settle(ctx) },
	}
}

// about makes a control of one that takes freezeArgs, which may be left out.
func about(answer func(context.Context, freezeArgs) (any, error)) control {
	return func(ctx context.Context, args json.RawMessage) (any, error) {
		var a freezeArgs
		if len(args) > 0 {
			if err := json.Unmarshal(args, &a); err != nil {
				return nil, err
			}
		}
		return answer(ctx, a)
	}
}

// freeze freezes the volume for at most timeout.
func (f *freezes) freeze(ctx context.Context, timeout time.Duration) (*frozenStatus, error) {
	s, err := f.volume.Freeze(ctx)
	if err != nil {
		return nil, freezeError(err)
	}
	if err := f.limit(s.Since, timeout); err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody would thaw it
		return nil, errors.Join(context.Cause(ctx), f.thaw(s.Since))
	}
	return &frozenStatus{s.Since, s.Clean}, nil
}

// settle brings everything home once. A freeze that holds has done so.
func (f *freezes) settle(ctx context.Context) error {
	s, err := f.volume.Freeze(ctx)
	if err == nil {
		err = f.volume.EndFreeze(s.Since)
	}
	if errors.Is(err, volume.ErrFrozen) || errors.Is(err, volume.ErrThawed) { // before or since
		return nil
	}
	return freezeError(err)
}

// limit sets when the freeze that began at since ends by itself, from now;
// ErrThawed if that does not hold.
func (f *freezes) limit(since time.Time, timeout time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now, ok := f.volume.Frozen(); !ok || !now.Since.Equal(since) {
		return freezeError(volume.ErrThawed)
	}
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if timeout > 0 {
		f.timer = time.AfterFunc(timeout, func() {
			if err := f.volume.EndFreeze(since); err == nil {
				f.log.Warn("the freeze took too long and was ended", "timeout", timeout)
			}
		})
	}
	return nil
}

// hold ends the freeze that began at since with whoever asked.
func (f *freezes) hold(ctx context.Context, since time.Time) error {
	<-ctx.Done()
	err := f.volume.EndFreeze(since)
	if errors.Is(err, volume.ErrThawed) {
		return nil
	}
	f.log.Warn("who froze the volume is gone")
	return freezeError(err)
}

// thaw ends the freeze that began at since, or for the zero time whichever holds.
func (f *freezes) thaw(since time.Time) error {
	if since.IsZero() {
		return freezeError(f.volume.Thaw())
	}
	return freezeError(f.volume.EndFreeze(since))
}

// freezeError gives errors of freezing their exit codes.
func freezeError(err error) error {
	switch {
	case errors.Is(err, volume.ErrFrozen):
		return &problem{err: err, code: exitBusy, hint: "another backup may be under way; 'plyfs thaw' ends it"}
	case errors.Is(err, volume.ErrThawed):
		return &problem{err: err, code: exitNotFrozen, hint: "a freeze with a timeout ends by itself"}
	case errors.Is(err, unix.EROFS):
		return &problem{err: err, code: exitIO, hint: "the volume turned read-only after an error, see the log: unmount it, mend the disk, mount it again"}
	}
	return err
}
