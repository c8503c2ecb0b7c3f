package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// The file of a key store (FORMAT.md §3): a header of 192 bytes and a sealed content.
const (
	storeMagic      = "PLYFSKEY"
	storeVersion    = 1
	storeHeaderSize = 192
	storeMaxSize    = 1 << 20

	offVersion    = 8
	offLayer      = 10
	offProtection = 11
	offLength     = 12
	offGeneration = 16
	offID         = 24
	offTime       = 40
	offMemory     = 44
	offThreads    = 48
	offZero1      = 49
	offPassSalt   = 56
	offSalt       = 72
	offCommitment = 104
	offZero2      = 136
	offChecksum   = 160
)

// storeHeader is the parsed header of a store.
type storeHeader struct {
	layer      cipher.Layer
	protection Protection
	generation uint64
	id         [16]byte
	argon2     Argon2
	passSalt   [16]byte
	salt       [32]byte
}

// encode returns the header for a file of length bytes, without commitment and checksum.
func (h *storeHeader) encode(length int) []byte {
	b := make([]byte, storeHeaderSize)
	copy(b, storeMagic)
	binary.BigEndian.PutUint16(b[offVersion:], storeVersion)
	b[offLayer] = byte(h.layer)
	b[offProtection] = byte(h.protection)
	binary.BigEndian.PutUint32(b[offLength:], uint32(length))
	binary.BigEndian.PutUint64(b[offGeneration:], h.generation)
	copy(b[offID:], h.id[:])
	binary.BigEndian.PutUint32(b[offTime:], h.argon2.Time)
	binary.BigEndian.PutUint32(b[offMemory:], h.argon2.Memory)
	b[offThreads] = h.argon2.Threads
	copy(b[offPassSalt:], h.passSalt[:])
	copy(b[offSalt:], h.salt[:])
	return b
}

// parseStore parses a store's header: magic, version, length of the header, its checksum, its fields, and the length
// of the whole file. It needs no key and proves nothing but that the file is not accidentally damaged.
func parseStore(b []byte) (*storeHeader, error) {
	if len(b) < len(storeMagic) && bytes.HasPrefix([]byte(storeMagic), b) {
		return nil, &fault{what: "key store", kind: ErrTruncated}
	}
	if !bytes.HasPrefix(b, []byte(storeMagic)) {
		return nil, &fault{what: "not a plyfs key store", kind: ErrTampered}
	}
	if len(b) < offVersion+2 {
		return nil, &fault{what: "key store", kind: ErrTruncated}
	}
	if v := binary.BigEndian.Uint16(b[offVersion:]); v != storeVersion {
		return nil, &fault{what: fmt.Sprintf("key store of version %d", v), kind: ErrVersion}
	}
	if len(b) < storeHeaderSize {
		return nil, &fault{what: "key store", kind: ErrTruncated}
	}
	if sum := sha256.Sum256(b[:offChecksum]); !bytes.Equal(sum[:], b[offChecksum:storeHeaderSize]) {
		return nil, &fault{what: "key store header", kind: ErrTampered}
	}
	h := &storeHeader{
		layer:      cipher.Layer(b[offLayer]),
		protection: Protection(b[offProtection]),
		generation: binary.BigEndian.Uint64(b[offGeneration:]),
		argon2: Argon2{
			Time:    binary.BigEndian.Uint32(b[offTime:]),
			Memory:  binary.BigEndian.Uint32(b[offMemory:]),
			Threads: b[offThreads],
		},
	}
	copy(h.id[:], b[offID:])
	copy(h.passSalt[:], b[offPassSalt:])
	copy(h.salt[:], b[offSalt:])
	if err := h.validate(b); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(b[offLength:]))
	switch {
	case length < int64(storeHeaderSize+boxOverhead(h.layer)) || length > storeMaxSize:
		return nil, &fault{what: fmt.Sprintf("key store that claims %d bytes", length), kind: ErrTampered}
	case int64(len(b)) < length:
		return nil, &fault{what: fmt.Sprintf("key store of %d bytes, %d expected", len(b), length), kind: ErrTruncated}
	case int64(len(b)) > length:
		return nil, &fault{what: fmt.Sprintf("key store with %d bytes after its end", int64(len(b))-length), kind: ErrTampered}
	}
	return h, nil
}

// validate checks the fields of a header whose checksum holds.
func (h *storeHeader) validate(b []byte) error {
	if h.layer != cipher.LayerData && h.layer != cipher.LayerInfra {
		return &fault{what: fmt.Sprintf("key store of layer %d", uint8(h.layer)), kind: ErrVersion}
	}
	if !allZero(b[offZero1:offPassSalt]) || !allZero(b[offZero2:offChecksum]) || h.generation == 0 {
		return &fault{what: "key store header with impossible fields", kind: ErrTampered}
	}
	switch h.protection {
	case ByKeyFile:
		if h.argon2 != (Argon2{}) || h.passSalt != [16]byte{} {
			return &fault{what: "key store header with impossible fields", kind: ErrTampered}
		}
	case ByPassphrase:
		if err := h.argon2.validate(); err != nil {
			return &fault{what: "key store header", kind: ErrTampered, cause: err}
		}
	default:
		return &fault{what: fmt.Sprintf("key store with protection %d", uint8(h.protection)), kind: ErrVersion}
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// sealStore returns the file of a store. The header's salt is renewed.
func sealStore(h storeHeader, key *secret, c *content, rand io.Reader) ([]byte, error) {
	p := plyOf(h.layer)
	plain := c.encode()
	defer wipe(plain)
	length := storeHeaderSize + boxOverhead(h.layer) + len(plain)
	if length > storeMaxSize {
		return nil, &fault{what: "key store is full", kind: ErrUsage, hint: fullHint}
	}
	h.salt = [32]byte{}
	salt, err := p.salt(key, rand, h.encode(length)[:offSalt], plain)
	if err != nil {
		return nil, err
	}
	copy(h.salt[:], salt)
	b := h.encode(length)
	boxKey := p.key(key, labelStore, b[:offCommitment])
	defer boxKey.wipe()
	copy(b[offCommitment:], p.commitment(boxKey))
	sum := sha256.Sum256(b[:offChecksum])
	copy(b[offChecksum:], sum[:])
	sealed, err := p.seal(boxKey, rand, b, plain)
	if err != nil {
		return nil, err
	}
	return append(b, sealed...), nil
}

// openStoreContent opens the content of a file that parseStore took: ErrWrongKey when the commitment says that key
// is another one, ErrTampered when it is the right one.
func openStoreContent(h *storeHeader, b []byte, key *secret) (*content, error) {
	p := plyOf(h.layer)
	boxKey := p.key(key, labelStore, b[:offCommitment])
	defer boxKey.wipe()
	plain, err := p.open(boxKey, b[offCommitment:offZero2], b[:storeHeaderSize], b[storeHeaderSize:])
	if errors.Is(err, errCommitment) {
		return nil, &fault{what: fmt.Sprintf("the %s does not open this key store", h.protection), kind: ErrWrongKey}
	}
	if err != nil {
		return nil, &fault{what: "key store", kind: ErrTampered, cause: err}
	}
	defer wipe(plain)
	c, err := decodeContent(plain)
	if errors.Is(err, errRecordKind) {
		return nil, &fault{what: "key store", kind: ErrVersion, cause: err}
	}
	if err != nil {
		return nil, &fault{what: "key store", kind: ErrTampered, cause: err}
	}
	return c, nil
}
