#!/usr/bin/env bash
# Shows a cluster at work on this machine: three nodes on loopback take the source tree of Go, every
# file is read back by way of the two other nodes and compared by SHA-256, one node leaves without
# losing a key. Ends all it started, by process id, and keeps nothing.
#
#   DEMO_TREE    another directory to store (default: the source tree of Go)
#   DEMO_MEMORY  limit of each node (default 512MiB)
#   DEMO_PORT    first of nine free ports (default: found)
set -euo pipefail
cd "$(dirname "$0")/.."

dramnode=${DRAMNODE_BIN:-bin/dramnode}
tree=${DEMO_TREE:-$(go env GOROOT)/src}
ready_tries=300 stop_tries=300 # of 0.1 s
dir=$(mktemp -d)
declare -A pid

# The settings of whoever runs this are not the demo's.
for name in $(compgen -e DRAMNODE_ || true); do unset "$name"; done

finish() {
	local p
	for p in "${pid[@]}"; do kill -KILL "$p" 2>/dev/null || true; done # those that were not stopped
	wait || true
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
	echo "demo: $1" >&2
	tail -n 20 "$dir"/*.log >&2 || true
	exit 1
}

# answers tells whether something listens on a port.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_ports prints the first of nine ports in a row where nothing listens.
free_ports() {
	local try base port taken
	for ((try = 0; try < 50; try++)); do
		base=$((15000 + RANDOM % 1600 * 10)) taken=
		for ((port = base; port < base + 9; port++)); do
			if answers "$port"; then taken=1 && break; fi
		done
		[ "$taken" ] || { echo "$base" && return; }
	done
	return 1
}

base=${DEMO_PORT:-$(free_ports)} || fail "no nine free ports in a row"
addr() { echo "127.0.0.1:$((base + 3 * ($1 - 1) + ${2:-0}))"; } # addr NODE [STEP]

# ready asks /readyz as a shell can.
ready() {
	(
		exec 3<>"/dev/tcp/127.0.0.1/$(addr "$1" 2 | cut -d: -f2)"
		printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
		read -r -t 2 _ status _ <&3
		[ "$status" = 200 ]
	) 2>/dev/null
}

start() {
	"$dramnode" serve --name "n$1" --listen "$(addr "$1")" --join "$(addr 1 1)" --cluster-name demo \
		--memory "${DEMO_MEMORY:-512MiB}" --drain-timeout 20s >"$dir/n$1.log" 2>&1 &
	pid[$1]=$!
}

await() {
	local try
	for ((try = 0; try < ready_tries; try++)); do
		ready "$1" && return
		kill -0 "${pid[$1]}" 2>/dev/null || fail "n$1 has ended"
		sleep 0.1
	done
	fail "n$1 is not ready after $((ready_tries / 10)) s"
}

# stop sends SIGTERM and waits for a clean end, but not for ever.
stop() {
	local try p=${pid[$1]}
	kill -TERM "$p"
	for ((try = 0; try < stop_tries; try++)); do
		if ! kill -0 "$p" 2>/dev/null; then
			unset "pid[$1]"
			wait "$p" || fail "n$1 ended with exit code $?"
			return
		fi
		sleep 0.1
	done
	fail "n$1 has not ended $((stop_tries / 10)) s after SIGTERM"
}

# on NODE COMMAND... runs a command that is given the address of one node only.
on() { "$dramnode" --addr "$(addr "$1")" --cluster-name demo --timeout 30s "${@:2}"; }
step() { printf '\n== %s\n' "$*"; }
sums() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum); }

step "Three nodes on loopback: $(addr 1) $(addr 2) $(addr 3)"
for i in 1 2 3; do start $i; done
for i in 1 2 3; do await $i; done
on 1 nodes

step "Store every file below $tree by way of n1"
on 1 import "$tree" --prefix src/ || fail "the import failed"

for i in 2 3; do
	step "Read every file back by way of n$i"
	on $i export src/ "$dir/out$i" || fail "the export failed"
done

step "Compare SHA-256 of all files"
sums "$tree" >"$dir/want"
for i in 2 3; do
	sums "$dir/out$i" >"$dir/got$i"
	cmp "$dir/want" "$dir/got$i" || fail "what n$i returned differs from what n1 was given"
done
echo "$(wc -l <"$dir/want") files: equal through n1, n2 and n3"

step "Who has what"
on 1 nodes
on 1 partitions
step "How the nodes reach each other"
on 1 nodes --links

step "n3 leaves: it hands its partitions to the others"
before=$(on 1 ls src/ | wc -l)
stop 3
after=$(on 1 ls src/ | wc -l)
[ "$before" = "$after" ] || fail "$before keys before, $after after"
echo "all $after keys are still there"
on 1 partitions

step "Stop"
stop 2
stop 1
echo "all nodes ended cleanly"
