package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ConfigName is the name of a volume's config in the root of its ciphertext directory. The second copy, the lock and
// temporary files have names that start with the config's.
const (
	ConfigName   = "plyfs.json"
	backupSuffix = ".bak"
)

// ReadConfig reads and parses a volume's config, plyfs.json of a ciphertext directory or the file that init was told to
// make elsewhere, and its second copy beside it. One good file is enough; Warnings tells of the other. Errors:
// ErrMissing when there is neither, ErrTampered when they describe different volumes, else what is wrong with the first.
func ReadConfig(path string) (*Config, error) {
	d, err := openFolder(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{what: "directory " + filepath.Dir(path), kind: ErrMissing, cause: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	return readConfig(d, filepath.Base(path))
}

func readConfig(d *folder, name string) (*Config, error) {
	main, mainErr := readVolumeFile(d, name)
	backup, backupErr := readVolumeFile(d, name+backupSuffix)
	switch {
	case mainErr != nil && backupErr != nil:
		if errors.Is(mainErr, ErrMissing) && !errors.Is(backupErr, ErrMissing) {
			return nil, backupErr
		}
		return nil, mainErr
	case mainErr != nil:
		return &Config{files: []*volumeFile{backup}, differ: !errors.Is(mainErr, ErrVersion),
			warnings: []string{fmt.Sprintf("%v; %s is used instead.", mainErr, backup.name)}}, nil
	case backupErr != nil:
		return &Config{files: []*volumeFile{main}, differ: !errors.Is(backupErr, ErrVersion),
			warnings: []string{fmt.Sprintf("%v; %s is good.", backupErr, main.name)}}, nil
	case !bytes.Equal(main.descriptor, backup.descriptor):
		return nil, &fault{what: d.path + ": " + name + " and " + name + backupSuffix + " describe different volumes", kind: ErrTampered,
			hint: "One of the two was put there by mistake or malice: move the one that is not this volume's away."}
	}
	if bytes.Equal(main.raw, backup.raw) {
		return &Config{files: []*volumeFile{main}}, nil
	}
	files := []*volumeFile{main, backup}
	if backup.newerThan(main) {
		files[0], files[1] = backup, main
	}
	return &Config{files: files, differ: true, warnings: []string{fmt.Sprintf(
		"%s and %s differ, as after a crash during a change of keys; the newer that verifies is used.", main.name, backup.name)}}, nil
}

func readVolumeFile(d *folder, name string) (*volumeFile, error) {
	path := filepath.Join(d.path, name)
	b, err := d.read(name, configMaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{what: path, kind: ErrMissing, cause: fs.ErrNotExist,
			hint: "Check that this is a volume's ciphertext directory (plyfs init makes one), or restore plyfs.json from a backup. One that was kept elsewhere is named by config=FILE."}
	}
	if err != nil {
		return nil, err
	}
	return parseVolumeFile(path, b)
}

// newerThan compares generations. The sections of both layers are always written together, so that the sum decides.
func (f *volumeFile) newerThan(other *volumeFile) bool {
	return f.generations() > other.generations()
}

func (f *volumeFile) generations() uint64 {
	var sum uint64
	for _, s := range f.sections {
		if s != nil {
			sum += s.generation
		}
	}
	return sum
}

// WriteConfig makes a volume's config at a path, or replaces an older one of the same volume; both copies are durable
// when it returns, and after a crash in between one of them is whole. Where there was none, none is left after an error.
// Errors: ErrExists when another volume's config is there, ErrStale when that of this volume is newer, or as new and
// different; ErrBusy. Writing what is there already is allowed, and repairs the other copy.
func WriteConfig(path string, b []byte) error { return writeConfig(path, b, false, lockTimeout) }

// EraseConfig is WriteConfig, and overwrites the files that are replaced, and what changes that crashed may have left
// beside them, with zeros. It reaches no copy, no snapshot, no file that has another hard link, and nothing that flash
// or a copying filesystem keeps. Repeated it finishes what was interrupted.
func EraseConfig(path string, b []byte) error { return writeConfig(path, b, true, lockTimeout) }

// DestroyConfig overwrites a volume's config, its copy, and what changes that crashed may have left beside them, with zeros
// and removes them. What is not there any more is no error. It reaches no further than EraseConfig.
func DestroyConfig(path string) error {
	d, err := openFolder(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	name := filepath.Base(path)
	unlock, err := d.lock(name, lockTimeout)
	if err != nil {
		return err
	}
	defer unlock()
	for _, n := range []string{name, name + backupSuffix} {
		there, err := d.exists(n)
		if err != nil {
			return err
		}
		if there {
			if err := d.erase(n); err != nil {
				return err
			}
		}
	}
	if err := d.zeroLeftovers(name+tempInfix, name+backupSuffix+tempInfix); err != nil {
		return err
	}
	return d.error("remove", name+".lock", unix.Unlinkat(d.fd, name+".lock", 0))
}

func writeConfig(path string, b []byte, erase bool, timeout time.Duration) error {
	f, err := parseVolumeFile(filepath.Base(path), b)
	if err != nil {
		return err
	}
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	name := filepath.Base(path)
	for _, name := range []string{name, name + backupSuffix} {
		there, err := d.exists(name)
		if err != nil {
			return err
		}
		if there {
			return replaceConfig(d, filepath.Base(path), f, erase, timeout)
		}
	}
	if err := d.create(name+backupSuffix, b); err != nil {
		return err
	}
	if err := d.create(name, b); err != nil {
		unix.Unlinkat(d.fd, name+backupSuffix, 0)
		return err
	}
	return nil
}

func replaceConfig(d *folder, name string, f *volumeFile, erase bool, timeout time.Duration) error {
	unlock, err := d.lock(name, timeout)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := readConfig(d, name)
	if err != nil {
		return err
	}
	if err := old.files[0].allows(f); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	replace := d.replace
	if erase {
		replace = d.replaceAndZero
	}
	if err := replace(name+backupSuffix, f.raw); err != nil {
		return err
	}
	if err := replace(name, f.raw); err != nil || !erase {
		return err
	}
	return d.zeroLeftovers(name+tempInfix, name+backupSuffix+tempInfix)
}

// allows reports whether next may take the place of f.
func (f *volumeFile) allows(next *volumeFile) error {
	if !bytes.Equal(f.descriptor, next.descriptor) {
		return &fault{what: "config of another volume", kind: ErrExists,
			hint: "The directory is a volume already: choose an empty one. plyfs never overwrites a volume's keys."}
	}
	if bytes.Equal(f.raw, next.raw) {
		return nil
	}
	for i, s := range f.sections {
		if s != nil && next.sections[i].generation < s.generation {
			return f.stale()
		}
	}
	if !next.newerThan(f) {
		return f.stale()
	}
	return nil
}

func (f *volumeFile) stale() error {
	return &fault{what: "config", kind: ErrStale, hint: "Somebody changed the volume's keys meanwhile: read the config again and repeat the change. " +
		"If that never helps, " + f.name + " is not what this volume's keys wrote: move it away."}
}
