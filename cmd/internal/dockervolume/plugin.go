package dockervolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says what a plugin serves.
type Config struct {
	StateDir string   // made if it is missing
	MountDir string   // where volumes are mounted; empty: mnt in StateDir
	Allow    []string // roots below which -o cipherdir= may lie; absolute
	Defaults Options  // cluster and group of volumes that are made
	BootID   string   // of the running kernel
	Host     Host
	Settle   time.Duration // how long the files of a container that has ended may stay open
	Log      *slog.Logger
}

// Plugin keeps the volumes of one state directory. Methods are safe for
// concurrent use.
type Plugin struct {
	config Config
	lock   *os.File
	boot   string

	mu      sync.Mutex
	entries map[string]*entry

	requests   sync.WaitGroup // under way
	background sync.WaitGroup // what goes on beside them
}

// entry is a volume, or one that is being made.
type entry struct {
	name string
	busy chan struct{} // a lock that can be waited for with a context: who sends holds it

	// Guarded by Plugin.mu, and changed by the holder of busy alone.
	ready bool // it is in state.json
	gone  bool // it was removed: whoever waited for busy looks again
	record
}

// Open takes over a state directory: it takes its lock and reads what was
// promised. That is reconciled with what is there in the background, for each
// volume before the first request about it.
func Open(ctx context.Context, c Config) (*Plugin, error) {
	if c.MountDir == "" {
		c.MountDir = filepath.Join(c.StateDir, "mnt")
	}
	var err error
	if c.StateDir, err = makeDir(c.StateDir); err != nil {
		return nil, err
	}
	// It holds paths that were checked, and the mounts: nobody else's to walk.
	if err := os.Chmod(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if c.MountDir, err = makeDir(c.MountDir); err != nil {
		return nil, err
	}
	p := &Plugin{config: c, boot: c.BootID, entries: map[string]*entry{}}
	if p.lock, err = lockDir(c.StateDir); err != nil {
		return nil, err
	}
	if err := p.takeOver(ctx); err != nil {
		p.lock.Close()
		return nil, err
	}
	return p, nil
}

// makeDir makes a directory, unless it is there, and returns its path without
// symbolic links: as the kernel tells what is mounted below it.
func makeDir(path string) (string, error) {
	err := os.MkdirAll(path, 0o700)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return path, nil
}

// Close waits for what goes on in the background, or for ctx, and gives up the
// state directory. Daemons and mounts stay. No request may be under way.
func (p *Plugin) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { p.background.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done(): // the next plugin does the rest
	}
	return p.lock.Close()
}

// takeOver makes the directories below and reconciles the state with them.
func (p *Plugin) takeOver(ctx context.Context) error {
	for _, dir := range []string{p.path("data"), p.path("adopted"), p.path("new"), p.path("trash")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	state, err := loadState(p.config.StateDir, p.boot)
	if err != nil {
		return err
	}
	for name, r := range state.Volumes {
		p.entries[name] = &entry{name: name, busy: make(chan struct{}, 1), ready: true, record: r}
	}
	if err := p.dropUnmade(); err != nil {
		return err
	}
	p.background.Go(func() {
		if err := p.empty("trash"); err != nil {
			p.config.Log.Error("trash of the state directory", "error", err)
		}
	})
	if err := p.takeBack(); err != nil {
		return err
	}
	if err := p.save(); err != nil {
		return err
	}
	found := slices.Collect(maps.Values(p.entries))
	for _, e := range found {
		e.busy <- struct{}{} // free so far
	}
	for _, e := range found {
		p.background.Go(func() {
			defer e.release()
			if err := errors.Join(p.reconcile(ctx, e), p.save()); err != nil {
				p.config.Log.Error("volume as it was found", "volume", e.name, "error", err)
			}
		})
	}
	return nil
}

// dropUnmade deletes what a Create left that was cut off, here and elsewhere. What
// is elsewhere goes by the volume's name, and stays if there is a volume of that
// name.
func (p *Plugin) dropUnmade() error {
	left, err := os.ReadDir(p.path("new"))
	if err != nil {
		return err
	}
	for _, d := range left {
		suffix := filepath.Ext(d.Name())
		name := strings.TrimSuffix(d.Name(), suffix)
		if suffix == "" || checkName(name) != nil || p.entries[name] != nil {
			continue
		}
		_, err := os.Lstat(p.path("data", name))
		if err == nil {
			continue // a volume of a state file that was lost
		}
		if errors.Is(err, os.ErrNotExist) {
			err = p.config.Host.Unmake(name, p.path("new", d.Name()))
		}
		if err != nil {
			return fmt.Errorf("volume %s, which was not made whole: %w", name, err)
		}
	}
	return p.empty("new")
}

// empty deletes what lies in a directory of volumes on their way.
func (p *Plugin) empty(dir string) error {
	left, err := os.ReadDir(p.path(dir))
	if err != nil {
		return err
	}
	for _, d := range left {
		if err := os.RemoveAll(p.path(dir, d.Name())); err != nil {
			return fmt.Errorf("delete a removed volume: %w", err)
		}
	}
	return nil
}

// takeBack takes in the volumes that lie in data/ and that nobody knows.
func (p *Plugin) takeBack() error {
	dirs, err := os.ReadDir(p.path("data"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		name := d.Name()
		if checkName(name) != nil || !d.IsDir() || p.entries[name] != nil {
			continue
		}
		about, err := p.config.Host.Describe(name, p.path("data", name))
		if err != nil {
			p.config.Log.Error("a directory that is no volume", "dir", p.path("data", name), "error", err)
			continue
		}
		p.config.Log.Warn("a volume that the state file does not know is taken back", "volume", name)
		created := time.Now()
		if info, err := d.Info(); err == nil {
			created = info.ModTime()
		}
		p.entries[name] = &entry{name: name, busy: make(chan struct{}, 1), ready: true, record: record{
			Created: created.UTC().Truncate(time.Second),
			Options: Options{Cluster: about.Cluster, Group: about.Group, BlockSize: about.BlockSize, Layers: about.Layers},
		}}
	}
	return nil
}

// reconcile brings what is known of e and what is mounted together. It does
// not save.
func (p *Plugin) reconcile(ctx context.Context, e *entry) error {
	if e.Removing {
		return p.finishRemoval(ctx, e)
	}
	st, err := p.config.Host.State(p.source(e), p.target(e))
	if err != nil {
		return err
	}
	switch {
	case st == Dead:
		p.config.Log.Warn("a volume's daemon had died; its mount is detached", "volume", e.name)
		err = p.detach(e)
		p.dropIDs(e)
	case st == Absent:
		p.dropIDs(e)
		err = p.unbind(e)
	case st == Serving && len(e.IDs) == 0:
		p.config.Log.Info("a volume that nobody uses is unmounted", "volume", e.name)
		_, err = p.unmountSettled(ctx, e)
	}
	return err
}

// dropIDs strikes out the IDs of a mount that has gone.
func (p *Plugin) dropIDs(e *entry) {
	if len(e.IDs) > 0 {
		p.config.Log.Warn("the mount of a volume has gone, and with it who used it", "volume", e.name, "uses", len(e.IDs))
	}
	p.mu.Lock()
	e.IDs = nil
	p.mu.Unlock()
}

// path is a place in the state directory.
func (p *Plugin) path(parts ...string) string {
	return filepath.Join(append([]string{p.config.StateDir}, parts...)...)
}

// source is the ciphertext directory of a volume as its daemon is told it.
func (p *Plugin) source(e *entry) string {
	if e.Options.CipherDir != "" {
		return p.path("adopted", e.name)
	}
	return p.path("data", e.name)
}

// target is where a volume is mounted.
func (p *Plugin) target(e *entry) string { return filepath.Join(p.config.MountDir, e.name) }

// save makes what the table says durable.
func (p *Plugin) save() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saveLocked()
}

func (p *Plugin) saveLocked() error {
	s := stateFile{Version: stateVersion, Boot: p.boot, Volumes: map[string]record{}}
	for name, e := range p.entries {
		if e.ready {
			s.Volumes[name] = e.record
		}
	}
	if err := s.save(p.config.StateDir); err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	return nil
}

// errNoVolume reports that a volume is not known.
var errNoVolume = errors.New("no such volume")

// take returns the entry of a volume with its lock held, until release. It
// waits for requests about the same volume, and for nobody else.
func (p *Plugin) take(ctx context.Context, name string) (e *entry, release func(), err error) {
	for {
		p.mu.Lock()
		e := p.entries[name]
		p.mu.Unlock()
		if e == nil {
			return nil, nil, fmt.Errorf("%s: %w", name, errNoVolume)
		}
		if err := e.seize(ctx); err != nil {
			return nil, nil, fmt.Errorf("%s: another request about this volume is under way: %w", name, err)
		}
		p.mu.Lock()
		gone := e.gone
		p.mu.Unlock()
		if !gone {
			return e, e.release, nil
		}
		e.release()
	}
}

func (e *entry) seize(ctx context.Context) error {
	select {
	case e.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *entry) release() { <-e.busy }

// change changes the IDs of e and makes the change durable; where that fails
// nothing has changed.
func (p *Plugin) change(e *entry, f func(ids []string) []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := e.IDs
	e.IDs = f(slices.Clone(before))
	slices.Sort(e.IDs)
	if slices.Equal(before, e.IDs) {
		return nil
	}
	if err := p.saveLocked(); err != nil {
		e.IDs = before
		return err
	}
	return nil
}
