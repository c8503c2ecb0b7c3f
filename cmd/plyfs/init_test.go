package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestInitMakesDefaultStores(t *testing.T) {
	b := newBench(t)
	r := b.run(exitOK, "init", b.cipher)
	wantText(t, "standard error", r.stderr, "there are no key stores yet", "BACK THEM UP NOW", "made a volume in "+b.cipher, "two layers")
	if r.stdout != "" {
		t.Errorf("standard output has %q", r.stdout)
	}
	for path, mode := range map[string]os.FileMode{b.cipher: 0o755, filepath.Join(b.keys, "data.store"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, error %v", path, st.Mode(), err)
		}
	}
	r = b.run(exitOK, "init", filepath.Join(b.dir, "second"))
	if again := r.stderr; len(again) > 200 {
		t.Errorf("the second volume was talked about at length: %s", again)
	}
}

func TestInitRefuses(t *testing.T) {
	type want struct {
		code exitCode
		text string
	}
	tests := []struct {
		name    string
		prepare func(b *bench)
		args    []string
		want    want
	}{
		{"a directory with a file", func(b *bench) { os.Mkdir(b.cipher, 0o755); b.file("cipher/x", "") }, nil,
			want{exitExists, "is not empty"}},
		{"a volume", func(b *bench) { b.volume() }, nil, want{exitExists, "holds a plyfs volume already"}},
		{"what an init left that was killed", func(b *bench) {
			os.MkdirAll(filepath.Join(b.cipher, ".plyfs"), 0o700)
			b.file("cipher/plyfs.json.bak.tmp-27b96ecdef15", "")
		}, nil, want{exitExists, "if an init was interrupted here"}},
		{"a file", func(b *bench) { b.file("cipher", "") }, nil, want{exitFailure, "not a directory"}},
		{"no parent", func(b *bench) { b.cipher = filepath.Join(b.dir, "no/such") }, nil, want{exitFailure, "no such file"}},
		{"stores that are missing where they were said to be", nil, []string{"--keystore", "/does/not/exist"},
			want{exitNotVolume, "plyfs keystore init --keystore /does/not/exist"}},
		{"one store of two", func(b *bench) { b.run(exitOK, "keystore", "init"); os.Remove(filepath.Join(b.keys, "infra.store")) }, nil,
			want{exitNotVolume, "data.store is there"}},
		{"an unknown cluster", func(b *bench) { b.run(exitOK, "keystore", "init", "--cluster", "east") }, []string{"--cluster", "west"},
			want{exitNoGroup, "plyfs: hint: it holds: east"}},
		{"an unknown group", func(b *bench) { b.run(exitOK, "keystore", "init", "--group", "db") }, []string{"--group", "web"},
			want{exitNoGroup, "plyfs: hint: it holds: db"}},
		{"a key file that others can read", func(b *bench) { b.run(exitOK, "keystore", "init"); os.Chmod(filepath.Join(b.keys, "data.key"), 0o644) }, nil,
			want{exitFailure, "unsafe permissions"}},
		{"a key file of another store", func(b *bench) {
			b.run(exitOK, "keystore", "init")
			os.Rename(filepath.Join(b.keys, "infra.key"), filepath.Join(b.keys, "data.key"))
		}, nil, want{exitWrongKey, "wrong key"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			if tt.prepare != nil {
				tt.prepare(b)
			}
			before, _ := os.ReadDir(b.cipher)
			r := b.run(tt.want.code, append(append([]string{"init"}, tt.args...), b.cipher)...)
			wantText(t, "standard error", r.stderr, tt.want.text)
			after, _ := os.ReadDir(b.cipher)
			if len(after) != len(before) {
				t.Errorf("%d entries before, %d after", len(before), len(after))
			}
		})
	}
}

// A volume that could not be finished leaves nothing that looks like one.
func TestUndoInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	made, err := makeDir(dir)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".plyfs/tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := undoInit(dir, false); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := undoInit(dir, true); err != nil {
		t.Fatal(err)
	}
	if made, _ := makeDir(dir); !made {
		t.Error("the directory was left")
	}
	if made, err := makeDir(dir); made || err != nil {
		t.Error("a directory that was there counts as made", err)
	}
}
