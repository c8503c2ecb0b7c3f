package integration

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAttributes(t *testing.T) {
	onBoth(t, []posixCase{
		{"chmod, chown", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Mkdir(p.path("d"), 0o755))
			for _, n := range []string{"f", "d"} {
				kind := stat(t, p.path(n)).Mode & unix.S_IFMT
				for _, m := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1777, 0o7777, 0o640} {
					check(t, unix.Chmod(p.path(n), m))
					if got := stat(t, p.path(n)).Mode; got != kind|m {
						t.Errorf("%s: mode %o, want %o", n, got, kind|m)
					}
				}
				check(t, unix.Chown(p.path(n), alice, -1))
				check(t, unix.Chown(p.path(n), -1, staff))
				if st := stat(t, p.path(n)); st.Uid != alice || st.Gid != staff {
					t.Errorf("%s: %d:%d", n, st.Uid, st.Gid)
				}
				check(t, unix.Chown(p.path(n), 1<<31, 1<<32-2))
				if st := stat(t, p.path(n)); st.Uid != 1<<31 || st.Gid != 1<<32-2 {
					t.Errorf("%s: large IDs: %d:%d", n, st.Uid, st.Gid)
				}
			}
			p.afterRemount(func() {
				if st := stat(t, p.path("f")); st.Uid != 1<<31 || st.Gid != 1<<32-2 || st.Mode&0o7777 != 0o640 {
					t.Errorf("after a remount %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
				}
			})
		}},
		{"who may change them", func(t *testing.T, p place) {
			check(t, os.Chmod(p.path(), 0o777))
			touch(t, p.path("roots"), nil)
			touch(t, p.path("hers"), nil)
			check(t, os.Chown(p.path("hers"), alice, alice))
			check(t, asUser(alice, alice, []int{staff}, func() error {
				wantErr(t, "chmod of another's", unix.Chmod(p.path("roots"), 0o777), unix.EPERM)
				wantErr(t, "chown of another's", unix.Chown(p.path("roots"), alice, -1), unix.EPERM)
				wantErr(t, "giving away", unix.Chown(p.path("hers"), bob, -1), unix.EPERM)
				wantErr(t, "to a foreign group", unix.Chown(p.path("hers"), -1, bob), unix.EPERM)
				wantErr(t, "to a group of hers", unix.Chown(p.path("hers"), -1, staff), nil)
				wantErr(t, "chmod of hers", unix.Chmod(p.path("hers"), 0o600), nil)
				return nil
			}))
		}},
		{"times, to the nanosecond", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Mkdir(p.path("d"), 0o755))
			for _, n := range []string{"f", "d"} {
				for _, ts := range [][2]unix.Timespec{
					{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999999999}},
					{{Sec: 0}, {Sec: 0, Nsec: 1}},
					{{Sec: -1, Nsec: 500}, {Sec: -1_000_000_000, Nsec: 7}},
					{{Sec: 1<<32 + 5, Nsec: 123456789}, {Sec: 3<<32 - 1, Nsec: 1}},
				} {
					check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path(n), ts[:], 0))
					if st := stat(t, p.path(n)); st.Atim != ts[0] || st.Mtim != ts[1] {
						t.Errorf("%s: got %v %v, want %v", n, st.Atim, st.Mtim, ts)
					}
				}
				p.afterRemount(func() {
					if st := stat(t, p.path(n)); st.Mtim != (unix.Timespec{Sec: 3<<32 - 1, Nsec: 1}) {
						t.Errorf("%s: after a remount mtime %v", n, st.Mtim)
					}
				})
			}
		}},
		{"UTIME_NOW and UTIME_OMIT", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			f := p.path("f")
			set := func(a, m unix.Timespec) unix.Stat_t {
				check(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{a, m}, 0))
				return stat(t, f)
			}
			omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
			set(unix.Timespec{Sec: 10}, unix.Timespec{Sec: 20})
			if st := set(omit, unix.Timespec{Sec: 30}); st.Atim.Sec != 10 || st.Mtim.Sec != 30 {
				t.Errorf("omit atime: %v %v", st.Atim, st.Mtim)
			}
			if st := set(unix.Timespec{Sec: 40}, omit); st.Atim.Sec != 40 || st.Mtim.Sec != 30 {
				t.Errorf("omit mtime: %v %v", st.Atim, st.Mtim)
			}
			if st := set(now, omit); time.Since(time.Unix(st.Atim.Unix())).Abs() > time.Minute || st.Mtim.Sec != 30 {
				t.Errorf("atime now: %v %v", st.Atim, st.Mtim)
			}
			before := stat(t, f)
			if st := set(omit, omit); st.Atim != before.Atim || st.Mtim != before.Mtim {
				t.Errorf("both omitted: %v %v", st.Atim, st.Mtim)
			}
			fd := open(t, f, unix.O_RDWR, 0)
			defer unix.Close(fd)
			unix.Write(fd, []byte("x"))
			check(t, unix.Futimes(fd, []unix.Timeval{{Sec: 50}, {Sec: 60}}))
			if st := fstat(t, fd); st.Atim.Sec != 50 || st.Mtim.Sec != 60 {
				t.Errorf("futimes: %v %v", st.Atim, st.Mtim)
			}
			// Times set by hand outlive the writes before them.
			check(t, unix.Fsync(fd))
			p.afterRemount(func() {
				if st := stat(t, f); st.Mtim.Sec != 60 {
					t.Errorf("after fsync and remount: mtime %v", st.Mtim)
				}
			})
		}},
		{"who may set times", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, asUser(alice, alice, nil, func() error {
				at := []unix.Timespec{{Sec: 1}, {Sec: 1}}
				wantErr(t, "a given time", unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), at, 0), unix.EPERM)
				now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
				wantErr(t, "now", unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), now, 0), unix.EACCES)
				return nil
			}))
			check(t, os.Chmod(p.path("f"), 0o666))
			check(t, asUser(alice, alice, nil, func() error {
				return unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}, 0)
			}))
		}},
		{"inode numbers and all the rest stay over a remount", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(12345, 1))
			check(t, os.Mkdir(p.path("d"), 0o2750))
			check(t, os.Symlink("target", p.path("l")))
			check(t, unix.Mkfifo(p.path("p"), 0o640))
			check(t, unix.Link(p.path("f"), p.path("d", "g")))
			names := []string{"f", "d", "l", "p", "d/g", "."}
			before := map[string]unix.Stat_t{}
			for _, n := range names {
				before[n] = stat(t, p.path(n))
			}
			p.afterRemount(func() {
				for _, n := range names {
					a, b := before[n], stat(t, p.path(n))
					if a.Ino != b.Ino || a.Mode != b.Mode || a.Nlink != b.Nlink || a.Size != b.Size || a.Mtim != b.Mtim || a.Uid != b.Uid {
						t.Errorf("%s: before %+v\nafter %+v", n, a, b)
					}
				}
			})
		}},
	})
}

// TestTimestamps is the table of which operation moves which time.
func TestTimestamps(t *testing.T) {
	type ops struct {
		name          string
		run           func(p place) error
		m, c          bool // of the file "f", which exists beforehand
		parentChanges bool
	}
	write := func(p place, flags int, f func(fd int) error) error {
		fd, err := unix.Open(p.path("f"), unix.O_RDWR|flags, 0)
		if err != nil {
			return err
		}
		return errors.Join(f(fd), unix.Close(fd))
	}
	table := []ops{
		{"write", func(p place) error {
			return write(p, 0, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		}, true, true, false},
		{"append", func(p place) error {
			return write(p, unix.O_APPEND, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		}, true, true, false},
		{"O_DIRECT write", func(p place) error {
			return write(p, unix.O_DIRECT, func(fd int) error { _, err := unix.Pwrite(fd, aligned(4096), 0); return err })
		}, true, true, false},
		{"write through a mapping", func(p place) error {
			return write(p, 0, func(fd int) error {
				m, err := unix.Mmap(fd, 0, 100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err != nil {
					return err
				}
				m[50]++
				return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
			})
		}, true, true, false},
		{"truncate to less", func(p place) error { return unix.Truncate(p.path("f"), 50) }, true, true, false},
		{"truncate to more", func(p place) error { return unix.Truncate(p.path("f"), 5000) }, true, true, false},
		{"O_TRUNC", func(p place) error { return write(p, unix.O_TRUNC, func(int) error { return nil }) }, true, true, false},
		{"fallocate", func(p place) error {
			return write(p, 0, func(fd int) error { return unix.Fallocate(fd, 0, 0, 10000) })
		}, true, true, false},
		{"punch hole", func(p place) error {
			return write(p, 0, func(fd int) error {
				return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 50)
			})
		}, true, true, false},
		{"chmod", func(p place) error { return unix.Chmod(p.path("f"), 0o600) }, false, true, false},
		{"chown", func(p place) error { return unix.Chown(p.path("f"), alice, -1) }, false, true, false},
		{"setxattr", func(p place) error { return unix.Setxattr(p.path("f"), "user.a", []byte("x"), 0) }, false, true, false},
		{"link", func(p place) error { return unix.Link(p.path("f"), p.path("g")) }, false, true, true},
		{"unlink of another name", func(p place) error { return unix.Unlink(p.path("g")) }, false, true, true},
		{"rename", func(p place) error {
			return errors.Join(unix.Rename(p.path("f"), p.path("h")), unix.Rename(p.path("h"), p.path("f")))
		}, false, true, true},
		{"create beside it", func(p place) error { return os.WriteFile(p.path("new"), nil, 0o644) }, false, false, true},
		{"mkdir beside it", func(p place) error { return os.Mkdir(p.path("dir"), 0o755) }, false, false, true},
		{"rmdir beside it", func(p place) error { return os.Remove(p.path("dir")) }, false, false, true},
		{"symlink beside it", func(p place) error { return os.Symlink("x", p.path("s")) }, false, false, true},
		{"open and close", func(p place) error { return write(p, 0, func(int) error { return nil }) }, false, false, false},
		{"fsync", func(p place) error { return write(p, 0, unix.Fsync) }, false, false, false},
		{"stat and access", func(p place) error { return unix.Access(p.path("f"), unix.R_OK) }, false, false, false},
	}
	onBoth(t, []posixCase{
		{"table", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(100, 1))
			check(t, unix.Link(p.path("f"), p.path("g")))
			check(t, unix.Unlink(p.path("g")))
			old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
			for _, c := range table {
				check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), old, 0))
				check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path(), old, 0))
				time.Sleep(12 * time.Millisecond) // the kernel's clock moves each 4 to 10 ms
				f0, d0 := stat(t, p.path("f")), stat(t, p.path())
				check(t, c.run(p))
				// Mapping a file counts as reading it.
				if got := stat(t, p.path("f")).Atim; got != f0.Atim && c.name != "write through a mapping" {
					t.Errorf("%s: atime moved from %v to %v", c.name, f0.Atim, got)
				}
				f1, d1 := stat(t, p.path("f")), stat(t, p.path())
				for _, x := range []struct {
					what      string
					got, want bool
				}{
					{"mtime", f1.Mtim != f0.Mtim, c.m}, {"ctime", f1.Ctim != f0.Ctim, c.c},
					{"the directory's mtime", d1.Mtim != d0.Mtim, c.parentChanges}, {"the directory's ctime", d1.Ctim != d0.Ctim, c.parentChanges},
				} {
					if x.got != x.want {
						t.Errorf("%s: %s changed: %v, want %v", c.name, x.what, x.got, x.want)
					}
				}
				if c.m && time.Since(time.Unix(f1.Mtim.Unix())).Abs() > time.Minute {
					t.Errorf("%s: mtime %v is not now", c.name, f1.Mtim)
				}
			}
		}},
		{"reading moves atime (relatime), O_NOATIME does not", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(10000, 1))
			old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
			check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), old, 0))
			read := func(flags int) int64 {
				fd := open(t, p.path("f"), unix.O_RDONLY|flags, 0)
				unix.Read(fd, make([]byte, 10000))
				unix.Close(fd)
				return stat(t, p.path("f")).Atim.Sec
			}
			if got := read(unix.O_NOATIME); got != 1000 {
				t.Errorf("O_NOATIME: atime %d", got)
			}
			if got := read(0); got == 1000 {
				t.Error("atime has not moved")
			}
		}},
		{"a rename over a file and an exchange change both directories", func(t *testing.T, p place) {
			check(t, os.Mkdir(p.path("a"), 0o755))
			check(t, os.Mkdir(p.path("b"), 0o755))
			touch(t, p.path("a", "f"), nil)
			touch(t, p.path("b", "f"), nil)
			for i, flags := range []uint{unix.RENAME_EXCHANGE, 0} {
				old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
				check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("a"), old, 0))
				check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("b"), old, 0))
				check(t, rename2(p.path("a", "f"), p.path("b", "f"), flags))
				for _, d := range []string{"a", "b"} {
					if stat(t, p.path(d)).Mtim.Sec == 1000 {
						t.Errorf("case %d: mtime of %s has not moved", i, d)
					}
				}
			}
		}},
		{"ctime does not go back", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			ctime := func() int64 { st := stat(t, p.path("f")); return st.Ctim.Nano() }
			last := ctime()
			for i := range 50 {
				switch i % 3 {
				case 0:
					check(t, os.WriteFile(p.path("f"), fmt.Append(nil, i), 0o644))
				case 1:
					check(t, unix.Chmod(p.path("f"), uint32(0o600+i%8)))
				case 2:
					check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
				}
				if now := ctime(); now < last {
					t.Fatalf("step %d: ctime %d after %d", i, now, last)
				} else {
					last = now
				}
			}
		}},
	})
}
