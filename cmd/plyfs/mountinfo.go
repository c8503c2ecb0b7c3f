package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
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
			Options: joinOptions(f[5], g[2]),
			Type:    unescape(g[0]),
			Source:  unescape(g[1]),
		})
	}
	return mounts
}

// joinOptions puts a mount's and its filesystem's options together, each once.
func joinOptions(mount, super string) string {
	all := strings.Split(mount, ",")
	for o := range strings.SplitSeq(super, ",") {
		if !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return strings.Join(all, ",")
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

// mountState is what is known of a mount without asking it: a daemon that
// hangs would hang whoever asks, for good.
type mountState string

const (
	stateServing mountState = "serving"
	stateDead    mountState = "dead"    // its daemon is gone
	stateUnknown mountState = "unknown" // its ciphertext cannot be seen from here
)

// stateOf looks at the lock on the ciphertext directory, which a daemon holds
// as long as it lives.
func stateOf(m mountEntry) mountState {
	root, err := backing.OpenDir(m.Source)
	if err != nil {
		return stateUnknown
	}
	defer root.Close()
	lock, err := volume.Lock(root, 0)
	switch {
	case err == nil:
		lock.Close()
		return stateDead
	case errors.Is(err, volume.ErrBusy):
		return stateServing
	}
	return stateUnknown
}

// isDead reports whether a mount has lost its daemon.
func isDead(m mountEntry) bool { return stateOf(m) == stateDead }

// mountedVolume returns the volume that is mounted at a place, named as
// resolveTarget takes it.
func mountedVolume(target string) (mountEntry, error) {
	target, err := resolveTarget(target)
	if err != nil {
		return mountEntry{}, err
	}
	mounts, err := readMounts()
	if err != nil {
		return mountEntry{}, err
	}
	m, ok := mountedAt(mounts, target)
	if !ok || m.Type != fsType {
		return mountEntry{}, errNotMounted(target, whereMounted(mounts, target))
	}
	return m, nil
}

// resolveTarget returns the path of a mountpoint as the kernel shows it:
// absolute, without symlinks. It does not touch what is mounted there, which
// may not answer.
func resolveTarget(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	const maxLinks = 40 // as the kernel
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", err
		}
		abs = filepath.Join(dir, filepath.Base(abs))
		if _, ok := mountedAt(mounts, abs); ok {
			return abs, nil
		}
		to, err := os.Readlink(abs)
		if err != nil { // no symlink
			_, err = os.Lstat(abs)
			return abs, err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		abs = to
	}
	return "", &os.PathError{Op: "resolve", Path: path, Err: unix.ELOOP}
}
