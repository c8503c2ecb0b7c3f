package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	onBoth(t, []posixCase{
		{"create gives the mode less the umask", func(t *testing.T, p place) {
			for _, m := range []struct{ perm, want uint32 }{
				{0o666, 0o644}, {0o600, 0o600}, {0o777, 0o755}, {0, 0}, {0o7777, 0o7755}, {0o444, 0o444},
			} {
				f := p.path(fmt.Sprintf("%o", m.perm))
				unix.Close(open(t, f, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, m.perm))
				if got := stat(t, f).Mode; got != unix.S_IFREG|m.want {
					t.Errorf("perm %o: got mode %o, want %o", m.perm, got, unix.S_IFREG|m.want)
				}
			}
		}},
		{"a file created unreadable can be written through its descriptor", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0)
			defer unix.Close(fd)
			if _, err := unix.Write(fd, []byte("abc")); err != nil {
				t.Error(err)
			}
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("file"), nil)
			check(t, os.Mkdir(p.path("dir"), 0o755))
			check(t, os.Symlink("nowhere", p.path("dangling")))
			check(t, os.Symlink("file", p.path("link")))
			check(t, os.Symlink("loop", p.path("loop")))
			for _, c := range []struct {
				name  string
				flags int
				want  error
			}{
				{"missing", unix.O_RDONLY, unix.ENOENT},
				{"missing/x", unix.O_RDWR | unix.O_CREAT, unix.ENOENT},
				{"file/x", unix.O_RDONLY, unix.ENOTDIR},
				{"file/", unix.O_RDONLY, unix.ENOTDIR},
				{"file", unix.O_RDONLY | unix.O_DIRECTORY, unix.ENOTDIR},
				{"file", unix.O_CREAT | unix.O_EXCL | unix.O_RDWR, unix.EEXIST},
				{"dir", unix.O_CREAT | unix.O_EXCL | unix.O_RDWR, unix.EEXIST},
				{"dangling", unix.O_CREAT | unix.O_EXCL | unix.O_RDWR, unix.EEXIST},
				{"dir", unix.O_WRONLY, unix.EISDIR},
				{"dir", unix.O_RDWR, unix.EISDIR},
				{"dir", unix.O_RDONLY | unix.O_CREAT, unix.EISDIR},
				{"link", unix.O_RDONLY | unix.O_NOFOLLOW, unix.ELOOP},
				{"loop", unix.O_RDONLY, unix.ELOOP},
				{"dangling", unix.O_RDONLY, unix.ENOENT},
			} {
				fd, err := unix.Open(p.path()+"/"+c.name, c.flags, 0o644)
				if err == nil {
					unix.Close(fd)
				}
				wantErr(t, fmt.Sprintf("open %s flags %#x", c.name, c.flags), err, c.want)
			}
		}},
		{"O_CREAT follows a dangling symlink", func(t *testing.T, p place) {
			check(t, os.Symlink("target", p.path("l")))
			unix.Close(open(t, p.path("l"), unix.O_CREAT|unix.O_RDWR, 0o644))
			if stat(t, p.path("target")).Mode&unix.S_IFMT != unix.S_IFREG {
				t.Error("no file at the link's target")
			}
		}},
		{"O_TRUNC empties", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(10000, 1))
			unix.Close(open(t, p.path("f"), unix.O_WRONLY|unix.O_TRUNC, 0))
			wantContent(t, p.path("f"), nil)
		}},
		{"access mode is kept", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("abc"))
			r := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(r)
			w := open(t, p.path("f"), unix.O_WRONLY, 0)
			defer unix.Close(w)
			_, err := unix.Write(r, []byte("x"))
			wantErr(t, "write to O_RDONLY", err, unix.EBADF)
			_, err = unix.Read(w, make([]byte, 1))
			wantErr(t, "read from O_WRONLY", err, unix.EBADF)
			wantErr(t, "ftruncate of O_RDONLY", unix.Ftruncate(r, 0), unix.EINVAL, unix.EBADF)
		}},
		{"O_PATH", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("abc"))
			fd := open(t, p.path("f"), unix.O_PATH, 0)
			defer unix.Close(fd)
			if st := fstat(t, fd); st.Size != 3 {
				t.Errorf("size %d, want 3", st.Size)
			}
			_, err := unix.Read(fd, make([]byte, 1))
			wantErr(t, "read", err, unix.EBADF)
			again := open(t, fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0)
			unix.Close(again)
		}},
		{"a removed directory takes no file", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o755))
			fd := open(t, p.path("d"), unix.O_DIRECTORY, 0)
			defer unix.Close(fd)
			check(t, unix.Rmdir(p.path("d")))
			_, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_RDWR, 0o644)
			wantErr(t, "create", err, unix.ENOENT)
			_, err = unix.ReadDirent(fd, make([]byte, 4096))
			wantErr(t, "getdents", err, nil, unix.ENOENT)
		}},
		{"O_APPEND writes at the end, pwrite too", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("start."))
			a := open(t, p.path("f"), unix.O_WRONLY|unix.O_APPEND, 0)
			defer unix.Close(a)
			b := open(t, p.path("f"), unix.O_WRONLY|unix.O_APPEND, 0)
			defer unix.Close(b)
			for i, fd := range []int{a, b, a, b} {
				if _, err := unix.Write(fd, fmt.Appendf(nil, "%d.", i)); err != nil {
					t.Fatal(err)
				}
			}
			// Linux: with O_APPEND pwrite(2) appends, whatever the offset.
			if _, err := unix.Pwrite(a, []byte("end"), 0); err != nil {
				t.Fatal(err)
			}
			wantContent(t, p.path("f"), []byte("start.0.1.2.3.end"))
			if off, _ := unix.Seek(a, 0, unix.SEEK_CUR); off == 0 {
				t.Error("the file position has not moved")
			}
		}},
		{"appends from many threads lose nothing", func(t *testing.T, p place) {
			const workers, records, size = 8, 60, 777
			var wg sync.WaitGroup
			errs := make(chan error, workers)
			for w := range workers {
				wg.Go(func() {
					fd, err := unix.Open(p.path("f"), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o644)
					if err != nil {
						errs <- err
						return
					}
					defer unix.Close(fd)
					rec := bytes.Repeat([]byte{byte('a' + w)}, size)
					for range records {
						if n, err := unix.Write(fd, rec); err != nil || n != size {
							errs <- fmt.Errorf("write: %d, %w", n, err)
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
			b, err := os.ReadFile(p.path("f"))
			check(t, err)
			if len(b) != workers*records*size {
				t.Fatalf("%d bytes, want %d", len(b), workers*records*size)
			}
			for i := 0; i < len(b); i += size {
				if bytes.Count(b[i:i+size], b[i:i+1]) != size {
					t.Fatalf("record at %d is mixed", i)
				}
			}
		}},
		{"a program runs from it, and is busy while it does", func(t *testing.T, p place) {
			sleep, err := exec.LookPath("sleep")
			check(t, err)
			b, err := os.ReadFile(sleep)
			check(t, err)
			check(t, os.WriteFile(p.path("sleep"), b, 0o755))
			cmd := exec.Command(p.path("sleep"), "10")
			check(t, cmd.Start())
			_, err = unix.Open(p.path("sleep"), unix.O_WRONLY, 0)
			cmd.Process.Kill()
			cmd.Wait()
			wantErr(t, "open for writing", err, unix.ETXTBSY)
		}},
	})
}

func TestTmpfile(t *testing.T) {
	onBoth(t, []posixCase{
		{"gets a name by linkat", func(t *testing.T, p place) {
			for i, flag := range []int{unix.AT_SYMLINK_FOLLOW, unix.AT_EMPTY_PATH} {
				fd := open(t, p.path(), unix.O_TMPFILE|unix.O_RDWR, 0o640)
				defer unix.Close(fd)
				if st := fstat(t, fd); st.Nlink != 0 || st.Mode != unix.S_IFREG|0o640 {
					t.Errorf("nlink %d, mode %o; want 0, %o", st.Nlink, st.Mode, unix.S_IFREG|0o640)
				}
				want := pattern(20000+i, 7)
				if n, err := unix.Write(fd, want); n != len(want) {
					t.Fatal(n, err)
				}
				name := p.path(fmt.Sprint("f", i))
				var err error
				if flag == unix.AT_EMPTY_PATH {
					err = unix.Linkat(fd, "", unix.AT_FDCWD, name, flag)
				} else {
					err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, flag)
				}
				check(t, err)
				wantContent(t, name, want)
				if st := fstat(t, fd); st.Nlink != 1 {
					t.Errorf("nlink %d after linkat, want 1", st.Nlink)
				}
			}
		}},
		{"survives a remount once linked", func(t *testing.T, p place) {
			fd := open(t, p.path(), unix.O_TMPFILE|unix.O_WRONLY, 0o600)
			want := pattern(5000, 3)
			unix.Write(fd, want)
			err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p.path("f"), unix.AT_SYMLINK_FOLLOW)
			unix.Close(fd)
			check(t, err)
			p.remount(t)
			wantContent(t, p.path("f"), want)
		}},
		{"with O_EXCL never gets a name", func(t *testing.T, p place) {
			fd := open(t, p.path(), unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o600)
			defer unix.Close(fd)
			err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p.path("f"), unix.AT_SYMLINK_FOLLOW)
			wantErr(t, "linkat", err, unix.ENOENT)
		}},
		{"leaves nothing in the directory", func(t *testing.T, p place) {
			fd := open(t, p.path(), unix.O_TMPFILE|unix.O_RDWR, 0o600)
			defer unix.Close(fd)
			if l, err := os.ReadDir(p.path()); err != nil || len(l) != 0 {
				t.Errorf("directory holds %v, %v", l, err)
			}
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			_, err := unix.Open(p.path(), unix.O_TMPFILE|unix.O_RDONLY, 0o600)
			wantErr(t, "read-only", err, unix.EINVAL)
			_, err = unix.Open(p.path("f"), unix.O_TMPFILE|unix.O_RDWR, 0o600)
			wantErr(t, "in a file", err, unix.ENOTDIR)
		}},
	})
}

func TestUnlinked(t *testing.T) {
	onBoth(t, []posixCase{
		{"an open file lives on without its name", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			want := pattern(30000, 5)
			unix.Pwrite(fd, want, 0)
			check(t, unix.Unlink(p.path("f")))
			got := make([]byte, len(want))
			if n, err := unix.Pread(fd, got, 0); n != len(got) || !bytes.Equal(got, want) {
				t.Fatalf("pread: %d, %v", n, err)
			}
			if _, err := unix.Pwrite(fd, []byte("more"), 100000); err != nil {
				t.Error(err)
			}
			if st := fstat(t, fd); st.Nlink != 0 || st.Size != 100004 {
				t.Errorf("nlink %d, size %d; want 0, 100004", st.Nlink, st.Size)
			}
			check(t, unix.Ftruncate(fd, 10))
			check(t, unix.Fchmod(fd, 0o600))
			check(t, unix.Fchown(fd, alice, staff))
			check(t, unix.Fsync(fd))
			check(t, unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
			if st := fstat(t, fd); st.Size != 10 || st.Mode&0o777 != 0o600 || st.Uid != alice {
				t.Errorf("size %d, mode %o, uid %d", st.Size, st.Mode, st.Uid)
			}
			// The name is free for another file, which is another.
			touch(t, p.path("f"), []byte("new"))
			if st := fstat(t, fd); st.Size != 10 {
				t.Errorf("the old file changed: size %d", st.Size)
			}
			again := open(t, fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY, 0)
			defer unix.Close(again)
			if n, err := unix.Pread(again, got, 0); n != 10 || err != nil {
				t.Errorf("reopened: %d, %v", n, err)
			}
		}},
		{"so does one whose name another was renamed over", func(t *testing.T, p place) {
			touch(t, p.path("a"), []byte("old"))
			touch(t, p.path("b"), []byte("new!"))
			fd := open(t, p.path("a"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			check(t, unix.Rename(p.path("b"), p.path("a")))
			got := make([]byte, 10)
			if n, err := unix.Pread(fd, got, 0); n != 3 || string(got[:3]) != "old" {
				t.Errorf("got %q, %v", got[:max(n, 0)], err)
			}
			wantContent(t, p.path("a"), []byte("new!"))
		}},
		{"a file with another name is not lost", func(t *testing.T, p place) {
			touch(t, p.path("a"), []byte("x"))
			check(t, unix.Link(p.path("a"), p.path("b")))
			fd := open(t, p.path("a"), unix.O_RDWR, 0)
			check(t, unix.Unlink(p.path("a")))
			unix.Pwrite(fd, []byte("y"), 0)
			if st := fstat(t, fd); st.Nlink != 1 {
				t.Errorf("nlink %d, want 1", st.Nlink)
			}
			unix.Close(fd)
			wantContent(t, p.path("b"), []byte("y"))
		}},
		{"a removed file mapped into memory", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(8192, 1))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			m, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			check(t, err)
			defer unix.Munmap(m)
			check(t, unix.Unlink(p.path("f")))
			unix.Close(fd)
			if !bytes.Equal(m, pattern(8192, 1)) {
				t.Error("content differs")
			}
			m[5000] = 1
			check(t, unix.Msync(m, unix.MS_SYNC))
		}},
		{"errors of unlink", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o755))
			wantErr(t, "directory", unix.Unlink(p.path("d")), unix.EISDIR, unix.EPERM)
			wantErr(t, "missing", unix.Unlink(p.path("x")), unix.ENOENT)
			touch(t, p.path("f"), nil)
			wantErr(t, "below a file", unix.Unlink(p.path("f", "x")), unix.ENOTDIR)
			wantErr(t, "rmdir of a file", unix.Rmdir(p.path("f")), unix.ENOTDIR)
			touch(t, p.path("d", "x"), nil)
			err := unix.Rmdir(p.path("d"))
			if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
				t.Errorf("rmdir of a full directory: %v", err)
			}
		}},
	})
}
