# What deb.sh and fresh.sh share: a bare Debian 12 to chroot(8) into. For bash,
# by source; needs root, debootstrap, and what this machine's apt gets through.
#
#   PLYFS_FRESH_DIR    where the chroot is made, on a disk (default: /var/tmp)
#   PLYFS_FRESH_CACHE  keeps the bare Debian tree as a tarball between runs
#   PLYFS_FRESH_KEEP   if set, the chroot stays, for a look into it

# make_chroot NAME makes a directory $root with Debian 12, git and make in it, and
# removes it when the script ends. apt in it reaches what it does on this machine
# if it gets "${network[@]}" as its environment.
make_chroot() {
	root=$(mktemp -d "${PLYFS_FRESH_DIR:-/var/tmp}/plyfs-$1.XXXXXX")
	trap remove_chroot EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	chmod 755 "$root"
	bootstrap_chroot
	connect_chroot
}

remove_chroot() {
	local code=$?
	trap - EXIT INT TERM
	set +e
	# Innermost first; binds last.
	awk -v r="$root/" 'index($2, r) == 1 { print $2 }' /proc/self/mounts | tac | while read -r m; do
		umount -l "$m"
	done
	# Never with anything mounted below: that may be this machine's own.
	if grep -q " $root/" /proc/self/mounts; then
		echo "${0##*/}: left $root, something is mounted there" >&2
	elif [ -n "${PLYFS_FRESH_KEEP:-}" ]; then
		echo "${0##*/}: kept $root"
	else
		rm -rf --one-file-system "$root"
	fi
	exit $code
}

# bootstrap_chroot fills $root, from the tarball if there is one.
bootstrap_chroot() {
	local cache=${PLYFS_FRESH_CACHE:-${TMPDIR:-/var/tmp}/plyfs-fresh-bookworm.tar} mirror log
	if [ -s "$cache" ]; then
		tar -C "$root" -xpf "$cache"
		return
	fi
	mirror=$(awk '$1 == "URIs:" { print $2 } $1 == "deb" { print ($2 ~ /^\[/) ? $3 : $2 }' \
		/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -m 1 '/debian/*$' || true)
	log=$(mktemp)
	if ! debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$root" \
		"${mirror:-http://deb.debian.org/debian}" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		exit 1
	fi
	rm -f "$log" "$root"/var/cache/apt/archives/*.deb
	tar -C "$root" -cpf "$cache.$$" . && mv "$cache.$$" "$cache"
}

# connect_chroot gives $root the network as this machine has it: resolver, apt's
# sources, proxies. It sets network, in the form NAME=VALUE.
connect_chroot() {
	local f v
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
	network=()
	for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE; do
		[ -z "${!v:-}" ] || network+=("$v=${!v}")
	done
	if [ -n "${SSL_CERT_FILE:-}" ] && [ -e "$SSL_CERT_FILE" ]; then
		install -D "$SSL_CERT_FILE" "$root$SSL_CERT_FILE"
	fi
}
