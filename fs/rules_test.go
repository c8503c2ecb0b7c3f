package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRulesOfADiskFilesystem does the same on a mount and on a plain directory,
// as root and as others, and compares what becomes of modes, owners and ACLs.
func TestRulesOfADiskFilesystem(t *testing.T) {
	for name, run := range map[string]func(*script){
		"set-ID bits":           setIDBits,
		"file capabilities":     fileCapabilities,
		"set-group-ID dirs":     setGIDDirs,
		"default ACLs":          defaultACLs,
		"access ACLs":           accessACLs,
		"umask":                 umasks,
		"sticky directories":    stickyDirs,
		"truncation and times":  truncation,
		"access times":          accessTimes,
		"devices and fifos":     specialFiles,
		"unnamed files":         unnamedFiles,
		"xattrs by other users": xattrsOfOthers,
	} {
		t.Run(name, func(t *testing.T) {
			got := &script{t: t, dir: newMount(t, 4096).dir}
			want := &script{t: t, dir: plainDir(t)}
			run(got)
			run(want)
			for i := range max(len(got.said), len(want.said)) {
				g, w := at(got.said, i), at(want.said, i)
				if g != w {
					t.Errorf("got %q, want %q", g, w)
				}
			}
		})
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

// plainDir is an empty directory that others may pass.
func plainDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	return dir
}

// script runs system calls below dir and writes down what came of them.
type script struct {
	t    *testing.T
	dir  string
	said []string
}

func (s *script) path(name string) string { return filepath.Join(s.dir, name) }

func (s *script) say(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

// try writes down the error of a call.
func (s *script) try(what string, err error) {
	var errno unix.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	s.say("%s: %v", what, err)
}

// show writes down mode, owner and link count.
func (s *script) show(what, name string) {
	var st unix.Stat_t
	err := unix.Lstat(s.path(name), &st)
	s.say("%s: mode %o owner %d:%d links %d rdev %d %v", what, st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, err)
}

// mode writes down the mode for a caller that asks for nothing else. One that asks
// for all has the kernel ask the daemon.
func (s *script) mode(what, name string) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, s.path(name), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MODE, &st)
	s.say("%s: mode alone %o %v", what, st.Mode, err)
}

func (s *script) xattr(what, name, attr string) {
	buf := make([]byte, 1024)
	n, err := unix.Lgetxattr(s.path(name), attr, buf)
	if err != nil {
		n = 0
	}
	s.say("%s: %s is %x %v", what, attr, buf[:n], err)
}

// as runs f with the file-system identity of a user, without capabilities.
func (s *script) as(uid, gid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			s.t.Errorf("setgroups: %v", errno)
			return
		}
		unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
		unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
		f()
	}()
	<-done
}

func (s *script) create(name string, mode uint32) {
	fd, err := unix.Open(s.path(name), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
	if err == nil {
		_, err = unix.Pwrite(fd, []byte("content"), 0)
		unix.Close(fd)
	}
	s.try("create "+name, err)
}

func (s *script) open(name string, flags int, f func(fd int) error) {
	fd, err := unix.Open(s.path(name), flags, 0)
	if err == nil {
		err = f(fd)
		unix.Close(fd)
	}
	s.try("open "+name, err)
}

func write(fd int) error {
	_, err := unix.Pwrite(fd, []byte("x"), 0)
	return err
}

// setIDBits changes files that have the bits in each way that clears them.
func setIDBits(s *script) {
	changes := map[string]func(){}
	order := []string{}
	add := func(what string, f func()) { changes[what] = f; order = append(order, what) }
	add("write", func() { s.open("f", unix.O_RDWR, write) })
	add("direct write", func() {
		s.open("f", unix.O_RDWR|unix.O_DIRECT, func(fd int) error {
			_, err := unix.Pwrite(fd, alignedBuffer(4096), 0)
			return err
		})
	})
	add("truncate", func() { s.try("truncate", unix.Truncate(s.path("f"), 3)) })
	add("ftruncate", func() { s.open("f", unix.O_RDWR, func(fd int) error { return unix.Ftruncate(fd, 3) }) })
	add("O_TRUNC", func() { s.open("f", unix.O_RDWR|unix.O_TRUNC, func(int) error { return nil }) })
	add("fallocate", func() { s.open("f", unix.O_RDWR, func(fd int) error { return unix.Fallocate(fd, 0, 0, 8192) }) })
	add("punch", func() {
		s.open("f", unix.O_RDWR, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		})
	})
	add("chown to oneself", func() { s.try("chown", unix.Chown(s.path("f"), -1, 1000)) })
	add("read", func() {
		s.open("f", unix.O_RDONLY, func(fd int) error { _, err := unix.Pread(fd, make([]byte, 1), 0); return err })
	})
	add("utimes", func() { s.try("utimes", unix.Utimes(s.path("f"), nil)) })
	for _, uid := range []int{1000, 0} {
		for _, mode := range []uint32{0o6777, 0o2767, 0o4700} {
			for _, what := range order {
				unix.Unlink(s.path("f"))
				s.create("f", 0o700)
				s.try("chown", unix.Chown(s.path("f"), 1000, 1000))
				s.try("chmod", unix.Chmod(s.path("f"), mode))
				if uid == 0 {
					changes[what]()
				} else {
					s.as(uid, uid, changes[what])
				}
				after := fmt.Sprintf("%o after %s by %d", mode, what, uid)
				s.mode(after, "f")
				s.show(after, "f")
			}
		}
	}
}

// capability is a security.capability value: version 2, CAP_NET_RAW.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func fileCapabilities(s *script) {
	const attr = "security.capability"
	for what, change := range map[string]func() error{
		"write":    func() error { return os.WriteFile(s.path("f"), []byte("new"), 0) },
		"truncate": func() error { return unix.Truncate(s.path("f"), 1) },
		"chown":    func() error { return unix.Chown(s.path("f"), 1, 1) },
	} {
		s.said = nil // the order of a map is not that of the other script
		unix.Unlink(s.path("f"))
		s.create("f", 0o755)
		s.try("setxattr", unix.Setxattr(s.path("f"), attr, capability, 0))
		s.xattr("before", "f", attr)
		s.try(what, change())
		_, err := unix.Getxattr(s.path("f"), attr, make([]byte, 64))
		if err != unix.ENODATA {
			s.t.Errorf("%s: the capability is still there after %s: %v", s.dir, what, err)
		}
	}
	s.said = nil
}

func setGIDDirs(s *script) {
	s.try("mkdir", unix.Mkdir(s.path("d"), 0o777))
	s.try("chown", unix.Chown(s.path("d"), 0, 1234))
	s.try("chmod", unix.Chmod(s.path("d"), 0o2777))
	s.as(1000, 1000, func() {
		s.create("d/f", 0o640)
		s.create("d/suid", 0o6755)
		s.create("d/sgid", 0o2745)
		s.try("mkdir", unix.Mkdir(s.path("d/sub"), 0o750))
		s.try("mkdir", unix.Mkdir(s.path("d/sub/sub"), 0o2700))
		s.try("symlink", unix.Symlink("f", s.path("d/link")))
		s.try("mkfifo", unix.Mkfifo(s.path("d/fifo"), 0o666))
	})
	for _, name := range []string{"d", "d/f", "d/suid", "d/sgid", "d/sub", "d/sub/sub", "d/link", "d/fifo"} {
		s.show("in a set-group-ID directory", name)
	}
}

func umasks(s *script) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, mask := range []int{0, 0o022, 0o027, 0o777} {
		unix.Umask(mask)
		name := fmt.Sprintf("%o", mask)
		s.create("f"+name, 0o666)
		s.try("mkdir", unix.Mkdir(s.path("d"+name), 0o777))
		s.try("mkfifo", unix.Mkfifo(s.path("p"+name), 0o666))
		for _, kind := range []string{"f", "d", "p"} {
			s.show("umask "+name, kind+name)
		}
	}
}

func stickyDirs(s *script) {
	s.try("mkdir", unix.Mkdir(s.path("d"), 0o777))
	s.try("chmod", unix.Chmod(s.path("d"), 0o1777))
	s.as(1000, 1000, func() { s.create("d/f", 0o666) })
	s.as(1001, 1001, func() {
		s.try("unlink", unix.Unlink(s.path("d/f")))
		s.try("rename", unix.Rename(s.path("d/f"), s.path("d/g")))
		s.create("d/own", 0o600)
		s.try("rename over", unix.Rename(s.path("d/own"), s.path("d/f")))
		s.try("chmod", unix.Chmod(s.path("d/f"), 0o600))
		s.try("chown", unix.Chown(s.path("d/f"), 1001, -1))
	})
	s.as(1000, 1000, func() { s.try("unlink", unix.Unlink(s.path("d/f"))) })
}

// truncation looks at whether times move, never at what they are.
func truncation(s *script) {
	past := []unix.Timespec{{Sec: 1e9, Nsec: 5}, {Sec: 1e9, Nsec: 123456789}}
	moved := func(what string, change func() error) {
		s.try("utimens", unix.UtimesNanoAt(unix.AT_FDCWD, s.path("f"), past, 0))
		var before, after unix.Stat_t
		unix.Lstat(s.path("f"), &before)
		s.say("nanoseconds are kept: %v %v", before.Atim == past[0], before.Mtim == past[1])
		s.try(what, change())
		unix.Lstat(s.path("f"), &after)
		s.say("%s: size %d, mtime moved %v, ctime moved %v", what, after.Size, before.Mtim != after.Mtim, before.Ctim != after.Ctim)
	}
	s.create("f", 0o600)
	moved("chmod", func() error { return unix.Chmod(s.path("f"), 0o640) })
	moved("chown", func() error { return unix.Chown(s.path("f"), 0, 0) })
	moved("truncate down", func() error { return unix.Truncate(s.path("f"), 3) })
	moved("truncate up", func() error { return unix.Truncate(s.path("f"), 100000) })
	moved("open O_TRUNC", func() error {
		fd, err := unix.Open(s.path("f"), unix.O_RDWR|unix.O_TRUNC, 0)
		unix.Close(fd)
		return err
	})
	moved("O_TRUNC of an empty file", func() error {
		fd, err := unix.Open(s.path("f"), unix.O_RDWR|unix.O_TRUNC, 0)
		unix.Close(fd)
		return err
	})
	moved("link", func() error { return unix.Link(s.path("f"), s.path("g")) })
	moved("unlink of the other name", func() error { return unix.Unlink(s.path("g")) })
	moved("rename", func() error { return unix.Rename(s.path("f"), s.path("g")) })
	s.try("rename back", unix.Rename(s.path("g"), s.path("f")))
	moved("setxattr", func() error { return unix.Setxattr(s.path("f"), "user.a", []byte("b"), 0) })
	moved("nothing", func() error { return nil })
}

// accessTimes looks at what moves atime: the user's reads, not the volume's.
func accessTimes(s *script) {
	moved := func(what string, call func() error) {
		var before, after unix.Stat_t
		unix.Lstat(s.path("f"), &before)
		s.try(what, call())
		unix.Lstat(s.path("f"), &after)
		s.say("%s: atime moved %v, ctime moved %v", what, before.Atim != after.Atim, before.Ctim != after.Ctim)
	}
	s.create("f", 0o600)
	open := func(f func(fd int) error) error {
		fd, err := unix.Open(s.path("f"), unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return f(fd)
	}
	moved("open", func() error { return open(func(int) error { return nil }) })
	moved("a small write in a block", func() error { return open(write) })
	moved("getxattr", func() error { unix.Getxattr(s.path("f"), "user.a", nil); return nil })
	moved("seek", func() error {
		return open(func(fd int) error { _, err := unix.Seek(fd, 0, unix.SEEK_DATA); return err })
	})
	moved("read with O_NOATIME", func() error {
		fd, err := unix.Open(s.path("f"), unix.O_RDONLY|unix.O_NOATIME, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Pread(fd, make([]byte, 5), 0)
		return err
	})
	// What that read is in the page cache, and the next one is to reach the daemon.
	s.open("f", unix.O_RDONLY, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
	moved("read", func() error {
		return open(func(fd int) error { _, err := unix.Pread(fd, make([]byte, 5), 0); return err })
	})
}

func specialFiles(s *script) {
	s.try("char", unix.Mknod(s.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	s.try("block", unix.Mknod(s.path("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
	s.try("fifo", unix.Mknod(s.path("fifo"), unix.S_IFIFO|0o640, 0))
	s.try("socket", unix.Mknod(s.path("socket"), unix.S_IFSOCK|0o640, 0))
	s.try("regular", unix.Mknod(s.path("regular"), unix.S_IFREG|0o604, 0))
	s.as(1000, 1000, func() { s.try("by others", unix.Mknod(s.path("no"), unix.S_IFCHR|0o666, 0)) })
	for _, name := range []string{"null", "block", "fifo", "socket", "regular"} {
		s.show(name, name)
	}
	s.open("null", unix.O_RDWR, write)
	s.try("again", unix.Mknod(s.path("fifo"), unix.S_IFIFO|0o640, 0))
	s.try("link", unix.Link(s.path("fifo"), s.path("fifo2")))
	s.try("chmod", unix.Chmod(s.path("fifo2"), 0o666))
	s.try("rename", unix.Rename(s.path("fifo2"), s.path("fifo3")))
	s.show("fifo", "fifo")
	s.try("unlink", unix.Unlink(s.path("fifo3")))
	s.show("fifo", "fifo")
}

func unnamedFiles(s *script) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	s.try("O_TMPFILE", err)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	s.try("write", write(fd))
	s.try("fchmod", unix.Fchmod(fd, 0o604))
	s.try("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, s.path("named"), unix.AT_SYMLINK_FOLLOW))
	s.show("named", "named")
	b, err := os.ReadFile(s.path("named"))
	s.say("content %q %v", b, err)

	s.create("f", 0o600)
	s.open("f", unix.O_RDWR, func(fd int) error {
		s.try("unlink", unix.Unlink(s.path("f")))
		s.try("fchmod", unix.Fchmod(fd, 0o644))
		s.try("fchown", unix.Fchown(fd, 5, 6))
		s.try("fsetxattr", unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
		buf := make([]byte, 10)
		n, err := unix.Fgetxattr(fd, "user.a", buf)
		s.say("fgetxattr %q %v", buf[:max(n, 0)], err)
		s.try("ftruncate", unix.Ftruncate(fd, 9999))
		s.try("utimens", unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		s.say("mode %o owner %d:%d links %d size %d times %d %d %v", st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Atim.Sec, st.Mtim.Sec, err)
		return write(fd)
	})

	// Known by a descriptor that is not open for anything.
	s.create("g", 0o600)
	s.open("g", unix.O_PATH, func(fd int) error {
		s.try("unlink", unix.Unlink(s.path("g")))
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		s.say("mode %o links %d size %d %v", st.Mode, st.Nlink, st.Size, err)
		s.open("../"+strings.TrimPrefix(fmt.Sprintf("/../../../../../../../proc/self/fd/%d", fd), "/"), unix.O_RDWR, func(fd int) error {
			b := make([]byte, 20)
			n, err := unix.Pread(fd, b, 0)
			s.say("read %q", b[:n])
			return err
		})
		return nil
	})
	s.try("mkdir", unix.Mkdir(s.path("d"), 0o700))
	s.open("d", unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) error {
		s.try("rmdir", unix.Rmdir(s.path("d")))
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		s.say("mode %o links %d %v", st.Mode, st.Nlink, err)
		s.try("create in it", func() error { _, err := unix.Openat(fd, "x", unix.O_CREAT|unix.O_RDWR, 0o600); return err }())
		s.try("fsync", unix.Fsync(fd))
		return nil
	})
}
