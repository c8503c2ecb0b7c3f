#!/bin/bash
# Packages bin/PROGRAM for Debian, as DIR/PROGRAM_VERSION_ARCH.deb.
#
#   build.sh DIR VERSION [PROGRAM]         default: plyfs
#
# Two runs on the same commit give the same bytes, wherever it lies; dates are that
# of the commit, or SOURCE_DATE_EPOCH. Called by `make deb`.
set -euo pipefail

out=$(realpath -m "${1:?usage: build.sh DIR VERSION}")
export VERSION=${2:?usage: build.sh DIR VERSION}
program=${3:-plyfs}
cd "$(dirname "$0")/../../.."
go=${GO:-go}
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(cmd/plyfs/packaging/version.sh epoch)}
DEB_ARCH=$($go env GOARCH)
export SOURCE_DATE_EPOCH DEB_ARCH
umask 022
STAGE=$(mktemp -d)
export STAGE
config=$(mktemp)
trap 'rm -rf "$STAGE" "$config"' EXIT
chmod 755 "$STAGE" # it becomes the package's root directory
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")

put() { install -D -m 644 "$1" "$STAGE/$2"; }
zip() { gzip -9n >"$STAGE/$1"; }

install -D -m 755 "bin/$program" "$STAGE/usr/bin/$program"
doc=usr/share/doc/$program man=usr/share/man
mkdir -p "$STAGE/$doc/examples" "$STAGE/$man" "$STAGE/usr/share/lintian/overrides"
overrides=$STAGE/usr/share/lintian/overrides/$program
case $program in
plyfs)
	module=.
	for page in cmd/plyfs/man/*.[1-9]; do
		mkdir -p "$STAGE/$man/man${page##*.}"
		zip "$man/man${page##*.}/${page##*/}.gz" <"$page"
	done
	for alias in mount.fuse.plyfs umount.fuse.plyfs; do
		echo '.so man8/mount.plyfs.8' | zip $man/man8/$alias.8.gz
	done
	put cmd/plyfs/completions/plyfs.bash usr/share/bash-completion/completions/plyfs
	put cmd/plyfs/completions/_plyfs usr/share/zsh/vendor-completions/_plyfs
	put cmd/plyfs/completions/plyfs.fish usr/share/fish/vendor_completions.d/plyfs.fish
	for unit in cmd/plyfs/systemd/*.service; do
		put "$unit" "lib/systemd/system/${unit##*/}"
	done
	for example in cmd/plyfs/systemd/*.conf; do
		put "$example" "$doc/examples/${example##*/}"
	done
	put cmd/plyfs/packaging/lintian-overrides "${overrides#"$STAGE/"}"
	cp cmd/plyfs/packaging/nfpm.yaml "$config"
	;;
*)
	module=cmd/$program where='a service' depends='  - plyfs'
	case $program in
	*-cloud) where='a cloud or a vault' ;;
	*-pkcs11) where='a hardware security module' ;;
	*-tpm) where="the host's TPM" ;;
	esac
	rmdir "$STAGE/$doc/examples" "$STAGE/$man"
	echo "$program: no-manual-page [usr/bin/$program]" >"$overrides"
	# A program with C in it needs the C library that it was built with.
	if file -b "bin/$program" | grep -q 'dynamically linked'; then
		depends=$(printf '%s\n  - libc6 (>= %s)' "$depends" "$(objdump -T "bin/$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d_ -f2)")
		echo "$program: hardening-no-pie [usr/bin/$program]" >>"$overrides" # as Go builds
	else
		echo "$program: statically-linked-binary [usr/bin/$program]" >>"$overrides"
	fi
	echo "$program: initial-upload-closes-no-bugs [$doc/changelog.Debian.gz:1]" >>"$overrides"
	text=$(<cmd/plyfs/packaging/nfpm-key.yaml)
	text=${text//@PROGRAM@/$program} text=${text//@WHERE@/$where} text=${text//@DEPENDS@/$depends}
	printf '%s\n' "$text" >"$config"
	;;
esac
zip $doc/changelog.gz <CHANGELOG.md
zip $doc/changelog.Debian.gz <<EOF
$program ($VERSION-1) unstable; urgency=medium

  * See changelog.gz.

 -- The plyfs developers <plyfs@users.noreply.github.com>  $date
EOF

# Whose code is in the program, by what it says itself, and on what terms.
{
	cat cmd/plyfs/packaging/copyright
	$go version -m "bin/$program" | awk '$1 == "dep" && $2 != "github.com/plyfs/plyfs" { print $2 }' | while read -r dep; do
		dir=$(cd "$module" && $go list -m -f '{{.Dir}}' "$dep")
		licence=$(find "$dir" -maxdepth 1 -iname 'licen[sc]e*' | sort | head -n 1)
		# A module of a larger repository has its licence further up, at times
		# only there.
		[ -n "$licence" ] || licence=$(find "$(dirname "$dir")" -maxdepth 1 -iname 'licen[sc]e*' -type f | sort | head -n 1)
		[ -n "$licence" ] || { echo "build.sh: no licence in $dir" >&2; exit 1; }
		printf '\nFiles: %s/*\nCopyright: as the licence says\nLicense: %s\n' "$dep" "${dep//\//-}"
		# Debian has the text of the GPL, where that is the other choice.
		sed -e 's/[[:space:]]*$//' -e 's/^$/./' -e 's/^/ /' \
			-e 's,^ Full text of gpl-2.0.txt:, It is in /usr/share/common-licenses/GPL-2.,;T' -e q "$licence"
	done
} >"$STAGE/$doc/copyright"

find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
$go run $nfpm package --config "$config" --packager deb --target "$out/"
