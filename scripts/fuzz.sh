#!/usr/bin/env bash
# fuzz.sh DURATION runs every fuzz target of the module for DURATION each, such
# as 5s. A package's test program is built once for all of its targets. What
# breaks a target is left under its testdata/fuzz for go test to repeat.
#
# Before Go 1.27 the fuzzing engine fails now and then on its own deadline
# (go.dev/issue/75804): its only message is then "context deadline exceeded", and
# no input is written. Such a run found nothing, so the target is run again; one
# that ends so three times fails, since it may be a target that hangs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus=$(go env GOCACHE)/fuzz

# fuzz_target TARGET fuzzes once, from the package's folder, into $work/log.
fuzz_target() {
	(cd "$dir" && "$work/test" -test.run '^$' -test.fuzz "^$1\$" -test.fuzztime "$duration" \
		-test.parallel 2 -test.fuzzcachedir "$corpus/$pkg") >"$work/log" 2>&1
}

# only_deadline tells whether the last run said nothing but that its time was over.
only_deadline() {
	[ "$(grep -vE '^(fuzz: |--- FAIL: |FAIL$|exit status )' "$work/log" | tr -d ' \n')" = contextdeadlineexceeded ]
}

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
		for try in 1 2 3; do
			if fuzz_target "$target"; then
				tail -n 2 "$work/log" | head -n 1
				break
			fi
			cat "$work/log"
			if [ "$try" = 3 ] || ! only_deadline; then
				failed+=("$pkg $target")
				break
			fi
			echo "fuzz: the engine failed on its own deadline; once more"
		done
	done
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}{{end}}' ./...)

echo "fuzz: $count targets for $duration each, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	printf '  %s\n' "${failed[@]}"
	exit 1
fi
