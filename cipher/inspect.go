package cipher

import (
	"encoding/binary"
	"fmt"
)

// StaticInfo is what a static header says, unverified.
type StaticInfo struct {
	Format    uint16
	Suite     Suite
	Layers    uint8
	BlockSize uint32
	Epoch     uint32
	VolumeID  VolumeID
	FileID    FileID
	Salt      [32]byte
	MAC       [2][16]byte
}

// InspectStatic reads a static header without keys. Nothing that it returns is
// verified. Errors: ErrZero, ErrMagic, ErrVersion, ErrSuite, ErrAuth for a
// wrong length or an impossible block size.
func InspectStatic(src []byte) (StaticInfo, error) {
	if err := inspectSector(src); err != nil {
		return StaticInfo{}, fmt.Errorf("static header: %w", err)
	}
	if string(src[:4]) != magicStatic {
		return StaticInfo{}, fmt.Errorf("static header: %w", ErrMagic)
	}
	if v := binary.BigEndian.Uint16(src[staticFormat:]); v != FormatVersion {
		return StaticInfo{}, fmt.Errorf("static header: format %d: %w", v, ErrVersion)
	}
	i := StaticInfo{
		Format: binary.BigEndian.Uint16(src[staticFormat:]),
		Suite:  Suite(src[staticSuite]),
		Layers: src[staticLayers],
		Epoch:  binary.BigEndian.Uint32(src[staticEpoch:]),
	}
	if _, err := i.Suite.layers(); err != nil {
		return StaticInfo{}, fmt.Errorf("static header: %w", err)
	}
	if src[staticShift] < 12 || src[staticShift] > 16 {
		return StaticInfo{}, fmt.Errorf("static header: block size 2^%d: %w", src[staticShift], ErrAuth)
	}
	i.BlockSize = 1 << src[staticShift]
	copy(i.VolumeID[:], src[staticVolume:])
	copy(i.FileID[:], src[staticFile:])
	copy(i.Salt[:], src[staticSalt:])
	copy(i.MAC[0][:], src[headerMAC:])
	copy(i.MAC[1][:], src[headerMAC+macSize:])
	return i, nil
}

// InspectHeader reads sector 1 of a file's header without keys. Nothing that it
// returns is verified; a size beyond an int64 shows as negative. Errors:
// ErrZero, ErrAuth for a wrong length, magic or number of epochs.
func InspectHeader(src []byte) (Header, error) {
	if err := inspectSector(src); err != nil {
		return Header{}, fmt.Errorf("header: %w", err)
	}
	if string(src[:4]) != magicHeader {
		return Header{}, fmt.Errorf("header: magic: %w", ErrAuth)
	}
	h := Header{
		Size: int64(binary.BigEndian.Uint64(src[headerSize:])),
		Last: binary.BigEndian.Uint64(src[headerLast:]),
		LSN:  binary.BigEndian.Uint64(src[headerLSN:]),
	}
	n := int(src[headerCount])
	if n > MaxEpochs {
		return Header{}, fmt.Errorf("header: %d epochs: %w", n, ErrAuth)
	}
	for i := range n {
		h.Epochs = append(h.Epochs, binary.BigEndian.Uint32(src[headerEpochs+4*i:]))
	}
	return h, nil
}

// inspectSector reports a wrong length of a header sector, and ErrZero.
func inspectSector(src []byte) error {
	if len(src) != SectorSize {
		return fmt.Errorf("%d bytes: %w", len(src), ErrAuth)
	}
	if isZero(src) {
		return ErrZero
	}
	return nil
}

// InspectTrailer reads the trailer of a tag block without keys. Nothing that it
// returns is verified. Errors: ErrZero where all of the tag block is zero,
// ErrAuth for a wrong length or magic.
func InspectTrailer(tagBlock []byte) (Trailer, error) {
	if len(tagBlock) != TagBlockSize {
		return Trailer{}, fmt.Errorf("tag block of %d bytes: %w", len(tagBlock), ErrAuth)
	}
	b := tagBlock[TagBlockSize-TrailerSize:]
	if string(b[:4]) != magicTrailer {
		if isZero(tagBlock) {
			return Trailer{}, fmt.Errorf("tag block: %w", ErrZero)
		}
		return Trailer{}, fmt.Errorf("trailer: magic: %w", ErrAuth)
	}
	return Trailer{
		Epoch:   binary.BigEndian.Uint32(b[trailerEpoch:]),
		Present: binary.BigEndian.Uint64(b[trailerPresent:]),
		Gap:     binary.BigEndian.Uint64(b[trailerGap:]),
		LSN:     binary.BigEndian.Uint64(b[trailerLSN:]),
	}, nil
}

// EntryInfo is what a block's entry holds, unverified. N1 and T1 are sealed by
// layer 2 in a double-layer volume.
type EntryInfo struct {
	Salt  [12]byte
	N2    [12]byte
	Epoch uint32
	N1    [12]byte
	T1    [16]byte
	T2    [16]byte
}

// InspectEntry reads the EntrySize bytes of an entry without keys. Nothing that
// it returns is verified.
func InspectEntry(entry []byte) (EntryInfo, error) {
	if len(entry) != EntrySize {
		return EntryInfo{}, fmt.Errorf("entry of %d bytes: %w", len(entry), ErrAuth)
	}
	var i EntryInfo
	copy(i.Salt[:], entry[entrySalt:])
	copy(i.N2[:], entry[entryNonce:])
	i.Epoch = binary.BigEndian.Uint32(entry[entryEpoch:])
	copy(i.N1[:], entry[entryN1:])
	copy(i.T1[:], entry[entryT1:])
	copy(i.T2[:], entry[entryT2:])
	return i, nil
}
