package keystore

import (
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

var testNames = Names{Cluster: "prod", Group: "db-1"}

func testParams(layers uint8) cipher.Params {
	return cipher.Params{Format: cipher.FormatVersion, Suite: cipher.Suite(layers - 1), Layers: layers, BlockSize: 4096}
}

// newStores makes and opens the stores of both layers in a new directory.
func newStores(t testing.TB, names Names) (dir string, data, infra *Store) {
	t.Helper()
	dir = t.TempDir()
	var s [2]*Store
	for i, l := range []cipher.Layer{cipher.LayerData, cipher.LayerInfra} {
		path := filepath.Join(dir, l.String()+".store")
		if err := CreateStore(path, l, Opener{}, names); err != nil {
			t.Fatal(err)
		}
		var err error
		if s[i], err = OpenStore(path, l, Opener{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s[i].Wipe)
	}
	return dir, s[0], s[1]
}

// newConfig makes a volume's config.
func newConfig(t testing.TB, layers uint8, data, infra *Store) ([]byte, cipher.Keys) {
	t.Helper()
	if layers == 1 {
		infra = nil
	}
	b, keys, err := NewVolumeConfig(testParams(layers), testNames, data, infra, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b, keys
}

func TestVolumeRoundTrip(t *testing.T) {
	for _, layers := range []uint8{1, 2} {
		_, data, infra := newStores(t, testNames)
		b, want := newConfig(t, layers, data, infra)
		if layers == 1 {
			infra = nil
		}
		dir := t.TempDir()
		if err := WriteConfig(dir, b); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, got, epoch, err := c.Unlock(data, infra)
		if err != nil {
			t.Fatal(err)
		}
		if got != want || epoch != 1 || p.Layers != layers || p != c.Params() || len(c.Warnings()) != 0 {
			t.Errorf("%d layers: unlock gives params %v, epoch %d, warnings %q", layers, p, epoch, c.Warnings())
		}
		if got.Data == [32]byte{} || (got.Infra == [32]byte{}) != (layers == 1) {
			t.Errorf("%d layers: a key is missing or too many", layers)
		}
	}
}
