package fs

import (
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The scripts of TestRulesOfADiskFilesystem about ACLs and extended
// attributes.

// acl encodes a POSIX ACL as the kernel's xattr: entries of tag, permissions
// and ID.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const none = ^uint32(0)

// someACL gives user 4711 read and write, with a mask of rwx.
var someACL = acl([3]uint32{1, 7, none}, [3]uint32{2, 6, 4711}, [3]uint32{4, 5, none}, [3]uint32{16, 7, none}, [3]uint32{32, 4, none})

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

func defaultACLs(s *script) {
	s.try("mkdir", unix.Mkdir(s.path("d"), 0o777))
	s.try("setfacl -d", unix.Setxattr(s.path("d"), defaultACL, someACL, 0))
	s.try("chmod", unix.Chmod(s.path("d"), 0o2777))
	old := unix.Umask(0o077)
	s.as(1000, 1000, func() {
		s.create("d/f", 0o666)
		s.create("d/g", 0o640)
		s.create("d/suid", 0o4755)
		s.try("mkdir", unix.Mkdir(s.path("d/sub"), 0o777))
		s.try("mkdir", unix.Mkdir(s.path("d/sub/sub"), 0o700))
		s.try("mkfifo", unix.Mkfifo(s.path("d/fifo"), 0o666))
		s.try("symlink", unix.Symlink("f", s.path("d/link")))
	})
	unix.Umask(old)
	for _, name := range []string{"d", "d/f", "d/g", "d/suid", "d/sub", "d/sub/sub", "d/fifo", "d/link"} {
		s.show("under a default ACL", name)
		s.xattr(name, name, accessACL)
		s.xattr(name, name, defaultACL)
	}
	s.try("setfacl -k", unix.Removexattr(s.path("d"), defaultACL))
	s.create("d/plain", 0o666)
	s.show("without a default ACL again", "d/plain")
}

func accessACLs(s *script) {
	s.create("f", 0o600)
	s.try("setfacl", unix.Setxattr(s.path("f"), accessACL, someACL, 0))
	s.show("with an ACL", "f")
	s.as(4711, 4711, func() { s.open("f", unix.O_RDWR, write) })
	s.as(4712, 4712, func() { s.open("f", unix.O_RDWR, write) })
	s.try("chmod", unix.Chmod(s.path("f"), 0o640))
	s.xattr("after chmod", "f", accessACL)
	s.as(4711, 4711, func() { s.open("f", unix.O_RDWR, write) })
	s.try("chown", unix.Chown(s.path("f"), 1000, 1234))
	s.try("chmod", unix.Chmod(s.path("f"), 0o2755))
	s.as(1000, 1000, func() { s.try("setfacl", unix.Setxattr(s.path("f"), accessACL, someACL, 0)) })
	s.show("set-group-ID after an ACL of one outside the group", "f")
	s.try("setfacl -b", unix.Removexattr(s.path("f"), accessACL))
	s.xattr("removed", "f", accessACL)
	s.show("removed", "f")
	s.try("default ACL of a file", unix.Setxattr(s.path("f"), defaultACL, someACL, 0))
	s.try("not an ACL", unix.Setxattr(s.path("f"), accessACL, []byte("?"), 0))
}

func xattrsOfOthers(s *script) {
	s.create("f", 0o644)
	s.try("user", unix.Setxattr(s.path("f"), "user.a", []byte("1"), 0))
	s.try("trusted", unix.Setxattr(s.path("f"), "trusted.a", []byte("2"), 0))
	s.try("no namespace", unix.Setxattr(s.path("f"), "nospace", []byte("2"), 0))
	s.try("empty name", unix.Setxattr(s.path("f"), "user.", []byte("2"), 0))
	s.try("symlink", unix.Symlink("f", s.path("l")))
	s.try("user on a symlink", unix.Lsetxattr(s.path("l"), "user.a", nil, 0))
	s.try("trusted on a symlink", unix.Lsetxattr(s.path("l"), "trusted.a", []byte("v"), 0))
	s.xattr("trusted on a symlink", "l", "trusted.a")
	list := func() {
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(s.path("f"), buf)
		names := strings.Split(string(buf[:max(n, 0)]), "\x00")
		slices.Sort(names)
		s.say("list %q %v", names, err)
		n, err = unix.Listxattr(s.path("f"), nil)
		s.say("size of the list %d %v", n, err)
		_, err = unix.Listxattr(s.path("f"), buf[:3])
		s.try("too small a buffer", err)
	}
	list()
	s.as(1000, 1000, func() {
		s.xattr("by another", "f", "user.a")
		s.xattr("by another", "f", "trusted.a")
		s.try("set by another", unix.Setxattr(s.path("f"), "user.b", []byte("1"), 0))
	})
	s.try("create", unix.Setxattr(s.path("f"), "user.a", nil, unix.XATTR_CREATE))
	s.try("replace", unix.Setxattr(s.path("f"), "user.none", nil, unix.XATTR_REPLACE))
	s.try("empty value", unix.Setxattr(s.path("f"), "user.a", nil, unix.XATTR_REPLACE))
	s.xattr("empty", "f", "user.a")
	s.try("remove", unix.Removexattr(s.path("f"), "user.a"))
	s.try("remove again", unix.Removexattr(s.path("f"), "user.a"))
	s.xattr("removed", "f", "user.a")
	s.try("plyfs prefix", unix.Setxattr(s.path("f"), "user.plyfs.x", []byte("3"), 0))
	s.xattr("plyfs prefix", "f", "user.plyfs.x")
	list()
}
