#!/bin/bash
# The story of plyfs in a minute or two, on a volume of its own.
#
# Everything happens in a temporary directory ($PLYFS_DEMO_DIR, else below
# $TMPDIR or /var/tmp) and is removed at the end, also after a failure. No
# server and no file of this machine is touched. Needs root, for the mount.
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
plyfs=${PLYFS_BIN:-$PWD/bin/plyfs}
export LC_ALL=C.UTF-8

if [ "$(id -u)" != 0 ]; then
	echo 'demo: needs root, to mount and to run MariaDB as user mysql' >&2
	exit 1
fi
if [ ! -e /dev/fuse ]; then
	echo 'demo: there is no /dev/fuse here (modprobe fuse?)' >&2
	exit 1
fi
if [ -n "${PLYFS_DEMO_DIR:-}" ]; then
	mkdir -p "$PLYFS_DEMO_DIR"
	base=$PLYFS_DEMO_DIR
else
	base=${TMPDIR:-/var/tmp}
fi
dir=$(mktemp -d "$base/plyfs-demo.XXXXXX")
chmod 755 "$dir"
# State and log of plyfs go there too, and not into /var/lib and /var/log.
export XDG_STATE_HOME=$dir/state
cipher=$dir/cipher mnt=$dir/mnt keys=$dir/keys
server=

# --- how it looks -----------------------------------------------------------
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
chapter=0
title() { chapter=$((chapter + 1)); printf '\n%s%d. %s%s\n' "$bold" "$chapter" "$1" "$off"; }
say() { printf '   %s\n' "$@"; }
# show prints a command as one would type it, then runs it, indented.
show() {
	local text=$*
	text=${text//"$plyfs"/plyfs}
	printf '   %s$ %s%s\n' "$dim" "${text//"$dir"\//}" "$off"
	"$@" 2>&1 | sed -e "s|$dir/||g" -e 's/^/   | /'
}
fail() { printf '\ndemo: %s\n' "$1" >&2; exit 1; }

# --- cleaning up ------------------------------------------------------------
stop_server() {
	[ -n "$server" ] || return 0
	kill "$server" 2>/dev/null || true
	for _ in $(seq 300); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
	kill -9 "$server" 2>/dev/null || true
	wait "$server" 2>/dev/null || true
	server=
}
cleanup() {
	local code=$?
	trap - EXIT INT TERM
	set +e
	stop_server
	local m
	for m in "$mnt" "$dir/copy.mnt"; do
		mountpoint -q "$m" && { "$plyfs" umount "$m" >/dev/null 2>&1 || umount -l "$m"; }
	done
	if [ $code -ne 0 ]; then
		printf '\ndemo: failed; what was logged:\n' >&2
		head -n 20 "$dir"/*.log 2>/dev/null | sed 's/^/   /' >&2
	fi
	rm -rf --one-file-system "$dir"
	exit $code
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- MariaDB, private: own data, own socket, no network ----------------------
start_server() {
	mariadbd --no-defaults --user=mysql --datadir="$mnt" --socket="$dir/run/sock" \
		--pid-file="$dir/run/pid" --skip-networking --innodb-flush-method=O_DIRECT \
		--innodb-use-native-aio=1 --innodb-buffer-pool-size=32M \
		--log-error="$dir/mariadb.log" >/dev/null 2>&1 &
	server=$!
	for _ in $(seq 600); do
		sql 'SELECT 1' >/dev/null 2>&1 && return
		kill -0 "$server" 2>/dev/null || fail "MariaDB ended: see $dir/mariadb.log"
		sleep 0.1
	done
	fail 'MariaDB does not answer'
}
sql() { mariadb --no-defaults --socket="$dir/run/sock" --user=root --batch --skip-column-names -e "$1"; }
count() { sql 'SELECT COUNT(*), SUM(LENGTH(note)) FROM shop.customers' | tr '\t' ' '; }

secret='Ada Lovelace, card 4929-1234-5678-9012'

printf '%splyfs: MySQL data under two layers of encryption%s\n' "$bold" "$off"

title 'Keys: two stores, one for each layer, made apart'
show "$plyfs" keystore init --keystore "$keys"
show ls -l "$keys"

title 'A volume: an ordinary directory that will hold nothing but sealed bytes'
show "$plyfs" init --keystore "$keys" "$cipher"

title 'Mount it'
mkdir "$mnt"
show "$plyfs" mount --keystore "$keys" -o "log=$dir/plyfs.log" "$cipher" "$mnt"
show findmnt -no SOURCE,TARGET,FSTYPE "$mnt"

title 'MariaDB lives on it, with O_DIRECT and native asynchronous I/O'
show chown mysql:mysql "$mnt"
install -d -o mysql -g mysql -m 750 "$dir/run"
: >"$dir/mariadb.log" && chown mysql "$dir/mariadb.log"
mariadb-install-db --no-defaults --user=mysql --datadir="$mnt" --skip-test-db \
	--auth-root-authentication-method=normal >"$dir/install.log" 2>&1 || fail 'mariadb-install-db failed'
start_server
sql "CREATE DATABASE shop; USE shop;
	CREATE TABLE customers (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(64), note TEXT);
	INSERT INTO customers (name, note) SELECT CONCAT('customer ', seq), '$secret' FROM seq_1_to_20000"
say "20,000 rows written; each holds the text \"$secret\"."
before=$(count)
say "COUNT(*) and SUM(LENGTH(note)): $before"
stop_server
say 'The server is stopped; what it wrote is in the file below.'

title 'The same table, seen from both sides'
table=$mnt/shop/customers.ibd
offset=$(LC_ALL=C grep -abom1 'Ada Lovelace' "$table" | head -n 1 | cut -d: -f1)
[ -n "$offset" ] || fail 'the rows are not in the table file'
say 'Through the mount, as MariaDB sees it:'
show hexdump -C -s $((offset / 16 * 16)) -n 64 "$table"
inode=$(stat -c %i "$table") size=$(stat -c %s "$table")
"$plyfs" umount "$mnt"
# The ciphertext's length follows from the size: FORMAT.md, section 4.
blocks=$(((size + 4095) / 4096)) group=$((((size + 4095) / 4096 - 1 + 16) / 56))
sealed=$(find "$cipher" -type f -size $((4096 * (group + 1) + size))c -inum "$inode" | head -n 1)
[ -n "$sealed" ] || sealed=$(find "$cipher" -type f -size $((4096 * (group + 1) + size))c | head -n 1)
[ -n "$sealed" ] || fail 'the ciphertext of the table was not found'
block=$((offset / 4096))
at=$((4096 * ((block + 16) / 56 + 1) + block * 4096 + offset % 4096))
say '' "On disk, the same place of the same file ($blocks blocks of 4 KiB):"
show hexdump -C -s $((at / 16 * 16)) -n 64 "$sealed"
if LC_ALL=C grep -rqaF -e 'Ada Lovelace' -e '4929-1234' "$cipher" ||
	find "$cipher" | grep -q -e customers -e ibdata; then
	fail 'plaintext in the ciphertext directory'
fi
say '' "Neither the text nor a file's name is anywhere in the $(find "$cipher" -type f | wc -l) files there."

title 'What an auditor sees of a file, without any key'
show "$plyfs" inspect --blocks "$block" "$sealed"

title 'Somebody flips one bit (of a copy)'
cp -a "$cipher" "$dir/copy"
mkdir "$dir/copy.mnt"
victim=$dir/copy/${sealed#"$cipher"/}
byte=$(od -An -tu1 -j $at -N 1 "$victim")
printf "\\x$(printf %x $((byte ^ 1)))" | dd of="$victim" bs=1 seek=$at conv=notrunc status=none
"$plyfs" mount --keystore "$keys" -o "ro,log=$dir/copy.log" "$dir/copy" "$dir/copy.mnt"
bad=$dir/copy.mnt/shop/customers.ibd
say "Block $block of the copy is changed. Reading it:"
printf '   %s$ dd if=copy.mnt/shop/customers.ibd bs=4096 skip=%d count=1%s\n' "$dim" $block "$off"
if answer=$(dd if="$bad" of=/dev/null bs=4096 skip=$block count=1 iflag=direct 2>&1); then
	fail 'the changed block was read without an error'
fi
case $answer in *'Input/output error'*) say "| ${answer%%$'\n'*}" | sed "s|$dir/||g" ;; *) fail "not the error expected: $answer" ;; esac
say 'An error, never wrong data; and a line in the log:'
sleep 0.2
grep -m 1 -iE 'warn|error' "$dir/copy.log" | sed -e "s|$dir/||g" -e 's/^/   | /' || fail 'no line in the log'
dd if="$bad" of=/dev/null bs=4096 skip=$((block + 8)) count=1 iflag=direct status=none || fail 'another block does not read'
say 'All other blocks read as before.'
"$plyfs" umount "$dir/copy.mnt"

title 'Mount the volume again: everything is there'
show "$plyfs" mount --keystore "$keys" -o "log=$dir/plyfs.log" "$cipher" "$mnt"
start_server
after=$(count)
say "COUNT(*) and SUM(LENGTH(note)): $after"
[ "$before" = "$after" ] || fail "before it was $before"
say "CHECK TABLE: $(sql 'CHECK TABLE shop.customers EXTENDED' | cut -f4)"
stop_server
show "$plyfs" status "$mnt"
show "$plyfs" umount "$mnt"
printf '\n%sDone.%s It took %d seconds; nothing is left behind.\n' "$bold" "$off" $SECONDS
