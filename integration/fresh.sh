#!/bin/bash
# Proves that a fresh Debian 12 with only Go, git and make is enough: runs
# `make demo` and then `make test` in a new chroot, on a clone of this
# repository as it is committed.
#
#   integration/fresh.sh [TARGET]...       default: demo test
#
# PLYFS_FRESH_* and what it needs: see chroot.sh. The chroot takes 6 GB.
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

. integration/chroot.sh
echo "==> a new Debian 12 in ${PLYFS_FRESH_DIR:-/var/tmp}"
make_chroot fresh

goroot=$(go env GOROOT)
mkdir -p "$root/usr/local"
cp -a "$goroot" "$root/usr/local/go"
git clone -q --no-hardlinks "file://$repo" "$root/src"

mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys" && mount --make-rslave "$root/sys"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"

# Nothing of this shell's environment but how to reach the Go proxy.
vars=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin "${network[@]}")
for v in GOPROXY GOSUMDB GONOSUMDB GONOSUMCHECK GOINSECURE GOFLAGS GOPRIVATE; do
	value=$(go env $v 2>/dev/null) && [ -n "$value" ] && [ $v != GOFLAGS ] && vars+=("$v=$value")
done
for target in "$@"; do
	start=$SECONDS
	echo "==> make $target, with nothing but Go, git and make"
	chroot "$root" /usr/bin/env -i "${vars[@]}" make -C /src "$target"
	echo "==> make $target took $((SECONDS - start)) s"
done
