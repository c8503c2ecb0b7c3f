package main

import (
	"errors"
	"fmt"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// mountHelper is /sbin/mount.plyfs, which mount(8) calls for the type plyfs.
// It exits with mount(8)'s codes.
func mountHelper(con *console, args []string) int {
	call, err := mountopt.ParseHelper(args)
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
	if err := mount(con, call.Source, call.Target, call.Options, false); err != nil {
		con.fail(err)
		return mountCode(err)
	}
	return 0
}

// errNotMounted reports that no volume is mounted at target.
func errNotMounted(target string, hint string) error {
	return &problem{err: fmt.Errorf("%s: %w", target, errNoMount), code: exitNotMounted, hint: hint}
}

var errNoMount = errors.New("no plyfs volume is mounted there")
