package journal

import "errors"

var (
	// ErrMissing reports that the superblock, or segments that it calls live,
	// are not there.
	ErrMissing = errors.New("journal is missing")
	// ErrSuper is what errors of OpenSuper wrap besides: it is the superblock,
	// which lies in the volume itself.
	ErrSuper = errors.New("journal superblock")
	// ErrTampered reports bytes that fail authentication, or records missing,
	// where no crash can have caused it.
	ErrTampered = errors.New("journal fails authentication")
	// ErrForeign reports segments that belong to another journal.
	ErrForeign = errors.New("journal belongs to another volume")
	// ErrVersion reports a format version this program does not know.
	ErrVersion = errors.New("journal has an unknown format version")
	// ErrExists reports that a superblock is there already.
	ErrExists = errors.New("journal exists already")
	// ErrReadOnly reports a change asked of what was opened to read.
	ErrReadOnly = errors.New("journal is read-only")
	// ErrClosed reports use after Close.
	ErrClosed = errors.New("journal is closed")
	// ErrTooLarge reports a record that no batch can hold.
	ErrTooLarge = errors.New("record is too large for the journal")
	// ErrLive reports that a journal with live records cannot be called clean.
	ErrLive = errors.New("journal holds live records")
	// ErrHome is what a Home wraps the failure of a write or sync in after
	// which the volume must not go on writing.
	ErrHome = errors.New("ciphertext files cannot be written")
	// errRecord reports a record that breaks the rules of its format. In an
	// authentic batch that is a fault of the program that wrote it.
	errRecord = errors.New("malformed record")
)
