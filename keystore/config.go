package keystore

import (
	"fmt"
	"io"
	"strings"

	"github.com/plyfs/plyfs/cipher"
)

// firstVolumeEpoch is the epoch of a new volume's keys.
const firstVolumeEpoch = 1

// Config is a volume's parsed plyfs.json. Nothing it shows is authenticated before Unlock succeeded. It is not safe
// for concurrent use.
type Config struct {
	files    []*volumeFile // newest first, all with one descriptor; Unlock moves the one that verified to the front
	warnings []string
}

// ParseConfig parses the content of a plyfs.json without any key: ErrTruncated, ErrTampered, ErrVersion. It keeps no
// reference to b.
func ParseConfig(b []byte) (*Config, error) {
	f, err := parseVolumeFile(configName, b)
	if err != nil {
		return nil, err
	}
	return &Config{files: []*volumeFile{f}}, nil
}

// Params returns the volume's parameters, as the descriptor says.
func (c *Config) Params() cipher.Params { return c.files[0].params }

// Layers returns the layers that the volume has.
func (c *Config) Layers() []cipher.Layer {
	return []cipher.Layer{cipher.LayerData, cipher.LayerInfra}[:c.Params().Layers]
}

// Generation returns how often a layer's slots were written, from 1; 0 for a layer that the volume has not.
func (c *Config) Generation(l cipher.Layer) uint64 {
	if s := c.files[0].section(l); s != nil {
		return s.generation
	}
	return 0
}

// Slots describes the ways to a layer's volume key; nil for a layer that the volume has not.
func (c *Config) Slots(l cipher.Layer) []SlotInfo {
	s := c.files[0].section(l)
	if s == nil {
		return nil
	}
	infos := make([]SlotInfo, len(s.slots))
	for i, sl := range s.slots {
		infos[i] = sl.SlotInfo
	}
	return infos
}

// Warnings tells, in sentences for the operator, what ReadConfig and Unlock had to work around.
func (c *Config) Warnings() []string { return c.warnings }

// Bytes returns the content of the file that the Config shows, to be written again with WriteConfig.
func (c *Config) Bytes() []byte { return append([]byte(nil), c.files[0].raw...) }

func (f *volumeFile) section(l cipher.Layer) *section {
	if l != cipher.LayerData && l != cipher.LayerInfra {
		return nil
	}
	return f.sections[l-1]
}

// checkStores answers before any key is used: the stores are of the right layers, there is one for each layer of the
// volume and none more, and they were generated apart.
func checkStores(p cipher.Params, data, infra *Store) error {
	if data == nil {
		return &fault{what: "no key store for the data layer", kind: ErrUsage}
	}
	if infra == nil && p.Layers != 1 {
		return &fault{what: fmt.Sprintf("the volume has %d layers, one asked for", p.Layers), kind: ErrWrongLayers,
			hint: "Leave out -o layers=1 (or --single-layer) and give the key stores of both layers."}
	}
	if infra != nil && p.Layers != 2 {
		return &fault{what: "the volume says that it has one layer, two asked for", kind: ErrWrongLayers,
			hint: "If this volume was made with --single-layer, say -o layers=1. If it was not, its config was exchanged: restore it."}
	}
	if data.Layer() != cipher.LayerData || infra != nil && infra.Layer() != cipher.LayerInfra {
		return &fault{what: "key store of the wrong layer", kind: ErrWrongKey}
	}
	if infra != nil && data.sharesRoot(infra) {
		return &fault{what: "the key stores of both layers hold the same root", kind: ErrUsage,
			hint: "One store was copied from the other, so that there is one key and not two: make new ones with plyfs keystore init."}
	}
	return nil
}

// NewVolumeConfig makes the keys of a new volume and the plyfs.json that holds them wrapped under a group's newest
// keys. infra is nil for a single-layer volume. A zero p.VolumeID is replaced by a random one (ParseConfig tells
// which). rand nil means crypto/rand. The caller writes the config with WriteConfig and wipes the keys.
func NewVolumeConfig(p cipher.Params, names Names, data, infra *Store, rand io.Reader) (config []byte, keys cipher.Keys, err error) {
	rand = randomOr(rand)
	if p.VolumeID == (cipher.VolumeID{}) {
		if _, err := io.ReadFull(rand, p.VolumeID[:]); err != nil {
			return nil, keys, fmt.Errorf("read random bytes: %w", err)
		}
	}
	if err := p.Validate(); err != nil {
		return nil, keys, &fault{what: "volume parameters", kind: ErrUsage, cause: err}
	}
	if err := checkStores(p, data, infra); err != nil {
		return nil, keys, err
	}
	b, v, err := newVolume(plies{plyOf(cipher.LayerData), plyOf(cipher.LayerInfra)}, p, names, [2]*Store{data, infra}, rand)
	if err != nil {
		return nil, keys, err
	}
	defer v[0].wipe()
	defer v[1].wipe()
	// What was made must open: a fault of memory or of this program must not cost a volume.
	c, err := ParseConfig(b)
	if err != nil {
		return nil, keys, err
	}
	_, keys, _, err = c.Unlock(data, infra)
	if err == nil && (keys.Data != v[0].b || v[1] != nil && keys.Infra != v[1].b) {
		err = &fault{what: "new volume's config does not give its keys back", kind: ErrTampered}
	}
	if err != nil {
		wipeKeys(&keys)
		return nil, keys, err
	}
	return b, keys, nil
}

// newVolume makes volume keys and renders their config.
func newVolume(pl plies, p cipher.Params, names Names, stores [2]*Store, rand io.Reader) ([]byte, [2]*secret, error) {
	var v [2]*secret
	var groups [2]*GroupKey
	for i, s := range stores {
		if s == nil {
			continue
		}
		g, err := s.GroupKey(names)
		if err != nil {
			return nil, v, err
		}
		defer g.Wipe()
		groups[i] = g
	}
	e := envelope{Magic: envelopeMagic, Version: envelopeVersion, Descriptor: encodeDescriptor(p)}
	for i, g := range groups {
		if g == nil {
			continue
		}
		var err error
		if v[i], err = pl[i].newVolumeKey(g, e.Descriptor, rand); err != nil {
			return nil, v, err
		}
		hash := hashDescriptor(pl[i].layer, e.Descriptor)
		sl, err := pl[i].wrap(g, v[i], firstVolumeEpoch, hash, rand)
		if err != nil {
			return nil, v, err
		}
		s := &section{generation: 1, slots: []*slot{sl}}
		pl[i].authenticate(s, v[i], e.Descriptor)
		if i == 0 {
			e.Data = s.json()
		} else {
			e.Infra = s.json()
		}
	}
	b, err := e.render()
	return b, v, err
}

// newVolumeKey returns a random volume key. The random bytes go through the group key, so that the two layers' volume
// keys differ even when the random source repeats.
func (p ply) newVolumeKey(g *GroupKey, descriptor []byte, rand io.Reader) (*secret, error) {
	r, err := randomSecret(rand)
	if err != nil {
		return nil, err
	}
	defer r.wipe()
	return p.key(g.key, labelVolume, r.b[:], descriptor), nil
}

// authenticate sets the two MACs of a section (FORMAT.md §5).
func (p ply) authenticate(s *section, v *secret, descriptor []byte) {
	s.descriptorMAC, s.mac = p.sectionMACs(s, v, descriptor)
}

func (p ply) sectionMACs(s *section, v *secret, descriptor []byte) (descriptorMAC, mac []byte) {
	key := p.key(v, labelConfig)
	defer key.wipe()
	return p.sum(key, labelDescriptor, descriptor),
		p.sum(key, labelSection, s.macInput(p.layer, hashDescriptor(p.layer, descriptor)))
}

// Unlock unwraps the volume's keys. infra nil says that the caller asks for a single-layer volume, infra not nil that
// it asks for both layers: ErrWrongLayers when the volume is the other, so that an exchanged config takes no layer
// away. It answers first whether the stores know the group (ErrWrongGroup), then whether their keys are the right ones
// (ErrWrongKey), and then whether anything was changed (ErrTampered); either layer by itself refuses a changed
// descriptor. Of several files the newest that verifies is taken; Warnings tells of the others. The caller wipes the
// keys.
func (c *Config) Unlock(data, infra *Store) (p cipher.Params, keys cipher.Keys, epoch uint32, err error) {
	pl := plies{plyOf(cipher.LayerData), plyOf(cipher.LayerInfra)}
	var first error
	for i, f := range c.files {
		keys, epoch, err = f.unlock(pl, data, infra)
		if err == nil {
			c.files[0], c.files[i] = c.files[i], c.files[0]
			return f.params, keys, epoch, nil
		}
		if i == 0 {
			first = err
		}
		if i+1 < len(c.files) {
			c.warnings = append(c.warnings, fmt.Sprintf("%s does not verify (%v); trying %s.", f.name, err, c.files[i+1].name))
		}
	}
	return cipher.Params{}, cipher.Keys{}, 0, first
}

// unlock unwraps and verifies with the given primitives.
func (f *volumeFile) unlock(pl plies, data, infra *Store) (keys cipher.Keys, epoch uint32, err error) {
	if err := checkStores(f.params, data, infra); err != nil {
		return keys, 0, err
	}
	stores := [2]*Store{data, infra}
	n := int(f.params.Layers)
	for i := range n {
		if err := f.knows(stores[i], f.sections[i]); err != nil {
			return keys, 0, err
		}
	}
	var v [2]*secret
	var epochs [2]uint32
	defer func() { v[0].wipe(); v[1].wipe() }()
	for i := range n {
		if v[i], epochs[i], err = f.open(pl[i], stores[i], f.sections[i]); err != nil {
			return keys, 0, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	for i := range n {
		descriptorMAC, mac := pl[i].sectionMACs(f.sections[i], v[i], f.descriptor)
		if !pl[i].equal(f.sections[i].descriptorMAC, descriptorMAC) {
			return keys, 0, &fault{what: fmt.Sprintf("%s: volume descriptor, says the %s layer", f.name, pl[i].layer), kind: ErrTampered}
		}
		if !pl[i].equal(f.sections[i].mac, mac) {
			return keys, 0, &fault{what: fmt.Sprintf("%s: slots of the %s layer", f.name, pl[i].layer), kind: ErrTampered}
		}
	}
	if n == 2 && epochs[0] != epochs[1] {
		return keys, 0, &fault{what: fmt.Sprintf("%s: volume keys of epoch %d and %d", f.name, epochs[0], epochs[1]), kind: ErrTampered}
	}
	keys.Data = v[0].b
	if n == 2 {
		keys.Infra = v[1].b
	}
	return keys, epochs[0], nil
}

// knows returns ErrWrongGroup unless the store holds the group of one of the slots.
func (f *volumeFile) knows(s *Store, sec *section) error {
	var first error
	var names []string
	for _, sl := range sec.slots {
		g, err := s.GroupKey(sl.Names)
		if err == nil {
			g.Wipe()
			return nil
		}
		if first == nil {
			first = err
		}
		names = append(names, sl.Names.String())
	}
	return fmt.Errorf("%s: the %s layer belongs to group %s: %w", f.name, s.Layer(), strings.Join(names, ", "), first)
}

// open tries the slots whose group the store holds, and returns the first error when none opens.
func (f *volumeFile) open(p ply, s *Store, sec *section) (v *secret, epoch uint32, err error) {
	hash := hashDescriptor(p.layer, f.descriptor)
	var first error
	for _, sl := range sec.slots {
		v, err := openSlot(p, s, sl, hash)
		if err == nil {
			return v, sl.VolumeEpoch, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, 0, first
}

func openSlot(p ply, s *Store, sl *slot, descriptorHash []byte) (*secret, error) {
	g, err := s.GroupKeyAt(sl.Names, sl.Epochs)
	if err != nil {
		return nil, err
	}
	defer g.Wipe()
	return p.unwrap(g, sl, descriptorHash)
}
