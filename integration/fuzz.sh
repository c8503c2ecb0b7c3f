#!/bin/bash
# Runs each fuzzer of the module, found by name, for a number of seconds.
#
#   fuzz.sh SECONDS
#
# A failing input is left by go under the package's testdata/fuzz and is a
# failing unit test from then on: keep it there when the bug is mended.
set -euo pipefail
seconds=${1:?usage: fuzz.sh SECONDS}
go=${GO:-go}
count=0

# fuzz runs one. The go command at times reports its own end of the fuzzing
# time as a failure, with no failing input: then it is tried again.
fuzz() {
	local out try
	for try in 1 2 3; do
		if out=$(CGO_ENABLED=0 $go test -run '^$' -fuzz "^$2\$" -fuzztime "${seconds}s" "$1" 2>&1); then
			return
		fi
		case $out in
		*'Failing input written'*) break ;;
		*'context deadline exceeded'*) ;;
		*) break ;;
		esac
	done
	printf '%s\n' "$out" >&2
	exit 1
}

while read -r dir; do
	names=$(grep -hoE '^func Fuzz[A-Za-z0-9_]*\(' "$dir"/*_test.go 2>/dev/null |
		sed -E 's/^func (Fuzz[A-Za-z0-9_]*)\(/\1/') || continue
	for name in $names; do
		printf '%s %s\n' "${dir#"$PWD"/}" "$name"
		fuzz "$dir" "$name"
		count=$((count + 1))
	done
done < <($go list -f '{{.Dir}}' ./...)

if [ "$count" -eq 0 ]; then
	echo 'fuzz.sh: no fuzzer found' >&2
	exit 1
fi
echo "$count fuzzers, $seconds s each"
