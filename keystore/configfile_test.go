package keystore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
)

// bothFiles reports when not both copies hold want.
func bothFiles(t *testing.T, dir string, want []byte) {
	t.Helper()
	for _, name := range []string{ConfigName, ConfigName + backupSuffix} {
		if !bytes.Equal(readFile(t, filepath.Join(dir, name)), want) {
			t.Errorf("%s is not what was written last", name)
		}
	}
}

func TestReadConfig(t *testing.T) {
	data, infra := newStores(t, testNames)
	first, keys := newConfig(t, 2, data, infra)
	second := nextGeneration(t, first, keys, 1)
	forged := edit(t, second, func(e *envelope) { e.Data.Generation, e.Infra.Generation = 9, 9 })
	other, _ := newConfig(t, 2, data, infra)
	later := []byte(`{"plyfs":"volume","version":2}`)
	tests := []struct {
		name         string
		main, backup []byte // nil: no such file
		want         error
		generation   uint64 // that unlocks
		warning      string // in the warnings; empty: there is none
	}{
		{"both the same", first, first, nil, 1, ""},
		{"backup newer", first, second, nil, 2, "differ"},
		{"main newer", second, first, nil, 2, "differ"},
		{"no backup", second, nil, nil, 2, "plyfs.json.bak: missing"},
		{"no main", nil, second, nil, 2, "plyfs.json: missing"},
		{"main cut", first[:100], second, nil, 2, "truncated"},
		{"main empty", nil, second, nil, 2, "plyfs.json.bak is used"},
		{"backup tampered with", first, append([]byte("x"), second...), nil, 1, "plyfs.json.bak: damaged"},
		{"main newest, but no longer of its MAC", forged, second, nil, 2, "does not verify"},
		{"backup newest, but no longer of its MAC", second, forged, nil, 2, "does not verify"},
		{"neither verifies", forged, edit(t, first, func(e *envelope) { e.Infra.MAC[0]++ }), ErrTampered, 0, ""},
		{"different volumes", first, other, ErrTampered, 0, ""},
		{"neither", nil, nil, ErrMissing, 0, ""},
		{"both cut", first[:100], second[:100], ErrTruncated, 0, ""},
		{"no main and a cut backup", nil, second[:100], ErrTruncated, 0, ""},
		{"main of a later version", later, nil, ErrVersion, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range map[string][]byte{ConfigName: tt.main, ConfigName + backupSuffix: tt.backup} {
				if b != nil {
					writeFile(t, filepath.Join(dir, name), b)
				}
			}
			c, err := ReadConfig(filepath.Join(dir, ConfigName))
			if err == nil {
				_, got, _, e := unlockWith(c, data, infra)
				if err = e; err == nil && got != keys {
					t.Error("wrong keys")
				}
			}
			if tt.want != nil {
				check(t, tt.name, err, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Generation(1); got != tt.generation || c.Generation(2) != got {
				t.Errorf("got generation %d, want %d", got, tt.generation)
			}
			warnings := strings.Join(c.Warnings(), "\n")
			if !strings.Contains(warnings, tt.warning) || (warnings == "") != (tt.warning == "") {
				t.Errorf("got warnings %q, want %q", warnings, tt.warning)
			}
		})
	}
}

// TestDeniedIsNotEvaded puts a config from before a provider was put on beside the one that has it, as a crash in between or
// whoever writes to the medium would.
func TestDeniedIsNotEvaded(t *testing.T) {
	ctx := context.Background()
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	cmk := &fakeProvider{}
	a.Providers = fakeProviders{"cmk": cmk}
	first, keys := newVolumeOf(t, fleet, groupA)
	second := mustEdit(t, first, a, func(e *Editor) error { return e.AddProvider(ctx, cipher.LayerData, groupA, "cmk") })
	erased := mustEdit(t, first, a, func(e *Editor) error { return e.Erase(cipher.LayerInfra) })
	damaged := edit(t, second, func(e *envelope) { e.Data.Slots[0].Wrapped[0]++ }) // denied, too
	for _, tt := range []struct {
		what         string
		main, backup []byte
		says         error // the provider
		want         error
	}{
		{"older main, agreed", first, second, nil, nil},
		{"older main, denied", first, second, ErrDenied, ErrDenied},
		{"older backup, denied", second, first, ErrDenied, ErrDenied},
		{"older main, unavailable", first, second, ErrUnavailable, ErrUnavailable},
		{"older main, newer is damaged", first, damaged, nil, ErrDenied},
		{"as new, damaged", damaged, second, nil, nil},
		{"older main, erased", first, erased, nil, ErrRetired},
	} {
		dir := t.TempDir()
		for name, b := range map[string][]byte{ConfigName: tt.main, ConfigName + backupSuffix: tt.backup} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := ReadConfig(filepath.Join(dir, ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		cmk.err = tt.says
		u, err := c.Unlock(ctx, a)
		if tt.want != nil {
			check(t, tt.what, err, tt.want)
		} else if err != nil || u.Keys != keys {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

func TestReadConfigOfWhatIsNoVolume(t *testing.T) {
	_, err := ReadConfig(filepath.Join(t.TempDir(), "none", ConfigName))
	check(t, "no directory", err, ErrMissing)
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	elsewhere := filepath.Join(t.TempDir(), "plyfs.json")
	writeFile(t, elsewhere, b)
	for name, plant := range map[string]func(path string) error{
		"a link to a good config": func(path string) error { return os.Symlink(elsewhere, path) },
		"a directory":             func(path string) error { return os.Mkdir(path, 0o700) },
		"a device":                func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		dir := t.TempDir()
		if err := plant(filepath.Join(dir, ConfigName)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadConfig(filepath.Join(dir, ConfigName)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestWriteConfig(t *testing.T) {
	data, infra := newStores(t, testNames)
	first, keys := newConfig(t, 2, data, infra)
	second, third := nextGeneration(t, first, keys, 1), nextGeneration(t, first, keys, 2)
	other, _ := newConfig(t, 2, data, infra)
	dir := t.TempDir()
	write := func(what string, b []byte, want error, after []byte) {
		t.Helper()
		check(t, what, WriteConfig(filepath.Join(dir, ConfigName), b), want)
		bothFiles(t, dir, after)
	}
	write("new", first, nil, first)
	onlyFiles(t, dir, ConfigName, ConfigName+backupSuffix)
	write("the same again", first, nil, first)
	write("another volume", other, ErrExists, first)
	write("no config", []byte("{}"), ErrTampered, first)
	write("newer", second, nil, second)
	write("older", first, ErrStale, second)
	write("as new, but different", edit(t, second, func(e *envelope) { e.Data.MAC[0]++ }), ErrStale, second)
	write("one layer older", edit(t, third, func(e *envelope) { e.Data.Generation, e.Infra.Generation = 1, 9 }), ErrStale, second)
	write("newer by two", nextGeneration(t, first, keys, 7), nil, nextGeneration(t, first, keys, 7))
	onlyFiles(t, dir, ConfigName, ConfigName+backupSuffix, "plyfs.json.lock")
	for _, name := range []string{ConfigName, ConfigName + backupSuffix} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: mode %v, error %v", name, st.Mode(), err)
		}
	}
	if err := WriteConfig(filepath.Join(dir, "none", ConfigName), first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: got error %v", err)
	}
}

func TestWriteConfigRepairs(t *testing.T) {
	data, infra := newStores(t, testNames)
	first, keys := newConfig(t, 2, data, infra)
	second := nextGeneration(t, first, keys, 1)
	tests := []struct {
		name         string
		main, backup []byte
		write        []byte
		want         error
	}{
		{"crash after the backup", first, second, second, nil},
		{"crash before the first main", nil, first, first, nil},
		{"main damaged", []byte("{"), first, first, nil},
		{"backup damaged", first, []byte("{"), first, nil},
		{"backup lost", first, nil, second, nil},
		{"crash after the backup, older one written", first, second, first, ErrStale},
		{"both damaged", []byte("{"), []byte("{"), first, ErrTruncated},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		for name, b := range map[string][]byte{ConfigName: tt.main, ConfigName + backupSuffix: tt.backup} {
			if b != nil {
				writeFile(t, filepath.Join(dir, name), b)
			}
		}
		check(t, tt.name, WriteConfig(filepath.Join(dir, ConfigName), tt.write), tt.want)
		if tt.want == nil {
			bothFiles(t, dir, tt.write)
		} else if tt.backup != nil && !bytes.Equal(readFile(t, filepath.Join(dir, ConfigName+backupSuffix)), tt.backup) {
			t.Errorf("%s: a refused config was written", tt.name)
		}
	}
}

func TestWriteConfigFollowsNoLink(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	victim := filepath.Join(t.TempDir(), "victim")
	writeFile(t, victim, b)
	dir := t.TempDir()
	if err := os.Symlink(victim, filepath.Join(dir, ConfigName+backupSuffix)); err != nil {
		t.Fatal(err)
	}
	if err := WriteConfig(filepath.Join(dir, ConfigName), b); err == nil {
		t.Error("a link in the place of the config was taken for one")
	}
	if !bytes.Equal(readFile(t, victim), b) {
		t.Error("a file elsewhere was written")
	}
}

func TestConcurrentWriteConfig(t *testing.T) {
	data, infra := newStores(t, testNames)
	first, keys := newConfig(t, 2, data, infra)
	dir := t.TempDir()
	if err := WriteConfig(filepath.Join(dir, ConfigName), first); err != nil {
		t.Fatal(err)
	}
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		// all of one generation, and all different, since a slot is salted
		b := rewrapped(t, first, keys, data, infra)
		wg.Go(func() {
			errs[i] = WriteConfig(filepath.Join(dir, ConfigName), b)
			if c, err := ReadConfig(filepath.Join(dir, ConfigName)); err != nil {
				t.Errorf("read during changes: %v", err)
			} else if _, got, _, err := unlockWith(c, data, infra); err != nil || got != keys {
				t.Errorf("unlock during changes: %v", err)
			}
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			check(t, "second change", err, ErrStale)
		}
	}
	if won != 1 {
		t.Errorf("%d changes of one generation succeeded", won)
	}
	bothFiles(t, dir, readFile(t, filepath.Join(dir, ConfigName)))
}

// rewrapped returns the config with its keys wrapped anew, at the next generation.
func rewrapped(t *testing.T, b []byte, keys cipher.Keys, data, infra *Store) []byte {
	t.Helper()
	f := mustParse(t, b).files[0]
	stores := [2]*Store{data, infra}
	for i, v := range []*secret{{b: keys.Data}, {b: keys.Infra}} {
		g, err := stores[i].GroupKey(testNames)
		if err != nil {
			t.Fatal(err)
		}
		sl, err := testPlies[i].wrap(g, nil, v, 1, hashDescriptor(g.layer, f.descriptor), randomOr(nil))
		if err != nil {
			t.Fatal(err)
		}
		f.sections[i].slots = []*slot{sl}
		f.sections[i].generation++
		testPlies[i].authenticate(f.sections[i], v, f.descriptor)
	}
	return edit(t, b, func(e *envelope) { e.Data, e.Infra = f.sections[0].json(), f.sections[1].json() })
}

func TestConcurrentInit(t *testing.T) {
	data, infra := newStores(t, testNames)
	dir := t.TempDir()
	const writers = 6
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		b, _ := newConfig(t, 2, data, infra)
		wg.Go(func() { errs[i] = WriteConfig(filepath.Join(dir, ConfigName), b) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			check(t, "second init", err, ErrExists)
		}
	}
	if made != 1 {
		t.Errorf("%d volumes were made in one directory", made)
	}
}

func TestWriteConfigBusy(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	dir := t.TempDir()
	if err := WriteConfig(filepath.Join(dir, ConfigName), b); err != nil {
		t.Fatal(err)
	}
	d, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	unlock, err := d.lock(ConfigName, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	check(t, "locked", writeConfig(filepath.Join(dir, ConfigName), b, false, 20*time.Millisecond), ErrBusy)
}
