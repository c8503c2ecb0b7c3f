package journal

import "errors"

var (
	// ErrMissing reports that the superblock, or segments that it calls live,
	// are not there.
	ErrMissing = errors.New("journal is missing")
	// ErrTampered reports bytes that fail authentication where no crash can
	// have left them.
	ErrTampered = errors.New("journal fails authentication")
	// ErrVersion reports a format version this program does not know.
	ErrVersion = errors.New("journal has an unknown format version")
	// ErrExists reports that a superblock is there already.
	ErrExists = errors.New("journal exists already")
	// ErrReadOnly reports a change asked of what was opened to read.
	ErrReadOnly = errors.New("journal is read-only")
)
