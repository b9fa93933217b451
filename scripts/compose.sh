#!/usr/bin/env bash
# The cluster of docker-compose.yml:
#   compose.sh up     build the image, start five nodes, wait until all are ready
#   compose.sh ready  wait until all five are ready
#   compose.sh down   stop all of them, without a handover to one another, and remove containers and network
#   compose.sh ARGS   anything else goes to docker compose, such as: exec n1 dramnode nodes
set -euo pipefail
cd "$(dirname "$0")/.."

nodes=(n1 n2 n3 n4 n5)
ready_seconds=${READY_SECONDS:-120}
subnet=${DRAMNODE_SUBNET:-10.77.0}
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-dramnode}

if docker compose version >/dev/null 2>&1; then
	compose() { docker compose "$@"; }
else
	compose() { docker-compose "$@"; }
fi

health() { docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null || echo "not running"; } # health CONTAINER

wait_ready() {
	local deadline=$((SECONDS + ready_seconds)) node container state
	for node in "${nodes[@]}"; do
		container=$(compose ps -q "$node")
		until state=$(health "$container") && [ "$state" = healthy ]; do
			if ((SECONDS > deadline)); then
				echo "$node is '$state' after $ready_seconds s; its log ends with:" >&2
				compose logs --tail=30 "$node" >&2
				return 1
			fi
			sleep 0.2
		done
	done
}

up() {
	scripts/image.sh
	compose up -d --no-build
	wait_ready
	cat <<-TEXT

		Five nodes are ready, and any of them takes any key:
		  bin/dramnode --addr $subnet.11:12345 put hello README.md
		  bin/dramnode --addr $subnet.14:12345 get hello
		  scripts/compose.sh exec n1 dramnode nodes
		Health, readiness, state: http://$subnet.11:12347/healthz, /readyz, /info
		Stop and remove all of it: make down
	TEXT
}

case "${1:-}" in
up) up ;;
ready) wait_ready ;;
down) compose down --timeout 5 --volumes --remove-orphans ;;
*) compose "$@" ;;
esac
