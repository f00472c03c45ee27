# `make` alone says what there is. What is needed and missing is built into
# .cache at a pinned version, or named with the command that gets it.

GO       ?= go
CACHE    := $(CURDIR)/.cache
LINTER   := $(CACHE)/golangci-lint-v2.15.0/golangci-lint
DEADCODE := $(CACHE)/deadcode-v0.52.0/deadcode

# Real servers with Object Lock, for tests alone: processes of their own, never
# linked. integration/s3test looks for them in these folders.
VERSITYGW := $(CACHE)/versitygw-v1.8.0/versitygw
MINIO     := $(CACHE)/minio-v0.0.0-20260212201848-7aac2a2c5b7c/minio

# Public tools that an export of the audit log must satisfy: integration runs them.
FSCK := $(CACHE)/tessera-v1.0.4/fsck

# The age command line, for the pipeline that bench compares a sweep with.
AGE     := $(CACHE)/age-v1.3.2/age
RECORDS ?= 1000000

# The race detector is C; without a compiler the tests run without it.
RACE := $(shell command -v $${CC:-cc} >/dev/null 2>&1 && echo -race)

# SQLite in Go is sixteen times as slow under the race detector, and PostgreSQL's
# tests are the longest, so of what is on them it is only the tests in which something
# runs at once.
CONCURRENT := TestGate|TestHoldRace$$|TestHoldAmong|TestWait|TestTraceRace|TestStore/.*(Concurrent|OneRun|Snapshot)|TestEverythingAtOnce|TestLegalHolds$$|TestHoldWhileLifting$$|TestTextbookRecord|TestExportLimit|TestPurge$$|TestVaultJoins

.PHONY: help build demo test test-short servers postgres lint bench bench-servers bench-embedded bench-holds bench-audit torture fuzz clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

build: ## build bin/lotkeeper (Go is enough, no C compiler)
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/lotkeeper ./cmd/lotkeeper

demo: build ## watch records live and die, in a directory of its own
	@bin/lotkeeper demo

test: servers postgres ## run every test, and a sample of the longest again with the race detector
	@test -n "$$LOTKEEPER_SAMPLES" || echo "LOTKEEPER_SAMPLES is not set: tests of real input files are left out" >&2
	CGO_ENABLED=0 $(GO) test -timeout 30m $$($(GO) list ./... | grep -v -e /lifecycle$$)
	CGO_ENABLED=0 $(GO) test -short -timeout 30m ./lifecycle
ifdef RACE
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m $$($(GO) list ./... | grep -v -e /lifecycle$$ -e /lifecycle/sqlite -e /lifecycle/postgres)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m -run '$(CONCURRENT)' ./lifecycle ./lifecycle/sqlite ./lifecycle/postgres
else
	@echo "no C compiler found: the race detector is left out (apt-get install gcc)" >&2
endif

test-short: ## run the tests that need no server, once, without the race detector
	@echo "LOTKEEPER_EMBEDDED_ONLY: everything on PostgreSQL (lifecycle/postgres, and the engine on it) and on S3 servers (archive/s3, archive/minio, integration) is left out" >&2
	CGO_ENABLED=0 LOTKEEPER_EMBEDDED_ONLY=1 $(GO) test -timeout 30m ./...

servers: $(VERSITYGW) $(MINIO) $(FSCK) ## build the S3 servers and public tools that the tests run (some minutes, once)

postgres: ## install PostgreSQL and PgBouncer for the tests, or say what to type
	@have() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null; }; \
	bouncer() { test -x /usr/sbin/pgbouncer || command -v pgbouncer >/dev/null; }; \
	if have && bouncer; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql pgbouncer; \
	else echo "PostgreSQL or PgBouncer is not installed; type: sudo apt-get install postgresql pgbouncer" >&2; exit 1; fi

lint: $(LINTER) $(DEADCODE) ## check format, vet, style, dead code, and that no rule reads a clock
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(LINTER) run ./...
	@out="$$($(DEADCODE) -test ./...)"; test -z "$$out" || { echo "$$out"; exit 1; }

bench: bench-servers bench-embedded bench-holds bench-audit ## measure 1,000,000 records on each of the following (RECORDS=100000 for fewer)

bench-servers: build postgres $(MINIO) $(AGE) ## PostgreSQL and MinIO, beside a shell pipeline: rows/s, peak memory, requests
	@missing=$$(for p in psql zstd curl xxd; do command -v $$p >/dev/null || echo $$p; done); \
	test -z "$$missing" || { echo "not installed:" $$missing >&2; exit 1; }
	$(GO) run ./integration/bench -on servers -records $(RECORDS)

bench-embedded: build ## SQLite and a directory: ingest, sweep half of it, read
	$(GO) run ./integration/bench -on embedded -records $(RECORDS)

bench-holds: build postgres $(MINIO) ## how long a hold takes to place while a sweep, an ingest and an export run
	$(GO) run ./integration/bench -on holds -records $(RECORDS)

bench-audit: build postgres $(MINIO) ## an ingest and a sweep with the transparency log, beside the same without
	$(GO) run ./integration/bench -on audit -records $(RECORDS)

torture: postgres ## race holds for thousands of rounds on both databases, and put a fault at each call (an hour)
	LOTKEEPER_TORTURE=1 $(GO) test -count=1 -timeout 60m -v -run 'TestHoldRace' ./lifecycle/postgres ./lifecycle/sqlite
	LOTKEEPER_TORTURE=1 $(GO) test -count=1 -timeout 90m ./lifecycle

fuzz: ## run each fuzzer for half a minute
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r f; do \
	  grep -oE '^func Fuzz[A-Za-z0-9]*' $$f | cut -c6- | while read -r name; do \
	    echo "$$name in $$(dirname $$f)"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime 30s $$(dirname $$f) || exit 1; \
	  done || exit 1; done

clean: ## remove what make has built
	rm -rf bin $(CACHE)

$(LINTER):
	GOBIN=$(dir $@) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

$(DEADCODE):
	GOBIN=$(dir $@) $(GO) install golang.org/x/tools/cmd/deadcode@v0.52.0

# CGO_ENABLED=0: no compiler is needed, and the binary runs anywhere.
$(VERSITYGW):
	CGO_ENABLED=0 GOBIN=$(dir $@) $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0

$(FSCK):
	CGO_ENABLED=0 GOBIN=$(dir $@) $(GO) install github.com/transparency-dev/tessera/cmd/fsck@v1.0.4

$(AGE):
	CGO_ENABLED=0 GOBIN=$(dir $@) $(GO) install filippo.io/age/cmd/age@v1.3.2

$(MINIO):
	CGO_ENABLED=0 GOBIN=$(dir $@) $(GO) install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
