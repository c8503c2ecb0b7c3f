package blockfile

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
)

const tamperBlocks = 40 + 56*3 + 10 // groups 0 to 4

// tampered makes the files "f" and "other" of tamperBlocks blocks, with a hole
// of one group in "sparse", and returns f's content.
func tampered(t *testing.T, suite cipher.Suite) (*disk, []byte) {
	d := newDisk(t, suite, 4096)
	data := pattern(1, tamperBlocks*4096-100)
	for _, name := range []string{"f", "other"} {
		f := d.create(name)
		write(t, f, data, 0)
		f.Close()
	}
	f := d.create("sparse")
	write(t, f, data[:4096], 0)
	write(t, f, data[:4096], int64(f.layout.FirstBlock(2))*4096)
	f.Close()
	return d, data
}

func TestTamper(t *testing.T) {
	layout, err := cipher.NewLayout(4096)
	if err != nil {
		t.Fatal(err)
	}
	tag := func(g uint64) int64 { return layout.TagOffset(g) }
	groupLen := 4096 * (1 + 56)
	trailer := int64(cipher.TagBlockSize - cipher.TrailerSize)
	tests := []struct {
		name   string
		file   string // "f" if empty
		tamper func(d *disk, name string)
		open   error // of Open
		block  uint64
		read   error  // of block
		fine   uint64 // a block that is as it was
	}{
		{name: "tag block in the middle zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, tag(2), make([]byte, 4096))
		}, block: layout.FirstBlock(2) + 3, read: ErrCorrupt, fine: layout.FirstBlock(3)},
		{name: "last tag block zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, tag(4), make([]byte, 4096))
		}, block: layout.FirstBlock(4), read: ErrCorrupt, fine: layout.FirstBlock(4) - 1},
		{name: "two tag blocks zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, tag(1), make([]byte, 4096))
			d.tamper(name, tag(2), make([]byte, 4096))
		}, block: layout.FirstBlock(2), read: ErrCorrupt, fine: layout.FirstBlock(3)},
		{name: "groups swapped", tamper: func(d *disk, name string) {
			a, b := d.peek(name, tag(1), groupLen), d.peek(name, tag(2), groupLen)
			d.tamper(name, tag(1), b)
			d.tamper(name, tag(2), a)
		}, block: layout.FirstBlock(2), read: cipher.ErrAuth, fine: layout.FirstBlock(3)},
		{name: "backing file cut", tamper: func(d *disk, name string) {
			if err := os.Truncate(d.file(name), tag(4)+4096+10); err != nil {
				t.Fatal(err)
			}
		}, open: ErrCorrupt},
		{name: "backing file empty", tamper: func(d *disk, name string) {
			if err := os.Truncate(d.file(name), 0); err != nil {
				t.Fatal(err)
			}
		}, open: ErrCorrupt},
		{name: "gap forged to cover a zeroed group", tamper: func(d *disk, name string) {
			d.tamper(name, tag(2), make([]byte, 4096))
			d.tamper(name, tag(3)+trailer+16, []byte{0, 0, 0, 0, 0, 0, 0, 1})
		}, block: layout.FirstBlock(2), read: cipher.ErrAuth, fine: layout.FirstBlock(1)},
		{name: "trailer with a wider gap from another file", tamper: func(d *disk, name string) {
			d.tamper(name, tag(1), make([]byte, 4096))
			d.tamper(name, tag(2)+trailer, d.peek("sparse", tag(2)+trailer, cipher.TrailerSize))
		}, block: layout.FirstBlock(1), read: cipher.ErrAuth, fine: layout.FirstBlock(3)},
		{name: "every tag block but the first zeroed", tamper: func(d *disk, name string) {
			for g := uint64(1); g <= 4; g++ {
				d.tamper(name, tag(g), make([]byte, 4096))
			}
		}, block: layout.FirstBlock(2), read: ErrCorrupt, fine: 39},
		{name: "group put back that a truncation took", file: "cut", tamper: func(d *disk, name string) {
			f := d.create("cut")
			write(d.t, f, pattern(1, 4096), int64(layout.FirstBlock(2))*4096)
			f.Close()
			old := d.peek("cut", tag(2), 8192)
			f = d.mustOpen("cut")
			if err := errors.Join(f.Truncate(4096), f.Truncate(int64(layout.FirstBlock(3))*4096)); err != nil {
				d.t.Fatal(err)
			}
			f.Close()
			d.tamper("cut", tag(2), old)
		}, block: layout.FirstBlock(2), read: ErrCorrupt, fine: 0},
		{name: "header and its copy zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, 0, make([]byte, 1152))
		}, open: ErrCorrupt},
		{name: "header altered in both places", tamper: func(d *disk, name string) {
			d.tamper(name, 40, []byte{1, 2, 3})
			d.tamper(name, 1024+20, []byte{1, 2, 3})
		}, open: cipher.ErrAuth},
		{name: "backing file longer", tamper: func(d *disk, name string) {
			if err := os.Truncate(d.file(name), 10<<20); err != nil {
				d.t.Fatal(err)
			}
		}, open: ErrCorrupt},
		{name: "size sector zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, 512, make([]byte, 512))
		}, open: ErrCorrupt},
		{name: "size sector altered", tamper: func(d *disk, name string) {
			b := d.peek(name, 512, 512)
			b[8+6]--
			d.tamper(name, 512, b)
		}, open: cipher.ErrAuth},
		{name: "last group altered", tamper: func(d *disk, name string) {
			d.tamper(name, 512+24+7, []byte{0})
		}, open: cipher.ErrAuth},
		{name: "size sector of another file", tamper: func(d *disk, name string) {
			d.tamper(name, 512, d.peek("other", 512, 512))
		}, open: cipher.ErrAuth},
		{name: "tag block of another file", tamper: func(d *disk, name string) {
			d.tamper(name, tag(3), d.peek("other", tag(3), 4096))
		}, block: layout.FirstBlock(3), read: cipher.ErrAuth, fine: layout.FirstBlock(2)},
		{name: "group of another file", tamper: func(d *disk, name string) {
			d.tamper(name, tag(3), d.peek("other", tag(3), groupLen))
		}, block: layout.FirstBlock(3), read: cipher.ErrAuth, fine: layout.FirstBlock(2)},
		{name: "presence bit cleared", tamper: func(d *disk, name string) {
			b := d.peek(name, tag(1)+trailer+15, 1)
			b[0] &^= 1
			d.tamper(name, tag(1)+trailer+15, b)
		}, block: layout.FirstBlock(1), read: cipher.ErrAuth, fine: 0},
		{name: "bit of a body flipped", tamper: func(d *disk, name string) {
			b := d.peek(name, layout.BlockOffset(50)+77, 1)
			b[0] ^= 4
			d.tamper(name, layout.BlockOffset(50)+77, b)
		}, block: 50, read: cipher.ErrAuth, fine: 51},
		{name: "body zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, layout.BlockOffset(50), make([]byte, 4096))
		}, block: 50, read: cipher.ErrAuth, fine: 49},
		{name: "entry zeroed", tamper: func(d *disk, name string) {
			d.tamper(name, layout.EntryOffset(50), make([]byte, 72))
		}, block: 50, read: cipher.ErrAuth, fine: 51},
		{name: "blocks swapped with their entries", tamper: func(d *disk, name string) {
			for _, p := range [][3]int64{{layout.BlockOffset(50), layout.BlockOffset(51), 4096}, {layout.EntryOffset(50), layout.EntryOffset(51), 72}} {
				a, b := d.peek(name, p[0], int(p[2])), d.peek(name, p[1], int(p[2]))
				d.tamper(name, p[0], b)
				d.tamper(name, p[1], a)
			}
		}, block: 50, read: cipher.ErrAuth, fine: 52},
		{name: "short last block given another length", tamper: func(d *disk, name string) {
			d.tamper(name, layout.BlockOffset(tamperBlocks-1)+10, make([]byte, 90))
		}, block: tamperBlocks - 1, read: cipher.ErrAuth, fine: 0},
		{name: "garbage in a hole", file: "sparse", tamper: func(d *disk, name string) {
			d.tamper(name, tag(1), pattern(3, 4096))
		}, block: layout.FirstBlock(1), read: cipher.ErrAuth, fine: 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, suite := range []cipher.Suite{cipher.SuiteSingle, cipher.SuiteDouble} {
				d, data := tampered(t, suite)
				name := tt.file
				if name == "" {
					name = "f"
				}
				tt.tamper(d, name)
				f, err := d.open(name)
				if tt.open != nil || err != nil {
					if !errors.Is(err, tt.open) {
						t.Fatalf("open: %v, want %v", err, tt.open)
					}
					continue
				}
				p := make([]byte, 4096)
				for range 2 { // the second finds what the first left in the cache
					if _, err := f.ReadAt(p, int64(tt.block)*4096); !errors.Is(err, tt.read) {
						t.Errorf("block %d: %v, want %v", tt.block, err, tt.read)
					}
				}
				if !strings.Contains(d.log.String(), damaged) || !strings.Contains(d.log.String(), f.ID().String()) {
					t.Errorf("log: %q", d.log)
				}
				got := read(t, f, int64(tt.fine)*4096, 4096)
				if name == "f" && !bytes.Equal(got, data[tt.fine*4096:][:4096]) {
					t.Errorf("block %d is not as it was", tt.fine)
				}
				if err := f.Truncate(0); err != nil {
					t.Errorf("truncate to 0: %v", err)
				}
				write(t, f, data[:100], 0)
				if got := read(t, f, 0, 100); !bytes.Equal(got, data[:100]) {
					t.Error("content differs after the file was written anew")
				}
			}
		})
	}
}

// A block that does not open can be overwritten whole, punched and cut away;
// changing a part of it is refused.
func TestBadBlockReplaced(t *testing.T) {
	layout, _ := cipher.NewLayout(4096)
	bad := int64(50 * 4096)
	fix := []struct {
		name string
		run  func(f *File) error
		err  error
		size int64
	}{
		{"overwrite", func(f *File) error { _, err := f.WriteAt(pattern(9, 4096), bad); return err }, nil, -1},
		{"overwrite a longer range", func(f *File) error { _, err := f.WriteAt(pattern(9, 3*4096), bad-4096); return err }, nil, -1},
		{"punch", func(f *File) error { return f.PunchHole(bad, 4096) }, nil, -1},
		{"zero", func(f *File) error { return f.ZeroRange(bad-4096, 3*4096, true) }, nil, -1},
		{"cut before", func(f *File) error { return f.Truncate(bad) }, nil, bad},
		{"change a part", func(f *File) error { _, err := f.WriteAt([]byte("x"), bad+7); return err }, cipher.ErrAuth, -1},
		{"zero a part", func(f *File) error { return f.PunchHole(bad+7, 10) }, cipher.ErrAuth, -1},
		{"cut within", func(f *File) error { return f.Truncate(bad + 7) }, cipher.ErrAuth, -1},
	}
	for _, tt := range fix {
		t.Run(tt.name, func(t *testing.T) {
			d, data := tampered(t, cipher.SuiteDouble)
			d.tamper("f", layout.BlockOffset(50)+5, []byte{1, 2, 3, 4})
			f := d.mustOpen("f")
			if n, err := f.ReadAt(make([]byte, 10*4096), bad-3*4096); n != 3*4096 || !errors.Is(err, cipher.ErrAuth) {
				t.Fatalf("read over the bad block: %d, %v", n, err)
			}
			if err := tt.run(f); !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			_, err := f.ReadAt(make([]byte, 4096), bad)
			if tt.err == nil && err != nil || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("read afterwards: %v", err)
			}
			want := int64(len(data))
			if tt.size >= 0 {
				want = tt.size
			}
			if f.Size() != want {
				t.Errorf("size %d, want %d", f.Size(), want)
			}
		})
	}
}

func TestLostHeaderIsRestored(t *testing.T) {
	d, data := tampered(t, cipher.SuiteDouble)
	want := d.peek("f", 0, 4096)
	for _, damage := range [][]byte{make([]byte, 512), pattern(4, 512), append([]byte("PLYF\x00\x01\x01\x02\x0c"), make([]byte, 400)...)} {
		d.tamper("f", 0, damage)
		d.log.Reset()
		b := d.backing("f", 0)
		f := d.mustOpen("f")
		if id, err := ReadID(b, d.c.Volume); id != f.ID() || err != nil {
			t.Errorf("ReadID: %v, %v", id, err)
		}
		b.Close()
		if got := read(t, f, 0, 1<<20); !bytes.Equal(got, data) {
			t.Error("content differs")
		}
		f.Close()
		if !bytes.Equal(d.peek("f", 0, 4096), want) {
			t.Error("header is not as it was")
		}
		if !strings.Contains(d.log.String(), "copy is used") {
			t.Errorf("log: %q", d.log)
		}
	}
}

func TestLongerBackingFileIsTrimmed(t *testing.T) {
	d, data := tampered(t, cipher.SuiteDouble)
	past := time.Unix(1_000_000_000, 5)
	if err := os.Truncate(d.file("f"), 10<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(d.file("f"), past, past); err != nil {
		t.Fatal(err)
	}
	d.c.Unclean = true
	d.c.ReadOnly = true
	f := d.mustOpen("f")
	if got := read(t, f, 0, 1<<20); !bytes.Equal(got, data) {
		t.Error("content differs, read-only")
	}
	f.Close()
	if st, _ := os.Stat(d.file("f")); st.Size() != 10<<20 {
		t.Error("a read-only open changed the backing file")
	}
	d.c.ReadOnly = false
	f = d.mustOpen("f")
	if got := read(t, f, 0, 1<<20); !bytes.Equal(got, data) {
		t.Error("content differs")
	}
	f.Close()
	st, err := os.Stat(d.file("f"))
	if err != nil {
		t.Fatal(err)
	}
	if want := f.layout.PhysicalSize(int64(len(data))); st.Size() != want {
		t.Errorf("backing file is %d long, want %d", st.Size(), want)
	}
	if !st.ModTime().Equal(past) {
		t.Errorf("modification time is %v, want %v", st.ModTime(), past)
	}
}

// An old group put back beyond the last is adopted after an unclean stop only
// if it fits on.
func TestAdoptOnlyWhatFits(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.c.Unclean = true
	f := d.create("f")
	off := func(g uint64) int64 { return int64(f.layout.FirstBlock(g)) * 4096 }
	write(t, f, pattern(1, int(off(3))), 0)
	old := d.peek("f", f.layout.TagOffset(2), 4096)
	if err := errors.Join(f.Truncate(4096), f.Truncate(off(3))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	d.tamper("f", f.layout.TagOffset(2), old)
	f = d.mustOpen("f")
	if _, err := f.ReadAt(make([]byte, 100), off(2)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
	if got := read(t, f, off(1), 100); !bytes.Equal(got, make([]byte, 100)) {
		t.Error("hole reads as data")
	}
}

func emptied(d *disk) {
	f := d.mustOpen("f")
	if err := f.Truncate(0); err != nil {
		d.t.Fatal(err)
	}
	f.Close()
}

// After an unclean stop a file that lacks its header was never synced.
func TestUncleanStop(t *testing.T) {
	tests := []struct {
		name   string
		damage func(d *disk)
		sameID bool
		err    error
	}{
		{"backing file empty", func(d *disk) { os.Truncate(d.file("f"), 0) }, false, nil},
		{"backing file shorter than a header", func(d *disk) { os.Truncate(d.file("f"), 100); d.tamper("f", 0, make([]byte, 100)) }, false, nil},
		{"length without bytes", func(d *disk) { os.Truncate(d.file("f"), 0); os.Truncate(d.file("f"), 1<<20) }, false, nil},
		{"sector 1 zero", func(d *disk) { d.tamper("f", 512, make([]byte, 512)) }, true, nil},
		{"backing file ends in sector 1", func(d *disk) { os.Truncate(d.file("f"), 600); d.tamper("f", 512, make([]byte, 88)) }, true, nil},
		{"trailer missing, size 0", func(d *disk) { emptied(d); d.tamper("f", 4096-64, make([]byte, 64)) }, true, nil},
		{"header zero, data behind", func(d *disk) { d.tamper("f", 0, make([]byte, 4096)) }, false, ErrCorrupt},
		{"header altered", func(d *disk) { d.tamper("f", 100, []byte{1}); d.tamper("f", 1100, []byte{1}) }, false, cipher.ErrAuth},
		{"sector 1 altered", func(d *disk) { d.tamper("f", 520, []byte{1}) }, false, cipher.ErrAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, data := tampered(t, cipher.SuiteDouble)
			f := d.mustOpen("f")
			id := f.ID()
			f.Close()
			tt.damage(d)
			if f, err := d.open("f"); err == nil && f.Size() > 0 {
				t.Fatal("opened after a clean stop")
			}
			d.c.Unclean = true
			before, _ := os.ReadFile(d.file("f"))
			d.c.ReadOnly = true
			f, err := d.open("f")
			if !errors.Is(err, tt.err) {
				t.Fatalf("read-only: %v, want %v", err, tt.err)
			}
			if after, _ := os.ReadFile(d.file("f")); !bytes.Equal(before, after) {
				t.Error("a read-only open changed the backing file")
			}
			if tt.err != nil {
				return
			}
			if n, err := f.ReadAt(make([]byte, 10), 0); n != 0 || err != nil {
				t.Errorf("read: %d, %v", n, err)
			}
			f.Close()
			d.c.ReadOnly = false
			f = d.mustOpen("f")
			if f.Size() != 0 || (f.ID() == id) != tt.sameID {
				t.Errorf("size %d, ID kept: %v", f.Size(), f.ID() == id)
			}
			if !strings.Contains(d.log.String(), "never synced") {
				t.Errorf("log: %q", d.log)
			}
			write(t, f, data, 0)
			f.Close()
			d.c.Unclean = false
			if got := read(t, d.mustOpen("f"), 0, 1<<20); !bytes.Equal(got, data) {
				t.Error("content differs")
			}
		})
	}
}
