package keystore

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/crypto/chacha20poly1305"
)

// Labels of what is derived with P1 and P2 (FORMAT.md §2). No label serves two purposes, and none is a label of
// package cipher, which derives from volume keys too.
const (
	labelCluster    = "plyfs/1/ks-cluster"
	labelGroup      = "plyfs/1/ks-group"
	labelVolume     = "plyfs/1/ks-volume"
	labelSalt       = "plyfs/1/ks-salt"
	labelStore      = "plyfs/1/ks-store"
	labelSlot       = "plyfs/1/ks-slot"
	labelSlotSecret = "plyfs/1/ks-slot-secret"
	labelKeyID      = "plyfs/1/ks-key-id"
	labelKEK        = "plyfs/1/ks-kek"
	labelCommitment = "plyfs/1/ks-commitment"
	labelConfig     = "plyfs/1/ks-config"
	labelDescriptor = "plyfs/1/ks-descriptor"
	labelSection    = "plyfs/1/ks-section"
)

// The two reasons why a box does not open.
var (
	errCommitment = errors.New("key commitment does not match")
	errSealed     = errors.New("authentication failed")
)

// ply is the cryptography of one layer. Tests replace one to show that the other still refuses.
type ply struct {
	layer  cipher.Layer
	derive func(l cipher.Layer, key *[32]byte, label string, info ...[]byte) [32]byte
	aead   func(key []byte) (gocipher.AEAD, error)
	equal  func(got, want []byte) bool // in constant time
}

// plies are the two layers, data first.
type plies [2]ply

// plyOf returns the layer's own primitives: P1 and AES-256-GCM, or P2 and XChaCha20-Poly1305.
func plyOf(l cipher.Layer) ply {
	p := ply{layer: l, derive: cipher.Derive, aead: newAESGCM, equal: constantTimeEqual}
	if l == cipher.LayerInfra {
		p.aead = chacha20poly1305.NewX
	}
	return p
}

// newAESGCM returns AES-256-GCM that makes its random nonce itself, inside the Go Cryptographic Module, and puts it
// before the ciphertext; its NonceSize is 0.
func newAESGCM(key []byte) (gocipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return gocipher.NewGCMWithRandomNonce(b)
}

func constantTimeEqual(got, want []byte) bool { return subtle.ConstantTimeCompare(got, want) == 1 }

// boxOverhead is how much longer a sealed box is than its plaintext: nonce and tag.
func boxOverhead(l cipher.Layer) int {
	if l == cipher.LayerData {
		return 12 + 16
	}
	return chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
}

// key derives a child key.
func (p ply) key(parent *secret, label string, info ...[]byte) *secret {
	return &secret{b: p.derive(p.layer, &parent.b, label, info...)}
}

// sum derives bytes that may be public: a MAC, a commitment, a salt.
func (p ply) sum(key *secret, label string, info ...[]byte) []byte {
	s := p.derive(p.layer, &key.b, label, info...)
	return s[:]
}

// salt returns 32 bytes that are random, and that differ for different context and plain even when the random
// source repeats (FORMAT.md §2).
func (p ply) salt(key *secret, rand io.Reader, context, plain []byte) ([]byte, error) {
	r, err := randomSecret(rand)
	if err != nil {
		return nil, err
	}
	defer r.wipe()
	return p.sum(key, labelSalt, r.b[:], lp16(context), plain), nil
}

// commitment returns what proves that a box was sealed under exactly this box key.
func (p ply) commitment(boxKey *secret) []byte { return p.sum(boxKey, labelCommitment) }

// seal returns nonce | ciphertext | tag of plain under the KEK of a box key.
func (p ply) seal(boxKey *secret, rand io.Reader, aad, plain []byte) ([]byte, error) {
	kek := p.key(boxKey, labelKEK)
	defer kek.wipe()
	a, err := p.aead(kek.b[:])
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, a.NonceSize(), a.NonceSize()+len(plain)+a.Overhead())
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("read random bytes: %w", err)
	}
	return a.Seal(nonce, nonce, plain, aad), nil
}

// open compares the commitment, in constant time and before anything else, and then opens the box: errCommitment or
// errSealed. The caller wipes the plaintext.
func (p ply) open(boxKey *secret, commitment, aad, sealed []byte) ([]byte, error) {
	if !p.equal(commitment, p.commitment(boxKey)) {
		return nil, errCommitment
	}
	kek := p.key(boxKey, labelKEK)
	defer kek.wipe()
	a, err := p.aead(kek.b[:])
	if err != nil {
		return nil, err
	}
	if len(sealed) < a.NonceSize() {
		return nil, errSealed
	}
	plain, err := a.Open(nil, sealed[:a.NonceSize()], sealed[a.NonceSize():], aad)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// randomOr returns r, or crypto/rand for nil.
func randomOr(r io.Reader) io.Reader {
	if r == nil {
		return rand.Reader
	}
	return r
}

// lp8 and lp16 prefix b with its length; callers keep to what fits.
func lp8(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func lp16(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
