#!/usr/bin/env bash
# Runs every fuzz target of the module for the given number of seconds (default 10) each. An input
# that fails is kept by go test under the package's testdata/fuzz; commit it with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
targets=0 failed=0
while read -r package dir; do
	while read -r target; do
		targets=$((targets + 1))
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" "$package" || failed=$((failed + 1))
	done < <(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$dir"/*_test.go 2>/dev/null)
done < <(go list -f '{{.ImportPath}} {{.Dir}}' ./...)
echo "$((targets - failed)) of $targets fuzz targets found nothing"
exit $((failed > 0))
