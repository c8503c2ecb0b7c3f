package dockervolume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Create makes a volume, or takes one that is there. For one that is known it
// does nothing, if the options mean the same.
func (p *Plugin) Create(ctx context.Context, name string, opts map[string]string) error {
	if err := checkName(name); err != nil {
		return err
	}
	o, err := parseOptions(opts)
	if err != nil {
		return err
	}
	for {
		e, isNew := p.reserve(name)
		if !isNew {
			if err := e.seize(ctx); err != nil {
				return fmt.Errorf("%s: another request about this volume is under way: %w", name, err)
			}
			again, err := p.compare(ctx, e, o)
			e.release()
			if again && err == nil {
				continue // who was making it failed, or it was removed
			}
			return err
		}
		err := p.create(ctx, e, o)
		if err != nil {
			p.forget(e)
			err = fmt.Errorf("%s: %w", name, err)
		}
		e.release()
		return err
	}
}

// reserve returns the entry of a name; a new one is returned with its lock
// held.
func (p *Plugin) reserve(name string) (e *entry, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[name]; e != nil {
		return e, false
	}
	e = &entry{name: name, busy: make(chan struct{}, 1)}
	e.busy <- struct{}{}
	p.entries[name] = e
	return e, true
}

// forget takes e out of the table.
func (p *Plugin) forget(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.gone, e.ready = true, false
	if p.entries[e.name] == e {
		delete(p.entries, e.name)
	}
}

// compare returns nil if a volume that exists is what o asks for. again: it
// does not exist any more.
func (p *Plugin) compare(ctx context.Context, e *entry, o Options) (again bool, err error) {
	p.mu.Lock()
	gone := e.gone
	p.mu.Unlock()
	if gone {
		return true, nil
	}
	if e.Removing { // a removal that failed half way
		return true, errors.Join(p.finishRemoval(ctx, e), p.save())
	}
	have, want := e.Options.withDefaults(p.config.Defaults), o.withDefaults(p.config.Defaults)
	if have != want {
		return false, fmt.Errorf("%s: the volume exists with other options: it has %s, and %s is asked for", e.name, have, want)
	}
	return false, nil
}

// create makes or takes the volume of a new entry and makes it known.
func (p *Plugin) create(ctx context.Context, e *entry, o Options) error {
	if o.CipherDir != "" {
		if err := p.checkAdopted(e, o); err != nil {
			return err
		}
	} else if err := p.make(ctx, e, o); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.record = record{Created: time.Now().UTC().Truncate(time.Second), Options: o}
	e.ready = true
	if err := p.saveLocked(); err != nil {
		e.ready = false
		if o.CipherDir == "" {
			err = errors.Join(err, p.discard(e))
		}
		return err
	}
	p.config.Log.Info("created", "volume", e.name, "options", o.String())
	return nil
}

// make makes a volume in data/, whole or not at all.
func (p *Plugin) make(ctx context.Context, e *entry, o Options) error {
	home := p.path("data", e.name)
	if _, err := os.Lstat(home); err == nil {
		return fmt.Errorf("%s is there and no volume that this plugin knows; move it away", home)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fresh := p.path("new", e.name+"."+suffix())
	err := p.config.Host.Make(ctx, e.name, fresh, o.withDefaults(p.config.Defaults))
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err = context.Cause(ctx); err == nil {
		err = os.Rename(fresh, home)
	}
	if err != nil {
		return errors.Join(err, p.config.Host.Forget(e.name), os.RemoveAll(fresh))
	}
	return syncDir(p.path("data"))
}

// checkAdopted looks at a volume from elsewhere before it is taken.
func (p *Plugin) checkAdopted(e *entry, o Options) error {
	p.mu.Lock()
	for _, other := range p.entries {
		if other != e && other.ready && other.Options.CipherDir == o.CipherDir {
			p.mu.Unlock()
			return fmt.Errorf("cipherdir=%s is the volume %s already", o.CipherDir, other.name)
		}
	}
	p.mu.Unlock()
	dir, err := openAllowed(p.config.Allow, o.CipherDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	about, err := p.config.Host.Describe(e.name, fdPath(dir))
	if err != nil {
		return fmt.Errorf("cipherdir=%s: %w", o.CipherDir, err)
	}
	differs := func(what, is, want any) error {
		return fmt.Errorf("cipherdir=%s: the volume there has %s %v, not %v", o.CipherDir, what, is, want)
	}
	layers := o.withDefaults(p.config.Defaults).Layers
	switch {
	case o.Cluster != "" && o.Cluster != about.Cluster:
		return differs("the cluster", about.Cluster, o.Cluster)
	case o.Group != "" && o.Group != about.Group:
		return differs("the group", about.Group, o.Group)
	case layers != about.Layers:
		return differs("layers", about.Layers, layers)
	}
	return nil
}

// Remove forgets a volume that nobody uses, and deletes it if it was made
// here.
func (p *Plugin) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	e, release, err := p.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if err := p.remove(ctx, e); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.config.Log.Info("removed", "volume", name)
	return nil
}

func (p *Plugin) remove(ctx context.Context, e *entry) error {
	if !e.Removing {
		if err := p.checkUnused(ctx, e); err != nil {
			return err
		}
		if err := p.checkBare(e); err != nil {
			return err
		}
		p.mu.Lock()
		e.Removing = true
		err := p.saveLocked()
		if err != nil {
			e.Removing = false
		}
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := p.finishRemoval(ctx, e); err != nil {
		return err
	}
	return p.save()
}

// checkUnused refuses a volume that somebody uses; one that is mounted for
// nobody is unmounted.
func (p *Plugin) checkUnused(ctx context.Context, e *entry) error {
	st, err := p.config.Host.State(p.source(e), p.target(e))
	if err != nil {
		return err
	}
	if st == Absent || st == Dead {
		p.dropIDs(e)
	}
	if n := len(e.IDs); n > 0 {
		return fmt.Errorf("the volume is in use: it is mounted for %d container(s)", n)
	}
	switch st, err = p.unmountSettled(ctx, e); {
	case err != nil:
		return err
	case st != Absent:
		return fmt.Errorf("the volume is in use: files are open in %s, or another process or mount namespace holds it", p.target(e))
	}
	return nil
}

// checkBare refuses to remove a volume, which is not mounted, while something
// lies in its mountpoint: it was written past the volume, and would be missed.
func (p *Plugin) checkBare(e *entry) error {
	in, err := os.ReadDir(p.target(e))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(in) > 0 {
		return fmt.Errorf("its mountpoint %s holds %s, which is not in the volume: move that away, then remove the volume", p.target(e), in[0].Name())
	}
	return nil
}

// finishRemoval does what is left of a removal that is written down. It can be
// repeated.
func (p *Plugin) finishRemoval(ctx context.Context, e *entry) error {
	if err := p.unmount(ctx, e); err != nil {
		return err
	}
	if e.Options.CipherDir != "" {
		if err := os.Remove(p.source(e)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else if err := p.discard(e); err != nil {
		return err
	}
	switch err := os.Remove(p.target(e)); {
	case err == nil, errors.Is(err, os.ErrNotExist):
	case errors.Is(err, unix.ENOTEMPTY): // the volume has gone, and the next of its name can be mounted there
		p.config.Log.Warn("something lies in the mountpoint of a removed volume", "volume", e.name, "dir", p.target(e))
	default:
		return err
	}
	p.forget(e)
	return nil
}

// discard renames the ciphertext away and deletes it in the background. What is
// kept of the volume elsewhere goes first: without its keys the rest is noise.
func (p *Plugin) discard(e *entry) error {
	if err := p.config.Host.Forget(e.name); err != nil {
		return err
	}
	trash := p.path("trash", e.name+"."+suffix())
	err := os.Rename(p.path("data", e.name), trash)
	if errors.Is(err, os.ErrNotExist) {
		return nil // renamed before
	}
	if err == nil {
		err = errors.Join(syncDir(p.path("trash")), syncDir(p.path("data")))
	}
	if err != nil {
		return err
	}
	p.background.Go(func() {
		if err := os.RemoveAll(trash); err != nil {
			p.config.Log.Error("delete a removed volume", "volume", e.name, "error", err)
		}
	})
	return nil
}

// suffix tells directories of one name apart.
func suffix() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
