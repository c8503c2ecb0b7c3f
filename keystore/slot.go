package keystore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// KindGroup is the kind of slot that a group key alone opens.
const KindGroup = "group"

// slotKindGroup is its number in the slot header (FORMAT.md §6).
const slotKindGroup = 1

// Lengths in a slot.
const (
	saltSize       = 32
	commitmentSize = 32
	keyIDSize      = 8
)

// SlotInfo describes one way to a layer's volume key.
type SlotInfo struct {
	Kind        string // KindGroup
	Names       Names
	Epochs      Epochs // of the keys that wrapped it
	VolumeEpoch uint32 // of the volume key that is wrapped
}

// slot is a wrapped volume key of one layer. Its fields are public; all but sealed are its header, salt and
// commitment.
type slot struct {
	SlotInfo
	keyID      []byte // tells which group key wrapped it
	salt       []byte
	commitment []byte
	sealed     []byte
}

// header returns the canonical bytes of FORMAT.md §6, which are bound into the slot's keys.
func (s *slot) header(l cipher.Layer) []byte {
	b := []byte{slotKindGroup, byte(l)}
	b = append(b, lp8(s.Names.Cluster)...)
	b = append(b, lp8(s.Names.Group)...)
	for _, e := range []uint32{s.Epochs.Root, s.Epochs.Cluster, s.Epochs.Group, s.VolumeEpoch} {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	b = append(b, 0) // provider name: empty in a group slot
	return append(b, s.keyID...)
}

// validate checks lengths, names and epochs.
func (s *slot) validate(l cipher.Layer) error {
	if err := s.Names.Validate(); err != nil {
		return err
	}
	if s.Epochs.Root == 0 || s.Epochs.Cluster == 0 || s.Epochs.Group == 0 || s.VolumeEpoch == 0 {
		return errors.New("slot with an epoch 0")
	}
	if len(s.keyID) != keyIDSize || len(s.salt) != saltSize || len(s.commitment) != commitmentSize ||
		len(s.sealed) != boxOverhead(l)+keySize {
		return errors.New("slot with a field of wrong length")
	}
	return nil
}

// keyID returns the public name of a group key.
func (p ply) keyID(g *GroupKey) []byte { return p.sum(g.key, labelKeyID)[:keyIDSize] }

// slotKey derives what the KEK and the commitment of a slot come from.
func (p ply) slotKey(g *GroupKey, s *slot, descriptorHash []byte) *secret {
	return p.key(g.key, labelSlot, s.salt, lp16(s.header(p.layer)), descriptorHash)
}

// wrap returns a group slot that holds a volume key.
func (p ply) wrap(g *GroupKey, volumeKey *secret, volumeEpoch uint32, descriptorHash []byte, rand io.Reader) (*slot, error) {
	s := &slot{
		SlotInfo: SlotInfo{Kind: KindGroup, Names: g.names, Epochs: g.epochs, VolumeEpoch: volumeEpoch},
		keyID:    p.keyID(g),
	}
	var err error
	if s.salt, err = p.salt(g.key, rand, append(s.header(p.layer), descriptorHash...), volumeKey.b[:]); err != nil {
		return nil, err
	}
	boxKey := p.slotKey(g, s, descriptorHash)
	defer boxKey.wipe()
	s.commitment = p.commitment(boxKey)
	s.sealed, err = p.seal(boxKey, rand, s.header(p.layer), volumeKey.b[:])
	return s, err
}

// unwrap opens a slot. The commitment decides; only when it refuses does the key ID tell another group key
// (ErrWrongKey) from a slot or descriptor that was changed (ErrTampered).
func (p ply) unwrap(g *GroupKey, s *slot, descriptorHash []byte) (*secret, error) {
	boxKey := p.slotKey(g, s, descriptorHash)
	defer boxKey.wipe()
	plain, err := p.open(boxKey, s.commitment, s.header(p.layer), s.sealed)
	switch {
	case err == nil && len(plain) == keySize:
		return newSecret(plain), nil
	case errors.Is(err, errCommitment) && !p.equal(s.keyID, p.keyID(g)):
		return nil, &fault{what: fmt.Sprintf("the %s layer's key of group %s is not the one this volume was wrapped with", p.layer, s.Names), kind: ErrWrongKey,
			hint: "A group of the same name in another key store has other keys: give the key stores this volume was made with."}
	}
	return nil, &fault{what: fmt.Sprintf("wrapped key of the %s layer", p.layer), kind: ErrTampered}
}
