// Package fs serves a volume to Linux through FUSE. It is an adapter: what a
// file or directory is, package volume decides; here requests become calls of
// it, its errors become errnos (errno.go, the one place that makes them), and
// the kernel is told what it may cache.
//
// It implements go-fuse's fuse.RawFileSystem itself and not its node layer, so
// that the flags of write, open and setattr arrive as the kernel sent them,
// there is one inode table instead of two, and no call can reach the backing
// files behind the volume's back.
package fs
