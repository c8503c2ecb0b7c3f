package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInfo(t *testing.T) {
	b := newBench(t)
	b.run(exitOK, "keystore", "init", "--cluster", "east", "--group", "db")
	b.volume("--cluster", "east", "--group", "db", "--block-size", "16384")
	if err := os.RemoveAll(b.keys); err != nil { // no keys are needed
		t.Fatal(err)
	}
	var a infoAnswer
	if err := json.Unmarshal([]byte(b.run(exitOK, "info", "--json", b.cipher).stdout), &a); err != nil {
		t.Fatal(err)
	}
	if a.BlockSize != 16384 || a.Suite != 1 || a.SuiteName != "double" || len(a.Layers) != 2 || a.CipherDir != b.cipher || a.Verified || len(a.VolumeID) != 32 {
		t.Errorf("got %+v", a)
	}
	for i, l := range a.Layers {
		if l.Layer != [2]string{"data", "infra"}[i] || l.Generation != 1 || len(l.Slots) != 1 {
			t.Fatalf("layer %d: %+v", i+1, l)
		}
		want := infoSlot{Kind: "group", Cluster: "east", Group: "db", RootEpoch: 1, ClusterEpoch: 1, GroupEpoch: 1, VolumeEpoch: 1}
		if l.Slots[0] != want {
			t.Errorf("slot of layer %d: %+v, want %+v", i+1, l.Slots[0], want)
		}
	}
	text := b.run(exitOK, "info", b.cipher).stdout
	wantText(t, "info", text, a.VolumeID, "16384 bytes", "two layers of encryption", "AES-256-GCM", "XChaCha20-Poly1305", "cluster east, group db", "verified    no")
}

func TestInfoOfOneLayer(t *testing.T) {
	b := newBench(t)
	b.volume("--single-layer")
	text := b.run(exitOK, "info", b.cipher).stdout
	wantText(t, "info", text, "one layer of encryption", "suite 0 (single)")
	if strings.Contains(text, "infra") {
		t.Errorf("a single-layer volume shows the infra layer:\n%s", text)
	}
}

func TestInfoRefuses(t *testing.T) {
	b := newBench(t)
	b.volume()
	config := filepath.Join(b.cipher, "plyfs.json")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	b.run(exitNotVolume, "info", b.mnt)
	b.run(exitNotVolume, "info", filepath.Join(b.dir, "nowhere"))
	b.run(exitNotVolume, "info", config)
	os.Remove(config + ".bak")
	for _, bad := range []string{"", "{", string(good[:len(good)/2]), strings.Repeat("[", 1<<16)} {
		if err := os.WriteFile(config, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		b.run(exitTampered, "info", b.cipher)
	}
}
