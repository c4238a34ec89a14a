#!/usr/bin/env bash
# need.sh gcc|postgresql|pgaudit … makes sure that each is there: installs it with
# apt as root, else says what to install and fails.
set -euo pipefail

# server prints the directory with the PostgreSQL that the tests use.
server() {
	local dir dirs
	dirs=(/usr/lib/postgresql/1[5-9]/bin /usr/lib/postgresql/[2-9][0-9]/bin
		"$(dirname "$(command -v initdb || echo /nowhere/initdb)")")
	if [ -n "${STAUNCH_POSTGRES_BIN:-}" ]; then
		dirs=("$STAUNCH_POSTGRES_BIN")
	fi
	for dir in "${dirs[@]}"; do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
			printf '%s\n' "$dir"
			return
		fi
	done
	return 1
}

has() {
	case $1 in
	gcc)
		# A compiler without the C library's headers is not enough for -race.
		command -v "${CC:-gcc}" >/dev/null 2>&1 &&
			printf '#include <stdlib.h>\nint main(void) { return 0; }\n' |
			"${CC:-gcc}" -x c -o /dev/null - >/dev/null 2>&1
		;;
	postgresql)
		server >/dev/null
		;;
	pgaudit)
		local bin share
		bin=$(server) || return
		share=$("$bin/pg_config" --sharedir 2>/dev/null) ||
			share=/usr/share/postgresql/$(basename "$(dirname "$bin")")
		[ -e "$share/extension/pgaudit.control" ]
		;;
	*)
		echo "need.sh: it does not know $1" >&2
		exit 2
		;;
	esac
}

packages() {
	case $1 in
	gcc) echo gcc libc6-dev ;;
	postgresql) echo postgresql ;;
	pgaudit) echo "postgresql-$("$(server)/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')-pgaudit" ;;
	esac
}

why() {
	case $1 in
	gcc) echo "the race detector needs a C compiler" ;;
	postgresql) echo "the tests run the store and a connector on a real PostgreSQL, 15 or later" ;;
	pgaudit) echo "a test follows the log of a real PostgreSQL with pgAudit" ;;
	esac
}

for tool in "$@"; do
	if has "$tool"; then
		continue
	fi
	read -ra wanted <<<"$(packages "$tool")"
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		echo "$tool is missing: $(why "$tool")." >&2
		echo "hint: install it and try again; on Debian or Ubuntu: sudo apt-get install ${wanted[*]}" >&2
		exit 1
	fi
	echo "installing ${wanted[*]}: $(why "$tool")"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends "${wanted[@]}" >/dev/null
	if ! has "$tool"; then
		echo "$tool is missing although apt-get installed ${wanted[*]}; is the distribution too old?" >&2
		exit 1
	fi
done
