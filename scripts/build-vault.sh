#!/usr/bin/env bash
# Builds HashiCorp Vault and its PostgreSQL database plugin from their Go
# modules into the cache of test systems, once per version of the recipe.
# Prints the directory that holds vault and plugins/ on standard output.
#
# Vault is under the Business Source License: it is a target that tests run
# against, is never linked into staunch and is in nothing that ships.
#
# The module that Vault's tag asks for as its sdk (v0.21.0) differs from the
# sdk inside Vault's own repository in two signatures, so the build uses a copy
# with those two put right. vault.mod and vault.sum pin everything else.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=$here/test/systems/vaulttest/recipe
version=$(tr -d '[:space:]' <"$recipe/version")
cache=${STAUNCH_SYSTEMS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/staunch-systems}
out=$cache/vault-$version

mkdir -p "$cache"
# Two checkouts that build at the same time share one build.
exec 9>"$cache/vault-$version.lock"
flock 9

if [ -x "$out/vault" ] && [ -x "$out/plugins/postgresql-database-plugin" ]; then
	printf '%s\n' "$out"
	exit 0
fi

echo "building Vault $version from its Go module (about ten minutes the first time)" >&2
work=$(mktemp -d "$cache/vault-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

sdk=$(cd "$work" && go mod download -json github.com/hashicorp/vault/sdk@v0.21.0 |
	sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
[ -n "$sdk" ] || {
	echo "build-vault: the Go module proxy did not give Vault's sdk" >&2
	exit 1
}
cp -r "$sdk" "$work/sdk"
chmod -R u+w "$work/sdk"

# Fails loudly when the text that it changes is not there.
patch_file() { # FILE AWK-PROGRAM, which exits 9 when it found nothing to change
	awk "$2" "$1" >"$1.new" || {
		echo "build-vault: $1 does not read as the recipe expects" >&2
		exit 1
	}
	mv "$1.new" "$1"
}
patch_file "$work/sdk/framework/backend.go" '
	sub(/ActivationFunc func\(context\.Context, \*logical\.Request, string\) error/,
	    "ActivationFunc func(context.Context, *logical.Request) error") { n++ }
	{ print }
	END { exit n == 1 ? 0 : 9 }'
patch_file "$work/sdk/helper/keysutil/lock_manager.go" '
	/^func \(lm \*LockManager\) RestorePolicy\(/ { in_func = 1; n += sub(/\) error \{$/, ") (string, error) {") }
	in_func && /return err$/ { sub(/return err$/, "return \"\", err"); n++ }
	in_func && /return (fmt\.Errorf|errwrap\.Wrapf)\(/ { sub(/return /, "return \"\", "); n++ }
	in_func && /^\treturn nil$/ { sub(/return nil/, "return name, nil"); n++ }
	{ print }
	/^}/ { in_func = 0 }
	END { exit n == 9 ? 0 : 9 }'

cp "$recipe/vault.mod" "$work/go.mod"
cp "$recipe/vault.sum" "$work/go.sum"

stage=$work/out
mkdir -p "$stage/plugins"
cd "$work"
# -mod=mod: another operating system may need sums that vault.sum lacks; the
# versions stay those of vault.mod and the checksum database still verifies.
export CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod
nice go build -buildvcs=false -p 2 -trimpath -tags minimal -ldflags '-s -w' \
	-o "$stage/vault" github.com/hashicorp/vault
nice go build -buildvcs=false -p 2 -trimpath -ldflags '-s -w' \
	-o "$stage/plugins/postgresql-database-plugin" \
	github.com/hashicorp/vault/plugins/database/postgresql/postgresql-database-plugin

# A complete directory appears in one step, so a stopped build leaves none.
rm -rf "$out"
mv "$stage" "$out"
printf '%s\n' "$out"
