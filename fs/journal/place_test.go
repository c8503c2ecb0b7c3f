package journal

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlace(t *testing.T) {
	shared, a := newSuper(t)
	_, b := newSuper(t)
	if _, err := OpenPlace(shared, a, true); !errors.Is(err, ErrMissing) {
		t.Errorf("read-only, not there: got %v, want ErrMissing", err)
	}
	p, err := OpenPlace(shared, a, false)
	must(t, err)
	if _, err := OpenPlace(shared, a, false); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("in use: got %v, want EWOULDBLOCK", err)
	}
	other, err := OpenPlace(shared, b, false)
	must(t, err)
	must(t, other.Close())
	ro, err := OpenPlace(shared, a, true)
	must(t, err)
	must(t, ro.Close())
	must(t, p.Close())
	p, err = OpenPlace(shared, a, false)
	must(t, err)
	if _, err := createSegment(p.Dir, 0, testSegment); err != nil {
		t.Errorf("segment in it: %v", err)
	}
	if n, err := listSegments(p.Dir, false); err != nil || len(n) != 1 {
		t.Errorf("segments %v, %v", n, err)
	}
	must(t, p.Close())
}
