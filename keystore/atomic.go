package keystore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockTimeout is how long a change waits for another process's change of the same file.
const lockTimeout = 10 * time.Second

// tempInfix stands in the names of temporary files between that of the file and a random part.
const tempInfix = ".tmp-"

// folder is an open directory. Files are made and replaced in it by name, through its descriptor, so that nobody who
// renames its parents or plants symbolic links can lead a write elsewhere.
type folder struct {
	fd   int
	path string
}

func openFolder(path string) (*folder, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &folder{fd: fd, path: path}, nil
}

func (d *folder) close() { unix.Close(d.fd) }

func (d *folder) error(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// read returns the content of a regular file of at most limit bytes. It follows no symbolic link and does not block
// on what is no file.
func (d *folder) read(name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, &fault{what: filepath.Join(d.path, name) + " is a symbolic link", kind: ErrTampered,
			hint: "Put the file itself there, or name it where it is; nobody else may have made that link."}
	}
	if err != nil {
		return nil, d.error("open", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.path, name))
	defer f.Close()
	return readLimited(f, limit)
}

// readLimited reads a regular file of at most limit bytes into a buffer of its own size.
func readLimited(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &fault{what: f.Name() + " is not a regular file", kind: ErrTampered}
	}
	if st.Size() > limit {
		return nil, &fault{what: fmt.Sprintf("%s is longer than the %d bytes it may have", f.Name(), limit), kind: ErrTampered}
	}
	b := make([]byte, st.Size())
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return b[:n], nil
}

// create makes a new file of mode 0600, whole and durable or not at all: ErrExists when the name is taken.
func (d *folder) create(name string, b []byte) error {
	temp, err := d.writeTemp(name, b, nil)
	if err != nil {
		return err
	}
	err = unix.Linkat(d.fd, temp, d.fd, name, 0)
	if linkUnsupported(err) {
		err = unix.Renameat2(d.fd, temp, d.fd, name, unix.RENAME_NOREPLACE)
	}
	unix.Unlinkat(d.fd, temp, 0)
	if errors.Is(err, unix.EEXIST) {
		return &fault{what: filepath.Join(d.path, name), kind: ErrExists}
	}
	if err != nil {
		return d.error("create", name, err)
	}
	if err := d.sync(); err != nil {
		unix.Unlinkat(d.fd, name, 0)
		return err
	}
	return nil
}

// linkUnsupported tells filesystems without hard links.
func linkUnsupported(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// openLocked opens the directory of a path and takes the lock of the file, name, in it; done gives both up.
func openLocked(path string) (d *folder, name string, done func(), err error) {
	if d, err = openFolder(filepath.Dir(path)); err != nil {
		return nil, "", nil, err
	}
	name = filepath.Base(path)
	unlock, err := d.lock(name, lockTimeout)
	if err != nil {
		d.close()
		return nil, "", nil, err
	}
	return d, name, func() { unlock(); d.close() }, nil
}

// replace puts a file in the place of name, atomically and durably, with the owner and mode of the one that was
// there. The caller holds the lock.
func (d *folder) replace(name string, b []byte) error {
	return d.replaceAfter(name, b, func() error { return nil })
}

// replaceAfter is replace, which calls before once the new file is whole and durable under a temporary name.
func (d *folder) replaceAfter(name string, b []byte, before func() error) error {
	var old *unix.Stat_t
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		old = &st
	}
	temp, err := d.writeTemp(name, b, old)
	if err != nil {
		return err
	}
	if err := before(); err != nil {
		unix.Unlinkat(d.fd, temp, 0)
		return err
	}
	if err := unix.Renameat(d.fd, temp, d.fd, name); err != nil {
		unix.Unlinkat(d.fd, temp, 0)
		return d.error("rename", name, err)
	}
	return d.sync()
}

// writeTemp writes and syncs a file with a name of its own beside name, and returns that name.
func (d *folder) writeTemp(name string, b []byte, like *unix.Stat_t) (string, error) {
	temp, err := tempName(name)
	if err != nil {
		return "", err
	}
	fd, err := unix.Openat(d.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", d.error("create", temp, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.path, temp))
	_, err = f.Write(b)
	if err == nil && like != nil {
		err = copyOwner(f, like)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		unix.Unlinkat(d.fd, temp, 0)
		return "", err
	}
	return temp, nil
}

// tempName is a new name for a temporary file beside name.
func tempName(name string) (string, error) {
	random, err := randomSecret(randomOr(nil))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%s%x", name, tempInfix, random.b[:6]), nil
}

// copyOwner gives f the owner and mode of what it replaces. A caller who may not give files away keeps its own.
func copyOwner(f *os.File, like *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return err
	}
	if now.Uid != like.Uid || now.Gid != like.Gid {
		if err := f.Chown(int(like.Uid), int(like.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return f.Chmod(fs.FileMode(like.Mode & 0o777))
}

func (d *folder) sync() error { return d.error("sync", "", unix.Fsync(d.fd)) }

// exists reports whether a name is taken, by whatever.
func (d *folder) exists(name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, d.error("stat", name, err)
}

// lock takes the lock on changes of name, waiting up to timeout: ErrBusy after that. The lock lies in a file of its
// own, name.lock, since name itself is replaced by each change; it is never removed. unlock releases it, as the
// kernel does when the process dies.
func (d *folder) lock(name string, timeout time.Duration) (unlock func(), err error) {
	name += ".lock"
	fd, err := unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, d.error("open", name, err)
	}
	for deadline := time.Now().Add(timeout); ; time.Sleep(5 * time.Millisecond) {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		if time.Now().After(deadline) {
			err = &fault{what: filepath.Join(d.path, name), kind: ErrBusy}
			break
		}
	}
	unix.Close(fd)
	if errors.Is(err, ErrBusy) {
		return nil, err
	}
	return nil, d.error("lock", name, err)
}
