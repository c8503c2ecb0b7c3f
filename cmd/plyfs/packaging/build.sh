#!/bin/bash
# Packages bin/plyfs for Debian, as DIR/plyfs_VERSION_ARCH.deb.
#
#   build.sh DIR VERSION
#
# Two runs on the same commit give the same bytes, wherever it lies; dates are that
# of the commit, or SOURCE_DATE_EPOCH. Called by `make deb`.
set -euo pipefail

out=$(realpath -m "${1:?usage: build.sh DIR VERSION}")
export VERSION=${2:?usage: build.sh DIR VERSION}
cd "$(dirname "$0")/../../.."
go=${GO:-go}
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(cmd/plyfs/packaging/version.sh epoch)}
DEB_ARCH=$($go env GOARCH)
export SOURCE_DATE_EPOCH DEB_ARCH
umask 022
STAGE=$(mktemp -d)
export STAGE
trap 'rm -rf "$STAGE"' EXIT
chmod 755 "$STAGE" # it becomes the package's root directory
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")

put() { install -D -m 644 "$1" "$STAGE/$2"; }
zip() { gzip -9n >"$STAGE/$1"; }

install -D -m 755 bin/plyfs "$STAGE/usr/bin/plyfs"
doc=usr/share/doc/plyfs man=usr/share/man
mkdir -p "$STAGE/$doc/examples" "$STAGE/$man/man1" "$STAGE/$man/man5" "$STAGE/$man/man7" "$STAGE/$man/man8"
zip $man/man1/plyfs.1.gz <cmd/plyfs/man/plyfs.1
zip $man/man5/plyfs-providers.5.gz <cmd/plyfs/man/plyfs-providers.5
zip $man/man7/plyfs-mysql.7.gz <cmd/plyfs/man/plyfs-mysql.7
zip $man/man8/mount.plyfs.8.gz <cmd/plyfs/man/mount.plyfs.8
for alias in mount.fuse.plyfs umount.fuse.plyfs; do
	echo '.so man8/mount.plyfs.8' | zip $man/man8/$alias.8.gz
done
put cmd/plyfs/completions/plyfs.bash usr/share/bash-completion/completions/plyfs
put cmd/plyfs/completions/_plyfs usr/share/zsh/vendor-completions/_plyfs
put cmd/plyfs/completions/plyfs.fish usr/share/fish/vendor_completions.d/plyfs.fish
put cmd/plyfs/systemd/plyfs@.service lib/systemd/system/plyfs@.service
put cmd/plyfs/systemd/plyfs-docker.service lib/systemd/system/plyfs-docker.service
for f in mariadb-fstab mariadb-service credentials; do
	put cmd/plyfs/systemd/$f.conf $doc/examples/$f.conf
done
put cmd/plyfs/packaging/lintian-overrides usr/share/lintian/overrides/plyfs
zip $doc/changelog.gz <CHANGELOG.md
zip $doc/changelog.Debian.gz <<EOF
plyfs ($VERSION-1) unstable; urgency=medium

  * See changelog.gz.

 -- The plyfs developers <plyfs@users.noreply.github.com>  $date
EOF

# Whose code is in the program, by what it says itself, and on what terms.
{
	cat cmd/plyfs/packaging/copyright
	$go version -m bin/plyfs | awk '$1 == "dep" { print $2 }' | while read -r module; do
		dir=$($go list -m -f '{{.Dir}}' "$module")
		licence=$(find "$dir" -maxdepth 1 -iname 'licen[sc]e*' | sort | head -n 1)
		[ -n "$licence" ] || { echo "build.sh: no licence in $dir" >&2; exit 1; }
		printf '\nFiles: %s/*\nCopyright: as the licence says\nLicense: %s\n' "$module" "${module//\//-}"
		# Debian has the text of the GPL, where that is the other choice.
		sed -e 's/[[:space:]]*$//' -e 's/^$/./' -e 's/^/ /' \
			-e 's,^ Full text of gpl-2.0.txt:, It is in /usr/share/common-licenses/GPL-2.,;T' -e q "$licence"
	done
} >"$STAGE/$doc/copyright"

find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
$go run $nfpm package --config cmd/plyfs/packaging/nfpm.yaml --packager deb --target "$out/"
