package keystore

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// slotVector is an entry of testdata/slots.json, which was computed from FORMAT.md §6 by a program that shares no code
// with this package. It is frozen.
type slotVector struct {
	Kind           string       `json:"kind"`
	Layer          cipher.Layer `json:"layer"`
	Key            hexBytes     `json:"key"` // group key, or what Argon2id makes of the passphrase
	Secret         hexBytes     `json:"secret"`
	Salt           hexBytes     `json:"salt"`
	Descriptor     hexBytes     `json:"descriptor"`
	Cluster        string       `json:"cluster"`
	Group          string       `json:"group"`
	Epochs         [3]uint32    `json:"epochs"`
	VolumeEpoch    uint32       `json:"volume_epoch"`
	Provider       string       `json:"provider"`
	Name           string       `json:"name"`
	Argon2         [3]uint32    `json:"argon2"` // passes, KiB, lanes
	PassphraseSalt hexBytes     `json:"passphrase_salt"`
	Header         hexBytes     `json:"header"`
	BoxKey         hexBytes     `json:"box_key"`
	KEK            hexBytes     `json:"kek"`
	Commitment     hexBytes     `json:"commitment"`
}

func TestSlotVectors(t *testing.T) {
	var vectors []slotVector
	if err := json.Unmarshal(readFile(t, "testdata/slots.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 8 {
		t.Fatalf("got %d vectors, want 8", len(vectors))
	}
	for i, v := range vectors {
		p := plyOf(v.Layer)
		sl := &slot{
			SlotInfo: SlotInfo{
				Kind: v.Kind, Names: Names{v.Cluster, v.Group}, Epochs: Epochs{v.Epochs[0], v.Epochs[1], v.Epochs[2]},
				VolumeEpoch: v.VolumeEpoch, Provider: v.Provider, Name: v.Name,
				Argon2: Argon2{v.Argon2[0], v.Argon2[1], uint8(v.Argon2[2])},
			},
			salt: v.Salt, passSalt: v.PassphraseSalt,
		}
		var s *secret
		if v.Kind == KindProvider {
			s = v.Secret.secret()
			sl.keyID = p.keyID(&GroupKey{key: v.Key.secret()})
		}
		boxKey := p.slotKey(v.Key.secret(), s, sl, hashDescriptor(v.Layer, v.Descriptor))
		for what, pair := range map[string][2][]byte{
			"header":     {sl.header(v.Layer), v.Header},
			"box key":    {boxKey.b[:], v.BoxKey},
			"KEK":        {p.sum(boxKey, labelKEK), v.KEK},
			"commitment": {p.commitment(boxKey), v.Commitment},
		} {
			if !bytes.Equal(pair[0], pair[1]) {
				t.Errorf("vector %d: %s: got %x, want %x", i, what, pair[0], pair[1])
			}
		}
	}
}
