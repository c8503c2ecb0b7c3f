package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nameLengths are lengths of names in bytes around each border of the format:
// sealed names fit directly up to 159 bytes of plaintext.
var nameLengths = []int{1, 2, 3, 16, 100, 142, 143, 144, 158, 159, 160, 161, 175, 176, 191, 200, 243, 254, 255}

// wantNames compares a directory's entries; want need not be sorted.
func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil {
		t.Errorf("reading %s: %v", filepath.Base(dir), err)
		return
	}
	got := make([]string, len(l))
	for i, e := range l {
		got[i] = e.Name()
	}
	slices.Sort(got)
	want = slices.Clone(want)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("names in %s: got %q, want %q", filepath.Base(dir), got, want)
	}
}

func TestNames(t *testing.T) {
	onBoth(t, []posixCase{
		{"of all lengths, for files, directories, links", func(t *testing.T, p place) {
			kinds := []string{"file", "dir", "link"}
			for _, k := range kinds {
				check(t, os.Mkdir(p.path(k), 0o755))
			}
			var want []string
			for _, n := range nameLengths {
				name := strings.Repeat("n", n)
				want = append(want, name)
				touch(t, p.path("file", name), []byte(name))
				check(t, os.Mkdir(p.path("dir", name), 0o755))
				touch(t, p.path("dir", name, name), []byte(name))
				check(t, os.Symlink(name, p.path("link", name)))
			}
			see := func() {
				for _, k := range kinds {
					wantNames(t, p.path(k), want...)
				}
				for _, name := range want {
					wantContent(t, p.path("file", name), []byte(name))
					wantContent(t, p.path("dir", name, name), []byte(name))
					if to, err := os.Readlink(p.path("link", name)); to != name {
						t.Errorf("link of %d: %q, %v", len(name), to, err)
					}
				}
			}
			see()
			p.afterRemount(func() {
				see()
				for _, name := range want {
					check(t, os.Remove(p.path("file", name)))
					check(t, os.Remove(p.path("link", name)))
					check(t, os.RemoveAll(p.path("dir", name)))
				}
				for _, k := range kinds {
					wantNames(t, p.path(k))
				}
			})
		}},
		{"long ones that differ in the last byte only", func(t *testing.T, p place) {
			var want []string
			for c := 'a'; c <= 'z'; c++ {
				name := strings.Repeat("x", 254) + string(c)
				want = append(want, name)
				touch(t, p.path(name), []byte(name))
			}
			for _, name := range want {
				wantContent(t, p.path(name), []byte(name))
			}
			wantNames(t, p.path(), want...)
		}},
		{"256 bytes are too many", func(t *testing.T, p place) {
			name := p.path(strings.Repeat("n", 256))
			_, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR, 0o644)
			wantErr(t, "create", err, unix.ENAMETOOLONG)
			wantErr(t, "mkdir", unix.Mkdir(name, 0o755), unix.ENAMETOOLONG)
			wantErr(t, "symlink", unix.Symlink("x", name), unix.ENAMETOOLONG)
			var st unix.Stat_t
			wantErr(t, "stat", unix.Lstat(name, &st), unix.ENAMETOOLONG)
			wantErr(t, "unlink", unix.Unlink(name), unix.ENAMETOOLONG)
		}},
		{"UTF-8, and bytes that are not", func(t *testing.T, p place) {
			names := []string{"é", "e\u0301", "Ω", "日本語のファイル名", "🙂", strings.Repeat("ж", 127), strings.Repeat("🙂", 63) + "abc",
				" ", "  a ", "a\nb", "-rf", "*", "\x01\x02", "\xff\xfe", "\x80" + strings.Repeat("\xc0", 254), "CON", "a.b.c", "...", ".hidden", "~"}
			for i, n := range names {
				touch(t, p.path(n), []byte{byte(i)})
			}
			wantNames(t, p.path(), names...)
			p.afterRemount(func() {
				wantNames(t, p.path(), names...)
				for i, n := range names {
					wantContent(t, p.path(n), []byte{byte(i)})
				}
			})
		}},
		{"case matters", func(t *testing.T, p place) {
			touch(t, p.path("Name"), []byte("1"))
			touch(t, p.path("name"), []byte("2"))
			wantContent(t, p.path("Name"), []byte("1"))
		}},
		{"those the format uses are free for users", func(t *testing.T, p place) {
			names := []string{"plyfs.json", "plyfs.json.bak", "plyfs.dirid", ".plyfs", "plyfs.long.", "plyfs.long.AAAA.name",
				"plyfs.long." + strings.Repeat("A", 43), "plyfs.long." + strings.Repeat("A", 43) + ".name", "lock", "lost+found"}
			top := filepath.Dir(p.path()) // the root of the mount too
			for _, dir := range []string{p.path(), top} {
				for _, n := range names {
					_, err := os.Lstat(filepath.Join(dir, n))
					wantErr(t, "stat "+n, err, unix.ENOENT)
					touch(t, filepath.Join(dir, n), []byte(n))
				}
			}
			for _, n := range names {
				wantContent(t, filepath.Join(top, n), []byte(n))
				check(t, unix.Rename(filepath.Join(top, n), p.path("t")))
				check(t, unix.Rename(p.path("t"), p.path(n)))
			}
			wantNames(t, p.path(), names...)
		}},
		{"paths up to PATH_MAX, and deeper ones step by step", func(t *testing.T, p place) {
			dir := p.path()
			for len(dir) < 4095-260 {
				dir += "/" + strings.Repeat("d", 250)
			}
			check(t, os.MkdirAll(dir, 0o755))
			file := dir + "/" + strings.Repeat("f", 4095-len(dir)-1)
			touch(t, file, []byte("at the end"))
			wantContent(t, file, []byte("at the end"))
			_, err := os.Lstat(file + "f")
			wantErr(t, "one more byte", err, unix.ENAMETOOLONG)
			check(t, unix.Rename(file, dir+"/f"))
			// Relative to descriptors there is no limit.
			fd := open(t, dir, unix.O_DIRECTORY, 0)
			for range 20 {
				check(t, unix.Mkdirat(fd, strings.Repeat("e", 250), 0o755))
				next, err := unix.Openat(fd, strings.Repeat("e", 250), unix.O_DIRECTORY, 0)
				unix.Close(fd)
				check(t, err)
				fd = next
			}
			f, err := unix.Openat(fd, "deep", unix.O_CREAT|unix.O_RDWR, 0o644)
			check(t, err)
			if n, err := unix.Write(f, []byte("x")); n != 1 {
				t.Error(err)
			}
			unix.Close(f)
			unix.Close(fd)
		}},
	})
}

// dirents reads a directory by getdents64(2) with a buffer of size bytes; each
// entry's type and cookie come along.
func dirents(t testing.TB, fd, size int) []dirent {
	t.Helper()
	var all []dirent
	buf := make([]byte, size)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatalf("getdents: %s", errName(err))
		}
		if n == 0 {
			return all
		}
		all = append(all, parseDirents(buf[:n])...)
	}
}

type dirent struct {
	name string
	ino  uint64
	off  int64
	kind byte
}

func parseDirents(b []byte) (all []dirent) {
	for len(b) > 0 {
		e := (*unix.Dirent)(ptr(b))
		name := b[19:e.Reclen]
		if i := slices.Index(name, 0); i >= 0 {
			name = name[:i]
		}
		all = append(all, dirent{string(name), e.Ino, e.Off, e.Type})
		b = b[e.Reclen:]
	}
	return all
}

func TestReaddir(t *testing.T) {
	onBoth(t, []posixCase{
		{"types, inode numbers, dot and dot-dot", func(t *testing.T, p place) {
			touch(t, p.path("file"), nil)
			check(t, os.Mkdir(p.path("dir"), 0o755))
			check(t, os.Symlink("x", p.path("link")))
			check(t, unix.Mkfifo(p.path("fifo"), 0o644))
			check(t, unix.Mknod(p.path("chr"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
			check(t, unix.Mknod(p.path("sock"), unix.S_IFSOCK|0o600, 0))
			long := strings.Repeat("l", 255)
			touch(t, p.path(long), nil)
			want := map[string]byte{".": unix.DT_DIR, "..": unix.DT_DIR, "file": unix.DT_REG, "dir": unix.DT_DIR,
				"link": unix.DT_LNK, "fifo": unix.DT_FIFO, "chr": unix.DT_CHR, "sock": unix.DT_SOCK, long: unix.DT_REG}
			fd := open(t, p.path(), unix.O_DIRECTORY, 0)
			defer unix.Close(fd)
			all := dirents(t, fd, 4096)
			if len(all) != len(want) {
				t.Errorf("%d entries, want %d", len(all), len(want))
			}
			for _, e := range all {
				if k, ok := want[e.name]; !ok || k != e.kind {
					t.Errorf("%q has type %d, want %d", e.name, e.kind, k)
				}
				if st := stat(t, p.path()+"/"+e.name); e.name != ".." && st.Ino != e.ino {
					t.Errorf("%q has inode %d, stat says %d", e.name, e.ino, st.Ino)
				}
			}
		}},
		{"rewinding sees what is new", func(t *testing.T, p place) {
			touch(t, p.path("a"), nil)
			fd := open(t, p.path(), unix.O_DIRECTORY, 0)
			defer unix.Close(fd)
			if n := len(dirents(t, fd, 4096)); n != 3 {
				t.Errorf("%d entries, want 3", n)
			}
			touch(t, p.path("b"), nil)
			check(t, unix.Unlink(p.path("a")))
			unix.Seek(fd, 0, unix.SEEK_SET)
			var names []string
			for _, e := range dirents(t, fd, 4096) {
				names = append(names, e.name)
			}
			slices.Sort(names)
			if !slices.Equal(names, []string{".", "..", "b"}) {
				t.Errorf("got %q", names)
			}
		}},
		{"cookies lead back to where they were taken", func(t *testing.T, p place) {
			for i := range 500 {
				touch(t, p.path(fmt.Sprint(strings.Repeat("n", i%200), i)), nil)
			}
			fd := open(t, p.path(), unix.O_DIRECTORY, 0)
			defer unix.Close(fd)
			all := dirents(t, fd, 1000)
			if len(all) != 502 {
				t.Fatalf("%d entries, want 502", len(all))
			}
			for i := 0; i < len(all)-1; i += 7 {
				if _, err := unix.Seek(fd, all[i].off, unix.SEEK_SET); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 1000)
				n, err := unix.Getdents(fd, buf)
				check(t, err)
				if got := parseDirents(buf[:n]); len(got) == 0 || got[0].name != all[i+1].name {
					t.Fatalf("after entry %d: got %v, want %q", i, got, all[i+1].name)
				}
			}
		}},
		{"removing while reading loses and repeats none", func(t *testing.T, p place) {
			const n = 2000
			for i := range n {
				touch(t, p.path(fmt.Sprint("f", i)), nil)
			}
			fd := open(t, p.path(), unix.O_DIRECTORY, 0)
			defer unix.Close(fd)
			seen := map[string]bool{}
			buf := make([]byte, 2048)
			for {
				k, err := unix.Getdents(fd, buf)
				check(t, err)
				if k == 0 {
					break
				}
				for _, e := range parseDirents(buf[:k]) {
					if e.name == "." || e.name == ".." {
						continue
					}
					if seen[e.name] {
						t.Fatalf("%q twice", e.name)
					}
					seen[e.name] = true
					check(t, unix.Unlink(p.path(e.name)))
				}
			}
			if len(seen) != n {
				t.Errorf("saw %d of %d", len(seen), n)
			}
			wantNames(t, p.path())
		}},
	})
}

func TestLargeDirectory(t *testing.T) {
	const n = 100_000
	name := func(i int) string {
		s := fmt.Sprintf("%06d", i)
		if i%50 == 0 { // two thousand long ones among them
			s += strings.Repeat("-", 200)
		}
		return s
	}
	onBoth(t, []posixCase{{"100,000 entries", func(t *testing.T, p place) {
		const workers = 4
		each := func(what string, f func(i int) error) {
			start := time.Now()
			var wg sync.WaitGroup
			errs := make(chan error, workers)
			for w := range workers {
				wg.Go(func() {
					for i := w; i < n; i += workers {
						if err := f(i); err != nil {
							errs <- fmt.Errorf("%s %d: %w", what, i, err)
							return
						}
					}
				})
			}
			wg.Wait()
			select {
			case err := <-errs:
				t.Fatal(err)
			default:
			}
			t.Logf("%s: %.0f/s", what, n/time.Since(start).Seconds())
		}
		each("create", func(i int) error {
			fd, err := unix.Open(p.path(name(i)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		})
		fd := open(t, p.path(), unix.O_DIRECTORY, 0)
		all := dirents(t, fd, 32768)
		unix.Close(fd)
		seen := make(map[string]bool, len(all))
		for _, e := range all {
			if seen[e.name] {
				t.Fatalf("%q twice", e.name)
			}
			seen[e.name] = true
		}
		if len(all) != n+2 {
			t.Fatalf("%d entries, want %d", len(all), n+2)
		}
		for i := 0; i < n; i += 97 {
			if st := stat(t, p.path(name(i))); st.Mode&unix.S_IFMT != unix.S_IFREG {
				t.Fatalf("%d: mode %o", i, st.Mode)
			}
		}
		each("unlink", func(i int) error { return unix.Unlink(p.path(name(i))) })
		wantNames(t, p.path())
	}}})
}
