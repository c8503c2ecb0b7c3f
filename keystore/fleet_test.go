package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

var (
	groupA = Names{Cluster: "prod", Group: "db-1"}
	groupB = Names{Cluster: "prod", Group: "db-2"}
	groupC = Names{Cluster: "stage", Group: "db-1"}
)

// newFleet returns the stores of a fleet with three groups in two clusters.
func newFleet(t testing.TB) [2]*Store {
	t.Helper()
	data, infra := newStores(t, groupA)
	for _, s := range []*Store{data, infra} {
		if err := errors.Join(s.AddGroup(groupB), s.AddCluster("stage"), s.AddGroup(groupC)); err != nil {
			t.Fatal(err)
		}
	}
	return [2]*Store{data, infra}
}

// newHost exports a group's bundles and imports them into the stores of a new host.
func newHost(t testing.TB, fleet [2]*Store, n Names) (host [2]*Store) {
	t.Helper()
	dir := t.TempDir()
	for i, s := range fleet {
		path := filepath.Join(dir, s.Layer().String()+".store")
		if err := CreateFromBundle(path, newBundle(t, s, n), Opener{}); err != nil {
			t.Fatal(err)
		}
		var err error
		if host[i], err = OpenStore(path, s.Layer(), Opener{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(host[i].Wipe)
	}
	return host
}

// newBundle exports a group's bundle and opens it.
func newBundle(t testing.TB, s *Store, n Names) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out.bundle")
	if err := s.Export(n, path, Opener{}); err != nil {
		t.Fatal(err)
	}
	b, err := OpenStore(path, s.Layer(), Opener{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Wipe)
	return b
}

func newVolumeOf(t testing.TB, stores [2]*Store, n Names) ([]byte, cipher.Keys) {
	t.Helper()
	b, keys, err := NewVolumeConfig(testParams(2), n, stores[0], stores[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	return b, keys
}

func open(b []byte, stores [2]*Store) (cipher.Keys, error) {
	c, err := ParseConfig(b)
	if err != nil {
		return cipher.Keys{}, err
	}
	u, err := c.Unlock(context.Background(), StoreAccess(stores[0], stores[1]))
	return u.Keys, err
}

// TestBundleOpensItsGroupAlone is promise 2: what leaks on a host opens no volume of another group.
func TestBundleOpensItsGroupAlone(t *testing.T) {
	fleet := newFleet(t)
	groups := []Names{groupA, groupB, groupC}
	for _, own := range groups {
		host := newHost(t, fleet, own)
		if !host[0].IsHost() || fleet[0].IsHost() {
			t.Fatal("a host's store and a fleet's are not told apart")
		}
		for _, n := range groups {
			b, keys := newVolumeOf(t, fleet, n)
			got, err := open(b, host)
			if n == own {
				if err != nil || got != keys {
					t.Errorf("host of %s: %v", own, err)
				}
				continue
			}
			check(t, fmt.Sprintf("host of %s, volume of %s", own, n), err, ErrWrongGroup)
			for i := range host {
				mixed := fleet
				mixed[i] = host[i]
				_, err := open(b, mixed)
				check(t, fmt.Sprintf("one bundle of %s, volume of %s", own, n), err, ErrWrongGroup)
				for _, e := range []Epochs{{1, 1, 1}, {2, 1, 1}, {1, 2, 1}} {
					_, err := host[i].GroupKeyAt(n, e)
					check(t, "key of another group", err, ErrWrongGroup)
				}
			}
			// a volume whose file says another group than it is wrapped for
			renamed := edit(t, b, func(e *envelope) {
				for _, s := range []*jsonSection{e.Data, e.Infra} {
					s.Slots[0].Cluster, s.Slots[0].Group = own.Cluster, own.Group
				}
			})
			_, err = open(renamed, host)
			check(t, "renamed group", err, ErrWrongKey)
		}
		// A volume made on the host opens with the fleet's stores.
		b, keys := newVolumeOf(t, host, own)
		if got, err := open(b, fleet); err != nil || got != keys {
			t.Errorf("volume made on the host of %s: %v", own, err)
		}
	}
}

// TestBundleHoldsNothingAbove looks for every key of the fleet in what a bundle holds, and derives from what it holds.
func TestBundleHoldsNothingAbove(t *testing.T) {
	for _, s := range newFleet(t) {
		p := plyOf(s.Layer())
		b := newBundle(t, s, groupA)
		if len(b.content.roots)+len(b.content.clusters) != 0 || len(b.content.keys) != 1 {
			t.Fatalf("%s bundle holds %d roots, %d clusters, %d keys", s.Layer(), len(b.content.roots), len(b.content.clusters), len(b.content.keys))
		}
		plain := b.content.encode()
		rootKey := s.content.roots[0].key
		above := map[string]*secret{"root": rootKey, "store's key": s.key}
		for _, c := range []string{"prod", "stage"} {
			above["cluster "+c] = p.key(rootKey, labelCluster, lp8(c), be32(1))
		}
		for _, n := range []Names{groupB, groupC} {
			above[n.String()] = p.groupKey(rootKey, n, Epochs{1, 1, 1}).key
		}
		for what, key := range above {
			if bytes.Contains(plain, key.b[:]) {
				t.Errorf("%s bundle holds the %s", s.Layer(), what)
			}
		}
		own := b.content.keys[0].key
		for _, label := range []string{labelCluster, labelGroup} {
			for _, n := range []Names{groupA, groupB, groupC} {
				for _, name := range []string{n.Cluster, n.Group} {
					derived := p.key(own, label, lp8(name), be32(1))
					twice := p.key(derived, labelGroup, lp8(n.Group), be32(1))
					for what, key := range above {
						if derived.b == key.b || twice.b == key.b {
							t.Errorf("%s bundle derives the %s", s.Layer(), what)
						}
					}
				}
			}
		}
	}
}

func TestOneLayersStoreOpensNothing(t *testing.T) {
	fleet := newFleet(t)
	b, _ := newVolumeOf(t, fleet, groupA)
	for _, stores := range [][2]*Store{fleet, newHost(t, fleet, groupA)} {
		for name, a := range map[string]Access{
			"data alone":             {Layers: 2, Data: stores[0]},
			"infra alone":            {Layers: 2, Infra: stores[1]},
			"data for both":          {Layers: 2, Data: stores[0], Infra: stores[0]},
			"infra for both":         {Layers: 2, Data: stores[1], Infra: stores[1]},
			"data alone, one layer":  {Layers: 1, Data: stores[0]},
			"infra alone, one layer": {Layers: 1, Data: stores[1]},
		} {
			u, err := mustParse(t, b).Unlock(context.Background(), a)
			if err == nil || u.Keys != (cipher.Keys{}) {
				t.Errorf("%s: opens", name)
			}
		}
	}
}

func TestRotateRetireDestroy(t *testing.T) {
	fleet := newFleet(t)
	first, keys := newVolumeOf(t, fleet, groupA)
	each := func(change func(*Store) error) error { return errors.Join(change(fleet[0]), change(fleet[1])) }
	for _, scope := range []Names{{}, {Cluster: "prod"}, groupA} {
		if err := each(func(s *Store) error { _, err := s.Rotate(scope); return err }); err != nil {
			t.Fatal(err)
		}
	}
	second, _ := newVolumeOf(t, fleet, groupA)
	if got := mustParse(t, second).Slots(2)[0].Epochs; got != (Epochs{2, 2, 2}) {
		t.Errorf("a new volume is wrapped at %v", got)
	}
	host := newHost(t, fleet, groupA)
	if n := len(host[0].content.keys); n != 8 {
		t.Errorf("bundle of 2, 2 and 2 epochs: %d keys", n)
	}
	for what, stores := range map[string][2]*Store{"fleet": fleet, "host": host} {
		if got, err := open(first, stores); err != nil || got != keys {
			t.Errorf("%s: volume of the first epochs: %v", what, err)
		}
	}
	for _, tt := range []struct {
		what   string
		change func(*Store) error
		want   error
	}{
		{"no such cluster", func(s *Store) error { return s.Retire(Names{Cluster: "none"}, 0) }, ErrWrongGroup},
		{"no such group", func(s *Store) error { return s.Retire(Names{"prod", "none"}, 0) }, ErrWrongGroup},
		{"all of the root", func(s *Store) error { return s.Retire(Names{}, 0) }, ErrUsage},
		{"newest root", func(s *Store) error { return s.Retire(Names{}, 2) }, ErrUsage},
		{"epoch to come", func(s *Store) error { return s.Retire(groupA, 3) }, ErrUsage},
		{"group epoch", func(s *Store) error { return s.Retire(groupA, 1) }, nil},
		{"group epoch twice", func(s *Store) error { return s.Retire(groupA, 1) }, ErrExists},
		{"destroy the newest root", func(s *Store) error { return s.DestroyRoot(2) }, ErrUsage},
		{"destroy no root", func(s *Store) error { return s.DestroyRoot(3) }, ErrUsage},
		{"rotate no cluster", func(s *Store) error { _, err := s.Rotate(Names{Cluster: "none"}); return err }, ErrWrongGroup},
	} {
		for _, s := range fleet {
			check(t, tt.what, tt.change(s), tt.want)
		}
	}
	_, err := open(first, fleet)
	check(t, "a volume of the retired epoch", err, ErrRetired)
	if _, err := open(second, fleet); err != nil {
		t.Errorf("a volume of the epoch in force: %v", err)
	}
	// a host learns of it by the next bundle, and not before
	if _, err := open(first, host); err != nil {
		t.Errorf("host before the import: %v", err)
	}
	for i, s := range host {
		if err := s.Import(newBundle(t, fleet[i], groupA), false); err != nil {
			t.Fatal(err)
		}
	}
	_, err = open(first, host)
	check(t, "the host after the import", err, ErrRetired)
	if _, err := open(second, host); err != nil {
		t.Error(err)
	}
	old, _ := newVolumeOf(t, fleet, groupC)
	if err := each(func(s *Store) error { return s.DestroyRoot(1) }); err != nil {
		t.Fatal(err)
	}
	check(t, "destroyed twice", fleet[0].DestroyRoot(1), ErrRetired)
	_, err = open(first, fleet)
	check(t, "a volume of the destroyed root", err, ErrRetired)
	if _, err := open(old, fleet); err != nil {
		t.Error(err)
	}
	if err := each(func(s *Store) error { return s.Retire(Names{Cluster: "stage"}, 0) }); err != nil {
		t.Fatal(err)
	}
	_, err = open(old, fleet)
	check(t, "a volume of a retired cluster", err, ErrRetired)
	_, _, err = NewVolumeConfig(testParams(2), groupC, fleet[0], fleet[1], nil)
	check(t, "a new volume in a retired cluster", err, ErrRetired)
	check(t, "a bundle of a retired cluster", fleet[0].Export(groupC, filepath.Join(t.TempDir(), "x"), Opener{}), ErrRetired)
	_, err = fleet[0].Rotate(Names{Cluster: "stage"})
	check(t, "rotation of what was retired for good", err, ErrRetired)
	// all of it is there after a reopening
	again, err := OpenStore(fleet[0].Path(), 1, Opener{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(again.Scopes()), fmt.Sprint(fleet[0].Scopes()); got != want {
		t.Errorf("reopened: got %s, want %s", got, want)
	}
	if s := again.Scopes(); s[0].Epoch != 2 || len(s[0].Roots) != 1 || !s[2].ForGood || s[3].Retired != 1 || s[3].Epoch != 2 {
		t.Errorf("scopes: %+v", s)
	}
}

func TestImport(t *testing.T) {
	fleet := newFleet(t)
	oldA := newBundle(t, fleet[0], groupA)
	host := newHost(t, fleet, groupA)[0]
	if _, err := fleet[0].Rotate(groupA); err != nil {
		t.Fatal(err)
	}
	strange, _ := newStores(t, groupA)
	check(t, "again", host.Import(oldA, false), nil)
	check(t, "newer", host.Import(newBundle(t, fleet[0], groupA), false), nil)
	check(t, "older", host.Import(oldA, false), ErrStale)
	check(t, "another fleet's", host.Import(newBundle(t, strange, groupA), false), ErrWrongKey)
	check(t, "another group's", host.Import(newBundle(t, fleet[0], groupB), false), ErrExists)
	check(t, "the other layer's", host.Import(newBundle(t, fleet[1], groupA), false), ErrWrongKey)
	check(t, "the fleet's store itself", host.Import(fleet[0], false), ErrUsage)
	check(t, "into the fleet's store", fleet[0].Import(oldA, true), ErrExists)
	check(t, "one more group", host.Import(newBundle(t, fleet[0], groupB), true), nil)
	if got := fmt.Sprint(host.Clusters(), host.Groups("prod"), host.Groups("stage")); got != "[prod] [db-1 db-2] []" {
		t.Errorf("groups of the host: %s", got)
	}
	check(t, "drop a group it has not", host.DropGroup(groupC), ErrWrongGroup)
	check(t, "drop a group", host.DropGroup(groupA), nil)
	check(t, "drop the last group", host.DropGroup(groupB), ErrUsage)
	check(t, "drop a group of the fleet", fleet[0].DropGroup(groupB), ErrUsage)
	_, err := host.GroupKey(groupA)
	check(t, "the dropped group", err, ErrWrongGroup)
	for what, change := range map[string]func() error{
		"rotate":        func() error { _, err := host.Rotate(groupB); return err },
		"retire":        func() error { return host.Retire(groupB, 0) },
		"add a group":   func() error { return host.AddGroup(groupC) },
		"add a cluster": func() error { return host.AddCluster("x") },
		"destroy":       func() error { return host.DestroyRoot(1) },
		"export":        func() error { return host.Export(groupB, filepath.Join(t.TempDir(), "x"), Opener{}) },
	} {
		check(t, what+" on a host", change(), ErrUsage)
	}
}

// TestBundleDamage changes every byte of a bundle, cuts it at every length, and gives it wrong keys.
func TestBundleDamage(t *testing.T) {
	fleet := newFleet(t)
	for _, s := range fleet {
		dir := t.TempDir()
		byKey, byPass := filepath.Join(dir, "a.bundle"), filepath.Join(dir, "b.bundle")
		if err := errors.Join(s.Export(groupA, byKey, Opener{}), s.Export(groupA, byPass, passphrase("x y"))); err != nil {
			t.Fatal(err)
		}
		check(t, "export over a file", s.Export(groupA, byKey, Opener{}), ErrExists)
		_, err := OpenStore(byPass, s.Layer(), passphrase("x z"))
		check(t, "wrong passphrase", err, ErrWrongKey)
		_, err = OpenStore(byPass, s.Layer(), Opener{})
		check(t, "no passphrase", err, ErrWrongKey)
		_, err = OpenStore(byKey, s.Layer(), Opener{KeyFile: DefaultKeyFile(s.Path())})
		check(t, "another key file", err, ErrWrongKey)
		_, err = OpenStore(byKey, 3-s.Layer(), Opener{})
		check(t, "as the other layer's", err, ErrWrongKey)
		if b, err := OpenStore(byPass, s.Layer(), passphrase("x y")); err != nil || !b.IsHost() {
			t.Errorf("right passphrase: %v", err)
		}
		good := readFile(t, byKey)
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1
			writeFile(t, byKey, b)
			_, err := OpenStore(byKey, s.Layer(), Opener{})
			want := ErrTampered
			if i == 8 || i == 9 {
				want = ErrVersion
			}
			check(t, fmt.Sprintf("byte %d changed", i), err, want)
		}
		for n := range good {
			writeFile(t, byKey, good[:n])
			_, err := OpenStore(byKey, s.Layer(), Opener{})
			check(t, fmt.Sprintf("cut to %d bytes", n), err, ErrTruncated)
		}
	}
}
