package cipher

import (
	"encoding/binary"
	"fmt"
)

// Offsets in a trailer, FORMAT.md §7.
const (
	trailerEpoch   = 4
	trailerPresent = 8
	trailerGap     = 16
	trailerLSN     = 24
	trailerMAC     = 32

	magicTrailer = "PLYT"
)

// Trailer is what the end of a tag block says of its group.
type Trailer struct {
	// Epoch is that of the keys that made the MACs. SealTrailer writes the
	// file's, whatever is here.
	Epoch uint32
	// Present has bit s set where slot s holds an entry; a clear bit is a
	// hole. Bits 56 up are clear, as are the header's slots in group 0.
	Present uint64
	// Gap is the number of groups directly before this one that were never
	// written, 0 where the group before is present. 0 in group 0.
	Gap uint64
	// LSN is the journal position up to which the tag block is current.
	LSN uint64
}

// presentMask returns the bits that Present can have in a group.
func presentMask(group uint64) uint64 {
	mask := uint64(1)<<EntriesPerGroup - 1
	if group == 0 {
		mask &^= 1<<HeaderSlots - 1
	}
	return mask
}

// maxGap returns the largest gap that a group can have: group 0 is always there.
func maxGap(group uint64) uint64 {
	if group == 0 {
		return 0
	}
	return group - 1
}

// SealTrailer writes the trailer of a group to the last TrailerSize bytes of its
// tag block. It panics on a Present or Gap that the group cannot have.
func (f *File) SealTrailer(tagBlock []byte, group uint64, t Trailer) {
	if len(tagBlock) != TagBlockSize || t.Present&^presentMask(group) != 0 || t.Gap > maxGap(group) {
		panic(fmt.Sprintf("cipher: SealTrailer of group %d with %#x to %d bytes", group, t.Present, len(tagBlock)))
	}
	b := tagBlock[TagBlockSize-TrailerSize:]
	copy(b, magicTrailer)
	binary.BigEndian.PutUint32(b[trailerEpoch:], f.epoch)
	binary.BigEndian.PutUint64(b[trailerPresent:], t.Present)
	binary.BigEndian.PutUint64(b[trailerGap:], t.Gap)
	binary.BigEndian.PutUint64(b[trailerLSN:], t.LSN)
	f.must().macs.seal(b[trailerMAC:], typeTrailer, f.id, group, b[:trailerMAC])
}

// OpenTrailer verifies the trailer of a group's tag block. The entries are not
// covered: each block authenticates its own. Errors: ErrZero where all
// TagBlockSize bytes are zero, ErrEpoch, ErrAuth.
func (f *File) OpenTrailer(tagBlock []byte, group uint64) (Trailer, error) {
	t, err := InspectTrailer(tagBlock)
	if err != nil {
		return Trailer{}, err
	}
	if t.Epoch != f.epoch {
		return Trailer{}, fmt.Errorf("trailer of group %d: epoch %d: %w", group, t.Epoch, ErrEpoch)
	}
	b := tagBlock[TagBlockSize-TrailerSize:]
	k, err := f.atHand()
	if err != nil {
		return Trailer{}, err
	}
	if err := k.macs.verify(b[trailerMAC:], typeTrailer, f.id, group, b[:trailerMAC]); err != nil {
		return Trailer{}, fmt.Errorf("trailer of group %d: %w", group, err)
	}
	if t.Present&^presentMask(group) != 0 || t.Gap > maxGap(group) {
		return Trailer{}, fmt.Errorf("trailer of group %d: %w", group, ErrAuth)
	}
	return t, nil
}
