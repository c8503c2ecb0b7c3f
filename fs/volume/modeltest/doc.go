// Package modeltest runs random operations on a filesystem under test and on a
// plain directory at once, and compares errors, data and trees. It serves the
// tests of package volume, on the engine alone, and of package fs, through a
// mount.
package modeltest

import "golang.org/x/sys/unix"

// Way is how a write reaches the file.
type Way int

// Ways to write. What cannot tell them apart uses the first.
const (
	Plain Way = iota
	Mapped
	Direct
	Synced
	ways
)

// File is an open file.
type File interface {
	Read(off int64, n int) ([]byte, error) // less at the end of the file
	Write(w Way, off int64, data []byte) error
	Truncate(size int64) error
	Allocate(mode uint32, off, n int64) error
	Sync() error
	Size() (int64, error)
	Close() error
}

// Tree is a filesystem. Paths are relative to its root; "" is the root. Errors
// are unix.Errno values.
type Tree interface {
	Create(path string, mode uint32) (File, error) // O_RDWR|O_CREAT|O_EXCL
	Open(path string, truncate bool) (File, error) // O_RDWR
	Truncate(path string, size int64) error
	Mkdir(path string, mode uint32) error
	Rmdir(path string) error
	Unlink(path string) error
	Link(path, newPath string) error
	Symlink(target, path string) error
	Mkfifo(path string, mode uint32) error
	Rename(path, newPath string, flags uint) error
	Chmod(path string, mode uint32) error
	SetTimes(path string, mtime unix.Timespec) error
	SetXattr(path, name string, value []byte, flags int) error
	RemoveXattr(path, name string) error

	Stat(path string) (unix.Stat_t, error)
	Readlink(path string) (string, error)
	Xattrs(path string) (map[string]string, error) // of the user namespace
	List(path string) ([]string, error)
}
