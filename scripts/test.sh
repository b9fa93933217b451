#!/usr/bin/env bash
# Runs every test of the project, as "make test" and CI do: all steps, also after one that failed,
# then one line "N passed, N failed". Each test, and each step that is no Go test, counts as one.
# Steps may be named: scripts/test.sh vet unit
set -euo pipefail
cd "$(dirname "$0")/.."
exec 2>&1 # one stream, so that what a step says stays below its title

all_steps=(gofmt vet pure proto unit sim ucx shim stories interop bench compose)
out=out/test
mkdir -p "$out"
counts=$out/counts
: >"$counts"
go build -o "$out/testsummary" ./scripts/testsummary

# packages lists the module's packages except the stories, which need a built program, and ucxnet, whose
# pollers and peers want the machine for themselves.
packages() { go list ./... | grep -v -e '/test/cluster' -e '/ucxnet'; }

# gotest runs go test; -p 2 and the limits are for a CI machine of 2 cores and 25 minutes.
gotest() { go test -json -p 2 "$@" | "$out/testsummary" "$counts"; }

# without_ucx lists the packages that must build where there is no C compiler and no UCX.
without_ucx() { go list -f '{{.ImportPath}} {{join .Deps " "}}' ./... | grep -v '/ucxnet' | cut -d ' ' -f 1; }

# skip says aloud that a step cannot run here. In CI every step must run, so there it is a failure.
skip() {
	echo "SKIPPED: $*"
	[ "${CI:-}" != true ]
	echo "0 0 1" >>"$counts"
}

# nothing says that the tree holds no tests for a step; it counts neither way.
nothing() {
	echo "nothing to do: $*"
	echo "0 0 0" >>"$counts"
}

step_gofmt() {
	local files
	files=$(gofmt -l .)
	[ -z "$files" ] || { printf 'not formatted (run gofmt -w):\n%s\n' "$files"; return 1; }
}
step_vet() { go vet ./...; }
step_pure() { without_ucx | CGO_ENABLED=0 xargs go build; }
# step_proto makes the code anew where its compiler is installed. Elsewhere, as in CI, where installing and building
# all of it takes a minute, the sums of what it was made of tell whether it is old.
step_proto() {
	scripts/proto.sh --sums
	command -v protoc >/dev/null || { echo "SKIPPED: making the code anew, since protoc is not installed; the sums match"; return; }
	scripts/proto.sh --check
}
# step_unit ends with what cannot be measured under the race detector: allocations of the client, and bytes of records.
step_unit() {
	packages | xargs_gotest -race -tags invariants -timeout 8m
	gotest -count=1 -run 'Alloc|CountedInFull' ./client ./replica
}
# step_sim runs the same seeds each time, on every machine: two minutes' worth here, and some over package storage. Then a few
# rules are removed that must be missed at once: the check of the others takes long, and is make mutations.
step_sim() {
	gotest -count=1 -run 'TestSeeds|TestArena' -timeout 15m ./test/sim -args -runs 60000
	gotest -count=1 -tags mutations -run TestMutations -timeout 5m ./test/sim -args -quick -limit 500
}
step_ucx() { gotest -race -tags invariants -timeout 8m ./ucxnet/...; }
step_shim() {
	ls ucxnet/*_test.go >/dev/null 2>&1 || { nothing "no tests in ucxnet"; return; }
	# UCX keeps allocations for the life of the process, so leaks are not looked for. The quarantine is
	# small because a test compares the memory in use before and after.
	ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8 gotest -asan -timeout 4m ./ucxnet/...
}
step_stories() {
	ls test/cluster/*_test.go >/dev/null 2>&1 || { nothing "no stories in test/cluster"; return; }
	[ -n "${DRAMNODE_BIN:-}" ] || make --no-print-directory build
	DRAMNODE_BIN=${DRAMNODE_BIN:-$PWD/bin/dramnode} gotest -count=1 -timeout 10m ./test/cluster/...
}
# step_interop uses other people's clients; one that is not installed is skipped aloud, in CI it is a failure.
step_interop() {
	[ -n "${DRAMNODE_BIN:-}" ] || make --no-print-directory build
	INTEROP_DATA=short scripts/interop.sh
}
# step_bench only shows that the comparisons run; it checks no time.
step_bench() {
	scripts/setup.sh --bench || { skip "the rivals are not installed and cannot be"; return; }
	make --no-print-directory bench-short
}
step_compose() {
	[ -e cmd/dramnode/main.go ] || { nothing "no cmd/dramnode to put into an image"; return; }
	docker info >/dev/null 2>&1 || { skip "Docker does not run here"; return; }
	scripts/compose-smoke.sh
	scripts/compose-smoke.sh replicas
}

xargs_gotest() {
	local list
	mapfile -t list
	gotest "$@" "${list[@]}"
}

# run counts a step that is no Go test by its exit code; Go tests count themselves, and what ends
# such a step without a failed test still counts once.
run() {
	local name=$1 before started=$SECONDS failed=0 verdict=ok
	printf '\n== %s\n' "$name"
	before=$(wc -l <"$counts")
	# Not "if step": within a condition bash ignores set -e.
	set +e
	(set -e; "step_$name")
	[ $? = 0 ] || failed=1 verdict=FAILED
	set -e
	if [ "$(wc -l <"$counts")" = "$before" ]; then
		echo "$((1 - failed)) $failed 0" >>"$counts"
	elif [ "$failed" = 1 ] && awk -v n="$before" 'NR > n { f += $2 } END { exit f > 0 }' "$counts"; then
		echo "0 1 0" >>"$counts"
	fi
	printf -- '-- %s: %s, %d s\n' "$name" "$verdict" $((SECONDS - started))
}

steps=("$@")
((${#steps[@]})) || steps=("${all_steps[@]}")
for step in "${steps[@]}"; do
	[[ " ${all_steps[*]} " == *" $step "* ]] || { echo "no step '$step'; there are: ${all_steps[*]}" >&2; exit 2; }
done
# Where the base images are missing, making them takes minutes, most of which are waiting: it is done beside the first steps. Whoever
# needs them later waits for it, and makes what it could not.
if [[ " ${steps[*]} " == *" unit "*" compose "* ]] && docker info >/dev/null 2>&1; then
	chrt --idle 0 scripts/base-images.sh >"$out/base-images.log" &
	trap 'jobs -pr | xargs -r kill' EXIT # a number that is no job any more may be somebody else's
fi
for step in "${steps[@]}"; do run "$step"; done

echo
awk '{ p += $1; f += $2; s += $3 }
	END {
		if (s) printf "%d skipped, see above\n", s
		printf "%d passed, %d failed\n", p, f
		exit f > 0
	}' "$counts"
