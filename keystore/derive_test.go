package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// hexBytes are bytes that a vector file shows in hexadecimal.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) error {
	*h = make([]byte, hex.DecodedLen(len(b)))
	_, err := hex.Decode(*h, b)
	return err
}

func (h hexBytes) secret() *secret {
	s := &secret{}
	copy(s.b[:], h)
	return s
}

// vector is an entry of testdata/vectors.json. The file was computed from FORMAT.md by a program that shares no code
// with this package. It is frozen.
type vector struct {
	Layer         cipher.Layer `json:"layer"`
	Root          hexBytes     `json:"root"`
	Cluster       string       `json:"cluster"`
	Group         string       `json:"group"`
	Epochs        [3]uint32    `json:"epochs"`
	GroupKey      hexBytes     `json:"group_key"`
	KeyID         hexBytes     `json:"key_id"`
	Descriptor    hexBytes     `json:"descriptor"`
	VolumeEpoch   uint32       `json:"volume_epoch"`
	Salt          hexBytes     `json:"salt"`
	Header        hexBytes     `json:"header"`
	BoxKey        hexBytes     `json:"box_key"`
	KEK           hexBytes     `json:"kek"`
	Commitment    hexBytes     `json:"commitment"`
	Random        hexBytes     `json:"random"`
	VolumeKey     hexBytes     `json:"volume_key"`
	HedgedSalt    hexBytes     `json:"hedged_salt"`
	Generation    uint64       `json:"generation"`
	Sealed        hexBytes     `json:"sealed"`
	DescriptorMAC hexBytes     `json:"descriptor_mac"`
	SectionMAC    hexBytes     `json:"section_mac"`
	StoreBoxKey   hexBytes     `json:"store_box_key"`
}

func TestVectors(t *testing.T) {
	var vectors []vector
	if err := json.Unmarshal(readFile(t, "testdata/vectors.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 10 {
		t.Fatalf("got %d vectors, want 10", len(vectors))
	}
	for i, v := range vectors {
		equal := func(what string, got, want []byte) {
			t.Helper()
			if !bytes.Equal(got, want) {
				t.Errorf("vector %d: %s: got %x, want %x", i, what, got, want)
			}
		}
		p := plyOf(v.Layer)
		g := p.groupKey(v.Root.secret(), Names{v.Cluster, v.Group}, Epochs{v.Epochs[0], v.Epochs[1], v.Epochs[2]})
		equal("group key", g.key.b[:], v.GroupKey)
		equal("key ID", p.keyID(g), v.KeyID)
		hash := hashDescriptor(v.Layer, v.Descriptor)
		s := &slot{
			SlotInfo: SlotInfo{Kind: KindGroup, Names: g.names, Epochs: g.epochs, VolumeEpoch: v.VolumeEpoch},
			keyID:    p.keyID(g), salt: v.Salt, commitment: v.Commitment, sealed: v.Sealed,
		}
		equal("slot header", s.header(v.Layer), v.Header)
		boxKey := p.slotKey(g.key, nil, s, hash)
		equal("box key", boxKey.b[:], v.BoxKey)
		equal("KEK", p.sum(boxKey, labelKEK), v.KEK)
		equal("commitment", p.commitment(boxKey), v.Commitment)
		vk, err := p.newVolumeKey(g, v.Descriptor, bytes.NewReader(v.Random))
		if err != nil {
			t.Fatal(err)
		}
		equal("volume key", vk.b[:], v.VolumeKey)
		w, err := p.wrap(g, nil, vk, v.VolumeEpoch, hash, bytes.NewReader(append(bytes.Clone(v.Random), make([]byte, 24)...)))
		if err != nil {
			t.Fatal(err)
		}
		equal("salt", w.salt, v.HedgedSalt)
		sec := &section{generation: v.Generation, slots: []*slot{s}}
		p.authenticate(sec, vk, v.Descriptor)
		equal("descriptor MAC", sec.descriptorMAC, v.DescriptorMAC)
		equal("section MAC", sec.mac, v.SectionMAC)
		header := make([]byte, offCommitment)
		for i := range header {
			header[i] = byte(i)
		}
		equal("store's box key", p.sum(v.Random.secret(), labelStore, header), v.StoreBoxKey)
		params, err := decodeDescriptor(v.Descriptor)
		if err != nil || params.BlockSize != 16384 || params.Suite != cipher.SuiteDouble {
			t.Errorf("vector %d: descriptor gives %+v, error %v", i, params, err)
		}
		equal("descriptor", encodeDescriptor(params), v.Descriptor)
	}
}

// TestDerivationSeparates derives many keys whose names run into one another.
func TestDerivationSeparates(t *testing.T) {
	seen := map[[32]byte]bool{}
	add := func(l cipher.Layer, n Names, e Epochs) {
		g := plyOf(l).groupKey(&secret{}, n, e)
		if seen[g.key.b] {
			t.Errorf("%s %s at %v has the key of another", l, n, e)
		}
		seen[g.key.b] = true
		g.Wipe()
		if g.key.b != [32]byte{} {
			t.Error("group key was not wiped")
		}
	}
	for _, l := range bothLayers {
		for _, n := range []Names{{"a", "bc"}, {"ab", "c"}, {"abc", "a"}, {"a", "a"}, {"bc", "a"}} {
			for e := range uint32(8) {
				add(l, n, Epochs{1, 1 + e&1, 1 + e>>1})
			}
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "default": true, "0-9": true, "-": true, string(bytes.Repeat([]byte("z"), 63)): true,
		"": false, "A": false, "a.b": false, "a/b": false, "a b": false, "ä": false, "a\x00": false, "a\n": false,
		string(bytes.Repeat([]byte("z"), 64)): false,
	} {
		for _, n := range []Names{{name, "x"}, {"x", name}} {
			if err := n.Validate(); (err == nil) != ok {
				t.Errorf("%q: got error %v, want ok %v", n, err, ok)
			} else if !ok {
				check(t, n.String(), err, ErrName)
			}
		}
	}
}
