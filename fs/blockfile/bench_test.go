package blockfile

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// target is a File or, to compare with, its backing file alone.
type target interface {
	WriteAt(p []byte, off int64) (int, error)
	ReadAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
}

const benchSize = 64 << 20

func benchTargets(b *testing.B, run func(b *testing.B, f target)) {
	for _, bs := range []int{4096, 16384, 65536} {
		b.Run(fmt.Sprintf("double/%d", bs), func(b *testing.B) {
			d := newDisk(b, cipher.SuiteDouble, bs)
			d.c.Cache = NewCache(0)
			f, err := Create(d.backing("f", unix.O_CREAT).(*hooked).File, d.c)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			run(b, f)
		})
	}
	b.Run("raw", func(b *testing.B) {
		run(b, newDisk(b, cipher.SuiteDouble, 4096).backing("f", unix.O_CREAT).(*hooked).File)
	})
}

func benchFill(b *testing.B, f target) {
	p := pattern(1, 1<<20)
	for off := int64(0); off < benchSize; off += int64(len(p)) {
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteNew1M(b *testing.B) {
	benchTargets(b, func(b *testing.B, f target) {
		p := pattern(1, 1<<20)
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		off := int64(0)
		for b.Loop() {
			if off == benchSize {
				b.StopTimer()
				if err := f.Truncate(0); err != nil {
					b.Fatal(err)
				}
				off = 0
				b.StartTimer()
			}
			if _, err := f.WriteAt(p, off); err != nil {
				b.Fatal(err)
			}
			off += int64(len(p))
		}
	})
}

func benchRandom(b *testing.B, size int64, op func(f target, p []byte, off int64) (int, error)) {
	benchTargets(b, func(b *testing.B, f target) {
		benchFill(b, f)
		p := pattern(1, int(size))
		r := rand.New(rand.NewPCG(1, 2))
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := op(f, p, r.Int64N(benchSize/size)*size); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOverwrite4K(b *testing.B)  { benchRandom(b, 4096, target.WriteAt) }
func BenchmarkOverwrite16K(b *testing.B) { benchRandom(b, 16384, target.WriteAt) }
func BenchmarkRead4K(b *testing.B)       { benchRandom(b, 4096, target.ReadAt) }
func BenchmarkRead16K(b *testing.B)      { benchRandom(b, 16384, target.ReadAt) }
func BenchmarkRead1M(b *testing.B)       { benchRandom(b, 1<<20, target.ReadAt) }

func BenchmarkAppend512(b *testing.B) {
	benchTargets(b, func(b *testing.B, f target) {
		p := pattern(1, 512)
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		off := int64(0)
		for b.Loop() {
			if _, err := f.WriteAt(p, off); err != nil {
				b.Fatal(err)
			}
			off += int64(len(p))
		}
	})
}
