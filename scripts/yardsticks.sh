#!/usr/bin/env bash
# Holds the S3 face against test suites of others: the tests of versitygw that concern what the face serves, each in
# a process of its own, and minio-go's functional tests. Prints how many pass and why the others do not; docs/s3.md
# has the counts. The suites expect all of Amazon's protocol, so a failed test is a hint and no error of this script.
#   scripts/yardsticks.sh [versitygw [TEST...] | minio-go]
# DRAMNODE_BIN names the program, bin/dramnode otherwise. Suites and what they say are kept in out/yardsticks.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${DRAMNODE_BIN:-bin/dramnode}")
out=$PWD/out/yardsticks
mkdir -p "$out"

versitygw=v1.8.0
minio_go=v7.4.1
# What versitygw's tests are called before the first underscore.
groups=(Authentication PresignedAuth CreateBucket HeadBucket ListBuckets DeleteBucket GetBucketLocation
	PutObject GetObject HeadObject DeleteObject DeleteObjects CopyObject ListObjects ListObjectsV2
	CreateMultipartUpload UploadPart UploadPartCopy ListParts ListMultipartUploads CompleteMultipartUpload AbortMultipartUpload
	UnsignedStreamingPayloadTrailer SignedStreamingPayload SignedStreamingPayloadTrailer)

access=yardstick secret=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
unset AWS_CA_BUNDLE http_proxy HTTP_PROXY https_proxy HTTPS_PROXY || true
export AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null

# --- the node ---

pid=
base=$((20000 + RANDOM % 3000 * 4))
address=127.0.0.1:$base face=127.0.0.1:$((base + 3))
stop() {
	[ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; } 2>/dev/null
	pid=
}
trap stop EXIT

start() {
	stop
	DRAMNODE_S3_KEYS=$access:$secret "$program" serve --listen "$address" --s3 "$face" --s3-etag md5 --memory 2GiB --log-format json >>"$out/node.log" 2>&1 &
	pid=$!
	local try
	for ((try = 0; try < 300; try++)); do
		(: <"/dev/tcp/${face/://}") 2>/dev/null && "$program" ls --addr "$address" --all >/dev/null 2>&1 && return
		kill -0 "$pid" || break
		sleep 0.1
	done
	tail -n 20 "$out/node.log" >&2
	exit 1
}

# --- suites: each leaves lines "PASS|FAIL|SKIP TAB group TAB test TAB reason" in out/yardsticks/SUITE.tsv ---

run_versitygw() {
	GOBIN=$out CGO_ENABLED=0 go install "github.com/versity/versitygw/cmd/versitygw@$versitygw"
	local test tests=("$@") said
	((${#tests[@]})) || mapfile -t tests < <("$out/versitygw" test --help | awk -v groups="${groups[*]}" '
		BEGIN { for (n = split(groups, g, " "); n > 0; n--) want[g[n]] }
		{ sub(/,$/, "", $1); split($1, part, "_"); if (/^   [A-Z]/ && part[1] in want && index($1, "_")) print $1 }' | sort)
	: >"$out/versitygw.log"
	for test in "${tests[@]}"; do
		# Every process begins with test-bucket-1, so nothing may be left of the one before.
		[ -n "$pid" ] && ! "$program" ls --addr "$address" --all | grep -q test-bucket || start
		said=$(cd "$out" && timeout 60 ./versitygw test -a "$access" -s "$secret" -e "http://$face" "$test" 2>&1 || true)
		printf '%s\n' "== $test" "$said" >>"$out/versitygw.log"
		sed 's/\x1b\[[0-9;]*m//g' <<<"$said" | awk -v test="$test" '
			/^(PASS|SKIP) / { verdict = $1 }
			/^FAIL / { verdict = "FAIL"; sub(/^FAIL [^ ]* /, ""); reason = $0 }
			/^panic: / { reason = $0 }
			END { group = test; sub(/_.*/, "", group); print (verdict ? verdict : "FAIL") "\t" group "\t" test "\t" (reason ? reason : verdict ? "" : "no verdict in 60 s") }'
	done
}

run_minio-go() {
	local suite
	suite=$(go mod download -json "github.com/minio/minio-go/v7@$minio_go" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	go build -C "$suite" -mod=readonly -o "$out/minio-go" functional_tests.go
	start
	rm -rf "$out/work" && mkdir "$out/work" && cd "$out/work" # it leaves files
	SERVER_ENDPOINT=$face ACCESS_KEY=$access SECRET_KEY=$secret ENABLE_HTTPS=0 ENABLE_KMS=0 RUN_ON_FAIL=1 MINT_MODE=full \
		timeout 300 "$out/minio-go" >"$out/minio-go.log" 2>&1 || echo "minio-go: ended with code $?, see out/yardsticks/minio-go.log" >&2
	cd - >/dev/null
	rm -rf "$out/work"
	# A test may say several things; the worst counts.
	awk '
		function field(name) { return match($0, "\"" name "\":\"[^\"]*") ? substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4) : "" }
		/"status":/ {
			test = field("name"); sub(/^minio-go: /, "", test); status = field("status")
			if (!(test in rank)) order[++n] = test
			now = status == "FAIL" ? 3 : status == "NA" ? 2 : 1
			if (now > rank[test]) { rank[test] = now; reason[test] = now == 1 ? "" : field("message") (now == 2 ? "" : " " substr($0, match($0, /"error":/) ? RSTART : length($0))) }
		}
		END { for (i = 1; i <= n; i++) { t = order[i]; split("PASS SKIP FAIL", verdict, " "); print verdict[rank[t]] "\t" (reason[t] ~ /authorization mechanism/ ? "signature-v2" : "signature-v4") "\t" t "\t" reason[t] } }' "$out/minio-go.log"
}

suites=(versitygw minio-go)
(($# == 0)) || { suites=("$1"); shift; }
: >"$out/node.log"
for suite in "${suites[@]}"; do
	"run_$suite" "$@" >"$out/$suite.tsv"
	stop
	awk -F '\t' -v suite="$suite" '
		function line(name, list) { printf "%-34s %6d %6d %7d\n", name, list[name, "PASS"], list[name, "FAIL"], list[name, "SKIP"] }
		{ if (!($2 in seen)) { seen[$2]; order[++n] = $2 } count[$2, $1]++; count["all", $1]++ }
		$1 == "FAIL" { why[++f] = $3 ": " $4 }
		END {
			printf "\n%-34s %6s %6s %7s\n", suite, "passed", "failed", "skipped"
			for (i = 1; i <= n; i++) line(order[i], count)
			line("all", count)
			for (i = 1; i <= f; i++) print "FAILED " why[i]
		}' "$out/$suite.tsv"
done
