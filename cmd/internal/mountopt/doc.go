// Package mountopt reads what mount(8) and its helpers hand to plyfs: the
// list after -o, and the command line of a mount helper.
//
// Three callers spell the same mount differently:
//
//	plyfs mount -o LIST CIPHERDIR MOUNTPOINT      a person, or a unit file
//	mount.plyfs CIPHERDIR MOUNTPOINT -rw -o LIST  mount -t plyfs, fstab
//	plyfs CIPHERDIR MOUNTPOINT -o LIST            mount.fuse3, type fuse.plyfs
//
// All three end as one [Options]. The package only reads text: it opens no
// file, looks at no environment and mounts nothing.
//
// A list is separated by commas. A value keeps a comma that is written \, or
// that stands between double quotes, as in log="/var/log/a,b". An option
// that plyfs does not know is an error which names the nearest known one:
// silently dropping a misspelt keystore= or nosuid would be worse than no
// mount. No option takes a secret, because options end in /proc/mounts,
// /etc/fstab and the process list; passphrases are named by file or
// descriptor.
package mountopt
