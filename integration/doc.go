// Package integration tests plyfs as its users meet it: the built program, its
// command line, real mounts, real programs on them. It knows nothing of the
// code's inside and imports no other package of the module; where it looks at
// the ciphertext it follows cipher/FORMAT.md.
//
// # Control
//
// What is asked of the mount in the name of POSIX or Linux is asked of a plain
// directory of the disk below as well, in the same run: each such test is a
// function of the directory under test ([onBoth]), and the half named "plain"
// is the control that proves the expectation itself. A case may know where it
// runs, and then says why.
//
// # Running
//
// The tests need root, /dev/fuse and what deps.sh installs. They work below
// $TMPDIR, else /var/tmp, which must lie on a disk filesystem.
//
//	make integration ARGS='-run TestRename -v'
//
//	PLYFS_BIN=FILE   the program to test; built anew when not set
//	PLYFS_ONLY=plain the control alone (or =mount)
//	PLYFS_SEED=N     repeats a randomised test
//	PLYFS_STEPS=N    how many steps a randomised test makes
//	PLYFS_KEEP=1     leaves the scratch directory, with each daemon's log
//
// A daemon that hangs is asked for its stacks, which are in the failure's
// output, and killed, so that a run ends by itself and leaves no mount.
package integration
