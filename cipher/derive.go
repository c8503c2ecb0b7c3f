package cipher

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"

	"golang.org/x/crypto/blake2b"
)

// labelSize is the length that labels are zero-padded to.
const labelSize = 24

// Labels of derived keys, FORMAT.md §3. One key, one label, one use.
const (
	labelFile       = "plyfs/1/file"
	labelFileNonce  = "plyfs/1/file-nonce"
	labelFileMAC    = "plyfs/1/file-mac"
	labelBlock      = "plyfs/1/blk"
	labelNameMAC    = "plyfs/1/name-mac"
	labelNameStream = "plyfs/1/name-enc"
	labelXattrName  = "plyfs/1/xattr-name"
	labelBlob       = "plyfs/1/blob"
	labelBlobNonce  = "plyfs/1/blob-nonce"
	labelBlobKey    = "plyfs/1/blob-blk"
	labelDirID      = "plyfs/1/dir-id"
	labelAuth       = "plyfs/1/auth"
	labelCheck      = "plyfs/1/check"
)

// Types of sealed structures, the first byte of every AAD and MAC input.
const (
	typeBlock     = 1
	typeTrailer   = 2
	typeStatic    = 3
	typeHeader    = 4
	typeName      = 5
	typeXattrName = 6
	typeBlob      = 7
	typeDirID     = 8
	typeAuth      = 9
	typeCopy      = 10
)

// contextSize is the length of a context.
const contextSize = 21

// context binds a key or tag to a layer of a volume:
// layer 1 | format 2 | suite 1 | layers 1 | volume ID 16.
type context [contextSize]byte

func (p Params) context(l Layer) (c context) {
	c[0] = byte(l)
	binary.BigEndian.PutUint16(c[1:], p.Format)
	c[3] = byte(p.Suite)
	c[4] = p.Layers
	copy(c[5:], p.VolumeID[:])
	return c
}

// Context returns the bytes that bind a key to a layer of the volume,
// FORMAT.md §3, for keys that other packages derive.
func (p Params) Context(l Layer) []byte {
	c := p.context(l)
	return c[:]
}

// Derive returns the key that a layer's derivation function makes of a 32-byte
// key, a label of at most 24 bytes and the concatenated info: P1, HKDF-Expand
// with SHA-256, for LayerData, and P2, keyed BLAKE2b-256, for LayerInfra
// (FORMAT.md §3). info must be of fixed length or prefix-free for each label.
func Derive(l Layer, key *[32]byte, label string, info ...[]byte) [32]byte {
	if len(label) > labelSize {
		panic(fmt.Sprintf("cipher: label %q is longer than %d bytes", label, labelSize))
	}
	msg := make([]byte, labelSize, labelSize+128)
	copy(msg, label)
	for _, p := range info {
		msg = append(msg, p...)
	}
	switch l {
	case LayerData:
		return expand1(key, msg)
	case LayerInfra:
		return expand2(key, msg)
	}
	panic("cipher: no such layer")
}

// expand1 is HKDF-Expand with SHA-256.
func expand1(key *[32]byte, info []byte) (out [32]byte) {
	k, err := hkdf.Expand(sha256.New, key[:], string(info), len(out))
	if err != nil {
		panic("cipher: HKDF: " + err.Error()) // lengths are constants
	}
	copy(out[:], k)
	return out
}

// expand2 is keyed BLAKE2b-256.
func expand2(key *[32]byte, msg []byte) (out [32]byte) {
	h, err := blake2b.New256(key[:])
	if err != nil {
		panic("cipher: BLAKE2b: " + err.Error()) // lengths are constants
	}
	defer reflect.ValueOf(h).Elem().SetZero() // it keeps the key for Reset
	h.Write(msg)
	h.Sum(out[:0])
	return out
}

// derive returns the key of a layer for a label under the volume's key, its
// context and its epoch. The caller holds v.mu and has seen that v.keys is not
// nil.
func (v *Volume) derive(l Layer, label string, info ...[]byte) [32]byte {
	key := &v.keys.Data
	if l == LayerInfra {
		key = &v.keys.Infra
	}
	var epoch [4]byte
	binary.BigEndian.PutUint32(epoch[:], v.epoch)
	return Derive(l, key, label, append([][]byte{v.ctx[l-1][:], epoch[:]}, info...)...)
}
