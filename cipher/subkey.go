package cipher

import (
	gocipher "crypto/cipher"
	"encoding/binary"
	"sync/atomic"
)

// blocksPerSalt is how many blocks are sealed under one salt at most.
const blocksPerSalt = 1 << 16

// salt is a block-salt: it names a sub-key of a file's layer 1 key.
type salt [12]byte

// subkey is a layer 1 cipher, keyed for one salt of one file.
type subkey struct {
	file uint64 // serial of the File; a pointer would keep all that it holds in memory
	salt salt
	aead gocipher.AEAD
	used atomic.Uint32 // blocks sealed
}

const (
	subkeySets = 256
	subkeyWays = 4
)

// subkeyCache keeps the subkeys that were last used for opening, at most
// subkeySets·subkeyWays of them (about 1.3 KB each). Reading takes no lock.
type subkeyCache struct {
	sets [subkeySets]struct {
		ways [subkeyWays]atomic.Pointer[subkey]
		next atomic.Uint32 // the way to replace
	}
}

func subkeySet(f *File, s salt) uint32 {
	// Salts are random. One who writes the disk can pick salts that share a
	// set, and makes the cache useless for them; that is all.
	return (binary.BigEndian.Uint32(s[:]) ^ binary.BigEndian.Uint32(f.id[:])) % subkeySets
}

// get returns the subkey of a file for a salt, or nil.
func (c *subkeyCache) get(f *File, s salt) *subkey {
	set := &c.sets[subkeySet(f, s)]
	for i := range set.ways {
		if k := set.ways[i].Load(); k != nil && k.file == f.serial && k.salt == s {
			return k
		}
	}
	return nil
}

// put adds a subkey of a file in the place of the one that is there longest.
func (c *subkeyCache) put(f *File, k *subkey) {
	set := &c.sets[subkeySet(f, k.salt)]
	set.ways[set.next.Add(1)%subkeyWays].Store(k)
}

func (c *subkeyCache) clear() {
	for i := range c.sets {
		for j := range c.sets[i].ways {
			c.sets[i].ways[j].Store(nil)
		}
	}
}

// newSubkey derives the subkey of a salt.
func (f *File) newSubkey(keys *fileKeys, s salt) (*subkey, error) {
	key := Derive(LayerData, &keys.k1, labelBlock, s[:])
	aead, err := f.v.plies[0].aead(key[:])
	clear(key[:])
	if err != nil {
		return nil, err
	}
	return &subkey{file: f.serial, salt: s, aead: aead}, nil
}

// openKey returns the subkey of a salt found on disk.
func (f *File) openKey(keys *fileKeys, s salt) (*subkey, error) {
	if k := keys.sealing.Load(); k != nil && k.salt == s {
		return k, nil
	}
	if k := f.v.cache.get(f, s); k != nil {
		return k, nil
	}
	k, err := f.newSubkey(keys, s)
	if err != nil {
		return nil, err
	}
	f.v.cache.put(f, k)
	return k, nil
}

// sealKey returns the subkey to seal one block with: a fresh one for the
// first block of this File and after each blocksPerSalt blocks.
func (f *File) sealKey(keys *fileKeys) (*subkey, error) {
	if k := keys.sealing.Load(); k.take() {
		return k, nil
	}
	f.renew.Lock()
	defer f.renew.Unlock()
	if k := keys.sealing.Load(); k.take() {
		return k, nil
	}
	var s salt
	if err := f.v.rand.read(s[:]); err != nil {
		return nil, err
	}
	k, err := f.newSubkey(keys, s)
	if err != nil {
		return nil, err
	}
	k.used.Store(1)
	if old := keys.sealing.Swap(k); old != nil {
		f.v.cache.put(f, old) // its blocks are likely to be read
	}
	return k, nil
}

// take counts one more block and reports whether the subkey may seal it.
func (k *subkey) take() bool {
	// The load keeps the counter from running over while a renewal fails.
	return k != nil && k.used.Load() < blocksPerSalt && k.used.Add(1) <= blocksPerSalt
}
