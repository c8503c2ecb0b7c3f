// Package powercut cuts the power of a disk beneath a real file system, with
// plyfs on it, and looks at what is left.
//
// # How
//
// A small FUSE server in a process of its own, the recorder, serves one file,
// the disk, and logs each write and each flush before it answers. A loop device
// with direct I/O makes a block device of the file; ext4 or xfs is mounted from
// that, and plyfs on it. Workloads run on top, and note for every fsync that
// returned where the recorder's log stood at that moment.
//
// A cut is a position in the log. What was logged before the last flush before
// it is on the disk. Of what came after, any of it may be: writes are lost, torn
// at 512-byte sectors, or overtaken by later ones. For many cuts such a disk is
// made, mounted, and compared with what was acknowledged by then; then it is
// unmounted, or its daemon killed, and all is done once more. For some cuts what
// follows is recorded too, and cut again: recovery, of the file system as of plyfs.
//
// All mounts are in a mount namespace of their own, so that no other one that is
// made meanwhile on the machine holds them.
//
// Nothing here knows the inside of plyfs.
//
// # Controls
//
// The same workloads on plain ext4 and xfs must lose nothing that was
// acknowledged; else recorder, cuts or expectations are wrong. A disk that
// ignores flushes must lose something; else nothing is tested.
//
// Two things are written whole, since the file systems below rely on it and no
// 512-byte sector gives it: ext4's superblock, whose checksum lies in its second
// sector, and xfs's metadata blocks.
//
// # Running
//
// Root, loop devices, mkfs.ext4, mkfs.xfs, sqlite3 and mariadbd are needed.
//
//	PLYFS_POWERCUT=sample|long go test -count=1 -v ./integration/powercut
//
//	PLYFS_BIN=FILE  the program to test; built anew when not set
//	PLYFS_CUTS=N    cuts of each workload on each target
//	PLYFS_SEED=N    repeats the choice of cuts; what the kernel makes of a
//	                workload is not repeated
//	PLYFS_KEEP=1    keeps the scratch directory, with disks that failed
//	TMPDIR          where; else /dev/shm if it has room, else /var/tmp
package powercut
