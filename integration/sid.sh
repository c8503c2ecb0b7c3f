#!/bin/bash
# Makes a Debian sid tree, once, with the servers that Debian 12 does not have
# and tests need: MySQL, and moto, which plays AWS KMS. Prints the tree's path.
#
#   tree=$(integration/sid.sh)
#
#   PLYFS_CACHE    where the tree is kept, on a disk, 1 GB (default: /var/cache/plyfs-tests)
#
# Any number may ask at once; one builds and the others wait. The tree is for
# chroot(8) and for reading: whoever uses it keeps its own files elsewhere or in
# a directory of its own below the tree's /var/tmp, mounts only in a mount
# namespace of its own, and removes what it put there. No service is started in
# it, now or later. Another list of packages makes another tree.
set -euo pipefail

packages=mysql-server,procps,python3-moto,python3-flask-cors,python3-cffi-backend
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
cache=${PLYFS_CACHE:-/var/cache/plyfs-tests}
say() { echo "sid.sh: $*" >&2; }

[ "$(id -u)" = 0 ] || { say 'needs root'; exit 1; }
command -v debootstrap >/dev/null || { say 'needs debootstrap (integration/deps.sh test)'; exit 1; }
mkdir -p "$cache"
cache=$(cd "$cache" && pwd -P)
tree=$cache/sid-$(cksum <<<"$packages" | cut -d ' ' -f 1)

exec 9>"$cache/sid.lock"
flock 9
if [ -d "$tree" ]; then
	echo "$tree"
	exit
fi

# What an interrupted run left; nobody else is here.
for old in "$cache"/sid.new.*; do
	[ ! -e "$old" ] || rm -rf --one-file-system "$old"
done
new=$(mktemp -d "$cache/sid.new.XXXXXX")
log=$new.log
cleanup() {
	local code=$?
	trap - EXIT INT TERM
	# debootstrap mounts below its tree, and leaves that when it is stopped.
	awk -v r="$new/" 'index($2, r) == 1 { print $2 }' /proc/self/mounts | tac | while read -r m; do
		umount -l "$m" || true
	done
	rm -rf --one-file-system "$new" "$log"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$new"

# apt's own mirror of Debian, for the one that this machine can reach.
mirror=$(awk '$1 == "URIs:" { print $2 } $1 == "deb" { print ($2 ~ /^\[/) ? $3 : $2 }' \
	/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -m 1 '/debian/*$' || true)
mirror=${mirror:-http://deb.debian.org/debian}

step() {
	if ! env DEBIAN_FRONTEND=noninteractive "$@" >>"$log" 2>&1 9>&- </dev/null; then
		tail -n 40 "$log" >&2
		[ ! -e "$new/debootstrap/debootstrap.log" ] || tail -n 20 "$new/debootstrap/debootstrap.log" >&2
		say "failed: $*"
		exit 1
	fi
}
say "making a Debian sid tree in $tree, a minute or two"
# bookworm's debootstrap merges /usr in a way that sid's packages do not take.
step debootstrap --foreign --variant=minbase --no-merged-usr --include="$packages" sid "$new" "$mirror"
# Between unpacking and configuring, so that no package starts its server (101).
mkdir -p "$new/usr/sbin"
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
chmod 755 "$new/usr/sbin/policy-rc.d"
step chroot "$new" /debootstrap/debootstrap --second-stage
rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
# A server that was only there to make its first database may still be ending.
for m in $(awk -v r="$new/" 'index($2, r) == 1 { print $2 }' /proc/self/mounts | tac); do
	umount "$m" || umount -l "$m"
done
sync -f "$new"
mv -T "$new" "$tree"
echo "$tree"
