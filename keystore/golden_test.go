package keystore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// TestGoldenSlots opens what the first version wrote of the other kinds of slots, and host bundles.
func TestGoldenSlots(t *testing.T) {
	var expected map[string]map[string]string
	if err := json.Unmarshal(readFile(t, "testdata/v1/expected.json"), &expected); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pass := func(cipher.Layer) ([]byte, error) { return []byte("correct horse battery staple"), nil }
	a := Access{Layers: 2, Providers: fakeProviders{"cmk": {}}, Passphrase: pass}
	for _, l := range bothLayers {
		name := l.String() + "-host.store"
		path := filepath.Join(dir, name)
		writeFile(t, path, readFile(t, "testdata/v1/"+name))
		s, err := OpenStore(path, l, passphrase("correct horse battery staple"))
		if err != nil {
			t.Fatal(err)
		}
		g, err := s.GroupKey(testNames)
		expectKey(t, name, "newest", g, err, expected[name]["newest"])
		_, err = s.GroupKeyAt(testNames, Epochs{Root: 1, Cluster: 1, Group: 1})
		check(t, name+": retired epoch", err, ErrRetired)
		if l == cipher.LayerInfra {
			a.Infra = s
		} else {
			a.Data = s
		}
	}
	want := expected["slots.json"]
	for _, recovery := range []string{"", "safe"} {
		a.Recovery = recovery
		u, err := mustParse(t, readFile(t, "testdata/v1/slots.json")).Unlock(context.Background(), a)
		if err != nil {
			t.Errorf("recovery %q: %v", recovery, err)
			continue
		}
		if hex.EncodeToString(u.Keys.Data[:]) != want["data"] || hex.EncodeToString(u.Keys.Infra[:]) != want["infra"] || u.Params.VolumeID.String() != want["volume"] {
			t.Errorf("recovery %q: other keys", recovery)
		}
	}
}

// TestGolden opens what the first version wrote: stores of both layers and protections, and configs. The files in
// testdata/v1 are never made anew.
func TestGolden(t *testing.T) {
	var expected map[string]map[string]string
	if err := json.Unmarshal(readFile(t, "testdata/v1/expected.json"), &expected); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // where modes are as they must be
	stores := map[string]*Store{}
	for _, l := range bothLayers {
		writeFile(t, filepath.Join(dir, l.String()+".key"), readFile(t, "testdata/v1/"+l.String()+".key"))
		for _, name := range []string{l.String() + ".store", l.String() + "-passphrase.store"} {
			path := filepath.Join(dir, name)
			writeFile(t, path, readFile(t, "testdata/v1/"+name))
			s, err := OpenStore(path, l, passphrase("correct horse battery staple"))
			if err != nil {
				t.Fatal(err)
			}
			stores[name] = s
			if got := s.Info().Generation; got != 6 {
				t.Errorf("%s: got generation %d, want 6", name, got)
			}
			for _, n := range []Names{{"prod", "db-1"}, {"prod", "db-2"}, {"stage", "a"}, {"stage", "web"}} {
				g, err := s.GroupKey(n)
				expectKey(t, name, n.String(), g, err, expected[name][n.String()])
			}
			g, err := s.GroupKeyAt(testNames, Epochs{Root: 1, Cluster: 1, Group: 4})
			expectKey(t, name, "older epochs", g, err, expected[name]["prod/db-1 at 1,1,4"])
		}
	}
	for name, infra := range map[string]*Store{"single.json": nil, "double.json": stores["infra.store"]} {
		c := mustParse(t, readFile(t, "testdata/v1/"+name))
		p, keys, epoch, err := unlockWith(c, stores["data.store"], infra)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := expected[name]
		if got := hex.EncodeToString(keys.Data[:]); got != want["data"] {
			t.Errorf("%s: got data key %s, want %s", name, got, want["data"])
		}
		if got := hex.EncodeToString(keys.Infra[:]); infra != nil && got != want["infra"] {
			t.Errorf("%s: got infra key %s, want %s", name, got, want["infra"])
		}
		if p.VolumeID.String() != want["volume"] || epoch != 1 || (p.Suite == cipher.SuiteDouble) != (infra != nil) {
			t.Errorf("%s: got params %+v, epoch %d", name, p, epoch)
		}
	}
}

func expectKey(t *testing.T, store, what string, g *GroupKey, err error, want string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %s: %v", store, what, err)
	} else if got := hex.EncodeToString(g.key.b[:]); got != want {
		t.Errorf("%s: %s: got key %s, want %s", store, what, got, want)
	}
}
