package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

// pinsPath is where this host remembers the volumes it has seen:
// $XDG_STATE_HOME/plyfs if that is set, else /var/lib/plyfs for root and
// ~/.local/state/plyfs for others; empty where there is no place.
func pinsPath(con *console) string {
	const name = "plyfs/hosts.json"
	switch dir, home := con.getenv("XDG_STATE_HOME"), con.getenv("HOME"); {
	case dir != "":
		return filepath.Join(dir, name)
	case os.Geteuid() == 0:
		return filepath.Join("/var/lib", name)
	case home != "":
		return filepath.Join(home, ".local/state", name)
	}
	return ""
}

// pinned is a volume that this host has seen, or sees now.
type pinned struct {
	pins   keystore.Pins
	id     cipher.VolumeID
	warn   func(string) // what could not be done
	config string       // path
	newest keystore.Pin // of the config, that this mount has seen
}

// opened begins to follow the volume, unless this host has seen a newer state of
// its keys and an older one is not accepted, and mends the second copy of the
// config.
func (h *helper) opened(r *request, u *unlocked) error {
	p := &pinned{pins: keystore.Pins{Path: r.Pins}, id: u.params.VolumeID, config: r.Keys.Config, newest: u.generations}
	p.warn = func(text string) { u.warnings = append(u.warnings, text) }
	if err := p.check(u.generations, r.Mount.Options.AcceptOlderKeys); err != nil {
		return err
	}
	p.raise(u.generations)
	if u.repair != nil && !r.Mount.Options.ReadOnly {
		if err := keystore.WriteConfig(p.config, u.repair); err != nil {
			p.warn(fmt.Sprintf("the copy of the config beside it stays as it is: %v", err))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pins = p
	return nil
}

// newest is the state of the config that this mount has seen.
func (h *helper) newest() (seen keystore.Pin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pins != nil {
		seen = h.pins.newest
	}
	return seen
}

// validated refuses keys from a config that is older than the one that this
// mount had seen before. What other mounts of copies of the volume have seen
// does not matter to it.
func (h *helper) validated(before keystore.Pin, u *unlocked) error {
	if err := before.Check(u.generations); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pins != nil && h.pins.newest.Check(u.generations) == nil {
		h.pins.newest = u.generations
	}
	return nil
}

// check refuses a state that is older than this host has seen, unless that
// is accepted: then it is remembered. Where the file cannot be read, it warns and
// goes on.
func (p *pinned) check(now keystore.Pin, accept bool) error {
	if p.pins.Path == "" {
		return nil
	}
	err := p.pins.Check(p.id, now)
	if err == nil {
		return nil
	}
	if isFault := errors.Is(err, keystore.ErrRolledBack) || errors.Is(err, keystore.ErrTampered) || errors.Is(err, keystore.ErrVersion); isFault && !accept {
		return err
	}
	p.warn(fmt.Sprintf("%v", err))
	if errors.Is(err, keystore.ErrRolledBack) {
		p.warned(p.pins.Accept(p.id, now))
	}
	return nil
}

// raise remembers a state; where it cannot be written, it warns.
func (p *pinned) raise(now keystore.Pin) {
	if p.pins.Path == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(p.pins.Path), 0o700)
	if err == nil {
		err = p.pins.Raise(p.id, now)
	}
	p.warned(err)
}

func (p *pinned) warned(err error) {
	if err != nil {
		p.warn(fmt.Sprintf("this host does not remember the state of the volume, and would take an older one: %v", err))
	}
}

// remember is what the helper does about the host's pins and the volume's
// config, which the daemon may not reach. No validation holds it up.
func (h *helper) remember(q *keyQuestion) (a keyAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pins
	if p == nil {
		a.Error = "no volume was opened"
		return a
	}
	p.warn = func(text string) { a.Warnings = append(a.Warnings, text) }
	var err error
	switch q.Op {
	case "check-pins":
		err = p.check(q.Pin, q.Accept)
	case "raise-pins":
		p.raise(q.Pin)
	case "config":
		err = p.writeConfig(q.Config, q.Erase)
	}
	if err != nil {
		a.Error, a.Hint, a.Code = err.Error(), hintOf(err), codeOf(err)
	}
	return a
}

// writeConfig replaces the volume's config, and remembers it.
func (p *pinned) writeConfig(b []byte, erase bool) error {
	c, err := keystore.ParseConfig(b)
	if err != nil {
		return err
	}
	write := keystore.WriteConfig
	if erase {
		write = keystore.EraseConfig
	}
	if err := write(p.config, b); err != nil {
		return err
	}
	p.newest = c.Generations()
	p.raise(p.newest)
	return nil
}

// pinTime bounds what a helper takes for pins or a config.
const pinTime = time.Minute

// remember asks the helper to check or raise pins, or to write a config.
func (c *keyClient) remember(q keyQuestion, warn func(string)) error {
	ctx, cancel := context.WithTimeout(context.Background(), pinTime)
	defer cancel()
	a, err := c.ask(ctx, q)
	if err != nil {
		return err
	}
	for _, w := range a.Warnings {
		warn(w)
	}
	return a.err()
}

// checkPins refuses a state that is older than this host has seen, unless that is
// accepted.
func (c *keyClient) checkPins(now keystore.Pin, accept bool, warn func(string)) error {
	return c.remember(keyQuestion{Op: "check-pins", Pin: now, Accept: accept}, warn)
}

// raisePins remembers a state; what could not be done is a warning.
func (c *keyClient) raisePins(now keystore.Pin, warn func(string)) {
	if err := c.remember(keyQuestion{Op: "raise-pins", Pin: now}, warn); err != nil {
		warn(err.Error())
	}
}
