package backing

import (
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// handle counts the users of a descriptor, so that a Close that races with
// another call never lets that call reach a descriptor number which the
// process has meanwhile given to another file.
type handle struct {
	fd   int
	refs atomic.Int64 // calls under way, plus one until Close; 0 is closed
	shut atomic.Bool
}

func newHandle(fd int) *handle {
	h := &handle{fd: fd}
	h.refs.Store(1)
	return h
}

func (h *handle) acquire() bool {
	for {
		n := h.refs.Load()
		if n <= 0 {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (h *handle) release() error {
	if h.refs.Add(-1) == 0 {
		// Linux frees the number even if close fails, so EINTR is no reason
		// to try again.
		if err := unix.Close(h.fd); err != nil && err != unix.EINTR {
			return err
		}
	}
	return nil
}

// close gives up the handle. The descriptor goes when the last call that is
// under way returns.
func (h *handle) close() error {
	if h.shut.Swap(true) {
		return unix.EBADF
	}
	return h.release()
}

// do runs call with the descriptor, again for as long as a signal interrupts
// it.
func (h *handle) do(call func(fd int) error) error {
	if h.shut.Load() || !h.acquire() {
		return unix.EBADF
	}
	defer h.release()
	for {
		if err := call(h.fd); err != unix.EINTR {
			return err
		}
	}
}

// fdPath names a descriptor in /proc, for calls that take a path alone.
func fdPath(fd int) string {
	return "/proc/self/fd/" + strconv.Itoa(fd)
}
