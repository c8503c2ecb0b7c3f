package provider_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/keystore"
)

func TestHostListsItsProviders(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"b", "a-1", "Bad Name", "c.json"} {
		h.write(t, name, "{}")
	}
	got, err := h.List()
	if err != nil || !slices.Equal(got, []string{"a-1", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
	h.Dir = filepath.Join(h.Dir, "absent")
	if got, err := h.List(); err != nil || got != nil {
		t.Errorf("no directory: got %q, %v", got, err)
	}
}

func TestHostRefusesFiles(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"not JSON", `program = fake`, keystore.ErrUsage, "invalid character"},
		{"empty", ``, keystore.ErrUsage, "EOF"},
		{"two values", `{"program": "fake"} {}`, keystore.ErrUsage, "more than one"},
		{"unknown member", `{"program": "fake", "porgram": "x"}`, keystore.ErrUsage, "porgram"},
		{"no program", `{}`, keystore.ErrUsage, "program"},
		{"path as program", `{"program": "/usr/bin/x"}`, keystore.ErrUsage, "program"},
		{"relative program", `{"program": "../x"}`, keystore.ErrUsage, "program"},
		{"settings a text", `{"program": "fake", "settings": "x"}`, keystore.ErrUsage, "settings"},
		{"settings null", `{"program": "fake", "settings": null}`, keystore.ErrUsage, "settings"},
		{"timeout", `{"program": "fake", "timeout": "soon"}`, keystore.ErrUsage, "timeout"},
		{"long timeout", `{"program": "fake", "timeout": "1h"}`, keystore.ErrUsage, "timeout"},
		{"tries", `{"program": "fake", "tries": 0}`, keystore.ErrUsage, "tries"},
		{"many tries", `{"program": "fake", "tries": 1000}`, keystore.ErrUsage, "tries"},
		{"env name", `{"program": "fake", "env": ["A B"]}`, keystore.ErrUsage, "env"},
		{"all of env", `{"program": "fake", "env": ["*"]}`, keystore.ErrUsage, "env"},
		{"linker", `{"program": "fake", "env": ["LD_PRELOAD"]}`, keystore.ErrUsage, "LD_PRELOAD"},
		{"too long", `{"program": "fake", "settings": {"x": "` + strings.Repeat("x", 40<<10) + `"}}`, keystore.ErrUsage, "more than"},
		{"program that is nowhere", `{"program": "nowhere"}`, keystore.ErrUnavailable, "plyfs-key-nowhere is nowhere on PATH"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			h.write(t, "cmk", test.text)
			_, err := h.Provider("cmk")
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHostRefusesNames(t *testing.T) {
	h := newHost(t)
	h.write(t, "cmk", `{"program": "fake"}`)
	for _, name := range []string{"", "../cmk", "CMK", "a/b", strings.Repeat("a", 64)} {
		if _, err := h.Provider(name); !errors.Is(err, keystore.ErrName) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if _, err := h.Provider("other"); !errors.Is(err, keystore.ErrMissing) || !strings.Contains(err.Error(), "other.json") {
		t.Errorf("absent: got %v", err)
	}
}

// Who could have written the file, the directory or the program could have pointed the host at a service of his own.
func TestHostRefusesWhatOthersCanWrite(t *testing.T) {
	for _, test := range []struct {
		name string
		path func(h *testHost) string
		mode os.FileMode
	}{
		{"file, group", func(h *testHost) string { return filepath.Join(h.Dir, "cmk.json") }, 0o620},
		{"file, all", func(h *testHost) string { return filepath.Join(h.Dir, "cmk.json") }, 0o602},
		{"directory", func(h *testHost) string { return h.Dir }, 0o777},
		{"program", func(h *testHost) string { return filepath.Join(h.dir, "plyfs-key-mine") }, 0o777},
		{"directory of programs", func(h *testHost) string { return h.dir }, 0o777},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			h.write(t, "cmk", `{"program": "mine"}`)
			if err := os.WriteFile(filepath.Join(h.dir, "plyfs-key-mine"), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Provider("cmk"); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := os.Chmod(test.path(h), test.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Provider("cmk"); !errors.Is(err, keystore.ErrPermissions) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHostRefusesWhatIsAnothers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	for _, what := range []string{"file", "directory of programs"} {
		h := newHost(t)
		file := h.write(t, "cmk", `{"program": "mine"}`)
		if err := os.WriteFile(filepath.Join(h.dir, "plyfs-key-mine"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if what != "file" {
			file = h.dir
		}
		if err := os.Chown(file, 1000, 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Provider("cmk"); !errors.Is(err, keystore.ErrPermissions) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestHostPassesOverRelativeDirectories(t *testing.T) {
	h := newHost(t)
	h.write(t, "cmk", `{"program": "fake"}`)
	t.Chdir(h.dir)
	for _, path := range []string{"", ".", ":", "bin:."} {
		h.Path = path
		if _, err := h.Provider("cmk"); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("path %q: got %v", path, err)
		}
	}
}
