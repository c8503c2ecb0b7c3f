package cipher_test

import (
	"bytes"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/plyfs/plyfs/cipher"
)

// sealTwice seals two plaintexts as the same block of the same file, each time
// in a fresh process, so to say, in which the random source starts anew with
// the same bytes. n1 is layer 1's source.
func sealTwice(t *testing.T, suite cipher.Suite, a, b []byte, n1 func() [12]byte) (first, second []byte, r refFile) {
	t.Helper()
	p, k := testParams(suite, 4096)
	seal := func(plain []byte) []byte {
		v, err := cipher.NewVolumeWithN1(p, 1, k, bytes.NewReader(pattern(8192)), n1)
		if n1 == nil {
			v, err = cipher.NewVolume(p, 1, k, bytes.NewReader(pattern(8192)))
		}
		if err != nil {
			t.Fatal(err)
		}
		h, f, err := v.NewFile()
		if err != nil {
			t.Fatal(err)
		}
		r = refFile{refVolume: newRefVolume(byte(suite), 4096, p.VolumeID, 1, k.Data, k.Infra), fileID: h.FileID, salt: h.Salt}
		return sealBlock(t, f, plain, thingIndex)
	}
	return seal(a), seal(b), r
}

func xor(a, b []byte) []byte {
	out := bytes.Clone(a)
	for i := range out {
		out[i] ^= b[i]
	}
	return out
}

// Layer 1's nonce is not drawn from the parameter: it differs although salt
// and r repeat.
func TestRepeatedRandomLeavesLayer1Random(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		plain := []byte(pattern(100))
		a, b, r := sealTwice(t, suite, plain, plain, nil)
		if !bytes.Equal(a[100:112], b[100:112]) {
			t.Fatal("salts differ: the random source did not repeat")
		}
		inner := func(s []byte) []byte {
			return must(r.peelOuter(thingIndex, s[:100], s[100:]))
		}
		if bytes.Equal(inner(a)[:12], inner(b)[:12]) {
			t.Error("N1 repeats")
		}
		if bytes.Equal(a[:100], b[:100]) {
			t.Error("bodies repeat")
		}
	}
}

// With everything repeated, N1 too, layer 2 still uses another nonce for
// another plaintext, and the XOR of the bodies tells nothing. Layer 1 alone
// leaks there, which is why the test can fail.
func TestRepeatedRandomLeavesLayer2Synthetic(t *testing.T) {
	n1 := func() [12]byte { return [12]byte{7} }
	p1, p2 := []byte(pattern(100)), bytes.Repeat([]byte{0xee}, 100)

	a, b, r := sealTwice(t, cipher.SuiteDouble, p1, p2, n1)
	ia, ib := must(r.peelOuter(thingIndex, a[:100], a[100:])), must(r.peelOuter(thingIndex, b[:100], b[100:]))
	if !bytes.Equal(a[100:112], b[100:112]) || !bytes.Equal(ia[:12], ib[:12]) {
		t.Fatal("salt or N1 differ: the random sources did not repeat")
	}
	if !bytes.Equal(xor(ia[12:112], ib[12:112]), xor(p1, p2)) {
		t.Fatal("layer 1 does not leak: the test shows nothing")
	}
	if bytes.Equal(a[112:124], b[112:124]) {
		t.Error("n2 repeats for another plaintext")
	}
	if bytes.Equal(xor(a[:100], b[:100]), xor(p1, p2)) {
		t.Error("the XOR of two bodies is that of their plaintexts")
	}
	if bytes.Equal(xor(a[:100], b[:100]), xor(ia[12:112], ib[12:112])) {
		t.Error("layer 2 used one keystream twice")
	}

	a, b, _ = sealTwice(t, cipher.SuiteDouble, p1, p1, n1)
	if !bytes.Equal(a, b) {
		t.Error("n2 depends on more than r and T1")
	}

	a, b, _ = sealTwice(t, cipher.SuiteSingle, p1, p2, n1)
	if !bytes.Equal(xor(a[:100], b[:100]), xor(p1, p2)) {
		t.Error("FORMAT.md §13 says that suite 0 leaks here, and it does not")
	}
}

var errRandom = errors.New("no more random bytes")

// failAfter gives n bytes, then fails.
func failAfter(n int) *failing { return &failing{left: n} }

type failing struct{ left int }

func (f *failing) Read(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, errRandom
	}
	f.left -= len(p)
	for i := range p {
		p[i] = byte(f.left + i)
	}
	return len(p), nil
}

func TestFailingRandomSourceSealsNothing(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	for have := 0; have < 16+32+12+768; have += 4 {
		v, err := cipher.NewVolume(p, 1, k, failAfter(have))
		if err != nil {
			t.Fatal(err)
		}
		_, f, err := v.NewFile()
		if have < 48 {
			if !errors.Is(err, errRandom) || f != nil {
				t.Fatalf("NewFile with %d bytes: %v, %v", have, f, err)
			}
			continue
		}
		plain, body, entry := []byte(pattern(100)), make([]byte, 100), make([]byte, cipher.EntrySize)
		if err := f.Seal(body, entry, plain, 0); !errors.Is(err, errRandom) {
			t.Fatalf("Seal with %d bytes: %v", have, err)
		}
		if !bytes.Equal(body, make([]byte, 100)) || !bytes.Equal(entry, make([]byte, cipher.EntrySize)) {
			t.Fatalf("Seal with %d bytes wrote", have)
		}
		if err := f.Seal(plain, entry, plain, 0); !errors.Is(err, errRandom) || !bytes.Equal(plain, pattern(100)) {
			t.Fatalf("Seal in place with %d bytes: %v, %x", have, err, plain)
		}
	}
	v, err := cipher.NewVolume(p, 1, k, iotest.ErrReader(errRandom))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := v.SealBlob(cipher.BlobXattr, thingOwner, []byte("x")); !errors.Is(err, errRandom) || b != nil {
		t.Errorf("SealBlob: %x, %v", b, err)
	}
	if b, err := v.SealXattr(thingOwner, "user.a", []byte("x")); !errors.Is(err, errRandom) || b != nil {
		t.Errorf("SealXattr: %x, %v", b, err)
	}
	if id, err := v.NewDirID(); !errors.Is(err, errRandom) || id != (cipher.DirID{}) {
		t.Errorf("NewDirID: %v, %v", id, err)
	}
}

// A source that comes to life again is used again.
func TestRandomSourceThatRecovers(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	source := failAfter(48 + 12 + 100)
	v, err := cipher.NewVolume(p, 1, k, source)
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := v.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1+cipher.EntrySize)
	if err := f.Seal(b[:1], b[1:], []byte{1}, 0); !errors.Is(err, errRandom) {
		t.Fatal(err)
	}
	source.left = 1 << 20
	if err := f.Seal(b[:1], b[1:], []byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := openBlock(f, b, 0); err != nil || got != "\x01" {
		t.Errorf("opens to %q, %v", got, err)
	}
}

// No salt seals more than BlocksPerSalt blocks, from many goroutines too, and
// n2 never repeats.
func TestSaltsAreRenewed(t *testing.T) {
	if testing.Short() {
		t.Skip("seals 2^17 blocks")
	}
	const workers, each = 4, cipher.BlocksPerSalt/2 + 10
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	var mu sync.Mutex
	salts := make(map[[12]byte]int)
	nonces := make(map[[24]byte]bool)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			b := make([]byte, 1+cipher.EntrySize)
			for i := range each {
				if err := w.f.Seal(b[:1], b[1:], []byte{1}, uint64(i)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				salts[[12]byte(b[1:13])]++
				nonces[[24]byte(b[1:25])] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for s, n := range salts {
		if n > cipher.BlocksPerSalt {
			t.Errorf("salt %x sealed %d blocks", s, n)
		}
	}
	if want := (workers*each + cipher.BlocksPerSalt - 1) / cipher.BlocksPerSalt; len(salts) != want {
		t.Errorf("%d salts, want %d", len(salts), want)
	}
	if len(nonces) != workers*each {
		t.Errorf("%d nonces of layer 2 for %d blocks", len(nonces), workers*each)
	}
}

func TestEachOpenTakesAFreshSalt(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	seen := make(map[[12]byte]bool)
	for i := range 100 {
		_, f, err := w.v.OpenStatic(w.static)
		if err != nil {
			t.Fatal(err)
		}
		b := sealBlock(t, f, []byte{1}, 0)
		seen[[12]byte(b[1:13])] = true
		if len(seen) != i+1 {
			t.Fatal("a salt came twice")
		}
	}
}

// However many salts there are on disk, few of their keys are held.
func TestSubkeyCacheIsBounded(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	var blocks [][]byte
	for range 3 * cipher.MaxSubkeys {
		_, f, err := w.v.OpenStatic(w.static)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, sealBlock(t, f, []byte{1}, 0))
	}
	for range 2 {
		for _, b := range blocks {
			if got, err := openBlock(w.f, b, 0); err != nil || got != "\x01" {
				t.Fatalf("opens to %q, %v", got, err)
			}
		}
		if n := w.v.Subkeys(); n == 0 || n > cipher.MaxSubkeys {
			t.Fatalf("%d keys are held, want 1 to %d", n, cipher.MaxSubkeys)
		}
	}
	w.v.Wipe()
	if n := w.v.Subkeys(); n != 0 {
		t.Errorf("%d keys are held after Wipe", n)
	}
}

// The cached keys of files that nobody has any more are all that is left of them.
func TestSubkeysHoldNoFile(t *testing.T) {
	w := newWorld(t, newTestVolume(t, cipher.SuiteDouble, 4096))
	defer runtime.KeepAlive(w) // or the cache is garbage too
	sealed := sealBlock(t, w.f, []byte{1}, 0)
	const files = 10
	var gone atomic.Int32
	for range files {
		_, f, err := w.v.OpenStatic(w.static)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openBlock(f, sealed, 0); err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(f, func(int) { gone.Add(1) }, 0)
	}
	if w.v.Subkeys() == 0 {
		t.Fatal("no subkey is cached")
	}
	for range 100 {
		runtime.GC()
		// The last one may still be in a register or on the stack.
		if gone.Load() >= files-1 {
			return
		}
		time.Sleep(10 * time.Millisecond) // cleanups run beside
	}
	t.Errorf("%d of %d files are gone", gone.Load(), files)
}

// Two files that use one salt do not use one key.
func TestSubkeysAreTheirFilesOwn(t *testing.T) {
	p, k := testParams(cipher.SuiteSingle, 4096)
	id1, id2 := count(0, 16), count(0, 16)
	id2[15] = 99
	salt := count(50, 12)
	v, err := cipher.NewVolume(p, 1, k, bytes.NewReader(cat(id1, make([]byte, 32), id2, make([]byte, 32), salt, salt, salt)))
	if err != nil {
		t.Fatal(err)
	}
	h, f1, err := v.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	_, f2, err := v.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	b1, b2 := sealBlock(t, f1, []byte("one"), 0), sealBlock(t, f2, []byte("two"), 0)
	if !bytes.Equal(b1[3:15], salt) || !bytes.Equal(b2[3:15], salt) {
		t.Fatal("the files do not use the salt")
	}
	// Files that were opened anew find keys in the cache alone.
	static := make([]byte, cipher.SectorSize)
	v.SealStatic(static, h, f1)
	if _, f1, err = v.OpenStatic(static); err != nil {
		t.Fatal(err)
	}
	if got, err := openBlock(f1, b1, 0); err != nil || got != "one" {
		t.Errorf("%q, %v", got, err)
	}
	h.FileID = cipher.FileID(id2)
	v.SealStatic(static, h, f2)
	if _, f2, err = v.OpenStatic(static); err != nil {
		t.Fatal(err)
	}
	if got, err := openBlock(f2, b2, 0); err != nil || got != "two" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := openBlock(f2, b1, 0); !errors.Is(err, cipher.ErrAuth) {
		t.Errorf("one file's block opens in the other: %q, %v", got, err)
	}
}

// r is fresh for each block: with N1 the same, and so T1, n2 still differs.
func TestEachBlockTakesAFreshR(t *testing.T) {
	p, k := testParams(cipher.SuiteDouble, 4096)
	v, err := cipher.NewVolumeWithN1(p, 1, k, nil, func() [12]byte { return [12]byte{7} })
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := v.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[[12]byte]bool)
	for i := range 300 { // r is read ahead for 64 blocks
		b := sealBlock(t, f, []byte("same"), 0)
		seen[[12]byte(b[4+12:4+24])] = true
		if len(seen) != i+1 {
			t.Fatalf("block %d: n2 repeats", i)
		}
	}
}
