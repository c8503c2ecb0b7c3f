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
//  5. apply carries the change out.
//
// With a journal ([Config].Journal) the change becomes one record, all or
// nothing: the groups are locked and planned, which makes the change absolute;
// home gets space for what is new (fallocate, the length stays), so that a full
// disk is told to the writer; the record is appended; the copies in memory follow.
// A file that grows by much in one go streams instead: bodies and tag blocks past all
// that anything durable speaks of go home at once, and one record says so when they
// are durable there (fs/DESIGN.md §5.11). Any other change ends the stream first.
// Nothing else of an open file is written to home but by [File.Checkpoint], which
// copies what live records say, in its newest state, and only what is durable.
// Journal space is reserved before the first lock of a request, for a request may
// have to wait for a checkpoint, and a checkpoint takes those locks. Open and Close
// append nothing.
//
// What is read is home, overlaid with live records: fill asks the journal for a
// group's trailer before it judges home, which may be zero, torn, void after a
// truncation, or end early; readBodies finds bodies in the journal or at home; size
// and last group of a file that is opened are the newest record's. Home that is of
// a later record than the journal knows is refused: an older journal was put back.
// Any group in the Cache can be made again from home and the journal, so it can be
// dropped at any time.
//
// Without a journal apply brings changes home at once: the bodies, then under the
// groups' locks their tag blocks and, with tag block 0, the header; space is given
// back last, after a flush. Nothing orders that on the disk, so a power cut can
// leave a block that does not open. That is kept for comparison alone.
//
// # Locks, in their order
//
//	space in the journal, by every request that changes something
//	blocks of the file (rangeLocks), by every request and by Close
//	checkpoint, by a checkpoint from its begin to its end, and by Close
//	chain, shared to look for groups that are not cached, exclusive to add or drop some
//	mu of groups, rising
//	lengthMu, of the length of home, then spaceMu, of its space
//	mu of the Cache, for moments
//
// Flushes and disk I/O happen under all but the last.
//
// # Damage and unclean stops
//
// A structure that does not verify stays an error until it is replaced whole:
// nothing is sealed anew that was not verified. After a stop without unmount
// ([Config].Unclean) Open empties files that were never synced; without a journal
// it also adopts groups that the header did not yet name, trims what lies beyond
// the end, and groups that a gap still covers by mistake are mended when they are
// first written to.
package blockfile
