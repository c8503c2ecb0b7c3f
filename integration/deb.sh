#!/bin/bash
# Proves that the package works on a bare Debian 12: installs it with apt in a
# new chroot, mounts a volume by fstab, upgrades it meanwhile, unmounts, purges
# with a volume of Docker's there.
#
#   integration/deb.sh [PACKAGE]           default: the newest in bin, or make deb
#
#   PLYFS_FRESH_DIR    where the chroot is made, on a disk (default: /var/tmp)
#   PLYFS_FRESH_CACHE  keeps the bare Debian tree as a tarball between runs
#
# Needs root, debootstrap, and what this machine's apt gets through.
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
root=$(mktemp -d "${PLYFS_FRESH_DIR:-/var/tmp}/plyfs-deb.XXXXXX")
chmod 755 "$root"
cache=${PLYFS_FRESH_CACHE:-${TMPDIR:-/var/tmp}/plyfs-fresh-bookworm.tar}

cleanup() {
	local code=$?
	trap - EXIT INT TERM
	set +e
	awk -v r="$root/" 'index($2, r) == 1 { print $2 }' /proc/self/mounts | tac | while read -r m; do
		umount -l "$m"
	done
	# Never with anything mounted below: that may be this machine's own.
	if grep -q " $root/" /proc/self/mounts; then
		echo "deb.sh: left $root, something is mounted there" >&2
	else
		rm -rf --one-file-system "$root"
	fi
	exit $code
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -s "$cache" ]; then
	tar -C "$root" -xpf "$cache"
else
	mirror=$(awk '$1 == "URIs:" { print $2 } $1 == "deb" { print ($2 ~ /^\[/) ? $3 : $2 }' \
		/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -m 1 '/debian/*$' || true)
	debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >/dev/null
	rm -f "$root"/var/cache/apt/archives/*.deb
	tar -C "$root" -cpf "$cache.$$" . && mv "$cache.$$" "$cache"
fi
for f in /etc/resolv.conf /etc/hosts; do
	[ ! -e $f ] || cp --dereference $f "$root$f"
done
mkdir -p "$root/etc/apt/apt.conf.d" "$root/etc/apt/sources.list.d"
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
	rm -f "$root/etc/apt/sources.list"
	cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/"
elif [ -s /etc/apt/sources.list ]; then
	cp /etc/apt/sources.list "$root/etc/apt/"
fi
apt-config dump | grep -iE '^Acquire::.*(proxy|CAInfo|Verify-Peer)' >"$root/etc/apt/apt.conf.d/90network" || true
if [ -n "${SSL_CERT_FILE:-}" ] && [ -e "$SSL_CERT_FILE" ]; then
	install -D "$SSL_CERT_FILE" "$root$SSL_CERT_FILE"
fi
vars=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8)
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE; do
	[ -z "${!v:-}" ] || vars+=("$v=${!v}")
done
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
