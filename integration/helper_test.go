package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Helpers are what must happen in a process of its own: this test program run
// again with PLYFS_HELPER set.

// helper runs one and returns what it printed, trimmed.
func helper(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "PLYFS_HELPER="+name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("helper %s: %v\n%s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// runHelper is the other side. It prints its answer: an errno's name, or "ok".
func runHelper(name string, args []string) int {
	switch name {
	case "setlk": // PATH TYPE START LEN: try a POSIX lock
		l, err := lockArgs(args)
		fd, err2 := unix.Open(args[0], unix.O_RDWR, 0)
		if err = errors.Join(err, err2); err == nil {
			err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l)
		}
		fmt.Println(answer(err))
	case "getlk": // PATH TYPE START LEN: who is in the way
		l, err := lockArgs(args)
		fd, err2 := unix.Open(args[0], unix.O_RDWR, 0)
		if err = errors.Join(err, err2); err == nil {
			err = unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l)
		}
		if err != nil {
			fmt.Println(answer(err))
		} else {
			fmt.Println(l.Type, l.Start, l.Len, l.Pid)
		}
	case "fsize": // PATH LIMIT: write past RLIMIT_FSIZE
		signal.Ignore(syscall.SIGXFSZ)
		limit, _ := strconv.ParseUint(args[1], 10, 64)
		fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CREAT, 0o644)
		if err == nil {
			err = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit})
		}
		if err == nil {
			_, err = unix.Pwrite(fd, []byte("x"), int64(limit))
		}
		fmt.Println(answer(err))
	default:
		fmt.Fprintln(os.Stderr, "no helper", name)
		return 2
	}
	return 0
}

func lockArgs(args []string) (l unix.Flock_t, err error) {
	if len(args) != 4 {
		return l, errors.New("want PATH TYPE START LEN")
	}
	l.Type = unix.F_WRLCK
	if args[1] == "r" {
		l.Type = unix.F_RDLCK
	}
	var err2 error
	l.Start, err = strconv.ParseInt(args[2], 10, 64)
	l.Len, err2 = strconv.ParseInt(args[3], 10, 64)
	return l, errors.Join(err, err2)
}

func answer(err error) string {
	if err == nil {
		return "ok"
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// ptr is the address of a slice's first element, nil for an empty one.
func ptr[T any](s []T) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(s)) }
