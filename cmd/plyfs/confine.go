package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// landlockABI is the least version of Landlock with which files can be moved
// between directories.
const landlockABI = 2

// confine has this process give up all files but those below the directories in
// which it works, and below those that it may read, TCP, and the means to change mounts or gain privileges, for
// good, whatever may be made of it. It returns why that could not be had, or "".
//
// What is open stays so; sockets of the log can be reached. Children, of which
// there are none from here on, would be bound too.
func confine(dirs, readable []string) (why string) {
	time.Now().Local().Zone() // reads its file now
	abi, err := ll.LandlockGetABIVersion()
	switch {
	case err != nil:
		return fmt.Sprintf("the kernel has no Landlock, or it is off: %v", err)
	case abi < landlockABI:
		return fmt.Sprintf("the kernel's Landlock is of version %d, and %d is needed", abi, landlockABI)
	}
	var rules []landlock.Rule
	for _, d := range dirs {
		rules = append(rules, landlock.RWDirs(d).WithRefer().IgnoreIfMissing())
	}
	for _, d := range readable {
		rules = append(rules, landlock.RODirs(d).IgnoreIfMissing())
	}
	// Sockets of this host stay reachable (V6 and V9 are about them): syslog, and
	// whoever waits for sd_notify(3).
	if err := landlock.V5.BestEffort().Restrict(rules...); err != nil {
		return err.Error()
	}
	if err := reach("/"); !errors.Is(err, unix.EACCES) {
		return fmt.Sprintf("Landlock was set up and does not hold: the root directory opens (%v)", err)
	}
	return ""
}

// reach tries to open a path to read it.
func reach(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// readable are the directories that the daemon of a mount reads: a remount looks
// at the volume's config.
func (m *mounting) readable() []string { return []string{filepath.Dir(m.r.Keys.Config)} }

// workplaces are the directories in which the daemon of a mount works.
func (m *mounting) workplaces(log *daemonLog) []string {
	dirs := []string{m.r.Source}
	for _, d := range []string{m.r.Mount.Options.Journal, m.r.StateDir} {
		if d != "" {
			dirs = append(dirs, d)
		}
	}
	for _, file := range []string{log.Place, m.audit.Place} {
		if filepath.IsAbs(file) { // opened anew after a rotation
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	if log.crash != nil { // removed in the end, if it is empty
		dirs = append(dirs, filepath.Dir(log.crash.Name()))
	}
	return dirs
}

// hygiene says what protects the memory and the process of a mount's daemon, or
// why something does not.
type hygiene struct {
	Confined bool   `json:"confined"` // to the directories it works in
	Locked   bool   `json:"memory_locked"`
	NoDump   bool   `json:"no_core_dump"`
	Note     string `json:"note,omitempty"` // what could not be had, and why
}

func (h *hygiene) miss(what, why string) bool {
	if why == "" {
		return true
	}
	if h.Note != "" {
		h.Note += "; "
	}
	h.Note += what + ": " + why
	return false
}

// controls answer what protects the daemon. reach lets an auditor, or a test,
// see for himself what its process can open.
func (h *hygiene) controls() map[string]control {
	return map[string]control{
		"hygiene": func(context.Context, json.RawMessage) (any, error) { return h, nil },
		"reach": func(_ context.Context, args json.RawMessage) (any, error) {
			var path string
			if err := json.Unmarshal(args, &path); err != nil {
				return nil, err
			}
			if err := reach(path); err != nil {
				return err.Error(), nil
			}
			return "", nil
		},
	}
}

// text lists what protects the daemon.
func (h *hygiene) text() string {
	var have []string
	for _, p := range []struct {
		on   bool
		what string
	}{{h.Confined, "confined to its directories"}, {h.Locked, "memory locked"}, {h.NoDump, "no core dumps, no ptrace"}} {
		if p.on {
			have = append(have, p.what)
		}
	}
	if len(have) == 0 {
		return "nothing protects its memory"
	}
	return strings.Join(have, "; ")
}
