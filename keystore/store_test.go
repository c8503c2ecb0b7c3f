package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
)

func TestStoreRoundTrip(t *testing.T) {
	for _, l := range bothLayers {
		for name, open := range map[string]Opener{"key file": {}, "passphrase": passphrase("correct horse")} {
			t.Run(l.String()+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "a.store")
				if err := CreateStore(path, l, open, testNames); err != nil {
					t.Fatal(err)
				}
				want := []string{"a.key", "a.store"}
				if open.Passphrase != nil {
					want = want[1:]
				}
				onlyFiles(t, dir, want...)
				for _, name := range want {
					st, err := os.Stat(filepath.Join(dir, name))
					if err != nil || st.Mode() != 0o600 {
						t.Errorf("mode of %s: got %v, error %v", name, st.Mode(), err)
					}
				}
				info, err := ReadStoreInfo(path)
				if err != nil || info.Layer != l || info.Protection.String() != name || info.Generation != 1 {
					t.Errorf("info: got %+v, error %v", info, err)
				}
				var keys [2]*GroupKey
				for i := range keys {
					s, err := OpenStore(path, l, open)
					if err != nil {
						t.Fatal(err)
					}
					if s.Info() != info || s.Layer() != l || s.Path() != path {
						t.Errorf("store: got %+v at %s, want %+v", s.Info(), s.Path(), info)
					}
					if keys[i], err = s.GroupKey(testNames); err != nil {
						t.Fatal(err)
					}
					s.Wipe()
				}
				if keys[0].key.b != keys[1].key.b || keys[0].key.b == [32]byte{} {
					t.Error("group key is not the same at each opening")
				}
				if keys[0].Layer() != l || keys[0].Names() != testNames || keys[0].Epochs() != (Epochs{1, 1, 1}) {
					t.Errorf("group key: got %v at %v", keys[0], keys[0].Epochs())
				}
			})
		}
	}
}

func TestStoresAreIndependent(t *testing.T) {
	seen := map[[32]byte]bool{}
	for range 3 {
		data, infra := newStores(t, testNames)
		for _, s := range []*Store{data, infra} {
			for _, k := range []*secret{s.key, s.content.roots[0].key} {
				if seen[k.b] {
					t.Fatal("a key or root occurs twice")
				}
				seen[k.b] = true
			}
		}
	}
}

func TestCreateStoreErrors(t *testing.T) {
	errSource := errors.New("no terminal")
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		layer   cipher.Layer
		open    Opener
		names   Names
		want    error
		left    []string // files afterwards
	}{
		{name: "store exists", layer: 1, names: testNames, want: ErrExists, left: []string{"a.store"},
			prepare: func(t *testing.T, path string) { writeFile(t, path, []byte("x")) }},
		{name: "dangling link in its place", layer: 1, names: testNames, want: ErrExists, left: []string{"a.store"},
			prepare: func(t *testing.T, path string) {
				if err := os.Symlink("nowhere", path); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "key file exists", layer: 1, names: testNames, want: ErrExists, left: []string{"a.key"},
			prepare: func(t *testing.T, path string) { writeFile(t, DefaultKeyFile(path), []byte("x")) }},
		{name: "bad cluster", layer: 1, names: Names{"Prod", "db"}, want: ErrName},
		{name: "empty group", layer: 1, names: Names{"prod", ""}, want: ErrName},
		{name: "no such layer", layer: 3, names: testNames, want: ErrUsage},
		{name: "empty passphrase", layer: 1, names: testNames, open: passphrase(""), want: ErrUsage},
		{name: "endless passphrase", layer: 1, names: testNames, open: passphrase(string(make([]byte, maxPassphrase+1))), want: ErrUsage},
		{name: "passphrase source fails", layer: 1, names: testNames, want: errSource,
			open: Opener{Passphrase: func() ([]byte, error) { return nil, errSource }, Argon2: fastArgon2}},
		{name: "argon2 out of bounds", layer: 1, names: testNames, want: ErrUsage,
			open: Opener{Passphrase: passphrase("x").Passphrase, Argon2: Argon2{Time: 1, Memory: 7, Threads: 1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a.store")
			if tt.prepare != nil {
				tt.prepare(t, path)
			}
			err := CreateStore(path, tt.layer, tt.open, tt.names)
			if !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			onlyFiles(t, dir, tt.left...)
		})
	}
	if err := CreateStore(filepath.Join(t.TempDir(), "none", "a.store"), 1, Opener{}, testNames); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory missing: got error %v", err)
	}
}

func TestCreateStoreRandomFails(t *testing.T) {
	for n := range 250 {
		dir := t.TempDir()
		err := createStore(filepath.Join(dir, "a.store"), cipher.LayerInfra, Opener{}, testNames, &failReader{n: n})
		if err == nil {
			if n < 16+32+32+32+24 {
				t.Errorf("a store was made of %d random bytes", n)
			}
			return
		}
		if !errors.Is(err, errNoRandom) {
			t.Fatalf("%d random bytes: got error %v", n, err)
		}
		onlyFiles(t, dir)
	}
	t.Error("no store was ever made")
}

func TestOpenStoreErrors(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, path string, open *Opener) // path is of a store with a key file
		layer cipher.Layer
		want  error
	}{
		{"store missing", func(t *testing.T, path string, _ *Opener) { os.Remove(path) }, 1, ErrMissing},
		{"key file missing", func(t *testing.T, path string, _ *Opener) { os.Remove(DefaultKeyFile(path)) }, 1, ErrMissing},
		{"named key file missing", func(t *testing.T, path string, o *Opener) { o.KeyFile = path + ".none" }, 1, ErrMissing},
		{"other layer wanted", func(*testing.T, string, *Opener) {}, 2, ErrWrongKey},
		{"key file of another store", func(t *testing.T, path string, o *Opener) {
			o.KeyFile = DefaultKeyFile(newStore(t, t.TempDir(), cipher.LayerData, testNames).Path())
		}, 1, ErrWrongKey},
		{"key file of the other layer", func(t *testing.T, path string, o *Opener) {
			o.KeyFile = DefaultKeyFile(newStore(t, t.TempDir(), cipher.LayerInfra, testNames).Path())
		}, 1, ErrWrongKey},
		{"key file read by the group", func(t *testing.T, path string, _ *Opener) { os.Chmod(DefaultKeyFile(path), 0o640) }, 1, ErrPermissions},
		{"key file read by others", func(t *testing.T, path string, _ *Opener) { os.Chmod(DefaultKeyFile(path), 0o604) }, 1, ErrPermissions},
		{"key file is a directory", func(t *testing.T, path string, o *Opener) { o.KeyFile = filepath.Dir(path) }, 1, ErrTampered},
		{"key file is a device", func(t *testing.T, path string, o *Opener) { o.KeyFile = "/dev/null" }, 1, ErrTampered},
		{"key file empty", func(t *testing.T, path string, _ *Opener) { writeFile(t, DefaultKeyFile(path), nil) }, 1, ErrTruncated},
		{"key file too long", func(t *testing.T, path string, _ *Opener) { writeFile(t, DefaultKeyFile(path), make([]byte, 300)) }, 1, ErrTampered},
		{"store empty", func(t *testing.T, path string, _ *Opener) { writeFile(t, path, nil) }, 1, ErrTruncated},
		{"store is a directory", func(t *testing.T, path string, _ *Opener) { os.Remove(path); os.Mkdir(path, 0o700) }, 1, ErrTampered},
		{"store too long", func(t *testing.T, path string, _ *Opener) { writeFile(t, path, make([]byte, storeMaxSize+1)) }, 1, ErrTampered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := newStore(t, t.TempDir(), cipher.LayerData, testNames).Path()
			var open Opener
			tt.spoil(t, path, &open)
			_, err := OpenStore(path, tt.layer, open)
			check(t, tt.name, err, tt.want)
		})
	}
	if os.Geteuid() == 0 {
		path := newStore(t, t.TempDir(), cipher.LayerData, testNames).Path()
		os.Chown(DefaultKeyFile(path), 12345, -1)
		_, err := OpenStore(path, cipher.LayerData, Opener{})
		check(t, "key file of another user", err, ErrPermissions)
	}
	path := newStore(t, t.TempDir(), cipher.LayerData, testNames).Path()
	os.Chmod(DefaultKeyFile(path), 0o400)
	if _, err := OpenStore(path, cipher.LayerData, Opener{}); err != nil {
		t.Errorf("key file of mode 0400: %v", err)
	}
}

func TestPassphraseErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.store")
	if err := CreateStore(path, cipher.LayerInfra, passphrase("right"), testNames); err != nil {
		t.Fatal(err)
	}
	source := errors.New("no terminal")
	tests := []struct {
		name string
		open Opener
		want error
	}{
		{"wrong", passphrase("wrong"), ErrWrongKey},
		{"with a line end", passphrase("right\n"), ErrWrongKey},
		{"none", Opener{}, ErrWrongKey},
		{"empty", passphrase(""), ErrUsage},
	}
	for _, tt := range tests {
		_, err := OpenStore(path, cipher.LayerInfra, tt.open)
		check(t, tt.name, err, tt.want)
	}
	_, err := OpenStore(path, cipher.LayerInfra, Opener{Passphrase: func() ([]byte, error) { return nil, source }})
	if !errors.Is(err, source) {
		t.Errorf("source fails: got error %v", err)
	}
	given := []byte("right")
	if _, err := OpenStore(path, cipher.LayerInfra, Opener{Passphrase: func() ([]byte, error) { return given, nil }}); err != nil {
		t.Fatal(err)
	}
	if !allZero(given) {
		t.Error("the passphrase was not wiped")
	}
}

func TestUnknownGroup(t *testing.T) {
	s := newStore(t, t.TempDir(), cipher.LayerData, testNames)
	for _, err := range []error{s.AddCluster("stage"), s.AddGroup(Names{"prod", "db-2"})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		names Names
		want  error
		hint  string
	}{
		{Names{"test", "db-1"}, ErrWrongGroup, "prod, stage"},
		{Names{"prod", "db-3"}, ErrWrongGroup, "db-1, db-2"},
		{Names{"stage", "db-1"}, ErrWrongGroup, "holds no group"},
		{Names{"Prod", "db-1"}, ErrName, "a-z"},
		{Names{"prod", ""}, ErrName, "a-z"},
		{Names{"prod", "db_1"}, ErrName, "a-z"},
		{Names{"prod", string(bytes.Repeat([]byte("x"), 64))}, ErrName, "63"},
	}
	for _, tt := range tests {
		_, err := s.GroupKey(tt.names)
		check(t, tt.names.String(), err, tt.want)
		if !bytes.Contains([]byte(Hint(err)), []byte(tt.hint)) {
			t.Errorf("%s: hint %q does not say %q", tt.names, Hint(err), tt.hint)
		}
	}
	if _, err := s.GroupKey(Names{"prod", "db-2"}); err != nil {
		t.Error(err)
	}
}

func TestGroupKeyAt(t *testing.T) {
	s := newStore(t, t.TempDir(), cipher.LayerInfra, testNames)
	s.content.roots = append(s.content.roots, root{epoch: 4, key: &secret{b: [32]byte{4}}})
	s.content.clusters[0].epoch, s.content.clusters[0].groups[0].epoch = 2, 3
	seen := map[[32]byte]Epochs{}
	for _, e := range []Epochs{{1, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 1, 2}, {1, 1, 3}, {4, 2, 3}} {
		g, err := s.GroupKeyAt(testNames, e)
		if err != nil {
			t.Errorf("%v: %v", e, err)
			continue
		}
		if other, ok := seen[g.key.b]; ok {
			t.Errorf("epochs %v and %v have one key", e, other)
		}
		seen[g.key.b] = e
	}
	newest, err := s.GroupKey(testNames)
	if err != nil || newest.Epochs() != (Epochs{4, 2, 3}) || seen[newest.key.b] != newest.Epochs() {
		t.Errorf("newest: got %v, error %v", newest.Epochs(), err)
	}
	_, err = s.GroupKeyAt(testNames, Epochs{2, 1, 1})
	check(t, "a root that was destroyed", err, ErrRetired)
	for _, e := range []Epochs{{5, 1, 1}, {0, 1, 1}, {1, 3, 1}, {1, 0, 1}, {1, 1, 4}, {1, 1, 0}} {
		_, err := s.GroupKeyAt(testNames, e)
		check(t, fmt.Sprint(e), err, ErrWrongKey)
	}
}

func TestStoreChanges(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, cipher.LayerData, testNames)
	before, err := s.GroupKey(testNames)
	if err != nil {
		t.Fatal(err)
	}
	first := readFile(t, s.Path())
	check(t, "cluster twice", s.AddCluster("prod"), ErrExists)
	check(t, "group twice", s.AddGroup(testNames), ErrExists)
	check(t, "group of no cluster", s.AddGroup(Names{"stage", "a"}), ErrWrongGroup)
	check(t, "bad cluster", s.AddCluster("a/b"), ErrName)
	check(t, "bad group", s.AddGroup(Names{"prod", "a b"}), ErrName)
	if !bytes.Equal(readFile(t, s.Path()), first) || s.Info().Generation != 1 {
		t.Error("a refused change changed the store")
	}
	for _, err := range []error{s.AddCluster("a"), s.AddGroup(Names{"prod", "a"}), s.AddGroup(Names{"a", "z"})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	onlyFiles(t, dir, "data.key", "data.store", "data.store.lock")
	again, err := OpenStore(s.Path(), cipher.LayerData, Opener{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range []*Store{s, again} {
		if got, want := st.Clusters(), []string{"a", "prod"}; !slices.Equal(got, want) {
			t.Errorf("clusters: got %q, want %q", got, want)
		}
		if got, want := st.Groups("prod"), []string{"a", "db-1"}; !slices.Equal(got, want) {
			t.Errorf("groups: got %q, want %q", got, want)
		}
		if got := st.Groups("none"); got != nil {
			t.Errorf("groups of no cluster: got %q", got)
		}
		if got := st.Info().Generation; got != 4 {
			t.Errorf("generation: got %d, want 4", got)
		}
		if g, err := st.GroupKey(testNames); err != nil || g.key.b != before.key.b {
			t.Errorf("a change changed a key, or error %v", err)
		}
	}
	writeFile(t, s.Path(), first)
	check(t, "an older store put back", s.AddCluster("b"), ErrStale)
	os.Remove(s.Path())
	check(t, "store removed", s.AddCluster("b"), ErrMissing)
	s.Wipe()
	if err := s.AddCluster("b"); !errors.Is(err, cipher.ErrWiped) {
		t.Errorf("change after wipe: got error %v", err)
	}
	if _, err := s.GroupKey(testNames); !errors.Is(err, cipher.ErrWiped) {
		t.Errorf("key after wipe: got error %v", err)
	}
	if s.Clusters() != nil || s.Groups("prod") != nil {
		t.Error("names after wipe")
	}
}

func TestStoreChangeKeepsLinkAndMode(t *testing.T) {
	s := newStore(t, t.TempDir(), cipher.LayerData, testNames)
	link := filepath.Join(t.TempDir(), "link.store")
	if err := os.Symlink(s.Path(), link); err != nil {
		t.Fatal(err)
	}
	os.Chmod(s.Path(), 0o400)
	if os.Geteuid() == 0 {
		os.Chown(s.Path(), 12345, 23456)
	}
	before, err := os.Stat(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	through, err := OpenStore(link, cipher.LayerData, Opener{KeyFile: DefaultKeyFile(s.Path())})
	if err != nil {
		t.Fatal(err)
	}
	if err := through.AddCluster("b"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, error %v", st.Mode(), err)
	}
	after, err := os.Stat(s.Path())
	if err != nil || after.Mode() != before.Mode() || owner(after) != owner(before) {
		t.Errorf("got mode %v, owner %v, error %v, want %v, %v", after.Mode(), owner(after), err, before.Mode(), owner(before))
	}
}

func TestConcurrentChanges(t *testing.T) {
	const writers, each = 6, 4
	first := newStore(t, t.TempDir(), cipher.LayerData, testNames)
	var wg sync.WaitGroup
	for w := range writers {
		s := first
		if w%2 == 1 { // as another process would
			var err error
			if s, err = OpenStore(first.Path(), cipher.LayerData, Opener{}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Go(func() {
			for i := range each {
				if err := s.AddGroup(Names{"prod", fmt.Sprintf("w%d-%d", w, i)}); err != nil {
					t.Error(err)
				}
				if _, err := OpenStore(first.Path(), cipher.LayerData, Opener{}); err != nil {
					t.Errorf("read during a change: %v", err)
				}
			}
		})
	}
	wg.Wait()
	s, err := OpenStore(first.Path(), cipher.LayerData, Opener{})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(s.Groups("prod")); got != 1+writers*each || s.Info().Generation != 1+writers*each {
		t.Errorf("got %d groups at generation %d, want %d", got, s.Info().Generation, 1+writers*each)
	}
}

func TestConcurrentCreation(t *testing.T) {
	for _, open := range []Opener{{}, passphrase("x")} {
		path := filepath.Join(t.TempDir(), "a.store")
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = CreateStore(path, cipher.LayerData, open, testNames) })
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				check(t, "second creation", err, ErrExists)
			}
		}
		if made != 1 {
			t.Errorf("%d of %d creations succeeded", made, len(errs))
		}
		if _, err := OpenStore(path, cipher.LayerData, open); err != nil {
			t.Error(err)
		}
	}
}

func TestLockTimesOut(t *testing.T) {
	d, err := openFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	unlock, err := d.lock("a", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.lock("a", 20*time.Millisecond)
	check(t, "second lock", err, ErrBusy)
	unlock()
	if unlock, err = d.lock("a", 0); err != nil {
		t.Errorf("after unlock: %v", err)
	} else {
		unlock()
	}
}
