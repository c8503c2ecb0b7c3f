package fs

import (
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume"
)

// Options of a mount. The zero value is a read-write mount, nosuid and nodev,
// for the mounting user alone.
type Options struct {
	Source     string // what mount(8) shows as the device: the ciphertext directory as it was given
	AllowOther bool   // serve other users too; for root

	ReadOnly    bool // must agree with the Volume's
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

// Server is a mounted volume.
type Server struct{}

// Mount mounts v at mountpoint and serves it. When it returns without error
// the mount answers and the Server owns v: it closes it when the mount ends.
// On an error v is the caller's still.
func Mount(mountpoint string, v *volume.Volume, o Options) (*Server, error) { return nil, unix.ENOSYS }

// Wait returns when the mount has ended, by Unmount, umount(8) or any other
// way, and the volume is closed. The error is that of closing it.
func (s *Server) Wait() error { return nil }

// Unmount ends the mount as umount(8) does (EBUSY while something is open in
// it). Wait tells when the volume is closed.
func (s *Server) Unmount() error { return nil }
