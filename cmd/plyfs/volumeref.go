package main

import (
	"path/filepath"
)

// volumeRef is a volume that a command was given: its ciphertext directory or
// its mountpoint.
type volumeRef struct {
	Source  string   // ciphertext directory
	Config  string   // path of the config
	Targets []string // where it is mounted, as far as can be seen from here
	live    *runFile // of its daemon, nil where none is known to run
}

// findVolume finds the volume at a path. named is what --config says; a live
// mount whose config is elsewhere need not be told.
func findVolume(con *console, path, named string) (*volumeRef, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	if target, err := resolveTarget(abs); err == nil {
		if m, ok := mountedAt(mounts, target); ok && m.Type == fsType {
			abs = m.Source
		}
	}
	if err := checkSource(abs); err != nil {
		return nil, err
	}
	v := &volumeRef{Source: abs}
	for _, m := range volumeMounts(mounts) {
		if !sameDir(m.Source, abs) {
			continue
		}
		v.Targets = append(v.Targets, m.Target)
		if r := runFileOf(stateDir(con), m); r != nil && r.alive() {
			v.live = r
		}
	}
	if named == "" && v.live != nil && v.live.Config != "" {
		v.Config = v.live.Config
		return v, nil
	}
	v.Config = configPath(abs, named)
	return v, makeAbsolute(&v.Config)
}

// checkLive refuses a config to be changed that is not the one of the live
// mount: its daemon writes the config, and knows its own alone.
func (v *volumeRef) checkLive() error {
	if v.live == nil || v.live.Config == "" {
		return nil
	}
	mine, theirs := v.Config, v.live.Config
	if filepath.Base(mine) == filepath.Base(theirs) && sameDir(filepath.Dir(mine), filepath.Dir(theirs)) {
		return nil
	}
	return usageError("leave out --config; to change "+mine+", unmount the volume first",
		"%s is mounted with the config %s, not %s", v.live.Target, theirs, mine)
}
