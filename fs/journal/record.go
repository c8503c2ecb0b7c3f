package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/plyfs/plyfs/cipher"
)

// NoSize and NoCut stand for a record that leaves size or cut as they are.
const (
	NoSize = int64(-1)
	NoCut  = ^uint64(0)
)

// Record is one change of one file's content, all or nothing. Everything in it
// is absolute: it says what is, not what is added.
type Record struct {
	File cipher.FileID
	// Hint is the file's inode number on the backing side.
	Hint uint64
	// MtimeSec and MtimeNsec are the file's modification time after this.
	MtimeSec  int64
	MtimeNsec uint32

	// Size and Last are the file's size and its highest present group after
	// this; NoSize leaves both. Of one file, records with a size must be
	// appended in the order in which the sizes hold.
	Size int64
	Last uint64

	// Cut is the number of blocks that the file keeps of what it was: all that
	// lies home from block Cut on is void, tag blocks of groups that start
	// there too, and so are earlier records of it. It comes before the rest.
	// NoCut cuts nothing.
	Cut uint64

	// Home is the first block of a group from which on what lies home counts,
	// tag blocks included, up to Size; 0 is none. It was made durable there
	// before this record was appended. No earlier record says anything of it,
	// and home has been cut as all earlier records want it. Trailers and extents
	// are of groups before.
	Home uint64

	// Trailers holds the new trailer of each group that is touched, in
	// ascending order. Each block of Extents is present in its group's.
	Trailers []Trailer
	// Extents are the written blocks, in ascending order, not overlapping.
	Extents []Extent

	// gone says that the file is no more, nor what earlier records say of it.
	gone bool
	// moved says that Cut is that of earlier records and voids home alone: what
	// they say beyond it stays.
	moved bool
}

// Trailer is what a group's tag block says of the group (FORMAT.md, trailer).
type Trailer struct {
	Group   uint64
	Present uint64
	Gap     uint64
	Epoch   uint32
}

// Extent is a run of sealed blocks. All bodies are of the block size but the
// last, which may be shorter. A slice handed to Append may be reused after it.
type Extent struct {
	First   uint64
	Entries []byte // cipher.EntrySize for each block
	Bodies  []byte
}

func (e Extent) blocks() int { return len(e.Entries) / cipher.EntrySize }

const (
	recMagic      = 0x504c4a52 // "PLJR"
	recKindInline = 1
	recKindGone   = 2
	recFlagSize   = 1
	recFlagCut    = 2
	recFlagHome   = 4
	recFlagMoved  = 8
	recHeadLen    = 96
	recTrailerLen = 32
	recExtentLen  = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recInfo is a record's geometry: what of the record lies where, in bytes from
// its start.
type recInfo struct {
	meta   int // head, trailers, extents, entries: what the batch's MAC covers
	bodies int
	total  int // with padding, a multiple of 8
}

func recordInfo(trailers, extents, blocks, bodies int) recInfo {
	meta := recHeadLen + trailers*recTrailerLen + extents*recExtentLen + blocks*cipher.EntrySize
	return recInfo{meta: meta, bodies: bodies, total: (meta + bodies + 7) &^ 7}
}

func (r *Record) info() recInfo {
	blocks, bodies := 0, 0
	for _, e := range r.Extents {
		blocks += e.blocks()
		bodies += len(e.Bodies)
	}
	return recordInfo(len(r.Trailers), len(r.Extents), blocks, bodies)
}

// check applies the rules that a parsed record and one to be written share.
func (r *Record) check(l cipher.Layout) error {
	if r.Size < NoSize || (r.Size != NoSize && r.Size > l.MaxSize()) {
		return fmt.Errorf("size %d: %w", r.Size, errRecord)
	}
	if r.Size != NoSize && r.Last > l.LastGroup(r.Size) {
		return fmt.Errorf("last group %d beyond size %d: %w", r.Last, r.Size, errRecord)
	}
	if r.MtimeNsec >= 1e9 {
		return fmt.Errorf("nanoseconds %d: %w", r.MtimeNsec, errRecord)
	}
	if r.moved && r.Cut == NoCut {
		return fmt.Errorf("a cut is moved and not given: %w", errRecord)
	}
	if r.gone && (r.Size != NoSize || r.Cut != NoCut || r.Home != 0 || len(r.Trailers) > 0 || len(r.Extents) > 0) {
		return fmt.Errorf("a file that is gone has content: %w", errRecord)
	}
	if err := r.checkHome(l); err != nil {
		return err
	}
	maxGroup := l.LastGroup(l.MaxSize())
	maxBlock := uint64(l.MaxSize()) / uint64(l.BlockSize())
	if r.Cut != NoCut && r.Cut > maxBlock+1 {
		return fmt.Errorf("cut at block %d: %w", r.Cut, errRecord)
	}
	for i, t := range r.Trailers {
		switch {
		case t.Group > maxGroup, t.Gap > t.Group, t.Present>>cipher.EntriesPerGroup != 0,
			t.Group == 0 && (t.Gap != 0 || t.Present&(1<<cipher.HeaderSlots-1) != 0),
			i > 0 && t.Group <= r.Trailers[i-1].Group:
			return fmt.Errorf("trailer of group %d: %w", t.Group, errRecord)
		}
	}
	return r.checkBlocks(l, maxBlock)
}

// checkHome checks that what lies home begins with a group, of those that the
// record leaves to home.
func (r *Record) checkHome(l cipher.Layout) error {
	if r.Home == 0 {
		return nil
	}
	// The group of a number that is no block's means nothing: bounds come first.
	if r.Size == NoSize || r.Cut != NoCut || r.Home >= uint64(l.MaxSize())/uint64(l.BlockSize()) {
		return fmt.Errorf("home from block %d: %w", r.Home, errRecord)
	}
	g := l.Group(r.Home)
	if g == 0 || l.FirstBlock(g) != r.Home || r.Last < g {
		return fmt.Errorf("home from block %d: %w", r.Home, errRecord)
	}
	if n := len(r.Trailers); n > 0 && r.Trailers[n-1].Group >= g {
		return fmt.Errorf("trailer of group %d, which lies home: %w", r.Trailers[n-1].Group, errRecord)
	}
	return nil
}

// checkBlocks checks that extents and trailers agree: every written block is
// present, and after a cut nothing else is present beyond it.
func (r *Record) checkBlocks(l cipher.Layout, maxBlock uint64) error {
	void := make([]uint64, len(r.Trailers)) // bits to be accounted for
	if r.Cut != NoCut && !r.moved {
		for i, t := range r.Trailers {
			if first := l.FirstBlock(t.Group); first+uint64(l.Blocks(t.Group)) > r.Cut {
				void[i] = t.Present &^ (1<<l.Slot(max(first, r.Cut)) - 1)
			}
		}
	}
	next, ti := uint64(0), 0
	for _, e := range r.Extents {
		n := uint64(e.blocks())
		full := (int(n) - 1) * l.BlockSize()
		switch {
		case n == 0, len(e.Entries)%cipher.EntrySize != 0, e.First < next,
			e.First > maxBlock, n > maxBlock-e.First,
			len(e.Bodies) <= full, len(e.Bodies) > full+l.BlockSize():
			return fmt.Errorf("extent at block %d: %w", e.First, errRecord)
		}
		next = e.First + n
		for i := e.First; i < next; i++ {
			for ti < len(r.Trailers) && r.Trailers[ti].Group < l.Group(i) {
				ti++
			}
			if ti == len(r.Trailers) || r.Trailers[ti].Group != l.Group(i) || r.Trailers[ti].Present>>l.Slot(i)&1 == 0 {
				return fmt.Errorf("block %d is not in a trailer: %w", i, errRecord)
			}
			void[ti] &^= 1 << l.Slot(i)
		}
	}
	for i, bits := range void {
		if bits != 0 {
			return fmt.Errorf("group %d keeps blocks beyond the cut: %w", r.Trailers[i].Group, errRecord)
		}
	}
	return nil
}

// encode writes the record to b, which has r.info().total bytes.
func (r *Record) encode(b []byte, lsn LSN) {
	in := r.info()
	be := binary.BigEndian
	clear(b[:recHeadLen])
	var flags uint8
	size, last, cut := int64(0), uint64(0), uint64(0)
	if r.Size != NoSize {
		flags, size, last = flags|recFlagSize, r.Size, r.Last
	}
	if r.Cut != NoCut {
		flags, cut = flags|recFlagCut, r.Cut
	}
	if r.moved {
		flags |= recFlagMoved
	}
	if r.Home != 0 {
		flags, cut = flags|recFlagHome, r.Home
	}
	be.PutUint32(b, recMagic)
	b[4], b[5] = recKindInline, flags
	if r.gone {
		b[4] = recKindGone
	}
	be.PutUint32(b[8:], uint32(in.meta))
	be.PutUint32(b[12:], uint32(in.bodies))
	copy(b[16:], r.File[:])
	be.PutUint64(b[32:], r.Hint)
	putLSN(b, lsn)
	be.PutUint64(b[48:], uint64(size))
	be.PutUint64(b[56:], last)
	be.PutUint64(b[64:], cut)
	be.PutUint64(b[72:], uint64(r.MtimeSec))
	be.PutUint32(b[80:], r.MtimeNsec)
	be.PutUint32(b[84:], uint32(len(r.Trailers)))
	be.PutUint32(b[88:], uint32(len(r.Extents)))
	at := recHeadLen
	for _, t := range r.Trailers {
		be.PutUint64(b[at:], t.Group)
		be.PutUint64(b[at+8:], t.Present)
		be.PutUint64(b[at+16:], t.Gap)
		be.PutUint32(b[at+24:], t.Epoch)
		be.PutUint32(b[at+28:], 0)
		at += recTrailerLen
	}
	for _, e := range r.Extents {
		be.PutUint64(b[at:], e.First)
		be.PutUint32(b[at+8:], uint32(e.blocks()))
		be.PutUint32(b[at+12:], uint32(len(e.Bodies)))
		at += recExtentLen
	}
	for _, e := range r.Extents {
		at += copy(b[at:], e.Entries)
	}
	for _, e := range r.Extents {
		at += copy(b[at:], e.Bodies)
	}
	be.PutUint32(b[92:], crc32.Checksum(b[in.meta:at], castagnoli))
	clear(b[at:in.total])
}

// putLSN sets the LSN of an encoded record, which nothing else depends on.
func putLSN(b []byte, lsn LSN) { binary.BigEndian.PutUint64(b[40:], uint64(lsn)) }

// recordBounds reads the lengths of the record at the start of b, which may
// run on. It trusts nothing but checks that all fits into b.
func recordBounds(b []byte) (recInfo, error) {
	if len(b) < recHeadLen || binary.BigEndian.Uint32(b) != recMagic {
		return recInfo{}, errRecord
	}
	meta, bodies := int64(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint32(b[12:]))
	total := (meta + bodies + 7) &^ 7
	if meta < recHeadLen || total > int64(len(b)) {
		return recInfo{}, errRecord
	}
	return recInfo{meta: int(meta), bodies: int(bodies), total: int(total)}, nil
}

// parseRecord decodes the record at the start of b, of the bounds in, whose
// meta part was authenticated. Slices of the result point into b. Errors:
// ErrVersion for an unknown kind or flag, errRecord.
func parseRecord(b []byte, in recInfo, l cipher.Layout) (*Record, LSN, error) {
	be := binary.BigEndian
	if (b[4] != recKindInline && b[4] != recKindGone) || b[5]&^(recFlagSize|recFlagCut|recFlagHome|recFlagMoved) != 0 || be.Uint16(b[6:]) != 0 {
		return nil, 0, ErrVersion
	}
	r := &Record{gone: b[4] == recKindGone, moved: b[5]&recFlagMoved != 0, Size: NoSize, Cut: NoCut, Hint: be.Uint64(b[32:]), MtimeSec: int64(be.Uint64(b[72:])), MtimeNsec: be.Uint32(b[80:])}
	copy(r.File[:], b[16:])
	lsn := LSN(be.Uint64(b[40:]))
	if b[5]&recFlagSize != 0 {
		size := be.Uint64(b[48:])
		if size > math.MaxInt64 {
			return nil, 0, fmt.Errorf("size %d: %w", size, errRecord)
		}
		r.Size, r.Last = int64(size), be.Uint64(b[56:])
	}
	if b[5]&recFlagCut != 0 {
		r.Cut = be.Uint64(b[64:])
	}
	if b[5]&recFlagHome != 0 {
		if r.Home = be.Uint64(b[64:]); r.Home == 0 || b[5]&recFlagCut != 0 {
			return nil, 0, fmt.Errorf("home from block %d: %w", r.Home, errRecord)
		}
	}
	if b[5]&recFlagSize == 0 && !zero(b[48:64]) || b[5]&(recFlagCut|recFlagHome) == 0 && !zero(b[64:72]) {
		return nil, 0, fmt.Errorf("a field without its flag: %w", errRecord)
	}
	trailers, extents := int64(be.Uint32(b[84:])), int64(be.Uint32(b[88:]))
	entries := int64(in.meta) - recHeadLen - trailers*recTrailerLen - extents*recExtentLen
	if entries < 0 || entries%cipher.EntrySize != 0 {
		return nil, 0, fmt.Errorf("%d trailers and %d extents in %d bytes: %w", trailers, extents, in.meta, errRecord)
	}
	at := recHeadLen
	r.Trailers = make([]Trailer, trailers)
	for i := range r.Trailers {
		if be.Uint32(b[at+28:]) != 0 {
			return nil, 0, ErrVersion
		}
		r.Trailers[i] = Trailer{be.Uint64(b[at:]), be.Uint64(b[at+8:]), be.Uint64(b[at+16:]), be.Uint32(b[at+24:])}
		at += recTrailerLen
	}
	if err := r.parseExtents(b, at, int(extents), in); err != nil {
		return nil, 0, err
	}
	return r, lsn, r.check(l)
}

func (r *Record) parseExtents(b []byte, at, extents int, in recInfo) error {
	be := binary.BigEndian
	r.Extents = make([]Extent, extents)
	entry, body := at+extents*recExtentLen, in.meta
	for i := range r.Extents {
		n, size := int64(be.Uint32(b[at+8:]))*cipher.EntrySize, int64(be.Uint32(b[at+12:]))
		if n > int64(in.meta-entry) || size > int64(in.meta+in.bodies-body) {
			return fmt.Errorf("extent %d is longer than its record: %w", i, errRecord)
		}
		r.Extents[i] = Extent{be.Uint64(b[at:]), b[entry : entry+int(n)], b[body : body+int(size)]}
		at += recExtentLen
		entry += int(n)
		body += int(size)
	}
	if entry != in.meta || body != in.meta+in.bodies {
		return fmt.Errorf("extents are shorter than their record: %w", errRecord)
	}
	return nil
}

// bodiesIntact reports whether the CRC of an encoded record's bodies agrees.
func bodiesIntact(b []byte, in recInfo) bool {
	return crc32.Checksum(b[in.meta:in.meta+in.bodies], castagnoli) == binary.BigEndian.Uint32(b[92:])
}
