package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fsType is the type of a mounted volume.
const fsType = "fuse.plyfs"

// mountEntry is a line of /proc/self/mountinfo, proc(5).
type mountEntry struct {
	Device  string // major:minor, the same for all mounts of one filesystem
	Target  string
	Options string // of the mount, then of the filesystem
	Type    string
	Source  string
}

func readMounts() ([]mountEntry, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(b)), nil
}

// parseMounts skips lines that are none.
func parseMounts(text string) []mountEntry {
	var mounts []mountEntry
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, g := strings.Split(before, " "), strings.SplitN(after, " ", 3)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		mounts = append(mounts, mountEntry{
			Device:  f[2],
			Target:  unescape(f[4]),
			Options: f[5] + "," + g[2],
			Type:    unescape(g[0]),
			Source:  unescape(g[1]),
		})
	}
	return mounts
}

// unescape undoes the kernel's \ooo for blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// mountedAt returns what is mounted at target: the last mount covers the ones
// before it. ok is false where nothing is.
func mountedAt(mounts []mountEntry, target string) (m mountEntry, ok bool) {
	for _, e := range mounts {
		if e.Target == target {
			m, ok = e, true
		}
	}
	return m, ok
}

// volumeMounts returns the mounts of plyfs.
func volumeMounts(mounts []mountEntry) []mountEntry {
	var found []mountEntry
	for _, m := range mounts {
		if m.Type == fsType {
			found = append(found, m)
		}
	}
	return found
}

// isDead reports whether the mount at target has lost its daemon.
func isDead(target string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(target, &st), unix.ENOTCONN)
}

// resolveTarget returns the path of a mountpoint as the kernel will show it:
// absolute, without symlinks. It does not touch a mount whose daemon is gone.
func resolveTarget(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if full, err := filepath.EvalSymlinks(abs); err == nil {
		return full, nil
	} else if !errors.Is(err, unix.ENOTCONN) {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}
