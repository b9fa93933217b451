#!/usr/bin/env bash
# Builds the image dramnode:latest from this tree, and the base images first if need be. Silent
# about what Docker does, unless it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/base-images.sh
mkdir -p out
echo "image: building dramnode:latest (log in out/image.log)"
# The build uses the host's network, since proxies on the host's loopback are out of reach of a
# bridge. Settings of a site are passed on only if they are set, and stay in the build stage.
site=()
for name in GOPROXY GOSUMDB HTTP_PROXY HTTPS_PROXY NO_PROXY; do
	[ -z "${!name:-}" ] || site+=(--build-arg "$name")
done
docker build -f docker/Dockerfile --network=host --force-rm -t dramnode:latest "${site[@]}" \
	--build-arg VERSION="$(git describe --tags --always --dirty 2>/dev/null || echo unknown)" . >out/image.log 2>&1 ||
	{ tail -n 40 out/image.log >&2; exit 1; }
