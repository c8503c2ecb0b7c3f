package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// fixStoreChecksum makes the checksum hold again.
func fixStoreChecksum(b []byte) {
	sum := sha256.Sum256(b[:offChecksum])
	copy(b[offChecksum:], sum[:])
}

// openBytes opens a store that is in memory.
func openBytes(b []byte, key *secret) error {
	h, err := parseStore(b)
	if err != nil {
		return err
	}
	c, err := openStoreContent(h, b, key)
	if err == nil {
		c.wipe()
	}
	return err
}

func TestStoreEveryBitFlipped(t *testing.T) {
	for _, l := range bothLayers {
		s := newStore(t, t.TempDir(), l, testNames)
		good := readFile(t, s.Path())
		if err := openBytes(good, s.key); err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			want := ErrTampered
			if bit/8 == offVersion || bit/8 == offVersion+1 {
				want = ErrVersion
			}
			check(t, fmt.Sprintf("%s store, bit %d of byte %d", l, bit%8, bit/8), openBytes(b, s.key), want)
			if bit/8 >= offChecksum {
				continue
			}
			fixStoreChecksum(b)
			if err := openBytes(b, s.key); err == nil || Hint(err) == "" {
				t.Errorf("%s store, bit %d of byte %d, checksum made anew: got error %v", l, bit%8, bit/8, err)
			}
		}
	}
}

func TestStoreEveryLength(t *testing.T) {
	s := newStore(t, t.TempDir(), cipher.LayerData, testNames)
	good := readFile(t, s.Path())
	for n := range good {
		check(t, fmt.Sprintf("cut to %d bytes", n), openBytes(good[:n], s.key), ErrTruncated)
	}
	check(t, "a byte more", openBytes(append(bytes.Clone(good), 0), s.key), ErrTampered)
}

func TestStoreHostileHeader(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.store")
	if err := CreateStore(path, cipher.LayerData, passphrase("right"), testNames); err != nil {
		t.Fatal(err)
	}
	good := readFile(t, path)
	put32 := func(off int, v uint32) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[off:], v) }
	}
	tests := []struct {
		name   string
		change func(b []byte)
		want   error
	}{
		{"100 GiB of memory", put32(offMemory, 100<<20), ErrTampered},
		{"4 TiB of memory", put32(offMemory, 1<<32-1), ErrTampered},
		{"too little memory", put32(offMemory, 7), ErrTampered},
		{"no passes", put32(offTime, 0), ErrTampered},
		{"endless passes", put32(offTime, maxArgon2Time+1), ErrTampered},
		{"no lanes", func(b []byte) { b[offThreads] = 0 }, ErrTampered},
		{"too many lanes", func(b []byte) { b[offThreads] = maxArgon2Threads + 1 }, ErrTampered},
		{"unknown protection", func(b []byte) { b[offProtection] = 3 }, ErrVersion},
		{"unknown layer", func(b []byte) { b[offLayer] = 3 }, ErrVersion},
		{"generation 0", func(b []byte) { clear(b[offGeneration : offGeneration+8]) }, ErrTampered},
		{"reserved byte", func(b []byte) { b[offZero1] = 1 }, ErrTampered},
		{"other reserved byte", func(b []byte) { b[offChecksum-1] = 1 }, ErrTampered},
		{"claims to be longer", put32(offLength, uint32(len(good)+1)), ErrTruncated},
		{"claims to be shorter", put32(offLength, uint32(len(good)-1)), ErrTampered},
		{"claims 4 GiB", put32(offLength, 1<<32-1), ErrTampered},
		{"claims to be empty", put32(offLength, storeHeaderSize), ErrTampered},
		{"key file with passphrase's fields", func(b []byte) { b[offProtection] = byte(ByKeyFile) }, ErrTampered},
		{"cheaper parameters", put32(offMemory, 8), ErrWrongKey},
		{"other salt", func(b []byte) { b[offPassSalt]++ }, ErrWrongKey},
	}
	for _, tt := range tests {
		b := bytes.Clone(good)
		tt.change(b)
		fixStoreChecksum(b)
		writeFile(t, path, b)
		_, err := OpenStore(path, cipher.LayerData, passphrase("right"))
		check(t, tt.name, err, tt.want)
		if _, err := parseStore(b); tt.want != ErrWrongKey && !errors.Is(err, tt.want) {
			t.Errorf("%s: parsed without a key: got error %v", tt.name, err)
		}
	}
	writeFile(t, path, good)
	if _, err := OpenStore(path, cipher.LayerData, passphrase("right")); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestStoreSaltSurvivesRepeatedRandom(t *testing.T) {
	key := &secret{b: [32]byte{1}}
	h := storeHeader{layer: cipher.LayerInfra, protection: ByKeyFile, generation: 1}
	c := &content{roots: []root{{epoch: 1, key: &secret{}}}}
	a, err := sealStore(h, key, c, constReader(7))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.addCluster("x"); err != nil {
		t.Fatal(err)
	}
	b, err := sealStore(h, key, c, constReader(7))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a[offSalt:offCommitment], b[offSalt:offCommitment]) {
		t.Error("two contents have one salt, and so one KEK and nonce")
	}
}
