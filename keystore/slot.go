package keystore

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// The kinds of slots.
const (
	KindGroup    = "group"          // a group key alone opens it
	KindProvider = "group+provider" // a group key opens it with a secret that a provider unwraps
	KindRecovery = "recovery"       // a passphrase alone opens it, where it is named
)

// slotKinds are their numbers in the slot header (FORMAT.md §6).
var slotKinds = map[string]byte{KindGroup: 1, KindProvider: 2, KindRecovery: 3}

// Lengths in a slot.
const (
	saltSize       = 32
	passSaltSize   = 16
	commitmentSize = 32
	keyIDSize      = 8
)

// SlotInfo describes one way to a layer's volume key.
type SlotInfo struct {
	Kind        string // KindGroup, KindProvider or KindRecovery
	Names       Names  // not of a recovery slot
	Epochs      Epochs // of the keys that wrapped it; not of a recovery slot
	VolumeEpoch uint32 // of the volume key that is wrapped
	Provider    string // name of the provider in the hosts' configuration; KindProvider alone
	Name        string // of a recovery slot
	Argon2      Argon2 // of a recovery slot's passphrase
}

// slot is a wrapped volume key of one layer. Its fields are public; header, salt, commitment and wrapped secret are
// bound into its keys.
type slot struct {
	SlotInfo
	wrapped    []byte // the secret as the provider wrapped it; KindProvider alone
	keyID      []byte // tells which group key wrapped it; not of a recovery slot
	passSalt   []byte // of a recovery slot's Argon2id
	salt       []byte
	commitment []byte
	sealed     []byte
}

// header returns the canonical bytes of FORMAT.md §6, which are bound into the slot's keys.
func (s *slot) header(l cipher.Layer) []byte {
	b := []byte{slotKinds[s.Kind], byte(l)}
	if s.Kind == KindRecovery {
		b = append(b, lp8(s.Name)...)
		for _, n := range []uint32{s.VolumeEpoch, s.Argon2.Time, s.Argon2.Memory} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		b = append(b, s.Argon2.Threads)
		return append(b, s.passSalt...)
	}
	b = append(b, lp8(s.Names.Cluster)...)
	b = append(b, lp8(s.Names.Group)...)
	for _, e := range []uint32{s.Epochs.Root, s.Epochs.Cluster, s.Epochs.Group, s.VolumeEpoch} {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	b = append(b, lp8(s.Provider)...)
	return append(b, s.keyID...)
}

// validate checks that a slot has the fields of its kind alone, and their lengths, names and epochs.
func (s *slot) validate(l cipher.Layer) error {
	if s.VolumeEpoch == 0 {
		return errors.New("slot with an epoch 0")
	}
	if len(s.salt) != saltSize || len(s.commitment) != commitmentSize || len(s.sealed) != boxOverhead(l)+keySize {
		return errors.New("slot with a field of wrong length")
	}
	if s.Kind == KindRecovery {
		return s.validateRecovery()
	}
	if err := s.Names.Validate(); err != nil {
		return err
	}
	if s.Epochs.Root == 0 || s.Epochs.Cluster == 0 || s.Epochs.Group == 0 {
		return errors.New("slot with an epoch 0")
	}
	if len(s.keyID) != keyIDSize {
		return errors.New("slot with a field of wrong length")
	}
	if s.Name != "" || s.passSalt != nil || s.Argon2 != (Argon2{}) {
		return errors.New("group slot with fields of a recovery slot")
	}
	if s.Kind == KindGroup {
		if s.Provider != "" || s.wrapped != nil {
			return errors.New("group slot with a provider")
		}
		return nil
	}
	if err := validateName("provider", s.Provider); err != nil {
		return err
	}
	if len(s.wrapped) == 0 || len(s.wrapped) > MaxWrapped {
		return errors.New("slot with a wrapped secret of wrong length")
	}
	return nil
}

func (s *slot) validateRecovery() error {
	if err := validateName("recovery slot", s.Name); err != nil {
		return err
	}
	if s.Names != (Names{}) || s.Epochs != (Epochs{}) || s.Provider != "" || s.wrapped != nil || s.keyID != nil {
		return errors.New("recovery slot with fields of a group slot")
	}
	if len(s.passSalt) != passSaltSize {
		return errors.New("slot with a field of wrong length")
	}
	return s.Argon2.validate()
}

// keyID returns the public name of a group key.
func (p ply) keyID(g *GroupKey) []byte { return p.sum(g.key, labelKeyID)[:keyIDSize] }

// slotKey derives what the KEK and the commitment of a slot come from. Of a group key and a provider's secret s, which
// is nil without a provider, each by itself makes the result unknown to whoever has the other alone.
func (p ply) slotKey(key, s *secret, sl *slot, descriptorHash []byte) *secret {
	info := [][]byte{sl.salt, lp16(sl.header(p.layer)), descriptorHash}
	box := p.key(key, labelSlot, info...)
	if s != nil {
		mask := p.key(s, labelSlotSecret, info...)
		defer mask.wipe()
		subtle.XORBytes(box.b[:], box.b[:], mask.b[:])
	}
	return box
}

// wrap returns a slot that holds a volume key: a group slot, or a group+provider slot when s is not nil.
func (p ply) wrap(g *GroupKey, s *providerSecret, volumeKey *secret, volumeEpoch uint32, descriptorHash []byte, rand io.Reader) (*slot, error) {
	sl := &slot{
		SlotInfo: SlotInfo{Kind: KindGroup, Names: g.names, Epochs: g.epochs, VolumeEpoch: volumeEpoch},
		keyID:    p.keyID(g),
	}
	var secretKey *secret
	if s != nil {
		sl.Kind, sl.Provider, sl.wrapped, secretKey = KindProvider, s.provider, s.wrapped, s.key
	}
	return sl, p.sealSlot(g.key, secretKey, sl, volumeKey, descriptorHash, rand)
}

// providerSecret is the secret of a new group+provider slot, with what the provider made of it.
type providerSecret struct {
	provider string
	key      *secret
	wrapped  []byte
}

// wrapRecovery returns a recovery slot that holds a volume key.
func (p ply) wrapRecovery(name string, passphrase []byte, a Argon2, volumeKey *secret, volumeEpoch uint32, descriptorHash []byte, rand io.Reader) (*slot, error) {
	sl := &slot{
		SlotInfo: SlotInfo{Kind: KindRecovery, VolumeEpoch: volumeEpoch, Name: name, Argon2: a},
		passSalt: make([]byte, passSaltSize),
	}
	if _, err := io.ReadFull(rand, sl.passSalt); err != nil {
		return nil, fmt.Errorf("read random bytes: %w", err)
	}
	key := a.key(passphrase, sl.passSalt)
	defer key.wipe()
	return sl, p.sealSlot(key, nil, sl, volumeKey, descriptorHash, rand)
}

// sealSlot gives a slot its salt, commitment and sealed key.
func (p ply) sealSlot(key, s *secret, sl *slot, volumeKey *secret, descriptorHash []byte, rand io.Reader) (err error) {
	header := sl.header(p.layer)
	if sl.salt, err = p.salt(key, rand, append(header, descriptorHash...), volumeKey.b[:]); err != nil {
		return err
	}
	boxKey := p.slotKey(key, s, sl, descriptorHash)
	defer boxKey.wipe()
	sl.commitment = p.commitment(boxKey)
	sl.sealed, err = p.seal(boxKey, rand, sl.header(p.layer), volumeKey.b[:])
	return err
}

// unwrap opens a group slot, or with the provider's secret s a group+provider slot. The commitment decides; only when
// it refuses does the key ID tell another group key (ErrWrongKey) from a slot or descriptor that was changed, or
// another secret (ErrTampered).
func (p ply) unwrap(g *GroupKey, s *secret, sl *slot, descriptorHash []byte) (*secret, error) {
	v, err := p.openSlotBox(g.key, s, sl, descriptorHash)
	if errors.Is(err, errCommitment) && !p.equal(sl.keyID, p.keyID(g)) {
		return nil, &fault{what: fmt.Sprintf("the %s layer's key of group %s is not the one this volume was wrapped with", p.layer, sl.Names), kind: ErrWrongKey,
			hint: "A group of the same name in another key store has other keys: give the key stores this volume was made with."}
	}
	if err != nil {
		return nil, &fault{what: fmt.Sprintf("wrapped key of the %s layer", p.layer), kind: ErrTampered}
	}
	return v, nil
}

// unwrapRecovery opens a recovery slot. Nothing tells a wrong passphrase from a slot or descriptor that was changed.
func (p ply) unwrapRecovery(passphrase []byte, sl *slot, descriptorHash []byte) (*secret, error) {
	key := sl.Argon2.key(passphrase, sl.passSalt)
	defer key.wipe()
	v, err := p.openSlotBox(key, nil, sl, descriptorHash)
	if errors.Is(err, errCommitment) {
		return nil, &fault{what: fmt.Sprintf("the passphrase does not open recovery slot %s of the %s layer", sl.Name, p.layer), kind: ErrWrongKey,
			hint: "Check the passphrase. If it is the right one, the slot or the volume's descriptor was changed: restore plyfs.json."}
	}
	if err != nil {
		return nil, &fault{what: fmt.Sprintf("wrapped key of the %s layer", p.layer), kind: ErrTampered}
	}
	return v, nil
}

// openSlotBox returns the volume key in a slot: errCommitment or errSealed.
func (p ply) openSlotBox(key, s *secret, sl *slot, descriptorHash []byte) (*secret, error) {
	boxKey := p.slotKey(key, s, sl, descriptorHash)
	defer boxKey.wipe()
	plain, err := p.open(boxKey, sl.commitment, sl.header(p.layer), sl.sealed)
	if err != nil {
		return nil, err
	}
	if len(plain) != keySize {
		wipe(plain)
		return nil, errSealed
	}
	return newSecret(plain), nil
}
