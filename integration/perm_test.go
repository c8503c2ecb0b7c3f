package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPermissions(t *testing.T) {
	try := func(path string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(path, flags, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	onBoth(t, []posixCase{
		{"owner, group, supplementary group, others", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("x"))
			check(t, os.Chown(p.path("f"), alice, staff))
			for _, c := range []struct {
				mode     os.FileMode
				uid, gid int
				groups   []int
				r, w     bool
			}{
				{0o600, alice, alice, nil, true, true}, {0o600, bob, bob, nil, false, false}, {0o040, bob, staff, nil, true, false},
				{0o020, bob, bob, []int{staff}, false, true}, {0o004, bob, bob, nil, true, false}, {0o006, bob, staff, nil, false, false},
				{0o066, alice, staff, nil, false, false}, {0o400, alice, alice, nil, true, false}, {0, 0, 0, nil, false, false},
			} {
				check(t, os.Chmod(p.path("f"), c.mode))
				for _, x := range []struct {
					flags int
					want  bool
				}{{unix.O_RDONLY, c.r}, {unix.O_WRONLY, c.w}, {unix.O_RDWR, c.r && c.w}, {unix.O_WRONLY | unix.O_TRUNC, c.w}, {unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT, c.w}} {
					err := asUser(c.uid, c.gid, c.groups, try(p.path("f"), x.flags))
					if c.uid == 0 { // asUser leaves root its capabilities
						x.want = true
					}
					if (err == nil) != x.want || err != nil && !errors.Is(err, unix.EACCES) {
						t.Errorf("mode %o, user %d:%d %v, flags %#x: %v, want allowed: %v", c.mode, c.uid, c.gid, c.groups, x.flags, err, x.want)
					}
				}
			}
		}},
		{"directories: search, read, write", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o755))
			touch(t, p.path("d", "f"), []byte("x"))
			as := func(f func() error) error { return asUser(alice, alice, nil, f) }
			check(t, os.Chmod(p.path("d"), 0o704))
			wantErr(t, "open without search", as(try(p.path("d", "f"), unix.O_RDONLY)), unix.EACCES)
			wantErr(t, "list with read", as(try(p.path("d"), unix.O_RDONLY|unix.O_DIRECTORY)), nil)
			check(t, os.Chmod(p.path("d"), 0o701))
			wantErr(t, "open with search", as(try(p.path("d", "f"), unix.O_RDONLY)), nil)
			wantErr(t, "list without read", as(try(p.path("d"), unix.O_RDONLY|unix.O_DIRECTORY)), unix.EACCES)
			check(t, os.Chmod(p.path("d"), 0o705))
			for what, f := range map[string]func() error{
				"create":  try(p.path("d", "n"), unix.O_CREAT|unix.O_WRONLY),
				"mkdir":   func() error { return unix.Mkdir(p.path("d", "n"), 0o755) },
				"unlink":  func() error { return unix.Unlink(p.path("d", "f")) },
				"rename":  func() error { return unix.Rename(p.path("d", "f"), p.path("d", "g")) },
				"link":    func() error { return unix.Link(p.path("d", "f"), p.path("d", "g")) },
				"symlink": func() error { return unix.Symlink("x", p.path("d", "n")) },
				"mkfifo":  func() error { return unix.Mkfifo(p.path("d", "n"), 0o644) },
				"tmpfile": try(p.path("d"), unix.O_TMPFILE|unix.O_RDWR),
			} {
				err := as(f)
				if what == "link" {
					wantErr(t, what, err, unix.EACCES, unix.EPERM) // protected_hardlinks
				} else {
					wantErr(t, what, err, unix.EACCES)
				}
			}
			wantNames(t, p.path("d"), "f")
			check(t, os.Chmod(p.path("d"), 0o777))
			check(t, as(func() error { return unix.Unlink(p.path("d", "f")) }))
		}},
		{"what a user creates is the user's", func(t *testing.T, p place) {
			check(t, os.Chmod(p.path(), 0o777))
			check(t, asUser(alice, staff, nil, func() error {
				return errors.Join(try(p.path("f"), unix.O_CREAT|unix.O_RDWR)(), unix.Mkdir(p.path("d"), 0o755),
					unix.Symlink("x", p.path("l")), unix.Mkfifo(p.path("p"), 0o644))
			}))
			fd := 0
			check(t, asUser(alice, staff, nil, func() (err error) {
				fd, err = unix.Open(p.path(), unix.O_TMPFILE|unix.O_RDWR, 0o644)
				return err
			}))
			defer unix.Close(fd)
			for _, n := range []string{"f", "d", "l", "p"} {
				if st := stat(t, p.path(n)); st.Uid != alice || st.Gid != staff {
					t.Errorf("%s belongs to %d:%d", n, st.Uid, st.Gid)
				}
			}
			if st := fstat(t, fd); st.Uid != alice || st.Gid != staff {
				t.Errorf("unnamed file belongs to %d:%d", st.Uid, st.Gid)
			}
		}},
		{"access(2)", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Chmod(p.path("f"), 0o754))
			check(t, asUser(alice, alice, nil, func() error {
				wantErr(t, "R", unix.Access(p.path("f"), unix.R_OK), nil)
				wantErr(t, "W", unix.Access(p.path("f"), unix.W_OK), unix.EACCES)
				wantErr(t, "X", unix.Access(p.path("f"), unix.X_OK), unix.EACCES)
				wantErr(t, "F", unix.Access(p.path("f"), unix.F_OK), nil)
				return nil
			}))
			check(t, os.Chmod(p.path("f"), 0o644))
			wantErr(t, "root cannot execute what nobody may", unix.Access(p.path("f"), unix.X_OK), unix.EACCES)
		}},
		{"an open descriptor keeps its rights", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("x"))
			check(t, os.Chmod(p.path("f"), 0o666))
			check(t, asUser(alice, alice, nil, func() error {
				fd, err := unix.Open(p.path("f"), unix.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := os.Chmod(p.path("f"), 0); !errors.Is(err, unix.EPERM) {
					t.Errorf("chmod by another: %v", err)
				}
				_, err = unix.Pwrite(fd, []byte("y"), 0)
				return err
			}))
		}},
		{"sticky directories", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o777))
			check(t, unix.Chmod(p.path("d"), 0o1777))
			for _, n := range []string{"a", "b", "c"} {
				touch(t, p.path("d", n), nil)
				check(t, os.Chown(p.path("d", n), alice, alice))
			}
			check(t, asUser(bob, bob, nil, func() error {
				wantErr(t, "unlink of another's", unix.Unlink(p.path("d", "a")), unix.EPERM, unix.EACCES)
				wantErr(t, "rename of another's", unix.Rename(p.path("d", "a"), p.path("d", "x")), unix.EPERM, unix.EACCES)
				if err := os.WriteFile(p.path("d", "bobs"), nil, 0o644); err != nil {
					return err
				}
				wantErr(t, "rename over another's", unix.Rename(p.path("d", "bobs"), p.path("d", "a")), unix.EPERM, unix.EACCES)
				return nil
			}))
			check(t, asUser(alice, alice, nil, func() error {
				return errors.Join(unix.Rename(p.path("d", "a"), p.path("d", "x")), unix.Unlink(p.path("d", "b")))
			}))
			wantNames(t, p.path("d"), "bobs", "c", "x")
		}},
	})
}

func TestSuidSgid(t *testing.T) {
	const suid, sgid = unix.S_ISUID, unix.S_ISGID
	// Each as user alice, on a file of hers that is writable and has both bits.
	table := []struct {
		name string
		run  func(f string, fd int) error
	}{
		{"write", func(f string, fd int) error { _, err := unix.Write(fd, []byte("x")); return err }},
		{"pwrite past the end", func(f string, fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 100000); return err }},
		{"O_DIRECT write", func(f string, fd int) error {
			d, err := unix.Open(f, unix.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				return err
			}
			defer unix.Close(d)
			_, err = unix.Pwrite(d, aligned(4096), 0)
			return err
		}},
		{"truncate", func(f string, fd int) error { return unix.Truncate(f, 3) }},
		{"ftruncate", func(f string, fd int) error { return unix.Ftruncate(fd, 30000) }},
		{"O_TRUNC", func(f string, fd int) error {
			d, err := unix.Open(f, unix.O_RDWR|unix.O_TRUNC, 0)
			if err == nil {
				unix.Close(d)
			}
			return err
		}},
		{"fallocate", func(f string, fd int) error { return unix.Fallocate(fd, 0, 0, 20000) }},
		{"punch hole", func(f string, fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 100)
		}},
		{"chown to a group of hers", func(f string, fd int) error { return unix.Chown(f, -1, staff) }},
	}
	onBoth(t, []posixCase{
		{"a user's change clears them", func(t *testing.T, p place) {
			for i, c := range table {
				f := p.path(fmt.Sprint("f", i))
				touch(t, f, pattern(10000, 1))
				check(t, os.Chown(f, alice, alice))
				check(t, unix.Chmod(f, suid|sgid|0o777))
				check(t, unix.Setxattr(f, "security.capability", capability, 0))
				check(t, unix.Chmod(f, suid|sgid|0o777))
				check(t, asUser(alice, alice, []int{staff}, func() error {
					fd, err := unix.Open(f, unix.O_RDWR, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					return c.run(f, fd)
				}))
				if m := stat(t, f).Mode & 0o7777; m != 0o777 {
					t.Errorf("%s: mode %o, want 777", c.name, m)
				}
				if c.name == "write" || c.name == "truncate" || c.name == "chown to a group of hers" {
					_, err := getxattr(t, f, "security.capability")
					wantErr(t, c.name+": file capabilities", err, unix.ENODATA)
				}
			}
		}},
		{"a set-group-ID without group execute is another thing, and stays", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Chown(p.path("f"), alice, alice))
			check(t, unix.Chmod(p.path("f"), sgid|0o666))
			check(t, asUser(alice, alice, nil, func() error { return os.WriteFile(p.path("f"), []byte("x"), 0) }))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != sgid|0o666 {
				t.Errorf("mode %o, want %o", m, sgid|0o666)
			}
		}},
		{"root's writes keep them", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, unix.Chmod(p.path("f"), suid|sgid|0o755))
			fd := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(fd)
			unix.Write(fd, []byte("x"))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != suid|sgid|0o755 {
				t.Errorf("mode %o", m)
			}
		}},
		{"reading and chmod keep them", func(t *testing.T, p place) {
			touch(t, p.path("f"), []byte("x"))
			check(t, os.Chown(p.path("f"), alice, alice))
			check(t, unix.Chmod(p.path("f"), suid|0o755))
			check(t, asUser(alice, alice, nil, func() error {
				_, err := os.ReadFile(p.path("f"))
				return err
			}))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != suid|0o755 {
				t.Errorf("mode %o", m)
			}
		}},
		{"chmod by one outside the file's group drops set-group-ID", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Chown(p.path("f"), alice, staff))
			check(t, asUser(alice, alice, nil, func() error { return unix.Chmod(p.path("f"), sgid|0o755) }))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != 0o755 {
				t.Errorf("mode %o, want 755", m)
			}
			check(t, asUser(alice, alice, []int{staff}, func() error { return unix.Chmod(p.path("f"), sgid|0o755) }))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != sgid|0o755 {
				t.Errorf("mode %o for a member of the group, want %o", m, sgid|0o755)
			}
		}},
		{"a set-group-ID directory hands its group on", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("d"), 0o777))
			check(t, os.Chown(p.path("d"), 0, staff))
			check(t, unix.Chmod(p.path("d"), sgid|0o777))
			check(t, asUser(alice, alice, nil, func() error {
				unix.Symlink("x", p.path("d", "l"))
				unix.Mkfifo(p.path("d", "p"), 0o644)
				return errors.Join(os.WriteFile(p.path("d", "f"), nil, 0o644), unix.Mkdir(p.path("d", "sub"), 0o755), os.WriteFile(p.path("d", "sub", "g"), nil, 0o644))
			}))
			for _, n := range []string{"f", "sub", "sub/g", "l", "p"} {
				if st := stat(t, p.path("d", n)); st.Gid != staff || st.Uid != alice {
					t.Errorf("%s belongs to %d:%d, want %d:%d", n, st.Uid, st.Gid, alice, staff)
				}
			}
			if m := stat(t, p.path("d", "sub")).Mode & 0o7777; m != sgid|0o755 {
				t.Errorf("mode of the directory in it %o, want %o", m, sgid|0o755)
			}
		}},
		{"a user may create a set-user-ID file", func(t *testing.T, p place) {
			check(t, os.Chmod(p.path(), 0o777))
			check(t, asUser(alice, alice, nil, func() error {
				fd, err := unix.Open(p.path("f"), unix.O_CREAT|unix.O_RDWR, suid|0o755)
				unix.Close(fd)
				return err
			}))
			if m := stat(t, p.path("f")).Mode & 0o7777; m != suid|0o755 {
				t.Errorf("mode %o", m)
			}
		}},
	})
}

func TestSpecialFiles(t *testing.T) {
	onBoth(t, []posixCase{
		{"a fifo carries bytes", func(t *testing.T, p place) {
			check(t, unix.Mkfifo(p.path("p"), 0o600))
			done := make(chan error, 1)
			go func() { done <- os.WriteFile(p.path("p"), []byte("through the pipe"), 0) }()
			b, err := os.ReadFile(p.path("p"))
			if err != nil || string(b) != "through the pipe" {
				t.Errorf("got %q, %v", b, err)
			}
			check(t, <-done)
			_, err = unix.Open(p.path("p"), unix.O_WRONLY|unix.O_NONBLOCK, 0)
			wantErr(t, "no reader", err, unix.ENXIO)
		}},
		{"a socket listens", func(t *testing.T, p place) {
			check(t, os.Chdir(p.path())) // a socket's path is short
			defer os.Chdir("/")
			l, err := net.Listen("unix", "sock")
			check(t, err)
			defer l.Close()
			if m := stat(t, p.path("sock")).Mode & unix.S_IFMT; m != unix.S_IFSOCK {
				t.Errorf("mode %o", m)
			}
			go func() {
				if c, err := l.Accept(); err == nil {
					c.Write([]byte("hello"))
					c.Close()
				}
			}()
			c, err := net.DialTimeout("unix", "sock", 5*time.Second)
			check(t, err)
			defer c.Close()
			b := make([]byte, 5)
			if n, err := c.Read(b); n != 5 || !bytes.Equal(b, []byte("hello")) {
				t.Error(n, err)
			}
			_, err = unix.Open("sock", unix.O_RDONLY, 0)
			wantErr(t, "open of a socket", err, unix.ENXIO)
		}},
		{"device nodes", func(t *testing.T, p place) {
			for n, c := range map[string]struct {
				mode uint32
				dev  uint64
			}{
				"null": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 3)}, "blk": {unix.S_IFBLK | 0o600, unix.Mkdev(7, 200)}, "large": {unix.S_IFCHR | 0o600, unix.Mkdev(500, 70000)},
			} {
				check(t, unix.Mknod(p.path(n), c.mode, int(c.dev)))
				see := func() {
					if st := stat(t, p.path(n)); st.Rdev != c.dev || st.Mode != c.mode&^0o022 {
						t.Errorf("%s: rdev %#x, mode %o; want %#x, %o", n, st.Rdev, st.Mode, c.dev, c.mode&^0o022)
					}
				}
				see()
				p.afterRemount(see)
			}
			if p.plyfs() { // nodev is the default of a mount
				_, err := unix.Open(p.path("null"), unix.O_RDWR, 0)
				wantErr(t, "opening a device on a nodev mount", err, unix.EACCES)
			}
			check(t, os.Chmod(p.path(), 0o777))
			check(t, asUser(alice, alice, nil, func() error {
				wantErr(t, "device node by a user", unix.Mknod(p.path("x"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), unix.EPERM)
				return nil
			}))
		}},
		{"mknod of a regular file", func(t *testing.T, p place) {
			check(t, unix.Mknod(p.path("f"), unix.S_IFREG|0o640, 0))
			check(t, os.WriteFile(p.path("f"), []byte("x"), 0))
			p.reread(t, "f", []byte("x"))
			wantErr(t, "existing", unix.Mknod(p.path("f"), unix.S_IFIFO|0o640, 0), unix.EEXIST)
		}},
		{"attributes, renames and removal", func(t *testing.T, p place) {
			check(t, unix.Mkfifo(p.path("p"), 0o600))
			check(t, unix.Chmod(p.path("p"), 0o622))
			check(t, unix.Chown(p.path("p"), alice, staff))
			check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("p"), []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
			touch(t, p.path("f"), nil)
			check(t, unix.Rename(p.path("p"), p.path("f")))
			if st := stat(t, p.path("f")); st.Mode != unix.S_IFIFO|0o622 || st.Uid != alice || st.Mtim.Sec != 2 {
				t.Errorf("mode %o, uid %d, mtime %v", st.Mode, st.Uid, st.Mtim)
			}
			check(t, unix.Unlink(p.path("f")))
		}},
	})
}
