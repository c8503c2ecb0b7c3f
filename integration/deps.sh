#!/bin/bash
# Installs what the demo or the tests need and this machine lacks.
#
#   deps.sh demo|test
#
# Looks for commands, not for packages, so that a machine which has them from
# elsewhere is left alone and nothing is downloaded. No service is started.
set -euo pipefail

want=${1:?usage: deps.sh demo|test}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# command  package
demo='
mariadbd            mariadb-server
mariadb-install-db  mariadb-server
mariadb             mariadb-client
hexdump             bsdextrautils
setpriv             util-linux
mountpoint          util-linux
'
test=$demo'
mariadb-check       mariadb-client
mariadb-admin       mariadb-client
mariadb-backup      mariadb-backup
mydumper            mydumper
unshare             util-linux
sysbench            sysbench
fio                 fio
sqlite3             sqlite3
rsync               rsync
mkfs.btrfs          btrfs-progs
setfacl             acl
getfattr            attr
mkfs.xfs            xfsprogs
mkfs.ext4           e2fsprogs
ps                  procps
fusermount3         fuse3
gcc                 gcc
groff               groff-base
lintian             lintian
file                file
man                 man-db
systemd-analyze     systemd
zsh                 zsh
fish                fish
debootstrap         debootstrap
openssl             openssl
dockerd             docker.io
docker-compose      docker-compose
glusterd            glusterfs-server
mount.glusterfs     glusterfs-client
softhsm2-util       softhsm2
swtpm               swtpm
'
# file  package
demo_files=''
test_files='/etc/ssl/certs/ca-certificates.crt ca-certificates
/usr/lib/softhsm/libsofthsm2.so libsofthsm2
/usr/bin/docker docker.io'
# gcc alone has no C library to link against.
libc_probe=/usr/include/stdio.h

case $want in
demo) commands=$demo files=$demo_files ;;
test) commands=$test files="$test_files
$libc_probe libc6-dev" ;;
*) echo "deps.sh: unknown set $want" >&2; exit 2 ;;
esac

missing=()
while read -r command package; do
	[ -z "$command" ] || command -v "$command" >/dev/null || missing+=("$package")
done <<<"$commands"
while read -r file package; do
	[ -z "$file" ] || [ -e "$file" ] || missing+=("$package")
done <<<"$files"

if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
echo "missing here: ${missing[*]}"

if ! command -v apt-get >/dev/null; then
	echo "deps.sh: no apt-get on this machine; install these by hand: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: installing needs root: apt-get install ${missing[*]}" >&2
	exit 1
fi

# Debian starts a server as it installs it, unless this file says no (101).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi

log=$(mktemp)
apt() {
	if ! DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 \
		-o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1 </dev/null; then
		cat "$log" >&2
		echo "deps.sh: apt-get $* failed" >&2
		exit 1
	fi
}
apt update
apt install -y --no-install-recommends "${missing[@]}"
rm -f "$log"
echo "installed."
