package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever is done to the files that a volume cannot be opened without, the mount
// says which one it is and what to do, with the code for it.
func TestMountOfDamagedVolume(t *testing.T) {
	b := withVolume(t)
	good := filepath.Join(b.dir, "good")
	b.copyTree(b.cipher, good)
	ways := map[string]func(path string) error{
		"zeroed": func(path string) error {
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, make([]byte, st.Size()), 0o600)
		},
		"empty":  func(path string) error { return os.Truncate(path, 0) },
		"gone":   os.Remove,
		"a link": func(path string) error { return replaced(path, func() error { return os.Symlink(path+".x", path) }) },
		"a directory": func(path string) error {
			return replaced(path, func() error { return os.Mkdir(path, 0o700) })
		},
		"a fifo": func(path string) error {
			return replaced(path, func() error { return exec.Command("mkfifo", path).Run() })
		},
	}
	for _, name := range []string{"plyfs.dirid", ".plyfs/journal/super"} {
		for way, do := range ways {
			if err := os.RemoveAll(b.cipher); err != nil {
				t.Fatal(err)
			}
			b.copyTree(good, b.cipher)
			if err := do(filepath.Join(b.cipher, name)); err != nil {
				t.Fatal(err)
			}
			r := b.run(exitTampered, "mount", b.cipher, b.mnt)
			wantText(t, name+" "+way, r.stderr, "plyfs: hint: ", "restore ")
		}
	}
	// A journal that is needed.
	b.run(exitOK, "mount", good, b.mnt)
	b.write("f", "content")
	d := b.daemon()
	if err := unix.Kill(d.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.awaitEnd(d)
	if err := unix.Unmount(b.mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for way, do := range ways {
		if err := os.RemoveAll(b.cipher); err != nil {
			t.Fatal(err)
		}
		b.copyTree(good, b.cipher)
		if err := do(filepath.Join(b.cipher, ".plyfs/journal/segment-0000")); err != nil {
			t.Fatal(err)
		}
		r := b.run(exitTampered, "mount", b.cipher, b.mnt)
		wantText(t, "a segment "+way, r.stderr, "plyfs: hint: ")
	}
	for way, do := range ways {
		if way == "gone" { // that is no volume
			continue
		}
		if err := os.RemoveAll(b.cipher); err != nil {
			t.Fatal(err)
		}
		b.copyTree(good, b.cipher)
		for _, name := range []string{"plyfs.json", "plyfs.json.bak"} {
			if err := do(filepath.Join(b.cipher, name)); err != nil {
				t.Fatal(err)
			}
		}
		wantText(t, "plyfs.json "+way, b.run(exitTampered, "mount", b.cipher, b.mnt).stderr, "plyfs.json", "plyfs: hint: ")
	}
}

// replaced moves what is at path aside and puts something else there.
func replaced(path string, put func() error) error {
	if err := os.Rename(path, path+".x"); err != nil {
		return err
	}
	return put()
}
