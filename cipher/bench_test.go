package cipher_test

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/plyfs/plyfs/cipher"
)

// Sealing, opening, trailers and tags leave nothing to the garbage collector.
func TestHotPathAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("pools drop what they hold under the race detector")
	}
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		for _, size := range []uint32{4096, 65536} {
			w := newWorld(t, newTestVolume(t, suite, size))
			plain, body, entry := make([]byte, size), make([]byte, size), make([]byte, cipher.EntrySize)
			tag := make([]byte, cipher.TagBlockSize)
			auth, sum := w.v.Authenticator(thingLabel), make([]byte, cipher.AuthTagSize)
			parts := [][]byte{body}
			w.f.SealTrailer(tag, 1, cipher.Trailer{})
			var err error
			for name, do := range map[string]func(){
				"Seal":        func() { err = w.f.Seal(body, entry, plain, 1) },
				"Open":        func() { err = w.f.Open(plain, body, entry, 1) },
				"SealTrailer": func() { w.f.SealTrailer(tag, 1, cipher.Trailer{Present: 1}) },
				"OpenTrailer": func() { _, err = w.f.OpenTrailer(tag, 1) },
				"Sum":         func() { auth.Sum(sum, parts...) },
				"Verify":      func() { auth.Verify(sum, parts...) },
			} {
				if name == "Open" { // whatever the order: something to open
					if err := w.f.Seal(body, entry, plain, 1); err != nil {
						t.Fatal(err)
					}
				}
				// An average, rounded down: pools may be emptied now and then.
				if n := testing.AllocsPerRun(1000, do); n != 0 || err != nil {
					t.Errorf("%s, blocks of %d: %s allocates %v times, %v", suite, size, name, n, err)
				}
			}
		}
	}
}

var benchSizes = []int{4096, 16384, 65536}

func benchmarkBlocks(b *testing.B, do func(b *testing.B, f *cipher.File, plain, body, entry []byte)) {
	for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%s/%dKiB", suite, size/1024), func(b *testing.B) {
				w := newWorld(b, newTestVolume(b, suite, uint32(size)))
				plain, body, entry := make([]byte, size), make([]byte, size), make([]byte, cipher.EntrySize)
				if err := w.f.Seal(body, entry, plain, 1); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				do(b, w.f, plain, body, entry)
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	benchmarkBlocks(b, func(b *testing.B, f *cipher.File, plain, body, entry []byte) {
		for b.Loop() {
			if err := f.Seal(body, entry, plain, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	benchmarkBlocks(b, func(b *testing.B, f *cipher.File, plain, body, entry []byte) {
		for b.Loop() {
			if err := f.Open(plain, body, entry, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPrimitive is each layer's AEAD by itself, with a nonce given: what
// Seal and Open are to be compared with.
func BenchmarkPrimitive(b *testing.B) {
	aesgcm := must(gocipher.NewGCM(must(aes.NewCipher(make([]byte, 32)))))
	chacha := must(chacha20poly1305.NewX(make([]byte, 32)))
	for _, c := range []struct {
		name string
		aead gocipher.AEAD
	}{{"AES-GCM", aesgcm}, {"XChaCha20-Poly1305", chacha}} {
		for _, size := range benchSizes {
			nonce, aad := make([]byte, c.aead.NonceSize()), make([]byte, 55)
			plain := make([]byte, size)
			sealed := c.aead.Seal(nil, nonce, plain, aad)
			b.Run(fmt.Sprintf("%s/seal/%dKiB", c.name, size/1024), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					c.aead.Seal(sealed[:0], nonce, plain, aad)
				}
			})
			b.Run(fmt.Sprintf("%s/open/%dKiB", c.name, size/1024), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := c.aead.Open(plain[:0], nonce, sealed, aad); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRatio compares sealing and opening with AES-GCM alone at the same
// time, so that the ratio holds on a busy machine too: the best of many short
// turns of each.
func BenchmarkRatio(b *testing.B) {
	const blocks = 32
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("%dKiB", size/1024), func(b *testing.B) {
			w := newWorld(b, newTestVolume(b, cipher.SuiteDouble, uint32(size)))
			plain, body, entry := make([]byte, size), make([]byte, size), make([]byte, cipher.EntrySize)
			gcm := must(gocipher.NewGCM(must(aes.NewCipher(make([]byte, 32)))))
			nonce, aad, sealed := make([]byte, 12), make([]byte, 55), make([]byte, size+16)
			best := [3]time.Duration{1 << 62, 1 << 62, 1 << 62}
			for b.Loop() {
				for i, do := range []func() error{
					func() error { gcm.Seal(sealed[:0], nonce, plain, aad); return nil },
					func() error { return w.f.Seal(body, entry, plain, 1) },
					func() error { return w.f.Open(plain, body, entry, 1) },
				} {
					start := time.Now()
					for range blocks {
						if err := do(); err != nil {
							b.Fatal(err)
						}
					}
					best[i] = min(best[i], time.Since(start))
				}
			}
			gbs := func(d time.Duration) float64 { return float64(blocks*size) / float64(d.Nanoseconds()) }
			b.ReportMetric(gbs(best[0]), "GB/s-AES-GCM")
			b.ReportMetric(gbs(best[1]), "GB/s-seal")
			b.ReportMetric(gbs(best[2]), "GB/s-open")
			b.ReportMetric(gbs(best[1])/gbs(best[0]), "seal/AES-GCM")
			b.ReportMetric(gbs(best[2])/gbs(best[0]), "open/AES-GCM")
		})
	}
}

// BenchmarkOpenColdSalt opens blocks whose salts are not cached.
func BenchmarkOpenColdSalt(b *testing.B) {
	w := newWorld(b, newTestVolume(b, cipher.SuiteDouble, 4096))
	var blocks [][]byte
	for range 2 * cipher.MaxSubkeys {
		_, f, err := w.v.OpenStatic(w.static)
		if err != nil {
			b.Fatal(err)
		}
		blocks = append(blocks, sealBlock(b, f, pattern(4096), 1))
	}
	plain := make([]byte, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s := blocks[i%len(blocks)]
		if err := w.f.Open(plain, s[:4096], s[4096:], 1); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkTrailer(b *testing.B) {
	w := newWorld(b, newTestVolume(b, cipher.SuiteDouble, 4096))
	tag := make([]byte, cipher.TagBlockSize)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.f.SealTrailer(tag, 1, cipher.Trailer{Present: 1})
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		w.f.SealTrailer(tag, 1, cipher.Trailer{Present: 1})
		for b.Loop() {
			if _, err := w.f.OpenTrailer(tag, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNewFile(b *testing.B) {
	v := newTestVolume(b, cipher.SuiteDouble, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := v.NewFile(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkName(b *testing.B) {
	v := newTestVolume(b, cipher.SuiteDouble, 4096)
	sealed := v.SealName(thingDir, "table_name.ibd")
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v.SealName(thingDir, "table_name.ibd")
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.OpenName(thingDir, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
