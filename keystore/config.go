package keystore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/plyfs/plyfs/cipher"
)

// firstVolumeEpoch is the epoch of a new volume's keys.
const firstVolumeEpoch = 1

// Config is a volume's parsed plyfs.json. Nothing it shows is authenticated before Unlock succeeded. It is not safe
// for concurrent use.
type Config struct {
	files    []*volumeFile // newest first, all with one descriptor; Unlock moves the one that verified to the front
	differ   bool          // a second file is missing, damaged or another
	warnings []string
}

// ParseConfig parses the content of a plyfs.json without any key: ErrTruncated, ErrTampered, ErrVersion. It keeps no
// reference to b.
func ParseConfig(b []byte) (*Config, error) {
	f, err := parseVolumeFile(ConfigName, b)
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

// Recovers reports whether a layer has a recovery slot of that name.
func (c *Config) Recovers(l cipher.Layer, name string) bool {
	s := c.files[0].section(l)
	return s != nil && s.recovers(name)
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

// Repair returns what is to be given to WriteConfig so that the volume's two files are equal again; nil if they are, or if
// the other one may be newer. Unlock has succeeded before.
func (c *Config) Repair() []byte {
	if !c.differ || len(c.files) > 1 && !c.files[0].newerThan(c.files[1]) {
		return nil
	}
	return c.Bytes()
}

func (f *volumeFile) section(l cipher.Layer) *section {
	if l != cipher.LayerData && l != cipher.LayerInfra {
		return nil
	}
	return f.sections[l-1]
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
	a := StoreAccess(data, infra)
	if data == nil {
		return nil, keys, &fault{what: "no key store for the data layer", kind: ErrUsage}
	}
	if err := a.checkLayers(p); err != nil {
		return nil, keys, err
	}
	if err := checkStores(data, infra); err != nil {
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
	u, err := c.Unlock(context.Background(), a)
	keys = u.Keys
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
		sl, err := pl[i].wrap(g, nil, v[i], firstVolumeEpoch, hash, rand)
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

// Unlock unwraps the volume's keys with what a has: ErrWrongLayers when the volume has another number of layers than a
// states. Of each layer it answers first whether the store knows the group (ErrWrongGroup), then whether its key is the right
// one (ErrWrongKey, ErrRetired), whether the provider of its slot agrees (ErrDenied, ErrUnavailable), and then whether
// anything was changed (ErrTampered); either layer by itself refuses a changed descriptor. The error tells of both layers
// where both fail: LayerErrors. Of several files the newest that verifies is taken; Warnings tells of the others. None
// older is tried after one that is erased, or whose provider denied or could not be asked: that may be what the newer one
// was written for.
func (c *Config) Unlock(ctx context.Context, a Access) (Unlocked, error) {
	pl := plies{plyOf(cipher.LayerData), plyOf(cipher.LayerInfra)}
	a = a.remembering()
	defer a.forget()
	var first error
	for i, f := range c.files {
		u, err := f.unlock(ctx, pl, &a)
		if err == nil {
			c.files[0], c.files[i] = c.files[i], c.files[0]
			return u, nil
		}
		if i == 0 {
			first = err
		}
		if i+1 == len(c.files) || f.newerThan(c.files[i+1]) && isRefusal(err) {
			break
		}
		c.warnings = append(c.warnings, fmt.Sprintf("%s does not verify (%v); trying %s.", f.name, err, c.files[i+1].name))
	}
	return Unlocked{}, first
}

// isRefusal reports whether a key is refused, or may be, rather than damaged or not at hand.
func isRefusal(err error) bool {
	return errors.Is(err, ErrDenied) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRetired)
}

// unlock unwraps and verifies with the given primitives.
func (f *volumeFile) unlock(ctx context.Context, pl plies, a *Access) (Unlocked, error) {
	v, u, err := f.unwrap(ctx, pl, a)
	defer v.wipe()
	if err != nil {
		return Unlocked{}, err
	}
	u.Keys.Data = v[0].b
	if v[1] != nil {
		u.Keys.Infra = v[1].b
	}
	return u, nil
}

// volumeKeys are a volume's keys by layer; the second is nil in a single-layer volume.
type volumeKeys [2]*secret

func (v volumeKeys) wipe() {
	v[0].wipe()
	v[1].wipe()
}

// unwrap returns the volume's keys, which the caller wipes, after all of the file was verified with them. What it finds
// wrong with one layer keeps it from nothing that it can find of the other.
func (f *volumeFile) unwrap(ctx context.Context, pl plies, a *Access) (v volumeKeys, u Unlocked, err error) {
	if err := a.check(f); err != nil {
		return v, u, err
	}
	var failed [2]error
	n := int(f.params.Layers)
	for i := range n {
		failed[i] = f.knows(a, f.sections[i], pl[i].layer)
	}
	u.Params = f.params
	for i := range n {
		if failed[i] != nil {
			continue
		}
		sl, key, err := f.open(ctx, pl[i], a, f.sections[i])
		if err != nil {
			failed[i] = fmt.Errorf("%s: %w", f.name, err)
			continue
		}
		v[i] = key
		u.Opened = append(u.Opened, sl.SlotInfo)
		failed[i] = f.verify(pl[i], key)
	}
	if err := JoinLayers(failed[0], failed[1]); err != nil {
		return v, u, err
	}
	u.Epoch = u.Opened[0].VolumeEpoch
	if n == 2 && u.Epoch != u.Opened[1].VolumeEpoch {
		return v, u, &fault{what: fmt.Sprintf("%s: volume keys of epoch %d and %d", f.name, u.Epoch, u.Opened[1].VolumeEpoch), kind: ErrTampered}
	}
	return v, u, nil
}

// verify checks both MACs of a layer.
func (f *volumeFile) verify(p ply, v *secret) error {
	s := f.section(p.layer)
	descriptorMAC, mac := p.sectionMACs(s, v, f.descriptor)
	if !p.equal(s.descriptorMAC, descriptorMAC) {
		return &fault{what: fmt.Sprintf("%s: volume descriptor, says the %s layer", f.name, p.layer), kind: ErrTampered}
	}
	if !p.equal(s.mac, mac) {
		return &fault{what: fmt.Sprintf("%s: slots of the %s layer", f.name, p.layer), kind: ErrTampered}
	}
	return nil
}

// knows returns ErrWrongGroup unless the layer's store holds the group of one of the slots, or a recovery slot is named.
func (f *volumeFile) knows(a *Access, sec *section, l cipher.Layer) error {
	if sec.recovers(a.Recovery) {
		return nil
	}
	if a.store(l) == nil {
		return a.noStore(l)
	}
	var first error
	var names []string
	for _, sl := range sec.slots {
		if sl.Kind == KindRecovery {
			continue
		}
		err := a.store(l).holds(sl.Names)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
		names = append(names, sl.Names.String())
	}
	switch {
	case len(sec.slots) == 0:
		return &fault{what: fmt.Sprintf("%s: the %s layer has no key slot left", f.name, l), kind: ErrRetired, hint: erasedHint}
	case first == nil:
		return &fault{what: fmt.Sprintf("%s: only recovery slots open the %s layer", f.name, l), kind: ErrUsage,
			hint: "Name one: -o recovery=NAME (plyfs info lists them)."}
	}
	return fmt.Errorf("%s: the %s layer belongs to group %s: %w", f.name, l, strings.Join(names, ", "), first)
}

const erasedHint = "The volume was erased by destroying its keys; an older copy of its plyfs.json is the only way back."

// open tries the slots that a may open, and returns, when none opens, the first error, or one that may pass.
func (f *volumeFile) open(ctx context.Context, p ply, a *Access, sec *section) (*slot, *secret, error) {
	hash := hashDescriptor(p.layer, f.descriptor)
	recovers := sec.recovers(a.Recovery)
	var first error
	for _, sl := range sec.slots {
		if recovers != (sl.Kind == KindRecovery) || recovers && sl.Name != a.Recovery {
			continue
		}
		if s := a.store(p.layer); !recovers && s != nil && s.holds(sl.Names) != nil {
			continue // another group's
		}
		v, err := a.openSlot(ctx, p, sl, hash)
		if err == nil {
			return sl, v, nil
		}
		if first == nil || errors.Is(err, ErrUnavailable) && !errors.Is(first, ErrUnavailable) {
			first = err
		}
	}
	return nil, nil, first
}

// recovers reports whether the section has a recovery slot of that name.
func (s *section) recovers(name string) bool {
	return name != "" && slices.ContainsFunc(s.slots, func(sl *slot) bool { return sl.Kind == KindRecovery && sl.Name == name })
}

// openSlot opens one slot of any kind. Once ctx has ended it answers ErrUnavailable: a slot that was not tried says no more
// than a provider that was not asked, and a recovery slot takes seconds that nothing cuts short.
func (a *Access) openSlot(ctx context.Context, p ply, sl *slot, descriptorHash []byte) (*secret, error) {
	if ctx.Err() != nil {
		return nil, &fault{what: fmt.Sprintf("a key slot of the %s layer was not tried", p.layer), kind: ErrUnavailable, cause: context.Cause(ctx)}
	}
	if sl.Kind == KindRecovery {
		pass, err := a.passphrase(p.layer, sl)
		if err != nil {
			return nil, err
		}
		defer wipe(pass)
		return p.unwrapRecovery(pass, sl, descriptorHash)
	}
	s := a.store(p.layer)
	if s == nil {
		return nil, a.noStore(p.layer)
	}
	g, err := s.GroupKeyAt(sl.Names, sl.Epochs)
	if err != nil {
		return nil, err
	}
	defer g.Wipe()
	var s2 *secret
	if sl.Kind == KindProvider {
		if s2, err = a.askProvider(ctx, sl); err != nil {
			return nil, err
		}
		defer s2.wipe()
	}
	return p.unwrap(g, s2, sl, descriptorHash)
}
