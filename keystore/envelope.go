package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// Limits of plyfs.json (FORMAT.md §5).
const (
	envelopeMagic   = "volume"
	envelopeVersion = 1
	configMaxSize   = 64 << 10
	maxSlots        = 16 // per layer
	maxGeneration   = 1 << 53
)

// envelope is plyfs.json. There is one rendering of it, and a file that differs from it in a byte is refused.
type envelope struct {
	Magic      string       `json:"plyfs"`
	Version    int          `json:"version"`
	Descriptor []byte       `json:"descriptor"`
	Data       *jsonSection `json:"data"`
	Infra      *jsonSection `json:"infra,omitempty"`
	Checksum   string       `json:"checksum"`
}

type jsonSection struct {
	Generation    uint64     `json:"generation"`
	Slots         []jsonSlot `json:"slots"`
	DescriptorMAC []byte     `json:"descriptor_mac"`
	MAC           []byte     `json:"mac"`
}

// jsonSlot has the members of every kind of slot; one that a kind has not is left out.
type jsonSlot struct {
	Kind           string `json:"kind"`
	Cluster        string `json:"cluster,omitempty"`
	Group          string `json:"group,omitempty"`
	RootEpoch      uint32 `json:"root_epoch,omitempty"`
	ClusterEpoch   uint32 `json:"cluster_epoch,omitempty"`
	GroupEpoch     uint32 `json:"group_epoch,omitempty"`
	Name           string `json:"name,omitempty"`
	VolumeEpoch    uint32 `json:"volume_epoch"`
	Provider       string `json:"provider,omitempty"`
	Wrapped        []byte `json:"wrapped,omitempty"`
	KeyID          []byte `json:"key_id,omitempty"`
	Passes         uint32 `json:"passes,omitempty"`
	Memory         uint32 `json:"memory,omitempty"`
	Lanes          uint8  `json:"lanes,omitempty"`
	PassphraseSalt []byte `json:"passphrase_salt,omitempty"`
	Salt           []byte `json:"salt"`
	Commitment     []byte `json:"commitment"`
	Sealed         []byte `json:"sealed"`
}

// section is one layer's part of the config.
type section struct {
	generation    uint64
	slots         []*slot
	descriptorMAC []byte
	mac           []byte
}

// volumeFile is one parsed plyfs.json.
type volumeFile struct {
	name       string // for messages
	raw        []byte
	descriptor []byte
	params     cipher.Params
	sections   [2]*section // data, infra; the second is nil in a single-layer volume
}

// render returns the canonical bytes of an envelope, checksum included.
func (e envelope) render() ([]byte, error) {
	e.Checksum = ""
	b, err := e.marshal()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	e.Checksum = hex.EncodeToString(sum[:])
	return e.marshal()
}

func (e envelope) marshal() ([]byte, error) {
	b, err := json.MarshalIndent(e, "", "  ")
	return append(b, '\n'), err
}

// parseVolumeFile parses strictly: size, JSON, magic, version, the canonical rendering, the checksum, and every field.
// It needs no key; what it returns is not authenticated.
func parseVolumeFile(name string, b []byte) (*volumeFile, error) {
	if len(b) > configMaxSize {
		return nil, &fault{what: fmt.Sprintf("%s is longer than %d bytes", name, configMaxSize), kind: ErrTampered}
	}
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, &fault{what: name, kind: err}
	}
	f := &volumeFile{name: name, raw: bytes.Clone(b), descriptor: e.Descriptor}
	if f.params, err = decodeDescriptor(e.Descriptor); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if (e.Infra != nil) != (f.params.Layers == 2) {
		return nil, &fault{what: name + " with sections of other layers than its descriptor says", kind: ErrTampered}
	}
	for i, s := range []*jsonSection{e.Data, e.Infra} {
		if s == nil {
			continue
		}
		if f.sections[i], err = s.section(cipher.Layer(i + 1)); err != nil {
			if errors.Is(err, ErrVersion) {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return nil, &fault{what: name, kind: ErrTampered, cause: err}
		}
	}
	return f, nil
}

// parseEnvelope returns one of ErrTruncated, ErrTampered and ErrVersion.
func parseEnvelope(b []byte) (*envelope, error) {
	var head struct {
		Magic   string `json:"plyfs"`
		Version *int   `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrTruncated
		}
		return nil, ErrTampered
	}
	if head.Magic != envelopeMagic || head.Version == nil {
		return nil, ErrTampered
	}
	if *head.Version != envelopeVersion {
		return nil, ErrVersion
	}
	var e envelope
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, ErrTampered
	}
	canonical, err := e.render()
	if err != nil || e.Data == nil {
		return nil, ErrTampered
	}
	if len(b) < len(canonical) && bytes.HasPrefix(canonical, b) {
		return nil, ErrTruncated
	}
	if !bytes.Equal(canonical, b) {
		return nil, ErrTampered
	}
	return &e, nil
}

func (j *jsonSection) section(l cipher.Layer) (*section, error) {
	if j.Generation == 0 || j.Generation > maxGeneration {
		return nil, fmt.Errorf("%s layer: generation out of range", l)
	}
	if j.Slots == nil || len(j.Slots) > maxSlots {
		return nil, fmt.Errorf("%s layer: %d slots", l, len(j.Slots))
	}
	if len(j.MAC) != keySize || len(j.DescriptorMAC) != keySize {
		return nil, fmt.Errorf("%s layer: MAC of wrong length", l)
	}
	s := &section{generation: j.Generation, descriptorMAC: j.DescriptorMAC, mac: j.MAC}
	for _, js := range j.Slots {
		if slotKinds[js.Kind] == 0 {
			return nil, &fault{what: fmt.Sprintf("%s layer: slot of kind %q", l, js.Kind), kind: ErrVersion}
		}
		sl := js.slot()
		if err := sl.validate(l); err != nil {
			return nil, fmt.Errorf("%s layer: %w", l, err)
		}
		if s.recovers(sl.Name) { // one name costs one Argon2id
			return nil, fmt.Errorf("%s layer: several recovery slots %s", l, sl.Name)
		}
		s.slots = append(s.slots, sl)
	}
	return s, nil
}

func (j *jsonSlot) slot() *slot {
	return &slot{
		SlotInfo: SlotInfo{
			Kind: j.Kind, Names: Names{Cluster: j.Cluster, Group: j.Group}, VolumeEpoch: j.VolumeEpoch,
			Epochs: Epochs{Root: j.RootEpoch, Cluster: j.ClusterEpoch, Group: j.GroupEpoch},
			Name:   j.Name, Provider: j.Provider, Argon2: Argon2{Time: j.Passes, Memory: j.Memory, Threads: j.Lanes},
		},
		wrapped: j.Wrapped, keyID: j.KeyID, passSalt: j.PassphraseSalt, salt: j.Salt, commitment: j.Commitment, sealed: j.Sealed,
	}
}

func (s *section) json() *jsonSection {
	if s == nil {
		return nil
	}
	j := &jsonSection{Generation: s.generation, Slots: []jsonSlot{}, DescriptorMAC: s.descriptorMAC, MAC: s.mac}
	for _, sl := range s.slots {
		j.Slots = append(j.Slots, jsonSlot{
			Kind: sl.Kind, Cluster: sl.Names.Cluster, Group: sl.Names.Group,
			RootEpoch: sl.Epochs.Root, ClusterEpoch: sl.Epochs.Cluster, GroupEpoch: sl.Epochs.Group, VolumeEpoch: sl.VolumeEpoch,
			Name: sl.Name, Provider: sl.Provider, Wrapped: sl.wrapped, KeyID: sl.keyID,
			Passes: sl.Argon2.Time, Memory: sl.Argon2.Memory, Lanes: sl.Argon2.Threads, PassphraseSalt: sl.passSalt,
			Salt: sl.salt, Commitment: sl.commitment, Sealed: sl.sealed,
		})
	}
	return j
}

// macInput returns the bytes under a section's MAC (FORMAT.md §5).
func (s *section) macInput(l cipher.Layer, descriptorHash []byte) []byte {
	b := append([]byte{}, descriptorHash...)
	b = append(b, byte(l))
	b = binary.BigEndian.AppendUint64(b, s.generation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.slots)))
	for _, sl := range s.slots {
		b = append(b, lp16(sl.header(l))...)
		b = append(b, sl.salt...)
		b = append(b, sl.commitment...)
		b = append(b, lp16(sl.wrapped)...)
		b = append(b, lp16(sl.sealed)...)
	}
	return b
}
