#!/usr/bin/env bash
# Proves that the image and docker-compose.yml work: five containers become ready, a value written
# through one is read through each, and one container is killed and started again: the others keep all
# they had, and the five agree once more. It leaves a cluster that "make up" started alone, and removes
# what it started itself.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=dramnode-smoke-$$
export DRAMNODE_SUBNET=10.78.$(($$ % 250)) DRAMNODE_PUBLISH=127.0.0.1:0
agree_seconds=40
compose() { scripts/compose.sh "$@"; }
on() { compose exec -T "$@"; } # on NODE COMMAND...
fail() {
	echo "compose: $1" >&2
	compose logs --tail=30
	exit 1
}
trap 'compose down >out/compose-down.log 2>&1 || cat out/compose-down.log' EXIT

# agree waits until all five say the same: same table, five members, all ready, nothing on the move.
agree() {
	local deadline=$((SECONDS + agree_seconds)) said
	until said=$(on n1 dramnode nodes --json) &&
		[ "$(grep -o '"table_version":[0-9]*' <<<"$said" | sort -u | wc -l)" = 1 ] &&
		[ "$(grep -oE '"(members":5|ready":true|moving":0),' <<<"$said" | wc -l)" = 15 ]; do
		((SECONDS < deadline)) || fail "the five do not agree after $agree_seconds s: $said"
		sleep 0.5
	done
}

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

# Which keys are n3's is known before it dies; /tmp/others and /tmp/lost are files in n1's container.
agree
on n1 bash -c 'set -e
	for i in {1..40}; do
		echo "value $i" | dramnode put "many/$i" >/dev/null
		list=/tmp/others
		if dramnode locate "many/$i" | grep -q "^owner *n3 "; then list=/tmp/lost; fi
		echo "$i" >>"$list"
	done
	test -s /tmp/others && test -s /tmp/lost' || fail "40 keys are not spread over n3 and others"
others='while read -r i; do
		got=$(dramnode get "many/$i") && [ "$got" = "value $i" ] || { echo "many/$i: $got"; exit 1; }
	done </tmp/others'
compose kill n3 >/dev/null 2>&1
on n1 bash -c "$others" || fail "with n3 dead, a key of another node is gone"
compose start n3 >/dev/null 2>&1
compose ready
agree
on n1 bash -c "$others" || fail "with n3 back, a key of another node is gone"
on n4 dramnode partitions | grep -qE ', [1-9][0-9]* losses' || fail "the loss of n3's partitions is not shown"
on n1 bash -c 'while read -r i; do
		code=0
		dramnode get "many/$i" >/dev/null 2>&1 || code=$?
		[ "$code" = 3 ] || { echo "many/$i: exit code $code, want 3"; exit 1; }
	done </tmp/lost' || fail "a key of n3 is not plainly not found"
echo "compose: n3 was killed and came back: the others lost nothing, its own loss is counted, all five agree"
