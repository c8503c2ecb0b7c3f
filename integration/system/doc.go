// Package system tests plyfs as a system uses it: installed from its Debian
// package, through mount(8), umount(8), fstab, and the units of systemd.
//
// The tests install into a copy of this machine's root, an overlay whose changes
// lie in memory, and work there by chroot: fstab, packages and mountpoints are
// real, and this machine's own stay as they are. They need root.
package system
