package cipher_test

import (
	"errors"
	"slices"
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
		want   []cipher.Layer
	}{
		{"MAC 1 of a trailer", tag, trailer, 20, []cipher.Layer{cipher.LayerData}},
		{"MAC 2 of a trailer", tag, trailer, 1, []cipher.Layer{cipher.LayerInfra}},
		{"body of a trailer", tag, trailer, 40, []cipher.Layer{cipher.LayerData, cipher.LayerInfra}},
		{"MAC 1 of a header", w.static, header, 20, []cipher.Layer{cipher.LayerData}},
		{"MAC 2 of a header", w.static, header, 1, []cipher.Layer{cipher.LayerInfra}},
		{"MAC 1 of a directory ID", dir, dirID, 20, []cipher.Layer{cipher.LayerData}},
		{"MAC 2 of a directory ID", dir, dirID, 1, []cipher.Layer{cipher.LayerInfra}},
	} {
		if err := c.open(c.sealed); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		b := append([]byte(nil), c.sealed...)
		b[len(b)-c.at] ^= 1
		if err := c.open(b); !errors.Is(err, cipher.ErrAuth) || !slices.Equal(cipher.LayersOf(err), c.want) {
			t.Errorf("%s changed: %v, layers %d, want %d", c.what, err, cipher.LayersOf(err), c.want)
		}
	}
}

// Of names and extended attributes too; what no layer can have made is of no
// layer.
func TestNamesAndXattrsNameTheLayer(t *testing.T) {
	data, infra := []cipher.Layer{cipher.LayerData}, []cipher.Layer{cipher.LayerInfra}
	p := cipher.Params{Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: 4096, VolumeID: cipher.VolumeID{1}}
	k := cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}
	volume := func(p cipher.Params, k cipher.Keys) *cipher.Volume {
		t.Helper()
		v, err := cipher.NewVolume(p, 1, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := volume(p, k)
	otherData, otherInfra := k, k
	otherData.Data[0], otherInfra.Infra[0] = 9, 9
	single := p
	single.Suite, single.Layers = cipher.SuiteSingle, 1
	dir := cipher.DirID{3}
	for _, c := range []struct {
		what         string
		opens, wrote *cipher.Volume
		want         []cipher.Layer
	}{
		{"another data key", v, volume(p, otherData), data},
		{"another infra key", v, volume(p, otherInfra), infra},
		{"another data key, one layer", volume(single, cipher.Keys{Data: k.Data}), volume(single, cipher.Keys{Data: otherData.Data}), data},
	} {
		_, err := c.opens.OpenName(dir, c.wrote.SealName(dir, "a name"))
		if !errors.Is(err, cipher.ErrAuth) || !slices.Equal(cipher.LayersOf(err), c.want) {
			t.Errorf("name under %s: %v, layers %d, want %d", c.what, err, cipher.LayersOf(err), c.want)
		}
		b, err := c.wrote.SealXattr(dir, "user.a", []byte("value"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.opens.OpenXattr(dir, "user.a", b)
		if !errors.Is(err, cipher.ErrAuth) || !slices.Equal(cipher.LayersOf(err), c.want) {
			t.Errorf("xattr under %s: %v, layers %d, want %d", c.what, err, cipher.LayersOf(err), c.want)
		}
	}
	for _, sealed := range []string{"", "lost+found", "AAAA", "not a name"} {
		if _, err := v.OpenName(dir, sealed); !errors.Is(err, cipher.ErrAuth) || cipher.LayersOf(err) != nil {
			t.Errorf("%q: %v, layers %d", sealed, err, cipher.LayersOf(err))
		}
	}
}
