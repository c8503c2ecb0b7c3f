// Package volume is the namespace of a plyfs volume: inodes, directories and
// names over a backing directory. It knows nothing of FUSE.
//
// # What is where
//
// The backing directory mirrors the tree. A regular file is a backing file
// whose content belongs to package blockfile. A directory is a backing
// directory that also holds plyfs.dirid, the sealed random ID under which the
// names in it are sealed. A name whose sealed form is longer than a backing
// name may be is kept as a hash, with the sealed form in a sidecar beside it.
// Symlinks carry their sealed target, or the name of a sidecar in
// .plyfs/links. Devices, fifos and sockets are themselves. The root also holds
// .plyfs: tmp, links, lock and the journal.
//
// # Inodes
//
// A [Node] stands for a backing inode that somebody knows: by lookups that
// were not forgotten yet, by an open [Handle], or as the parent of such a
// node. Nodes are found by an ID that is never used twice in the life of a
// Volume, so that a reused backing inode number is never taken for the file
// that had it before; what stat shows is the backing inode number, which is
// stable.
//
// A node keeps no descriptor. It is reached through a name and its parent
// directory, whose descriptor is in a bounded cache; an open file is reached
// through its own descriptor, also after its last name is gone. A node
// without name and descriptor answers stat from the last attributes seen.
//
// # Locks
//
// Each directory has a lock over the binding of its names. Who reaches an
// inode by name holds it shared, who binds or unbinds a name holds it alone.
// No call takes such a lock while it holds another, but rename, link and
// rmdir, which take theirs at once in the order of node IDs. It is taken with
// no other lock held than a file's opening lock, which serialises the opens
// and last closes of one file. The locks of the table, of the directory cache
// and of a file's uses are held for moments and without I/O; of these only the
// table's is ever held while another is taken.
//
// Durability is that of the backing filesystem after the same calls, with two
// exceptions: what a name needs to be read again, the ID file of a directory
// and the sidecars of long names and long targets, is synced before the name
// is made.
package volume
