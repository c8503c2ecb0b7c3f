package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/plyfs/plyfs/cipher"
)

// Provider wraps and unwraps the secret S of a group+provider slot: a customer-managed key in a KMS or an HSM. An error
// of it wraps ErrDenied when the answer is a definite no, and ErrUnavailable when there was no answer; another error
// counts as ErrUnavailable. Its methods are safe for concurrent use and return when ctx ends.
type Provider interface {
	// Wrap returns what Unwrap needs, 1 to MaxWrapped bytes. It keeps no reference to secret.
	Wrap(ctx context.Context, n Names, secret []byte) (wrapped []byte, err error)
	// Unwrap returns the secret, which the caller wipes.
	Unwrap(ctx context.Context, n Names, wrapped []byte) (secret []byte, err error)
}

// Providers finds a provider by the name that a slot carries. Where the provider is and which key it uses comes from
// the host's own configuration and never from the volume: ErrMissing when the host has none of that name.
type Providers interface {
	Provider(name string) (Provider, error)
}

// MaxWrapped is the most bytes that a provider may make of a secret.
const MaxWrapped = 4096

// Access is what a host has to open a volume with.
type Access struct {
	// Layers is the number of layers that the volume must have, so that an exchanged config takes none away.
	Layers int
	// Data and Infra are opened key stores, of roots or of a host's bundles. One may be nil when its layer is opened
	// by a recovery slot; Infra is nil for a single layer.
	Data, Infra *Store
	// Unopened says why a store is nil that a layer needs, data first. That layer does not open, and Unlock says so beside
	// what it finds of the other one.
	Unopened [2]error
	// Providers are those that the host knows; nil: none.
	Providers Providers
	// Recovery names the recovery slots to use. A layer that has one of that name is opened by it and by nothing
	// else; empty: recovery slots are not tried.
	Recovery string
	// Passphrase brings a recovery slot's passphrase, at most once per layer and use of the Access. It is wiped
	// after use.
	Passphrase func(cipher.Layer) ([]byte, error)

	asked map[cipher.Layer][]byte // passphrases that were asked for
}

// StoreAccess is the access that opened key stores alone give; infra nil asks for a single-layer volume.
func StoreAccess(data, infra *Store) Access {
	a := Access{Layers: 1, Data: data, Infra: infra}
	if infra != nil {
		a.Layers = 2
	}
	return a
}

// Lacks reports whether a has no store for a layer, and was to have none.
func (a *Access) Lacks(l cipher.Layer) bool { return a.store(l) == nil && a.Unopened[l-1] == nil }

// noStore is why a has no store for a layer.
func (a *Access) noStore(l cipher.Layer) error {
	if err := a.Unopened[l-1]; err != nil {
		return err
	}
	return &fault{what: fmt.Sprintf("no key store for the %s layer", l), kind: ErrUsage}
}

func (a *Access) store(l cipher.Layer) *Store {
	if l == cipher.LayerInfra {
		return a.Infra
	}
	return a.Data
}

// Unlocked is an opened volume.
type Unlocked struct {
	Params cipher.Params
	Keys   cipher.Keys // the caller wipes them
	Epoch  uint32      // of the keys
	Opened []SlotInfo  // the slots that opened, by layer
}

// check answers before any key is used: the layers are those that the caller states, each can be opened by something
// at hand, the stores are of the right layers, and they were generated apart.
func (a *Access) check(f *volumeFile) error {
	if err := a.checkLayers(f.params); err != nil {
		return err
	}
	if a.Recovery != "" && !f.sections[0].recovers(a.Recovery) && (f.sections[1] == nil || !f.sections[1].recovers(a.Recovery)) {
		return &fault{what: fmt.Sprintf("%s: no layer has a recovery slot %q", f.name, a.Recovery), kind: ErrUsage, hint: "plyfs info lists those that there are."}
	}
	for i := range int(f.params.Layers) {
		l := cipher.Layer(i + 1)
		if a.Lacks(l) && !f.sections[i].recovers(a.Recovery) {
			return layerError(l, a.noStore(l))
		}
	}
	return checkStores(a.Data, a.Infra)
}

func (a *Access) checkLayers(p cipher.Params) error {
	if a.Layers != 1 && a.Layers != 2 {
		return &fault{what: fmt.Sprintf("%d layers asked for", a.Layers), kind: ErrUsage}
	}
	if a.Layers == 1 && p.Layers != 1 {
		return &fault{what: fmt.Sprintf("the volume has %d layers, one asked for", p.Layers), kind: ErrWrongLayers,
			hint: "Leave out -o layers=1 (or --single-layer) and give the key stores of both layers."}
	}
	if a.Layers == 2 && p.Layers != 2 {
		return &fault{what: "the volume says that it has one layer, two asked for", kind: ErrWrongLayers,
			hint: "If this volume was made with --single-layer, say -o layers=1. If it was not, its config was exchanged: restore it."}
	}
	return nil
}

// checkStores refuses stores of the wrong layer and such as hold one root twice.
func checkStores(data, infra *Store) error {
	if data != nil && data.Layer() != cipher.LayerData || infra != nil && infra.Layer() != cipher.LayerInfra {
		return &fault{what: "key store of the wrong layer", kind: ErrWrongKey}
	}
	if data != nil && infra != nil && data.sharesRoot(infra) {
		return &fault{what: "the key stores of both layers hold the same root", kind: ErrUsage,
			hint: "One store was copied from the other, so that there is one key and not two: make new ones with plyfs keystore init."}
	}
	return nil
}

// passphrase asks for the passphrase of a layer's recovery slot.
func (a *Access) passphrase(l cipher.Layer, s *slot) ([]byte, error) {
	if a.Passphrase == nil {
		return nil, &fault{what: fmt.Sprintf("recovery slot %s of the %s layer is opened by a passphrase, and there is none", s.Name, l), kind: ErrWrongKey,
			hint: "Give the passphrase: on the terminal, or with --" + l.String() + "-passphrase-file."}
	}
	pass, err := a.Passphrase(l)
	if err != nil {
		wipe(pass)
		return nil, fmt.Errorf("passphrase of recovery slot %s of the %s layer: %w", s.Name, l, err)
	}
	if err := checkPassphrase(l, pass); err != nil {
		wipe(pass)
		return nil, err
	}
	return pass, nil
}

// provider finds the provider of a slot.
func (a *Access) provider(name string) (Provider, error) {
	if a.Providers == nil {
		return nil, &fault{what: "key provider " + name, kind: ErrMissing, hint: "This command was given no providers of this host."}
	}
	return a.Providers.Provider(name)
}

// askProvider lets a provider's key unwrap the secret of a slot.
func (a *Access) askProvider(ctx context.Context, s *slot) (*secret, error) {
	pr, err := a.provider(s.Provider)
	if err != nil {
		return nil, err
	}
	b, err := pr.Unwrap(ctx, s.Names, s.wrapped)
	if err != nil {
		wipe(b)
		return nil, providerError(s.Provider, err)
	}
	if len(b) != keySize {
		wipe(b)
		return nil, &fault{what: fmt.Sprintf("key provider %s gave back a secret of %d bytes", s.Provider, len(b)), kind: ErrTampered,
			hint: "The wrapped secret was made by another key or program: check what the provider's configuration names."}
	}
	return newSecret(b), nil
}

// providerError makes ErrUnavailable of an error that says neither yes nor no.
func providerError(name string, err error) error {
	for _, known := range []error{ErrDenied, ErrUnavailable, ErrTampered, ErrMissing, ErrUsage} {
		if errors.Is(err, known) {
			return fmt.Errorf("key provider %s: %w", name, err)
		}
	}
	return &fault{what: "key provider " + name, kind: ErrUnavailable, cause: err}
}

// remembering returns a copy of a that asks for each layer's passphrase once. forget wipes what it remembers.
func (a Access) remembering() Access {
	ask := a.Passphrase
	if ask == nil {
		return a
	}
	a.asked = map[cipher.Layer][]byte{}
	a.Passphrase = func(l cipher.Layer) ([]byte, error) {
		if pass, ok := a.asked[l]; ok {
			return bytes.Clone(pass), nil
		}
		pass, err := ask(l)
		if err == nil {
			a.asked[l] = bytes.Clone(pass)
		}
		return pass, err
	}
	return a
}

func (a *Access) forget() {
	for _, pass := range a.asked {
		wipe(pass)
	}
}
