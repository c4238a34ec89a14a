#!/usr/bin/env bash
# Prints a name for the code of the working tree: the commit and, where it was
# changed since, a digest of the changes. Files that git does not know of do not
# count, nor does documentation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=$(git rev-parse --short HEAD 2>/dev/null || echo none)
changes=$(git diff HEAD -- . ':!*.md' 2>/dev/null || true)
if [ -n "$changes" ]; then
	commit+=-$(printf '%s' "$changes" | sha256sum | cut -c1-8)
fi
echo "$commit"
