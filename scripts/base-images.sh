#!/usr/bin/env bash
# Makes sure that the two images docker/Dockerfile starts from exist here: they are kept when
# present, pulled when a registry answers, and otherwise made from Debian packages and the Go
# toolchain of this machine under the same tags, so that one Dockerfile serves both cases.
set -euo pipefail

exec 9<"$0" # one at a time: the next finds what this one made
flock 9

run_image=debian:bookworm-slim
build_image=golang:1.26-bookworm
pull_seconds=${PULL_SECONDS:-120} # how long a registry may take before the image is made here

say() { printf 'base-images: %s\n' "$*"; }
have() { docker image inspect "$1" >/dev/null 2>&1; }
pull() { timeout "$pull_seconds" docker pull --quiet "$1" >/dev/null 2>&1; }

# mirror prints where this machine gets Debian packages from.
mirror() {
	local found
	found=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1 || true)
	echo "$found" | tr -d ' ' # empty: debootstrap knows one
}

# Both makers are subshells, so that their temporary folder goes however they end.

# make_run_image imports a minimal Debian. Documentation and translations go, as in Docker's own slim image.
make_run_image() (
	[ "$(id -u)" = 0 ] || { say "debootstrap needs root: run 'sudo $0'"; exit 1; }
	command -v debootstrap >/dev/null || { say "debootstrap is missing: run scripts/setup.sh --test"; exit 1; }
	root=$(mktemp -d)
	log=$root.log
	trap 'rm -rf "$root" "$log"' EXIT
	debootstrap --variant=minbase bookworm "$root" $(mirror) >"$log" 2>&1 ||
		{ tail -n 20 "$log"; say "debootstrap failed"; exit 1; }
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/* "$root"/var/log/*
	# As in Docker's own image: apt keeps neither packages nor caches, which would end up in layers.
	cat >"$root/etc/apt/apt.conf.d/docker-clean" <<-'CONF'
		APT::Keep-Downloaded-Packages "false";
		DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
		Dir::Cache::pkgcache "";
		Dir::Cache::srcpkgcache "";
		Acquire::Languages "none";
	CONF
	tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$run_image" >/dev/null
)

# make_build_image adds a C compiler, this machine's Go and its certificate store to the run image.
# Neither Go nor the certificates reach the final image, which starts from the run image.
make_build_image() (
	context=$(mktemp -d)
	trap 'rm -rf "$context"' EXIT
	goroot=$(go env GOROOT)
	log=$context/log
	cp -L /etc/ssl/certs/ca-certificates.crt "$context"
	cat >"$context/Dockerfile" <<-DOCKERFILE
		FROM $run_image
		RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends ca-certificates gcc git libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*
		COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
		COPY $(basename "$goroot") /usr/local/go
		ENV PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPATH=/go GOTOOLCHAIN=local
		WORKDIR /go
	DOCKERFILE
	tar -c --anchored --exclude="$(basename "$goroot")/test" --exclude="$(basename "$goroot")/doc" \
		-C "$context" Dockerfile ca-certificates.crt -C "$(dirname "$goroot")" "$(basename "$goroot")" |
		docker build --force-rm --network=host --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
			-t "$build_image" - >"$log" 2>&1 ||
		{ tail -n 20 "$log"; say "docker build failed"; exit 1; }
)

ensure() { # ensure IMAGE MAKER
	if have "$1"; then
		say "$1 is here"
	elif pull "$1"; then
		say "$1 pulled"
	else
		say "$1 cannot be pulled: making it on this machine"
		"$2"
		say "$1 made, $(docker image inspect -f '{{.Size}}' "$1" | numfmt --to=iec)"
	fi
}

ensure "$run_image" make_run_image
ensure "$build_image" make_build_image
