package main

import (
	"os"
	"os/exec"
)

// unmountProgram is what umount(8) calls for a mounted volume, if it looks at
// the volume's type. It does not where the absolute path of a mountpoint is all
// it is given, unless its table of mounts, /run/mount/utab, has the mount.
const unmountProgram = "/sbin/umount." + fsType

// enterTable has mount(8) enter a mount of root's in that table, and does not
// mount. The mount does without where that fails: umount(8) then does not wait
// until the volume is closed.
func enterTable(source, target string) {
	if _, err := os.Stat(unmountProgram); err != nil || os.Geteuid() != 0 {
		return
	}
	exec.Command("/bin/mount", "--no-canonicalize", "--internal-only", "--fake", "-t", fsType, "-o", "uhelper="+fsType, "--", source, target).Run()
}

// leaveTable takes a mount out of the table, which umount(8) does by itself.
func leaveTable(target string) {
	if os.Geteuid() == 0 {
		exec.Command("/bin/umount", "--no-canonicalize", "--internal-only", "--fake", "--", target).Run()
	}
}
