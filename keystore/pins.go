package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/plyfs/plyfs/cipher"
)

// A host remembers the newest state of every volume it has seen, so that whoever can write a ciphertext directory, or
// restores a copy of it, cannot pass an older one off as the newest: a config with keys from before a rotation, or a
// journal from before the last unmount (FORMAT.md §7).

// Limits of the file of pins.
const (
	pinsMagic   = "hosts"
	pinsVersion = 1
	pinsMaxSize = 4 << 20
	maxPins     = 10000
)

// Pin is what a host remembers of a volume. A zero says nothing.
type Pin struct {
	Data    uint64 `json:"data"`    // generation of the data layer's slots
	Infra   uint64 `json:"infra"`   // of the infra layer's
	Journal uint64 `json:"journal"` // writes of the journal's superblock
}

// Pins is the file in which a host remembers volumes. Changes by several processes follow one another.
type Pins struct{ Path string }

// pinFile is its content. Volumes are ordered by ID; the last seen is not told, so that nothing but pins changes it.
type pinFile struct {
	Magic   string      `json:"plyfs"`
	Version int         `json:"version"`
	Volumes []volumePin `json:"volumes"`
}

type volumePin struct {
	Volume string `json:"volume"`
	Pin
}

// Generations returns what is to be remembered of an unlocked config.
func (c *Config) Generations() Pin {
	return Pin{Data: c.Generation(cipher.LayerData), Infra: c.Generation(cipher.LayerInfra)}
}

// Check returns ErrRolledBack when the host has seen a newer state of the volume than now. Values of now that are zero are
// not compared. A file that is not there is empty; ErrTampered, ErrVersion for one that cannot be read as it is.
func (p Pins) Check(id cipher.VolumeID, now Pin) error {
	f, err := p.read()
	if err != nil {
		return err
	}
	return f.pin(id).Check(now)
}

// Check returns ErrRolledBack when now is older than what was seen. Values of now that are zero are not compared.
func (seen Pin) Check(now Pin) error {
	for _, v := range []struct {
		what      string
		seen, now uint64
		accept    string
	}{
		{"the data layer's keys are of generation", seen.Data, now.Data, "keys"},
		{"the infra layer's keys are of generation", seen.Infra, now.Infra, "keys"},
		{"the journal is at position", seen.Journal, now.Journal, "journal"},
	} {
		if v.now != 0 && v.now < v.seen {
			return &fault{what: fmt.Sprintf("%s %d, and this host has seen %d", v.what, v.now, v.seen), kind: ErrRolledBack,
				hint: "Restore the newest copy. If an older one was restored on purpose, or a copy of this volume was mounted on this host " +
					"meanwhile: mount it with -o accept-rollback=" + v.accept + ", or all if keys and journal are older."}
		}
	}
	return nil
}

// Raise remembers a newer state; lower and zero values of now change nothing. The file is made if it is missing; its
// directory must be there.
func (p Pins) Raise(id cipher.VolumeID, now Pin) error {
	return p.update(id, func(seen Pin) Pin {
		return Pin{Data: max(seen.Data, now.Data), Infra: max(seen.Infra, now.Infra), Journal: max(seen.Journal, now.Journal)}
	})
}

// Accept remembers now in the place of what was seen, where now is not zero: an older state was accepted.
func (p Pins) Accept(id cipher.VolumeID, now Pin) error {
	return p.update(id, func(seen Pin) Pin {
		for _, v := range []struct{ seen, now *uint64 }{{&seen.Data, &now.Data}, {&seen.Infra, &now.Infra}, {&seen.Journal, &now.Journal}} {
			if *v.now != 0 {
				*v.seen = *v.now
			}
		}
		return seen
	})
}

func (f *pinFile) pin(id cipher.VolumeID) Pin {
	for _, v := range f.Volumes {
		if v.Volume == id.String() {
			return v.Pin
		}
	}
	return Pin{}
}

func (f *pinFile) set(id cipher.VolumeID, pin Pin) {
	i, found := slices.BinarySearchFunc(f.Volumes, id.String(), func(v volumePin, id string) int { return bytes.Compare([]byte(v.Volume), []byte(id)) })
	if !found {
		f.Volumes = slices.Insert(f.Volumes, i, volumePin{Volume: id.String()})
	}
	f.Volumes[i].Pin = pin
}

func (p Pins) read() (*pinFile, error) {
	d, err := openFolder(filepath.Dir(p.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return &pinFile{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	return p.readIn(d)
}

func (p Pins) readIn(d *folder) (*pinFile, error) {
	b, err := d.read(filepath.Base(p.Path), pinsMaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return &pinFile{}, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := parsePins(b)
	if err != nil {
		return nil, &fault{what: p.Path, kind: err, hint: "Remove the file if nobody tampered with it: this host then forgets which volumes it has seen."}
	}
	return f, nil
}

// parsePins returns one of ErrTruncated, ErrTampered and ErrVersion.
func parsePins(b []byte) (*pinFile, error) {
	var head struct {
		Magic   string `json:"plyfs"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil || head.Magic != pinsMagic {
		return nil, ErrTampered
	}
	if head.Version != pinsVersion {
		return nil, ErrVersion
	}
	var f pinFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil || len(f.Volumes) > maxPins {
		return nil, ErrTampered
	}
	for i, v := range f.Volumes {
		if i > 0 && f.Volumes[i-1].Volume >= v.Volume {
			return nil, ErrTampered
		}
	}
	if again, err := f.render(); err != nil || !bytes.Equal(again, b) {
		return nil, ErrTampered
	}
	return &f, nil
}

func (f *pinFile) render() ([]byte, error) {
	f.Magic, f.Version = pinsMagic, pinsVersion
	if f.Volumes == nil {
		f.Volumes = []volumePin{}
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// update changes the pin of a volume on disk, under a lock; without a change nothing is written.
func (p Pins) update(id cipher.VolumeID, change func(Pin) Pin) error {
	d, name, done, err := openLocked(p.Path)
	if err != nil {
		return err
	}
	defer done()
	f, err := p.readIn(d)
	if err != nil {
		return err
	}
	seen := f.pin(id)
	now := change(seen)
	if now == seen {
		return nil
	}
	if f.set(id, now); len(f.Volumes) > maxPins {
		return &fault{what: fmt.Sprintf("%s holds more than %d volumes", p.Path, maxPins), kind: ErrUsage,
			hint: "Remove the file: this host then forgets which volumes it has seen."}
	}
	b, err := f.render()
	if err != nil {
		return err
	}
	return d.replace(name, b)
}
