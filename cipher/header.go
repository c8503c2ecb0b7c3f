package cipher

import (
	"encoding/binary"
	"fmt"
)

// MaxEpochs is the number of epochs that a header can list.
const MaxEpochs = 16

// Offsets in both sectors of a file header, FORMAT.md §6.
const (
	headerMAC = SectorSize - 2*macSize

	staticFormat   = 4
	staticSuite    = 6
	staticLayers   = 7
	staticShift    = 8
	staticEpoch    = 12
	staticVolume   = 16
	staticFile     = 32
	staticSalt     = 48
	staticReserved = 80

	headerCount    = 4
	headerSize     = 8
	headerLSN      = 16
	headerLast     = 24
	headerEpochs   = 32
	headerReserved = headerEpochs + 4*MaxEpochs
)

// Offsets in the copy of the static header.
const (
	copyShift    = 4
	copyEpoch    = 8
	copyFile     = 16
	copySalt     = 32
	copyReserved = 64
	copyMAC      = StaticCopySize - 2*macSize
)

const (
	magicStatic = "PLYF"
	magicHeader = "PLYH"
	magicCopy   = "PLYC"
)

// StaticHeader is the part of a file's header that is written once, sector 0.
// The volume adds format, suite, block size and its ID.
type StaticHeader struct {
	Epoch  uint32 // of the volume keys that the file's keys derive from
	FileID FileID
	Salt   [32]byte
}

// Header is the part of a file's header that changes, sector 1.
type Header struct {
	Size int64
	LSN  uint64
	// Last is the highest group that has a tag block; no group after it was
	// ever written. At most the last group of a file of that size.
	Last uint64
	// Epochs lists the volume-key epochs that blocks of the file may be of,
	// rising, the file's own among them. SealHeader takes an empty list for
	// the file's epoch alone.
	Epochs []uint32
}

// SealStatic writes the static header of f, which is SectorSize bytes, to dst.
// h must be what f was made from.
func (v *Volume) SealStatic(dst []byte, h StaticHeader, f *File) {
	if len(dst) != SectorSize || h.FileID != f.id || h.Epoch != f.epoch || f.v != v {
		panic("cipher: SealStatic of another file or to a buffer of a wrong length")
	}
	clear(dst)
	copy(dst, magicStatic)
	binary.BigEndian.PutUint16(dst[staticFormat:], v.params.Format)
	dst[staticSuite] = byte(v.params.Suite)
	dst[staticLayers] = v.params.Layers
	dst[staticShift] = v.layout.shift
	binary.BigEndian.PutUint32(dst[staticEpoch:], h.Epoch)
	copy(dst[staticVolume:], v.params.VolumeID[:])
	copy(dst[staticFile:], h.FileID[:])
	copy(dst[staticSalt:], h.Salt[:])
	f.must().macs.seal(dst[headerMAC:], typeStatic, f.id, 0, dst[:headerMAC])
}

// OpenStatic verifies a static header, SectorSize bytes, and returns it with the
// File that its keys make. Errors: ErrZero, ErrMagic, ErrVersion, ErrSuite,
// ErrForeign, ErrEpoch, ErrAuth. All but ErrAuth are said of bytes not yet
// verified.
func (v *Volume) OpenStatic(src []byte) (StaticHeader, *File, error) {
	i, err := InspectStatic(src)
	if err != nil {
		return StaticHeader{}, nil, err
	}
	switch {
	case i.Suite != v.params.Suite:
		return StaticHeader{}, nil, fmt.Errorf("file of suite %s in a volume of suite %s: %w", i.Suite, v.params.Suite, ErrSuite)
	case i.VolumeID != v.params.VolumeID:
		return StaticHeader{}, nil, fmt.Errorf("file of volume %s: %w", i.VolumeID, ErrForeign)
	case i.Layers != v.params.Layers || i.BlockSize != v.params.BlockSize:
		return StaticHeader{}, nil, fmt.Errorf("file of %d layers and block size %d: %w", i.Layers, i.BlockSize, ErrForeign)
	case i.Epoch != v.epoch:
		return StaticHeader{}, nil, fmt.Errorf("file of epoch %d: %w", i.Epoch, ErrEpoch)
	}
	h := StaticHeader{Epoch: i.Epoch, FileID: i.FileID, Salt: i.Salt}
	f, err := v.newFile(h)
	if err != nil {
		return StaticHeader{}, nil, err
	}
	k, err := f.atHand()
	if err != nil {
		return StaticHeader{}, nil, err
	}
	if err := k.macs.verify(src[headerMAC:], typeStatic, f.id, 0, src[:headerMAC]); err != nil {
		return StaticHeader{}, nil, fmt.Errorf("static header: %w", err)
	}
	if !isZero(src[9:staticEpoch]) || !isZero(src[staticReserved:headerMAC]) {
		return StaticHeader{}, nil, fmt.Errorf("static header: %w", ErrAuth)
	}
	return h, f, nil
}

// SealStaticCopy writes the copy of the static header of f, which is
// StaticCopySize bytes and lies at StaticCopyOffset, to dst. h must be what f
// was made from.
func (v *Volume) SealStaticCopy(dst []byte, h StaticHeader, f *File) {
	if len(dst) != StaticCopySize || h.FileID != f.id || h.Epoch != f.epoch || f.v != v {
		panic("cipher: SealStaticCopy of another file or to a buffer of a wrong length")
	}
	clear(dst)
	copy(dst, magicCopy)
	dst[copyShift] = v.layout.shift
	binary.BigEndian.PutUint32(dst[copyEpoch:], h.Epoch)
	copy(dst[copyFile:], h.FileID[:])
	copy(dst[copySalt:], h.Salt[:])
	f.must().macs.seal(dst[copyMAC:], typeCopy, f.id, 0, dst[:copyMAC])
}

// OpenStaticCopy verifies the copy of a static header, StaticCopySize bytes, for
// a file whose sector 0 cannot be read or does not verify. It returns what
// OpenStatic would have. Errors: ErrZero, ErrMagic, ErrForeign, ErrEpoch,
// ErrAuth.
func (v *Volume) OpenStaticCopy(src []byte) (StaticHeader, *File, error) {
	h, f, err := v.openStaticCopy(src)
	if err != nil {
		return StaticHeader{}, nil, fmt.Errorf("copy of the static header: %w", err)
	}
	return h, f, nil
}

func (v *Volume) openStaticCopy(src []byte) (h StaticHeader, f *File, err error) {
	switch {
	case isZero(src):
		return h, nil, ErrZero
	case len(src) != StaticCopySize:
		return h, nil, fmt.Errorf("%d bytes: %w", len(src), ErrAuth)
	case string(src[:4]) != magicCopy:
		return h, nil, ErrMagic
	case src[copyShift] != v.layout.shift:
		return h, nil, ErrForeign
	}
	h = StaticHeader{
		Epoch:  binary.BigEndian.Uint32(src[copyEpoch:]),
		FileID: FileID(src[copyFile:copySalt]),
		Salt:   [32]byte(src[copySalt:copyReserved]),
	}
	if h.Epoch != v.epoch {
		return h, nil, fmt.Errorf("epoch %d: %w", h.Epoch, ErrEpoch)
	}
	if f, err = v.newFile(h); err != nil {
		return h, nil, err
	}
	k, err := f.atHand()
	if err != nil {
		return h, nil, err
	}
	if err := k.macs.verify(src[copyMAC:], typeCopy, f.id, 0, src[:copyMAC]); err != nil {
		return h, nil, err
	}
	if !isZero(src[copyShift+1:copyEpoch]) ||
		!isZero(src[copyEpoch+4:copyFile]) || !isZero(src[copyReserved:copyMAC]) {
		return h, nil, ErrAuth
	}
	return h, f, nil
}

// SealHeader writes sector 1 of the file's header, SectorSize bytes, to dst. It
// panics on a size below 0 or beyond MaxSize and on an epoch list that breaks
// the rules of Header.
func (f *File) SealHeader(dst []byte, h Header) {
	epochs := h.Epochs
	if len(epochs) == 0 {
		epochs = []uint32{f.epoch}
	}
	if len(dst) != SectorSize || h.Size < 0 || h.Size > f.v.layout.MaxSize() || h.Last > f.v.layout.LastGroup(h.Size) || !f.validEpochs(epochs) {
		panic(fmt.Sprintf("cipher: SealHeader of size %d, epochs %v to %d bytes", h.Size, epochs, len(dst)))
	}
	clear(dst)
	copy(dst, magicHeader)
	dst[headerCount] = byte(len(epochs))
	binary.BigEndian.PutUint64(dst[headerSize:], uint64(h.Size))
	binary.BigEndian.PutUint64(dst[headerLSN:], h.LSN)
	binary.BigEndian.PutUint64(dst[headerLast:], h.Last)
	for i, e := range epochs {
		binary.BigEndian.PutUint32(dst[headerEpochs+4*i:], e)
	}
	f.must().macs.seal(dst[headerMAC:], typeHeader, f.id, 0, dst[:headerMAC])
}

// OpenHeader verifies sector 1 of the file's header, SectorSize bytes. Errors:
// ErrZero, ErrAuth, ErrEpoch.
func (f *File) OpenHeader(src []byte) (Header, error) {
	h, err := InspectHeader(src)
	if err != nil {
		return Header{}, err
	}
	k, err := f.atHand()
	if err != nil {
		return Header{}, err
	}
	if err := k.macs.verify(src[headerMAC:], typeHeader, f.id, 0, src[:headerMAC]); err != nil {
		return Header{}, fmt.Errorf("header: %w", err)
	}
	if !isZero(src[headerCount+1:headerSize]) ||
		!isZero(src[headerEpochs+4*len(h.Epochs):headerMAC]) || h.Size < 0 || h.Size > f.v.layout.MaxSize() || h.Last > f.v.layout.LastGroup(h.Size) {
		return Header{}, fmt.Errorf("header: %w", ErrAuth)
	}
	if !f.validEpochs(h.Epochs) {
		return Header{}, fmt.Errorf("header: epochs %v: %w", h.Epochs, ErrEpoch)
	}
	return h, nil
}

// validEpochs reports whether a list has 1 to MaxEpochs rising epochs and the
// file's own among them.
func (f *File) validEpochs(epochs []uint32) bool {
	if len(epochs) == 0 || len(epochs) > MaxEpochs {
		return false
	}
	var last uint32
	own := false
	for _, e := range epochs {
		if e <= last {
			return false
		}
		own = own || e == f.epoch
		last = e
	}
	return own
}
