package blockfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

const (
	faultGroup = 40 + 56 // blocks of groups 0 and 1
	faultSize  = faultGroup*4096 - 3000
)

// faultOps are one of each kind of change to a file with data in groups 0, 1
// and 5, 5 being the last.
var faultOps = []struct {
	name string
	run  func(f *File) error
	m    func(m *model)
}{
	{"overwrite", func(f *File) error { _, err := f.WriteAt(pattern(2, 8*4096), 4096); return err },
		func(m *model) { m.write(pattern(2, 8*4096), 4096) }},
	{"overwrite a part", func(f *File) error { _, err := f.WriteAt(pattern(2, 100), 5000); return err },
		func(m *model) { m.write(pattern(2, 100), 5000) }},
	{"append", func(f *File) error { _, err := f.WriteAt(pattern(3, 100_000), f.Size()); return err },
		func(m *model) { m.write(pattern(3, 100_000), m.size()) }},
	{"append over two groups", func(f *File) error { _, err := f.WriteAt(pattern(3, 500_000), f.Size()); return err },
		func(m *model) { m.write(pattern(3, 500_000), m.size()) }},
	{"write far beyond the end", func(f *File) error { _, err := f.WriteAt(pattern(4, 5000), 4_000_000); return err },
		func(m *model) { m.write(pattern(4, 5000), 4_000_000) }},
	{"fill a hole", func(f *File) error { _, err := f.WriteAt(pattern(5, 300_000), 600_000); return err },
		func(m *model) { m.write(pattern(5, 300_000), 600_000) }},
	{"grow", func(f *File) error { return f.Truncate(3_000_000) }, func(m *model) { m.resize(3_000_000) }},
	{"shrink", func(f *File) error { return f.Truncate(300_001) }, func(m *model) { m.resize(300_001) }},
	{"shrink to a hole", func(f *File) error { return f.Truncate(700_000) }, func(m *model) { m.resize(700_000) }},
	{"shrink to nothing", func(f *File) error { return f.Truncate(0) }, func(m *model) { m.resize(0) }},
	{"punch", func(f *File) error { return f.PunchHole(5000, 300_000) }, func(m *model) { m.zero(5000, 305_000) }},
	{"zero and grow", func(f *File) error { return f.ZeroRange(1_260_000, 200_000, false) },
		func(m *model) { m.resize(1_460_000); m.zero(1_260_000, 1_460_000) }},
}

func faultFile(t *testing.T) (*disk, *File, *model) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	m := &model{bs: 4096, real: map[int64]bool{}}
	for _, w := range []struct{ n, off int64 }{{faultSize, 0}, {30_001, int64(f.layout.FirstBlock(5)) * 4096}} {
		write(t, f, pattern(1, int(w.n)), w.off)
		m.write(pattern(1, int(w.n)), w.off)
	}
	return d, f, m
}

func (m *model) clone() *model {
	c := &model{bs: m.bs, data: bytes.Clone(m.data), real: map[int64]bool{}}
	for b := range m.real {
		c.real[b] = true
	}
	return c
}

// compare checks a file against what it was and what it was to become: each
// block is one of the two. Blocks of may are allowed not to open.
func compare(t *testing.T, f *File, before, after *model, may func(block int64) bool) {
	t.Helper()
	size := f.Size()
	if size < min(before.size(), after.size()) || size > max(before.size(), after.size()) {
		t.Errorf("size %d, was %d, was to be %d", size, before.size(), after.size())
	}
	at := func(m *model, lo, hi int64) []byte {
		b := make([]byte, hi-lo)
		if lo < m.size() {
			copy(b, m.data[lo:])
		}
		return b
	}
	for lo := int64(0); lo < size; lo += 4096 {
		hi := min(lo+4096, size)
		got := make([]byte, hi-lo)
		if _, err := f.ReadAt(got, lo); err != nil {
			if !may(lo / 4096) {
				t.Errorf("block %d: %v", lo/4096, err)
			}
			continue
		}
		if !bytes.Equal(got, at(before, lo, hi)) && !bytes.Equal(got, at(after, lo, hi)) {
			t.Errorf("block %d is neither old nor new", lo/4096)
		}
	}
}

// shrunk reports whether the size says what m does, though space may not have
// been given back.
func (f *File) shrunk(m *model) bool { return f.Size() == m.size() }

// Each call to the disk of each change fails in turn, for good or once. What
// was not being written is as it was, the caller is told, and the file works
// on.
func TestFaults(t *testing.T) {
	for _, op := range faultOps {
		for _, forGood := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/for good %v", op.name, forGood), func(t *testing.T) {
				for fail := 0; ; fail++ {
					if !faultOnce(t, op.run, op.m, fail, forGood) {
						if fail == 0 {
							t.Fatal("nothing was tried")
						}
						break
					}
				}
			})
		}
	}
}

func faultOnce(t *testing.T, run func(*File) error, change func(*model), fail int, forGood bool) bool {
	d, f, before := faultFile(t)
	after := before.clone()
	change(after)
	calls, hit := 0, false
	d.hook = func(op string, off, n int64) (int64, error) {
		calls++
		if calls-1 == fail || forGood && calls > fail {
			hit = true
			return n / 2 / 4096 * 4096, unix.ENOSPC
		}
		return 0, nil
	}
	err := run(f)
	d.hook = allowAll
	if !hit {
		if err != nil {
			t.Fatalf("no fault, but %v", err)
		}
		compare(t, f, after, after, func(int64) bool { return false })
		return false
	}
	name := fmt.Sprintf("fault %d", fail)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%s: %v", name, err)
	}
	// Overwritten blocks are lost if their entries cannot be written; the
	// journal will see to that.
	overwritten := func(b int64) bool {
		lo, hi := b*4096, (b+1)*4096
		differs := func(m *model) []byte { return m.data[min(lo, m.size()):min(hi, m.size())] }
		return !bytes.Equal(differs(before), differs(after))
	}
	old := func(b int64) bool { return before.real[b] && (overwritten(b) || b == before.size()/4096) }
	compare(t, f, before, after, old)
	if f.Size() < after.size() {
		write(t, f, pattern(8, 4096), 4096*30)
		before.write(pattern(8, 4096), 4096*30)
		after.write(pattern(8, 4096), 4096*30)
	}
	if st, err := f.b.Stat(); !forGood && (err != nil || st.Size != f.layout.PhysicalSize(f.Size())) && !f.shrunk(after) {
		t.Errorf("%s: backing file is %d long, size %d, %v", name, st.Size, f.Size(), err)
	}
	if forGood && fail%2 == 0 {
		// What was left beyond the end does not come into the file.
		end := f.Size()
		if err := f.Truncate(end + 1<<20); err != nil {
			if !errors.Is(err, cipher.ErrAuth) {
				t.Errorf("%s: grow: %v", name, err)
			}
		} else if n, err := f.ReadAt(make([]byte, 2<<20), (end+4095)/4096*4096); err != nil {
			t.Errorf("%s: what the file grew by reads %d, %v", name, n, err)
		}
	}
	// The same again, with a disk that works.
	if err := run(f); err != nil && !errors.Is(err, cipher.ErrAuth) {
		t.Errorf("%s: again: %v", name, err)
	}
	f.Close()
	d.c.Unclean = true // an undo may have failed too
	f, err = d.open("f")
	if err != nil {
		t.Errorf("%s: reopen: %v", name, err)
		return true
	}
	f.Close()
	d.checkChain("f")
	return true
}

// Blocks and space are given up only after it is durable that they are.
func TestFlushBeforeRelease(t *testing.T) {
	for name, run := range map[string]func(f *File) error{
		"truncate":  func(f *File) error { return f.Truncate(5000) },
		"punch":     func(f *File) error { return f.PunchHole(0, 100_000) },
		"zeroRange": func(f *File) error { return f.ZeroRange(0, 100_000, true) },
	} {
		d, f, _ := faultFile(t)
		var ops []string
		d.hook = func(op string, off, n int64) (int64, error) {
			if len(ops) == 0 || ops[len(ops)-1] != op {
				ops = append(ops, op)
			}
			return 0, nil
		}
		if err := run(f); err != nil {
			t.Fatal(err)
		}
		if n := len(ops); n < 3 || ops[n-3] != "write" || ops[n-2] != "datasync" {
			t.Errorf("%s: %v", name, ops)
		}
	}
}

// errKilled stands for a process that is no more.
var errKilled = errors.New("killed")

// The process is killed before each call of each change; what the page cache
// holds by then stays. Then the file opens, other blocks are as they were, and
// the chain of groups is right again once the file was written to.
func TestKilled(t *testing.T) {
	for _, op := range faultOps {
		t.Run(op.name, func(t *testing.T) {
			for dies := 0; ; dies++ {
				d, f, before := faultFile(t)
				after := before.clone()
				op.m(after)
				calls := 0
				d.hook = func(string, int64, int64) (int64, error) {
					if calls++; calls > dies {
						return 0, errKilled
					}
					return 0, nil
				}
				err := op.run(f)
				d.hook = allowAll
				if err == nil && calls <= dies {
					return
				}
				f.b.Close() // not f: it might tidy up
				d.c.Unclean = true
				f = d.mustOpen("f")
				old := func(b int64) bool {
					return before.real[b] && (b == before.size()/4096 || b == after.size()/4096 || !bytes.Equal(
						before.data[min(b*4096, before.size()):min((b+1)*4096, before.size())],
						after.data[min(b*4096, after.size()):min((b+1)*4096, after.size())]))
				}
				compare(t, f, before, after, old)
				// Writing a block of each group mends what was cut off.
				p := pattern(9, 4096)
				for b := int64(0); b+4096 <= f.Size(); b += 20 * 4096 {
					write(t, f, p, b)
				}
				f.Close()
				d.checkChain("f")
				d.c.Unclean = false
				f = d.mustOpen("f")
				for b := int64(0); b+4096 <= f.Size(); b += 20 * 4096 {
					if got := read(t, f, b, 4096); !bytes.Equal(got, p) {
						t.Errorf("killed at %d: block %d differs", dies, b/4096)
					}
				}
			}
		})
	}
}

// Kills at random in a long history: no file may fail to open, and what is
// fully overwritten afterwards reads back.
func TestKilledModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		d := newDisk(t, cipher.SuiteSingle, 4096)
		f := d.create("f")
		r := picker{rnd, 4096, 300 * 4096}
		for range 4 {
			left := rnd.IntN(120)
			d.hook = func(string, int64, int64) (int64, error) {
				if left--; left < 0 {
					return 0, errKilled
				}
				return 0, nil
			}
			for left > 0 {
				off, n := r.offset(), r.length()
				switch rnd.IntN(5) {
				case 0:
					_ = f.Truncate(off)
				case 1:
					_ = f.PunchHole(off, n*3)
				default:
					_, _ = f.WriteAt(pattern(left, int(n)), off)
				}
			}
			d.hook = allowAll
			f.b.Close()
			d.c.Unclean = true
			f = d.mustOpen("f")
			p := pattern(left+1, int(f.Size()))
			if len(p) > 0 {
				write(t, f, p, 0)
			}
			if got := read(t, f, 0, len(p)); !bytes.Equal(got, p) {
				t.Fatal("content differs")
			}
			f.Close()
			d.checkChain("f")
			d.c.Unclean = rnd.IntN(2) == 0
			f = d.mustOpen("f")
		}
	}
}
