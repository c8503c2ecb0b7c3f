package keystore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/plyfs/plyfs/cipher"
)

// Editor changes the slots of an unlocked volume. It holds the volume's keys until Wipe. Nothing is written by it:
// Bytes renders the next config, for WriteConfig. After an error of a method its changes must not be used.
type Editor struct {
	file   *volumeFile // sections are copies
	access Access
	keys   volumeKeys
	epoch  uint32
	rand   io.Reader
}

// Edit unlocks the volume with what a has and returns an Editor, which keeps a for wrapping. Errors as of Unlock.
func (c *Config) Edit(ctx context.Context, a Access) (*Editor, error) {
	u, err := c.Unlock(ctx, a) // finds the file that verifies
	if err != nil {
		return nil, err
	}
	f := *c.files[0]
	for i, s := range f.sections {
		if s != nil {
			f.sections[i] = &section{generation: s.generation + 1, slots: slices.Clone(s.slots)}
		}
	}
	e := &Editor{file: &f, access: a, epoch: u.Epoch, rand: randomOr(nil)}
	e.keys[0] = &secret{b: u.Keys.Data}
	if len(u.Opened) == 2 {
		e.keys[1] = &secret{b: u.Keys.Infra}
	}
	wipeKeys(&u.Keys)
	return e, nil
}

// Wipe zeroes the volume's keys.
func (e *Editor) Wipe() { e.keys.wipe() }

// Slots describes the slots of a layer as they will be.
func (e *Editor) Slots(l cipher.Layer) []SlotInfo {
	s := e.file.section(l)
	if s == nil {
		return nil
	}
	infos := make([]SlotInfo, len(s.slots))
	for i, sl := range s.slots {
		infos[i] = sl.SlotInfo
	}
	return infos
}

// layer returns what a change of a layer needs: ErrUsage for one that the volume has not.
func (e *Editor) layer(l cipher.Layer) (s *section, p ply, descriptorHash []byte, err error) {
	if s = e.file.section(l); s == nil {
		return nil, p, nil, &fault{what: fmt.Sprintf("the volume has no %s layer", l), kind: ErrUsage}
	}
	return s, plyOf(l), hashDescriptor(l, e.file.descriptor), nil
}

// groupKey returns the newest key of a group in the layer's store.
func (e *Editor) groupKey(l cipher.Layer, n Names) (*GroupKey, error) {
	s := e.access.store(l)
	if s == nil {
		return nil, e.access.noStore(l)
	}
	return s.GroupKey(n)
}

// AddGroup adds a slot of a group at its newest epochs, in the place of the group's own slot if it has one. Slots with a
// provider are taken away: beside a slot without one their provider's key would protect nothing.
func (e *Editor) AddGroup(l cipher.Layer, n Names) error {
	s, p, hash, err := e.layer(l)
	if err != nil {
		return err
	}
	g, err := e.groupKey(l, n)
	if err != nil {
		return err
	}
	defer g.Wipe()
	sl, err := p.wrap(g, nil, e.keys[l-1], e.epoch, hash, e.rand)
	if err != nil {
		return err
	}
	return e.put(s, p, sl, func(old *slot) bool {
		return old.Kind == KindProvider || old.Kind == KindGroup && old.Names == n
	})
}

// AddProvider adds a slot that takes both a group's newest key and a provider's, in the place of the group's own slot
// with that provider. Group slots without a provider are taken away: beside them the provider's key would protect
// nothing. What the provider wrapped it must unwrap again: ErrDenied, ErrUnavailable, ErrTampered.
func (e *Editor) AddProvider(ctx context.Context, l cipher.Layer, n Names, provider string) error {
	s, p, hash, err := e.layer(l)
	if err != nil {
		return err
	}
	if err := validateName("provider", provider); err != nil {
		return err
	}
	g, err := e.groupKey(l, n)
	if err != nil {
		return err
	}
	defer g.Wipe()
	ps, err := e.newSecret(ctx, n, provider)
	if err != nil {
		return layerError(l, err)
	}
	defer ps.key.wipe()
	sl, err := p.wrap(g, ps, e.keys[l-1], e.epoch, hash, e.rand)
	if err != nil {
		return err
	}
	return e.put(s, p, sl, func(old *slot) bool {
		return old.Kind == KindGroup || old.Kind == KindProvider && old.Names == n && old.Provider == provider
	})
}

// newSecret makes a secret, lets a provider wrap it, and proves that it gives it back.
func (e *Editor) newSecret(ctx context.Context, n Names, name string) (*providerSecret, error) {
	pr, err := e.access.provider(name)
	if err != nil {
		return nil, err
	}
	key, err := randomSecret(e.rand)
	if err != nil {
		return nil, err
	}
	ps := &providerSecret{provider: name, key: key}
	lent := key.clone() // nobody else may change what is compared below
	defer lent.wipe()
	if ps.wrapped, err = pr.Wrap(ctx, n, lent.b[:]); err != nil {
		err = providerError(name, err)
	} else if len(ps.wrapped) == 0 || len(ps.wrapped) > MaxWrapped {
		err = &fault{what: fmt.Sprintf("key provider %s made %d bytes of a secret", name, len(ps.wrapped)), kind: ErrUsage,
			hint: fmt.Sprintf("A wrapped secret has 1 to %d bytes.", MaxWrapped)}
	}
	if err == nil {
		var back *secret
		back, err = e.access.askProvider(ctx, &slot{SlotInfo: SlotInfo{Names: n, Provider: name}, wrapped: ps.wrapped})
		if err == nil && !constantTimeEqual(back.b[:], key.b[:]) {
			err = &fault{what: "key provider " + name + " does not give back what it wrapped", kind: ErrTampered,
				hint: "Check the provider's configuration: it may wrap and unwrap with different keys."}
		}
		back.wipe()
	}
	if err != nil {
		key.wipe()
		return nil, err
	}
	return ps, nil
}

// AddRecovery adds a slot that a passphrase alone opens: ErrExists when the layer has one of that name. The passphrase
// is the caller's to wipe. A zero a means DefaultArgon2.
func (e *Editor) AddRecovery(l cipher.Layer, name string, passphrase []byte, a Argon2) error {
	s, p, hash, err := e.layer(l)
	if err != nil {
		return err
	}
	if err := errors.Join(validateName("recovery slot", name), checkPassphrase(l, passphrase)); err != nil {
		return err
	}
	if s.recovers(name) {
		return &fault{what: fmt.Sprintf("recovery slot %s of the %s layer", name, l), kind: ErrExists,
			hint: "Choose another name, or remove that slot first."}
	}
	if a == (Argon2{}) {
		a = DefaultArgon2
	}
	if err := a.validate(); err != nil {
		return &fault{what: "passphrase", kind: ErrUsage, cause: err}
	}
	sl, err := p.wrapRecovery(name, passphrase, a, e.keys[l-1], e.epoch, hash, e.rand)
	if err != nil {
		return err
	}
	return e.put(s, p, sl, func(*slot) bool { return false })
}

// put puts a new slot in the place of the first one that it replaces, or behind the others, and takes the rest of those
// away.
func (e *Editor) put(s *section, p ply, sl *slot, replaced func(*slot) bool) error {
	at := slices.IndexFunc(s.slots, replaced)
	if at < 0 {
		at = len(s.slots)
	}
	s.slots = slices.Insert(s.slots, at, sl)
	i := 0
	s.slots = slices.DeleteFunc(s.slots, func(old *slot) bool {
		i++
		return i-1 != at && replaced(old)
	})
	if len(s.slots) > maxSlots {
		return &fault{what: fmt.Sprintf("more than %d slots in the %s layer", maxSlots, p.layer), kind: ErrUsage,
			hint: "Remove slots that nobody needs (plyfs key rm)."}
	}
	return nil
}

// Remove takes the slot of an index away: ErrUsage for the layer's last one, and for one that leaves nothing but
// recovery slots unless force is true.
func (e *Editor) Remove(l cipher.Layer, index int, force bool) error {
	s, _, _, err := e.layer(l)
	if err != nil {
		return err
	}
	if index < 0 || index >= len(s.slots) {
		return &fault{what: fmt.Sprintf("the %s layer has no slot %d", l, index+1), kind: ErrUsage, hint: "See plyfs key ls."}
	}
	if len(s.slots) == 1 {
		return &fault{what: fmt.Sprintf("the last slot of the %s layer", l), kind: ErrUsage,
			hint: "Without it nothing opens the volume any more. Add another slot first; to erase the volume for good: --destroy."}
	}
	rest := slices.Delete(slices.Clone(s.slots), index, index+1)
	if !force && s.slots[index].Kind != KindRecovery && !slices.ContainsFunc(rest, func(sl *slot) bool { return sl.Kind != KindRecovery }) {
		return &fault{what: fmt.Sprintf("the last slot of the %s layer but for recovery slots", l), kind: ErrUsage,
			hint: "No host could mount the volume without a passphrase. Add another slot first; or say --force."}
	}
	s.slots = rest
	return nil
}

// Rewrap wraps every group slot of a layer anew under the newest epochs: of its own group, or, with to, of that one,
// which moves the volume there. Providers wrap a new secret. Recovery slots stay as they are.
func (e *Editor) Rewrap(ctx context.Context, l cipher.Layer, to *Names) error {
	s, _, _, err := e.layer(l)
	if err != nil {
		return err
	}
	for _, old := range slices.Clone(s.slots) {
		if old.Kind == KindRecovery {
			continue
		}
		n := old.Names
		if to != nil {
			n = *to
		}
		s.slots = slices.DeleteFunc(s.slots, func(sl *slot) bool { return sl == old })
		if old.Kind == KindProvider {
			err = e.AddProvider(ctx, l, n, old.Provider)
		} else {
			err = e.AddGroup(l, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Erase takes all slots of a layer away. Nothing opens the volume then but an older copy of its config.
func (e *Editor) Erase(l cipher.Layer) error {
	s, _, _, err := e.layer(l)
	if err == nil {
		s.slots = nil
	}
	return err
}

// Bytes renders the config with the generation of every section raised by one, and checks that it verifies.
func (e *Editor) Bytes() ([]byte, error) {
	out := envelope{Magic: envelopeMagic, Version: envelopeVersion, Descriptor: e.file.descriptor}
	for i, s := range e.file.sections {
		if s != nil {
			plyOf(cipher.Layer(i+1)).authenticate(s, e.keys[i], e.file.descriptor)
		}
	}
	out.Data, out.Infra = e.file.sections[0].json(), e.file.sections[1].json()
	b, err := out.render()
	if err != nil {
		return nil, err
	}
	if len(b) > configMaxSize {
		return nil, &fault{what: fmt.Sprintf("config of %d bytes, %d allowed", len(b), configMaxSize), kind: ErrUsage,
			hint: "Remove slots that nobody needs (plyfs key rm)."}
	}
	f, err := parseVolumeFile("new config", b)
	if err != nil {
		return nil, err
	}
	for i := range int(f.params.Layers) {
		if err := f.verify(plyOf(cipher.Layer(i+1)), e.keys[i]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// TestSlot opens one slot, by its index, as a mount would that names it, and proves that it holds the volume's key by
// the MACs of its layer. Errors as of Unlock; ErrUsage for a slot that is not there.
func (c *Config) TestSlot(ctx context.Context, l cipher.Layer, index int, a Access) error {
	f := c.files[0]
	s := f.section(l)
	if s == nil || index < 0 || index >= len(s.slots) {
		return &fault{what: fmt.Sprintf("the %s layer has no slot %d", l, index+1), kind: ErrUsage, hint: "See plyfs key ls."}
	}
	p := plyOf(l)
	v, err := a.openSlot(ctx, p, s.slots[index], hashDescriptor(l, f.descriptor))
	if err != nil {
		return layerError(l, err)
	}
	defer v.wipe()
	return layerError(l, f.verify(p, v))
}
