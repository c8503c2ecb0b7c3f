package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotVolume reports that a directory holds no volume.
	ErrNotVolume = errors.New("not a plyfs volume")
	// ErrExists reports that a directory holds a volume already.
	ErrExists = errors.New("holds a plyfs volume already")
	// ErrDamaged reports that the backing directory holds what plyfs never
	// leaves there, so that what was asked for cannot be told.
	ErrDamaged = errors.New("volume is damaged")
)

// hostile turns the errors that openat2 gives for an entry of the wrong type,
// a symlink in its place or a mount on it into ErrDamaged: the caller asked
// for none of these.
func hostile(err error) error {
	for _, e := range []unix.Errno{unix.EXDEV, unix.ELOOP, unix.EINVAL, unix.ENOTDIR, unix.EISDIR, unix.ENXIO} {
		if errors.Is(err, e) {
			return fmt.Errorf("%v: %w", err, ErrDamaged)
		}
	}
	return err
}

// notVolume says that what is missing makes the directory no volume.
func notVolume(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: no %s in it", ErrNotVolume, metaName)
	}
	return fmt.Errorf("%s: %w", metaName, err)
}

// complaints bounds what a damaged or hostile backing directory can make
// plyfs log.
type complaints struct {
	mu      sync.Mutex
	start   time.Time
	count   int
	dropped int
}

const (
	complaintsPer    = 10 * time.Second
	complaintsWithin = 100
)

// allow reports whether one more may be logged, and how many were not.
func (c *complaints) allow(now time.Time) (dropped int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.start) > complaintsPer {
		dropped = c.dropped
		c.start, c.count, c.dropped = now, 0, 0
	}
	if c.count >= complaintsWithin {
		c.dropped++
		return 0, false
	}
	c.count++
	return dropped, true
}

// complain logs damage, within bounds. args never hold plaintext names.
func (v *Volume) complain(msg string, args ...any) {
	dropped, ok := v.complaints.allow(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		args = append(args, slog.Int("not logged before", dropped))
	}
	v.log.Warn(msg, args...)
}
