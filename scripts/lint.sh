#!/usr/bin/env bash
# lint.sh VERSION [ARGUMENTS…] runs that version of golangci-lint, built from
# its Go module into .tools/bin when it is not there yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$1
shift
tool=$PWD/.tools/bin/golangci-lint-$version
if [ ! -x "$tool" ]; then
	echo "building golangci-lint $version"
	mkdir -p .tools/bin
	stage=$(mktemp -d .tools/build.XXXXXX)
	trap 'rm -rf "$stage"' EXIT
	CGO_ENABLED=0 GOBIN=$PWD/$stage GOFLAGS=-buildvcs=false \
		go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
	mv "$stage/golangci-lint" "$tool"
fi
"$tool" run "$@" ./...
