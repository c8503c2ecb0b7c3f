package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// dockerUnmountName is the hidden command by which the plugin unmounts.
const dockerUnmountName = "docker-unmount"

// closingTime is how long the plugin waits for a daemon that closes its volume.
// Requests about the volume wait as long.
const closingTime = 30 * time.Second

func dockerUnmountCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:   dockerUnmountName,
		Usage:  "unmount a volume unless it is mounted elsewhere too; started by 'plyfs docker-plugin'",
		Hidden: true,
		Action: func(c *cli.Context) error {
			p, err := places(c, "MOUNTPOINT")
			if err != nil {
				return err
			}
			m, err := mountedVolume(p[0])
			if err != nil {
				return err
			}
			err = unmounting{last: true, patience: closingTime}.unmount(con, m)
			if err == nil {
				leaveTable(m.Target)
			}
			return err
		},
	}
}

// cloneMount returns a mount of what is mounted at target that is nowhere. As long
// as it is open the filesystem lives.
func cloneMount(target string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return nil, &os.PathError{Op: "clone the mount", Path: target, Err: err}
	}
	return os.NewFile(uintptr(fd), target), nil
}

// putBack mounts a clone at target if the filesystem is still mounted somewhere
// when the namespaces of containers that have ended are gone: its daemon would
// serve it on there, for nobody here, and keep the volume's lock. The next who
// wants the volume finds it served, and the next unmount tries anew.
func putBack(clone *os.File, device, target string) error {
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		who, err := whoMounts(device)
		if err != nil || who == "" {
			return err
		}
		if time.Since(start) < settleTime {
			continue
		}
		err = unix.MoveMount(int(clone.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("%s is unmounted, and does not mount again: %w", target, err)
		}
		return &problem{err: fmt.Errorf("%s is mounted elsewhere too, and stays mounted", target), code: exitBusy,
			hint: "in the mount namespace of " + who}
	}
}

// whoMounts names a process in whose mount namespace the filesystem of a device is
// mounted, or "". It sees namespaces that have processes in this /proc.
func whoMounts(device string) (string, error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", err
	}
	seen := map[[2]string]bool{}
	for _, proc := range procs {
		namespace := mountsOf(proc)
		root, _ := os.Readlink(proc + "/root") // what is outside of it is not told of
		if seen[[2]string{namespace, root}] {
			continue
		}
		text, err := os.ReadFile(proc + "/mountinfo")
		if err != nil {
			continue // it has ended
		}
		seen[[2]string{namespace, root}] = true
		for _, m := range parseMounts(string(text)) {
			if m.Device == device {
				return processName(proc), nil
			}
		}
	}
	return "", nil
}
