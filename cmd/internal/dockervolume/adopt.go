package dockervolume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openAllowed opens a ciphertext directory below one of the allowed roots,
// for nothing but its place (O_PATH). Symlinks in a root are the
// administrator's; below it there may be none, nor a way up.
func openAllowed(roots []string, path string) (*os.File, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("cipherdir=%s: this plugin takes no volumes that are there already; it was started without --allow-dir", path)
	}
	for _, root := range roots {
		rel, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")+"/")
		if !ok || rel == "" {
			continue
		}
		f, err := openBeneath(root, rel)
		if err != nil {
			return nil, fmt.Errorf("cipherdir=%s: %w", path, err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("cipherdir=%s: not below a directory that --allow-dir names (%s)", path, strings.Join(roots, ", "))
}

func openBeneath(root, rel string) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("allowed directory %s: %w", root, err)
	}
	defer unix.Close(at)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd := -1
	for range 8 { // EAGAIN: the kernel saw a rename and wants the lookup repeated
		if fd, err = unix.Openat2(at, rel, &how); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("a symbolic link leads there, or out of %s", root)
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(root, rel)), nil
}

// fdPath names what f has open, whatever became of its path.
func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// bind mounts the directory that dir has open at target, replacing what is
// bound there.
func bind(dir *os.File, target string) error {
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unbind(target); err != nil {
		return err
	}
	if err := unix.Mount(fdPath(dir), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount at %s: %w", target, err)
	}
	// Nothing that is mounted below it later is of concern to anybody else.
	if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s private: %w", target, err), unbind(target))
	}
	return nil
}

// unbind takes away all bind mounts at target. A daemon that has the directory
// open keeps it.
func unbind(target string) error {
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // no mount there
		case err != nil:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}
