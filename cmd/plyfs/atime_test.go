package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// readMoves reports whether reading a new file or listing a new directory at
// path moves an access time that is older than the change.
func readMoves(t *testing.T, path string, dir bool) bool {
	t.Helper()
	var err error
	if dir {
		err = os.Mkdir(path, 0o700)
	} else {
		err = os.WriteFile(path, []byte("content"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-72 * time.Hour)
	if err := os.Chtimes(path, old, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if dir {
		_, err = os.ReadDir(path)
	} else {
		_, err = os.ReadFile(path)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	return st.Atim.Sec != old.Unix()
}

// The kernel leaves access times to the daemon, so each of these flags must
// reach it, at the mount and when it is changed.
func TestMountAccessTimes(t *testing.T) {
	b := withVolume(t)
	if !readMoves(t, filepath.Join(b.dir, "file"), false) || !readMoves(t, filepath.Join(b.dir, "dir"), true) {
		t.Log("the disk here keeps no access times: only their standing still is tested")
	}
	want := func(name string, moves bool) {
		t.Helper()
		for dir, kind := range map[bool]string{false: "file", true: "directory"} {
			plain := readMoves(t, filepath.Join(b.dir, name+kind), dir)
			if got := readMoves(t, filepath.Join(b.mnt, name+kind), dir); got != (moves && plain) {
				t.Errorf("%s: reading a %s moves its access time: %v", name, kind, got)
			}
		}
	}
	b.mount("-o", "noatime")
	want("noatime", false)
	b.remount(0, "relatime")
	want("remounted relatime", true)
	b.remount(0, "noatime")
	want("remounted noatime", false)
	b.run(exitOK, "umount", b.mnt)
	b.mount("-o", "strictatime,lazytime")
	b.shows("!relatime", "!noatime")
	want("strictatime", true)
	b.run(exitOK, "umount", b.mnt)
}
