package cipher

import (
	gocipher "crypto/cipher"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20"
)

// Offsets in a block's entry, FORMAT.md §5.
const (
	entrySalt   = 0
	entryNonce  = 12 // n2
	entryEpoch  = 24
	entryN1     = 28
	entryT1     = 40
	entryT2     = 56
	nonce2Size  = 24 // block-salt | n2
	n2Size      = 12
	randomAhead = 64 * n2Size
)

var (
	errLayer1 = fmt.Errorf("layer 1: %w", ErrAuth)
	errLayer2 = fmt.Errorf("layer 2: %w", ErrAuth)
	errBoth   = fmt.Errorf("both layers: %w", ErrAuth)
	errUnused = fmt.Errorf("layer 2 field in a single-layer volume: %w", ErrAuth)
)

// scratch is the memory that sealing or opening one block takes. It is pooled.
type scratch struct {
	aad    [2]blockAAD
	nonce  [nonce2Size]byte // block-salt | n2
	random [randomAhead]byte
	left   int // unused bytes at the end of random
	// buf holds N1 | C1 | T1 | T2; the first three are sealed in place by
	// layer 2.
	buf []byte
}

func newScratch(blockSize int) *scratch {
	return &scratch{buf: make([]byte, innerSize+blockSize+tagSize)}
}

// drawR puts a fresh random r into the n2 half of s.nonce. It reads ahead,
// since one call of the system's source costs as much as a fifth of a block.
func (s *scratch) drawR(rand *random) error {
	if s.left < n2Size {
		if err := rand.read(s.random[:]); err != nil {
			s.left = 0
			return err
		}
		s.left = len(s.random)
	}
	r := s.random[len(s.random)-s.left:][:n2Size]
	copy(s.nonce[len(salt{}):], r)
	clear(r)
	s.left -= n2Size
	return nil
}

// seal puts plain under both layers, or layer 1 alone where outer is nil, and
// returns N1 | C1 | T1 (sealed by layer 2 if there is one) | T2. On entry
// s.nonce holds the salt that inner is keyed for and, with an outer, a fresh
// random r; on return it holds the salt and n2. The result lies in s.buf, which
// must have room.
func (s *scratch) seal(inner, outer gocipher.AEAD, k2n *[keySize]byte, plain, aad1, aad2 []byte) ([]byte, error) {
	n2 := s.nonce[len(salt{}):]
	out := inner.Seal(s.buf[:0], nil, plain, aad1)
	if outer == nil {
		clear(n2)
		out = out[:len(out)+tagSize]
		clear(out[len(out)-tagSize:])
		return out, nil
	}
	// n2 = r XOR HChaCha20(K2n, T1): should the random source repeat, n2 still
	// differs wherever T1 does.
	h, err := chacha20.HChaCha20(k2n[:], out[len(out)-tagSize:])
	if err != nil {
		return nil, err
	}
	for i := range n2 {
		n2[i] ^= h[i]
	}
	return outer.Seal(s.buf[:0], s.nonce[:], out, aad2), nil
}

// Seal seals plain, 1 to B bytes, as block index of the file: the body, as long
// as plain, and the entry, EntrySize bytes. body may be plain itself but must
// not overlap it otherwise. Where the random source fails it returns that error
// and has written nothing.
func (f *File) Seal(body, entry, plain []byte, index uint64) error {
	n := f.checkBlock(body, entry, plain)
	if f.v.wiped.Load() {
		return ErrWiped
	}
	keys, err := f.atHand()
	if err != nil {
		return err
	}
	k, err := f.sealKey(keys)
	if err != nil {
		return err
	}
	s := f.v.blocks.Get().(*scratch)
	defer f.v.blocks.Put(s)
	aad1, aad2 := f.bind(s, n, index)
	copy(s.nonce[:], k.salt[:])
	if keys.outer != nil {
		if err := s.drawR(f.v.rand); err != nil {
			return err
		}
	}
	out, err := s.seal(k.aead, keys.outer, &keys.k2n, plain, aad1, aad2)
	if err != nil {
		return err
	}
	copy(body, out[gcmNonceSize:gcmNonceSize+n])
	copy(entry[entrySalt:entryEpoch], s.nonce[:])
	binary.BigEndian.PutUint32(entry[entryEpoch:], f.epoch)
	copy(entry[entryN1:entryT1], out)
	copy(entry[entryT1:], out[gcmNonceSize+n:])
	return nil
}

// Open verifies and opens block index from its body and entry into plain, as
// long as the body. plain may be body itself but must not overlap it otherwise.
// On an error, ErrAuth wherever the bytes were not sealed as this block of this
// file at this length, plain is as before or zero.
func (f *File) Open(plain, body, entry []byte, index uint64) error {
	n := f.checkBlock(body, entry, plain)
	if f.v.wiped.Load() {
		return ErrWiped
	}
	if binary.BigEndian.Uint32(entry[entryEpoch:]) != f.epoch {
		return ErrEpoch
	}
	keys, err := f.atHand()
	if err != nil {
		return err
	}
	s := f.v.blocks.Get().(*scratch)
	defer f.v.blocks.Put(s)
	aad1, aad2 := f.bind(s, n, index)
	copy(s.nonce[:], entry[entrySalt:entryEpoch])
	sealed := append(s.buf[:0], entry[entryN1:entryT1]...)
	sealed = append(sealed, body...)
	sealed = append(sealed, entry[entryT1:]...)
	inner, err := s.openOuter(keys.outer, sealed, aad2)
	if err != nil {
		return err
	}
	k, err := f.openKey(keys, salt(entry[entrySalt:entryNonce]))
	if err != nil {
		return err
	}
	if _, err := k.aead.Open(plain[:0:n], nil, inner, aad1); err != nil {
		return errLayer1
	}
	return nil
}

// openOuter takes layer 2 off N1 | C1 | T1 | T2, in place. Where there is none
// it checks that its fields are zero.
func (s *scratch) openOuter(outer gocipher.AEAD, sealed, aad2 []byte) ([]byte, error) {
	if outer == nil {
		end := len(sealed) - tagSize
		if !isZero(sealed[end:]) || !isZero(s.nonce[len(salt{}):]) {
			return nil, errUnused
		}
		return sealed[:end], nil
	}
	inner, err := outer.Open(sealed[:0], s.nonce[:], sealed, aad2)
	if err != nil {
		return nil, errLayer2
	}
	return inner, nil
}

// bind returns the AADs of both layers for a block, which lie in s.
func (f *File) bind(s *scratch, length int, index uint64) (aad1, aad2 []byte) {
	s.aad = f.aad
	s.aad[0].set(length, index)
	s.aad[1].set(length, index)
	return s.aad[0][:], s.aad[1][:]
}

// checkBlock panics where lengths are not those of a block, and returns the
// block's length.
func (f *File) checkBlock(body, entry, plain []byte) int {
	n := len(plain)
	if n == 0 || n > f.v.layout.BlockSize() || len(body) != n || len(entry) != EntrySize {
		panic(fmt.Sprintf("cipher: block of %d bytes with a body of %d and an entry of %d", n, len(body), len(entry)))
	}
	return n
}
