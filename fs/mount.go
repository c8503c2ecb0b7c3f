package fs

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// Options of a mount. The zero value is a read-write mount, nosuid and nodev,
// for the mounting user alone.
type Options struct {
	Source     string // what mount(8) shows as the device: the ciphertext directory as it was given
	AllowOther bool   // serve other users too; for root

	ReadOnly    bool // must be set for a Volume opened read-only
	Suid        bool // honour set-user-ID bits and file capabilities
	Dev         bool // honour device nodes
	NoExec      bool
	Sync        bool
	DirSync     bool
	NoAtime     bool
	StrictAtime bool
	NoDirAtime  bool
	LazyTime    bool

	Debug bool         // log each request, with plaintext names
	Log   *slog.Logger // nil discards
}

const (
	// maxRequest is the longest read or write the kernel sends at once.
	maxRequest = 1 << 20
	// maxBackground bounds asynchronous requests, readahead among them.
	maxBackground = 256
	// maxInflight bounds the memory of requests under way, in bytes; each
	// write pins a buffer of maxRequest.
	maxInflight = 160 << 20
	// readAhead is how far the kernel reads ahead in a file, in KiB.
	readAhead = 1024
)

// Server is a mounted volume.
type Server struct {
	fuse    *fuse.Server
	adapter *adapter
	served  chan struct{} // closed when the mount has ended
	closed  chan struct{} // closed when the volume is
	err     error         // of closing the volume; set before closed is closed
}

// Mount mounts v at mountpoint and serves it. When it returns without error
// the mount answers and the Server owns v: it closes it when the mount ends.
// On an error v is the caller's still.
func Mount(mountpoint string, v *volume.Volume, o Options) (*Server, error) {
	logger := o.Log
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if v.ReadOnly() && !o.ReadOnly {
		return nil, errors.New("a volume opened read-only cannot be mounted read-write")
	}
	a := newAdapter(v, logger)
	s, err := mount(mountpoint, a, o, logger)
	if err == nil {
		s.adapter = a
	}
	return s, err
}

// mount is Mount of what answers for v.
func mount(mountpoint string, raw rawVolume, o Options, logger *slog.Logger) (*Server, error) {
	server, err := fuse.NewServer(raw, mountpoint, o.fuse(logger))
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	s := &Server{fuse: server, served: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		server.Serve()
		close(s.served)
	}()
	// NewServer returns with the mount made and INIT answered. From here on this
	// process must not make a request to the mount: a thread that is killed waits
	// in the kernel until its request is answered, which nobody does any more.
	// go-fuse's WaitMount, for programs that read their own mount, makes some.
	if err := setReadAhead(mountpoint); err != nil {
		logger.Info("read-ahead stays at the system's default", "err", err)
	}
	go func() {
		<-s.served
		s.err = raw.close()
		close(s.closed)
	}()
	return s, nil
}

// rawVolume answers the requests of a mount until it is closed.
type rawVolume interface {
	fuse.RawFileSystem
	close() error
}

// Wait returns when the mount has ended, by Unmount, umount(8) or any other
// way, and the volume is closed. The error is that of closing it.
func (s *Server) Wait() error {
	<-s.closed
	return s.err
}

// Ended is closed when the mount has ended; the volume may still be closing.
func (s *Server) Ended() <-chan struct{} { return s.served }

// Unmount ends the mount as umount(8) does (EBUSY while something is open in
// it). Wait tells when the volume is closed.
func (s *Server) Unmount() error { return s.fuse.Unmount() }

// fuse returns go-fuse's options for o.
func (o *Options) fuse(logger *slog.Logger) *fuse.MountOptions {
	root := os.Geteuid() == 0
	m := &fuse.MountOptions{
		FsName:                  o.Source,
		Name:                    "plyfs",
		AllowOther:              o.AllowOther,
		Options:                 []string{"default_permissions"},
		Debug:                   o.Debug,
		Logger:                  log.New(logWriter{logger}, "", 0),
		DirectMountStrict:       root,
		MaxWrite:                maxRequest,
		MaxBackground:           maxBackground,
		MaxInflightRequestBytes: maxInflight,
		DisableSplice:           true,
		EnableAcl:               true,
		// The kernel need not guess from a changed mtime that pages are
		// outdated: all changes go through it, and made every write drop them.
		ExplicitDataCacheControl: true,
		ExtraCapabilities: fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK |
			fuse.CAP_SETXATTR_EXT | fuse.CAP_READDIRPLUS_AUTO,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT,
		PanicHandler: func(p any) fuse.Status {
			logger.Error("a request panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	if root {
		m.DirectMountFlags = o.flags()
	} else {
		m.Options = append(m.Options, o.words()...)
	}
	return m
}

// flags are o's mount flags for mount(2).
func (o *Options) flags() uintptr {
	flags := uintptr(0)
	for _, f := range []struct {
		on   bool
		flag uintptr
	}{
		{o.ReadOnly, unix.MS_RDONLY}, {!o.Suid, unix.MS_NOSUID}, {!o.Dev, unix.MS_NODEV},
		{o.NoExec, unix.MS_NOEXEC}, {o.Sync, unix.MS_SYNCHRONOUS}, {o.DirSync, unix.MS_DIRSYNC},
		{o.NoAtime, unix.MS_NOATIME}, {o.StrictAtime, unix.MS_STRICTATIME},
		{o.NoDirAtime, unix.MS_NODIRATIME}, {o.LazyTime, unix.MS_LAZYTIME},
	} {
		if f.on {
			flags |= f.flag
		}
	}
	if flags == 0 { // which would mean a default
		// The magic number stands for no flag, unless one lies among its bits.
		flags = unix.MS_MGC_VAL
	}
	return flags
}

// words are o's mount flags for fusermount3, which sets nosuid and nodev
// itself.
func (o *Options) words() (words []string) {
	for _, w := range []struct {
		on   bool
		word string
	}{
		{o.ReadOnly, "ro"}, {o.NoExec, "noexec"}, {o.Sync, "sync"}, {o.DirSync, "dirsync"}, {o.NoAtime, "noatime"},
	} {
		if w.on {
			words = append(words, w.word)
		}
	}
	return words
}

// setReadAhead raises what the kernel reads ahead on the mount. It asks for the
// device without a request to this process (see mount).
func setReadAhead(mountpoint string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, mountpoint, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return err
	}
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", st.Dev_major, st.Dev_minor)
	return os.WriteFile(file, []byte(strconv.Itoa(readAhead)), 0)
}

// logWriter passes go-fuse's log lines on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Warn("fuse", "message", string(line))
	return len(line), nil
}
