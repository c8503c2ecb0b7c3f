#!/bin/bash
# Proves that a fresh Debian 12 with only Go, git and make is enough: runs
# `make demo` and then `make test` in a new chroot, on a clone of this
# repository as it is committed.
#
#   integration/fresh.sh [TARGET]...       default: demo test
#
#   PLYFS_FRESH_DIR    where the chroot is made; on a disk, 6 GB (default: /var/tmp)
#   PLYFS_FRESH_CACHE  keeps the bare Debian tree as a tarball between runs
#   PLYFS_FRESH_KEEP   if set, the chroot stays, for a look into it
#
# Needs root, debootstrap, and what this machine's apt and Go get through.
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
repo=$PWD
[ $# -gt 0 ] || set -- demo test

[ "$(id -u)" = 0 ] || { echo 'fresh.sh: needs root' >&2; exit 1; }
if ! command -v debootstrap >/dev/null; then
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends debootstrap >/dev/null
fi
if [ -n "$(git status --porcelain)" ]; then
	echo 'fresh.sh: note: what is not committed is not tested' >&2
fi

root=$(mktemp -d "${PLYFS_FRESH_DIR:-/var/tmp}/plyfs-fresh.XXXXXX")
chmod 755 "$root"
cache=${PLYFS_FRESH_CACHE:-${TMPDIR:-/var/tmp}/plyfs-fresh-bookworm.tar}

cleanup() {
	local code=$?
	trap - EXIT INT TERM
	set +e
	# Whatever is mounted below, innermost first; the binds last.
	awk -v r="$root/" 'index($2, r) == 1 { print $2 }' /proc/self/mounts | tac | while read -r m; do
		umount -l "$m"
	done
	if [ -n "${PLYFS_FRESH_KEEP:-}" ]; then
		echo "fresh.sh: kept $root"
	else
		rm -rf --one-file-system "$root"
	fi
	exit $code
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "==> Debian 12 in $root"
if [ -s "$cache" ]; then
	tar -C "$root" -xpf "$cache"
else
	mirror=$(awk '$1 == "URIs:" { print $2 } $1 == "deb" { print ($2 ~ /^\[/) ? $3 : $2 }' \
		/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -m 1 '/debian/*$' || true)
	log=$(mktemp)
	if ! debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$root" \
		"${mirror:-http://deb.debian.org/debian}" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		exit 1
	fi
	rm -f "$log"
	rm -f "$root"/var/cache/apt/archives/*.deb
	tar -C "$root" -cpf "$cache.$$" . && mv "$cache.$$" "$cache"
fi

# The network as this machine has it: apt's sources, proxies, resolver.
for f in /etc/resolv.conf /etc/hosts; do
	[ ! -e $f ] || cp --dereference $f "$root$f"
done
mkdir -p "$root/etc/apt/apt.conf.d" "$root/etc/apt/sources.list.d"
if ls /etc/apt/sources.list.d/debian.sources >/dev/null 2>&1; then
	rm -f "$root/etc/apt/sources.list"
	cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/"
elif [ -s /etc/apt/sources.list ]; then
	cp /etc/apt/sources.list "$root/etc/apt/"
fi
apt-config dump | grep -iE '^Acquire::.*(proxy|CAInfo|Verify-Peer)' >"$root/etc/apt/apt.conf.d/90network" || true

goroot=$(go env GOROOT)
mkdir -p "$root/usr/local"
cp -a "$goroot" "$root/usr/local/go"
git clone -q --no-hardlinks "file://$repo" "$root/src"

mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys" && mount --make-rslave "$root/sys"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"

# Nothing of this shell's environment but how to reach the Go proxy.
vars=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin)
for v in GOPROXY GOSUMDB GONOSUMDB GONOSUMCHECK GOINSECURE GOFLAGS GOPRIVATE; do
	value=$(go env $v 2>/dev/null) && [ -n "$value" ] && [ $v != GOFLAGS ] && vars+=("$v=$value")
done
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE; do
	[ -z "${!v:-}" ] || vars+=("$v=${!v}")
done
if [ -n "${SSL_CERT_FILE:-}" ] && [ -e "$SSL_CERT_FILE" ]; then
	install -D "$SSL_CERT_FILE" "$root$SSL_CERT_FILE"
fi
for target in "$@"; do
	start=$SECONDS
	echo "==> make $target, with nothing but Go, git and make"
	chroot "$root" /usr/bin/env -i "${vars[@]}" make -C /src "$target"
	echo "==> make $target took $((SECONDS - start)) s"
done
