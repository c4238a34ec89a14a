#!/usr/bin/env bash
# Fails when make generate changes a file, that is when generated files are out
# of step with what they are made from. It compares the tree before and after,
# so that a working tree with other changes in it can be checked as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
	echo "generated files: not a git checkout, so not checked"
	exit 0
fi

state() {
	git ls-files --cached --others --exclude-standard -z | sort -zu |
		while IFS= read -r -d '' file; do
			if [ -f "$file" ]; then printf '%s %s\n' "$(git hash-object --no-filters -- "$file")" "$file"; fi
		done
}

before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT
state >"$before"
"${MAKE:-make}" --no-print-directory generate
state >"$after"
if ! diff -u "$before" "$after" >&2; then
	echo "generated files are out of step: run make generate and commit what it changed" >&2
	exit 1
fi
echo "generated files are in step"
