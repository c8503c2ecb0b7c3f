package main

import "golang.org/x/sys/unix"

// harden keeps keys that this process will hold out of core files and away
// from other processes of the same user (no ptrace, no /proc/PID/mem). Best
// effort: what the kernel refuses stays as it was.
func harden() {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// raiseLimits lets the process open as many files as it is allowed to.
func raiseLimits() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}
