package crashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, d backing.Dir, name string) backing.File {
	t.Helper()
	f, err := d.OpenFile(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	must(t, err)
	return f
}

func write(t testing.TB, f backing.File, p []byte, off int64) {
	t.Helper()
	_, err := f.WriteAt(p, off)
	must(t, err)
}

// read returns a file's content; ok is false where it does not exist.
func read(t testing.TB, fs *FS, name string) (content []byte, ok bool) {
	t.Helper()
	f, err := fs.Root().OpenFile(name, unix.O_RDONLY, 0)
	if err == unix.ENOENT {
		return nil, false
	}
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b, true
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

// replace is how a program replaces a file's content; each step can be left out.
func replace(t testing.TB, fs *FS, content []byte, syncFile, syncDir bool) {
	d := fs.Root()
	f := create(t, d, "new")
	write(t, f, content, 0)
	if syncFile {
		must(t, f.Sync())
	}
	must(t, d.Rename("new", d, "file", 0))
	if syncDir {
		must(t, d.Sync())
	}
}

// outcomes crashes a run of script at every operation and in many ways, and
// counts what the file "file" then is.
func outcomes(t testing.TB, script func(*FS), judge func([]byte, bool) string) map[string]int {
	fs := New()
	f := create(t, fs.Root(), "file")
	write(t, f, fill('o', 3000), 0)
	must(t, f.Sync())
	must(t, fs.Root().Sync())
	var images []*Image
	fs.OnOp(func(Op) { images = append(images, fs.Snapshot()) })
	script(fs)
	fs.OnOp(nil)
	images = append(images, fs.Snapshot())
	count := map[string]int{}
	for _, im := range images {
		choosers := []Chooser{Lost, Kept, Only(KindName), Only(KindSize), Only(KindSector), Only(KindName, KindSize), Only(KindSize, KindSector)}
		for seed := range uint64(200) {
			choosers = append(choosers, Seed(seed))
		}
		for _, c := range choosers {
			content, ok := read(t, im.Crash(c), "file")
			count[judge(content, ok)]++
		}
	}
	return count
}

func judge(content []byte, ok bool) string {
	switch {
	case !ok:
		return "gone"
	case bytes.Equal(content, fill('o', 3000)):
		return "old"
	case bytes.Equal(content, fill('n', 3000)):
		return "new"
	case len(content) == 0:
		return "empty"
	}
	return "broken"
}

func TestCrashFindsRenameWithoutFsync(t *testing.T) {
	got := outcomes(t, func(fs *FS) { replace(t, fs, fill('n', 3000), false, true) }, judge)
	for _, want := range []string{"old", "new", "empty", "broken"} {
		if got[want] == 0 {
			t.Errorf("no crash state leaves the file %s: %v", want, got)
		}
	}
}

func TestCrashAcceptsRenameWithFsync(t *testing.T) {
	got := outcomes(t, func(fs *FS) { replace(t, fs, fill('n', 3000), true, true) }, judge)
	if len(got) != 2 || got["old"] == 0 || got["new"] == 0 {
		t.Errorf("got %v, want old and new only", got)
	}
}

func TestCrashFindsOverwriteInPlace(t *testing.T) {
	got := outcomes(t, func(fs *FS) {
		f := create(t, fs.Root(), "file")
		write(t, f, fill('n', 3000), 0)
		must(t, f.Datasync())
	}, judge)
	if got["broken"] == 0 || got["old"] == 0 || got["new"] == 0 || len(got) != 3 {
		t.Errorf("got %v, want old, new and broken", got)
	}
}

func TestCrashPartsSizeAndData(t *testing.T) {
	short, zeros := 0, 0
	outcomes(t, func(fs *FS) {
		f := create(t, fs.Root(), "file")
		write(t, f, fill('n', 512), 3072)
	}, func(content []byte, _ bool) string {
		switch {
		case len(content) == 3000:
			short++
		case len(content) == 3584 && bytes.Equal(content[3072:], make([]byte, 512)):
			zeros++
		}
		return ""
	})
	if short == 0 || zeros == 0 {
		t.Errorf("got %d states with the old size and %d with the size but no data, want both", short, zeros)
	}
}

func TestSyncMakesDurable(t *testing.T) {
	tests := map[string]struct {
		do   func(t *testing.T, d backing.Dir)
		want string // names after losing everything not durable
	}{
		"file without dir sync": {func(t *testing.T, d backing.Dir) { must(t, create(t, d, "a").Sync()) }, ""},
		"dir sync": {func(t *testing.T, d backing.Dir) {
			create(t, d, "a")
			must(t, d.Sync())
		}, "a "},
		"rename builds on create": {func(t *testing.T, d backing.Dir) {
			must(t, d.Mkdir("d", 0o700))
			must(t, d.Sync())
			create(t, d, "a")
			sub, err := d.OpenDir("d")
			must(t, err)
			must(t, d.Rename("a", sub, "b", 0))
			must(t, sub.Sync())
		}, "d d/b "},
		"unlink not synced": {func(t *testing.T, d backing.Dir) {
			create(t, d, "a")
			must(t, d.Sync())
			must(t, d.Unlink("a"))
		}, "a "},
		"exchange": {func(t *testing.T, d backing.Dir) {
			create(t, d, "a")
			must(t, d.Mkdir("d", 0o700))
			must(t, d.Rename("a", d, "d", unix.RENAME_EXCHANGE))
			must(t, d.Sync())
		}, "a d "},
		"tmpfile": {func(t *testing.T, d backing.Dir) {
			f, err := d.Tmpfile(0o600)
			must(t, err)
			must(t, f.Sync())
		}, ""},
		"linked tmpfile": {func(t *testing.T, d backing.Dir) {
			f, err := d.Tmpfile(0o600)
			must(t, err)
			must(t, d.LinkFile(f, "a"))
			must(t, d.Sync())
		}, "a "},
		"everything": {func(t *testing.T, d backing.Dir) {
			must(t, d.Mkdir("d", 0o700))
			sub, err := d.OpenDir("d")
			must(t, err)
			create(t, sub, "a")
			must(t, d.SyncAll())
		}, "d d/a "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fs := New()
			tt.do(t, fs.Root())
			after := fs.Snapshot().Crash(Lost)
			if got := list(t, after.Root(), ""); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got, want := list(t, fs.Snapshot().Crash(Kept).Root(), ""), list(t, fs.Root(), ""); got != want {
				t.Errorf("all kept: got %q, want %q", got, want)
			}
		})
	}
}

func list(t testing.TB, d backing.Dir, prefix string) string {
	t.Helper()
	ds, err := d.ReadDir()
	must(t, err)
	var all []string
	for {
		e, ok, err := ds.Next()
		must(t, err)
		if !ok {
			break
		}
		if e.Name == "." || e.Name == ".." {
			continue
		}
		s := prefix + e.Name + " "
		if e.Type == unix.DT_DIR {
			sub, err := d.OpenDir(e.Name)
			must(t, err)
			s += list(t, sub, prefix+e.Name+"/")
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

// A crash in what ran on a crashed filesystem, and the same seed twice.
func TestCrashTwice(t *testing.T) {
	fs := New()
	f := create(t, fs.Root(), "file")
	write(t, f, fill('1', 2048), 0)
	must(t, f.Sync())
	must(t, fs.Root().Sync())
	write(t, f, fill('2', 2048), 0)
	im := fs.Snapshot()
	a, _ := read(t, im.Crash(Seed(7)), "file")
	b, _ := read(t, im.Crash(Seed(7)), "file")
	if !bytes.Equal(a, b) {
		t.Error("one seed, two states")
	}
	second := im.Crash(Kept)
	g := create(t, second.Root(), "file")
	write(t, g, fill('3', 2048), 0)
	c, _ := read(t, second.Snapshot().Crash(Lost), "file")
	if !bytes.Equal(c, fill('2', 2048)) {
		t.Errorf("after the second crash got %q..., want the state of the first", c[:1])
	}
	if d, _ := read(t, fs, "file"); !bytes.Equal(d, fill('2', 2048)) {
		t.Error("a crash changed the filesystem the image was taken of")
	}
}

func TestFsyncNames(t *testing.T) {
	fs := New()
	fs.FsyncNames = true
	must(t, create(t, fs.Root(), "a").Sync())
	if got := list(t, fs.Snapshot().Crash(Lost).Root(), ""); got != "a " {
		t.Errorf("got %q, want the synced file's name", got)
	}
}

// TestLikeTheOS runs the same random operations here and on a real directory.
func TestLikeTheOS(t *testing.T) {
	for seed := range uint64(20) {
		real, err := backing.OpenDir(t.TempDir())
		must(t, err)
		compare(t, seed, real, New().Root())
		must(t, real.Close())
	}
}

func compare(t *testing.T, seed uint64, a, b backing.Dir) {
	t.Helper()
	names := []string{"a", "b", "c", "d"}
	ra, rb := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 1))
	for step := range 300 {
		ga, gb := randomOp(a, ra, names), randomOp(b, rb, names)
		if ga != gb {
			t.Fatalf("seed %d step %d: the OS said %s, crashfs %s", seed, step, ga, gb)
		}
	}
	if ga, gb := list(t, a, ""), list(t, b, ""); ga != gb {
		t.Fatalf("seed %d: the OS has %q, crashfs %q", seed, ga, gb)
	}
}

// randomOp does one operation and describes its result.
func randomOp(d backing.Dir, r *rand.Rand, names []string) string {
	name, other := names[r.IntN(len(names))], names[r.IntN(len(names))]
	off, n := r.Int64N(9000), r.IntN(3000)+1
	op := r.IntN(14)
	result := func(what string, err error) string { return fmt.Sprintf("%s %s %s: %v", what, name, other, err) }
	switch op {
	case 0:
		return result("mkdir", d.Mkdir(name, 0o700))
	case 1:
		return result("unlink", d.Unlink(name))
	case 2:
		return result("rmdir", d.Rmdir(name))
	case 3:
		return result("rename", d.Rename(name, d, other, uint(r.IntN(3))))
	case 4:
		return result("link", d.Link(name, d, other))
	case 5:
		return result("symlink", d.Symlink("x", name))
	case 6:
		return result("setxattr", d.Setxattr(name, "user.x", fill('x', n%100), r.IntN(3)))
	}
	flags := []int{unix.O_RDWR, unix.O_RDWR | unix.O_CREAT, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL}[r.IntN(3)]
	f, err := d.OpenFile(name, flags, 0o600)
	if err != nil {
		return result("open", err)
	}
	defer f.Close()
	switch op {
	case 7, 8:
		_, err = f.WriteAt(fill(byte('a'+n%26), n), off)
	case 9:
		err = f.Truncate(off)
	case 10:
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_PUNCH_HOLE}[r.IntN(5)]
		if err = f.Allocate(mode, off, int64(n)); errors.Is(err, unix.EINVAL) {
			err = unix.EOPNOTSUPP // filesystems differ
		}
	case 11:
		err = f.Datasync()
	}
	st, serr := f.Stat()
	b := make([]byte, 20000)
	k, rerr := f.ReadAt(b, off/2)
	return result("file", err) + fmt.Sprint(st.Size, st.Nlink, st.Mode, serr, k, rerr, slices.Max(b[:k+1]), sum(b))
}

func sum(b []byte) (s uint32) {
	for i, c := range b {
		s += uint32(c) * uint32(i+1)
	}
	return s
}
