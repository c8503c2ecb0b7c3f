package cipher_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// span is a range of bytes, the end excluded.
type span struct{ from, to int }

// thing is something sealed and the way to open it.
type thing struct {
	name   string
	sealed []byte
	// open opens bytes in the thing's place and returns what a reader learns.
	open func(sealed []byte) (string, error)
	// own are the bytes that a layer alone looks at: where it is broken, they
	// can be changed, and mean nothing.
	own [2][]span
}

// world is a volume, a file in it, and one of each thing there is.
type world struct {
	v      *cipher.Volume
	static []byte
	header cipher.StaticHeader
	f      *cipher.File
}

func newWorld(t testing.TB, v *cipher.Volume) *world {
	t.Helper()
	w := &world{v: v, static: make([]byte, cipher.SectorSize)}
	var err error
	if w.header, w.f, err = v.NewFile(); err != nil {
		t.Fatal(err)
	}
	v.SealStatic(w.static, w.header, w.f)
	return w
}

const (
	thingIndex = 7
	thingGroup = 5
	thingLabel = "label"
)

var (
	thingDir   = cipher.DirID{1, 2, 3}
	thingOwner = [16]byte{4, 5, 6}
)

// sealBlock returns body | entry.
func sealBlock(t testing.TB, f *cipher.File, plain []byte, index uint64) []byte {
	t.Helper()
	b := make([]byte, len(plain)+cipher.EntrySize)
	if err := f.Seal(b[:len(plain)], b[len(plain):], plain, index); err != nil {
		t.Fatal(err)
	}
	return b
}

// openBlock opens body | entry.
func openBlock(f *cipher.File, sealed []byte, index uint64) (string, error) {
	n := len(sealed) - cipher.EntrySize
	plain := make([]byte, n)
	err := f.Open(plain, sealed[:n], sealed[n:], index)
	if err != nil {
		for _, c := range plain {
			if c != 0 {
				return "", fmt.Errorf("plaintext was released with %v", err)
			}
		}
	}
	return string(plain), err
}

// blockThing, and all others, keep to the world they are made in. length is
// the block's.
func (w *world) blockThing(t testing.TB, length int) thing {
	return thing{
		name:   "block",
		sealed: sealBlock(t, w.f, pattern(length), thingIndex),
		open:   func(b []byte) (string, error) { return openBlock(w.f, b, thingIndex) },
		own:    [2][]span{1: {{length + 12, length + 24}, {length + 56, length + 72}}},
	}
}

func (w *world) macThings() []thing {
	header := make([]byte, cipher.SectorSize)
	w.f.SealHeader(header, cipher.Header{Size: 1 << 30, LSN: 77, Last: 99})
	second := make([]byte, cipher.StaticCopySize)
	w.v.SealStaticCopy(second, w.header, w.f)
	tag := make([]byte, cipher.TagBlockSize)
	w.f.SealTrailer(tag, thingGroup, cipher.Trailer{Present: 0xf0f0, Gap: 2, LSN: 78})
	macs := func(at int) [2][]span { return [2][]span{{{at, at + 16}}, {{at + 16, at + 32}}} }
	return []thing{
		{"static header", w.static, func(b []byte) (string, error) {
			h, _, err := w.v.OpenStatic(b)
			return fmt.Sprint(h), err
		}, macs(cipher.SectorSize - 32)},
		{"copy of the static header", second, func(b []byte) (string, error) {
			h, _, err := w.v.OpenStaticCopy(b)
			return fmt.Sprint(h), err
		}, macs(cipher.StaticCopySize - 32)},
		{"header", header, func(b []byte) (string, error) {
			h, err := w.f.OpenHeader(b)
			return fmt.Sprint(h), err
		}, macs(cipher.SectorSize - 32)},
		{"trailer", tag[cipher.TagBlockSize-cipher.TrailerSize:], func(b []byte) (string, error) {
			t, err := w.f.OpenTrailer(append(make([]byte, cipher.TagBlockSize-cipher.TrailerSize), b...), thingGroup)
			return fmt.Sprint(t), err
		}, macs(cipher.TrailerSize - 32)},
		{"directory ID", w.v.SealDirID(thingDir), func(b []byte) (string, error) {
			id, err := w.v.OpenDirID(b)
			return id.String(), err
		}, macs(cipher.DirIDSize - 32)},
		w.structureThing(),
	}
}

func (w *world) structureThing() thing {
	a := w.v.Authenticator(thingLabel)
	b := append(make([]byte, cipher.AuthTagSize), "first part|second"...)
	a.Sum(b[:cipher.AuthTagSize], b[cipher.AuthTagSize:cipher.AuthTagSize+10], b[cipher.AuthTagSize+10:])
	return thing{"structure", b, func(b []byte) (string, error) {
		if len(b) < cipher.AuthTagSize+10 || !a.Verify(b[:cipher.AuthTagSize], b[cipher.AuthTagSize:cipher.AuthTagSize+10], b[cipher.AuthTagSize+10:]) {
			return "", cipher.ErrAuth
		}
		return string(b[cipher.AuthTagSize:]), nil
	}, [2][]span{{{0, 16}}, {{16, 32}}}}
}

func (w *world) sealedThings(t testing.TB) []thing {
	name, err := base64.RawURLEncoding.DecodeString(w.v.SealName(thingDir, "ibdata1"))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := w.v.SealBlob(cipher.BlobSymlink, thingOwner, []byte("../target"))
	if err != nil {
		t.Fatal(err)
	}
	xattr, err := w.v.SealXattr(thingOwner, "user.a", []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	ownBlob := func(n int) [2][]span { return [2][]span{1: {{12, 24}, {n - 16, n}}} }
	return []thing{
		{"name", name, func(b []byte) (string, error) {
			return w.v.OpenName(thingDir, base64.RawURLEncoding.EncodeToString(b))
		}, [2][]span{1: {{0, 16}}}},
		{"blob", blob, func(b []byte) (string, error) {
			p, err := w.v.OpenBlob(cipher.BlobSymlink, thingOwner, b)
			return string(p), err
		}, ownBlob(len(blob))},
		{"xattr", xattr, func(b []byte) (string, error) {
			p, err := w.v.OpenXattr(thingOwner, "user.a", b)
			return string(p), err
		}, ownBlob(len(xattr))},
	}
}

func (w *world) things(t testing.TB, blockLength int) []thing {
	return append(append(w.macThings(), w.sealedThings(t)...), w.blockThing(t, blockLength))
}

// errorsOf are the answers that a reader may give to altered bytes.
var errorsOf = []error{
	cipher.ErrAuth, cipher.ErrEpoch, cipher.ErrZero, cipher.ErrMagic, cipher.ErrVersion, cipher.ErrSuite, cipher.ErrForeign,
}

func known(err error) bool {
	for _, e := range errorsOf {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// testParams returns parameters and keys of a suite.
func testParams(suite cipher.Suite, blockSize uint32) (cipher.Params, cipher.Keys) {
	p := cipher.Params{Format: 1, Suite: suite, Layers: uint8(suite) + 1, BlockSize: blockSize, VolumeID: cipher.VolumeID{0xab, 0xcd}}
	k := cipher.Keys{Data: [32]byte(count(1, 32))}
	if suite == cipher.SuiteDouble {
		k.Infra = [32]byte(count(101, 32))
	}
	return p, k
}

func newTestVolume(t testing.TB, suite cipher.Suite, blockSize uint32) *cipher.Volume {
	t.Helper()
	p, k := testParams(suite, blockSize)
	v, err := cipher.NewVolume(p, 1, k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// settings are volumes that must refuse what was altered: both suites as they
// are, and double ones in which one layer is broken.
type setting struct {
	name   string
	broken cipher.Layer // 0: none
	make   func(p cipher.Params, epoch uint32, k cipher.Keys, rand io.Reader) (*cipher.Volume, error)
	suite  cipher.Suite
}

func settings() []setting {
	s := []setting{{"single", 0, cipher.NewVolume, cipher.SuiteSingle}, {"double", 0, cipher.NewVolume, cipher.SuiteDouble}}
	for _, l := range []cipher.Layer{cipher.LayerData, cipher.LayerInfra} {
		for _, how := range []string{cipher.Identity, cipher.AcceptsAll} {
			s = append(s, setting{fmt.Sprintf("layer %s %s", l, how), l, func(p cipher.Params, epoch uint32, k cipher.Keys, rand io.Reader) (*cipher.Volume, error) {
				return cipher.NewBrokenVolume(p, epoch, k, rand, l, how)
			}, cipher.SuiteDouble})
		}
	}
	return s
}

func (s setting) volume(t testing.TB, epoch uint32, change func(*cipher.Params, *cipher.Keys), rand io.Reader) *cipher.Volume {
	t.Helper()
	p, k := testParams(s.suite, 4096)
	if change != nil {
		change(&p, &k)
	}
	v, err := s.make(p, epoch, k, rand)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
