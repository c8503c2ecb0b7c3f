// Package treecopy copies a tree of files at rest into a directory, such as a
// database's datadir into a mounted volume. It keeps what a filesystem knows of
// a file: owner, mode, times to the nanosecond, hard links, extended attributes
// with ACLs, holes, symlinks and special files; sockets are left out.
//
// A file is written under a name in a directory of its own ([WorkDir]), synced,
// read back from the disk and compared with its source, and only then given
// its place. So what is in its place is complete and verified, and a copy that was
// interrupted goes on where it stopped: files in place are skipped by size
// and time, one that was under way is compared as far as it came. Nothing that
// is there and differs is ever overwritten.
package treecopy
