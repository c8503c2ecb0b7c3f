package volume

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// ErrBusy reports that another process has the volume open.
var ErrBusy = errors.New("volume is in use by another process")

// lockRetry is how often a lock that is held is tried again.
const lockRetry = 100 * time.Millisecond

// DirLock is the lock on a ciphertext directory: at most one process at a
// time opens the volume in it.
type DirLock struct{ f backing.File }

// Lock takes the lock on the volume in root. A mount that is ending keeps it
// until its last byte is durable, so Lock waits up to wait for it; then it
// returns ErrBusy. The lock ends with Close, and with the process.
func Lock(root backing.Dir, wait time.Duration) (*DirLock, error) {
	meta, err := root.OpenDir(metaName)
	if err != nil {
		return nil, notVolume(err)
	}
	defer meta.Close()
	f, err := meta.OpenFile(lockName, unix.O_RDWR|unix.O_CREAT, 0o600)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		f, err = meta.OpenFile(lockName, unix.O_RDONLY, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("lock file of the volume: %w", hostile(err))
	}
	locker, ok := f.(interface{ Flock(how int) error })
	if !ok {
		f.Close()
		return nil, fmt.Errorf("lock file of the volume: %w", errors.ErrUnsupported)
	}
	for end := time.Now().Add(wait); ; time.Sleep(lockRetry) {
		err := locker.Flock(unix.LOCK_EX | unix.LOCK_NB)
		if err == nil {
			return &DirLock{f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock file of the volume: %w", err)
		}
		if !time.Now().Before(end) {
			f.Close()
			return nil, ErrBusy
		}
	}
}

// Close gives the lock up.
func (l *DirLock) Close() error { return l.f.Close() }
