package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/treecopy"
)

// writersOf names processes that have one of files open to write, by whatever path:
// in a container, on a bind mount, by a hard link. Paths do not tell: those of
// another mount namespace look like those of this one.
func writersOf(files map[treecopy.FileID]bool) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	seen := map[string]bool{}
	var users []string
	for _, link := range links {
		proc := filepath.Dir(filepath.Dir(link))
		if seen[proc] || !opensToWrite(proc, filepath.Base(link)) {
			continue
		}
		if id, ok := openFileID(link); ok && files[id] {
			seen[proc] = true
			users = append(users, processName(proc))
		}
	}
	return users
}

// openFileID returns which file a descriptor below /proc has open. It asks no
// server for that, which may be one that hangs.
func openFileID(link string) (treecopy.FileID, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return treecopy.FileID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}, err == nil
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
