# Everything a developer does here, one target each; CI runs "make test" and nothing else.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The version is passed explicitly, so a build does not depend on what git thinks of the checkout.
LDFLAGS := -X main.version=$(VERSION)
FUZZ_SECONDS ?= 10
# What make bench measures: a regular expression for names such as tcp/get/64B/x1, and how often.
BENCH  ?=
ROUNDS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup build check test demo image images up down fuzz bench bench-short bench-tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building needs and is missing (Debian, Ubuntu); silent when all is there
	@scripts/setup.sh

build: setup ## bin/dramnode, with UCX by cgo
	$(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/dramnode ./cmd/dramnode

check: setup ## the quick part of test: format, vet, and that all but ucxnet builds without cgo
	@scripts/test.sh gofmt vet pure

test: setup ## every test: check, go test -race, AddressSanitizer for the C code, stories on real clusters, compose
	@scripts/setup.sh --test
	@scripts/test.sh

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

fuzz: setup ## every fuzz target for FUZZ_SECONDS (10) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

bench: build bench-tools ## measure beside C over UCX, redis, memcached and Olric, into docs/performance.md (25 minutes); BENCH=regexp for some points only, ROUNDS=n
	out/bench/bench -points '$(BENCH)' -rounds $(ROUNDS) -docs $(if $(BENCH),out/bench/docs,docs)

bench-short: build bench-tools ## the same for a few points and moments: shows that it works, not how fast
	out/bench/bench -short -json out/bench/short.json -docs out/bench/short-docs

bench-tools: # what make bench runs beside dramnode; Olric has a module of its own
	@scripts/setup.sh --bench
	mkdir -p out/bench
	$(CC) -O2 -Wall -Wextra -o out/bench/cref bench/cref/cref.c -lucp -lucs
	cd bench/olric && $(GO) build -o ../../out/bench/olric .
	$(GO) build -o out/bench/bench ./bench

clean: ## remove what the targets above made in this folder
	rm -rf bin out
