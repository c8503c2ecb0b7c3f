package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// mustEdit returns the config after a change that the fleet's stores and providers make.
func mustEdit(t testing.TB, b []byte, a Access, change func(e *Editor) error) []byte {
	t.Helper()
	next, err := tryEdit(b, a, change)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func tryEdit(b []byte, a Access, change func(e *Editor) error) ([]byte, error) {
	c, err := ParseConfig(b)
	if err != nil {
		return nil, err
	}
	e, err := c.Edit(context.Background(), a)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	if err := change(e); err != nil {
		return nil, err
	}
	return e.Bytes()
}

func slotsText(t testing.TB, b []byte, l cipher.Layer) string {
	t.Helper()
	var all []string
	for _, s := range mustParse(t, b).Slots(l) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s%s %v", s.Kind, s.Names.Group, s.Name, s.Epochs.Group)))
	}
	return strings.Join(all, ", ")
}

func TestEditor(t *testing.T) {
	ctx := context.Background()
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	a.Providers = fakeProviders{"cmk": {}, "hsm": {}}
	first, keys := newVolumeOf(t, fleet, groupA)
	for _, l := range bothLayers {
		b := first
		for _, tt := range []struct {
			what   string
			change func(e *Editor) error
			want   string
		}{
			{"another group beside it", func(e *Editor) error { return e.AddGroup(l, groupB) }, "group db-1 1, group db-2 1"},
			{"the same group again", func(e *Editor) error { return e.AddGroup(l, groupA) }, "group db-1 1, group db-2 1"},
			{"a recovery slot", func(e *Editor) error { return e.AddRecovery(l, "safe", []byte("p"), fastArgon2) }, "group db-1 1, group db-2 1, recovery safe 0"},
			{"a provider for both", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "cmk") }, "group+provider db-1 1, recovery safe 0"},
			{"a second provider", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "hsm") }, "group+provider db-1 1, recovery safe 0, group+provider db-1 1"},
			{"the first one again", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "cmk") }, "group+provider db-1 1, recovery safe 0, group+provider db-1 1"},
			{"rewrapped", func(e *Editor) error { return e.Rewrap(ctx, l, nil) }, "recovery safe 0, group+provider db-1 1, group+provider db-1 1"},
			{"moved", func(e *Editor) error { return e.Rewrap(ctx, l, &groupB) }, "recovery safe 0, group+provider db-2 1, group+provider db-2 1"},
			{"providers taken off", func(e *Editor) error { return e.AddGroup(l, groupB) }, "recovery safe 0, group db-2 1"},
			{"recovery removed", func(e *Editor) error { return e.Remove(l, 0, false) }, "group db-2 1"},
		} {
			before := b
			b = mustEdit(t, b, a, tt.change)
			if got := slotsText(t, b, l); got != tt.want {
				t.Errorf("%s: %s layer has %q, want %q", tt.what, l, got, tt.want)
			}
			if got := slotsText(t, b, 3-l); got != "group db-1 1" {
				t.Errorf("%s: the other layer has %q", tt.what, got)
			}
			for _, each := range bothLayers {
				if got, want := mustParse(t, b).Generation(each), mustParse(t, before).Generation(each)+1; got != want {
					t.Errorf("%s: generation %d, want %d", tt.what, got, want)
				}
			}
			if u, err := mustParse(t, b).Unlock(ctx, a); err != nil || u.Keys != keys {
				t.Errorf("%s: %v", tt.what, err)
			}
		}
		erased := mustEdit(t, b, a, func(e *Editor) error { return e.Erase(l) })
		_, err := mustParse(t, erased).Unlock(ctx, a)
		check(t, "erased", err, ErrRetired)
	}
}

// TestOtherGroupsSlotsAreNotTried has a host that holds the second of two groups: what it is told is of its own slot.
func TestOtherGroupsSlotsAreNotTried(t *testing.T) {
	ctx := context.Background()
	fleet := newFleet(t)
	hsm := &fakeProvider{err: nil}
	a := StoreAccess(fleet[0], fleet[1])
	a.Providers = fakeProviders{"cmk": {}, "hsm": hsm}
	b, keys := newVolumeOf(t, fleet, groupA)
	b = mustEdit(t, b, a, func(e *Editor) error {
		return errors.Join(e.AddProvider(ctx, cipher.LayerData, groupA, "cmk"), e.AddProvider(ctx, cipher.LayerData, groupB, "hsm"),
			e.AddGroup(cipher.LayerInfra, groupB))
	})
	host := newHost(t, fleet, groupB)
	for _, says := range []error{nil, ErrDenied, ErrUnavailable} {
		hsm.err = says
		own := StoreAccess(host[0], host[1])
		own.Providers = a.Providers
		u, err := mustParse(t, b).Unlock(ctx, own)
		if says != nil {
			check(t, "host of the second group", err, says)
		} else if err != nil || u.Keys != keys {
			t.Errorf("host of the second group: %v", err)
		}
	}
}

func TestEditorRefuses(t *testing.T) {
	ctx := context.Background()
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	a.Providers = fakeProviders{"cmk": {}, "denies": {err: ErrDenied}, "down": {err: errors.New("no route")}, "short": {short: true}, "other": {other: true}}
	b, _ := newVolumeOf(t, fleet, groupA)
	single, _ := newConfig(t, 1, fleet[0], nil)
	const l = cipher.LayerData
	for _, tt := range []struct {
		what   string
		change func(e *Editor) error
		want   error
	}{
		{"unknown group", func(e *Editor) error { return e.AddGroup(l, Names{"prod", "x"}) }, ErrWrongGroup},
		{"unknown provider", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "none") }, ErrMissing},
		{"provider's name", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "../x") }, ErrName},
		{"provider that denies", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "denies") }, ErrDenied},
		{"provider that is down", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "down") }, ErrUnavailable},
		{"provider that gives back something else", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "short") }, ErrTampered},
		{"provider that gives back another secret", func(e *Editor) error { return e.AddProvider(ctx, l, groupA, "other") }, ErrTampered},
		{"no passphrase", func(e *Editor) error { return e.AddRecovery(l, "safe", nil, fastArgon2) }, ErrUsage},
		{"bad recovery name", func(e *Editor) error { return e.AddRecovery(l, "", []byte("p"), fastArgon2) }, ErrName},
		{"endless Argon2id", func(e *Editor) error { return e.AddRecovery(l, "safe", []byte("p"), Argon2{99, 64, 1}) }, ErrUsage},
		{"last slot", func(e *Editor) error { return e.Remove(l, 0, true) }, ErrUsage},
		{"no such slot", func(e *Editor) error { return e.Remove(l, 1, true) }, ErrUsage},
		{"no such layer", func(e *Editor) error { return e.AddGroup(3, groupA) }, ErrUsage},
		{"move to nowhere", func(e *Editor) error { return e.Rewrap(ctx, l, &Names{"prod", "x"}) }, ErrWrongGroup},
		{"too many slots", func(e *Editor) error {
			for i := range maxSlots {
				if err := e.AddRecovery(l, fmt.Sprint("r", i), []byte("p"), fastArgon2); err != nil {
					return err
				}
			}
			return nil
		}, ErrUsage},
	} {
		_, err := tryEdit(b, a, tt.change)
		check(t, tt.what, err, tt.want)
	}
	_, err := tryEdit(single, StoreAccess(fleet[0], nil), func(e *Editor) error { return e.AddGroup(cipher.LayerInfra, groupA) })
	check(t, "layer that the volume has not", err, ErrUsage)
	only := mustEdit(t, b, a, func(e *Editor) error { return e.AddRecovery(l, "safe", []byte("p"), fastArgon2) })
	_, err = tryEdit(only, a, func(e *Editor) error { return e.Remove(l, 0, false) })
	check(t, "all but recovery slots", err, ErrUsage)
	mustEdit(t, only, a, func(e *Editor) error { return e.Remove(l, 0, true) })
	for i, want := range []error{nil, ErrWrongKey, ErrUsage} {
		check(t, fmt.Sprintf("test of slot %d", i), mustParse(t, only).TestSlot(ctx, l, i, a), want)
	}
}

// TestRecoverySlotsHaveTheirOwnNames: of one name every slot would cost an Argon2id.
func TestRecoverySlotsHaveTheirOwnNames(t *testing.T) {
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	b, _ := newVolumeOf(t, fleet, groupA)
	recovery := func(l cipher.Layer, name string) func(e *Editor) error {
		return func(e *Editor) error { return e.AddRecovery(l, name, []byte("p"), fastArgon2) }
	}
	b = mustEdit(t, b, a, recovery(cipher.LayerData, "safe"))
	b = mustEdit(t, b, a, recovery(cipher.LayerData, "vault"))
	b = mustEdit(t, b, a, recovery(cipher.LayerInfra, "safe")) // of another layer
	_, err := tryEdit(b, a, recovery(cipher.LayerData, "vault"))
	check(t, "one more of a name", err, ErrExists)
	twice := edit(t, b, func(e *envelope) { e.Data.Slots = append(e.Data.Slots, e.Data.Slots[1]) })
	_, err = ParseConfig(twice)
	check(t, "two of a name", err, ErrTampered)
	renamed := edit(t, twice, func(e *envelope) { e.Data.Slots[3].Name = "third" })
	if _, err := ParseConfig(renamed); err != nil {
		t.Errorf("three names: %v", err)
	}
}

// TestSlotsAreNotTriedInVain ends the context in one slot: no other one is tried, and nothing is said of their keys.
func TestSlotsAreNotTriedInVain(t *testing.T) {
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	b, _ := newVolumeOf(t, fleet, groupA)
	b = mustEdit(t, b, a, func(e *Editor) error {
		return errors.Join(e.AddRecovery(cipher.LayerData, "safe", []byte("p"), fastArgon2), e.AddRecovery(cipher.LayerInfra, "safe", []byte("p"), fastArgon2))
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	asked := 0
	recovering := Access{Layers: 2, Recovery: "safe", Passphrase: func(cipher.Layer) ([]byte, error) {
		asked++
		cancel()
		return []byte("wrong"), nil
	}}
	_, err := mustParse(t, b).Unlock(ctx, recovering)
	of := LayerErrors(err)
	if len(of) != 2 {
		t.Fatalf("both layers fail: %v", err)
	}
	check(t, "the slot that was tried", of[0].Err, ErrWrongKey)
	check(t, "the slot that was not", of[1].Err, ErrUnavailable)
	if asked != 1 || !errors.Is(of[1].Err, context.Canceled) {
		t.Errorf("%d passphrases, %v", asked, of[1].Err)
	}
}

func TestEraseConfig(t *testing.T) {
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	b, _ := newVolumeOf(t, fleet, groupA)
	dir := t.TempDir()
	path := filepath.Join(dir, ConfigName)
	if err := WriteConfig(path, b); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".tmp-1", ".bak.tmp-2"} {
		writeFile(t, path+name, b)
	}
	// What only has the name of a leftover stays as it is, under its other name.
	foreign := filepath.Join(t.TempDir(), "foreign")
	writeFile(t, foreign, []byte("precious"))
	if err := errors.Join(os.Link(foreign, path+".tmp-3"), os.Symlink(foreign, path+".bak.tmp-4")); err != nil {
		t.Fatal(err)
	}
	overwritten := watchFiles(t, path, path+backupSuffix, path+".tmp-1", path+".bak.tmp-2")
	erased := mustEdit(t, b, a, func(e *Editor) error { return e.Erase(cipher.LayerInfra) })
	if err := EraseConfig(path, erased); err != nil {
		t.Fatal(err)
	}
	bothFiles(t, dir, erased)
	overwritten()
	if got := readFile(t, foreign); string(got) != "precious" {
		t.Errorf("the foreign file holds %q", got)
	}
	onlyFiles(t, dir, ConfigName, ConfigName+backupSuffix, ConfigName+".lock")
	check(t, "the old one again", WriteConfig(path, b), ErrStale)
}

// TestRepeatedRandomness wraps twice with one random source that repeats: salts, and with them keys, differ all the same.
func TestRepeatedRandomness(t *testing.T) {
	fleet := newFleet(t)
	a := StoreAccess(fleet[0], fleet[1])
	b, _ := newVolumeOf(t, fleet, groupA)
	c := mustParse(t, b)
	e, err := c.Edit(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Wipe()
	e.rand = constReader(7)
	if err := errors.Join(e.AddGroup(1, groupB), e.AddGroup(2, groupB), e.AddRecovery(1, "a", []byte("p"), fastArgon2), e.AddRecovery(1, "b", []byte("p"), fastArgon2)); err != nil {
		t.Fatal(err)
	}
	var salts [][]byte
	for _, s := range e.file.sections {
		for _, sl := range s.slots {
			for _, other := range salts {
				if bytes.Equal(other, sl.salt) {
					t.Error("a salt repeats")
				}
			}
			salts = append(salts, sl.salt)
		}
	}
}
