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
	v      *Volume
	serial uint64 // differs from that of any other File of v
	id     FileID
	epoch  uint32

	salt [32]byte

	aad   [2]blockAAD // with length and index still zero
	keys  atomic.Pointer[fileKeys]
	renew sync.Mutex // held while keys or the sealing subkey are replaced
}

// fileKeys are the keys of a file, derived from the volume's.
type fileKeys struct {
	k1      [keySize]byte // layer 1, parent of the subkeys
	outer   gocipher.AEAD // layer 2, nil in a single-layer volume
	k2n     [keySize]byte // hides T1 in n2
	macs    *macs
	sealing atomic.Pointer[subkey]
}

// newFile returns the File of a header, with its keys.
func (v *Volume) newFile(h StaticHeader) (*File, error) {
	f := &File{v: v, serial: v.serials.Add(1), id: h.FileID, epoch: h.Epoch, salt: h.Salt}
	for i := range f.aad {
		f.aad[i].init(v.ctx[i], v.layout.shift, f.epoch, f.id)
	}
	if _, err := f.atHand(); err != nil {
		return nil, err
	}
	return f, nil
}

// atHand returns the file's keys, derived anew if they were wiped and the
// volume's are there again.
func (f *File) atHand() (*fileKeys, error) {
	if k := f.keys.Load(); k != nil {
		return k, nil
	}
	f.renew.Lock()
	defer f.renew.Unlock()
	if k := f.keys.Load(); k != nil {
		return k, nil
	}
	k, err := f.v.deriveFile(f.salt, f.id)
	if err != nil {
		return nil, err
	}
	f.keys.Store(k)
	return k, nil
}

// must is atHand for what seals without an error to return. Sealing while the
// keys are wiped would leave bytes that never verify.
func (f *File) must() *fileKeys {
	k, err := f.atHand()
	if err != nil {
		panic("cipher: seal: " + err.Error())
	}
	return k
}

func (v *Volume) deriveFile(salt [32]byte, id FileID) (*fileKeys, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.keys == nil {
		return nil, ErrWiped
	}
	k := new(fileKeys)
	info := [][]byte{salt[:], id[:]}
	var macKeys [2][32]byte
	k.k1 = v.derive(LayerData, labelFile, info...)
	macKeys[0] = v.derive(LayerData, labelFileMAC, info...)
	if v.double() {
		k2 := v.derive(LayerInfra, labelFile, info...)
		outer, err := v.plies[1].aead(k2[:])
		clear(k2[:])
		if err != nil {
			return nil, fmt.Errorf("layer 2: %w", err)
		}
		k.outer = outer
		k.k2n = v.derive(LayerInfra, labelFileNonce, info...)
		macKeys[1] = v.derive(LayerInfra, labelFileMAC, info...)
	}
	k.macs = newMACs(v, macSize, macKeys)
	clear(macKeys[0][:])
	clear(macKeys[1][:])
	return k, nil
}

// Wipe drops the file's keys. It follows the Wipe of the Volume, with no call
// of the File under way; once the Volume's keys are restored the File goes on.
func (f *File) Wipe() {
	f.renew.Lock()
	defer f.renew.Unlock()
	if k := f.keys.Swap(nil); k != nil {
		clear(k.k1[:])
		clear(k.k2n[:])
	}
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
