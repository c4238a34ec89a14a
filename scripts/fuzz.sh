#!/usr/bin/env bash
# fuzz.sh DURATION runs every fuzz target of the module for DURATION each, such
# as 5s. A package's test program is built once for all of its targets. What
# breaks a target is left under its testdata/fuzz for go test to repeat.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus=$(go env GOCACHE)/fuzz

count=0
failed=()
while IFS=$'\t' read -r pkg dir files; do
	# A look at the text saves building the packages that have no target.
	read -ra names <<<"$files"
	(cd "$dir" && grep -lqE '^func Fuzz[A-Za-z0-9_]*\(' "${names[@]}") || continue
	go test -c -fuzz=Fuzz -o "$work/test" "$pkg"
	targets=$(cd "$dir" && "$work/test" -test.list '^Fuzz')
	for target in $targets; do
		count=$((count + 1))
		echo "fuzz $pkg $target"
		if ! (cd "$dir" && "$work/test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$duration" \
			-test.parallel 2 -test.fuzzcachedir "$corpus/$pkg") >"$work/log" 2>&1; then
			cat "$work/log"
			failed+=("$pkg $target")
		else
			tail -n 2 "$work/log" | head -n 1
		fi
	done
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}{{end}}' ./...)

echo "fuzz: $count targets for $duration each, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	printf '  %s\n' "${failed[@]}"
	exit 1
fi
