package cipher

import (
	"encoding/binary"
	"hash"
	"sync"
)

// macHeadSize is the length of what every MAC input starts with:
// type 1 | context 21 | id 16 | number 8 (FORMAT.md §3).
const macHeadSize = 1 + contextSize + 16 + 8

// macs computes the MACs of both layers over one message. It keeps keyed hash
// states, so that a MAC costs no key set-up and no allocation. It is safe for
// concurrent use; callers of one macs take turns.
type macs struct {
	v    *Volume
	size int // of each layer's MAC

	mu sync.Mutex
	h  [2]hash.Hash // the second is nil in a single-layer volume
	// Buffers, here so that they need not be allocated per MAC.
	head   [macHeadSize]byte
	length [8]byte
	sums   [2][64]byte
}

// newMACs returns macs with a key for each layer.
func newMACs(v *Volume, size int, keys [2][32]byte) *macs {
	m := &macs{v: v, size: size}
	for i := range int(v.params.Layers) {
		h, err := v.plies[i].mac(keys[i][:], size)
		if err != nil {
			panic("cipher: MAC: " + err.Error()) // key and size are constants
		}
		h.Reset() // lets HMAC keep its padded states
		m.h[i] = h
	}
	return m
}

// layer computes the MAC of layer i (0 or 1) over a body. The result is valid
// until the next call. The caller holds m.mu or has m to itself.
func (m *macs) layer(i int, typ byte, id [16]byte, number uint64, body []byte) []byte {
	m.start(i, typ, id, number)
	m.h[i].Write(body)
	return m.finish(i)
}

func (m *macs) start(i int, typ byte, id [16]byte, number uint64) {
	m.head[0] = typ
	copy(m.head[1:], m.v.ctx[i][:])
	copy(m.head[1+contextSize:], id[:])
	binary.BigEndian.PutUint64(m.head[1+contextSize+16:], number)
	m.h[i].Reset()
	m.h[i].Write(m.head[:])
}

func (m *macs) finish(i int) []byte {
	return m.h[i].Sum(m.sums[i][:0])[:m.size]
}

// seal writes MAC1 | MAC2 of a body to dst, whose length is twice the MAC's.
// MAC2 is zero in a single-layer volume.
func (m *macs) seal(dst []byte, typ byte, id [16]byte, number uint64, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(dst[m.size:])
	for i := range int(m.v.params.Layers) {
		copy(dst[i*m.size:(i+1)*m.size], m.layer(i, typ, id, number, body))
	}
}

// verify compares MAC1 | MAC2 of a body with read. The error, an ErrAuth, names
// the layer whose MAC is wrong, or both.
func (m *macs) verify(read []byte, typ byte, id [16]byte, number uint64, body []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var wrong [2]bool
	for i := range int(m.v.params.Layers) {
		sum := m.layer(i, typ, id, number, body)
		wrong[i] = !m.v.plies[i].equal(read[i*m.size:(i+1)*m.size], sum)
	}
	if !m.v.double() && !isZero(read[m.size:]) {
		return errUnused
	}
	switch wrong {
	case [2]bool{true, false}:
		return errLayer1
	case [2]bool{false, true}:
		return errLayer2
	case [2]bool{true, true}:
		return errBoth
	}
	return nil
}

// isZero reports whether b is zero throughout.
func isZero(b []byte) bool {
	var or byte
	for _, c := range b {
		or |= c
	}
	return or == 0
}
