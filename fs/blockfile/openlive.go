package blockfile

import (
	"errors"
	"fmt"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
)

// openOverlaid is openHeader with a journal: what lies at home is judged after the
// journal was asked. Creation writes eight sectors and syncs none, so a crash may
// leave any of them. A file without a whole header, without a size in any record,
// and with nothing after tag block 0 is therefore empty: it was never synced, since
// the header is durable before the first body.
func (f *File) openOverlaid() error {
	var tag [cipher.TagBlockSize]byte
	copied, lost, err := f.readStatic(tag[:])
	switch {
	case err != nil:
		return err
	case lost:
		if err := f.initialise(); err != nil {
			return err
		}
		return f.openJournal()
	}
	if err := f.openJournal(); err != nil {
		return err
	}
	if err := f.openSize(tag[:]); err != nil {
		return fmt.Errorf("file %s: %w", f.ID(), err)
	}
	if copied {
		return f.restoreStatic()
	}
	return nil
}

// openSize finds out size and last group: a live record's, or else those in
// the header, with which the length of the backing file must then agree.
func (f *File) openSize(tag []byte) error {
	header, err := f.c.OpenHeader(headerSector(tag))
	if err == nil {
		if !f.journal.Knows(journal.LSN(header.LSN)) {
			return fmt.Errorf("%w: header at home is of record %d", errRollback, header.LSN)
		}
		f.epochs = header.Epochs
		if header.LSN == 0 { // no checkpoint has seen to it that it is durable
			f.headerNew.Store(true)
		}
	}
	if size, last, _, ok := f.j.Size(); ok {
		f.header = cipher.Header{Size: size, Last: last, Epochs: f.epochs}
		f.size.Store(size)
		f.last = last
		// A stream that has no record may have left something beyond.
		if want := f.layout.PhysicalSize(size); f.unclean && !f.ro && f.physical > want {
			return f.trim(want)
		}
		return nil
	}
	_, _, live := f.j.Trailer(0)
	switch {
	case f.unclean && !f.holdsData() && (errors.Is(err, cipher.ErrZero) || err == nil && header.Size == 0 && noTrailer(tag) && !live):
		f.log.log.Warn("file was never synced before an unclean stop, taken as empty", "file", f.ID(), "physical", f.physical)
		return f.initialise()
	case errors.Is(err, cipher.ErrZero):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil:
		return err
	}
	f.header = header
	f.size.Store(header.Size)
	f.last = header.Last
	return f.openLength(f.layout.PhysicalSize(header.Size))
}

// openLength judges the length of a backing file whose size no live record says.
func (f *File) openLength(want int64) error {
	switch {
	case f.physical == want:
		return nil
	case f.physical < want || !f.unclean:
		return fmt.Errorf("backing file of %d bytes, size %d takes %d: %w", f.physical, f.Size(), want, ErrCorrupt)
	case f.ro:
		return nil
	}
	return f.trim(want)
}

// trim cuts home to want bytes, durably, before the file can grow: else a crash
// could bring back what lay beyond. The times stay.
func (f *File) trim(want int64) error {
	f.log.log.Warn("backing file is longer than its size takes, trimmed", "file", f.ID(), "physical", f.physical, "want", want)
	defer f.unasked(f)()
	st, err := f.b.Stat()
	if err == nil {
		err = f.cutHome(want)
	}
	if err == nil {
		err = f.setHomeMtime(st.Mtim)
	}
	if err == nil {
		err = f.b.Sync()
	}
	return err
}
