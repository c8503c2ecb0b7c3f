package cipher_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// Vectors are frozen: the flag makes files that are missing, and never touches
// one that is there.
var writeVectors = flag.Bool("write-vectors", false, "make the vector files that do not exist")

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(s []byte) (err error) {
	*h, err = hex.DecodeString(string(s))
	return err
}

func (h hexBytes) id() (id [16]byte) { copy(id[:], h); return id }

type vectorFile struct {
	Note      string `json:"note"`
	Format    uint16 `json:"format"`
	Suite     uint8  `json:"suite"`
	Layers    uint8  `json:"layers"`
	BlockSize uint32 `json:"block_size"`

	VolumeID hexBytes `json:"volume_id"`
	Epoch    uint32   `json:"epoch"`
	V1       hexBytes `json:"v1"`
	V2       hexBytes `json:"v2"`

	FileID   hexBytes `json:"file_id"`
	FileSalt hexBytes `json:"file_salt"`
	Static   hexBytes `json:"static"`
	Copy     hexBytes `json:"static_copy"`

	Headers    []vectorHeader  `json:"headers"`
	Trailers   []vectorTrailer `json:"trailers"`
	Blocks     []vectorBlock   `json:"blocks"`
	Names      []vectorName    `json:"names"`
	XattrNames []vectorXattr   `json:"xattr_names"`
	Blobs      []vectorBlob    `json:"blobs"`
	Xattrs     []vectorBlob    `json:"xattrs"`
	DirIDs     []vectorDirID   `json:"dir_ids"`
	Structures []vectorStruct  `json:"structures"`
}

type vectorHeader struct {
	Size   int64    `json:"size"`
	LSN    uint64   `json:"lsn"`
	Last   uint64   `json:"last"`
	Epochs []uint32 `json:"epochs"`
	Sector hexBytes `json:"sector"`
}

type vectorTrailer struct {
	Group   uint64   `json:"group"`
	Present uint64   `json:"present"`
	Gap     uint64   `json:"gap"`
	LSN     uint64   `json:"lsn"`
	Trailer hexBytes `json:"trailer"`
}

type vectorBlock struct {
	Index uint64   `json:"index"`
	Plain hexBytes `json:"plain"`
	Salt  hexBytes `json:"block_salt"`
	R     hexBytes `json:"r"`
	N1    hexBytes `json:"n1"`
	Inner hexBytes `json:"inner"` // N1 | C1 | T1, between the layers
	Body  hexBytes `json:"body"`
	Entry hexBytes `json:"entry"`
}

type vectorName struct {
	Dir    hexBytes `json:"dir"`
	Name   string   `json:"name"`
	Sealed string   `json:"sealed"`
	Long   string   `json:"long"`
}

type vectorXattr struct {
	Owner  hexBytes `json:"owner"`
	Name   string   `json:"name"`
	Sealed string   `json:"sealed"`
}

type vectorBlob struct {
	Kind   uint8    `json:"kind"`
	Name   string   `json:"name,omitempty"` // of an xattr, whose value is Plain
	Owner  hexBytes `json:"owner"`
	Plain  hexBytes `json:"plain"`
	Salt   hexBytes `json:"salt"`
	R      hexBytes `json:"r"`
	N1     hexBytes `json:"n1"`
	Sealed hexBytes `json:"sealed"`
}

type vectorDirID struct {
	ID     hexBytes `json:"id"`
	Record hexBytes `json:"record"`
}

type vectorStruct struct {
	Label string     `json:"label"`
	Parts []hexBytes `json:"parts"`
	Tag   hexBytes   `json:"tag"`
}

// count returns n bytes that count up from first.
func count(first byte, n int) hexBytes {
	b := make(hexBytes, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// pattern returns n bytes that repeat with a period that is no power of two.
func pattern(n int) hexBytes {
	b := make(hexBytes, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func (f *vectorFile) ref() refFile {
	v := newRefVolume(f.Suite, f.BlockSize, f.VolumeID.id(), f.Epoch, [32]byte(f.V1), [32]byte{})
	if f.Suite != 0 {
		v.v2 = [32]byte(f.V2)
	}
	return refFile{refVolume: v, fileID: f.FileID.id(), salt: [32]byte(f.FileSalt)}
}

func (f *vectorFile) params() (cipher.Params, cipher.Keys) {
	k := cipher.Keys{Data: [32]byte(f.V1)}
	copy(k.Infra[:], f.V2)
	return cipher.Params{Format: f.Format, Suite: cipher.Suite(f.Suite), Layers: f.Layers, BlockSize: f.BlockSize, VolumeID: f.VolumeID.id()}, k
}

// buildVectors makes a vector file with the reference.
func buildVectors(suite uint8, blockSize uint32, epoch uint32) *vectorFile {
	f := &vectorFile{
		Note:   "plyfs format 1, cipher/FORMAT.md; frozen",
		Format: 1, Suite: suite, Layers: suite + 1, BlockSize: blockSize,
		VolumeID: count(0x10, 16), Epoch: epoch, V1: count(0x20, 32),
		FileID: count(0x60, 16), FileSalt: count(0x80, 32),
	}
	if suite == 1 {
		f.V2 = count(0x40, 32)
	}
	r := f.ref()
	f.Static, f.Copy = r.static(), r.staticCopy()
	for _, h := range []vectorHeader{
		{Size: 0, LSN: 0, Epochs: []uint32{epoch}},
		{Size: 163841, LSN: 1 << 40, Epochs: []uint32{epoch}},
		{Size: 9061558492348547071, LSN: 7, Last: 0x0102030405, Epochs: []uint32{epoch, epoch + 1, epoch + 9}},
	} {
		h.Sector = r.header(uint64(h.Size), h.LSN, h.Last, h.Epochs)
		f.Headers = append(f.Headers, h)
	}
	for _, t := range []vectorTrailer{
		{Group: 0, Present: 0x00ffffffffff0000},
		{Group: 5, Present: 1, Gap: 3, LSN: 0x0102030405060708},
		{Group: 1 << 40, Present: 0x00aaaaaaaaaaaaaa, Gap: 1<<40 - 1, LSN: 9},
	} {
		t.Trailer = r.trailer(t.Group, t.Present, t.Gap, t.LSN)
		f.Trailers = append(f.Trailers, t)
	}
	lengths := []int{1, 15, 16, 17, 511}
	if blockSize <= 16384 {
		lengths = append(lengths, int(blockSize))
	}
	for i, n := range lengths {
		b := vectorBlock{Index: uint64(i) << (8 * i), Plain: pattern(n), Salt: count(byte(i), 12), R: count(byte(100+i), 12), N1: count(byte(200+i), 12)}
		body, entry := r.sealBlock(b.Index, b.Plain, b.Salt, b.R, b.N1)
		inner, err := r.peelOuter(b.Index, body, entry)
		if err != nil {
			panic(err)
		}
		b.Body, b.Entry, b.Inner = body, entry, inner
		f.Blocks = append(f.Blocks, b)
	}
	for i, n := range []string{"a", "ibdata1", "grüße", ".hidden", strings.Repeat("n", 159), strings.Repeat("n", 160), strings.Repeat("n", 255)} {
		v := vectorName{Dir: count(byte(i), 16), Name: n}
		v.Sealed = r.name(v.Dir.id(), n)
		v.Long = refLongName(v.Sealed)
		f.Names = append(f.Names, v)
	}
	for i, n := range []string{"user.a", "trusted.overlay.opaque", "user." + strings.Repeat("x", 250)} {
		v := vectorXattr{Owner: count(byte(i), 16), Name: n}
		v.Sealed = r.xattrName(v.Owner.id(), n)
		f.XattrNames = append(f.XattrNames, v)
	}
	for i, n := range []int{0, 1, 31, 300} {
		v := vectorBlob{Kind: uint8(1 + i%2), Owner: count(byte(i), 16), Plain: pattern(n), Salt: count(byte(10+i), 12), R: count(byte(110+i), 12), N1: count(byte(210+i), 12)}
		v.Sealed = r.blob(v.Kind, v.Owner.id(), v.Plain, v.Salt, v.R, v.N1)
		f.Blobs = append(f.Blobs, v)
	}
	for i, n := range []int{0, 5, 200} {
		v := vectorBlob{Kind: 2, Name: f.XattrNames[i].Name, Owner: count(byte(i), 16), Plain: pattern(n), Salt: count(byte(20+i), 12), R: count(byte(120+i), 12), N1: count(byte(220+i), 12)}
		v.Sealed = r.blob(2, v.Owner.id(), refXattr(v.Name, v.Plain), v.Salt, v.R, v.N1)
		f.Xattrs = append(f.Xattrs, v)
	}
	for i := range 2 {
		id := count(byte(0xa0+i), 16)
		f.DirIDs = append(f.DirIDs, vectorDirID{ID: id, Record: r.dirID(id.id())})
	}
	for _, s := range []vectorStruct{{Label: "journal"}, {Label: "journal", Parts: []hexBytes{pattern(3), {}, pattern(200)}}, {Label: "x", Parts: []hexBytes{pattern(3)}}} {
		var parts [][]byte
		for _, p := range s.Parts {
			parts = append(parts, p)
		}
		s.Tag = r.structure(s.Label, parts...)
		f.Structures = append(f.Structures, s)
	}
	return f
}

func eachVectorFile(t *testing.T, do func(t *testing.T, f *vectorFile)) {
	for _, c := range []struct {
		suite     uint8
		blockSize uint32
		epoch     uint32
	}{{0, 4096, 1}, {1, 4096, 1}, {1, 16384, 2}, {1, 65536, 1 << 24}} {
		t.Run(fmt.Sprintf("suite%d-%d", c.suite, c.blockSize), func(t *testing.T) {
			path := fmt.Sprintf("testdata/vectors/v1-suite%d-%d.json", c.suite, c.blockSize)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && *writeVectors {
				b, err := json.MarshalIndent(buildVectors(c.suite, c.blockSize, c.epoch), "", " ")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := new(vectorFile)
			if err := json.Unmarshal(b, f); err != nil {
				t.Fatal(err)
			}
			do(t, f)
		})
	}
}

// The reference, which the document describes, still makes the frozen bytes.
func TestVectorsAgreeWithReference(t *testing.T) {
	eachVectorFile(t, func(t *testing.T, f *vectorFile) {
		got, err := json.Marshal(buildVectors(f.Suite, f.BlockSize, f.Epoch))
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Error("the reference makes other bytes than the frozen ones")
		}
	})
}

func TestVectorsOpen(t *testing.T) {
	eachVectorFile(t, func(t *testing.T, f *vectorFile) {
		p, k := f.params()
		v, err := cipher.NewVolume(p, f.Epoch, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		h, file, err := v.OpenStatic(f.Static)
		if want := (cipher.StaticHeader{Epoch: f.Epoch, FileID: f.FileID.id(), Salt: [32]byte(f.FileSalt)}); err != nil || h != want {
			t.Fatalf("OpenStatic = %v, %v, want %v", h, err, want)
		}
		if h2, f2, err := v.OpenStaticCopy(f.Copy); err != nil || h2 != h || f2.ID() != file.ID() {
			t.Errorf("OpenStaticCopy = %v, %v, want %v", h2, err, h)
		}
		for _, c := range f.Headers {
			h, err := file.OpenHeader(c.Sector)
			if err != nil || h.Size != c.Size || h.LSN != c.LSN || h.Last != c.Last || fmt.Sprint(h.Epochs) != fmt.Sprint(c.Epochs) {
				t.Errorf("OpenHeader = %v, %v, want size %d, LSN %d, epochs %v", h, err, c.Size, c.LSN, c.Epochs)
			}
		}
		for _, c := range f.Trailers {
			b := append(make([]byte, cipher.TagBlockSize-cipher.TrailerSize), c.Trailer...)
			got, err := file.OpenTrailer(b, c.Group)
			if want := (cipher.Trailer{Epoch: f.Epoch, Present: c.Present, Gap: c.Gap, LSN: c.LSN}); err != nil || got != want {
				t.Errorf("OpenTrailer of group %d = %v, %v, want %v", c.Group, got, err, want)
			}
		}
		for _, c := range f.Blocks {
			plain := make([]byte, len(c.Body))
			if err := file.Open(plain, c.Body, c.Entry, c.Index); err != nil || !bytes.Equal(plain, c.Plain) {
				t.Errorf("Open of block %d, %d bytes: %v", c.Index, len(c.Body), err)
			}
		}
		for _, c := range f.Names {
			if got, err := v.OpenName(c.Dir.id(), c.Sealed); err != nil || got != c.Name {
				t.Errorf("OpenName(%q) = %q, %v, want %q", c.Sealed, got, err, c.Name)
			}
		}
		for _, c := range f.Blobs {
			if got, err := v.OpenBlob(cipher.BlobKind(c.Kind), c.Owner.id(), c.Sealed); err != nil || !bytes.Equal(got, c.Plain) {
				t.Errorf("OpenBlob of %d bytes = %x, %v", len(c.Plain), got, err)
			}
		}
		for _, c := range f.Xattrs {
			if got, err := v.OpenXattr(c.Owner.id(), c.Name, c.Sealed); err != nil || !bytes.Equal(got, c.Plain) {
				t.Errorf("OpenXattr(%q) = %x, %v", c.Name, got, err)
			}
		}
		for _, c := range f.DirIDs {
			if got, err := v.OpenDirID(c.Record); err != nil || got != c.ID.id() {
				t.Errorf("OpenDirID = %v, %v, want %x", got, err, c.ID)
			}
		}
		for _, c := range f.Structures {
			if !v.Authenticator(c.Label).Verify(c.Tag, c.parts()...) {
				t.Errorf("Verify of %d parts under %q is false", len(c.Parts), c.Label)
			}
		}
	})
}

func (s vectorStruct) parts() (parts [][]byte) {
	for _, p := range s.Parts {
		parts = append(parts, p)
	}
	return parts
}

// Seal makes the frozen bytes from the frozen nonces and salts.
func TestVectorsSeal(t *testing.T) {
	eachVectorFile(t, func(t *testing.T, f *vectorFile) {
		p, k := f.params()
		given := func(n1 hexBytes, rand ...[]byte) *cipher.Volume {
			t.Helper()
			rand = append(rand, make([]byte, 4096)) // r is read ahead
			v, err := cipher.NewVolumeWithN1(p, f.Epoch, k, bytes.NewReader(cat(rand...)), func() [12]byte { return [12]byte(n1) })
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		v := given(nil, f.FileID, f.FileSalt)
		h, file, err := v.NewFile()
		if err != nil {
			t.Fatal(err)
		}
		sector := make([]byte, cipher.SectorSize)
		if v.SealStatic(sector, h, file); !bytes.Equal(sector, f.Static) {
			t.Errorf("SealStatic makes %x", sector)
		}
		second := make([]byte, cipher.StaticCopySize)
		if v.SealStaticCopy(second, h, file); !bytes.Equal(second, f.Copy) {
			t.Errorf("SealStaticCopy makes %x", second)
		}
		for _, c := range f.Headers {
			if file.SealHeader(sector, cipher.Header{Size: c.Size, LSN: c.LSN, Last: c.Last, Epochs: c.Epochs}); !bytes.Equal(sector, c.Sector) {
				t.Errorf("SealHeader of size %d makes %x", c.Size, sector)
			}
		}
		for _, c := range f.Trailers {
			b := make([]byte, cipher.TagBlockSize)
			file.SealTrailer(b, c.Group, cipher.Trailer{Present: c.Present, Gap: c.Gap, LSN: c.LSN})
			if got := b[cipher.TagBlockSize-cipher.TrailerSize:]; !bytes.Equal(got, c.Trailer) {
				t.Errorf("SealTrailer of group %d makes %x", c.Group, got)
			}
		}
		for _, c := range f.Blocks {
			_, file, err := given(c.N1, c.Salt, c.R).OpenStatic(f.Static)
			if err != nil {
				t.Fatal(err)
			}
			body, entry := make([]byte, len(c.Plain)), make([]byte, cipher.EntrySize)
			if err := file.Seal(body, entry, c.Plain, c.Index); err != nil || !bytes.Equal(body, c.Body) || !bytes.Equal(entry, c.Entry) {
				t.Errorf("Seal of block %d, %d bytes: entry %x, %v", c.Index, len(c.Plain), entry, err)
			}
		}
		for _, c := range f.Names {
			if got := v.SealName(c.Dir.id(), c.Name); got != c.Sealed || cipher.LongName(got) != c.Long {
				t.Errorf("SealName(%q) = %q, long %q", c.Name, got, cipher.LongName(got))
			}
		}
		for _, c := range f.XattrNames {
			if got := v.XattrName(c.Owner.id(), c.Name); got != c.Sealed {
				t.Errorf("XattrName(%q) = %q, want %q", c.Name, got, c.Sealed)
			}
		}
		for _, c := range f.Blobs {
			got, err := given(c.N1, c.Salt, c.R).SealBlob(cipher.BlobKind(c.Kind), c.Owner.id(), c.Plain)
			if err != nil || !bytes.Equal(got, c.Sealed) {
				t.Errorf("SealBlob of %d bytes = %x, %v", len(c.Plain), got, err)
			}
		}
		for _, c := range f.Xattrs {
			got, err := given(c.N1, c.Salt, c.R).SealXattr(c.Owner.id(), c.Name, c.Plain)
			if err != nil || !bytes.Equal(got, c.Sealed) {
				t.Errorf("SealXattr(%q) = %x, %v", c.Name, got, err)
			}
		}
		for _, c := range f.DirIDs {
			if got := v.SealDirID(c.ID.id()); !bytes.Equal(got, c.Record) {
				t.Errorf("SealDirID = %x", got)
			}
		}
		for _, c := range f.Structures {
			tag := make([]byte, cipher.AuthTagSize)
			if v.Authenticator(c.Label).Sum(tag, c.parts()...); !bytes.Equal(tag, c.Tag) {
				t.Errorf("Sum of %d parts under %q = %x", len(c.Parts), c.Label, tag)
			}
		}
	})
}

// A block that the package seals comes off one layer at a time, each with the
// keys of that layer alone.
func TestLayersPeelOneByOne(t *testing.T) {
	eachVectorFile(t, func(t *testing.T, f *vectorFile) {
		p, k := f.params()
		v, err := cipher.NewVolume(p, f.Epoch, k, nil)
		if err != nil {
			t.Fatal(err)
		}
		h, file, err := v.NewFile()
		if err != nil {
			t.Fatal(err)
		}
		outer, inner := f.ref(), f.ref()
		outer.fileID, outer.salt = h.FileID, h.Salt
		inner.fileID, inner.salt = h.FileID, h.Salt
		outer.v1, inner.v2 = [32]byte{}, [32]byte{}
		plain := []byte(pattern(v.BlockSize()))
		body, entry := make([]byte, len(plain)), make([]byte, cipher.EntrySize)
		for index := range uint64(3) {
			if err := file.Seal(body, entry, plain, index); err != nil {
				t.Fatal(err)
			}
			between, err := outer.peelOuter(index, body, entry)
			if err != nil {
				t.Fatalf("layer 2 of block %d: %v", index, err)
			}
			if bytes.Contains(between, plain[:16]) || f.Suite != 0 && bytes.Contains(between, body[:16]) {
				t.Fatalf("block %d: a layer leaves bytes as they are", index)
			}
			got, err := inner.peelInner(index, entry[:12], between)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("layer 1 of block %d: %v", index, err)
			}
		}
	})
}
