package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iocb is struct iocb of linux/aio_abi.h, little-endian.
type iocb struct {
	data   uint64
	key    uint32
	rwf    uint32
	opcode uint16
	prio   int16
	fd     uint32
	buf    uint64
	n      uint64
	off    int64
	_      uint64
	flags  uint32
	resfd  uint32
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const (
	iocbPread  = 0
	iocbPwrite = 1
)

// TestInFlight stops the daemon and counts how many requests the kernel sends
// it all the same: what one thread submits by native AIO, and what threads
// write into one file, must not wait for each other.
func TestInFlight(t *testing.T) {
	const depth = 8
	v := newMounted(t)
	defer v.watch(t, time.Minute)()
	waiting := waitingFile(t, v.mnt)
	path := filepath.Join(v.mnt, "f")
	touch(t, path, pattern(depth*65536, 1))
	fd := open(t, path, unix.O_RDWR|unix.O_DIRECT, 0)
	defer unix.Close(fd)

	// stopped runs f while the daemon stands still, and says how many requests
	// came together. finish waits for what f has begun.
	stopped := func(f func(), finish func()) int {
		v.daemon.Signal(unix.SIGSTOP)
		awaitStop(t, v.daemon.Cmd.Process.Pid)
		most := 0
		f()
		for end := time.Now().Add(3 * time.Second); most < depth && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			most = max(most, readInt(t, waiting))
		}
		v.daemon.Signal(unix.SIGCONT)
		finish()
		return most
	}
	for _, c := range []struct {
		name   string
		opcode uint16
	}{{"reads", iocbPread}, {"writes", iocbPwrite}} {
		t.Run("native AIO, "+c.name, func(t *testing.T) {
			var ctx uint64
			if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, depth, uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
				t.Fatalf("io_setup: %v", e)
			}
			defer unix.Syscall(unix.SYS_IO_DESTROY, uintptr(ctx), 0, 0)
			bufs := make([][]byte, depth)
			cbs := make([]*iocb, depth)
			for i := range cbs {
				bufs[i] = aligned(16384)
				cbs[i] = &iocb{opcode: c.opcode, fd: uint32(fd), buf: uint64(uintptr(ptr(bufs[i]))), n: 16384, off: int64(i) * 65536}
			}
			got := stopped(func() {
				n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(ctx), depth, uintptr(ptr(cbs)))
				if e != 0 || n != depth {
					t.Errorf("io_submit: %d, %v", n, e)
				}
			}, func() {
				events := make([]ioEvent, depth)
				n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ctx), depth, depth, uintptr(ptr(events)), 0, 0)
				if e != 0 || n != depth {
					t.Fatalf("io_getevents: %d, %v", n, e)
				}
				for i := range events {
					if events[i].res != 16384 {
						t.Errorf("event %d: %d", i, events[i].res)
					}
				}
			})
			if got < depth {
				t.Errorf("%d requests in flight, want %d", got, depth)
			}
		})
	}
	for name, rw := range map[string]func(b []byte, off int64) (int, error){
		"reads":  func(b []byte, off int64) (int, error) { return unix.Pread(fd, b, off) },
		"writes": func(b []byte, off int64) (int, error) { return unix.Pwrite(fd, b, off) },
	} {
		t.Run("threads, O_DIRECT "+name, func(t *testing.T) {
			done := make(chan error, depth)
			got := stopped(func() {
				for i := range depth {
					go func() {
						n, err := rw(aligned(4096), int64(i)*65536)
						if n != 4096 {
							err = fmt.Errorf("%d bytes, %w", n, err)
						}
						done <- err
					}()
				}
			}, func() {
				for range depth {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			})
			if got < depth {
				t.Errorf("%d requests in flight, want %d", got, depth)
			}
		})
	}
}

// awaitStop waits until no thread of a process runs any more: a signal stops
// them one after the other, and what they serve until then is not in flight.
func awaitStop(t testing.TB, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		check(t, err)
		running := 0
		for _, name := range stats {
			if stat, err := os.ReadFile(name); err == nil && !strings.Contains(string(stat), ") T ") {
				running++
			}
		}
		switch {
		case running == 0:
			return
		case time.Now().After(end):
			t.Fatalf("%d threads of process %d do not stop", running, pid)
		}
	}
}

// waitingFile is where the kernel counts a connection's requests.
func waitingFile(t testing.TB, mnt string) string {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(mnt, &st))
	ctl := filepath.Join(env.scratch, "fusectl")
	os.Mkdir(ctl, 0o755)
	if err := unix.Mount("none", ctl, "fusectl", 0, ""); err != nil {
		t.Fatalf("mounting fusectl: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(ctl, unix.MNT_DETACH) })
	// The directory is named by the device number as the kernel has it.
	major, minor := unix.Major(st.Dev), unix.Minor(st.Dev)
	return filepath.Join(ctl, fmt.Sprint(uint64(major)<<20|uint64(minor)), "waiting")
}

func readInt(t testing.TB, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	check(t, err)
	return n
}
