package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// fakeProvider is a customer's key in memory.
type fakeProvider struct {
	err     error // of every call
	short   bool  // gives back half a secret
	other   bool  // gives back another secret
	unwraps int
}

func (f *fakeProvider) Wrap(_ context.Context, n Names, secret []byte) ([]byte, error) {
	return append([]byte("wrapped for "+n.String()+":"), secret...), f.err
}

func (f *fakeProvider) Unwrap(_ context.Context, n Names, wrapped []byte) ([]byte, error) {
	f.unwraps++
	secret, ok := bytes.CutPrefix(wrapped, []byte("wrapped for "+n.String()+":"))
	switch {
	case f.err != nil:
		return nil, f.err
	case !ok:
		return nil, fmt.Errorf("not mine: %w", ErrDenied)
	case f.short:
		secret = secret[:16]
	}
	secret = bytes.Clone(secret)
	if f.other {
		secret[0] ^= 1
	}
	return secret, nil
}

// fakeProviders are a host's configuration.
type fakeProviders map[string]*fakeProvider

func (f fakeProviders) Provider(name string) (Provider, error) {
	if p := f[name]; p != nil {
		return p, nil
	}
	return nil, &fault{what: "key provider " + name, kind: ErrMissing}
}

// withSlots returns a config whose layer l has the given slots instead.
func withSlots(t testing.TB, b []byte, l cipher.Layer, v *secret, slots ...*slot) []byte {
	t.Helper()
	f := mustParse(t, b).files[0]
	s := f.section(l)
	s.slots = slots
	plyOf(l).authenticate(s, v, f.descriptor)
	return edit(t, b, func(e *envelope) { e.Data, e.Infra = f.sections[0].json(), f.sections[1].json() })
}

func groupKey(t testing.TB, s *Store) *GroupKey {
	t.Helper()
	g, err := s.GroupKey(testNames)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// providerConfig returns the config with a group+provider slot, of the provider "cmk", in layer l alone.
func providerConfig(t testing.TB, b []byte, l cipher.Layer, s *Store, v *secret) []byte {
	t.Helper()
	key := &secret{b: [32]byte{1, 2, 3}}
	wrapped, err := (&fakeProvider{}).Wrap(context.Background(), testNames, key.b[:])
	if err != nil {
		t.Fatal(err)
	}
	hash := hashDescriptor(l, mustParse(t, b).files[0].descriptor)
	sl, err := plyOf(l).wrap(groupKey(t, s), &providerSecret{provider: "cmk", key: key, wrapped: wrapped}, v, 1, hash, randomOr(nil))
	if err != nil {
		t.Fatal(err)
	}
	return withSlots(t, b, l, v, sl)
}

func TestProviderSlot(t *testing.T) {
	data, infra := newStores(t, testNames)
	strangeData, strangeInfra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	for i, l := range bothLayers {
		stores := [2]*Store{data, infra}
		v := [2]*secret{{b: keys.Data}, {b: keys.Infra}}[i]
		cmk := providerConfig(t, b, l, stores[i], v)
		unlock := func(b []byte, d, n *Store, p Providers) (Unlocked, error) {
			a := StoreAccess(d, n)
			a.Providers = p
			return mustParse(t, b).Unlock(context.Background(), a)
		}
		u, err := unlock(cmk, data, infra, fakeProviders{"cmk": {}})
		if err != nil || u.Keys != keys {
			t.Fatalf("%s layer: got error %v", l, err)
		}
		if got := u.Opened[i]; got.Kind != KindProvider || got.Provider != "cmk" {
			t.Errorf("%s layer: opened by %+v", l, got)
		}
		unused := &fakeProvider{}
		changed := edit(t, cmk, func(e *envelope) {
			w := []*jsonSection{e.Data, e.Infra}[i].Slots[0].Wrapped
			w[len(w)-1] ^= 1
		})
		for _, tt := range []struct {
			name        string
			config      []byte
			data, infra *Store
			providers   Providers
			want        error
			layer       cipher.Layer
		}{
			{"no providers", cmk, data, infra, nil, ErrMissing, l},
			{"provider unknown to the host", cmk, data, infra, fakeProviders{}, ErrMissing, l},
			{"denied", cmk, data, infra, fakeProviders{"cmk": {err: ErrDenied}}, ErrDenied, l},
			{"unavailable", cmk, data, infra, fakeProviders{"cmk": {err: ErrUnavailable}}, ErrUnavailable, l},
			{"another failure", cmk, data, infra, fakeProviders{"cmk": {err: errors.New("connection reset")}}, ErrUnavailable, l},
			{"secret of another length", cmk, data, infra, fakeProviders{"cmk": {short: true}}, ErrTampered, l},
			{"another secret", changed, data, infra, fakeProviders{"cmk": {}}, ErrTampered, l},
			{"data store with other keys", cmk, strangeData, infra, fakeProviders{"cmk": unused}, ErrWrongKey, cipher.LayerData},
			{"infra store with other keys", cmk, data, strangeInfra, fakeProviders{"cmk": {}}, ErrWrongKey, cipher.LayerInfra},
		} {
			u, err := unlock(tt.config, tt.data, tt.infra, tt.providers)
			what := l.String() + " layer: " + tt.name
			check(t, what, err, tt.want)
			if LayerOf(err) != tt.layer || u.Keys != (cipher.Keys{}) {
				t.Errorf("%s: error of layer %v", what, LayerOf(err))
			}
		}
	}
}

// TestProviderIsNotAskedForAnotherGroup shows that a volume's file cannot make a host ask its provider about a group
// whose keys the host lacks.
func TestProviderIsNotAskedForAnotherGroup(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	cmk := edit(t, providerConfig(t, b, 1, data, &secret{b: keys.Data}), func(e *envelope) { e.Data.Slots[0].Group = "db-2" })
	p := &fakeProvider{}
	a := StoreAccess(data, infra)
	a.Providers = fakeProviders{"cmk": p}
	_, err := mustParse(t, cmk).Unlock(context.Background(), a)
	check(t, "another group", err, ErrWrongGroup)
	if p.unwraps != 0 {
		t.Error("the provider was asked")
	}
}

func TestRecoverySlot(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	good := b
	for i, l := range bothLayers {
		v := [2]*secret{{b: keys.Data}, {b: keys.Infra}}[i]
		hash := hashDescriptor(l, mustParse(t, b).files[0].descriptor)
		sl, err := plyOf(l).wrapRecovery("break-glass", []byte("pass of "+l.String()), fastArgon2, v, 1, hash, randomOr(nil))
		if err != nil {
			t.Fatal(err)
		}
		good = withSlots(t, good, l, v, sl)
	}
	asked := 0
	pass := func(l cipher.Layer) ([]byte, error) { asked++; return []byte("pass of " + l.String()), nil }
	wrong := func(cipher.Layer) ([]byte, error) { return []byte("guess"), nil }
	u, err := mustParse(t, good).Unlock(context.Background(), Access{Layers: 2, Recovery: "break-glass", Passphrase: pass})
	if err != nil || u.Keys != keys || asked != 2 {
		t.Fatalf("asked %d times, error %v", asked, err)
	}
	stores := StoreAccess(data, infra)
	named := func(name string, pass func(cipher.Layer) ([]byte, error)) Access {
		a := stores
		a.Recovery, a.Passphrase = name, pass
		return a
	}
	for _, tt := range []struct {
		name   string
		access Access
		want   error
	}{
		{"not named", named("", pass), ErrUsage},
		{"another name", named("other", pass), ErrUsage},
		{"wrong passphrase", named("break-glass", wrong), ErrWrongKey},
		{"no passphrase", named("break-glass", nil), ErrWrongKey},
		{"empty passphrase", named("break-glass", func(cipher.Layer) ([]byte, error) { return nil, nil }), ErrUsage},
		{"failure to ask", named("break-glass", func(cipher.Layer) ([]byte, error) { return nil, ErrMissing }), ErrMissing},
		{"one layer asked for", Access{Layers: 1, Recovery: "break-glass", Passphrase: pass}, ErrWrongLayers},
		{"no layers asked for", Access{Recovery: "break-glass", Passphrase: pass}, ErrUsage},
	} {
		_, err := mustParse(t, good).Unlock(context.Background(), tt.access)
		check(t, tt.name, err, tt.want)
	}
	for name, change := range map[string]func(s *jsonSlot){
		"name":            func(s *jsonSlot) { s.Name = "x" },
		"passes":          func(s *jsonSlot) { s.Passes++ },
		"passphrase salt": func(s *jsonSlot) { s.PassphraseSalt[0]++ },
		"volume epoch":    func(s *jsonSlot) { s.VolumeEpoch++ },
	} {
		a := named("break-glass", pass)
		if name == "name" {
			a.Recovery = "x"
		}
		_, err := mustParse(t, edit(t, good, func(e *envelope) { change(&e.Data.Slots[0]); change(&e.Infra.Slots[0]) })).Unlock(context.Background(), a)
		check(t, "changed "+name, err, ErrWrongKey)
	}
	for name, change := range map[string]func(s *jsonSlot){
		"endless passes":  func(s *jsonSlot) { s.Passes = 17 },
		"endless memory":  func(s *jsonSlot) { s.Memory = 1<<20 + 1 },
		"short salt":      func(s *jsonSlot) { s.PassphraseSalt = s.PassphraseSalt[:15] },
		"a group":         func(s *jsonSlot) { s.Group = "a" },
		"a provider":      func(s *jsonSlot) { s.Provider = "a" },
		"a key ID":        func(s *jsonSlot) { s.KeyID = make([]byte, 8) },
		"a wrapped key":   func(s *jsonSlot) { s.Wrapped = []byte{1} },
		"a bad name":      func(s *jsonSlot) { s.Name = "A" },
		"no volume epoch": func(s *jsonSlot) { s.VolumeEpoch = 0 },
	} {
		_, err := ParseConfig(edit(t, good, func(e *envelope) { change(&e.Infra.Slots[0]) }))
		check(t, "recovery slot with "+name, err, ErrTampered)
	}
}
