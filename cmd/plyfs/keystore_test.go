package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeystoreInit(t *testing.T) {
	b := newBench(t)
	r := b.run(exitOK, "keystore", "init", "--cluster", "east", "--group", "db")
	wantText(t, "standard error", r.stderr, "BACK THEM UP NOW", "cluster east, group db", "lost for good")
	var want []string
	for _, name := range []string{"data.store", "data.key", "infra.store", "infra.key"} {
		path := filepath.Join(b.keys, name)
		want = append(want, path)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, st.Mode())
		}
	}
	if st, _ := os.Stat(b.keys); st.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, want 0700", st.Mode())
	}
	if got := strings.Fields(r.stdout); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("standard output lists %v, want %v", got, want)
	}
	before, _ := os.ReadFile(want[0])
	b.run(exitExists, "keystore", "init")
	after, _ := os.ReadFile(want[0])
	if string(before) != string(after) {
		t.Error("the store was overwritten")
	}
}

// TestInterruptedKeystoreInit follows the hint for what an init leaves that was cut short, at each step.
func TestInterruptedKeystoreInit(t *testing.T) {
	names := []string{"data.key", "data.store", "infra.key", "infra.store"} // in the order in which they are made
	for made := 1; made < len(names); made++ {
		b := newBench(t)
		b.run(exitOK, "keystore", "init")
		for _, name := range names[made:] {
			if err := os.Remove(filepath.Join(b.keys, name)); err != nil {
				t.Fatal(err)
			}
		}
		r := b.run(exitExists, "keystore", "init")
		_, hint, _ := strings.Cut(r.stderr, "If an init was interrupted here before it made ")
		missing, remove, _ := strings.Cut(hint, ", no volume was made with what it left: remove ")
		for i, name := range names {
			path := filepath.Join(b.keys, name)
			if i < made != strings.Contains(remove, path) || i < made == strings.Contains(missing, path) {
				t.Errorf("%d files made: the hint is %q", made, hint)
			}
		}
		if r := b.as("plyfs", "init", b.cipher); r.code == int(exitOK) || !strings.Contains(r.stderr, "If an init was interrupted here") {
			t.Errorf("%d files made: init: %s", made, r)
		}
		for _, name := range names[:made] {
			if err := os.Remove(filepath.Join(b.keys, name)); err != nil {
				t.Fatal(err)
			}
		}
		b.run(exitOK, "keystore", "init")
	}
	b := newBench(t)
	b.run(exitOK, "keystore", "init")
	if r := b.run(exitExists, "keystore", "init"); strings.Contains(r.stderr, "interrupted") {
		t.Errorf("whole stores: %s", r.stderr)
	}
}

// With one file of the four in the way, none of the others is made.
func TestKeystoreInitIsAllOrNothing(t *testing.T) {
	for _, name := range []string{"data.key", "infra.store"} {
		b := newBench(t)
		if err := os.Mkdir(b.keys, 0o700); err != nil {
			t.Fatal(err)
		}
		b.file("keys/"+name, "precious")
		b.run(exitExists, "keystore", "init")
		entries, _ := os.ReadDir(b.keys)
		if len(entries) != 1 {
			t.Errorf("%d files beside %s", len(entries), name)
		}
	}
	b := newBench(t)
	empty := b.file("empty", "\n")
	b.run(exitUsage, "keystore", "init", "--infra-passphrase-file", empty)
	if entries, _ := os.ReadDir(b.keys); len(entries) != 0 {
		t.Errorf("the data store was left behind: %v", entries)
	}
}

func TestKeystoreInitApart(t *testing.T) {
	b := newBench(t)
	pass := b.file("pass", "a passphrase\n")
	infra, key := filepath.Join(b.dir, "stick/infra.store"), filepath.Join(b.dir, "card/data.key")
	r := b.run(exitOK, "keystore", "init", "--infra-keystore", infra, "--infra-passphrase-file", pass, "--data-key-file", key)
	for _, path := range []string{filepath.Join(b.keys, "data.store"), key, infra} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		wantText(t, "standard output", r.stdout, path+"\n")
	}
	if _, err := os.Stat(filepath.Join(b.dir, "stick/infra.key")); err == nil {
		t.Error("a store under a passphrase has a key file")
	}
}

func TestKeystoreInitBadNames(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"", "Upper", "a_b", "a/b", strings.Repeat("x", 64)} {
		b.run(exitUsage, "keystore", "init", "--cluster", name)
	}
	if _, err := os.Stat(b.keys); err == nil {
		t.Error("something was made")
	}
}
