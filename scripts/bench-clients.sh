#!/usr/bin/env bash
# Measures the Redis face beside redis-server with redis-benchmark, in turns in one run, and prints the
# requests per second and their ratio; the Redis face of a node of three; then what one client reads through the faces, through a bare grpc-go
# stream and from a bare net/http server (bench/faces). Needs scripts/setup.sh --bench. ROUNDS=n repeats; the median counts. ONLY=redis,
# ONLY=three or ONLY=faces does one of them.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-3}
dir=$(mktemp -d)
free_port() { # free_port COUNT: the first of so many free ports in a row
	local port try i
	for ((try = 0; try < 100; try++)); do
		port=$((20000 + RANDOM % 10000))
		for ((i = 0; i < $1; i++)); do
			if (exec 3<>"/dev/tcp/127.0.0.1/$((port + i))") 2>/dev/null; then continue 2; fi
		done
		echo "$port"
		return
	done
	echo "no free port" >&2
	return 1
}
redis=$(free_port 1)
node=$(free_port 15)
face=$((node + 3)) s3=$((node + 4)) tsgrpc=$((node + 5)) bare=$((node + 6)) http=$((node + 7)) gcs=$((node + 8))

redis-server --port "$redis" --bind 127.0.0.1 --save "" --appendonly no --dir "$dir" >"$dir/redis.log" &
redis_pid=$!
bin/dramnode serve --listen "127.0.0.1:$node" --resp "127.0.0.1:$face" --s3 "127.0.0.1:$s3" --gcs "127.0.0.1:$gcs" --tsgrpc "127.0.0.1:$tsgrpc" 2>"$dir/dramnode.log" &
node_pid=$!
others=()
go build -o "$dir/faces" ./bench/faces
"$dir/faces" -bare "127.0.0.1:$bare" -bare-http "127.0.0.1:$http" &
bare_pid=$!
trap 'kill "$redis_pid" "$node_pid" "$bare_pid" "${others[@]}" 2>/dev/null; wait; rm -rf "$dir"' EXIT
for port in "$redis" "$face"; do
	for ((try = 0; try < 100; try++)); do
		redis-cli -p "$port" ping >/dev/null 2>&1 && break
		sleep 0.1
	done
done

measure() { # measure PORT ARGUMENT...: requests per second
	local port=$1
	shift
	redis-benchmark -p "$port" "$@" --csv | tail -1 | cut -d, -f2 | tr -d '"'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
range() { sort -n | awk 'NR == 1 { least = $1 } END { printf "%.0f to %.0f", least, $1 }'; }

compare() { # compare NAME ARGUMENT...
	local name=$1 round
	shift
	for ((round = 0; round < rounds; round++)); do
		measure "$redis" "$@" >>"$dir/$name.redis"
		measure "$face" "$@" >>"$dir/$name.face"
	done
	awk -v name="$name" -v r="$(median <"$dir/$name.redis")" -v f="$(median <"$dir/$name.face")" \
		-v rs="$(range <"$dir/$name.redis")" -v fs="$(range <"$dir/$name.face")" \
		'BEGIN { printf "%-14s redis-server %9.0f/s (%s)   dramnode %9.0f/s (%s)   ratio %.2f\n", name, r, rs, f, fs, f / r }'
}

redis() {
	local small port
	small="-d 64 -r 100000"
	for port in "$redis" "$face"; do # so that GET finds something
		measure "$port" -t set $small -n 400000 -c 50 -P 64 >/dev/null
	done
	compare get-64B-P1 -t get $small -n 100000 -c 50 -P 1
	compare set-64B-P1 -t set $small -n 100000 -c 50 -P 1
	compare get-64B-P64 -t get $small -n 1500000 -c 50 -P 64
	compare set-64B-P64 -t set $small -n 1000000 -c 50 -P 64
	for port in "$redis" "$face"; do
		measure "$port" -t set -d 1048576 -n 10 -c 1 >/dev/null
	done
	compare get-1MiB-c1 -t get -d 1048576 -n 2000 -c 1
	compare get-1MiB-c4 -t get -d 1048576 -n 2000 -c 4
	compare set-1MiB-c1 -t set -d 1048576 -n 500 -c 1
}

# three measures the first node once two more have joined: two in three keys are then owned by another node.
three() {
	local i name small
	small="-d 64 -r 100000"
	for i in 1 2; do
		bin/dramnode serve --name "n$i" --listen "127.0.0.1:$((node + 6 + 3 * i))" --join "127.0.0.1:$((node + 1))" 2>"$dir/n$i.log" &
		others+=($!)
	done
	for ((i = 0; i < 300; i++)); do # until all have their share, and nothing moves
		bin/dramnode nodes --addr "127.0.0.1:$node" --json 2>/dev/null | grep -o '"state":"ready","partitions":[0-9]*' | cut -d: -f3 |
			awk '$1 > 300 { n++ } END { exit n != 3 }' && break
		sleep 0.1
	done
	((i < 300)) || { echo "the cluster of three is not complete" >&2; return 1; }
	measure "$face" -t set $small -n 200000 -c 50 -P 64 >/dev/null
	measure "$face" -t set -d 1048576 -n 10 -c 1 >/dev/null
	alone() { # alone NAME ARGUMENT...
		name=$1
		shift
		for ((i = 0; i < rounds; i++)); do measure "$face" "$@" >>"$dir/$name.three"; done
		printf '%-14s three nodes  %9.0f/s (%s)\n' "$name" "$(median <"$dir/$name.three")" "$(range <"$dir/$name.three")"
	}
	alone get-64B-P1 -t get $small -n 50000 -c 50 -P 1
	alone set-64B-P1 -t set $small -n 50000 -c 50 -P 1
	alone get-64B-P64 -t get $small -n 400000 -c 50 -P 64
	alone set-64B-P64 -t set $small -n 400000 -c 50 -P 64
	alone get-1MiB-c1 -t get -d 1048576 -n 500 -c 1
}

faces() {
	curl -fsS -X PUT "http://127.0.0.1:$s3/bench"
	"$dir/faces" -tsgrpc "127.0.0.1:$tsgrpc" -s3 "127.0.0.1:$s3" -gcs "127.0.0.1:$gcs" -resp "127.0.0.1:$face" -beside "127.0.0.1:$bare" -beside-http "127.0.0.1:$http" -rounds "$rounds"
}

for what in ${ONLY:-redis faces three}; do "$what"; done
