#!/bin/sh
# What is stamped into the program and its packages.
#
#   version.sh version    1.2.3 of a tag v1.2.3; else 1.2.3~git20260131235959.abc1234:
#                         what will be 1.2.3, as of a commit; sorts before it
#   version.sh epoch      seconds since 1970 of that commit, for reproducible files
#
# Outside of git, what `git archive` wrote into the file stamp counts, and then
# the newest heading of CHANGELOG.md alone.
set -eu
cd "$(dirname "$0")/../../.."

# The ownership of a clone does not matter to who only reads it.
vcs() { git -c safe.directory='*' "$@" 2>/dev/null; }

base=$(sed -n 's/^## \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
seconds='' hash='' tag='' dirty=''
# A tarball may have been unpacked within another repository.
if [ "$(vcs rev-parse --show-toplevel || true)" = "$(pwd -P)" ] && hash=$(vcs rev-parse HEAD); then
	seconds=$(vcs log -1 --format=%ct)
	tag=$(vcs describe --tags --exact-match --match 'v[0-9]*' || true)
	vcs update-index -q --refresh >/dev/null || true
	vcs diff-index --quiet HEAD -- || dirty=+dirty
else
	# Words: seconds, hash, and the tag if there is one.
	read -r seconds hash tag <cmd/plyfs/packaging/stamp || true
	case $seconds in *[!0-9]* | '') seconds='' hash='' tag='' ;; esac
	case $tag in v[0-9]*-g* | '') tag='' ;; esac
fi
case ${1:-version} in
epoch) echo "${seconds:-$(stat -c %Y CHANGELOG.md)}" ;;
version)
	if [ -n "$tag" ]; then
		echo "${tag#v}$dirty"
	elif [ -n "$hash" ]; then
		echo "$base~git$(date -u -d "@$seconds" +%Y%m%d%H%M%S).$(echo "$hash" | cut -c 1-8)$dirty"
	else
		echo "$base"
	fi
	;;
*)
	echo 'usage: version.sh version|epoch' >&2
	exit 2
	;;
esac
