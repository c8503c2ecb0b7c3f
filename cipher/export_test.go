package cipher

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"hash"
	"io"

	"golang.org/x/crypto/chacha20"
)

// NewVolumeWithN1 is NewVolume with layer 1's nonces taken from n1 rather than
// from Go's own generator. Salts and r come from rand as ever.
func NewVolumeWithN1(p Params, epoch uint32, k Keys, rand io.Reader, n1 func() [12]byte) (*Volume, error) {
	pl := standardPlies
	pl[0].aead = func(key []byte) (gocipher.AEAD, error) {
		b, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		g, err := gocipher.NewGCM(b)
		return givenNonce{g, n1}, err
	}
	return newVolume(p, epoch, k, rand, pl)
}

// givenNonce is NewGCMWithRandomNonce with a nonce that is not random.
type givenNonce struct {
	gocipher.AEAD
	n1 func() [12]byte
}

func (g givenNonce) NonceSize() int { return 0 }
func (g givenNonce) Overhead() int  { return innerSize }

func (g givenNonce) Seal(dst, _, plain, aad []byte) []byte {
	n := g.n1()
	return g.AEAD.Seal(append(dst, n[:]...), n[:], plain, aad)
}

func (g givenNonce) Open(dst, _, sealed, aad []byte) ([]byte, error) {
	return g.AEAD.Open(dst, sealed[:gcmNonceSize], sealed[gcmNonceSize:], aad)
}

// Ways in which a layer can be broken.
const (
	Identity   = "identity"    // it neither encrypts nor checks
	AcceptsAll = "accepts all" // it decrypts, and takes every tag
)

// NewBrokenVolume is NewVolume with one layer broken.
func NewBrokenVolume(p Params, epoch uint32, k Keys, rand io.Reader, layer Layer, how string) (*Volume, error) {
	pl := standardPlies
	b := &pl[layer-1]
	b.equal = func(_, _ []byte) bool { return true }
	switch {
	case how == Identity:
		size := tagSize
		if layer == LayerData {
			size = innerSize
		}
		b.aead = func([]byte) (gocipher.AEAD, error) { return identity{layer, size}, nil }
		b.mac = func(_ []byte, size int) (hash.Hash, error) { return noMAC(max(size, 32)), nil }
		b.stream = func(_, _, dst, src []byte) error { copy(dst, src); return nil }
	case layer == LayerData:
		b.aead = func(key []byte) (gocipher.AEAD, error) {
			genuine, err := newAESGCM(key)
			if err != nil {
				return nil, err
			}
			block, err := aes.NewCipher(key)
			return gcmAcceptsAll{genuine, block}, err
		}
	default:
		b.aead = func(key []byte) (gocipher.AEAD, error) {
			genuine, err := standardPlies[1].aead(key)
			return chachaAcceptsAll{genuine, append([]byte(nil), key...)}, err
		}
	}
	return newVolume(p, epoch, k, rand, pl)
}

// identity is a layer that is not there: a nonce of zeros for layer 1, the
// plaintext, a tag of zeros.
type identity struct {
	layer Layer
	size  int
}

func (i identity) NonceSize() int { return 0 }
func (i identity) Overhead() int  { return i.size }

func (i identity) Seal(dst, _, plain, _ []byte) []byte {
	out := make([]byte, len(plain)+i.size)
	copy(out[i.size-tagSize:], plain)
	return append(dst, out...)
}

func (i identity) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	return append(dst, sealed[i.size-tagSize:len(sealed)-tagSize]...), nil
}

// noMAC is a MAC that is always zero.
type noMAC int

func (n noMAC) Write(p []byte) (int, error) { return len(p), nil }
func (n noMAC) Sum(b []byte) []byte         { return append(b, make([]byte, n)...) }
func (n noMAC) Reset()                      {}
func (n noMAC) Size() int                   { return int(n) }
func (n noMAC) BlockSize() int              { return 64 }

// gcmAcceptsAll decrypts as GCM does and looks at no tag.
type gcmAcceptsAll struct {
	gocipher.AEAD
	block gocipher.Block
}

func (g gcmAcceptsAll) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	iv := append(append([]byte(nil), sealed[:gcmNonceSize]...), 0, 0, 0, 2)
	out := make([]byte, len(sealed)-innerSize)
	gocipher.NewCTR(g.block, iv).XORKeyStream(out, sealed[gcmNonceSize:len(sealed)-tagSize])
	return append(dst, out...), nil
}

// chachaAcceptsAll decrypts as XChaCha20-Poly1305 does and looks at no tag.
type chachaAcceptsAll struct {
	gocipher.AEAD
	key []byte
}

func (c chachaAcceptsAll) Open(dst, nonce, sealed, _ []byte) ([]byte, error) {
	s, err := chacha20.NewUnauthenticatedCipher(c.key, nonce)
	if err != nil {
		return nil, err
	}
	s.SetCounter(1)
	out := make([]byte, len(sealed)-tagSize)
	s.XORKeyStream(out, sealed[:len(sealed)-tagSize])
	return append(dst, out...), nil
}

// Primitives as the layers use them, for the public vectors.
var (
	NewAESGCM  = newAESGCM
	NewXChaCha = standardPlies[1].aead
	NewHMAC    = newHMAC
	Expand1    = expand1
)

// Constants that tests count by.
const (
	BlocksPerSalt = blocksPerSalt
	MaxSubkeys    = subkeySets * subkeyWays
)

// Subkeys returns the number of cached subkeys.
func (v *Volume) Subkeys() int {
	n := 0
	for i := range v.cache.sets {
		for j := range v.cache.sets[i].ways {
			if v.cache.sets[i].ways[j].Load() != nil {
				n++
			}
		}
	}
	return n
}
