// Package treecopy copies a tree of files at rest into a directory, such as a
// database's datadir into a mounted volume. It keeps what a filesystem knows of
// a file: owner, mode, times to the nanosecond, hard links, extended attributes
// with ACLs, holes, symlinks and special files; sockets are left out.
//
// A file is written under a name in a directory of its own ([WorkDir]), synced,
// read back through the target's filesystem and compared with its source, and only
// then given its place. So what is in its place is complete and was verified: it
// decrypts, in a volume, to what was read. That the medium was read again it does
// not show. A copy that was interrupted goes on where it stopped: a file in its
// place is taken for finished by kind, mode, owner, size and time of modification,
// without another look at its content; one that was under way is compared as far as
// it came. Nothing that is there and differs is ever overwritten, and what the
// source does not have stays.
//
// The target may belong to somebody who works against the copy; see target.
package treecopy
