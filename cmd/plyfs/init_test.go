package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
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

// TestInitTakesBackItsOwn: a volume that could not be finished leaves nothing that looks like one.
func TestInitTakesBackItsOwn(t *testing.T) {
	b := newBench(t)
	b.run(exitOK, "keystore", "init")
	nowhere := filepath.Join(b.dir, "none", "config.json")
	b.run(exitFailure, "init", "--config", nowhere, b.cipher)
	if _, err := os.Lstat(b.cipher); err == nil {
		t.Error("the directory was left")
	}
	if err := os.Mkdir(b.cipher, 0o755); err != nil {
		t.Fatal(err)
	}
	b.run(exitFailure, "init", "--config", nowhere, b.cipher)
	if entries, err := os.ReadDir(b.cipher); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	b.volume()
}

// TestInitThatWaitedLeavesAnotherVolume: while an init waits for a passphrase, another makes and mounts the volume.
func TestInitThatWaitedLeavesAnotherVolume(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	pass := b.file("pass", "of the data layer\n")
	b.run(exitOK, "keystore", "init", "--data-passphrase-file", pass)
	fifo := filepath.Join(b.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	late := b.command("plyfs", "init", "--data-passphrase-file", fifo, b.cipher)
	var said bytes.Buffer
	late.Stderr = &said
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	in := openFifo(t, fifo)
	b.volume("--data-passphrase-file", pass)
	b.mount("--data-passphrase-file", pass)
	b.write("a", "of the volume that was first")
	if _, err := in.WriteString("of the data layer\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := late.Wait(); late.ProcessState.ExitCode() != int(exitExists) {
		t.Errorf("the late init: %v\n%s", err, said.String())
	}
	wantText(t, "the late init", said.String(), "holds a plyfs volume already")
	b.wantFile("a", "of the volume that was first")
	b.run(exitOK, "umount", b.mnt)
	b.mount("--data-passphrase-file", pass)
	b.wantFile("a", "of the volume that was first")
}

// openFifo opens a FIFO for writing once somebody reads it.
func openFifo(t *testing.T, path string) *os.File {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			return f
		}
		if !errors.Is(err, unix.ENXIO) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestInitsRace: of several at once for one directory one makes the volume, and the others leave it alone.
func TestInitsRace(t *testing.T) {
	b := newBench(t)
	b.run(exitOK, "keystore", "init")
	for range 3 {
		codes := make(chan int)
		for range 3 {
			go func() {
				cmd := b.command("plyfs", "init", b.cipher)
				cmd.Run()
				codes <- cmd.ProcessState.ExitCode()
			}()
		}
		count := map[int]int{}
		for range 3 {
			count[<-codes]++
		}
		if count[int(exitOK)] != 1 || count[int(exitExists)] != 2 {
			t.Fatalf("exit codes and how often: %v", count)
		}
		b.run(exitOK, "key", "test", b.cipher)
		for _, name := range []string{".plyfs/lock", ".plyfs/journal/super", "plyfs.dirid", "plyfs.json.bak"} {
			if _, err := os.Stat(filepath.Join(b.cipher, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(b.cipher); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveMadeSparesAnotherDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	made, err := makeDir(dir)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	root, err := backing.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if made, err := makeDir(dir); made || err != nil {
		t.Error("a directory that was there counts as made", err)
	}
	aside := dir + ".aside"
	if err := errors.Join(os.Rename(dir, aside), os.Mkdir(dir, 0o755), removeMade(dir, root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error("another directory of the name was removed")
	}
	file := filepath.Join(aside, "foreign")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), removeMade(aside, root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("a file that is not init's was removed")
	}
	if err := errors.Join(os.Remove(file), removeMade(aside, root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(aside); err == nil {
		t.Error("the directory was left")
	}
}
