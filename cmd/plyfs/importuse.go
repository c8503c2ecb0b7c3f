package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fileID tells files apart, by whatever path they are reached.
type fileID struct{ dev, ino uint64 }

// writersBelow names processes that have files below dir open to write, also by
// other paths: in a container, on a bind mount, by a hard link.
func writersBelow(dir string) ([]string, error) {
	files, err := filesBelow(dir)
	if err != nil {
		return nil, err
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	seen := map[string]bool{}
	var users []string
	for _, link := range links {
		proc := filepath.Dir(filepath.Dir(link))
		if seen[proc] || !opensToWrite(proc, filepath.Base(link)) {
			continue
		}
		// By the path, one that is deleted or new.
		to, err := os.Readlink(link)
		below := err == nil && strings.HasPrefix(to, strings.TrimSuffix(dir, "/")+"/")
		if id, ok := openFileID(link); below || ok && files[id] {
			seen[proc] = true
			users = append(users, processName(proc))
		}
	}
	return users, nil
}

// filesBelow returns the files below dir.
func filesBelow(dir string) (map[fileID]bool, error) {
	files := map[fileID]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		files[fileID{st.Dev, st.Ino}] = true
		return nil
	})
	return files, err
}

// openFileID returns which file a descriptor below /proc has open. It asks no
// server for that, which may be one that hangs.
func openFileID(link string) (fileID, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return fileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, err == nil
}

func opensToWrite(proc, fd string) bool {
	info, err := os.ReadFile(proc + "/fdinfo/" + fd)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "flags:"); ok {
			var flags int
			_, err := fmt.Sscanf(strings.TrimSpace(rest), "%o", &flags)
			return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}
