# Type make for the list of targets. Two lines of form carry that list: a group
# is "##@ Title", a target's sentence stands after ## on its own line.

# A plugin is named like an image; the part before ":latest" is the driver's name.
PLUGIN ?= efs:latest
# The machine that the plugin runs on: amd64 or arm64. Default: this one.
ARCH ?= $(or $(shell go env GOARCH 2>/dev/null),amd64)
# The Debian release, and with it the Docker Engine, of the test hosts: trixie (26.1) or bookworm (20.10).
LAB_SUITE ?= trixie
export LAB_SUITE
# How long each fuzz target runs.
FUZZTIME ?= 10s
# Which tests or benchmarks the targets integration and bench run.
RUN ?= .
# How many schedules of each kind the model of the lease protocol runs, and how often make soak takes
# away the node of a Postgres in a swarm.
SCHEDULES ?= 100000
ROUNDS ?= 50
# When the tests on hosts are ended.
TIMEOUT ?= 75m

# Root may not own the tree (sudo make): git would refuse to describe it.
VERSION ?= $(or $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null),dev)

TOOL := go tool -modfile=tools.mod
# recipes use pipefail
SHELL := /bin/bash
STEP := scripts/step.sh
# The compiler never runs as root, only the program that needs it does.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH=$(PATH) LAB_SUITE=$(LAB_SUITE))
GO_BUILD = CGO_ENABLED=0 GOOS=linux go build -buildvcs=false -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
# The tests from outside: -p 1, because a machine has cores for one set of hosts; which of its tests run
# beside each other they settle themselves (integration/claims_test.go).
LAB_TEST = go test $(if $(SUDO),-exec '$(SUDO)') -tags integration -count=1 -p 1 -parallel 100

BUNDLE := build/plugin-$(ARCH)
ROOTFS := $(BUNDLE)/rootfs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

##@ Start here

.PHONY: demo
demo: lab ## The story on two Docker hosts of its own: Postgres moves from one to the other
	@$(SUDO) build/lab/demo

.PHONY: test
test: ## All checks on a machine that has Go: set-up, lint, unit tests, the page in a browser, tests on the hosts
	@start=$$(date +%s) && \
	$(STEP) 'setup' scripts/setup.sh && \
	$(STEP) 'lint' $(MAKE) lint && \
	$(STEP) 'unit tests with the race detector' $(MAKE) unit && \
	$(STEP) 'the status page in a browser' $(MAKE) page && \
	$(STEP) 'tests on hosts with Docker Engine 26.1 (trixie)' $(MAKE) integration LAB_SUITE=trixie && \
	$(STEP) 'protocol tests, and lost volumes, with Docker Engine 20.10 and Linux 6.1 (bookworm)' $(MAKE) integration LAB_SUITE=bookworm RUN='Protocol|ExclusiveVolumeIsTaken' && \
	echo "==> all passed in $$(($$(date +%s) - start)) s"

##@ Install

.PHONY: plugin
plugin: rootfs ## Build the plugin, create and enable it in the local Docker Engine (PLUGIN=efs:latest)
	@scripts/plugin.sh install '$(PLUGIN)' '$(BUNDLE)'

.PHONY: uninstall
uninstall: ## Disable and remove the plugin, unless that would delete data of volumes
	@scripts/plugin.sh uninstall '$(PLUGIN)'

##@ Build

.PHONY: build
build: ## The static binary, build/docker-volume-efs
	@$(GO_BUILD) -o build/docker-volume-efs .

# The directories are the Dockerfile's WORKDIR lines, so that the two agree.
.PHONY: rootfs
rootfs: ## The plugin as docker plugin create takes it, build/plugin-$ARCH (ARCH=amd64|arm64)
	@rm -rf $(BUNDLE)
	@install -d -m 0755 $(BUNDLE) $$(sed -n 's|^WORKDIR |$(ROOTFS)|p' Dockerfile)
	@install -m 0644 config.json $(BUNDLE)/config.json
	@GOARCH=$(ARCH) $(GO_BUILD) -o $(ROOTFS)/docker-volume-efs .
	@chmod 0755 $(ROOTFS)/* $(ROOTFS)/*/*

.PHONY: clean
clean: ## Remove build/ and integration/failed/ (the test hosts' images are in a cache elsewhere and stay)
	@rm -rf build; test ! -e integration/failed || $(SUDO) rm -rf integration/failed

##@ Check

.PHONY: lint
lint: ## go vet, golangci-lint, and whether go mod tidy, verify or go fix would change anything
	@go vet -tags integration,browser ./...
	@$(TOOL) golangci-lint run
	@go mod tidy -diff
	@go mod verify
	@go fix -tags integration,browser -diff ./...

.PHONY: format
format: ## Rewrite the code as lint wants it: gofumpt, goimports, go fix
	@go fix -tags integration,browser ./...
	@$(TOOL) golangci-lint fmt

.PHONY: unit
unit: ## Unit tests with the race detector, those that mount in namespaces of their own
	@CGO_ENABLED=1 go test -race -timeout 30m ./...

.PHONY: page
page: ## The status page in a headless Chromium, phone and desktop; screenshots in build/status-page
	@go test -count=1 -tags browser -run Browser ./proxy/web

.PHONY: integration
integration: lab ## The tests on the hosts (RUN=Protocol, LAB_SUITE=trixie|bookworm, TIMEOUT=75m)
	@set -o pipefail; $(LAB_TEST) -timeout $(TIMEOUT) -run '$(RUN)' ./integration/... | tee build/integration.txt
	@grep -Eq '^ok .*[0-9]s$$' build/integration.txt || { echo 'no test matches RUN=$(RUN)' >&2; exit 1; }

.PHONY: soak
soak: ## Postgres under pgbench: 10 minutes on each path with a move every 20 s, then ROUNDS=50 losses of its node in a swarm
	@ZONES_SOAK=10m ZONES_SOAK_VIA='relay direct' $(MAKE) integration RUN='TestZones/host-d/Postgres'
	@SWARM_ROUNDS=$(ROUNDS) $(MAKE) integration RUN=TestSwarmKeepsOnePostgres TIMEOUT=8h

.PHONY: model
model: ## The lease protocol in 100,000 simulated schedules of each kind (SCHEDULES=n)
	@LEASE_SCHEDULES=$(SCHEDULES) go test -count=1 -timeout 60m -v -run 'TestAtMostOneHostWrites' ./driver/lease

.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZTIME=10s
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: vuln
vuln: ## Known vulnerabilities that the code reaches (asks vuln.go.dev)
	@$(TOOL) govulncheck ./...

# cfn-lint is a Python package, and the provider whose resources terraform validate knows comes from
# Terraform's registry: this is not part of make test, which checks the same files with what Go has.
TERRAFORM ?= terraform
.PHONY: provisioning
provisioning: ## deploy/aws as cfn-lint and terraform validate see it (needs both programs, and the provider's registry)
	@command -v cfn-lint >/dev/null || { echo 'cfn-lint is missing: pipx install cfn-lint' >&2; exit 1; }
	@command -v $(TERRAFORM) >/dev/null || { echo '$(TERRAFORM) is missing: install Terraform, or OpenTofu and give TERRAFORM=tofu' >&2; exit 1; }
	@cfn-lint deploy/aws/cloudformation.yaml
	@rm -rf build/provisioning && install -d build && cp -r deploy/aws build/provisioning
	@cd build/provisioning/terraform && $(TERRAFORM) init -backend=false -input=false >init.log 2>&1 || { cat init.log >&2; exit 1; }
	@cd build/provisioning/terraform && $(TERRAFORM) validate

.PHONY: bench
bench: lab ## Measure beside mount -t nfs4, the local driver, HAProxy and stunnel, into docs/benchmarks.md
	@$(SUDO) build/lab/bench -o build/benchmarks.md $(if $(filter-out .,$(RUN)),-only '$(RUN)')
	@$(if $(filter-out .,$(RUN)),true,cp build/benchmarks.md docs/benchmarks.md)

##@ Test hosts

.PHONY: hosts
hosts: lab ## Start two Docker hosts and the NFS server, and tell how to log in
	@$(SUDO) build/lab/lab hosts --suite $(LAB_SUITE)

.PHONY: image
image: lab ## Build the hosts' disk image and snapshot, if they are not in the cache
	@$(SUDO) build/lab/lab image --suite $(LAB_SUITE)

# What the test hosts' programs and tests stand on. The hosts are amd64.
.PHONY: lab rootfs-lab
lab: rootfs-lab
	@mkdir -p build/lab
	@$(STEP) 'build the test hosts'\'' programs' env CGO_ENABLED=0 go build -buildvcs=false -tags integration -o build/lab/ ./integration/cmd/...
	@CGO_ENABLED=0 go test -c -o build/lab/ ./proxy/efs ./proxy/peer
rootfs-lab:
	@scripts/setup.sh
	@$(STEP) 'build the plugin' $(MAKE) rootfs ARCH=amd64

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET [NAME=value ...]" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
