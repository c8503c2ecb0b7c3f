package dockervolume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateName    = "state.json"
	stateVersion = 1
)

// stateFile is state.json.
type stateFile struct {
	Version int               `json:"version"`
	Boot    string            `json:"boot"` // boot ID of the kernel under which IDs were written
	Volumes map[string]record `json:"volumes"`
}

// record is a volume in state.json.
type record struct {
	Created  time.Time `json:"created"`
	Options  Options   `json:"options"`
	IDs      []string  `json:"ids,omitempty"` // sorted
	Removing bool      `json:"removing,omitempty"`
}

// loadState reads state.json; one that is missing is empty. IDs of another
// boot are left out.
func loadState(dir, boot string) (stateFile, error) {
	s := stateFile{Version: stateVersion, Boot: boot, Volumes: map[string]record{}}
	path := filepath.Join(dir, stateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	read, err := parseState(b)
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	for name, r := range read.Volumes {
		if read.Boot != boot {
			r.IDs = nil
		}
		s.Volumes[name] = r
	}
	return s, nil
}

// parseState reads the text of state.json and holds it to the rules that
// requests are held to.
func parseState(b []byte) (stateFile, error) {
	var s stateFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("version %d, and this plugin knows %d", s.Version, stateVersion)
	}
	for name, r := range s.Volumes {
		if err := checkName(name); err != nil {
			return s, err
		}
		for _, id := range r.IDs {
			if err := checkID(id); err != nil {
				return s, fmt.Errorf("volume %s: %w", name, err)
			}
		}
		if r.Options.CipherDir != "" {
			if err := checkPath(r.Options.CipherDir); err != nil {
				return s, fmt.Errorf("volume %s: cipherdir: %w", name, err)
			}
		}
		slices.Sort(r.IDs)
		r.IDs = slices.Compact(r.IDs)
		s.Volumes[name] = r
	}
	return s, nil
}

// save replaces state.json. When it returns nil, the new one is durable.
func (s *stateFile) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, stateName)
	// One plugin serves a state directory, so the name is free or a leftover.
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockDir takes the lock of a state directory: one plugin serves it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrServed)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// ErrServed reports that another plugin serves the state directory or the
// socket.
var ErrServed = errors.New("another plugin process serves it")
