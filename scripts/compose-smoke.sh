#!/usr/bin/env bash
# Proves that the image and docker-compose.yml work: five containers become ready, and a value
# written through one is read through each. It leaves a cluster that "make up" started alone, and
# removes what it started itself.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=dramnode-smoke-$$
export DRAMNODE_SUBNET=10.78.$(($$ % 250)) DRAMNODE_DASHBOARD=127.0.0.1:0
compose() { scripts/compose.sh "$@"; }
on() { compose exec -T "$@"; } # on NODE COMMAND...
fail() {
	echo "$1"
	compose logs --tail=30
	exit 1
}
trap 'compose down >out/compose-down.log 2>&1 || cat out/compose-down.log' EXIT

mkdir -p out
compose up
value="a value of run $$"
printf '%s' "$value" | on n1 dramnode put smoke/key - >/dev/null
for node in n1 n2 n3 n4 n5; do
	got=$(on "$node" dramnode get smoke/key) || fail "$node does not answer"
	[ "$got" = "$value" ] || fail "$node returns '$got', want '$value'"
done
on n2 dramnode ls smoke/ | grep -q smoke/key || fail "ls does not show the key"
echo "compose: five nodes serve what one was given"
