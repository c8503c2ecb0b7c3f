package cipher

import (
	gocipher "crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
)

// File seals and opens the content of one file under the file's own keys
// (FORMAT.md §3), those of the epoch that its static header names. It holds no
// bytes of the file. Its methods are safe for concurrent use.
type File struct {
	v     *Volume
	id    FileID
	epoch uint32

	k1    [keySize]byte // layer 1, parent of the subkeys
	outer gocipher.AEAD // layer 2, nil in a single-layer volume
	k2n   [keySize]byte // hides T1 in n2
	macs  *macs

	aad     [2]blockAAD // with length and index still zero
	sealing atomic.Pointer[subkey]
	renew   sync.Mutex // held while sealing is replaced
}

// newFile derives the keys of a file.
func (v *Volume) newFile(h StaticHeader) (*File, error) {
	f := &File{v: v, id: h.FileID, epoch: h.Epoch}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.keys == nil {
		return nil, ErrWiped
	}
	info := [][]byte{h.Salt[:], h.FileID[:]}
	var macKeys [2][32]byte
	f.k1 = v.derive(LayerData, labelFile, info...)
	macKeys[0] = v.derive(LayerData, labelFileMAC, info...)
	if v.double() {
		k2 := v.derive(LayerInfra, labelFile, info...)
		outer, err := v.plies[1].aead(k2[:])
		clear(k2[:])
		if err != nil {
			return nil, fmt.Errorf("layer 2: %w", err)
		}
		f.outer = outer
		f.k2n = v.derive(LayerInfra, labelFileNonce, info...)
		macKeys[1] = v.derive(LayerInfra, labelFileMAC, info...)
	}
	f.macs = newMACs(v, macSize, macKeys)
	for i := range f.aad {
		f.aad[i].init(v.ctx[i], v.layout.shift, f.epoch, f.id)
	}
	return f, nil
}

// NewFile returns a header with a random ID and salt for a new file, and the
// File to seal it with. It fails where the random source does.
func (v *Volume) NewFile() (StaticHeader, *File, error) {
	h := StaticHeader{Epoch: v.epoch}
	if err := v.rand.read(h.FileID[:]); err != nil {
		return StaticHeader{}, nil, err
	}
	if err := v.rand.read(h.Salt[:]); err != nil {
		return StaticHeader{}, nil, err
	}
	f, err := v.newFile(h)
	if err != nil {
		return StaticHeader{}, nil, err
	}
	return h, f, nil
}

// ID returns the file's ID.
func (f *File) ID() FileID { return f.id }

// Epoch returns the volume-key epoch of the file's keys.
func (f *File) Epoch() uint32 { return f.epoch }

// blockAAD is what both layers bind a block to:
// type 1 | context 21 | log2 B 1 | epoch 4 | length 4 | file ID 16 | index 8.
type blockAAD [1 + contextSize + 1 + 4 + 4 + 16 + 8]byte

func (a *blockAAD) init(c context, shift uint8, epoch uint32, id FileID) {
	a[0] = typeBlock
	copy(a[1:], c[:])
	a[22] = shift
	binary.BigEndian.PutUint32(a[23:], epoch)
	copy(a[31:], id[:])
}

func (a *blockAAD) set(length int, index uint64) {
	binary.BigEndian.PutUint32(a[27:], uint32(length))
	binary.BigEndian.PutUint64(a[47:], index)
}
