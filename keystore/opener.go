package keystore

import (
	"path/filepath"
	"strings"
)

// Protection says what opens a key store.
type Protection uint8

// The protections of a key store (FORMAT.md §3).
const (
	ByKeyFile    Protection = 1
	ByPassphrase Protection = 2
)

// String returns "key file" or "passphrase".
func (p Protection) String() string {
	switch p {
	case ByKeyFile:
		return "key file"
	case ByPassphrase:
		return "passphrase"
	}
	return "unknown"
}

// Opener brings what opens a key store. OpenStore takes the one of the two that the store's header asks for;
// CreateStore protects the new store with the passphrase if there is a source for one, else with a new key file.
type Opener struct {
	// KeyFile is the path of the key file; empty means DefaultKeyFile of the store's path.
	KeyFile string
	// Passphrase is called at most once per store. The slice it returns is wiped after use. The passphrase is
	// taken byte for byte: cutting a line end off is the caller's business.
	Passphrase func() ([]byte, error)
	// Argon2 is used by CreateStore with a passphrase; the zero value means DefaultArgon2.
	Argon2 Argon2
}

// DefaultKeyFile is the key file beside a store: data.key for data.store.
func DefaultKeyFile(storePath string) string {
	return strings.TrimSuffix(storePath, ".store") + ".key"
}

func (o Opener) keyFile(storePath string) string {
	if o.KeyFile != "" {
		return filepath.Clean(o.KeyFile)
	}
	return DefaultKeyFile(storePath)
}
