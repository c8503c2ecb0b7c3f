package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

// fleet makes the key stores of a fleet of two clusters with two groups each in b.keys.
func (b *bench) fleet() {
	b.t.Helper()
	b.run(exitOK, "keystore", "init", "--cluster", "prod", "--group", "db-1")
	b.run(exitOK, "keystore", "cluster", "add", "stage")
	for cluster, groups := range map[string][]string{"prod": {"db-2"}, "stage": {"db-1", "db-2"}} {
		for _, g := range groups {
			b.run(exitOK, "keystore", "group", "add", "--cluster", cluster, g)
		}
	}
}

// host makes the key stores of a host of a group, and returns their directory.
func (b *bench) host(name, cluster, group string) string {
	b.t.Helper()
	dir := filepath.Join(b.dir, name)
	b.update(dir, name, cluster, group)
	return dir
}

// update exports a group's bundles and imports them into a host's stores.
func (b *bench) update(dir, name, cluster, group string, importArgs ...string) {
	b.t.Helper()
	for _, layer := range []string{"data", "infra"} {
		out := filepath.Join(b.dir, name+"."+layer+".bundle")
		b.run(exitOK, "keystore", "export", "--layer", layer, "--cluster", cluster, "--group", group, "--out", out)
		b.run(exitOK, append([]string{"keystore", "import", "--keystore", dir, "--layer", layer, out}, importArgs...)...)
		os.Remove(out)
		os.Remove(out + ".key")
	}
}

func TestFleetIsListed(t *testing.T) {
	b := newBench(t)
	b.fleet()
	b.run(exitExists, "keystore", "cluster", "add", "stage")
	b.run(exitExists, "keystore", "group", "add", "--cluster", "stage", "db-1")
	b.run(exitNoGroup, "keystore", "group", "add", "--cluster", "none", "db-1")
	b.run(exitUsage, "keystore", "cluster", "add", "Stage")
	b.run(exitUsage, "keystore", "cluster", "add")
	b.run(exitUsage, "keystore", "cluster", "add", "--layer", "outer", "x")
	r := b.run(exitOK, "keystore", "cluster", "ls")
	wantText(t, "cluster ls", r.stdout, "data layer, ", "infra layer, ", "root epochs 1", "prod   epoch 1", "stage  epoch 1")
	r = b.run(exitOK, "keystore", "group", "ls", "--json", "--cluster", "prod")
	var got []storeListing
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[1].Entries) != 2 || got[1].Entries[1] != (scopeListing{Cluster: "prod", Group: "db-2", Epoch: 1}) || got[0].Holds != "fleet" {
		t.Errorf("group ls: %+v", got)
	}
	b.run(exitOK, "keystore", "cluster", "add", "--layer", "infra", "lab")
	r = b.run(exitExists, "keystore", "cluster", "add", "--layer", "infra", "lab")
	wantText(t, "again", r.stderr, "already exists")
	// the data store takes it, the infra store has it: said so
	r = b.run(exitExists, "keystore", "cluster", "add", "lab")
	wantText(t, "half done", r.stderr, "repeat with --layer infra")
}

func TestRotateRetireDestroyRoots(t *testing.T) {
	b := newBench(t)
	b.fleet()
	b.run(exitUsage, "keystore", "rotate")
	b.run(exitUsage, "keystore", "rotate", "--root", "--cluster", "prod")
	b.run(exitNoGroup, "keystore", "rotate", "--cluster", "none")
	for _, scope := range [][]string{{"--root"}, {"--cluster", "prod"}, {"--cluster", "prod", "--group", "db-1"}} {
		r := b.run(exitOK, append([]string{"keystore", "rotate"}, scope...)...)
		wantText(t, "rotate", r.stderr, "data.store is at epoch 2 now", "infra.store is at epoch 2 now")
	}
	b.run(exitUsage, "keystore", "retire", "--root", "--epoch", "2")
	b.run(exitUsage, "keystore", "retire", "--root")
	b.run(exitUsage, "keystore", "retire", "--cluster", "prod", "--epoch", "0")
	b.run(exitOK, "keystore", "retire", "--cluster", "prod", "--group", "db-1", "--epoch", "1")
	b.run(exitOK, "keystore", "retire", "--cluster", "stage", "--group", "db-1")
	r := b.run(exitOK, "keystore", "group", "ls")
	wantText(t, "group ls", r.stdout, "prod/db-1   epoch 2, retired up to epoch 1", "stage/db-1  epoch 1, retired for good")
	b.run(exitRetired, "init", "--cluster", "stage", "--group", "db-1", b.cipher)
	b.run(exitRetired, "keystore", "export", "--layer", "data", "--cluster", "stage", "--group", "db-1", "--out", filepath.Join(b.dir, "x"))
	b.run(exitUsage, "keystore", "destroy", "--yes")
	b.run(exitUsage, "keystore", "destroy", "--layer", "data", "--yes")
	b.run(exitUsage, "keystore", "destroy", "--layer", "data", "--yes", "--root-epoch", "2")
	r = b.run(exitUsage, "keystore", "destroy", "--layer", "data", "--root-epoch", "1")
	wantText(t, "without a terminal", r.stderr, "say --yes", "root epoch 1")
	for _, none := range []string{"0", "4294967295", "4294967297", "18446744073709551615"} { // 2^32 + 1 is no way to say 1
		b.run(exitUsage, "keystore", "destroy", "--layer", "data", "--root-epoch", none, "--yes")
		b.run(exitUsage, "keystore", "retire", "--root", "--epoch", none)
	}
	b.run(exitOK, "keystore", "destroy", "--layer", "data", "--root-epoch", "1", "--yes")
	b.run(exitRetired, "keystore", "destroy", "--layer", "data", "--root-epoch", "1", "--yes")
	r = b.run(exitOK, "keystore", "cluster", "ls", "--layer", "data")
	wantText(t, "cluster ls", r.stdout, "root epochs 2")
}

// TestHostOpensItsGroupAlone is promise 2 by commands: with the bundles of one group no volume of another opens.
func TestHostOpensItsGroupAlone(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.fleet()
	groups := [][2]string{{"prod", "db-1"}, {"prod", "db-2"}, {"stage", "db-1"}}
	own := b.host("host", "prod", "db-1")
	var volumes []string
	for _, g := range groups {
		dir := filepath.Join(b.dir, g[0]+g[1])
		b.run(exitOK, "init", "--cluster", g[0], "--group", g[1], dir)
		volumes = append(volumes, dir)
	}
	b.run(exitOK, "mount", "--keystore", own, volumes[0], b.mnt)
	b.write("a", "of the host's own group")
	b.wantFile("a", "of the host's own group")
	b.run(exitOK, "umount", b.mnt)
	new := filepath.Join(b.dir, "new")
	b.run(exitNoGroup, "init", "--keystore", own, "--cluster", "prod", "--group", "db-2", new)
	for i, dir := range volumes[1:] {
		b.run(exitNoGroup, "mount", "--keystore", own, dir, b.mnt)
		b.run(exitNoGroup, "mount", "--keystore", own, "-o", "cluster="+groups[i+1][0], dir, b.mnt)
		b.run(exitNoGroup, "mount", "--data-keystore", filepath.Join(own, "data.store"), dir, b.mnt)
		b.run(exitNoGroup, "mount", "--infra-keystore", filepath.Join(own, "infra.store"), dir, b.mnt)
		b.run(exitAssertion, "mount", "--keystore", own, "-o", "layers=1", dir, b.mnt)
	}
	for _, args := range [][]string{
		{"export", "--layer", "data", "--cluster", "prod", "--group", "db-1", "--out", new},
		{"cluster", "add", "x"}, {"group", "add", "--cluster", "prod", "x"}, {"rotate", "--cluster", "prod"},
		{"retire", "--cluster", "prod", "--group", "db-1"}, {"destroy", "--layer", "data", "--root-epoch", "1", "--yes"},
	} {
		b.run(exitUsage, append([]string{"keystore", args[0], "--keystore", own}, args[1:]...)...)
	}
	// One layer's store alone opens nothing.
	only := filepath.Join(b.dir, "only")
	os.Mkdir(only, 0o700)
	for _, f := range []string{"data.store", "data.key"} {
		text, err := os.ReadFile(filepath.Join(own, f))
		if err != nil {
			t.Fatal(err)
		}
		b.file("only/"+f, string(text))
	}
	b.run(exitNotVolume, "mount", "--keystore", only, volumes[0], b.mnt)
	b.run(exitAssertion, "mount", "--keystore", only, "-o", "layers=1", volumes[0], b.mnt)
	b.run(exitWrongKey, "mount", "--keystore", only, "--infra-keystore", filepath.Join(own, "data.store"), volumes[0], b.mnt)
}

// TestImportKeepsUp brings a host up to date and refuses what is older, another group's or another fleet's.
func TestImportKeepsUp(t *testing.T) {
	b := newBench(t)
	b.fleet()
	host := b.host("host", "prod", "db-1")
	export := func(name string, args ...string) string {
		out := filepath.Join(b.dir, name)
		b.run(exitOK, append([]string{"keystore", "export", "--layer", "data", "--out", out, "--cluster", "prod"}, args...)...)
		return out
	}
	old := export("old", "--group", "db-1")
	b.run(exitExists, "keystore", "export", "--layer", "data", "--out", old, "--cluster", "prod", "--group", "db-1")
	b.run(exitOK, "keystore", "rotate", "--cluster", "prod")
	imports := func(want exitCode, args ...string) result {
		return b.run(want, append([]string{"keystore", "import", "--keystore", host, "--layer", "data"}, args...)...)
	}
	imports(exitOK, export("new", "--group", "db-1"))
	imports(exitExists, old)
	other := export("other", "--group", "db-2")
	imports(exitExists, other)
	imports(exitOK, "--add", other)
	r := b.run(exitOK, "keystore", "group", "ls", "--keystore", host, "--layer", "data")
	wantText(t, "group ls", r.stdout, "the keys of a host", "prod/db-1", "prod/db-2")
	imports(exitUsage, filepath.Join(b.keys, "data.store"))
	b.run(exitWrongKey, "keystore", "import", "--keystore", host, "--layer", "infra", other)

	pass := b.file("pass", "a passphrase\n")
	sealed := export("sealed", "--group", "db-1", "--bundle-passphrase-file", pass)
	if _, err := os.Stat(sealed + ".key"); err == nil {
		t.Error("a bundle under a passphrase has a key file")
	}
	imports(exitUsage, sealed) // no terminal
	imports(exitWrongKey, "--bundle-passphrase-file", b.file("wrong", "another\n"), sealed)
	imports(exitOK, "--bundle-passphrase-file", pass, sealed)
	text, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	imports(exitTampered, "--bundle-passphrase-file", pass, b.file("cut", string(text[:len(text)-1])))
	text[len(text)-1] ^= 1
	imports(exitTampered, "--bundle-passphrase-file", pass, b.file("changed", string(text)))
	imports(exitTampered, b.file("none", "hello\n"))
	imports(exitNotVolume, filepath.Join(b.dir, "missing"))

	b.run(exitOK, "keystore", "destroy", "--keystore", host, "--layer", "data", "--cluster", "prod", "--group", "db-2", "--yes")
	b.run(exitOK, "keystore", "destroy", "--keystore", host, "--layer", "data", "--yes")
	for _, name := range []string{"data.store", "data.key"} {
		if _, err := os.Stat(filepath.Join(host, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestDestroyGoesOn repeats a keystore destroy that was cut short, at each step.
func TestDestroyGoesOn(t *testing.T) {
	b := newBench(t)
	b.fleet()
	for step, cut := range []func(store, key string) error{
		func(_, _ string) error { return nil },
		func(_, key string) error { return os.WriteFile(key, make([]byte, 90), 0o600) },
		func(_, key string) error { return os.Remove(key) },
		func(store, key string) error {
			return errors.Join(os.Remove(key), os.WriteFile(store+".destroyed", make([]byte, 300), 0o600))
		},
	} {
		host := b.host(fmt.Sprintf("host%d", step), "prod", "db-1")
		store, key := filepath.Join(host, "infra.store"), filepath.Join(host, "infra.key")
		if err := errors.Join(os.Rename(store, store+".destroyed"), cut(store, key)); err != nil {
			t.Fatal(err)
		}
		destroy := []string{"keystore", "destroy", "--keystore", host, "--layer", "infra"}
		wantText(t, "no terminal", b.run(exitUsage, destroy...).stderr, "--yes")
		wantText(t, "destroy", b.run(exitOK, append(destroy, "--yes")...).stderr, "what an interrupted command had left")
		left, err := filepath.Glob(filepath.Join(host, "infra.*"))
		if err != nil || len(left) > 0 {
			t.Errorf("step %d: left: %v", step, left)
		}
		b.run(exitNotVolume, append(destroy, "--yes")...)
	}
}

// TestHostStoreUnderPassphrase imports into a store that a passphrase opens.
func TestHostStoreUnderPassphrase(t *testing.T) {
	b := newBench(t)
	b.fleet()
	host, pass := filepath.Join(b.dir, "host"), b.file("pass", "of the host\n")
	b.update(host, "host", "prod", "db-1", "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	b.update(host, "host", "prod", "db-1", "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	for _, l := range []cipher.Layer{cipher.LayerData, cipher.LayerInfra} {
		if i, err := keystore.ReadStoreInfo(filepath.Join(host, l.String()+".store")); err != nil || i.Protection != keystore.ByPassphrase || i.Generation != 2 {
			t.Errorf("%s: %+v, %v", l, i, err)
		}
	}
	files, _ := os.ReadDir(host)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".key") {
			t.Errorf("there is a key file %s", f.Name())
		}
	}
}
