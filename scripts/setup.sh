#!/usr/bin/env bash
# Brings a Debian or Ubuntu machine that has Go to the state in which dramnode builds; with --test,
# to the state in which all tests run; with --bench, to that in which make bench runs, whose rivals some
# systems then start as services too. Installs what is missing, upgrades nothing, and says what it does;
# when nothing is missing it is silent and quick.
set -euo pipefail

need_go_minor=26 # of Go 1

say() { printf 'setup: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

check_go() {
	local version
	has go || { say "Go is missing: install Go 1.$need_go_minor or newer from https://go.dev/dl/ and put it on the PATH"; exit 1; }
	version=$(go env GOVERSION)
	if ! [[ $version =~ ^go1\.([0-9]+) ]]; then
		say "this Go calls itself '$version': it is taken to be new enough"
	elif ((BASH_REMATCH[1] < need_go_minor)); then
		say "$version is too old: Go 1.$need_go_minor or newer is needed (https://go.dev/dl/)"
		exit 1
	fi
}

# missing lists the packages that are not there, judged by what they provide: the user may have
# it from elsewhere, such as UCX from NVIDIA or Docker from docker.com.
missing() {
	has gcc || echo gcc
	[ -e /usr/include/stdlib.h ] || echo libc6-dev
	has make || echo make
	has git || echo git
	has pkg-config || echo pkg-config
	{ has pkg-config && pkg-config --exists ucx; } || [ -e /usr/include/ucp/api/ucp.h ] || echo libucx-dev
	if [ -n "$for_bench$for_tests" ]; then # tests compare answers with those of redis
		has redis-server || echo redis-server
		has redis-benchmark || echo redis-tools
	fi
	if [ -n "$for_bench" ]; then
		has ucx_perftest || echo ucx-utils
		has memcached || echo memcached
		has memcslap || echo libmemcached-tools
	fi
	[ -z "$for_tests" ] && return
	has ip || echo iproute2
	has sysctl || echo procps
	has docker || echo docker.io
	{ has docker && docker compose version >/dev/null 2>&1; } || has docker-compose || echo docker-compose
	[ -e /usr/sbin/debootstrap ] || echo debootstrap
	has curl || echo curl
	has aws || echo awscli
	has s3cmd || echo s3cmd
	has rclone || echo rclone
	local module
	for module in boto3 redis zarr xarray; do
		[ -e /usr/lib/python3/dist-packages/$module ] || echo python3-$module
	done
	[ -e /usr/lib/python3/dist-packages/netCDF4 ] || echo python3-netcdf4
	[ -e /usr/lib/python3/dist-packages/osgeo ] || echo python3-gdal
	[ -e /usr/lib/python3/dist-packages/grpc ] || echo python3-grpcio
	has gdal_translate || echo gdal-bin
}

install() { # install PACKAGE...
	local as=()
	if ! has apt-get; then
		say "missing: $*. This is no Debian or Ubuntu: install what corresponds to these packages, then run this again"
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
			as=(sudo)
		else
			say "missing: $*. Run this as root, then try again:"
			say "  apt-get update && apt-get install -y --no-install-recommends $*"
			exit 1
		fi
	fi
	say "installing $*"
	"${as[@]}" apt-get update -q >&2
	"${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-upgrade "$@" >&2
}

# start_docker starts the daemon on a CI machine, where nobody else does. On a user's machine
# it is not ours to start.
start_docker() {
	docker info >/dev/null 2>&1 && return
	say "starting Docker"
	service docker start >&2 || true
	local try
	for ((try = 0; try < 100; try++)); do
		docker info >/dev/null 2>&1 && return
		if ((try == 20)); then # no init system: the daemon is started as it is
			nohup dockerd >/var/log/dockerd.log 2>&1 &
		fi
		sleep 0.3
	done
	say "Docker does not start"
	exit 1
}

for_tests=
for_bench=
case "${1:-}" in
"") ;;
--test) for_tests=yes ;;
--bench) for_bench=yes ;;
*) say "usage: $0 [--test|--bench]"; exit 2 ;;
esac

check_go
mapfile -t packages < <(missing)
if ((${#packages[@]})); then
	# A user who only tests may lack root, and the tests that need more than a compiler then say so.
	if [ -n "$for_tests" ] && [ "${CI:-}" != true ] && [ "$(id -u)" != 0 ]; then
		say "not installed: ${packages[*]}; some tests will be skipped. Run '$0 --test' as root to have them all"
	else
		install "${packages[@]}"
	fi
fi
if [ -n "$for_tests" ] && [ "${CI:-}" = true ]; then start_docker; fi
