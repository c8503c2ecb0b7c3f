# plyfs: build, demo, tests. Needs Go, git and make; `make deps` gets the rest
# on a Debian machine. Run as root: the tests and the demo mount file systems.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A fresh machine, a service or a chroot may have no HOME, and go wants one.
ifeq ($(strip $(HOME)),)
export HOME := $(shell getent passwd "$$(id -u)" | cut -d: -f6)
endif
# Stamped by a script below; go's own stamping fails in a clone of another owner.
override GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false
export GOFLAGS
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin

GO      ?= go
ifndef VERSION
VERSION := $(shell cmd/plyfs/packaging/version.sh)
endif
LDFLAGS := -s -w -X main.version=$(VERSION)

# Packages whose code runs on many threads at once, tested with -race too.
RACE    := ./fs/... ./keystore/...
# Seconds for each fuzzer: in `make test`, and in `make fuzz`.
FUZZ_SHORT ?= 1
FUZZTIME   ?= 60
# How much make crash tries in the simulator; 3 is meant for some 25 minutes in all on two cores that are free.
CRASHSCALE ?= 3
BENCHTIME  ?= 1s
# How long make soak loads both servers, which it does side by side. From 10m on
# a life of a daemon has measurements enough to show a leak, unless that time ends it.
SOAK       ?= 1h
# Arguments for the integration tests, as in: make integration ARGS='-run MariaDB -v'
ARGS ?=

# The frozen Go Cryptographic Module of plyfs-fips: v1.0.0 has a certificate.
GOFIPS140_VERSION ?= v1.0.0

.PHONY: help fips build core programs deb deb-keys deps demo test check unit race crash powercut hotpath fuzz fuzz-short integration providers mysql-short mysql docker docker-plugin gluster system real fresh bench clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  \1\t/' | expand -t 16

build: core programs ## bin/plyfs and the programs for customer-managed keys

core: ## bin/plyfs alone, static, with its version
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/plyfs ./cmd/plyfs

fips: ## bin/plyfs-fips: layer 1 in a frozen Go Cryptographic Module (GOFIPS140_VERSION)
	@mkdir -p bin
	GOFIPS140=$(GOFIPS140_VERSION) CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/plyfs-fips ./cmd/plyfs

# Modules of their own, for what SDKs and cgo bring with them.
programs: ## bin/plyfs-key-cloud, bin/plyfs-key-tpm and, where there is gcc, bin/plyfs-key-pkcs11
	@mkdir -p bin
	cd cmd/plyfs-key-cloud && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(CURDIR)/bin/' .
	cd cmd/plyfs-key-tpm && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(CURDIR)/bin/' .
	@if ! command -v gcc >/dev/null; then echo 'no gcc here: bin/plyfs-key-pkcs11 is not built'; exit 0; fi; set -x; \
	 cd cmd/plyfs-key-pkcs11 && CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(CURDIR)/bin/' .

deb: core ## bin/plyfs_VERSION_ARCH.deb, the Debian package
	GO='$(GO)' cmd/plyfs/packaging/build.sh bin '$(VERSION)'

deb-keys: programs ## packages of the programs for customer-managed keys
	@for p in bin/plyfs-key-*; do case $$p in *.deb) ;; *) \
	   GO='$(GO)' cmd/plyfs/packaging/build.sh bin '$(VERSION)' "$${p#bin/}"; esac; done

deps: ## install what tests and demo need and this machine lacks (apt)
	@integration/deps.sh test

demo: core ## the story in two minutes: two layers, MariaDB, tampering
	@integration/deps.sh demo
	@integration/demo.sh

# In the order that fails soonest; `make -j` must not mix the steps. The Debian
# sid tree that some need is fetched meanwhile.
test: ## everything CI runs: checks, unit tests, race, short fuzz, integration
	@start=$$(date +%s); step() { \
	   printf '\n==> %s (%d s)\n' "$$1" $$(( $$(date +%s) - start )); shift; "$$@"; }; \
	 step 'dependencies'       $(MAKE) --no-print-directory deps; \
	 integration/sid.sh >/dev/null 2>&1 & sid=$$!; trap 'kill $$sid 2>/dev/null || :' EXIT; \
	 step 'vet and gofmt'      $(MAKE) --no-print-directory check; \
	 step 'build'              $(MAKE) --no-print-directory build; \
	 step 'unit tests'         $(MAKE) --no-print-directory unit; \
	 step 'unit tests, -race'  $(MAKE) --no-print-directory race; \
	 step 'fuzzers, $(FUZZ_SHORT) s each' $(MAKE) --no-print-directory fuzz-short; \
	 step 'power cuts, a sample' $(MAKE) --no-print-directory powercut; \
	 step 'system tests'       $(MAKE) --no-print-directory system; \
	 step 'integration, keys, servers, docker, GlusterFS' $(MAKE) --no-print-directory real; \
	 printf '\n==> all tests passed (%d s)\n' $$(( $$(date +%s) - start ))

# Most of these wait for disks and servers, so two rows of them go side by side,
# on what is built already.
real: build fips ## all that runs on real mounts with real servers, but mysql and crash
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; again='$(MAKE) --no-print-directory -o build -o core -o programs -o fips'; \
	 { $$again providers && $$again mysql-short && $$again docker && $$again gluster; } >$$log 2>&1 & beside=$$!; \
	 code=0; $$again integration || code=$$?; \
	 wait $$beside || code=$$?; cat $$log; exit $$code

check: ## go vet, gofmt
	$(GO) vet ./...
	@bad=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	 if [ -n "$$bad" ]; then echo 'not formatted, run gofmt -w on:' "$$bad" >&2; exit 1; fi

unit: ## unit tests of all packages but integration
	CGO_ENABLED=0 $(GO) test -timeout 10m $$($(GO) list ./... | grep -v /integration)

race: ## the packages with concurrency, under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -timeout 8m $(RACE)

crash: core ## power cuts, faults and kills: every operation, many seeds, real disks (long)
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 60m -run 'Crash|Fault|LifeAfter' ./fs/journal ./fs/volume -crash.scale=$(CRASHSCALE)
	PLYFS_POWERCUT=long PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 60m -v ./integration/powercut

powercut: core ## power cuts beneath real ext4 and xfs, a sample (root)
	PLYFS_POWERCUT=sample PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 10m ./integration/powercut

hotpath: core ## what a database waits for, next to a plain directory and a plain FUSE (root)
	$(GO) run ./integration/hotpath --plyfs plyfs=bin/plyfs $(ARGS)

fuzz-short: ## each fuzzer for FUZZ_SHORT seconds
	@integration/fuzz.sh $(FUZZ_SHORT)

fuzz: ## each fuzzer for FUZZTIME seconds
	@integration/fuzz.sh $(FUZZTIME)

integration: core fips ## real mounts, MariaDB, fio, tampering, kill -9 (root)
	PLYFS_BIN='$(CURDIR)/bin/plyfs' PLYFS_FIPS_BIN='$(CURDIR)/bin/plyfs-fips' CGO_ENABLED=0 $(GO) test -count=1 -timeout 25m ./integration $(ARGS)

providers: build ## customer-managed keys: AWS KMS as moto, an HSM as SoftHSM, a TPM as swtpm (root)
	@bad=$$(gofmt -l cmd/plyfs-key-*); if [ -n "$$bad" ]; then echo 'not formatted, run gofmt -w on:' "$$bad" >&2; exit 1; fi
	@tree=$$(integration/sid.sh); export PLYFS_SID="$$tree"; set -x; \
	 (cd cmd/plyfs-key-cloud && CGO_ENABLED=0 $(GO) vet -trimpath . && CGO_ENABLED=0 $(GO) test -trimpath -count=1 -timeout 10m .); \
	 (cd cmd/plyfs-key-tpm && CGO_ENABLED=0 $(GO) vet -trimpath . && CGO_ENABLED=0 $(GO) test -trimpath -count=1 -timeout 10m .); \
	 (cd cmd/plyfs-key-pkcs11 && CGO_ENABLED=1 $(GO) vet -trimpath . && CGO_ENABLED=1 $(GO) test -trimpath -count=1 -timeout 10m .); \
	 PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 15m ./integration/keys $(ARGS)

mysql-short: core ## MariaDB and MySQL: one row per feature, backups, replication, a short soak (root)
	PLYFS_MYSQL=short PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 15m -parallel 4 ./integration/mysql $(ARGS)

mysql: core ## every combination of server and setup, larger sets; ends with a table (root, long)
	@integration/deps.sh test
	PLYFS_MYSQL=long PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 5h -v ./integration/mysql $(ARGS)

docker: core ## volumes under a real dockerd, MariaDB in containers (root)
	PLYFS_DOCKER=1 PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 15m ./integration/docker $(ARGS)

.PHONY: mysql-bench
mysql-bench: core ## sysbench on the disk and on volumes, in turns (root)
	@integration/deps.sh test
	PLYFS_MYSQL=bench PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 3h -v -run 'TestCost$$' ./integration/mysql

.PHONY: soak
soak: core ## MariaDB and MySQL side by side under load, restarts, kills, backups, for SOAK=1h (root)
	@integration/deps.sh test
	PLYFS_MYSQL=long PLYFS_SOAK=$(SOAK) PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -v -run 'TestSoak$$' ./integration/mysql

system: deb deb-keys ## installed from its package: mount(8), fstab, systemd, users, upgrades (root)
	PLYFS_DEB="$$(ls -t '$(CURDIR)'/bin/plyfs_*.deb | head -n 1)" CGO_ENABLED=0 $(GO) test -count=1 -timeout 10m ./integration/system $(ARGS)

docker-plugin: build ## bin/docker-plugin, for docker plugin create NAME bin/docker-plugin
	cmd/plyfs/packaging/docker/build.sh bin/docker-plugin bin/plyfs

gluster: build ## ciphertext on GlusterFS, two bricks and two hosts (root)
	PLYFS_GLUSTER=1 PLYFS_BIN='$(CURDIR)/bin/plyfs' CGO_ENABLED=0 $(GO) test -count=1 -timeout 15m ./integration/gluster $(ARGS)

fresh: ## make demo and make test in a new Debian 12 chroot with only Go, git, make
	@integration/fresh.sh

bench: ## benchmarks: GB/s of the crypto, operations of the engine
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $$($(GO) list ./... | grep -v /integration)

clean: ## remove what was built here
	rm -rf bin
