package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

const (
	// remountWait bounds how long a daemon may think about a remount.
	remountWait = 10 * time.Second
	// settleWait bounds how long it may take to bring its journal home.
	settleWait = 10 * time.Minute
)

// remount changes the flags of a live mount to what lists say, as `mount -o
// remount` does. When it has made the mount
// read-only, everything is durable and the ciphertext directory at rest.
func remount(con *console, source, target string, form mountopt.Form, lists []string) error {
	m, err := mountedVolume(target)
	if err != nil {
		return err
	}
	target = m.Target
	if source != m.Source && !sameDir(m.Source, source) {
		return &problem{err: fmt.Errorf("%s is the mount of another volume, %s", target, m.Source), code: exitUsage,
			hint: "unmount it, or choose another mountpoint"}
	}
	o, err := mountopt.Over(m.Options, form, lists...)
	if err != nil {
		return err
	}
	paths := []*string{&o.Log, &o.Journal}
	if o.Audit != auditSyslog {
		paths = append(paths, &o.Audit)
	}
	for _, p := range paths {
		if err := makeAbsolute(p); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return &problem{err: errors.New("only root can remount"), code: exitMount, hint: "unmount it, and mount it again"}
	}
	dir := stateDir(con)
	if err := askDaemon(dir, target, "remount", o, nil, remountWait); err != nil {
		if errors.Is(err, errNoDaemon) {
			err = &problem{err: err, code: exitMount, hint: "see 'plyfs status'; what another user than root has mounted cannot be remounted"}
		}
		return err
	}
	if err := unix.Mount("", target, "", o.Flags(), ""); err != nil {
		return remountError(target, err)
	}
	if !o.ReadOnly {
		return nil
	}
	return askDaemon(dir, target, "settle", nil, nil, settleWait)
}

func remountError(target string, err error) error {
	p := &problem{err: fmt.Errorf("remount %s: %w", target, err), code: exitMount}
	if errors.Is(err, unix.EBUSY) {
		p.code, p.hint = exitBusy, "close the files in it that are open for writing"
		if users := usersOf(target); len(users) > 0 {
			p.hint = "in use by " + strings.Join(users, ", ")
		}
	}
	return p
}

// mayRemount answers whether the mount can become what the options say: flags
// of the kernel can change, the volume and its journal cannot. What the kernel
// leaves to the daemon, access times, is changed here.
func (m *mounting) mayRemount(_ context.Context, args json.RawMessage) (any, error) {
	var want mountopt.Options
	if err := json.Unmarshal(args, &want); err != nil {
		return nil, err
	}
	if err := fixedOptions(&m.r.Mount, &want); err != nil {
		return nil, err
	}
	config, err := readConfig(m.r.Keys.Config)
	if err != nil {
		return nil, err
	}
	if err := checkGroup(config, &want); err != nil {
		return nil, err
	}
	if err := m.mayWrite(&want); err != nil {
		return nil, err
	}
	m.volume.SetNoAtime(want.NoAtime)
	return nil, nil
}

// mayWrite refuses a remount that is to be writable where the volume is not.
func (m *mounting) mayWrite(want *mountopt.Options) error {
	if want.ReadOnly {
		return nil
	}
	if m.volume.ReadOnly() {
		return &problem{err: errors.New("the volume was opened read-only"), code: exitMount, hint: "unmount it, and mount it again with rw"}
	}
	if s := journalStatusOf(m.volume); s != nil && s.Error != "" {
		return &problem{err: fmt.Errorf("the volume is read-only since its journal failed: %s", s.Error), code: exitIO,
			hint: "unmount it, and mount it again"}
	}
	return nil
}

// fixedOptions refuses what differs, where it is stated, from what a live
// mount was made with.
func fixedOptions(have *mountRequest, want *mountopt.Options) error {
	o := &have.Options
	for _, f := range []struct {
		name    string
		differs bool
	}{
		{"layers", want.Layers != 0 && want.Layers != have.Layers},
		{"journal", want.Journal != "" && want.Journal != o.Journal},
		{"journal-size", want.JournalSize != 0 && want.JournalSize != o.JournalSize},
		{"log", want.Log != "" && want.Log != o.Log},
		{"debug", want.Debug && !o.Debug},
		{"revalidate", want.Revalidate != 0 && want.RevalidateEvery() != o.RevalidateEvery()},
		{"grace", want.Grace != 0 && want.GraceTime() != o.GraceTime()},
		{"audit", want.Audit != "" && want.Audit != o.Audit},
	} {
		if f.differs {
			return &mountopt.OptionError{Option: f.name, Reason: "unmount it, and mount it again", Err: mountopt.ErrRemount}
		}
	}
	return nil
}
