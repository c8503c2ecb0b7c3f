package cipher

import (
	"fmt"
	"math"
	"math/bits"
)

// Sizes of the file format, FORMAT.md §4.
const (
	// EntrySize is the length of a block's entry in its tag block.
	EntrySize = 72
	// TagBlockSize is the length of a tag block: 56 entries and a trailer.
	TagBlockSize = 4096
	// EntriesPerGroup is the number of entry slots of a tag block.
	EntriesPerGroup = 56
	// TrailerSize is the length of a tag block's trailer, its last bytes.
	TrailerSize = 64
	// HeaderSlots is the number of slots of group 0 that the header takes.
	HeaderSlots = 16
	// HeaderSize is the length of the file header, HeaderSlots entries.
	HeaderSize = HeaderSlots * EntrySize
	// SectorSize is the length of the static and of the changing part of the
	// file header.
	SectorSize = 512
	// StaticCopyOffset and StaticCopySize are the place, in the third sector,
	// of the copy of what the static header cannot be without.
	StaticCopyOffset = 2 * SectorSize
	StaticCopySize   = HeaderSize - StaticCopyOffset

	// MinBlockSize and MaxBlockSize bound a volume's block size.
	MinBlockSize = 4096
	MaxBlockSize = 65536
)

// Layout says where the blocks and tag blocks of a file lie on the backing
// side, FORMAT.md §4. It is a value, for one block size. An index counts
// blocks, g counts groups, sizes and offsets are bytes. Indexes must be those
// of a file of at most MaxSize bytes; beyond, the arithmetic overflows.
type Layout struct {
	shift uint8 // log2 of the block size
}

// NewLayout returns the layout for a block size: a power of two from
// MinBlockSize to MaxBlockSize.
func NewLayout(blockSize int) (Layout, error) {
	if blockSize < MinBlockSize || blockSize > MaxBlockSize || blockSize&(blockSize-1) != 0 {
		return Layout{}, fmt.Errorf("block size %d is not a power of two from %d to %d", blockSize, MinBlockSize, MaxBlockSize)
	}
	return Layout{shift: uint8(bits.TrailingZeros(uint(blockSize)))}, nil
}

// BlockSize returns the block size in bytes.
func (l Layout) BlockSize() int { return 1 << l.shift }

// Group returns the group that holds a block.
func (l Layout) Group(index uint64) uint64 { return (index + HeaderSlots) / EntriesPerGroup }

// Slot returns the slot, 0 to 55, of a block's entry in its tag block.
func (l Layout) Slot(index uint64) int { return int((index + HeaderSlots) % EntriesPerGroup) }

// FirstBlock returns the first block of a group.
func (l Layout) FirstBlock(g uint64) uint64 {
	if g == 0 {
		return 0
	}
	return g*EntriesPerGroup - HeaderSlots
}

// Blocks returns the number of blocks of a group: 40 for group 0, else 56.
func (l Layout) Blocks(g uint64) int {
	if g == 0 {
		return EntriesPerGroup - HeaderSlots
	}
	return EntriesPerGroup
}

// TagOffset returns the place of a group's tag block.
func (l Layout) TagOffset(g uint64) int64 {
	return int64(g*TagBlockSize + l.FirstBlock(g)<<l.shift)
}

// BlockOffset returns the place of a block's body. It is a multiple of 4096.
func (l Layout) BlockOffset(index uint64) int64 {
	return int64((l.Group(index)+1)*TagBlockSize + index<<l.shift)
}

// EntryOffset returns the place of a block's entry, from the file's start.
func (l Layout) EntryOffset(index uint64) int64 {
	return l.TagOffset(l.Group(index)) + int64(l.Slot(index))*EntrySize
}

// LastGroup returns the group of the last block of a file of size bytes, 0 for
// an empty one.
func (l Layout) LastGroup(size int64) uint64 {
	if size <= 0 {
		return 0
	}
	return l.Group(uint64(size-1) >> l.shift)
}

// PhysicalSize returns the length on the backing side of a file of size bytes.
// size must be from 0 to MaxSize.
func (l Layout) PhysicalSize(size int64) int64 {
	return int64((l.LastGroup(size)+1)*TagBlockSize + uint64(size))
}

// SizeOf is the inverse of PhysicalSize: the size of the largest file that
// fits into physical bytes. Lengths within a tag block round down.
func (l Layout) SizeOf(physical int64) int64 {
	if physical <= TagBlockSize {
		return 0
	}
	period := uint64(TagBlockSize) + EntriesPerGroup<<l.shift
	g := (uint64(physical) - 1 + HeaderSlots<<l.shift) / period
	size := l.FirstBlock(g) << l.shift
	if data := uint64(l.TagOffset(g)) + TagBlockSize; uint64(physical) > data {
		size += uint64(physical) - data
	}
	return int64(size)
}

// MaxSize returns the largest size of a file whose physical length an int64
// can hold.
func (l Layout) MaxSize() int64 { return l.SizeOf(math.MaxInt64) }
