// Package blockfile is the content of one regular file: it turns ranges of
// bytes into sealed blocks, and keeps the tag blocks and the header that say
// which blocks there are (cipher/FORMAT.md §4 to §7). It knows neither names nor
// directories nor FUSE.
//
// # Reading
//
// A request locks its blocks, shared, against writers of the same blocks. For
// each group it takes the tag block from the [Cache] or the disk, copies the
// entries it needs, reads the bodies of each run of present blocks in one piece
// straight into the caller's memory, and opens them there, on several cores
// where that pays. Absent blocks are zeros, a present block that does not open
// is an error and a log line, never data.
//
// A group whose tag block is missing is a hole only on the word of something
// authenticated: the header's last group, or the gap in the trailer of the next
// group there is. SEEK_DATA of the backing file only says where to look.
//
// # Writing, and the seam
//
// Each request builds one value, a change, in steps that touch no state that
// others see:
//
//  1. Lock the blocks, exclusive. A request that moves the end locks all blocks
//     from the lower end on, so that sizes change one at a time, and readers
//     before the end go on.
//  2. Read and open the blocks that are changed in part, and only those: a block
//     that does not open can be overwritten whole, made a hole or cut away.
//  3. Seal the blocks into pooled buffers: the extents. Where the file grows
//     past a short last block that one is sealed anew, longer; where it is cut
//     within a block that one, shorter.
//  4. commit pins the groups concerned. If some are new, or go, it takes chain,
//     exclusive, and works out gaps and the last group (link).
//  5. apply carries the change out. It is the only function that writes to an
//     open file's backing file, and loadGroup and readBodies are the only ones
//     that read tag blocks and bodies of it.
//
// For now apply brings changes home at once: the bodies, then under the groups'
// locks their tag blocks and, with tag block 0, the header; space is given back
// last, after a flush. Nothing orders that on the disk, so a power cut can leave
// a block that does not open. A journal closes that gap, at this seam:
//
//   - apply: the groups are locked and planned (planGroups), which makes the
//     change absolute: extents with entries and bodies, the trailer of each
//     group afterwards (change.after), size and last group (change.header), and
//     for a file that shrinks the number of blocks it keeps (blockCount of
//     size). That is one record. Append it; then give the copies in memory their
//     new entries and trailers, note the record's place for each body, publish
//     size and last, unlock. writeBodies, growHome, the writing half of
//     writeGroup, undo and settle move to the checkpoint. Space in the journal
//     must be reserved before the first lock, by what the request is sure to
//     need: its blocks, its two edge blocks, the old last block, and a trailer
//     for each of its groups, the group after them and group 0.
//   - loadGroup, in readGroup and fill: a trailer in the journal is newer than
//     home, and is consulted before home is judged: home may be zero, torn or
//     beyond the end. Entries of live blocks lie over those read. next and hint
//     must see the journal's groups besides those that the disk knows of, and
//     adopt has nothing left to do.
//   - readBodies: runs of blocks whose newest body is in the journal are read
//     there, the rest from home.
//   - Open: size and last group come from the newest record, the header counts
//     where there is none; only then is the length of the backing file judged.
//   - Sync: commits the journal up to the file's newest record.
//   - dirty groups stay pinned in the Cache, or are built again from home and
//     journal by loadGroup; both keep the rule of one copy per group.
//
// # Locks, in their order
//
//	blocks of the file (rangeLocks), by every request
//	chain, shared to look for groups that are not cached, exclusive to add or drop some
//	mu of groups, rising
//	mu of the Cache, for moments
//
// Flushes and disk I/O happen under all but the last.
//
// # Damage and unclean stops
//
// A structure that does not verify stays an error until it is replaced whole:
// nothing is sealed anew that was not verified. After a stop without unmount
// ([Config].Unclean) Open empties files that were never synced, adopts groups
// that the header did not yet name, trims what lies beyond the end, and groups
// that a gap still covers by mistake are mended when they are first written to.
package blockfile
