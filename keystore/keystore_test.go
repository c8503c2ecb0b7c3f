package keystore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

var (
	testNames  = Names{Cluster: "prod", Group: "db-1"}
	testPlies  = plies{plyOf(cipher.LayerData), plyOf(cipher.LayerInfra)}
	bothLayers = []cipher.Layer{cipher.LayerData, cipher.LayerInfra}
	// fastArgon2 keeps tests quick and protects nothing.
	fastArgon2 = Argon2{Time: 1, Memory: 32, Threads: 1}
)

func testParams(layers uint8) cipher.Params {
	return cipher.Params{Format: cipher.FormatVersion, Suite: cipher.Suite(layers - 1), Layers: layers, BlockSize: 4096}
}

// passphrase returns an Opener with a passphrase.
func passphrase(s string) Opener {
	return Opener{Passphrase: func() ([]byte, error) { return []byte(s), nil }, Argon2: fastArgon2}
}

// newStore makes and opens a store in dir.
func newStore(t testing.TB, dir string, l cipher.Layer, names Names) *Store {
	t.Helper()
	path := filepath.Join(dir, l.String()+".store")
	if err := CreateStore(path, l, Opener{}, names); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(path, l, Opener{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wipe)
	return s
}

// newStores makes and opens the stores of both layers in a new directory.
func newStores(t testing.TB, names Names) (data, infra *Store) {
	t.Helper()
	dir := t.TempDir()
	return newStore(t, dir, cipher.LayerData, names), newStore(t, dir, cipher.LayerInfra, names)
}

// newConfig makes a volume's config; infra is ignored for one layer.
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

// edit applies a change to a config's JSON and renders it with a checksum that holds, as somebody would who tampers
// on purpose.
func edit(t testing.TB, b []byte, change func(e *envelope)) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	change(&e)
	b, err := e.render()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nextGeneration returns the config with the generation of its sections raised by n and MACed anew.
func nextGeneration(t testing.TB, b []byte, keys cipher.Keys, n uint64) []byte {
	t.Helper()
	f, err := parseVolumeFile("test", b)
	if err != nil {
		t.Fatal(err)
	}
	v := [2]*secret{{b: keys.Data}, {b: keys.Infra}}
	for i, s := range f.sections {
		if s != nil {
			s.generation += n
			testPlies[i].authenticate(s, v[i], f.descriptor)
		}
	}
	return edit(t, b, func(e *envelope) { e.Data, e.Infra = f.sections[0].json(), f.sections[1].json() })
}

// unlockWith unlocks with stores alone.
func unlockWith(c *Config, data, infra *Store) (cipher.Params, cipher.Keys, uint32, error) {
	u, err := c.Unlock(context.Background(), StoreAccess(data, infra))
	return u.Params, u.Keys, u.Epoch, err
}

func mustParse(t testing.TB, b []byte) *Config {
	t.Helper()
	c, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// check reports an error that is not want, or whose want has no hint.
func check(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	} else if err != nil && Hint(err) == "" {
		t.Errorf("%s: error %v has no hint", what, err)
	}
}

// readFile returns a file's content.
func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// writeFile writes a file of mode 0600.
func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// onlyFiles reports other files in dir than the named ones, such as temporary ones.
func onlyFiles(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(names) {
		t.Errorf("files in %s: got %q, want %q", dir, got, names)
		return
	}
	for i := range got {
		if got[i] != names[i] {
			t.Errorf("files in %s: got %q, want %q", dir, got, names)
			return
		}
	}
}

// constReader is a random source that is broken: it always repeats.
type constReader byte

func (c constReader) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte{byte(c)}, len(p)))
	return len(p), nil
}

// failReader is a random source that fails after n bytes.
type failReader struct{ n int }

var errNoRandom = errors.New("no randomness")

func (f *failReader) Read(p []byte) (int, error) {
	if f.n < len(p) {
		return 0, errNoRandom
	}
	f.n -= len(p)
	return constReader(1).Read(p)
}
