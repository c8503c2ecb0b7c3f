package cipher_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

var blockSizes = []int{4096, 8192, 16384, 32768, 65536}

func layoutOf(t testing.TB, blockSize int) cipher.Layout {
	t.Helper()
	l, err := cipher.NewLayout(blockSize)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayoutRefusesBlockSizes(t *testing.T) {
	for _, b := range []int{-4096, 0, 1, 512, 2048, 4095, 4097, 12288, 65535, 131072} {
		if _, err := cipher.NewLayout(b); err == nil {
			t.Errorf("NewLayout(%d) succeeded", b)
		}
	}
}

// Tag blocks and bodies tile the file: each starts where the one before ends.
func TestLayoutHasNoGapAndNoOverlap(t *testing.T) {
	const groups = 3000
	for _, b := range blockSizes {
		l := layoutOf(t, b)
		var next int64
		var index uint64
		for g := range uint64(groups) {
			if got := l.TagOffset(g); got != next {
				t.Fatalf("B %d: tag block %d at %d, want %d", b, g, got, next)
			}
			if got := l.FirstBlock(g); got != index {
				t.Fatalf("B %d: group %d starts with block %d, want %d", b, g, got, index)
			}
			slot := 0
			if g == 0 {
				slot = cipher.HeaderSlots
			}
			tag := next
			next += cipher.TagBlockSize
			for n := range l.Blocks(g) {
				if l.Group(index) != g || l.Slot(index) != slot+n {
					t.Fatalf("B %d: block %d in group %d slot %d, want %d, %d", b, index, l.Group(index), l.Slot(index), g, slot+n)
				}
				if got := l.BlockOffset(index); got != next || got%4096 != 0 {
					t.Fatalf("B %d: block %d at %d, want %d", b, index, got, next)
				}
				entry := l.EntryOffset(index)
				if entry != tag+int64(slot+n)*cipher.EntrySize || entry+cipher.EntrySize > tag+cipher.TagBlockSize-cipher.TrailerSize {
					t.Fatalf("B %d: entry of block %d at %d, tag block at %d", b, index, entry, tag)
				}
				next += int64(b)
				index++
			}
			if slot+l.Blocks(g) != cipher.EntriesPerGroup {
				t.Fatalf("B %d: group %d ends with slot %d", b, g, slot+l.Blocks(g))
			}
		}
	}
}

// SizeOf is the largest size that fits, for every single length in the first
// groups.
func TestLayoutSizeOfInvertsPhysicalSize(t *testing.T) {
	for _, b := range blockSizes {
		l := layoutOf(t, b)
		end := l.TagOffset(2) + 3*4096
		if b > 4096 {
			end = l.TagOffset(1) + 3*4096
		}
		var size int64
		for physical := int64(0); physical < end; physical++ {
			for l.PhysicalSize(size+1) <= physical {
				size++
			}
			if got := l.SizeOf(physical); got != size {
				t.Fatalf("B %d: SizeOf(%d) = %d, want %d", b, physical, got, size)
			}
		}
		if got := l.SizeOf(-1); got != 0 {
			t.Errorf("B %d: SizeOf(-1) = %d, want 0", b, got)
		}
	}
}

func TestLayoutPhysicalSizeEndsTheLastBlock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, b := range blockSizes {
		l := layoutOf(t, b)
		if got := l.PhysicalSize(0); got != 4096 {
			t.Errorf("B %d: PhysicalSize(0) = %d, want 4096", b, got)
		}
		check := func(size int64) {
			t.Helper()
			last := uint64(size-1) / uint64(b)
			want := l.BlockOffset(last) + (size - int64(last)*int64(b))
			if got := l.PhysicalSize(size); got != want || l.SizeOf(got) != size || l.LastGroup(size) != l.Group(last) {
				t.Fatalf("B %d: PhysicalSize(%d) = %d, want %d; back %d", b, size, got, want, l.SizeOf(got))
			}
		}
		for index := int64(1); index < 100_000; index += 1 + index/500 {
			for d := int64(-1); d <= 1; d++ {
				check(index*int64(b) + d)
			}
		}
		for range 100_000 {
			check(1 + r.Int64N(l.MaxSize()))
		}
		check(l.MaxSize())
	}
}

func TestLayoutMaxSizeFillsAnInt64(t *testing.T) {
	want := map[int]int64{
		4096: 0x7dc11f7047dbffff, 8192: 0x7ede0487ede03fff, 16384: 0x7f6e5d4c3b2a0fff,
		32768: 0x7fb70521a3a26fff, 65536: 0x7fdb7826d056afff,
	}
	for _, b := range blockSizes {
		l := layoutOf(t, b)
		if got := l.PhysicalSize(l.MaxSize()); got != math.MaxInt64 {
			t.Errorf("B %d: PhysicalSize(MaxSize) = %d, want %d", b, got, int64(math.MaxInt64))
		}
		if l.MaxSize() != want[b] {
			t.Errorf("B %d: MaxSize = %d, want %d", b, l.MaxSize(), want[b])
		}
	}
}

// The worked tables of FORMAT.md §4.
func TestLayoutWorkedSizes(t *testing.T) {
	sizes := []struct {
		size int64
		want [3]int64
	}{
		{0, [3]int64{4096, 4096, 4096}},
		{1, [3]int64{4097, 4097, 4097}},
		{163840, [3]int64{167936, 167936, 167936}},
		{163841, [3]int64{172033, 167937, 167937}},
		{1 << 20, [3]int64{1069056, 1056768, 1052672}},
		{1 << 30, [3]int64{1092919296, 1078538240, 1074941952}},
		{1 << 40, [3]int64{1119145766912, 1104420163584, 1100738764800}},
	}
	places := []struct {
		index uint64
		group uint64
		slot  int
		want  [3]int64
	}{
		{0, 0, 16, [3]int64{4096, 4096, 4096}},
		{39, 0, 55, [3]int64{163840, 643072, 2560000}},
		{40, 1, 0, [3]int64{172032, 663552, 2629632}},
		{95, 1, 55, [3]int64{397312, 1564672, 6234112}},
		{96, 2, 0, [3]int64{405504, 1585152, 6303744}},
		{1000, 18, 8, [3]int64{4173824, 16461824, 65613824}},
	}
	for i, b := range []int{4096, 16384, 65536} {
		t.Run(fmt.Sprint(b), func(t *testing.T) {
			l := layoutOf(t, b)
			for _, s := range sizes {
				if got := l.PhysicalSize(s.size); got != s.want[i] {
					t.Errorf("PhysicalSize(%d) = %d, want %d", s.size, got, s.want[i])
				}
			}
			for _, p := range places {
				if g, s, o := l.Group(p.index), l.Slot(p.index), l.BlockOffset(p.index); g != p.group || s != p.slot || o != p.want[i] {
					t.Errorf("block %d: group %d slot %d at %d, want %d, %d, %d", p.index, g, s, o, p.group, p.slot, p.want[i])
				}
			}
		})
	}
}
