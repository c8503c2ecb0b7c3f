package journal

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

func newSuper(t testing.TB) (backing.Dir, *Super) {
	t.Helper()
	dir := crashfs.New().Root()
	must(t, CreateSuper(dir, testAuth("key"), nil))
	s, err := OpenSuper(dir, testAuth("key"))
	must(t, err)
	return dir, s
}

// patch changes bytes of a file.
func patch(t testing.TB, dir backing.Dir, name string, off int64, change func(b []byte)) {
	t.Helper()
	f, err := dir.OpenFile(name, unix.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 4096)
	must(t, readFull(f, b, off))
	change(b)
	_, err = f.WriteAt(b, off)
	must(t, err)
}

func flip(at int) func([]byte) { return func(b []byte) { b[at] ^= 1 } }

func TestSuperKeepsItsState(t *testing.T) {
	dir, s := newSuper(t)
	if !s.Clean() {
		t.Error("a new superblock is not clean")
	}
	must(t, s.MarkDirty())
	seq, _ := s.Position()
	r, err := OpenSuper(dir, testAuth("key"))
	must(t, err)
	if r.Clean() || r.JournalID() != s.JournalID() {
		t.Errorf("after MarkDirty: clean %v, ID %x, want dirty and the same ID", r.Clean(), r.JournalID())
	}
	if got, _ := r.Position(); got != seq {
		t.Errorf("sequence %d, want %d", got, seq)
	}
	must(t, s.MarkClean())
	r, err = OpenSuper(dir, testAuth("key"))
	must(t, err)
	if !r.Clean() {
		t.Error("after MarkClean: dirty")
	}
	if err := CreateSuper(dir, testAuth("key"), nil); !errors.Is(err, ErrExists) {
		t.Errorf("second CreateSuper: got %v, want ErrExists", err)
	}
}

func TestSuperRefuses(t *testing.T) {
	tests := map[string]struct {
		break_ func(t *testing.T, dir backing.Dir)
		key    testAuth
		want   error
	}{
		"missing":       {func(t *testing.T, dir backing.Dir) { must(t, dir.Unlink(superName)) }, "key", ErrMissing},
		"other key":     {nil, "other", ErrTampered},
		"newer version": {func(t *testing.T, dir backing.Dir) { patch(t, dir, superName, 0, flip(9)) }, "key", ErrVersion},
		"empty file": {func(t *testing.T, dir backing.Dir) {
			f, err := dir.OpenFile(superName, unix.O_RDWR, 0)
			must(t, err)
			must(t, f.Truncate(0))
		}, "key", ErrTampered},
		"both slots": {func(t *testing.T, dir backing.Dir) {
			patch(t, dir, superName, 0, flip(100))
			patch(t, dir, superName, 4096, flip(100))
		}, "key", ErrTampered},
		"both slots zero": {func(t *testing.T, dir backing.Dir) {
			patch(t, dir, superName, 0, func(b []byte) { clear(b) })
			patch(t, dir, superName, 4096, func(b []byte) { clear(b) })
		}, "key", ErrTampered},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir, _ := newSuper(t)
			if tt.break_ != nil {
				tt.break_(t, dir)
			}
			if _, err := OpenSuper(dir, tt.key); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// No damage to one slot changes what a superblock says of clean and dirty.
func TestSuperSurvivesOneSlot(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		for slot := range int64(2) {
			for bit := range superLen * 8 {
				if at := bit / 8; at == 8 || at == 9 {
					continue // the version: refused
				}
				dir, s := newSuper(t)
				if dirty {
					must(t, s.MarkDirty())
				}
				patch(t, dir, superName, slot*superSlot, func(b []byte) { b[bit/8] ^= 1 << (bit % 8) })
				r, err := OpenSuper(dir, testAuth("key"))
				if err != nil {
					t.Fatalf("slot %d bit %d: %v", slot, bit, err)
				}
				if r.Clean() == dirty {
					t.Fatalf("slot %d bit %d: clean %v", slot, bit, r.Clean())
				}
				if bit > 4096/4 {
					break // the rest is no different; keep it quick
				}
			}
		}
	}
}

func TestSuperCrash(t *testing.T) {
	fs := crashfs.New()
	must(t, CreateSuper(fs.Root(), testAuth("key"), nil))
	s, err := OpenSuper(fs.Root(), testAuth("key"))
	must(t, err)
	var images []*crashfs.Image
	fs.OnOp(func(crashfs.Op) { images = append(images, fs.Snapshot()) })
	must(t, s.MarkDirty())
	for _, im := range append(images, fs.Snapshot()) {
		for seed := range uint64(50) {
			if _, err := OpenSuper(im.Crash(crashfs.Seed(seed)).Root(), testAuth("key")); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	r, err := OpenSuper(fs.Snapshot().Crash(crashfs.Lost).Root(), testAuth("key"))
	must(t, err)
	if r.Clean() {
		t.Error("MarkDirty returned and was lost")
	}
}

func TestSuperErrorsAreSticky(t *testing.T) {
	base := crashfs.New().Root()
	must(t, CreateSuper(base, testAuth("key"), nil))
	faults := faultfs.New(base)
	s, err := OpenSuper(faults.Root(), testAuth("key"))
	must(t, err)
	faults.Set(faultfs.Plan{Kind: faultfs.Sync, Times: 1, Err: unix.EIO})
	if err := s.MarkDirty(); !errors.Is(err, unix.EIO) {
		t.Fatalf("got %v, want EIO", err)
	}
	if err := s.MarkClean(); !errors.Is(err, unix.EIO) {
		t.Errorf("after a failed flush: got %v, want the same error", err)
	}
}

func FuzzSuper(f *testing.F) {
	st := superState{seq: 3, tail: 2, next: 9, runStart: 7, runFrom: 5, nextSeg: 4, tailSeg: 2}
	b := make([]byte, superLen)
	st.encode(b, testAuth("key"))
	f.Add(b)
	f.Add(make([]byte, superLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != superLen {
			return
		}
		testAuth("key").Sum(b[superTagOff:], superLabel, b[:superTagOff])
		st, err := parseSuper(b, testAuth("key"))
		if err != nil {
			return
		}
		c := make([]byte, superLen)
		st.encode(c, testAuth("key"))
		again, err := parseSuper(c, testAuth("key"))
		if err != nil || again != st {
			t.Errorf("%+v came back as %+v, %v", st, again, err)
		}
	})
}
