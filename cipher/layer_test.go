package cipher_test

import (
	"errors"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// An error names the layer that refused, for who has to find out whose key or
// disk was at fault.
func TestErrorsNameTheLayer(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	tag := make([]byte, cipher.TagBlockSize)
	w.f.SealTrailer(tag, 1, cipher.Trailer{Present: 1})
	dir := w.v.SealDirID(thingDir)
	trailer := func(b []byte) error { _, err := w.f.OpenTrailer(b, 1); return err }
	header := func(b []byte) error { _, _, err := w.v.OpenStatic(b); return err }
	dirID := func(b []byte) error { _, err := w.v.OpenDirID(b); return err }
	for _, c := range []struct {
		what   string
		sealed []byte
		open   func([]byte) error
		at     int // of the byte that is changed, from the end
		want   cipher.Layer
	}{
		{"MAC 1 of a trailer", tag, trailer, 20, cipher.LayerData},
		{"MAC 2 of a trailer", tag, trailer, 1, cipher.LayerInfra},
		{"body of a trailer", tag, trailer, 40, 0},
		{"MAC 1 of a header", w.static, header, 20, cipher.LayerData},
		{"MAC 2 of a header", w.static, header, 1, cipher.LayerInfra},
		{"MAC 1 of a directory ID", dir, dirID, 20, cipher.LayerData},
		{"MAC 2 of a directory ID", dir, dirID, 1, cipher.LayerInfra},
	} {
		if err := c.open(c.sealed); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		b := append([]byte(nil), c.sealed...)
		b[len(b)-c.at] ^= 1
		if err := c.open(b); !errors.Is(err, cipher.ErrAuth) || cipher.LayerOf(err) != c.want {
			t.Errorf("%s changed: %v, layer %d, want %d", c.what, err, cipher.LayerOf(err), c.want)
		}
	}
}
