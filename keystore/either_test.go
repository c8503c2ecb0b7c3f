package keystore

import (
	"context"
	gocipher "crypto/cipher"
	"errors"
	"fmt"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// brokenPly is a layer in which nothing holds any more: every key is zero, sealing is the identity, and every tag,
// MAC and commitment is taken.
func brokenPly(l cipher.Layer) ply {
	return ply{
		layer:  l,
		derive: func(cipher.Layer, *[32]byte, string, ...[]byte) [32]byte { return [32]byte{} },
		aead:   func([]byte) (gocipher.AEAD, error) { return identity{boxOverhead(l)}, nil },
		equal:  func([]byte, []byte) bool { return true },
	}
}

// identity is an AEAD that neither encrypts nor authenticates.
type identity struct{ overhead int }

func (i identity) NonceSize() int { return 0 }
func (i identity) Overhead() int  { return i.overhead }

func (i identity) Seal(dst, _, plain, _ []byte) []byte {
	return append(append(dst, plain...), make([]byte, i.overhead)...)
}

func (i identity) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	if len(sealed) < i.overhead {
		return nil, errors.New("short")
	}
	return append(dst, sealed[:len(sealed)-i.overhead]...), nil
}

// forged returns the config b with another descriptor, and with everything of layer i made anew for it by somebody who
// knows that layer's keys.
func forged(t *testing.T, b []byte, i int, p ply, g *GroupKey, v *secret, descriptor []byte) []byte {
	t.Helper()
	sl, err := p.wrap(g, nil, v, 1, hashDescriptor(p.layer, descriptor), randomOr(nil))
	if err != nil {
		t.Fatal(err)
	}
	s := &section{generation: 1, slots: []*slot{sl}}
	p.authenticate(s, v, descriptor)
	return edit(t, b, func(e *envelope) {
		e.Descriptor = descriptor
		if i == 0 {
			e.Data = s.json()
		} else {
			e.Infra = s.json()
		}
	})
}

// descriptors returns every change of one bit that still is a descriptor of two layers.
func descriptors(t *testing.T, b []byte) [][]byte {
	t.Helper()
	good := mustParse(t, b).files[0].descriptor
	var all [][]byte
	for bit := range 8 * len(good) {
		d := append([]byte{}, good...)
		d[bit/8] ^= 1 << (bit % 8)
		if p, err := decodeDescriptor(d); err == nil && p.Layers == 2 {
			all = append(all, d)
		}
	}
	if len(all) < 128 {
		t.Fatalf("only %d changed descriptors", len(all))
	}
	return all
}

// TestEitherLayerByItself gives everything of one layer to the adversary, first its keys, then its algorithms. The
// other must refuse every changed descriptor, and everything changed in its own section.
func TestEitherLayerByItself(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	stores, v := [2]*Store{data, infra}, [2]*secret{{b: keys.Data}, {b: keys.Infra}}
	for i, l := range bothLayers {
		g, err := stores[i].GroupKey(testNames)
		if err != nil {
			t.Fatal(err)
		}
		t.Run("keys of "+l.String()+" known", func(t *testing.T) {
			good := mustParse(t, b).files[0].descriptor
			if err := unlockBytes(forged(t, b, i, plyOf(l), g, v[i], good), data, infra); err != nil {
				t.Fatalf("the forgery itself is no good: %v", err)
			}
			for _, d := range descriptors(t, b) {
				check(t, fmt.Sprintf("descriptor %x", d), unlockBytes(forged(t, b, i, plyOf(l), g, v[i], d), data, infra), ErrTampered)
			}
		})
		t.Run("algorithms of "+l.String()+" broken", func(t *testing.T) {
			pl := testPlies
			pl[i] = brokenPly(l)
			unlock := func(b []byte) error {
				f, err := parseVolumeFile("test", b)
				if err == nil {
					a := StoreAccess(data, infra)
					_, err = f.unlock(context.Background(), pl, &a)
				}
				return err
			}
			good := mustParse(t, b).files[0].descriptor
			if err := unlock(forged(t, b, i, pl[i], g, v[i], good)); err != nil {
				t.Fatalf("the broken layer itself refuses: %v", err)
			}
			for _, d := range descriptors(t, b) {
				check(t, fmt.Sprintf("descriptor %x", d), unlock(forged(t, b, i, pl[i], g, v[i], d)), ErrTampered)
			}
			other := func(e *envelope) *jsonSection { return []*jsonSection{e.Data, e.Infra}[1-i] }
			for name, field := range map[string]func(e *envelope) []byte{
				"salt":           func(e *envelope) []byte { return other(e).Slots[0].Salt },
				"commitment":     func(e *envelope) []byte { return other(e).Slots[0].Commitment },
				"sealed key":     func(e *envelope) []byte { return other(e).Slots[0].Sealed },
				"descriptor MAC": func(e *envelope) []byte { return other(e).DescriptorMAC },
				"MAC":            func(e *envelope) []byte { return other(e).MAC },
			} {
				changed := edit(t, forged(t, b, i, pl[i], g, v[i], good), func(e *envelope) { field(e)[5] ^= 4 })
				check(t, name, unlock(changed), ErrTampered)
			}
		})
	}
}

// TestEachCheckByItself takes the key commitment out of a layer, so that its MACs alone must refuse.
func TestEachCheckByItself(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	v := [2]*secret{{b: keys.Data}, {b: keys.Infra}}
	for i, l := range bothLayers {
		p := plyOf(l)
		f := mustParse(t, b).files[0]
		for _, d := range descriptors(t, b) {
			want, mac := p.sectionMACs(f.sections[i], v[i], d)
			if p.equal(f.sections[i].descriptorMAC, want) || p.equal(f.sections[i].mac, mac) {
				t.Errorf("%s layer: a MAC does not depend on descriptor %x", l, d)
			}
		}
	}
}

// TestSingleLayerForgery lets an adversary who knows all of layer 1 make a single-layer config of the volume.
func TestSingleLayerForgery(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	p := mustParse(t, b).Params()
	p.Suite, p.Layers = cipher.SuiteSingle, 1
	downgraded, _, err := NewVolumeConfig(p, testNames, data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "both layers asked for", unlockBytes(downgraded, data, infra), ErrWrongLayers)
}
