package treecopy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// bestow gives to what from has beside its content: owner, extended attributes
// with ACLs, mode, times, in an order in which none undoes another. to is a path
// by a descriptor (byFD): it leads to the very file, and is followed.
func bestow(from, to string, st *unix.Stat_t) error {
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	// While the mode may still let its owner write: extended attributes ask for that.
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// copyXattrs copies extended attributes, ACLs among them. Labels of a security
// module, which belong to the place and not to the file, are left out.
func copyXattrs(from, to string) error {
	names, err := xattr(func(b []byte) (int, error) { return unix.Llistxattr(from, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes: %w", err)
	}
	if err := dropACLs(to, names); err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" || name == "security.SMACK64" {
			continue
		}
		value, err := xattr(func(b []byte) (int, error) { return unix.Lgetxattr(from, name, b) })
		if err == nil {
			err = unix.Setxattr(to, name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// dropACLs takes ACLs from what has them by the default ACL of the directory it
// was made in. names are those of the source.
func dropACLs(to string, names []byte) error {
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if slices.Contains(strings.Split(string(names), "\x00"), name) {
			continue
		}
		err := unix.Removexattr(to, name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// xattr calls get with a buffer that is large enough.
func xattr(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		if n, err = get(b); !errors.Is(err, unix.ERANGE) {
			return b[:max(n, 0)], err
		}
	}
}
