package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func rename2(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

func TestRename(t *testing.T) {
	onBoth(t, []posixCase{
		{"a file, to names of all lengths and back", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("content"))
			ino := stat(t, p.path("f")).Ino
			from := "f"
			for _, n := range append(nameLengths, 1) {
				to := strings.Repeat("n", n)
				check(t, unix.Rename(p.path(from), p.path(to)))
				wantContent(t, p.path(to), []byte("content"))
				if got := stat(t, p.path(to)).Ino; got != ino {
					t.Errorf("length %d: inode %d, want %d", n, got, ino)
				}
				_, err := os.Lstat(p.path(from))
				wantErr(t, "old name", err, unix.ENOENT)
				from = to
			}
			wantNames(t, p.path(), from)
		}},
		{"over a file", func(t *testing.T, p place) {
			long := strings.Repeat("l", 250)
			for _, c := range [][2]string{{"a", "b"}, {"a", long}, {long, "a"}, {long, long[1:]}} {
				touch(t, p.path(c[0]), []byte("from"))
				touch(t, p.path(c[1]), []byte("to, replaced"))
				check(t, unix.Rename(p.path(c[0]), p.path(c[1])))
				wantContent(t, p.path(c[1]), []byte("from"))
				wantNames(t, p.path(), c[1])
				check(t, unix.Unlink(p.path(c[1])))
			}
		}},
		{"onto itself and onto another name of the same file: nothing happens", func(t *testing.T, p place) {
			touch(t, p.path("a"), []byte("x"))
			check(t, unix.Link(p.path("a"), p.path("b")))
			check(t, unix.Rename(p.path("a"), p.path("a")))
			check(t, unix.Rename(p.path("a"), p.path("b")))
			wantNames(t, p.path(), "a", "b")
		}},
		{"between directories, with the directory's content", func(t *testing.T, p place) {
			check(t, os.MkdirAll(p.path("x", "sub", "deep"), 0o755))
			check(t, os.Mkdir(p.path("y"), 0o755))
			touch(t, p.path("x", "sub", "deep", "f"), []byte("content"))
			touch(t, p.path("x", "sub", strings.Repeat("n", 255)), []byte("long"))
			check(t, unix.Rename(p.path("x", "sub"), p.path("y", "moved")))
			wantContent(t, p.path("y", "moved", "deep", "f"), []byte("content"))
			wantContent(t, p.path("y", "moved", strings.Repeat("n", 255)), []byte("long"))
			wantNames(t, p.path("x"))
			if got, want := stat(t, p.path("y", "moved")+"/..").Ino, stat(t, p.path("y")).Ino; got != want {
				t.Errorf("its .. is %d, want %d", got, want)
			}
			if x, y := stat(t, p.path("x")).Nlink, stat(t, p.path("y")).Nlink; x != 2 || y != 3 {
				t.Errorf("nlink of the directories %d and %d, want 2 and 3", x, y)
			}
			p.afterRemount(func() { wantContent(t, p.path("y", "moved", "deep", "f"), []byte("content")) })
		}},
		{"a directory over an empty one", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("a"), 0o755))
			touch(t, p.path("a", "f"), []byte("x"))
			check(t, os.Mkdir(p.path("b"), 0o755))
			check(t, unix.Rename(p.path("a"), p.path("b")))
			wantContent(t, p.path("b", "f"), []byte("x"))
			wantNames(t, p.path(), "b")
			touch(t, p.path("b", "g"), []byte("y"))
			p.afterRemount(func() { wantNames(t, p.path("b"), "f", "g") })
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.MkdirAll(p.path("d", "sub"), 0o755))
			check(t, os.Mkdir(p.path("e"), 0o755))
			for _, c := range []struct {
				from, to string
				want     []error
			}{
				{"missing", "x", []error{unix.ENOENT}},
				{"f", "missing/x", []error{unix.ENOENT}},
				{"f", "d", []error{unix.EISDIR}},
				{"d", "f", []error{unix.ENOTDIR}},
				{"e", "d", []error{unix.ENOTEMPTY, unix.EEXIST}},
				{"d", "d/sub/x", []error{unix.EINVAL}},
				{"d", "d/x", []error{unix.EINVAL}},
				{"f", "f/x", []error{unix.ENOTDIR}},
				{"f", strings.Repeat("n", 256), []error{unix.ENAMETOOLONG}},
				{"d/sub", "d", []error{unix.ENOTEMPTY, unix.EEXIST}},
			} {
				wantErr(t, c.from+" to "+c.to, unix.Rename(p.path(c.from), p.path(c.to)), c.want...)
			}
			wantNames(t, p.path(), "d", "e", "f")
		}},
		{"NOREPLACE", func(t *testing.T, p place) {
			touch(t, p.path("a"), []byte("a"))
			touch(t, p.path("b"), []byte("b"))
			check(t, os.Mkdir(p.path("d"), 0o755))
			long := strings.Repeat("l", 255)
			touch(t, p.path(long), []byte("long"))
			for _, to := range []string{"b", "d", "a", long} {
				wantErr(t, "a to "+to[:1], rename2(p.path("a"), p.path(to), unix.RENAME_NOREPLACE), unix.EEXIST)
			}
			wantErr(t, "long to a", rename2(p.path(long), p.path("a"), unix.RENAME_NOREPLACE), unix.EEXIST)
			check(t, rename2(p.path("a"), p.path("c"), unix.RENAME_NOREPLACE))
			check(t, rename2(p.path(long), p.path(long[1:]), unix.RENAME_NOREPLACE))
			wantContent(t, p.path(long[1:]), []byte("long"))
			wantNames(t, p.path(), "b", "c", "d", long[1:])
		}},
		{"EXCHANGE", func(t *testing.T, p place) {
			long := strings.Repeat("l", 255)
			touch(t, p.path("a"), []byte("a"))
			touch(t, p.path(long), []byte("long"))
			check(t, os.MkdirAll(p.path("d", "sub"), 0o755))
			touch(t, p.path("d", "f"), []byte("in d"))
			check(t, os.Mkdir(p.path("e"), 0o755))
			check(t, rename2(p.path("a"), p.path(long), unix.RENAME_EXCHANGE))
			wantContent(t, p.path("a"), []byte("long"))
			wantContent(t, p.path(long), []byte("a"))
			check(t, rename2(p.path("a"), p.path("d"), unix.RENAME_EXCHANGE))
			wantContent(t, p.path("d"), []byte("long"))
			wantContent(t, p.path("a", "f"), []byte("in d"))
			check(t, rename2(p.path("a"), p.path("e"), unix.RENAME_EXCHANGE))
			wantContent(t, p.path("e", "f"), []byte("in d"))
			check(t, rename2(p.path("e", "f"), p.path("d"), unix.RENAME_EXCHANGE))
			wantContent(t, p.path("d"), []byte("in d"))
			wantErr(t, "missing", rename2(p.path("d"), p.path("missing"), unix.RENAME_EXCHANGE), unix.ENOENT)
			wantErr(t, "an ancestor", rename2(p.path("e"), p.path("e", "sub"), unix.RENAME_EXCHANGE), unix.EINVAL)
			wantErr(t, "both flags", rename2(p.path("d"), p.path("a"), unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), unix.EINVAL)
			p.afterRemount(func() {
				wantContent(t, p.path("d"), []byte("in d"))
				wantContent(t, p.path("e", "f"), []byte("long"))
				wantContent(t, p.path(long), []byte("a"))
				wantNames(t, p.path("a"))
				wantNames(t, p.path("e", "sub"))
			})
		}},
		{"an open file and an open directory move along", func(t *testing.T, p place) {
			check(t, os.MkdirAll(p.path("a", "b"), 0o755))
			touch(t, p.path("a", "b", "f"), []byte("x"))
			fd := open(t, p.path("a", "b", "f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			dir := open(t, p.path("a", "b"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
			defer unix.Close(dir)
			check(t, unix.Rename(p.path("a"), p.path("z")))
			check(t, unix.Rename(p.path("z", "b"), p.path("c")))
			if _, err := unix.Pwrite(fd, []byte("y"), 0); err != nil {
				t.Error(err)
			}
			n, err := unix.Openat(dir, "new", unix.O_CREAT|unix.O_RDWR, 0o644)
			check(t, err)
			unix.Close(n)
			check(t, unix.Unlinkat(dir, "new", 0))
			wantContent(t, p.path("c", "f"), []byte("y"))
			wantNames(t, p.path("c"), "f")
		}},
		{"deep trees", func(t *testing.T, p place) {
			dir := p.path("top")
			for i := range 30 {
				dir += fmt.Sprintf("/d%d", i)
			}
			check(t, os.MkdirAll(dir, 0o755))
			touch(t, dir+"/f", []byte("deep"))
			check(t, unix.Rename(p.path("top", "d0", "d1"), p.path("up")))
			check(t, unix.Rename(p.path("up"), p.path("top", "d0", "again")))
			wantContent(t, strings.Replace(dir, "/d0/d1/", "/d0/again/", 1)+"/f", []byte("deep"))
		}},
		{"safe saves: write, fsync, rename over", func(t *testing.T, p place) {
			for i := range 100 {
				fd := open(t, p.path("new"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
				unix.Write(fd, fmt.Appendf(nil, "version %d", i))
				check(t, unix.Fsync(fd))
				unix.Close(fd)
				check(t, unix.Rename(p.path("new"), p.path("file")))
				wantContent(t, p.path("file"), fmt.Appendf(nil, "version %d", i))
			}
			p.reread(t, "file", []byte("version 99"))
		}},
	})
}

func TestLink(t *testing.T) {
	onBoth(t, []posixCase{
		{"two names, one file", func(t *testing.T, p place) {
			long := strings.Repeat("l", 255)
			touch(t, p.path("a"), []byte("x"))
			check(t, os.Mkdir(p.path("d"), 0o755))
			check(t, unix.Link(p.path("a"), p.path("d", "b")))
			check(t, unix.Link(p.path("a"), p.path(long)))
			check(t, unix.Link(p.path(long), p.path("d", long)))
			a := stat(t, p.path("a"))
			for _, n := range []string{"d/b", long, "d/" + long} {
				if st := stat(t, p.path(n)); st.Ino != a.Ino || st.Nlink != 4 {
					t.Errorf("%s: inode %d, nlink %d, want %d, 4", n, st.Ino, st.Nlink, a.Ino)
				}
			}
			touch(t, p.path("d", "b"), []byte("through b"))
			check(t, unix.Chmod(p.path(long), 0o600))
			wantContent(t, p.path("a"), []byte("through b"))
			if st := stat(t, p.path("a")); st.Mode&0o777 != 0o600 {
				t.Errorf("mode %o", st.Mode)
			}
			check(t, unix.Unlink(p.path("a")))
			check(t, unix.Unlink(p.path(long)))
			if st := stat(t, p.path("d", "b")); st.Nlink != 2 {
				t.Errorf("nlink %d, want 2", st.Nlink)
			}
			p.afterRemount(func() {
				wantContent(t, p.path("d", long), []byte("through b"))
				if x, y := stat(t, p.path("d", "b")), stat(t, p.path("d", long)); x.Ino != y.Ino || x.Nlink != 2 {
					t.Errorf("after a remount: inodes %d and %d, nlink %d", x.Ino, y.Ino, x.Nlink)
				}
			})
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("a"), nil)
			touch(t, p.path("b"), nil)
			check(t, os.Mkdir(p.path("d"), 0o755))
			wantErr(t, "existing", unix.Link(p.path("a"), p.path("b")), unix.EEXIST)
			wantErr(t, "directory", unix.Link(p.path("d"), p.path("e")), unix.EPERM)
			wantErr(t, "missing", unix.Link(p.path("x"), p.path("e")), unix.ENOENT)
			wantErr(t, "too long", unix.Link(p.path("a"), p.path(strings.Repeat("n", 256))), unix.ENAMETOOLONG)
		}},
		{"of symlinks, fifos and sockets", func(t *testing.T, p place) {
			check(t, os.Symlink("target", p.path("l")))
			check(t, unix.Mkfifo(p.path("p"), 0o644))
			for _, n := range []string{"l", "p"} {
				check(t, unix.Linkat(unix.AT_FDCWD, p.path(n), unix.AT_FDCWD, p.path(n+"2"), 0))
				if a, b := stat(t, p.path(n)), stat(t, p.path(n+"2")); a.Ino != b.Ino || a.Nlink != 2 {
					t.Errorf("%s: inodes %d and %d, nlink %d", n, a.Ino, b.Ino, a.Nlink)
				}
			}
			if to, err := os.Readlink(p.path("l2")); to != "target" {
				t.Errorf("got %q, %v", to, err)
			}
			check(t, unix.Unlink(p.path("l")))
			if to, err := os.Readlink(p.path("l2")); to != "target" {
				t.Errorf("after unlink of the first name: got %q, %v", to, err)
			}
		}},
		{"AT_SYMLINK_FOLLOW links the target", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("x"))
			check(t, os.Symlink("f", p.path("l")))
			check(t, unix.Linkat(unix.AT_FDCWD, p.path("l"), unix.AT_FDCWD, p.path("g"), unix.AT_SYMLINK_FOLLOW))
			if stat(t, p.path("g")).Ino != stat(t, p.path("f")).Ino {
				t.Error("not the target")
			}
		}},
		{"a thousand", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("x"))
			for i := range 1000 {
				check(t, unix.Link(p.path("f"), p.path(fmt.Sprint("n", i))))
			}
			if st := stat(t, p.path("f")); st.Nlink != 1001 {
				t.Errorf("nlink %d, want 1001", st.Nlink)
			}
			for i := range 1000 {
				check(t, unix.Unlink(p.path(fmt.Sprint("n", 999-i))))
			}
			if st := stat(t, p.path("f")); st.Nlink != 1 {
				t.Errorf("nlink %d, want 1", st.Nlink)
			}
		}},
	})
}

func TestSymlink(t *testing.T) {
	onBoth(t, []posixCase{
		{"targets of all lengths", func(t *testing.T, p place) {
			lengths := []int{1, 10, 59, 60, 61, 100, 159, 160, 255, 1000, 2900, 3000, 3071, 3072, 4000, 4090, 4095}
			check1 := func() {
				for _, n := range lengths {
					want := strings.Repeat("t", n-1) + "e"
					l := p.path(fmt.Sprint("l", n))
					if got, err := os.Readlink(l); got != want {
						t.Errorf("length %d: got %d bytes, %v", n, len(got), err)
					}
					if st := stat(t, l); st.Size != int64(n) || st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Mode&0o777 != 0o777 {
						t.Errorf("length %d: size %d, mode %o", n, st.Size, st.Mode)
					}
				}
			}
			for _, n := range lengths {
				if err := unix.Symlink(strings.Repeat("t", n-1)+"e", p.path(fmt.Sprint("l", n))); err != nil {
					t.Fatalf("length %d: %s", n, errName(err))
				}
			}
			check1()
			check(t, unix.Rename(p.path("l4095"), p.path("moved")))
			check(t, unix.Rename(p.path("moved"), p.path("l4095")))
			p.afterRemount(check1)
		}},
		{"errors", func(t *testing.T, p place) {
			wantErr(t, "4096 bytes", unix.Symlink(strings.Repeat("t", 4096), p.path("l")), unix.ENAMETOOLONG)
			wantErr(t, "no bytes", unix.Symlink("", p.path("l")), unix.ENOENT)
			touch(t, p.path("f"), nil)
			wantErr(t, "existing", unix.Symlink("x", p.path("f")), unix.EEXIST)
			_, err := unix.Readlink(p.path("f"), make([]byte, 10))
			wantErr(t, "readlink of a file", err, unix.EINVAL)
		}},
		{"any bytes but NUL", func(t *testing.T, p place) {
			for i, to := range []string{"ünïcödé/路径/путь", "/absolute/../x", "a//b/./c/", "\xff\xfe\x01\n\t", " ", "plyfs.json"} {
				l := p.path(fmt.Sprint("l", i))
				check(t, unix.Symlink(to, l))
				if got, err := os.Readlink(l); got != to {
					t.Errorf("got %q, %v, want %q", got, err, to)
				}
			}
		}},
		{"a short buffer gets the start", func(t *testing.T, p place) {
			check(t, unix.Symlink("0123456789", p.path("l")))
			b := make([]byte, 4)
			if n, err := unix.Readlink(p.path("l"), b); n != 4 || string(b) != "0123" {
				t.Errorf("got %d, %v, %q", n, err, b)
			}
		}},
		{"is followed, within and out of the mount", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o755))
			touch(t, p.path("d", "f"), []byte("x"))
			check(t, os.Symlink("d", p.path("l")))
			check(t, os.Symlink(p.path("l", "f"), p.path("abs")))
			check(t, os.Symlink("/proc/self/stat", p.path("out")))
			wantContent(t, p.path("l", "f"), []byte("x"))
			wantContent(t, p.path("abs"), []byte("x"))
			if b, err := os.ReadFile(p.path("out")); len(b) == 0 {
				t.Error(err)
			}
		}},
		{"has its own owner and times", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Symlink("f", p.path("l")))
			check(t, unix.Lchown(p.path("l"), alice, staff))
			ts := []unix.Timespec{{Sec: 100, Nsec: 1}, {Sec: 200, Nsec: 2}}
			check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("l"), ts, unix.AT_SYMLINK_NOFOLLOW))
			if st := stat(t, p.path("l")); st.Uid != alice || st.Gid != staff || st.Mtim != ts[1] {
				t.Errorf("owner %d:%d, mtime %v", st.Uid, st.Gid, st.Mtim)
			}
			if st := stat(t, p.path("f")); st.Uid != 0 || st.Mtim.Sec < 1000 {
				t.Errorf("the target changed: uid %d, mtime %v", st.Uid, st.Mtim)
			}
		}},
	})
}
