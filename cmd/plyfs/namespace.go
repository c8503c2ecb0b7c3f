package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNamespace is the mount namespace of this process.
const ownNamespace = "/proc/self/ns/mnt"

// mountsOf tells the mount namespace of a process, by its directory of /proc, from
// others; "" if that may not be known.
func mountsOf(proc string) string {
	namespace, _ := os.Readlink(proc + "/ns/mnt")
	return namespace
}

// enterNamespace goes on in the mount namespace of the file path, with args as
// the program's arguments, by starting the program anew there: it does not
// return then. It returns nil where this process is in it already. All paths
// are those of that namespace from there on, which needs its /proc.
func enterNamespace(path string, args []string) error {
	var there, here unix.Stat_t
	if err := unix.Stat(path, &there); err != nil {
		return &problem{err: fmt.Errorf("mount namespace: %w", &os.PathError{Op: "stat", Path: path, Err: err}), code: exitUsage,
			hint: "give the number of a process in it, or the path of its file"}
	}
	if err := unix.Stat(ownNamespace, &here); err != nil {
		return err
	}
	if here.Dev == there.Dev && here.Ino == there.Ino {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	// The thread that enters it must share its root directory with no other,
	// and be the one that execs.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the mount namespace %s: %w", path, err)
	}
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace %s: %w", path, err)
	}
	err = unix.Exec("/proc/self/exe", append([]string{os.Args[0], "-N", ownNamespace}, args...), os.Environ())
	return fmt.Errorf("go on in the mount namespace %s: %w", path, err)
}
