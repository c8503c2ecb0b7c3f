package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps keys that this process will hold out of core files and away
// from other processes of the same user (no ptrace, no /proc/PID/mem). Best
// effort: what the kernel refuses stays as it was, and it returns why.
func harden() (why string) {
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// raiseLimits lets the process open as many files as it is allowed to.
func raiseLimits() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// lockMemory keeps this process's memory, and so keys, out of swap, as far as it
// gets touched. It returns why not, or "". Where the system bounds locked
// memory it is not tried: past the bound the process could get no memory at all.
func lockMemory() (why string) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return err.Error()
	}
	if l.Cur != unix.RLIM_INFINITY && !hasCapability(unix.CAP_IPC_LOCK) {
		return fmt.Sprintf("locked memory is limited to %d KiB here; root or CAP_IPC_LOCK has no limit", l.Cur>>10)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return err.Error()
	}
	return ""
}

// hasCapability reports whether this process has a capability in effect.
func hasCapability(c int) bool {
	var data [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return err == nil && data[c/32].Effective&(1<<(c%32)) != 0
}
