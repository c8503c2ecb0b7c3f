package cipher_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// own reports whether byte i is one that only the broken layer looks at.
func (th thing) ownByte(broken cipher.Layer, i int) bool {
	if broken == 0 {
		return false
	}
	for _, s := range th.own[broken-1] {
		if s.from <= i && i < s.to {
			return true
		}
	}
	return false
}

// refused fails the test unless b is refused. at is the changed byte, -1 where
// there is not just one.
func (th thing) refused(t *testing.T, broken cipher.Layer, what string, b []byte, at int) {
	t.Helper()
	got, err := th.open(b)
	switch {
	case err != nil && !known(err):
		t.Fatalf("%s, %s: error %v", th.name, what, err)
	case err == nil && at >= 0 && th.ownByte(broken, at):
		if want, _ := th.open(th.sealed); got != want {
			t.Fatalf("%s, %s: opens to %q", th.name, what, got)
		}
	case err == nil:
		t.Fatalf("%s, %s: opens to %.40q", th.name, what, got)
	}
}

// Each bit of everything, with both layers sound and with one broken.
func TestTamperedBitsAreRefused(t *testing.T) {
	for _, s := range settings() {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(t, s.volume(t, 1, nil, nil))
			length := 4096
			if s.broken != 0 {
				length = 333
			}
			for _, th := range w.things(t, length) {
				if _, err := th.open(th.sealed); err != nil {
					t.Fatalf("%s as sealed: %v", th.name, err)
				}
				b := bytes.Clone(th.sealed)
				for i := range b {
					for bit := range 8 {
						b[i] ^= 1 << bit
						th.refused(t, s.broken, "a bit flipped", b, i)
						b[i] ^= 1 << bit
					}
				}
			}
		})
	}
}

// Cut, made longer, zeroed in whole and in parts, and with two halves of two
// sealings.
func TestTamperedLengthsAndZerosAreRefused(t *testing.T) {
	for _, s := range settings() {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(t, s.volume(t, 1, nil, nil))
			others := w.things(t, 333)
			for k, th := range w.things(t, 333) {
				n := len(th.sealed)
				th.refused(t, s.broken, "zeroed", make([]byte, n), -1)
				for i := 0; i+16 <= n; i += 16 {
					b := bytes.Clone(th.sealed)
					clear(b[i : i+16])
					if !bytes.Equal(b, th.sealed) {
						th.refused(t, s.broken, "16 bytes zeroed", b, i)
					}
				}
				if th.name == "trailer" || th.name == "block" {
					continue // fixed lengths; TestMovedBlocksAreRefused cuts blocks
				}
				for _, cut := range []int{n - 1, n - 16, n / 2, 17, 16, 5, 1, 0} {
					th.refused(t, s.broken, "cut", th.sealed[:cut], -1)
				}
				th.refused(t, s.broken, "made longer", append(bytes.Clone(th.sealed), 0), -1)
				th.refused(t, s.broken, "twice", append(bytes.Clone(th.sealed), th.sealed...), -1)
				if o := others[k].sealed; th.name == "blob" || th.name == "xattr" {
					th.refused(t, s.broken, "halves of two", append(bytes.Clone(th.sealed[:n/2]), o[n/2:]...), -1)
				}
			}
		})
	}
}

func TestMovedBlocksAreRefused(t *testing.T) {
	for _, s := range settings() {
		t.Run(s.name, func(t *testing.T) {
			v := s.volume(t, 1, nil, nil)
			w, w2 := newWorld(t, v), newWorld(t, v)
			plain := []byte(pattern(333))
			b := sealBlock(t, w.f, plain, thingIndex)
			refuse := func(what string, f *cipher.File, sealed []byte, index uint64) {
				t.Helper()
				if got, err := openBlock(f, sealed, index); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("%s: opens to %.20q, %v", what, got, err)
				}
			}
			for _, index := range []uint64{0, 6, 8, 7 + 1<<32, 1 << 63} {
				refuse("other number", w.f, b, index)
			}
			refuse("other file", w2.f, b, thingIndex)

			other := sealBlock(t, w.f, []byte(pattern(333)), thingIndex)
			refuse("entry of another sealing", w.f, append(bytes.Clone(b[:333]), other[333:]...), thingIndex)
			refuse("first sector of another sealing", w.f, append(bytes.Clone(other[:64]), b[64:]...), thingIndex)
			neighbour := sealBlock(t, w.f, plain, thingIndex+1)
			refuse("entries swapped", w.f, append(bytes.Clone(b[:333]), neighbour[333:]...), thingIndex)

			entry := b[333:]
			for _, n := range []int{1, 16, 332} {
				refuse("cut", w.f, append(bytes.Clone(b[:n]), entry...), thingIndex)
			}
			for _, n := range []int{334, 512, 4096} {
				refuse("made longer", w.f, append(append(bytes.Clone(b[:333]), make([]byte, n-333)...), entry...), thingIndex)
			}
			refuse("body zeroed", w.f, append(make([]byte, 333), entry...), thingIndex)
			refuse("entry zeroed", w.f, append(bytes.Clone(b[:333]), make([]byte, cipher.EntrySize)...), thingIndex)
			refuse("both zeroed", w.f, make([]byte, len(b)), thingIndex)
		})
	}
}

// The same file, ID and salt, in a volume that differs in one thing: nothing
// opens there, also where the adversary changes what the fields say.
func TestMovedBetweenVolumesIsRefused(t *testing.T) {
	changes := []struct {
		name   string
		epoch  uint32
		change func(*cipher.Params, *cipher.Keys)
	}{
		{"other volume ID", 1, func(p *cipher.Params, _ *cipher.Keys) { p.VolumeID[15] = 1 }},
		{"other block size", 1, func(p *cipher.Params, _ *cipher.Keys) { p.BlockSize = 8192 }},
		{"newer epoch", 2, nil},
		{"other keys", 1, func(_ *cipher.Params, k *cipher.Keys) { k.Data[0], k.Infra[0] = 99, 99 }},
	}
	for _, s := range settings() {
		for _, c := range changes {
			if c.name == "other keys" && s.suite == cipher.SuiteSingle {
				continue
			}
			t.Run(s.name+"/"+c.name, func(t *testing.T) {
				w := newWorld(t, s.volume(t, 1, nil, nil))
				// v2 has a file of the same ID and salt.
				v2 := s.volume(t, c.epoch, c.change, bytes.NewReader(cat(w.header.FileID[:], w.header.Salt[:])))
				_, f2, err := v2.NewFile()
				if err != nil {
					t.Fatal(err)
				}
				b := sealBlock(t, w.f, []byte(pattern(333)), thingIndex)
				for _, th := range w.macThings()[:2] {
					sealed := bytes.Clone(th.sealed)
					open := v2.OpenStatic
					if th.name != "static header" {
						open = v2.OpenStaticCopy
					}
					if _, _, err := open(sealed); !known(err) {
						t.Errorf("%s as it is: %v", th.name, err)
					}
					forgeStatic(sealed, v2)
					_, f, err := open(sealed)
					if !known(err) {
						t.Errorf("%s, fields forged: %v", th.name, err)
					}
					if f != nil {
						t.Errorf("%s, fields forged: a File", th.name)
					}
				}
				binary.BigEndian.PutUint32(b[333+24:], c.epoch)
				if got, err := openBlock(f2, b, thingIndex); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("block: opens to %.20q, %v", got, err)
				}
				if c.name == "other block size" {
					return // nothing else depends on it, once the static header is refused
				}
				tag := make([]byte, cipher.TagBlockSize)
				w.f.SealTrailer(tag, thingGroup, cipher.Trailer{Present: 1})
				binary.BigEndian.PutUint32(tag[cipher.TagBlockSize-60:], c.epoch)
				if got, err := f2.OpenTrailer(tag, thingGroup); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("trailer: %v, %v", got, err)
				}
				sector := make([]byte, cipher.SectorSize)
				w.f.SealHeader(sector, cipher.Header{Size: 1, Epochs: []uint32{1, 2}})
				if got, err := f2.OpenHeader(sector); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("header: %v, %v", got, err)
				}
				for _, th := range w.sealedThings(t) {
					open := map[string]func([]byte) error{
						"name": func(b []byte) error {
							_, err := v2.OpenName(thingDir, base64.RawURLEncoding.EncodeToString(b))
							return err
						},
						"blob": func(b []byte) error {
							binary.BigEndian.PutUint32(b[24:], c.epoch)
							_, err := v2.OpenBlob(cipher.BlobSymlink, thingOwner, b)
							return err
						},
						"xattr": func(b []byte) error {
							binary.BigEndian.PutUint32(b[24:], c.epoch)
							_, err := v2.OpenXattr(thingOwner, "user.a", b)
							return err
						},
					}[th.name]
					if err := open(bytes.Clone(th.sealed)); !errors.Is(err, cipher.ErrAuth) {
						t.Errorf("%s: %v", th.name, err)
					}
				}
				dir := w.v.SealDirID(thingDir)
				if _, err := v2.OpenDirID(dir); !known(err) {
					t.Errorf("directory ID: %v", err)
				}
				binary.BigEndian.PutUint32(dir[8:], c.epoch)
				id := v2.Params().VolumeID
				copy(dir[16:], id[:])
				if _, err := v2.OpenDirID(dir); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("directory ID, fields forged: %v", err)
				}
				tagOf := make([]byte, cipher.AuthTagSize)
				w.v.Authenticator(thingLabel).Sum(tagOf, []byte("x"))
				if v2.Authenticator(thingLabel).Verify(tagOf, []byte("x")) {
					t.Error("structure verifies")
				}
			})
		}
	}
}

// forgeStatic makes the fields of a static header or its copy say what v wants.
func forgeStatic(b []byte, v *cipher.Volume) {
	p := v.Params()
	if len(b) == cipher.StaticCopySize {
		b[4] = log2(p.BlockSize)
		binary.BigEndian.PutUint32(b[8:], v.Epoch())
		return
	}
	b[6], b[7], b[8] = byte(p.Suite), p.Layers, log2(p.BlockSize)
	binary.BigEndian.PutUint32(b[12:], v.Epoch())
	copy(b[16:], p.VolumeID[:])
}

func log2(n uint32) (l byte) {
	for ; n > 1; n >>= 1 {
		l++
	}
	return l
}

func TestMovedNamesAndBlobsAreRefused(t *testing.T) {
	for _, s := range settings() {
		t.Run(s.name, func(t *testing.T) {
			v := s.volume(t, 1, nil, nil)
			name := v.SealName(thingDir, "ibdata1")
			if got, err := v.OpenName(cipher.DirID{9}, name); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("name in another directory: %q, %v", got, err)
			}
			blob, err := v.SealBlob(cipher.BlobSymlink, thingOwner, []byte("target"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := v.OpenBlob(cipher.BlobXattr, thingOwner, blob); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("blob as another kind: %q, %v", got, err)
			}
			if got, err := v.OpenBlob(cipher.BlobSymlink, [16]byte{9}, blob); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("blob of another owner: %q, %v", got, err)
			}
			xattr, err := v.SealXattr(thingOwner, "user.a", []byte("value"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := v.OpenXattr(thingOwner, "user.b", xattr); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("xattr of another name: %q, %v", got, err)
			}
			if got, err := v.OpenXattrName(thingOwner, v.XattrName(thingOwner, "user.b"), xattr); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("xattr found under another name: %q, %v", got, err)
			}
		})
	}
}

func TestNameEncodingIsCanonical(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		v := newTestVolume(t, suite, 4096)
		for n := 1; n <= 4; n++ { // all remainders of base64
			sealed := v.SealName(thingDir, strings.Repeat("n", n))
			for _, bad := range []string{
				sealed + "\n", sealed[:5] + "\r\n" + sealed[5:], "\n" + sealed, sealed + "=", sealed + "==", sealed + "A", sealed + " ",
				strings.ToUpper(sealed), sealed[:len(sealed)-1], sealed + ".", strings.Replace(sealed, sealed[3:4], "+", 1),
			} {
				if got, err := v.OpenName(thingDir, bad); !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("%q opens to %q, %v", bad, got, err)
				}
			}
			// Every other last character, those with the same leading bits too.
			for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
				bad := sealed[:len(sealed)-1] + string(c)
				if got, err := v.OpenName(thingDir, bad); bad != sealed && !errors.Is(err, cipher.ErrAuth) {
					t.Errorf("%q opens to %q, %v", bad, got, err)
				}
			}
		}
	}
}
