package cipher

import (
	"crypto/rand"
	"fmt"
	"io"
	"sync"
)

// random serialises reads of a source of randomness. Where a source fails,
// nothing is sealed.
type random struct {
	mu sync.Mutex
	r  io.Reader
}

func newRandom(r io.Reader) *random {
	if r == nil {
		r = rand.Reader
	}
	return &random{r: r}
}

// read fills p.
func (r *random) read(p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := io.ReadFull(r.r, p); err != nil {
		clear(p)
		return fmt.Errorf("random source: %w", err)
	}
	return nil
}
