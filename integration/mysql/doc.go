// Package mysql tests database servers, and the tools that people use with
// them, on real plyfs mounts: MariaDB 10.11 of Debian 12, and Oracle's MySQL
// from a Debian sid tree that sid.sh makes, in a chroot.
//
// Every file that a server writes lies on the mount: data, binary logs, redo
// and undo logs, doublewrite and temporary files. Sockets, process IDs and
// error logs lie outside. Servers run as the user mysql.
//
// # Running
//
// The tests need root, /dev/fuse, and what deps.sh installs. They work below
// $TMPDIR, else /var/tmp, which must lie on a disk filesystem. They run as
//
//	make mysql-short   one row per feature, a short soak; part of make test
//	make mysql         every combination and larger sets; ends with a table
//	make soak          mixed load with restarts, kills and backups (SOAK=1h)
//	make mysql-bench   sysbench on the disk and on volumes, in turns
//
//	PLYFS_MYSQL=short|long|bench   which of them; nothing runs without it
//	PLYFS_SOAK=DURATION      how long the soak lasts
//	PLYFS_SERVERS=MariaDB    one server alone (or =MySQL)
//	PLYFS_BIN=FILE           the program to test; built anew when not set
//	PLYFS_SID=DIR            a Debian sid tree with mysql-server; else sid.sh is asked
//	PLYFS_KEEP=1             leaves the scratch directory, with each server's log
package mysql
