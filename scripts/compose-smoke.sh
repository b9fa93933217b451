#!/usr/bin/env bash
# Proves that the image and docker-compose.yml work. It leaves a cluster that "make up" started alone, and removes what
# it started itself.
#   compose-smoke.sh           one copy of each value: what is written through one of five containers is read through
#                              each; one is killed and started again: the others keep all they had, its loss is told until accepted
#   compose-smoke.sh replicas  three copies, under writes: one container is killed, then another, both come back, the
#                              network is cut in two and healed. No acknowledged write is lost, the minority refuses,
#                              there are three copies again each time. Cutting needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
story=${1:-single}
[[ "$story" =~ ^(single|replicas)$ ]] || { echo "usage: $0 [single|replicas]" >&2; exit 2; }

export COMPOSE_PROJECT_NAME=dramnode-smoke-$$
export DRAMNODE_SUBNET=10.78.$(($$ % 250)) DRAMNODE_PUBLISH=127.0.0.1:0
agree_seconds=40
copies_seconds=90
compose() { scripts/compose.sh "$@"; }
declare -A container # of each node; docker compose itself takes a second for anything
on() { docker exec -i "${container[$1]}" "${@:2}"; } # on NODE COMMAND...
say() { echo "compose: [$SECONDS s] $1"; }
fail() {
	say "$1" >&2
	compose logs --tail=30
	exit 1
}
trap 'compose down >out/compose-down.log 2>&1 || cat out/compose-down.log' EXIT

# up starts the five.
up() {
	local node
	compose up >out/compose-up.log 2>&1 || { cat out/compose-up.log; exit 1; }
	for node in n1 n2 n3 n4 n5; do container[$node]=$(compose ps -q "$node"); done
	say "five nodes are ready"
}

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

# lost checks that a get of each key that was n3's ends with this exit code.
lost() {
	on n1 bash -c 'while read -r i; do
			code=0
			dramnode get "many/$i" >/dev/null 2>&1 || code=$?
			[ "$code" = '"$1"' ] || { echo "many/$i: exit code $code, want '"$1"'"; exit 1; }
		done </tmp/lost'
}

single() {
	up
	local value="a value of run $$" node got
	printf '%s' "$value" | on n1 dramnode put smoke/key - >/dev/null
	for node in n1 n2 n3 n4 n5; do
		got=$(on "$node" dramnode get smoke/key) || fail "$node does not answer"
		[ "$got" = "$value" ] || fail "$node returns '$got', want '$value'"
	done
	on n2 dramnode ls smoke/ | grep -q smoke/key || fail "ls does not show the key"
	say "five nodes serve what one was given"

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
	local others='while read -r i; do
			got=$(dramnode get "many/$i") && [ "$got" = "value $i" ] || { echo "many/$i: $got"; exit 1; }
		done </tmp/others'
	docker kill "${container[n3]}" >/dev/null
	on n1 bash -c "$others" || fail "with n3 dead, a key of another node is gone"
	docker start "${container[n3]}" >/dev/null
	compose ready
	agree
	on n1 bash -c "$others" || fail "with n3 back, a key of another node is gone"
	got=$(on n4 dramnode partitions)
	grep -qE ', [1-9][0-9]* losses' <<<"$got" || fail "the loss of n3's partitions is not shown: $got"
	lost 8 || fail "a key of n3 is not said to be lost"
	on n2 dramnode partitions --accept-loss >/dev/null || fail "the losses are not accepted"
	lost 3 || fail "a key of n3 is not plainly not found once its loss is accepted"
	say "n3 was killed and came back: the others lost nothing, its own loss is counted, all five agree"
}

# copied waits until these nodes, and no others, have three copies of everything, as n5 sees it, and says what it waits for.
copied() {
	local deadline=$((SECONDS + copies_seconds)) said
	say "waiting for three copies of everything at $*"
	until said=$(on n5 dramnode partitions --json 2>&1) && three_copies "$said" "$@"; do
		((SECONDS < deadline)) || fail "$* do not have three copies of everything after $copies_seconds s: $said"
		sleep 0.5
	done
	grep -q '"losses":0,' <<<"$said" || fail "losses are counted: $said"
}

three_copies() { # three_copies JSON NODE...
	local said=$1 shares
	shift
	shares=$(grep -oE '"node":"[^"]*"[^}]*"copies":[1-9][0-9]*' <<<"$said") || return 1
	[[ "$said" == *'"moves":0,'* ]] &&
		[ "$(cut -d '"' -f 4 <<<"$shares" | sort | tr '\n' ' ')" = "$(printf '%s\n' "$@" | sort | tr '\n' ' ')" ] &&
		[ "$(awk -F : '{ n += $NF } END { print n }' <<<"$shares")" = $((3 * $(grep -oE '"partitions":[0-9]+' <<<"$said" | head -n 1 | cut -d : -f 2))) ]
}

# written holds every acknowledged write, read through each of the nodes, against what was put: n5's /tmp/acked has
# their numbers.
written() {
	local node count acked
	acked=$(on n5 cat /tmp/acked) # before anything is read: writes go on
	for node in "$@"; do
		count=$(on "$node" bash -c 'set -e
			rm -rf /tmp/load && mkdir /tmp/load
			dramnode export load/ /tmp/load >/dev/null
			n=0
			while read -r i; do
				[ "$(<"/tmp/load/$i")" = "value $i" ] || { echo "load/$i is not what was put"; exit 1; }
				n=$((n + 1))
			done
			echo "$n"' <<<"$acked") || fail "through $node: $count"
	done
	say "all $count acknowledged writes are there, through each of $*"
}

# goes_on waits for ten more writes.
goes_on() {
	local deadline=$((SECONDS + agree_seconds)) from
	from=$(on n5 bash -c 'wc -l </tmp/acked')
	until (($(on n5 bash -c 'wc -l </tmp/acked') >= from + 10)); do
		((SECONDS < deadline)) || fail "no writes are acknowledged any more: $(on n5 tail -n 3 /tmp/refused)"
		sleep 0.2
	done
}

# between adds (-A) or deletes (-D) the rules by which n1 and n2 neither send to the others nor hear them, and nobody is told. It
# takes a moment only: a cut that grows leaves the majority to whoever is cut off last.
between() {
	local a b cutting=()
	local -A pid
	for a in 1 2; do
		pid[$a]=$(docker inspect -f '{{.State.Pid}}' "${container[n$a]}")
	done
	for a in 1 2; do
		{
			echo '*filter'
			for b in 3 4 5; do
				echo "$1 INPUT -s $DRAMNODE_SUBNET.1$b -j DROP"
				echo "$1 OUTPUT -d $DRAMNODE_SUBNET.1$b -j DROP"
			done
			echo COMMIT
		} | nsenter -t "${pid[$a]}" -n iptables-restore --noflush &
		cutting+=($!)
	done
	for a in "${cutting[@]}"; do
		wait "$a" || fail "the network is not cut"
	done
}

# refuses checks that a node that is cut off says "no quorum" once it has noticed, and that from then on a read and a write
# of a key that it was the primary of end with exit code 5: certainly not done.
refuses() {
	say "waiting for $1 to say no quorum"
	on "$1" bash -c '
		for i in {0..99}; do
			key="cut/$i"
			! dramnode locate "$key" | grep -q "^owner *$0 " || break
		done
		refused() { # refused COMMAND...
			said=$(dramnode --timeout 1s "$@" 2>&1 </dev/null)
			[ $? = 5 ]
		}
		deadline=$((SECONDS + 40))
		until refused get "$key" && [[ "$said" == *"no quorum"* ]]; do
			((SECONDS < deadline)) || { echo "it never says so, but: $said"; exit 1; }
		done
		refused put "$key" - || { echo "$key: $said"; exit 1; }
		refused get "$key" || { echo "$key: $said"; exit 1; }' "$1"
}

replicas() {
	export DRAMNODE_REPLICAS=3 DRAMNODE_PARTITIONS=101 # few, so that a machine of 2 cores can carry five nodes
	up
	copied n1 n2 n3 n4 n5
	on n5 bash -c 'for ((i = 0; i < 100000; i++)); do
			[ ! -e /tmp/stop ] || break
			if echo "value $i" | dramnode put "load/$i" - 2>>/tmp/refused >/dev/null; then echo "$i" >>/tmp/acked; fi
		done' &
	local writer=$! node
	on n5 bash -c 'for i in {1..100}; do [ -s /tmp/acked ] && exit; sleep 0.1; done; exit 1' || fail "nothing is written"
	for node in n1 n2; do
		goes_on
		docker kill "${container[$node]}" >/dev/null
		goes_on
		if [ "$node" = n1 ]; then copied n2 n3 n4 n5; else copied n3 n4 n5; fi
		say "$node was killed; there are three copies again"
	done
	written n3 n4 n5
	docker start "${container[n1]}" "${container[n2]}" >/dev/null
	compose ready
	say "n1 and n2 are back"
	copied n1 n2 n3 n4 n5

	goes_on
	between -A
	say "n1 and n2 are cut off"
	refuses n1 || fail "n1 is cut off and does not refuse"
	goes_on
	copied n3 n4 n5
	say "n1 and n2 are cut off: they refuse, and the others have three copies again"
	between -D
	say "the network is whole again"
	compose ready
	copied n1 n2 n3 n4 n5
	goes_on
	on n5 touch /tmp/stop
	wait "$writer"
	written n1 n2 n3 n4 n5
}

mkdir -p out
"$story"
