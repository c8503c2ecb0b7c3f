// Package dockervolume is a volume plugin for Docker whose volumes are plyfs
// volumes: it answers the volume plugin protocol on a socket, and keeps what it
// promised Docker over crashes of its own, of a volume's daemon, of dockerd
// and of the machine.
//
// # What belongs to whom
//
// The plugin serves no filesystem. Each mounted volume has a daemon, a process
// in a session of its own that the plugin starts and then leaves alone, as
// 'plyfs mount' does. So the plugin may be stopped, killed or upgraded while
// containers go on. A [Host] starts and ends the daemons; this package decides
// when.
//
// # The state directory
//
//	state.json   what Docker was promised: volumes, their options, who mounted them; 0600
//	lock         held by the plugin that serves this directory
//	data/NAME    ciphertext of a volume that was made here
//	adopted/NAME a bind mount of a ciphertext directory from elsewhere, while mounted
//	mnt/NAME     where the volume is mounted (or below another directory)
//	new/         volumes on their way to data/
//	trash/       volumes on their way out
//
// state.json is replaced as a whole: written beside itself, synced, renamed,
// and the directory synced. A volume is made in new/ and renamed into data/; it
// is removed by renaming it to trash/. Whatever lies in new/ and trash/ when a
// plugin starts is deleted. A directory in data/ that state.json does not know
// is a volume whose Create was not answered, or one of a state.json that was
// lost; its own plyfs.json says enough to take it back.
//
// # Who uses a volume
//
// Docker names each use by an ID. They are a set: a Mount or Unmount that is
// repeated after a time-out changes nothing. An ID is written down after the
// volume was mounted and before Docker hears of it, and struck out before it is
// unmounted; so what is mounted without an ID when the plugin starts is left
// over, and goes. IDs of
// another boot are gone with the containers of that boot. An ID whose mount
// has gone, and whose daemon too, holds nothing and is struck out when the
// plugin starts and when the volume is to be removed.
//
// # Daemons that died
//
// Every Mount looks at what is there. A mount that lost its daemon is detached
// and the volume mounted again; the containers of the old mount keep seeing
// errors, the next container works.
//
// # Mounts elsewhere
//
// Another mount namespace may have a copy of a volume's mount, such as that of a
// container which was given all of the host. Its daemon serves until the copy is
// gone, too, so that an unmount here would end nothing and leave a volume that
// cannot be mounted. It stays mounted instead, for nobody, and Docker is told of
// success: the next Mount finds it serving, and the next Unmount, the removal and
// the next plugin try again.
//
// # What Docker may say
//
// Names are of Docker's own alphabet, without a slash and without a leading
// dot. The only path an option can carry is that of a ciphertext directory,
// and only below roots that the administrator named: it is opened with
// openat2(2), beneath the root and without any symbolic link, and what is
// mounted is a bind mount of that descriptor, so that nobody can put another
// directory in its place between check and use. Key stores are the
// administrator's alone.
//
// # Locks
//
// Plugin.mu guards the table and state.json, and is never held over a call to
// the Host; entry.busy is held for a whole request about one volume, mounting
// included. busy comes before mu. Get, List and Path take mu alone, and so
// never wait for a mount.
package dockervolume
