package cipher

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"hash"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// Suite names the algorithms of a volume, FORMAT.md §2.
type Suite uint8

// The suites. Numbers are never reused.
const (
	SuiteSingle Suite = 0 // layer 1 alone
	SuiteDouble Suite = 1 // both layers
	SuiteFIPS   Suite = 2 // reserved: both layers of NIST algorithms
)

func (s Suite) String() string {
	switch s {
	case SuiteSingle:
		return "single"
	case SuiteDouble:
		return "double"
	case SuiteFIPS:
		return "fips"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// layers returns the number of layers of a suite, or ErrSuite.
func (s Suite) layers() (uint8, error) {
	switch s {
	case SuiteSingle:
		return 1, nil
	case SuiteDouble:
		return 2, nil
	}
	return 0, fmt.Errorf("%s: %w", s, ErrSuite)
}

// Layer is one of the two layers of encryption.
type Layer uint8

// The layers. Data is the inner one.
const (
	LayerData  Layer = 1
	LayerInfra Layer = 2
)

func (l Layer) String() string {
	switch l {
	case LayerData:
		return "data"
	case LayerInfra:
		return "infra"
	}
	return fmt.Sprintf("layer %d", uint8(l))
}

const (
	gcmNonceSize = 12
	tagSize      = 16
	innerSize    = gcmNonceSize + tagSize // what layer 1 adds to a plaintext
	macSize      = 16                     // of each layer
	keySize      = 32
)

// ply holds the primitives of one layer. Keys are 32 bytes.
type ply struct {
	// aead seals blocks and blobs. Layer 1's makes its own random nonce and
	// puts it before the ciphertext; its NonceSize is 0.
	aead func(key []byte) (gocipher.AEAD, error)
	// mac returns a keyed hash of at least size bytes.
	mac func(key []byte, size int) (hash.Hash, error)
	// stream encrypts or decrypts a name under a 16-byte synthetic IV.
	stream func(key, iv, dst, src []byte) error
	// equal compares a MAC that was read with the one that was computed.
	equal func(read, computed []byte) bool
}

// plies are the primitives of layers 1 and 2.
type plies [2]ply

var standardPlies = plies{
	{aead: newAESGCM, mac: newHMAC, stream: xorAESCTR, equal: constantTimeEqual},
	{aead: chacha20poly1305.NewX, mac: newBLAKE2b, stream: xorXChaCha20, equal: constantTimeEqual},
}

func newAESGCM(key []byte) (gocipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return gocipher.NewGCMWithRandomNonce(b)
}

func newHMAC(key []byte, _ int) (hash.Hash, error) {
	return hmac.New(sha256.New, key), nil
}

func newBLAKE2b(key []byte, size int) (hash.Hash, error) {
	return blake2b.New(size, key)
}

func xorAESCTR(key, iv, dst, src []byte) error {
	b, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	gocipher.NewCTR(b, iv).XORKeyStream(dst, src)
	return nil
}

func xorXChaCha20(key, iv, dst, src []byte) error {
	var nonce [chacha20.NonceSizeX]byte
	copy(nonce[:], iv)
	c, err := chacha20.NewUnauthenticatedCipher(key, nonce[:])
	if err != nil {
		return err
	}
	c.XORKeyStream(dst, src)
	return nil
}

func constantTimeEqual(read, computed []byte) bool {
	return subtle.ConstantTimeCompare(read, computed) == 1
}
