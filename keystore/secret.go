package keystore

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/plyfs/plyfs/cipher"
)

// keySize is the length in bytes of every key in this package.
const keySize = 32

// secret is a 32-byte key. It prints as a placeholder. Package fmt does not ask the fields of a struct, so whatever
// holds one has a Format method of its own. Its bytes leave the package only as a volume's keys.
type secret struct{ b [keySize]byte }

// newSecret copies b, which must be 32 bytes, and wipes it.
func newSecret(b []byte) *secret {
	s := &secret{}
	copy(s.b[:], b)
	wipe(b)
	return s
}

// randomSecret reads a fresh key from rand.
func randomSecret(rand io.Reader) (*secret, error) {
	s := &secret{}
	if _, err := io.ReadFull(rand, s.b[:]); err != nil {
		return nil, fmt.Errorf("read random bytes: %w", err)
	}
	return s, nil
}

func (s *secret) clone() *secret { return &secret{b: s.b} }

// wipe zeroes the key; a nil secret is allowed.
func (s *secret) wipe() {
	if s != nil {
		wipe(s.b[:])
	}
}

// Format prints a placeholder for every verb.
func (s secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// LogValue keeps the key out of structured logs.
func (s secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText keeps the key out of JSON.
func (s secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// wipe zeroes b. It is best effort: the runtime may have copied the bytes when a stack grew, and registers are
// not cleared.
func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}

// wipeKeys zeroes a volume's keys.
func wipeKeys(k *cipher.Keys) {
	wipe(k.Data[:])
	wipe(k.Infra[:])
}
