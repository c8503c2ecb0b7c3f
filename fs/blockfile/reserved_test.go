package blockfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// space is what a backing file takes on the disk, in bytes, once all is home.
func (d *disk) space(f *File) int64 {
	d.t.Helper()
	d.drain()
	st, err := f.b.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	return st.Blocks * 512
}

// Punching gives back the space of blocks that nobody ever wrote to, and of
// those alone: in groups that are there and in gaps, at edges within a block,
// after an opening that knows nothing of who reserved it.
func TestPunchFreesReservedSpace(t *testing.T) {
	for _, bs := range []int{4096, 16384} {
		group := int64(cipher.EntriesPerGroup) * int64(bs)
		size := 60 * group
		for name, c := range map[string]struct {
			write    []int64 // blocks that have content
			off, n   int64   // punched
			reopened bool
		}{
			"all":                 {nil, 0, size, false},
			"after an opening":    {nil, 0, size, true},
			"a short gap":         {nil, 3 * group, 4 * group, false},
			"a long gap":          {nil, 3*group + 5000, 40*group + 5000, false},
			"around blocks":       {[]int64{100, 101, 1000, 2500}, 0, size, false},
			"of a written page":   {[]int64{200}, 201 * int64(bs), 3 * int64(bs), false},
			"in written groups":   {[]int64{10, 60, 120, 180}, 20 * int64(bs), 150 * int64(bs), true},
			"less than any block": {nil, 100, int64(bs) - 200, false},
		} {
			t.Run(fmt.Sprint(bs, " ", name), func(t *testing.T) {
				t.Parallel()
				d := newDisk(t, cipher.SuiteDouble, bs)
				d.withJournal()
				f := d.create("f")
				if err := f.Allocate(0, size, false); err != nil {
					t.Fatal(err)
				}
				content := make([]byte, size)
				for _, b := range c.write {
					p := content[b*int64(bs) : (b+1)*int64(bs)]
					copy(p, pattern(int(b), bs))
					write(t, f, p, b*int64(bs))
				}
				before := d.space(f)
				if c.reopened {
					f.Close()
					f = d.mustOpen("f")
				}
				if err := f.PunchHole(c.off, c.n); err != nil {
					t.Fatal(err)
				}
				clear(content[c.off : c.off+c.n])
				whole := c.n/int64(bs) - 2 // the edges, and what the disk needs for itself
				got := before - d.space(f)
				if got < whole*int64(bs) || got > c.n+c.n/int64(cipher.EntriesPerGroup)+2*cipher.TagBlockSize {
					t.Errorf("punching %d bytes at %d freed %d of %d", c.n, c.off, got, before)
				}
				if !bytes.Equal(read(t, f, 0, int(size)), content) {
					t.Error("content differs")
				}
			})
		}
	}
}

// Space that was reserved, or written to, after it was punched stays.
func TestSpaceReservedAgainStays(t *testing.T) {
	const bs, size = 4096, 4 << 20
	for name, again := range map[string]func(f *File) error{
		"reserved":            func(f *File) error { return f.Allocate(1<<20, 1<<20, true) },
		"reserved and zeroed": func(f *File) error { return f.ZeroRange(1<<20, 1<<20, true) },
		"written": func(f *File) error {
			_, err := f.WriteAt(make([]byte, 1<<20), 1<<20)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, cipher.SuiteDouble, bs)
			d.withJournal()
			f := d.create("f")
			if err := f.Allocate(0, size, false); err != nil {
				t.Fatal(err)
			}
			d.drain()
			if err := f.PunchHole(0, size); err != nil {
				t.Fatal(err)
			}
			if err := again(f); err != nil {
				t.Fatal(err)
			}
			if got := d.space(f); got < 1<<20 || got > 1<<20+200<<10 {
				t.Errorf("%d bytes are left, wanted a MiB", got)
			}
		})
	}
}

// A crash between punching and its commit leaves blocks that were written, and
// whose space is not to be freed on behalf of an earlier punch.
func TestPunchThatIsNotDurableFreesNothing(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.withJournal()
	f := d.create("f")
	if err := f.Allocate(0, 1<<20, false); err != nil {
		t.Fatal(err)
	}
	d.drain()
	p := pattern(1, 4096)
	write(t, f, p, 50*4096)
	d.drain()
	if err := f.PunchHole(0, 1<<20); err != nil { // of the block too
		t.Fatal(err)
	}
	f.punchReserved(50, 51) // as if it had been punched before it was written
	f.freeReserved()
	if !d.journal.j.Durable(f.j.LSN()) {
		t.Error("space was freed on behalf of a record that is not durable")
	}
}

// TestReservedIsAsTold compares the bookkeeping of reserved space with a plain
// list of blocks.
func TestReservedIsAsTold(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 9))
		d := newDisk(t, cipher.SuiteDouble, 4096)
		d.withJournal()
		f := d.create(fmt.Sprint("f", seed))
		const blocks = 60 * cipher.EntriesPerGroup
		told := map[uint64]bool{}
		for range 60 {
			first := r.Uint64N(blocks)
			next := first + 1 + r.Uint64N(min(blocks-first, 1<<r.IntN(12)))
			if r.IntN(2) == 0 {
				f.punchReserved(first, next)
				for b := first; b < next; b++ {
					told[b] = true
				}
				continue
			}
			f.keepSpace(f.layout.BlockOffset(first)+r.Int64N(4096), f.layout.BlockOffset(next-1)+4096)
			for b := first; b < next; b++ {
				delete(told, b)
			}
		}
		for b := range uint64(blocks) {
			n := f.layout.Group(b)
			got := f.reserved.slots[n]>>f.layout.Slot(b)&1 != 0
			for _, g := range f.reserved.gaps {
				got = got || g.lo <= n && n < g.hi
			}
			if got != told[b] {
				t.Fatalf("seed %d: block %d of group %d: %v, wanted %v", seed, b, n, got, told[b])
			}
		}
	}
}
