package powercut

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// recorderEnv, set, makes this test program the recorder: a process must not
// use a mount that it serves.
const recorderEnv = "PLYFS_POWERCUT_RECORDER"

// Kinds of log entries.
const (
	opWrite = 1 + iota // off, n, then n bytes
	opZero             // off, n: discarded or zeroed
	opFlush            // everything above it is on the disk from now on
)

// entryHead is the length of an entry's head: kind, off, n, each 8 bytes.
const entryHead = 24

// diskFile is the one file of the recorder's file system: the disk. Reads come
// from the image; writes and flushes are logged in the order they are handled,
// before they are answered. So what the kernel believes complete when it sends
// a flush is above that flush in the log.
type diskFile struct {
	gofs.Inode
	mu    sync.Mutex
	image []byte // private mapping of the base image
	log   *os.File
	at    int64          // where the log ends
	seq   *atomic.Uint64 // entries in the log; shared with the test
}

var (
	_ gofs.NodeOpener    = (*diskFile)(nil)
	_ gofs.NodeGetattrer = (*diskFile)(nil)
	_ gofs.NodeReader    = (*diskFile)(nil)
	_ gofs.NodeWriter    = (*diskFile)(nil)
	_ gofs.NodeFsyncer   = (*diskFile)(nil)
	_ gofs.NodeAllocater = (*diskFile)(nil)
)

func (d *diskFile) Open(context.Context, uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES, 0
}

func (d *diskFile) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = unix.S_IFREG | 0o600
	out.Size = uint64(len(d.image))
	out.Blocks = out.Size / 512
	return 0
}

func (d *diskFile) inside(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= int64(len(d.image)) && n <= int64(len(d.image))-off
}

func (d *diskFile) Read(_ context.Context, _ gofs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off >= int64(len(d.image)) {
		return fuse.ReadResultData(nil), 0
	}
	n := copy(p, d.image[off:])
	return fuse.ReadResultData(p[:n]), 0
}

func (d *diskFile) Write(_ context.Context, _ gofs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.inside(off, int64(len(p))) {
		return 0, syscall.ENOSPC
	}
	copy(d.image[off:], p)
	if d.append(opWrite, off, int64(len(p)), p) != nil {
		return 0, syscall.EIO
	}
	return uint32(len(p)), 0
}

func (d *diskFile) Fsync(context.Context, gofs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.append(opFlush, 0, 0, nil) != nil {
		return syscall.EIO
	}
	return 0
}

// Allocate is what the loop device makes of discards and of writing zeros.
func (d *diskFile) Allocate(_ context.Context, _ gofs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
		return 0
	}
	if !d.inside(int64(off), int64(size)) {
		return syscall.EINVAL
	}
	clear(d.image[off : off+size])
	if d.append(opZero, int64(off), int64(size), nil) != nil {
		return syscall.EIO
	}
	return 0
}

// append adds an entry. The caller holds mu.
func (d *diskFile) append(kind, off, n int64, p []byte) error {
	b := make([]byte, entryHead, entryHead+len(p))
	binary.LittleEndian.PutUint64(b, uint64(kind))
	binary.LittleEndian.PutUint64(b[8:], uint64(off))
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	b = append(b, p...)
	if _, err := d.log.WriteAt(b, d.at); err != nil {
		return err
	}
	d.at += int64(len(b))
	d.seq.Add(1)
	return nil
}

// serveRecorder is the recorder's main: DIR holds base, log and seq; the disk
// appears as DIR/dev/disk. It ends when standard input does.
func serveRecorder(dir string) error {
	base, err := os.Open(filepath.Join(dir, "base"))
	if err != nil {
		return err
	}
	st, err := base.Stat()
	if err != nil {
		return err
	}
	d := &diskFile{}
	d.image, err = unix.Mmap(int(base.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	if d.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return err
	}
	if d.seq, err = mapCounter(filepath.Join(dir, "seq")); err != nil {
		return err
	}
	root := &gofs.Inode{}
	mnt := filepath.Join(dir, "dev")
	server, err := gofs.Mount(mnt, root, &gofs.Options{
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, d, gofs.StableAttr{Mode: unix.S_IFREG, Ino: 2}), true)
		},
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV, FsName: "powercut", Name: "powercut",
			MaxWrite: 1 << 20, MaxBackground: 64, DisableSplice: true, ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if err = server.Unmount(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// mapCounter maps the first 8 bytes of a file, which is made if missing.
func mapCounter(path string) (*atomic.Uint64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// clock is the position in the log of the recorder at work, and the positions
// at which workloads saw something acknowledged.
type clock struct {
	seq  *atomic.Uint64
	mu   sync.Mutex
	acks []uint64
}

// now counts the entries so far. What is called before an operation says which
// of them cannot be the operation's.
func (c *clock) now() uint64 { return c.seq.Load() }

// ack is now, noted as a moment worth cutting at. To be called after the fsync
// returned and before anything else is done.
func (c *clock) ack() uint64 {
	n := c.seq.Load()
	c.mu.Lock()
	c.acks = append(c.acks, n)
	c.mu.Unlock()
	return n
}

// recorderProc is the recorder from the test's side.
type recorderProc struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	disk  string // the file to put a loop device on
	clock *clock
}

// startRecorder serves DIR/base as a disk that records.
func startRecorder(dir string) (*recorderProc, error) {
	if err := os.MkdirAll(filepath.Join(dir, "dev"), 0o700); err != nil {
		return nil, err
	}
	os.Remove(filepath.Join(dir, "seq"))
	seq, err := mapCounter(filepath.Join(dir, "seq"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), recorderEnv+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	return &recorderProc{cmd: cmd, stdin: stdin, disk: filepath.Join(dir, "dev", "disk"), clock: &clock{seq: seq}}, nil
}

// stop ends the recorder; the log is complete then.
func (r *recorderProc) stop() error {
	r.stdin.Close()
	return r.cmd.Wait()
}
