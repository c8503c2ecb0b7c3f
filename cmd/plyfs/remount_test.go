package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// remount calls the helper as mount(8) does.
func (b *bench) remount(want int, options string) result {
	b.t.Helper()
	r := b.as("mount.plyfs", b.cipher, b.mnt, "-o", "remount,"+options)
	if r.code != want {
		b.t.Fatalf("remount,%s: exit code %d, want %d\n%s", options, r.code, want, r.stderr)
	}
	return r
}

// shows fails unless the mount's options have the words, or, with a "!", have
// them not.
func (b *bench) shows(words ...string) {
	b.t.Helper()
	m, ok := b.entry()
	if !ok {
		b.t.Fatal("nothing is mounted")
	}
	for _, w := range words {
		name, not := strings.CutPrefix(w, "!")
		if strings.Contains(","+m.Options+",", ","+name+",") == not {
			b.t.Errorf("options %s, want %s", m.Options, w)
		}
	}
}

func TestRemount(t *testing.T) {
	b := withVolume(t)
	b.mount("-o", "suid,noatime,log="+filepath.Join(b.dir, "log"))
	b.write("f", "before")

	b.remount(0, "ro,noatime")
	b.shows("ro", "nodev", "!nosuid", "noatime", "allow_other")
	if err := os.WriteFile(filepath.Join(b.mnt, "f"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a read-only mount: %v", err)
	}
	b.wantFile("f", "before")
	b.remount(0, "rw,nosuid,noexec,relatime,log="+filepath.Join(b.dir, "log"))
	b.shows("!ro", "nosuid", "noexec", "!noatime", "relatime")
	b.write("f", "after")
	b.run(exitOK, "mount", "-o", "remount,dev", b.cipher, b.mnt)
	b.shows("noexec", "!nodev", "nosuid")
	b.remount(0, "rw")
	b.shows("!noexec", "!nodev", "nosuid")

	// In the form of mount.fuse3, which adds dev and suid.
	if r := b.as("plyfs", b.cipher, b.mnt, "-o", "remount,ro,dev,suid"); r.code != 0 {
		t.Errorf("in the form of mount.fuse3: %v", r)
	}
	b.shows("ro", "!nodev", "nosuid")
	b.run(exitOK, "umount", b.mnt)
	b.mount()
	b.wantFile("f", "after")
	b.run(exitOK, "umount", b.mnt)
}

// What a read-only remount leaves in the ciphertext directory is whole: a
// copy of it mounts, even if the daemon is killed then.
func TestRemountReadOnlySettles(t *testing.T) {
	b := mounted(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	b.write("big", big)
	if err := os.WriteFile(filepath.Join(b.mnt, "unsynced"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.remount(0, "ro")
	copied := filepath.Join(b.dir, "copy")
	if err := os.CopyFS(copied, os.DirFS(b.cipher)); err != nil {
		t.Fatal(err)
	}
	// Segments of the journal are not part of what is at rest.
	segments, _ := filepath.Glob(filepath.Join(copied, ".plyfs/journal/segment-*"))
	for _, s := range segments {
		if st, err := os.Stat(s); err != nil || st.Size() == 0 {
			t.Errorf("segment %s: %v", s, err)
		}
	}
	b.run(exitOK, "umount", b.mnt)
	b.run(exitOK, "mount", "-o", "accept-rollback", copied, b.mnt) // the volume went on since
	b.wantFile("big", big)
	b.wantFile("unsynced", "x")
	b.run(exitOK, "umount", b.mnt)
}

func TestRemountRefuses(t *testing.T) {
	b := withVolume(t)
	r := b.remount(32, "ro")
	wantText(t, "standard error", r.stderr, "no plyfs volume is mounted there")
	b.mount("--log", filepath.Join(b.dir, "log"))
	f, err := os.Create(filepath.Join(b.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, "while a file is open for writing", b.remount(32, "ro").stderr, "busy", "in use by")
	b.shows("!ro")
	f.Close()
	for options, want := range map[string]struct {
		code int
		text string
	}{
		"layers=1":           {1, `cannot change this option: "layers"`},
		"journal=/nowhere":   {1, `cannot change this option: "journal"`},
		"journal-size=32M":   {1, `cannot change this option: "journal-size"`},
		"log=/nowhere":       {1, `cannot change this option: "log"`},
		"debug":              {1, `cannot change this option: "debug"`},
		"noallow_other":      {1, `cannot change this option: "allow_other"`},
		"cluster=other":      {32, `of default/default, not "other"`},
		"group=other":        {32, `of default/default, not "other"`},
		"frob":               {1, `unknown mount option: "frob"`},
		"passphrase=hunter2": {1, "a secret"},
	} {
		wantText(t, "remount,"+options, b.remount(want.code, options).stderr, want.text)
	}
	if r := b.as("mount.plyfs", b.dir, b.mnt, "-o", "remount,ro"); r.code != 1 {
		t.Errorf("a remount with another source: %v", r)
	}
	b.shows("!ro", "!noexec")
	b.run(exitOK, "umount", b.mnt)

	b.mount("-o", "ro")
	wantText(t, "rw after ro", b.remount(32, "rw").stderr, "opened read-only")
	b.remount(0, "ro,noexec")
	b.shows("ro", "noexec")
	b.run(exitOK, "umount", b.mnt)
}
