package blockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// Create makes the empty backing file b the empty file of a new ID. On success
// the File owns b; on an error b is the caller's still.
func Create(b backing.File, c Config) (*File, error) {
	if c.ReadOnly {
		return nil, unix.EROFS
	}
	f := newFile(b, c)
	err := f.initialise()
	if err == nil {
		err = f.openJournal()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openJournal finds the file's live records. It appends none.
func (f *File) openJournal() error {
	if f.journal == nil {
		return nil
	}
	st, err := f.b.Stat()
	if err != nil {
		return err
	}
	f.j = f.journal.File(f.ID(), st.Ino)
	return nil
}

// Open opens the content that b holds. Ownership is as with Create. A backing
// file that is not as long as the size in its header takes is ErrCorrupt; after
// an unclean stop a longer one is trimmed.
func Open(b backing.File, c Config) (*File, error) {
	f := newFile(b, c)
	st, err := b.Stat()
	if err != nil {
		return nil, err
	}
	f.physical = st.Size
	f.headerNew.Store(c.Unclean)
	if f.journal != nil {
		err = f.openOverlaid()
	} else {
		err = f.openHeader()
	}
	if err != nil {
		if f.j != nil {
			f.j.Close()
		}
		f.log.error(describe(err), "physical", st.Size, "err", err)
		return nil, err
	}
	if f.j != nil && c.Unclean && c.SyncOpened && !f.ro {
		if err := f.syncHome(); err != nil {
			f.j.Close()
			return nil, err
		}
	}
	if f.j != nil {
		return f, nil
	}
	want := f.layout.PhysicalSize(f.Size())
	if f.physical < want || f.physical > want && !f.unclean {
		err := fmt.Errorf("file %s: backing file of %d bytes, size %d takes %d: %w", f.ID(), f.physical, f.Size(), want, ErrCorrupt)
		f.log.error(describe(err), "err", err)
		return nil, err
	}
	if f.unclean {
		if err := f.tidy(st.Mtim, want); err != nil {
			f.cache.drop(f, 0)
			return nil, err
		}
	}
	return f, nil
}

// openHeader verifies the header, and gives the file one that lost it or never
// had it, where the state of the volume allows for that.
func (f *File) openHeader() error {
	var tag [cipher.TagBlockSize]byte
	copied, lost, err := f.readStatic(tag[:])
	switch {
	case err != nil:
		return err
	case lost:
		return f.initialise()
	}
	f.header, err = f.c.OpenHeader(headerSector(tag[:]))
	switch {
	case f.unclean && (errors.Is(err, cipher.ErrZero) || err == nil && f.header.Size == 0 && noTrailer(tag[:])):
		f.log.log.Warn("file was never synced before an unclean stop, taken as empty", "file", f.ID(), "physical", f.physical)
		return f.initialise()
	case errors.Is(err, cipher.ErrZero):
		return fmt.Errorf("file %s: %w: %w", f.ID(), ErrCorrupt, err)
	case err != nil:
		return fmt.Errorf("file %s: %w", f.ID(), err)
	}
	f.size.Store(f.header.Size)
	f.last = f.header.Last
	if copied {
		return f.restoreStatic()
	}
	return nil
}

// noTrailer reports whether the trailer of a tag block is zero.
func noTrailer(tag []byte) bool {
	return bytes.Equal(tag[len(tag)-cipher.TrailerSize:], zeroTag[:cipher.TrailerSize])
}

// readStatic reads tag block 0 and opens the static header in it. copied says that
// only its copy verified; lost that neither is there and that an unclean stop
// explains it: the file is to be taken as empty.
func (f *File) readStatic(tag []byte) (copied, lost bool, err error) {
	if n, err := f.b.ReadAt(tag, 0); err != nil && err != io.EOF {
		return false, false, err
	} else if n < len(tag) && !f.unclean {
		return false, false, fmt.Errorf("backing file of %d bytes has no header: %w", f.physical, ErrCorrupt)
	}
	f.static, f.c, copied, err = openStatic(tag, f.volume)
	switch {
	case errors.Is(err, cipher.ErrZero) && f.unclean && !f.holdsData():
		f.log.log.Warn("file was never synced before an unclean stop, taken as empty", "physical", f.physical)
		return false, true, nil
	case errors.Is(err, cipher.ErrZero):
		return false, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return copied, false, err
}

// openStatic opens the static header in a tag block 0, or its copy if the header
// does not open for whatever reason: none of its fields is authentic then, so it
// cannot speak against a copy that verifies.
func openStatic(tag []byte, v *cipher.Volume) (h cipher.StaticHeader, c *cipher.File, copied bool, err error) {
	h, c, err = v.OpenStatic(tag[:cipher.SectorSize])
	if err == nil {
		return h, c, false, nil
	}
	h, c, err2 := v.OpenStaticCopy(tag[cipher.StaticCopyOffset:][:cipher.StaticCopySize])
	if err2 != nil {
		return cipher.StaticHeader{}, nil, false, err
	}
	return h, c, true, nil
}

// holdsData reports whether there may be bytes after tag block 0.
func (f *File) holdsData() bool {
	if f.physical <= cipher.TagBlockSize {
		return false
	}
	_, err := f.b.SeekHole(cipher.TagBlockSize, unix.SEEK_DATA)
	return !errors.Is(err, unix.ENXIO)
}

// sealStatic writes the static header and its copy to a tag block 0.
func (f *File) sealStatic(tag []byte) {
	f.volume.SealStatic(tag[:cipher.SectorSize], f.static, f.c)
	f.volume.SealStaticCopy(tag[cipher.StaticCopyOffset:][:cipher.StaticCopySize], f.static, f.c)
}

// restoreStatic writes the static header anew, which was lost and found in its copy.
func (f *File) restoreStatic() error {
	f.log.error("header was lost, the copy is used: tampered or damaged", "file", f.ID())
	if f.ro {
		return nil
	}
	var sector [cipher.SectorSize]byte
	f.volume.SealStatic(sector[:], f.static, f.c)
	_, err := f.b.WriteAt(sector[:], 0)
	return err
}

// HasNewID reports whether f was given its ID, and not found with it. After Open
// that means that its header was lost: what was sealed for the old ID does not open.
func (f *File) HasNewID() bool { return f.newID }

// initialise makes the file empty, with the ID it has, if it has one.
func (f *File) initialise() (err error) {
	if f.c == nil {
		if f.static, f.c, err = f.volume.NewFile(); err != nil {
			return err
		}
		f.newID = true
	}
	f.header = cipher.Header{}
	f.headerNew.Store(true)
	if f.ro {
		f.physical = cipher.TagBlockSize // nothing of it is read
		return nil
	}
	var tag [cipher.TagBlockSize]byte
	f.sealStatic(tag[:])
	f.c.SealHeader(headerSector(tag[:]), f.header)
	f.c.SealTrailer(tag[:], 0, cipher.Trailer{})
	if f.physical > 0 {
		if err := f.b.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := f.b.WriteAt(tag[:], 0); err != nil {
		return err
	}
	f.physical = cipher.TagBlockSize
	return nil
}

// ReadID returns the ID in the header of b, verified.
func ReadID(b backing.File, v *cipher.Volume) (cipher.FileID, error) {
	var head [cipher.HeaderSize]byte
	if n, err := b.ReadAt(head[:], 0); err == io.EOF {
		return cipher.FileID{}, fmt.Errorf("backing file of %d bytes has no header: %w", n, ErrCorrupt)
	} else if err != nil {
		return cipher.FileID{}, err
	}
	h, _, _, err := openStatic(head[:], v)
	return h.FileID, err
}

// tidy clears away what half-done changes left at an unclean stop, and makes that
// durable, since the file must not grow over it. The times stay.
func (f *File) tidy(mtime unix.Timespec, want int64) error {
	last := f.last
	f.adopt()
	if f.ro || f.last == last && f.physical == want {
		return nil
	}
	f.log.log.Info("file was being changed at an unclean stop", "file", f.ID(), "physical", f.physical, "want", want, "adopted", f.last-last)
	for _, step := range []func(*change) error{
		func(ch *change) error { // header
			ch.oldLast, ch.last = last, f.last
			if err := f.addGroup(ch, 0); err != nil {
				return err
			}
			return f.apply(ch)
		},
		func(ch *change) error { // end
			ch.trim = true
			return f.commit(ch)
		},
	} {
		ch := f.newChange(f.Size(), f.Size())
		err := step(ch)
		f.releaseChange(ch)
		if err != nil {
			return err
		}
	}
	if err := f.setHomeMtime(mtime); err != nil {
		return err
	}
	return f.b.Sync()
}

// adoptSteps bounds how many groups adopt looks at.
const adoptSteps = 4096

// adopt takes in groups that were written before an unclean stop and that the header
// does not name yet. What does not fit stays an error of whoever reads it.
func (f *File) adopt() {
	end := f.layout.LastGroup(f.Size())
	for at, step := f.last+1, 0; at <= end && step < adoptSteps; step++ {
		off, err := f.b.SeekHole(f.layout.TagOffset(at), unix.SEEK_DATA)
		if err != nil {
			return
		}
		if at = max(at, f.groupAt(off)); at > end {
			return
		}
		// Not in the cache, where it would be found as if it were the file's.
		g := group{n: at}
		switch err := f.fill(&g); {
		case errors.Is(err, cipher.ErrZero):
		case err != nil || g.t.Gap != at-f.last-1:
			return
		default:
			f.last = at
		}
		at++
	}
}
