package integration

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func getxattr(t testing.TB, path, name string) ([]byte, error) {
	t.Helper()
	b := make([]byte, 65536)
	n, err := unix.Lgetxattr(path, name, b)
	return b[:max(n, 0)], err
}

// xattrs lists a file's attributes, less what a security module adds.
func xattrs(t testing.TB, path string) []string {
	t.Helper()
	b := make([]byte, 65536)
	n, err := unix.Llistxattr(path, b)
	check(t, err)
	var names []string
	for _, s := range strings.Split(string(b[:n]), "\x00") {
		if s != "" && s != "security.selinux" {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	return names
}

func TestXattr(t *testing.T) {
	onBoth(t, []posixCase{
		{"set, get, list, remove, on files and directories", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Mkdir(p.path("d"), 0o755))
			values := map[string][]byte{"user.a": []byte("value"), "user.empty": {}, "user.nul": {0, 1, 0}, "trusted.t": []byte("root's"),
				"user." + strings.Repeat("n", 250): []byte("long name"), "user.ünï": []byte("x")}
			var names []string
			for n := range values {
				names = append(names, n)
			}
			slices.Sort(names)
			see := func() {
				for _, f := range []string{"f", "d"} {
					for n, v := range values {
						if got, err := getxattr(t, p.path(f), n); err != nil || !bytes.Equal(got, v) {
							t.Errorf("%s %.10s: got %q, %s, want %q", f, n, got, errName(err), v)
						}
					}
					if got := xattrs(t, p.path(f)); !slices.Equal(got, names) {
						t.Errorf("%s: listed %q, want %q", f, got, names)
					}
				}
			}
			for _, f := range []string{"f", "d"} {
				for n, v := range values {
					check(t, unix.Lsetxattr(p.path(f), n, v, 0))
				}
			}
			see()
			p.afterRemount(func() {
				see()
				for n := range values {
					check(t, unix.Lremovexattr(p.path("f"), n))
					_, err := getxattr(t, p.path("f"), n)
					wantErr(t, "removed", err, unix.ENODATA)
				}
				if got := xattrs(t, p.path("f")); len(got) != 0 {
					t.Errorf("left: %q", got)
				}
			})
		}},
		{"CREATE, REPLACE, and replacing by another length", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			f := p.path("f")
			wantErr(t, "replace of none", unix.Setxattr(f, "user.a", []byte("x"), unix.XATTR_REPLACE), unix.ENODATA)
			check(t, unix.Setxattr(f, "user.a", []byte("x"), unix.XATTR_CREATE))
			wantErr(t, "create of one", unix.Setxattr(f, "user.a", []byte("y"), unix.XATTR_CREATE), unix.EEXIST)
			for _, n := range []int{1, 500, 0, 1000, 3} {
				check(t, unix.Setxattr(f, "user.a", pattern(n, 1), unix.XATTR_REPLACE))
				if got, err := getxattr(t, f, "user.a"); !bytes.Equal(got, pattern(n, 1)) {
					t.Errorf("length %d: %d bytes, %v", n, len(got), err)
				}
			}
		}},
		{"sizes and short buffers", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, unix.Setxattr(p.path("f"), "user.a", []byte("0123456789"), 0))
			if n, err := unix.Getxattr(p.path("f"), "user.a", nil); n != 10 || err != nil {
				t.Errorf("size of value: %d, %v, want 10", n, err)
			}
			_, err := unix.Getxattr(p.path("f"), "user.a", make([]byte, 9))
			wantErr(t, "short buffer", err, unix.ERANGE)
			if n, err := unix.Listxattr(p.path("f"), nil); n < len("user.a")+1 || err != nil {
				t.Errorf("size of list: %d, %v", n, err)
			}
			_, err = unix.Listxattr(p.path("f"), make([]byte, 3))
			wantErr(t, "short buffer for the list", err, unix.ERANGE)
		}},
		{"errors", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Symlink("f", p.path("l")))
			check(t, unix.Mkfifo(p.path("p"), 0o644))
			f := p.path("f")
			_, err := getxattr(t, f, "user.none")
			wantErr(t, "get of none", err, unix.ENODATA)
			wantErr(t, "remove of none", unix.Removexattr(f, "user.none"), unix.ENODATA)
			wantErr(t, "unknown namespace", unix.Setxattr(f, "foo.bar", nil, 0), unix.EOPNOTSUPP)
			wantErr(t, "name of 256 bytes", unix.Setxattr(f, "user."+strings.Repeat("n", 251), nil, 0), unix.ERANGE)
			wantErr(t, "value of 64 KiB and one", unix.Setxattr(f, "user.a", make([]byte, 65537), 0), unix.E2BIG)
			wantErr(t, "user attribute of a symlink", unix.Lsetxattr(p.path("l"), "user.a", nil, 0), unix.EPERM)
			wantErr(t, "user attribute of a fifo", unix.Setxattr(p.path("p"), "user.a", nil, 0), unix.EPERM)
			check(t, unix.Lsetxattr(p.path("l"), "trusted.a", []byte("v"), 0))
			if got, err := getxattr(t, p.path("l"), "trusted.a"); string(got) != "v" {
				t.Errorf("trusted attribute of a symlink: %q, %v", got, err)
			}
		}},
		{"many", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			var want []string
			for i := range 15 {
				n := fmt.Sprintf("user.attribute-%02d", i)
				want = append(want, n)
				check(t, unix.Setxattr(p.path("f"), n, fmt.Appendf(nil, "value %d", i), 0))
			}
			if got := xattrs(t, p.path("f")); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
		}},
		{"permissions", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Chmod(p.path("f"), 0o604))
			check(t, unix.Setxattr(p.path("f"), "user.a", []byte("x"), 0))
			check(t, unix.Setxattr(p.path("f"), "trusted.t", []byte("x"), 0))
			check(t, asUser(alice, alice, nil, func() error {
				b := make([]byte, 4096)
				if _, err := unix.Getxattr(p.path("f"), "user.a", b); err != nil {
					t.Errorf("reading a readable file's: %v", err)
				}
				_, err := unix.Getxattr(p.path("f"), "trusted.t", b)
				wantErr(t, "reading trusted", err, unix.ENODATA, unix.EPERM)
				wantErr(t, "writing", unix.Setxattr(p.path("f"), "user.a", nil, 0), unix.EACCES)
				wantErr(t, "writing trusted", unix.Setxattr(p.path("f"), "trusted.t", nil, 0), unix.EPERM)
				n, _ := unix.Listxattr(p.path("f"), b)
				if strings.Contains(string(b[:n]), "trusted") {
					t.Error("a user sees trusted attributes listed")
				}
				return nil
			}))
			check(t, os.Chmod(p.path("f"), 0o600))
			check(t, asUser(alice, alice, nil, func() error {
				_, err := unix.Getxattr(p.path("f"), "user.a", make([]byte, 10))
				wantErr(t, "reading an unreadable file's", err, unix.EACCES)
				return nil
			}))
		}},
		{"by descriptor, also of file capabilities", func(t *testing.T, p place) {
			fd := open(t, p.path("f"), unix.O_CREAT|unix.O_RDWR, 0o755)
			defer unix.Close(fd)
			check(t, unix.Fsetxattr(fd, "user.a", []byte("v"), 0))
			b := make([]byte, 100)
			if n, err := unix.Fgetxattr(fd, "user.a", b); n != 1 || err != nil {
				t.Error(n, err)
			}
			check(t, unix.Fsetxattr(fd, "security.capability", capability, 0))
			if n, err := unix.Fgetxattr(fd, "security.capability", b); !bytes.Equal(b[:max(n, 0)], capability) {
				t.Errorf("capability: % x, %v", b[:max(n, 0)], err)
			}
			check(t, unix.Fremovexattr(fd, "user.a"))
		}},
	})
}

// capability is cap_net_raw+ep as setcap(8) writes it.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// ACLs go by setfacl and getfacl, as people do it.
func TestACL(t *testing.T) {
	getfacl := func(t *testing.T, path string) string {
		return strings.TrimSpace(command(t, "getfacl", "--numeric", "--omit-header", "--absolute-names", "--no-effective", path))
	}
	wantACL := func(t *testing.T, path string, want ...string) {
		t.Helper()
		if got := getfacl(t, path); got != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	}
	canRead := func(uid, gid int, path string) error {
		return asUser(uid, gid, nil, func() error {
			fd, err := unix.Open(path, unix.O_RDONLY, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}
	onBoth(t, []posixCase{
		{"a named user's entry counts, within the mask", func(t *testing.T, p place) {
			f := p.path("f")
			touch(t, f, []byte("x"))
			check(t, os.Chmod(f, 0o600))
			wantErr(t, "before", canRead(alice, alice, f), unix.EACCES)
			command(t, "setfacl", "-m", fmt.Sprintf("u:%d:rw,g:%d:r", alice, staff), f)
			check(t, canRead(alice, alice, f))
			check(t, canRead(bob, staff, f))
			wantErr(t, "another", canRead(bob, bob, f), unix.EACCES)
			if m := stat(t, f).Mode & 0o777; m != 0o660 {
				t.Errorf("mode %o, want 660 (the mask shows as group bits)", m)
			}
			want := []string{"user::rw-", fmt.Sprintf("user:%d:rw-", alice), "group::---", fmt.Sprintf("group:%d:r--", staff), "mask::rw-", "other::---"}
			wantACL(t, f, want...)
			// chmod changes the mask, not the entries.
			check(t, os.Chmod(f, 0o600))
			wantErr(t, "masked", canRead(alice, alice, f), unix.EACCES)
			want[4] = "mask::---"
			wantACL(t, f, want...)
			check(t, os.Chmod(f, 0o644))
			want[4], want[5] = "mask::r--", "other::r--"
			wantACL(t, f, want...)
			check(t, canRead(alice, alice, f))
			p.afterRemount(func() {
				wantACL(t, f, want...)
				check(t, canRead(alice, alice, f))
				command(t, "setfacl", "-b", f)
				wantACL(t, f, "user::rw-", "group::---", "other::r--")
			})
		}},
		{"a default ACL is inherited and replaces the umask", func(t *testing.T, p place) {
			d := p.path("d")
			check(t, os.Mkdir(d, 0o755))
			command(t, "setfacl", "-d", "-m", fmt.Sprintf("u:%d:rwx,g::rwx,o::-", alice), d)
			touch(t, d+"/file", nil) // asks for 0644
			unix.Close(open(t, d+"/wide", unix.O_CREAT|unix.O_WRONLY, 0o666))
			check(t, os.Mkdir(d+"/dir", 0o777))
			check(t, os.Mkdir(d+"/dir/dir", 0o777))
			touch(t, d+"/dir/file", nil)
			check(t, unix.Mkfifo(d+"/fifo", 0o666))
			file := []string{"user::rw-", fmt.Sprintf("user:%d:rwx", alice), "group::rwx", "mask::r--", "other::---"}
			wide := slices.Clone(file)
			wide[3] = "mask::rw-"
			dir := []string{"user::rwx", fmt.Sprintf("user:%d:rwx", alice), "group::rwx", "mask::rwx", "other::---",
				"default:user::rwx", fmt.Sprintf("default:user:%d:rwx", alice), "default:group::rwx", "default:mask::rwx", "default:other::---"}
			see := func() {
				wantACL(t, d+"/file", file...)
				wantACL(t, d+"/wide", wide...)
				wantACL(t, d+"/fifo", wide...)
				wantACL(t, d+"/dir", dir...)
				wantACL(t, d+"/dir/dir", dir...)
				wantACL(t, d+"/dir/file", file...)
			}
			see()
			p.afterRemount(see)
		}},
		{"a default ACL for an unnamed file and a long name", func(t *testing.T, p place) {
			d := p.path("d")
			check(t, os.Mkdir(d, 0o755))
			command(t, "setfacl", "-d", "-m", fmt.Sprintf("u:%d:r", alice), d)
			long := d + "/" + strings.Repeat("l", 255)
			touch(t, long, nil)
			want := []string{"user::rw-", fmt.Sprintf("user:%d:r--", alice), "group::r-x", "mask::r--", "other::r--"}
			wantACL(t, long, want...)
			fd := open(t, d, unix.O_TMPFILE|unix.O_RDWR, 0o644)
			defer unix.Close(fd)
			check(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/t", unix.AT_SYMLINK_FOLLOW))
			wantACL(t, d+"/t", want...)
		}},
		{"only the owner may change it", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			check(t, os.Chmod(p.path("f"), 0o666))
			acl, err := getxattr(t, p.path("f"), "system.posix_acl_access")
			wantErr(t, "no ACL yet", err, unix.ENODATA)
			command(t, "setfacl", "-m", fmt.Sprintf("u:%d:rwx", alice), p.path("f"))
			acl, err = getxattr(t, p.path("f"), "system.posix_acl_access")
			check(t, err)
			check(t, asUser(alice, alice, nil, func() error {
				wantErr(t, "set", unix.Setxattr(p.path("f"), "system.posix_acl_access", acl, 0), unix.EPERM)
				wantErr(t, "remove", unix.Removexattr(p.path("f"), "system.posix_acl_access"), unix.EPERM)
				return nil
			}))
		}},
		{"nonsense is refused", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			wantErr(t, "bad bytes", unix.Setxattr(p.path("f"), "system.posix_acl_access", []byte{9, 9, 9}, 0), unix.EINVAL, unix.EOPNOTSUPP)
			wantErr(t, "default ACL of a file", unix.Setxattr(p.path("f"), "system.posix_acl_default",
				[]byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255}, 0), unix.EACCES)
		}},
		{"setting one that a mode can express sets the mode", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			command(t, "setfacl", "-m", "u::rwx,g::r,o::-", p.path("f"))
			if m := stat(t, p.path("f")).Mode & 0o777; m != 0o740 {
				t.Errorf("mode %o, want 740", m)
			}
		}},
	})
}
