package cipher

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// FormatVersion is the version of the on-disk format that this package reads
// and writes, FORMAT.md §1.
const FormatVersion = 1

// Errors of this package. They are wrapped with what refused.
var (
	// ErrAuth reports that sealed bytes do not verify: they were altered,
	// moved, cut, or belong to other keys.
	ErrAuth = errors.New("authentication failed")
	// ErrEpoch reports that sealed bytes name a volume-key epoch that is not
	// at hand. It is an ErrAuth too.
	ErrEpoch = fmt.Errorf("volume-key epoch not at hand: %w", ErrAuth)
	// ErrZero reports that a structure is zero throughout: never written, or
	// lost.
	ErrZero = errors.New("all zero")
	// ErrMagic reports that bytes do not start as their structure does.
	ErrMagic = errors.New("not a plyfs structure")
	// ErrVersion reports a format version that this package does not know.
	ErrVersion = errors.New("unsupported format version")
	// ErrSuite reports a suite that is unknown or not the volume's.
	ErrSuite = errors.New("unsupported suite")
	// ErrForeign reports that a structure belongs to another volume.
	ErrForeign = errors.New("belongs to another volume")
	// ErrTooLong reports that a value is longer than the format can hold.
	ErrTooLong = errors.New("too long")
	// ErrOtherKeys reports keys that are not those that the volume had.
	ErrOtherKeys = errors.New("not the keys of this volume")
	// ErrWiped reports that the volume's keys were dropped.
	ErrWiped = errors.New("volume keys were wiped")
)

// VolumeID names a volume; it is random and never changes.
type VolumeID [16]byte

// FileID names a file's content; it is random and never changes.
type FileID [16]byte

// DirID names a directory; it is random and never changes.
type DirID [16]byte

func (id VolumeID) String() string { return hex.EncodeToString(id[:]) }
func (id FileID) String() string   { return hex.EncodeToString(id[:]) }
func (id DirID) String() string    { return hex.EncodeToString(id[:]) }

// Params are the parameters of a volume, fixed at its creation. All of them
// are bound into every key and every tag.
type Params struct {
	Format    uint16
	Suite     Suite
	Layers    uint8
	BlockSize uint32
	VolumeID  VolumeID
}

// Validate reports whether this package can serve the parameters: ErrVersion,
// ErrSuite, or an error that names the field at fault.
func (p Params) Validate() error {
	if p.Format != FormatVersion {
		return fmt.Errorf("format %d: %w", p.Format, ErrVersion)
	}
	layers, err := p.Suite.layers()
	if err != nil {
		return err
	}
	if p.Layers != layers {
		return fmt.Errorf("suite %s has %d layers, not %d: %w", p.Suite, layers, p.Layers, ErrSuite)
	}
	_, err = NewLayout(int(p.BlockSize))
	return err
}

// Keys are the volume keys of one epoch: V1 of layer 1 and V2 of layer 2, the
// latter zero in a single-layer volume.
type Keys struct{ Data, Infra [32]byte }

// Volume seals and opens what belongs to one volume under the keys of one
// epoch. Its methods are safe for concurrent use.
type Volume struct {
	params  Params
	epoch   uint32
	layout  Layout
	plies   plies
	ctx     [2]context
	rand    *random
	cache   subkeyCache
	serials atomic.Uint64 // of Files
	blocks  sync.Pool     // *scratch

	check [2][keySize]byte // derived from the keys, to know them again

	mu    sync.RWMutex // held for writing by Wipe and Restore, for reading while keys are used
	keys  *Keys        // nil while wiped
	small *smallKeys   // nil while wiped
	auths []*Authenticator
	wiped atomic.Bool
}

// NewVolume returns a Volume for parameters and the keys of an epoch (1 or
// more). It copies the keys. All randomness but layer 1's nonces, which the
// Go FIPS module makes itself, is read from rand; nil means crypto/rand. rand
// is read under a lock and ahead of need.
func NewVolume(p Params, epoch uint32, k Keys, rand io.Reader) (*Volume, error) {
	return newVolume(p, epoch, k, rand, standardPlies)
}

func newVolume(p Params, epoch uint32, k Keys, rand io.Reader, pl plies) (*Volume, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if epoch == 0 {
		return nil, errors.New("volume-key epoch 0 does not exist")
	}
	if p.Layers == 1 && k.Infra != [32]byte{} {
		return nil, errors.New("a single-layer volume takes no layer 2 key")
	}
	layout, err := NewLayout(int(p.BlockSize))
	if err != nil {
		return nil, err
	}
	v := &Volume{
		params: p, epoch: epoch, layout: layout, plies: pl,
		ctx:  [2]context{p.context(LayerData), p.context(LayerInfra)},
		rand: newRandom(rand), keys: &k,
	}
	v.blocks.New = func() any { return newScratch(int(p.BlockSize)) }
	if v.small, err = v.newSmallKeys(); err != nil {
		return nil, err
	}
	v.check = v.deriveBoth(labelCheck)
	return v, nil
}

// Params returns the volume's parameters.
func (v *Volume) Params() Params { return v.params }

// Epoch returns the volume-key epoch that the Volume's keys are of.
func (v *Volume) Epoch() uint32 { return v.epoch }

// BlockSize returns the block size in bytes.
func (v *Volume) BlockSize() int { return v.layout.BlockSize() }

// Layout returns the layout of the volume's files.
func (v *Volume) Layout() Layout { return v.layout }

// Wipe drops the volume's keys. From then on methods of the Volume and the
// block methods of its Files fail with ErrWiped; SealName and XattrName, which
// return no error, give "", SealDirID gives nil. Calls under way complete, but
// none of an Authenticator may be. Keys that were derived for Files go with
// File.Wipe. What the ciphers of the standard library and of x/crypto expanded
// cannot be overwritten; it goes with the garbage.
func (v *Volume) Wipe() {
	v.wiped.Store(true)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys != nil {
		*v.keys = Keys{}
		v.keys = nil
	}
	if v.small != nil {
		v.small.wipe()
		v.small = nil
	}
	for _, a := range v.auths {
		a.macs = nil
	}
	v.cache.clear()
}

// Restore undoes Wipe: the Volume, its Files and Authenticators go on. The keys
// must be those that the Volume was made with, else it returns ErrOtherKeys. It
// copies them.
func (v *Volume) Restore(k Keys) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys != nil {
		return nil
	}
	v.keys = &k
	check := v.deriveBoth(labelCheck)
	same := v.plies[0].equal(check[0][:], v.check[0][:]) && (!v.double() || v.plies[1].equal(check[1][:], v.check[1][:]))
	var err error
	if !same || !v.double() && k.Infra != [32]byte{} {
		err = ErrOtherKeys
	} else {
		v.small, err = v.newSmallKeys()
	}
	if err != nil {
		k = Keys{}
		v.keys = nil
		return err
	}
	for _, a := range v.auths {
		a.derive()
	}
	v.wiped.Store(false)
	return nil
}

// double reports whether the volume has layer 2.
func (v *Volume) double() bool { return v.params.Layers == 2 }
