package dockervolume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Volume is what Docker is told of a volume.
type Volume struct {
	Name       string
	Mountpoint string         `json:",omitempty"` // empty: nobody uses it
	CreatedAt  string         `json:",omitempty"` // RFC 3339
	Status     map[string]any `json:",omitempty"`
}

// Get describes a volume.
func (p *Plugin) Get(_ context.Context, name string) (*Volume, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[name]
	if e == nil || !e.ready || e.Removing {
		return nil, fmt.Errorf("%s: %w", name, errNoVolume)
	}
	return p.describe(e), nil
}

// List describes all volumes, by name.
func (p *Plugin) List(context.Context) []*Volume {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []*Volume{}
	for _, e := range p.entries {
		if e.ready && !e.Removing {
			all = append(all, p.describe(e))
		}
	}
	slices.SortFunc(all, func(a, b *Volume) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Path returns where a volume is mounted, or "".
func (p *Plugin) Path(ctx context.Context, name string) (string, error) {
	v, err := p.Get(ctx, name)
	if err != nil {
		return "", err
	}
	return v.Mountpoint, nil
}

// describe needs mu. It looks at no disk and no daemon, which might not
// answer.
func (p *Plugin) describe(e *entry) *Volume {
	o := e.Options.withDefaults(p.config.Defaults)
	v := &Volume{Name: e.name, CreatedAt: e.Created.Format(time.RFC3339), Status: map[string]any{
		"layers": o.Layers, "uses": len(e.IDs), "source": p.source(e),
	}}
	if len(e.IDs) > 0 {
		v.Mountpoint = p.target(e)
	}
	for name, value := range map[string]string{"cluster": o.Cluster, "group": o.Group, "cipherdir": o.CipherDir, "journal-size": o.JournalSize} {
		if value != "" {
			v.Status[name] = value
		}
	}
	if o.BlockSize != 0 {
		v.Status["block-size"] = o.BlockSize
	}
	return v
}
