# make help lists what there is.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS   += --no-builtin-rules

GOLANGCI_LINT := v2.15.0
CRASHRUNS     ?= 500
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS       := -s -w -X github.com/staunch-project/staunch/internal/cli.version=$(VERSION)
MAX_MIB       := 75
FUZZTIME      ?= 5s
BENCHCOUNT    ?= 5
BENCH         ?= .
# BENCHARGS are for bench-whole: -subjects 100, -watch 5s, -quiet 2 and others
# (go test ./test/bench -args -help).
BENCHARGS     ?=
# SEEDS stories are played from SEED on; SIMARGS=-tell tells the first.
SEEDS         ?= 10000
SEED          ?= 1
SIMARGS       ?=
# LOADARGS are for load: -rate 5000, -for 2m and others.
LOADARGS      ?=
RESTARTS      ?= 100
# N is how many records deliveries delivers, and how many identities storm accuses.
N             ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-16s %s\n", $$1, $$2 }'

.PHONY: build
build: ## build bin/staunch
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o bin/staunch ./cmd/staunch

.PHONY: generate
generate: ## write the registries and the generated reference
	go generate ./...

.PHONY: demo
demo: build ## watch a stolen token stop working
	bin/staunch demo

.PHONY: lint
lint: ## run golangci-lint
	scripts/lint.sh $(GOLANGCI_LINT)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: prerequisites ## run the benchmarks that match BENCH, BENCHCOUNT times each, then bench-whole; goes on where it was stopped
	mkdir -p .bench
	out=.bench/go-$$(scripts/tree-id.sh).txt; if [ -e "$$out" ]; then cat "$$out"; else \
		STAUNCH_REQUIRE_POSTGRES=1 go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) -timeout 60m ./... | tee "$$out.part" && \
		mv "$$out.part" "$$out"; fi
	$(MAKE) --no-print-directory bench-whole

.PHONY: bench-whole
bench-whole: prerequisites ## measure the whole process on PostgreSQL, oauth2 and Vault; finished pieces are kept in .bench
	STAUNCH_VAULT_BIN=$$(scripts/build-vault.sh)/vault STAUNCH_REQUIRE_POSTGRES=1 STAUNCH_REQUIRE_VAULT=1 \
		go test -tags systems -count=1 -timeout 0 -v ./test/bench -args -full \
		-results $(CURDIR)/.bench/results.jsonl -build "$$(scripts/tree-id.sh)" $(BENCHARGS)

.PHONY: corpus
corpus: ## measure matcher and rule pack on the third-party rules and events in STAUNCH_CORPUS
	@test -n "$${STAUNCH_CORPUS:-}" || { echo 'STAUNCH_CORPUS is not set: it names the folder of the corpora' >&2; exit 1; }
	go test -count=1 -v ./test/corpus | grep -v -e '^=== ' -e '^--- PASS' -e '^PASS'

.PHONY: bench-detect
bench-detect: build ## measure decoding and matching against its floors, then match on a large file; STAUNCH_CORPUS names third-party data
	go test -count=1 -timeout 0 -v -run '^TestSpeed$$' ./internal/detect/sigma -args -speed
	STAUNCH_BIN=$(CURDIR)/bin/staunch go test -count=1 -timeout 0 -v -run '^TestStream$$' ./internal/app/offline -args -speed

.PHONY: load
load: ## post 20,000 records a second for ten minutes to the binary with 3,000 rules, kill it in the middle, then overload it
	go test -count=1 -timeout 0 -v -run '^TestLoad$$' ./test/load -args -load $(LOADARGS)

.PHONY: cluster
cluster: prerequisites ## kill and hold up the nodes of a cluster while it contains and releases sixty roles; CRASHARGS='-seed 7' and others
	STAUNCH_REQUIRE_POSTGRES=1 go test -count=1 -timeout 0 -v ./test/crash -run '^TestKill9Cluster$$' -args -cluster-for 1m -cluster-subjects 60 $(CRASHARGS)

.PHONY: restarts
restarts: prerequisites ## kill PostgreSQL RESTARTS times under load
	STAUNCH_REQUIRE_POSTGRES=1 go test -count=1 -timeout 0 -v -run '^TestPostgresRestarts$$' ./test/load -args -restarts $(RESTARTS)

.PHONY: deliveries
deliveries: ## deliver N records (a million), most of them again and again and in any order, across restarts
	go test -count=1 -timeout 0 -v -run '^TestDeliveries$$' ./internal/ingest/pipeline -args -deliveries $(or $(N),1000000)

.PHONY: storm
storm: ## accuse N identities (a thousand), 17 a second, by a forger and in earnest
	go test -count=1 -timeout 0 -v -run '^TestStorm' ./test/load -args -storm $(or $(N),1000)

.PHONY: prerequisites
prerequisites: ## install what the tests need, as root; else say what is missing
	scripts/need.sh gcc postgresql pgaudit

.PHONY: check-generated
check-generated: ## fail when generated files are out of step
	scripts/check-generated.sh

.PHONY: check-size
check-size: build ## fail when the binary is too large
	scripts/check-size.sh bin/staunch $(MAX_MIB)

.PHONY: go-test
go-test: prerequisites ## every Go test, with the race detector where anything runs at once and a real PostgreSQL
	go build -o .tools/bin/testsum ./scripts/testsum
	STAUNCH_REQUIRE_POSTGRES=1 scripts/go-test.sh $(if $(CI),-count=1) -timeout 25m -- ./... | \
		.tools/bin/testsum -forbid 'PostgreSQL is missing'

.PHONY: test
test: ## everything but the heavy real systems: at most ten minutes on two cores
	$(MAKE) --no-print-directory prerequisites
	$(MAKE) --no-print-directory check-size
	$(MAKE) --no-print-directory check-generated
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory go-test
	$(MAKE) --no-print-directory fuzz FUZZTIME=2s
	timeout 120 bin/staunch demo --once

.PHONY: crash
crash: prerequisites ## kill -9 the binary at every step boundary, CRASHRUNS times; go-test makes 12 runs
	STAUNCH_REQUIRE_POSTGRES=1 go test -count=1 -timeout 0 -v ./test/crash -args -runs $(CRASHRUNS) $(CRASHARGS)

.PHONY: sim
sim: ## play SEEDS stories of nodes that fail in every way, from SEED on, and check every invariant
	go test -count=1 -timeout 0 -v -run '^TestStories$$' ./internal/sim -args -seeds $(SEEDS) -seed $(SEED) $(SIMARGS)

.PHONY: test-systems
test-systems: prerequisites ## tests on Vault, Rekor and an OpenID provider, built and installed on first use, then ten thousand stories
	scripts/test-systems.sh
	$(MAKE) --no-print-directory sim

.PHONY: clean
clean: ## remove what was built here; caches outside stay
	rm -rf bin .tools test/systems/oidc/node_modules
