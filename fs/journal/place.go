package journal

import (
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// Place is a directory for the segments of one journal below a directory that
// several volumes may share. It is locked while it is open.
type Place struct {
	Dir  backing.Dir // for Config
	lock backing.File
}

const placeLock = "lock"

// OpenPlace opens the directory in dir that belongs to the journal of s, and
// makes it unless readOnly, which needs it to be there: ErrMissing. EWOULDBLOCK
// says that a copy of the volume, mounted elsewhere, uses it. dir stays the
// caller's.
func OpenPlace(dir backing.Dir, s *Super, readOnly bool) (*Place, error) {
	id := s.JournalID()
	name := "plyfs-" + hex.EncodeToString(id[:])
	if !readOnly {
		err := dir.Mkdir(name, 0o700)
		if err == nil {
			err = dir.Sync()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("journal directory: %w", err)
		}
	}
	d, err := dir.OpenDir(name)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("journal directory %s: %w", name, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("journal directory: %w", err)
	}
	p := &Place{Dir: d}
	if !readOnly {
		p.lock, err = d.OpenFile(placeLock, unix.O_RDWR|unix.O_CREAT, 0o600)
		if err == nil {
			err = p.lock.Flock(unix.LOCK_EX | unix.LOCK_NB)
		}
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("journal directory %s: %w", name, err)
		}
	}
	return p, nil
}

// Close gives the directory up.
func (p *Place) Close() error {
	var err error
	if p.lock != nil {
		err = p.lock.Close()
	}
	return errors.Join(err, p.Dir.Close())
}
