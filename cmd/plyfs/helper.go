package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// mountHelper is /sbin/mount.plyfs, which mount(8) calls for the type plyfs.
// It exits with mount(8)'s codes.
func mountHelper(con *console, args []string) int {
	call, err := mountopt.ParseHelper(args)
	if err == nil && call.Namespace != "" {
		err = enterNamespace(call.Namespace, args)
	}
	return helped(con, call, err)
}

// fuseHelper is plyfs called by mount.fuse3 for the type fuse.plyfs.
func fuseHelper(con *console, args []string) int {
	call, err := mountopt.ParseFuse(args)
	return helped(con, call, err)
}

// helped carries out a helper's call.
func helped(con *console, call mountopt.Call, err error) int {
	if err != nil {
		con.fail(err)
		return mountCode(err)
	}
	for _, name := range call.Ignored {
		con.warn("unknown mount option %q, ignored because of -s", name)
	}
	if call.Verbose {
		con.note("%s on %s type %s", call.Source, call.Target, fsType)
	}
	if call.Fake {
		return 0
	}
	if call.Options.Remount {
		err = remount(con, call.Source, call.Target, call.Form, call.Lists)
	} else {
		err = mount(con, call.Source, call.Target, call.Options, false)
	}
	if err != nil {
		con.fail(err)
		return mountCode(err)
	}
	return 0
}

// unmountHelper is /sbin/umount.fuse.plyfs, which umount(8) calls for the type
// that the kernel shows. Unlike umount(2) it returns when the volume is closed.
func unmountHelper(con *console, args []string) int {
	u, err := mountopt.ParseUnmount(args)
	if err == nil && u.Namespace != "" {
		err = enterNamespace(u.Namespace, args)
	}
	if err == nil {
		err = carryOut(con, u)
	}
	if err != nil {
		con.fail(err)
		return mountCode(err)
	}
	return 0
}

func carryOut(con *console, u mountopt.Unmount) error {
	how := unmounting{patience: closeWait}
	switch {
	case u.Lazy:
		how.flags = unix.MNT_DETACH
	case u.Force:
		how.flags = unix.MNT_FORCE
	}
	m, err := findMount(u.Target)
	if err != nil {
		return err
	}
	err = how.unmount(con, m)
	if u.ReadOnly && codeOf(err) == exitBusy {
		if e := remount(con, m.Source, m.Target, mountopt.Partial, []string{"remount,ro"}); e != nil {
			return errors.Join(err, e)
		}
		con.note("%s is busy, and read-only now", m.Target)
		return nil
	}
	if err == nil && u.Verbose {
		con.note("%s unmounted", m.Target)
	}
	return err
}

// errNotMounted reports that no volume is mounted at target.
func errNotMounted(target string, hint string) error {
	return &problem{err: fmt.Errorf("%s: %w", target, errNoMount), code: exitNotMounted, hint: hint}
}

var errNoMount = errors.New("no plyfs volume is mounted there")
