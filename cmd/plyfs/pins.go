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
	pins keystore.Pins
	id   cipher.VolumeID
	warn func(string) // what could not be done
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
// config, which the daemon may not reach.
func (h *helper) remember(q *keyQuestion) (a keyAnswer) {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.pins == nil {
		a.Error = "no volume was opened"
		return a
	}
	h.pins.warn = func(text string) { a.Warnings = append(a.Warnings, text) }
	var err error
	switch q.Op {
	case "check-pins":
		err = h.pins.check(q.Pin, q.Accept)
	case "raise-pins":
		h.pins.raise(q.Pin)
	case "config":
		err = h.pins.writeConfig(h.config, q.Config, q.Erase)
	}
	if err != nil {
		a.Error, a.Hint, a.Code = err.Error(), hintOf(err), codeOf(err)
	}
	return a
}

// writeConfig replaces a volume's config, and remembers it.
func (p *pinned) writeConfig(path string, b []byte, erase bool) error {
	c, err := keystore.ParseConfig(b)
	if err != nil {
		return err
	}
	write := keystore.WriteConfig
	if erase {
		write = keystore.EraseConfig
	}
	if err := write(path, b); err != nil {
		return err
	}
	p.raise(c.Generations())
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
