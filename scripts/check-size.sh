#!/usr/bin/env bash
# check-size.sh FILE MEBIBYTES fails when FILE is larger.
set -euo pipefail
bytes=$(wc -c <"$1")
if [ "$bytes" -gt $(($2 * 1024 * 1024)) ]; then
	echo "$1 has $bytes bytes, more than $2 MiB" >&2
	exit 1
fi
echo "$1 has $bytes bytes, at most $2 MiB are allowed"
