package keystore

import (
	"errors"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// Config is a parsed plyfs.json. Nothing in it is authenticated before Unlock.
type Config struct{}

// SlotInfo describes one way to a layer's volume key.
type SlotInfo struct {
	Kind        string // "group"
	Names       Names
	Epochs      Epochs
	VolumeEpoch uint32
}

// NewVolumeConfig makes a volume's keys and config. infra is nil for a single-layer volume. A zero VolumeID is
// replaced by a random one (ParseConfig tells which).
func NewVolumeConfig(p cipher.Params, names Names, data, infra *Store, rand io.Reader) (config []byte, keys cipher.Keys, err error) {
	return nil, keys, errors.ErrUnsupported
}

// ParseConfig parses plyfs.json.
func ParseConfig(b []byte) (*Config, error) { return nil, errors.ErrUnsupported }

// ReadConfig reads plyfs.json and plyfs.json.bak of a ciphertext directory.
func ReadConfig(dir string) (*Config, error) { return nil, errors.ErrUnsupported }

// WriteConfig creates or replaces the config of a ciphertext directory; another volume's is ErrExists.
func WriteConfig(dir string, b []byte) error { return errors.ErrUnsupported }

// Unlock: infra nil means that the caller asks for a single-layer volume; ErrWrongLayers when the volume is not.
func (c *Config) Unlock(data, infra *Store) (p cipher.Params, k cipher.Keys, epoch uint32, err error) {
	return p, k, 0, errors.ErrUnsupported
}

func (c *Config) Params() cipher.Params            { return cipher.Params{} }
func (c *Config) Layers() []cipher.Layer           { return nil }
func (c *Config) Slots(l cipher.Layer) []SlotInfo  { return nil }
func (c *Config) Generation(l cipher.Layer) uint64 { return 0 }
func (c *Config) Warnings() []string               { return nil }
func (c *Config) Bytes() []byte                    { return nil }
