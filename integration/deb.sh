#!/bin/bash
# Proves that the package works on a bare Debian 12: installs it with apt in a
# new chroot, mounts a volume by fstab, upgrades it meanwhile, unmounts, purges
# with a volume of Docker's there.
#
#   integration/deb.sh [PACKAGE]           default: the newest in bin, or make deb
#
# PLYFS_FRESH_* and what it needs: see chroot.sh.
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo 'deb.sh: needs root' >&2; exit 1; }
# In a mount namespace of its own, so that none that is made meanwhile holds its
# mounts; and this one is not to hold others' volumes.
if [ -z "${PLYFS_DEB_NS:-}" ]; then
	PLYFS_DEB_NS=1 exec unshare --mount --propagation unchanged integration/deb.sh "$@"
fi
# One that stays shared is left alone: it is the same mount outside.
awk '$3 == "fuse.plyfs" { print $2 }' /proc/self/mounts | while read -r m; do
	mount --make-private "$m" 2>/dev/null && umount -i -l "$m" || true
done
deb=${1:-$(ls -t bin/plyfs_*.deb 2>/dev/null | head -n 1)}
if [ -z "$deb" ]; then
	make deb
	deb=$(ls -t bin/plyfs_*.deb | head -n 1)
fi
. integration/chroot.sh
make_chroot deb
vars=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "${network[@]}")
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for n in 'null 1 3' 'zero 1 5' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'fuse 10 229'; do
	set -- $n
	mknod -m 666 "$root/dev/$1" c "$2" "$3"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/pts"
mount --bind /dev/pts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
cp "$deb" "$root/root/plyfs.deb"
echo "==> ${deb##*/} on a bare Debian 12"
chroot "$root" /usr/bin/env -i "${vars[@]}" bash -euo pipefail -c '
apt-get -q update >/dev/null
apt-get -qy install --no-install-recommends /root/plyfs.deb >/dev/null
plyfs version
plyfs keystore init >/dev/null
plyfs init /srv/v
mkdir /mnt/v
echo "/srv/v /mnt/v plyfs defaults 0 0" >/etc/fstab
mount -a
mount -a
[ "$(grep -c " fuse.plyfs " /proc/self/mounts)" = 1 ]
echo content >/mnt/v/f
apt-get -qy install --reinstall /root/plyfs.deb >/dev/null # the daemon goes on
echo more >>/mnt/v/f
umount /mnt/v
flock -n /srv/v/.plyfs/lock true
mount /mnt/v
[ "$(cat /mnt/v/f)" = "content
more" ]
umount /mnt/v
# As the docker plugin leaves them: a volume, mounted, and one from elsewhere.
cd /var/lib/plyfs
mkdir -p volumes/data volumes/mnt/db volumes/adopted/v
plyfs init volumes/data/db
plyfs mount volumes/data/db volumes/mnt/db
echo row >volumes/mnt/db/f
mount --bind /srv/v volumes/adopted/v
apt-get -qy purge plyfs >/dev/null
[ -s /etc/plyfs/keystore/data.key ]
[ "$(ls)" = volumes ]
[ -s volumes/data/db/plyfs.json ]
[ "$(cat volumes/mnt/db/f)" = row ]
[ -s /srv/v/plyfs.json ]
umount volumes/adopted/v
umount volumes/mnt/db
flock volumes/data/db/.plyfs/lock true
cd /
rm -rf --one-file-system /etc/plyfs /srv/v /var/lib/plyfs /run/plyfs
left=$(find / -xdev -name "*plyfs*" -not -path "/root/*")
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
'
echo "==> installed, mounted, upgraded while mounted, unmounted, purged but for keys and volumes"
