package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	cq                                                   struct{ head, tail, mask, entries, overflow, cqes, flags, _, _, _ uint32 }
}

// writeUring has all pages in flight at once, by io_uring; by io_submit where a
// kernel or a container has none.
func writeUring(fd int, bufs [][]byte, offs []int64) error {
	const (
		offSQEs, sqeSize, cqeSize = 0x10000000, 64, 16
		opWrite, getEvents        = 23, 1
	)
	var p uringParams
	r, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(len(bufs)), uintptr(unsafe.Pointer(&p)), 0)
	if errors.Is(e, unix.ENOSYS) || errors.Is(e, unix.EPERM) {
		return writeAsync(fd, bufs, offs)
	}
	if e != 0 {
		return fmt.Errorf("io_uring_setup: %w", e)
	}
	ring := int(r)
	defer unix.Close(ring)
	// One mapping has both rings, since Linux 5.4.
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*cqeSize))
	m, err := unix.Mmap(ring, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("rings: %w", err)
	}
	defer unix.Munmap(m)
	sqes, err := unix.Mmap(ring, offSQEs, int(p.sqEntries)*sqeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	defer unix.Munmap(sqes)
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&m[off])) }
	le := binary.LittleEndian
	for i, b := range bufs {
		sqe := sqes[i*sqeSize : (i+1)*sqeSize]
		sqe[0] = opWrite
		le.PutUint32(sqe[4:], uint32(fd))
		le.PutUint64(sqe[8:], uint64(offs[i]))
		le.PutUint64(sqe[16:], uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))))
		le.PutUint32(sqe[24:], uint32(len(b)))
		*word(p.sq.array + uint32(i)*4) = uint32(i)
	}
	atomic.StoreUint32(word(p.sq.tail), uint32(len(bufs)))
	for sent, got := 0, 0; got < len(bufs); {
		n, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(ring), uintptr(len(bufs)-sent), 1, getEvents, 0, 0)
		if e != 0 && e != unix.EINTR {
			return fmt.Errorf("io_uring_enter: %w", e)
		}
		if e == 0 {
			sent += int(n)
		}
		head := *word(p.cq.head)
		for ; head != atomic.LoadUint32(word(p.cq.tail)); head++ {
			at := p.cq.cqes + (head&*word(p.cq.mask))*cqeSize
			if res := int32(le.Uint32(m[at+8:])); int(res) != pageSize {
				return fmt.Errorf("write by io_uring: %d", res)
			}
			got++
		}
		atomic.StoreUint32(word(p.cq.head), head)
	}
	runtime.KeepAlive(bufs)
	return nil
}
