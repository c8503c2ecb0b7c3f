// Package scratch gives a test run a directory of its own, which goes at the end
// with whatever is mounted in it; where the run was killed, with the next one.
package scratch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Make makes the directory of the run called name, on a disk: in TMPDIR, or else
// in /var/tmp.
func Make(name string) (string, error) {
	base := os.Getenv("TMPDIR")
	if base == "" {
		base = "/var/tmp"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(base, &fs); err != nil {
		return "", fmt.Errorf("%s: %w", base, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return "", fmt.Errorf("%s is a tmpfs; set TMPDIR to a directory on a disk", base)
	}
	return MakeIn(base, name)
}

// MakeIn is Make in base, and removes what runs of that name left there that
// were killed.
func MakeIn(base, name string) (string, error) {
	for _, dir := range Stale(base, name) {
		RemoveTree(dir) // what stays is in nobody's way
	}
	dir := prefix(base, name) + strconv.Itoa(os.Getpid())
	return dir, os.Mkdir(dir, 0o755)
}

// Stale lists the directories in base of runs of that name that are gone.
func Stale(base, name string) (stale []string) {
	all, _ := filepath.Glob(prefix(base, name) + "*")
	for _, dir := range all {
		pid, err := strconv.Atoi(strings.TrimPrefix(dir, prefix(base, name)))
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			stale = append(stale, dir)
		}
	}
	return stale
}

// prefix is what precedes the process ID in a directory's name.
func prefix(base, name string) string { return filepath.Join(base, "plyfs-"+name+"-") }

// Remove ends the run in dir. With PLYFS_KEEP set the files stay, for a look.
func Remove(dir string) error {
	if os.Getenv("PLYFS_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept", dir)
		return Detach(dir)
	}
	return RemoveTree(dir)
}

// RemoveTree takes a tree away with what is mounted in it. It removes nothing
// while anything is: that would reach into other trees.
func RemoveTree(dir string) error {
	if err := Detach(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Detach takes away every mount at or below dir.
func Detach(dir string) error {
	for _, m := range Mounts(dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	if left := Mounts(dir); len(left) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(left, ", "))
	}
	return nil
}

// Mounts lists the mount points at or below dir, innermost first.
func Mounts(dir string) (found []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if at := strings.ReplaceAll(f[4], `\040`, " "); at == dir || strings.HasPrefix(at, dir+"/") {
			found = append([]string{at}, found...)
		}
	}
	return found
}

// IsMount says whether something is mounted at a place, by the mount table, so
// that a mount without its daemon counts.
func IsMount(at string) bool { return slices.Contains(Mounts(at), at) }

// LeaveOthers parts this mount namespace from the one it was made from, so that
// what is mounted and unmounted in the one does not reach the other, and keeps
// it from holding volumes that are mounted there.
func LeaveOthers() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		_, filesystem, _ := strings.Cut(lines[i], " - ")
		// What another mount covers is out of reach, and then stays; in a chroot
		// there need be no mount at /.
		if unix.Mount("", f[4], "", unix.MS_PRIVATE, "") == nil && strings.HasPrefix(filesystem, "fuse.") {
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	return nil
}

// Plyfs returns the program to test, a copy in dir, so that a build during the
// run changes nothing: of PLYFS_BIN, or built from this source.
func Plyfs(dir string) (string, error) {
	bin := filepath.Join(dir, "plyfs")
	if from := os.Getenv("PLYFS_BIN"); from != "" {
		b, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		return bin, os.WriteFile(bin, b, 0o755)
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", bin, "github.com/plyfs/plyfs/cmd/plyfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building plyfs: %w\n%s", err, out)
	}
	return bin, nil
}

// Environ is this program's environment without what is meant for it, with
// plyfs's state below dir: away from the state and the key stores of the
// machine.
func Environ(dir string) (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PLYFS_") {
			env = append(env, kv)
		}
	}
	return append(env, "XDG_STATE_HOME="+filepath.Join(dir, "state"))
}
