// Package docker runs plyfs volumes under a real Docker: dockerd of Debian's
// docker.io, with data, sockets and processes of its own, in a cell (package
// cell). Images are made of this machine's own binaries; no registry is asked.
//
//	PLYFS_DOCKER=1 go test -count=1 -v ./integration/docker
//
//	PLYFS_BIN=FILE  the program to test; built anew when not set
//	PLYFS_KEEP=1    keeps the scratch directory
//	TMPDIR          where that is, on a disk; else /var/tmp
package docker
