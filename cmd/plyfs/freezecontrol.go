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

// freezeArgs ask for a freeze, or to hold one.
type freezeArgs struct {
	Timeout time.Duration `json:"timeout"` // 0: until it is ended
}

// frozenStatus tells of a freeze.
type frozenStatus struct {
	Since time.Time `json:"since"`
	Clean bool      `json:"clean"`
}

// freezes is the daemon's side: it ends a freeze that is forgotten.
type freezes struct {
	volume *volume.Volume
	log    *slog.Logger

	mu    sync.Mutex
	timer *time.Timer // of the freeze that holds; nil: no end is set
}

func (m *mounting) freezes() *freezes { return &freezes{volume: m.volume, log: m.log} }

// controls is what the daemon can be asked about freezing.
func (f *freezes) controls() map[string]control {
	return map[string]control{
		"freeze": func(ctx context.Context, args json.RawMessage) (any, error) {
			a, err := freezeArgsOf(args)
			if err != nil {
				return nil, err
			}
			return f.freeze(ctx, a.Timeout)
		},
		"hold": func(ctx context.Context, args json.RawMessage) (any, error) {
			a, err := freezeArgsOf(args)
			if err != nil {
				return nil, err
			}
			return nil, f.hold(ctx, a.Timeout)
		},
		"settle": func(ctx context.Context, _ json.RawMessage) (any, error) { return nil, f.settle(ctx) },
		"thaw":   func(context.Context, json.RawMessage) (any, error) { return nil, f.thaw() },
	}
}

func freezeArgsOf(args json.RawMessage) (a freezeArgs, err error) {
	if len(args) > 0 {
		err = json.Unmarshal(args, &a)
	}
	return a, err
}

// freeze freezes the volume for at most timeout.
func (f *freezes) freeze(ctx context.Context, timeout time.Duration) (*frozenStatus, error) {
	s, err := f.volume.Freeze(ctx)
	if err != nil {
		return nil, freezeError(err)
	}
	f.limit(timeout)
	if ctx.Err() != nil { // nobody would thaw it
		return nil, errors.Join(context.Cause(ctx), f.thaw())
	}
	return &frozenStatus{s.Since, s.Clean}, nil
}

// settle brings everything home once. A freeze that holds has done so.
func (f *freezes) settle(ctx context.Context) error {
	switch _, err := f.volume.Freeze(ctx); {
	case errors.Is(err, volume.ErrFrozen):
		return nil
	case err != nil:
		return freezeError(err)
	}
	return freezeError(f.volume.Thaw())
}

// limit sets when the freeze that holds ends by itself.
func (f *freezes) limit(timeout time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if timeout > 0 {
		f.timer = time.AfterFunc(timeout, func() {
			if err := f.volume.Thaw(); err == nil {
				f.log.Warn("the freeze took too long and was ended", "timeout", timeout)
			}
		})
	}
}

// hold takes the freeze that holds as that of whoever asked, and ends it with
// him.
func (f *freezes) hold(ctx context.Context, timeout time.Duration) error {
	s, ok := f.volume.Frozen()
	if !ok {
		return freezeError(volume.ErrThawed)
	}
	f.limit(timeout)
	<-ctx.Done()
	if now, ok := f.volume.Frozen(); ok && now.Since.Equal(s.Since) {
		f.log.Warn("who froze the volume is gone")
		return f.thaw()
	}
	return nil
}

func (f *freezes) thaw() error {
	f.limit(0)
	return freezeError(f.volume.Thaw())
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
