# Everything a developer does here, one target each; CI runs "make test" and nothing else.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The version is passed explicitly, so a build does not depend on what git thinks of the checkout.
LDFLAGS := -X main.version=$(VERSION)
FUZZ_SECONDS ?= 10
# Seeds that make sim runs, from the first on.
RUNS   ?= 20000
FIRST  ?= 0
KILLS ?= 300
# What make bench measures: a regular expression for names such as tcp/get/64B/x1, and how often.
BENCH  ?=
ROUNDS ?= 3
# Data nodes that make bench-failover kills; it writes its figures to the file JSON, if that is set.
FAILOVERS ?= 50
JSON ?=
# How long make direct-proof goes on.
PROOF  ?= 5m
# How long make soak lasts.
SOAK   ?= 20m

.DEFAULT_GOAL := help
.PHONY: help setup build check test interop yardsticks huge proto stories kills direct-proof demo image images up down fuzz sim mutations soak bench bench-short bench-beside profile bench-failover bench-clients bench-tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building needs and is missing (Debian, Ubuntu); silent when all is there
	@scripts/setup.sh

build: setup ## bin/dramnode, with UCX by cgo
	$(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/dramnode ./cmd/dramnode

check: setup ## the quick part of test: format, vet, and that all but ucxnet builds without cgo
	@scripts/test.sh gofmt vet pure

test: setup ## every test: check, go test -race, AddressSanitizer for the C code, stories on real clusters, compose
	@scripts/setup.sh --test
	@scripts/test.sh

kills: build ## kill clients and nodes under load over shared memory, KILLS (300) times in one process's sight and 15 in a cluster's
	KILLS=$(KILLS) $(GO) test -count=1 -timeout 30m -v -run 'TestKills|TestStoppedInCopy' ./ucxnet
	DRAMNODE_BIN=$(CURDIR)/bin/dramnode DRAMNODE_CYCLES=15 $(GO) test -count=1 -timeout 15m -v -run TestKillsOverSharedMemory ./test/cluster

interop: build ## S3, GCS and gRPC clients as Debian ships them, Go's, and zarr arrays from netCDF, against three nodes: a table of what works
	@scripts/interop.sh

yardsticks: build ## the test suites of versitygw and minio-go against the S3 face: what passes, and why the rest does not (docs/s3.md)
	@scripts/yardsticks.sh

huge: build ## an object of 5 GiB in parts through a cluster of three by minio-go: 9 GiB of memory, a few minutes
	cd test/s3clients && DRAMNODE_HUGE=1 DRAMNODE_BIN=$(CURDIR)/bin/dramnode $(GO) test -count=1 -timeout 30m -v -run 'TestLongObject$$' .

proto: ## make the Go code of the .proto files anew (gateway/tsgrpc/kvstorepb)
	@scripts/proto.sh

stories: build ## every story on real processes, the long ones of copies too (5 minutes)
	DRAMNODE_STORIES=all DRAMNODE_BIN=$(CURDIR)/bin/dramnode $(GO) test -count=1 -v -timeout 20m ./test/cluster

demo: build ## a three-node cluster on this machine put, get and leave shown
	@scripts/demo.sh

image: setup ## the image dramnode:latest (docker/Dockerfile)
	@scripts/image.sh

images: setup ## the two base images of docker/Dockerfile, made here if no registry can be reached
	@scripts/base-images.sh

up: setup ## five nodes in containers, ready to use (docker-compose.yml)
	@scripts/compose.sh up

down: setup ## stop and remove what up started
	@scripts/compose.sh down

sim: ## RUNS (20000) seeds of the replication simulator from FIRST (0) on; a failing one says how to replay it
	$(GO) test ./test/sim -run TestSeeds -count=1 -v -timeout 0 -args -first $(FIRST) -runs $(RUNS)

mutations: ## remove one rule of the protocol at a time: the simulator must notice each (docs/consistency-mutations.md)
	$(GO) test -tags mutations ./test/sim -run TestMutations -count=1 -v -timeout 0

fuzz: setup ## every fuzz target for FUZZ_SECONDS (10) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

soak: build ## three nodes at full load for SOAK (20m): memory, descriptors and latencies in rounds
	DRAMNODE_SOAK=$(SOAK) DRAMNODE_BIN=$(CURDIR)/bin/dramnode $(GO) test -count=1 -v -timeout 0 -run TestSoak ./test/cluster

direct-proof: build ## hold every direct read against what was written while owners die, stand still and lose what they own, for PROOF (5m)
	DRAMNODE_BIN=$(CURDIR)/bin/dramnode DRAMNODE_PROOF=$(PROOF) $(GO) test ./test/cluster -count=1 -timeout 60m -v -run 'TestDirect'

bench: build bench-tools ## measure beside C over UCX, redis, memcached and Olric, into docs/performance.md (25 minutes); BENCH=regexp for some points only, ROUNDS=n
	out/bench/bench -points '$(BENCH)' -rounds $(ROUNDS) -docs $(if $(BENCH),out/bench/docs,docs)

bench-short: build bench-tools ## the same for a few points and moments: shows that it works, not how fast
	out/bench/bench -short -json out/bench/short.json -docs out/bench/short-docs

bench-beside: build ## 64 B gets while another client puts 16 MiB values: fails if these delay them (1 minute)
	mkdir -p out/bench
	$(GO) build -o out/bench/bench ./bench
	out/bench/bench -beside

profile: build ## where the processor time of 64 B gets and puts goes, by node and client (1 minute; needs perf): docs/profile.md
	mkdir -p out/bench
	$(GO) build -o out/bench/bench ./bench
	out/bench/bench -profile

bench-failover: build ## kill nodes of five with three copies, FAILOVERS (50) times and control leaders a fifth as often: how long writes stall; then what copies cost (10 minutes)
	@scripts/setup.sh --bench
	mkdir -p out/bench
	$(CC) -O2 -Wall -Wextra -o out/bench/cref bench/cref/cref.c -lucp -lucs
	$(GO) build -o out/bench/bench ./bench
	out/bench/bench -failover -kills $(FAILOVERS) -rounds $(ROUNDS) $(if $(JSON),-json $(JSON))

bench-clients: build ## the Redis face beside redis-server and in a cluster of three, and what one client reads through each face (5 minutes); ROUNDS=n, ONLY=redis, faces or three
	@scripts/setup.sh --bench
	@ROUNDS=$(ROUNDS) scripts/bench-clients.sh

bench-tools: # what make bench runs beside dramnode; Olric has a module of its own
	@scripts/setup.sh --bench
	mkdir -p out/bench
	$(CC) -O2 -Wall -Wextra -o out/bench/cref bench/cref/cref.c -lucp -lucs
	cd bench/olric && $(GO) build -o ../../out/bench/olric .
	$(GO) build -o out/bench/bench ./bench

clean: ## remove what the targets above made in this folder
	rm -rf bin out
