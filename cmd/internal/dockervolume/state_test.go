package dockervolume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateFileIsPrivateAndWhole(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.mustMount("db", "a")
	path := filepath.Join(r.dir, "state", stateName)
	st, err := os.Stat(path)
	r.must(err)
	if st.Mode() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	// A crash while it was written leaves the old one, and a temporary one.
	r.stop()
	r.must(os.WriteFile(path+".tmp", []byte(`{"version":1,"vol`), 0o600))
	r.start()
	r.wantNames("db:1")
	r.mustUnmount("db", "a")
	if _, err := os.Stat(path + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

func TestStateThatCannotBeSavedChangesNothing(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.mustCreate("used")
	at := r.mustMount("used", "a")
	blocker := r.path(stateName + ".tmp")
	r.must(os.MkdirAll(filepath.Join(blocker, "x"), 0o755))
	r.wantErr(r.create("new"), "save the state")
	r.wantErr(errOf(r.Mount(context.Background(), "db", "a")), "save the state")
	r.wantErr(r.Unmount(context.Background(), "used", "a"), "save the state")
	r.wantErr(r.Remove(context.Background(), "db"), "save the state")
	r.wantNames("db:0 used:1")
	if len(r.host.mounts) != 1 || !r.host.mounted(at) {
		t.Errorf("mounted: %v", r.host.mounts)
	}
	r.must(os.RemoveAll(blocker))
	r.mustCreate("new")
	r.mustUnmount("used", "a")
	r.restart()
	r.wantNames("db:0 new:0 used:0")
}

func TestBadStateFiles(t *testing.T) {
	for text, want := range map[string]string{
		``:                                    "EOF",
		`{"version":2}`:                       "version 2",
		`{"version":1,"volumes":{"../x":{}}}`: "is not",
		`{"version":1,"volumes":{"a":{"ids":[""]}}}`:                          "no ID",
		`{"version":1,"volumes":{"a":{"options":{"cipherdir":"/a/../b"}}}}`:   "cipherdir",
		`{"version":1,"volumes":{"a":{"options":{"keystore":"/a"}}}}`:         "unknown field",
		`{"version":1,"volumes":{"a":{"created":"2026-01-01T00:00:00Z"}},"x"`: "",
	} {
		if _, err := parseState([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestOnePluginServesAStateDirectory(t *testing.T) {
	r := newRig(t)
	_, err := Open(context.Background(), r.config)
	if !errors.Is(err, ErrServed) {
		t.Errorf("a second plugin: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","volumes":{"a":{"created":"2026-01-01T00:00:00Z","options":{"group":"g"},"ids":["b","a","a"]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := s.save(dir); err != nil {
			t.Skip() // a time that JSON cannot say
		}
		again, err := loadState(dir, s.Boot)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Volumes) != len(s.Volumes) {
			t.Fatalf("%d volumes, read back %d", len(s.Volumes), len(again.Volumes))
		}
	})
}
