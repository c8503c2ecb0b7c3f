package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// TestFormatTakesBackItsOwn fails every step of Format in turn: what it made goes, and what was there stays.
func TestFormatTakesBackItsOwn(t *testing.T) {
	v := &testVolume{t: t, back: t.TempDir(), cipher: newCipher(t, 4096)}
	must(t, os.WriteFile(filepath.Join(v.back, "foreign"), nil, 0o600))
	failed := 0
	for _, kind := range []faultfs.Kind{faultfs.Name, faultfs.Open, faultfs.Write, faultfs.Sync, faultfs.DirSync} {
		for skip := range 40 {
			faults := faultfs.New(v.root())
			faults.Set(faultfs.Plan{Kind: kind, Skip: skip, Times: 1, Err: unix.ENOSPC})
			err := Format(faults.Root(), v.cipher)
			if err == nil {
				must(t, Unformat(v.root()))
				wantNames(t, v.back, "foreign")
				break
			}
			failed++
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("%v, %d: %v", kind, skip, err)
			}
			wantNames(t, v.back, "foreign")
		}
	}
	if failed < 8 {
		t.Errorf("%d steps failed", failed)
	}
}

func TestFormatLeavesAnotherVolume(t *testing.T) {
	v := &testVolume{t: t, back: t.TempDir(), cipher: newCipher(t, 4096)}
	must(t, Format(v.root(), v.cipher))
	if err := Format(v.root(), newCipher(t, 4096)); !errors.Is(err, ErrExists) {
		t.Errorf("the second Format: %v", err)
	}
	wantNames(t, v.back, metaName, dirIDName)
	must(t, os.RemoveAll(filepath.Join(v.back, metaName)))
	if err := Format(v.root(), newCipher(t, 4096)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("Format beside another volume's root ID: %v", err)
	}
	wantNames(t, v.back, dirIDName)
}

// wantNames fails unless a directory holds these names alone.
func wantNames(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(names) {
		t.Errorf("it holds %v, want %v", got, names)
	}
	for _, n := range names {
		if _, err := os.Lstat(filepath.Join(dir, n)); err != nil {
			t.Errorf("it holds %v, want %v", got, names)
		}
	}
}
