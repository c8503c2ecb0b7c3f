package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/crypto/blake2b"
)

// The descriptor says what a volume is, in 32 bytes that never change after init (FORMAT.md §5).
const (
	descriptorMagic   = "PLYV"
	descriptorVersion = 1
	descriptorSize    = 32
)

func encodeDescriptor(p cipher.Params) []byte {
	b := make([]byte, 0, descriptorSize)
	b = append(b, descriptorMagic...)
	b = binary.BigEndian.AppendUint16(b, descriptorVersion)
	b = binary.BigEndian.AppendUint16(b, p.Format)
	b = append(b, byte(p.Suite), p.Layers, byte(bits.TrailingZeros32(p.BlockSize)), 0)
	b = append(b, p.VolumeID[:]...)
	return append(b, 0, 0, 0, 0)
}

// decodeDescriptor parses a descriptor and checks that this version can serve it: ErrVersion, ErrTruncated,
// ErrTampered.
func decodeDescriptor(b []byte) (cipher.Params, error) {
	var p cipher.Params
	if len(b) < 8 {
		return p, &fault{what: "volume descriptor", kind: ErrTruncated}
	}
	if !bytes.HasPrefix(b, []byte(descriptorMagic)) {
		return p, &fault{what: "volume descriptor", kind: ErrTampered}
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != descriptorVersion {
		return p, &fault{what: fmt.Sprintf("volume descriptor of version %d", v), kind: ErrVersion}
	}
	if len(b) < descriptorSize {
		return p, &fault{what: "volume descriptor", kind: ErrTruncated}
	}
	if len(b) > descriptorSize || b[10] > 31 || b[11] != 0 || !allZero(b[28:]) {
		return p, &fault{what: "volume descriptor", kind: ErrTampered}
	}
	p = cipher.Params{
		Format: binary.BigEndian.Uint16(b[6:]), Suite: cipher.Suite(b[8]), Layers: b[9],
		BlockSize: 1 << b[10], VolumeID: cipher.VolumeID(b[12:28]),
	}
	if p.VolumeID == (cipher.VolumeID{}) {
		return p, &fault{what: "volume descriptor without a volume ID", kind: ErrTampered}
	}
	err := p.Validate()
	if errors.Is(err, cipher.ErrVersion) || errors.Is(err, cipher.ErrSuite) {
		return p, &fault{what: "volume descriptor", kind: ErrVersion, cause: err}
	}
	if err != nil {
		return p, &fault{what: "volume descriptor", kind: ErrTampered, cause: err}
	}
	return p, nil
}

// hashDescriptor hashes with the layer's own hash function, so that the layers share none.
func hashDescriptor(l cipher.Layer, descriptor []byte) []byte {
	if l == cipher.LayerInfra {
		h := blake2b.Sum256(descriptor)
		return h[:]
	}
	h := sha256.Sum256(descriptor)
	return h[:]
}
