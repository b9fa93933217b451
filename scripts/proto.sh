#!/usr/bin/env bash
# Makes the Go code of the .proto files anew, with exactly these versions of the generators, and notes the sums of
# both. Needs Debian's protobuf-compiler and libprotobuf-dev. Two ways to change nothing:
#   --check   fails when the code in the tree differs from what the generators make
#   --sums    needs none of them, and takes no time: fails when a file differs from what it was when the code was made
set -euo pipefail
cd "$(dirname "$0")/.."

# Newer ones than 1.36.3 write code that imports unsafe, which only ucxnet may. Any newer runtime serves their code.
gen_go=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.3
gen_grpc=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
compiler=3.21.12
dir=gateway/tsgrpc/kvstorepb

if [ "${1:-}" = --sums ]; then
	(cd "$dir" && sha256sum --check --strict --quiet SHA256SUMS) || { echo "$dir has changed since its code was made: run make proto" >&2; exit 1; }
	exit
fi

have=$(protoc --version 2>/dev/null) || { echo "protoc is missing: apt-get install protobuf-compiler libprotobuf-dev" >&2; exit 1; }
[ "$have" = "libprotoc $compiler" ] || echo "$have, the committed code is of $compiler: the comment that says so will differ" >&2
tools=$PWD/out/proto
GOBIN=$tools go install "$gen_go"
GOBIN=$tools go install "$gen_grpc"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
PATH=$tools:$PATH protoc -I gateway --go_out="$made" --go_opt=paths=source_relative \
	--go-grpc_out="$made" --go-grpc_opt=paths=source_relative gateway/tsgrpc/kvstorepb/*.proto
for f in "$made"/tsgrpc/kvstorepb/*.go; do
	if [ "${1:-}" = --check ]; then
		diff -u "$dir/$(basename "$f")" "$f"
	else
		cp "$f" "$dir/"
	fi
done
[ "${1:-}" = --check ] || (cd "$dir" && sha256sum ./*.proto ./*.pb.go >SHA256SUMS)
