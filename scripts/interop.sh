#!/usr/bin/env bash
# Uses the faces of a three-node cluster on this machine with clients as Debian ships them, and prints which
# client works with which face. It installs what is missing, or says aloud what it skips.
#   scripts/interop.sh [CLIENT-FACE...]     such as awscli-s3; all without arguments
# DRAMNODE_BIN names the program, bin/dramnode otherwise. What the clients say is kept in out/interop.
# INTEROP_DATA=short takes a tenth of the real data.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
program=$(realpath "${DRAMNODE_BIN:-bin/dramnode}")
log=$here/out/interop
work=$(mktemp -d)
mkdir -p "$log"

# Every check is "check_CLIENT_FACE"; it may rely on the files below and runs in a folder of its own. The
# package is what it needs, judged by the command after the colon.
checks=(awscli-s3 s3cmd-s3 rclone-s3 boto3-s3 gdal-s3 curl-s3 minio-go-s3 aws-sdk-go-s3 curl-gcs grpcio-tsgrpc xarray-resp xarray-s3)
declare -A needs=([awscli]=awscli:aws [s3cmd]=s3cmd:s3cmd [rclone]=rclone:rclone [boto3]=python3-boto3:/usr/lib/python3/dist-packages/boto3 [gdal]=gdal-bin:gdal_translate [curl]=curl:curl [grpcio]=python3-grpcio:/usr/lib/python3/dist-packages/grpc [minio-go]=golang:go [aws-sdk-go]=golang:go
	[xarray]="$(printf 'python3-%s:/usr/lib/python3/dist-packages/%s ' xarray xarray zarr zarr netcdf4 netCDF4 redis redis boto3 boto3 gdal osgeo)")

access=interop secret=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
export AWS_ACCESS_KEY_ID=$access AWS_SECRET_ACCESS_KEY=$secret AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_PAGER=
unset AWS_CA_BUNDLE http_proxy HTTP_PROXY https_proxy HTTPS_PROXY || true

say() { printf 'interop: %s\n' "$*" >&2; }
same() { cmp "$1" "$2"; }
have() { # have PACKAGE:COMMAND-OR-FILE...
	local need
	for need in "$@"; do command -v "${need#*:}" >/dev/null 2>&1 || [ -e "${need#*:}" ] || return 1; done
}

# --- clients ---

check_awscli_s3() {
	local s3="aws --endpoint-url $url"
	$s3 s3 mb s3://awscli
	$s3 s3 cp --no-progress "$work/small" s3://awscli/dir/small
	$s3 s3 cp --no-progress "$work/big" s3://awscli/dir/big # in parts
	$s3 s3 ls --recursive s3://awscli/ | grep -E ' +20971520 dir/big$'
	$s3 s3 ls s3://awscli/ | grep 'PRE dir/'
	$s3 s3 cp --no-progress s3://awscli/dir/big back && same back "$work/big"
	$s3 s3 cp --no-progress s3://awscli/dir/big s3://awscli/copy && $s3 s3 cp --no-progress s3://awscli/copy copy && same copy "$work/big"
	mkdir tree && cp "$work/small" tree/a && cp "$work/small" "tree/b ä+%"
	$s3 s3 sync --no-progress tree s3://awscli/tree && $s3 s3 sync --no-progress s3://awscli/tree again && diff -r tree again
	[ -z "$($s3 s3 sync --no-progress tree s3://awscli/tree)" ] # nothing is new
	$s3 s3api get-object --bucket awscli --key dir/small --range bytes=-3 tail && [ "$(cat tail)" = "$(tail -c 3 "$work/small")" ]
	$s3 s3 rm --recursive s3://awscli && $s3 s3 rb s3://awscli
}

check_s3cmd_s3() {
	cat >cfg <<-CFG
		[default]
		access_key = $access
		secret_key = $secret
		host_base = ${url#http://}
		host_bucket = ${url#http://}
		use_https = False
		signature_v2 = False
		multipart_chunk_size_mb = 5
	CFG
	local s3="s3cmd -c cfg --no-progress"
	$s3 mb s3://s3cmd
	$s3 put "$work/small" s3://s3cmd/small
	$s3 put "$work/big" s3://s3cmd/dir/big
	$s3 ls s3://s3cmd/ | grep 's3://s3cmd/small'
	$s3 info s3://s3cmd/dir/big | grep -E 'File size: +20971520'
	$s3 get s3://s3cmd/dir/big back && same back "$work/big"
	$s3 cp s3://s3cmd/small s3://s3cmd/copy && $s3 mv s3://s3cmd/copy s3://s3cmd/moved
	mkdir tree && cp "$work/small" tree/a
	$s3 sync tree/ s3://s3cmd/tree/ && $s3 sync s3://s3cmd/tree/ again/ && diff -r tree again
	$s3 del --recursive --force s3://s3cmd && $s3 rb s3://s3cmd
}

check_rclone_s3() {
	export RCLONE_CONFIG_D_TYPE=s3 RCLONE_CONFIG_D_PROVIDER=Other RCLONE_CONFIG_D_ENDPOINT=$url RCLONE_CONFIG_D_ENV_AUTH=true RCLONE_CONFIG=/dev/null
	mkdir tree && cp "$work/small" tree/a && cp "$work/big" tree/big
	rclone mkdir D:rclone
	rclone copy --s3-upload-cutoff 10M --s3-chunk-size 5M tree D:rclone/tree
	rclone check --size-only tree D:rclone/tree
	rclone lsl D:rclone | grep -E '20971520 .* tree/big$'
	touch -d '2001-02-03 04:05:06 UTC' tree/a
	rclone copy tree D:rclone/tree && TZ=UTC rclone lsl D:rclone/tree/a | grep '2001-02-03 04:05:06' # kept as metadata
	rclone sync D:rclone/tree again && diff -r tree again
	rclone copyto D:rclone/tree/a D:rclone/copy && rclone cat D:rclone/copy | same - "$work/small"
	rclone purge D:rclone
}

check_boto3_s3() { URL=$url WORK=$work /usr/bin/python3 "$here/scripts/interop_boto3.py"; }

check_gdal_s3() {
	export AWS_S3_ENDPOINT=${url#http://} AWS_HTTPS=NO AWS_VIRTUAL_HOSTING=FALSE CPL_VSIL_USE_TEMP_FILE_FOR_RANDOM_WRITE=YES
	curl -fsS -X PUT --aws-sigv4 aws:amz:us-east-1:s3 --user "$access:$secret" -H "x-amz-content-sha256: $empty" "$url/gdal"
	gdal_create -of GTiff -outsize 600 400 -bands 1 -burn 7 -a_srs EPSG:4326 -a_ullr 0 40 60 0 in.tif
	gdal_translate -q -of COG in.tif /vsis3/gdal/cog.tif
	gdalinfo -checksum /vsis3/gdal/cog.tif | tee cog.txt
	gdalinfo -checksum in.tif >in.txt
	[ "$(grep -m1 Checksum cog.txt)" = "$(grep -m1 Checksum in.txt)" ]
	gdal_translate -q -of Zarr in.tif /vsis3/gdal/grid.zarr
	gdalinfo -checksum /vsis3/gdal/grid.zarr | grep "$(grep -m1 -o 'Checksum=.*' in.txt)"
	gdalinfo -checksum "/vsicurl/$url/gdal/cog.tif" | grep "$(grep -m1 -o 'Checksum=.*' in.txt)" # without a key
}

empty=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

check_curl_s3() { # plain HTTP, and signatures of another implementation
	local sign=(--aws-sigv4 aws:amz:us-east-1:s3 --user "$access:$secret" -H "x-amz-content-sha256: UNSIGNED-PAYLOAD")
	curl -fsS -X PUT "${sign[@]}" "$url/curl-s3"
	curl -fsS "${sign[@]}" -T "$work/big" "$url/curl-s3/big"
	curl -fsS "$url/curl-s3/big" -o back && same back "$work/big"
	[ "$(curl -fsS -r -5 "$url/curl-s3/big" | wc -c)" = 5 ]
	[ "$(curl -sS -o /dev/null -w '%{http_code}' -X PUT -d x "$url/curl-s3/big")" = 403 ]
	local tag
	tag=$(curl -fsSI "$url/curl-s3/big" | tr -d '\r' | sed -n 's/^Etag: //Ip')
	[ "$(curl -sS -o /dev/null -w '%{http_code}' -H "If-None-Match: $tag" "$url/curl-s3/big")" = 304 ]
}

# These start nodes of their own.
check_minio-go_s3() { cd "$here/test/s3clients" && DRAMNODE_BIN=$program go test -count=1 -run 'TestMinio$|TestLongObject$' .; }
check_aws-sdk-go_s3() { cd "$here/test/s3clients" && DRAMNODE_BIN=$program go test -count=1 -run 'TestAWS$' .; }

check_curl_gcs() {
	local b=$gcs/storage/v1/b as=(-H "Authorization: Bearer $secret")
	curl -fsS "${as[@]}" -d '{"name":"curl-gcs"}' "$b"
	curl -fsS "${as[@]}" -H 'Content-Type: text/plain' --data-binary @"$work/small" "$gcs/upload/storage/v1/b/curl-gcs/o?uploadType=media&name=a%2Fb&ifGenerationMatch=0" >made
	curl -fsS "${as[@]}" "$b/curl-gcs/o/a%2Fb?alt=media" -o back && same back "$work/small"
	curl -fsS "${as[@]}" "$b/curl-gcs/o?delimiter=/" | grep '"prefixes":\["a/"\]'
	[ "$(curl -sS "${as[@]}" -o /dev/null -w '%{http_code}' -X DELETE "$b/curl-gcs/o/a%2Fb?ifGenerationMatch=1")" = 412 ]
	curl -fsS "${as[@]}" -X DELETE "$b/curl-gcs/o/a%2Fb?ifGenerationMatch=$(grep -o '"generation":"[0-9]*' made | cut -d '"' -f 4)"
	[ "$(curl -sS -o /dev/null -w '%{http_code}' "$b/curl-gcs")" = 401 ]
}

# data_files lists netCDF files of Debian's packages, which are unpacked, not installed: one of them wants all of R.
data_files() {
	local data=$here/out/data list=(nc/bcsd_obs_1999.nc nc/reduced.nc nc/test_stageiv_xyt.nc) package
	mkdir -p "$data"
	for package in r-cran-stars ferret-datasets; do
		[ -e "$data/$package" ] && continue
		(cd "$data" && apt-get download -q "$package" && dpkg -x "$package"_*.deb "$package.part" && rm "$package"_*.deb && mv "$package.part" "$package") >&2
	done
	printf '%s\n' "${list[@]/#/$data/r-cran-stars/usr/lib/R/site-library/stars/}"
	list=(etopo60.cdf etopo20.cdf)
	[ "${INTEROP_DATA:-}" = short ] || list+=(coads_climatology.cdf levitus_climatology.cdf etopo5.cdf)
	printf '%s\n' "${list[@]/#/$data/ferret-datasets/usr/share/ferret-vis/data/}"
}

check_xarray() {
	local files
	files=$(data_files)
	URL=$url RESP_PORTS="$((base + 5)) $((base + 25))" OTHER_URL=http://127.0.0.1:$((base + 23)) /usr/bin/python3 -W ignore "$here/scripts/interop_data.py" "$1" $files
}
check_xarray_resp() { check_xarray resp; }
check_xarray_s3() { check_xarray s3; }

check_grpcio_tsgrpc() { # C-core gRPC, as TensorStore has it; two nodes, so that what one writes another reads
	local client=(/usr/bin/python3 "$here/scripts/interop_tsgrpc.py")
	"${client[@]}" "$tsgrpc" check
	"${client[@]}" "$other_tsgrpc" check
	"${client[@]}" "$tsgrpc" put grpcio/a hello | grep 'generation True'
	[ "$("${client[@]}" "$other_tsgrpc" get grpcio/a)" = hello ]
	[ "$("${client[@]}" "$other_tsgrpc" ls grpcio/)" = "5 grpcio/a" ]
	"${client[@]}" "$other_tsgrpc" del grpcio/a
	[ "$("${client[@]}" "$tsgrpc" get grpcio/a)" = "no value" ]
}

# --- cluster ---

pids=()
stop() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$work"
}
trap stop EXIT

start() {
	local i port seeds=127.0.0.1:$((base + 1)),127.0.0.1:$((base + 11)),127.0.0.1:$((base + 21))
	for i in 0 1 2; do
		port=$((base + 10 * i))
		DRAMNODE_S3_KEYS=$access:$secret DRAMNODE_GCS_TOKENS=$secret "$program" serve --name "n$i" --listen 127.0.0.1:$port --join "$seeds" \
			--s3 127.0.0.1:$((port + 3)) --gcs 127.0.0.1:$((port + 4)) --resp 127.0.0.1:$((port + 5)) --tsgrpc 127.0.0.1:$((port + 6)) --s3-anonymous-read --memory 1GiB --log-format json >"$log/n$i.log" 2>&1 &
		pids+=($!)
	done
	for i in 0 1 2; do
		local try
		for ((try = 0; ; try++)); do
			[ "$(curl -s "http://127.0.0.1:$((base + 10 * i + 2))/info" | grep -o '"members":3,')" ] && curl -fs "http://127.0.0.1:$((base + 10 * i + 2))/readyz" >/dev/null && break
			((try < 300)) || { say "node n$i is not ready"; tail -n 20 "$log/n$i.log" >&2; exit 1; }
			sleep 0.1
		done
	done
	url=http://127.0.0.1:$((base + 13)) gcs=http://127.0.0.1:$((base + 4)) # faces of two different nodes
	tsgrpc=127.0.0.1:$((base + 16)) other_tsgrpc=127.0.0.1:$((base + 26))
	export url gcs tsgrpc other_tsgrpc
}

missing() { # missing NAME...: packages to install
	local name need
	for name in "$@"; do
		for need in ${needs[$name]}; do have "$need" || echo "${need%%:*}"; done
	done
}

install() {
	((${#})) || return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		say "installing $*"
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-upgrade "$@"; } >"$log/apt.log" 2>&1 || say "not installed, see out/interop/apt.log"
	else
		say "not installed: $*. Run this as root on Debian to have them"
	fi
}

wanted=("$@")
((${#wanted[@]})) || wanted=("${checks[@]}")
for c in "${wanted[@]}"; do
	[[ " ${checks[*]} " == *" $c "* ]] || { say "no check '$c'; there are: ${checks[*]}"; exit 2; }
done
have curl:curl || install curl
mapfile -t packages < <(missing "${wanted[@]%-*}" | sort -u)
install "${packages[@]}"

base=$((20000 + RANDOM % 400 * 30))
printf '0123456789 small\n' >"$work/small"
head -c 20971520 /dev/urandom >"$work/big"
start

failed=0
printf '%-12s %-6s %s\n' CLIENT FACE RESULT
for c in "${wanted[@]}"; do
	client=${c%-*} face=${c##*-}
	if ! have ${needs[$client]}; then
		printf '%-12s %-6s %s\n' "$client" "$face" "SKIPPED, not installed: $(missing "$client" | paste -sd ' ')"
		[ "${CI:-}" != true ] || failed=1
		continue
	fi
	mkdir "$work/$c"
	set +e
	(set -e; cd "$work/$c"; set -x; "check_${client}_$face") >"$log/$c.log" 2>&1
	code=$?
	set -e
	if [ $code = 0 ]; then
		printf '%-12s %-6s ok\n' "$client" "$face"
	else
		failed=1
		printf '%-12s %-6s FAILED, see out/interop/%s.log\n' "$client" "$face" "$c"
		tail -n 8 "$log/$c.log" >&2
	fi
done
exit $failed
