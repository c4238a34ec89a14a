#!/usr/bin/env bash
# Builds Sigstore's Rekor v2 (rekor-tiles, the server that keeps its log in files)
# from its Go module into the cache of test systems, once per version of the
# recipe. Prints the directory that holds rekor-server on standard output.
#
# Rekor is under Apache-2.0. It is a system that tests run against, is never linked
# into staunch and is in nothing that ships. rekor.mod and rekor.sum pin everything.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=$here/test/systems/rekortest/recipe
version=$(tr -d '[:space:]' <"$recipe/version")
cache=${STAUNCH_SYSTEMS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/staunch-systems}
out=$cache/rekor-$version

mkdir -p "$cache"
# Two checkouts that build at the same time share one build.
exec 9>"$cache/rekor-$version.lock"
flock 9

if [ -x "$out/rekor-server" ]; then
	printf '%s\n' "$out"
	exit 0
fi

echo "building Rekor $version from its Go module (about a minute the first time)" >&2
work=$(mktemp -d "$cache/rekor-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

cp "$recipe/rekor.mod" "$work/go.mod"
cp "$recipe/rekor.sum" "$work/go.sum"

stage=$work/out
mkdir -p "$stage"
cd "$work"
# -mod=mod: another operating system may need sums that rekor.sum lacks; the
# versions stay those of rekor.mod and the checksum database still verifies.
export CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod
nice go build -buildvcs=false -p 2 -trimpath -ldflags '-s -w' \
	-o "$stage/rekor-server" github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix

# A complete directory appears in one step, so a stopped build leaves none.
rm -rf "$out"
mv "$stage" "$out"
printf '%s\n' "$out"
