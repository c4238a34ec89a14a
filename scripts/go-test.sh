#!/usr/bin/env bash
# go-test.sh FLAGS… -- PACKAGES… is go test -json FLAGS… PACKAGES…: with the race
# detector, but for the packages below, which it would make five to eight times as
# slow and find nothing in.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Packages in which nothing runs at once, neither in them nor in their tests. Others
# call some of them from many goroutines, and are watched while they do.
alone=(
	internal/detect/sigma internal/record test/corpus
	internal/format/cloudtrail internal/format/generic internal/format/json internal/format/jsondoc
	internal/format/okta internal/format/postgresql internal/format/registry internal/format/vault
)
# Packages whose tests judge the built binary, which is another process.
apart=(test/crash test/load)
# Of the command line the tests that run it as a process again and again, or check
# large files of rules with it, one after the other.
cli=internal/cli
cli_plain='^(TestScripts|TestRulesCheckBadInput)$'

# What the detector does not watch in the others. SQLite's own code is C that was
# translated, and keeps its memory outside of Go's heap, where the detector sees
# nothing: watched, it makes tests five times as slow. Its driver is Go, and is
# watched. What lies beneath crypto is hash functions.
unwatched=(modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory crypto/internal/fips140/...)

race=(-race)
for pattern in "${unwatched[@]}"; do race+=("-gcflags=$pattern=-race=false"); done

flags=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	flags+=("$1")
	shift
done
shift

for dir in "${alone[@]}"; do
	if grep -nE '(^|[[:space:]])go (func\b|[[:alnum:]_.]+\()|\.(Go|Parallel)\(|RunParallel\(' "$dir"/*.go | grep -vE ':[[:space:]]*//'; then
		echo "go-test.sh: $dir starts goroutines: it has to be tested with the race detector" >&2
		exit 1
	fi
done

names=$(go list "${alone[@]/#/./}" "${apart[@]/#/./}") && cli=$(go list "./$cli") && all=$(go list "$@") || exit
mapfile -t watched < <(grep -vxF "$names"$'\n'"$cli" <<<"$all")
mapfile -t plain < <(grep -xF "$names" <<<"$all")

# The detector needs cgo.
status=0
if [ ${#watched[@]} -gt 0 ]; then
	CGO_ENABLED=1 go test "${race[@]}" -json "${flags[@]}" "${watched[@]}" || status=1
fi
if grep -qxF "$cli" <<<"$all"; then
	CGO_ENABLED=1 go test "${race[@]}" -json "${flags[@]}" -skip "$cli_plain" "$cli" || status=1
	go test -json "${flags[@]}" -run "$cli_plain" "$cli" || status=1
fi
if [ ${#plain[@]} -gt 0 ]; then
	go test -json "${flags[@]}" "${plain[@]}" || status=1
fi
exit $status
