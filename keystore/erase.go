package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// What is destroyed is overwritten with zeros in place, synced and removed. That reaches no copy, no snapshot, and
// nothing that flash or a copying filesystem keeps of old blocks. A file that has another hard link is removed alone:
// whose file that is, its name here does not tell.

// destroyedSuffix marks a store that Destroy has begun to destroy, so that FinishDestroy can go on after an interruption.
const destroyedSuffix = ".destroyed"

// Destroy overwrites and removes the files of a host's key store: its key file, which makes the rest unreadable, and
// then the store, and what changes that crashed left beside them. FinishDestroy finishes one that was interrupted. The
// Store answers cipher.ErrWiped from then on. A fleet's store is refused: ErrUsage. A file with other hard links is
// removed, and an error says that its content is still there.
func (s *Store) Destroy(open Opener) error {
	if !s.IsHost() {
		return s.errHostless()
	}
	keyFile := ""
	if s.Info().Protection == ByKeyFile {
		keyFile = open.keyFile(s.path)
	}
	if err := errors.Join(notLink(s.path), notLink(keyFile)); err != nil {
		return err
	}
	s.Wipe()
	d, name, done, err := openLocked(s.path)
	if err != nil {
		return err
	}
	defer done()
	if err := d.erase(name + destroyedSuffix); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd, name, d.fd, name+destroyedSuffix); err != nil {
		return d.error("rename", name, err)
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.destroyStore(name, keyFile)
}

// destroyStore destroys a store that is marked, with its key file, if it has one. The caller holds the lock.
func (d *folder) destroyStore(name, keyFile string) error {
	var others []error
	if keyFile != "" {
		k, err := openFolder(filepath.Dir(keyFile))
		if err != nil {
			return err
		}
		defer k.close()
		if err := k.zeroLeftovers(filepath.Base(keyFile) + tempInfix); err != nil {
			return err
		}
		others = append(others, k.others(filepath.Base(keyFile)))
		if err := k.erase(filepath.Base(keyFile)); err != nil {
			return err
		}
	}
	if err := d.zeroLeftovers(name + tempInfix); err != nil {
		return err
	}
	others = append(others, d.others(name+destroyedSuffix))
	if err := d.erase(name + destroyedSuffix); err != nil {
		return err
	}
	others = append(others, d.error("remove", name+".lock", unix.Unlinkat(d.fd, name+".lock", 0)))
	return errors.Join(others...)
}

// notLink refuses a symbolic link: what it leads to would be left.
func notLink(path string) error {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&os.ModeSymlink == 0 {
		return nil
	}
	return &fault{what: path + " is a symbolic link", kind: ErrUsage, hint: "Name the file itself: it is that one which is destroyed."}
}

// HalfDestroyed reports whether Destroy was interrupted at the store of a path.
func HalfDestroyed(path string) (bool, error) {
	d, err := openFolder(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.close()
	there, err := d.exists(filepath.Base(path))
	if there || err != nil {
		return false, err
	}
	return d.exists(filepath.Base(path) + destroyedSuffix)
}

// FinishDestroy destroys what an interrupted Destroy left of the store at a path: see HalfDestroyed. A key file that is
// there is destroyed with it if it is the store's or was overwritten already: else ErrWrongKey.
func FinishDestroy(path string, l cipher.Layer, open Opener) error {
	d, name, done, err := openLocked(path)
	if err != nil {
		return err
	}
	defer done()
	keyFile := open.keyFile(path)
	if _, h, err := readStore(path + destroyedSuffix); errors.Is(err, ErrTampered) || err == nil && h.protection != ByKeyFile {
		keyFile = "" // of a store that is overwritten itself the key file is gone
	} else if err != nil {
		return err
	} else if err := ownKeyFile(path+destroyedSuffix, l, keyFile); errors.Is(err, ErrMissing) {
		keyFile = ""
	} else if err != nil {
		return err
	}
	return d.destroyStore(name, keyFile)
}

// ownKeyFile returns an error unless a key file is that of a store, or was overwritten with zeros.
func ownKeyFile(path string, l cipher.Layer, keyFile string) error {
	s, err := OpenStore(path, l, Opener{KeyFile: keyFile})
	if err == nil {
		s.Wipe()
		return nil
	}
	if errors.Is(err, ErrMissing) {
		return err
	}
	b, readErr := os.ReadFile(keyFile)
	defer wipe(b)
	if readErr == nil && len(b) > 0 && allZero(b) {
		return nil
	}
	return &fault{what: fmt.Sprintf("%s is not the key file of the store that was being destroyed", keyFile), kind: ErrWrongKey, cause: err,
		hint: "Name the key file of that store; or, if there is none, remove " + path + "."}
}

// others returns an error if a file has other hard links.
func (d *folder) others(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Nlink > 1 {
		return fmt.Errorf("%s was removed, but not overwritten: it has other hard links", strings.TrimSuffix(filepath.Join(d.path, name), destroyedSuffix))
	}
	return nil
}

// erase overwrites a file, removes it and syncs the directory. One that is not there is fine.
func (d *folder) erase(name string) error {
	overwritten := d.overwrite(name)
	if errors.Is(overwritten, os.ErrNotExist) {
		return nil
	}
	err := d.error("remove", name, unix.Unlinkat(d.fd, name, 0))
	return errors.Join(overwritten, err, d.sync())
}

// overwrite zeroes a regular file in place and syncs it: see zeroFile. Anything else is left as it is.
func (d *folder) overwrite(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.error("stat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	f, err := d.openOld(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return zeroFile(f)
}

// openOld opens a file to be zeroed.
func (d *folder) openOld(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.error("open", name, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.path, name)), nil
}

// zeroFile overwrites an open regular file, at most as long as a key store may be, with zeros, and syncs it. One that
// has several names is left as it is: it may be anybody's.
func zeroFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 || st.Size > storeMaxSize {
		return nil
	}
	_, err := f.WriteAt(make([]byte, st.Size), 0)
	return errors.Join(err, f.Sync())
}

// replaceAndZero is replace, and zeroes the file that was there in place before, so that no crash leaves it under no
// name. In between the directory has no whole file of the name: only for one of which there is another copy.
func (d *folder) replaceAndZero(name string, b []byte) error {
	if now, err := d.read(name, configMaxSize); err == nil && bytes.Equal(now, b) {
		return d.sync()
	}
	return d.replaceAfter(name, b, func() error {
		if err := d.overwrite(name); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

// replaceErasing is replace, and zeroes the file that was there once the new one is durable, with what changes that
// crashed left beside it. Meanwhile it has the name of a temporary file, so that the next call finds it after a crash,
// save where the filesystem has no hard links.
func (d *folder) replaceErasing(name string, b []byte) error {
	old, err := d.openOld(name)
	if err != nil {
		return err
	}
	defer old.Close()
	temp, err := tempName(name)
	if err != nil {
		return err
	}
	linked := unix.Linkat(d.fd, name, d.fd, temp, 0) == nil
	if err := d.replace(name, b); err != nil {
		if linked {
			unix.Unlinkat(d.fd, temp, 0)
		}
		return err
	}
	return errors.Join(zeroFile(old), d.zeroLeftovers(name+tempInfix))
}

// zeroLeftovers overwrites and removes temporary files of changes that crashed. The caller holds the lock.
func (d *folder) zeroLeftovers(prefixes ...string) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, p := range prefixes {
			if strings.HasPrefix(e.Name(), p) {
				err = errors.Join(err, d.erase(e.Name()))
			}
		}
	}
	return err
}
