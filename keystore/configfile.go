package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// The two copies of a volume's config, in the root of the ciphertext directory. Everything this package makes there
// has a name that starts with configName.
const (
	configName = "plyfs.json"
	backupName = "plyfs.json.bak"
)

// ReadConfig reads and parses plyfs.json and plyfs.json.bak of a ciphertext directory. One good file is enough;
// Warnings tells of the other. Errors: ErrMissing when there is neither, ErrTampered when they describe different
// volumes, else what is wrong with plyfs.json.
func ReadConfig(dir string) (*Config, error) {
	d, err := openFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{what: "ciphertext directory " + dir, kind: ErrMissing, cause: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	return readConfig(d)
}

func readConfig(d *folder) (*Config, error) {
	main, mainErr := readVolumeFile(d, configName)
	backup, backupErr := readVolumeFile(d, backupName)
	switch {
	case mainErr != nil && backupErr != nil:
		if errors.Is(mainErr, ErrMissing) && !errors.Is(backupErr, ErrMissing) {
			return nil, backupErr
		}
		return nil, mainErr
	case mainErr != nil:
		return &Config{files: []*volumeFile{backup}, warnings: []string{fmt.Sprintf("%v; %s is used instead.", mainErr, backup.name)}}, nil
	case backupErr != nil:
		return &Config{files: []*volumeFile{main}, warnings: []string{fmt.Sprintf("%v; %s is good.", backupErr, main.name)}}, nil
	case !bytes.Equal(main.descriptor, backup.descriptor):
		return nil, &fault{what: d.path + ": " + configName + " and " + backupName + " describe different volumes", kind: ErrTampered,
			hint: "One of the two was put there by mistake or malice: move the one that is not this volume's away."}
	}
	if bytes.Equal(main.raw, backup.raw) {
		return &Config{files: []*volumeFile{main}}, nil
	}
	files := []*volumeFile{main, backup}
	if backup.newerThan(main) {
		files[0], files[1] = backup, main
	}
	return &Config{files: files, warnings: []string{fmt.Sprintf(
		"%s and %s differ, as after a crash during a change of keys; the newer that verifies is used.", main.name, backup.name)}}, nil
}

func readVolumeFile(d *folder, name string) (*volumeFile, error) {
	path := filepath.Join(d.path, name)
	b, err := d.read(name, configMaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{what: path, kind: ErrMissing, cause: fs.ErrNotExist,
			hint: "Check that this is a volume's ciphertext directory (plyfs init makes one), or restore plyfs.json from a backup."}
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

// WriteConfig makes the config of a ciphertext directory, or replaces an older one of the same volume; both copies
// are durable when it returns, and after a crash in between one of them is whole. Errors: ErrExists when another
// volume's config is there, ErrStale when that of this volume is newer, or as new and different; ErrBusy. Writing what
// is there already is allowed, and repairs the other copy.
func WriteConfig(dir string, b []byte) error {
	return writeConfig(dir, b, lockTimeout)
}

func writeConfig(dir string, b []byte, timeout time.Duration) error {
	f, err := parseVolumeFile(configName, b)
	if err != nil {
		return err
	}
	d, err := openFolder(dir)
	if err != nil {
		return err
	}
	defer d.close()
	for _, name := range []string{configName, backupName} {
		there, err := d.exists(name)
		if err != nil {
			return err
		}
		if there {
			return replaceConfig(d, f, timeout)
		}
	}
	if err := d.create(backupName, b); err != nil {
		return err
	}
	return d.create(configName, b)
}

func replaceConfig(d *folder, f *volumeFile, timeout time.Duration) error {
	unlock, err := d.lock(configName, timeout)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := readConfig(d)
	if err != nil {
		return err
	}
	if err := old.files[0].allows(f); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	if err := d.replace(backupName, f.raw); err != nil {
		return err
	}
	return d.replace(configName, f.raw)
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
			return &fault{what: "config", kind: ErrStale}
		}
	}
	if !next.newerThan(f) {
		return &fault{what: "config", kind: ErrStale}
	}
	return nil
}
