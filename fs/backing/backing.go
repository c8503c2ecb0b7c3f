// Package backing is the ciphertext side of a volume: the one seam through
// which plyfs reaches the disk.
//
// Its interfaces are shaped like the *at(2) system calls, so that an
// implementation is thin and a test can stand in for a disk (crashfs records
// operations and yields the states a power cut may leave; faultfs injects
// errors). Names are single path components. No call follows a symbolic link
// or leaves the file system the root lies on.
//
// Durability is what POSIX gives and no more: data is durable after
// [File.Sync] or [File.Datasync], a directory entry after [Dir.Sync]; nothing
// is ordered between two flushes; a write may be torn at any 512-byte sector.
//
// Errors are [unix.Errno] values, possibly wrapped in an [os.PathError].
package backing

import "golang.org/x/sys/unix"

// Stat is what fstatat(2) tells of an inode.
type Stat = unix.Stat_t

// Statfs is what fstatfs(2) tells of the backing filesystem.
type Statfs = unix.Statfs_t

// Dirent is one entry of a directory as getdents64(2) gives it.
type Dirent struct {
	Name string
	Ino  uint64
	Type uint8 // a unix.DT_ value, DT_UNKNOWN where the filesystem does not say
	Off  int64 // cookie to resume after this entry with DirStream.SeekTo
}

// DirStream reads a directory in the backing filesystem's own order. It is
// not safe for concurrent use.
type DirStream interface {
	// Next returns the next entry, "." and ".." included where the backing
	// filesystem lists them. It reports false at the end or on an error.
	Next() (Dirent, bool, error)
	// SeekTo moves to a cookie of an earlier Dirent; 0 is the start.
	SeekTo(off int64) error
	Close() error
}

// Dir is an open directory. Methods are safe for concurrent use. Where a name
// is empty the directory itself is meant, for the calls that say so.
type Dir interface {
	// OpenFile opens a regular file. flags are O_RDONLY or O_RDWR with
	// O_CREAT, O_EXCL; the implementation adds O_CLOEXEC, O_NOFOLLOW,
	// O_NONBLOCK and refuses what is not a regular file (EINVAL).
	OpenFile(name string, flags int, perm uint32) (File, error)
	// OpenDir opens a directory below this one; "" opens it once more.
	OpenDir(name string) (Dir, error)
	// Tmpfile makes an unnamed regular file (O_TMPFILE|O_RDWR) here.
	Tmpfile(perm uint32) (File, error)
	// LinkFile gives an open file, also an unnamed one, a name here.
	LinkFile(f File, name string) error
	// Link gives the inode at name, itself if it is a symlink, another name.
	Link(name string, to Dir, newName string) error
	// Rename is renameat2(2), with unix.RENAME_NOREPLACE or RENAME_EXCHANGE.
	Rename(name string, to Dir, newName string, flags uint) error
	Unlink(name string) error
	Rmdir(name string) error
	Mkdir(name string, perm uint32) error
	Mknod(name string, mode uint32, dev uint64) error
	Symlink(target, name string) error
	Readlink(name string) (string, error)

	// Stat does not follow symlinks; "" is the directory itself, as below.
	Stat(name string) (Stat, error)
	Chmod(name string, perm uint32) error
	// Chown leaves an ID of -1 as it is and does not follow symlinks.
	Chown(name string, uid, gid int) error
	// Utimes takes unix.UTIME_NOW and unix.UTIME_OMIT as nanoseconds.
	Utimes(name string, atime, mtime unix.Timespec) error
	// Getxattr returns the size alone when dst is empty, as lgetxattr(2).
	Getxattr(name, attr string, dst []byte) (int, error)
	Setxattr(name, attr string, value []byte, flags int) error
	Listxattr(name string, dst []byte) (int, error)
	Removexattr(name, attr string) error

	// ReadDir opens a new stream at the start of the directory.
	ReadDir() (DirStream, error)
	// Sync makes the directory's entries and attributes durable.
	Sync() error
	// SyncAll is syncfs(2): all of the backing filesystem becomes durable. It
	// does not reach the server of a FUSE filesystem, as Statfs tells one.
	SyncAll() error
	Statfs() (Statfs, error)
	Close() error
}

// Accessor is a [File] whose ReadAt leaves the access time alone, so that what
// the volume reads for itself does not show. Accessed moves it as a read does, by
// the rules of the backing mount, and no other time.
type Accessor interface {
	Accessed() error
}

// Quiet is a [DirStream] that can be told to leave the access time alone.
type Quiet interface {
	NoAtime() error
}

// File is an open regular file. Methods are safe for concurrent use.
// Offsets and lengths are bytes.
type File interface {
	// ReadAt fills p unless the file ends first; then n < len(p) and the
	// error is io.EOF.
	ReadAt(p []byte, off int64) (n int, err error)
	// WriteAt writes all of p or returns an error and how much was written.
	WriteAt(p []byte, off int64) (n int, err error)
	Truncate(size int64) error
	// Allocate is fallocate(2) with mode bits unix.FALLOC_FL_*.
	Allocate(mode uint32, off, length int64) error
	// SeekHole is lseek(2) with unix.SEEK_DATA or unix.SEEK_HOLE; a filesystem
	// without them reports all as data. ENXIO past the last data.
	SeekHole(off int64, whence int) (int64, error)
	// Sync makes data, size and attributes durable; Datasync what is needed
	// to read the data back.
	Sync() error
	Datasync() error
	// Flock is flock(2) with unix.LOCK_*; the lock ends with Close.
	Flock(how int) error

	Stat() (Stat, error)
	Chmod(perm uint32) error
	Chown(uid, gid int) error
	Utimes(atime, mtime unix.Timespec) error
	Getxattr(attr string, dst []byte) (int, error)
	Setxattr(attr string, value []byte, flags int) error
	Listxattr(dst []byte) (int, error)
	Removexattr(attr string) error
	Close() error
}
