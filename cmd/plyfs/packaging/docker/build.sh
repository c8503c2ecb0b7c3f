#!/bin/bash
# Lays out a managed plugin for `docker plugin create NAME DIR`: config.json and
# a root filesystem that holds the static program and nothing else.
#
#   build.sh DIR PROGRAM
#
# Called by `make docker-plugin`.
set -euo pipefail

out=${1:?usage: build.sh DIR PROGRAM} program=${2:?usage: build.sh DIR PROGRAM}
rm -rf "$out"
for dir in etc/plyfs var/lib/plyfs var/log/plyfs mnt/volumes run/docker/plugins proc sys dev tmp; do
	mkdir -p "$out/rootfs/$dir"
done
install -D -m 755 "$program" "$out/rootfs/usr/bin/plyfs"
install -m 644 "$(dirname "$0")/config.json" "$out/config.json"
