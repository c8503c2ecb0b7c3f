package dockervolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// unmountTime bounds an unmount. It goes on when Docker has hung up: nobody
// would repeat it.
const unmountTime = 10 * time.Minute

// Mount makes the volume usable by id and returns where it is mounted. If ctx
// ends first, because who asked has hung up, id does not use the volume.
func (p *Plugin) Mount(ctx context.Context, name, id string) (string, error) {
	if err := errors.Join(checkName(name), checkID(id)); err != nil {
		return "", err
	}
	e, release, err := p.take(ctx, name)
	if err != nil {
		return "", err
	}
	defer release()
	if e.Removing {
		return "", fmt.Errorf("%s: %w: it is being removed", name, errNoVolume)
	}
	err = p.mount(ctx, e)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = p.change(e, func(ids []string) []string { return with(ids, id) })
	}
	if err != nil {
		if len(e.IDs) == 0 {
			err = errors.Join(err, p.unmount(ctx, e))
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	p.config.Log.Info("mounted", "volume", name, "uses", len(e.IDs))
	return p.target(e), nil
}

// mount sees to it that e is mounted and served.
func (p *Plugin) mount(ctx context.Context, e *entry) error {
	target := p.target(e)
	st, err := p.config.Host.State(p.source(e), target)
	if err != nil {
		return err
	}
	switch st {
	case Serving:
		return nil
	case Dead:
		p.config.Log.Warn("a volume's daemon has died; it is mounted again", "volume", e.name)
		if err := p.detach(e); err != nil {
			return err
		}
	}
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if e.Options.CipherDir != "" {
		dir, err := openAllowed(p.config.Allow, e.Options.CipherDir)
		if err != nil {
			return err
		}
		err = bind(dir, p.source(e))
		dir.Close()
		if err != nil {
			return err
		}
	}
	if err := p.config.Host.Mount(ctx, e.name, p.source(e), target, e.Options); err != nil {
		return errors.Join(err, p.unbind(e))
	}
	return nil
}

// Unmount ends the use of a volume by id, and the mount with the last use. It
// is no error if id does not use it.
func (p *Plugin) Unmount(ctx context.Context, name, id string) error {
	if err := errors.Join(checkName(name), checkID(id)); err != nil {
		return err
	}
	e, release, err := p.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if !slices.Contains(e.IDs, id) {
		p.config.Log.Info("unmount of a use that is not known", "volume", name)
		if len(e.IDs) > 0 {
			return nil
		}
	}
	if err := p.leave(ctx, e, id); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// leave strikes out id and unmounts what nobody uses any more.
func (p *Plugin) leave(ctx context.Context, e *entry, id string) error {
	if err := p.change(e, func(ids []string) []string { return without(ids, id) }); err != nil {
		return err
	}
	p.config.Log.Info("left", "volume", e.name, "uses", len(e.IDs))
	if len(e.IDs) > 0 {
		return nil
	}
	_, err := p.unmountSettled(ctx, e)
	return err
}

// settleStep is how often a busy mount is tried.
const settleStep = 100 * time.Millisecond

// unmountSettled is unmount that waits for processes that are ending: what
// they had open is closed a little after Docker has seen them gone. It returns
// the state that is left.
func (p *Plugin) unmountSettled(ctx context.Context, e *entry) (State, error) {
	for start := time.Now(); ; {
		if err := p.unmount(ctx, e); err != nil {
			return Absent, err
		}
		st, err := p.config.Host.State(p.source(e), p.target(e))
		if err != nil || st == Absent {
			return st, err
		}
		if time.Since(start) >= p.config.Settle {
			p.config.Log.Warn("nobody uses the volume, but files are open in it, or it is mounted elsewhere too; its daemon goes on", "volume", e.name)
			return st, nil
		}
		select {
		case <-time.After(settleStep):
		case <-ctx.Done():
			return st, nil
		}
	}
}

// unmount ends the mount of e. One that a process of this machine still has
// files open in, or a mount namespace a copy of, stays: the next use finds it, or
// the removal.
func (p *Plugin) unmount(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTime)
	defer cancel()
	st, err := p.config.Host.State(p.source(e), p.target(e))
	if err != nil {
		return err
	}
	switch st {
	case Serving:
		err := p.config.Host.Unmount(ctx, p.source(e), p.target(e))
		if errors.Is(err, ErrBusy) {
			return nil
		}
		if err != nil {
			return err
		}
	case Dead:
		return p.detach(e)
	}
	return p.unbind(e)
}

// detach takes away a mount that lost its daemon, and what was below it.
func (p *Plugin) detach(e *entry) error {
	if err := p.config.Host.Detach(p.target(e)); err != nil {
		return err
	}
	return p.unbind(e)
}

// unbind takes away the bind mount of a volume from elsewhere. While a daemon
// may have it open under its name it stays.
func (p *Plugin) unbind(e *entry) error {
	if e.Options.CipherDir == "" {
		return nil
	}
	return unbind(p.source(e))
}

func with(ids []string, id string) []string {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

func without(ids []string, id string) []string {
	return slices.DeleteFunc(ids, func(s string) bool { return s == id })
}
