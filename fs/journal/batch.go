package journal

import (
	"encoding/binary"
)

const (
	pageSize    = 4096 // segments are written in multiples of it, at multiples
	batchMagic  = 0x504c4a42
	batchHead   = 160
	batchTagOff = batchHead - TagSize
	batchV      = 1
)

var (
	batchLabel   = []byte("batch")
	segmentLabel = []byte("segment")
)

// batchHeader is FORMAT.md §14.3.
type batchHeader struct {
	length  int // of the whole batch, a multiple of pageSize
	payload int // of its records
	records int
	first   LSN // of its first record; the others follow one by one
	mark    LSN // all records below it were durable when this was made
	journal ID
	run     ID
	seg     uint64 // sequence of the segment it lies in
	off     uint32 // where in the segment
	prev    [TagSize]byte
}

func (h *batchHeader) encode(b []byte) {
	be := binary.BigEndian
	clear(b[:batchHead])
	be.PutUint32(b, batchMagic)
	be.PutUint16(b[4:], batchV)
	be.PutUint32(b[8:], uint32(h.length))
	be.PutUint32(b[12:], uint32(h.payload))
	be.PutUint32(b[16:], uint32(h.records))
	be.PutUint64(b[24:], uint64(h.first))
	be.PutUint64(b[32:], uint64(h.mark))
	copy(b[40:], h.journal[:])
	copy(b[56:], h.run[:])
	be.PutUint64(b[72:], h.seg)
	be.PutUint32(b[80:], h.off)
	copy(b[88:], h.prev[:])
}

// parseBatchHeader decodes a header that is not authenticated yet. ok is false
// for anything that cannot be a batch of at most limit bytes.
func parseBatchHeader(b []byte, limit int64) (h batchHeader, version uint16, ok bool) {
	be := binary.BigEndian
	if len(b) < batchHead || be.Uint32(b) != batchMagic {
		return h, 0, false
	}
	version = be.Uint16(b[4:])
	length, payload := int64(be.Uint32(b[8:])), int64(be.Uint32(b[12:]))
	h = batchHeader{
		length: int(length), payload: int(payload), records: int(be.Uint32(b[16:])),
		first: LSN(be.Uint64(b[24:])), mark: LSN(be.Uint64(b[32:])),
		seg: be.Uint64(b[72:]), off: be.Uint32(b[80:]),
	}
	copy(h.journal[:], b[40:])
	copy(h.run[:], b[56:])
	copy(h.prev[:], b[88:])
	if !zero(b[6:8]) || !zero(b[20:24]) || !zero(b[84:88]) || !zero(b[120:batchTagOff]) {
		return h, version, false
	}
	if length > limit || length%pageSize != 0 || payload+batchHead > length || h.records == 0 ||
		payload < int64(h.records)*recHeadLen || h.first == 0 || h.mark > h.first {
		return h, version, false
	}
	return h, version, true
}

// sealBatch writes the tag of a batch whose header and records stand in b.
func sealBatch(b []byte, records []recPlace, a Authenticator) {
	a.Sum(b[batchTagOff:batchHead], batchParts(b, records)...)
}

// verifyBatch finds the records of a batch of header h in b and checks the
// tag over all of them.
func verifyBatch(b []byte, h *batchHeader, a Authenticator) ([]recPlace, bool) {
	records := make([]recPlace, 0, min(h.records, 1024))
	at, end := batchHead, batchHead+h.payload
	for range h.records {
		in, err := recordBounds(b[at:end])
		if err != nil {
			return nil, false
		}
		records = append(records, recPlace{at, in})
		at += in.total
	}
	if at != end || !a.Verify(b[batchTagOff:batchHead], batchParts(b, records)...) {
		return nil, false
	}
	return records, true
}

// recPlace is where a record lies in its batch.
type recPlace struct {
	at int
	in recInfo
}

// batchParts lists what the tag covers: the header and each record up to its
// bodies.
func batchParts(b []byte, records []recPlace) [][]byte {
	parts := make([][]byte, 0, len(records)+2)
	parts = append(parts, batchLabel, b[:batchTagOff])
	for _, r := range records {
		parts = append(parts, b[r.at:r.at+r.in.meta])
	}
	return parts
}

const (
	segMagic  = "PLYFSJSG"
	segV      = 1
	segHead   = 512 // authentic bytes of the first page
	segTagOff = segHead - TagSize
)

// segHeader is FORMAT.md §14.2.
type segHeader struct {
	journal ID
	run     ID
	seq     uint64
	first   LSN // of its first batch, when it was opened
	size    int64
	prev    [TagSize]byte // tag of the batch before its first
}

func (h *segHeader) encode(b []byte, a Authenticator) {
	be := binary.BigEndian
	clear(b[:segHead])
	copy(b, segMagic)
	be.PutUint16(b[8:], segV)
	copy(b[16:], h.journal[:])
	copy(b[32:], h.run[:])
	be.PutUint64(b[48:], h.seq)
	be.PutUint64(b[56:], uint64(h.first))
	be.PutUint64(b[64:], uint64(h.size))
	copy(b[96:], h.prev[:])
	a.Sum(b[segTagOff:segHead], segmentLabel, b[:segTagOff])
}

// segVerdict says what a segment's first sector is.
type segVerdict int

const (
	segBlank   segVerdict = iota // no authentic header: unused, or torn
	segForeign                   // a header of another journal
	segNewer                     // a header of another version
	segGood
)

func parseSegHeader(b []byte, journal ID, a Authenticator) (h segHeader, v segVerdict) {
	be := binary.BigEndian
	if len(b) < segHead || string(b[:8]) != segMagic {
		return h, segBlank
	}
	if be.Uint16(b[8:]) != segV {
		return h, segNewer
	}
	copy(h.journal[:], b[16:])
	copy(h.run[:], b[32:])
	h.seq = be.Uint64(b[48:])
	h.first = LSN(be.Uint64(b[56:]))
	h.size = int64(be.Uint64(b[64:]))
	copy(h.prev[:], b[96:])
	if h.journal != journal {
		return h, segForeign
	}
	if !a.Verify(b[segTagOff:segHead], segmentLabel, b[:segTagOff]) || h.seq == 0 || h.size < minSegment || h.size%pageSize != 0 {
		return h, segBlank
	}
	if !zero(b[10:16]) || !zero(b[72:96]) || !zero(b[128:segTagOff]) {
		return h, segNewer
	}
	return h, segGood
}
