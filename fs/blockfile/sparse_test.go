package blockfile

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// biggest returns the largest size that the test's filesystem can hold.
func biggest(t *testing.T, f *File) int64 {
	t.Helper()
	lo, hi := int64(0), f.layout.MaxSize()
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if err := f.Truncate(mid); err == nil {
			lo = mid
		} else if errors.Is(err, unix.EFBIG) {
			hi = mid - 1
		} else {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	return lo
}

// Writes far apart leave groups far apart; gaps and last name exactly those.
func TestSparse(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for _, bs := range []int{4096, 65536} {
		d := newDisk(t, cipher.SuiteDouble, bs)
		f := d.create("f")
		limit := min(biggest(t, f), 1<<60) - 10_000
		if limit < 1<<40 {
			t.Logf("files of %d bytes only", limit)
		}
		type at struct {
			off  int64
			data []byte
		}
		var wrote []at
		start := time.Now()
		for i := range 150 {
			p := pattern(i, 1+r.IntN(9000))
			off := r.Int64N(limit)
			if len(wrote) > 0 && r.IntN(3) == 0 { // near another
				off = max(0, wrote[r.IntN(len(wrote))].off+(r.Int64N(7)-3)*int64(56*bs))
			}
			write(t, f, p, off)
			for j := len(wrote) - 1; j >= 0; j-- {
				if w := wrote[j]; off < w.off+int64(len(w.data)) && w.off < off+int64(len(p)) {
					wrote = append(wrote[:j], wrote[j+1:]...)
				}
			}
			wrote = append(wrote, at{off, p})
			if i%50 == 49 {
				f.Close()
				d.checkChain("f")
				f = d.mustOpen("f")
			}
		}
		for _, w := range wrote {
			if got := read(t, f, w.off, len(w.data)); !bytes.Equal(got, w.data) {
				t.Fatalf("what was written at %d differs", w.off)
			}
			hole := r.Int64N(f.Size() - 1<<20)
			got := read(t, f, hole, 1<<20)
			for _, w := range wrote {
				if lo, hi := max(hole, w.off), min(hole+1<<20, w.off+int64(len(w.data))); lo < hi {
					clear(got[lo-hole : hi-hole])
				}
			}
			if bytes.Count(got, []byte{0}) != len(got) {
				t.Fatalf("hole at %d reads as data", hole)
			}
		}
		// Following data and holes sees all that was written.
		pos, regions := int64(0), 0
		for {
			data, err := f.SeekData(pos)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if pos, err = f.SeekHole(data); err != nil {
				t.Fatal(err)
			}
			regions++
			for i := len(wrote) - 1; i >= 0; i-- {
				if w := wrote[i]; data <= w.off && w.off+int64(len(w.data)) <= pos {
					wrote = append(wrote[:i], wrote[i+1:]...)
				}
			}
		}
		if len(wrote) > 0 {
			t.Errorf("%d regions do not cover %d writes", regions, len(wrote))
		}
		// All of it can be punched in one go.
		if err := f.PunchHole(0, math.MaxInt64); err != nil {
			t.Fatal(err)
		}
		if at, err := f.SeekData(0); !errors.Is(err, unix.ENXIO) {
			t.Errorf("after the punch there is data at %d: %v", at, err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
		f.Close()
		d.checkChain("f")
	}
}

func TestTooBig(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	big := biggest(t, f)
	write(t, f, []byte("start"), 0)
	maxSize := f.layout.MaxSize()
	write(t, f, []byte("end"), big-3)
	for name, err := range map[string]error{
		"write past what the disk holds":     errOf(f.WriteAt([]byte("xx"), big-1+4096)),
		"write past MaxSize":                 errOf(f.WriteAt([]byte("x"), maxSize)),
		"write at the end of numbers":        errOf(f.WriteAt([]byte("xx"), math.MaxInt64)),
		"truncate past what the disk holds":  f.Truncate(big + 1),
		"truncate past MaxSize":              f.Truncate(math.MaxInt64),
		"allocate past MaxSize":              f.Allocate(maxSize-1, 2, false),
		"allocate past the end of numbers":   f.Allocate(math.MaxInt64-1, math.MaxInt64, true),
		"zero range past MaxSize":            f.ZeroRange(maxSize-1, 2, false),
		"zero range past the end of numbers": f.ZeroRange(1, math.MaxInt64, true),
	} {
		if !errors.Is(err, unix.EFBIG) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.Size() != big {
		t.Errorf("size is %d, want %d", f.Size(), big)
	}
	if got := read(t, f, big-3, 10); string(got) != "end" {
		t.Errorf("end reads %q", got)
	}
	if n, err := f.ReadAt(make([]byte, 10), math.MaxInt64); n != 0 || err != nil {
		t.Errorf("read at the end of numbers: %d, %v", n, err)
	}
	f.Close()
	d.checkChain("f")
}

func errOf(_ int, err error) error { return err }

func TestArguments(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	write(t, f, pattern(1, 10000), 0)
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"read before the start", errOf(f.ReadAt(make([]byte, 1), -1)), unix.EINVAL},
		{"write before the start", errOf(f.WriteAt([]byte("x"), -1)), unix.EINVAL},
		{"truncate below nothing", f.Truncate(-1), unix.EINVAL},
		{"punch nothing", f.PunchHole(0, 0), unix.EINVAL},
		{"allocate before the start", f.Allocate(-1, 5, true), unix.EINVAL},
		{"zero nothing", f.ZeroRange(5, -1, true), unix.EINVAL},
		{"seek before the start", errOf2(f.SeekData(-1)), unix.ENXIO},
		{"seek at the end", errOf2(f.SeekHole(10000)), unix.ENXIO},
		{"write nothing", errOf(f.WriteAt(nil, 5)), nil},
		{"read nothing", errOf(f.ReadAt(nil, 5)), nil},
		{"punch after the end", f.PunchHole(20000, 5), nil},
		{"zero after the end", f.ZeroRange(20000, 5, true), nil},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	f.Close()
	d.c.ReadOnly = true
	f = d.mustOpen("f")
	for _, err := range []error{
		errOf(f.WriteAt([]byte("x"), 0)), f.Truncate(0), f.PunchHole(0, 5), f.ZeroRange(0, 5, false), f.Allocate(0, 5, false),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("read-only: %v", err)
		}
	}
	if _, err := Create(d.backing("g", unix.O_CREAT), d.c); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only create: %v", err)
	}
}

func errOf2(_ int64, err error) error { return err }

// A dense file is searched for holes with the disk's help, and the holes that
// the disk does not know are taken for data at worst.
func TestSeekHoleInLongData(t *testing.T) {
	d := newDisk(t, cipher.SuiteSingle, 4096)
	f := d.create("f")
	const groups = 3 * seekGroups
	n := int64(f.layout.FirstBlock(groups)) * 4096
	for off := int64(0); off < n; off += 1 << 20 {
		write(t, f, pattern(int(off), 1<<20), off)
	}
	hole := n - 20*4096
	if err := f.PunchHole(hole, 4096); err != nil {
		t.Fatal(err)
	}
	if got, err := f.SeekHole(5000); got != hole || err != nil {
		t.Errorf("got %d, %v, want %d", got, err, hole)
	}
	if got, err := f.SeekData(hole); got != hole+4096 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
}

// Punching frees space, and reserving takes it, without a change of length.
func TestSpace(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	blocks := func() int64 {
		t.Helper()
		if err := f.b.(*hooked).File.Sync(); err != nil {
			t.Fatal(err)
		}
		st, err := f.b.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if want := f.layout.PhysicalSize(f.Size()); st.Size != want {
			t.Fatalf("backing file is %d long, want %d", st.Size, want)
		}
		return st.Blocks * 512
	}
	write(t, f, pattern(1, 8<<20), 0)
	full := blocks()
	if err := f.PunchHole(1<<20, 6<<20); err != nil {
		t.Fatal(err)
	}
	punched := blocks()
	if freed := full - punched; freed < 6<<20-100_000 {
		t.Errorf("punch freed %d bytes", freed)
	}
	if err := f.ZeroRange(1<<20, 6<<20, true); err != nil {
		t.Fatal(err)
	}
	if taken := blocks() - punched; taken < 6<<20-100_000 {
		t.Errorf("zero range took %d bytes", taken)
	}
	if err := f.Allocate(16<<20, 4<<20, true); err != nil {
		t.Fatal(err)
	}
	if taken := blocks() - full; taken < 4<<20-100_000 || f.Size() != 8<<20 {
		t.Errorf("allocate took %d bytes, size %d", taken, f.Size())
	}
	if err := f.Allocate(8<<20, 1<<20, false); err != nil || f.Size() != 9<<20 {
		t.Errorf("allocate: %v, size %d", err, f.Size())
	}
	d.hook = func(op string, _, _ int64) (int64, error) {
		if op == "allocate" {
			return 0, unix.EOPNOTSUPP
		}
		return 0, nil
	}
	if err := f.Allocate(0, 20<<20, false); !errors.Is(err, unix.EOPNOTSUPP) || f.Size() != 9<<20 {
		t.Errorf("allocate on a disk that cannot: %v, size %d", err, f.Size())
	}
	if err := f.PunchHole(0, 5000); err != nil {
		t.Errorf("punch on a disk that cannot: %v", err)
	}
	if got := read(t, f, 0, 5000); bytes.Count(got, []byte{0}) != 5000 {
		t.Error("punched bytes are not zero")
	}
}

// A file that grows has space allocated ahead of it until it is closed, and
// that shows neither in its length nor in its time.
func TestAllocateAhead(t *testing.T) {
	for _, reserve := range []int64{0, 8 << 20} {
		d := newDisk(t, cipher.SuiteDouble, 4096)
		f := d.create("f")
		took := int64(0)
		d.hook = func(op string, off, n int64) (int64, error) {
			if op == "allocate" {
				took++
			}
			return 0, nil
		}
		for off := int64(0); off < 3<<20; off += 10_000 {
			write(t, f, pattern(1, 10_000), off)
		}
		if took < 2 || took > 4 {
			t.Errorf("allocated %d times", took)
		}
		if reserve > 0 {
			if err := f.Allocate(f.Size(), reserve, true); err != nil {
				t.Fatal(err)
			}
		}
		before, err := f.b.Stat()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		b := d.backing("f", 0)
		defer b.Close()
		after, err := b.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if want := f.layout.PhysicalSize(f.Size()); before.Size != want || after.Size != want {
			t.Errorf("length %d, then %d, want %d", before.Size, after.Size, want)
		}
		if before.Mtim != after.Mtim {
			t.Error("closing changed the time")
		}
		if over := after.Blocks*512 - after.Size; over < reserve || over > reserve+reserve/50+100_000 {
			t.Errorf("%d bytes are left allocated, want %d", over, reserve)
		}
	}
}

// Reads of the user's move the access time; opening, and what a write reads,
// do not.
func TestAccessTime(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	write(t, f, pattern(1, 10000), 0)
	old := func() {
		t.Helper()
		if err := f.b.Utimes(unix.Timespec{Sec: 1}, unix.Timespec{Sec: 2}); err != nil {
			t.Fatal(err)
		}
	}
	moved := func() bool {
		t.Helper()
		st, err := f.b.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return st.Atim.Sec != 1
	}
	old()
	f.Close()
	f = d.mustOpen("f")
	write(t, f, []byte("part"), 5000)
	if moved() {
		t.Error("opening or writing moved the access time")
	}
	read(t, f, 0, 10)
	if !moved() {
		t.Skip("access times are not kept here")
	}
	old()
	f.touched.Add(-1) // a second later, but nothing was written
	read(t, f, 0, 10)
	if moved() {
		t.Error("a second read moved the access time")
	}
	write(t, f, []byte("part"), 5000)
	f.touched.Add(-1)
	read(t, f, 0, 10)
	if !moved() {
		t.Error("a read after a write did not move the access time")
	}
	f.Close()
	d.c.NoAtime = new(atomic.Bool)
	d.c.NoAtime.Store(true)
	f = d.mustOpen("f")
	old()
	read(t, f, 0, 10)
	if moved() {
		t.Error("the access time moved in spite of NoAtime")
	}
}

// Where the backing filesystem cannot tell holes from data, all is found by
// the groups themselves.
func TestNoHints(t *testing.T) {
	for _, hint := range []error{unix.EINVAL, nil} {
		d := newDisk(t, cipher.SuiteSingle, 4096)
		f := d.create("f")
		off := func(g uint64) int64 { return int64(f.layout.FirstBlock(g)) * 4096 }
		for _, g := range []uint64{100, 300, 900, 2} {
			write(t, f, []byte("here"), off(g))
		}
		f.b = blind{f.b, hint}
		for _, g := range []uint64{101, 3, 899, 301, 500} {
			if got := read(t, f, off(g), 4); !bytes.Equal(got, make([]byte, 4)) {
				t.Errorf("group %d reads %q", g, got)
			}
			write(t, f, []byte("new"), off(g))
		}
		for _, g := range []uint64{100, 300, 900, 2} {
			if got := read(t, f, off(g), 4); string(got) != "here" {
				t.Errorf("group %d reads %q", g, got)
			}
		}
		f.Close()
		if n := d.checkChain("f"); n != 10 {
			t.Errorf("%d groups, want 10", n)
		}
	}
}
