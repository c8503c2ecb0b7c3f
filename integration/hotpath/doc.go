// Hotpath measures what a database waits for on plyfs, next to a plain
// directory and a plain FUSE filesystem, in one run.
//
//	go run ./integration/hotpath --plyfs plyfs=bin/plyfs [--plyfs NAME=PATH]... [--json]
//
// The targets are a plain directory; a pass-through, which is a FUSE mount by
// the same library and options whose daemon copies each request to and from
// that filesystem and does nothing else; a volume of this source tree without a
// journal, which is for measuring alone; and a new volume of each plyfs binary
// given. Two binaries can so be compared with each other, and plyfs with what
// FUSE alone, and FUSE with encryption, cost.
//
// With --scenarios PATH the four kinds of volumes, of one layer or two, with and
// without a customer-managed key, are targets too; with --gocryptfs a volume of
// gocryptfs, and one in another.
//
// A machine is never quiet. Time is therefore cut into slices of some 25 ms. A
// round gives each target one slice of each workload, the targets directly after
// one another and each round in another order. A ratio is taken
// between slices of one round and workload, and what is printed is the median
// of the rounds with the quartiles: what disturbed a whole round has no say,
// and where the quartiles lie far apart the figure is worth little.
//
// It needs root, for the mounts, and a scratch directory on a disk: on a tmpfs
// fdatasync is free. What it costs otherwise depends on the filesystem, and on
// whether an ext4 has a journal of its own, which the heading says; --image
// measures on a new ext4 with one, in a file on the same disk.
package main
