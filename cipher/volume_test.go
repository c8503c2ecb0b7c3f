package cipher_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

func TestParamsValidate(t *testing.T) {
	good := cipher.Params{Format: 1, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: 4096}
	for _, c := range []struct {
		name   string
		change func(*cipher.Params)
		want   error // nil: any
		ok     bool
	}{
		{"double", func(*cipher.Params) {}, nil, true},
		{"single", func(p *cipher.Params) { p.Suite, p.Layers = cipher.SuiteSingle, 1 }, nil, true},
		{"largest blocks", func(p *cipher.Params) { p.BlockSize = 65536 }, nil, true},
		{"format 0", func(p *cipher.Params) { p.Format = 0 }, cipher.ErrVersion, false},
		{"format 2", func(p *cipher.Params) { p.Format = 2 }, cipher.ErrVersion, false},
		{"reserved suite", func(p *cipher.Params) { p.Suite = cipher.SuiteFIPS }, cipher.ErrSuite, false},
		{"unknown suite", func(p *cipher.Params) { p.Suite = 200 }, cipher.ErrSuite, false},
		{"double with one layer", func(p *cipher.Params) { p.Layers = 1 }, cipher.ErrSuite, false},
		{"single with two layers", func(p *cipher.Params) { p.Suite = cipher.SuiteSingle }, cipher.ErrSuite, false},
		{"no layers", func(p *cipher.Params) { p.Layers = 0 }, cipher.ErrSuite, false},
		{"small blocks", func(p *cipher.Params) { p.BlockSize = 2048 }, nil, false},
		{"large blocks", func(p *cipher.Params) { p.BlockSize = 1 << 17 }, nil, false},
		{"huge blocks", func(p *cipher.Params) { p.BlockSize = 1 << 31 }, nil, false},
		{"odd blocks", func(p *cipher.Params) { p.BlockSize = 5000 }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := good
			c.change(&p)
			err := p.Validate()
			if (err == nil) != c.ok || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("Validate = %v, want %v", err, c.want)
			}
			k := cipher.Keys{Data: [32]byte{1}}
			if p.Layers == 2 {
				k.Infra[0] = 1
			}
			if v, err := cipher.NewVolume(p, 1, k, nil); (err == nil) != c.ok || (v != nil) != c.ok {
				t.Errorf("NewVolume = %v, %v", v, err)
			}
		})
	}
}

func TestNewVolumeRefuses(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	if _, err := cipher.NewVolume(p, 0, k, nil); err == nil {
		t.Error("epoch 0 is taken")
	}
	p, _ = testParams(cipher.SuiteSingle, 4096)
	if _, err := cipher.NewVolume(p, 1, k, nil); err == nil {
		t.Error("a layer 2 key is taken for a single-layer volume")
	}
}

// Each way of being wrong has its own error.
func TestOpenStaticErrors(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		w := newWorld(t, newTestVolume(t, suite, 4096))
		for _, c := range []struct {
			name string
			at   int
			b    byte
			want error
		}{
			{"magic", 0, 'X', cipher.ErrMagic},
			{"format", 5, 2, cipher.ErrVersion},
			{"unknown suite", 6, 2, cipher.ErrSuite},
			{"other suite", 6, 1 - byte(suite), cipher.ErrSuite},
			{"layers", 7, 3, cipher.ErrForeign},
			{"block size", 8, 13, cipher.ErrForeign},
			{"impossible block size", 8, 17, cipher.ErrAuth},
			{"epoch", 15, 2, cipher.ErrEpoch},
			{"volume", 16, 0, cipher.ErrForeign},
			{"file ID", 32, w.static[32] + 1, cipher.ErrAuth},
			{"salt", 48, w.static[48] + 1, cipher.ErrAuth},
			{"reserved", 479, 1, cipher.ErrAuth},
		} {
			b := bytes.Clone(w.static)
			b[c.at] = c.b
			if h, f, err := w.v.OpenStatic(b); !errors.Is(err, c.want) || f != nil || h != (cipher.StaticHeader{}) {
				t.Errorf("%s, %s: %v, %v, want %v", suite, c.name, h, err, c.want)
			}
		}
		if _, _, err := w.v.OpenStatic(make([]byte, cipher.SectorSize)); !errors.Is(err, cipher.ErrZero) {
			t.Errorf("zero sector: %v", err)
		}
		if _, _, err := w.v.OpenStaticCopy(make([]byte, cipher.StaticCopySize)); !errors.Is(err, cipher.ErrZero) {
			t.Errorf("zero copy: %v", err)
		}
		if _, err := w.f.OpenHeader(make([]byte, cipher.SectorSize)); !errors.Is(err, cipher.ErrZero) {
			t.Errorf("zero header: %v", err)
		}
		if _, err := w.f.OpenTrailer(make([]byte, cipher.TagBlockSize), 3); !errors.Is(err, cipher.ErrZero) {
			t.Errorf("zero tag block: %v", err)
		}
		almost := make([]byte, cipher.TagBlockSize)
		almost[0] = 1
		if _, err := w.f.OpenTrailer(almost, 3); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("tag block with a zero trailer: %v", err)
		}
		if _, err := w.v.OpenDirID(nil); !errors.Is(err, cipher.ErrZero) {
			t.Errorf("empty directory ID: %v", err)
		}
	}
}

// In suite 0 what layer 2 would fill must be zero, though no tag covers it.
func TestSingleLayerChecksUnusedFields(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteSingle, 4096))
	for _, th := range w.things(t, 100) {
		var unused []int
		switch th.name {
		case "name":
			continue
		case "block", "blob", "xattr":
			for _, s := range th.own[1] {
				unused = append(unused, s.from, s.to-1)
			}
		default:
			unused = []int{th.own[1][0].from, th.own[1][0].to - 1}
		}
		for _, at := range unused {
			if th.sealed[at] != 0 {
				t.Errorf("%s: byte %d is %#x", th.name, at, th.sealed[at])
			}
			b := bytes.Clone(th.sealed)
			b[at] = 1
			if got, err := th.open(b); !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("%s with byte %d set: opens to %.20q, %v", th.name, at, got, err)
			}
		}
	}
}

// A sealed structure that breaks the format's rules is refused although its
// MACs are right.
func TestRulesHoldBehindTheMACs(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	r := refFile{refVolume: newRefVolume(1, 4096, p.VolumeID, 1, k.Data, k.Infra), fileID: w.header.FileID, salt: w.header.Salt}
	if h, err := w.f.OpenHeader(r.header(1<<30, 1, 4, []uint32{1})); err != nil || h.Size != 1<<30 {
		t.Fatalf("a good one: %v, %v", h, err)
	}
	many := make([]uint32, 17)
	for i := range many {
		many[i] = uint32(i + 1)
	}
	max := uint64(w.v.Layout().MaxSize())
	for name, b := range map[string][]byte{
		"size beyond the largest": r.header(max+1, 1, 0, []uint32{1}),
		"negative size":           r.header(math.MaxUint64, 1, 0, []uint32{1}),
		"last beyond the size":    r.header(163840, 1, 1, []uint32{1}),
		"last of an empty file":   r.header(0, 1, 1, []uint32{1}),
		"no epoch":                r.header(1, 1, 0, nil),
		"not the own epoch":       r.header(1, 1, 0, []uint32{2, 3}),
		"falling epochs":          r.header(1, 1, 0, []uint32{2, 1}),
		"an epoch twice":          r.header(1, 1, 0, []uint32{1, 1}),
		"epoch 0":                 r.header(1, 1, 0, []uint32{0, 1}),
		"too many epochs":         r.header(1, 1, 0, many),
	} {
		if h, err := w.f.OpenHeader(b); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("header, %s: %v, %v", name, h, err)
		}
	}
	for _, at := range []int{5, 7, 36, 96, 479} {
		b := r.header(1, 1, 0, []uint32{1})
		b[at] = 1
		if h, err := w.f.OpenHeader(cat(b[:480], r.fileMACs(4, 0, b[:480]))); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("header, reserved byte %d set: %v, %v", at, h, err)
		}
	}
	for _, at := range []int{9, 11, 80, 479} {
		b := r.static()
		b[at] = 1
		if h, _, err := w.v.OpenStatic(cat(b[:480], r.fileMACs(3, 0, b[:480]))); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("static header, reserved byte %d set: %v, %v", at, h, err)
		}
	}
	for _, at := range []int{5, 7, 12, 15, 64, 95} {
		b := r.staticCopy()
		b[at] = 1
		if h, _, err := w.v.OpenStaticCopy(cat(b[:96], r.fileMACs(10, 0, b[:96]))); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("copy, reserved byte %d set: %v, %v", at, h, err)
		}
	}
	for _, at := range []int{12, 15} {
		b := r.dirID(thingDir)
		b[at] = 1
		macs := r.macs(r.d1("plyfs/1/dir-id"), r.d2("plyfs/1/dir-id"), 8, thingDir, 0, b[:48])
		if id, err := w.v.OpenDirID(cat(b[:48], macs)); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("directory ID, reserved byte %d set: %v, %v", at, id, err)
		}
	}
	for _, c := range []struct {
		name                string
		group, present, gap uint64
	}{
		{"bit 56", 3, 1 << 56, 0},
		{"bit 63", 3, 1 << 63, 0},
		{"a header slot", 0, 1 << 15, 0},
		{"a gap before group 0", 0, 0, 1},
		{"a gap that takes group 0", 3, 0, 3},
	} {
		tag := append(make([]byte, cipher.TagBlockSize-cipher.TrailerSize), r.trailer(c.group, c.present, c.gap, 0)...)
		if got, err := w.f.OpenTrailer(tag, c.group); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("trailer, %s: %v, %v", c.name, got, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00", strings.Repeat("x", 256)} {
		if got, err := w.v.OpenName(thingDir, r.name(thingDir, name)); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("name %q: %q, %v", name, got, err)
		}
	}
	for _, plain := range [][]byte{nil, {0}, {0, 1}, {0xff, 0xff, 'a'}} {
		b := r.blob(2, thingOwner, plain, make([]byte, 12), make([]byte, 12), make([]byte, 12))
		if got, err := w.v.OpenXattr(thingOwner, "a", b); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("xattr of %x: %q, %v", plain, got, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		v := newTestVolume(t, suite, 4096)
		for n := 1; n <= 255; n++ {
			name := strings.Repeat("ü", n)[:n]
			sealed := v.SealName(thingDir, name)
			if got, err := v.OpenName(thingDir, sealed); err != nil || got != name {
				t.Fatalf("%d bytes: %q, %v", n, got, err)
			}
			if suite == cipher.SuiteDouble && (len(sealed) <= 255) != (n <= cipher.MaxDirectName) {
				t.Errorf("%d bytes are sealed to %d", n, len(sealed))
			}
			if n <= cipher.MaxDirectName && len(sealed) > 255 {
				t.Errorf("%s: %d bytes are sealed to %d", suite, n, len(sealed))
			}
			if strings.ContainsAny(sealed, "./") || v.SealName(thingDir, name) != sealed {
				t.Errorf("%q is not a name that is always the same", sealed)
			}
			if strings.HasPrefix(v.SealName(cipher.DirID{9}, name), sealed[:8]) {
				t.Errorf("%d bytes: two directories have names that start alike", n)
			}
		}
		long := cipher.LongName(v.SealName(thingDir, strings.Repeat("x", 255)))
		if len(long+cipher.LongNameSuffix) > 255 || !strings.HasPrefix(long, "plyfs.long.") || len(long) != 54 {
			t.Errorf("long name %q", long)
		}
		if _, err := v.OpenName(thingDir, long); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("a long name opens as a direct one: %v", err)
		}
	}
}

func TestXattrs(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		v := newTestVolume(t, suite, 4096)
		hidden := v.XattrName(thingOwner, "user.a")
		if len(hidden) != 43 || hidden != v.XattrName(thingOwner, "user.a") {
			t.Errorf("hidden name %q", hidden)
		}
		if hidden == v.XattrName([16]byte{1}, "user.a") || hidden == v.XattrName(thingOwner, "user.b") {
			t.Error("two hidden names are one")
		}
		for _, n := range []int{0, 1, 65536} {
			sealed, err := v.SealXattr(thingOwner, "user.a", pattern(n))
			if err != nil || len(sealed) != 2+6+n+v.BlobOverhead() {
				t.Fatalf("%d bytes are sealed to %d, %v", n, len(sealed), err)
			}
			if got, err := v.OpenXattr(thingOwner, "user.a", sealed); err != nil || !bytes.Equal(got, pattern(n)) {
				t.Errorf("%d bytes: %v", n, err)
			}
			if got, err := v.OpenXattrName(thingOwner, hidden, sealed); err != nil || got != "user.a" {
				t.Errorf("name %q, %v", got, err)
			}
		}
		if _, err := v.SealXattr(thingOwner, strings.Repeat("x", 65536), nil); !errors.Is(err, cipher.ErrTooLong) {
			t.Errorf("name of 65536 bytes: %v", err)
		}
		if _, err := v.SealBlob(cipher.BlobXattr, thingOwner, make([]byte, cipher.MaxBlob+1)); !errors.Is(err, cipher.ErrTooLong) {
			t.Errorf("blob of MaxBlob+1 bytes: %v", err)
		}
		if _, err := v.SealBlob(cipher.BlobXattr, thingOwner, make([]byte, cipher.MaxBlob)); err != nil {
			t.Errorf("blob of MaxBlob bytes: %v", err)
		}
	}
}

func TestAuthenticatorTellsListsApart(t *testing.T) {
	v := newTestVolume(t, cipher.SuiteDouble, 4096)
	lists := [][][]byte{nil, {nil}, {nil, nil}, {[]byte("ab")}, {[]byte("a"), []byte("b")}, {[]byte("ab"), nil}, {nil, []byte("ab")}, {[]byte("b"), []byte("a")}}
	a, b := v.Authenticator("a"), v.Authenticator("b")
	tag := make([]byte, cipher.AuthTagSize)
	for i, l := range lists {
		a.Sum(tag, l...)
		for j, m := range lists {
			if got := a.Verify(tag, m...); got != (i == j) {
				t.Errorf("tag of %q verifies %q: %v", l, m, got)
			}
		}
		if b.Verify(tag, l...) {
			t.Errorf("tag of %q verifies under another label", l)
		}
		if a.Verify(tag[:31], l...) || a.Verify(nil, l...) {
			t.Error("a short tag verifies")
		}
	}
}

func TestWipe(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	b := sealBlock(t, w.f, []byte("x"), 0)
	name := w.v.SealName(thingDir, "a")
	blob, err := w.v.SealBlob(cipher.BlobXattr, thingOwner, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := w.v.SealDirID(thingDir)
	w.v.Wipe()
	w.v.Wipe()
	checks := map[string]error{}
	_, checks["Open"] = openBlock(w.f, b, 0)
	checks["Seal"] = w.f.Seal(make([]byte, 1), make([]byte, cipher.EntrySize), []byte("x"), 0)
	_, _, checks["NewFile"] = w.v.NewFile()
	_, _, checks["OpenStatic"] = w.v.OpenStatic(w.static)
	_, checks["OpenName"] = w.v.OpenName(thingDir, name)
	_, checks["SealBlob"] = w.v.SealBlob(cipher.BlobXattr, thingOwner, nil)
	_, checks["OpenBlob"] = w.v.OpenBlob(cipher.BlobXattr, thingOwner, blob)
	_, checks["OpenDirID"] = w.v.OpenDirID(dir)
	for name, err := range checks {
		if !errors.Is(err, cipher.ErrWiped) {
			t.Errorf("%s: %v, want %v", name, err, cipher.ErrWiped)
		}
	}
	if s := w.v.SealName(thingDir, "a") + w.v.XattrName(thingOwner, "a") + string(w.v.SealDirID(thingDir)); s != "" {
		t.Errorf("something is still sealed: %q", s)
	}
	if w.v.Authenticator("a") != nil {
		t.Error("an authenticator is still made")
	}
}

// A volume whose keys were dropped goes on with them, and with no others.
func TestRestore(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteDouble, cipher.SuiteSingle} {
		t.Run(suite.String(), func(t *testing.T) {
			w := newWorld(t, newTestVolume(t, suite, 4096))
			_, keys := testParams(suite, 4096)
			b := sealBlock(t, w.f, []byte("x"), 0)
			tag := make([]byte, cipher.TagBlockSize)
			w.f.SealTrailer(tag, 1, cipher.Trailer{Present: 1})
			name := w.v.SealName(thingDir, "a")
			auth, sum := w.v.Authenticator(thingLabel), make([]byte, cipher.AuthTagSize)
			auth.Sum(sum, []byte("part"))
			w.v.Wipe()
			w.f.Wipe()
			if auth.Verify(sum, []byte("part")) {
				t.Error("an authenticator verifies without keys")
			}
			if _, err := w.f.OpenTrailer(tag, 1); !errors.Is(err, cipher.ErrWiped) {
				t.Errorf("trailer without keys: %v, want %v", err, cipher.ErrWiped)
			}
			others := []cipher.Keys{{}, {Data: keys.Infra, Infra: keys.Data}, {Data: keys.Data, Infra: [32]byte{9}}, {Data: [32]byte{9}, Infra: keys.Infra}}
			for i, k := range others {
				if err := w.v.Restore(k); !errors.Is(err, cipher.ErrOtherKeys) {
					t.Errorf("other keys %d: %v, want %v", i, err, cipher.ErrOtherKeys)
				}
				if _, err := openBlock(w.f, b, 0); !errors.Is(err, cipher.ErrWiped) {
					t.Errorf("block after other keys %d: %v, want %v", i, err, cipher.ErrWiped)
				}
			}
			for range 2 {
				if err := w.v.Restore(keys); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := openBlock(w.f, b, 0); err != nil || string(got) != "x" {
				t.Errorf("block: %q, %v", got, err)
			}
			if _, err := w.f.OpenTrailer(tag, 1); err != nil {
				t.Errorf("trailer: %v", err)
			}
			if got, err := w.v.OpenName(thingDir, name); err != nil || got != "a" {
				t.Errorf("name: %q, %v", got, err)
			}
			if !auth.Verify(sum, []byte("part")) {
				t.Error("what an authenticator made does not verify")
			}
		})
	}
}

// Under the race detector this shows that all of it may run at once.
func TestConcurrentUse(t *testing.T) {
	v := newTestVolume(t, cipher.SuiteDouble, 4096)
	w := newWorld(t, v)
	auth := v.Authenticator(thingLabel)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			plain := bytes.Repeat([]byte{byte(g)}, 512)
			body, entry, tag := make([]byte, 512), make([]byte, cipher.EntrySize), make([]byte, cipher.TagBlockSize)
			sum := make([]byte, cipher.AuthTagSize)
			for i := range uint64(50) {
				err := w.f.Seal(body, entry, plain, i)
				if err == nil {
					err = w.f.Open(body, body, entry, i)
				}
				if err != nil || !bytes.Equal(body, plain) {
					t.Errorf("block %d: %v", i, err)
				}
				want := cipher.Trailer{Epoch: 1, Present: uint64(g) << 16, LSN: i}
				w.f.SealTrailer(tag, i, want)
				if got, err := w.f.OpenTrailer(tag, i); err != nil || got != want {
					t.Errorf("trailer: %v, %v", got, err)
				}
				auth.Sum(sum, body)
				if !auth.Verify(sum, plain) {
					t.Error("structure does not verify")
				}
				name := strings.Repeat("n", 1+g)
				if got, err := v.OpenName(thingDir, v.SealName(thingDir, name)); err != nil || got != name {
					t.Errorf("name: %q, %v", got, err)
				}
				if _, _, err := v.OpenStatic(w.static); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
