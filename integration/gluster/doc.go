// Package gluster keeps a volume's ciphertext on GlusterFS: two bricks that
// mirror each other, served by Debian's glusterd in a cell (package cell), and
// two clients that stand for two hosts.
//
//	PLYFS_GLUSTER=1 go test -count=1 -v ./integration/gluster
//
//	PLYFS_BIN=FILE  the program to test; built anew when not set
//	PLYFS_KEEP=1    keeps the scratch directory
//	TMPDIR          where that is, on a disk with trusted.* attributes; else /var/tmp
package gluster
