#!/usr/bin/env bash
# Runs the tests on the heavy real systems, those with the build tag systems:
# builds Vault and Rekor into the cache of test systems, installs the OpenID
# provider, and runs the packages that have such tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

vault_dir=$(scripts/build-vault.sh)
export STAUNCH_VAULT_BIN=$vault_dir/vault
rekor_dir=$(scripts/build-rekor.sh)
export STAUNCH_REKOR_BIN=$rekor_dir/rekor-server

if ! command -v npm >/dev/null 2>&1; then
	echo "npm is missing: the OpenID provider that the tests run against is an npm package." >&2
	echo "hint: install Node.js 20 or later with npm and try again" >&2
	exit 1
fi
# npm ci removes what is there, so only when the lock file is newer.
if [ ! -e test/systems/oidc/node_modules/.package-lock.json ] ||
	[ test/systems/oidc/package-lock.json -nt test/systems/oidc/node_modules/.package-lock.json ]; then
	(cd test/systems/oidc && npm ci --loglevel=error && touch node_modules/.package-lock.json)
fi

# The tests in files with the tag, by name: make test runs what else is in their
# packages.
packages=()
tests=()
while IFS=$'\t' read -r pkg dir files; do
	read -ra names <<<"$files"
	mapfile -t tagged < <(cd "$dir" && grep -lE '^//go:build .*\bsystems\b' "${names[@]}")
	if [ ${#tagged[@]} -gt 0 ]; then
		packages+=("$pkg")
		mapfile -t -O ${#tests[@]} tests < <(cd "$dir" && sed -nE 's/^func (Test[A-Za-z0-9_]*)\(t \*testing\.T.*/\1/p' "${tagged[@]}")
	fi
done < <(go list -tags systems -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}{{end}}' ./...)
if [ ${#tests[@]} -eq 0 ]; then
	echo "no package has tests with the build tag systems" >&2
	exit 1
fi

go build -o .tools/bin/testsum ./scripts/testsum
export STAUNCH_REQUIRE_POSTGRES=1 STAUNCH_REQUIRE_VAULT=1 STAUNCH_REQUIRE_REKOR=1 STAUNCH_REQUIRE_OIDC=1
scripts/go-test.sh -tags systems -count=1 -timeout 30m -run "^($(IFS='|' && echo "${tests[*]}"))\$" -- "${packages[@]}" |
	.tools/bin/testsum -forbid '(PostgreSQL|Vault|Rekor|OpenID provider) is missing'
