package keystore

import (
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Argon2 are the parameters of Argon2id (RFC 9106).
type Argon2 struct {
	Time    uint32 // passes
	Memory  uint32 // KiB
	Threads uint8
}

// DefaultArgon2 is the second recommended option of RFC 9106 §4: 3 passes over 64 MiB in 4 lanes.
var DefaultArgon2 = Argon2{Time: 3, Memory: 64 << 10, Threads: 4}

// The most that a file may ask for, so that a hostile one costs a bounded amount of time and memory.
const (
	maxArgon2Time    = 16
	maxArgon2Memory  = 1 << 20 // KiB
	maxArgon2Threads = 16
	maxPassphrase    = 4096 // bytes
)

// validate checks the bounds of FORMAT.md §3.
func (a Argon2) validate() error {
	if a.Time < 1 || a.Time > maxArgon2Time || a.Threads < 1 || a.Threads > maxArgon2Threads ||
		a.Memory < 8*uint32(a.Threads) || a.Memory > maxArgon2Memory {
		return fmt.Errorf("argon2id parameters out of bounds: %d passes, %d KiB, %d lanes", a.Time, a.Memory, a.Threads)
	}
	return nil
}

// key derives the store's key from a passphrase. The working memory belongs to x/crypto and is not wiped.
func (a Argon2) key(passphrase, salt []byte) *secret {
	return newSecret(argon2.IDKey(passphrase, salt, a.Time, a.Memory, a.Threads, keySize))
}
