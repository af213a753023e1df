#!/bin/bash
# Prints the version of the tree as Debian orders it: 1.2.3 for the tag v1.2.3, 1.2.3+4.gabc for what came after it, and
# 0.0.0+NUMBER-OF-COMMITS.gabc before the first tag.
set -euo pipefail
cd "$(dirname "$0")/.."
dirty=
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then dirty=.dirty; fi
if text=$(git describe --tags --long --match 'v[0-9]*' 2>/dev/null); then
  commit=${text##*-}; rest=${text%-*}; count=${rest##*-}; tag=${rest%-*}
  version=$(sed 's/-/~/' <<<"${tag#v}")
  if [ "$count" != 0 ] || [ -n "$dirty" ]; then version+=+$count.$commit$dirty; fi
else
  version=0.0.0+$(git rev-list --count HEAD).g$(git rev-parse --short HEAD)$dirty
fi
echo "$version"
