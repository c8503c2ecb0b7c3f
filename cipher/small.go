package cipher

import (
	gocipher "crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"
)

// smallKeys are the keys of what belongs to the volume rather than to a file:
// names, blobs, directory IDs.
type smallKeys struct {
	nameMACs   *macPool
	nameStream [2][keySize]byte
	xattrMACs  *macPool
	dirMACs    *macPool

	blob1     [keySize]byte // parent of the blobs' layer 1 keys
	blobOuter gocipher.AEAD // nil in a single-layer volume
	blob2n    [keySize]byte
}

// newSmallKeys derives the small keys. The caller has v to itself.
func (v *Volume) newSmallKeys() (*smallKeys, error) {
	k := &smallKeys{
		nameMACs:   v.newMACPool(sivSize, labelNameMAC),
		nameStream: v.deriveBoth(labelNameStream),
		xattrMACs:  v.newMACPool(xattrNameSize, labelXattrName),
		dirMACs:    v.newMACPool(macSize, labelDirID),
		blob1:      v.derive(LayerData, labelBlob),
	}
	if !v.double() {
		return k, nil
	}
	key := v.derive(LayerInfra, labelBlob)
	outer, err := v.plies[1].aead(key[:])
	if err != nil {
		return nil, fmt.Errorf("layer 2: %w", err)
	}
	k.blobOuter = outer
	k.blob2n = v.derive(LayerInfra, labelBlobNonce)
	return k, nil
}

// wipe overwrites the keys. Nobody uses k any more.
func (k *smallKeys) wipe() {
	for _, key := range []*[keySize]byte{&k.nameStream[0], &k.nameStream[1], &k.blob1, &k.blob2n} {
		clear(key[:])
	}
	for _, p := range []*macPool{k.nameMACs, k.xattrMACs, k.dirMACs} {
		clear(p.keys[0][:])
		clear(p.keys[1][:])
	}
}

// deriveBoth returns the keys of both layers for a label; that of layer 2 is
// zero in a single-layer volume. The caller is as derive wants it.
func (v *Volume) deriveBoth(label string, info ...[]byte) (keys [2][keySize]byte) {
	for i := range int(v.params.Layers) {
		keys[i] = v.derive(Layer(i+1), label, info...)
	}
	return keys
}

// macPool hands out macs of one pair of keys, so that callers need not wait for
// each other.
type macPool struct {
	pool sync.Pool
	keys [2][keySize]byte
}

func (v *Volume) newMACPool(size int, label string) *macPool {
	p := &macPool{keys: v.deriveBoth(label)}
	p.pool.New = func() any { return newMACs(v, size, p.keys) }
	return p
}

func (p *macPool) get() *macs  { return p.pool.Get().(*macs) }
func (p *macPool) put(m *macs) { p.pool.Put(m) }

const (
	magicDirID = "PLYD"

	dirIDFormat = 4
	dirIDSuite  = 6
	dirIDLayers = 7
	dirIDEpoch  = 8
	dirIDVolume = 16
	dirIDID     = 32
	dirIDMAC    = 48

	// DirIDSize is the length of a sealed directory ID.
	DirIDSize = dirIDMAC + 2*macSize
)

// NewDirID returns a random directory ID. It fails where the random source does.
func (v *Volume) NewDirID() (DirID, error) {
	var id DirID
	err := v.rand.read(id[:])
	return id, err
}

// SealDirID returns the DirIDSize bytes that record a directory's ID,
// FORMAT.md §10.
func (v *Volume) SealDirID(id DirID) []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.small == nil {
		return nil
	}
	b := make([]byte, DirIDSize)
	copy(b, magicDirID)
	binary.BigEndian.PutUint16(b[dirIDFormat:], v.params.Format)
	b[dirIDSuite] = byte(v.params.Suite)
	b[dirIDLayers] = v.params.Layers
	binary.BigEndian.PutUint32(b[dirIDEpoch:], v.epoch)
	copy(b[dirIDVolume:], v.params.VolumeID[:])
	copy(b[dirIDID:], id[:])
	m := v.small.dirMACs.get()
	defer v.small.dirMACs.put(m)
	m.seal(b[dirIDMAC:], typeDirID, id, 0, b[:dirIDMAC])
	return b
}

// OpenDirID verifies a record of SealDirID. Errors: ErrZero also for no bytes at
// all, ErrMagic, ErrVersion, ErrSuite, ErrForeign, ErrEpoch, ErrAuth.
func (v *Volume) OpenDirID(b []byte) (DirID, error) {
	id, err := v.openDirID(b)
	if err != nil {
		return DirID{}, fmt.Errorf("directory ID: %w", err)
	}
	return id, nil
}

func (v *Volume) openDirID(b []byte) (id DirID, err error) {
	switch {
	case isZero(b):
		return id, ErrZero
	case len(b) < 4 || string(b[:4]) != magicDirID:
		return id, ErrMagic
	case len(b) < dirIDSuite:
		return id, fmt.Errorf("%d bytes: %w", len(b), ErrAuth)
	case binary.BigEndian.Uint16(b[dirIDFormat:]) != FormatVersion:
		return id, ErrVersion
	case len(b) != DirIDSize:
		return id, fmt.Errorf("%d bytes: %w", len(b), ErrAuth)
	case Suite(b[dirIDSuite]) != v.params.Suite || b[dirIDLayers] != v.params.Layers:
		return id, ErrSuite
	case VolumeID(b[dirIDVolume:dirIDID]) != v.params.VolumeID:
		return id, ErrForeign
	case binary.BigEndian.Uint32(b[dirIDEpoch:]) != v.epoch:
		return id, ErrEpoch
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.small == nil {
		return id, ErrWiped
	}
	m := v.small.dirMACs.get()
	defer v.small.dirMACs.put(m)
	id = DirID(b[dirIDID:dirIDMAC])
	if err := m.verify(b[dirIDMAC:], typeDirID, id, 0, b[:dirIDMAC]); err != nil {
		return DirID{}, err
	}
	if !isZero(b[dirIDEpoch+4 : dirIDVolume]) {
		return DirID{}, ErrAuth
	}
	return id, nil
}
