package cipher

import (
	"encoding/binary"
	"fmt"
)

// BlobKind separates the uses of blobs, FORMAT.md §9. It is bound into both
// layers. Numbers are never reused.
type BlobKind uint8

// The kinds of blobs.
const (
	BlobSymlink BlobKind = 1 // a symlink's target
	BlobXattr   BlobKind = 2 // an extended attribute's name and value
)

const (
	// MaxBlob is the length of the longest plaintext of a blob.
	MaxBlob = 1 << 20

	blobHead     = 28 // salt, n2, epoch: as in an entry
	blobOverhead = blobHead + innerSize + tagSize
)

// blobAAD is what both layers bind a blob to:
// type 1 | context 21 | kind 1 | epoch 4 | length 4 | owner 16.
type blobAAD [1 + contextSize + 1 + 4 + 4 + 16]byte

func (v *Volume) blobAAD(l Layer, kind BlobKind, owner [16]byte, length int) []byte {
	var a blobAAD
	a[0] = typeBlob
	copy(a[1:], v.ctx[l-1][:])
	a[22] = byte(kind)
	binary.BigEndian.PutUint32(a[23:], v.epoch)
	binary.BigEndian.PutUint32(a[27:], uint32(length))
	copy(a[31:], owner[:])
	return a[:]
}

// BlobOverhead returns how much longer a sealed blob is than its plaintext.
func (v *Volume) BlobOverhead() int { return blobOverhead }

// SealBlob seals a small thing of an owner, such as a file's or directory's ID.
// It fails with ErrTooLong beyond MaxBlob, with ErrWiped, and where the random
// source fails.
func (v *Volume) SealBlob(kind BlobKind, owner [16]byte, plain []byte) ([]byte, error) {
	if len(plain) > MaxBlob {
		return nil, fmt.Errorf("blob of %d bytes: %w", len(plain), ErrTooLong)
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	k := v.small
	if k == nil {
		return nil, ErrWiped
	}
	s := newScratch(len(plain))
	if err := v.rand.read(s.nonce[:]); err != nil { // salt and r
		return nil, err
	}
	key := Derive(LayerData, &k.blob1, labelBlobKey, s.nonce[:len(salt{})])
	inner, err := v.plies[0].aead(key[:])
	if err != nil {
		return nil, fmt.Errorf("layer 1: %w", err)
	}
	out, err := s.seal(inner, k.blobOuter, &k.blob2n, plain,
		v.blobAAD(LayerData, kind, owner, len(plain)), v.blobAAD(LayerInfra, kind, owner, len(plain)))
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(plain)+blobOverhead)
	b = append(b, s.nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, v.epoch)
	return append(b, out...), nil
}

// OpenBlob verifies and opens a sealed blob of an owner. sealed is left as it
// is. Errors: ErrAuth, ErrEpoch, ErrWiped.
func (v *Volume) OpenBlob(kind BlobKind, owner [16]byte, sealed []byte) ([]byte, error) {
	n := len(sealed) - blobOverhead
	if n < 0 || n > MaxBlob {
		return nil, fmt.Errorf("blob of %d bytes: %w", len(sealed), ErrAuth)
	}
	if e := binary.BigEndian.Uint32(sealed[entryEpoch:]); e != v.epoch {
		return nil, fmt.Errorf("blob of epoch %d: %w", e, ErrEpoch)
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	k := v.small
	if k == nil {
		return nil, ErrWiped
	}
	s := newScratch(n)
	copy(s.nonce[:], sealed)
	text, err := s.openOuter(k.blobOuter, append(s.buf[:0], sealed[blobHead:]...), v.blobAAD(LayerInfra, kind, owner, n))
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	key := Derive(LayerData, &k.blob1, labelBlobKey, s.nonce[:len(salt{})])
	inner, err := v.plies[0].aead(key[:])
	if err != nil {
		return nil, fmt.Errorf("layer 1: %w", err)
	}
	plain, err := inner.Open(make([]byte, 0, n), nil, text, v.blobAAD(LayerData, kind, owner, n))
	if err != nil {
		return nil, fmt.Errorf("blob: %w", errLayer1)
	}
	return plain, nil
}
