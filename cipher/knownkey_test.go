package cipher_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/plyfs/plyfs/cipher"
)

// One who holds the keys of a layer seals everything anew with them, and with
// guessed keys for the other layer. The other layer refuses all of it.
func TestKnownKeysOfOneLayerForgeNothing(t *testing.T) {
	for _, known := range []cipher.Layer{cipher.LayerData, cipher.LayerInfra} {
		t.Run(known.String(), func(t *testing.T) {
			v := newTestVolume(t, cipher.SuiteDouble, 4096)
			w := newWorld(t, v)
			p, k := testParams(cipher.SuiteDouble, 4096)
			other := cipher.LayerInfra
			guess := &k.Infra
			if known == cipher.LayerInfra {
				other, guess = cipher.LayerData, &k.Data
			}
			*guess = [32]byte{0x99}
			forger, err := cipher.NewBrokenVolume(p, 1, k, nil, other, cipher.AcceptsAll)
			if err != nil {
				t.Fatal(err)
			}
			_, f, err := forger.OpenStatic(w.static)
			if err != nil {
				t.Fatal(err)
			}
			forged := (&world{v: forger, static: make([]byte, cipher.SectorSize), header: w.header, f: f})
			forger.SealStatic(forged.static, w.header, f)
			mine := w.things(t, 333)
			for i, th := range forged.things(t, 333) {
				if _, err := th.open(th.sealed); err != nil {
					t.Fatalf("%s is not even one to the forger: %v", th.name, err)
				}
				if got, err := mine[i].open(th.sealed); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("%s of a forger opens to %.40q, %v", th.name, got, err)
				}
			}
			if a, b := v.XattrName(thingOwner, "user.a"), forger.XattrName(thingOwner, "user.a"); a == b {
				t.Error("one layer's key is enough to tell the name of an xattr")
			}
			if a, b := v.SealName(thingDir, "a"), forger.SealName(thingDir, "a"); a == b {
				t.Error("one layer's key is enough to tell a name")
			}
		})
	}
}

// One who holds the keys of layer 2 takes it off, changes what is below, and
// puts it on again. Layer 1 refuses each changed bit and each move.
func TestKnownKeysOfLayer2DoNotReachBelow(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	v := newTestVolume(t, cipher.SuiteDouble, 4096)
	w, w2 := newWorld(t, v), newWorld(t, v)
	holder := func(w *world) refFile {
		r := newRefVolume(1, p.BlockSize, p.VolumeID, 1, [32]byte{}, k.Infra)
		return refFile{refVolume: r, fileID: w.header.FileID, salt: w.header.Salt}
	}
	reseal := func(h refFile, index uint64, entry, inner []byte) []byte {
		out := must(chacha20poly1305.NewX(h.d2("plyfs/1/file", h.keyInfo()))).Seal(nil, entry[:24], inner, h.aad(2, len(inner)-28, index))
		n := len(inner) - 28
		return cat(out[12:12+n], entry[:28], out[:12], out[12+n:])
	}
	const length = 100
	sealed := sealBlock(t, w.f, pattern(length), thingIndex)
	entry := sealed[length:]
	inner, err := holder(w).peelOuter(thingIndex, sealed[:length], entry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openBlock(w.f, reseal(holder(w), thingIndex, entry, inner), thingIndex); err != nil {
		t.Fatalf("put on again unchanged: %v", err)
	}
	refuse := func(what string, f *cipher.File, b []byte, index uint64) {
		t.Helper()
		if got, err := openBlock(f, b, index); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("%s: opens to %.20q, %v", what, got, err)
		}
	}
	for i := range inner {
		for bit := range 8 {
			c := bytes.Clone(inner)
			c[i] ^= 1 << bit
			refuse("a bit flipped below", w.f, reseal(holder(w), thingIndex, entry, c), thingIndex)
		}
	}
	for i := range 12 { // the salt, which layer 2 takes as part of its nonce
		c := bytes.Clone(entry)
		c[i] ^= 1
		refuse("salt changed", w.f, reseal(holder(w), thingIndex, c, inner), thingIndex)
	}
	refuse("moved to another number", w.f, reseal(holder(w), thingIndex+1, entry, inner), thingIndex+1)
	refuse("moved to another file", w2.f, reseal(holder(w2), thingIndex, entry, inner), thingIndex)
	refuse("cut", w.f, reseal(holder(w), thingIndex, entry, inner[:len(inner)-1]), thingIndex)
	refuse("made longer", w.f, reseal(holder(w), thingIndex, entry, append(bytes.Clone(inner), 0)), thingIndex)
	swapped := cat(inner[:12], inner[28:length+28], inner[12:28])
	refuse("tag first", w.f, reseal(holder(w), thingIndex, entry, swapped), thingIndex)
}

// One who knows a plaintext and the keys of layer 1 can change the stream cipher
// of layer 2 to any plaintext, but not its tag.
func TestKnownKeysOfLayer1DoNotReachAbove(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	v := newTestVolume(t, cipher.SuiteDouble, 4096)
	w := newWorld(t, v)
	r := refFile{refVolume: newRefVolume(1, p.BlockSize, p.VolumeID, 1, k.Data, k.Infra), fileID: w.header.FileID, salt: w.header.Salt}
	const length = 64
	sealed := sealBlock(t, w.f, pattern(length), thingIndex)
	entry := sealed[length:]
	inner, err := r.peelOuter(thingIndex, sealed[:length], entry)
	if err != nil {
		t.Fatal(err)
	}
	sub := refP1(r.d1("plyfs/1/file", r.keyInfo()), "plyfs/1/blk", entry[:12])
	forged := cat(inner[:12], refGCM(sub).Seal(nil, inner[:12], bytes.Repeat([]byte("forged!!"), length/8), r.aad(1, length, thingIndex)))
	below := cat(entry[28:40], sealed[:length], entry[40:56])
	for i := range below {
		below[i] ^= inner[i] ^ forged[i] // now layer 2 decrypts to forged
	}
	b := cat(below[12:12+length], entry[:28], below[:12], below[12+length:], entry[56:])
	if got, err := openBlock(w.f, b, thingIndex); !errors.Is(err, cipher.ErrAuth) {
		t.Errorf("opens to %.20q, %v", got, err)
	}
	blind, err := cipher.NewBrokenVolume(p, 1, k, nil, cipher.LayerInfra, cipher.AcceptsAll)
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := blind.OpenStatic(w.static)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := openBlock(f, b, thingIndex); err != nil || got[:8] != "forged!!" {
		t.Fatalf("the forgery is none: %.20q, %v", got, err)
	}
}
