// Package crashfs is a backing filesystem in memory that can lose power.
//
// It behaves like a disk filesystem to who calls it, and remembers for each
// sector, each size, each inode's attributes and each directory operation what
// is durable and what is only in the cache. [FS.Snapshot] freezes that at any
// operation (see [FS.OnOp]), and [Image.Crash] turns it into one of the states
// that a power cut at that moment may leave:
//
//   - of each 512-byte sector, any version since the file's last sync: writes
//     are torn, lost and reordered;
//   - of each size, any since the last sync, apart from the data;
//   - of attributes, any since the last sync;
//   - of the operations on directories that no sync of one of their
//     directories covers, any subset in order: new names, renames, unlinks are
//     lost. Each single one is atomic. A file without a name is gone.
//
// Which one it is, is up to a [Chooser]: all lost, all kept, a cut at one
// operation, or by seed. The result is a filesystem like the first, so that a
// crash can follow in the middle of recovery from a crash.
//
// This is more hostile than ext4 or xfs. It is what POSIX and fs/DESIGN.md §2
// promise, and no more.
package crashfs
