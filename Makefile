# Everything a developer does here, one target each; CI runs "make test" and nothing else.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The version is passed explicitly, so a build does not depend on what git thinks of the checkout.
LDFLAGS := -X main.version=$(VERSION)
FUZZ_SECONDS ?= 10

.DEFAULT_GOAL := help
.PHONY: help setup build check test demo image images up down fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

clean: ## remove what the targets above made in this folder
	rm -rf bin out
